"""Kernels for the CPU that are faster than Jittor's own, and the one place that puts them in.

    conv        which way each convolution goes: one of these three, or directly
    winograd    3x3 convolutions                        benchmarks/convolution.py
    pointwise   1x1 convolutions                        benchmarks/convolution.py
    depthwise   a filter for each channel               benchmarks/convolution.py
    relu        a gradient that g++ can vectorise       benchmarks/step.py
    pooling     the maximum over windows, on all cores  benchmarks/step.py
    memory      freed memory is kept for the next       benchmarks/step.py

None of them starts Jittor: each is handed the module. The same input gives the same bits, whatever
the number of threads.
"""
import ctypes
from types import ModuleType

from kernels import conv, memory, relu


def install(jt: ModuleType, onednn: ctypes.CDLL | None, convolutions: str) -> str:
    """Put them in. `onednn`: the library, whose symbols kernels can see; None where Jittor runs
    without it. `convolutions`: "winograd" or "direct". Returns which of the two it is now."""
    memory.keep()
    relu.install(jt)
    if onednn is None or convolutions == "direct":
        return "direct"
    conv.install(jt, onednn)
    return convolutions
