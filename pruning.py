"""PackNet's algorithm: who owns which weight, pruning by magnitude, and weights that stay frozen to the bit.

Mallya & Lazebnik, "PackNet: Adding Multiple Tasks to a Single Network by Iterative Pruning", CVPR 2018, and the
authors' release (github.com/arunmallya/packnet), whose rules this file follows:

  1. A trunk is shared by all tasks; each task has a linear head of its own, which is never pruned.
  2. Every convolution and linear weight of the trunk has an owner: 0 = free, k = the k-th task.        PackNet.owners
  3. Prune task k: in each layer, of the n weights k owns, the round(ratio * n) smallest are freed.    free_smallest
  4. Start task k+1: it takes every free weight; they start from 0.                              PackNet.start_task
  5. While task k trains, only weights it owns and its head move.                                            freeze
  6. Biases and batch norm belong to the first task and stay fixed afterwards;            PackNet.freeze_the_others
     or, as options of the release, each task has its own.                                       packing/per_task.py
  7. Evaluate task k: weights that are free or belong to later tasks count as 0.                  PackNet.task_view

Rule 5 is where implementations fail: they zero gradients, and momentum, weight decay or batch norm's running
statistics move the "frozen" weights all the same. Here the mask is in the last place every optimizer goes through,
the write to the parameter. Jittor compiles it into the update's own kernel, so it costs nothing, and it holds for
any optimizer. Masks are keyed by parameter name.
"""
import contextlib
import weakref
from collections.abc import Iterator

import numpy as np

import toolchain
from packing.bookkeeping import Bookkeeping
from packing.masks import SeveralMasks, protected
from packing.per_task import private_names

jt = toolchain.start()
from jittor import nn

FREE = 0
MAX_TASKS = 255  # an owner is a uint8


def prunable_layers(model: nn.Module) -> dict[str, nn.Module]:
    """The convolutions and linear layers of `model` by the name of their weight, without those below an attribute
    called `heads` (rules 1 and 2)."""
    return {f"{name}.weight".lstrip("."): layer for name, layer in model.named_modules()
            if isinstance(layer, (nn.Conv, nn.Linear)) and "heads" not in name.split(".")}


def cutoff(magnitudes: np.ndarray, ratio: float) -> np.float32 | None:
    """The magnitude up to which weights are freed (rule 3): the r-th smallest, r = round(ratio * n); None if r is 0.

    `magnitudes`: float32 [n], all >= 0; reordered in place (a partial sort, O(n)). `ratio` in [0, 1].
    """
    if not 0 <= ratio <= 1:
        raise ValueError(f"pruning ratio {ratio} is outside [0, 1]")
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


def freeze(layer: nn.Module, owner: jt.Var, task: int) -> None:
    """From now on optimizers move only the entries of `layer.weight` whose owner is `task` (rule 5).

    Every optimizer of Jittor writes a step through `parameter.update(new)`. The parameter's own `update` is put in
    front of it: where the owner is another one, the old value is written back, whatever `new` is (a NaN too).
    `owner` is read at each step, so a later change of it counts. A second call replaces the first.
    """
    layer_reference = weakref.ref(layer)  # the parameter must not refer to itself: Jittor's Vars are not collected

    def update(new: jt.Var) -> jt.Var:
        weight = layer_reference().weight
        return jt.Var.update(weight, jt.ternary(owner == task, new, weight))

    layer.weight.update = update


def fix(parameter: jt.Var) -> None:
    """From now on no optimizer, and no batch norm, moves any entry of `parameter`.

    The step is computed all the same: momentum that nothing asks for would pile up in Jittor's graph, step by step.
    """
    parameter.update = lambda new: new.sync()


def thaw(parameter: jt.Var) -> None:
    """Undo `fix`."""
    with contextlib.suppress(AttributeError):
        del parameter.update


class PackNet(Bookkeeping):
    """Several tasks in one network.

        packnet = PackNet(model, prune_ratio=0.75)
        for task in tasks:
            packnet.train_task(task, loaders[task], epochs=20)   # 1. train the weights that are free
            packnet.prune_and_freeze(task)                       # 2. free 75 % of them for later tasks
            packnet.train_task(task, loaders[task], epochs=10)   # 3. re-train the ones it kept
        packnet.evaluate_task(tasks[0], test_loaders[tasks[0]])  # as it was when the next task began, to the bit

    `model` is any Jittor module. With one head per task (networks.MultiHead) the head of the task at hand is
    selected by its name; a model without `heads` is used as it is, its last layer packed like the others.

    `train_biases`, `train_bn`: every task has biases, or batch norm (parameters and running statistics), of its own, which
    start as those of the task before. `fresh_weights`: the free weights a new task takes over start at random instead of from 0,
    normal with this fraction of He et al.'s deviation.

    `owners`: {parameter name: uint8 Var in the weight's shape}. What else it holds (`tasks`, `ratios`, ...) and can do
    (`train_task`, `evaluate_task`, `capacity`, ...): packing/bookkeeping.py.
    """

    def __init__(self, model: nn.Module, prune_ratio: float = 0.75, *, train_biases: bool = False, train_bn: bool = False,
                 fresh_weights: float = 0.0) -> None:
        if not 0 <= prune_ratio < 1:
            raise ValueError(f"prune_ratio {prune_ratio} is outside [0, 1)")
        layers = prunable_layers(model)
        if not layers:
            raise ValueError("the model has no convolution or linear layer that could be pruned")
        super().__init__(model, layers, private_names(model, layers, train_biases, train_bn))
        self.prune_ratio = prune_ratio
        self.options = dict(train_biases=train_biases, train_bn=train_bn, fresh_weights=fresh_weights)

    def start_task(self, task) -> None:
        """Give every free weight, all of which are 0, to `task`, and freeze everything earlier tasks use (rules 4-6)."""
        if task in self.tasks:
            raise ValueError(f"task {task!r} was started before")
        if len(self.tasks) == MAX_TASKS:
            raise ValueError(f"a network holds at most {MAX_TASKS} tasks")
        if self.tasks:
            self.private[self.tasks[-1]] = {name: parameter.clone().stop_grad() for name, parameter in self.own_parameters().items()}
            jt.sync_all()
        self.tasks.append(task)
        k = len(self.tasks)
        for name, owner in self.owners.items():
            if self.options["fresh_weights"] and k > 1:
                weight = self.layers[name].weight
                spread = self.options["fresh_weights"] * (2 / (weight.numel() / weight.shape[0])) ** 0.5
                weight.assign(jt.ternary(owner == FREE, jt.randn(weight.shape) * spread, weight))
            owner.assign(jt.ternary(owner == FREE, jt.full(owner.shape, k, "uint8"), owner))
        self.freeze_the_others()

    def prune(self, task, ratio: float | None = None) -> dict[str, int]:
        """Free `ratio` (default: prune_ratio) of the weights of `task` in each layer (rule 3).

        Returns {parameter name: number of weights freed}. The freed weights are 0 from here on, and stay 0 while
        the task is re-trained. Raises ValueError unless `task` is the one that was started last.
        """
        self.check_open(task)
        self.ratios[task] = self.prune_ratio if ratio is None else ratio
        return {name: free_smallest(layer.weight, self.owners[name], self.owner_of(task), self.ratios[task])
                for name, layer in self.layers.items()}

    prune_and_freeze = prune  # to freeze takes no call of its own: the next start_task does it

    def freeze_the_others(self) -> None:
        """Only what the last task owns, and its head, may move; everything else too if it is the first (rules 5, 6)."""
        for name, parameter in self.model.state_dict().items():
            if name in self.layers:
                freeze(self.layers[name], self.owners[name], len(self.tasks))
            elif len(self.tasks) == 1 or name in self.private_names or self.is_head(name, self.tasks[-1]):
                thaw(parameter)  # an earlier task, or an earlier PackNet, may have fixed it
            else:
                fix(parameter)

    def trainable(self) -> dict[str, jt.Var]:
        """What may move now, by name: the prunable weights, the head of the last task, what each task has of its own, and
        all the rest for the first."""
        task, first = self.tasks[-1], len(self.tasks) == 1
        return {name: parameter for name, parameter in self.model.named_parameters()
                if name in self.layers or self.is_head(name, task)
                or name in self.private_names and not parameter.is_stop_grad()
                or first and not parameter.is_stop_grad() and "heads" not in name.split(".")}

    def set_training(self, training: bool) -> None:
        """Dropout and batch norm in training or test mode; shared batch norm trains with the first task only (rule 6)."""
        for module in self.model.modules():
            fixed = isinstance(module, nn.BatchNorm) and len(self.tasks) > 1 and not self.options["train_bn"]
            module.is_train = training and not fixed

    @contextlib.contextmanager
    def task_view(self, task) -> Iterator[nn.Module]:
        """Within this context the model is the network of `task`: later and free weights are 0 (rule 7), its head
        is selected, what it has of its own is in place, and the model is in test mode. Afterwards every value is back, to
        the bit."""
        k, swapped = self.owner_of(task), []
        if k < len(self.tasks):  # for the last task there is nothing to hide: what is free is 0
            for name, owner in self.owners.items():
                weight = self.layers[name].weight
                swapped.append((weight, jt.ternary((owner != FREE) & (owner <= k), weight, jt.zeros_like(weight)).stop_grad()))
            swapped += [(parameter, self.private[task][name]) for name, parameter in self.own_parameters().items()]
        for parameter, stand_in in swapped:
            stand_in.sync()
            parameter.swap(stand_in)
        selected = getattr(self.model, "task", None)
        self.select(task)
        self.set_training(False)
        try:
            yield self.model
        finally:
            for parameter, stand_in in swapped:
                parameter.swap(stand_in)
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
        layers, kept = prunable_layers(model), {}
        for name, earlier in protected(layers, previous_masks).items():
            owner = earlier + jt.array(1).uint8()  # 2 = an earlier task's
            free_smallest(layers[name].weight, owner, 1, pruning_ratio)
            kept[name] = owner == 1
        return kept

    @staticmethod
    def freeze_weights_by_mask(model: nn.Module, masks: SeveralMasks) -> None:
        """From now on no optimizer moves the weights of `masks`; the others train on. Later calls replace this one,
        so that None or {} thaws everything."""
        layers = prunable_layers(model)
        for name, keep in protected(layers, masks).items():
            freeze(layers[name], keep, 0)  # 0: no mask keeps it
