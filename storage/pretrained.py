"""Pretrained weights: a file as people have it to named arrays, without executing anything from it.

    tensors = read_pretrained("vgg16-397923af.pth")     # PyTorch's, Jittor's .pkl, .safetensors

A training checkpoint is more than weights: they are looked for in it. Whose names they have is no
concern here: fitting.py.
"""

import json
import os
import re
from pathlib import Path
from typing import BinaryIO

import numpy as np

from storage.checkpoint import CHECKPOINT_FORMAT, Tensors, WeightsError
from storage.kinds import check_kind
from storage.numbers import BFLOAT16, OF_SAFETENSORS
from storage.packed import load_packed
from storage.pickles import Thing, other_numbers, reading, unpickled
from storage.seals import view

# Where a checkpoint keeps its weights; the first that is there counts. An average (EMA) is taken
# where there is nothing else.
WRAPPERS = (
    "state_dict",
    "model_state_dict",
    "model",
    "net",
    "network",
    "module",
    "weights",
    "params",
    "state_dict_ema",
    "model_ema",
    "ema",
    "params_ema",
)
DEEPEST = 4  # a wrapper in a wrapper in a wrapper: as deep as is looked
# Bytes of numbers that a file may give beyond four times its own size: tensors may be expanded.
ROOM = 1 << 28


def read_pretrained(path: str | Path) -> Tensors:
    """{parameter name: float32 array, or integers} of a .pth, .pkl or .safetensors file, in C
    order.

    Wrappers are taken off: a checkpoint's dictionary, a whole module, DataParallel's `module.`. Of
    a packed file of this project it is the network of its first task, whose head is called `head`.
    Raises WeightsError.
    """
    if Path(path).is_dir():
        raise WeightsError(f"{path}: {_folder(Path(path))}")
    return reading(path, _tensors)


def _tensors(f: BinaryIO) -> Tensors:
    check_kind(f)
    size = os.fstat(f.fileno()).st_size
    header = _safetensors_header(f, size)
    if header is None:
        arrays = _weights_in(unpickled(f))
    elif CHECKPOINT_FORMAT in str(header.get("__metadata__")):
        arrays = _first_task(Path(f.name))
    else:
        arrays = _safetensors(f)
    return _plain_numbers(_without_wrappers_names(arrays), 4 * size + ROOM)


# ---- safetensors


def _safetensors_header(f: BinaryIO, size: int) -> dict | None:
    """The header of a safetensors file; None of any other."""
    start = f.read(9)
    length = int.from_bytes(start[:8], "little")
    if len(start) < 9 or start[8:] != b"{" or length > 100_000_000:
        f.seek(0)
        return None
    if length + 8 > size:
        raise WeightsError(
            f"a truncated safetensors file: {size:,} bytes are there, and its header alone has "
            f"{length:,}. Download it again."
        )
    f.seek(8)
    header = json.loads(f.read(length))
    f.seek(0)
    ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
    whole = 8 + length + max(ends, default=0)
    if whole > size:
        raise WeightsError(
            f"a truncated safetensors file: {size:,} bytes of {whole:,} are there. "
            "Download it again."
        )
    return header


def _safetensors(f: BinaryIO) -> Tensors:
    from safetensors import deserialize

    tensors = {}
    for name, entry in deserialize(f.read()):
        dtype = OF_SAFETENSORS.get(entry["dtype"])
        if dtype is None:
            raise other_numbers(entry["dtype"])
        tensors[name] = np.frombuffer(entry["data"], dtype).reshape(entry["shape"])
    return tensors


def _first_task(path: Path) -> Tensors:
    packed, metadata = load_packed(path)
    first = metadata["tasks"][0]["name"]
    return {name.removeprefix("trunk."): array for name, array in view(packed, first, 1)}


# ---- what is around the weights


def _weights_in(content) -> Tensors:
    """The arrays by name that the content of a pickle is, or holds. Raises WeightsError where
    there are none, or several."""
    found = _found(content, DEEPEST)
    if found is not None:
        return found
    if not isinstance(content, dict) or not content:
        kind = f" (it is a {content.kind})" if isinstance(content, Thing) else ""
        raise WeightsError(f"holds no dictionary of weights{kind}")
    names = [name[:60] for name in content if isinstance(name, str)]
    raise WeightsError(
        f"none of its entries is an array of numbers ({', '.join(names[:3])}, ...). A "
        "file of weights is what torch.save(model.state_dict(), FILE) writes."
    )


def _found(content, depth: int) -> Tensors | None:
    if isinstance(content, Thing):
        return _of_module(content) or None
    if not isinstance(content, dict) or not depth:
        return None
    named = {name: value for name, value in content.items() if isinstance(name, str)}
    inside = {}
    for name, value in named.items():
        if isinstance(value, (dict, Thing)):
            inside[name] = _found(value, depth - 1)
    inside = {name: found for name, found in inside.items() if found}
    for name in WRAPPERS:
        if name in inside:
            return inside[name]
    arrays = {name: _array(value) for name, value in named.items()}
    arrays = {name: array for name, array in arrays.items() if array is not None}
    if _layered(arrays):
        return arrays
    layered = {name: found for name, found in inside.items() if _layered(found)} or inside
    if len(layered) > 1:
        raise WeightsError(
            f"holds several dictionaries of weights: {', '.join(layered)}. "
            "Save the one you mean alone, as a file of its own."
        )
    return next(iter(layered.values()), arrays or None)


def _layered(arrays: Tensors) -> bool:
    """Whether these are the parameters of a network of layers, and not some numbers beside one."""
    return any("." in name for name in arrays)


def _array(value) -> np.ndarray | None:
    value = getattr(value, "array", value)  # of the stand-in for a NumPy array
    return value if isinstance(value, np.ndarray) else None


def _of_module(module: Thing) -> Tensors:
    """The state dictionary of a whole module of PyTorch's: its parameters and buffers, and those
    of the modules in it."""
    tensors, waiting = {}, [("", module)]
    while waiting:
        prefix, module = waiting.pop()
        unsaved = module.attributes.get("_non_persistent_buffers_set", ())
        for kind in ("_parameters", "_buffers"):
            for name, value in _items(module, kind):
                if isinstance(value, Thing) and value.arguments:  # torch 0.2's Parameter
                    value = value.arguments[0]
                if _array(value) is not None and not (kind == "_buffers" and _holds(unsaved, name)):
                    tensors[prefix + name] = _array(value)
        waiting += [
            (f"{prefix}{name}.", child)
            for name, child in _items(module, "_modules")
            if isinstance(child, Thing) and prefix.count(".") < 100
        ]
    return tensors


def _items(module: Thing, kind: str) -> list[tuple]:
    items = module.attributes.get(kind)
    return list(items.items()) if isinstance(items, dict) else []


def _holds(unsaved, name: str) -> bool:
    """Whether a pickled set, a Thing, holds the name."""
    return isinstance(unsaved, Thing) and any(
        name in part for part in unsaved.arguments if isinstance(part, list)
    )


def _without_wrappers_names(tensors: Tensors) -> Tensors:
    """DataParallel calls what it wraps `module`, torch.compile `_orig_mod`: without these,
    wherever in a name they stand."""
    plain = {plain_name(name): array for name, array in tensors.items()}
    return plain if len(plain) == len(tensors) else tensors


def plain_name(name: str) -> str:
    return re.sub(r"(^|\.)(?:(?:module|_orig_mod)\.)+", r"\1", name)


# ---- numbers


def _plain_numbers(arrays: Tensors, most: int) -> Tensors:
    """float32 for floating-point numbers, all in C order. Raises WeightsError where they are more
    than `most` bytes."""
    need = sum(array.size * 4 for array in arrays.values())
    if need > most:
        raise WeightsError(
            f"refused: its tensors would take {need:,} bytes, far more than there are in the file"
        )
    return {name: _plain(array) for name, array in arrays.items()}


def _plain(array: np.ndarray) -> np.ndarray:
    if array.dtype == BFLOAT16:
        array = (array["bfloat16"].astype(np.uint32) << 16).view(np.float32)
    return np.asarray(array, np.float32 if array.dtype.kind == "f" else None, order="C")


def _folder(path: Path) -> str:
    endings = (".safetensors", ".bin", ".pth", ".pt", ".pkl")
    files = sorted(file.name for file in path.iterdir() if file.suffix in endings)
    if (path / ".metadata").is_file():
        return ("is a folder of torch.distributed.checkpoint. In PyTorch: from "
                "torch.distributed.checkpoint.format_utils import dcp_to_torch_save; "
                'dcp_to_torch_save(FOLDER, "weights.pth").')
    if not files:
        return "is a folder without a file of weights in it"
    return f"is a folder. Name the file in it: {', '.join(files[:3])}"
