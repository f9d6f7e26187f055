"""What frozen weights cost: a training step with masks against the same step without, in one run.

    python benchmarks/step.py [--arch vgg16] [--batch-size 8] [--rounds 5]

Both are Jittor with SGD, momentum 0.9 and weight decay 5e-4 on random images; "plain" has nothing frozen. Where
PyTorch is installed, its version with the authors' mask handling (gradients of frozen weights zeroed before the step,
pruned weights zeroed after it) is timed too.
"""
import argparse

import common
import numpy as np

import networks
from pruning import PackNet

jt = networks.jt
from jittor import nn  # noqa: E402


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
    parameters = [p for p in net.parameters() if p.shape[0] != 200] + list(net.heads[packnet.tasks[-1]].parameters())
    optimizer = nn.SGD(parameters, 1e-3, momentum=0.9, weight_decay=5e-4)
    images, labels = jt.array(x), jt.array(y)

    def step() -> None:
        optimizer.step(nn.cross_entropy_loss(net(images), labels))
        jt.sync_all(True)
    return step


def torch_step(arch: str, x: np.ndarray, y: np.ndarray):
    import torch
    from torch import nn as tnn
    shape, layers, channels = networks.ARCHITECTURES[arch], [], 3
    for width in shape.convolutions:
        layers += [tnn.MaxPool2d(2)] if width == "M" else [tnn.Conv2d(channels, width, 3, padding=1), tnn.ReLU(inplace=True)]
        channels = channels if width == "M" else width
    net = tnn.Sequential(*layers, tnn.Flatten(), tnn.Linear(channels * shape.pooled ** 2, shape.hidden), tnn.ReLU(),
                         tnn.Dropout(shape.dropout), tnn.Linear(shape.hidden, shape.hidden), tnn.ReLU(),
                         tnn.Dropout(shape.dropout), tnn.Linear(shape.hidden, 200))
    masks = [(m, torch.rand_like(m.weight) < 0.75) for m in list(net)[:-1] if hasattr(m, "weight")]
    optimizer = torch.optim.SGD(net.parameters(), 1e-3, momentum=0.9, weight_decay=5e-4)
    images, labels = torch.from_numpy(x), torch.from_numpy(y)

    def step() -> None:
        optimizer.zero_grad()
        tnn.functional.cross_entropy(net(images), labels).backward()
        for module, free in masks:
            module.weight.grad[~free] = 0
        optimizer.step()
        with torch.no_grad():
            for module, free in masks:
                module.weight[~free] = 0
    return step


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
    try:
        others.append(("PyTorch with the authors' masks", torch_step(options.arch, x, y)))
    except ImportError:
        print("PyTorch is not installed: only Jittor is timed")
    for name, other in others:
        for _ in range(3):
            masked(), other()
        a, b = common.alternate(masked, other, options.rounds)
        common.report(f"{options.arch}, a training step of {options.batch_size} images, masks", a, b, name)


if __name__ == "__main__":
    main()
