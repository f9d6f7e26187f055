"""PackNet's algorithm: who owns which weight, pruning by magnitude, and weights that stay frozen to the bit.

Mallya & Lazebnik, "PackNet: Adding Multiple Tasks to a Single Network by Iterative Pruning", CVPR 2018, and the
authors' release (github.com/arunmallya/packnet), whose rules this file follows:

  1. A trunk is shared by all tasks; each task has a linear head of its own, which is never pruned.
  2. Every convolution and linear weight of the trunk has an owner: 0 = free, k = the k-th task.   PackNet.owners
  3. Prune task k: in each layer, of the n weights k owns, the round(ratio * n) smallest are freed.    free_smallest
  4. Start task k+1: it takes every free weight; they start from 0.                              PackNet.start_task
  5. While task k trains, only weights it owns and its head move.                                            freeze
  6. Biases and batch norm belong to the first task and stay fixed afterwards;                   PackNet.start_task
     or, as options of the release, each task has its own.                                          PackNet.private
  7. Evaluate task k: weights that are free or belong to later tasks count as 0.                  PackNet.task_view

Rule 5 is where implementations fail: they zero gradients, and momentum, weight decay or batch norm's running
statistics move the "frozen" weights all the same. Here the mask is in the last place every optimizer goes through,
the write to the parameter. Jittor compiles it into the update's own kernel, so it costs nothing, and it holds for
any optimizer. Masks are keyed by parameter name.
"""
import contextlib
import weakref
from collections.abc import Iterable, Iterator, Mapping

import numpy as np
from tqdm import tqdm

import toolchain

jt = toolchain.start()
from jittor import nn  # noqa: E402

FREE = 0
MAX_TASKS = 255  # an owner is a uint8

Masks = Mapping[str, "jt.Var | np.ndarray"]


# -------------------------------------------------------------------------------------------- which weights, rules 1-2

def prunable_layers(model: nn.Module) -> dict[str, nn.Module]:
    """The convolutions and linear layers of `model` by the name of their weight, without those below an attribute
    called `heads`."""
    return {f"{name}.weight".lstrip("."): layer for name, layer in model.named_modules()
            if isinstance(layer, (nn.Conv, nn.Linear)) and "heads" not in name.split(".")}


def prunable_weights(model: nn.Module) -> dict[str, jt.Var]:
    """The weights that can be pruned: {parameter name: float32 Var}."""
    return {name: layer.weight for name, layer in prunable_layers(model).items()}


# -------------------------------------------------------------------------------------------- pruning, rule 3

def cutoff(magnitudes: np.ndarray, ratio: float) -> np.float32 | None:
    """The magnitude up to which weights are freed: the r-th smallest, r = round(ratio * n); None if r is 0.

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
    """Free the smallest weights of `task` in one layer: they become 0 and owner 0. Returns how many were freed.

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


# -------------------------------------------------------------------------------------------- freezing, rule 5

def freeze(layer: nn.Module, owner: jt.Var, task: int) -> None:
    """From now on optimizers move only the entries of `layer.weight` whose owner is `task`.

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


# -------------------------------------------------------------------------------------------- PackNet

class PackNet:
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
    start as those of the task before. `fresh_weights`: the free weights a new task takes over start at random (He et al.'s
    normal initialisation) instead of from 0.

    Attributes: `tasks` (names in the order they were added; the k-th has owner k), `owners` ({parameter name:
    uint8 Var in the weight's shape}), `ratios` ({task: the ratio it was pruned with}), `private_names` (parameters of
    which each task has its own) and `private` ({task: {parameter name: Var}} of all tasks but the last, whose are in the
    model).
    """

    def __init__(self, model: nn.Module, prune_ratio: float = 0.75, *, train_biases: bool = False, train_bn: bool = False,
                 fresh_weights: bool = False) -> None:
        if not 0 <= prune_ratio < 1:
            raise ValueError(f"prune_ratio {prune_ratio} is outside [0, 1)")
        self.model = model
        self.prune_ratio = prune_ratio
        self.tasks: list = []
        self.ratios: dict = {}
        self.layers = prunable_layers(model)
        if not self.layers:
            raise ValueError("the model has no convolution or linear layer that could be pruned")
        self.owners = {name: jt.zeros(layer.weight.shape, "uint8").stop_grad() for name, layer in self.layers.items()}
        self.fresh_weights, self.train_bn = fresh_weights, train_bn
        self.private_names = set()
        for name, module in model.named_modules():
            norm = isinstance(module, nn.BatchNorm)
            if "heads" not in name.split(".") and (train_bn if norm else train_biases and f"{name}.weight".lstrip(".") in self.layers):
                self.private_names |= {f"{name}.{part}".lstrip(".") for part in (
                    ("weight", "bias", "running_mean", "running_var") if norm else ("bias",))
                    if getattr(module, part, None) is not None}
        self.private: dict = {}

    @property
    def weights(self) -> dict[str, jt.Var]:
        return {name: layer.weight for name, layer in self.layers.items()}

    @property
    def masks(self) -> dict:
        """{task: {parameter name: bool Var, True where the task owns the weight}}. Computed when read."""
        return {task: {name: owner == k for name, owner in self.owners.items()}
                for k, task in enumerate(self.tasks, start=1)}

    def owner_of(self, task) -> int:
        if task not in self.tasks:
            raise ValueError(f"task {task!r} was never started; known tasks: {self.tasks}")
        return self.tasks.index(task) + 1

    # ---- the life of a task

    def start_task(self, task) -> None:
        """Give every free weight to `task` and freeze everything earlier tasks use (rules 4-6)."""
        if self.tasks:
            self.private[self.tasks[-1]] = {name: parameter.clone().stop_grad() for name, parameter in self._live().items()}
            jt.sync_all()
        if task in self.tasks:
            raise ValueError(f"task {task!r} was started before")
        if len(self.tasks) == MAX_TASKS:
            raise ValueError(f"a network holds at most {MAX_TASKS} tasks")
        self.tasks.append(task)
        k = len(self.tasks)
        for name, owner in self.owners.items():
            if self.fresh_weights and k > 1:
                weight = self.layers[name].weight
                spread = (2 / (weight.numel() / weight.shape[0])) ** 0.5
                weight.assign(jt.ternary(owner == FREE, jt.randn(weight.shape) * spread, weight))
            owner.assign(jt.ternary(owner == FREE, jt.full(owner.shape, k, "uint8"), owner))
        self._freeze_the_others()

    def _live(self) -> dict[str, jt.Var]:
        """The private parameters of the last task, by name."""
        return {name: parameter for name, parameter in self.model.state_dict().items() if name in self.private_names}

    def prune(self, task, ratio: float | None = None) -> dict[str, int]:
        """Free `ratio` (default: prune_ratio) of the weights of `task` in each layer (rule 3).

        Returns {parameter name: number of weights freed}. The freed weights are 0 from here on, and stay 0 while
        the task is re-trained. Raises ValueError unless `task` is the one that was started last.
        """
        self._check_open(task)
        self.ratios[task] = self.prune_ratio if ratio is None else ratio
        return {name: free_smallest(layer.weight, self.owners[name], self.owner_of(task), self.ratios[task])
                for name, layer in self.layers.items()}

    def prune_and_freeze(self, task, ratio: float | None = None) -> dict[str, int]:
        """`prune`; what the task keeps is moved by further `train_task(task, ...)` only, and by nothing at all
        once the next task has started."""
        return self.prune(task, ratio)

    def trainable(self) -> dict[str, jt.Var]:
        """What may move now, by name: the prunable weights, the head of the last task, what each task has of its own, and
        all the rest for the first."""
        task, first = self.tasks[-1], len(self.tasks) == 1
        return {name: parameter for name, parameter in self.model.named_parameters()
                if name in self.layers or self._is_head(name, task)
                or name in self.private_names and not parameter.is_stop_grad()
                or first and not parameter.is_stop_grad() and "heads" not in name.split(".")}

    def set_training(self, training: bool) -> None:
        """Dropout and batch norm in training or test mode; shared batch norm trains with the first task only (rule 6)."""
        for module in self.model.modules():
            fixed = isinstance(module, nn.BatchNorm) and len(self.tasks) > 1 and not self.train_bn
            module.is_train = training and not fixed

    def train_task(self, task, train_loader: Iterable, epochs: int, device: str | None = None,
                   lr: float = 0.01, momentum: float = 0.9, weight_decay: float = 0.0) -> None:
        """Train `task` with SGD: a new task on all free weights, the current one on the weights it owns.

        `train_loader` yields (images float32 [B, ...], labels int [B]). `device` is Jittor's one device and can
        be left out; "cuda" on a CPU start raises ToolchainError. Raises ValueError for a task that is frozen
        because a later one has started.
        """
        toolchain.start(device)
        if task not in self.tasks:
            self.start_task(task)
        self._check_open(task)
        self._select(task)
        self.set_training(True)
        optimizer = nn.SGD(list(self.trainable().values()), lr, momentum=momentum, weight_decay=weight_decay)
        for epoch in range(epochs):
            for images, labels in tqdm(train_loader, desc=f"{task}: epoch {epoch + 1}/{epochs}", leave=False, delay=1):
                optimizer.step(nn.cross_entropy_loss(self.model(images), labels))
        jt.sync_all()

    def restore(self, tasks: list, owners: dict[str, np.ndarray], ratios: dict | None = None,
                private: dict[str, dict[str, np.ndarray]] | None = None) -> None:
        """Take over what an earlier PackNet of the same network held: `tasks`, `owners` (uint8 arrays by parameter name),
        `ratios` and `private`. Raises ValueError where one of them is missing or does not fit."""
        self.private = {task: {name: jt.array(array).stop_grad() for name, array in arrays.items()}
                        for task, arrays in (private or {}).items()}
        live = self._live()
        for task in tasks[:-1]:
            own = self.private.setdefault(task, {})
            if {name: list(var.shape) for name, var in own.items()} != {name: list(var.shape) for name, var in live.items()}:
                raise ValueError(f"the parameters that {task} has of its own are missing or do not fit the network")
        for name, owner in self.owners.items():
            array = owners.get(name)
            if array is None or list(array.shape) != list(owner.shape) or array.dtype != np.uint8 \
                    or array.max(initial=0) > len(tasks):
                raise ValueError(f"the owner map of {name} is missing or does not fit the network")
            owner.assign(jt.array(array).stop_grad())
        self.tasks, self.ratios = list(tasks), dict(ratios or {})
        self._freeze_the_others()

    # ---- using what was packed

    @contextlib.contextmanager
    def task_view(self, task) -> Iterator[nn.Module]:
        """Within this context the model is the network of `task`: later and free weights are 0 (rule 7), its head
        is selected, what it has of its own is in place, and the model is in test mode. Afterwards every value is back, to
        the bit."""
        k = self.owner_of(task)
        swapped = []
        if k < len(self.tasks):  # for the last task there is nothing to hide: what is free is 0
            for name, weight in self.weights.items():
                owner = self.owners[name]
                swapped.append((weight, jt.ternary((owner != FREE) & (owner <= k), weight, jt.zeros_like(weight)).stop_grad()))
            swapped += [(parameter, self.private[task][name]) for name, parameter in self._live().items()]
        for parameter, stand_in in swapped:
            stand_in.sync()
            parameter.swap(stand_in)
        selected = getattr(self.model, "task", None)
        self._select(task)
        self.set_training(False)
        try:
            yield self.model
        finally:
            for parameter, stand_in in swapped:
                parameter.swap(stand_in)
            if selected is not None:
                self._select(selected)

    def predict(self, task, loader: Iterable, title: str = "") -> tuple[np.ndarray, np.ndarray]:
        """(logits float32 [N, classes], labels int [N]) of `task` over one pass of `loader`."""
        with self.task_view(task) as model:
            return predict(model, loader, title or f"{task}, test")

    def evaluate_task(self, task, test_loader: Iterable) -> float:
        """Top-1 accuracy of `task`, in percent."""
        logits, labels = self.predict(task, test_loader)
        return 100 * float((logits.argmax(1) == labels).mean())

    def capacity(self) -> list[dict]:
        """What the tasks own, expected beside measured: a row per task, fractions of all prunable weights.

        Keys: task, available, used (expected from the ratios), measured_available, measured_used (counted),
        owned_weights.
        """
        total = sum(weight.numel() for weight in self.weights.values())
        rows = capacity_table([self.ratios.get(task, 0.0) for task in self.tasks])
        left = total
        for k, (task, row) in enumerate(zip(self.tasks, rows), start=1):
            owned = sum(int((owner == k).sum().item()) for owner in self.owners.values())
            row.update(task=task, measured_available=left / total, measured_used=owned / total, owned_weights=owned)
            left -= owned
        return rows

    # ---- helpers

    def _freeze_the_others(self) -> None:
        """Only what the last task owns, and its head, may move; everything else too if it is the first (rules 5, 6)."""
        for name, parameter in self.model.state_dict().items():
            if name in self.layers:
                freeze(self.layers[name], self.owners[name], len(self.tasks))
            elif len(self.tasks) == 1 or name in self.private_names or self._is_head(name, self.tasks[-1]):
                thaw(parameter)  # an earlier task, or an earlier PackNet, may have fixed it
            else:
                fix(parameter)

    def _check_open(self, task) -> None:
        self.owner_of(task)
        if task != self.tasks[-1]:
            raise ValueError(f"task {task!r} is frozen for good: {self.tasks[-1]!r} was started after it")

    def _is_head(self, name: str, task) -> bool:
        return f".heads.{task}." in f".{name}"

    def _select(self, task) -> None:
        if hasattr(self.model, "select"):
            self.model.select(task)


def predict(model: nn.Module, loader: Iterable, title: str = "test") -> tuple[np.ndarray, np.ndarray]:
    """(logits float32 [N, classes], labels int [N]) of the model as it is, over one pass of `loader`. Under mpirun the
    processes share a dataset.Loader's batches, and each gets all results."""
    logits, targets = [], []
    with jt.no_grad():
        for images, labels in tqdm(loader, title, unit="batch", leave=False, delay=1):
            logits.append(model(images))
            targets.append(labels)
            jt.sync_all()  # compute; a GPU goes on with the next batch meanwhile
    results = np.concatenate([batch.numpy() for batch in logits]), np.concatenate([np.asarray(batch) for batch in targets])
    return tuple(map(loader.gather, results)) if hasattr(loader, "gather") else results


def capacity_table(ratios: Iterable[float]) -> list[dict]:
    """The fraction of each layer a task finds free and the fraction it keeps, for one ratio per task in order.

    With 0.75 throughout: available 1, 0.75, 0.5625, 0.4219; used 0.25, 0.1875, 0.1406, 0.1055.
    """
    rows, available = [], 1.0
    for number, ratio in enumerate(ratios, start=1):
        used = available * (1 - ratio)
        rows.append(dict(task=number, available=available, used=used))
        available -= used
    return rows


class PackNetPruning:
    """The same rules without the bookkeeping: masks in, masks out, the caller keeps them.

    A mask is {parameter name: bool Var}, True where a task keeps the weight. `previous_masks` and `masks` may be
    one such dictionary, a list of them, a {task: dictionary}, or None.
    """

    @staticmethod
    def prune_model(model: nn.Module, pruning_ratio: float,
                    previous_masks: Masks | Iterable[Masks] | None = None) -> dict[str, jt.Var]:
        """Set the `pruning_ratio` smallest weights of each layer to 0, leaving out what `previous_masks` protect.

        Returns the mask of the weights that were kept. Raises ValueError for a ratio outside [0, 1] and for a
        mask that does not fit the model.
        """
        kept = {}
        for name, layer in _named_layers(model, previous_masks):
            owner = _protected(previous_masks, name, layer.weight) + jt.array(1).uint8()  # 2 = an earlier task's
            free_smallest(layer.weight, owner, 1, pruning_ratio)
            kept[name] = owner == 1
        return kept

    @staticmethod
    def freeze_weights_by_mask(model: nn.Module, masks: Masks | Iterable[Masks] | None) -> None:
        """From now on no optimizer moves the weights of `masks`; the others train on. Later calls replace this one,
        so that None or {} thaws everything."""
        for name, layer in _named_layers(model, masks):
            freeze(layer, _protected(masks, name, layer.weight), 0)


def _flatten(masks) -> list[Masks]:
    if masks is None:
        return []
    if isinstance(masks, Mapping):
        values = list(masks.values())
        return values if values and isinstance(values[0], Mapping) else [masks]
    return list(masks)


def _named_layers(model: nn.Module, masks) -> list[tuple[str, nn.Module]]:
    """(parameter name, layer) of `model`, after a check that every mask has a layer it belongs to."""
    layers = prunable_layers(model)
    for mask in _flatten(masks):
        for name, values in mask.items():
            if name not in layers:
                raise ValueError(f"mask {name!r} belongs to no convolution or linear layer of the model")
            if list(values.shape) != list(layers[name].weight.shape):
                raise ValueError(f"mask {name!r} has shape {list(values.shape)}, "
                                 f"the weight {list(layers[name].weight.shape)}")
    return list(layers.items())


def _protected(masks, name: str, weight: jt.Var) -> jt.Var:
    """uint8 Var in the weight's shape: 1 where any mask keeps the weight, else 0."""
    protected = jt.zeros(weight.shape, "uint8")
    for mask in _flatten(masks):
        if name in mask:
            protected = protected | (jt.array(mask[name]) != 0).uint8()
    return protected.stop_grad()
