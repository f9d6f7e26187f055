"""The folder of a run: whether it is free, and the settings of the run that is in it. Needs no
Jittor."""
import ast
import dataclasses
import json
import os
from pathlib import Path

from images.datasets import data_set, found_datasets
from settings.archs import own, source_of
from settings.config import PUBLISHED, Config, ConfigError, flag_of, names_of, shown
from system.files import CHECKPOINT, LOG, RESULTS, STATE

# Settings that do not say which run is meant: where things are, and what it computes on.
PLACES = {*names_of("may_move"), *names_of("of_machine"), "convolution"}

# What can be raised where results.json is not what a run of this version writes.
UNREADABLE = (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError, ConfigError)


def check_folders(config: Config, resume: bool = False) -> None:
    """Raise ConfigError where a file or folder is missing or in the way. Writes nothing."""
    need = config.need
    output = Path(config.output_dir)
    need(output.is_dir() or not output.exists(), "output_dir", "is a file")
    there = next(path for path in (output, *output.absolute().parents) if path.exists())
    need(there.is_dir() and os.access(there, os.W_OK | os.X_OK), "output_dir",
         f"cannot be made or written: {there} is a file, or belongs to somebody else")
    if not resume:
        can_go_on = (output / RESULTS).exists()
        check_free(config, "Go on with it by --resume, choose" if can_go_on else "Choose")
    if own(config.arch):
        check_source(config)
    if config.recover_images is not None:
        need(config.recovery() != "retrain", "recover_images",
             f"is not needed: the base network is re-trained on {config.folder(config.base_task)}. "
             "Leave it out, or add --num-epochs-base-finetune 0.")
        need(Path(config.recover_images).is_dir(), "recover_images", "no such folder")
    starts = not config.add_to and not (output / STATE).exists()  # from the pretrained network
    if starts and config.pretrained not in (None, PUBLISHED):
        need(Path(config.pretrained).is_file(), "pretrained", "no such file")
    need(Path(config.data_root).is_dir(), "data_root",
         "no such folder. docs/data.md shows the layout it must have.")
    for task in config.task_list:
        need(config.has_data(task), "task_list", no_data(config, task))
    if config.num_epochs_base and not config.add_to:
        need(config.has_data(config.base_task), "num_epochs_base",
             f"the base network trains on {config.folder(config.base_task)}, which does not exist. "
             f"{where_from(config.base_task)}")


def no_data(config: Config, task: str) -> str:
    """What to say of a task whose folder is missing: what else could be a task here, and where the
    data are to be had."""
    others = {config.base_task, *config.task_list}
    found = [name for name in found_datasets(config.data_root) if name not in others]
    return (f"unknown task {task!r}: there is no folder {config.folder(task)}. Found in "
            f"{config.data_root}: {', '.join(found) or 'none'}. {where_from(task)} "
            "`python main.py --demo` needs none.")


def where_from(task: str) -> str:
    source = data_set(task).source
    return f"Source: {source}." if source else "docs/data.md says where the data come from."


def check_free(config: Config, way_out: str = "Choose") -> None:
    """Raise ConfigError where the output folder holds a run. `way_out`: the beginning of what the
    message says can be done, up to "another folder"."""
    for name in (RESULTS, CHECKPOINT, STATE, LOG):
        config.need(not (Path(config.output_dir) / name).exists(), "output_dir",
                    f"holds a run already ({name}), which is never overwritten. {way_out} another "
                    "folder, or move this one away.")


def check_source(config: Config) -> None:
    """Raise ConfigError unless the file of a network of the user's own is there and is Python. Runs
    none of it."""
    path, _ = own(config.arch)
    config.need(path.is_file(), "arch", "no such file")
    try:
        ast.parse(path.read_bytes())
    except (SyntaxError, ValueError) as error:
        raise ConfigError(f"--arch {config.arch}: {path} is not Python ({error})") from error


def resumed(config: Config, given: dict) -> tuple[Config, dict | None]:
    """(the settings to go on with, the results so far) for the run in config.output_dir; results
    are None where there is nothing to go on with.

    `given`: the settings that the user named; they must be the run's, except for those that say
    where things are. Raises ConfigError where they are not; where there is nothing to go on with
    and no setting says what to start; and where there is a packed network or a state without
    results, which no run leaves behind, since it writes its results first.
    """
    path = Path(config.output_dir) / RESULTS
    if not path.exists():
        check_nothing_to_go_on_with(config, given)
        return config, None
    try:
        results = json.loads(path.read_text(encoding="utf8"))
        saved = results["config"]
        known = {field.name for field in dataclasses.fields(config)}
        if not isinstance(results["finished"], bool) or set(saved) != known:
            raise ValueError("its settings are not those of this version")
        may_move = set(names_of("may_move"))
        if same_source(saved["arch"], results, given):
            may_move.add("arch")
        if not saved["add_to"]:  # a run that adds to no packed network cannot begin to now
            may_move.remove("add_to")
        moved = {name: value for name, value in given.items() if name in may_move}
        going_on = Config(**saved | moved | dict(output_dir=config.output_dir))
        going_on.check_values()
    except UNREADABLE as error:
        raise ConfigError(f"{path}: not the results of a run of this version, so that it cannot go "
                          f"on ({type(error).__name__}: {error})") from error
    if own(saved["arch"]) and "arch" not in may_move:
        raise ConfigError(f"--resume: --arch {given['arch']} is not what the run began with "
                          f"({saved['arch']}): the function, or a byte of the file, is another, "
                          "and the result would be neither run")
    differences = []
    for name in given:
        value = getattr(config, name)
        if name not in may_move and value != saved[name]:
            differences.append(f"{flag_of(name)} was {shown(saved[name])} and is now "
                               f"{shown(value)}")
    if differences:
        raise ConfigError(f"--resume: the run in {config.output_dir} has other settings, and the "
                          f"result would be neither run: {'; '.join(differences)}. Leave them "
                          "out, or choose another --output-dir.")
    return going_on, results


def check_nothing_to_go_on_with(config: Config, given: dict) -> None:
    """Raise ConfigError unless a run can start in a folder that holds no results: nothing else of a
    run is there, and a setting says what to start."""
    for name in (CHECKPOINT, STATE):
        config.need(not (Path(config.output_dir) / name).exists(), "output_dir",
                    f"holds {name} and no {RESULTS}: no run that --resume can go on with, and "
                    "never overwritten. Choose another folder, or move this one away.")
    if not given.keys() - PLACES:
        raise ConfigError(f"--resume: there is no run in {config.output_dir} to go on with (no "
                          f"{RESULTS}). Leave --resume out to start one, with its settings, or "
                          "name another --output-dir.")


def same_source(arch: str, results: dict, given: dict) -> bool:
    """Whether the run's network is one of the user's own, and the file named for it now is the one
    that it began with. Raises ConfigError where none is named: a file that only results.json names
    is not run."""
    if not own(arch):
        return False
    if "arch" not in given:
        raise ConfigError(f"--resume: the run's network is built by {arch}, and only a file that "
                          f"is named is run: add --arch {arch}, or where that file is now")
    if not own(given["arch"]) or not own(given["arch"])[0].is_file():
        return False
    there = source_of(given["arch"])
    begun_with = results["network"]
    return all(there[key] == begun_with[key] for key in ("function", "sha256"))
