"""Where a data set's images are, and what its folders must hold.

Layout: `<data_root>/<folder>/{train,test}/<class>/<image>`; ImageNet and Places365 have `val` for `test`. The folder is
cubs_cropped, stanford_cars_cropped or flowers for the three data sets of the paper, and the data set's own name
for any other; of X_permuted_N that of X. Labels follow the sorted class names.
"""
import os
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from system.errors import UserError

FOLDERS = {"cubs": "cubs_cropped", "cars": "stanford_cars_cropped"}  # every other data set: its own name
LARGE = ("imagenet", "places")  # their test split is called val, and their training split is decoded as it is needed
# CIFAR-100's superclasses in alphabetical order; one of them is called flowers, as Oxford's.
CIFAR100 = tuple(f"cifar100_{name}" for name in (
    "aquatic_mammals", "fish", "flowers", "food_containers", "fruit_and_vegetables", "household_electrical_devices", "household_furniture",
    "insects", "large_carnivores", "large_man-made_outdoor_things", "large_natural_outdoor_scenes", "large_omnivores_and_herbivores",
    "medium_mammals", "non-insect_invertebrates", "people", "reptiles", "small_mammals", "trees", "vehicles_1", "vehicles_2"))
# Official counts: classes, train images, test images. WikiArt and Sketch: as Mallya et al. split them (Piggyback, ECCV 2018).
OFFICIAL = {"cubs": (200, 5994, 5794), "cars": (196, 8144, 8041), "flowers": (102, 2040, 6149), "wikiart": (195, 42129, 10628),
            "sketch": (250, 16000, 4000), **{name: (5, 2500, 500) for name in CIFAR100}, "mnist": (10, 60000, 10000),
            "mnist_0_1": (2, 12665, 2115), "mnist_2_3": (2, 12089, 2042), "mnist_4_5": (2, 11263, 1874), "mnist_6_7": (2, 12183, 1986),
            "mnist_8_9": (2, 11800, 1983)}
MNIST = tuple(name for name in OFFICIAL if name.startswith("mnist"))
PERMUTED = re.compile(r"(.+)_permuted_(\d+)")  # X_permuted_N: the images of X, their pixels in the order that the seed N draws
IGNORED = ("Thumbs.db", "desktop.ini")  # and names that begin with a dot


class DataError(UserError):
    """The data are not as they must be. The message names the file or folder and says what to do."""


def dataset_folder(dataset_name: str, data_root: str | Path) -> Path:
    permuted = PERMUTED.fullmatch(dataset_name)
    name = permuted[1] if permuted else dataset_name
    return Path(data_root) / FOLDERS.get(name, name)


def found_datasets(data_root: str | Path) -> list[str]:
    """Names of the data sets in the data root: its folders that hold a train folder, and can be read. What begins with a dot is in the
    making."""
    names = {folder: name for name, folder in FOLDERS.items()}
    return sorted(names.get(name, name) for name in os.listdir(data_root)
                  if not name.startswith(".") and os.path.isdir(os.path.join(data_root, name, "train")))


@dataclass(frozen=True)
class Split:
    """The files of one split: `paths` relative to `folder`, `labels` int32 [N], and all `classes`, sorted."""
    folder: Path
    classes: list[str]
    paths: list[str]
    labels: np.ndarray

    def of(self, rows: np.ndarray) -> "Split":
        """Some of its images."""
        return Split(self.folder, self.classes, [self.paths[row] for row in rows], self.labels[rows])


def read_split(dataset_name: str, data_root: str | Path, split: str) -> Split:
    """List one split. Raises DataError for whatever would make a class or an image vanish in silence. The test split may be
    there alone."""
    if split not in ("train", "test"):
        raise DataError(f"split {split!r} is unknown: train or test")
    folder = dataset_folder(dataset_name, data_root)
    test = "val" if dataset_name in LARGE else "test"
    if not folder.is_dir():
        raise DataError(f"{dataset_name}: the folder {folder} does not exist. "
                        f"It must hold train/<class>/<image> and {test}/<class>/<image>.")
    pairs = () if split == "test" and not (folder / "train").exists() else (("train", test), (test, "train"))
    found = {name: _read_classes(folder / name) for name in ([here for here, _ in pairs] or [test])}
    for here, there in pairs:
        missing = sorted(found[here].keys() - found[there].keys())
        if missing:
            raise DataError(f"{folder}: {_several(missing, 'class', 'classes')} in {here}/ but not in {there}/. "
                            "Both must hold the same classes.")
    chosen = found["train" if split == "train" else test]
    classes = sorted(chosen)
    paths = [f"{name}/{file}" for name in classes for file in chosen[name]]
    labels = np.repeat(np.arange(len(classes), dtype=np.int32), [len(chosen[name]) for name in classes])
    return Split(folder / ("train" if split == "train" else test), classes, paths, labels)


def hold_out(split: Split, fraction: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """(the rest, the part held out): row numbers of a training split, ascending. Of each class `fraction`, drawn by the seed; one
    image at least is left to both, and a class with a single image is not held out. Raises DataError where no class has two."""
    rng, held = np.random.default_rng((seed, len(split.paths))), []
    for label in range(len(split.classes)):
        rows = rng.permutation(np.flatnonzero(split.labels == label))
        held.append(rows[:min(max(1, round(fraction * len(rows))), len(rows) - 1)])
    part = np.sort(np.concatenate(held))
    if not len(part):
        raise DataError(f"{split.folder}: no class has two images, so that none can be held out for validation.")
    return np.setdiff1d(np.arange(len(split.paths)), part), part


def _read_classes(folder: Path) -> dict[str, list[str]]:
    """{class name: sorted file names} of one split's folder."""
    if not folder.is_dir():
        raise DataError(f"the folder {folder} does not exist. It must hold one folder of images per class.")
    classes: dict[str, list[str]] = {}
    for entry in _entries(folder):
        if not entry.is_dir():
            raise DataError(f"{entry.path}: a file among the class folders. Move it into its class, or away.")
        files = _entries(Path(entry.path))
        nested = [file.name for file in files if file.is_dir()]
        if nested:
            raise DataError(f"{entry.path}: holds the folder {nested[0]!r}, but classes must not be nested. A slash in a "
                            f"class name does this (\"Ram C/V Cargo Van\"): rename it, to {entry.name}-{nested[0]!s}.")
        if not files:
            raise DataError(f"{entry.path}: this class has no images.")
        classes[entry.name] = [file.name for file in files]
    if not classes:
        raise DataError(f"{folder}: this split is empty. It must hold one folder of images per class.")
    return classes


def _entries(folder: Path) -> list[os.DirEntry]:
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError as error:
        raise DataError(f"{folder}: cannot be read ({error.strerror}).") from error
    return [entry for entry in entries if not entry.name.startswith(".") and entry.name not in IGNORED]


def _several(names: list[str], one: str, many: str) -> str:
    shown = ", ".join(repr(name) for name in names[:3])
    return f"{one} {shown} is" if len(names) == 1 else f"{len(names)} {many} ({shown}{', ...' * (len(names) > 3)}) are"
