"""What each task has of its own: biases and batch norm, where the release's options ask for them (rule 6)."""
from collections.abc import Container, Mapping

import numpy as np

import toolchain

jt = toolchain.start()
from jittor import nn


def private_names(model: nn.Module, packed: Container[str], train_biases: bool, train_bn: bool) -> set[str]:
    """The names of these parameters in `model`; biases are those of the layers whose weights are `packed`."""
    names = set()
    for name, module in model.named_modules():
        norm = isinstance(module, nn.BatchNorm)
        if "heads" not in name.split(".") and (train_bn if norm else train_biases and f"{name}.weight".lstrip(".") in packed):
            names |= {f"{name}.{part}".lstrip(".") for part in (
                ("weight", "bias", "running_mean", "running_var") if norm else ("bias",))
                if getattr(module, part, None) is not None}
    return names


def check(private: Mapping[str, Mapping[str, np.ndarray]], live: Mapping[str, jt.Var]) -> None:
    """Raise ValueError unless every task of `private` has arrays of the names and shapes of `live`."""
    wanted = {name: list(var.shape) for name, var in live.items()}
    for task, arrays in private.items():
        if {name: list(array.shape) for name, array in arrays.items()} != wanted:
            raise ValueError(f"the parameters that {task} has of its own are missing or do not fit the network")
