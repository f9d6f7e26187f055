"""A packed network on disk: packnet.safetensors.

Tensors: every parameter by its name; `owner.<parameter name>`, the owner map in as few bits as the
number of tasks needs; `private.<task>.<parameter name>`, what each task but the last has of its
own; `portrait.<task>.<name>`, by what its images are recognised (packing/portrait.py), of tasks
whose training images were there. Metadata: arch, image_size, config (the settings) and tasks, an
entry each (runs/stage.py): what was known of a task when it was frozen, its seals (seals.py) among
it, and its precision where that is not fp32. Of a network of the user's own also `network`: its
file, function, SHA-256 and last layer; of an imported one `imported`, the file that it came from.
"""

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from storage.checkpoint import Tensors, WeightsError, load_checkpoint, save_checkpoint


@dataclass
class Packed:
    """A packed network as arrays.

    `parameters` and `owners` (uint8, in the weight's shape) by parameter name; `private`: {task:
    {parameter name: array}} of all tasks but the last, whose are among the parameters. `tasks`:
    those that have weights, in the order they were added; `ratios`: what each was pruned with,
    where that is known; `source`: the file it is from, for messages. `portraits`: {task: {name:
    array}} of the tasks that have one.
    """

    parameters: Tensors
    owners: Tensors
    private: dict[str, Tensors]
    tasks: list[str] = field(default_factory=list)
    ratios: dict[str, float] | None = None
    source: str = "the packed network"
    portraits: dict[str, Tensors] = field(default_factory=dict)

    def heads(self) -> dict[str, int]:
        """{task: number of classes} of every head, in the order of the tasks; after them those of
        tasks that have no weights yet. (Joint training's one task has no head of its own.)"""
        found = dict.fromkeys(name.split(".")[1] for name in self.parameters
                              if name.startswith("heads."))
        started = [task for task in self.tasks if task in found]
        return {task: len(self.parameters[f"heads.{task}.weight"])
                for task in dict.fromkeys([*started, *found])}

    def tensors(self) -> Tensors:
        """All of it under one name each."""
        found = self.parameters | under("owner.", self.owners)
        for task, values in self.private.items():
            found |= under(f"private.{task}.", values)
        for task, arrays in self.portraits.items():
            found |= under(f"portrait.{task}.", arrays)
        return found

    @classmethod
    def of(cls, tensors: Tensors, tasks: list[str], **about) -> "Packed":
        """The reverse of `tensors`. Takes its own out of the dictionary."""
        owners = take(tensors, "owner.")
        private = {task: take(tensors, f"private.{task}.") for task in tasks[:-1]}
        portraits: dict[str, Tensors] = {}
        for name, array in take(tensors, "portrait.").items():
            task, _, name = name.partition(".")
            portraits.setdefault(task, {})[name] = array
        return cls(tensors, owners, private, tasks, portraits=portraits, **about)


def under(prefix: str, tensors: Tensors) -> Tensors:
    """The same with the prefix before their names."""
    return {prefix + name: tensor for name, tensor in tensors.items()}


def take(tensors: Tensors, prefix: str) -> Tensors:
    """The reverse: take what is named `prefix`... out of `tensors`; without the prefix."""
    return {
        name[len(prefix) :]: tensors.pop(name) for name in list(tensors) if name.startswith(prefix)
    }


def save_packed(path: str | Path, packed: Packed, metadata: dict) -> dict[str, int]:
    """Write it in one step. `metadata["tasks"]`: a list of dictionaries with the `name` of each
    task, in order. Returns bytes: of the file, of the owner maps and the portraits in it, and of
    the tasks as networks of their own. Raises OSError."""
    tasks = metadata["tasks"]
    owners = {name: pack_owners(owner, len(tasks)) for name, owner in packed.owners.items()}
    save_checkpoint(path, dataclasses.replace(packed, owners=owners).tensors(), metadata)
    parameters = dict(packed.parameters)
    heads = bytes_of(take(parameters, "heads."))
    shared = bytes_of(take(parameters, "trunk."))
    return dict(
        packed_file=Path(path).stat().st_size,
        owner_maps=bytes_of(owners),
        portraits=sum(map(bytes_of, packed.portraits.values())),
        separate_networks=len(tasks) * shared + heads,
    )


def bytes_of(tensors: Tensors) -> int:
    return sum(array.nbytes for array in tensors.values())


def load_packed(path: str | Path, verify: bool = True) -> tuple[Packed, dict]:
    """(what save_packed wrote, its metadata); `verify` as of load_checkpoint. Raises
    WeightsError."""
    tensors, metadata = load_checkpoint(path, verify)
    try:
        tasks = [task["name"] for task in metadata["tasks"]]
        ratios = {
            task["name"]: task["pruning_ratio"]
            for task in metadata["tasks"]
            if task.get("pruning_ratio") is not None
        }
        packed = Packed.of(tensors, tasks, ratios=ratios, source=str(path))
        packed.owners = {
            name: unpack_owners(owner, packed.parameters[name].shape)
            for name, owner in packed.owners.items()
        }
    except (KeyError, TypeError, ValueError) as error:
        raise other_content(path, error) from error
    return packed, metadata


def other_content(path: str | Path, error: Exception) -> WeightsError:
    return WeightsError(
        f"{path}: not a checkpoint of this version ({type(error).__name__}: {error})"
    )


def pack_owners(owner: np.ndarray, largest: int) -> np.ndarray:
    """An owner map (uint8, any shape) in as few bits as owners up to `largest` need: uint8 [bits,
    ceil(n / 8)]."""
    return np.stack(
        [np.packbits(owner.ravel() >> bit & 1) for bit in range(max(1, largest.bit_length()))]
    )


def unpack_owners(packed: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """The uint8 owner map of pack_owners. Raises ValueError where it does not fit the shape."""
    count = int(np.prod(shape))
    if packed.dtype != np.uint8 or packed.ndim != 2 or packed.shape[1] != -(-count // 8):
        raise ValueError(
            f"an owner map of {list(packed.shape)} does not fit weights of {list(shape)}"
        )
    return sum(
        np.unpackbits(plane, count=count) << bit for bit, plane in enumerate(packed)
    ).reshape(shape)
