"""What stands in front of a parameter's own `update`, the call by which every optimizer of Jittor
writes a step.

A deep copy of a network is frozen like the network: Jittor copies the numbers of a Var, and here
what holds it is copied too. Calling `eval` and `train` freezes and thaws nothing. Loading a state
dict is no step: it sets every value, frozen or not, where Jittor's own way through `update` would
drop them without a word.
"""
import contextlib
import copy
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import toolchain

jt = toolchain.start()
from jittor import nn


@dataclass
class Hold:
    """The `update` of a held parameter: `rule(parameter, new value, *arguments)`, which may write
    some of the value, or nothing.

    The parameter is looked up as `attribute` of `module`: it must not refer to itself, since
    Jittor's Vars are not collected.
    """
    rule: Callable
    module: "weakref.ref | None" = None
    attribute: str = ""
    arguments: tuple = ()

    def __call__(self, new: jt.Var):
        parameter = getattr(self.module(), self.attribute) if self.module else None
        return self.rule(parameter, new, *self.arguments)

    def copied(self, memo: dict) -> "Hold | None":
        """The same for the copy of the module; None where the parameter is copied without its
        module: that copy is a plain array."""
        if not self.module:
            return Hold(self.rule)
        module = memo.get(id(self.module()))
        if not module:
            return None
        arguments = copy.deepcopy(self.arguments, memo)
        return Hold(self.rule, weakref.ref(module), self.attribute, arguments)


def hold(module: nn.Module, attribute: str, rule: Callable, *arguments) -> None:
    """From now on the parameter `module.attribute` takes steps by `rule`. A second call replaces
    the first."""
    getattr(module, attribute).update = Hold(rule, weakref.ref(module), attribute, arguments)


def fix(parameter: jt.Var) -> None:
    """From now on no optimizer, and no batch norm, moves any entry of `parameter`.

    The step is computed all the same: momentum that nothing asks for would pile up in Jittor's
    graph, step by step.
    """
    parameter.update = Hold(_computed)


def thaw(parameter: jt.Var) -> None:
    """Undo `hold` and `fix`."""
    with contextlib.suppress(AttributeError):
        del parameter.update


def held(parameter: jt.Var) -> Hold | None:
    return parameter.update if isinstance(parameter.update, Hold) else None


def _computed(_, new: jt.Var) -> jt.Var:
    return new.sync()


@contextlib.contextmanager
def _lifted(module: nn.Module) -> Iterator[None]:
    holds = [(parameter, held(parameter)) for parameter in module.parameters() if held(parameter)]
    for parameter, _ in holds:
        thaw(parameter)
    try:
        yield
    finally:
        for parameter, before in holds:
            parameter.update = before


def _teach_jittor() -> None:
    plain_copy, plain_load = jt.Var.__deepcopy__, nn.Module.load_parameters

    def deepcopy(parameter: jt.Var, memo: dict) -> jt.Var:
        twin = plain_copy(parameter, memo)
        hold_of_copy = held(parameter) and held(parameter).copied(memo)
        if hold_of_copy:
            twin.update = hold_of_copy
        if hasattr(parameter, "persistent"):
            twin.persistent = parameter.persistent  # the copy of a buffer is a buffer
        return twin

    def load_parameters(module: nn.Module, values) -> None:
        with _lifted(module):
            plain_load(module, values)

    jt.Var.__deepcopy__, nn.Module.load_parameters = deepcopy, load_parameters
    nn.Module.eval, nn.Module.train = evaluate_mode, training_mode


def evaluate_mode(module: nn.Module) -> nn.Module:
    """`eval`: every layer in test mode, and no more.

    Jittor's own stops the gradients too, remembers which at the first call only, and so starts
    those again that were stopped on purpose since.
    """
    for layer in module.modules():
        layer.is_train = False
    return module


def training_mode(module: nn.Module) -> nn.Module:
    """`train`: every layer in training mode. Gradients that Jittor's own `eval` has stopped, before
    this one took its place, are started again, once."""
    for layer in module.modules():
        layer.is_train = True
        stopped = vars(layer).pop("backup_grad_state", {})
        for parameter in layer.parameters() if stopped else ():
            if stopped.get(id(parameter)):
                parameter.start_grad()
    return module


_teach_jittor()
