"""The authors' own packed networks: a .pt file of their release as ours, without executing anything from it.

Such a file is torch.save of a dictionary with the whole network, `model`: the trunk as its module `shared`, the heads as `classifiers`
in the order of the list `datasets`. `previous_masks` has the owners, {number of the module in shared.modules(): ByteTensor},
`dataset2idx` the owner of each data set, from 1, and `dataset2biases`, where every task has biases of its own, {data set: {number of the
module: biases}}. Source: the release's src/main.py, src/prune.py and src/networks.py.
"""
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from images.folders import FOLDERS
from storage.checkpoint import WeightsError
from storage.fitting import newer_name
from storage.packed import Packed
from storage.pickles import Thing, read_objects

NETWORKS = {"networks.ModifiedVGG16": "vgg16", "networks.ModifiedVGG16BN": "vgg16-bn", "networks.ModifiedResNet": "resnet50",
            "networks.ModifiedDenseNet": "densenet121"}
TASKS = {folder: task for task, folder in FOLDERS.items()}  # a data set is called as its folder there


@dataclass
class Release:
    """`tasks`: {name: number of classes} in the order they were added; `top1`, `top5`: what the file says of the last, percent or
    None; `own_biases`: each task has its own; `remarks`: sentences about what is missing."""
    arch: str
    packed: Packed
    tasks: dict[str, int]
    own_biases: bool = False
    top1: float | None = None
    top5: float | None = None
    remarks: list[str] = field(default_factory=list)

    def ratios(self) -> dict[str, float]:
        """The share that each task gave up of the weights it found: what it was pruned with, but for rounding and ties."""
        counts = np.sum([np.bincount(owner.ravel(), minlength=len(self.tasks) + 1) for owner in self.packed.owners.values()], axis=0)
        return {task: round(1 - counts[k] / max(1, counts[0] + counts[k:].sum()), 4) for k, task in enumerate(self.tasks, start=1)}


def read_release(path: str | Path) -> Release:
    """Raises WeightsError."""
    content = read_objects(path)
    try:
        return _release(content)
    except WeightsError as error:
        raise WeightsError(f"{path}: {error}") from error
    except (KeyError, TypeError, AttributeError, ValueError, IndexError) as error:
        raise WeightsError(f"{path}: not a packed network of the authors' release ({type(error).__name__}: {error})") from error


def _release(content: dict) -> Release:
    model, settings = content["model"], getattr(content.get("args"), "attributes", {})
    if model.kind not in NETWORKS:
        raise WeightsError(f"holds a network {model.kind}; the release's are {', '.join(NETWORKS)}")
    if settings.get("disable_pruning_mask"):
        raise WeightsError("an individual network of the release, not a packed one: it was trained without masks")
    owners = {dataset: int(owner) for dataset, owner in content["dataset2idx"].items()}
    datasets = sorted(owners, key=owners.get)
    names = [TASKS.get(dataset, dataset) for dataset in datasets]
    if [owners[dataset] for dataset in datasets] != [*range(1, len(datasets) + 1)] or not all(re.fullmatch(r"[\w-]+", n) for n in names):
        raise WeightsError(f"its owners are not those of the tasks 1, 2, ...: {owners}")
    layers = [*_named_layers(model.attributes["_modules"]["shared"])]
    packed = Packed({f"trunk.{name}.{key}": value for name, layer in layers for key, value in _arrays(layer)}, {}, {})
    heads = dict(zip(model.attributes["datasets"], model.attributes["_modules"]["classifiers"].attributes["_modules"].values()))
    for dataset, task in zip(datasets, names):
        packed.parameters |= {f"heads.{task}.{key}": value for key, value in _arrays(heads[dataset])}
    for number, owner in content["previous_masks"].items():
        _put_owner(packed, f"trunk.{layers[number][0]}.weight", owner, len(names))
    release = Release(NETWORKS[model.kind], packed, {task: len(packed.parameters[f"heads.{task}.weight"]) for task in names})
    biases = {dataset: {f"trunk.{layers[number][0]}.bias": np.asarray(bias, np.float32) for number, bias in of_layers.items()}
              for dataset, of_layers in content.get("dataset2biases", {}).items()}
    if any(biases.values()):
        release.own_biases = True
        for dataset, task in zip(datasets, names):
            if dataset not in biases:
                raise WeightsError(f"tasks have biases of their own, and those of {dataset} are missing")
            packed.private[task] = biases[dataset]
        packed.parameters |= packed.private.pop(names[-1])
    if settings.get("train_bn") and len(names) > 1 and any("running_mean" in name for name in packed.parameters):
        release.remarks.append(f"batch norm was trained for each task, and a file of the release holds the last task's only, that of "
                               f"{names[-1]}: the other tasks are right in their own files alone.")
    if settings.get("dataset", datasets[-1]) == datasets[-1]:
        errors = [error if isinstance(error, float) else None for error in content.get("errors") or []]  # top-1, and top-5
        release.top1, release.top5 = [None if error is None else 100 - error for error in (errors + [None, None])[:2]]
    return release


def _put_owner(packed: Packed, name: str, owner: np.ndarray, tasks: int) -> None:
    """The owner map of a weight; what is free becomes 0."""
    weight = packed.parameters[name]
    if owner.shape != weight.shape or owner.max(initial=0) > tasks:
        raise WeightsError(f"the owners of {name} do not fit it")
    packed.owners[name] = owner.astype(np.uint8)
    packed.parameters[name] = np.where(owner > 0, weight, np.float32(0))


def _named_layers(shared: Thing) -> Iterator[tuple[str, Thing]]:
    """(name, module) in the order of shared.modules(), each once. The names are torchvision's: there the trunk of VGG is `features`, and
    `classifier` from the View on, DenseNet's is `features`, ResNet's has no name."""
    children = [child.kind.rpartition(".")[2] for child in shared.attributes["_modules"].values()]
    view = children.index("View") if "View" in children else None
    prefix = "features." if "conv0" in shared.attributes["_modules"] else ""

    def torchvisions(name: str) -> str:
        if view is None or not name:
            return newer_name(prefix + name)
        return f"features.{name}" if int(name) < view else f"classifier.{int(name) - view - 1}"

    yield from _walk(shared, "", torchvisions, set())


def _walk(module: Thing, name: str, rename: Callable[[str], str], seen: set) -> Iterator[tuple[str, Thing]]:
    if id(module) in seen:
        return
    seen.add(id(module))
    yield rename(name), module
    for key, child in module.attributes["_modules"].items():
        if child is not None:
            yield from _walk(child, f"{name}.{key}" if name else key, rename, seen)


def _arrays(module: Thing) -> Iterator[tuple[str, np.ndarray]]:
    """What the module itself has: parameters, and the statistics of batch norm."""
    for key, value in (*module.attributes["_parameters"].items(), *module.attributes["_buffers"].items()):
        if value is not None and key != "num_batches_tracked":
            yield key, np.asarray(value.arguments[0] if isinstance(value, Thing) else value, np.float32)
