"""The parts of a CUDA toolkit: which of them this machine has, where, and the command that gets
one that is missing. Needs neither Jittor nor a GPU.

The compiler's parts come from the toolkit of an nvcc, or all of them from NVIDIA's wheels; beside
an nvcc of the system its headers may be a wheel's of the same release. The libraries come from that
toolkit where it has all of them, else from wheels first (PyTorch brings them), then from the
toolkit. cuDNN and NCCL come from wheels first: their names say for which CUDA they are.
"""

import glob
import importlib.metadata
import os
import re
import subprocess
from dataclasses import dataclass, replace
from pathlib import Path

from toolchain.base import output

SYSTEM_LIBRARIES = "/usr/lib/x86_64-linux-gnu"
SYSTEM_HEADERS = ("/usr/include", "/usr/include/x86_64-linux-gnu")
DEBIANS = "/usr/bin/nvcc"  # Debian's package spreads its toolkit over /usr, and Jittor knows that
DEBIANS_COMPILER = "/usr/lib/nvidia-cuda-toolkit"
TARGET = "targets/x86_64-linux"


@dataclass(frozen=True)
class Kind:
    """What a part is: its wheel for CUDA 13 and CUDA 12, the folder of the latter, and the files by
    which it is known below include/ and lib/."""

    name: str
    wheels: dict[int, str]
    folder_of_12: str
    header: str = ""
    libraries: tuple[str, ...] = ()
    number: dict[int, int] | None = None  # by CUDA's: that of the library, and of its wheel


@dataclass(frozen=True)
class Part:
    """A part that was found; or `mend`, the package that has it, where it was not."""

    name: str
    version: str = ""
    where: str = ""
    mend: str = ""
    wheel: str = ""  # "" for one of the system's
    folder_of_12: str = ""
    libraries: tuple[str, ...] = ()

    def __str__(self) -> str:
        if self.where:
            return f"{self.version}, {self.where}"
        return f"missing: `pip install {self.mend}`" if self.wheel else f"missing: {self.mend}"


def _library(name: str, wheel: str, header: str, of_12: int, of_13: int) -> Kind:
    wheels = {13: f"nvidia-{wheel}", 12: f"nvidia-{wheel}-cu12"}
    library = {"nvjitlink": "nvJitLink", "cuda-nvrtc": "nvrtc"}.get(wheel, wheel)
    return Kind(name, wheels, wheel.replace("-", "_"), header, (library,), {12: of_12, 13: of_13})


NVCC = Kind("nvcc", {13: "nvidia-cuda-nvcc"}, "")
NVVM = Kind("nvvm", {13: "nvidia-nvvm"}, "")
CRT = Kind(
    "crt", {13: "nvidia-cuda-crt", 12: "nvidia-cuda-nvcc-cu12"}, "cuda_nvcc", "crt/host_config.h"
)
CCCL = Kind(
    "CCCL", {13: "nvidia-cuda-cccl", 12: "nvidia-cuda-cccl-cu12"}, "cuda_cccl", "cub/cub.cuh"
)
RUNTIME = Kind(
    "runtime",
    {13: "nvidia-cuda-runtime", 12: "nvidia-cuda-runtime-cu12"},
    "cuda_runtime",
    "cuda_runtime.h",
    ("cudart",),
    {12: 12, 13: 13},
)
COMPILER = (NVCC, CRT, NVVM, CCCL, RUNTIME)
TOOLKITS = (
    _library("nvrtc", "cuda-nvrtc", "", 12, 13),
    _library("cuBLAS", "cublas", "cublas_v2.h", 12, 13),
    _library("cuRAND", "curand", "curand.h", 10, 10),
    _library("cuFFT", "cufft", "cufft.h", 11, 12),
    _library("cuSPARSE", "cusparse", "cusparse.h", 12, 12),
    _library("nvJitLink", "nvjitlink", "", 12, 13),
)
CUDNN = Kind(
    "cuDNN",
    {13: "nvidia-cudnn-cu13", 12: "nvidia-cudnn-cu12"},
    "cudnn",
    "cudnn.h",
    ("cudnn", "cudnn_ops", "cudnn_cnn"),
    {12: 9, 13: 9},
)
# For several GPUs only.
NCCL = Kind(
    "NCCL",
    {13: "nvidia-nccl-cu13", 12: "nvidia-nccl-cu12"},
    "nccl",
    "nccl.h",
    ("nccl",),
    {12: 2, 13: 2},
)
LIBRARIES = (*TOOLKITS, CUDNN)


def version(wheel: str) -> str:
    """The version that is installed of this wheel, "" for none."""
    try:
        return importlib.metadata.version(wheel)
    except importlib.metadata.PackageNotFoundError:
        return ""


def cuda_version(nvcc: str) -> tuple[int, int]:
    """The release that this nvcc is of, (0, 0) where it does not say."""
    match = re.search(r"release (\d+)\.(\d+)", output([nvcc, "--version"]))
    return (int(match[1]), int(match[2])) if match else (0, 0)


def program(nvcc: str) -> str:
    """The nvcc itself. What is found on the PATH may be a script that calls another, and that one's
    folder is the toolkit."""
    try:
        said = subprocess.run(
            [nvcc, "--dryrun", "-c", "none.cu"], capture_output=True, text=True, timeout=60
        ).stderr
    except (OSError, subprocess.SubprocessError):
        return nvcc
    here = re.search(r"_HERE_=(.+)", said)
    found = os.path.join(here[1], "nvcc") if here else ""
    if not os.access(found, os.X_OK) or found.startswith(f"{DEBIANS_COMPILER}/"):
        return nvcc
    return nvcc if os.path.samefile(found, nvcc) and nvcc != DEBIANS else found


def home_of(nvcc: str) -> Path:
    return Path(os.path.realpath(nvcc)).parent.parent


def headers_of(nvcc: str) -> list[Path]:
    """The folders with the headers of this nvcc's toolkit, each once."""
    if nvcc == DEBIANS:
        return [Path("/usr/include")]
    return _folders(home_of(nvcc), f"{TARGET}/include", "include")


def libraries_of(nvcc: str) -> list[Path]:
    if nvcc == DEBIANS:
        return [Path(SYSTEM_LIBRARIES)]
    return _folders(home_of(nvcc), f"{TARGET}/lib", "lib64", "lib")


def _folders(home: Path, *names: str) -> list[Path]:
    return list(dict.fromkeys((home / name).resolve() for name in names if (home / name).is_dir()))


def find(nvcc: str, release: tuple[int, int]) -> list[Part]:
    """All parts for CUDA `release` (12.x or 13.x), NCCL last. `nvcc`: the system's, to whose
    toolkit the compiler's parts belong; "" for wheels alone."""
    headers = headers_of(nvcc) if nvcc else []
    libraries = libraries_of(nvcc) if nvcc else []
    own = [_systems(kind, release, headers, libraries) for kind in TOOLKITS]
    if not all(own):
        own = [_wheels(kind, release) or mine for kind, mine in zip(TOOLKITS, own)]
    headers = [*headers, *map(Path, SYSTEM_HEADERS)]
    libraries = [*libraries, Path(SYSTEM_LIBRARIES)]
    rest = [
        _wheels(kind, release) or _systems(kind, release, headers, libraries)
        for kind in (CUDNN, NCCL)
    ]
    kinds = (*COMPILER, *TOOLKITS, CUDNN, NCCL)
    found = [*(_compilers(kind, nvcc, release) for kind in COMPILER), *own, *rest]
    return [part or _missing(kind, nvcc, release) for kind, part in zip(kinds, found)]


def missing(parts: list[Part]) -> list[Part]:
    return [part for part in parts if part.mend and part.name != NCCL.name]


def command(parts: list[Part]) -> str:
    """What gets the parts of these that are missing: one command for all that are packages."""
    packages = " ".join(part.mend for part in missing(parts) if part.wheel)
    steps = [part.mend for part in missing(parts) if not part.wheel]
    if packages:
        steps.append(f"`pip install {packages}`")
    return "; ".join(steps)


def _compilers(kind: Kind, nvcc: str, release: tuple[int, int]) -> Part | None:
    """A part of the compiler, which is of nvcc's own release."""
    name = f"{release[0]}.{release[1]}"
    if nvcc:
        home = Path(DEBIANS_COMPILER) if nvcc == DEBIANS else home_of(nvcc)
        if kind is NVCC:
            build = re.search(r"V([\d.]+)", output([nvcc, "--version"]))
            return Part(kind.name, build[1] if build else name, str(home))
        if kind is NVVM:
            there = any((home / folder / "cicc").exists() for folder in ("nvvm/bin", "bin"))
            return Part(kind.name, name, str(home)) if there else None
        if part := _systems(kind, release, headers_of(nvcc), libraries_of(nvcc)):
            return replace(part, version=part.version if "." in part.version else name)
    return _wheels(kind, release, name)


def _systems(
    kind: Kind, release: tuple[int, int], headers: list[Path], libraries: list[Path]
) -> Part | None:
    beside = [
        folder
        for folder in headers
        if not kind.header or any((folder / more / kind.header).exists() for more in ("", "cccl"))
    ]
    number = kind.number[release[0]] if kind.number else ""
    for folder in libraries if kind.libraries else beside:
        files = [_numbered(folder, library, number) for library in kind.libraries]
        if beside and all(files):
            said = os.path.realpath(files[0]).partition(".so.")[2] if files else ""
            return Part(
                kind.name,
                said or f"{release[0]}.{release[1]}",
                str(folder),
                libraries=kind.libraries,
            )
    return None


def _numbered(folder: Path, library: str, number: int) -> str:
    """The file of this library with this number, "" if there is none."""
    found = glob.glob(f"{glob.escape(str(folder))}/lib{library}.so.{number}*")
    exact = [path for path in found if re.search(rf"\.so\.{number}(\.|$)", path)]
    return min(exact, key=len, default="")


def _wheels(kind: Kind, release: tuple[int, int], exact: str = "") -> Part | None:
    """As a wheel: of the release `exact`, or with the number that belongs to this CUDA."""
    wheel = kind.wheels.get(release[0], "")
    said = version(wheel) if wheel else ""
    wanted = exact or str(kind.number[release[0]])
    if not said.startswith(f"{wanted}."):
        return None
    return Part(kind.name, said, f"wheel {wheel}", "", wheel, kind.folder_of_12, kind.libraries)


def _missing(kind: Kind, nvcc: str, release: tuple[int, int]) -> Part:
    wheel = kind.wheels.get(release[0], "")
    if nvcc and kind is NVVM or not wheel:
        return Part(kind.name, mend=f"{kind.name} is not beside {nvcc}: install that toolkit anew")
    if kind in COMPILER:
        return Part(kind.name, mend=f'"{wheel}=={release[0]}.{release[1]}.*"', wheel=wheel)
    if kind is CUDNN:
        return Part(kind.name, mend=f'"{wheel}==9.*"', wheel=wheel)
    return Part(kind.name, mend=wheel, wheel=wheel)
