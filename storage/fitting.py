"""Somebody's names of parameters to those of a network of ours, or what differs.

torchvision's names are ours. timm calls the linear layers of VGG otherwise, and writes two of them
as convolutions, and all of its vision transformer; Hugging Face has names of its own for ResNets;
older files write DenseNets otherwise; DataParallel, Lightning and others put a prefix before all
names. The last layer may have any name.
"""

import re
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from storage.checkpoint import Tensors, WeightsError
from storage.likeness import Shapes, likeness
from storage.pretrained import plain_name

OLDER_DENSENET = (r"(denselayer\d+\.(?:norm|conv))\.(\d)", r"\1\2")  # norm.1 for norm1


def _stage(match: re.Match) -> str:
    return f"layer{int(match[1]) + 1}.{match[2]}."


def _convolution(match: re.Match) -> str:
    kind = "conv" if match[2] == "convolution" else "bn"
    return f"{kind}{int(match[1]) + 1}."


# Of each kind of files (a pattern, what stands for it), all of them one after another, tried where
# a name is none of the network's.
OTHER_NAMES = {
    "older DenseNets": (OLDER_DENSENET,),
    "timm's VGG": (
        (r"^pre_logits\.fc1\.", "classifier.0."),
        (r"^pre_logits\.fc2\.", "classifier.3."),
    ),
    "Hugging Face's ResNet": (  # which counts from 0
        (r"^embedder\.embedder\.convolution\.", "conv1."),
        (r"^embedder\.embedder\.normalization\.", "bn1."),
        (r"^encoder\.stages\.(\d+)\.layers\.(\d+)\.", _stage),
        (r"\blayer\.(\d+)\.(convolution|normalization)\.", _convolution),
        (r"\bshortcut\.convolution\.", "downsample.0."),
        (r"\bshortcut\.normalization\.", "downsample.1."),
    ),
    "timm's vision transformer": (
        (r"^cls_token$", "class_token"),
        (r"^pos_embed$", "encoder.pos_embedding"),
        (r"^patch_embed\.proj\.", "conv_proj."),
        (r"^norm\.", "encoder.ln."),
        (r"^blocks\.(\d+)\.", r"encoder.layers.encoder_layer_\1."),
        (r"\bnorm([12])\.", r"ln_\1."),
        (r"\battn\.qkv\.", "self_attention.in_proj."),
        (r"\battn\.proj\.", "self_attention.out_proj."),
        (r"\bmlp\.fc1\.", "mlp.0."),
        (r"\bmlp\.fc2\.", "mlp.3."),
    ),
}
# What PyTorch counts beside a network: batches of a norm, networks of an average.
COUNTS = (".num_batches_tracked", "n_averaged")
SHOWN = 3  # names and differences in a message


@dataclass
class Wanted:
    """The network that weights are for.

    `trunk`: shapes by name, without the last layer, whose name is `last` ("" where the trunk has
    none), which sees `features` inputs and has weights of [classes, features], or as a convolution
    [classes, features, 1, 1]. `renamed`: pairs (in files, here) of parts of names; `without`: the
    beginnings of names that files have beyond the network.
    """

    trunk: Shapes
    last: str
    features: int
    convolution: bool = False
    renamed: tuple[tuple[str, str], ...] = ()
    without: tuple[str, ...] = field(default=())


def newer_name(name: str) -> str:
    """A parameter's name as torchvision has it now."""
    return re.sub(*OLDER_DENSENET, name)


def fitted(tensors: Tensors, wanted: Wanted, path: str | Path) -> tuple[Tensors, Tensors]:
    """(the trunk's arrays by name, the last layer's `weight` and `bias`). Raises WeightsError
    where they are not there or others, which says what the file looks like."""
    ours = {plain_name(name): name for name in wanted.trunk}
    prefix = _prefix(tensors, wanted, ours)
    trunk, others = {}, {}
    for theirs, array in tensors.items():
        short = theirs.removeprefix(prefix)
        if theirs.endswith(COUNTS) or short.startswith(
            tuple(f"{part}." for part in wanted.without)
        ):
            continue
        name = _our_name(short, wanted, ours)
        if name is None:
            others[short] = array
        else:
            trunk[name] = _in_shape(array, wanted.trunk[name])
    head = _take_head(others, wanted)
    if prefix:  # what is not below it is of another part: the classes' weights of a loss, a metric
        others = {name: array for name, array in others.items() if prefix + name in tensors}
    if head is None or trunk.keys() != wanted.trunk.keys() or others or _misshapen(trunk, wanted):
        raise WeightsError(f"{path}: {_difference(tensors, trunk, others, head, wanted)}")
    return trunk, head


def _prefix(tensors: Tensors, wanted: Wanted, ours: dict[str, str]) -> str:
    """What stands before the network's own names: "", or as Lightning's "model."."""
    counts = Counter({"": 0})
    for name in tensors:
        parts = name.split(".")
        for start in range(len(parts) - 1):
            if _our_name(".".join(parts[start:]), wanted, ours):
                counts["".join(f"{part}." for part in parts[:start])] += 1
    return counts.most_common(1)[0][0]


def _our_name(name: str, wanted: Wanted, ours: dict[str, str]) -> str | None:
    """The network's own name of a parameter; None where it has none of that name."""
    if name in ours:
        return ours[name]
    for theirs, here in wanted.renamed:
        name = name.replace(theirs, here)
    for patterns in ((), *OTHER_NAMES.values()):
        other = name
        for pattern, replacement in patterns:
            other = re.sub(pattern, replacement, other)
        if other in ours:
            return ours[other]
    return None


def _in_shape(array: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """As a linear layer, what is one but is written as a convolution over the whole map, or with
    sides of 1 behind."""
    fits = (
        array.ndim == 4
        and len(shape) == 2
        and array.shape[0] == shape[0]
        and array.size == np.prod(shape)
    )
    return array.reshape(shape) if fits else array


def _take_head(others: Tensors, wanted: Wanted) -> Tensors | None:
    """Take the last layer out of what the trunk has not used: by its name, or because it is the
    only one that fits."""
    weights = [
        name
        for name, array in others.items()
        if name.endswith(".weight") and _is_head(array, wanted)
    ]
    name = f"{wanted.last}.weight"
    if name not in weights:
        if len(weights) != 1:
            return None
        name = weights[0]
    layer = name.removesuffix("weight")
    head = {part: others.pop(layer + part) for part in ("weight", "bias") if layer + part in others}
    side = (1, 1) if wanted.convolution else ()
    return head | dict(weight=head["weight"].reshape(len(head["weight"]), wanted.features, *side))


def _is_head(array: np.ndarray, wanted: Wanted) -> bool:
    return array.ndim in (2, 4) and array.shape[1:] in ((wanted.features,), (wanted.features, 1, 1))


def _misshapen(trunk: Tensors, wanted: Wanted) -> list[str]:
    return [
        f"{name} is {list(array.shape)}, not {list(wanted.trunk[name])}"
        for name, array in trunk.items()
        if tuple(array.shape) != tuple(wanted.trunk[name])
    ]


def _difference(
    tensors: Tensors, trunk: Tensors, others: Tensors, head: Tensors | None, wanted: Wanted
) -> str:
    """What is wrong, in one line: the first differences, which network the file looks like, and
    names of both sides."""
    missing = [name for name in wanted.trunk if name not in trunk]
    differences = [f"{name} is missing" for name in missing]
    differences += [f"{name} is not part of the network" for name in others]
    differences += _misshapen(trunk, wanted)
    if head is None:
        last = (
            f"{wanted.last}.weight, the last layer"
            if wanted.last
            else f"last layer of {wanted.features} inputs, as"
        )
        differences.insert(0, f"it holds no {last} of a network with this trunk")
    more = len(differences) - SHOWN
    text = "; ".join(differences[:SHOWN]) + (f"; {more} more differences" if more > 0 else "")
    theirs = likeness({name: array.shape for name, array in tensors.items()})
    ours = likeness(wanted.trunk | _last_shape(wanted))
    looks = ""
    if theirs:
        other = f", and the network is {ours}" if ours and ours != theirs else ""
        looks = f" It looks like {theirs}{other}."
    in_file = _some([*others, *tensors])
    here = _some([*missing, *wanted.trunk])
    names = f"In the file are {in_file}; the network has {here}."
    return f"does not fit the network: {text}.{looks} {names}"


def _last_shape(wanted: Wanted) -> Shapes:
    return {f"{wanted.last}.weight": (0, wanted.features)} if wanted.last else {}


def _some(names: list[str]) -> str:
    names = list(dict.fromkeys(names))
    shown = ", ".join(name[:80] for name in names[:SHOWN])
    return shown + (f" (of {len(names)})" if len(names) > SHOWN else "")
