"""Pretrained weights: a .pth or .pkl file to named arrays, without executing anything from it.

    tensors = read_pretrained("vgg16-397923af.pth")           # torchvision's .pth (both formats) or Jittor's .pkl
    content = read_objects("csf_0.75.pt")                     # PyTorch's, of whole modules

These files are pickles, and a pickle may name any function to be called. The reader here knows the few names that weight
files use, each replaced by a stand-in of its own; any other name is refused. Where a file may hold whole modules, the classes of
PyTorch's modules are replaced by one that only remembers what it is given.
"""
import collections
import hashlib
import io
import os
import pickle
import re
import struct
import urllib.error
import urllib.request
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import numpy as np

from storage.checkpoint import Tensors, WeightsError
from system.files import replacing
from system.progress import Progress

JITTOR_URL = "https://cg.cs.tsinghua.edu.cn/jittor/assets/build/checkpoints/"  # Jittor's own model zoo


def read_pretrained(path: str | Path) -> Tensors:
    """{parameter name: float32 array} of a torchvision .pth or Jittor .pkl file. Raises WeightsError."""
    return _read(path, lambda f: _as_tensors(_content(f, _Unpickler)))


def read_objects(path: str | Path):
    """What torch.save has written to a file, by any version: arrays for tensors, a Thing for each object of a class of PyTorch's or
    of a module `networks`. Raises WeightsError."""
    return _read(path, lambda f: _content(f, _UnpicklerOfObjects))


def _read(path: str | Path, read: Callable):
    try:
        with open(path, "rb") as f:
            return read(f)
    except WeightsError as error:
        raise WeightsError(f"{path}: {error}") from error
    except OSError as error:
        raise WeightsError(f"{path}: cannot be read ({error.strerror or error})") from error
    except Exception as error:  # whatever a broken file makes the readers stumble over
        raise WeightsError(f"{path}: not a readable .pth or .pkl file; it may be truncated ({error})") from error


def _content(f: BinaryIO, unpickler: type["_Unpickler"]):
    start = f.read(64)
    f.seek(0)
    if start.startswith(b"PK"):
        return _read_torch_zip(f, unpickler)
    return _read_torch_legacy(f, unpickler) if _TORCH_MAGIC in start else _read_jittor(f, unpickler)


def newer_name(name: str) -> str:
    """A parameter's name as torchvision has it now: older DenseNets have norm.1 for norm1."""
    return re.sub(r"(denselayer\d+\.(?:norm|conv))\.(\d)", r"\1\2", name)


def download(name: str, folder: Path) -> Path:
    """A file of Jittor's model zoo, such as "vgg16.pkl", kept in `folder`. Raises WeightsError."""
    path = folder / name
    if path.exists():
        return path
    try:
        with replacing(path) as temporary, open(temporary, "wb") as f, \
                urllib.request.urlopen(JITTOR_URL + name, timeout=30) as response:
            total = int(response.headers.get("Content-Length") or 0)
            with Progress(None, f"Downloading {name}", total or None, unit="B", unit_scale=True) as bar:
                while block := response.read(1 << 20):
                    f.write(block)
                    bar.update(len(block))
            if total and f.tell() != total:
                raise OSError(None, f"only {f.tell()} of {total} bytes came")
    except (OSError, ValueError) as error:
        raise WeightsError(f"{JITTOR_URL}{name}: the ImageNet weights cannot be downloaded "
                           f"({getattr(error, 'reason', None) or getattr(error, 'strerror', None) or error}). Give a "
                           "file with --pretrained: this one, or torchvision's .pth of the same network.") from error
    return path


def _as_tensors(content) -> Tensors:
    if not isinstance(content, dict) or not content:
        raise WeightsError("holds no dictionary of weights")
    tensors = {}
    for name, value in content.items():
        if isinstance(value, _Array):
            value = value.array
        if not isinstance(name, str) or not isinstance(value, np.ndarray):
            raise WeightsError(f"entry {name!r} is no array of numbers")
        tensors[name] = value.astype(np.float32) if value.dtype.kind == "f" else value
    return tensors


class _Unpickler(pickle.Unpickler):
    """Knows the names of weight files only. `storage` answers torch's references to raw data."""

    def __init__(self, file: BinaryIO, storage=None) -> None:
        super().__init__(file, encoding="latin1")  # legacy files were written by Python 2
        self.storage = storage

    def find_class(self, module: str, name: str):
        if module in ("torch", "torch.cuda") and name in _TORCH_TYPES:
            return _TORCH_TYPES[name]
        if (module, name) in _KNOWN:
            return _KNOWN[module, name]
        return self.other(module, name)

    def other(self, module: str, name: str):
        raise WeightsError(f"refused: asks for {module}.{name}, which is not part of a weight file and could run code")

    def persistent_load(self, reference):
        if self.storage is None:
            raise WeightsError("refers to data outside itself")
        return self.storage(reference)


class Thing:
    """Stands in for an object of the class `kind`, which is not there and whose code does not run."""
    kind = ""

    def __new__(cls, *arguments) -> "Thing":
        thing = super().__new__(cls)
        thing.arguments, thing.attributes = arguments, {}
        return thing

    def __init__(self, *_) -> None:
        pass

    def __setstate__(self, state) -> None:
        self.attributes = state if isinstance(state, dict) else {}


class _UnpicklerOfObjects(_Unpickler):
    def other(self, module: str, name: str):
        if module.partition(".")[0] in _OBJECTS or f"{module}.{name}" in _VALUES:
            return type("Thing", (Thing,), dict(kind=f"{module}.{name}"))
        return super().other(module, name)

    def persistent_load(self, reference):
        return reference[1] if reference[0] == "module" else super().persistent_load(reference)  # a class, with its source


class _Array:
    """Stands in for a pickled numpy array (numpy.ndarray.__setstate__)."""

    def __init__(self, *_) -> None:
        self.array = None

    def __setstate__(self, state) -> None:
        _, shape, dtype, fortran, raw = state
        raw = raw.encode("latin1") if isinstance(raw, str) else raw
        self.array = np.frombuffer(raw, dtype.value).reshape(shape, order="F" if fortran else "C")


class _Dtype:
    """Stands in for a pickled numpy.dtype of plain numbers."""

    def __init__(self, code: str, *_) -> None:
        self.value = np.dtype(code)
        if self.value.kind not in "fiub":
            raise WeightsError(f"holds data of type {code!r}, not numbers")

    def __setstate__(self, state) -> None:
        self.value = self.value.newbyteorder(state[1] if state[1] in "<>" else "=")


def _torch_tensor(storage: np.ndarray, offset: int, shape: tuple, stride: tuple, *_) -> np.ndarray:
    shape, size = tuple(shape), int(np.prod(shape, dtype=object)) if shape else 1
    contiguous = [int(np.prod(shape[i + 1:], dtype=object)) for i in range(len(shape))]
    if any(s != c for s, c, n in zip(stride, contiguous, shape) if n > 1) or len(stride) != len(shape):
        raise WeightsError("holds a tensor that is not contiguous")
    if offset < 0 or size < 0 or offset + size > storage.size:
        raise WeightsError("holds a tensor that is larger than its data")
    return storage[offset:offset + size].reshape(shape)


_TORCH_TYPES = {f"{name}Storage": np.dtype(code) for name, code in dict(
    Float="<f4", Double="<f8", Half="<f2", Long="<i8", Int="<i4", Short="<i2", Char="<i1", Byte="<u1",
    Bool="|b1").items()}
_KNOWN = {
    ("collections", "OrderedDict"): collections.OrderedDict,
    ("torch", "Size"): tuple,
    ("torch._utils", "_rebuild_tensor"): _torch_tensor,
    ("torch._utils", "_rebuild_tensor_v2"): _torch_tensor,
    ("torch._utils", "_rebuild_parameter"): lambda tensor, *_: tensor,
    ("jittor", "jittor_core.Var"): lambda array, *_: array,
    ("jittor_core", "Var"): lambda array, *_: array,
    ("numpy.core.multiarray", "_reconstruct"): _Array,
    ("numpy._core.multiarray", "_reconstruct"): _Array,
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _Dtype,
    ("_codecs", "encode"): lambda text, encoding: text.encode("latin1"),
}
_OBJECTS = ("torch", "torchvision", "networks", "argparse")
_VALUES = ("builtins.set", "__builtin__.set", "numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar")
_TORCH_MAGIC = (0x1950a86a20f9469cfc6c).to_bytes(10, "little")


def _read_torch_zip(f: BinaryIO, unpickler: type[_Unpickler]):
    """torch.save since 1.6: <name>/data.pkl and the raw data in <name>/data/<key>."""
    with zipfile.ZipFile(f) as archive:
        pickles = [name for name in archive.namelist() if name.endswith("/data.pkl")]
        if len(pickles) != 1:
            raise WeightsError("a zip file, but not one of torch.save (no data.pkl)")
        if any(entry.compress_type != zipfile.ZIP_STORED for entry in archive.infolist()):
            raise WeightsError("a compressed zip file, which torch.save does not write")
        folder = pickles[0][:-len("data.pkl")]

        def storage(reference) -> np.ndarray:
            _, dtype, key, _, count = reference
            return np.frombuffer(archive.read(f"{folder}data/{key}"), dtype, count)

        with archive.open(pickles[0]) as data:
            return unpickler(data, storage).load()


def _read_torch_legacy(f: BinaryIO, unpickler: type[_Unpickler]):
    """torch.save before 1.6: five pickles (magic, version, system, content, keys), then the raw data in order."""
    for _ in range(3):
        _Unpickler(f).load()
    storages: dict[str, np.ndarray] = {}

    def storage(reference) -> np.ndarray:  # filled from the end of the file once its place is known
        _, dtype, key, _, count, view = reference
        if view is not None:
            raise WeightsError("holds a view of another storage")
        if count * dtype.itemsize > os.fstat(f.fileno()).st_size:
            raise WeightsError("holds a tensor that is larger than the file; it may be truncated")
        return storages.setdefault(key, np.empty(count, dtype))

    content = unpickler(f, storage).load()
    for key in _Unpickler(f).load():
        count, = struct.unpack("<q", f.read(8))
        raw = f.read(storages[key].nbytes)
        if count != storages[key].size or len(raw) != storages[key].nbytes:
            raise WeightsError("truncated: the data of a tensor are missing")
        storages[key][:] = np.frombuffer(raw, storages[key].dtype)
    return content


def _read_jittor(f: BinaryIO, unpickler: type[_Unpickler]):
    """jittor.save: a pickle, its SHA-1 (20 bytes) and b"HCAJSLHD"; older files are the pickle alone."""
    data = f.read()
    if data.endswith(b"HCAJSLHD"):
        data, checksum = data[:-28], data[-28:-8]
        if hashlib.sha1(data).digest() != checksum:
            raise WeightsError("damaged: its checksum does not match. Download it again.")
    stream = io.BytesIO(data)
    content = unpickler(stream).load()
    if stream.read(1):
        raise WeightsError("truncated, or not a file of Jittor: bytes are left over after its content")
    return content
