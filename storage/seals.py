"""The seal of a task: a SHA-256 over exactly what its forward pass uses, stored when it is frozen.

Without data, without Jittor and on any machine it proves that a task is what it was. Hashed are:

1. the line json.dumps({"classes": ..., "input": ...}, sort_keys=True): its class names (a list or
   null) and how its images become the network's input, both as the task's entry in the metadata of
   the packed file has them;
2. for every parameter, sorted by name: the line "<name> <dtype> <sides>", and the array's bytes,
   little-endian, in C order.

What a task's images are recognised by, its portrait, is no part of the forward pass and has a seal
of its own, over 2. with the portrait's arrays. It may come later, where a task was frozen without
(evaluate.py --portraits).

A line ends with a newline. The parameters are those of the packed file below `trunk.`, and the
task's head as `head.weight` and `head.bias`. What a task has of its own (`private.<task>.<name>`)
stands in for the shared parameter; of a weight that has an owner map, entries whose owner is 0 or a
later task are 0. In NumPy, of an exported network, which has all this done already
(num_batches_tracked is PyTorch's own, of no effect):

    import hashlib, json, safetensors
    with safetensors.safe_open("cubs.safetensors", "numpy") as f:
        about = f.metadata()
        entry = {key: json.loads(about[key]) for key in ("classes", "input")}
        seal = hashlib.sha256(f"{json.dumps(entry, sort_keys=True)}\\n".encode())
        head, (old, new) = about["head"] + ".", json.loads(about["renamed"])  # torchvision's names
        arrays = {"head." + n[len(head):] if n.startswith(head) else "trunk." + n.replace(old, new):
                  f.get_tensor(n) for n in f.keys() if not n.endswith("num_batches_tracked")}
        for name, array in sorted(arrays.items()):
            seal.update(f"{name} {array.dtype.str} {' '.join(map(str, array.shape))}\\n".encode())
            seal.update(array.tobytes())
    assert seal.hexdigest() == about["seal"]
"""

import hashlib
import json
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from storage.checkpoint import WeightsError
from storage.packed import Packed, load_packed, other_content

Parameters = Iterable[tuple[str, np.ndarray]]  # sorted by name


def of_view(parameters: Parameters, entry: dict) -> str:
    """The seal, 64 hexadecimal digits. `entry`: the metadata of the task, of which its classes and
    input count."""
    about = json.dumps({key: entry[key] for key in ("classes", "input")}, sort_keys=True)
    return _digest(f"{about}\n", parameters)


def of_portrait(packed: Packed, task: str) -> str | None:
    """The seal of the task's portrait; None where it has none."""
    arrays = packed.portraits.get(task)
    return _digest("", sorted(arrays.items())) if arrays else None


def _digest(start: str, arrays: Parameters) -> str:
    digest = hashlib.sha256(start.encode())
    for name, array in arrays:
        array = np.asarray(array, array.dtype.newbyteorder("<"), order="C")
        digest.update(f"{name} {array.dtype.str} {' '.join(map(str, array.shape))}\n".encode())
        digest.update(array.reshape(-1).view(np.uint8))
    return digest.hexdigest()


def of_task(packed: Packed, entries: list[dict], number: int) -> str:
    """The seal of the task entries[number]; `entries`: the metadata of all tasks, in the order they
    were added."""
    return of_view(view(packed, entries[number]["name"], number + 1), entries[number])


def view(packed: Packed, task: str, owner: int) -> Iterator[tuple[str, np.ndarray]]:
    """What the forward pass of `task`, whose weights have the number `owner`, uses: (name, array)
    in the order of the names."""
    head = f"heads.{task}."
    own = packed.private.get(task, {})
    names = {
        f"head.{name.removeprefix(head)}" if name.startswith(head) else name: name
        for name in packed.parameters
        if name.startswith(head) or not name.startswith("heads.")
    }
    for canonical, name in sorted(names.items()):
        array = own.get(name, packed.parameters[name])
        owners = packed.owners.get(name)
        if owners is not None:
            array = np.where((owners > 0) & (owners <= owner), array, array.dtype.type(0))
        yield canonical, array


def compared(packed: Packed, entries: list[dict]) -> list[tuple[str, str, str]]:
    """(task, stored seal, seal of what is there now) for each task. Of a portrait that is not the
    sealed one the last says so."""
    rows = []
    for number, entry in enumerate(entries):
        now = of_task(packed, entries, number)
        if of_portrait(packed, entry["name"]) != entry.get("portrait"):
            now += " with another portrait"
        rows.append((entry["name"], entry["seal"], now))
    return rows


def broken(packed: Packed, entries: list[dict]) -> list[str]:
    """The tasks whose seal is not the stored one."""
    return [task for task, stored, now in compared(packed, entries) if stored != now]


def recomputed(path: str | Path) -> list[tuple[str, str, str]]:
    """What `compared` gives for each task of a packed file, or for the one of an exported network.

    A file whose tensors are damaged is read all the same: to say which tasks the damage touches is
    what this is for. Raises WeightsError for a file of another kind, and where even its header is
    damaged.
    """
    exported = _exported(Path(path))
    if exported:
        return [exported]
    packed, metadata = load_packed(path, verify=False)
    try:
        return compared(packed, metadata["tasks"])
    except (KeyError, TypeError) as error:
        raise other_content(path, error) from error


def _exported(path: Path) -> tuple[str, str, str] | None:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as f:
            about = f.metadata() or {}
            if "seal" not in about:
                return None
            head = about["head"] + "."
            theirs, ours = json.loads(about["renamed"])
            names = {
                f"head.{name.removeprefix(head)}"
                if name.startswith(head)
                else f"trunk.{name.replace(theirs, ours)}": name
                for name in f.keys()
                if not name.endswith("num_batches_tracked")
            }
            entry = {key: json.loads(about[key]) for key in ("classes", "input")}
            return (
                about["task"],
                about["seal"],
                of_view(((name, f.get_tensor(names[name])) for name in sorted(names)), entry),
            )
    except FileNotFoundError as error:
        raise WeightsError(f"{path}: no such file") from error
    except (SafetensorError, OSError, ValueError, KeyError) as error:
        raise WeightsError(
            f"{path}: not a readable network of this program; it may be truncated ({error})"
        ) from error
