"""Freed memory is kept by the C library for whoever asks next, instead of going back to the system.

Jittor's oneDNN operators allocate every tensor that they rearrange afresh, and the first touch of a
page that the system has just given costs more than the copying: at batch 32 a quarter of a step of
ResNet-50 or DenseNet-121 (benchmarks/step.py).
"""
import ctypes
import os

# With these, or with GLIBC_TUNABLES, the user decides.
USERS = ("MALLOC_MMAP_MAX_", "MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_", "MALLOC_TOP_PAD_")
MMAP_MAX, TRIM_THRESHOLD = -4, -1  # M_MMAP_MAX, M_TRIM_THRESHOLD of malloc.h


def keep() -> None:
    """From now on, unless the user has set how memory is handled."""
    tunables = os.environ.get("GLIBC_TUNABLES", "")
    if "glibc.malloc." in tunables or any(name in os.environ for name in USERS):
        return
    libc = ctypes.CDLL("libc.so.6")
    libc.mallopt(MMAP_MAX, 0)
    libc.mallopt(TRIM_THRESHOLD, -1)
