"""One more task for a packed network (--add-to): the settings that come from its file, its seals, and what room it has. Needs no
Jittor."""
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from settings.archs import ARCHS, own, source_of
from settings.config import Config, ConfigError, flag_of, names_of, shown
from storage import seals
from storage.checkpoint import WeightsError, load_metadata
from storage.packed import Packed, load_packed, other_content
from system.files import CHECKPOINT, STATE

BASELINES_OF_ONE = ("classifier", "individual")  # those that concern the new task alone


@dataclass
class Earlier:
    """The packed network that a run adds to. `entries`: the metadata of its tasks; `report`: what there is to say about it."""
    path: Path
    packed: Packed
    entries: list[dict]
    report: list[str]


def packed_file(add_to: str) -> Path:
    """The file that --add-to means: itself, or the one in the folder of a run."""
    return Path(add_to) / CHECKPOINT if Path(add_to).is_dir() else Path(add_to)


def completed(given: dict) -> dict:
    """The settings the user named, and those that come from the packed file. Raises ConfigError and WeightsError."""
    path = packed_file(given["add_to"])
    metadata = load_metadata(path)
    try:
        saved, names = metadata["config"], [entry["name"] for entry in metadata["tasks"]]
        if "network" in metadata:  # the user's own: only a file that is named on the command line is run
            source = metadata["network"]
            saved = saved | dict(arch=same_network(given, source, path), last=source["last"])
        elif saved["arch"] not in ARCHS:
            raise KeyError(saved["arch"])
        differences = [
            f"{flag_of(name)} {shown(given[name])}: the packed network was made with {shown(saved[name])}"
            for name in names_of("fixed_when_packed") if name in given and given[name] != saved.get(name)]
        # All others are by default as the file's, but for those of its tasks and of another machine.
        own_ones = (*names_of("of_tasks"), *names_of("of_machine"))
        result = {name: value for name, value in saved.items() if name not in own_ones} | given
        to_come = saved["tasks_to_come"] - len(given.get("task_list", []))  # the new tasks are among them
        result["tasks_to_come"] = given.get("tasks_to_come", max(0, to_come) if "equal" in given.get("pruning_ratios", []) else 0)
        Config(**result)
    except (KeyError, TypeError) as error:
        raise other_content(path, error) from error
    if differences:
        raise ConfigError(f"--add-to {given['add_to']}: {'; '.join(differences)}. Leave it out.")
    if "task_list" not in given:
        raise ConfigError("--add-to: --task-list must say which tasks are added")
    for task in given["task_list"]:
        if task in names:
            raise ConfigError(f"--task-list: {task!r} is in {path} already, which holds {', '.join(names)}")
    for method in given.get("baselines", []):
        if method not in BASELINES_OF_ONE:
            raise ConfigError(f"--baselines {method}: not from a packed network: it is about the earlier tasks too, and needs their "
                              f"training data or the network before its first prune. Allowed: {', '.join(BASELINES_OF_ONE)}.")
    return result


def same_network(given: dict, source: dict, path: Path) -> str:
    """The --arch that builds the packed network: the user must name its file, and it must be the one of then. Raises ConfigError."""
    arch = given.get("arch", "")
    if not own(arch) or not own(arch)[0].is_file():
        raise ConfigError(f"{path}: its network is built by the function {source['function']} of a file {source['file']}. Say where that "
                          f"is now: --arch path/to/{source['file']}:{source['function']}")
    there = source_of(arch)
    if any(there[key] != source[key] for key in ("function", "sha256")):
        raise ConfigError(f"--arch {arch}: not the function and the file that the packed network was made with (SHA-256 "
                          f"{source['sha256']})")
    return arch


def opened(config: Config) -> Earlier:
    """Read the packed network, and check its seals and that a task has room. Raises ConfigError and WeightsError."""
    path = packed_file(config.add_to)
    if (path.parent / STATE).exists():
        raise ConfigError(f"--add-to {config.add_to}: that run was stopped before its end. Finish it first: "
                          f"`python main.py --resume --output-dir {path.parent}`")
    packed, metadata = load_packed(path)
    entries = metadata["tasks"]
    broken = seals.broken(packed, entries)
    if broken:
        raise WeightsError(f"{path}: the seals of {', '.join(broken)} are broken: these tasks are not what they were when they were frozen")
    last = entries[-1]["name"]
    if config.prune_last:
        config.need(config.has_data(last), "prune_last", f"{last} is re-trained after its prune, and there is no {config.folder(last)}")
    elif not any((owner == 0).any() for owner in packed.owners.values()):
        raise ConfigError(f"--add-to {config.add_to}: no weight is free, since {last} kept all that were left. Add `--prune-last 0.75`, "
                          f"which first prunes {last} and re-trains it from its data; no earlier task is touched.")
    names = ", ".join(entry["name"] for entry in entries)
    return Earlier(path, packed, entries, [f"Added to: {path}, which holds {names}", *room(packed),
                                           f"{len(entries)} earlier tasks: seals unchanged"])


def room(packed: Packed) -> list[str]:
    """What is free: of all weights, and of the layer that has the smallest share left."""
    free = {name: (int(np.count_nonzero(owner == 0)), owner.size) for name, owner in packed.owners.items()}
    count, total = map(sum, zip(*free.values()))
    name, (least, size) = min(free.items(), key=lambda layer: layer[1][0] / layer[1][1])
    return [f"Free: {100 * count / total:.2f} % of the weights ({count:,} of {total:,}); least in {name}: {100 * least / size:.2f} % "
            f"({least:,} of {size:,})"]
