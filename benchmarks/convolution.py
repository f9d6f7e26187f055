"""Our convolutions (3x3: Winograd's, 1x1: matrix products, depthwise) against oneDNN's, layer by
layer.

    python benchmarks/convolution.py [--batch-size 8] [--rounds 5] [--layers vgg16 resnet50 ...]
    # oneDNN as on a processor without AVX-512:
    ONEDNN_MAX_CPU_ISA=AVX2 python benchmarks/convolution.py

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
from kernels import depthwise, pointwise, winograd
from system import processes

jt = toolchain.start("cpu", convolutions="direct")
from jittor import nn

wide = winograd.convolution(jt)
narrow = pointwise.convolution(jt)
single = depthwise.convolution(jt)


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
    options = parser.parse_args()
    for network in options.layers:
        for shape in LAYERS[network]:
            name = f"{shape.kernel}x{shape.kernel}"
            if shape.depthwise:
                name += ", depthwise"
            name += f", {shape.channels} -> {shape.filters} at {shape.side}"
            if shape.stride > 1:
                name += f", stride {shape.stride}"
            common.report(f"{network}, batch {options.batch_size}, {name}",
                          *compare(shape, options.batch_size, options.rounds), "direct")


def compare(shape: Shape, batch_size: int, rounds: int) -> tuple[list[float], list[float]]:
    """Seconds of both sides, in turn, on one layer."""
    padding = shape.kernel // 2
    layer = nn.Conv(shape.channels, shape.filters, shape.kernel, shape.stride, padding,
                    groups=shape.channels if shape.depthwise else 1, bias=False)
    w = layer.weight
    rng = np.random.default_rng(0)
    images = (batch_size, shape.channels, shape.side, shape.side)
    x = jt.array(rng.standard_normal(images, np.float32))
    dy = jt.array(rng.standard_normal(layer(x).shape, np.float32))

    def ours() -> jt.Var:
        if shape.depthwise:
            return single(x, w, layer.stride, layer.padding)
        return wide(x, w, None, padding) if shape.kernel == 3 else narrow(x, w)

    def direct() -> jt.Var:
        return layer(x)

    def run(convolve: Callable[[], jt.Var]) -> None:
        y = convolve()
        jt.sync([y, *jt.grad((y * dy).sum(), [x, w])], True)

    run(ours)  # compiles
    run(direct)
    return common.alternate(partial(run, ours), partial(run, direct), rounds)


if __name__ == "__main__":
    main()
    processes.leave(0)
