"""Our convolutions (3x3: Winograd's, 1x1: matrix products) against oneDNN's, layer by layer.

    python benchmarks/convolution.py [--batch-size 8] [--rounds 5] [--layers vgg16 resnet50 ...]
    # oneDNN as on a processor without AVX-512:
    ONEDNN_MAX_CPU_ISA=AVX2 python benchmarks/convolution.py

Forward and both gradients, both sides in one run and within Jittor, as a network calls them;
nothing else should be running. The rules by which kernels/conv.py chooses come from its figures.
"""
import argparse
from collections.abc import Callable
from functools import partial

import common
import numpy as np

import toolchain
from kernels import pointwise, winograd
from system import processes

jt = toolchain.start("cpu", convolutions="direct")
from jittor import nn

wide = winograd.convolution(jt)
narrow = pointwise.convolution(jt)
LAYERS = {  # (kernel, input channels, output channels, side)
    "vgg16": [(3, 64, 64, 224), (3, 64, 128, 112), (3, 128, 128, 112), (3, 128, 256, 56),
              (3, 256, 256, 56), (3, 256, 512, 28), (3, 512, 512, 28), (3, 512, 512, 14)],
    "resnet50": [(3, 64, 64, 56), (3, 128, 128, 28), (3, 256, 256, 14), (3, 512, 512, 7),
                 (1, 64, 256, 56), (1, 256, 64, 56), (1, 512, 128, 28), (1, 1024, 256, 14),
                 (1, 2048, 512, 7)],
    "densenet121": [(3, 128, 32, 56), (3, 128, 32, 28), (3, 128, 32, 14), (3, 128, 32, 7),
                    (1, 128, 128, 56), (1, 256, 128, 28), (1, 512, 128, 14), (1, 768, 128, 7)],
    "slim": [(3, 8, 8, 48), (3, 16, 16, 24), (3, 16, 32, 24), (3, 32, 64, 12), (3, 64, 64, 12)],
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--layers", nargs="+", choices=LAYERS, default=list(LAYERS))
    options = parser.parse_args()
    for network in options.layers:
        for shape in LAYERS[network]:
            kernel, channels, filters, side = shape
            times = compare(shape, options.batch_size, options.rounds)
            name = f"{kernel}x{kernel}, {channels} -> {filters} at {side}"
            common.report(f"{network}, batch {options.batch_size}, {name}", *times, "direct")


def compare(shape: tuple[int, int, int, int], batch_size: int,
            rounds: int) -> tuple[list[float], list[float]]:
    """Seconds of both sides, in turn, on one layer of LAYERS."""
    kernel, channels, filters, side = shape
    layer = nn.Conv(channels, filters, kernel, padding=kernel // 2, bias=False)
    w = layer.weight
    rng = np.random.default_rng(0)
    x = jt.array(rng.standard_normal((batch_size, channels, side, side), np.float32))
    dy = jt.array(rng.standard_normal((batch_size, filters, side, side), np.float32))

    def ours() -> jt.Var:
        return wide(x, w, None, 1) if kernel == 3 else narrow(x, w)

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
