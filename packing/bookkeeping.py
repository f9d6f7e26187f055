"""What a packed network holds, and what can be done with it beside the rules of pruning.py."""
from collections.abc import Iterable, Mapping

import numpy as np

import toolchain
from packing import changes, loops
from packing.capacity import counted
from packing.parameters import OWNED, PRIVATE, Parameter, parameters_of, table

jt = toolchain.start()
from jittor import nn


class Bookkeeping:
    """The part of pruning.PackNet that is no rule of the paper; the rules are start_task, prune, freeze_the_others, trainable,
    set_training and task_view there.

    Attributes: `parameters` ({name: packing.parameters.Parameter} of all that the model has), `tasks` (names in the order they
    were added; the k-th has owner k), `owners` ({parameter name: uint8 Var in the weight's shape}), `ratios` ({task: the
    ratio it was pruned with}) and `private` ({task: {parameter name: Var}} of all tasks but the last, whose are in the model).
    """

    def __init__(self, model: nn.Module, options: dict) -> None:
        self.model, self.options = model, options
        self.parameters = self.found()
        self.owners = {name: jt.zeros(parameter.var.shape, "uint8").stop_grad() for name, parameter in self.parameters.items()
                       if parameter.kind == OWNED}
        self.tasks: list = []
        self.ratios: dict = {}
        self.private: dict = {}
        self.viewed = None  # the task whose view is entered

    def found(self) -> dict[str, Parameter]:
        """The parameters that the model has now, classified as the options say."""
        return parameters_of(self.model, *(self.options[key] for key in ("train_biases", "train_bn", "pack")))

    def describe(self) -> str:
        """A table of every parameter with what becomes of it and why, the totals, and the share that is packed."""
        return table(self.parameters)

    @property
    def layers(self) -> dict[str, nn.Module]:
        """All layers that are packed, by the name of their weight."""
        return {name: self.parameters[name].module for name in self.owners}

    def look_again(self) -> None:
        """Find the parameters once more: heads may have been added, `eval` and `train` called. Raises ValueError where anything but
        a head has come, gone, or become another."""
        self.reclaim()
        self.parameters = changes.accepted(self.parameters, self.found())

    def reclaim(self) -> None:
        """Put every parameter back where another Var has taken its place (packing/changes.py). Raises ValueError where that is a weight,
        and while a view is entered."""
        if self.viewed is not None:
            raise ValueError(f"the view of task {self.viewed!r} is entered, in which the weights of later tasks are hidden: leave it first")
        if self.tasks:
            changes.put_back(self.parameters)

    @property
    def weights(self) -> dict[str, jt.Var]:
        """The packed weights, {parameter name: float32 Var}."""
        return {name: self.parameters[name].var for name in self.owners}

    @property
    def masks(self) -> dict:
        """{task: {parameter name: bool Var, True where the task owns the weight}}. Computed when read."""
        return {task: {name: owner == k for name, owner in self.owners.items()}
                for k, task in enumerate(self.tasks, start=1)}

    def own_parameters(self) -> dict[str, jt.Var]:
        """The private parameters of the last task, by name."""
        return {name: parameter.var for name, parameter in self.parameters.items() if parameter.kind == PRIVATE}

    def owner_of(self, task) -> int:
        """The owner that weights of `task` have. Raises ValueError for a task that was never started."""
        if task not in self.tasks:
            raise ValueError(f"task {task!r} was never started; known tasks: {self.tasks}")
        return self.tasks.index(task) + 1

    def check_open(self, task) -> None:
        """Raise ValueError unless `task` is the one that was started last."""
        self.owner_of(task)
        if task != self.tasks[-1]:
            raise ValueError(f"task {task!r} is frozen for good: {self.tasks[-1]!r} was started after it")

    def is_head(self, name: str, task) -> bool:
        """Whether the parameter `name` belongs to the head of `task`."""
        return self.parameters[name].task == str(task)

    def select(self, task) -> None:
        """Let the model use the head of `task`, where it has heads."""
        if hasattr(self.model, "select"):
            self.model.select(task)

    def capacity(self) -> list[dict]:
        """What the tasks own, expected beside counted: packing.capacity.counted."""
        return counted(self.owners, {task: self.ratios.get(task, 0.0) for task in self.tasks})

    def train_task(self, task, train_loader: Iterable, epochs: int, device: str | None = None,
                   lr: float = 0.01, momentum: float = 0.9, weight_decay: float = 0.0) -> None:
        """Train `task` with SGD: a new task on all free weights, the current one on the weights it owns.

        `train_loader` yields (images float32 [B, ...], labels int [B]). `device` is Jittor's one device and can
        be left out; "cuda" on a CPU start raises ToolchainError. Raises ValueError for a task that is frozen
        because a later one has started.
        """
        toolchain.start(device)
        self.reclaim()
        if task in self.tasks:
            self.check_open(task)
        self.select(task)  # a head that is missing is named before anything has changed
        if task not in self.tasks:
            self.start_task(task)
        self.set_training(True)
        loops.train(self.model, list(self.trainable().values()), train_loader, epochs, str(task), lr=lr, momentum=momentum,
                    weight_decay=weight_decay)

    def predict(self, task, loader: Iterable, title: str = "") -> tuple[np.ndarray, np.ndarray]:
        """(logits float32 [N, classes], labels int [N]) of `task` over one pass of `loader`."""
        with self.task_view(task) as model:
            return loops.predict(model, loader, title or f"{task}, test")

    def evaluate_task(self, task, test_loader: Iterable) -> float:
        """Top-1 accuracy of `task`, in percent."""
        logits, labels = self.predict(task, test_loader)
        return 100 * float((logits.argmax(1) == labels).mean())

    def restore(self, tasks: list, owners: Mapping[str, np.ndarray], ratios: Mapping | None = None,
                private: Mapping[str, Mapping[str, np.ndarray]] | None = None) -> None:
        """Take over what an earlier PackNet of the same network held: `tasks`, `owners` (uint8 arrays by parameter name),
        `ratios` and `private`. Raises ValueError where one of them is missing or does not fit."""
        private = {task: (private or {}).get(task, {}) for task in tasks[:-1]}
        wanted = {name: list(var.shape) for name, var in self.own_parameters().items()}
        for task, arrays in private.items():
            if {name: list(array.shape) for name, array in arrays.items()} != wanted:
                raise ValueError(f"the parameters that {task} has of its own are missing or do not fit the network")
        for name, owner in self.owners.items():
            array = owners.get(name)
            if array is None or list(array.shape) != list(owner.shape) or array.dtype != np.uint8 \
                    or array.max(initial=0) > len(tasks):
                raise ValueError(f"the owner map of {name} is missing or does not fit the network")
            owner.assign(jt.array(array).stop_grad())
        self.private = {task: {name: jt.array(array).stop_grad() for name, array in arrays.items()}
                        for task, arrays in private.items()}
        self.tasks, self.ratios = list(tasks), dict(ratios or {})
        self.freeze_the_others()
