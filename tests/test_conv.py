"""Which way a convolution goes on the CPU; that the ways compute right: test_winograd.py,
test_pointwise.py."""

import numpy as np
import pytest
from conftest import jt
from jittor import nn

from kernels import conv, depthwise, pointwise, winograd

if jt.flags.use_cuda:
    pytest.skip("on a GPU cuDNN convolves", allow_module_level=True)


@pytest.mark.parametrize(
    "layer, size, way",
    [
        (dict(), 8, "winograd"),
        (dict(padding=0), 8, "winograd"),
        (dict(padding=2), 8, "winograd"),
        (dict(bias=False), 8, "winograd"),
        (dict(padding=0), 2, "direct"),
        (dict(in_channels=3), 8, "direct"),
        (dict(out_channels=8), 8, "direct"),
        (dict(kernel_size=5), 8, "direct"),
        (dict(stride=2), 8, "direct"),
        (dict(dilation=2), 8, "direct"),
        (dict(groups=2), 8, "direct"),
        (dict(padding=3), 8, "direct"),
        (dict(padding=(1, 0)), 8, "direct"),
        (dict(kernel_size=(3, 1)), 8, "direct"),
    ],
    ids=str,
)
def test_a_3x3_convolution_goes(layer, size, way):
    layer = nn.Conv(**dict(in_channels=32, out_channels=32, kernel_size=3, padding=1) | layer)
    images = jt.rand(2, layer.in_channels, size, size)
    assert conv.way(layer, images, avx512=False) == way
    if size > 2:
        assert layer(images).numpy().shape[:2] == (2, layer.out_channels)


@pytest.mark.parametrize(
    "channels, filters, side, way",
    [
        (64, 64, 224, "winograd"),
        (64, 128, 112, "winograd"),
        (512, 512, 14, "winograd"),
        (64, 64, 56, "winograd"),
        (128, 128, 28, "winograd"),
        (32, 32, 112, "winograd"),
        (512, 512, 7, "direct"),
        (128, 32, 56, "direct"),
        (64, 64, 12, "direct"),
        (16, 16, 24, "direct"),
        (3, 64, 224, "direct"),
        (3, 64, 900, "direct"),
        (12, 12, 224, "direct"),
    ],
)
def test_with_avx512_large_ones_alone_go_winograds_way(channels, filters, side, way):
    """As benchmarks/convolution.py has it."""
    layer = nn.Conv(channels, filters, 3, padding=1)
    assert conv.way(layer, jt.empty((1, channels, side, side)), avx512=True) == way


@pytest.mark.parametrize(
    "layer, size, way",
    [
        (dict(), 14, "pointwise"),
        (dict(), 56, "pointwise"),
        (dict(), 13, "direct"),
        (dict(bias=True), 14, "direct"),
        (dict(stride=2), 28, "direct"),
        (dict(padding=1), 14, "direct"),
        (dict(groups=2), 14, "direct"),
    ],
    ids=str,
)
def test_a_1x1_convolution_goes(layer, size, way):
    layer = nn.Conv(**dict(in_channels=8, out_channels=6, kernel_size=1, bias=False) | layer)
    images = jt.rand(2, 8, size, size)
    assert conv.way(layer, images, avx512=False) == conv.way(layer, images, avx512=True) == way
    assert layer(images).numpy().shape[:2] == (2, 6)


@pytest.mark.parametrize(
    "layer, size, way",
    [
        (dict(), 28, "depthwise"),
        (dict(bias=False), 56, "depthwise"),
        (dict(stride=2), 55, "depthwise"),
        (dict(stride=2), 54, "direct"),
        (dict(kernel_size=5, padding=(2, 0)), 31, "depthwise"),
        (dict(), 27, "direct"),
        (dict(dilation=2), 40, "direct"),
        (dict(groups=4), 40, "direct"),
        (dict(out_channels=16), 40, "direct"),
        (dict(in_channels=1, out_channels=1, groups=1), 40, "direct"),
    ],
    ids=str,
)
def test_a_depthwise_convolution_goes(layer, size, way):
    given = dict(in_channels=8, out_channels=8, kernel_size=3, padding=1, groups=8) | layer
    layer = nn.Conv(**given)
    images = jt.rand(2, layer.in_channels, size, size)
    assert conv.way(layer, images, avx512=False) == conv.way(layer, images, avx512=True) == way


def test_a_depthwise_convolution_has_its_bias():
    layer, images = nn.Conv(8, 8, 3, padding=1, groups=8), jt.rand(2, 8, 28, 29)
    without = depthwise.convolution(jt)(images, layer.weight, (1, 1), (1, 1)).numpy()
    assert np.array_equal(layer(images).numpy(), without + layer.bias.numpy()[:, None, None])


def test_a_network_goes_these_ways():
    """To the bit, by which the ways differ on so many channels."""
    layer, images = nn.Conv(64, 64, 3, padding=1), jt.rand(3, 64, 64, 64)
    assert np.array_equal(
        layer(images).numpy(), winograd.convolution(jt)(images, layer.weight, layer.bias, 1).numpy()
    )
    layer, images = nn.Conv(900, 8, 1, bias=False), jt.randn(3, 900, 20, 20)
    assert np.array_equal(
        layer(images).numpy(), pointwise.convolution(jt)(images, layer.weight).numpy()
    )


@pytest.mark.parametrize("kernel", [1, 3])
def test_other_precisions_are_left_to_jittor(kernel):
    layer = nn.Conv(64, 64, kernel, bias=False)
    assert conv.way(layer, jt.rand(1, 64, 64, 64).float64(), avx512=False) == "direct"


@pytest.mark.parametrize("kernel", [1, 3])
@pytest.mark.parametrize("channels", [16, 64])
def test_images_of_other_channels_than_the_layers_are_refused(channels, kernel):
    # Jittor's own check; our kernels would read and write outside their arrays
    with pytest.raises(AssertionError):
        nn.Conv(32, 32, kernel, bias=False)(jt.rand(1, channels, 64, 64)).sync()
