"""Start Jittor on this machine: the one package that knows about compilers, oneDNN and CUDA.

    import toolchain
    jt = toolchain.start()          # or start("cpu"), start("cuda"); the first call decides

Jittor compiles itself on its first import (a minute or two on two cores, then under a second) and
wants a few things that are easy to miss. `start` looks for them first and says in one sentence what
is missing:

* g++ and Python's headers; oneDNN, which Jittor would otherwise download from its own server, and
  without which a VGG-16 step on the CPU takes about 100 times as long: cpu.py.
* CUDA. With an nvcc but without a usable GPU Jittor aborts the process, so CPU or CUDA is chosen
  before the import, and each has a compile cache of its own. Which toolkit: cuda.py; its parts:
  cuda_parts.py; put together: cuda_folder.py.
* No other backend of Jittor's (ROCm, Ascend) unless it is asked for: backends.py.
* A faster CPU: kernels/, which `start` puts in. Compilation with a progress bar and in half the
  time: compiling.py. This year's Python and NumPy: mending.py. Several processes, and several runs
  on one machine: system/processes.py.

`python -m toolchain` is the doctor (doctor.py): what was found, what is missing and how to get it.

Whatever you set yourself in Jittor's environment variables (nvcc_path, cc_path, cache_name,
python_config_path, use_mkl, log_silent, log_v, JITTOR_HOME, ...) is kept.
"""
import os
import platform
import shutil
import signal
import sys
import threading
from types import ModuleType

import kernels
from system import processes
from toolchain import backends, compiling, cpu, cuda, gpu, mending
from toolchain.base import NEEDS_HOME, ToolchainError, cache_folder

DEVICES = ("auto", "cpu", "cuda")
# On CUDA: fp32 = IEEE single precision; tf32 = factors of convolutions rounded to 10 bits on the
# tensor cores; fp16 = factors of convolutions and linear layers rounded to half precision. On a
# CPU that has AVX-512 BF16 or AMX: fp32, and bf16 = these factors rounded to bfloat16. Sums and
# everything that is stored are float32 in each.
PRECISIONS = ("fp32", "tf32", "fp16", "bf16")
# On the CPU: direct is what Jittor asks oneDNN for; winograd takes what is faster by Winograd's
# algorithm (3x3) or a matrix product (1x1).
CONVOLUTIONS = ("winograd", "direct")

device: str | None = None  # "cpu" or "cuda" once Jittor runs: start sets all four, nobody else
why = ""  # this device, in one line
precision = "fp32"  # one of PRECISIONS
convolution = ""  # one of CONVOLUTIONS; "" on a GPU, where cuDNN decides

__all__ = [
    "CONVOLUTIONS",
    "DEVICES",
    "PRECISIONS",
    "PrecisionError",
    "ToolchainError",
    "cache_folder",
    "convolution",
    "describe",
    "device",
    "precision",
    "start",
    "why",
]


class PrecisionError(ToolchainError):
    """A precision that this device does not have."""


def start(
    wanted: str | None = None, multiply: str | None = None, convolutions: str = "winograd"
) -> ModuleType:
    """Prepare the environment, import Jittor and return it. Later calls return the same module.

    `wanted` is "auto" (CUDA where a GPU and a toolkit that Jittor can use are found, else the CPU),
    "cpu" or "cuda"; None keeps the device that already runs, or means "auto". `multiply`: one of
    PRECISIONS; None keeps the one that is, or means "fp32". `convolutions` (CONVOLUTIONS) counts on
    the CPU in fp32 only; the first call decides. Raises ToolchainError where something is missing,
    where "cuda" has no usable GPU, and where Jittor already runs on the other device; of these
    PrecisionError where it does, or would, not compute in that precision.
    """
    global device, why, convolution, precision
    if wanted not in (None, *DEVICES):
        raise ToolchainError(f"device {wanted!r} is unknown: choose one of {', '.join(DEVICES)}")
    if "jittor" in sys.modules:
        import jittor
        if device is None:  # the caller imported Jittor before us, and made these choices
            device = "cuda" if jittor.flags.use_cuda else "cpu"
        if wanted in ("cpu", "cuda") and wanted != device:
            raise ToolchainError(
                f"Jittor already runs on {device} in this process: start a new one for {wanted}")
        if multiply not in (None, precision):
            raise PrecisionError(f"--precision {multiply}: Jittor already computes in {precision} "
                                 "in this process: start a new one")
        return jittor

    try:
        toolkit = _prepare(wanted or "auto", multiply or "fp32")
    except OSError as error:
        raise ToolchainError(f"{error.filename}: {error.strerror}; {NEEDS_HOME}") from error
    handler = signal.getsignal(signal.SIGINT)
    jittor = compiling.import_jittor()
    sys.excepthook = compiling.excepthook
    cpu.compute_alone_in_forks()
    if threading.current_thread() is threading.main_thread():
        # Jittor's own ends the process before anyone can react.
        signal.signal(signal.SIGINT, handler)
    device = "cuda" if toolkit.nvcc else "cpu"
    why = toolkit.why
    precision = multiply or "fp32"
    if toolkit.nvcc:
        jittor.flags.use_cuda = 1
        # Batches are copied while the card computes. Jittor's default waits for the card before
        # each, and copies it three times.
        jittor.flags.use_cuda_host_allocator = 0
        jittor.flags.use_tensorcore = 3 if precision == "fp16" else 0
        # cuDNN's own choice of an algorithm is the same in every process; Jittor's timing of all of
        # them is not, and a task's logits would change by rounding from one run to the next.
        jittor.cudnn.set_algorithm_cache_size(0)
    else:
        onednn = cpu.onednn() if os.environ.get("use_mkl", "1") == "1" else None
        convolution = kernels.install(jittor, onednn, convolutions, precision)
    return jittor


def _prepare(wanted: str, precision: str) -> cuda.Toolkit:
    """Everything that Jittor's import reads from the environment. Returns what was chosen. Raises
    ToolchainError, OSError."""
    toolkit = cuda.for_device(wanted)
    cpu.check_compiler()
    cpu.check_paths()
    nvcc = os.environ["nvcc_path"] = toolkit.nvcc
    if "python_config_path" not in os.environ:
        os.environ["python_config_path"] = str(cpu.python_config())
    # Not the names of builds for one NumPy, or with other loops: both may be in use, from two
    # checkouts.
    cache = "packnet-cuda-any-numpy" if nvcc else "packnet-cpu-all-cores"
    os.environ.setdefault("cache_name", cache)
    os.environ.setdefault("log_silent", "1")
    # 1: where PyTorch is installed Jittor imports it, two seconds at every start.
    os.environ.setdefault("FIX_TORCH_ERROR", "0")
    for backend in backends.BACKENDS:
        os.environ.setdefault(backend.variable, "")
    if nvcc:
        cuda.set_environment(toolkit, precision)
    if not processes.in_mpi():
        # With an mpicc on the PATH Jittor would compile its part for nothing.
        os.environ.setdefault("use_mpi", "0")
    elif not shutil.which(os.environ.get("mpicc_path", "mpicc")):
        raise ToolchainError(
            "mpirun started this process, but Jittor compiles its part of MPI with mpicc, which "
            "was not found: `sudo apt install libopenmpi-dev` (Debian, Ubuntu)")
    if os.environ.get("use_mkl", "1") == "1":
        cpu.link_onednn()
    # By the user, or by a process of ours that has started this one.
    given = os.environ.get("cc_flags")
    if given is None:
        given = "" if nvcc else compiling.precompiled_header()
    for flags in (mending.numpy_flags(), mending.gcc_flags()):
        if flags not in given:
            given += f" {flags}"  # behind: a precompiled header counts only where it is the first
    os.environ["cc_flags"] = given
    processes.share_cores()
    _check_precision(precision, toolkit)  # behind: it may load oneDNN, which reads how to share
    mending.mend_imports()
    return toolkit


def _check_precision(precision: str, toolkit: cuda.Toolkit) -> None:
    """Raise PrecisionError where what was chosen does not compute in it."""
    if toolkit.nvcc:
        if precision == "bf16":
            raise PrecisionError("--precision bf16: is for the CPU (--device cpu); a GPU has tf32 "
                                 "and fp16")
    elif precision in ("tf32", "fp16"):
        raise PrecisionError(f"--precision {precision}: needs a GPU, and none can be used: "
                             f"{toolkit.why}")
    elif precision == "bf16" and not cpu.has_bf16():
        raise PrecisionError("--precision bf16: needs a processor with AVX-512 BF16 or AMX, and "
                             f"oneDNN; {cpu.cpu_name()} has neither, or may not use it. "
                             "--precision fp32 does on every one.")


def describe() -> str:
    """One line for the log: Jittor's version, what it runs on, and why on that."""
    import jittor
    if device == "cuda":
        where = gpu.gpu_name()
    else:
        where = f"{cpu.cpu_name()}, {processes.cores()} cores, {convolution} convolutions"
        if precision != "fp32":
            where += f" in {precision}"
    if jittor.in_mpi:
        where += f", {jittor.world_size} processes"
    return (f"Jittor {jittor.__version__} on {device} ({where}; {why}), "
            f"Python {platform.python_version()}")
