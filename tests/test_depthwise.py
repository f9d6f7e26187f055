"""Depthwise convolutions against NumPy in float64. Which layers take them: test_conv.py."""

import numpy as np
import pytest
from conftest import jt, same_with_any_number_of_threads

from kernels import depthwise

if jt.flags.use_cuda:
    pytest.skip("on a GPU cuDNN convolves", allow_module_level=True)

convolve = depthwise.convolution(jt)


def sums(x, w, dy, stride, padding):
    """(y, dx, dw) as float64, tap by tap."""
    n, channels, height, width = x.shape
    (high, wide), (kh, kw) = dy.shape[2:], w.shape[2:]
    x, w, dy = (array.astype(np.float64) for array in (x, w, dy))
    padded = np.pad(x, ((0, 0), (0, 0), *((pad, pad) for pad in padding)))
    y, dpadded, dw = np.zeros_like(dy), np.zeros_like(padded), np.zeros_like(w)
    for i in range(kh):
        for j in range(kw):
            seen = np.s_[
                :, :, i : i + stride[0] * high : stride[0], j : j + stride[1] * wide : stride[1]
            ]
            tap = w[:, 0, i, j][None, :, None, None]
            y += tap * padded[seen]
            dpadded[seen] += tap * dy
            dw[:, 0, i, j] = (padded[seen] * dy).sum((0, 2, 3))
    inside = np.s_[:, :, padding[0] : padding[0] + height, padding[1] : padding[1] + width]
    return y, dpadded[inside], dw


@pytest.mark.parametrize(
    "kernel, stride, padding",
    [
        ((3, 3), (1, 1), (1, 1)),
        ((3, 3), (2, 2), (1, 1)),
        ((2, 5), (3, 2), (0, 3)),
    ],
    ids=str,
)
def test_the_three_results_are_those_of_the_sum(kernel, stride, padding):
    rng = np.random.default_rng(0)
    for n, channels, height, width in ((2, 3, 9, 11), (1, 5, 40, 37), (3, 1, 5, 18)):
        sides = [
            (side + 2 * pad - length) // step + 1
            for side, pad, length, step in zip((height, width), padding, kernel, stride)
        ]
        x = rng.standard_normal((n, channels, height, width)).astype(np.float32)
        w = rng.standard_normal((channels, 1, *kernel)).astype(np.float32)
        dy = rng.standard_normal((n, channels, *sides)).astype(np.float32)
        images, weight = jt.array(x), jt.array(w)
        y = convolve(images, weight, stride, padding)
        found = [y, *jt.grad((y * jt.array(dy)).sum(), [images, weight])]
        for name, value, exact in zip(("y", "dx", "dw"), found, sums(x, w, dy, stride, padding)):
            assert list(value.shape) == list(exact.shape), name
            assert np.abs(value.numpy() - exact).max() < 3e-6 * np.abs(exact).max(), name


BITS = """
import hashlib, numpy as np, toolchain
jt = toolchain.start("cpu")
from kernels import depthwise
rng = np.random.default_rng(0)
x, w, dy = (jt.array(rng.standard_normal(shape).astype(np.float32))
            for shape in ((9, 7, 33, 40), (7, 1, 3, 3), (9, 7, 17, 20)))
y = depthwise.convolution(jt)(x, w, (2, 2), (1, 1))
found = [y, *jt.grad((y * dy).sum(), [x, w])]
print(hashlib.sha256(b"".join(v.numpy().tobytes() for v in found)).hexdigest())
"""


def test_the_bits_do_not_depend_on_the_number_of_threads():
    assert same_with_any_number_of_threads(BITS)
