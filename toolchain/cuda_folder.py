"""A CUDA toolkit put together from the parts that a machine has (cuda_parts.py): a folder of links.

It lies in the user's cache and is laid out as Jittor expects a toolkit (bin/nvcc, include/,
lib64/). For CUDA 13 it also holds an nvcc that turns C++14 into C++17; for CUDA 13 and cuDNN 9
small headers for what these releases have dropped. Nothing is copied, and nothing in site-packages,
in the system or in Jittor is changed.
"""

import hashlib
import importlib.metadata
import json
import os
import shutil
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from toolchain import cuda_parts
from toolchain.cuda_parts import Part, cuda_version

MARK = "assembled.json"  # in a folder that we put together: which versions, which parts

INSTALL = "pip install -r requirements-cuda.txt"
# What Jittor loads by the names of cuDNN 8, and where cuDNN 9 has it.
OLD_CUDNN = {"ops_infer": "ops", "ops_train": "ops", "cnn_infer": "cnn", "cnn_train": "cnn"}

# -std: the headers of CUDA 13 refuse C++14. -code: Jittor knows no card after sm_90 and would build
# for sm_90 alone, which newer ones cannot run; the PTX that is added here they can compile.
NVCC_9 = """#!/bin/sh
# Written by toolchain/cuda_folder.py: nvcc as Jittor 1.3.11 calls it, on to CUDA {release}.
for argument in "$@"; do
    shift
    case "$argument" in
{standard}    -code=sm_90) argument=-code=sm_90,compute_90 ;;
    esac
    set -- "$@" "$argument"
done
exec "{nvcc}" "$@"
"""
CPP_17 = "    -std=c++14) argument=-std=c++17 ;;\n"
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
    if (error == cudaSuccess)
        error = cudaDeviceGetAttribute(&prop->computeMode, cudaDevAttrComputeMode, device);
    if (error == cudaSuccess)
        error = cudaDeviceGetAttribute(&prop->clockRate, cudaDevAttrClockRate, device);
    return error;
}}
#define cudaDeviceProp DevicePropOfCuda12
#endif
"""

CUDNN_H = """// Written by toolchain/cuda_folder.py.
// Jittor 1.3.11's recurrent operators name calls that cuDNN 9 no longer has. They compile with \
these,
// and fail with NOT_SUPPORTED if used.
#include "{header}"
#if defined(__cplusplus) && !defined(PACKNET_CUDNN_RNN)
#define PACKNET_CUDNN_RNN
{functions}#endif
"""
OLD_RNN = (
    "cudnnSetRNNDescriptor_v6",
    "cudnnGetRNNParamsSize",
    "cudnnGetRNNWorkspaceSize",
    "cudnnGetRNNTrainingReserveSize",
    "cudnnRNNForwardTraining",
    "cudnnRNNForwardInference",
    "cudnnRNNBackwardData",
    "cudnnRNNBackwardWeights",
    "cudnnGetRNNLinLayerMatrixParams",
    "cudnnGetRNNLinLayerBiasParams",
)

# Jittor takes the limits of the integers from NVIDIA's image library, which would be 134 MB more.
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
    """`nvcc` of a toolkit that Jittor can use, "" for none; `why` in one line, fit for the log."""

    nvcc: str
    why: str

    @property
    def folder(self) -> Path:
        return Path(self.nvcc).parent.parent


def runtime_folder(nvcc: str) -> str:
    """Where Jittor looks for the CUDA runtime of this nvcc; "" if it is not there."""
    beside = os.path.join(os.path.dirname(os.path.realpath(nvcc)), "../lib64")
    lib = cuda_parts.SYSTEM_LIBRARIES if nvcc == cuda_parts.DEBIANS else beside
    return os.path.normpath(lib) if os.path.exists(os.path.join(lib, "libcudart.so")) else ""


# ---------------------------------------------------------------------------------- what is missing


def problem_beside(nvcc: str) -> str:
    """Why no CUDA 12 or 13 toolkit with cuDNN 9 can be put together around this nvcc of the system,
    with the command that mends it."""
    release = cuda_version(nvcc)
    parts = cuda_parts.find(nvcc, release)
    if not cuda_parts.missing(parts):
        return ""
    names = ", ".join(part.name for part in cuda_parts.missing(parts))
    return (
        f"beside {nvcc} (CUDA {release[0]}.{release[1]}) Jittor also wants {names}: "
        f"{cuda_parts.command(parts)}"
    )


def release_of_wheels() -> tuple[int, int]:
    """The CUDA whose runtime is installed as a wheel; (0, 0) if none is."""
    numbers = cuda_parts.version(cuda_parts.RUNTIME.wheels[13]).split(".")
    return (int(numbers[0]), int(numbers[1])) if len(numbers) > 1 else (0, 0)


def wheels_problem() -> str:
    """Why no CUDA 13 toolkit can be put together from the installed wheels, with the command that
    mends it."""
    installed = [
        cuda_parts.version(kind.wheels[13])
        for kind in (*cuda_parts.COMPILER, *cuda_parts.LIBRARIES)
    ]
    cudnn = cuda_parts.version(cuda_parts.CUDNN.wheels[13])
    release = release_of_wheels()
    if not any(installed):
        return f"CUDA 13 is not installed as wheels: `{INSTALL}`"
    if release == (0, 0):
        return f"the wheel nvidia-cuda-runtime is missing: `{INSTALL}`"
    name = f"{release[0]}.{release[1]}"
    if release[0] != 13:
        return (
            f"the wheels of CUDA {name} are installed, only CUDA 13 is known to work: `{INSTALL}`"
        )
    if cudnn and not cudnn.startswith("9."):
        return f"nvidia-cudnn-cu13 {cudnn} is installed, only cuDNN 9 is known to work: `{INSTALL}`"
    parts = cuda_parts.find("", release)
    if cuda_parts.missing(parts):
        # Beside what is there, PyTorch's wheels for one, which must stay as they are.
        return (
            f"of CUDA {name}, whose runtime is installed as a wheel, parts are missing: "
            f"{cuda_parts.command(parts)}"
        )
    return ""


def _roots(wheels: Iterable[str], *inside: str) -> list[Path]:
    """The folders that these wheels were unpacked to. PyTorch's may be in another environment's
    site-packages."""
    found = (
        Path(importlib.metadata.distribution(wheel).locate_file("nvidia")) / name
        for wheel in wheels
        for name in inside
        if name
    )
    return sorted({path.resolve() for path in found if path.is_dir()})


# -------------------------------------------------------------------------------- a folder of links


def from_wheels(cache: Path) -> Toolkit:
    """The CUDA 13 toolkit of the wheels."""
    release = release_of_wheels()
    parts = [part for part in cuda_parts.find("", release) if part.where]
    roots = _roots((part.wheel for part in parts), "cu13", "cudnn", "nccl")
    nvcc = next(root / "bin/nvcc" for root in roots if (root / "bin/nvcc").exists())
    return _of_cudnn_9(cache, "PyPI's wheels", release, str(nvcc), parts, _links_to(*roots))


def around(nvcc: str, cache: Path) -> Toolkit:
    """A CUDA 12 or 13 toolkit of the system's nvcc and the libraries that are found, cuDNN 9."""
    release = cuda_version(nvcc)
    parts = [part for part in cuda_parts.find(nvcc, release) if part.where]
    wheels = [part for part in parts if part.wheel]
    inside = (
        {"cu13", "cudnn", "nccl"} if release[0] == 13 else {part.folder_of_12 for part in wheels}
    )
    roots = _roots((part.wheel for part in wheels), *sorted(inside))
    links = _links_to(*roots)  # first, as what the toolkit itself has takes its place
    if nvcc != cuda_parts.DEBIANS:  # whose headers every compiler finds
        for folder in cuda_parts.headers_of(nvcc):
            if (folder / "cuda_runtime.h").exists():
                links |= {f"include/{path.name}": path for path in folder.iterdir()}
    for folder in cuda_parts.libraries_of(nvcc):  # a conda environment's holds much else
        links |= _libraries(folder, "libcu*", "libnv*")
    for part in parts:  # last, as the toolkit may hold an older cuDNN
        folders = [root / "lib" for root in roots] if part.wheel else [Path(part.where)]
        for library in part.libraries:
            links |= {
                name: path
                for folder in folders
                for name, path in _libraries(folder, f"lib{library}*").items()
            }
        if part.name in (cuda_parts.CUDNN.name, cuda_parts.NCCL.name):
            headers = (
                [root / "include" for root in roots]
                if part.wheel
                else [*map(Path, reversed(cuda_parts.SYSTEM_HEADERS)), *cuda_parts.headers_of(nvcc)]
            )
            links |= {
                f"include/{path.name}": path
                for folder in headers
                for path in folder.glob(f"{part.libraries[0]}*.h")
            }
    home = nvcc if nvcc == cuda_parts.DEBIANS else cuda_parts.home_of(nvcc)
    others = "PyPI's wheels" if wheels else "the system's libraries"
    return _of_cudnn_9(cache, f"{home} and {others}", release, os.path.realpath(nvcc), parts, links)


def _of_cudnn_9(
    cache: Path,
    source: str,
    release: tuple[int, int],
    nvcc: str,
    parts: list[Part],
    links: dict[str, Path],
) -> Toolkit:
    """What Jittor wants otherwise than CUDA 12 and 13 with cuDNN 9 have it, on top of `links`."""
    if "include/cccl" in links:  # Jittor's sources say <cub/...>
        links |= {f"include/{path.name}": path for path in links["include/cccl"].iterdir()}
    for old, new in OLD_CUDNN.items():
        links[f"lib64/libcudnn_{old}.so"] = links[f"lib64/libcudnn_{new}.so"]
    functions = "".join(
        f"template <class... T> cudnnStatus_t {name}(T...) "
        "{ return CUDNN_STATUS_NOT_SUPPORTED; }\n"
        for name in OLD_RNN
    )
    name = f"{release[0]}.{release[1]}"
    files = {
        "bin/nvcc": NVCC_9.format(
            release=name, nvcc=nvcc, standard=CPP_17 if release[0] > 12 else ""
        ),
        "include/cudnn.h": CUDNN_H.format(header=links.pop("include/cudnn.h"), functions=functions),
    }
    if release[0] > 12:
        header = links.pop("include/cuda_runtime.h", Path("/usr/include/cuda_runtime.h"))
        files["include/cuda_runtime.h"] = CUDA_RUNTIME_H.format(header=header)
    if "include/npp.h" not in links:
        files["include/npp.h"] = NPP_H
    cudnn = next(part.version for part in parts if part.name == cuda_parts.CUDNN.name)
    return _assemble(
        cache,
        f"CUDA {name} put together from {source}, cuDNN {cudnn}",
        {part.wheel or part.name: part.version for part in parts},
        links,
        files,
        parts,
    )


def complete(nvcc: str, wheel: str, version: str, cache: Path) -> Toolkit:
    """A CUDA 11 or 12 toolkit of the system with the cuDNN 8 of a wheel."""
    if nvcc == cuda_parts.DEBIANS:
        links = {
            f"lib64/{path.name}": path
            for pattern in ("libcu*.so*", "libnv*.so*")
            for path in Path(cuda_parts.SYSTEM_LIBRARIES).glob(pattern)
        }
        links["nvvm"] = Path(cuda_parts.DEBIANS_COMPILER)
    else:
        home = Path(os.path.realpath(nvcc)).parent.parent
        links = {
            path.name: path
            for path in home.iterdir()
            if path.name not in ("bin", "include", "lib64")
        }
        links |= {f"lib64/{path.name}": path for path in (home / "lib64").iterdir()}
        links |= {f"include/{path.name}": path for path in (home / "include").iterdir()}
    links |= _links_to(*_roots((wheel,), "cudnn"))
    release = ".".join(map(str, cuda_version(nvcc)))
    return _assemble(
        cache,
        f"the system's toolkit of {nvcc} (CUDA {release}), completed with cuDNN {version} of "
        f"{wheel}",
        {wheel: version, "nvcc": release},
        links,
        {"bin/nvcc": NVCC.format(nvcc=os.path.realpath(nvcc))},
    )


def _links_to(*roots: Path) -> dict[str, Path]:
    """{place in the toolkit: file of a wheel}: headers and libraries."""
    links = {}
    for root in roots:
        links |= {f"include/{path.name}": path for path in (root / "include").glob("*")}
        links |= _libraries(root / "lib", "*")
    return links


def _libraries(folder: Path, *patterns: str) -> dict[str, Path]:
    """{place in the toolkit: library}, by their names with and without the version."""
    links = {f"lib64/{path.name}": path for name in patterns for path in folder.glob(f"{name}.a")}
    found = [path for name in patterns for path in folder.glob(f"{name}.so*")]
    for path in sorted(found, key=lambda path: len(path.name)):
        links[f"lib64/{path.name}"] = path
        links.setdefault(f"lib64/{path.name.partition('.so')[0]}.so", path)
    return links


def _assemble(
    cache: Path,
    what: str,
    versions: dict,
    links: dict[str, Path],
    files: dict[str, str],
    parts: Iterable[Part] = (),
) -> Toolkit:
    """Make the folder unless it is there. Its name follows from all that is in it, so it never
    changes once made."""
    content = json.dumps(
        [versions, {name: str(path) for name, path in links.items()}, files], sort_keys=True
    )
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
        about = dict(what=what, versions=versions, parts=[asdict(part) for part in parts])
        (partial / MARK).write_text(json.dumps(about, indent=1))
        try:
            partial.rename(folder)
        except OSError:  # another process was faster
            shutil.rmtree(partial)
    return Toolkit(str(folder / "bin/nvcc"), what)


def assembled_from(nvcc: str) -> str:
    """What the toolkit of this nvcc was put together from, "" if it is not one of ours."""
    return _about(nvcc).get("what", "")


def parts_of(nvcc: str) -> list[Part]:
    """The parts that a toolkit of ours was put together from; none of one that is not."""
    return [Part(**part) for part in _about(nvcc).get("parts", [])]


def _about(nvcc: str) -> dict:
    try:
        return json.loads((Path(nvcc).parent.parent / MARK).read_text())
    except (OSError, ValueError):
        return {}
