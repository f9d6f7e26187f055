"""PackNet's algorithm: who owns which weight, pruning by magnitude, and weights that stay frozen to the bit.

Mallya & Lazebnik, "PackNet: Adding Multiple Tasks to a Single Network by Iterative Pruning", CVPR 2018, and the
authors' release (github.com/arunmallya/packnet), whose rules this file follows:

  1. A trunk is shared by all tasks; each task has a linear head of its own, which is never pruned.
  2. Every convolution and linear weight of the trunk has an owner: 0 = free, k = the k-th task.        PackNet.owners
  3. Prune task k: in each layer, of the n weights k owns, the round(ratio * n) smallest are freed.    free_smallest
  4. Start task k+1: it takes every free weight; they start from 0.                              PackNet.start_task
  5. While task k trains, only weights it owns and its head move.                                            freeze
  6. Biases and batch norm belong to the first task and stay fixed afterwards;            PackNet.freeze_the_others
     or, as options of the release, each task has its own.                                     packing/parameters.py
  7. Evaluate task k: weights that are free or belong to later tasks count as 0.                  PackNet.task_view

Rule 5 is where implementations fail: they zero gradients, and momentum, weight decay or batch norm's running
statistics move the "frozen" weights all the same. Here the mask is in the last place every optimizer goes through,
the write to the parameter. Jittor compiles it into the update's own kernel, so it costs nothing, and it holds for
any optimizer. Masks are keyed by parameter name.
"""
import contextlib
from collections.abc import Iterator

import numpy as np

import toolchain
from packing.bookkeeping import Bookkeeping
from packing.filters import check_ratio, free_filters
from packing.freezing import fix, hold, thaw
from packing.masks import SeveralMasks, protected
from packing.parameters import OWNED, PACKED, PRIVATE, SHARED, Parameter, parameters_of

jt = toolchain.start()
from jittor import nn

FREE = 0
MAX_TASKS = 255  # an owner is a uint8


def prunable(model: nn.Module) -> dict[str, Parameter]:
    """The weights of `model` that have owners, by name: of convolutions, linear layers and their like, without the tasks' heads
    (rules 1 and 2). Raises ValueError where the network has a parameter that cannot be packed (packing/parameters.py)."""
    return {name: parameter for name, parameter in parameters_of(model).items() if parameter.kind == OWNED}


def cutoff(magnitudes: np.ndarray, ratio: float) -> np.float32 | None:
    """The magnitude up to which weights are freed (rule 3): the r-th smallest, r = round(ratio * n); None if r is 0.

    `magnitudes`: float32 [n], all >= 0; reordered in place (a partial sort, O(n)). `ratio` in [0, 1].
    """
    check_ratio(ratio)
    rank = round(ratio * magnitudes.size)
    if rank == 0:
        return None
    magnitudes.partition(rank - 1)
    return magnitudes[rank - 1]


def free_smallest(weight: jt.Var, owner: jt.Var, task: int, ratio: float) -> int:
    """Free the smallest weights of `task` in one layer (rule 3): they become 0 and owner 0. Returns how many were freed.

    `weight` float32 and `owner` uint8, of one shape; both change in place. Ties at the cut-off are all freed, as
    in the authors' release, so that more than `ratio` may go (weights that are exactly 0, mostly).
    """
    owned = (owner.data == task).ravel()
    magnitudes = np.abs(weight.data).ravel()
    limit = cutoff(magnitudes if owned.all() else magnitudes[owned], ratio)
    if limit is None:
        return 0
    freed = (owner == task) & (weight.abs() <= jt.array(limit))
    weight.assign(jt.ternary(freed, jt.zeros_like(weight), weight))
    owner.assign(jt.ternary(freed, jt.zeros_like(owner), owner))
    return int(freed.sum().item())


def freeze(layer: nn.Module, owner: jt.Var, task: int, attribute: str = "weight") -> None:
    """From now on optimizers move only the entries of `layer.weight` (or `attribute`) whose owner is `task` (rule 5).

    Every optimizer of Jittor writes a step through `parameter.update(new)`. The parameter's own `update` is put in
    front of it: where the owner is another one, the old value is written back, whatever `new` is (a NaN too).
    `owner` is read at each step, so a later change of it counts. A second call replaces the first.
    """
    owner.sync()  # what is still to be computed of it would be computed in every step
    hold(layer, attribute, masked, owner, task)


def masked(weight: jt.Var, new: jt.Var, owner: jt.Var, task: int) -> jt.Var:
    """The step of a frozen weight."""
    return jt.Var.update(weight, jt.ternary(owner == task, new, weight))


class PackNet(Bookkeeping):
    """Several tasks in one network.

        packnet = PackNet(model, prune_ratio=0.75)
        for task in tasks:
            packnet.train_task(task, loaders[task], epochs=20)   # 1. train the weights that are free
            packnet.prune_and_freeze(task)                       # 2. free 75 % of them for later tasks
            packnet.train_task(task, loaders[task], epochs=10)   # 3. re-train the ones it kept
        packnet.evaluate_task(tasks[0], test_loaders[tasks[0]])  # as it was when the next task began, to the bit

    `model` is any Jittor module; `describe()` says what becomes of each of its parameters. With one head per task
    (networks.MultiHead) the head of the task at hand is selected by its name; another model is used as it is.

    `train_biases`, `train_bn`: every task has biases, or norms (batch, layer, ...: parameters and running statistics), of its
    own, which start as those of the task before. `fresh_weights`: the free weights a new task takes over start at random instead of
    from 0, normal with this fraction of He et al.'s deviation. `pack`: which layers are packed, "all", "conv" or "fc"; the others are
    shared. `prune`: "weights", or whole "filters" (packing/filters.py).

    `owners`: {parameter name: uint8 Var in the weight's shape}. What else it holds (`tasks`, `ratios`, ...) and can do
    (`train_task`, `evaluate_task`, `capacity`, ...): packing/bookkeeping.py.
    """

    def __init__(self, model: nn.Module, prune_ratio: float = 0.75, *, train_biases: bool = False, train_bn: bool = False,
                 fresh_weights: float = 0.0, pack: str = "all", prune: str = "weights") -> None:
        if prune not in ("weights", "filters"):
            raise ValueError(f"prune {prune!r} is neither weights nor filters")
        if not 0 <= prune_ratio < 1:
            raise ValueError(f"prune_ratio {prune_ratio} is outside [0, 1)")
        super().__init__(model, dict(train_biases=train_biases, train_bn=train_bn, fresh_weights=fresh_weights, pack=pack, prune=prune))
        if not self.owners:
            raise ValueError(f"the model has no {PACKED[pack]} that could be pruned and takes a gradient")
        self.prune_ratio = prune_ratio

    def start_task(self, task) -> None:
        """Give every free weight, all of which are 0, to `task`, and freeze everything earlier tasks use (rules 4-6)."""
        if str(task) in map(str, self.tasks):  # a head, a file, and so a task, goes by its name
            raise ValueError(f"task {task!r} was started before")
        if len(self.tasks) == MAX_TASKS:
            raise ValueError(f"a network holds at most {MAX_TASKS} tasks")
        self.look_again()
        if self.tasks:
            self.private[self.tasks[-1]] = {name: parameter.clone().stop_grad() for name, parameter in self.own_parameters().items()}
            jt.sync_all()
        self.tasks.append(task)
        k, weights = len(self.tasks), self.weights
        for name, owner in self.owners.items():
            if self.options["fresh_weights"] and k > 1:
                weight = weights[name]
                spread = self.options["fresh_weights"] * (2 / (weight.numel() / weight.shape[0])) ** 0.5
                weight.assign(jt.ternary(owner == FREE, jt.randn(weight.shape) * spread, weight))
            owner.assign(jt.ternary(owner == FREE, jt.full(owner.shape, k, "uint8"), owner))
        self.freeze_the_others()

    def prune(self, task, ratio: float | None = None) -> dict[str, int]:
        """Free `ratio` (default: prune_ratio) of the weights of `task` in each layer (rule 3).

        Returns {parameter name: number of weights freed}. The freed weights are 0 from here on, and stay 0 while
        the task is re-trained. A second prune frees `ratio` of what the first has left: after two by 0.5 the task
        owns a quarter, and `ratios` holds 0.75. Raises ValueError unless `task` is the one that was started last,
        and for a ratio outside [0, 1]; then nothing has changed.
        """
        self.check_open(task)
        self.reclaim()
        ratio = self.prune_ratio if ratio is None else ratio
        check_ratio(ratio)
        k, freed = self.owner_of(task), {}
        for name, weight in self.weights.items():
            if self.options["prune"] == "filters":
                layer = self.parameters[name].module
                freed[name] = free_filters(layer, weight, self.owners[name], k, ratio)
            else:
                freed[name] = free_smallest(weight, self.owners[name], k, ratio)
        before = self.ratios.get(task, 0.0)
        self.ratios[task] = 1 - (1 - before) * (1 - ratio) if before else ratio
        return freed

    prune_and_freeze = prune  # to freeze takes no call of its own: the next start_task does it

    def freeze_the_others(self) -> None:
        """Only what the last task owns, and its head, may move; everything else too if it is the first (rules 5, 6)."""
        task, first = self.tasks[-1], len(self.tasks) == 1
        for name, parameter in self.parameters.items():
            if parameter.is_buffer:
                parameter.var.stop_grad()  # else an optimizer that is given it would move it
            if parameter.kind == OWNED:
                freeze(parameter.module, self.owners[name], len(self.tasks), parameter.attribute)
            elif first or parameter.kind == PRIVATE or self.is_head(name, task):
                thaw(parameter.var)  # an earlier task, or an earlier PackNet, may have fixed it
            else:
                fix(parameter.var)

    def trainable(self) -> dict[str, jt.Var]:
        """What may move now, by name: the prunable weights, the head of the last task, what each task has of its own, and
        all the rest for the first. Gradients that the model's `eval` has stopped are started again.
        A head that was added since the task was started is found here."""
        self.look_again()
        self.freeze_the_others()
        task, first = self.tasks[-1], len(self.tasks) == 1
        moving = {name: parameter.var for name, parameter in self.parameters.items() if parameter.gradient and (
            parameter.kind in (OWNED, PRIVATE) or parameter.kind == SHARED and first or self.is_head(name, task))}
        for var in moving.values():
            if var.is_stop_grad():
                var.start_grad()
        return moving

    def set_training(self, training: bool) -> None:
        """Dropout and norms in training or test mode; a norm whose statistics are shared trains with the first task only (rule 6)."""
        fixed = {id(parameter.module) for parameter in self.parameters.values() if parameter.is_statistic and parameter.kind == SHARED}
        for module in self.model.modules():
            module.is_train = training and not (id(module) in fixed and len(self.tasks) > 1)

    @contextlib.contextmanager
    def task_view(self, task) -> Iterator[nn.Module]:
        """Within this context the model is the network of `task`: later and free weights are 0 (rule 7), its head
        is selected, what it has of its own is in place, and the model is in test mode. Afterwards every value is back, to
        the bit."""
        k, weights, stand_ins = self.owner_of(task), self.weights, {}
        self.reclaim()
        if k < len(self.tasks):  # for the last task there is nothing to hide: what is free is 0
            for name, owner in self.owners.items():
                shown = (owner != FREE) & (owner <= k)
                stand_ins[name] = jt.ternary(shown, weights[name], jt.zeros_like(weights[name])).stop_grad()
            stand_ins |= {name: self.private[task][name] for name in self.own_parameters()}
        parameters = [self.parameters[name].var for name in stand_ins]
        for stand_in in stand_ins.values():
            stand_in.sync()
        swapped, selected = [], getattr(self.model, "task", None)
        try:
            self.viewed = task
            swapped.extend(map(jt.Var.swap, parameters, stand_ins.values()))  # one call into C: Ctrl-C comes before or after all
            self.select(task)
            self.set_training(False)
            yield self.model
        finally:
            list(map(jt.Var.swap, parameters[:len(swapped)], stand_ins.values()))
            self.viewed = None
            if selected is not None:
                self.select(selected)


class PackNetPruning:
    """The same rules without the bookkeeping: masks in, masks out, the caller keeps them (packing/masks.py)."""

    @staticmethod
    def prune_model(model: nn.Module, pruning_ratio: float, previous_masks: SeveralMasks = None) -> dict[str, jt.Var]:
        """Set the `pruning_ratio` smallest weights of each layer to 0, leaving out what `previous_masks` protect.

        Returns the mask of the weights that were kept. Raises ValueError for a ratio outside [0, 1] and for a
        mask that does not fit the model.
        """
        weights, kept = {name: parameter.var for name, parameter in prunable(model).items()}, {}
        for name, earlier in protected(weights, previous_masks).items():
            owner = earlier + jt.array(1).uint8()  # 2 = an earlier task's
            free_smallest(weights[name], owner, 1, pruning_ratio)
            kept[name] = owner == 1
        return kept

    @staticmethod
    def freeze_weights_by_mask(model: nn.Module, masks: SeveralMasks) -> None:
        """From now on no optimizer moves the weights of `masks`; the others train on. Later calls replace this one,
        so that None or {} thaws everything."""
        found = prunable(model)
        for name, keep in protected({name: parameter.var for name, parameter in found.items()}, masks).items():
            freeze(found[name].module, keep, 0, found[name].attribute)  # 0: no mask keeps it
