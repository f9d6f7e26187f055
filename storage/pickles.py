"""Pickles of PyTorch and Jittor, read without executing anything of them.

    content = read_objects("csf_0.75.pt")           # torch.save's, both formats; jittor.save's; a
    pickle of NumPy arrays

A pickle may name any function to be called. The reader here knows the few names that make up
numbers, each replaced by a stand-in of its own. Classes of which nothing is needed, as those of
whole modules, of settings and optimizers, become a Thing that only remembers what it was given.
Any other name is refused. What a file claims to hold is never more than it has bytes for.
"""

import collections
import hashlib
import io
import os
import pickle
import re
import struct
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import numpy as np

from storage.checkpoint import WeightsError
from storage.kinds import check_kind
from storage.numbers import OF_TORCH


def read_objects(path: str | Path):
    """What torch.save has written to a file, by any version: arrays for tensors (as they lie in
    memory, so that they may be strided and read-only; BFLOAT16 for bfloat16), a Thing for each
    object of a class. Raises WeightsError."""

    def objects(f: BinaryIO):
        check_kind(f)
        return unpickled(f)

    return reading(path, objects)


def reading(path: str | Path, read: Callable[[BinaryIO], object]):
    """What `read` makes of the open file; whatever it raises as a WeightsError that names the
    file."""
    try:
        with open(path, "rb") as f:
            return read(f)
    except WeightsError as error:
        raise WeightsError(f"{path}: {error}") from error
    except OSError as error:
        raise WeightsError(f"{path}: cannot be read ({error.strerror or error})") from error
    except Exception as error:  # a broken file can make the readers raise anything
        text = " ".join(str(error).split())[:200] or type(error).__name__
        raise WeightsError(
            f"{path}: not a readable weight file; it may be truncated ({text})"
        ) from error


def unpickled(f: BinaryIO):
    """The content of a file of torch.save (both formats), of jittor.save, or of a plain pickle."""
    start = f.read(64)
    f.seek(0)
    if start.startswith(b"PK"):
        return _read_torch_zip(f)
    return _read_torch_legacy(f) if _TORCH_MAGIC in start else _read_jittor(f)


class Thing:
    """Stands in for an object of the class `kind`, which is not there and whose code does not
    run."""

    kind = ""

    def __new__(cls, *arguments, **_) -> "Thing":
        thing = super().__new__(cls)
        thing.arguments, thing.attributes = arguments, {}
        return thing

    def __init__(self, *_, **__) -> None:
        pass

    def __setstate__(self, state) -> None:
        self.attributes = state if isinstance(state, dict) else {}

    def __setitem__(self, key, value) -> None:  # of a class derived from dict or list
        pass

    def append(self, value) -> None:
        pass

    def extend(self, values) -> None:
        pass


class _Unpickler(pickle._Unpickler):
    """Knows the names of weight files only. `storage` answers torch's references to raw data.

    The one written in Python: its memo is a dictionary. That of the one written in C takes as much
    memory as an index claims, gigabytes for a few bytes.
    """

    dispatch = dict(pickle._Unpickler.dispatch)

    def __init__(
        self, file: BinaryIO, storage: Callable[[tuple], np.ndarray] | None = None
    ) -> None:
        super().__init__(file, encoding="latin1")  # legacy files were written by Python 2
        self.storage = storage

    def find_class(self, module: str, name: str):
        if module in ("torch", "torch.cuda") and name in _TORCH_TYPES:
            return _TORCH_TYPES[name]
        if (module, name) in _KNOWN:
            return _KNOWN[module, name]
        if _is_class(module, name):
            return type("Thing", (Thing,), dict(kind=f"{module}.{name}"))
        raise WeightsError(
            f"refused: asks for {module}.{name}, which is not part of a weight file and "
            "could run code"
        )

    def persistent_load(self, reference):
        if isinstance(reference, tuple) and reference[:1] == ("module",):
            return reference[1]  # a class, with its source
        if self.storage is None:
            raise WeightsError("refers to data outside itself")
        return self.storage(reference)

    def load_build(self) -> None:
        """Nothing but what the pickle has made itself gets a state: not the functions and classes
        of ours that it uses."""
        if not isinstance(self.stack[-2], (Thing, _Array, _Dtype, collections.OrderedDict)):
            raise WeightsError("refused: changes something that is not its own")
        super().load_build()

    dispatch[pickle.BUILD[0]] = load_build

    def load_bytearray8(self) -> None:  # would take the memory that it claims
        raise WeightsError("refused: holds a bytearray, which is not part of a weight file")

    dispatch[pickle.BYTEARRAY8[0]] = load_bytearray8


def _is_class(module: str, name: str) -> bool:
    """Whether the name is that of a class of somebody's network or settings, which a Thing can
    stand for."""
    room = module.partition(".")[0]
    if room in _OBJECTS or f"{module}.{name}" in _VALUES:
        return True
    # Not of Python itself, and written as classes are.
    python = room in sys.stdlib_module_names | {"__builtin__"} and room != "__main__"
    return not python and re.fullmatch(r"_*[A-Z]\w*", name.rpartition(".")[2]) is not None


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
    """The tensor as it lies in its storage: in any order (channels-last, transposed), or one
    number in many places (expanded)."""
    shape, stride = tuple(shape), tuple(stride)
    if len(shape) != len(stride) or not all(
        type(n) is int and n >= 0 for n in (offset, *shape, *stride)
    ):
        raise WeightsError("holds a tensor of an impossible shape")
    if 0 in shape:
        return np.zeros(shape, storage.dtype)
    if offset + sum((n - 1) * step for n, step in zip(shape, stride)) >= storage.size:
        raise WeightsError("holds a tensor that is larger than its data")
    size = storage.itemsize
    return np.ndarray(
        shape, storage.dtype, storage, offset * size, [step * size for step in stride]
    )


def _other_tensor(*arguments) -> None:
    """torch._utils._rebuild_tensor_v3: of the number types that came last."""
    kinds = [
        value.kind for value in arguments if isinstance(value, type) and issubclass(value, Thing)
    ]
    raise other_numbers(kinds[0] if kinds else "a type of PyTorch's")


_TORCH_TYPES = OF_TORCH | {"UntypedStorage": np.dtype("|u1")}
_KNOWN = {
    ("collections", "OrderedDict"): collections.OrderedDict,
    ("torch", "Size"): tuple,
    ("torch._utils", "_rebuild_tensor"): _torch_tensor,
    ("torch._utils", "_rebuild_tensor_v2"): _torch_tensor,
    ("torch._utils", "_rebuild_tensor_v3"): _other_tensor,
    ("torch._utils", "_rebuild_parameter"): lambda tensor, *_: tensor,
    ("torch._utils", "_rebuild_parameter_with_state"): lambda tensor, *_: tensor,
    ("torch._tensor", "_rebuild_from_type_v2"): lambda rebuild, kind, arguments, state: rebuild(
        *arguments
    ),
    ("torch.storage", "UntypedStorage"): _TORCH_TYPES["UntypedStorage"],
    ("jittor", "jittor_core.Var"): lambda array, *_: array,
    ("jittor_core", "Var"): lambda array, *_: array,
    ("numpy.core.multiarray", "_reconstruct"): _Array,
    ("numpy._core.multiarray", "_reconstruct"): _Array,
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _Dtype,
    ("_codecs", "encode"): lambda text, encoding: text.encode("latin1"),
}
# Whatever these hold is a class, or a function that a module remembers (torch.nn.functional.relu).
_OBJECTS = ("torch", "torchvision", "timm", "networks")
_VALUES = frozenset(
    """
    builtins.set builtins.frozenset builtins.complex builtins.slice builtins.object builtins.dict
    builtins.list builtins.int builtins.float __builtin__.set __builtin__.object
    copyreg._reconstructor copy_reg._reconstructor argparse.Namespace types.SimpleNamespace
    collections.defaultdict collections.deque collections.Counter functools.partial
    datetime.datetime datetime.date datetime.timedelta
    pathlib.Path pathlib.PosixPath pathlib.WindowsPath pathlib.PurePosixPath
    pathlib._local.PosixPath pathlib._local.WindowsPath
    numpy.core.multiarray.scalar numpy._core.multiarray.scalar""".split()
)
_TORCH_MAGIC = (0x1950A86A20F9469CFC6C).to_bytes(10, "little")


def _read_torch_zip(f: BinaryIO):
    """torch.save since 1.6: <name>/data.pkl and the raw data in <name>/data/<key>."""
    with zipfile.ZipFile(f) as archive:
        pickles = [name for name in archive.namelist() if name.endswith("/data.pkl")]
        if len(pickles) != 1:
            raise WeightsError("a zip file, but not one of torch.save (no data.pkl)")
        if any(entry.compress_type != zipfile.ZIP_STORED for entry in archive.infolist()):
            raise WeightsError("a compressed zip file, which torch.save does not write")
        folder = pickles[0][: -len("data.pkl")]
        storages: dict[tuple, np.ndarray] = {}

        def storage(reference) -> np.ndarray:
            _, dtype, key, _, count = reference
            check_type(dtype)
            if (key, dtype) not in storages:
                raw = archive.read(f"{folder}data/{key}")
                storages[key, dtype] = np.frombuffer(raw, dtype, count)
            return storages[key, dtype]

        return _Unpickler(io.BytesIO(archive.read(pickles[0])), storage).load()


def check_type(dtype) -> None:
    """Raise WeightsError where the type of a storage is none of ours."""
    if not isinstance(dtype, np.dtype):
        raise other_numbers(getattr(dtype, "kind", "an unknown type"))


def other_numbers(kind: str) -> WeightsError:
    return WeightsError(
        f"holds numbers of {kind}, which are not read here. "
        "Save it as float32 with the program that has written it."
    )


def _read_torch_legacy(f: BinaryIO):
    """torch.save before 1.6: five pickles (magic, version, system, content, keys), then the raw
    data in order."""
    for _ in range(3):
        _Unpickler(f).load()
    size = os.fstat(f.fileno()).st_size
    storages: dict[str, np.ndarray] = {}

    def storage(reference) -> np.ndarray:  # filled from the end of the file once its place is known
        _, dtype, key, _, count, view = reference
        check_type(dtype)
        if key not in storages:
            claimed = sum(array.nbytes for array in storages.values()) + count * dtype.itemsize
            if count < 0 or claimed > size:
                raise WeightsError(
                    "holds tensors that are larger than the file; it may be truncated"
                )
            storages[key] = np.empty(count, dtype)
        if view is None:
            return storages[key]
        _, begin, length = view
        if not 0 <= begin <= begin + length <= count:
            raise WeightsError("holds a view that is larger than its data")
        return storages[key][begin : begin + length]

    content = _Unpickler(f, storage).load()
    for key in _Unpickler(f).load():
        (count,) = struct.unpack("<q", f.read(8))
        raw = f.read(storages[key].nbytes)
        if count != storages[key].size or len(raw) != storages[key].nbytes:
            raise WeightsError("truncated: the data of a tensor are missing")
        storages[key][:] = np.frombuffer(raw, storages[key].dtype)
    return content


def _read_jittor(f: BinaryIO):
    """jittor.save: a pickle, its SHA-1 (20 bytes) and b"HCAJSLHD"; older files are the pickle
    alone."""
    data = f.read()
    if data.endswith(b"HCAJSLHD"):
        data, checksum = data[:-28], data[-28:-8]
        if hashlib.sha1(data).digest() != checksum:
            raise WeightsError("damaged: its checksum does not match. Download it again.")
    stream = io.BytesIO(data)
    content = _Unpickler(stream).load()
    if stream.read(1):
        raise WeightsError(
            "truncated, or not a file of Jittor: bytes are left over after its content"
        )
    return content
