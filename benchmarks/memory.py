"""Peak resident memory of VGG-16 on the CPU: training and evaluation, each in a process of its own.

    python benchmarks/memory.py [--batch-size 32] [--arch vgg16]
"""
import argparse
import resource
import subprocess
import sys

import common  # noqa: F401
import numpy as np

from system import processes


def measure(arch: str, batch_size: int, what: str) -> None:
    import networks
    from packing.sgd import SGD
    from pruning import PackNet
    from training import cross_entropy, train_epoch
    jt = networks.jt
    shape = networks.ARCHITECTURES[arch]
    side = shape.pooled * 2 ** shape.convolutions.count("M")
    net = networks.build(arch)
    packnet = PackNet(net)
    for task in ("base", "a"):
        net.add_head(task, 200)
        packnet.start_task(task)
        packnet.prune(task)
    net.select("a")
    rng = np.random.default_rng(0)
    images = jt.array(rng.normal(size=(batch_size, 3, side, side)).astype(np.float32))
    batch = images, jt.array(rng.integers(0, 200, batch_size))
    if what == "training":
        optimizer = SGD(list(packnet.trainable().values()), 1e-3, momentum=0.9)
        packnet.set_training(True)
        train_epoch(net, cross_entropy, [batch] * 4, optimizer, "training")
    else:
        packnet.predict("base", [batch] * 4)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    print(f"{arch}, batch {batch_size}, {what}: {peak:.1f} GB at most")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--arch", default="vgg16")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--what", choices=("training", "evaluation"))
    options = parser.parse_args()
    if options.what:
        measure(options.arch, options.batch_size, options.what)
        return
    for what in ("training", "evaluation"):
        subprocess.run([sys.executable, *sys.argv, "--what", what], check=True)


if __name__ == "__main__":
    main()
    processes.leave(0)
