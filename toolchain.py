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
  import, and each has a compile cache of its own.

Whatever you set yourself in Jittor's environment variables (nvcc_path, cc_path, cache_name,
python_config_path, use_mkl, log_silent, log_v, JITTOR_HOME, ...) is kept.
"""
import ctypes
import glob
import hashlib
import importlib.metadata
import json
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import sysconfig
import threading
from pathlib import Path
from types import ModuleType

import numpy as np
from tqdm import tqdm

from files import replacing

DEVICES = ("auto", "cpu", "cuda")

# Where Jittor 1.3.11 looks before it downloads oneDNN (jittor/compile_extern.py, install_mkl).
ONEDNN_FOLDER = "dnnl_lnx_2.2.0_cpu_gomp"

device: str | None = None  # "cpu" or "cuda" once Jittor runs


class ToolchainError(RuntimeError):
    """Something Jittor needs is missing. The message is one or two lines that say what to do."""


def start(wanted: str | None = None) -> ModuleType:
    """Prepare the environment, import Jittor and return it. Later calls return the same module.

    `wanted` is "auto" (CUDA where a GPU and a toolkit that Jittor supports are found, else the CPU), "cpu" or
    "cuda"; None keeps the device that already runs, or means "auto". Raises ToolchainError where something is
    missing, where "cuda" has no usable GPU, and where Jittor already runs on the other device.
    """
    global device
    if wanted not in (None, *DEVICES):
        raise ToolchainError(f"device {wanted!r} is unknown: choose one of {', '.join(DEVICES)}")
    if "jittor" in sys.modules:
        import jittor
        if device is None:  # the caller imported Jittor before us, and made these choices
            device = "cuda" if jittor.flags.use_cuda else "cpu"
        if wanted in ("cpu", "cuda") and wanted != device:
            raise ToolchainError(f"Jittor already runs on {device} in this process: start a new one for {wanted}")
        return jittor

    nvcc = _choose_nvcc(wanted or "auto")
    _check_compiler()
    os.environ["nvcc_path"] = nvcc
    if "python_config_path" not in os.environ:
        os.environ["python_config_path"] = str(_python_config())
    os.environ.setdefault("cache_name", "packnet-cuda" if nvcc else "packnet-cpu")
    os.environ.setdefault("log_silent", "1")
    if nvcc:
        for part in ("use_cutt", "use_cutlass", "use_nccl"):  # each is a download, none is used here
            os.environ.setdefault(part, "0")
    if os.environ.get("use_mkl", "1") == "1":
        _link_onednn()
    handler = signal.getsignal(signal.SIGINT)
    jittor = _import_jittor()
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, handler)  # Jittor's own ends the process on Ctrl-C before anyone can react
    device = "cuda" if nvcc else "cpu"
    jittor.flags.use_cuda = int(device == "cuda")
    return jittor


def cache_folder() -> Path:
    """This project's folder in the user's cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "packnet-jittor"


def describe() -> str:
    """One line for the log: Jittor's version and what it runs on."""
    import jittor
    where = gpu_name() if device == "cuda" else f"{cpu_name()}, {len(os.sched_getaffinity(0))} cores"
    return f"Jittor {jittor.__version__} on {device} ({where}), Python {platform.python_version()}"


# ------------------------------------------------------------------------------------------------ CPU or CUDA

def _choose_nvcc(wanted: str) -> str:
    """The nvcc Jittor is to use, "" for the CPU."""
    if wanted == "cpu":
        return ""
    problem = gpu_problem()
    nvcc = ""
    if not problem:
        nvcc, problem = find_nvcc()
    if problem and wanted == "cuda":
        raise ToolchainError(f"--device cuda cannot be used: {problem}. Use --device cpu, or auto.")
    return "" if problem else nvcc


def gpu_problem() -> str:
    """Why no CUDA GPU can be used, "" if one can. Asks the driver, so it needs no toolkit."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return "no NVIDIA driver is installed (libcuda.so.1 not found)"
    count = ctypes.c_int()
    if driver.cuInit(0) != 0 or driver.cuDeviceGetCount(ctypes.byref(count)) != 0 or count.value == 0:
        return "the NVIDIA driver reports no usable GPU (see nvidia-smi)"
    return ""


def find_nvcc() -> tuple[str, str]:
    """(nvcc, "") for a CUDA toolkit that Jittor 1.3.11 can use, else ("", why not)."""
    if "nvcc_path" in os.environ:
        candidates = [os.environ["nvcc_path"]]
        if not candidates[0]:
            return "", "nvcc_path is set to nothing in the environment"
    else:
        candidates = [shutil.which("nvcc"), "/usr/local/cuda/bin/nvcc", "/opt/cuda/bin/nvcc"]
    problems = [toolkit_problem(nvcc) for nvcc in filter(None, candidates)]
    for nvcc, problem in zip(filter(None, candidates), problems):
        if not problem:
            return nvcc, ""
    return "", problems[0]


def toolkit_problem(nvcc: str) -> str:
    """Why Jittor 1.3.11 cannot use the CUDA toolkit of this nvcc, "" if it can: it wants CUDA 11 or 12, cuDNN 8."""
    if not os.access(nvcc, os.X_OK):
        return f"no CUDA toolkit found ({nvcc} is no program)"
    system = "/usr/lib/x86_64-linux-gnu"
    lib = system if nvcc == "/usr/bin/nvcc" else os.path.join(os.path.dirname(os.path.realpath(nvcc)), "../lib64")
    if not os.path.exists(os.path.join(lib, "libcudart.so")):
        return f"{nvcc} has no CUDA runtime beside it (libcudart.so not found in {os.path.normpath(lib)})"
    version = re.search(r"release (\d+)\.", _output([nvcc, "--version"]))
    if not version or version[1] not in ("11", "12"):
        return f"Jittor 1.3.11 wants a CUDA 11 or 12 toolkit, {nvcc} is CUDA {version[1] if version else 'unknown'}"
    folders = [lib, os.path.join(lib, "../targets/x86_64-linux/lib"), system, "/usr/lib"]
    if not any(glob.glob(os.path.join(folder, "libcudnn_ops_infer.so*")) for folder in folders):
        return f"cuDNN 8 is missing from the CUDA toolkit of {nvcc} (libcudnn_ops_infer.so not found)"
    return ""


def gpu_name() -> str:
    if not shutil.which("nvidia-smi"):
        return "NVIDIA GPU"
    return _output(["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]).partition("\n")[0]


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


def _output(command: list[str]) -> str:
    return subprocess.run(command, capture_output=True, text=True, timeout=60).stdout
