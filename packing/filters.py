"""Pruning whole filters instead of weights (--prune filters): the paper tried it in place of rule
3, and found it worse."""
import numpy as np

import toolchain

jt = toolchain.start()
from jittor import nn


def free_filters(layer: nn.Module, weight: jt.Var, owner: jt.Var, task: int, ratio: float) -> int:
    """Free the smallest filters of `task` in one layer: their weights become 0 and owner 0. Returns
    how many weights were freed.

    A filter: what of the weights behind one output channel (of a linear layer, one output) the task
    owns. Of the n filters in which it owns any, those round(ratio * n) go whose L2 norm is
    smallest; of equal ones the first. `weight` float32 and `owner` uint8, of one shape; both change
    in place. Raises ValueError for a ratio outside [0, 1].
    """
    check_ratio(ratio)
    freed = np.zeros(tuple(weight.shape), bool)
    values = by_filter(layer, weight.data)
    mine = by_filter(layer, owner.data == task)
    going = by_filter(layer, freed)
    norms = {}
    for place in np.ndindex(mine.shape[:2]):
        if mine[place].any():
            norms[place] = np.linalg.norm(values[place][mine[place]].astype(np.float64))
    for place in sorted(norms, key=norms.get)[:round(ratio * len(norms))]:
        going[place] = mine[place]
    if freed.any():
        gone = jt.array(freed)
        weight.assign(jt.ternary(gone, jt.zeros_like(weight), weight))
        owner.assign(jt.ternary(gone, jt.zeros_like(owner), owner))
        jt.sync([weight, owner])
    return int(freed.sum())


def check_ratio(ratio: float) -> None:
    """Raise ValueError for a pruning ratio that is none."""
    if not 0 <= ratio <= 1:
        raise ValueError(f"pruning ratio {ratio} is outside [0, 1]")


def by_filter(layer: nn.Module, array: np.ndarray) -> np.ndarray:
    """A view of an array in the shape of the layer's weight, whose first two axes together count
    the output channels."""
    if not isinstance(layer, nn.ConvTranspose | nn.ConvTranspose3d):
        return array.reshape(1, len(array), 1, -1)
    # the weight: [in, out / groups, ...], the inputs group by group
    groups = getattr(layer, "groups", 1)
    return array.reshape(groups, len(array) // groups, array.shape[1], -1).swapaxes(1, 2)
