"""What Jittor needs of every machine, with a GPU or without: g++, Python's headers, oneDNN; found,
or named in one sentence."""
import ctypes
import hashlib
import importlib.metadata
import importlib.util
import os
import platform
import shutil
import sys
import sysconfig
from pathlib import Path

import numpy as np

from kernels import bf16
from system import INSTALL
from system.files import replacing
from toolchain.base import (
    ToolchainError,
    cache_folder,
    compiler,
    gcc_version,
    jittor_home,
    make_folder,
    output,
)

# Where Jittor 1.3.11 looks before it downloads oneDNN (jittor/compile_extern.py, install_mkl).
ONEDNN_FOLDER = "dnnl_lnx_2.2.0_cpu_gomp"

OLDEST_GCC = 9


def cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:  # some containers hide it
        lines = []
    names = (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())


def check_compiler() -> None:
    """Raise ToolchainError where the system or its compiler is none that Jittor can use."""
    if platform.system() != "Linux" or platform.machine() != "x86_64":
        raise ToolchainError(
            f"this project runs on Linux x86-64; this is {platform.system()} {platform.machine()}")
    if not shutil.which(compiler()):
        raise ToolchainError(
            f"the C++ compiler {compiler()} was not found: install it with `sudo apt install g++` "
            "(Debian, Ubuntu) or `sudo dnf install gcc-c++` (Fedora, RHEL)")
    if "clang" in output([compiler(), "--version"]):
        raise ToolchainError(
            f"the C++ compiler {compiler()} is clang, and Jittor is compiled by GCC's g++ here: "
            "name one in cc_path (`export cc_path=g++`)")
    if 0 < gcc_version() < OLDEST_GCC:
        raise ToolchainError(
            f"the C++ compiler {compiler()} is GCC {gcc_version()}, and Jittor's sources want "
            f"{OLDEST_GCC} or newer: install one, and name it in cc_path "
            "(`export cc_path=g++-12`)")
    if sysconfig.get_config_var("Py_GIL_DISABLED"):
        raise ToolchainError(
            f"{sys.executable} is a free-threaded Python, for which Jittor is not made: use the "
            f"ordinary Python {sys.version_info.major}.{sys.version_info.minor}")


# What the shell, the linker's list of folders (-Wl,-rpath,) or Jittor's own parser of a quoted path
# would take for something else.
UNUSABLE = "\"'$`\\,:\n\t"


def check_paths() -> None:
    """Raise ToolchainError where the path of something that Jittor compiles with, or into, is none
    for its command lines. A space is no harm, nor are Chinese characters."""
    jittor = importlib.util.find_spec("jittor")
    for what, path, advice in (
            ("this project's cache", cache_folder(), "set XDG_CACHE_HOME to another folder"),
            ("Jittor's cache", jittor_home(), "set JITTOR_HOME to another folder"),
            ("this Python", sys.executable, "make its environment in another folder"),
            ("Jittor", jittor and jittor.origin, "make its environment in another folder"),
            ("Python's headers", sysconfig.get_path("include"), "use a Python in another folder"),
            ("the C++ compiler", compiler(), "name one in another folder in cc_path")):
        if bad := [repr(character) for character in UNUSABLE if character in str(path)]:
            raise ToolchainError(f"{what}: the path {path} has a character ({' '.join(bad)}) that "
                                 f"Jittor's command lines cannot take: {advice}")


def python_config() -> Path:
    """A script that answers Jittor's two questions (headers, suffix of extensions) for the running
    Python.

    Jittor looks for a python3.x-config and finds the wrong one, or none, for a Python that is not
    the system's.
    """
    include = sysconfig.get_path("include")
    if not os.path.exists(os.path.join(include, "Python.h")):
        python = f"python{sys.version_info.major}.{sys.version_info.minor}"
        raise ToolchainError(
            f"Python's headers were not found (no Python.h in {include}): install them with "
            f"`sudo apt install {python}-dev` (Debian, Ubuntu) or "
            f"`sudo dnf install {python}-devel`")
    folders = [f'"{folder}"' if " " in folder else folder
               for folder in (include, sysconfig.get_path("platinclude"))]
    text = ('#!/bin/sh\n'
            f'# Written by toolchain/{os.path.basename(__file__)}: '
            f'stands in for python-config of {sys.executable}\n'
            'case "$1" in\n'
            f"--includes) echo '-I{folders[0]} -I{folders[1]}' ;;\n"
            f'--extension-suffix) echo "{sysconfig.get_config_var("EXT_SUFFIX")}" ;;\n'
            '*) echo "not known here: $1" >&2; exit 1 ;;\n'
            'esac\n')
    script = cache_folder() / f"python-config-{hashlib.sha256(text.encode()).hexdigest()[:12]}"
    if not script.exists():
        make_folder(script.parent)
        with replacing(script) as temporary:
            temporary.write_text(text)
            temporary.chmod(0o755)
    return script


def onednn_folder() -> Path:
    """Where Jittor finds oneDNN: its include/ and lib/."""
    return jittor_home() / ".cache" / "jittor" / "mkl" / ONEDNN_FOLDER


def onednn() -> ctypes.CDLL:
    """The library; from now on kernels find SGEMM in it."""
    return ctypes.CDLL(str(onednn_folder() / "lib" / "libmkldnn.so"), ctypes.RTLD_GLOBAL)


def has_bf16() -> bool:
    """Whether this processor multiplies in bfloat16, and oneDNN is there to have it do so."""
    return os.environ.get("use_mkl", "1") == "1" and bf16.supported(onednn())


def link_onednn() -> None:
    """Put links to the oneDNN of the PyPI wheels where Jittor looks before it downloads."""
    folder = onednn_folder()
    if (folder / "lib" / "libmkldnn.so").exists() and (folder / "include" / "dnnl.hpp").exists():
        return  # Jittor's own download, or links that still lead somewhere
    library = _file_of_wheel("onednn-cpu-gomp", "libdnnl.so")
    header = _file_of_wheel("onednn-devel-cpu-gomp", "dnnl.hpp")
    soname = _soname(library)
    make_folder(folder / "lib")
    for link, target in (
            (folder / "include", header.parent),
            (folder / "lib" / "libmkldnn.so", library),
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
                         f"run `{INSTALL}`")


def _soname(library: Path) -> str:
    """The name the dynamic linker will ask for, as in libdnnl.so.2."""
    versions = sorted(library.parent.glob(library.name + ".*"), key=lambda path: len(path.name))
    return versions[0].name if versions else library.name


def flush_denormals() -> None:
    """Make the processor treat denormal floats as 0, in this thread and those it starts.

    Jittor's kernels are built with -Ofast, and loading one switches this on for the thread that
    loads it: which one that is depends on what was compiled before. Switched on here, two runs
    agree to the bit.
    """
    for kind in (np.float32, np.float64):
        np.finfo(kind)  # NumPy looks these up once, and would warn afterwards
    libm = ctypes.CDLL("libm.so.6")
    environment = ctypes.create_string_buffer(32)
    libm.fegetenv(environment)
    mxcsr = int.from_bytes(environment[28:32], "little")
    mxcsr |= 0x8040  # flush to zero, denormals are zero
    environment[28:32] = mxcsr.to_bytes(4, "little")
    libm.fesetenv(environment)


def compute_alone_in_forks() -> None:
    """Let a process that is forked from this one, such as a worker of Jittor's data sets, compute
    on one core: the threads of GCC's OpenMP are not in it, and it would wait for them for ever."""
    openmp = ctypes.CDLL("libgomp.so.1")
    os.register_at_fork(after_in_child=lambda: openmp.omp_set_num_threads(1))
