"""The steps of a run, carried out: each function below is one kind of step, for every method.

Which steps there are and in what order: settings/plan.py. What a method does at a step: methods/.
Who saves and resumes: runs/. What is measured: runs/results.py. The algorithm itself: pruning.py.
"""
import itertools
import time
from dataclasses import replace

import toolchain
from methods import METHODS, search
from methods.method import Method
from methods.recovery import PASSES, UNLABELLED, at_once
from methods.steps import Phase, Step
from networks import assign
from packing import least_squares
from packing.loops import Learnable, cross_entropy, measure_norms, train_epoch
from runs import damage
from runs.network import contents
from runs.run import Run
from system.errors import TrainingError

jt = toolchain.start()

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
        case "norms":
            norms(run, step)
        case "refit":
            refit(run, step)
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
    method = METHODS[step.method]
    phase = step.phase
    task = ": ".join((*method.prefix, step.task))
    title = f"{task}, {phase.name} {step.epoch + 1}/{phase.epochs}"
    loss, train_top1 = train(run, method, step.task, phase, step.epoch, title)
    top1 = method.judge(run, step.task)
    if top1 is not None:
        run.keep_if_best(top1)
    record = dict(task=step.task, phase=phase.name, epoch=step.epoch + 1,
                  lr=phase.lr_at(step.epoch), loss=loss, train_top1=train_top1,
                  seconds=time.monotonic() - begin)
    if top1 is not None:
        record[f"{run.results.judging}_top1"] = top1
    run.results.epoch_line(title, record)
    method.trained(run, record)


def attempt(run: Run, step: Step) -> None:
    """Try one pruning ratio from the trained weights, which are put back: prune, re-train, judge.

    Of a task by its accuracy; of the base network by how often it gives the whole one's class.
    """
    run.take_best()
    run.net.mpi_param_broadcast()  # as in `prune`
    method = METHODS[step.method]
    task = step.task
    packnet = run.packnet
    whole = contents(packnet)
    ratios = dict(packnet.ratios)
    trials = run.results.stages[-1].tried
    of_base = run.prunes_base(task)
    before_prune = damage.outputs(run) if of_base else {}

    def judged() -> float:
        if of_base:
            return damage.compared(before_prune, damage.outputs(run))["agreement"]
        return run.results.judge(packnet, task)

    before = judged()
    ratio = search.next_ratio(trials, run.config.max_drop, ratios_of(run, task))
    packnet.prune(task, ratio)
    if step.phase.distils:
        fit_layers(run, method, task)
    phase = replace(step.phase, name=f"try {ratio:g}")
    for number in range(phase.epochs):
        title = f"{task}, {ratio:g} tried {number + 1}/{phase.epochs}"
        train(run, method, task, phase, number, title)
    if of_base and run.config.recovery() == "norms":
        renew_norms(run, task)
    after = judged()
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
    task = step.task
    ratio = step.ratio
    packnet = run.packnet
    before = run.results.about_to_prune(packnet, task)
    if ratio == "auto":
        max_drop = run.config.max_drop
        trials = run.results.stages[-1].tried
        ratios = ratios_of(run, task)
        ratio = search.chosen(trials, max_drop, ratios)
        trained = len([each for each in run.steps if each.method == step.method
                       and (each.kind, each.task) == ("epoch", task)])
        for line in search.table(task, trials, max_drop, trained, ratios):
            run.log(line)
    run.net.mpi_param_broadcast()  # under mpirun the same weights, to the bit, and so the same mask
    if ratio and run.prunes_base(task):
        run.kept["whole"] = damage.outputs(run)
    freed = packnet.prune(task, ratio) if ratio else {}
    after = run.results.pruned(packnet, task, ratio, freed, before)
    if "whole" in run.kept:
        figures = damage.figures(run.kept["whole"], damage.outputs(run))
        run.results.damaged("after its prune", figures)
    if freed and after is not None:
        run.keep_if_best(after)  # the release: these stay unless an epoch of re-training is better


def norms(run: Run, step: Step) -> None:
    """The statistics of the batch norms become those of images without labels, as the network is
    now."""
    count = renew_norms(run, step.task)
    run.log(f"{step.task}: {count} batch norms measured anew" if count else
            f"{step.task}: has no batch norm to measure anew")
    top1 = METHODS[step.method].judge(run, step.task)
    if top1 is not None:
        run.keep_if_best(top1)


def refit(run: Run, step: Step) -> None:
    """What the prune has left is fitted to what the whole network gives for images without
    labels."""
    method = METHODS[step.method]
    count, every = fit_layers(run, method, step.task), len(run.packnet.layers)
    run.log(f"{step.task}: {count} of {every} layers fitted to what the whole network gives")
    top1 = method.judge(run, step.task)
    if top1 is not None:
        run.keep_if_best(top1)


def finish(run: Run, step: Step) -> None:
    """The task is learnt."""
    run.take_best()
    if whole := run.kept.pop("whole", None):
        figures = damage.figures(whole, damage.outputs(run))
        run.results.damaged("as it is frozen", figures, last=True)
    METHODS[step.method].finish(run, step.task)


# ------------------------------------------------------------------------------------------------

def ratios_of(run: Run, task: str) -> tuple[float, ...]:
    """Those that are tried for a task."""
    return search.BASE_RATIOS if run.prunes_base(task) else search.RATIOS


def renew_norms(run: Run, task: str) -> int:
    """Measure the batch norms anew. Returns how many there are."""
    run.end_optimizer()
    run.net.select(task)
    loader = run.loaders[UNLABELLED]
    loader.epoch = run.seed(task, "norms")
    title = f"{task}, batch norms measured anew"
    return measure_norms(run.net, Learnable(loader, run.net, title, run.log), title)


def fit_layers(run: Run, method: Method, task: str) -> int:
    """Fit what the layers have kept. Returns how many were fitted."""
    run.end_optimizer()
    run.packnet.set_training(False)
    loader = run.loaders[UNLABELLED]
    loader.epoch = run.seed(task, "refit")
    batches = at_once(run.config) // loader.batch_size
    passes = (jt.concat([images for images, _ in itertools.islice(loader, batches)])
              for _ in range(PASSES))
    count = least_squares.refit(run.net.trunk, method.whole(run).trunk, passes,
                                f"{task}, layers fitted")
    run.net.mpi_param_broadcast()
    return count


def train(run: Run, method: Method, task: str, phase: Phase, number: int,
          title: str) -> tuple[float, float]:
    """Epoch `number` of a phase. Returns what train_epoch does."""
    loader = method.loader(run, task, phase)
    optimizer = run.begin_epoch(method.moving(run, task, phase), phase.lr_at(number),
                                phase.weight_decay, goes_on=phase.before + number > 0,
                                adam=phase.distils)
    method.set_training(run, phase)
    # shuffle, crops and flips follow from it
    loader.epoch = run.seed(*method.prefix, task, phase.name, number)
    loss_of = method.loss(run, phase) or cross_entropy
    tell = run.log if number == 0 else lambda line: None
    batches = Learnable(loader, run.net, title, tell)
    try:
        return train_epoch(run.net, loss_of, batches, optimizer, title)
    except TrainingError as error:
        raise TrainingError(f"{error} {WAY_OUT}") from error
