"""How the cost of one more task grows with the tasks before it: seconds and memory.

    # from 1 to 20 tasks of drawn signs, two minutes on two cores
    python benchmarks/growth.py [--tasks 20] [--arch vgg-slim] [--out docs/growth.png]

For each task: an epoch of training on the weights that are free, the prune by half, an evaluation
of all tasks so far, and writing the packed file; the process's peak memory. Training must not get
slower, evaluation grows by one task each.
"""
import argparse
import resource
import tempfile
from collections.abc import Callable
from pathlib import Path

import common
import matplotlib
import numpy as np

from system import processes

matplotlib.use("Agg")
import matplotlib.pyplot as plt

import networks
from dataset import create_dataloader
from images import drawings
from pruning import PackNet
from runs.network import contents
from storage.packed import save_packed
from training import cross_entropy, train_epoch

jt = networks.jt
from jittor import nn

EPOCHS = 3  # of each task; the fastest counts, since the first compiles
SHOWN = dict(train="an epoch of training", evaluate="evaluation of all tasks", prune="the prune",
             save="writing the packed file")


def compile_prunes(arch: str) -> None:
    """Compile the kernels of a prune before one is timed. Those of the first two tasks have the
    task's number as a constant in them; the third task's serve all later ones."""
    packnet = PackNet(networks.build(arch))
    for task in ("first", "second", "third"):
        packnet.start_task(task)
        packnet.prune(task, 0.5)


def measure(arch: str, count: int, root: str) -> list[dict]:
    """A row of seconds for each task, and the memory in MB."""
    compile_prunes(arch)
    packnet = PackNet(networks.build(arch))
    tests = {}
    rows = []
    names = list(drawings.ALPHABETS)[:count]
    drawings.draw(root, train=40, test=20, names=names)
    for task in names:
        train, classes = create_dataloader(task, root, "train", 32, image_size=48, crop="plain")
        tests[task], _ = create_dataloader(task, root, "test", 32, image_size=48)
        packnet.model.add_head(task, classes)
        packnet.start_task(task)
        packnet.model.select(task)
        packnet.set_training(True)
        optimizer = nn.SGD(list(packnet.trainable().values()), 0.01, momentum=0.9)

        def epoch(task=task, train=train, optimizer=optimizer) -> None:
            train_epoch(packnet.model, cross_entropy, train, optimizer, task)

        def evaluate() -> None:
            for name, loader in tests.items():
                packnet.predict(name, loader)

        def save() -> None:
            entries = [dict(name=name) for name in tests]
            save_packed(Path(root) / "packed", contents(packnet), dict(tasks=entries))

        rows.append(dict(
            train=fastest(epoch, EPOCHS),
            prune=common.seconds(lambda task=task: packnet.prune(task, 0.5)),
            evaluate=fastest(evaluate, 2),
            save=fastest(save, 2),
            memory=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        ))
    return rows


def fastest(function: Callable[[], None], times: int) -> float:
    return min(common.seconds(function) for _ in range(times))


def draw(rows: list[dict], arch: str, path: Path) -> None:
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.6), layout="constrained")
    numbers = range(1, len(rows) + 1)
    for what, label in SHOWN.items():
        left.plot(numbers, [row[what] for row in rows], marker="o", markersize=3, label=label)
    left.set(xlabel="number of tasks", ylabel="seconds", ylim=(0, None),
             title=f"{arch}, 320 images to train, 160 to test a task")
    left.legend(frameon=False)
    right.plot(numbers, [row["memory"] for row in rows], marker="o", markersize=3, color="0.3")
    right.set(xlabel="number of tasks", ylabel="peak memory, MB", ylim=(0, None),
              title="of the whole process")
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
        axes.xaxis.get_major_locator().set_params(integer=True)
    figure.savefig(path, dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--tasks", type=int, default=20, metavar="N",
                        choices=range(1, len(drawings.ALPHABETS) + 1))
    parser.add_argument("--arch", default="vgg-slim", choices=networks.ARCHITECTURES)
    parser.add_argument("--out", type=Path, default=common.ROOT / "docs" / "growth.png")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as root:
        rows = measure(options.arch, options.tasks, root)
    print("tasks " + "".join(f"{label:>26}" for label in (*SHOWN.values(), "peak memory")))
    for number, row in enumerate(rows, start=1):
        seconds = "".join(f"{row[what]:24.3f} s" for what in SHOWN)
        print(f"{number:5} {seconds}{row['memory']:23.0f} MB")
    half = len(rows) // 2
    if half:
        for what in SHOWN:
            early = np.median([row[what] for row in rows[:half]])
            late = np.median([row[what] for row in rows[half:]])
            print(f"{SHOWN[what]}: median {early:.3f} s in the first half, {late:.3f} s in the "
                  f"second, ratio {late / early:.2f}")
    draw(rows, options.arch, options.out)
    print(f"Drawn: {options.out}")


if __name__ == "__main__":
    main()
    processes.leave(0)
