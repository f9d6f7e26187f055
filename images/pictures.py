"""Data sets that are published as photographs with lists: what each says of its images.

A reader gives, by container, the pictures that are to be made of what is in it.
"""
import csv
import io
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
from PIL import Image

from images.archives import (
    ArchiveError,
    Archives,
    DamagedArchive,
    Found,
    Missing,
    small_files,
)
from images.datasets import PUBLISHED, TINY_IMAGENET
from images.parquet import Rows, members, parquet_splits, read_rows
from images.tfrecords import FILENAME, box_of, examples, tfrecord_splits
from system.progress import Progress

Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class Picture:
    """One image to be made: its member in a container, where it goes, and its box (left, top,
    right, bottom; 0-based, right and bottom excluded; None for the file as it is). `name`: of the
    file that is made, without its ending, where it is not the member's."""
    member: str
    split: str
    label: str
    box: Box | None
    name: str = ""

    @property
    def file(self) -> str:
        """The name of the file that is made: a crop is a JPEG file, as most photographs are."""
        member = PurePosixPath(self.member)
        kept = self.box is None and member.suffix.lower() == ".png"
        return f"{self.name or member.stem}{'.png' if kept else '.jpg'}"


Sources = list[tuple[Path, list[Picture]]]


def load_mat(found: Found) -> dict:
    from scipy.io import loadmat
    try:
        return loadmat(io.BytesIO(found.content()), squeeze_me=True, struct_as_record=False)
    except ArchiveError:
        raise
    except Exception as error:  # loadmat raises many kinds
        raise ArchiveError(f"{found.where}: is no MATLAB 5 file ({error})") from error


def by_container(sources: Iterable[tuple[Path, list[Picture]]]) -> Sources:
    """Each container once, so that it is read once."""
    together: dict[Path, list[Picture]] = {}
    for path, pictures in sources:
        together.setdefault(path, []).extend(pictures)
    return list(together.items())


# ----------------------------------------------------------------------------------------------
# Tiny ImageNet

def read_tiny_imagenet(name: str) -> Callable[[Archives], Sources]:
    """The reader of a part: of the 200 classes in the order of their WordNet numbers the next 20.
    The official images for validation are for testing, since the labels of those for testing were
    never published."""
    def read(archives: Archives) -> Sources:
        known = PUBLISHED[name]
        lists = ("wnids.txt", "val/val_annotations.txt")
        path = archives.container("tiny-imagenet-200", *lists)
        files = {end: text.decode(errors="replace") for end, text in
                 small_files(path, lists).items()}
        first = TINY_IMAGENET.index(name) * known.classes
        classes = sorted(files["wnids.txt"].split())[first:first + known.classes]
        each = range(known.train // known.classes)
        pictures = [Picture(f"train/{label}/images/{label}_{number}.JPEG", "train", label, None)
                    for label in classes for number in each]
        rows = [line.split("\t") for line in files["val/val_annotations.txt"].splitlines()]
        if not all(len(row) > 1 for row in rows):
            raise ArchiveError(f"{path}: val_annotations.txt has lines without a class")
        pictures += [Picture(f"val/images/{row[0]}", "test", row[1], None)
                     for row in rows if row[1] in classes]
        return [(path, pictures)]

    return read


# ----------------------------------------------------------------------------------------------
# CUBS

CUBS_LISTS = ("images.txt", "image_class_labels.txt", "train_test_split.txt", "bounding_boxes.txt",
              "classes.txt")


def read_cubs(archives: Archives) -> Sources:
    """CUB_200_2011 with its five lists, in any container; as parquet with boxes; or as TensorFlow
    Datasets has it."""
    try:
        return _cubs_of_lists(archives)
    except Missing:
        if parquet_splits(archives):
            return _pictures_of_parquet(archives, boxes=True)
        if tfrecord_splits(archives):
            return _cubs_of_tfrecords(archives)
        raise


def _pictures_of_parquet(archives: Archives, boxes: bool) -> Sources:
    sources = []
    for split, paths in parquet_splits(archives).items():
        for path in paths:
            rows = read_rows(path)
            edges = [None] * len(rows.members)
            if boxes:
                labels, edges = _with_boxes(rows)
            elif "label" in rows.names:
                labels = rows.labels("label")
            else:  # the official classes of Flowers have no names, either
                labels = [f"{label + 1:03}" for label in rows.columns["label"]]
            pictures = []
            for member, label, box in zip(rows.members, labels, edges):
                pictures.append(Picture(member, split, label, box))
            sources.append((path, pictures))
    return sources


def _with_boxes(rows: Rows) -> tuple[list[str], list[Box]]:
    """The class and the box of each image of CUBS. Boxes are x1, y1, x2, y2, 0-based, right and
    bottom excluded; or, in a copy of TensorFlow Datasets', fractions, and the class stands in the
    photograph's name. Raises ArchiveError."""
    edges = rows.columns.get("bbox")
    if edges is None:
        raise ArchiveError(f"{rows.path}: this copy has no boxes (a column bbox), so that its "
                           "images cannot be cropped")
    if max(map(max, edges)) > 1:
        return rows.labels("label"), [tuple(box) for box in edges]
    names = rows.columns.get(FILENAME)
    if names is None:
        raise ArchiveError(f"{rows.path}: its boxes are fractions of the image, in an order that "
                           "is not known here")
    photographs = Progress(members(rows.path), f"Reading {rows.path.name}", len(names))
    boxes = [_in_pixels(rows.path, box, content()) for box, (_, content) in zip(edges, photographs)]
    return list(map(_class_of, names)), boxes


def _cubs_of_tfrecords(archives: Archives) -> Sources:
    sources = []
    for split, paths in tfrecord_splits(archives).items():
        for path in Progress(paths, f"Reading {split}"):
            pictures = []
            for example in examples(path):
                name = example[FILENAME].decode()
                box = _in_pixels(path, box_of(example), example["image"])
                pictures.append(Picture(name, split, _class_of(name), box))
            sources.append((path, pictures))
    return sources


def _class_of(name: str) -> str:
    """Of CUB_200_2011/images/001.Black_footed_Albatross/x.jpg."""
    return PurePosixPath(name).parent.name


def _in_pixels(path: Path, box: Iterable[float], photograph: bytes) -> Box:
    """TensorFlow Datasets' ymin, xmin, ymax, xmax, fractions of the photograph: its box. The
    official ones have one digit behind the point, which 32 bits keep."""
    try:
        with Image.open(io.BytesIO(photograph)) as image:
            width, height = image.size
    except Exception as error:  # Pillow raises many kinds for broken files
        raise ArchiveError(f"{path}: holds what is no image ({error})") from error
    top, left, bottom, right = box
    edges = left * width, top * height, right * width, bottom * height
    return tuple(round(edge, 2) for edge in edges)


def _cubs_of_lists(archives: Archives) -> Sources:
    """Boxes are x, y, width, height, 0-based."""
    lists = [f"CUB_200_2011/{name}" for name in CUBS_LISTS]
    try:
        path = archives.container("CUB_200_2011", *lists)
    except Missing:  # its folder under another name
        lists = list(CUBS_LISTS)
        path = archives.container("CUB_200_2011", *lists)
    files = small_files(path, lists)
    try:
        images, labels, split, boxes, classes = (_table(files[name]) for name in lists)
        pictures = []
        for number, (file,) in images.items():
            x, y, width, height = map(float, boxes[number])
            box = (x, y, x + width, y + height)
            part = "train" if split[number][0] == "1" else "test"
            pictures.append(Picture(f"images/{file}", part, classes[labels[number][0]][0], box))
    except (KeyError, ValueError, IndexError, UnicodeDecodeError) as error:
        raise ArchiveError(f"{path}: its lists (images.txt, bounding_boxes.txt, ...) do not fit "
                           f"together ({type(error).__name__}: {error})") from error
    return [(path, pictures)]


def _table(content: bytes) -> dict[str, list[str]]:
    """{first word: the others} of every line."""
    lines = [line.split() for line in content.decode().splitlines() if line.strip()]
    return {first: others for first, *others in lines}


# ----------------------------------------------------------------------------------------------
# Cars

def read_cars(archives: Archives) -> Sources:
    """The form that is complete, whatever lies beside it. Raises ArchiveError with what each
    lacks."""
    lacking = []
    for title, parts, reader in CARS_FORMS:
        found = []
        missing = []
        for name, find in parts.items():
            try:
                found.append(find(archives))
            except Missing:
                missing.append(name)
        if not missing:
            try:
                return by_container(reader(*found))
            except (KeyError, AttributeError, ValueError, IndexError, TypeError) as error:
                raise ArchiveError(f"{archives}: the annotations of Stanford Cars are not as "
                                   f"published ({type(error).__name__}: {error})") from error
        verb = "is" if len(missing) == 1 else "are"
        lacking.append((not found, f"{title}, {', '.join(missing)} {verb} missing"))
    begun = [text for nothing, text in lacking if not nothing]
    lacking = begun or [text for _, text in lacking]
    raise ArchiveError(f"{archives}: no form of Stanford Cars is complete. Of "
                       f"{'; of '.join(lacking)}. Copies without boxes, sorted into folders by "
                       "class or as parquet, cannot be cropped.")


def _photographs(name: str) -> Callable[[Archives], Path]:
    return lambda archives: archives.container(name, f"{name}/")


def _file(name: str) -> Callable[[Archives], Found]:
    return lambda archives: archives.file(name)


def _devkit(name: str) -> Callable[[Archives], Found]:
    return lambda archives: archives.packed_file(name, "car_devkit")


def _cars_of_one_list(images: Path, annotations: Found) -> Sources:
    content = load_mat(annotations)
    names = [str(name) for name in np.atleast_1d(content["class_names"])]
    pictures = []
    for about in np.atleast_1d(content["annotations"]):
        split = "test" if int(about.test) else "train"
        label = names[int(vars(about)["class"]) - 1]
        pictures.append(Picture(str(about.relative_im_path), split, label, _box(about)))
    return [(images, pictures)]


def _cars_of_two_lists(train: Path, test: Path, meta: Found, train_annotations: Found,
                       test_annotations: Found) -> Sources:
    names = [str(name) for name in np.atleast_1d(load_mat(meta)["class_names"])]
    sources = []
    for split, images, annotations in (("train", train, train_annotations),
                                       ("test", test, test_annotations)):
        pictures = []
        for about in np.atleast_1d(load_mat(annotations)["annotations"]):
            label = names[int(vars(about)["class"]) - 1]
            pictures.append(Picture(f"cars_{split}/{about.fname}", split, label, _box(about)))
        sources.append((images, pictures))
    return sources


def _cars_of_csv(images: Path, names: Found, train: Found, test: Found) -> Sources:
    """Lines: file, x1, y1, x2, y2, number of the class from 1. A slash in a class name is a dash in
    the name of its folder."""
    labels = [line[0].strip() for line in _csv(names)]
    pictures = []
    for split, lines in (("train", _csv(train)), ("test", _csv(test))):
        for file, *numbers in lines:
            left, top, right, bottom, label = map(int, numbers)
            name = labels[label - 1]
            member = f"{split}/{name.replace('/', '-')}/{file}"
            pictures.append(Picture(member, split, name, (left - 1, top - 1, right, bottom)))
    return [(images, pictures)]


def _csv(found: Found) -> list[list[str]]:
    lines = csv.reader(io.StringIO(found.content().decode("utf-8-sig")))
    return [line for line in lines if line]


def _box(about) -> Box:
    """Annotations are x1, y1, x2, y2, 1-based, both ends included."""
    left = float(about.bbox_x1) - 1
    top = float(about.bbox_y1) - 1
    return left, top, float(about.bbox_x2), float(about.bbox_y2)


# What it is called, {a part: how it is found}, and what reads the parts.
CARS_FORMS = (
    ("the first form", {
        "car_ims.tgz": _photographs("car_ims"),
        "cars_annos.mat": _file("cars_annos.mat"),
    }, _cars_of_one_list),
    ("the second form", {
        "cars_train.tgz": _photographs("cars_train"),
        "cars_test.tgz": _photographs("cars_test"),
        "cars_meta.mat (of car_devkit.tgz)": _devkit("cars_meta.mat"),
        "cars_train_annos.mat (of car_devkit.tgz)": _devkit("cars_train_annos.mat"),
        "cars_test_annos_withlabels.mat": _devkit("cars_test_annos_withlabels.mat"),
    }, _cars_of_two_lists),
    ("Kaggle's form with lists", {
        "the folder car_data": _photographs("car_data"),
        "names.csv": _file("names.csv"),
        "anno_train.csv": _file("anno_train.csv"),
        "anno_test.csv": _file("anno_test.csv"),
    }, _cars_of_csv),
)


# -------------------------------------------------------------------------------------------
# Flowers

FLOWERS_LISTS = ((("train.txt", "valid.txt"), "test.txt"),
                 (("train_list.txt", "val_list.txt"), "test_list.txt"))


def read_flowers(archives: Archives) -> Sources:
    """The official photographs with the two .mat files, or with lists: "jpg/image_00001.jpg 76",
    the label from 0. The training part is the official one and the one for validation together."""
    path = None
    for stem in ("102flowers", "oxford-102-flowers", "flowers102"):
        try:
            path = archives.container(stem, "jpg/image_00001.jpg")
            break
        except Missing:
            continue
    if path is None and parquet_splits(archives):
        return _pictures_of_parquet(archives, boxes=False)
    if path is None:
        raise Missing(archives.folder, "the archive 102flowers.tgz (or its folder jpg)")
    try:
        labels = archives.file("imagelabels.mat")
        sets = archives.file("setid.mat")
    except Missing as missing:
        return [(path, _flowers_of_lists(path, missing))]
    try:
        return [(path, _flowers_of_mat(labels, sets))]
    except (KeyError, ValueError, IndexError, TypeError) as error:
        raise ArchiveError(f"{archives}: imagelabels.mat and setid.mat do not fit together "
                           f"({type(error).__name__}: {error})") from error


def _flowers_of_mat(labels: Found, sets: Found) -> list[Picture]:
    label = np.atleast_1d(load_mat(labels)["labels"])
    ids = load_mat(sets)
    pictures = []
    for key, split in (("trnid", "train"), ("valid", "train"), ("tstid", "test")):
        for number in np.atleast_1d(ids[key]).tolist():
            member = f"jpg/image_{number:05}.jpg"
            pictures.append(Picture(member, split, f"{label[number - 1]:03}", None))
    return pictures


def _flowers_of_lists(path: Path, missing: Missing) -> list[Picture]:
    """Raises `missing` where there are none."""
    for train, test in FLOWERS_LISTS:
        try:
            files = small_files(path, [*train, test])
        except DamagedArchive:
            raise
        except ArchiveError:
            continue
        try:
            lines = []
            for name in (*train, test):
                split = "test" if name == test else "train"
                lines += [(line.split(), split) for line in files[name].decode().splitlines()]
            first = min(int(words[1]) for words, _ in lines)
            return [Picture(words[0], split, f"{int(words[1]) - first + 1:03}", None)
                    for words, split in lines]
        except (ValueError, IndexError) as error:
            raise ArchiveError(f"{path}: the lists {', '.join(train)} and {test} are no lines of a "
                               f"file and a number ({error})") from error
    raise missing
