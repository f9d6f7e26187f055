"""Start Jittor on this machine: the one place that knows about compilers, oneDNN and CUDA.

    import toolchain
    jt = toolchain.start()          # or start("cpu"), start("cuda"); the first call decides

Jittor compiles itself on its first import (about two minutes on two cores, then under a second) and wants
a few things that are easy to miss. `start` looks for them first and says in one sentence what is missing:

* g++ and Python's headers. Jittor asks a `python3.x-config` script for the headers and finds the wrong one,
  or none, for a Python that is not the system's; it is given a script that answers for the running Python.
* oneDNN. Jittor downloads it from its own server; here it is linked from the PyPI wheels instead.
  Without oneDNN a VGG-16 step on the CPU takes about 100 times as long.
* CUDA. With an nvcc but without a usable GPU Jittor aborts the process, so CPU or CUDA is chosen before the
  import, and each has a compile cache of its own. Which toolkit: cuda_toolkit.py.

    python toolchain.py             # the doctor: what was found, what will be used, what is missing and how to get it
    python toolchain.py --check     # and compute: a convolution, its gradients and a matrix product against NumPy

Whatever you set yourself in Jittor's environment variables (nvcc_path, cc_path, cache_name,
python_config_path, use_mkl, log_silent, log_v, JITTOR_HOME, ...) is kept.
"""
import argparse
import ctypes
import glob
import hashlib
import importlib.metadata
import importlib.util
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import sysconfig
import threading
from pathlib import Path
from types import ModuleType

import numpy as np

RANK = int(os.environ.get("OMPI_COMM_WORLD_RANK", 0))  # this process's number among those of mpirun
LOCAL_RANK = int(os.environ.get("OMPI_COMM_WORLD_LOCAL_RANK", 0))  # and among those on this machine
if RANK:
    os.environ["TQDM_DISABLE"] = "1"  # read when tqdm is imported: one progress bar, not one per process
from tqdm import tqdm  # noqa: E402

import cuda_toolkit
from cuda_toolkit import Toolkit
from files import replacing

DEVICES = ("auto", "cpu", "cuda")

# Where Jittor 1.3.11 looks before it downloads oneDNN (jittor/compile_extern.py, install_mkl).
ONEDNN_FOLDER = "dnnl_lnx_2.2.0_cpu_gomp"

# On CUDA: fp32 = IEEE single precision; tf32 = factors of convolutions rounded to 10 bits on the tensor cores; fp16 = factors
# of convolutions and linear layers rounded to half precision. Sums and everything that is stored are float32 in each.
PRECISIONS = ("fp32", "tf32", "fp16")

device: str | None = None  # "cpu" or "cuda" once Jittor runs
why = ""  # this device, in one line
# The batch at hand is shared by `parts` processes, and this one computes the part `part`; set by dataset.Loader.
part, parts = 0, 1


interrupted = False  # by Ctrl-C. Where C code called Python, the KeyboardInterrupt itself can get lost.


class ToolchainError(RuntimeError):
    """Something Jittor needs is missing. The message is one or two lines that say what to do."""


def start(wanted: str | None = None, precision: str = "fp32") -> ModuleType:
    """Prepare the environment, import Jittor and return it. Later calls return the same module.

    `wanted` is "auto" (CUDA where a GPU and a toolkit that Jittor can use are found, else the CPU), "cpu" or
    "cuda"; None keeps the device that already runs, or means "auto". `precision` (PRECISIONS) counts on CUDA only; the
    first call decides. Raises ToolchainError where something is missing, where "cuda" has no usable GPU, and
    where Jittor already runs on the other device.
    """
    global device, why
    if wanted not in (None, *DEVICES):
        raise ToolchainError(f"device {wanted!r} is unknown: choose one of {', '.join(DEVICES)}")
    if "jittor" in sys.modules:
        import jittor
        if device is None:  # the caller imported Jittor before us, and made these choices
            device = "cuda" if jittor.flags.use_cuda else "cpu"
        if wanted in ("cpu", "cuda") and wanted != device:
            raise ToolchainError(f"Jittor already runs on {device} in this process: start a new one for {wanted}")
        return jittor

    toolkit = _choose(wanted or "auto")
    _check_compiler()
    nvcc = os.environ["nvcc_path"] = toolkit.nvcc
    if "python_config_path" not in os.environ:
        os.environ["python_config_path"] = str(_python_config())
    os.environ.setdefault("cache_name", "packnet-cuda" if nvcc else "packnet-cpu")
    os.environ.setdefault("log_silent", "1")
    if nvcc:
        _set_cuda(toolkit, precision)
    if not in_mpi():
        os.environ.setdefault("use_mpi", "0")  # with an mpicc on the PATH Jittor would compile its part for nothing
    elif not shutil.which(os.environ.get("mpicc_path", "mpicc")):
        raise ToolchainError("mpirun started this process, but Jittor compiles its part of MPI with mpicc, which was not "
                             "found: `sudo apt install libopenmpi-dev` (Debian, Ubuntu)")
    if os.environ.get("use_mkl", "1") == "1":
        _link_onednn()
    if not nvcc and "cc_flags" not in os.environ:
        os.environ["cc_flags"] = _precompiled_header()
    if in_mpi():
        sys.excepthook = _fail
    handler = signal.getsignal(signal.SIGINT)
    jittor = _import_jittor()
    if threading.current_thread() is threading.main_thread():  # Jittor's own ends the process before anyone can react
        signal.signal(signal.SIGINT, _interrupt if handler is signal.default_int_handler else handler)
    device, why = "cuda" if nvcc else "cpu", toolkit.why
    if nvcc:
        jittor.flags.use_cuda = 1
        jittor.flags.use_tensorcore = 3 if precision == "fp16" else 0
        # cuDNN's own choice of an algorithm is the same in every process; Jittor's timing of all of them is not, and a
        # task's logits would change by rounding from one run to the next.
        jittor.cudnn.set_algorithm_cache_size(0)
    return jittor


def _interrupt(*_) -> None:
    global interrupted
    interrupted = True
    raise KeyboardInterrupt


def cache_folder() -> Path:
    """This project's folder in the user's cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "packnet-jittor"


def describe() -> str:
    """One line for the log: Jittor's version, what it runs on, and why on that."""
    import jittor
    where = gpu_name() if device == "cuda" else f"{cpu_name()}, {len(os.sched_getaffinity(0))} cores"
    processes = f", {jittor.world_size} processes" if jittor.in_mpi else ""
    return f"Jittor {jittor.__version__} on {device} ({where}{processes}; {why}), Python {platform.python_version()}"


# ------------------------------------------------------------------------------------------------ CPU or CUDA

def _choose(wanted: str) -> Toolkit:
    """The CUDA toolkit Jittor is to use; its nvcc is "" for the CPU. Raises ToolchainError where "cuda" cannot be."""
    if wanted == "cpu":
        return Toolkit("", "chosen by --device cpu")
    problem = cuda_toolkit.gpu_problem()
    toolkit = Toolkit("", problem) if problem else cuda_toolkit.choose(cache_folder())
    if wanted == "cuda" and not toolkit.nvcc:
        raise ToolchainError(f"--device cuda cannot be used: {toolkit.why}. Use --device cpu, or auto; "
                             "`python toolchain.py` shows what was looked for.")
    return toolkit


def _set_cuda(toolkit: Toolkit, precision: str) -> None:
    """Jittor's environment for CUDA. What the libraries do with float32 is decided when they are loaded."""
    for part in ("use_cutt", "use_cutlass"):  # each is a download, none is used here
        os.environ.setdefault(part, "0")
    if precision == "fp32":
        os.environ["NVIDIA_TF32_OVERRIDE"] = "0"  # else cuDNN rounds the factors of convolutions to TF32's 10 bits
    else:
        os.environ.pop("NVIDIA_TF32_OVERRIDE", None)
    if not in_mpi():
        os.environ.setdefault("use_nccl", "0")
    elif "nccl_lib_path" not in os.environ:
        nccl = cuda_toolkit.nccl(toolkit)
        if not nccl:
            raise ToolchainError("several GPUs need NCCL, which was not found: "
                                 f"`{cuda_toolkit.INSTALL}`, or Debian's libnccl-dev; or use --device cpu")
        os.environ["nccl_include_path"], os.environ["nccl_lib_path"] = nccl


def in_mpi() -> bool:
    """Whether mpirun started this process."""
    return "OMPI_COMM_WORLD_SIZE" in os.environ


def wait_for_all() -> None:
    """Return once every process of mpirun has called this."""
    import jittor
    if jittor.in_mpi:
        jittor.zeros(1).mpi_all_reduce("add").sync()


def leave(code: int) -> None:
    """End the program. Under mpirun a process that fails must not wait for the others, nor they for it."""
    if code and in_mpi():
        sys.stdout.flush(), sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


def _fail(*error) -> None:
    sys.__excepthook__(*error)
    leave(1)


def gpu_name() -> str:
    return cuda_toolkit.gpus()[0].partition(",")[0]


def cpu_name() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.machine()


# ------------------------------------------------------------------------------------------------ what Jittor needs

def _check_compiler() -> None:
    if platform.system() != "Linux" or platform.machine() != "x86_64":
        raise ToolchainError(f"this project runs on Linux x86-64; this is {platform.system()} {platform.machine()}")
    compiler = os.environ.get("cc_path") or "g++"
    if not shutil.which(compiler):
        raise ToolchainError(f"the C++ compiler {compiler} was not found: install it with "
                             "`sudo apt install g++` (Debian, Ubuntu) or `sudo dnf install gcc-c++` (Fedora, RHEL)")


def _python_config() -> Path:
    """A script that answers Jittor's two questions (headers, suffix of extensions) for the running Python."""
    include = sysconfig.get_path("include")
    if not os.path.exists(os.path.join(include, "Python.h")):
        v = f"{sys.version_info.major}.{sys.version_info.minor}"
        raise ToolchainError(f"Python's headers were not found (no Python.h in {include}): install them with "
                             f"`sudo apt install python{v}-dev` (Debian, Ubuntu) or `sudo dnf install python{v}-devel`")
    text = (f'#!/bin/sh\n# Written by {os.path.basename(__file__)}: stands in for python-config of {sys.executable}\n'
            'case "$1" in\n'
            f'--includes) echo "-I{include} -I{sysconfig.get_path("platinclude")}" ;;\n'
            f'--extension-suffix) echo "{sysconfig.get_config_var("EXT_SUFFIX")}" ;;\n'
            '*) echo "not known here: $1" >&2; exit 1 ;;\nesac\n')
    script = cache_folder() / f"python-config-{hashlib.sha256(text.encode()).hexdigest()[:12]}"
    if not script.exists():
        _make_folder(script.parent)
        with replacing(script) as temporary:
            temporary.write_text(text)
            temporary.chmod(0o755)
    return script


def _link_onednn() -> None:
    """Put links to the oneDNN of the PyPI wheels where Jittor looks before it downloads."""
    folder = _jittor_home() / ".cache" / "jittor" / "mkl" / ONEDNN_FOLDER
    if (folder / "lib" / "libmkldnn.so").exists() and (folder / "include" / "dnnl.hpp").exists():
        return  # Jittor's own download, or links that still lead somewhere
    library = _file_of_wheel("onednn-cpu-gomp", "libdnnl.so")
    header = _file_of_wheel("onednn-devel-cpu-gomp", "dnnl.hpp")
    soname = _soname(library)
    _make_folder(folder / "lib")
    for link, target in ((folder / "include", header.parent), (folder / "lib" / "libmkldnn.so", library),
                         (folder / "lib" / soname, library)):
        with replacing(link) as temporary:  # another process may be starting too
            temporary.symlink_to(target)


def _file_of_wheel(package: str, name: str) -> Path:
    try:
        files = importlib.metadata.files(package) or []
    except importlib.metadata.PackageNotFoundError:
        files = []
    for file in files:
        if file.name == name:
            return Path(file.locate()).resolve()
    raise ToolchainError(f"oneDNN is missing (the package {package} is not installed): "
                         "run `pip install -r requirements.txt`")


def _precompiled_header() -> str:
    """Compiler flags that spare Jittor most of a kernel's compilation: parsing the same headers again (benchmarks/compile.py).

    g++ takes the parsed form only where compiler and flags are those it was made with, else it reads the header itself, which
    is slower and gives the same code. "" where it cannot be made.
    """
    compiler, package = os.environ.get("cc_path") or "g++", importlib.util.find_spec("jittor")
    version = cuda_toolkit.output([compiler, "--version"])
    if not package or "Free Software Foundation" not in version:
        return ""
    source = Path(package.origin).parent / "src"
    text = "".join(f"#include <{name}>\n" for name in ("algorithm", "cmath", "functional", "iostream", "map", "memory", "sstream",
                                                       "string", "unordered_map", "vector")) + '#include "var.h"\n'
    language = ["-std=c++14", "-fPIC", "-march=native"]
    variants = {"kernels": [*language, "-fopenmp", "-Ofast", "-g"], "core": [*language, "-O2"]}  # as Jittor 1.3.11 has them
    key = hashlib.sha256(repr((version, cpu_name(), importlib.metadata.version("jittor"), str(source), text, variants)).encode())
    folder = cache_folder() / f"headers-{key.hexdigest()[:12]}"
    header = folder / "jittor.h"
    if not header.exists():
        partial = folder.with_name(f"{folder.name}.{os.getpid()}")
        try:
            (partial / "jittor.h.gch").mkdir(parents=True)
            (partial / "jittor.h").write_text(text)
            for name, flags in variants.items():
                subprocess.run([compiler, *flags, f"-I{source}", f"-I{sysconfig.get_path('include')}", "-x", "c++-header",
                                partial / "jittor.h", "-o", partial / "jittor.h.gch" / name], check=True, capture_output=True)
            partial.rename(folder)
        except (OSError, subprocess.CalledProcessError):  # full disk, another process that was faster, an unknown compiler
            pass
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    return f'-include "{header}"' if header.exists() else ""


def _soname(library: Path) -> str:
    """The name the dynamic linker will ask for, as in libdnnl.so.2."""
    versions = sorted(library.parent.glob(library.name + ".*"), key=lambda path: len(path.name))
    return versions[0].name if versions else library.name


def _jittor_home() -> Path:
    """Where Jittor keeps its caches (jittor_utils.home)."""
    config = Path.home() / ".cache" / "jittor" / "config.json"
    saved = json.loads(config.read_text()).get("JITTOR_HOME") if config.exists() else None
    return Path(os.environ.get("JITTOR_HOME") or saved or Path.home())


# ------------------------------------------------------------------------------------------------ the import

class _CompileBar:
    """Takes the place of Jittor's own progress line (jittor_utils.DelayProgress): same calls, one tqdm bar."""

    def __init__(self, message: str, total: int) -> None:
        what = "Jittor's core" if "jittor_core" in message else "oneDNN operators" if "mkl" in message else "operators"
        self.bar = tqdm(total=total, desc=f"Compiling {what}", unit="file", leave=False, delay=1)

    def update(self, index: int) -> None:
        self.bar.update()
        if self.bar.n == self.bar.total:
            self.bar.close()


def _flush_denormals() -> None:
    """Make the processor treat denormal floats as 0, in this thread and those it starts.

    Jittor's kernels are built with -Ofast, and loading one switches this on for the thread that loads it: which one
    that is depends on what was compiled before. Switched on here, two runs agree to the bit.
    """
    np.finfo(np.float32), np.finfo(np.float64)  # NumPy looks these up once, and would warn afterwards
    libm, environment = ctypes.CDLL("libm.so.6"), ctypes.create_string_buffer(32)
    libm.fegetenv(environment)
    mxcsr = int.from_bytes(environment[28:32], "little") | 0x8040  # flush to zero, denormals are zero
    environment[28:32] = mxcsr.to_bytes(4, "little")
    libm.fesetenv(environment)


def _import_jittor() -> ModuleType:
    _flush_denormals()
    try:
        import jittor_utils
        jittor_utils.DelayProgress = _CompileBar
        if not glob.glob(os.path.join(jittor_utils.cache_path, "**", "jittor_core*.so"), recursive=True):
            print("First start in this environment: Jittor compiles itself, once. "
                  "This takes about two minutes on two cores.", file=sys.stderr, flush=True)
        import jittor
    except ModuleNotFoundError as error:
        raise ToolchainError(f"the package {error.name} is not installed: "
                             "run `pip install -r requirements.txt`") from error
    except OSError as error:
        raise ToolchainError(f"Jittor cannot start: {error}. Its cache is in {_jittor_home()}/.cache/jittor "
                             "(set JITTOR_HOME to a folder you can write to).") from error
    return jittor


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ToolchainError(f"cannot make the folder {folder}: {error.strerror}. Jittor needs a home folder "
                             "you can write to: set HOME or JITTOR_HOME.") from error


# ------------------------------------------------------------------------------------------------ the doctor

def diagnose() -> list[tuple[str, str, str]]:
    """(what, what was found, "" or what is wrong and how it is mended) of everything Jittor needs. Imports no Jittor."""
    def attempt(what: str, found: str, check) -> tuple[str, str, str]:
        try:
            check()
        except ToolchainError as error:
            return what, "", str(error)
        return what, found, ""

    compiler = os.environ.get("cc_path") or "g++"
    rows = [("system", f"{platform.system()} {platform.machine()}, {cpu_name()}, {len(os.sched_getaffinity(0))} cores", ""),
            attempt("C++ compiler", cuda_toolkit.output([compiler, "--version"]).partition("\n")[0], _check_compiler),
            attempt("Python", f"{platform.python_version()} with headers in {sysconfig.get_path('include')}", _python_config)]
    for package in ("jittor", "onednn-cpu-gomp", "onednn-devel-cpu-gomp"):
        try:
            rows.append((package, importlib.metadata.version(package), ""))
        except importlib.metadata.PackageNotFoundError:
            rows.append((package, "", "run `pip install -r requirements.txt`"))
    version, _ = cuda_toolkit.driver()
    problem = cuda_toolkit.gpu_problem()
    rows.append(("NVIDIA driver", f"supports CUDA {version[0]}.{version[1]}" if version > (0, 0) else "none", ""))
    rows.append(("GPU", "none" if problem else "; ".join(cuda_toolkit.gpus()), ""))
    toolkit = cuda_toolkit.choose(cache_folder())
    rows.append(("CUDA toolkit", toolkit.why if toolkit.nvcc else f"none that Jittor can use: {toolkit.why}",
                 "" if toolkit.nvcc or problem else toolkit.why))
    rows.append(("cuDNN", cuda_toolkit.cudnn(toolkit) if toolkit.nvcc else "none", ""))
    nccl = toolkit.nvcc and cuda_toolkit.nccl(toolkit)
    rows.append(("several GPUs", f"NCCL in {nccl[1]}" if nccl else "no NCCL", ""))
    rows.append(("several processes", shutil.which("mpicc") or "no mpicc (`sudo apt install openmpi-bin libopenmpi-dev`)", ""))
    rows.append(("compiled code", f"{_jittor_home()}/.cache/jittor", ""))
    rows.append(("our cache", str(cache_folder()), ""))
    device = "the GPU (cuda)" if toolkit.nvcc and not problem else f"the CPU: {problem or toolkit.why}"
    return [*rows, ("will be used", device, "")]


def check(jt: ModuleType) -> list[tuple[str, float]]:
    """(what, largest error relative to the largest value) of a convolution, its two gradients and a matrix product on
    Jittor's device, against NumPy in float64."""
    from numpy.lib.stride_tricks import sliding_window_view
    rng = np.random.default_rng(0)
    x, w = rng.standard_normal((2, 3, 10, 11)).astype(np.float32), rng.standard_normal((4, 3, 3, 3)).astype(np.float32)
    up = rng.standard_normal((2, 4, 10, 11)).astype(np.float32)
    a, b = rng.standard_normal((37, 53)).astype(np.float32), rng.standard_normal((53, 29)).astype(np.float32)

    def correlate(images: np.ndarray, kernels: np.ndarray) -> np.ndarray:
        """[B, C, H, W] with [O, C, 3, 3], one pixel of padding: [B, O, H, W]."""
        windows = sliding_window_view(np.pad(images.astype(np.float64), ((0, 0), (0, 0), (1, 1), (1, 1))), (3, 3), (2, 3))
        return np.einsum("bchwij,ocij->bohw", windows, kernels.astype(np.float64))

    windows = sliding_window_view(np.pad(x.astype(np.float64), ((0, 0), (0, 0), (1, 1), (1, 1))), (3, 3), (2, 3))
    expected = {"convolution": correlate(x, w), "its gradient, input": correlate(up, w.transpose(1, 0, 2, 3)[..., ::-1, ::-1]),
                "its gradient, weight": np.einsum("bchwij,bohw->ocij", windows, up.astype(np.float64)),
                "matrix product": a.astype(np.float64) @ b.astype(np.float64)}
    images, kernels = jt.array(x), jt.array(w)
    y = jt.nn.conv2d(images, kernels, padding=1)
    computed = [y, *jt.grad((y * jt.array(up)).sum(), [images, kernels]), jt.matmul(jt.array(a), jt.array(b))]
    return [(what, float(np.abs(value.numpy() - right).max() / np.abs(right).max()))
            for (what, right), value in zip(expected.items(), computed)]


def main(arguments: list[str] | None = None) -> int:
    """The doctor. Returns 0 where Jittor can start, 1 where the check fails, 2 where something is missing."""
    parser = argparse.ArgumentParser(description="What Jittor needs and what this machine has.", allow_abbrev=False)
    parser.add_argument("--check", action="store_true", help="also compute, and compare with NumPy")
    parser.add_argument("--device", choices=DEVICES, default="auto", help="for --check (default: auto)")
    parser.add_argument("--precision", choices=PRECISIONS, default="fp32", help="for --check on a GPU (default: fp32)")
    flags = parser.parse_args(arguments)
    rows = diagnose()
    for what, found, problem in rows:
        print(f"{what:24} {found if not problem else f'MISSING: {problem}'}")
    if any(problem for what, _, problem in rows if what != "CUDA toolkit"):
        return 2
    if not flags.check:
        return 0
    try:
        jt = start(flags.device, flags.precision)
    except ToolchainError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"\n{describe()}")
    limit = {"fp32": 1e-5, "tf32": 3e-3, "fp16": 3e-3}[flags.precision]
    errors = check(jt)
    for what, error in errors:
        print(f"{what:24} {'right' if error < limit else 'WRONG'}: largest error {error:.1e} of the largest value, {limit:.0e} "
              "allowed")
    return int(not all(error < limit for _, error in errors))


if __name__ == "__main__":
    sys.exit(main())
