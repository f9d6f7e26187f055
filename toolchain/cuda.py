"""Which CUDA toolkit Jittor 1.3.11 is to use, and its environment. Needs neither Jittor nor a GPU.

Jittor wants a CUDA 11 or 12 toolkit with cuDNN 8; today's machines have CUDA 12 or 13 with cuDNN 9, or a driver alone.
`choose` takes the first of these that is there, and says in one line which and why:

1. the toolkit of the nvcc in the environment variable `nvcc_path`;
2. a CUDA 11 or 12 toolkit of the system with cuDNN 8, as it is;
3. such a toolkit without cuDNN 8, completed with the cuDNN 8.9 of PyPI (nvidia-cudnn-cu11, nvidia-cudnn-cu12);
4. the CUDA 13 toolkit of requirements-cuda.txt, or those of its wheels that PyTorch for CUDA 13 has brought already.

3 and 4 are put together by cuda_folder.py.
"""
import ctypes
import glob
import os
import shutil
from pathlib import Path

from system import processes
from toolchain import cuda_folder, gpu
from toolchain.base import ToolchainError, cache_folder
from toolchain.cuda_folder import INSTALL, Toolkit, assembled_from, cuda_version, runtime_folder, wheels_problem

OLDEST_OF_CUDA_13 = (7, 5)  # compute capability
SYSTEM_NVCC = ("/usr/local/cuda/bin/nvcc", "/usr/bin/nvcc", "/opt/cuda/bin/nvcc")


def for_device(wanted: str) -> Toolkit:
    """The CUDA toolkit Jittor is to use; its nvcc is "" for the CPU. Raises ToolchainError where "cuda" cannot be."""
    if wanted == "cpu":
        return Toolkit("", "chosen by --device cpu")
    problem = gpu.gpu_problem()
    toolkit = Toolkit("", problem) if problem else choose(cache_folder())
    if wanted == "cuda" and not toolkit.nvcc:
        raise ToolchainError(f"--device cuda cannot be used: {toolkit.why}. Use --device cpu, or auto; "
                             "`python -m toolchain`, from the project's folder, shows what was looked for.")
    return toolkit


def set_environment(toolkit: Toolkit, precision: str) -> None:
    """Jittor's environment for CUDA. What the libraries do with float32 is decided when they are loaded."""
    for part in ("use_cutt", "use_cutlass"):  # each is a download, none is used here
        os.environ.setdefault(part, "0")
    if precision == "fp32":
        os.environ["NVIDIA_TF32_OVERRIDE"] = "0"  # else cuDNN rounds the factors of convolutions to TF32's 10 bits
    else:
        os.environ.pop("NVIDIA_TF32_OVERRIDE", None)
    if not processes.in_mpi():
        os.environ.setdefault("use_nccl", "0")
    elif "nccl_lib_path" not in os.environ:
        found = nccl(toolkit)
        if not found:
            raise ToolchainError("several GPUs need NCCL, which was not found: "
                                 f"`{INSTALL}`, or Debian's libnccl-dev; or use --device cpu")
        os.environ["nccl_include_path"], os.environ["nccl_lib_path"] = found


def choose(cache: Path) -> Toolkit:
    """The toolkit to use, put together below `cache` where it must be. Looks for no GPU."""
    given = os.environ.get("nvcc_path")
    if given == "":
        return Toolkit("", "nvcc_path is set to nothing in the environment")
    problems = []
    found = list(dict.fromkeys(filter(None, (shutil.which("nvcc"), *filter(os.path.exists, SYSTEM_NVCC)))))
    name, candidates = ("nvcc_path", [given]) if given else ("the system's", found)
    for nvcc in candidates:
        problem = toolkit_problem(nvcc)
        if not problem:
            made = assembled_from(nvcc)
            return Toolkit(nvcc, made or f"{name} toolkit {os.path.dirname(os.path.dirname(nvcc))}, as it is")
        problems.append(problem)
    for nvcc in candidates:
        if cuda_version(nvcc)[0] in (11, 12) and runtime_folder(nvcc):
            major = cuda_version(nvcc)[0]
            wheel, version = f"nvidia-cudnn-cu{major}", cuda_folder.version(f"nvidia-cudnn-cu{major}")
            if version.startswith("8.9"):
                return cuda_folder.complete(nvcc, wheel, version, cache)
            problems.append(f"`pip install \"{wheel}==8.9.*\"` would complete it")
    if given:
        return Toolkit("", "; ".join(problems))
    wheels = wheels_problem() or driver_problem() or card_problem()
    if not wheels:
        return cuda_folder.from_wheels(cache)
    return Toolkit("", "; ".join([*problems[:2], wheels]))


def toolkit_problem(nvcc: str) -> str:
    """Why Jittor 1.3.11 cannot use the CUDA toolkit of this nvcc, "" if it can: it wants CUDA 11 or 12, cuDNN 8."""
    if not os.access(nvcc, os.X_OK):
        return f"no CUDA toolkit found ({nvcc} is no program)"
    if assembled_from(nvcc):
        return "" if cuda_version(nvcc)[0] else f"{nvcc} leads nowhere: the wheels it was put together from are gone"
    lib = runtime_folder(nvcc)
    if not lib:
        return f"{nvcc} has no CUDA runtime beside it (no libcudart.so in ../lib64)"
    major, _ = cuda_version(nvcc)
    if major not in (11, 12):
        return f"Jittor 1.3.11 wants a CUDA 11 or 12 toolkit, {nvcc} is CUDA {major or 'unknown'}"
    folders = [lib, os.path.join(lib, "../targets/x86_64-linux/lib"), cuda_folder.SYSTEM_LIBRARIES, "/usr/lib"]
    if not any(glob.glob(os.path.join(folder, "libcudnn_ops_infer.so*")) for folder in folders):
        return f"cuDNN 8 is missing from the CUDA toolkit of {nvcc} (libcudnn_ops_infer.so not found)"
    return ""


def cudnn(toolkit: Toolkit) -> str:
    """The version of the cuDNN that Jittor will load with this toolkit."""
    own = (toolkit.folder / "lib64", toolkit.folder / "targets/x86_64-linux/lib")
    for folder in (*own, Path(cuda_folder.SYSTEM_LIBRARIES), Path("/usr/lib")):
        for path in sorted(folder.glob("libcudnn.so*"), key=lambda path: len(path.name)):
            try:
                return str(ctypes.CDLL(str(path)).cudnnGetVersion())
            except (OSError, AttributeError):
                return f"{path} (cannot be loaded)"
    return "not found"


def nccl(toolkit: Toolkit) -> tuple[str, str] | None:
    """(folder of nccl.h, folder of libnccl.so), in the toolkit or in the system; None if there is none."""
    system = (Path("/usr/include"), Path(cuda_folder.SYSTEM_LIBRARIES))
    for include, lib in ((toolkit.folder / "include", toolkit.folder / "lib64"), system):
        if (include / "nccl.h").exists() and (lib / "libnccl.so").exists():
            return str(include), str(lib)
    return None


def card_problem() -> str:
    """Why a card that may be used cannot be with the CUDA 13 of the wheels, "" if all can."""
    old = [card for card in gpu.cards() if card.capability < OLDEST_OF_CUDA_13]
    return "" if not old else (
        f"CUDA 13 no longer compiles for {old[0].name} (compute capability {old[0].capability[0]}.{old[0].capability[1]}, it wants "
        "7.5): install a CUDA 12 toolkit with cuDNN 8, or choose another card with CUDA_VISIBLE_DEVICES")


def driver_problem() -> str:
    version, _ = gpu.driver()
    return "" if version >= (13, 0) or version == (0, 0) else (  # without a driver the folder can be made all the same
        f"the driver supports CUDA {version[0]}.{version[1]} at most, and the wheels' CUDA 13 wants a driver of version 580 "
        "or newer: update it, or install a CUDA 12 toolkit with cuDNN 8")
