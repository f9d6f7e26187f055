"""How long an experiment takes on this machine: the images it trains and tests on, times what an image was found to take.

`python report.py --measure` times a few steps of each network (runs/rate.py) and keeps the result in the cache folder, by the name
of the machine: home folders are shared in clusters. Nothing here needs Jittor.
"""
import json
import os
import platform
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from images.drawings import ALPHABETS, DATASETS, TEST, TRAIN
from images.folders import OFFICIAL, dataset_folder
from settings.config import Config
from settings.experiments import runs_of
from system.files import write
from toolchain import ToolchainError, cache_folder

LARGE_SIZES = {"imagenet": (1_281_167, 50_000), "places": (1_803_460, 36_500)}  # as published: too many to count each time

Sizes = Callable[[str], tuple[int, int] | None]  # (training, test images) of a data set; None where it is not known


@dataclass
class Effort:
    """Images of a run: those it trains on, forward and backward, and those that only go `forward`."""
    trained: int = 0
    forward: int = 0


@dataclass
class Rates:
    """Seconds that an image takes on this machine, (to train on, to go forward), by network and image size: "vgg16 224"."""
    hardware: str
    seconds: dict[str, tuple[float, float]]


@cache
def images_of(task: str, data_root: str) -> tuple[int, int] | None:
    """The numbers of files where they are there, else those that are published, or that would be drawn."""
    if task in LARGE_SIZES:
        return LARGE_SIZES[task]
    train, test = (sum(len(files) for *_, files in os.walk(dataset_folder(task, data_root) / split)) for split in ("train", "test"))
    if train and test:
        return train, test
    drawn, name = DATASETS | ALPHABETS, dataset_folder(task, data_root).name  # of a permuted task: the folder that it permutes
    task = task if task in OFFICIAL else name
    return OFFICIAL[task][1:] if task in OFFICIAL else (len(drawn[task]) * TRAIN, len(drawn[task]) * TEST) if task in drawn else None


def effort(c: Config, sizes: Sizes) -> Effort | None:
    """Of a run with these settings, as training.plan and baselines.compared write it down; None where a data set's size is not known.
    What a searched ratio (auto) tries is left out."""
    there = [c.base_task] * (c.has_data(c.base_task) or c.num_epochs_base > 0)  # what is trained and measured so far
    known = {task: sizes(task) for task in [*there, *c.task_list]}
    if None in known.values():
        return None
    train, test = ({task: size[split] for task, size in known.items()} for split in (0, 1))
    whole = Effort()

    def one_task(task: str, first: int, ratio: float | str, again: int) -> None:
        """Train, prune, re-train: an epoch ends with a test; so does the prune, and the task's end, when all are tested."""
        epochs = first + again * bool(ratio)
        whole.trained += train[task] * epochs
        whole.forward += test[task] * (epochs + 2 + bool(ratio)) + sum(test[name] for name in there)

    if there:
        one_task(c.base_task, c.num_epochs_base, c.initial_pruning_ratio, c.num_epochs_base_finetune)
    for task, ratio in zip(c.task_list, c.ratios()):
        there.append(task)
        one_task(task, c.num_epochs_per_task, ratio, c.num_epochs_finetune)
    base, epochs = [task for task in there if task == c.base_task], c.num_epochs_per_task
    whole.forward += sum(test[task] for task in base) * bool(c.baselines)
    for method in c.baselines:
        if method == "joint":
            whole.trained += sum(train.values()) * epochs
            whole.forward += sum(test[task] for task in c.task_list) * epochs + sum(test.values())
            continue
        warm_up = epochs // 4 if method == "lwf" else epochs if method == "classifier" else 0  # the head alone
        for number, task in enumerate(c.task_list, start=1):
            whole.trained += train[task] * (epochs - warm_up)
            whole.forward += train[task] * (warm_up + epochs * (method == "lwf")) + test[task] * epochs  # lwf: its teacher
            whole.forward += sum(test[name] for name in ([task] if method == "individual" else [*base, *c.task_list[:number]]))
    return whole


def key(c: Config) -> str:
    """Of Rates."""
    return f"{c.arch} {c.image_size}"


def hours(experiment: str, rates: Rates, seeds: int | None = None, **given) -> float | None:
    """The estimate for all runs of an experiment; None where something it takes is not known. `given`: settings of the user's."""
    total = 0.0
    for _, settings in runs_of(experiment, seeds=seeds):
        c = Config(**settings | given)
        whole, seconds = effort(c, lambda task, root=c.data_root: images_of(task, root)), rates.seconds.get(key(c))
        if whole is None or seconds is None:
            return None
        total += whole.trained * seconds[0] + whole.forward * seconds[1]
    return total / 3600


def rounded(value: float) -> str:
    """To two digits: 0.33, 1.2, 130, 14,000."""
    return f"{float(f'{value:.2g}'):,g}"


def rates_file() -> Path:
    """Raises ToolchainError where there is no home folder."""
    return cache_folder() / f"rates-{platform.node()}.json"


def load_rates() -> Rates | None:
    """What was measured on this machine; None where nothing was, or it cannot be read."""
    try:
        return Rates(**json.loads(rates_file().read_text(encoding="utf8")))
    except (OSError, ValueError, TypeError, ToolchainError):
        return None


def save_rates(rates: Rates) -> Path:
    """Raises OSError and ToolchainError."""
    path = rates_file()
    path.parent.mkdir(parents=True, exist_ok=True)
    write(path, json.dumps(vars(rates), indent=1).encode())
    return path
