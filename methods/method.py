"""What every method is asked: when the plan is made, and at each of its steps.

Nothing here starts Jittor: the plan of a run, and how long it will take, are known before.
"""
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

import numpy as np

from images.preprocess import preparation_of
from methods.steps import Phase, Step

if TYPE_CHECKING:
    import jittor as jt

    from packing.loops import Loss
    from runs.run import Run
    from settings.config import Config


class Method:
    """A way to learn the tasks of a run.

    name             on the command line and in results
    title            in tables
    prefix           what comes before a task in titles, and in what random states follow from
    teachers         how many networks beside the one that learns see every training image
    makes_portraits  whether a learnt task gets a portrait (packing/portrait.py)
    """
    name = ""
    title = ""
    prefix: tuple[str, ...] = ()
    teachers = 0
    makes_portraits = False

    # ---- the plan

    def steps(self, c: "Config", earlier: list[str]) -> Iterator[Step]:
        """The steps of a run with these settings. `earlier`: the tasks of the packed network that
        the run adds to, where it does."""
        raise NotImplementedError

    def head_only(self, phase: Phase) -> bool:
        """Whether nothing but a head learns in this phase."""
        return False

    def trained_on(self, tasks: list[str], task: str) -> list[str]:
        """Whose training images an epoch on `task` goes through. `tasks`: all that have data."""
        return [task]

    def judged_on(self, c: "Config", task: str) -> list[str]:
        """The tasks that an epoch on `task` is judged on."""
        return [task]

    def tested_on(self, tasks: list[str], task: str) -> list[str]:
        """Which of `tasks`, all that have data, are tested once `task` is learnt."""
        return tasks[:tasks.index(task) + 1] if task in tasks else []

    def asked(self, c: "Config", tasks: list[str], task: str) -> int:
        """Once `task` is learnt, how many passes over the test images of all `tasks`, those that
        have data, ask whose they are."""
        return 0

    def packnet_options(self, c: "Config") -> dict:
        """The options of the pruning.PackNet that it works with."""
        return {}

    # ---- the steps

    def start(self, run: "Run", task: str) -> None:
        """Prepare the network for `task`."""
        raise NotImplementedError

    def moving(self, run: "Run", task: str, phase: Phase) -> dict[str, "jt.Var"]:
        """What an epoch on `task` may move, by name."""
        return run.packnet.trainable()

    def loader(self, run: "Run", task: str, phase: Phase) -> Iterable:
        """The training batches of an epoch; the head they are for is selected."""
        run.net.select(task)
        return run.loaders[task, "train"]

    def set_training(self, run: "Run", phase: Phase) -> None:
        """The network is in training mode; what is to be otherwise is changed here."""

    def loss(self, run: "Run", phase: Phase) -> "Loss | None":
        """None: the cross-entropy of the selected head."""
        return None

    def judge(self, run: "Run", task: str) -> float | None:
        """Top-1 in percent by which the epochs of `task` are compared; None where there are no data
        to measure it."""
        raise NotImplementedError

    def trained(self, run: "Run", record: dict) -> None:
        """An epoch has ended; `record` is what the log says of it."""

    def finish(self, run: "Run", task: str) -> None:
        """`task` is learnt: test what there is, and save."""
        raise NotImplementedError


def keep_statistics(run: "Run") -> None:
    """Norms compute with the running statistics that they have, and leave them as they are."""
    for parameter in run.packnet.parameters.values():
        if parameter.is_statistic:
            parameter.module.is_train = False


class Baseline(Method):
    """What PackNet is compared with. Each starts from the base network as it was before its prune,
    or with --add-to from the packed network, and prunes nothing.

    Each task trains `num_epochs_per_task` epochs at `initial_lr`, divided by 10 every
    `lr_decay_every` epochs (the authors' release: 20, 1e-3, 10).
    """
    one_network = True  # for all tasks; else each has its own
    of_one_task = False  # whether it is about each task alone, and can start from a packed network

    @property
    def prefix(self) -> tuple[str, ...]:
        return (self.name,)

    def tasks(self, c: "Config") -> list[str]:
        """What it learns, one after another."""
        return c.task_list

    def phases(self, c: "Config") -> list[Phase]:
        """How it trains each task."""
        return [Phase("train", c.num_epochs_per_task, c.initial_lr, c.lr_decay_every,
                      c.weight_decay, decay_at=tuple(c.lr_decay_at))]

    def steps(self, c: "Config", earlier: list[str]) -> Iterator[Step]:
        for task in self.tasks(c):
            yield Step(self.name, "start", task)
            for phase in self.phases(c):
                for epoch in range(phase.epochs):
                    yield Step(self.name, "epoch", task, phase, epoch)
            yield Step(self.name, "finish", task)

    def asked(self, c: "Config", tasks: list[str], task: str) -> int:
        """One for all heads together, of tasks whose images are prepared alike."""
        if not self.one_network or task != self.tasks(c)[-1] or len(tasks) < 2:
            return 0
        if c.normalise == "own":
            return len(tasks)
        return len({preparation_of(name, c.image_size, c.crop) for name in tasks})

    def heads(self, c: "Config", task: str) -> list[str]:
        """The tasks that get a head when `task` starts."""
        return [task]

    def start(self, run: "Run", task: str) -> None:
        first = self.name not in run.results.baselines
        if first:
            run.results.baseline_started(self.name, run.tasks_with_data)
        run.branch_off(anew=first or not self.one_network)
        run.kept["teacher"] = run.arrays() if self.teachers else {}
        for name in self.heads(run.config, task):
            run.add_head(name)
        self.take_weights(run, task)

    def take_weights(self, run: "Run", task: str) -> None:
        """As the first task, it may move every weight."""
        run.packnet.start_task(task)

    def judge(self, run: "Run", task: str) -> float:
        judged = self.judged_on(run.config, task)
        return float(np.mean([run.score(name, run.results.judging).top1 for name in judged]))

    def finish(self, run: "Run", task: str) -> None:
        run.results.baseline_finished(self.name, task, *self.measured(run, task))
        if self.asked(run.config, run.tasks_with_data, task):
            run.ask_all_heads(self.name)

    def measured(self, run: "Run", task: str) -> tuple[dict[str, float], dict[str, float]]:
        """Top-1 and top-5 in percent, by task, of those that are tested now."""
        tested = self.tested_on(run.tasks_with_data, task)
        scores = {name: run.score(name) for name in tested}
        return ({name: score.top1 for name, score in scores.items()},
                {name: score.top5 for name, score in scores.items()})


def everything(run: "Run") -> dict[str, "jt.Var"]:
    """All that takes a gradient, the heads of earlier tasks too."""
    return {name: parameter.var for name, parameter in run.packnet.parameters.items()
            if parameter.gradient}
