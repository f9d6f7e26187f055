"""What the paper compares PackNet with, each from the same base network before its prune, on the same data and loaders.
An addition (--add-to) compares `classifier` and `individual` on the new tasks, from the packed network it adds to.

    classifier   a new head on the frozen base network; its learning rate is constant
    individual   a network of its own for every task, fine-tuned from the base network; the statistics of batch norm stay the base
                 network's, unless with --train-bn
    finetune     one network fine-tuned on the tasks one after another: the lower bound, which forgets
    lwf          the same, held back by Learning without Forgetting (Li & Hoiem, ECCV 2016): the new network must give on the new
                 task's images what the network before gave for the old tasks; in the first quarter of the epochs only
                 the new head learns, and the weight decay acts on everything
    joint        one network trained on all tasks at once: the upper bound, which needs all data at all times

Each task trains `num_epochs_per_task` epochs at `initial_lr`, divided by 10 every `lr_decay_every` epochs (the authors'
release: 20, 1e-3, 10), on every weight it may move; none is pruned.
"""
import time
from collections.abc import Callable, Iterable, Iterator

import numpy as np

import toolchain
import training
from dataset import Loader
from networks import MultiHead, assign, build
from packing.loops import predict
from pruning import PackNet
from runs.measure import Score
from runs.run import Run, Step
from settings.config import Config
from training import Loss, Phase, cross_entropy

jt = toolchain.start()
from jittor import nn

ALL = "all tasks"  # what joint training calls its one task
NEVER = 10**9  # epochs
LWF_WEIGHT_DECAY = 5e-4  # the authors' release: there, and nowhere else
TEMPERATURE = 2  # of Learning without Forgetting, section 3.1 of that paper


# ------------------------------------------------------------------------------------------------ the plan

def compared(steps: Iterable[Step], c: Config) -> Iterator[Step]:
    """PackNet's `steps`, in which the base network is kept before its prune, and after them those of the baselines."""
    if c.baselines and c.add_to:
        yield (keep,)
    for function, *arguments in steps:
        keeps = c.baselines and function is training.prune and arguments[0] == c.base_task
        yield keep_and_prune if keeps else function, *arguments
    for method in c.baselines:
        for task in [ALL] if method == "joint" else c.task_list:
            yield start, method, task
            for phase in phases(c, method):
                for number in range(phase.epochs):
                    yield epoch, method, task, phase, number
            yield finish, method, task


def phases(c: Config, method: str) -> list[Phase]:
    """How a method trains each of its tasks."""
    warm_up = c.num_epochs_per_task // 4 if method == "lwf" else 0  # the release: 5 of 20
    every, at = (NEVER, ()) if method == "classifier" else (c.lr_decay_every, tuple(c.lr_decay_at))
    decay = LWF_WEIGHT_DECAY if method == "lwf" else c.weight_decay
    return [Phase("warm-up", warm_up, c.initial_lr, every, decay, decay_at=at),
            Phase("train", c.num_epochs_per_task - warm_up, c.initial_lr, every, decay, before=warm_up, decay_at=at)]


# ------------------------------------------------------------------------------------------------ the steps

def keep(run: Run) -> None:
    """Keep the network from which the baselines start."""
    run.kept["dense"] = parameters(run.net)


def keep_and_prune(run: Run, task: str, ratio: float) -> None:
    run.take_best()
    keep(run)
    if run.has_base_data:
        run.results.stages[0]["top1_dense"] = score(run, task).top1
    training.prune(run, task, ratio)


def start(run: Run, method: str, task: str) -> None:
    """The network that the method trains next: the base network, or where it goes on with one, that; and a new head."""
    base = run.config.base_task
    first = method not in run.results.baselines
    if first:
        start_from = "the packed network" if run.config.add_to else "the base network before its prune"
        run.log(f"\n== Baseline {method}, for comparison: from {start_from} ==")
        run.results.baselines[method] = dict(tasks=[base] * run.has_base_data + run.config.task_list, top1_by_stage=[], top5_by_stage=[])
    net = run.net
    if first or method == "individual":
        net = build(**run.config.network())
        for stage in run.results.stages[:len(run.results.earlier) or 1]:
            net.add_head(stage["name"], stage["num_classes"])
        assign(net, run.kept["dense"], "the base network")
    run.kept["teacher"] = parameters(net) if method == "lwf" else {}
    run.packnet = PackNet(net)
    for name in run.config.task_list if task == ALL else [task]:
        run.add_head(name)
    if method == "classifier":
        run.packnet.start_task(base)  # which owns every weight, for good
    run.packnet.start_task(task)


def epoch(run: Run, method: str, task: str, phase: Phase, number: int) -> None:
    """One epoch of what the method may move, and a test."""
    begin = time.monotonic()
    if task == ALL:
        loader = Mixture({name: loader for (name, split), loader in run.loaders.items() if split == "train"}, run.net.select)
        tested = run.config.task_list
    else:
        run.net.select(task)
        loader, tested = run.loaders[task, "train"], [task]
    title, lr = f"{method}: {task}, {phase.name} {number + 1}/{phase.epochs}", phase.lr_at(number)
    optimizer = run.begin_epoch(movable(method, run.packnet, task), lr, phase.weight_decay, goes_on=phase.before + number > 0)
    if method == "individual" and not run.config.train_bn:
        fix_statistics(run.packnet)
    loader.epoch = run.seed(method, task, phase.name, number)  # as in training.epoch
    loss_of = lwf_loss(run, phase.name == "warm-up") if method == "lwf" else cross_entropy
    loss, train_top1 = training.train_epoch(run.net, loss_of, loader, optimizer, title)
    split = run.results.judging
    top1 = float(np.mean([score(run, name, split).top1 for name in tested]))
    run.keep_if_best(top1)
    run.results.epoch_line(title, {"lr": lr, "loss": loss, "train_top1": train_top1, f"{split}_top1": top1,
                                   "seconds": time.monotonic() - begin})


def finish(run: Run, method: str, task: str) -> None:
    """Test every task so far; with networks of their own, earlier tasks keep their figures."""
    run.take_best()
    names = run.results.baselines[method]["tasks"]
    tested = [task] if method == "individual" else names[:names.index(task) + 1] if task in names else names
    scores = {name: score(run, name) for name in tested}
    top1, top5 = ({name: getattr(figure, key) for name, figure in scores.items()} for key in ("top1", "top5"))
    if method == "individual" and run.has_base_data:
        top1[run.config.base_task] = run.results.stages[0]["top1_dense"]  # of the base network itself
    remember(run, method, task, top1, top5)


def remember(run: Run, method: str, after: str, top1: dict[str, float], top5: dict[str, float]) -> None:
    """`top1`, `top5`: of the tasks that were tested after the task `after`; the others keep their figures."""
    figures = run.results.baselines[method]
    for table, values in ((figures["top1_by_stage"], top1), (figures["top5_by_stage"], top5)):
        before = table[-1] if table else [None] * len(figures["tasks"])
        table.append([values.get(name, old) for name, old in zip(figures["tasks"], before)])
    row = zip(figures["tasks"], figures["top1_by_stage"][-1])
    run.log(f"{method}, after {after}: " + ", ".join(f"{name} {value:.2f} %" for name, value in row if value is not None))


def parameters(net: MultiHead) -> dict[str, np.ndarray]:
    return {name: parameter.numpy() for name, parameter in net.state_dict().items()}


def score(run: Run, task: str, split: str = "test") -> Score:
    """Of the network as it is: nothing is hidden from a task."""
    run.packnet.set_training(False)
    run.net.select(task)
    return Score.of(*predict(run.net, run.loaders[task, split], f"{task}, {split}"))


def movable(method: str, packnet: PackNet, task: str) -> dict[str, jt.Var]:
    """What a step on `task` may move, by name."""
    if method in ("finetune", "individual"):
        return packnet.trainable()
    return {name: parameter for name, parameter in packnet.model.named_parameters()
            if not parameter.is_stop_grad() and (method != "classifier" or name.startswith(f"heads.{task}."))}


def fix_statistics(packnet: PackNet) -> None:
    """Norms with running statistics compute with these, and leave them as they are, while the rest is in training mode."""
    for parameter in packnet.parameters.values():
        if parameter.is_statistic:
            parameter.module.is_train = False


# ------------------------------------------------------------------------------------------------ their parts

def lwf_loss(run: Run, head_only: bool) -> Loss:
    """Of the run's network as it was before the task at hand, and all tasks but that. `head_only`: as of without_forgetting."""
    teacher = build(**run.config.network())
    old_tasks = [task for task in run.net.heads.keys() if task != run.net.task]
    for task in old_tasks:
        teacher.add_head(task, run.net.num_classes(task))
    assign(teacher, run.kept["teacher"], "the network before this task")
    teacher.eval()
    return without_forgetting(teacher, old_tasks, head_only)


def without_forgetting(teacher: MultiHead, old_tasks: list[str], head_only: bool = False) -> Loss:
    """The loss of Learning without Forgetting for the selected head.

    The cross-entropy on the new task, and for every old head the cross-entropy with the teacher's probabilities, both
    softened by the temperature; all with weight 1. `head_only`: with no gradient but to the selected head.
    """
    def loss(net: MultiHead, images: jt.Var, labels: jt.Var) -> tuple[jt.Var, jt.Var]:
        features = net.trunk(images)
        features = features.detach() if head_only else features
        logits = net.heads[net.task](features)
        total = nn.cross_entropy_loss(logits, labels)
        with jt.no_grad():
            before = teacher.trunk(images)
            targets = {task: nn.softmax(teacher.heads[task](before) / TEMPERATURE, dim=1) for task in old_tasks}
        for task, target in targets.items():
            guess = nn.log_softmax(net.heads[task](features) / TEMPERATURE, dim=1)
            guess = guess.detach() if head_only else guess
            total = total - (target.stop_grad() * guess).sum(1).mean()
        return total, logits
    return loss


class Mixture:
    """An epoch of several training loaders at once: every batch is of one task, in an order drawn from seed and epoch;
    `select(task)` is called before a batch is handed out. `part` as of dataset.Loader."""

    def __init__(self, loaders: dict[str, Loader], select: Callable[[str], None]) -> None:
        self.loaders, self.select, self.epoch, self.part = loaders, select, 0, (0, 1)

    def __len__(self) -> int:
        return sum(map(len, self.loaders.values()))

    def __iter__(self) -> Iterator[tuple[jt.Var, jt.Var]]:
        for loader in self.loaders.values():
            loader.epoch = self.epoch
        tasks = np.repeat(list(self.loaders), [len(loader) for loader in self.loaders.values()])
        np.random.default_rng((next(iter(self.loaders.values())).seed, self.epoch, 0)).shuffle(tasks)
        batches = {task: iter(loader) for task, loader in self.loaders.items()}
        for task in tasks:
            self.select(str(task))
            batch = next(batches[task])
            self.part = self.loaders[task].part
            yield batch
