"""What the paper compares PackNet with, each from the same base network before its prune, on the same data and loaders.

    classifier   a new head on the frozen base network; its learning rate is constant
    individual   a network of its own for every task, fine-tuned from the base network
    finetune     one network fine-tuned on the tasks one after another: the lower bound, which forgets
    lwf          the same, held back by Learning without Forgetting (Li & Hoiem, ECCV 2016): the new network must give on the new
                 task's images what the network before gave for the old tasks; the first quarter of the epochs trains the new
                 head only
    joint        one network trained on all tasks at once: the upper bound, which needs all data at all times

Each task trains `num_epochs_per_task` epochs at `initial_lr`, divided by 10 every `lr_decay_every` epochs (the authors'
release: 20, 1e-3, 10), on every weight it may move; none is pruned. As a plan of epochs: schedule.py.
"""
from collections.abc import Callable, Iterator

import numpy as np

import toolchain
from dataset import Loader
from networks import MultiHead, assign, build
from pruning import PackNet
from schedule import Phase

jt = toolchain.start()
from jittor import nn  # noqa: E402

TEMPERATURE = 2  # of Learning without Forgetting, section 3.1 of that paper

Loss = Callable[[jt.Var, jt.Var], tuple[jt.Var, jt.Var]]


def cross_entropy(net: nn.Module) -> Loss:
    """The loss of everything else: (images, labels) -> (loss, logits)."""
    return lambda images, labels: (nn.cross_entropy_loss(logits := net(images), labels), logits)


def without_forgetting(net: MultiHead, teacher: MultiHead, old_tasks: list[str]) -> Loss:
    """The loss of Learning without Forgetting for the selected head: (images, labels) -> (loss, logits).

    The cross-entropy on the new task, and for every old head the cross-entropy with the teacher's probabilities, both
    softened by the temperature; all with weight 1.
    """
    def loss(images: jt.Var, labels: jt.Var) -> tuple[jt.Var, jt.Var]:
        features = net.trunk(images)
        logits = net.heads[net.task](features)
        total = nn.cross_entropy_loss(logits, labels)
        with jt.no_grad():
            before = teacher.trunk(images)
            targets = {task: nn.softmax(teacher.heads[task](before) / TEMPERATURE, dim=1) for task in old_tasks}
        for task, target in targets.items():
            guess = nn.log_softmax(net.heads[task](features) / TEMPERATURE, dim=1)
            total = total - (target.stop_grad() * guess).sum(1).mean()
        return total, logits
    return loss


def loss_of(phase: Phase, net: MultiHead, arch: str, teacher: dict[str, np.ndarray]) -> Loss:
    """What a step of this phase lowers. `teacher`: for "lwf", the parameters of `net` before the task at hand, by name."""
    if phase.method != "lwf":
        return cross_entropy(net)
    before = build(arch)
    old_tasks = [task for task in net.heads.keys() if task != net.task]
    for task in old_tasks:
        before.add_head(task, net.num_classes(task))
    assign(before, teacher, "the network before this task")
    before.eval()
    return without_forgetting(net, before, old_tasks)


def trainable(phase: Phase, packnet: PackNet, task: str) -> dict[str, jt.Var]:
    """What a step on `task` may move, by name."""
    if phase.method in ("", "finetune", "individual"):
        return packnet.trainable()
    head_only = phase.method == "classifier" or phase.name == "warm-up"
    return {name: parameter for name, parameter in packnet.model.named_parameters()
            if not parameter.is_stop_grad() and (not head_only or name.startswith(f"heads.{task}."))}


class Mixture:
    """An epoch of several training loaders at once: every batch is of one task, in an order drawn from seed and epoch;
    `select(task)` is called before a batch is handed out."""

    def __init__(self, loaders: dict[str, Loader], select: Callable[[str], None]) -> None:
        self.loaders, self.select, self.epoch = loaders, select, 0

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
            yield next(batches[task])
