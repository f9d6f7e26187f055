"""More tasks for a packed network (--add-to): the settings that come from its file, its seals, and
how many weights are free. Needs no Jittor."""
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from methods import BASELINES, METHODS
from settings.archs import ARCHS, own, source_of
from settings.config import Config, ConfigError, flag_of, names_of, shown
from storage import seals
from storage.checkpoint import WeightsError, load_metadata
from storage.packed import Packed, load_packed, other_content
from system.files import CHECKPOINT, STATE


@dataclass
class Earlier:
    """The packed network that a run adds to. `entries`: the metadata of its tasks; `report`: lines
    for the log."""
    path: Path
    packed: Packed
    entries: list[dict]
    report: list[str]


def packed_file(add_to: str) -> Path:
    """The file that --add-to means: itself, or the one in the folder of a run."""
    return Path(add_to) / CHECKPOINT if Path(add_to).is_dir() else Path(add_to)


def completed(given: dict) -> dict:
    """The settings the user named, and those that come from the packed file. Raises ConfigError and
    WeightsError."""
    path = packed_file(given["add_to"])
    metadata = load_metadata(path)
    try:
        saved = metadata["config"]
        names = [entry["name"] for entry in metadata["tasks"]]
        if "network" in metadata:
            # A network of the user's own: only a file that is named on the command line is run.
            source = metadata["network"]
            arch = same_network(given, source, path)
            saved = saved | dict(arch=arch, last=source["last"])
        elif saved["arch"] not in ARCHS:
            raise KeyError(saved["arch"])
        differences = [
            f"{flag_of(name)} {shown(given[name])}: the packed network was made with "
            f"{shown(saved[name])}"
            for name in names_of("fixed_when_packed")
            if name in given and given[name] != saved.get(name)]
        # What the user does not name is as in the file, but for what was of the packed tasks alone,
        # or of the machine they were packed on.
        left_out = (*names_of("of_tasks"), *names_of("of_machine"))
        result = {name: value for name, value in saved.items() if name not in left_out} | given
        result["tasks_to_come"] = tasks_to_come(saved, given)
        Config(**result)
    except (KeyError, TypeError) as error:
        raise other_content(path, error) from error
    if differences:
        raise ConfigError(f"--add-to {given['add_to']}: {'; '.join(differences)}. Leave it out.")
    if "task_list" not in given:
        raise ConfigError("--add-to: --task-list must say which tasks are added")
    for task in given["task_list"]:
        if task in names:
            raise ConfigError(f"--task-list: {task!r} is in {path} already, which holds "
                              f"{', '.join(names)}")
    allowed = [name for name in BASELINES if METHODS[name].of_one_task]
    for method in given.get("baselines", []):
        if method not in allowed:
            raise ConfigError(f"--baselines {method}: not from a packed network: it is about the "
                              "earlier tasks too, and needs their training data or the network "
                              "before its first prune. Allowed: "
                              f"{', '.join(allowed)}.")
    return result


def tasks_to_come(saved: dict, given: dict) -> int:
    """How many tasks are to follow those that are added: by default, with equal ratios, what is
    left of the number in the packed file once the new tasks are taken from it."""
    left = max(0, saved["tasks_to_come"] - len(given.get("task_list", [])))
    equal = "equal" in given.get("pruning_ratios", [])
    return given.get("tasks_to_come", left if equal else 0)


def same_network(given: dict, source: dict, path: Path) -> str:
    """The --arch that builds the packed network: the user must name its file, and no byte of that
    may have changed since the network was packed. Raises ConfigError."""
    arch = given.get("arch", "")
    if not own(arch) or not own(arch)[0].is_file():
        raise ConfigError(f"{path}: its network is built by the function {source['function']} of a "
                          f"file {source['file']}. Say where that is now: --arch "
                          f"path/to/{source['file']}:{source['function']}")
    there = source_of(arch)
    if any(there[key] != source[key] for key in ("function", "sha256")):
        raise ConfigError(f"--arch {arch}: not the function and the file that the packed network "
                          f"was made with (SHA-256 {source['sha256']})")
    return arch


def opened(config: Config) -> Earlier:
    """Read the packed network, and check its seals and that a new task finds free weights. Raises
    ConfigError and WeightsError."""
    path = packed_file(config.add_to)
    if (path.parent / STATE).exists():
        raise ConfigError(f"--add-to {config.add_to}: that run was stopped before its end. Finish "
                          f"it first: `python main.py --resume --output-dir {path.parent}`")
    packed, metadata = load_packed(path)
    entries = metadata["tasks"]
    broken = seals.broken(packed, entries)
    if broken:
        raise WeightsError(f"{path}: the seals of {', '.join(broken)} are broken: these tasks are "
                           "not what they were when they were frozen")
    last = entries[-1]["name"]
    if config.prune_last:
        config.need(config.has_data(last), "prune_last",
                    f"{last} is re-trained after its prune, and there is no {config.folder(last)}")
    elif not any((owner == 0).any() for owner in packed.owners.values()):
        raise ConfigError(f"--add-to {config.add_to}: no weight is free, since {last} kept all "
                          "that were left. Add `--prune-last 0.75`, which first prunes "
                          f"{last} and re-trains it from its data; no earlier task is touched.")
    names = ", ".join(entry["name"] for entry in entries)
    report = [f"Added to: {path}, which holds {names}",
              *room(packed),
              f"{len(entries)} earlier tasks: seals unchanged"]
    return Earlier(path, packed, entries, report)


def room(packed: Packed) -> list[str]:
    """A line for the log: how many weights are free, of all and of the layer that has the smallest
    share left."""
    free = {name: np.count_nonzero(owner == 0) for name, owner in packed.owners.items()}
    size = {name: owner.size for name, owner in packed.owners.items()}
    least = min(free, key=lambda name: free[name] / size[name])
    count, total = sum(free.values()), sum(size.values())
    return [f"Free: {100 * count / total:.2f} % of the weights ({count:,} of {total:,}); least in "
            f"{least}: {100 * free[least] / size[least]:.2f} % "
            f"({free[least]:,} of {size[least]:,})"]
