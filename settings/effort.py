"""How long an experiment takes on this machine: the images it trains and tests on, times the
seconds that an image was found to take.

`python report.py --measure` times a few steps of each network (runs/rate.py) and keeps the result
in the cache folder, in a file named after the machine: the machines of a cluster share home
folders. Nothing here needs Jittor.
"""
import json
import os
import platform
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from images.datasets import data_set
from images.drawings import ALPHABETS, DATASETS, TEST, TRAIN
from methods import METHODS
from methods.recovery import PASSES, at_once
from packing.portrait import IMAGES
from settings.config import Config
from settings.experiments import runs_of
from settings.plan import plan
from system.files import write
from toolchain import ToolchainError, cache_folder

# The numbers of training and test images of a data set; None where they are not known.
Sizes = Callable[[str], tuple[int, int] | None]


@dataclass
class Effort:
    """Images of a run: those it trains on, forward and backward, and those that only go
    `forward`."""
    trained: int = 0
    forward: int = 0


@dataclass
class Rates:
    """Seconds that an image takes on this machine, (to train on, to go forward), by network and
    image size: "vgg16 224"."""
    hardware: str
    seconds: dict[str, tuple[float, float]]


@cache
def images_of(task: str, data_root: str) -> tuple[int, int] | None:
    """The numbers of training and test images of a data set: of the files in its folder, else the
    published ones, else those of a set that would be drawn; None where nothing is known."""
    about = data_set(task)
    if about.large:
        return about.train, about.test  # too many to count each time
    folder = about.folder_in(data_root)
    train = sum(len(files) for *_, files in os.walk(folder / "train"))
    test = sum(len(files) for *_, files in os.walk(folder / "test"))
    if train and test:
        return train, test
    if about.counts:
        return about.train, about.test
    classes = (DATASETS | ALPHABETS).get(about.name)
    if classes:
        return len(classes) * TRAIN, len(classes) * TEST
    return None


def unlabelled(c: Config, train: dict[str, int]) -> int:
    """How many images the pruned base network is brought back with; `train`: of each task."""
    if c.recover_images:
        count = sum(len(files) for *_, files in os.walk(c.recover_images))
    else:
        count = sum(train[task] for task in c.task_list)
    return min(count, c.recover_most)


def effort(c: Config, sizes: Sizes) -> Effort | None:
    """Of a run with these settings; None where a data set's size is not known."""
    tasks = list(c.task_list)
    if c.num_epochs_base or c.can_read(c.base_task):
        tasks.insert(0, c.base_task)
    known = {task: sizes(task) for task in tasks}
    if None in known.values():
        return None
    train = {task: size[0] for task, size in known.items()}
    test = {task: size[1] for task, size in known.items()}
    whole = Effort()
    for step in plan(c):
        method = METHODS[step.method]
        one_test = test.get(step.task, 0)  # the base task may have no data
        match step.kind:
            case "epoch" | "attempt":
                if step.phase.distils:
                    images = unlabelled(c, train)
                    teachers = 1
                else:
                    images = sum(train.get(task, 0) for task in method.trained_on(tasks, step.task))
                    teachers = method.teachers
                judged = sum(test.get(task, 0) for task in method.judged_on(c, step.task))
                epochs = step.phase.epochs if step.kind == "attempt" else 1
                if method.head_only(step.phase):
                    whole.forward += images * epochs
                else:
                    whole.trained += images * epochs
                whole.forward += images * epochs * teachers
                whole.forward += judged * (2 if step.kind == "attempt" else 1)  # before and after
            case "keep":
                whole.forward += one_test
            case "norms":
                whole.forward += unlabelled(c, train) + one_test
            case "refit":  # the whole network, too
                whole.forward += 2 * PASSES * min(at_once(c), unlabelled(c, train)) + one_test
            case "prune":
                whole.forward += one_test * (2 if step.ratio else 1)
            case "finish":
                whole.forward += sum(test[task] for task in method.tested_on(tasks, step.task))
                whole.forward += sum(test.values()) * method.asked(c, tasks, step.task)
                if method.makes_portraits:
                    whole.forward += min(IMAGES, train.get(step.task, 0))
    return whole


def key(c: Config) -> str:
    """What a run's network is called in Rates.seconds."""
    return f"{c.arch} {c.image_size}"


def hours(experiment: str, rates: Rates, seeds: int | None = None, **given) -> float | None:
    """The estimate for all runs of an experiment; None where the size of a data set or the seconds
    of a network are not known. `given`: settings that the user named."""
    total = 0.0
    for _, settings in runs_of(experiment, seeds=seeds):
        c = Config(**settings | given)
        whole = effort(c, lambda task, root=c.data_root: images_of(task, root))
        seconds = rates.seconds.get(key(c))
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
