"""Our convolutions (3x3: Winograd's, 1x1: matrix products) against oneDNN's, layer by layer: forward and both gradients, in one run.

    python benchmarks/convolution.py [--batch-size 8] [--rounds 5] [--layers vgg16 resnet50 densenet121 slim]
    ONEDNN_MAX_CPU_ISA=AVX2 python benchmarks/convolution.py         # oneDNN as on a processor without AVX-512

Both within Jittor, as a network calls them; nothing else should be running. The rules of kernels/conv.py stand on it.
"""
import argparse

import common
import numpy as np

import toolchain
from kernels import pointwise, winograd
from system import processes

jt = toolchain.start("cpu", convolutions="direct")
from jittor import nn

LAYERS = {  # (kernel, input channels, output channels, side)
    "vgg16": [(3, 64, 64, 224), (3, 64, 128, 112), (3, 128, 128, 112), (3, 128, 256, 56), (3, 256, 256, 56), (3, 256, 512, 28),
              (3, 512, 512, 28), (3, 512, 512, 14)],
    "resnet50": [(3, 64, 64, 56), (3, 128, 128, 28), (3, 256, 256, 14), (3, 512, 512, 7), (1, 64, 256, 56), (1, 256, 64, 56),
                 (1, 512, 128, 28), (1, 1024, 256, 14), (1, 2048, 512, 7)],
    "densenet121": [(3, 128, 32, 56), (3, 128, 32, 28), (3, 128, 32, 14), (3, 128, 32, 7), (1, 128, 128, 56), (1, 256, 128, 28),
                    (1, 512, 128, 14), (1, 768, 128, 7)],
    "slim": [(3, 8, 8, 48), (3, 16, 16, 24), (3, 16, 32, 24), (3, 32, 64, 12), (3, 64, 64, 12)],
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--layers", nargs="+", choices=LAYERS, default=list(LAYERS))
    options = parser.parse_args()
    wide, narrow = winograd.convolution(jt), pointwise.convolution(jt)
    for network in options.layers:
        for kernel, channels, filters, side in LAYERS[network]:
            layer = nn.Conv(channels, filters, kernel, padding=kernel // 2, bias=False)
            rng = np.random.default_rng(0)
            x, dy = (jt.array(rng.standard_normal((options.batch_size, count, side, side), np.float32)) for count in (channels, filters))

            def passes(convolve, x=x, dy=dy, w=layer.weight) -> list:
                y = convolve(x, w)
                return [y, *jt.grad((y * dy).sum(), [x, w])]

            def run(convolve, passes=passes) -> None:
                jt.sync(passes(convolve), True)

            sides = [(lambda x, w: wide(x, w, None, 1)) if kernel == 3 else narrow, lambda x, w, layer=layer: layer(x)]
            for convolve in sides:
                run(convolve)
            pairs = [[common.seconds(lambda convolve=convolve: run(convolve)) for convolve in sides] for _ in range(options.rounds)]
            name = f"{kernel}x{kernel}, {channels} -> {filters} at {side}"
            common.report(f"{network}, batch {options.batch_size}, {name}", *zip(*pairs), "direct")


if __name__ == "__main__":
    main()
    processes.leave(0)
