"""The NVIDIA driver and its GPUs, asked without a toolkit and without Jittor."""
import ctypes
from dataclasses import dataclass

from system import processes

CAPABILITY = (75, 76)  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR and _MINOR


@dataclass(frozen=True)
class Card:
    name: str
    capability: tuple[int, int]
    memory: float  # GiB

    def __str__(self) -> str:
        major, minor = self.capability
        return f"{self.name}, {self.memory:.0f} GiB, compute capability {major}.{minor}"


def driver() -> tuple[tuple[int, int], int]:
    """((major, minor) of the newest CUDA the driver supports, number of GPUs); (0, 0) without a
    driver."""
    try:
        library = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return (0, 0), 0
    version = ctypes.c_int()
    count = ctypes.c_int()
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


def cards() -> list[Card]:
    """The GPUs that this process may use, as CUDA_VISIBLE_DEVICES has them; empty where the driver
    does not say."""
    _, count = driver()
    found = []
    for number in range(count):
        library = ctypes.CDLL("libcuda.so.1")
        handle = ctypes.c_int()
        name = ctypes.create_string_buffer(256)
        memory = ctypes.c_size_t()
        capability = [ctypes.c_int() for _ in CAPABILITY]
        failures = [
            library.cuDeviceGet(ctypes.byref(handle), number),
            library.cuDeviceGetName(name, 256, handle),
            library.cuDeviceTotalMem_v2(ctypes.byref(memory), handle),
        ]
        for part, attribute in zip(capability, CAPABILITY):
            failures.append(library.cuDeviceGetAttribute(ctypes.byref(part), attribute, handle))
        if any(failures):
            continue
        major, minor = (part.value for part in capability)
        label = name.value.decode(errors="replace")
        found.append(Card(label, (major, minor), memory.value / 2 ** 30))
    return found


def gpu_name() -> str:
    """The card that this process computes on: under mpirun each process of a machine has one."""
    found = cards()
    return found[processes.LOCAL_RANK % len(found)].name if found else "NVIDIA GPU"
