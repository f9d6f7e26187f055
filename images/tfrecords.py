"""CUB-200-2011 as TensorFlow Datasets writes it, caltech_birds2011: files of examples, in each the
photograph as it was published, its name, and its box."""
import re
import struct
from collections.abc import Iterator
from pathlib import Path

from images.archives import Archives, DamagedArchive, Member

NAME = re.compile(r"caltech_birds2011-(train|test)\.tfrecord-\d{5}-of-\d{5}")
FILENAME = "image/filename"  # the path of the photograph in the official archive
# Kinds of fields of a protocol buffer: a number of variable length, bytes, and numbers of a width.
VARINT, BYTES = 0, 2
WIDTHS = {1: 8, 5: 4}


def tfrecord_splits(archives: Archives) -> dict[str, list[Path]]:
    """{"train" or "test": files}"""
    splits: dict[str, list[Path]] = {}
    for path in archives.files:
        if match := NAME.fullmatch(path.name):
            splits.setdefault(match[1], []).append(path)
    return splits


def examples(path: Path) -> Iterator[dict[str, bytes]]:
    """The examples of a file: {name of a feature: its values, as they are stored}. Raises
    DamagedArchive. The checksums are not looked at: Python has none of their kind."""
    try:
        with open(path, "rb") as file:
            size = path.stat().st_size
            while head := file.read(12):  # the length, and a checksum of it
                length, = struct.unpack("<Q", head[:8])
                if file.tell() + length + 4 > size:
                    raise ValueError(f"an example of {length:,} bytes is cut off")
                yield _features(file.read(length + 4)[:-4])
    except (ValueError, LookupError, struct.error, OSError) as error:
        raise DamagedArchive(f"{path}: cannot be read to its end; it is damaged, truncated or no "
                             f"file of TensorFlow Datasets ({error}). Make it again.") from error


def members(path: Path) -> Iterator[Member]:
    """Its photographs, as images.archives.members gives those of other containers."""
    for example in examples(path):
        yield example[FILENAME].decode(), lambda content=example["image"]: content


def box_of(example: dict[str, bytes]) -> tuple[float, ...]:
    """ymin, xmin, ymax, xmax, as fractions of the height and width."""
    return struct.unpack("<4f", example["bbox"])


def _features(example: bytes) -> dict[str, bytes]:
    """Of a tf.train.Example: its field 1 holds pairs, field 1, of a name and a list of values,
    which is a field of its own, and its values are field 1 of it: bytes, or floats together."""
    features = {}
    for pair in _fields(_fields(example)[0]):
        name, feature = _fields(pair)
        values = _fields(_fields(feature)[0]) if feature else []
        features[name.decode()] = values[0] if values else b""
    if not {"image", FILENAME, "bbox"} <= features.keys():
        raise ValueError(f"an example of {', '.join(features) or 'nothing'}")
    return features


def _fields(message: bytes) -> list[bytes]:
    """The fields of a message that hold bytes, in their order."""
    fields = []
    place = 0
    while place < len(message):
        key, place = _varint(message, place)
        kind = key & 7
        if kind == VARINT:
            _, place = _varint(message, place)
            continue
        size, place = _varint(message, place) if kind == BYTES else (WIDTHS[kind], place)
        if place + size > len(message):
            raise ValueError("a field is longer than what holds it")
        if kind == BYTES:
            fields.append(message[place:place + size])
        place += size
    return fields


def _varint(message: bytes, place: int) -> tuple[int, int]:
    """(a number of 7 bits a byte, the place behind it)"""
    number = shift = 0
    while True:
        byte = message[place]
        number |= (byte & 127) << shift
        place, shift = place + 1, shift + 7
        if byte < 128:
            return number, place
