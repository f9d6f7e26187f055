"""What frozen weights cost: a training step with masks against the same step without, in one run.

    python benchmarks/step.py [--arch vgg16] [--batch-size 8] [--rounds 5]

Both are Jittor with SGD and momentum 0.9 on random images; "plain" has nothing frozen. Where PyTorch is installed, its
version with the authors' mask handling (torch_twin.py) is timed too.
"""
import argparse

import common
import numpy as np

import networks
from pruning import PackNet

jt = networks.jt
from jittor import nn


def jittor_step(arch: str, x: np.ndarray, y: np.ndarray, frozen: bool):
    net = networks.build(arch)
    net.add_head("a", 200)
    net.add_head("b", 200)
    packnet = PackNet(net)
    packnet.start_task("a")
    if frozen:
        packnet.prune("a", 0.75)
        packnet.start_task("b")
    net.select(packnet.tasks[-1])
    packnet.set_training(True)
    optimizer = nn.SGD(list(packnet.trainable().values()), 1e-3, momentum=0.9)
    images, labels = jt.array(x), jt.array(y)

    def step() -> None:
        optimizer.step(nn.cross_entropy_loss(net(images), labels))
        jt.sync_all(True)
    return step


def torch_step(arch: str, x: np.ndarray, y: np.ndarray):
    import torch
    from torch_twin import Twin
    twin = Twin(arch, dict(a=200, b=200))
    twin.start_task("a")
    twin.prune(0.75)
    twin.start_task("b")
    twin.start_optimizer(1e-3)
    images, labels = torch.from_numpy(x), torch.from_numpy(y)
    return lambda: twin.step(images, labels)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--arch", default="vgg16", choices=networks.ARCHITECTURES)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    side = networks.ARCHITECTURES[options.arch].pooled * 2 ** networks.ARCHITECTURES[options.arch].convolutions.count("M")
    rng = np.random.default_rng(0)
    x = rng.normal(size=(options.batch_size, 3, side, side)).astype(np.float32)
    y = rng.integers(0, 200, options.batch_size)
    masked = jittor_step(options.arch, x, y, frozen=True)
    others = [("plain", jittor_step(options.arch, x, y, frozen=False))]
    if common.installed("torch"):
        others.append(("PyTorch with the authors' masks", torch_step(options.arch, x, y)))
    else:
        print("PyTorch is not installed: only Jittor is timed")
    for name, other in others:
        for _ in range(3):
            masked(), other()
        a, b = common.alternate(masked, other, options.rounds)
        common.report(f"{options.arch}, a training step of {options.batch_size} images, masks", a, b, name)


if __name__ == "__main__":
    main()
