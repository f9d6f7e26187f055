"""Winograd's convolution against NumPy in float64. Which layers take it: test_conv.py."""

import numpy as np
import pytest
from conftest import jt

from kernels import winograd
from toolchain.doctor import correlate

if jt.flags.use_cuda:
    pytest.skip("on a GPU cuDNN convolves", allow_module_level=True)


convolve = winograd.convolution(jt)


def expected(x: np.ndarray, w: np.ndarray, dy: np.ndarray, padding: int) -> list[np.ndarray]:
    """y, dx, dw in float64, from the sum that a convolution is."""
    ring = ((0, 0), (0, 0), (1, 1), (1, 1))
    # one ring more than is asked for, taken off again: `correlate` pads by one
    wide = np.pad(x, ring)
    inner = slice(2 - padding, -(2 - padding) or None)
    y = correlate(wide, w)[:, :, inner, inner]
    whole = np.zeros((*dy.shape[:2], wide.shape[2], wide.shape[3]))
    whole[:, :, inner, inner] = dy
    dx = correlate(whole, w.transpose(1, 0, 2, 3)[..., ::-1, ::-1])[:, :, 1:-1, 1:-1]
    around = np.pad(wide.astype(np.float64), ring)
    height, width = whole.shape[2:]
    dw = np.array(
        [
            [
                np.einsum("nchw,nkhw->kc", around[:, :, i : i + height, j : j + width], whole)
                for j in range(3)
            ]
            for i in range(3)
        ]
    )
    return [y, dx, dw.transpose(2, 3, 0, 1)]


@pytest.mark.parametrize(
    "n, channels, filters, height, width, padding",
    [
        (2, 16, 16, 8, 8, 1),  # whole tiles
        (1, 17, 33, 13, 6, 1),  # tiles that reach over the border, odd numbers of channels
        (3, 16, 20, 9, 10, 0),
        (2, 32, 16, 10, 5, 2),
        (1, 16, 16, 1, 1, 1),  # one pixel
        (2, 16, 16, 3, 3, 0),  # one output
        (5, 64, 64, 40, 180, 1),  # more strips than fit into the scratch memory at once
    ],
)
def test_the_three_results_are_those_of_the_sum(n, channels, filters, height, width, padding):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((n, channels, height, width)).astype(np.float32)
    w = (rng.standard_normal((filters, channels, 3, 3)) / (9 * channels) ** 0.5).astype(np.float32)
    dy = rng.standard_normal(
        (n, filters, height + 2 * padding - 2, width + 2 * padding - 2)
    ).astype(np.float32)
    b = rng.standard_normal(filters).astype(np.float32)
    images, weight, bias = (jt.array(value) for value in (x, w, b))
    y = convolve(images, weight, bias, padding)
    right_y, right_dx, right_dw = expected(x, w, dy, padding)
    computed = [y, *jt.grad((y * jt.array(dy)).sum(), [images, weight, bias])]
    right_y += b.astype(np.float64)[:, None, None]
    for name, value, right in zip(
        ("y", "dx", "dw", "db"),
        computed,
        (right_y, right_dx, right_dw, dy.sum((0, 2, 3), np.float64)),
    ):
        assert list(value.shape) == list(right.shape), name
        assert np.abs(value.numpy() - right).max() < 5e-6 * np.abs(right).max(), name
    # the same bits again
    assert np.array_equal(convolve(images, weight, bias, padding).numpy(), y.numpy())


def test_a_large_sum_of_the_weights_gradient_stays_exact():
    """Over 100,000 pixels: each block of strips adds to what was there."""
    rng = np.random.default_rng(1)
    x, dy = (rng.standard_normal((2, 16, 224, 224)).astype(np.float32) for _ in range(2))
    images, weight = jt.array(x), jt.rand(16, 16, 3, 3)
    dw = jt.grad((convolve(images, weight, None, 1) * jt.array(dy)).sum(), [weight])[0].numpy()
    right = expected(x, weight.numpy(), dy, 1)[2]
    assert np.abs(dw - right).max() < 1e-5 * np.abs(right).max()


def test_without_images_there_is_no_gradient():
    images, weight = jt.zeros((0, 16, 8, 8)), jt.rand(16, 16, 3, 3)
    assert not jt.grad(convolve(images, weight, None, 1).sum(), [weight])[0].numpy().any()


def test_images_without_gradient_and_weights_without():
    """The first layer's images need no gradient; a frozen layer's weights do not."""
    weight, images = jt.rand(16, 16, 3, 3), jt.rand(1, 16, 8, 8).stop_grad()
    assert jt.grad(convolve(images, weight, None, 1).sum(), [weight])[0].numpy().any()
    weight, images = weight.stop_grad(), jt.rand(1, 16, 8, 8)
    assert jt.grad(convolve(images, weight, None, 1).sum(), [images])[0].numpy().any()
