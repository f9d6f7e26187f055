"""A CUDA toolkit put together from PyPI's wheels, or a system's completed with them: a folder of links.

It lies in the user's cache and is laid out as Jittor expects a toolkit (bin/nvcc, include/, lib64/). For CUDA 13 and
cuDNN 9 it also holds an nvcc that turns C++14 into C++17, and three small headers for what these releases have dropped.
Nothing is copied, and nothing in site-packages or in Jittor is changed.
"""
import hashlib
import importlib.metadata
import json
import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

from toolchain.base import output

SYSTEM_LIBRARIES = "/usr/lib/x86_64-linux-gnu"
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
# Written by toolchain/cuda_folder.py: nvcc as Jittor 1.3.11 calls it, on to CUDA 13.
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
# Written by toolchain/cuda_folder.py
exec "{nvcc}" "$@"
"""

CUDA_RUNTIME_H = """// Written by toolchain/cuda_folder.py.
// Jittor 1.3.11 (helper_cuda.h) reads two fields that CUDA 13 has taken out of cudaDeviceProp.
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

CUDNN_H = """// Written by toolchain/cuda_folder.py.
// Jittor 1.3.11's recurrent operators name calls that cuDNN 9 no longer has. They compile with these, and fail with NOT_SUPPORTED if used.
#include "{header}"
#if defined(__cplusplus) && !defined(PACKNET_CUDNN_RNN)
#define PACKNET_CUDNN_RNN
{functions}#endif
"""
OLD_RNN = ("cudnnSetRNNDescriptor_v6", "cudnnGetRNNParamsSize", "cudnnGetRNNWorkspaceSize",
           "cudnnGetRNNTrainingReserveSize", "cudnnRNNForwardTraining", "cudnnRNNForwardInference", "cudnnRNNBackwardData",
           "cudnnRNNBackwardWeights", "cudnnGetRNNLinLayerMatrixParams", "cudnnGetRNNLinLayerBiasParams")

# Jittor takes the limits of the integers from NVIDIA's image library, which would be another 134 MB.
NPP_H = """// Written by toolchain/cuda_folder.py
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


def runtime_folder(nvcc: str) -> str:
    """Where Jittor looks for the CUDA runtime of this nvcc; "" if it is not there."""
    lib = SYSTEM_LIBRARIES if nvcc == "/usr/bin/nvcc" else os.path.join(os.path.dirname(os.path.realpath(nvcc)), "../lib64")
    return os.path.normpath(lib) if os.path.exists(os.path.join(lib, "libcudart.so")) else ""


def cuda_version(nvcc: str) -> tuple[int, int]:
    match = re.search(r"release (\d+)\.(\d+)", output([nvcc, "--version"]))
    return (int(match[1]), int(match[2])) if match else (0, 0)


# ------------------------------------------------------------------------------------------------ wheels

def wheels_problem() -> str:
    """Why no CUDA 13 toolkit can be put together from the installed wheels, with the command that mends it."""
    versions = {wheel: version(wheel) for wheel in (*COMPILER, *LIBRARIES)}
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


def version(wheel: str) -> str:
    try:
        return importlib.metadata.version(wheel)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _roots(wheels: tuple[str, ...], *inside: str) -> list[Path]:
    """The folders that these wheels were unpacked to. PyTorch's may be in another environment's site-packages."""
    found = (Path(importlib.metadata.distribution(wheel).locate_file("nvidia")) / name
             for wheel in wheels if version(wheel) for name in inside)
    return sorted({path.resolve() for path in found if path.is_dir()})


# ------------------------------------------------------------------------------------------------ a folder of links

def from_wheels(cache: Path) -> Toolkit:
    """The CUDA 13 toolkit of the wheels."""
    versions = {wheel: version(wheel) for wheel in (*COMPILER, *LIBRARIES, NCCL)}
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


def complete(nvcc: str, wheel: str, version: str, cache: Path) -> Toolkit:
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
