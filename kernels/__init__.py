"""Kernels for the CPU that are faster than Jittor's own, and the one place that puts them in.

    conv           which way each convolution goes: one of these three, or directly
    winograd       3x3 convolutions                        benchmarks/convolution.py
    pointwise      1x1 convolutions                        benchmarks/convolution.py
    depthwise      a filter for each channel               benchmarks/convolution.py
    relu           a gradient that g++ can vectorise       benchmarks/step.py
    norm           batch norms that learn                  benchmarks/step.py --against plain
    pooling        the maximum over windows, on all cores  benchmarks/step.py
    memory         freed memory is kept for the next       benchmarks/step.py
    bf16           factors rounded to bfloat16             benchmarks/step.py --precision bf16
    channels_last  images in that layout; networks that have them so: trunks/channels_last.py
    onednn         convolutions by oneDNN, for the last two

None of them starts Jittor: each is handed the module. The same input gives the same bits, whatever
the number of threads but for what goes through onednn.
"""
import ctypes
from types import ModuleType

from kernels import bf16, conv, memory, norm, relu


def install(jt: ModuleType, onednn: ctypes.CDLL | None, convolutions: str, precision: str) -> str:
    """Put them in. `onednn`: the library, whose symbols kernels can see; None where Jittor runs
    without it. `convolutions`: "winograd" or "direct"; `precision`: "fp32", or "bf16", in which
    all are direct. Returns which of the two convolutions are now."""
    memory.keep()
    relu.install(jt)
    norm.install(jt)
    if precision == "bf16":
        bf16.install(jt, onednn)
        return "direct"
    if onednn is None or convolutions == "direct":
        return "direct"
    conv.install(jt, onednn)
    return convolutions
