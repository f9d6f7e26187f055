"""Which CUDA toolkit Jittor 1.3.11 is to use, and its environment. Needs neither Jittor nor a GPU.

Jittor wants a CUDA 11 or 12 toolkit with cuDNN 8; today's machines have CUDA 12 or 13 with cuDNN 9,
or a driver alone. `choose` takes the first of these that is there, and says in one line which and
why; where `nvcc_path` names an nvcc, only of that one:

1. a CUDA 11 or 12 toolkit of the system with cuDNN 8, as it is;
2. such a toolkit without cuDNN 8, completed with the cuDNN 8.9 of PyPI (nvidia-cudnn-cu11,
   nvidia-cudnn-cu12);
3. a CUDA 12 or 13 toolkit of the system, its compiler at least, with cuDNN 9; the libraries that it
   lacks come from wheels or from the system (PyTorch brings all of them);
4. the CUDA 13 toolkit of requirements-cuda.txt, or those of its wheels that PyTorch for CUDA 13 has
   brought already.

2 to 4 are put together by cuda_folder.py from the parts that cuda_parts.py finds.
"""

import ctypes
import glob
import os
import re
import shutil
from pathlib import Path

from system import processes
from toolchain import cuda_folder, cuda_parts, gpu
from toolchain.base import ToolchainError, cache_folder
from toolchain.cuda_folder import (
    INSTALL,
    Toolkit,
    assembled_from,
    problem_beside,
    release_of_wheels,
    runtime_folder,
    wheels_problem,
)
from toolchain.cuda_parts import Part, cuda_version

OLDEST_OF_CUDA_13 = (7, 5)  # compute capability
HOMES = ("CUDA_HOME", "CUDA_PATH", "CONDA_PREFIX")  # environment variables
SYSTEM_NVCC = (
    "/usr/local/cuda/bin/nvcc",
    "/usr/bin/nvcc",
    "/opt/cuda/bin/nvcc",
    "/usr/local/cuda-*/bin/nvcc",
)


def for_device(wanted: str) -> Toolkit:
    """The CUDA toolkit Jittor is to use; its nvcc is "" for the CPU. Raises ToolchainError where
    "cuda" cannot be."""
    if wanted == "cpu":
        return Toolkit("", "chosen by --device cpu")
    problem = gpu.gpu_problem()
    toolkit = Toolkit("", problem) if problem else choose(cache_folder())
    if wanted == "cuda" and not toolkit.nvcc:
        raise ToolchainError(
            f"--device cuda cannot be used: {toolkit.why}. Use --device cpu, or auto; "
            "`python -m toolchain`, from the project's folder, shows what was looked for."
        )
    return toolkit


def set_environment(toolkit: Toolkit, precision: str) -> None:
    """Jittor's environment for CUDA. What the libraries do with float32 is decided when they are
    loaded."""
    for part in ("use_cutt", "use_cutlass"):  # each is a download, none is used here
        os.environ.setdefault(part, "0")
    if precision == "fp32":
        # Else cuDNN rounds the factors of convolutions to TF32's 10 bits.
        os.environ["NVIDIA_TF32_OVERRIDE"] = "0"
    else:
        os.environ.pop("NVIDIA_TF32_OVERRIDE", None)
    if not processes.in_mpi():
        os.environ.setdefault("use_nccl", "0")
    elif "nccl_lib_path" not in os.environ:
        found = nccl(toolkit)
        if not found:
            raise ToolchainError(
                "several GPUs need NCCL, which was not found: "
                f"`{INSTALL}`, or Debian's libnccl-dev; or use --device cpu"
            )
        os.environ["nccl_include_path"], os.environ["nccl_lib_path"] = found


def choose(cache: Path) -> Toolkit:
    """The toolkit to use, put together below `cache` where it must be. Looks for no GPU."""
    given = os.environ.get("nvcc_path")
    if given == "":
        return Toolkit("", "nvcc_path is set to nothing in the environment")
    problems = []
    name = "nvcc_path" if given else "the system's"
    candidates = [_itself(given)] if given else system_nvccs()
    for nvcc in candidates:
        problem = toolkit_problem(nvcc)
        if not problem:
            made = assembled_from(nvcc)
            return Toolkit(
                nvcc, made or f"{name} toolkit {os.path.dirname(os.path.dirname(nvcc))}, as it is"
            )
        problems.append(problem)
    for nvcc in candidates:
        major = cuda_version(nvcc)[0]
        if major in (11, 12) and runtime_folder(nvcc):
            wheel = f"nvidia-cudnn-cu{major}"
            version = cuda_parts.version(wheel)
            if version.startswith("8.9"):
                return cuda_folder.complete(nvcc, wheel, version, cache)
            if major == 11:
                problems.append(f'`pip install "{wheel}==8.9.*"` would complete it')
    nearly = []
    for nvcc in candidates:
        release = cuda_version(nvcc)
        if release[0] in (12, 13) and not assembled_from(nvcc):
            problem = (
                driver_problem(release, f"{nvcc}'s")
                or card_problem(release)
                or problem_beside(nvcc)
            )
            if not problem:
                return cuda_folder.around(nvcc, cache)
            nearly.append(problem)
    if given:
        return Toolkit("", "; ".join(nearly or problems))
    release = release_of_wheels() if release_of_wheels()[0] == 13 else (13, 0)
    wheels = driver_problem(release, "the wheels'") or card_problem(release) or wheels_problem()
    if not wheels:
        return cuda_folder.from_wheels(cache)
    return Toolkit("", "; ".join(nearly[:2] or [*problems[:2], wheels]))


def system_nvccs() -> list[str]:
    """Every nvcc of this machine, once, in the order in which they are asked: the one on the PATH,
    of the toolkit that an environment variable names, of the usual places, the newest first."""
    homes = [os.path.join(os.environ[name], "bin/nvcc") for name in HOMES if os.environ.get(name)]
    usual = [
        path
        for place in SYSTEM_NVCC
        for path in sorted(glob.glob(place), key=_numbers, reverse=True)
    ]
    found: dict[str, str] = {}
    for path in (shutil.which("nvcc"), *homes, *usual):
        if path and os.path.exists(path):
            path = _itself(path)
            found.setdefault(os.path.realpath(path), path)
    return list(found.values())


def _itself(nvcc: str) -> str:
    return nvcc if assembled_from(nvcc) else cuda_parts.program(nvcc)


def _numbers(path: str) -> list[int]:
    return [int(digits) for digits in re.findall(r"\d+", path)]


def parts(toolkit: Toolkit) -> list[Part]:
    """The parts of the toolkit that will be used; without one those of the first that might be, and
    how to get what it lacks. None of a toolkit that is used as it is."""
    if toolkit.nvcc and assembled_from(toolkit.nvcc):
        return cuda_folder.parts_of(toolkit.nvcc)
    if toolkit.nvcc:
        return []  # as it is
    given = os.environ.get("nvcc_path")
    for nvcc in [_itself(given)] if given else system_nvccs():
        if cuda_version(nvcc)[0] in (12, 13):
            return cuda_parts.find(nvcc, cuda_version(nvcc))
    return cuda_parts.find("", release_of_wheels()) if release_of_wheels()[0] == 13 else []


def toolkit_problem(nvcc: str) -> str:
    """Why Jittor 1.3.11 cannot use the CUDA toolkit of this nvcc as it is, "" if it can: it wants
    CUDA 11 or 12, cuDNN 8."""
    if not os.access(nvcc, os.X_OK):
        return f"no CUDA toolkit found ({nvcc} is no program)"
    if assembled_from(nvcc):
        if cuda_version(nvcc)[0]:
            return ""
        return f"{nvcc} leads nowhere: the wheels it was put together from are gone"
    lib = runtime_folder(nvcc)
    if not lib:
        return f"{nvcc} has no CUDA runtime beside it (no libcudart.so in ../lib64)"
    major, _ = cuda_version(nvcc)
    if major not in (11, 12):
        return f"Jittor 1.3.11 wants a CUDA 11 or 12 toolkit, {nvcc} is CUDA {major or 'unknown'}"
    folders = [
        lib,
        os.path.join(lib, "../targets/x86_64-linux/lib"),
        cuda_parts.SYSTEM_LIBRARIES,
        "/usr/lib",
    ]
    if not any(glob.glob(os.path.join(folder, "libcudnn_ops_infer.so*")) for folder in folders):
        return (
            f"cuDNN 8 is missing from the CUDA toolkit of {nvcc} (libcudnn_ops_infer.so not found)"
        )
    return ""


def cudnn(toolkit: Toolkit) -> str:
    """The version of the cuDNN that Jittor will load with this toolkit."""
    own = (toolkit.folder / "lib64", toolkit.folder / "targets/x86_64-linux/lib")
    for folder in (*own, Path(cuda_parts.SYSTEM_LIBRARIES), Path("/usr/lib")):
        for path in sorted(folder.glob("libcudnn.so*"), key=lambda path: len(path.name)):
            try:
                return str(ctypes.CDLL(str(path)).cudnnGetVersion())
            except (OSError, AttributeError):
                return f"{path} (cannot be loaded)"
    return "not found"


def nccl(toolkit: Toolkit) -> tuple[str, str] | None:
    """(folder of nccl.h, folder of libnccl.so), in the toolkit or in the system; None if there is
    none."""
    system = (Path("/usr/include"), Path(cuda_parts.SYSTEM_LIBRARIES))
    for include, lib in ((toolkit.folder / "include", toolkit.folder / "lib64"), system):
        if (include / "nccl.h").exists() and (lib / "libnccl.so").exists():
            return str(include), str(lib)
    return None


def card_problem(release: tuple[int, int]) -> str:
    """Why a card that may be used cannot be with this CUDA, "" if all can."""
    old = [card for card in gpu.cards() if card.capability < OLDEST_OF_CUDA_13]
    if release < (13, 0) or not old:
        return ""
    return (
        f"CUDA 13 no longer compiles for {old[0].name} (compute capability "
        f"{old[0].capability[0]}.{old[0].capability[1]}, it wants 7.5): install a CUDA 12 "
        "toolkit, or choose another card with CUDA_VISIBLE_DEVICES"
    )


def driver_problem(release: tuple[int, int], whose: str) -> str:
    """Why the driver cannot run what this CUDA compiles, "" if it can."""
    version, _ = gpu.driver()
    without = version == (0, 0)  # the folder can be made all the same
    if without or version >= release:
        return ""
    says = f"the driver supports CUDA {version[0]}.{version[1]} at most, and "
    if version < (13, 0) <= release:
        return says + (
            f"{whose} CUDA 13 wants a driver of version 580 or newer: update it, or "
            "install a CUDA 12 toolkit"
        )
    return says + (
        f"{whose} CUDA is {release[0]}.{release[1]}: update the driver, or install CUDA "
        f"{version[0]}.{version[1]}"
    )
