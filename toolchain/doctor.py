"""The doctor: what Jittor needs, what this machine has, and how to get what is missing.

    python -m toolchain             # what was found, what will be used
    python -m toolchain --check     # and compute: convolutions, a linear layer and the gradients
                                    # of all against NumPy
"""
import importlib.metadata
import platform
import shutil
import sys
import sysconfig
from types import ModuleType

import numpy as np

import toolchain
from kernels import channels_last
from system import INSTALL
from system.errors import CommandLine, run_cli
from system.processes import cores
from toolchain import backends, cuda, gpu
from toolchain.base import ToolchainError, cache_folder, compiler, gcc_version, jittor_home, output
from toolchain.cpu import check_compiler, check_paths, cpu_name, onednn, python_config

TRIED = range(12, 17)  # GCC
# The largest error of --check, of the largest value, by precision.
LIMITS = {"fp32": 1e-5, "tf32": 3e-3, "fp16": 3e-3, "bf16": 1e-2}
# What is known to go wrong in one's own scripts with a version of a package. Here it is avoided.
TRAPS = {("safetensors", "0.8.0"): "writes wrong numbers for arrays that are not in C order: "
                                   "np.ascontiguousarray first"}
UNTRIED = (3, 16)  # this Python and those after it; the oldest that works: system.OLDEST


def diagnose() -> list[tuple[str, str, str]]:
    """(what, what was found, "" or what is wrong and how it is mended) of everything Jittor needs.
    Imports no Jittor."""
    def attempt(what: str, found: str, check) -> tuple[str, str, str]:
        try:
            check()
        except ToolchainError as error:
            return what, "", str(error)
        return what, found, ""

    machine = f"{platform.system()} {platform.machine()}, {cpu_name()}, {cores()} cores"
    gcc = output([compiler(), "--version"]).partition("\n")[0]
    if gcc_version() not in TRIED:
        gcc += " (not tried)"
    python = platform.python_version()
    if sys.version_info >= UNTRIED:
        python += " (not tried)"
    python += f" with headers in {sysconfig.get_path('include')}"
    rows = [
        ("system", machine, ""),
        attempt("C++ compiler", gcc, check_compiler),
        attempt("Python", python, python_config),
        attempt("paths", "without a character that Jittor cannot take", check_paths)]
    for package in ("jittor", "onednn-cpu-gomp", "onednn-devel-cpu-gomp", "safetensors"):
        try:
            release = importlib.metadata.version(package)
            trap = TRAPS.get((package, release))
            rows.append((package, f"{release} ({trap})" if trap else release, ""))
        except importlib.metadata.PackageNotFoundError:
            rows.append((package, "", f"run `{INSTALL}`"))
    version, _ = gpu.driver()
    problem = gpu.gpu_problem()
    driver = f"supports CUDA {version[0]}.{version[1]}" if version > (0, 0) else "none"
    rows.append(("NVIDIA driver", driver, ""))
    rows.append(("GPU", "none" if problem else "; ".join(map(str, gpu.cards())) or "found", ""))
    toolkit = cuda.choose(cache_folder())
    chosen = toolkit.why if toolkit.nvcc else f"none that Jittor can use: {toolkit.why}"
    rows.append(("CUDA toolkit", chosen, "" if toolkit.nvcc or problem else toolkit.why))
    if toolkit.nvcc or not problem:
        rows += [(f"  {part.name}", str(part), "") for part in cuda.parts(toolkit)]
    rows.append(("cuDNN", cuda.cudnn(toolkit) if toolkit.nvcc else "none", ""))
    nccl = toolkit.nvcc and cuda.nccl(toolkit)
    rows.append(("several GPUs", f"NCCL in {nccl[1]}" if nccl else "no NCCL", ""))
    rows += [(backend.name, backend.found(), "") for backend in backends.BACKENDS]
    mpicc = shutil.which("mpicc")
    if not mpicc:
        mpicc = "no mpicc (`sudo apt install openmpi-bin libopenmpi-dev`)"
    rows.append(("several processes", mpicc, ""))
    rows.append(("compiled code", f"{jittor_home()}/.cache/jittor", ""))
    rows.append(("our cache", str(cache_folder()), ""))
    if toolkit.nvcc and not problem:
        device = "the GPU (cuda)"
    else:
        device = f"the CPU: {problem or toolkit.why}"
    return [*rows, ("will be used", device, "")]


def check(jt: ModuleType) -> list[tuple[str, float]]:
    """(what, largest error relative to the largest value) of a linear layer, convolutions and the
    two gradients of each on Jittor's device, against NumPy in float64. On the CPU the first
    convolution is oneDNN's; the wide one winograd.py takes over, the one of 1x1 pointwise.py; on
    the CPU only there are the depthwise one, depthwise.py's, and, where images may have their
    channels last, those of channels_last.py ("NHWC")."""
    rng = np.random.default_rng(0)

    def normal(*shape: int) -> np.ndarray:
        return rng.standard_normal(shape).astype(np.float32)

    def compare(title: str, layer, w: np.ndarray, x: np.ndarray, up: np.ndarray,
                right: tuple) -> list[tuple]:
        """Output and gradients (`up`: that of the output) of a layer of the weight `w`, beside the
        right ones."""
        layer.weight.assign(jt.array(w))
        given = jt.array(x)
        y = layer(given)
        found = y, *jt.grad((y * jt.array(up)).sum(), [given, layer.weight])
        return list(zip((title, f"{title}, input", f"{title}, weight"), found, right))

    x, w, up = normal(37, 53), normal(29, 53), normal(37, 29)
    a, b, c = (array.astype(np.float64) for array in (x, w, up))
    compared = compare("linear layer", jt.nn.Linear(53, 29, bias=False), w, x, up,
                       (a @ b.T, c @ b, c.T @ a))
    layers = [("convolution", 3, 3, 4, 10, 1), ("wide convolution", 3, 160, 168, 16, 1),
              ("1x1 convolution", 1, 150, 70, 14, 1)]
    if toolchain.device == "cpu":
        layers.append(("depthwise", 3, 5, 5, 28, 5))
    if toolchain.convolution == "winograd" and channels_last.worth_it(onednn()):
        convolve = channels_last.convolution(jt, onednn())
        layers += [("NHWC 3x3", 3, 20, 24, 14, 1), ("NHWC 1x1", 1, 150, 70, 14, 1)]

    class ChannelsLast(jt.nn.Conv):
        def execute(self, x):
            return convolve(x.transpose(0, 2, 3, 1), self).transpose(0, 3, 1, 2)

    for title, kernel, channels, filters, side, groups in layers:
        x = normal(2, channels, side, side + 1)
        w = normal(filters, channels // groups, kernel, kernel)
        up = normal(2, filters, side, side + 1)
        kind = ChannelsLast if title.startswith("NHWC") else jt.nn.Conv
        layer = kind(channels, filters, kernel, padding=kernel // 2, groups=groups, bias=False)
        turned = w[..., ::-1, ::-1]
        if groups > 1:  # a filter for each channel
            right = (np.einsum("bchwij,cij->bchw", windows(x, 3), w[:, 0]),
                     np.einsum("bchwij,cij->bchw", windows(up, 3), turned[:, 0]),
                     np.einsum("bchwij,bchw->cij", windows(x, 3), up.astype(np.float64))[:, None])
        else:
            right = (correlate(x, w), correlate(up, turned.transpose(1, 0, 2, 3)),
                     np.einsum("bchwij,bohw->ocij", windows(x, kernel), up.astype(np.float64)))
        compared += compare(title, layer, w, x, up, right)
    # All at once: a gradient of a weight that is fetched by itself is no convolution's any more.
    jt.sync([value for _, value, _ in compared])
    return [(what, float(np.abs(value.numpy() - right).max() / np.abs(right).max()))
            for what, value, right in compared]


def windows(images: np.ndarray, kernel: int) -> np.ndarray:
    """The neighbours that a kernel of kernel x kernel (odd) sees of every pixel, 0 beyond the
    border: [B, C, H, W] -> float64 [B, C, H, W, kernel, kernel]."""
    pad = (kernel // 2, kernel // 2)
    padded = np.pad(images.astype(np.float64), ((0, 0), (0, 0), pad, pad))
    return np.lib.stride_tricks.sliding_window_view(padded, (kernel, kernel), (2, 3))


def correlate(images: np.ndarray, kernels: np.ndarray) -> np.ndarray:
    """[B, C, H, W] with [O, C, k, k], k // 2 pixels of padding: float64 [B, O, H, W]."""
    return np.einsum("bchwij,ocij->bohw", windows(images, kernels.shape[2]),
                     kernels.astype(np.float64))


@run_cli
def main(arguments: list[str] | None = None) -> int:
    """The doctor. Returns 0 where Jittor can start, 1 where the check fails, 2 where something is
    missing."""
    parser = CommandLine("What Jittor needs and what this machine has.", "python -m toolchain")
    parser.add_argument("--check", action="store_true", help="also compute, and compare with NumPy")
    parser.add_argument("--device", choices=toolchain.DEVICES, default="auto",
                        help="for --check (default: auto)")
    parser.add_argument("--precision", choices=toolchain.PRECISIONS, default="fp32",
                        help="for --check (default: fp32)")
    flags = parser.parse_args(arguments)
    rows = diagnose()
    for what, found, problem in rows:
        print(f"{what:24} {found if not problem else f'MISSING: {problem}'}")
    if any(problem for what, _, problem in rows if what != "CUDA toolkit"):
        return 2
    if not flags.check:
        return 0
    jt = toolchain.start(flags.device, flags.precision)
    print(f"\n{toolchain.describe()}")
    limit = LIMITS[flags.precision]
    errors = check(jt)
    for what, error in errors:
        verdict = "right" if error < limit else "WRONG"
        print(f"{what:24} {verdict}: largest error {error:.1e} of the largest value, "
              f"{limit:.0e} allowed")
    return int(not all(error < limit for _, error in errors))
