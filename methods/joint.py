"""One network trained on all tasks at once: the upper bound, which needs all data at all times."""
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import numpy as np

from methods.method import Baseline, everything
from methods.steps import Phase

if TYPE_CHECKING:
    import jittor as jt

    from dataset import Loader
    from runs.run import Run
    from settings.config import Config

ALL = "all tasks"  # what it calls the one that it learns


class Joint(Baseline):
    name = "joint"
    title = "joint training"

    def tasks(self, c: "Config") -> list[str]:
        return [ALL]

    def heads(self, c: "Config", task: str) -> list[str]:
        return c.task_list

    def trained_on(self, tasks: list[str], task: str) -> list[str]:
        return tasks

    def judged_on(self, c: "Config", task: str) -> list[str]:
        return c.task_list

    def tested_on(self, tasks: list[str], task: str) -> list[str]:
        return tasks

    def moving(self, run: "Run", task: str, phase: Phase) -> dict[str, "jt.Var"]:
        return everything(run)

    def loader(self, run: "Run", task: str, phase: Phase) -> "Mixture":
        loaders = {name: loader for (name, split), loader in run.loaders.items()
                   if split == "train"}
        return Mixture(loaders, run.net.select)


class Mixture:
    """An epoch of several training loaders at once: every batch is of one task, in an order drawn
    from seed and epoch; `select(task)` is called before a batch is handed out. `part` as of
    dataset.Loader."""

    def __init__(self, loaders: dict[str, "Loader"], select: Callable[[str], None]) -> None:
        self.loaders = loaders
        self.select = select
        self.epoch = 0
        self.part = (0, 1)

    def __len__(self) -> int:
        return sum(map(len, self.loaders.values()))

    def __iter__(self) -> Iterator[tuple["jt.Var", "jt.Var"]]:
        for loader in self.loaders.values():
            loader.epoch = self.epoch
        tasks = np.repeat(list(self.loaders), [len(loader) for loader in self.loaders.values()])
        seed = next(iter(self.loaders.values())).seed
        np.random.default_rng((seed, self.epoch, 0)).shuffle(tasks)
        batches = {task: iter(loader) for task, loader in self.loaders.items()}
        for task in tasks:
            self.select(str(task))
            batch = next(batches[task])
            self.part = self.loaders[task].part
            yield batch
