"""What a run does, in order: the steps of PackNet and, where they are asked for, of its baselines.

`plan` writes them all down before the first one; training.Run carries them out. Settings: config.py.
"""
import math
from dataclasses import dataclass

from config import Config

ALL = "all tasks"  # what joint training calls its one task
NEVER = 10**9  # epochs
LWF_WEIGHT_DECAY = 5e-4  # the authors' release: there, and nowhere else


@dataclass(frozen=True)
class Phase:
    """Epochs with one optimizer. `before`: epochs of an earlier phase that count for the decay too; `method`: the baseline,
    or "" for PackNet itself."""
    name: str  # "train", "retrain", or "warm-up": the new head only
    epochs: int
    lr: float
    decay_every: int
    weight_decay: float = 0.0
    before: int = 0
    method: str = ""

    def lr_at(self, epoch: int) -> float:
        return self.lr * 0.1 ** ((self.before + epoch) // self.decay_every)


def plan(c: Config, base_data: bool) -> list[tuple]:
    """The steps of a run: (name of a method of training.Run, its arguments...). `base_data`: is the base task's data set there?"""
    def epochs(task: str, phase: Phase) -> list[tuple]:
        return [("epoch", task, phase, epoch) for epoch in range(phase.epochs)]

    def stage(task: str, train: Phase, ratio: float, retrain: Phase) -> list[tuple]:
        return [("start", task), *epochs(task, train), ("prune", task, ratio), *(epochs(task, retrain) if ratio else []),
                ("finish", task)]

    def baseline(method: str, task: str) -> list[tuple]:
        warm_up = c.num_epochs_per_task // 4 if method == "lwf" else 0  # the release: 5 of 20
        every = NEVER if method == "classifier" else c.lr_decay_every
        decay = LWF_WEIGHT_DECAY if method == "lwf" else c.weight_decay
        phases = [Phase("warm-up", warm_up, c.initial_lr, every, decay, method=method),
                  Phase("train", c.num_epochs_per_task - warm_up, c.initial_lr, every, decay, before=warm_up, method=method)]
        return [("start_baseline", method, task), *(step for phase in phases for step in epochs(task, phase)),
                ("finish_baseline", method, task)]

    base = Phase("train", c.num_epochs_base, c.base_lr, max(1, math.ceil(c.num_epochs_base * 2 / 3)), c.weight_decay)
    base_retrain = Phase("retrain", c.num_epochs_base_finetune * base_data, c.base_finetune_lr, c.base_lr_decay_every, c.weight_decay)
    train = Phase("train", c.num_epochs_per_task, c.initial_lr, c.lr_decay_every, c.weight_decay)
    retrain = Phase("retrain", c.num_epochs_finetune, c.finetune_lr, c.lr_decay_every, c.weight_decay)
    steps = stage(c.base_task, base, c.initial_pruning_ratio, base_retrain)
    for task, ratio in zip(c.task_list, c.pruning_ratios):
        steps += stage(task, train, ratio, retrain)
    for method in c.baselines:
        for task in [ALL] if method == "joint" else c.task_list:
            steps += baseline(method, task)
    return [*steps, ("report",)]
