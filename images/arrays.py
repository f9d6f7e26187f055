"""Data sets that are published as arrays of pixels: CIFAR-100 in its binary form, and MNIST's four IDX files.

Each gives several data sets, one for each task of a sequence: CIFAR-100 its 20 superclasses, MNIST its pairs of digits; and MNIST as
a whole, of which images.folders makes any number of permuted ones.
"""
import gzip
import zlib
from pathlib import Path

import numpy as np

from images.archives import ArchiveError, DamagedArchive, find, small_files
from images.folders import CIFAR100, MNIST

Arrays = dict[str, dict[str, tuple[np.ndarray, list[str]]]]  # by data set and split: pixels uint8 [N, H, W(, 3)], class names [N]

SIDE = 32
RECORD = 2 + 3 * SIDE * SIDE  # of CIFAR-100: coarse label, fine label, the red plane, the green, the blue
IMAGES, LABELS = b"\0\0\x08\x03", b"\0\0\x08\x01"  # how an IDX file of bytes with three axes, with one axis, begins


def read_cifar100(folder: Path) -> Arrays:
    """The superclasses of `cifar-100-binary.tar.gz`. Raises ArchiveError."""
    path = find(folder, "cifar-100-binary.tar.gz", "cifar-100-binary.tgz")
    files = small_files(path, ["train.bin", "test.bin", "coarse_label_names.txt", "fine_label_names.txt"], whole=True)
    coarse, fine = (files[f"{kind}_label_names.txt"].decode(errors="replace").split() for kind in ("coarse", "fine"))
    if [f"cifar100_{name}" for name in coarse] != list(CIFAR100) or len(set(fine)) != 100:
        raise ArchiveError(f"{path}: its lists of names are not the 20 superclasses and 100 classes of CIFAR-100")
    found: Arrays = {name: {} for name in CIFAR100}
    for split in ("train", "test"):
        content = files[f"{split}.bin"]
        if not content or len(content) % RECORD:
            raise DamagedArchive(f"{path}: {split}.bin has {len(content):,} bytes, no multiple of the {RECORD:,} of an image")
        records = np.frombuffer(content, np.uint8).reshape(-1, RECORD)
        if records[:, 0].max() >= len(coarse) or records[:, 1].max() >= len(fine):
            raise DamagedArchive(f"{path}: {split}.bin has labels that no list names")
        pixels = records[:, 2:].reshape(-1, 3, SIDE, SIDE).transpose(0, 2, 3, 1)
        for number, name in enumerate(CIFAR100):
            rows = np.flatnonzero(records[:, 0] == number)
            found[name][split] = pixels[rows], [fine[label] for label in records[rows, 1]]
    return found


def read_mnist(folder: Path) -> Arrays:
    """All digits, and the pairs 0 and 1, 2 and 3, ..., of the four official files, compressed or not. Raises ArchiveError."""
    found: Arrays = {name: {} for name in MNIST}
    for split, start in (("train", "train"), ("test", "t10k")):
        pixels, labels = read_idx(folder, f"{start}-images-idx3-ubyte", IMAGES), read_idx(folder, f"{start}-labels-idx1-ubyte", LABELS)
        if len(pixels) != len(labels) or labels.max(initial=0) > 9:
            raise ArchiveError(f"{folder}: {start}-images-idx3-ubyte has {len(pixels):,} images, {start}-labels-idx1-ubyte {len(labels):,} "
                               f"labels up to {labels.max(initial=0)}: they do not fit together")
        for name in MNIST:
            digits = [int(digit) for digit in name.split("_")[1:]] or range(10)
            rows = np.flatnonzero(np.isin(labels, digits))
            found[name][split] = pixels[rows], [str(label) for label in labels[rows]]
    return found


def read_idx(folder: Path, name: str, begin: bytes) -> np.ndarray:
    """The array of an IDX file of bytes, which may end with .gz. Raises ArchiveError where it is missing or not whole."""
    path = find(folder, f"{name}.gz", name)
    try:
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError, zlib.error) as error:
        raise DamagedArchive(f"{path}: cannot be read to its end; it is damaged or truncated ({error}). Download it again.") from error
    axes = begin[-1]
    shape = tuple(np.frombuffer(content[4:4 + 4 * axes], ">u4").tolist()) if len(content) >= 4 + 4 * axes else (0,)
    if content[:4] != begin or len(content) != 4 + 4 * axes + int(np.prod(shape, dtype=np.int64)):
        raise DamagedArchive(f"{path}: is no IDX file of bytes with {axes} {'axes' if axes > 1 else 'axis'}, or not whole "
                             f"({len(content):,} bytes). Download it again.")
    return np.frombuffer(content, np.uint8, offset=4 + 4 * axes).reshape(shape)
