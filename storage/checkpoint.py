"""One file of named arrays and plain values, which cannot execute code and shows when a single bit
of it has changed.

    save_checkpoint(path, tensors, metadata)                  # safetensors, written in one step
    tensors, metadata = load_checkpoint(path)

What is in such a file: packed.py for a packed network, state.py for a stopped run.
"""

import contextlib
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from system.errors import UserError
from system.files import replacing

Tensors = dict[str, np.ndarray]

CHECKPOINT_FORMAT = "packnet-jittor 3"  # change it when the content of the packed file changes


class WeightsError(UserError):
    """A weight file cannot be used. The message names the file, what is wrong with it, and what to
    do."""


def save_checkpoint(path: str | Path, tensors: Tensors, metadata: dict) -> None:
    """Write one safetensors file: `tensors` as they are, `metadata` (plain values) as JSON in its
    header, and a checksum of each. Raises OSError as write_tensors does."""
    # Sorted, so that the bytes follow from the content alone.
    tensors = {name: np.asarray(tensors[name], order="C") for name in sorted(tensors)}
    text = json.dumps(metadata)
    sums = {name: _checksum(array) for name, array in tensors.items()} | {
        "": hashlib.sha256(text.encode()).hexdigest()
    }
    header = json.dumps({"format": CHECKPOINT_FORMAT, "metadata": text, "checksums": sums})
    write_tensors(
        path, tensors, {"packnet": header}
    )  # one entry: the order of several is not fixed


def write_tensors(path: str | Path, tensors: Tensors, header: dict[str, str]) -> None:
    """Write a safetensors file in one step. Raises OSError naming the file and the bytes needed
    where it cannot be written."""
    from safetensors.numpy import save_file

    # safetensors 0.8 writes wrong numbers, without a word, for an array that is not in C order.
    tensors = {name: np.asarray(array, order="C") for name, array in tensors.items()}
    need = sum(array.nbytes for array in tensors.values()) + sum(map(len, header.values()))
    with writing(path, need) as temporary:
        temporary.touch()
        mode = temporary.stat().st_mode  # safetensors would make it for the owner only
        save_file(tensors, temporary, header)
        temporary.chmod(mode)


@contextlib.contextmanager
def writing(path: str | Path, need: int) -> Iterator[Path]:
    """A temporary path for a file that takes the place of `path` in one step. Raises OSError
    naming `path`, and the bytes `need`ed, where it cannot be written."""
    from safetensors import SafetensorError

    try:
        with replacing(path) as temporary:
            yield temporary
    except (OSError, SafetensorError) as error:
        raise OSError(
            f"{path}: cannot be written ({getattr(error, 'strerror', None) or error}); "
            f"{need:,} bytes are needed on the disk"
        ) from error


def load_checkpoint(path: str | Path, verify: bool = True) -> tuple[Tensors, dict]:
    """(tensors, metadata) of a file of save_checkpoint. Without `verify`, tensors that have
    changed since are read all the same. Raises WeightsError."""
    path = Path(path)
    with _open_checkpoint(path) as (f, metadata, sums):
        tensors = {name: f.get_tensor(name) for name in f.keys()}
        if not verify:
            return tensors, metadata
        damaged = sorted(tensors.keys() ^ (sums.keys() - {""})) or [
            name for name, array in tensors.items() if _checksum(array) != sums[name]
        ]
        if damaged:
            raise WeightsError(f"{path}: damaged: the checksum of {damaged[0]} does not match")
        return tensors, metadata


def load_metadata(path: str | Path) -> dict:
    """The metadata of a file of save_checkpoint, without its tensors. Raises WeightsError."""
    with _open_checkpoint(Path(path)) as (_, metadata, _):
        return metadata


@contextlib.contextmanager
def _open_checkpoint(path: Path) -> Iterator[tuple]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as f:
            header = json.loads((f.metadata() or {}).get("packnet", "{}"))
            if header.get("format") != CHECKPOINT_FORMAT:
                raise WeightsError(
                    f"{path}: not a checkpoint of this version of the program: its format is "
                    f"{header.get('format')!r}, not {CHECKPOINT_FORMAT!r}"
                )
            text, sums = header["metadata"], header["checksums"]
            if sums[""] != hashlib.sha256(text.encode()).hexdigest():
                raise WeightsError(f"{path}: damaged: the checksum of its metadata does not match")
            yield f, json.loads(text), sums
    except FileNotFoundError as error:
        raise WeightsError(f"{path}: no such file") from error
    except (SafetensorError, OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise WeightsError(
            f"{path}: not a readable checkpoint; it may be truncated ({error})"
        ) from error


def _checksum(array: np.ndarray) -> str:
    digest = hashlib.sha256(f"{array.dtype.str} {array.shape}".encode())
    digest.update(array.reshape(-1).view(np.uint8))
    return digest.hexdigest()
