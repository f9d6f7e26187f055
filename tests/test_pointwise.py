"""1x1 convolutions as matrix products against NumPy in float64. Which layers take them:
test_conv.py."""

import numpy as np
import pytest
from conftest import jt, same_with_any_number_of_threads

from kernels import pointwise

if jt.flags.use_cuda:
    pytest.skip("on a GPU cuDNN convolves", allow_module_level=True)

convolve = pointwise.convolution(jt)


@pytest.mark.parametrize(
    "n, channels, filters, height, width",
    [
        (2, 3, 5, 4, 6),
        (1, 1, 1, 1, 1),
        (7, 130, 257, 9, 11),
        (5, 600, 140, 3, 5),
        (3, 16, 300, 40, 41),
    ],
    ids=[
        "small",
        "one",
        "more than a block of filters",
        "more than a block of channels",
        "more than a block of pixels",
    ],
)
def test_the_three_results_are_those_of_the_sum(n, channels, filters, height, width):
    rng = np.random.default_rng(0)
    x, dy = (
        rng.standard_normal((n, count, height, width)).astype(np.float32)
        for count in (channels, filters)
    )
    w = (rng.standard_normal((filters, channels, 1, 1)) / channels**0.5).astype(np.float32)
    images, weight = jt.array(x), jt.array(w)
    y = convolve(images, weight)
    matrix = w[:, :, 0, 0].astype(np.float64)
    right = [
        np.einsum("kc,nchw->nkhw", matrix, x),
        np.einsum("kc,nkhw->nchw", matrix, dy),
        np.einsum("nkhw,nchw->kc", dy.astype(np.float64), x)[:, :, None, None],
    ]
    for name, value, exact in zip(
        ("y", "dx", "dw"), [y, *jt.grad((y * jt.array(dy)).sum(), [images, weight])], right
    ):
        assert list(value.shape) == list(exact.shape), name
        assert np.abs(value.numpy() - exact).max() < 3e-6 * np.abs(exact).max(), name


BITS = """
import hashlib, numpy as np, toolchain
jt = toolchain.start("cpu")
from kernels import pointwise
rng = np.random.default_rng(0)
shapes = (9, 70, 15, 15), (300, 70, 1, 1), (9, 300, 15, 15)
x, w, dy = (jt.array(rng.standard_normal(shape).astype(np.float32)) for shape in shapes)
y = pointwise.convolution(jt)(x, w)
found = [y, *jt.grad((y * dy).sum(), [x, w])]
if toolchain.kernels.conv.has_avx512(toolchain.cpu.onednn()):  # the same with channels last
    from jittor import nn
    from kernels import channels_last
    layer = nn.Conv(70, 300, 1, bias=False)
    layer.weight.assign(w)
    x, dy = (jt.array(v.numpy().transpose(0, 2, 3, 1).copy()) for v in (x, dy))
    y = channels_last.convolution(jt, toolchain.cpu.onednn())(x, layer)
    found += [y, *jt.grad((y * dy).sum(), [x, layer.weight])]
print(hashlib.sha256(b"".join(v.numpy().tobytes() for v in found)).hexdigest())
"""


def test_the_bits_do_not_depend_on_the_number_of_threads():
    assert same_with_any_number_of_threads(BITS)
