"""Whose image is it? The ways to tell, on packed networks whose tasks' data are there.

    python benchmarks/recognise.py checkpoints/demo checkpoints/free-weights/0-seed0

For each network and way: of how many images the task is found, of the training images that were
kept from the fit, by which the ways were chosen, and of the test images; with the class right too;
how many are said to be none of the tasks'; AUROC where each task in turn is taken for unknown; the
bytes of a task, and their share of the packed file. Two to ten minutes each on a core.
"""
import argparse
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import common
import numpy as np

import evaluate
import toolchain
from packing import portrait
from packing.portrait import Portrait, auroc, fitted, recognise
from packing.which_task import relative_entropy
from storage.packed import load_packed
from system import processes
from system.files import CHECKPOINT

SPLITS = ("portrait", "test")
# (task, task whose view looks, split) -> float32 [N, W]
Looks = Callable[[str, str, str], np.ndarray]


class Network:
    """A packed network and what its views see of its tasks' images."""

    def __init__(self, folder: Path, data_root: str | None) -> None:
        path = folder / CHECKPOINT
        packed, self.metadata = load_packed(path)
        stored = sum(array.nbytes for arrays in packed.portraits.values()
                     for array in arrays.values())
        network = evaluate.network_of(self.metadata, None, path)
        self.packnet = evaluate.unpack(packed, self.metadata, network, path)
        self.options = SimpleNamespace(data_root=data_root, cache_dir=None, batch_size=None)
        self.entries = {entry["name"]: entry for entry in self.metadata["tasks"]}
        self.tasks = [name for name, entry in self.entries.items()
                      if evaluate.there(entry, self.metadata, self.options)]
        self.bytes = path.stat().st_size - stored
        self.labels = {(task, split): self.images(task, split, task).labels
                       for task in self.tasks for split in SPLITS}
        self.views = {(task, by, split): self.view(task, by, split)
                      for by in self.packnet.tasks for task in self.tasks for split in SPLITS}

    def images(self, task: str, split: str, like: str):
        return evaluate.test_loader(self.entries[task], self.metadata, self.options,
                                    self.entries[like], split)

    def view(self, task: str, by: str, split: str) -> tuple[np.ndarray, np.ndarray]:
        """(features, logits) of the images of `task` in the view of `by`."""
        from packing import loops
        from packing.loops import jt
        with self.packnet.task_view(by) as net:
            def execute(batch):
                found = net.trunk(batch)
                return jt.concat([found, net.heads[by](found)], 1)
            rows, _ = loops.predict(execute, self.images(task, split, by), f"{task} by {by}")
            classes = net.num_classes(by)
        return rows[:, :-classes], rows[:, -classes:]

    def right(self, task: str, split: str) -> np.ndarray:
        return self.views[task, task, split][1].argmax(1) == self.labels[task, split]


def by_entropy(network: Network, task: str, split: str, asked: list[str]) -> tuple:
    logits = [network.views[task, by, split][1] for by in asked]
    entropies = np.stack([relative_entropy(rows) for rows in logits])
    return entropies.argmin(0), entropies.min(0) - 1


def by_own_view(network: Network, looks: Looks, made: dict[str, Portrait], task: str, split: str,
                asked: list[str]) -> tuple:
    """Each task by its own view, in its own unit."""
    strange, beyond = [], []
    for by in asked:
        mean, deviation, _ = made[by].usual
        rows = looks(task, by, split)
        strange.append((made[by].distance(rows) - mean) / deviation)
        beyond.append(made[by].beyond(rows))
    found = np.argmin(strange, axis=0)
    return found, np.stack(beyond)[found, np.arange(len(found))]


def by_first_view(network: Network, looks: Looks, made: dict[str, Portrait], task: str, split: str,
                  asked: list[str]) -> tuple:
    return recognise([made[by] for by in asked], looks(task, network.packnet.tasks[0], split))


def ways(network: Network) -> dict[str, tuple[Callable, int]]:
    """{way: ((task, split, tasks that are asked) -> (number of the task, beyond), bytes a task)}"""
    from runs import recognition
    first = network.packnet.tasks[0]
    found = {"entropy of the views": (partial(by_entropy, network), 0)}

    def features(task: str, by: str, split: str) -> np.ndarray:
        return network.views[task, by, split][0]

    def fit(looks: Looks, own: bool) -> dict[str, Portrait]:
        return {task: Portrait.of(looks(task, task if own else first, "portrait"),
                                  network.labels[task, "portrait"]) for task in network.tasks}

    def size(made: dict[str, Portrait]) -> int:
        return max(sum(array.nbytes for array in each.arrays().values()) for each in made.values())

    made = fit(features, own=True)
    found["features of its own view"] = partial(by_own_view, network, features, made), size(made)
    made = fit(features, own=False)
    found["features of the first view"] = partial(by_first_view, network, features, made), size(
        made)
    chosen = recognition.WIDTH, portrait.DIRECTIONS
    for width, directions in ((256, 24), (512, 12), (512, 19), chosen, (1024, 32)):
        recognition.WIDTH, portrait.DIRECTIONS = width, directions
        rows = {(task, split): recognition.seen(network.packnet, partial(network.images, task,
                                                                         split), task)[0]
                for task in network.tasks for split in SPLITS}

        def sketches(task: str, by: str, split: str, rows: dict = rows) -> np.ndarray:
            return rows[task, split]

        made = fit(sketches, own=False)
        way = partial(by_first_view, network, sketches, made)
        found[f"all layers, {width} x {directions}"] = way, size(made)
        if (width, directions) == chosen:
            for own in (0.0, portrait.OWN, 0.5):
                mark = ", as stored" if own == portrait.OWN else ""
                found[f"all layers, {width} x {directions}, {own:g} own{mark}"] = (
                    partial(with_own, own, way), size(made))
    recognition.WIDTH, portrait.DIRECTIONS = chosen
    return found


def with_own(own: float, way: Callable, *asked) -> tuple:
    """What `way` says where so much of a covariance is the task's own."""
    stored, portrait.OWN = portrait.OWN, own
    try:
        return way(*asked)
    finally:
        portrait.OWN = stored


def measured(network: Network, way: Callable) -> dict[str, float]:
    """In percent, means over the tasks; and AUROC."""
    tasks, shares = network.tasks, []
    for number, task in enumerate(tasks):
        kept = ~fitted(network.labels[task, "portrait"])
        held = (way(task, "portrait", tasks)[0] == number)[kept]
        answer, beyond = way(task, "test", tasks)
        both = (answer == number) & network.right(task, "test")
        shares.append([held.mean(), (answer == number).mean(), both.mean(), (beyond > 0).mean()])
    held, found, both, none = 100 * np.mean(shares, axis=0)
    apart = []
    for task in tasks:
        others = [other for other in tasks if other != task]
        known = np.concatenate([way(other, "test", others)[1] for other in others])
        apart.append(auroc(known, way(task, "test", others)[1]))
    return dict(held_out=held, found=found, class_too=both, none=none, auroc=np.mean(apart))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--data-root")
    options = parser.parse_args()
    toolchain.start("cpu")
    for folder in options.folders:
        network = Network(folder, options.data_root)
        print(f"{folder}: {len(network.tasks)} tasks, {network.bytes / 1e6:.2f} MB")
        for name, (way, size) in ways(network).items():
            share = 100 * size / (network.bytes + len(network.tasks) * size)
            common.record(way=name, **measured(network, way), bytes=size, percent=share)


if __name__ == "__main__":
    main()
    processes.leave(0)
