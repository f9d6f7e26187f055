"""Find, or put together, a CUDA toolkit that Jittor 1.3.11 can use. Needs neither Jittor nor a GPU.

Jittor wants a CUDA 11 or 12 toolkit with cuDNN 8; today's machines have CUDA 12 or 13 with cuDNN 9, or a driver alone.
`choose` takes the first of these that is there, and says in one line which and why:

1. the toolkit of the nvcc in the environment variable `nvcc_path`;
2. a CUDA 11 or 12 toolkit of the system with cuDNN 8, as it is;
3. such a toolkit without cuDNN 8, completed with the cuDNN 8.9 of PyPI (nvidia-cudnn-cu11, nvidia-cudnn-cu12);
4. the CUDA 13 toolkit of requirements-cuda.txt, or those of its wheels that PyTorch for CUDA 13 has brought already.

3 and 4 become a folder of links in the user's cache, laid out as Jittor expects a toolkit (bin/nvcc, include/,
lib64/). For CUDA 13 and cuDNN 9 it also holds an nvcc that turns C++14 into C++17, and three small headers for what
these releases have dropped. Nothing is copied, and nothing in site-packages or in Jittor is changed.
"""
import ctypes
import glob
import hashlib
import importlib.metadata
import json
import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

SYSTEM_LIBRARIES = "/usr/lib/x86_64-linux-gnu"
SYSTEM_NVCC = ("/usr/local/cuda/bin/nvcc", "/usr/bin/nvcc", "/opt/cuda/bin/nvcc")
MARK = "assembled.json"  # in a folder that we put together: which versions

# CUDA 13: the wheels, by what a program that was built elsewhere must match (the compiler's parts) and what it need not.
COMPILER = ("nvidia-cuda-nvcc", "nvidia-cuda-crt", "nvidia-nvvm", "nvidia-cuda-cccl", "nvidia-cuda-runtime")
LIBRARIES = ("nvidia-cuda-nvrtc", "nvidia-cublas", "nvidia-curand", "nvidia-cufft", "nvidia-cusparse", "nvidia-nvjitlink",
             "nvidia-cudnn-cu13")
NCCL = "nvidia-nccl-cu13"
INSTALL = "pip install -r requirements-cuda.txt"
# What Jittor loads by the names of cuDNN 8, and where cuDNN 9 has it.
OLD_CUDNN = {"ops_infer": "ops", "ops_train": "ops", "cnn_infer": "cnn", "cnn_train": "cnn"}

# -std: the headers of CUDA 13 refuse C++14. -code: Jittor knows no card after sm_90 and would build for sm_90 alone,
# which newer ones cannot run; the PTX that is added here they can compile.
NVCC_13 = """#!/bin/sh
# Written by cuda_toolkit.py: nvcc as Jittor 1.3.11 calls it, on to CUDA 13.
for argument in "$@"; do
    shift
    case "$argument" in
    -std=c++14) argument=-std=c++17 ;;
    -code=sm_90) argument=-code=sm_90,compute_90 ;;
    esac
    set -- "$@" "$argument"
done
exec "{nvcc}" "$@"
"""
NVCC = """#!/bin/sh
# Written by cuda_toolkit.py
exec "{nvcc}" "$@"
"""

CUDA_RUNTIME_H = """// Written by cuda_toolkit.py. Jittor 1.3.11 (helper_cuda.h) reads two fields that CUDA 13 has taken out of cudaDeviceProp.
#include "{header}"
#if defined(__cplusplus) && !defined(PACKNET_DEVICE_PROP)
#define PACKNET_DEVICE_PROP
struct DevicePropOfCuda12 : cudaDeviceProp {{
    int computeMode, clockRate;
}};
static inline cudaError_t cudaGetDeviceProperties(DevicePropOfCuda12* prop, int device) {{
    cudaError_t error = cudaGetDeviceProperties(static_cast<cudaDeviceProp*>(prop), device);
    if (error == cudaSuccess) error = cudaDeviceGetAttribute(&prop->computeMode, cudaDevAttrComputeMode, device);
    if (error == cudaSuccess) error = cudaDeviceGetAttribute(&prop->clockRate, cudaDevAttrClockRate, device);
    return error;
}}
#define cudaDeviceProp DevicePropOfCuda12
#endif
"""

CUDNN_H = """// Written by cuda_toolkit.py. Jittor 1.3.11's recurrent operators name calls that cuDNN 9 no longer has. They compile with
// these, and fail with NOT_SUPPORTED if used.
#include "{header}"
#if defined(__cplusplus) && !defined(PACKNET_CUDNN_RNN)
#define PACKNET_CUDNN_RNN
{functions}#endif
"""
OLD_RNN = ("cudnnSetRNNDescriptor_v6", "cudnnGetRNNParamsSize", "cudnnGetRNNWorkspaceSize",
           "cudnnGetRNNTrainingReserveSize", "cudnnRNNForwardTraining", "cudnnRNNForwardInference", "cudnnRNNBackwardData",
           "cudnnRNNBackwardWeights", "cudnnGetRNNLinLayerMatrixParams", "cudnnGetRNNLinLayerBiasParams")

# Jittor takes the limits of the integers from NVIDIA's image library, which would be another 134 MB.
NPP_H = """// Written by cuda_toolkit.py
#pragma once
#include <climits>
#define NPP_MIN_32U 0u
#define NPP_MAX_32U UINT_MAX
#define NPP_MIN_32S INT_MIN
#define NPP_MAX_32S INT_MAX
#define NPP_MIN_64U 0ull
#define NPP_MAX_64U ULLONG_MAX
#define NPP_MIN_64S LLONG_MIN
#define NPP_MAX_64S LLONG_MAX
"""


@dataclass(frozen=True)
class Toolkit:
    """`nvcc` of a toolkit that Jittor can use, or "" for none; `why` in one line, fit for the log."""
    nvcc: str
    why: str

    @property
    def folder(self) -> Path:
        return Path(self.nvcc).parent.parent


# ------------------------------------------------------------------------------------------------ driver and GPU

def driver() -> tuple[tuple[int, int], int]:
    """((major, minor) of the newest CUDA the driver supports, number of GPUs); (0, 0) without a driver."""
    try:
        library = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return (0, 0), 0
    version, count = ctypes.c_int(), ctypes.c_int()
    if library.cuDriverGetVersion(ctypes.byref(version)) != 0:
        return (0, 0), 0
    if library.cuInit(0) != 0 or library.cuDeviceGetCount(ctypes.byref(count)) != 0:
        count.value = 0
    return (version.value // 1000, version.value % 1000 // 10), count.value


def gpu_problem() -> str:
    """Why no CUDA GPU can be used, "" if one can. Asks the driver, so it needs no toolkit."""
    version, count = driver()
    if version == (0, 0):
        return "no NVIDIA driver is installed (libcuda.so.1 not found)"
    return "" if count else "the NVIDIA driver reports no usable GPU (see nvidia-smi)"


def gpus() -> list[str]:
    """Name, memory and driver of each GPU."""
    if not shutil.which("nvidia-smi"):
        return ["NVIDIA GPU"]
    text = output(["nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"])
    return [", driver ".join(line.rsplit(", ", 1)) for line in text.splitlines()] or ["NVIDIA GPU"]


# ------------------------------------------------------------------------------------------------ the choice

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
            wheel, version = f"nvidia-cudnn-cu{major}", _version(f"nvidia-cudnn-cu{major}")
            if version.startswith("8.9"):
                return _complete(nvcc, wheel, version, cache)
            problems.append(f"`pip install \"{wheel}==8.9.*\"` would complete it")
    if given:
        return Toolkit("", "; ".join(problems))
    wheels = wheels_problem() or driver_problem()
    if not wheels:
        return _assemble_wheels(cache)
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
    folders = [lib, os.path.join(lib, "../targets/x86_64-linux/lib"), SYSTEM_LIBRARIES, "/usr/lib"]
    if not any(glob.glob(os.path.join(folder, "libcudnn_ops_infer.so*")) for folder in folders):
        return f"cuDNN 8 is missing from the CUDA toolkit of {nvcc} (libcudnn_ops_infer.so not found)"
    return ""


def runtime_folder(nvcc: str) -> str:
    """Where Jittor looks for the CUDA runtime of this nvcc; "" if it is not there."""
    lib = SYSTEM_LIBRARIES if nvcc == "/usr/bin/nvcc" else os.path.join(os.path.dirname(os.path.realpath(nvcc)), "../lib64")
    return os.path.normpath(lib) if os.path.exists(os.path.join(lib, "libcudart.so")) else ""


def cuda_version(nvcc: str) -> tuple[int, int]:
    match = re.search(r"release (\d+)\.(\d+)", output([nvcc, "--version"]))
    return (int(match[1]), int(match[2])) if match else (0, 0)


def cudnn(toolkit: Toolkit) -> str:
    """The version of the cuDNN that Jittor will load with this toolkit."""
    for folder in (toolkit.folder / "lib64", toolkit.folder / "targets/x86_64-linux/lib", Path(SYSTEM_LIBRARIES), Path("/usr/lib")):
        for path in sorted(folder.glob("libcudnn.so*"), key=lambda path: len(path.name)):
            try:
                return str(ctypes.CDLL(str(path)).cudnnGetVersion())
            except (OSError, AttributeError):
                return f"{path} (cannot be loaded)"
    return "not found"


def nccl(toolkit: Toolkit) -> tuple[str, str] | None:
    """(folder of nccl.h, folder of libnccl.so), in the toolkit or in the system; None if there is none."""
    for include, lib in ((toolkit.folder / "include", toolkit.folder / "lib64"), (Path("/usr/include"), Path(SYSTEM_LIBRARIES))):
        if (include / "nccl.h").exists() and (lib / "libnccl.so").exists():
            return str(include), str(lib)
    return None


def output(command: list[str]) -> str:
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=60).stdout
    except OSError:
        return ""


# ------------------------------------------------------------------------------------------------ wheels

def wheels_problem() -> str:
    """Why no CUDA 13 toolkit can be put together from the installed wheels, with the command that mends it."""
    versions = {wheel: _version(wheel) for wheel in (*COMPILER, *LIBRARIES)}
    runtime = ".".join(versions["nvidia-cuda-runtime"].split(".")[:2])
    if not any(versions.values()):
        return f"CUDA 13 is not installed as wheels: `{INSTALL}`"
    if runtime and not runtime.startswith("13."):
        return f"the wheels of CUDA {runtime} are installed, only CUDA 13 is known to work: `{INSTALL}`"
    if not runtime:
        return f"the wheel nvidia-cuda-runtime is missing: `{INSTALL}`"
    wrong = [wheel for wheel in COMPILER if not versions[wheel].startswith(f"{runtime}.")]
    wrong += [wheel for wheel in LIBRARIES if not versions[wheel]]
    if wrong:  # beside what is there, PyTorch's wheels for one, which must stay as they are
        wanted = " ".join(f'"{wheel}=={runtime}.*"' if wheel in COMPILER else wheel for wheel in wrong)
        return f"of CUDA {runtime}, whose runtime is installed as a wheel, parts are missing: `pip install {wanted}`"
    if not versions["nvidia-cudnn-cu13"].startswith("9."):
        return f"nvidia-cudnn-cu13 {versions['nvidia-cudnn-cu13']} is installed, only cuDNN 9 is known to work: `{INSTALL}`"
    return ""


def driver_problem() -> str:
    version, _ = driver()
    return "" if version >= (13, 0) or version == (0, 0) else (  # without a driver the folder can be made all the same
        f"the driver supports CUDA {version[0]}.{version[1]} at most, and the wheels' CUDA 13 wants a driver of version 580 "
        "or newer: update it, or install a CUDA 12 toolkit with cuDNN 8")


def _version(wheel: str) -> str:
    try:
        return importlib.metadata.version(wheel)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _roots(wheels: tuple[str, ...], *inside: str) -> list[Path]:
    """The folders that these wheels were unpacked to. PyTorch's may be in another environment's site-packages."""
    found = (Path(importlib.metadata.distribution(wheel).locate_file("nvidia")) / name
             for wheel in wheels if _version(wheel) for name in inside)
    return sorted({path.resolve() for path in found if path.is_dir()})


# ------------------------------------------------------------------------------------------------ a folder of links

def _assemble_wheels(cache: Path) -> Toolkit:
    """The CUDA 13 toolkit of the wheels."""
    versions = {wheel: _version(wheel) for wheel in (*COMPILER, *LIBRARIES, NCCL)}
    roots = _roots((*COMPILER, *LIBRARIES, NCCL), "cu13", "cudnn", "nccl")
    nvcc = next(root / "bin/nvcc" for root in roots if (root / "bin/nvcc").exists())
    links = _links_to(*roots)
    for path in (path for root in roots if (root / "include/cccl").is_dir() for path in (root / "include/cccl").iterdir()):
        links[f"include/{path.name}"] = path  # Jittor's sources say <cub/...>
    for old, new in OLD_CUDNN.items():
        links[f"lib64/libcudnn_{old}.so"] = links[f"lib64/libcudnn_{new}.so"]
    functions = "".join(f"template <class... T> cudnnStatus_t {name}(T...) {{ return CUDNN_STATUS_NOT_SUPPORTED; }}\n"
                        for name in OLD_RNN)
    files = {"bin/nvcc": NVCC_13.format(nvcc=nvcc),
             "include/cuda_runtime.h": CUDA_RUNTIME_H.format(header=links.pop("include/cuda_runtime.h")),
             "include/npp.h": NPP_H,
             "include/cudnn.h": CUDNN_H.format(header=links.pop("include/cudnn.h"), functions=functions)}
    release = ".".join(versions["nvidia-cuda-nvcc"].split(".")[:2])
    return _assemble(cache, f"CUDA {release} put together from PyPI's wheels, cuDNN {versions['nvidia-cudnn-cu13']}",
                     versions, links, files)


def _complete(nvcc: str, wheel: str, version: str, cache: Path) -> Toolkit:
    """A CUDA 11 or 12 toolkit of the system with the cuDNN 8 of a wheel."""
    if nvcc == "/usr/bin/nvcc":  # Debian's package spreads the toolkit over /usr
        links = {f"lib64/{path.name}": path for pattern in ("libcu*.so*", "libnv*.so*")
                 for path in Path(SYSTEM_LIBRARIES).glob(pattern)}
        links["nvvm"] = Path("/usr/lib/nvidia-cuda-toolkit")
    else:
        home = Path(os.path.realpath(nvcc)).parent.parent
        links = {path.name: path for path in home.iterdir() if path.name not in ("bin", "include", "lib64")}
        links |= {f"lib64/{path.name}": path for path in (home / "lib64").iterdir()}
        links |= {f"include/{path.name}": path for path in (home / "include").iterdir()}
    links |= _links_to(*_roots((wheel,), "cudnn"))
    release = ".".join(map(str, cuda_version(nvcc)))
    return _assemble(cache, f"the system's toolkit of {nvcc} (CUDA {release}), completed with cuDNN {version} of {wheel}",
                     {wheel: version, "nvcc": release}, links, {"bin/nvcc": NVCC.format(nvcc=os.path.realpath(nvcc))})


def _links_to(*roots: Path) -> dict[str, Path]:
    """{place in the toolkit: file of a wheel}: headers, and libraries by their name with and without the version."""
    links = {}
    for root in roots:
        links |= {f"include/{path.name}": path for path in (root / "include").glob("*")}
        links |= {f"lib64/{path.name}": path for path in (root / "lib").glob("*.a")}
        for path in (root / "lib").glob("*.so*"):
            links[f"lib64/{path.name}"] = path
            links.setdefault(f"lib64/{path.name.partition('.so')[0]}.so", path)
    return links


def _assemble(cache: Path, what: str, versions: dict, links: dict[str, Path], files: dict[str, str]) -> Toolkit:
    """Make the folder unless it is there. Its name follows from all that is in it, so it never changes once made."""
    content = json.dumps([versions, {name: str(path) for name, path in links.items()}, files], sort_keys=True)
    folder = cache / f"cuda-{hashlib.sha256(content.encode()).hexdigest()[:16]}"
    if not folder.exists():
        partial = folder.with_name(f".{folder.name}.{os.getpid()}")
        shutil.rmtree(partial, ignore_errors=True)
        for name, target in links.items():
            (partial / name).parent.mkdir(parents=True, exist_ok=True)
            (partial / name).symlink_to(target)
        for name, text in files.items():
            (partial / name).parent.mkdir(parents=True, exist_ok=True)
            (partial / name).write_text(text)
        (partial / "bin/nvcc").chmod(0o755)
        (partial / MARK).write_text(json.dumps(dict(what=what, versions=versions), indent=1))
        try:
            partial.rename(folder)
        except OSError:  # another process was faster
            shutil.rmtree(partial)
    return Toolkit(str(folder / "bin/nvcc"), what)


def assembled_from(nvcc: str) -> str:
    """What the toolkit of this nvcc was put together from, "" if it is not one of ours."""
    try:
        return json.loads((Path(nvcc).parent.parent / MARK).read_text())["what"]
    except (OSError, ValueError, KeyError):
        return ""
