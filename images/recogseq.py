"""The photographs of De Lange et al.'s sequence of recognition tasks (TPAMI 2021) beside CUBS, Cars
and Flowers: MIT Indoor 67, FGVC Aircraft, the actions of PASCAL VOC 2012, the letters of Chars74K.
"""
import re
import string
from pathlib import Path
from xml.etree import ElementTree

from images.archives import (
    TAR_ENDINGS,
    ArchiveError,
    Archives,
    Missing,
    members,
    small_files,
)
from images.pictures import Box, Picture, Sources
from system.progress import Progress


def read_indoor67(archives: Archives) -> Sources:
    """indoorCVPR_09.tar and the two lists that are published beside it: a line a photograph, as
    "mall/shopping mall.jpg"."""
    path = _container(archives, "indoorCVPR_09.tar", "Images/airport_inside/")
    pictures = []
    for split, name in (("train", "TrainImages.txt"), ("test", "TestImages.txt")):
        try:
            found = archives.file(name)
        except Missing as error:
            raise ArchiveError(f"{archives}: {name} is missing, the list of the {split} images of "
                               f"{path.name}") from error
        for line in _lines(found.content()):
            label, slash, file = line.partition("/")
            if not slash or "/" in file or not file:
                raise ArchiveError(f"{found.where}: its lines are not a class and a photograph, as "
                                   f"bar/bar_0001.jpg, but {line[:60]!r}")
            pictures.append(Picture(f"Images/{line}", split, label, None))
    return [(path, pictures)]


def read_aircraft(archives: Archives) -> Sources:
    """The 100 variants of FGVC Aircraft, whose names may hold spaces and slashes. The training part
    is the official one and the one for validation together."""
    lists = {"train": "data/images_variant_trainval.txt", "test": "data/images_variant_test.txt"}
    path = _container(archives, "fgvc-aircraft-2013b.tar.gz", *lists.values())
    files = small_files(path, lists.values())
    pictures = []
    for split, name in lists.items():
        for line in _lines(files[name]):
            number, _, variant = line.partition(" ")
            if not number.isdecimal() or not variant:
                raise ArchiveError(f"{path}: the lines of {name} are not a number and a variant, "
                                   f"but {line[:60]!r}")
            pictures.append(Picture(f"data/images/{number}.jpg", split, variant.strip(), None))
    return [(path, pictures)]


# ------------------------------------------------------------------------- the actions of VOC 2012

ACTIONS = ("jumping", "phoning", "playinginstrument", "reading", "ridingbike", "ridinghorse",
           "running", "takingphoto", "usingcomputer", "walking")
OTHER_ACTION = "other"
VOC = "VOC2012"  # earlier years have such folders, too
VOC_SPLITS = {"train": "train", "val": "test"}  # what is done in the official test was never told


def read_voc_actions(archives: Archives) -> Sources:
    """Each person of the action task, cropped to the box. Who does none of the ten actions is of
    the class "other"; who does several is left out, as one class is to be told."""
    first = f"{VOC}/ImageSets/Action/jumping_train.txt"
    path = _container(archives, "VOCtrainval_11-May-2012.tar", first)
    lists = {}
    annotations = {}
    for member, content in Progress(members(path), f"Looking into {path.name}", unit="file"):
        *folders, file = member.split("/")
        if folders[-3:] == [VOC, "ImageSets", "Action"]:
            lists[file] = content()
        elif folders[-2:] == [VOC, "Annotations"]:
            annotations[file] = content()
    pictures = []
    try:
        for part, split in VOC_SPLITS.items():
            for (image, number), actions in _persons(lists, part).items():
                if len(actions) > 1:
                    continue
                box = _box(annotations[f"{image}.xml"], number)
                label = actions[0] if actions else OTHER_ACTION
                member = f"{VOC}/JPEGImages/{image}.jpg"
                pictures.append(Picture(member, split, label, box, f"{image}_{number}"))
    except KeyError as error:
        raise ArchiveError(f"{path}: holds no {error.args[0]}: this is not the official "
                           "archive") from error
    except (ValueError, TypeError, ElementTree.ParseError) as error:
        raise ArchiveError(f"{path}: the lists of its actions and its annotations do not fit "
                           f"together ({type(error).__name__}: {error})") from error
    return [(path, pictures)]


def _persons(lists: dict[str, bytes], part: str) -> dict[tuple[str, int], list[str]]:
    """{(image, number of the object in it, from 1): the actions that it does}. Lines are an image,
    that number, and 1 or -1. Raises KeyError and ValueError."""
    persons: dict[tuple[str, int], list[str]] = {}
    for action in ACTIONS:
        for line in _lines(lists[f"{action}_{part}.txt"]):
            image, number, does = line.split()
            actions = persons.setdefault((image, int(number)), [])
            if int(does) == 1:
                actions.append(action)
    return persons


def _box(annotation: bytes, number: int) -> Box:
    """Of the object of that number. Edges are 1-based, both ends included. Raises ValueError,
    TypeError and ParseError."""
    things = ElementTree.fromstring(annotation).findall("object")
    if not 1 <= number <= len(things):
        raise ValueError(f"no object {number} of {len(things)}")
    left, top, right, bottom = (float(things[number - 1].findtext(f"bndbox/{edge}"))
                                for edge in ("xmin", "ymin", "xmax", "ymax"))
    return left - 1, top - 1, right, bottom


# ----------------------------------------------------------------------------------------- Chars74K

LETTERS = (*string.ascii_uppercase, *(f"small_{letter}" for letter in string.ascii_lowercase))
FIRST_LETTER = 11  # number of the folder of A; before it are the digits
# A mask of each is called the same, and of the images called bad some have the same names.
GOOD_LETTER = re.compile(r"(?:.*/)?(GoodImg/Bmp/Sample0(\d\d)/img0\2-\d+\.png)")
TEST_EVERY = 7  # of the survey's own split, which could not be had: 1,150 of 8,000


def read_chars74k(archives: Archives) -> Sources:
    """The letters among the good images of EnglishImg.tgz, capitals and small ones. No official
    split exists; here every seventh image of a letter, by its number, is for testing."""
    path = _container(archives, "EnglishImg.tgz", "GoodImg/Bmp/Sample011/img011-00001.png")
    found: dict[int, list[str]] = {}
    for member, _ in Progress(members(path), f"Looking into {path.name}", unit="file"):
        if match := GOOD_LETTER.fullmatch(member):
            found.setdefault(int(match[2]) - FIRST_LETTER, []).append(match[1])
    pictures = []
    for number, label in enumerate(LETTERS):
        if number not in found:
            raise ArchiveError(f"{path}: holds no good image of {label} (GoodImg/Bmp/Sample0"
                               f"{number + FIRST_LETTER}): this is not the official archive")
        for place, member in enumerate(sorted(found[number]), start=1):
            split = "train" if place % TEST_EVERY else "test"
            pictures.append(Picture(member, split, label, None))
    return [(path, pictures)]


READERS = {
    "indoor67": read_indoor67,
    "aircraft": read_aircraft,
    "voc-actions": read_voc_actions,
    "chars74k": read_chars74k,
}


def _container(archives: Archives, name: str, *holds: str) -> Path:
    """As Archives.container, by the official name with its ending, which Missing names."""
    stem = name.removesuffix(next(end for end in TAR_ENDINGS if name.endswith(end)))
    try:
        return archives.container(stem, *holds)
    except Missing as error:
        raise Missing(archives.folder, f"the archive {name}") from error


def _lines(content: bytes) -> list[str]:
    """The lines that are not empty, without the spaces around them."""
    text = content.decode("utf-8-sig", errors="replace")
    return [line.strip() for line in text.splitlines() if line.strip()]
