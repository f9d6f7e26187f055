"""prepare_data.py on small archives in each official form, the awkward cases among them."""

import gzip
import io
import os
import random
import signal
import subprocess
import sys
import tarfile
from dataclasses import replace
from urllib.parse import unquote

import numpy as np
import pytest
from conftest import ROOT
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

import prepare_data
from images.datasets import CIFAR100, MNIST, PUBLISHED
from prepare_data import ArchiveError, clipped_box, folder_name

scipy_io = pytest.importorskip("scipy.io")


def photo(seed, size=(60, 40), mode="RGB"):
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(0, 256, (5, 5, 3), np.uint8))
    return small.resize(size, Image.BICUBIC).convert(mode)


def jpeg(image):
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=95)
    return buffer.getvalue()


def tgz(path, files):
    with tarfile.open(path, "w:gz") as archive:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))


def records(rows, names):
    """A MATLAB struct array."""
    array = np.zeros(len(rows), dtype=[(name, object) for name in names])
    for i, row in enumerate(rows):
        array[i] = tuple(row)
    return array


def mat(content):
    buffer = io.BytesIO()
    scipy_io.savemat(buffer, content)
    return buffer.getvalue()


CAR_CLASSES = ["AM General Hummer SUV 2000", "Ram C/V Cargo Van Minivan 2012", "smart fortwo 2012"]


def make_cubs(folder, classes=3, train=2, test=1, content=None):
    """`train` and `test`: images per class (lists for different numbers). The second image is
    greyscale."""
    lines = {
        name: []
        for name in (
            "images",
            "image_class_labels",
            "train_test_split",
            "bounding_boxes",
            "classes",
        )
    }
    files, number = {}, 0
    for c in range(1, classes + 1):
        name = f"{c:03}.Bird_{c}"
        lines["classes"].append(f"{c} {name}")
        counts = [n[c - 1] if isinstance(n, list) else n for n in (train, test)]
        for i in range(sum(counts)):
            number += 1
            file = f"{name}/Bird_{c}_{i:04}_{number}.jpg"
            lines["images"].append(f"{number} {file}")
            lines["image_class_labels"].append(f"{number} {c}")
            lines["train_test_split"].append(f"{number} {int(i < counts[0])}")
            lines["bounding_boxes"].append(f"{number} {[10.0, 50.5][number % 2]} 5.0 20.0 30.5")
            files[f"CUB_200_2011/images/{file}"] = content or jpeg(
                photo(number, mode="L" if number == 2 else "RGB")
            )
    texts = {f"CUB_200_2011/{name}.txt": "\n".join(rows).encode() for name, rows in lines.items()}
    folder.mkdir(parents=True, exist_ok=True)
    tgz(folder / "CUB_200_2011.tgz", files | texts)
    return files


def car_rows(classes, train, test):
    """(class 1.., is test) of every image, in the order of a data set of `classes` classes."""

    def expand(n):
        return n if isinstance(n, list) else [n] * classes

    return [
        (c + 1, t)
        for t, counts in ((0, expand(train)), (1, expand(test)))
        for c in range(classes)
        for _ in range(counts[c])
    ]


def make_cars_one_archive(folder, names=CAR_CLASSES, train=2, test=1, content=None):
    rows = car_rows(len(names), train, test)
    files = {
        f"car_ims/{i:06}.jpg": content or jpeg(photo(i, mode="CMYK" if i == 1 else "RGB"))
        for i in range(1, len(rows) + 1)
    }
    folder.mkdir(parents=True, exist_ok=True)
    tgz(folder / "car_ims.tgz", files)
    annotations = records(
        [(f"car_ims/{i:06}.jpg", 3, 4, 50, 70, c, t) for i, (c, t) in enumerate(rows, 1)],
        ["relative_im_path", "bbox_x1", "bbox_y1", "bbox_x2", "bbox_y2", "class", "test"],
    )
    (folder / "cars_annos.mat").write_bytes(
        mat({"annotations": annotations, "class_names": np.array(names, object)})
    )
    return files


def make_cars_two_archives(folder, names=CAR_CLASSES, train=2, test=1, content=None):
    rows = car_rows(len(names), train, test)
    folder.mkdir(parents=True, exist_ok=True)
    fields = ["bbox_x1", "bbox_y1", "bbox_x2", "bbox_y2", "class", "fname"]
    result, all_files = {}, {}
    for split, flag in (("train", 0), ("test", 1)):
        mine = [c for c, t in rows if t == flag]
        files = {
            f"cars_{split}/{i:05}.jpg": content or jpeg(photo(i)) for i in range(1, len(mine) + 1)
        }
        tgz(folder / f"cars_{split}.tgz", files)
        all_files |= files
        result[split] = mat(
            {
                "annotations": records(
                    [(3, 4, 50, 70, c, f"{i:05}.jpg") for i, c in enumerate(mine, 1)], fields
                )
            }
        )
    tgz(
        folder / "car_devkit.tgz",
        {
            "devkit/cars_meta.mat": mat({"class_names": np.array(names, object)}),
            "devkit/cars_train_annos.mat": result["train"],
        },
    )
    (folder / "cars_test_annos_withlabels.mat").write_bytes(result["test"])
    return all_files


def make_flowers(folder, classes=3, train=2, test=1, content=None):
    rows = car_rows(classes, train, test)
    files = {f"jpg/image_{i:05}.jpg": content or jpeg(photo(i)) for i in range(1, len(rows) + 1)}
    folder.mkdir(parents=True, exist_ok=True)
    tgz(folder / "102flowers.tgz", files)
    (folder / "imagelabels.mat").write_bytes(mat({"labels": np.array([[c for c, _ in rows]])}))
    trains = [i for i, (_, t) in enumerate(rows, 1) if not t]
    (folder / "setid.mat").write_bytes(
        mat(
            {
                "trnid": np.array([trains[::2]]),
                "valid": np.array([trains[1::2]]),
                "tstid": np.array([[i for i, (_, t) in enumerate(rows, 1) if t]]),
            }
        )
    )
    return files


MAKERS = {"cubs": make_cubs, "cars": make_cars_one_archive, "flowers": make_flowers}
SMALL = {name: (3, 6, 3) for name in MAKERS}


def publish(monkeypatch, counts):
    """Other official counts."""
    for name, (classes, train, test) in counts.items():
        known = replace(PUBLISHED[name], classes=classes, train=train, test=test)
        monkeypatch.setitem(PUBLISHED, name, known)


@pytest.fixture
def small(monkeypatch):
    publish(monkeypatch, SMALL)


def run(tmp_path, *more):
    return prepare_data.main(
        ["--archives", str(tmp_path / "archives"), "--data-root", str(tmp_path / "data"), *more]
    )


def tree(folder):
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


# ---- boxes and names

numbers = st.integers(-300, 900).map(lambda i: i / 4)


@given(numbers, numbers, numbers, numbers, st.integers(1, 200), st.integers(1, 200))
def test_a_clipped_box_is_the_pixels_it_touches(left, top, right, bottom, width, height):
    columns = [x for x in range(width) if x + 1 > left and x < right and left < right]
    rows = [y for y in range(height) if y + 1 > top and y < bottom and top < bottom]
    got = clipped_box((left, top, right, bottom), (width, height))
    assert got == (
        (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1) if columns and rows else None
    )


@given(
    st.text(
        st.characters(blacklist_characters="\0", blacklist_categories=["Cs"]),
        min_size=1,
        max_size=30,
    ).filter(lambda name: name not in (".", ".."))
)
def test_a_class_name_becomes_one_folder_and_back(name):
    folder = folder_name(name)
    assert "/" not in folder and (unquote(folder) if "%" in folder else folder) == name


# ---- each official form


def test_cubs(tmp_path, small, capsys):
    files = make_cubs(tmp_path / "archives")
    assert run(tmp_path, "--dataset", "cubs") == 0
    assert capsys.readouterr().out == "cubs: 3 classes, 6 train and 3 test images, as published\n"
    made = tmp_path / "data" / "cubs_cropped"
    assert sorted(p.name for p in (made / "train").iterdir()) == [
        "001.Bird_1",
        "002.Bird_2",
        "003.Bird_3",
    ]
    for number, (member, content) in enumerate(files.items(), 1):
        name = member.removeprefix("CUB_200_2011/images/")
        (path,) = [
            made / split / name for split in ("train", "test") if (made / split / name).exists()
        ]
        # 50.5 + 20 reaches over the edge at 60
        box = (10, 5, 30, 36) if number % 2 == 0 else (50, 5, 60, 36)
        expected = np.asarray(Image.open(io.BytesIO(content)).convert("RGB").crop(box)).astype(int)
        with Image.open(path) as image:
            assert image.mode == "RGB" and image.size == (box[2] - box[0], box[3] - box[1])
            assert np.abs(np.asarray(image).astype(int) - expected).max() <= 5
    assert not [p for p in (tmp_path / "data").iterdir() if p.name.startswith(".")]


@pytest.mark.parametrize("make", [make_cars_one_archive, make_cars_two_archives])
def test_cars_in_both_forms(tmp_path, small, make):
    files = make(tmp_path / "archives")
    assert run(tmp_path, "--dataset", "cars") == 0
    made = tmp_path / "data" / "stanford_cars_cropped"
    assert sorted(unquote(p.name) for p in (made / "test").iterdir()) == CAR_CLASSES
    first = (
        made
        / "train"
        / CAR_CLASSES[0]
        / ("000001.jpg" if "car_ims/000001.jpg" in files else "00001.jpg")
    )
    content = next(iter(files.values()))
    with Image.open(first) as image:
        # 1-based, both ends in, clipped
        expected = Image.open(io.BytesIO(content)).convert("RGB").crop((2, 3, 50, 40))
        assert image.mode == "RGB" and image.size == expected.size
        assert np.abs(np.asarray(image).astype(int) - np.asarray(expected).astype(int)).max() <= 5


def test_flowers_are_kept_byte_for_byte(tmp_path, small):
    files = make_flowers(tmp_path / "archives")
    assert run(tmp_path, "--dataset", "flowers") == 0
    made = tree(tmp_path / "data" / "flowers")
    assert (
        sorted(made.values()) == sorted(files.values())
        and made["train/002/image_00003.jpg"] == files["jpg/image_00003.jpg"]
    )
    # trnid and valid together
    assert len([name for name in made if name.startswith("train/")]) == 6


def test_all_three_with_a_contact_sheet_and_again(tmp_path, small, capsys):
    for make in MAKERS.values():
        make(tmp_path / "archives")
    assert run(tmp_path, "--contact-sheet", str(tmp_path / "sheet.png")) == 0
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.size[0] > 1000 and np.asarray(sheet.convert("L")).std() > 10
    before = tree(tmp_path / "data")
    capsys.readouterr()
    assert run(tmp_path, "--contact-sheet", str(tmp_path / "sheet.png")) == 0  # a sheet of ours
    assert (
        capsys.readouterr().out.count("is there already, left as it is") == 3
        and tree(tmp_path / "data") == before
    )


@pytest.mark.parametrize("name, message", [("notes.txt", "must end in .png"),
                                           ("photo.png", "is there already, and no contact sheet"),
                                           ("text.png", "is there already, and no contact sheet")])
def test_a_contact_sheet_takes_the_place_of_nothing_else(tmp_path, small, capsys, name, message):
    """Which is said before the archives are looked at."""
    (tmp_path / "archives").mkdir()
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / "text.png").write_text("mine")
    Image.new("RGB", (3, 3)).save(tmp_path / "photo.png")
    before = (tmp_path / name).read_bytes()
    assert run(tmp_path, "--contact-sheet", str(tmp_path / name)) == 2
    assert message in capsys.readouterr().err and (tmp_path / name).read_bytes() == before


# ---- arrays of pixels: CIFAR-100 and MNIST


def make_cifar100(folder, train=2, test=1):
    """Stand-ins in the binary form: random pixels of 5 classes in each superclass, the classes in
    an order of no meaning. Returns
    {data set, split, class: [the planes of each image]}."""
    rng, images, files = np.random.default_rng(0), {}, {}
    fine = [f"class{number:02}" for number in rng.permutation(100)]
    for split, count in (("train", train), ("test", test)):
        records = [(label % 20, label) for label in range(100) for _ in range(count)]
        content = b""
        for i in rng.permutation(len(records)):
            coarse, label = records[i]
            planes = rng.integers(0, 256, (3, 32, 32), np.uint8)
            images.setdefault((CIFAR100[coarse], split, fine[label]), []).append(planes)
            content += bytes([coarse, label]) + planes.tobytes()
        files[f"cifar-100-binary/{split}.bin"] = content
    files["cifar-100-binary/coarse_label_names.txt"] = "\n".join(
        [name.removeprefix("cifar100_") for name in CIFAR100] + [""]
    ).encode()
    files["cifar-100-binary/fine_label_names.txt"] = "\n".join([*fine, ""]).encode()
    folder.mkdir(parents=True, exist_ok=True)
    tgz(folder / "cifar-100-binary.tar.gz", files)
    return images


def make_mnist(folder, train=2, test=1, compressed=True):
    """Stand-ins for the four IDX files: `train` and `test` images of each digit. Returns {split:
    (images, labels)}."""
    rng, made = np.random.default_rng(0), {}
    folder.mkdir(parents=True, exist_ok=True)
    for split, start, count in (("train", "train", train), ("test", "t10k", test)):
        labels = rng.permutation(np.repeat(np.arange(10, dtype=np.uint8), count))
        images = rng.integers(0, 256, (len(labels), 28, 28), np.uint8)
        for kind, array, magic in (("images-idx3", images, 0x803), ("labels-idx1", labels, 0x801)):
            content = np.array([magic, *array.shape], ">i4").tobytes() + array.tobytes()
            if compressed:
                (folder / f"{start}-{kind}-ubyte.gz").write_bytes(gzip.compress(content))
            else:
                (folder / f"{start}-{kind}-ubyte").write_bytes(content)
        made[split] = images, labels
    return made


@pytest.fixture
def small_arrays(monkeypatch):
    pairs = {name: (2, 4, 2) for name in MNIST}
    publish(
        monkeypatch, {**{name: (5, 10, 5) for name in CIFAR100}, **pairs, "mnist": (10, 20, 10)}
    )


def test_the_official_counts_of_the_parts_add_up():
    assert [sum(PUBLISHED[name].counts[i] for name in CIFAR100) for i in range(3)] == [
        100,
        50000,
        10000,
    ]
    pairs = [PUBLISHED[name].counts for name in MNIST if name != "mnist"]
    assert len(pairs) == 5 and tuple(map(sum, zip(*pairs))) == PUBLISHED["mnist"].counts == (
        10,
        60000,
        10000,
    )


def test_cifar100_by_superclass(tmp_path, small_arrays, capsys):
    images = make_cifar100(tmp_path / "archives")
    assert (
        run(tmp_path, "--dataset", "cifar100", "--contact-sheet", str(tmp_path / "sheet.png")) == 0
    )
    lines = capsys.readouterr().out.splitlines()
    assert lines == [
        f"{name}: 5 classes, 10 train and 5 test images, as published" for name in CIFAR100
    ]
    assert (
        sorted(path.name for path in (tmp_path / "data").iterdir()) == sorted(CIFAR100)
        and (tmp_path / "sheet.png").exists()
    )
    files = list((tmp_path / "data").rglob("*.png"))
    assert len(files) == 300 and {path.parts[-4:-1] for path in files} == images.keys()
    for (name, split, label), expected in images.items():
        made = [
            np.asarray(Image.open(path)).transpose(2, 0, 1)
            for path in sorted((tmp_path / "data" / name / split / label).iterdir())
        ]
        assert np.array_equal(made, expected)  # in the order of the archive


@pytest.mark.parametrize("compressed", [True, False])
def test_mnist_as_a_whole_and_in_pairs(tmp_path, small_arrays, capsys, compressed):
    made = make_mnist(tmp_path / "archives", compressed=compressed)
    assert run(tmp_path, "--dataset", "mnist") == 0
    assert capsys.readouterr().out.startswith(
        "mnist: 10 classes, 20 train and 10 test images, as published\nmnist_0_1: 2 classes, 4 "
    )
    data = tmp_path / "data"
    assert sorted(path.name for path in data.iterdir()) == [
        "mnist",
        "mnist_0_1",
        "mnist_2_3",
        "mnist_4_5",
        "mnist_6_7",
        "mnist_8_9",
    ]
    for split, (images, labels) in made.items():
        for digit in range(10):
            expected = images[labels == digit]
            for folder in ("mnist", f"mnist_{digit // 2 * 2}_{digit // 2 * 2 + 1}"):
                got = [
                    np.asarray(Image.open(path))
                    for path in sorted((data / folder / split / str(digit)).iterdir())
                ]
                assert np.array_equal(got, expected)


def cut_bin(archives):
    def shorter(files):
        return {
            name: content[:-5] if name.endswith("test.bin") else content
            for name, content in files.items()
        }

    rewrite(archives, shorter)


def swap_names(archives):
    rewrite(
        archives,
        lambda files: {name: content.replace(b"fish", b"fruit") for name, content in files.items()},
    )


def strange_label(archives):
    rewrite(
        archives,
        lambda files: {
            name: b"\x14" + content[1:] if name.endswith("train.bin") else content
            for name, content in files.items()
        },
    )


def other_superclass(archives):
    rewrite(
        archives,
        lambda files: {
            name: bytes([(content[0] + 1) % 20]) + content[1:]
            if name.endswith("train.bin")
            else content
            for name, content in files.items()
        },
    )


def other_type(path):
    path.write_bytes(b"\0\0\x09" + path.read_bytes()[3:])


def rewrite(archives, change):
    path = archives / "cifar-100-binary.tar.gz"
    with tarfile.open(path) as archive:
        files = {entry.name: archive.extractfile(entry).read() for entry in archive.getmembers()}
    tgz(path, change(files))


WRONG_ARRAYS = {
    "no archive": (
        make_mnist,
        "cifar100",
        lambda a: None,
        "the archive cifar-100-binary.tar.gz (or cifar-100-python.tar.gz) is missing",
    ),
    "truncated archive": (
        make_cifar100,
        "cifar100",
        lambda a: cut(a / "cifar-100-binary.tar.gz"),
        "cifar-100-binary.tar.gz: cannot be read to its end",
    ),
    "wrong checksum": (
        make_cifar100,
        "cifar100",
        lambda a: flip_checksum(a / "cifar-100-binary.tar.gz"),
        "cannot be read to its end",
    ),
    "half an image": (
        make_cifar100,
        "cifar100",
        cut_bin,
        "cifar-100-binary.tar.gz: test.bin has 307,395 bytes, no multiple of the 3,074",
    ),
    "other names": (make_cifar100, "cifar100", swap_names, "are not the 20 superclasses"),
    "a label too large": (
        make_cifar100,
        "cifar100",
        strange_label,
        "its train images have labels that no list names",
    ),
    "a class elsewhere": (
        make_cifar100,
        "cifar100",
        other_superclass,
        "but official are 5, 10 and 5",
    ),
    "too few": (
        lambda a: make_cifar100(a, train=1),
        "cifar100",
        lambda a: None,
        "cifar100_aquatic_mammals: the archive holds 5 classes, 5 train and 5 test images, but "
        "official are",
    ),
    "the pickled form": (
        make_cifar100,
        "cifar100",
        lambda a: tgz(a / "cifar-100-binary.tar.gz", {"cifar-100-python/train": b"x"}),
        "holds no coarse_label_names.txt",
    ),
    "no IDX file": (
        make_mnist,
        "mnist",
        lambda a: (a / "t10k-labels-idx1-ubyte.gz").unlink(),
        "t10k-labels-idx1-ubyte.gz or t10k-labels-idx1-ubyte is missing",
    ),
    "truncated gzip": (
        make_mnist,
        "mnist",
        lambda a: cut(a / "train-images-idx3-ubyte.gz"),
        "train-images-idx3-ubyte.gz: cannot be read to its end",
    ),
    "truncated IDX": (
        lambda a: make_mnist(a, compressed=False),
        "mnist",
        lambda a: cut(a / "train-images-idx3-ubyte"),
        "train-images-idx3-ubyte: is no IDX file of bytes with 3 axes, or not whole",
    ),
    "signed bytes": (
        lambda a: make_mnist(a, compressed=False),
        "mnist",
        lambda a: other_type(a / "train-images-idx3-ubyte"),
        "train-images-idx3-ubyte: is no IDX file of bytes",
    ),
    "empty": (
        lambda a: make_mnist(a, compressed=False),
        "mnist",
        lambda a: cut(a / "t10k-labels-idx1-ubyte", 0),
        "not whole (0 bytes)",
    ),
    "labels for images": (
        make_mnist,
        "mnist",
        lambda a: (a / "train-labels-idx1-ubyte.gz").rename(a / "train-images-idx3-ubyte.gz"),
        "train-images-idx3-ubyte.gz: is no IDX file",
    ),
    "other labels": (
        make_mnist,
        "mnist",
        lambda a: (a / "t10k-labels-idx1-ubyte.gz").rename(a / "train-labels-idx1-ubyte.gz"),
        "20 images, train-labels-idx1-ubyte 10 labels",
    ),
    "too few digits": (
        lambda a: make_mnist(a, train=1),
        "mnist",
        lambda a: None,
        "mnist: the archive holds 10 classes, 10 train",
    ),
}


@pytest.mark.parametrize("case", WRONG_ARRAYS)
def test_wrong_arrays_end_with_code_2_and_leave_no_data_set(tmp_path, small_arrays, capsys, case):
    make, dataset, break_it, message = WRONG_ARRAYS[case]
    make(tmp_path / "archives")
    break_it(tmp_path / "archives")
    assert run(tmp_path, "--dataset", dataset) == 2
    error = capsys.readouterr().err.replace("\r", "\n").splitlines()[-1]
    assert error.startswith("error: ") and message in error
    assert not list(tmp_path.glob("data/*"))


def test_arrays_go_on_where_they_were_stopped(tmp_path, small_arrays, monkeypatch, capsys):
    make_mnist(tmp_path / "archives")
    original, calls = prepare_data.make_png, []

    def times():
        return {
            (
                path.parents[2].name.removesuffix(".partial").strip("."),
                *path.parts[-3:],
            ): path.stat().st_mtime_ns
            for path in (tmp_path / "data").rglob("*.png")
        }

    def stops(pixels, target):
        if len(calls) == 45:
            raise ArchiveError("stopped")
        calls.append(target)
        original(pixels, target)

    monkeypatch.setattr(prepare_data, "make_png", stops)
    assert run(tmp_path, "--dataset", "mnist") == 2
    kept = times()
    assert sorted(path.name for path in (tmp_path / "data").iterdir()) == [
        ".mnist_4_5.partial",
        "mnist",
        "mnist_0_1",
        "mnist_2_3",
    ]
    monkeypatch.setattr(prepare_data, "make_png", original)
    capsys.readouterr()
    assert run(tmp_path, "--dataset", "mnist") == 0
    assert capsys.readouterr().out.count("is there already, left as it is") == 3
    after = times()
    assert len(after) == 60 and len(kept) == 45 and kept.items() <= after.items()


# ---- what is wrong is said, and nothing outside the data root is touched


def cut(path, fraction=0.6):
    path.write_bytes(path.read_bytes()[: int(fraction * path.stat().st_size)])


def add_member(path, entry):
    with tarfile.open(path) as archive:
        files = {e.name: archive.extractfile(e).read() for e in archive.getmembers()}
    with tarfile.open(path, "w:gz") as archive:
        for name, content in files.items():
            e = tarfile.TarInfo(name)
            e.size = len(content)
            archive.addfile(e, io.BytesIO(content))
        archive.addfile(entry, io.BytesIO(b"x" * entry.size))


def hostile(name, kind=tarfile.REGTYPE, link=""):
    entry = tarfile.TarInfo(name)
    entry.type, entry.linkname, entry.size = kind, link, 1 if kind == tarfile.REGTYPE else 0
    return entry


BROKEN = {
    "missing": (lambda a: (a / "CUB_200_2011.tgz").unlink(), "CUB_200_2011.tar.gz is missing"),
    "truncated": (
        lambda a: cut(a / "CUB_200_2011.tgz"),
        "CUB_200_2011.tgz: cannot be read to its end",
    ),
    "wrong kind": (
        lambda a: (a / "CUB_200_2011.tgz").write_bytes(b"<html>not found</html>" * 50),
        "no .tgz file",
    ),
    "other content": (
        lambda a: tgz(a / "CUB_200_2011.tgz", {"jpg/x.jpg": b"x"}),
        "holds no CUB_200_2011/",
    ),
    "parent": (
        lambda a: add_member(a / "CUB_200_2011.tgz", hostile("../outside.jpg")),
        "leads outside",
    ),
    "absolute": (
        lambda a: add_member(a / "CUB_200_2011.tgz", hostile("/tmp/outside.jpg")),
        "leads outside",
    ),
    "symbolic link": (
        lambda a: add_member(
            a / "CUB_200_2011.tgz", hostile("CUB_200_2011/l", tarfile.SYMTYPE, "/etc")
        ),
        "a link",
    ),
    "hard link": (
        lambda a: add_member(
            a / "CUB_200_2011.tgz", hostile("CUB_200_2011/l", tarfile.LNKTYPE, "/etc/passwd")
        ),
        "a link",
    ),
    "too few": (lambda a: make_cubs(a, train=[2, 2, 1]), "but official are 3, 6 and 3"),
    "a class less": (lambda a: make_cubs(a, classes=2, train=3, test=[2, 1]), "2 classes"),
    "no image": (lambda a: make_cubs(a, content=b"not an image"), "cannot be decoded as an image"),
    "empty box": (
        lambda a: make_cubs(a, content=jpeg(photo(1, size=(5, 5)))),
        "holds no pixel of its 5x5 image",
    ),
}


@pytest.mark.parametrize("case", BROKEN)
def test_wrong_archives_end_with_code_2(tmp_path, small, capsys, case):
    make_cubs(tmp_path / "archives")
    break_it, message = BROKEN[case]
    break_it(tmp_path / "archives")
    outside = {path: path.read_bytes() for path in (tmp_path / "archives").iterdir()}
    assert run(tmp_path, "--dataset", "cubs") == 2
    error = capsys.readouterr().err.replace("\r", "\n").splitlines()[-1]
    assert error.startswith("error: ") and message in error
    assert not (tmp_path / "data" / "cubs_cropped").exists()
    assert {path: path.read_bytes() for path in (tmp_path / "archives").iterdir()} == outside
    assert sorted(p.name for p in tmp_path.iterdir()) in (["archives"], ["archives", "data"])


def flip_checksum(path):
    data = bytearray(path.read_bytes())
    data[-8] ^= 1  # of gzip's CRC32 over the content
    path.write_bytes(data)


@pytest.mark.parametrize("break_it", [cut, flip_checksum])
@pytest.mark.parametrize(
    "make, dataset, archive",
    [
        (make_cubs, "cubs", "CUB_200_2011.tgz"),
        (make_flowers, "flowers", "102flowers.tgz"),
        (make_cars_one_archive, "cars", "car_ims.tgz"),
        (make_cars_two_archives, "cars", "cars_train.tgz"),
        (make_cars_two_archives, "cars", "cars_test.tgz"),
        (make_cars_two_archives, "cars", "car_devkit.tgz"),
    ],
)
def test_a_damaged_archive_leaves_nothing_behind(
    tmp_path, small, capsys, break_it, make, dataset, archive
):
    make(tmp_path / "archives")
    whole = (tmp_path / "archives" / archive).read_bytes()
    break_it(tmp_path / "archives" / archive)
    assert run(tmp_path, "--dataset", dataset) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: ") and f"{archive}: cannot be read to its end" in error
    folder = prepare_data.dataset_folder(dataset, tmp_path / "data")
    assert not folder.exists()
    left = {path.parent.parent.name for path in (tmp_path / "data").rglob("*.jpg")}
    # of the archive before it, which was whole
    assert left == ({"train"} if archive == "cars_test.tgz" else set())
    (tmp_path / "archives" / archive).write_bytes(whole)
    assert run(tmp_path, "--dataset", dataset) == 0
    assert sorted(path.name for path in folder.iterdir()) == ["test", "train"]


def test_an_archive_is_checked_even_if_all_its_images_were_made_before_a_kill(
    tmp_path, small, capsys
):
    make_flowers(tmp_path / "archives")
    assert run(tmp_path, "--dataset", "flowers") == 0
    (tmp_path / "data/flowers").rename(tmp_path / "data/.flowers.partial")
    flip_checksum(tmp_path / "archives/102flowers.tgz")
    assert run(tmp_path, "--dataset", "flowers") == 2 and not (tmp_path / "data/flowers").exists()


@pytest.mark.parametrize(
    "files, message",
    [
        (["cars_annos.mat"], "car_ims.tgz is missing"),
        (["car_ims.tgz"], "cars_annos.mat is missing"),
        (
            [],
            "cars_train.tgz, cars_test.tgz, cars_meta.mat (of car_devkit.tgz), "
            "cars_train_annos.mat",
        ),
    ],
)
def test_a_missing_part_of_cars_is_named(tmp_path, small, capsys, files, message):
    (tmp_path / "archives").mkdir()
    for name in files:
        (tmp_path / "archives" / name).write_bytes(b"x")
    assert run(tmp_path, "--dataset", "cars") == 2 and message in capsys.readouterr().err


def test_a_mat_file_that_is_none_is_named(tmp_path, small, capsys):
    make_flowers(tmp_path / "archives")
    (tmp_path / "archives" / "setid.mat").write_bytes(b"no matlab file")
    assert (
        run(tmp_path, "--dataset", "flowers") == 2
        and "setid.mat: is no MATLAB 5 file" in capsys.readouterr().err
    )


def test_no_folder_of_archives(tmp_path, capsys):
    assert run(tmp_path) == 2 and "no such folder" in capsys.readouterr().err


# ---- interrupted


def test_what_is_missing_is_made_and_what_is_there_is_kept(tmp_path, small, monkeypatch):
    make_cubs(tmp_path / "archives")
    original, calls = prepare_data.make, []

    def stops(picture, content, source, target):
        if len(calls) == 4:
            raise ArchiveError("stopped")
        calls.append(target)
        original(picture, content, source, target)

    monkeypatch.setattr(prepare_data, "make", stops)
    assert run(tmp_path, "--dataset", "cubs") == 2
    assert not (tmp_path / "data" / "cubs_cropped").exists()
    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "data").rglob("*.jpg")}
    assert 0 < len(kept) < 9
    emptied, _ = kept.popitem()
    emptied.write_bytes(b"")  # by a power cut
    monkeypatch.setattr(prepare_data, "make", original)
    assert run(tmp_path, "--dataset", "cubs") == 0
    after = {
        path.name: path.stat().st_mtime_ns
        for path in (tmp_path / "data" / "cubs_cropped").rglob("*.jpg")
    }
    assert len(after) == 9 and all(after[path.name] == time for path, time in kept.items())
    assert all(path.stat().st_size for path in (tmp_path / "data").rglob("*.jpg"))


def test_the_images_are_on_the_disk_before_the_data_set_has_its_name(tmp_path, small, monkeypatch):
    make_cubs(tmp_path / "archives")
    seen = []
    monkeypatch.setattr(os, "sync", lambda: seen.append(os.listdir(tmp_path / "data")))
    assert run(tmp_path, "--dataset", "cubs") == 0 and seen == [[".cubs_cropped.partial"]]


def spread(total, classes):
    return [total // classes + (i < total % classes) for i in range(classes)]


@pytest.mark.slow
def test_official_counts_and_kill_9_in_the_middle(tmp_path):
    """All three at full size with tiny images, in both forms of Cars; killed at random and started
    again: the same
    bytes as undisturbed, and test_basic.py says that all is well."""
    content = jpeg(photo(0, size=(64, 48)))
    names = [f"Car {i}" for i in range(195)] + ["Ram C/V Cargo Van Minivan 2012"]
    make_cubs(tmp_path / "archives", 200, spread(5994, 200), spread(5794, 200), content)
    make_cars_one_archive(
        tmp_path / "archives", names, spread(8144, 196), spread(8041, 196), content
    )
    make_cars_two_archives(tmp_path / "other", names, spread(8144, 196), spread(8041, 196), content)
    make_flowers(tmp_path / "archives", 102, spread(2040, 102), spread(6149, 102), content)

    def start(archives, data, *more):
        return subprocess.Popen(
            [
                sys.executable,
                "prepare_data.py",
                "--archives",
                tmp_path / archives,
                "--data-root",
                tmp_path / data,
                *more,
            ],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )

    undisturbed = start("archives", "data")
    out, _ = undisturbed.communicate(timeout=300)
    assert undisturbed.returncode == 0 and out.count("as published") == 3
    kills, rng = 0, random.Random(0)
    while True:
        process = start("archives", "killed")
        try:
            process.communicate(timeout=rng.uniform(1, 4) if kills < 4 else 300)
            break
        except subprocess.TimeoutExpired:
            os.kill(process.pid, signal.SIGKILL)
            process.communicate()
            kills += 1
    assert kills >= 2 and process.returncode == 0
    assert tree(tmp_path / "killed") == tree(tmp_path / "data")
    other = start("other", "data2", "--dataset", "cars")
    other.communicate(timeout=300)
    assert other.returncode == 0
    assert [
        len(list((tmp_path / d / "stanford_cars_cropped").rglob("*.jpg")))
        for d in ("data", "data2")
    ] == [16185, 16185]
    checked = subprocess.run(
        [sys.executable, "test_basic.py", "--data-root", tmp_path / "data"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert (
        checked.returncode == 0
        and "All is well." in checked.stdout
        and checked.stdout.count("as published") == 3
    ), checked.stdout
