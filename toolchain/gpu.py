"""The NVIDIA driver and its GPUs, asked without a toolkit and without Jittor."""
import ctypes
import shutil

from toolchain.base import output


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


def gpu_name() -> str:
    return gpus()[0].partition(",")[0]
