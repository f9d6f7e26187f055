"""The folder of a run: whether it is free, and the settings of the run that is in it. Needs no Jittor."""
import ast
import dataclasses
import json
from pathlib import Path

from images.datasets import data_set, found_datasets
from settings.archs import own, source_of
from settings.config import Config, ConfigError, flag_of, names_of, shown
from system.files import CHECKPOINT, LOG, RESULTS, STATE

# Settings that do not say which run is meant: where things are, and what it computes on.
PLACES = {*names_of("may_move"), *names_of("of_machine"), "convolution"}


def check_folders(config: Config, resume: bool = False) -> None:
    """Raise ConfigError where a file or folder is missing or in the way. Writes nothing."""
    need, output = config.need, Path(config.output_dir)
    need(output.is_dir() or not output.exists(), "output_dir", "is a file")
    if not resume:
        check_free(config, "Go on with it by --resume, choose" if (output / RESULTS).exists() else "Choose")
    if own(config.arch):
        check_source(config)
    need(config.pretrained is None or config.add_to or (output / STATE).exists() or Path(config.pretrained).is_file(), "pretrained",
         "no such file")
    need(Path(config.data_root).is_dir(), "data_root", "no such folder. docs/data.md shows the layout it must have.")
    for task in config.task_list:
        need(config.has_data(task), "task_list", no_data(config, task))
    need(config.num_epochs_base == 0 or config.add_to or config.has_data(config.base_task), "num_epochs_base",
         f"the base network trains on {config.folder(config.base_task)}, which does not exist")


def no_data(config: Config, task: str) -> str:
    """What to say of a task whose folder is missing: what else could be a task here, and where the data are to be had."""
    others = {config.base_task, *config.task_list}
    found = [name for name in found_datasets(config.data_root) if name not in others]
    source = data_set(task).source
    where = f"Source: {source}." if source else "docs/data.md says where the data come from."
    return (f"unknown task {task!r}: there is no folder {config.folder(task)}. Found in {config.data_root}: "
            f"{', '.join(found) or 'none'}. {where} `python main.py --demo` needs none.")


def check_free(config: Config, way_out: str = "Choose") -> None:
    """Raise ConfigError where the output folder holds a run."""
    for name in (RESULTS, CHECKPOINT, STATE, LOG):
        config.need(not (Path(config.output_dir) / name).exists(), "output_dir", f"holds a run already ({name}), which is never "
                    f"overwritten. {way_out} another folder, or move this one away.")


def check_source(config: Config) -> None:
    """Raise ConfigError unless the file of a network of the user's own is there and is Python. Runs none of it."""
    path, _ = own(config.arch)
    config.need(path.is_file(), "arch", "no such file")
    try:
        ast.parse(path.read_bytes())
    except (SyntaxError, ValueError) as error:
        raise ConfigError(f"--arch {config.arch}: {path} is not Python ({error})") from error


def resumed(config: Config, given: dict) -> tuple[Config, dict | None]:
    """(the settings to go on with, the results so far) for the run in config.output_dir; results are None where there is
    nothing to go on with.

    `given` are the settings the user named; they must be those of the run, but for where things are. Raises
    ConfigError, where there is a packed network or a state without results too: a run writes its results first; and
    where there is nothing to go on with and no setting says what to start.
    """
    path = Path(config.output_dir) / RESULTS
    if not path.exists():
        for name in (CHECKPOINT, STATE):
            config.need(not path.with_name(name).exists(), "output_dir", f"holds {name} and no {RESULTS}: no run that --resume can go on "
                        "with, and never overwritten. Choose another folder, or move this one away.")
        if not given.keys() - PLACES:
            raise ConfigError(f"--resume: there is no run in {config.output_dir} to go on with (no {RESULTS}). "
                              "Leave --resume out to start one, with its settings, or name another --output-dir.")
        return config, None
    try:
        results = json.loads(path.read_text(encoding="utf8"))
        saved, finished = results["config"], results["finished"]
        if set(saved) != {field.name for field in dataclasses.fields(config)} or not isinstance(finished, bool):
            raise ValueError("its settings are not those of this version")
        may_move = set(names_of("may_move"))
        if same_source(saved["arch"], results, given):
            may_move.add("arch")
        if not saved["add_to"]:  # no addition becomes one
            may_move.remove("add_to")
        moved = {name: value for name, value in given.items() if name in may_move}
        going_on = Config(**saved | moved | dict(output_dir=config.output_dir))
        going_on.check_values()
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError, ConfigError) as error:
        raise ConfigError(f"{path}: not the results of a run of this version, so that it cannot go on "
                          f"({type(error).__name__}: {error})") from error
    if own(saved["arch"]) and "arch" not in may_move:
        raise ConfigError(f"--resume: --arch {given['arch']} is not what the run began with ({saved['arch']}): the function, or a byte of "
                          "the file, is another, and the result would be neither run")
    differences = [f"{flag_of(name)} was {shown(saved[name])} and is now {shown(value)}"
                   for name in given if name not in may_move and (value := getattr(config, name)) != saved[name]]
    if differences:
        raise ConfigError(f"--resume: the run in {config.output_dir} has other settings, and the result would be neither "
                          f"run: {'; '.join(differences)}. Leave them out, or choose another --output-dir.")
    return going_on, results


def same_source(arch: str, results: dict, given: dict) -> bool:
    """Whether the run's network is one of the user's own, and the file that was named for it is the same still. Raises ConfigError
    where no file was named: what results.json names is not run."""
    if not own(arch):
        return False
    if "arch" not in given:
        raise ConfigError(f"--resume: the run's network is built by {arch}, and only a file that is named is run: add --arch {arch}, "
                          "or where that file is now")
    there = own(given["arch"]) and own(given["arch"])[0].is_file() and source_of(given["arch"])
    return bool(there) and all(there[key] == results["network"][key] for key in ("function", "sha256"))
