"""A file of weights as torch.save writes it, without PyTorch: torch.load(path, weights_only=True)
gives the state dictionary."""

import struct
import zipfile
from pathlib import Path

import numpy as np

from storage.checkpoint import Tensors, writing
from storage.numbers import TORCHS_NAMES

# Opcodes of pickle's protocol 2.
PROTO, STOP, MARK, TUPLE, REDUCE, SETITEMS = b"\x80\x02", b".", b"(", b"t", b"R", b"u"
EMPTY_TUPLE, BINPERSID, NEWFALSE = b")", b"Q", b"\x89"


def write_torch_file(path: str | Path, tensors: Tensors) -> None:
    """Write the state dictionary in one step. Raises OSError naming the file and the bytes needed
    where it cannot be written."""
    tensors = {name: np.asarray(array, order="C") for name, array in tensors.items()}
    parts = {"data.pkl": _pickle(tensors), "byteorder": b"little"}
    for key, array in enumerate(tensors.values()):
        little = array.astype(array.dtype.newbyteorder("<"), copy=False)
        parts[f"data/{key}"] = little.reshape(-1).view(np.uint8).data
    parts["version"] = b"3\n"
    with writing(path, sum(len(part) for part in parts.values())) as temporary:
        with zipfile.ZipFile(temporary, "w") as archive:
            for name, content in parts.items():
                archive.writestr(zipfile.ZipInfo(f"archive/{name}"), content)


def _pickle(tensors: Tensors) -> bytes:
    """An OrderedDict of calls of torch._utils._rebuild_tensor_v2, whose storages are references to
    the parts data/0, data/1, ..."""
    entries = b""
    for key, (name, array) in enumerate(tensors.items()):
        kind = _global("torch", TORCHS_NAMES[array.dtype.newbyteorder("<")])
        reference = _tuple(
            _text("storage"), kind, _text(str(key)), _text("cpu"), _number(array.size)
        )
        strides = [_number(step // array.itemsize) for step in array.strides]
        shape = [_number(side) for side in array.shape]
        arguments = _tuple(
            reference + BINPERSID,
            _number(0),
            _tuple(*shape),
            _tuple(*strides),
            NEWFALSE,
            _ordered(),
        )
        entries += _text(name) + _global("torch._utils", "_rebuild_tensor_v2") + arguments + REDUCE
    return PROTO + _ordered() + MARK + entries + SETITEMS + STOP


def _global(module: str, name: str) -> bytes:
    return f"c{module}\n{name}\n".encode()


def _text(text: str) -> bytes:
    data = text.encode("utf-8", "surrogatepass")
    return b"X" + struct.pack("<I", len(data)) + data


def _number(value: int) -> bytes:
    if value < 1 << 31:
        return b"J" + struct.pack("<i", value)
    return b"\x8a\x08" + struct.pack("<q", value)


def _tuple(*items: bytes) -> bytes:
    return MARK + b"".join(items) + TUPLE


def _ordered() -> bytes:
    return _global("collections", "OrderedDict") + EMPTY_TUPLE + REDUCE
