"""Masks that the caller keeps: {parameter name: bool array or Var}, True where a task keeps the
weight.

Several may be given as a list, or as {task: masks}; None stands for none.
"""
from collections.abc import Iterable, Mapping

import numpy as np

import toolchain

jt = toolchain.start()

Masks = Mapping[str, "jt.Var | np.ndarray"]
SeveralMasks = Masks | Iterable[Masks] | Mapping[object, Masks] | None


def as_list(masks: SeveralMasks) -> list[Masks]:
    if masks is None:
        return []
    if isinstance(masks, Mapping):
        values = list(masks.values())
        return values if values and isinstance(values[0], Mapping) else [masks]
    return list(masks)


def protected(weights: dict[str, jt.Var], masks: SeveralMasks) -> dict[str, jt.Var]:
    """{parameter name: uint8 Var in the weight's shape, 1 where any mask keeps the weight, else 0}
    of all `weights`.

    Raises ValueError for a mask that fits none of them."""
    masks = as_list(masks)
    for mask in masks:
        for name, values in mask.items():
            if name not in weights:
                raise ValueError(f"mask {name!r} belongs to no convolution or linear layer of the "
                                 "model")
            if list(values.shape) != list(weights[name].shape):
                raise ValueError(f"mask {name!r} has shape {list(values.shape)}, "
                                 f"the weight {list(weights[name].shape)}")
    result = {}
    for name, weight in weights.items():
        result[name] = jt.zeros(weight.shape, "uint8")
        for mask in masks:
            if name in mask:
                result[name] = result[name] | (jt.array(mask[name]) != 0).uint8()
        result[name] = result[name].stop_grad()
    return result
