"""Masks that the caller keeps: {parameter name: bool array or Var}, True where a task keeps the weight.

Several may be given as a list, or as {task: masks}; None stands for none.
"""
from collections.abc import Iterable, Mapping

import numpy as np

import toolchain

jt = toolchain.start()
from jittor import nn

Masks = Mapping[str, "jt.Var | np.ndarray"]
SeveralMasks = Masks | Iterable[Masks] | Mapping[object, Masks] | None


def as_list(masks: SeveralMasks) -> list[Masks]:
    if masks is None:
        return []
    if isinstance(masks, Mapping):
        values = list(masks.values())
        return values if values and isinstance(values[0], Mapping) else [masks]
    return list(masks)


def protected(layers: dict[str, nn.Module], masks: SeveralMasks) -> dict[str, jt.Var]:
    """{parameter name: uint8 Var in the weight's shape, 1 where any mask keeps the weight, else 0} of all `layers`.

    Raises ValueError for a mask that fits none of them."""
    masks = as_list(masks)
    for mask in masks:
        for name, values in mask.items():
            if name not in layers:
                raise ValueError(f"mask {name!r} belongs to no convolution or linear layer of the model")
            if list(values.shape) != list(layers[name].weight.shape):
                raise ValueError(f"mask {name!r} has shape {list(values.shape)}, "
                                 f"the weight {list(layers[name].weight.shape)}")
    result = {}
    for name, layer in layers.items():
        result[name] = jt.zeros(layer.weight.shape, "uint8")
        for mask in masks:
            if name in mask:
                result[name] = result[name] | (jt.array(mask[name]) != 0).uint8()
        result[name] = result[name].stop_grad()
    return result
