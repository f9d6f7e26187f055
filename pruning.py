"""PackNet's algorithm: who owns which weight, pruning by magnitude, weights frozen to the bit.

Mallya & Lazebnik, "PackNet: Adding Multiple Tasks to a Single Network by Iterative Pruning", CVPR
2018, and the authors' release (github.com/arunmallya/packnet), whose rules this file follows:

  1. All tasks share a trunk; each task has a linear head of its own, which is
     never pruned.                                                         networks.MultiHead
  2. Every convolution and linear weight of the trunk has an owner:
     0 = free, k = the k-th task.                                                   PackNet.owners
  3. Prune task k: in each layer, of the n weights that k owns, the round(ratio * n)
     smallest are freed, and those equal to the largest of them.                     free_smallest
  4. Start task k+1: it takes every free weight; they start from 0.             PackNet.start_task
  5. While task k trains, only weights that it owns and its head move.                      freeze
  6. Biases and batch norm belong to the first task and stay fixed afterwards;
     or, as options of the release, each task has its own.               PackNet.freeze_the_others
  7. Evaluate task k: weights that are free or of later tasks count as 0.        PackNet.task_view

Rule 5 is where implementations fail: they zero gradients, and momentum, weight decay or batch
norm's running statistics move the "frozen" weights all the same. Here the mask is in the last place
that every optimizer goes through, the write to the parameter. Jittor compiles it into the update's
own kernel, so it costs nothing, and it holds for any optimizer. Masks are keyed by parameter name.
"""
import contextlib
from collections.abc import Iterable, Iterator, Mapping

import numpy as np

import toolchain
from packing import changes, loops
from packing.capacity import counted
from packing.filters import check_ratio, free_filters
from packing.freezing import fix, hold, thaw
from packing.masks import SeveralMasks, protected
from packing.parameters import HEAD, OWNED, PACKED, PRIVATE, SHARED, Parameter, parameters_of, table

jt = toolchain.start()
from jittor import nn

FREE = 0
MAX_TASKS = 255  # an owner is a uint8


def prunable(model: nn.Module) -> dict[str, Parameter]:
    """The weights of `model` that have owners, by name: of convolutions, linear layers and their
    like, without the tasks' heads (rules 1 and 2). Raises ValueError where the network has a
    parameter that cannot be packed (packing/parameters.py)."""
    return {name: parameter for name, parameter in parameters_of(model).items()
            if parameter.kind == OWNED}


def cutoff(magnitudes: np.ndarray, ratio: float) -> np.float32 | None:
    """The magnitude up to which weights are freed (rule 3): the r-th smallest, r = round(ratio *
    n); None if r is 0. Raises ValueError for a ratio outside [0, 1].

    `magnitudes`: float32 [n], all >= 0; reordered in place (a partial sort, O(n)).
    """
    check_ratio(ratio)
    rank = round(ratio * magnitudes.size)
    if rank == 0:
        return None
    magnitudes.partition(rank - 1)
    return magnitudes[rank - 1]


def free_smallest(weight: jt.Var, owner: jt.Var, task: int, ratio: float) -> int:
    """Free the smallest weights of `task` in one layer (rule 3): they become 0 and owner 0. Returns
    how many were freed.

    `weight` float32 and `owner` uint8, of one shape; both change in place. Ties at the cut-off are
    all freed, as in the authors' release, so that more than `ratio` may go: mostly weights that are
    exactly 0, as those which a task took over and never moved.
    """
    owned = (owner.data == task).ravel()
    magnitudes = np.abs(weight.data).ravel()
    if not owned.all():
        magnitudes = magnitudes[owned]
    limit = cutoff(magnitudes, ratio)
    if limit is None:
        return 0
    freed = (owner == task) & (weight.abs() <= jt.array(limit))
    weight.assign(jt.ternary(freed, jt.zeros_like(weight), weight))
    owner.assign(jt.ternary(freed, jt.zeros_like(owner), owner))
    return int(freed.sum().item())


def freeze(layer: nn.Module, owner: jt.Var, task: int, attribute: str = "weight") -> None:
    """From now on optimizers move only the entries of `layer.weight` (or `attribute`) whose owner
    is `task` (rule 5).

    Every optimizer of Jittor writes a step through `parameter.update(new)`. The parameter's own
    `update` is put in front of it: where the owner is another one, the old value is written back,
    whatever `new` is (a NaN too). `owner` is read at each step, so a later change of it counts. A
    second call replaces the first.
    """
    owner.sync()  # what is still to be computed of it would be computed in every step
    hold(layer, attribute, masked, owner, task)


def masked(weight: jt.Var, new: jt.Var, owner: jt.Var, task: int) -> jt.Var:
    """The step of a frozen weight."""
    return jt.Var.update(weight, jt.ternary(owner == task, new, weight))


class PackNet:
    """Several tasks in one network.

        packnet = PackNet(model, prune_ratio=0.75)
        for task in tasks:
            packnet.train_task(task, loaders[task], epochs=20)  # 1. train the weights that are free
            packnet.prune_and_freeze(task)                      # 2. free 75 % of them for later
            packnet.train_task(task, loaders[task], epochs=10)  # 3. re-train those that it kept
        packnet.evaluate_task(tasks[0], test_loaders[tasks[0]])  # as it was, to the bit

    `model` is any Jittor module; `describe()` says what becomes of each of its parameters. With one
    head per task (networks.MultiHead) the head of the task at hand is selected by its name; another
    model is used as it is.

    `train_biases`, `train_bn`: every task has biases, or norms (batch, layer, ...: parameters and
    running statistics), of its own, which start as those of the task before. `free_weights`: the
    free weights that a new task takes over start at random instead of from 0, normal with this
    fraction of He et al.'s deviation. `packed_layers`: "all", "conv" (convolutions only), "fc" (all
    but convolutions) or "no-depthwise" (all but depthwise ones); the others are shared.
    `pruned_units`: what a prune frees, single "weights" or whole "filters" (packing/filters.py).
    Raises ValueError for a value that is none of these, and for a model that cannot be packed.

    Attributes:
        model, prune_ratio    as given
        tasks       names in the order they were added; the k-th has owner k
        owners      {parameter name: uint8 Var in the weight's shape}, 0 = free
        ratios      {task: fraction of its weights that its prunes have freed, as they were told to}
        private     {task: {parameter name: Var}} of all tasks but the last, whose are in the model
        parameters  {parameter name: packing.parameters.Parameter} of all that the model has
        viewed      the task whose view is entered, None for none
    """

    def __init__(self, model: nn.Module, prune_ratio: float = 0.75, *, train_biases: bool = False,
                 train_bn: bool = False, free_weights: float = 0.0, packed_layers: str = "all",
                 pruned_units: str = "weights") -> None:
        if pruned_units not in ("weights", "filters"):
            raise ValueError(f"pruned_units {pruned_units!r} is neither weights nor filters")
        if not 0 <= prune_ratio < 1:
            raise ValueError(f"prune_ratio {prune_ratio} is outside [0, 1)")
        self.model = model
        self.prune_ratio = prune_ratio
        self.free_weights = free_weights
        self.pruned_units = pruned_units
        self.options = dict(train_biases=train_biases, train_bn=train_bn,
                            packed_layers=packed_layers)  # what each parameter's kind follows from
        self.parameters = parameters_of(model, **self.options)
        self.owners = {name: jt.zeros(parameter.var.shape, "uint8").stop_grad()
                       for name, parameter in self.parameters.items() if parameter.kind == OWNED}
        if not self.owners:
            raise ValueError(f"the model has no {PACKED[packed_layers]} that could be pruned and "
                             "takes a gradient")
        self.tasks: list = []
        self.ratios: dict = {}
        self.private: dict = {}
        self.viewed = None

    # ---- the rules

    def start_task(self, task) -> None:
        """Give every free weight to `task`, and freeze all that earlier tasks use (rules 4 to 6).

        Raises ValueError for a task that was started before, and for one task too many.
        """
        if str(task) in map(str, self.tasks):  # heads and files know a task by its text
            raise ValueError(f"task {task!r} was started before")
        if len(self.tasks) == MAX_TASKS:
            raise ValueError(f"a network holds at most {MAX_TASKS} tasks")
        self.look_again()
        if self.tasks:
            self.private[self.tasks[-1]] = {name: parameter.clone().stop_grad()
                                            for name, parameter in self.own_parameters().items()}
            jt.sync_all()
        self.tasks.append(task)
        k = len(self.tasks)
        for name, owner in self.owners.items():
            if self.free_weights and k > 1:
                weight = self.parameters[name].var
                deviation = (2 / (weight.numel() / weight.shape[0])) ** 0.5  # He et al.'s
                start = jt.randn(weight.shape) * (self.free_weights * deviation)
                weight.assign(jt.ternary(owner == FREE, start, weight))
            owner.assign(jt.ternary(owner == FREE, jt.full(owner.shape, k, "uint8"), owner))
        self.freeze_the_others()

    def prune(self, task, ratio: float | None = None) -> dict[str, int]:
        """Free `ratio` (default: prune_ratio) of the weights of `task` in each layer (rule 3).

        Returns {parameter name: number of weights freed}. The freed weights are 0 from here on, and
        stay 0 while the task is re-trained. A second prune frees `ratio` of what the first has
        left: after two by 0.5 the task owns a quarter, and `ratios` holds 0.75. Raises ValueError
        unless `task` is the one that was started last, and for a ratio outside [0, 1]; nothing has
        changed then.
        """
        self.check_open(task)
        self.reclaim()
        ratio = self.prune_ratio if ratio is None else ratio
        check_ratio(ratio)
        k = self.owner_of(task)
        freed = {}
        for name, owner in self.owners.items():
            parameter = self.parameters[name]
            if self.pruned_units == "filters":
                freed[name] = free_filters(parameter.module, parameter.var, owner, k, ratio)
            else:
                freed[name] = free_smallest(parameter.var, owner, k, ratio)
        before = self.ratios.get(task, 0.0)
        self.ratios[task] = 1 - (1 - before) * (1 - ratio) if before else ratio
        return freed

    prune_and_freeze = prune  # to freeze takes no call of its own: the next start_task does it

    def freeze_the_others(self) -> None:
        """Only what the last task owns, what it has of its own and its head may move; while the
        first task is the only one, everything may (rules 5 and 6)."""
        first = len(self.tasks) == 1
        for name, parameter in self.parameters.items():
            if parameter.is_buffer:
                parameter.var.stop_grad()  # else an optimizer that is given it would move it
            if parameter.kind == OWNED:
                freeze(parameter.module, self.owners[name], len(self.tasks), parameter.attribute)
            elif first or self.may_move(parameter):
                thaw(parameter.var)  # an earlier task, or an earlier PackNet, may have fixed it
            else:
                fix(parameter.var)

    def may_move(self, parameter: Parameter) -> bool:
        """Whether training the last task moves the parameter; of a weight that has owners, the part
        that the task owns."""
        if parameter.kind in (OWNED, PRIVATE):
            return True
        if parameter.kind == SHARED and len(self.tasks) == 1:
            return True
        return parameter.kind == HEAD and self.is_head(parameter.name, self.tasks[-1])

    def trainable(self) -> dict[str, jt.Var]:
        """What an optimizer is to be given now, {parameter name: Var}: what may move by gradients.

        A head that was added since the task was started is found here. Gradients that the model's
        `eval` has stopped are started again.
        """
        self.look_again()
        self.freeze_the_others()
        moving = {name: parameter.var for name, parameter in self.parameters.items()
                  if parameter.gradient and self.may_move(parameter)}
        for var in moving.values():
            if var.is_stop_grad():
                var.start_grad()
        return moving

    def set_training(self, training: bool) -> None:
        """Dropout and norms in training or test mode; a norm whose running statistics are shared
        trains with the first task only (rule 6)."""
        fixed = set()
        if len(self.tasks) > 1:
            fixed = {id(parameter.module) for parameter in self.parameters.values()
                     if parameter.is_statistic and parameter.kind == SHARED}
        for module in self.model.modules():
            module.is_train = training and id(module) not in fixed

    @contextlib.contextmanager
    def task_view(self, task) -> Iterator[nn.Module]:
        """Within this context the model is the network of `task`: later and free weights are 0
        (rule 7), its head is selected, what it has of its own is in place, and the model is in test
        mode. Afterwards every value is back, to the bit."""
        k = self.owner_of(task)
        self.reclaim()
        stand_ins = self.seen_by(task) if k < len(self.tasks) else {}  # the last sees all but zeros
        parameters = [self.parameters[name].var for name in stand_ins]
        for stand_in in stand_ins.values():
            stand_in.sync()
        swapped = []
        selected = getattr(self.model, "task", None)
        try:
            self.viewed = task
            # one call into C: Ctrl-C comes before or after all of it
            swapped.extend(map(jt.Var.swap, parameters, stand_ins.values()))
            self.select(task)
            self.set_training(False)
            yield self.model
        finally:
            list(map(jt.Var.swap, parameters[:len(swapped)], stand_ins.values()))
            self.viewed = None
            if selected is not None:
                self.select(selected)

    def seen_by(self, task) -> dict[str, jt.Var]:
        """The values with which an earlier task computes, where they are not the model's."""
        k = self.owner_of(task)
        values = {}
        for name, owner in self.owners.items():
            weight = self.parameters[name].var
            shown = (owner != FREE) & (owner <= k)
            values[name] = jt.ternary(shown, weight, jt.zeros_like(weight)).stop_grad()
        return values | {name: self.private[task][name] for name in self.own_parameters()}

    # ---- training and testing

    def train_task(self, task, train_loader: Iterable, epochs: int, device: str | None = None,
                   lr: float = 0.01, momentum: float = 0.9, weight_decay: float = 0.0) -> None:
        """Train `task` with SGD: a new task on all free weights, the current one on those it owns.

        `train_loader` yields (images float32 [B, ...], labels int [B]). `device` is Jittor's one
        device and can be left out; "cuda" on a CPU start raises ToolchainError. `lr`: 0.01 is for
        any network, from random weights too; main.py has the paper's 0.001 for pretrained ones
        (--initial-lr). Raises ValueError for a task without a head, for one that is frozen because
        a later one has started, for a label that is no class, and for a batch from which a
        batch norm can compute nothing (packing/loops.py).
        """
        toolchain.start(device)
        self.reclaim()
        if task in self.tasks:
            self.check_open(task)
        self.select(task)  # a head that is missing is named before anything has changed
        if task not in self.tasks:
            self.start_task(task)
        moving = list(self.trainable().values())
        self.set_training(True)
        loops.train(self.model, moving, train_loader, epochs, str(task), lr=lr, momentum=momentum,
                    weight_decay=weight_decay)

    def predict(self, task, loader: Iterable, title: str = "") -> tuple[np.ndarray, np.ndarray]:
        """(logits float32 [N, classes], labels int [N]) of `task` over one pass of `loader`."""
        with self.task_view(task) as model:
            return loops.predict(model, loader, title or f"{task}, test")

    def evaluate_task(self, task, test_loader: Iterable) -> float:
        """Top-1 accuracy of `task`, in percent."""
        logits, labels = self.predict(task, test_loader)
        return 100 * float((logits.argmax(1) == labels).mean())

    # ---- what it holds

    @property
    def weights(self) -> dict[str, jt.Var]:
        """The packed weights, {parameter name: float32 Var}."""
        return {name: self.parameters[name].var for name in self.owners}

    @property
    def layers(self) -> dict[str, nn.Module]:
        """All layers that are packed, by the name of their weight."""
        return {name: self.parameters[name].module for name in self.owners}

    @property
    def masks(self) -> dict:
        """{task: {parameter name: bool Var, True where the task owns the weight}}. Computed when
        read."""
        return {task: {name: owner == k for name, owner in self.owners.items()}
                for k, task in enumerate(self.tasks, start=1)}

    def own_parameters(self) -> dict[str, jt.Var]:
        """What the last task has of its own, {parameter name: Var}."""
        return {name: parameter.var for name, parameter in self.parameters.items()
                if parameter.kind == PRIVATE}

    def describe(self) -> str:
        """A table of every parameter with what becomes of it and why, the totals, and the share
        that is packed."""
        return table(self.parameters)

    def capacity(self) -> list[dict]:
        """What the tasks own, expected beside counted: packing.capacity.counted."""
        return counted(self.owners, {task: self.ratios.get(task, 0.0) for task in self.tasks})

    def owner_of(self, task) -> int:
        """The owner that weights of `task` have. Raises ValueError for a task that was never
        started."""
        if task not in self.tasks:
            raise ValueError(f"task {task!r} was never started; known tasks: {self.tasks}")
        return self.tasks.index(task) + 1

    def check_open(self, task) -> None:
        """Raise ValueError unless `task` is the one that was started last."""
        self.owner_of(task)
        if task != self.tasks[-1]:
            raise ValueError(f"task {task!r} is frozen for good: {self.tasks[-1]!r} was started "
                             "after it")

    def is_head(self, name: str, task) -> bool:
        """Whether the parameter `name` belongs to the head of `task`."""
        return self.parameters[name].task == str(task)

    def select(self, task) -> None:
        """Let the model use the head of `task`, where it has heads. Raises ValueError where that
        one is missing."""
        if hasattr(self.model, "select"):
            self.model.select(task)

    # ---- what others have changed

    def look_again(self) -> None:
        """Find the parameters once more: heads may have been added. Raises ValueError where
        anything but a head has come, gone, or become another."""
        self.reclaim()
        found = parameters_of(self.model, **self.options)
        self.parameters = changes.accepted(self.parameters, found)

    def reclaim(self) -> None:
        """Put every parameter back where another Var has taken its place (packing/changes.py).
        Raises ValueError where that is a weight, and while a view is entered."""
        if self.viewed is not None:
            raise ValueError(f"the view of task {self.viewed!r} is entered, in which the weights "
                             "of later tasks are hidden: leave it first")
        if self.tasks:
            changes.put_back(self.parameters)

    def restore(self, tasks: list, owners: Mapping[str, np.ndarray], ratios: Mapping | None = None,
                private: Mapping[str, Mapping[str, np.ndarray]] | None = None) -> None:
        """Take over what an earlier PackNet of the same network held: `tasks`, `owners` (uint8
        arrays by parameter name), `ratios` and `private`. Raises ValueError where one of them is
        missing or does not fit."""
        private = {task: (private or {}).get(task, {}) for task in tasks[:-1]}
        wanted = {name: list(var.shape) for name, var in self.own_parameters().items()}
        for task, arrays in private.items():
            if {name: list(array.shape) for name, array in arrays.items()} != wanted:
                raise ValueError(f"the parameters that {task} has of its own are missing or do not "
                                 "fit the network")
        for name, owner in self.owners.items():
            array = owners.get(name)
            if (array is None or list(array.shape) != list(owner.shape) or array.dtype != np.uint8
                    or array.max(initial=0) > len(tasks)):
                raise ValueError(f"the owner map of {name} is missing or does not fit the network")
            owner.assign(jt.array(array).stop_grad())
        self.private = {task: {name: jt.array(array).stop_grad() for name, array in arrays.items()}
                        for task, arrays in private.items()}
        self.tasks = list(tasks)
        self.ratios = dict(ratios or {})
        self.freeze_the_others()


class PackNetPruning:
    """The same rules without the bookkeeping: masks in, masks out, which the caller keeps
    (packing/masks.py)."""

    @staticmethod
    def prune_model(model: nn.Module, pruning_ratio: float,
                    previous_masks: SeveralMasks = None) -> dict[str, jt.Var]:
        """Set the `pruning_ratio` smallest weights of each layer to 0, leaving out what
        `previous_masks` protect.

        Returns the mask of the weights that were kept, bool by parameter name. Raises ValueError
        for a ratio outside [0, 1] and for a mask that does not fit the model.
        """
        weights = {name: parameter.var for name, parameter in prunable(model).items()}
        kept = {}
        for name, earlier in protected(weights, previous_masks).items():
            owner = (earlier + 1).uint8()  # 1: of this task; 2: of an earlier one
            free_smallest(weights[name], owner, 1, pruning_ratio)
            kept[name] = owner == 1
        return kept

    @staticmethod
    def freeze_weights_by_mask(model: nn.Module, masks: SeveralMasks) -> None:
        """From now on no optimizer moves the weights of `masks`; the others train on. Later calls
        replace this one, so that None or {} thaws everything. Raises ValueError as prune_model."""
        found = prunable(model)
        weights = {name: parameter.var for name, parameter in found.items()}
        for name, keep in protected(weights, masks).items():
            freeze(found[name].module, keep, 0, found[name].attribute)  # 0: no mask keeps it
