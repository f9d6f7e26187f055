"""Our convolutions (3x3: Winograd's, 1x1: matrix products, depthwise) against oneDNN's, layer by
layer.

    python benchmarks/convolution.py [--batch-size 8] [--rounds 5] [--layers vgg16 resnet50 ...]
    # oneDNN as on a processor without AVX-512:
    ONEDNN_MAX_CPU_ISA=AVX2 python benchmarks/convolution.py
    # with images that have their channels last, against plain ones the way that is fastest there:
    python benchmarks/convolution.py --channels-last --layers mobilenet_v2 densenet121 resnet50

Forward and both gradients, both sides in one run and within Jittor, as a network calls them;
nothing else should be running. The rules by which kernels/conv.py chooses come from its figures.
"""
import argparse
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import common
import numpy as np

import toolchain
from kernels import channels_last, conv, depthwise, pointwise, winograd
from system import processes
from toolchain import cpu

jt = toolchain.start("cpu", convolutions="direct")
from jittor import nn

wide = winograd.convolution(jt)
narrow = pointwise.convolution(jt)
single = depthwise.convolution(jt)
last = channels_last.convolution(jt, cpu.onednn())


class Shape(NamedTuple):
    """Of a layer: `side` of the images that it sees; depthwise: a filter for each channel."""
    kernel: int
    channels: int
    filters: int
    side: int
    stride: int = 1
    depthwise: bool = False


def separate(channels: int, side: int, stride: int = 1) -> Shape:
    return Shape(3, channels, channels, side, stride, True)


LAYERS = {
    "vgg16": [Shape(3, 64, 64, 224), Shape(3, 64, 128, 112), Shape(3, 128, 128, 112),
              Shape(3, 128, 256, 56), Shape(3, 256, 256, 56), Shape(3, 256, 512, 28),
              Shape(3, 512, 512, 28), Shape(3, 512, 512, 14)],
    "resnet50": [Shape(3, 64, 64, 56), Shape(3, 128, 128, 28), Shape(3, 256, 256, 14),
                 Shape(3, 512, 512, 7), Shape(1, 64, 256, 56), Shape(1, 256, 64, 56),
                 Shape(1, 512, 128, 28), Shape(1, 1024, 256, 14), Shape(1, 2048, 512, 7)],
    "densenet121": [Shape(3, 128, 32, 56), Shape(3, 128, 32, 28), Shape(3, 128, 32, 14),
                    Shape(3, 128, 32, 7), Shape(1, 128, 128, 56), Shape(1, 256, 128, 28),
                    Shape(1, 512, 128, 14), Shape(1, 768, 128, 7)],
    "mobilenet_v2": [separate(32, 112), separate(96, 112, 2), separate(144, 56),
                     separate(144, 56, 2), separate(192, 28), separate(192, 28, 2),
                     separate(576, 14), separate(576, 14, 2), separate(960, 7)],
    "slim": [Shape(3, 8, 8, 48), Shape(3, 16, 16, 24), Shape(3, 16, 32, 24), Shape(3, 32, 64, 12),
             Shape(3, 64, 64, 12)],
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--layers", nargs="+", choices=LAYERS, default=list(LAYERS))
    parser.add_argument("--channels-last", action="store_true")
    options = parser.parse_args()
    other = "plain images" if options.channels_last else "direct"
    for network in options.layers:
        for shape in LAYERS[network]:
            name = f"{shape.kernel}x{shape.kernel}"
            if shape.depthwise:
                name += ", depthwise"
            name += f", {shape.channels} -> {shape.filters} at {shape.side}"
            if shape.stride > 1:
                name += f", stride {shape.stride}"
            common.report(f"{network}, batch {options.batch_size}, {name}",
                          *compare(shape, options), other)


def compare(shape: Shape, options: argparse.Namespace) -> tuple[list[float], list[float]]:
    """Seconds of both sides, in turn, on one layer."""
    padding = shape.kernel // 2
    layer = nn.Conv(shape.channels, shape.filters, shape.kernel, shape.stride, padding,
                    groups=shape.channels if shape.depthwise else 1, bias=False)
    w = layer.weight
    rng = np.random.default_rng(0)
    images = (options.batch_size, shape.channels, shape.side, shape.side)
    x = jt.array(rng.standard_normal(images, np.float32))
    dy = jt.array(rng.standard_normal(layer(x).shape, np.float32))

    def ours(x: jt.Var) -> jt.Var:
        if shape.depthwise:
            return single(x, w, layer.stride, layer.padding)
        return wide(x, w, None, padding) if shape.kernel == 3 else narrow(x, w)

    def fastest(x: jt.Var) -> jt.Var:
        direct = conv.way(layer, x, conv.has_avx512(cpu.onednn())) == "direct"
        return layer(x) if direct else ours(x)

    def run(convolve: Callable[[jt.Var], jt.Var], x: jt.Var, dy: jt.Var) -> None:
        y = convolve(x)
        jt.sync([y, *jt.grad((y * dy).sum(), [x, w])], True)

    turns = [partial(run, ours, x, dy), partial(run, layer, x, dy)]
    if options.channels_last:
        images, up = (jt.array(var.numpy().transpose(0, 2, 3, 1).copy()) for var in (x, dy))
        turns = [partial(run, lambda x: last(x, layer), images, up),
                 partial(run, fastest, x, dy)]
    for turn in turns:
        turn()  # compiles
    return common.alternate(*turns, options.rounds)


if __name__ == "__main__":
    main()
    processes.leave(0)
