"""Data sets that are published as arrays of pixels: CIFAR-100; MNIST's four IDX files, whose form
Fashion-MNIST, KMNIST and EMNIST have too; scikit-learn's digits, a table; SVHN, MATLAB's arrays.

Three give several data sets, one for each task of a sequence: CIFAR-100 its 20 superclasses, MNIST
its pairs of digits, Fashion-MNIST its pairs and halves of classes; and the last two as a whole, of
which any number of permuted ones can be had.
"""
import contextlib
import gzip
import io
import pickle
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from images.archives import ArchiveError, Archives, DamagedArchive, Found, Missing, small_files
from images.datasets import CIFAR100, FASHION, MNIST, PUBLISHED
from images.parquet import members, parquet_splits, read_rows
from images.pictures import load_mat
from system.progress import Progress

# By data set and split: pixels uint8 [N, H, W(, 3)], class names [N].
Arrays = dict[str, dict[str, tuple[np.ndarray, list[str]]]]

CIFAR100_BINARIES = ("train.bin", "test.bin", "coarse_label_names.txt", "fine_label_names.txt")
CIFAR100_PICKLES = ("cifar-100-python/train", "cifar-100-python/test", "cifar-100-python/meta")
# By split: pixels uint8 [N, 3072], labels of both kinds.
Splits = dict[str, tuple[np.ndarray, np.ndarray, np.ndarray]]

SIDE = 32
RECORD = 2 + 3 * SIDE * SIDE  # coarse label, fine label, the red plane, the green, the blue
# How an IDX file of bytes begins that has three axes, and one with one axis.
IMAGES, LABELS = b"\0\0\x08\x03", b"\0\0\x08\x01"


# --------------------------------------------------------------------------------------- CIFAR-100

def read_cifar100(archives: Archives) -> Arrays:
    """The superclasses, from the binary form, the one for Python or parquet. Raises
    ArchiveError."""
    for stem, files, read in CIFAR100_FORMS:
        try:
            path = archives.container(stem, *files)
        except Missing:
            continue
        return _by_superclass(path, *read(path))
    if parquet_splits(archives):
        return _cifar100_of_parquet(archives)
    raise Missing(archives.folder, "the archive cifar-100-binary.tar.gz (or "
                                   "cifar-100-python.tar.gz)")


def _by_superclass(path: Path, coarse_names: list[str], fine_names: list[str],
                   splits: Splits) -> Arrays:
    ours = [name.removeprefix("cifar100_") for name in CIFAR100]
    if coarse_names != ours or len(set(fine_names)) != 100:
        raise ArchiveError(f"{path}: its lists of names are not the 20 superclasses and 100 "
                           "classes of CIFAR-100")
    found: Arrays = {name: {} for name in CIFAR100}
    for split, (pixels, coarse, fine) in splits.items():
        if coarse.max() >= len(coarse_names) or fine.max() >= len(fine_names):
            raise DamagedArchive(f"{path}: its {split} images have labels that no list names")
        images = pixels.reshape(-1, 3, SIDE, SIDE).transpose(0, 2, 3, 1)
        for number, name in enumerate(CIFAR100):
            rows = np.flatnonzero(coarse == number)
            found[name][split] = images[rows], [fine_names[label] for label in fine[rows]]
    return found


def _cifar100_of_parquet(archives: Archives) -> Arrays:
    found: Arrays = {name: {} for name in CIFAR100}
    for split, (pixels, columns) in _decoded(archives, "coarse_label", "fine_label").items():
        coarse, fine = (np.array(labels) for labels in columns)
        for name in CIFAR100:
            rows = np.flatnonzero(coarse == name.removeprefix("cifar100_"))
            found[name][split] = pixels[rows], fine[rows].tolist()
    return found


def _decoded(archives: Archives, *labels: str) -> dict[str, tuple[np.ndarray, list[list[str]]]]:
    """{split: (pixels uint8 [N, H, W(, 3)], of each of the columns `labels` the class names)} of
    parquet files. Raises ArchiveError."""
    splits = {}
    for split, paths in parquet_splits(archives).items():
        images = []
        columns = [[] for _ in labels]
        for path in paths:
            rows = read_rows(path)
            for column, label in zip(columns, labels):
                column += rows.labels(label)
            title = f"Decoding {path.name}"
            for member, content in Progress(members(path), title, len(rows.members)):
                images.append(_decode(path, member, content()))
        if len({image.shape for image in images}) != 1:
            raise ArchiveError(f"{archives}: the {split} images are not all of one size")
        splits[split] = np.stack(images), columns
    return splits


def _decode(path: Path, member: str, content: bytes) -> np.ndarray:
    try:
        with Image.open(io.BytesIO(content)) as image:
            return np.asarray(image)
    except Exception as error:  # Pillow raises many kinds for broken files
        raise ArchiveError(f"{path}: {member} cannot be decoded as an image ({error})") from error


def _cifar100_of_bytes(path: Path) -> tuple[list[str], list[str], Splits]:
    """Names of the superclasses, of the classes, and the images."""
    files = small_files(path, CIFAR100_BINARIES, whole=True)
    names = CIFAR100_BINARIES[2:]
    coarse, fine = (files[name].decode(errors="replace").split() for name in names)
    splits = {}
    for split in ("train", "test"):
        content = files[f"{split}.bin"]
        if not content or len(content) % RECORD:
            raise DamagedArchive(f"{path}: {split}.bin has {len(content):,} bytes, no multiple of "
                                 f"the {RECORD:,} of an image")
        records = np.frombuffer(content, np.uint8).reshape(-1, RECORD)
        splits[split] = records[:, 2:], records[:, 0], records[:, 1]
    return coarse, fine, splits


def _cifar100_of_pickles(path: Path) -> tuple[list[str], list[str], Splits]:
    """The same. Nothing of the pickles is executed."""
    files = small_files(path, CIFAR100_PICKLES, whole=True)
    try:
        train, test, meta = (_Pickle(files[name]).load() for name in CIFAR100_PICKLES)
        splits = {}
        for split, content in (("train", train), ("test", test)):
            coarse, fine = (np.array(content[f"{kind}_labels".encode()], np.int64)
                            for kind in ("coarse", "fine"))
            pixels = content[b"data"].array
            if not len(pixels) == len(coarse) == len(fine) or min(coarse.min(), fine.min()) < 0:
                raise ValueError("labels that do not fit the images")
            splits[split] = pixels.reshape(len(pixels), RECORD - 2), coarse, fine
        coarse, fine = ([name.decode() for name in meta[f"{kind}_label_names".encode()]]
                        for kind in ("coarse", "fine"))
        return coarse, fine, splits
    except Exception as error:  # whatever a broken pickle makes Python raise
        raise DamagedArchive(f"{path}: its files train, test and meta are not those of CIFAR-100 "
                             f"({type(error).__name__}: {error})") from error


class _Pickle(pickle.Unpickler):
    """Reads dictionaries, lists, strings and NumPy's arrays of bytes, and refuses any other name: a
    pickle may name any function to be called."""

    def __init__(self, content: bytes) -> None:
        super().__init__(io.BytesIO(content), encoding="bytes")

    def find_class(self, module: str, name: str):
        if (module, name) == ("_codecs", "encode"):  # how Python 3 writes bytes for Python 2
            return lambda text, _: text.encode("latin1")
        if module in ("builtins", "__builtin__") and name == "bytes":  # and an empty string
            return bytes
        known = {"_reconstruct": lambda *_: _PickledArray(), "ndarray": None, "dtype": _PickledType}
        if module in ("numpy", "numpy.core.multiarray", "numpy._core.multiarray") and name in known:
            return known[name]
        if (module, name) in (("numpy.core.numeric", "_frombuffer"),
                              ("numpy._core.numeric", "_frombuffer")):  # protocol 5
            return _array_of_buffer
        raise ValueError(f"asks for {module}.{name}, which could run code")


class _PickledType:
    def __init__(self, name: str | bytes, *_) -> None:
        if name not in ("u1", b"u1"):
            raise ValueError(f"an array of the type {name!r}, not of bytes")

    def __setstate__(self, _) -> None:
        pass


class _PickledArray:
    def __setstate__(self, state: tuple) -> None:
        _, shape, _, by_columns, content = state
        if by_columns:
            raise ValueError("an array by columns")
        self.array = np.frombuffer(content, np.uint8).reshape(shape)


def _array_of_buffer(content: bytes, _: _PickledType, shape: tuple, order: str,
                     *_axes) -> _PickledArray:
    array = _PickledArray()
    array.__setstate__((1, shape, None, order != "C", content))
    return array


CIFAR100_FORMS = (("cifar-100-binary", CIFAR100_BINARIES, _cifar100_of_bytes),
                  ("cifar-100-python", CIFAR100_PICKLES, _cifar100_of_pickles))


# ---------------------------------------------------------------------- MNIST, and what has its
# form

def read_mnist(archives: Archives) -> Arrays:
    """All digits, and the pairs 0 and 1, 2 and 3, ..., of the four files, Keras's mnist.npz, or
    parquet. Raises ArchiveError."""
    found: Arrays = {name: {} for name in MNIST}
    for split, (pixels, labels) in _mnist_splits(archives).items():
        if (np.bincount(labels) == LIKE_MNIST_EACH[split]).all():
            raise ArchiveError(f"{archives}: as many images of each class: this is not MNIST, but "
                               "another data set whose files have its names, Fashion-MNIST or "
                               "KMNIST")
        for name in MNIST:
            digits = [int(digit) for digit in name.split("_")[1:]] or range(10)
            rows = np.flatnonzero(np.isin(labels, digits))
            found[name][split] = pixels[rows], [str(label) for label in labels[rows]]
    return found


def _mnist_splits(archives: Archives) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    try:
        return read_idx_splits(archives, MNIST_FILES, 10)
    except Missing:
        with contextlib.suppress(Missing):
            return _mnist_of_keras(archives.file("mnist.npz"))
        if not parquet_splits(archives):
            raise
    splits = {}
    for split, (pixels, (labels,)) in _decoded(archives, "label").items():
        if not set(labels) <= set(DIGITS):
            raise ArchiveError(f"{archives}: the classes of its images are no digits: this is not "
                               "MNIST")
        splits[split] = pixels, np.array(labels).astype(np.uint8)
    return splits


def _mnist_of_keras(found: Found) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    try:
        with np.load(io.BytesIO(found.content())) as arrays:  # which opens no pickles
            splits = {}
            for split in ("train", "test"):
                pixels = arrays[f"x_{split}"]
                labels = arrays[f"y_{split}"]
                if pixels.dtype != np.uint8 or len(pixels) != len(labels) or labels.max() > 9:
                    raise ValueError("images and labels that do not fit together")
                splits[split] = pixels, labels.astype(np.uint8)
            return splits
    except (ValueError, KeyError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise DamagedArchive(f"{found.where}: is not Keras's file of MNIST, or not whole "
                             f"({error}). Download it again.") from error


def read_fashion_mnist(archives: Archives) -> Arrays:
    """All classes, the pairs 0 and 1, 2 and 3, ..., and both halves. Raises ArchiveError."""
    whole = _read_like_mnist(archives, "fashion-mnist", FASHION_MNIST)["fashion-mnist"]
    found: Arrays = {name: {} for name in FASHION}
    for split, (pixels, names) in whole.items():
        for name in FASHION:
            first, last = map(int, name.split("_")[1:]) if "_" in name else (0, 9)
            wanted = FASHION_MNIST[first:last + 1]
            rows = [row for row, label in enumerate(names) if label in wanted]
            found[name][split] = pixels[rows], [names[row] for row in rows]
    return found


def read_kmnist(archives: Archives) -> Arrays:
    return _read_like_mnist(archives, "kmnist", KMNIST)


def _read_like_mnist(archives: Archives, name: str, classes: tuple[str, ...]) -> Arrays:
    """One of the two whose four files have MNIST's names; told from MNIST by their labels, and from
    each other by how bright they are."""
    splits = read_idx_splits(archives, MNIST_FILES, 10)
    pixels, labels = splits["train"]
    if len(np.unique(np.bincount(labels))) > 1:
        raise ArchiveError(f"{archives}: not as many images of each class: this is not {name}, but "
                           "perhaps MNIST, whose files have the same names")
    brightness = float(pixels.mean()) / 255
    is_fashion = abs(brightness - FASHION_MNIST_BRIGHTNESS) < 0.01
    if is_fashion != (name == "fashion-mnist"):
        others = "Fashion-MNIST" if is_fashion else "KMNIST"
        raise ArchiveError(f"{archives}: by the mean of its pixels, {brightness:.3f} of white, "
                           f"this is not {name} but {others}, whose files have the same names")
    return _named(name, splits, classes)


def read_emnist(kind: str) -> Callable[[Archives], Arrays]:
    """The reader of one of EMNIST's parts, whose images lie on their side in the files."""
    def read(archives: Archives) -> Arrays:
        start = f"emnist-{kind}"
        classes = EMNIST[kind]
        names = {split: f"{start}-{split}" for split in ("train", "test")}
        splits = read_idx_splits(archives, names, len(classes) + 1)
        for split, (pixels, labels) in splits.items():
            if kind == "letters":  # they count from 1
                labels = labels - 1
            splits[split] = pixels.transpose(0, 2, 1), labels
        return _named(start, splits, classes)

    return read


def _named(name: str, splits: dict, classes: tuple[str, ...]) -> Arrays:
    found = {}
    for split, (pixels, labels) in splits.items():
        if labels.max() >= len(classes):
            raise ArchiveError(f"{name}: a label {labels.max()}, but there are {len(classes)} "
                               "classes")
        found[split] = pixels, [classes[label] for label in labels]
    return {name: found}


MNIST_FILES = {"train": "train", "test": "t10k"}  # how the names of its files begin
LIKE_MNIST_EACH = {"train": 6000, "test": 1000}  # images of each class of Fashion-MNIST and KMNIST
FASHION_MNIST_BRIGHTNESS = 0.286  # mean of its training pixels in [0, 1], measured
FASHION_MNIST = ("T-shirt-top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt",
                 "Sneaker", "Bag", "Ankle boot")
KMNIST = ("o", "ki", "su", "tsu", "na", "ha", "ma", "ya", "re", "wo")
CAPITALS = tuple("ABCDEFGHIJKLMNOPQRSTUVWXYZ")
DIGITS = tuple("0123456789")
# Small letters have names of their own: folders that differ in case only are one on some disks.
# Those that look like their capitals are one class with them.
EMNIST = {
    "balanced": (*DIGITS, *CAPITALS, *(f"small_{letter}" for letter in "abdefghnqrt")),
    "letters": CAPITALS,
    "digits": DIGITS,
}


def read_sklearn_digits(archives: Archives) -> Arrays:
    """scikit-learn's handwritten digits, 8 x 8 pixels of 17 levels: its file digits.csv.gz, a line
    an image, in its order. Raises ArchiveError."""
    found = archives.file("digits.csv.gz", "digits.csv")
    content = _decompressed(found)
    try:
        table = np.loadtxt(io.BytesIO(content), dtype=np.int64, delimiter=",", ndmin=2)
    except (ValueError, UnicodeDecodeError) as error:
        raise DamagedArchive(f"{found.where}: is no table of whole numbers ({error})") from error
    is_theirs = table.shape[1:] == (65,) and table.size and table.min() >= 0
    if not is_theirs or table[:, :64].max() > 16 or table[:, 64].max() > 9:
        raise ArchiveError(f"{found.where}: is not scikit-learn's table of digits, whose lines are "
                           "64 levels from 0 to 16 and a digit")
    pixels = np.rint(table[:, :64] * (255 / 16)).astype(np.uint8).reshape(-1, 8, 8)
    labels = list(map(str, table[:, 64]))
    train = PUBLISHED["sklearn-digits"].train
    return {"sklearn-digits": {"train": (pixels[:train], labels[:train]),
                               "test": (pixels[train:], labels[train:])}}


def read_svhn(archives: Archives) -> Arrays:
    """The house numbers' digits, cropped to 32 x 32: train_32x32.mat and test_32x32.mat, whose
    label of a 0 is 10; or parquet. Raises ArchiveError."""
    try:
        return {"svhn": _svhn_of_mat(archives)}
    except Missing:
        if not parquet_splits(archives):
            raise
    splits = _decoded(archives, "label").items()
    return {"svhn": {split: (pixels, labels) for split, (pixels, (labels,)) in splits}}


def _svhn_of_mat(archives: Archives) -> dict[str, tuple[np.ndarray, list[str]]]:
    splits = {}
    for split in ("train", "test"):
        found = archives.file(f"{split}_32x32.mat")
        content = load_mat(found)
        pixels = np.asarray(content.get("X"))
        labels = np.atleast_1d(content.get("y"))
        is_theirs = pixels.dtype == np.uint8 and pixels.shape == (SIDE, SIDE, 3, len(labels))
        if not is_theirs or labels.min() < 1 or labels.max() > 10:
            raise ArchiveError(f"{found.where}: is not SVHN's file, which has images X, bytes of "
                               f"{SIDE} x {SIDE} x 3 x N, and labels y from 1 to 10")
        digits = labels.astype(np.int64) % 10
        splits[split] = pixels.transpose(3, 0, 1, 2), list(map(str, digits))
    return splits


def read_idx_splits(archives: Archives, starts: dict[str, str],
                    classes: int) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """{split: (images uint8 [N, H, W], labels uint8 [N])} of four IDX files. `starts`: how their
    names begin. Raises ArchiveError where they are not whole, do not fit together or have a label
    that is not below `classes`."""
    splits = {}
    for split, start in starts.items():
        images = f"{start}-images-idx3-ubyte"
        labels = f"{start}-labels-idx1-ubyte"
        pixels = read_idx(archives, images, IMAGES)
        numbers = read_idx(archives, labels, LABELS)
        highest = numbers.max(initial=0)
        if len(pixels) != len(numbers) or highest >= classes:
            raise ArchiveError(f"{archives}: {images} has {len(pixels):,} images, {labels} "
                               f"{len(numbers):,} labels up to {highest}: they do not fit together")
        splits[split] = pixels, numbers
    return splits


def read_idx(archives: Archives, name: str, begin: bytes) -> np.ndarray:
    """The array of an IDX file of bytes, compressed or not, whatever its name says of that, and
    with a dot before idx as some programs have it. Raises ArchiveError where it is missing or not
    whole."""
    dotted = name.replace("-idx", ".idx")
    try:
        found = archives.file(f"{name}.gz", name, f"{dotted}.gz", dotted)
    except Missing as error:
        raise Missing(archives.folder, f"the archive {name}.gz or {name}") from error
    content = _decompressed(found)
    axes = begin[-1]
    head = 4 + 4 * axes
    shape = np.frombuffer(content[4:head], ">u4").tolist() if len(content) >= head else [0]
    if content[:4] != begin or len(content) != head + int(np.prod(shape, dtype=np.int64)):
        raise DamagedArchive(f"{found.where}: is no IDX file of bytes with {axes} "
                             f"{'axes' if axes > 1 else 'axis'}, or not whole "
                             f"({len(content):,} bytes). Download it again.")
    return np.frombuffer(content, np.uint8, offset=head).reshape(shape)


def _decompressed(found: Found) -> bytes:
    content = found.content()
    if content[:2] != b"\x1f\x8b":
        return content
    try:
        return gzip.decompress(content)
    except (OSError, EOFError, zlib.error) as error:
        raise DamagedArchive(f"{found.where}: cannot be read to its end; it is damaged or "
                             f"truncated ({error}). Download it again.") from error
