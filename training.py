"""A run of PackNet, step by step.

    base task:   load pretrained weights (runs/network.py), or train from scratch  ->  prune  ->  re-train where its data are
    each task:   train on the free weights  ->  prune  ->  re-train  ->  evaluate every task so far, write the packed network

An addition (--add-to) has a packed network instead of the base task: a later task is added to it as if it had been in the list.

`plan` writes the steps down; each is one of the functions below, of the run it works on. Who carries them out,
saves and resumes: runs/. What is measured: runs/results.py. The algorithm itself: pruning.py.
"""
import itertools
import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

import toolchain
from networks import MultiHead, assign
from packing.loops import part_of
from runs import search
from runs.network import contents
from runs.results import TrainingError
from runs.run import Run, Step
from settings.config import Config
from system.progress import Progress

jt = toolchain.start()
from jittor import nn

# Steps between two looks at the loss. On a GPU a look waits for all that is under way.
CHECK_EVERY = 20 if toolchain.device == "cuda" else 1
WAY_OUT = "The last saved state is kept; start again in another folder with a lower rate."

Loss = Callable[[MultiHead, jt.Var, jt.Var], tuple[jt.Var, jt.Var]]  # (network, images, labels) -> (loss, logits)


@dataclass(frozen=True)
class Phase:
    """Epochs with one optimizer. `decay_at`: epochs after which the learning rate is divided by 10, in place of `decay_every`.
    `before`: epochs of an earlier phase that count for the decay too."""
    name: str  # "train" or "retrain"; of a baseline also "warm-up"
    epochs: int
    lr: float
    decay_every: int
    weight_decay: float = 0.0
    before: int = 0
    decay_at: tuple[int, ...] = ()

    def lr_at(self, epoch: int) -> float:
        epoch += self.before
        return self.lr * 0.1 ** (sum(epoch >= at for at in self.decay_at) if self.decay_at else epoch // self.decay_every)


# ------------------------------------------------------------------------------------------------ the plan of a run

def plan(c: Config, earlier: Sequence[str] = ()) -> Iterator[Step]:
    """The steps of a run (paper, section 3). The pruned base network is re-trained where its data set is there. `earlier`: the
    tasks of the packed network that the run adds to, where it does."""
    if not earlier:
        decay = max(1, math.ceil(c.num_epochs_base * 2 / 3))  # from scratch: once, for the last third
        train = Phase("train", c.num_epochs_base, c.base_lr, decay, c.weight_decay, decay_at=tuple(c.lr_decay_at))
        yield from one_task(c.base_task, train, c.initial_pruning_ratio, retraining(c, c.base_task))
    elif c.prune_last:
        yield from smaller(earlier[-1], c.prune_last, retraining(c, earlier[-1]))
    train = Phase("train", c.num_epochs_per_task, c.initial_lr, c.lr_decay_every, c.weight_decay, decay_at=tuple(c.lr_decay_at))
    for task, ratio in zip(c.task_list, c.ratios()):
        yield from one_task(task, train, ratio, retraining(c, task))


def retraining(c: Config, task: str) -> Phase:
    """The epochs that follow the prune of a task."""
    if task != c.base_task:
        return Phase("retrain", c.num_epochs_finetune, c.finetune_lr, c.lr_decay_every, c.weight_decay)
    epochs = c.num_epochs_base_finetune if c.has_data(task) else 0
    return Phase("retrain", epochs, c.base_finetune_lr, c.base_lr_decay_every, c.weight_decay)


def one_task(task: str, train: Phase, ratio: float | str, retrain: Phase) -> Iterator[Step]:
    """Train on the free weights, find the ratio if it is "auto", then `smaller`."""
    yield start, task
    for number in range(train.epochs):
        yield epoch, task, train, number
    for _ in range(search.TRIALS if ratio == "auto" else 0):
        yield attempt, task, replace(retrain, epochs=min(retrain.epochs, max(1, retrain.epochs // 5)))
    yield from smaller(task, ratio, retrain)


def smaller(task: str, ratio: float | str, retrain: Phase) -> Iterator[Step]:
    """Prune the last task, re-train what is kept; then it is frozen. With ratio 0 it keeps everything."""
    yield prune, task, ratio
    for number in range(retrain.epochs if ratio else 0):
        yield epoch, task, retrain, number
    yield finish, task


# ------------------------------------------------------------------------------------------------ the steps

def start(run: Run, task: str) -> None:
    """A new task gets a head of its own and every free weight; the base network has brought its head."""
    if task != run.config.base_task:
        run.add_head(task)
    run.packnet.start_task(task)
    run.results.started(task, run.net.num_classes(task))


def epoch(run: Run, task: str, phase: Phase, number: int) -> None:
    """One epoch of what the task owns, and a test of it."""
    begin = time.monotonic()
    title, lr = f"{task}, {phase.name} {number + 1}/{phase.epochs}", phase.lr_at(number)
    loss, train_top1 = train(run, task, phase, number, title)
    top1 = run.results.judge(run.packnet, task)
    run.keep_if_best(top1)
    run.results.trained(title, dict(task=task, phase=phase.name, epoch=number + 1, lr=lr, loss=loss, train_top1=train_top1,
                                    seconds=time.monotonic() - begin) | {f"{run.results.judging}_top1": top1})


def attempt(run: Run, task: str, phase: Phase) -> None:
    """Try one pruning ratio from the trained weights, which are put back: prune, re-train for the epochs of `phase`, judge."""
    run.take_best()
    run.net.mpi_param_broadcast()  # as in `prune`
    packnet, whole, ratios = run.packnet, contents(run.packnet), dict(run.packnet.ratios)
    trials = run.results.stages[-1].setdefault("tried", [])
    before, ratio = run.results.judge(packnet, task), search.next_ratio(trials, run.config.max_drop)
    packnet.prune(task, ratio)
    for number in range(phase.epochs):
        train(run, task, replace(phase, name=f"try {ratio:g}"), number, f"{task}, {ratio:g} tried {number + 1}/{phase.epochs}")
    after = run.results.judge(packnet, task)
    trials.append(dict(ratio=ratio, epochs=phase.epochs, before=before, top1=after, drop=before - after))
    run.log(f"{task}: {ratio:g} tried: {before:.2f} % -> {after:.2f} %")
    run.end_optimizer()
    assign(run.net, whole.parameters, "the trained weights")
    packnet.restore(packnet.tasks, whole.owners, ratios, whole.private)


def prune(run: Run, task: str, ratio: float | str) -> None:
    """Free the smallest weights of the task; with ratio 0 it keeps them all, with "auto" those that the attempts have found."""
    run.take_best()
    before = run.results.about_to_prune(run.packnet, task)
    if ratio == "auto":
        c, trials = run.config, run.results.stages[-1]["tried"]
        ratio = search.chosen(trials, c.max_drop)
        for line in search.table(task, trials, c.max_drop, c.num_epochs_per_task + c.num_epochs_finetune):
            run.log(line)
    run.net.mpi_param_broadcast()  # under mpirun the same weights, to the bit, and so the same masks
    so_far = run.packnet.ratios.get(task)  # of --prune-last: it was frozen before
    freed = run.packnet.prune(task, ratio) if ratio else {}
    if so_far:
        run.packnet.ratios[task] = 1 - (1 - so_far) * (1 - ratio)
    after = run.results.pruned(run.packnet, task, ratio, freed, before)
    if freed and after is not None:
        run.keep_if_best(after)  # the release: where no epoch of the re-training is better, these weights stay


def finish(run: Run, task: str) -> None:
    """The task is frozen: evaluate every task so far, write the packed network."""
    run.take_best()
    run.results.frozen(run.packnet, task)
    run.save_packed()
    run.save_results(finished=False)


# ------------------------------------------------------------------------------------------------ one epoch

def train(run: Run, task: str, phase: Phase, number: int, title: str) -> tuple[float, float]:
    """Epoch `number` of a phase of the run's network on a task. Returns what train_epoch does."""
    loader = run.loaders[task, "train"]
    run.net.select(task)
    optimizer = run.begin_epoch(run.packnet.trainable(), phase.lr_at(number), phase.weight_decay, goes_on=number > 0)
    loader.epoch = run.seed(task, phase.name, number)  # from which shuffle, crops and flips follow
    return train_epoch(run.net, cross_entropy, loader, optimizer, title)


def cross_entropy(net: MultiHead, images: jt.Var, labels: jt.Var) -> tuple[jt.Var, jt.Var]:
    """(loss, logits) of the selected head."""
    logits = net(images)
    return nn.cross_entropy_loss(logits, labels), logits


def train_epoch(net: MultiHead, loss_of: Loss, loader: Iterable, optimizer: nn.Optimizer, title: str) -> tuple[float, float]:
    """One epoch. Returns the mean loss per image and the top-1 accuracy in percent, both as seen while training.

    Under mpirun every process computes its part of a batch (dataset.Loader). Raises TrainingError when the loss, or after the epoch a
    weight, is NaN or infinite.
    """
    loss_sum, hits = jt.zeros(1), jt.zeros(1)
    seen = 0
    bar = Progress(loader, title, unit="batch")
    for step, (images, labels) in enumerate(bar):
        part, parts = part_of(loader)
        net.share_batch(part, parts)
        loss, logits = loss_of(net, images, labels)
        optimizer.step(loss)
        share = parts / jt.world_size  # 1, or what this process counts for where all have the whole batch
        loss_sum = (loss_sum + loss.detach() * (len(labels) * share)).stop_grad()
        hits = (hits + (logits.argmax(1)[0] == labels).sum() * share).stop_grad()
        jt.sync_all()
        seen += len(labels) * parts
        if step % CHECK_EVERY == 0 or step == len(loader) - 1:
            mean = over_processes(loss_sum) / seen
            if not math.isfinite(mean):
                raise TrainingError(f"{title}: the loss is {mean} at learning rate {optimizer.lr:g}. {WAY_OUT}")
            bar.set_postfix(loss=f"{mean:.3f}", refresh=False)  # shown with the next turn of the bar
    if not all(map(finite, itertools.chain.from_iterable(group["params"] for group in optimizer.param_groups))):
        raise TrainingError(f"{title}: weights are NaN or infinite at learning rate {optimizer.lr:g}. {WAY_OUT}")
    return mean, 100 * over_processes(hits) / seen


def finite(parameter: jt.Var) -> bool:
    """Whether all its values are numbers. The loss alone does not tell: ReLU turns NaN into 0 here, and its kernels know no NaN."""
    return bool(np.isfinite((parameter.data.min(), parameter.data.max())).all())


def over_processes(value: jt.Var) -> float:
    """The sum of a one-element Var over all processes."""
    return (value.mpi_all_reduce("add") if jt.in_mpi else value).item()
