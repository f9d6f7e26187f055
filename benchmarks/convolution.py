"""Winograd's convolution against oneDNN's direct one, layer by layer: forward and both gradients, in one run.

    python benchmarks/convolution.py [--batch-size 8] [--rounds 5] [--layers vgg16 resnet50 densenet121 slim]

Both within Jittor, as a network calls them; nothing else should be running. It justifies toolchain/winograd.suits.
"""
import argparse

import common
import numpy as np

import toolchain
from toolchain import winograd

jt = toolchain.start("cpu", convolutions="direct")
from jittor import nn

LAYERS = {  # (input channels, output channels, side)
    "vgg16": [(64, 64, 224), (64, 128, 112), (128, 128, 112), (128, 256, 56), (256, 256, 56), (256, 512, 28), (512, 512, 28),
              (512, 512, 14)],
    "resnet50": [(64, 64, 56), (128, 128, 28), (256, 256, 14), (512, 512, 7)],
    "densenet121": [(128, 32, 56), (128, 32, 28), (128, 32, 14), (128, 32, 7)],
    "slim": [(8, 8, 48), (16, 16, 24), (16, 32, 24), (32, 64, 12), (64, 64, 12)],
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--layers", nargs="+", choices=LAYERS, default=list(LAYERS))
    options = parser.parse_args()
    ours = winograd.convolution(jt)
    for network in options.layers:
        for channels, filters, side in LAYERS[network]:
            layer = nn.Conv(channels, filters, 3, padding=1, bias=False)
            rng = np.random.default_rng(0)
            x, dy = (jt.array(rng.standard_normal((options.batch_size, count, side, side), np.float32)) for count in (channels, filters))

            def passes(convolve, x=x, dy=dy, w=layer.weight) -> list:
                y = convolve(x, w)
                return [y, *jt.grad((y * dy).sum(), [x, w])]

            def run(convolve, passes=passes) -> None:
                jt.sync(passes(convolve), True)

            sides = [lambda x, w: ours(x, w, None, 1), lambda x, w, layer=layer: layer(x)]
            for convolve in sides:
                run(convolve)
            pairs = [[common.seconds(lambda convolve=convolve: run(convolve)) for convolve in sides] for _ in range(options.rounds)]
            common.report(f"{network}, batch {options.batch_size}, {channels} -> {filters} at {side}", *zip(*pairs), "direct")


if __name__ == "__main__":
    main()
