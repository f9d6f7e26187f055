"""PackNet's training step and evaluation on the CPU: ours against PyTorch with the authors' mask handling, fairly.

    python benchmarks/step.py                                        # the paper's networks at batch 8, half an hour
    python benchmarks/step.py --arch vgg-slim --batch-size 32        # the demo's network, a minute
    python benchmarks/step.py --against direct plain                 # what our convolutions bring, what the masks cost
    MALLOC_MMAP_MAX_=0 MALLOC_TRIM_THRESHOLD_=8000000000 python benchmarks/step.py     # PyTorch keeps freed memory as we do

The second task on a network whose first is pruned by 75 % and frozen: random images, SGD with momentum 0.9. Each side is a process
of its own (common.Side), they take turns, and nothing else should be running. A ratio above 1 says that ours is faster.
Against: torch = PyTorch, torch_twin.py; direct = ours with oneDNN's convolutions; plain = ours with nothing frozen.
"""
import argparse
from collections.abc import Callable
from functools import partial

import common

from system import processes

PAPER = ("vgg16", "vgg16-bn", "resnet50", "densenet121")
NAMES = dict(torch="PyTorch with the authors' masks", direct="direct convolutions", plain="nothing frozen")
WARM_UP = 3


def jittor_side(options) -> Callable:
    import toolchain
    jt = toolchain.start("cpu", convolutions="direct" if options.side == "direct" else "winograd")
    from jittor import nn

    import networks
    from pruning import PackNet
    net = networks.build(options.arch)
    packnet = PackNet(net)
    for task in ("a",) if options.side == "plain" else ("a", "b"):
        net.add_head(task, 200)
        packnet.start_task(task)
        if task == "a" and options.side != "plain":
            packnet.prune("a", 0.75)
    net.select(packnet.tasks[-1])
    x, y = common.batch(options.arch, options.batch_size)
    images, labels = jt.array(x), jt.array(y)
    packnet.set_training(options.what == "step")
    optimizer = nn.SGD(list(packnet.trainable().values()), 1e-3, momentum=0.9)

    def step() -> None:
        optimizer.step(nn.cross_entropy_loss(net(images), labels))
        jt.sync_all(True)

    def evaluation() -> None:
        with jt.no_grad():
            net(images).sync()
        jt.sync_all(True)

    return step if options.what == "step" else evaluation


def torch_side(options) -> Callable:
    import torch
    from torch_twin import Twin

    from system import processes
    torch.set_num_threads(processes.cores())
    twin = Twin(options.arch, dict(a=200, b=200))
    twin.start_task("a")
    twin.prune(0.75)
    twin.start_task("b")
    twin.start_optimizer(1e-3)
    x, y = common.batch(options.arch, options.batch_size)
    images, labels = torch.from_numpy(x), torch.from_numpy(y).long()
    if options.what == "step":
        return lambda: twin.step(images, labels)
    twin.net.eval()

    def evaluation() -> None:
        with torch.no_grad():
            twin.logits(images, "b")
    return evaluation


def prepared(options) -> Callable:
    step = torch_side(options) if options.side == "torch" else jittor_side(options)
    for _ in range(WARM_UP):
        step()
    return step


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--arch", nargs="+", default=PAPER)
    parser.add_argument("--batch-size", nargs="+", type=int, default=[8])
    parser.add_argument("--what", nargs="+", choices=("step", "evaluation"), default=("step", "evaluation"))
    parser.add_argument("--against", nargs="+", choices=NAMES, default=["torch"])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--side", choices=("ours", *NAMES), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.side:
        (options.arch,), (options.batch_size,), (options.what,) = options.arch, options.batch_size, options.what
        common.serve(partial(prepared, options))
        return
    if "torch" in options.against and not common.installed("torch"):
        raise SystemExit("error: PyTorch is not installed: pip install torch==2.13.0, or compare with --against direct plain")
    for arch in options.arch:
        for size in options.batch_size:
            for what in options.what:
                for other in options.against:
                    where = ("--arch", arch, "--batch-size", size, "--what", what, "--side")
                    with common.Side(*where, "ours") as ours, common.Side(*where, other) as theirs:
                        pairs = [(ours(), theirs()) for _ in range(options.rounds)]
                    common.report(f"{arch}, batch {size}, {what}", *zip(*pairs), NAMES[other])


if __name__ == "__main__":
    main()
    processes.leave(0)
