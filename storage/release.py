"""The authors' own packed networks: a .pt file of their release as ours, without executing
anything from it.

Such a file is torch.save of a dictionary with the whole network, `model`: the trunk as its module
`shared`, the heads as `classifiers` in the order of the list `datasets`. `previous_masks` has the
owners, {number of the module in shared.modules(): ByteTensor}, `dataset2idx` the owner of each
data set, from 1, and `dataset2biases`, where every task has biases of its own, {data set: {number
of the module: biases}}. Source: the release's src/main.py, src/prune.py and src/networks.py.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from images.datasets import NAME, name_of_folder
from storage.checkpoint import Tensors, WeightsError
from storage.fitting import newer_name
from storage.packed import Packed
from storage.pickles import Thing, read_objects

NETWORKS = {
    "networks.ModifiedVGG16": "vgg16",
    "networks.ModifiedVGG16BN": "vgg16-bn",
    "networks.ModifiedResNet": "resnet50",
    "networks.ModifiedDenseNet": "densenet121",
}


@dataclass
class Release:
    """`tasks`: {name: number of classes} in the order they were added; `top1`, `top5`: what the
    file says of the last, percent or None; `own_biases`: each task has its own; `remarks`:
    sentences about what is missing."""

    arch: str
    packed: Packed
    tasks: dict[str, int]
    own_biases: bool = False
    top1: float | None = None
    top5: float | None = None
    remarks: list[str] = field(default_factory=list)

    def ratios(self) -> dict[str, float]:
        """The share that each task gave up of the weights it found: what it was pruned with, but
        for rounding and ties."""
        counts = np.sum(
            [
                np.bincount(owner.ravel(), minlength=len(self.tasks) + 1)
                for owner in self.packed.owners.values()
            ],
            axis=0,
        )
        return {
            task: round(1 - counts[k] / max(1, counts[0] + counts[k:].sum()), 4)
            for k, task in enumerate(self.tasks, start=1)
        }


def read_release(path: str | Path) -> Release:
    """Raises WeightsError."""
    content = read_objects(path)
    try:
        release = _release(content)
        release.packed.source = str(path)
        return release
    except WeightsError as error:
        raise WeightsError(f"{path}: {error}") from error
    except (KeyError, TypeError, AttributeError, ValueError, IndexError) as error:
        what = f"{type(error).__name__}: {error}"
        raise WeightsError(
            f"{path}: not a packed network of the authors' release ({what})"
        ) from error


def _release(content: dict) -> Release:
    model = content["model"]
    settings = getattr(content.get("args"), "attributes", {})
    if model.kind not in NETWORKS:
        raise WeightsError(f"holds a network {model.kind}; the release's are {', '.join(NETWORKS)}")
    if settings.get("disable_pruning_mask"):
        raise WeightsError(
            "an individual network of the release, not a packed one: it was trained without masks"
        )
    names = _names(content["dataset2idx"])
    datasets = [*names]
    tasks = [*names.values()]
    layers = [*_named_layers(model.attributes["_modules"]["shared"])]
    packed = Packed(_parameters(model, layers, names), {}, {}, tasks)
    for number, owner in content["previous_masks"].items():
        _put_owner(packed, f"trunk.{layers[number][0]}.weight", owner, len(tasks))
    release = Release(NETWORKS[model.kind], packed, packed.heads())
    release.own_biases = _put_biases(packed, content.get("dataset2biases", {}), layers, names)
    norms = any("running_mean" in name for name in packed.parameters)
    if settings.get("train_bn") and len(tasks) > 1 and norms:
        release.remarks.append(
            "batch norm was trained for each task, and a file of the release holds the last task's "
            f"only, that of {tasks[-1]}: the other tasks are right in their own files alone."
        )
    if settings.get("dataset", datasets[-1]) == datasets[-1]:
        errors = [*(content.get("errors") or []), None, None]
        release.top1, release.top5 = [
            100 - error if isinstance(error, float) else None for error in errors[:2]
        ]
    return release


def _names(owners: dict) -> dict[str, str]:
    """{data set of the file: our name of the task} in the order they were added."""
    owners = {dataset: int(owner) for dataset, owner in owners.items()}
    ordered = sorted(owners, key=owners.get)
    # it calls them as its folders
    names = {dataset: name_of_folder(dataset) for dataset in ordered}
    in_order = [owners[dataset] for dataset in names] == [*range(1, len(names) + 1)]
    if not in_order or not all(map(NAME.fullmatch, names.values())):
        raise WeightsError(f"its owners are not those of the tasks 1, 2, ...: {owners}")
    return names


def _parameters(model: Thing, layers: list[tuple[str, Thing]], names: dict[str, str]) -> Tensors:
    """Of the trunk and all heads, by our names."""
    parameters = {}
    for name, layer in layers:
        parameters |= {f"trunk.{name}.{key}": value for key, value in _arrays(layer)}
    classifiers = model.attributes["_modules"]["classifiers"].attributes["_modules"]
    heads = dict(zip(model.attributes["datasets"], classifiers.values()))
    for dataset, task in names.items():
        parameters |= {f"heads.{task}.{key}": value for key, value in _arrays(heads[dataset])}
    return parameters


def _put_biases(
    packed: Packed, biases: dict, layers: list[tuple[str, Thing]], names: dict[str, str]
) -> bool:
    """The biases that each task has of its own, the last one's among the parameters; whether there
    are any."""
    if not any(biases.values()):
        return False
    for dataset, task in names.items():
        if dataset not in biases:
            raise WeightsError(
                f"tasks have biases of their own, and those of {dataset} are missing"
            )
        packed.private[task] = {
            f"trunk.{layers[number][0]}.bias": np.asarray(bias, np.float32)
            for number, bias in biases[dataset].items()
        }
    packed.parameters |= packed.private.pop(packed.tasks[-1])
    return True


def _put_owner(packed: Packed, name: str, owner: np.ndarray, tasks: int) -> None:
    """The owner map of a weight; what is free becomes 0."""
    weight = packed.parameters[name]
    if owner.shape != weight.shape or owner.max(initial=0) > tasks:
        raise WeightsError(f"the owners of {name} do not fit it")
    packed.owners[name] = owner.astype(np.uint8)
    packed.parameters[name] = np.where(owner > 0, weight, np.float32(0))


def _named_layers(shared: Thing) -> Iterator[tuple[str, Thing]]:
    """(name, module) in the order of shared.modules(), each once. The names are torchvision's:
    there the trunk of VGG is `features`, and `classifier` from the View on, DenseNet's is
    `features`, ResNet's has no name."""
    children = [child.kind.rpartition(".")[2] for child in shared.attributes["_modules"].values()]
    view = children.index("View") if "View" in children else None
    prefix = "features." if "conv0" in shared.attributes["_modules"] else ""

    def torchvisions(name: str) -> str:
        if view is None or not name:
            return newer_name(prefix + name)
        return f"features.{name}" if int(name) < view else f"classifier.{int(name) - view - 1}"

    yield from _walk(shared, "", torchvisions, set())


def _walk(
    module: Thing, name: str, rename: Callable[[str], str], seen: set
) -> Iterator[tuple[str, Thing]]:
    if id(module) in seen:
        return
    seen.add(id(module))
    yield rename(name), module
    for key, child in module.attributes["_modules"].items():
        if child is not None:
            yield from _walk(child, f"{name}.{key}" if name else key, rename, seen)


def _arrays(module: Thing) -> Iterator[tuple[str, np.ndarray]]:
    """What the module itself has: parameters, and the statistics of batch norm."""
    for key, value in (
        *module.attributes["_parameters"].items(),
        *module.attributes["_buffers"].items(),
    ):
        if value is not None and key != "num_batches_tracked":
            yield (
                key,
                np.asarray(value.arguments[0] if isinstance(value, Thing) else value, np.float32),
            )
