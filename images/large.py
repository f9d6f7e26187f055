"""ImageNet and Places365 as people have them: which image belongs where.

ImageNet's training images carry the class in their names. Those it is tested with lie side by side,
in an order of no meaning, and their classes in a list; Places365's have their class in the path, or
lie side by side too.
"""
import csv
import io
import re
from collections.abc import Callable
from pathlib import PurePosixPath

import numpy as np

from images.archives import ArchiveError, Archives, Missing
from images.pictures import load_mat

Place = tuple[str, str]  # the folder of the split, the class
Sorter = Callable[[str], Place | None]  # of the path of an image; None for what is none of them

IMAGENET_TRAIN = re.compile(r"(n\d{8})_\d+\.JPEG")
IMAGENET_VAL = re.compile(r"(ILSVRC2012_val_\d{8})\.JPEG")
WORDNET = re.compile(r"n\d{8}")
PLACES_VAL = re.compile(r"Places365_val_\d{8}\.jpg")
# The folders above Places365's classes: of the training images in their nested form.
PLACES_TRAIN_FOLDERS = ("data_256_standard", "data_256", "data_large_standard", "data_large")


def imagenet_sorter(archives: Archives) -> Sorter:
    """Raises ArchiveError where the classes of the images to test with are not known, when such an
    image comes that does not lie in a folder of its class."""
    labels: dict[str, str] = {}

    def place(path: str) -> Place | None:
        name = PurePosixPath(path).name
        folder = PurePosixPath(path).parent.name
        if train := IMAGENET_TRAIN.fullmatch(name):
            return "train", train[1]
        if not (val := IMAGENET_VAL.fullmatch(name)):
            return None
        if WORDNET.fullmatch(folder):
            return "val", folder
        if not labels:
            labels.update(imagenet_labels(archives))
        if val[1] not in labels:
            raise ArchiveError(f"{archives}: the list of classes does not name {name}")
        return "val", labels[val[1]]

    return place


def imagenet_labels(archives: Archives) -> dict[str, str]:
    """{name of a validation image without its ending: its class}, from Kaggle's list or the
    devkit."""
    try:
        rows = csv.reader(io.StringIO(_text(archives.file("LOC_val_solution.csv"))))
        return {row[0]: row[1].split()[0] for row in rows if row and row[0] != "ImageId"}
    except Missing:
        pass
    except IndexError as error:
        raise ArchiveError(f"{archives}: LOC_val_solution.csv has lines without a class") from error
    try:
        truth = archives.packed_file("ILSVRC2012_validation_ground_truth.txt", IMAGENET_DEVKIT)
        meta = archives.packed_file("meta.mat", IMAGENET_DEVKIT)
    except Missing as error:
        raise ArchiveError(f"{archives}: the validation images of ImageNet lie side by side, and "
                           "what says their classes is missing: LOC_val_solution.csv (Kaggle) or "
                           f"{IMAGENET_DEVKIT}.tar.gz") from error
    try:
        synsets = np.atleast_1d(load_mat(meta)["synsets"])
        names = {int(synset.ILSVRC2012_ID): str(synset.WNID) for synset in synsets}
        numbers = map(int, _text(truth).split())
        return {f"ILSVRC2012_val_{row:08}": names[number] for row, number in enumerate(numbers, 1)}
    except (KeyError, AttributeError, ValueError, TypeError) as error:
        raise ArchiveError(f"{archives}: the lists of ImageNet's devkit do not fit together "
                           f"({type(error).__name__}: {error})") from error


IMAGENET_DEVKIT = "ILSVRC2012_devkit_t12"


def places_sorter(archives: Archives) -> Sorter:
    """Of the easy form, {train,val}/<class>/, and of the nested one, data_256_standard/a/airfield/,
    whose images to test with are named in places365_val.txt and categories_places365.txt."""
    labels: dict[str, str] = {}

    def place(path: str) -> Place | None:
        parts = PurePosixPath(path).parts
        if not path.endswith(".jpg"):
            return None
        if PLACES_VAL.fullmatch(parts[-1]) and "val" not in parts[-3:-2]:
            if not labels:
                labels.update(places_labels(archives))
            if parts[-1] not in labels:
                raise ArchiveError(f"{archives}: places365_val.txt does not name {parts[-1]}")
            return "val", labels[parts[-1]]
        for folder in PLACES_TRAIN_FOLDERS:
            if folder in parts:
                below = parts[parts.index(folder) + 1:-1]
                return ("train", "-".join(below[1:])) if len(below) > 1 else None
        return (parts[-3], parts[-2]) if parts[-3:-2] in (("train",), ("val",)) else None

    return place


def places_labels(archives: Archives) -> dict[str, str]:
    try:
        listed = _text(archives.packed_file("places365_val.txt", PLACES_LISTS))
        categories = _text(archives.packed_file("categories_places365.txt", PLACES_LISTS))
    except Missing as error:
        raise ArchiveError(f"{archives}: the validation images of Places365 lie side by side, and "
                           "what says their classes is missing: places365_val.txt and "
                           "categories_places365.txt") from error
    try:
        names = {}
        for line in categories.splitlines():
            path, number = line.split()  # "/a/apartment_building/outdoor 8"
            names[number] = "-".join(path.split("/")[2:])
        return {name: names[number] for name, number in map(str.split, listed.splitlines())}
    except (KeyError, ValueError) as error:
        raise ArchiveError(f"{archives}: places365_val.txt and categories_places365.txt do not fit "
                           f"together ({type(error).__name__}: {error})") from error


PLACES_LISTS = "filelist_places365-standard"


def _text(found) -> str:
    return found.content().decode("utf-8-sig", errors="replace")
