"""PackNet: train a task on the free weights, prune it, re-train what it keeps, freeze it.

    base task:  load pretrained weights, or train from scratch -> prune -> re-train with its data,
                or without (methods/recovery.py)
    each task:  train on the free weights -> prune -> re-train -> test every task so far, save

An addition (--add-to) has a packed network instead of the base task: a later task is added to it as
if it had been in the list. The rules themselves: pruning.py.
"""
import math
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

from methods.method import Method, keep_statistics
from methods.recovery import UNLABELLED, distilling, towards
from methods.search import TRIALS
from methods.steps import Phase, Step

if TYPE_CHECKING:
    import jittor as jt

    from networks import MultiHead
    from packing.loops import Loss
    from runs.run import Run
    from settings.config import Config


class Packing(Method):
    name = "packnet"
    title = "PackNet"
    makes_portraits = True

    def steps(self, c: "Config", earlier: list[str]) -> Iterator[Step]:
        """Paper, section 3."""
        if earlier:
            if c.baselines:
                yield Step(self.name, "keep", c.base_task)
            if c.prune_last:
                yield from self.smaller(earlier[-1], c.prune_last, self.retraining(c, earlier[-1]))
        else:
            once = max(1, math.ceil(c.num_epochs_base * 2 / 3))  # divided for the last third
            train = Phase("train", c.num_epochs_base, c.base_lr, once, c.weight_decay,
                          decay_at=tuple(c.lr_decay_at))
            yield from self.one_task(c, c.base_task, train, c.initial_pruning_ratio)
        train = Phase("train", c.num_epochs_per_task, c.initial_lr, c.lr_decay_every,
                      c.weight_decay, decay_at=tuple(c.lr_decay_at))
        for task, ratio in zip(c.task_list, c.ratios()):
            yield from self.one_task(c, task, train, ratio)

    def one_task(self, c: "Config", task: str, train: Phase, ratio: float | str) -> Iterator[Step]:
        """Train on the free weights, find the ratio if it is "auto", then `smaller`."""
        retrain = self.retraining(c, task)
        yield Step(self.name, "start", task)
        for epoch in range(train.epochs):
            yield Step(self.name, "epoch", task, train, epoch)
        if task == c.base_task and (c.baselines or retrain.distils):
            yield Step(self.name, "keep", task)
        if ratio == "auto":
            short = replace(retrain, epochs=min(retrain.epochs, max(1, retrain.epochs // 5)))
            for _ in range(TRIALS):
                yield Step(self.name, "attempt", task, short)
        measured_anew = task == c.base_task and c.recovery() == "norms"
        yield from self.smaller(task, ratio, retrain, norms=measured_anew)

    def smaller(self, task: str, ratio: float | str, retrain: Phase,
                norms: bool = False) -> Iterator[Step]:
        """Prune, re-train what is kept, freeze. With ratio 0 the task keeps everything. `norms`:
        they are measured anew."""
        yield Step(self.name, "prune", task, ratio=ratio)
        if ratio and retrain.distils:
            yield Step(self.name, "refit", task)
        for epoch in range(retrain.epochs if ratio else 0):
            yield Step(self.name, "epoch", task, retrain, epoch)
        if norms:
            yield Step(self.name, "norms", task)
        yield Step(self.name, "finish", task)

    def retraining(self, c: "Config", task: str) -> Phase:
        """The epochs that follow the prune of a task."""
        if task != c.base_task:
            return Phase("retrain", c.num_epochs_finetune, c.finetune_lr, c.lr_decay_every,
                         c.weight_decay)
        if c.recovery() == "distil":
            return distilling(c)
        there = c.num_epochs_base > 0 or c.can_read(task)
        return Phase("retrain", c.num_epochs_base_finetune if there else 0, c.base_finetune_lr,
                     c.base_lr_decay_every, c.weight_decay)

    def asked(self, c: "Config", tasks: list[str], task: str) -> int:
        """One through the first task's view, one through the task's own."""
        several = c.add_to or len(tasks) > 1
        return 2 if several and task == c.task_list[-1] else 0

    def packnet_options(self, c: "Config") -> dict:
        return c.packnet_options()

    def start(self, run: "Run", task: str) -> None:
        if task != run.config.base_task:  # the base network has brought its head
            run.add_head(task)
        run.packnet.start_task(task)
        run.results.started(task, run.net.num_classes(task))

    def moving(self, run: "Run", task: str, phase: Phase) -> dict[str, "jt.Var"]:
        moving = super().moving(run, task, phase)
        if not phase.distils:
            return moving
        # The head was not pruned, and stays that of the whole network.
        return {name: var for name, var in moving.items() if not run.packnet.is_head(name, task)}

    def loader(self, run: "Run", task: str, phase: Phase) -> Iterable:
        if not phase.distils:
            return super().loader(run, task, phase)
        run.net.select(task)
        return run.loaders[UNLABELLED]

    def set_training(self, run: "Run", phase: Phase) -> None:
        if phase.distils:
            keep_statistics(run)

    def loss(self, run: "Run", phase: Phase) -> "Loss | None":
        if not phase.distils:
            return None
        return towards(self.whole(run), run.config.base_task)

    def whole(self, run: "Run") -> "MultiHead":
        """The base network before its prune, in test mode."""
        net = run.network_of(run.kept["dense"], [run.config.base_task])
        net.eval()
        return net

    def judge(self, run: "Run", task: str) -> float | None:
        return run.results.judge(run.packnet, task) if run.results.measured(task) else None

    def trained(self, run: "Run", record: dict) -> None:
        run.results.history.append(record)

    def finish(self, run: "Run", task: str) -> None:
        if not run.config.baselines:
            run.kept.pop("dense", None)  # the whole base network: nothing needs it any more
        run.results.frozen(run.packnet, task)
        run.make_portrait(task)
        run.save_packed()
        if self.asked(run.config, run.tasks_with_data, task):
            run.ask_whose()
        run.save_results(finished=False)
