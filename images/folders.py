"""What the folder of a data set must hold, and which images are in it.

Layout: `<data_root>/<folder>/{train,test}/<class>/<image>`; ImageNet and Places365 have `val` for
`test`. Which folder a data set has: images/datasets.py. Labels follow the sorted class names.
"""
import os
import stat
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from images.datasets import DataSet, data_set
from system.errors import UserError

LEFT_BY_SYSTEMS = ("Thumbs.db", "desktop.ini", "__MACOSX", "@eaDir")
MARK_OF_THE_WEB = "Zone.Identifier"  # x.jpg:Zone.Identifier, which Windows leaves in WSL
NO_PHOTOGRAPHS = ("PDF", "EPS", "MPEG", "WMF", "BUFR", "GRIB", "HDF5")  # Pillow opens them so far
VALIDATION_FOLDERS = ("val", "valid", "validation")


class DataError(UserError):
    """The data are not as they must be. The message names the file or folder, and what to do."""


@dataclass(frozen=True)
class Split:
    """The files of one split: `paths` relative to `folder`, `labels` int32 [N], and all `classes`,
    sorted."""
    folder: Path
    classes: list[str]
    paths: list[str]
    labels: np.ndarray

    def of(self, rows: np.ndarray) -> "Split":
        """Some of its images."""
        paths = [self.paths[row] for row in rows]
        return Split(self.folder, self.classes, paths, self.labels[rows])


def read_split(dataset_name: str, data_root: str | Path, split: str) -> Split:
    """List one split. Raises DataError for whatever would make a class or an image vanish in
    silence. The test split may be there alone."""
    if split not in ("train", "test"):
        raise DataError(f"split {split!r} is unknown: train or test")
    about = data_set(dataset_name)
    folder = about.folder_in(data_root)
    test = about.test_folder
    if not folder.is_dir():
        where = f" Source: {about.source}." if about.source else ""
        raise DataError(f"{dataset_name}: the folder {folder} does not exist. It must hold "
                        f"train/<class>/<image> and {test}/<class>/<image>.{where}")
    found = {name: _read_classes(folder / name, about)
             for name in _folders_of(folder, about, split)}
    if len(found) == 2:
        _check_same_classes(folder, found, "train", test)
        _check_same_classes(folder, found, test, "train")
    chosen = "train" if split == "train" else test
    classes = sorted(found[chosen])
    paths = []
    for name in classes:
        paths += [f"{name}/{file}" for file in found[chosen][name]]
    counts = [len(found[chosen][name]) for name in classes]
    labels = np.repeat(np.arange(len(classes), dtype=np.int32), counts)
    return Split(folder / chosen, classes, paths, labels)


def unsorted(dataset_name: str, data_root: str | Path, split: str) -> str | None:
    """What read_split would say of a large data set that is not sorted into classes yet, as few are
    who have it; None where it is, or is not there, and of other data sets. A look at the top of its
    folders and at one class: all of it are a million names."""
    about = data_set(dataset_name)
    folder = about.folder_in(data_root)
    if about.large and folder.exists():
        try:
            for name in _folders_of(folder, about, split):
                for entry in _class_folders(folder / name, about)[:1]:
                    _files_of(entry, about)
        except DataError as error:
            return str(error)
    return None


def read_photographs(folder: str | Path) -> tuple[Split, int]:
    """(every image at or below a folder of any layout, in no class; how many other files there
    are). What is an image its ending says. Raises DataError where there is none."""
    Image.init()
    endings = {ending for ending, kind in Image.registered_extensions().items()
               if kind in Image.OPEN and kind not in NO_PHOTOGRAPHS}
    paths, others, seen = [], 0, set()
    for where, folders, files in os.walk(folder, followlinks=True):
        seen.add(os.path.realpath(where))
        folders[:] = sorted(name for name in folders if is_of_the_data(name)
                            and os.path.realpath(os.path.join(where, name)) not in seen)
        for name in filter(is_of_the_data, files):
            if os.path.splitext(name)[1].lower() in endings:
                paths.append(os.path.relpath(os.path.join(where, name), folder))
            else:
                others += 1
    if not paths:
        raise DataError(f"{folder}: there is no image in it, or in its folders.")
    return Split(Path(folder), [], sorted(paths), np.zeros(len(paths), np.int32)), others


def unused_validation(dataset_name: str, data_root: str | Path) -> str | None:
    """The folder of validation images that lies beside train and test and that no run uses."""
    about = data_set(dataset_name)
    folder = about.folder_in(data_root)
    for name in VALIDATION_FOLDERS:
        if name != about.test_folder and (folder / name).is_dir():
            return str(folder / name)
    return None


def hold_out(split: Split, fraction: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """(the rest, the part held out): row numbers of a training split, ascending. Of each class
    `fraction`, drawn by the seed; one image at least is left to both, and a class with a single
    image is not held out. Raises DataError where no class has two."""
    rng = np.random.default_rng((seed, len(split.paths)))
    held = []
    for label in range(len(split.classes)):
        rows = rng.permutation(np.flatnonzero(split.labels == label))
        count = min(max(1, round(fraction * len(rows))), len(rows) - 1)
        held.append(rows[:count])
    part = np.sort(np.concatenate(held))
    if not len(part):
        raise DataError(f"{split.folder}: no class has two images, so that none can be held out "
                        "for validation.")
    return np.setdiff1d(np.arange(len(split.paths)), part), part


def is_of_the_data(name: str) -> bool:
    """Whether a file or folder of this name belongs to a data set: operating systems leave
    others."""
    return not (name.startswith(".") or name in LEFT_BY_SYSTEMS or name.endswith(MARK_OF_THE_WEB))


def is_file(path: str | Path) -> os.stat_result:
    """What the disk says of a file. Raises DataError where it is none: a link that leads nowhere
    (a data set under git-annex or DVC, a cache that was moved), a pipe."""
    try:
        status = os.stat(path)
    except OSError as error:
        if os.path.islink(path):
            target = os.readlink(path)
            raise DataError(f"{path}: a link to {target}, where there is no file") from error
        raise DataError(f"{path}: cannot be read ({error.strerror})") from error
    if not stat.S_ISREG(status.st_mode):
        raise DataError(f"{path}: is no file")
    return status


def listed(errors: list[DataError], advice: str) -> DataError:
    """One error that names the first three and counts the others."""
    more = f"; and {len(errors) - 3:,} more" if len(errors) > 3 else ""
    return DataError("; ".join(str(error) for error in errors[:3]) + f"{more}. {advice}")


def _folders_of(folder: Path, about: DataSet, split: str) -> list[str]:
    """The folders of both splits, which must fit together; of the test split where it is alone."""
    alone = split == "test" and not (folder / "train").exists()
    return [about.test_folder] if alone else ["train", about.test_folder]


def _read_classes(folder: Path, about: DataSet) -> dict[str, list[str]]:
    """{class name: sorted file names} of one split's folder."""
    return {entry.name: _files_of(entry, about) for entry in _class_folders(folder, about)}


def _class_folders(folder: Path, about: DataSet) -> list[os.DirEntry]:
    """What a split's folder holds, which must be folders."""
    if not folder.is_dir():
        raise DataError(f"the folder {folder} does not exist. It must hold one folder of images "
                        f"per class.{_beside(folder, about)}")
    entries = _entries(folder)
    for entry in entries:
        if not _is_folder(entry):
            is_file(entry.path)
            advice = _sorted_by(about) or "Move it into its class, or away."
            raise DataError(f"{entry.path}: a file among the class folders. {advice}")
    if not entries:
        raise DataError(f"{folder}: this split is empty. It must hold one folder of images per "
                        "class.")
    return entries


def _files_of(entry: os.DirEntry, about: DataSet) -> list[str]:
    """The sorted names of the files of a class."""
    files = _entries(Path(entry.path))
    nested = next((file.name for file in files if _is_folder(file)), None)
    if nested is not None:
        advice = _sorted_by(about) or ("A slash in a class name does this (\"Ram C/V Cargo "
                                       f"Van\"): rename it, to {entry.name}-{nested}.")
        raise DataError(f"{entry.path}: holds the folder {nested!r}, but classes must not be "
                        f"nested. {advice}")
    if not files:
        raise DataError(f"{entry.path}: this class has no images.")
    return [file.name for file in files]


def _sorted_by(about: DataSet) -> str | None:
    """What to do where a large data set is not sorted into classes: nobody does that by hand."""
    if not about.large:
        return None
    return (f"Move {about.folder} to another folder, and `python prepare_data.py --dataset "
            f"{about.name} --archives` that folder sorts its images into their classes.")


def _check_same_classes(folder: Path, found: dict, here: str, there: str) -> None:
    missing = sorted(found[here].keys() - found[there].keys())
    if missing:
        raise DataError(f"{folder}: {_several(missing, 'class', 'classes')} in {here}/ but not in "
                        f"{there}/. Both must hold the same classes.")


def _beside(missing: Path, about: DataSet) -> str:
    """What lies where a split's folder is missing, and what could be meant."""
    there = sorted(entry.name for entry in _entries(missing.parent) if _is_folder(entry))
    if missing.name == about.test_folder and missing.name == "test":
        for name in VALIDATION_FOLDERS:
            if name in there:
                return (f" {missing.parent / name} is there: if its images are those to test on, "
                        "rename it test.")
    if not there:
        return f" {missing.parent} holds no folders."
    more = ", ..." if len(there) > 5 else ""
    return f" {missing.parent} holds the folders {', '.join(there[:5])}{more}."


def _is_folder(entry: os.DirEntry) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link that leads in a circle
        return False


def _entries(folder: Path) -> list[os.DirEntry]:
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError as error:
        raise DataError(f"{folder}: cannot be read ({error.strerror}).") from error
    return [entry for entry in entries if is_of_the_data(entry.name)]


def _several(names: list[str], one: str, many: str) -> str:
    shown = ", ".join(repr(name) for name in names[:3])
    if len(names) == 1:
        return f"{one} {shown} is"
    more = ", ..." if len(names) > 3 else ""
    return f"{len(names)} {many} ({shown}{more}) are"
