"""The steps of a run, carried out: each function below is one kind of step, for every method.

Which steps there are and in what order: settings/plan.py. What a method does at a step: methods/. Who
saves and resumes: runs/. What is measured: runs/results.py. The algorithm itself: pruning.py.
"""
import itertools
import math
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace

import numpy as np

import toolchain
from methods import METHODS, search
from methods.method import Loss, Method
from methods.steps import Phase, Step
from networks import MultiHead, assign
from packing.loops import part_of, starved_norm
from runs.network import contents
from runs.results import TrainingError
from runs.run import Run
from settings.config import ConfigError
from system.progress import Progress

jt = toolchain.start()
from jittor import nn

# Steps between two looks at the loss. On a GPU a look waits for all that is under way.
CHECK_EVERY = 20 if toolchain.device == "cuda" else 1
WAY_OUT = "The last saved state is kept; start again in another folder with a lower rate."


def take(run: Run, step: Step) -> None:
    """Carry out one step."""
    match step.kind:
        case "start":
            start(run, step)
        case "epoch":
            epoch(run, step)
        case "attempt":
            attempt(run, step)
        case "keep":
            keep(run, step)
        case "prune":
            prune(run, step)
        case "finish":
            finish(run, step)
        case _:
            raise ValueError(f"no step is called {step.kind!r}")


def start(run: Run, step: Step) -> None:
    """A task gets a head, and the weights that its method lets it have."""
    METHODS[step.method].start(run, step.task)


def epoch(run: Run, step: Step) -> None:
    """One epoch of what the method may move, and a test."""
    begin = time.monotonic()
    method, phase = METHODS[step.method], step.phase
    task = ": ".join((*method.prefix, step.task))
    title = f"{task}, {phase.name} {step.epoch + 1}/{phase.epochs}"
    loss, train_top1 = train(run, method, step.task, phase, step.epoch, title)
    top1 = method.judge(run, step.task)
    run.keep_if_best(top1)
    record = dict(task=step.task, phase=phase.name, epoch=step.epoch + 1,
                  lr=phase.lr_at(step.epoch), loss=loss, train_top1=train_top1,
                  seconds=time.monotonic() - begin)
    record[f"{run.results.judging}_top1"] = top1
    run.results.epoch_line(title, record)
    method.trained(run, record)


def attempt(run: Run, step: Step) -> None:
    """Try one pruning ratio from the trained weights, which are put back: prune, re-train, judge."""
    run.take_best()
    run.net.mpi_param_broadcast()  # as in `prune`
    method, task, packnet = METHODS[step.method], step.task, run.packnet
    whole, ratios = contents(packnet), dict(packnet.ratios)
    trials = run.results.stages[-1].tried
    before = run.results.judge(packnet, task)
    ratio = search.next_ratio(trials, run.config.max_drop)
    packnet.prune(task, ratio)
    phase = replace(step.phase, name=f"try {ratio:g}")
    for number in range(phase.epochs):
        title = f"{task}, {ratio:g} tried {number + 1}/{phase.epochs}"
        train(run, method, task, phase, number, title)
    after = run.results.judge(packnet, task)
    trials.append(dict(ratio=ratio, epochs=phase.epochs, before=before, top1=after,
                       drop=before - after))
    run.log(f"{task}: {ratio:g} tried: {before:.2f} % -> {after:.2f} %")
    run.end_optimizer()
    assign(run.net, whole.parameters, "the trained weights")
    packnet.restore(packnet.tasks, whole.owners, ratios, whole.private)


def keep(run: Run, step: Step) -> None:
    """Keep the network from which the baselines start."""
    run.take_best()
    run.kept["dense"] = run.arrays()
    if run.has_base_data:
        run.results.stages[0].top1_dense = run.score(step.task).top1


def prune(run: Run, step: Step) -> None:
    """Free the smallest weights of the task; with ratio 0 it keeps them all."""
    run.take_best()
    task, ratio, packnet = step.task, step.ratio, run.packnet
    before = run.results.about_to_prune(packnet, task)
    if ratio == "auto":
        c, trials = run.config, run.results.stages[-1].tried
        ratio = search.chosen(trials, c.max_drop)
        trained = c.num_epochs_per_task + c.num_epochs_finetune
        for line in search.table(task, trials, c.max_drop, trained):
            run.log(line)
    run.net.mpi_param_broadcast()  # under mpirun the same weights, to the bit, and so the same masks
    freed = packnet.prune(task, ratio) if ratio else {}
    after = run.results.pruned(packnet, task, ratio, freed, before)
    if freed and after is not None:
        run.keep_if_best(after)  # the release: where no epoch of the re-training is better, these stay


def finish(run: Run, step: Step) -> None:
    """The task is learnt."""
    run.take_best()
    METHODS[step.method].finish(run, step.task)


# ------------------------------------------------------------------------------------------------

def train(run: Run, method: Method, task: str, phase: Phase, number: int,
          title: str) -> tuple[float, float]:
    """Epoch `number` of a phase. Returns what train_epoch does."""
    loader = method.loader(run, task)
    optimizer = run.begin_epoch(method.moving(run, task), phase.lr_at(number), phase.weight_decay,
                                goes_on=phase.before + number > 0)
    method.set_training(run)
    # shuffle, crops and flips follow from it
    loader.epoch = run.seed(*method.prefix, task, phase.name, number)
    loss_of = method.loss(run, phase) or cross_entropy
    tell = run.log if number == 0 else lambda line: None
    return train_epoch(run.net, loss_of, Learnable(loader, run.net, title, tell), optimizer, title)


class Learnable:
    """The batches of `loader` from which `net` can learn: all but those of one image of which a
    batch norm would see one value per channel; `tell` is told which norm.

    Raises ConfigError at the end of an epoch of which nothing is left.
    """

    def __init__(self, loader: Iterable, net: MultiHead, title: str,
                 tell: Callable[[str], None]) -> None:
        self.loader = loader
        self.net = net
        self.title = title
        self.tell = tell

    def __getattr__(self, name: str):
        return getattr(self.loader, name)

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[tuple[jt.Var, jt.Var]]:
        left, starved = 0, None
        for images, labels in self.loader:
            name = starved_norm(self.net, images, part_of(self.loader))
            if name:
                starved = name
            else:
                left += 1
                yield images, labels
        if starved and not left:
            raise ConfigError(f"{self.title}: every batch is one image, of which the batch norm "
                              f"{starved} sees one value per channel: nothing can be learned. Take "
                              "larger batches (--batch-size), or larger images (--image-size).")
        if starved:
            self.tell(f"{self.title}: the last batch of an epoch is one image, of which the batch "
                      f"norm {starved} sees one value per channel; it is left out, another image in "
                      "each epoch.")


def cross_entropy(net: MultiHead, images: jt.Var, labels: jt.Var) -> tuple[jt.Var, jt.Var]:
    """(loss, logits) of the selected head."""
    logits = net(images)
    return nn.cross_entropy_loss(logits, labels), logits


def train_epoch(net: MultiHead, loss_of: Loss, loader: Iterable, optimizer: nn.Optimizer,
                title: str) -> tuple[float, float]:
    """One epoch. Returns the mean loss per image and the top-1 accuracy in percent, both as seen
    while training.

    Under mpirun every process computes its part of a batch (dataset.Loader). Raises TrainingError
    when the loss, or after the epoch a weight, is NaN or infinite.
    """
    loss_sum, hits = jt.zeros(1), jt.zeros(1)
    seen = 0
    bar = Progress(loader, title, unit="batch")
    for step, (images, labels) in enumerate(bar):
        part, parts = part_of(loader)
        net.share_batch(part, parts)
        loss, logits = loss_of(net, images, labels)
        optimizer.step(loss)
        # 1, or what this process counts for where all have the whole batch
        share = parts / jt.world_size
        loss_sum = (loss_sum + loss.detach() * (len(labels) * share)).stop_grad()
        hits = (hits + (logits.argmax(1)[0] == labels).sum() * share).stop_grad()
        jt.sync_all()
        seen += len(labels) * parts
        if step % CHECK_EVERY == 0:
            mean = mean_loss(loss_sum, seen, title, optimizer)
            bar.set_postfix(loss=f"{mean:.3f}", refresh=False)  # shown with the bar's next turn
    mean = mean_loss(loss_sum, seen, title, optimizer)
    moved = itertools.chain.from_iterable(group["params"] for group in optimizer.param_groups)
    if not all(map(finite, moved)):
        raise TrainingError(f"{title}: weights are NaN or infinite at learning rate "
                            f"{optimizer.lr:g}. {WAY_OUT}")
    return mean, 100 * over_processes(hits) / seen


def mean_loss(loss_sum: jt.Var, seen: int, title: str, optimizer: nn.Optimizer) -> float:
    """The mean over the images seen so far. Raises TrainingError where it is no number."""
    mean = over_processes(loss_sum) / seen
    if not math.isfinite(mean):
        raise TrainingError(f"{title}: the loss is {mean} at learning rate {optimizer.lr:g}. "
                            f"{WAY_OUT}")
    return mean


def finite(parameter: jt.Var) -> bool:
    """Whether all its values are numbers. The loss alone does not tell: ReLU turns NaN into 0 here,
    and its kernels know no NaN."""
    return bool(np.isfinite((parameter.data.min(), parameter.data.max())).all())


def over_processes(value: jt.Var) -> float:
    """The sum of a one-element Var over all processes."""
    return (value.mpi_all_reduce("add") if jt.in_mpi else value).item()
