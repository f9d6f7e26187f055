"""Batch norms that learn: sums, outputs, gradients and statistics against NumPy in float64."""

import numpy as np
import pytest
from conftest import jt, same_with_any_number_of_threads
from jittor import nn

from kernels import norm

if jt.flags.use_cuda:
    pytest.skip("on a GPU Jittor's own norms learn", allow_module_level=True)

SHAPES = pytest.mark.parametrize(
    "shape, channels",
    [((3, 20, 30, 29), 1), ((3, 30, 29, 20), 3), ((2, 3, 4, 5), 1), ((3, 5, 2, 7), 3)],
)


def close(found, exact, bound=3e-6):
    assert list(found.shape) == list(exact.shape)
    assert np.abs(found.numpy() - exact).max() < bound * np.abs(exact).max()


@SHAPES
def test_a_norm_does_what_the_formula_says(shape, channels):
    rng = np.random.default_rng(0)
    x, up = (rng.standard_normal(shape).astype(np.float32) for _ in range(2))
    x += 1
    width, others = shape[channels], tuple({0, 1, 2, 3} - {channels})
    layer = nn.BatchNorm(width)
    w, b = (rng.standard_normal(width).astype(np.float32) for _ in range(2))
    layer.weight.assign(jt.array(w))
    layer.bias.assign(jt.array(b))
    images = jt.array(x)
    y = norm.learning(jt)(layer, images, channels)
    found = [y, *jt.grad((y * jt.array(up)).sum(), [images, layer.weight, layer.bias])]
    statistics = layer.running_mean, layer.running_var

    def over(array):
        return array.mean(others, keepdims=True)

    x, up = x.astype(np.float64), up.astype(np.float64)
    w, b = (np.moveaxis(of.reshape(1, 1, 1, -1), 3, channels) for of in (w, b))
    deviation = np.sqrt(over((x - over(x)) ** 2) + layer.eps)
    normal = (x - over(x)) / deviation
    close(y, normal * w + b)
    close(found[1], w * (up - over(up) - normal * over(up * normal)) / deviation, 2e-5)
    close(found[2], (up * normal).sum(others), 2e-5)
    close(found[3], up.sum(others))
    close(statistics[0], 0.1 * x.mean(others))
    close(statistics[1], 0.9 + 0.1 * x.var(others))


def test_every_norm_that_learns_from_images_goes_this_way(monkeypatch):
    asked = []
    monkeypatch.setattr(norm, "learning", lambda jt: lambda *given: asked.append(given[2]))
    monkeypatch.setattr(nn.BatchNorm, "execute", nn.BatchNorm.execute)
    norm.install(jt)
    layer = nn.BatchNorm(5)
    layer(jt.rand(2, 5, 3, 3))
    assert asked == [1]
    layer(jt.rand(4, 5))
    layer(jt.rand(2, 5, 3, 3).float64())
    layer.eval()
    layer(jt.rand(2, 5, 3, 3))
    assert asked == [1]


BITS = """
import hashlib, numpy as np, toolchain
jt = toolchain.start("cpu")
from jittor import nn
from kernels import norm
x = jt.array(np.random.default_rng(0).standard_normal((5, 24, 37, 24)).astype(np.float32))
found = []
for channels in (1, 3):
    layer = nn.BatchNorm(24)
    y = norm.learning(jt)(layer, x, channels)
    found += [y, *jt.grad((y * y * y).sum(), [x, layer.weight]), layer.running_var]
print(hashlib.sha256(b"".join(v.numpy().tobytes() for v in found)).hexdigest())
"""


def test_the_bits_do_not_depend_on_the_number_of_threads():
    assert same_with_any_number_of_threads(BITS)
