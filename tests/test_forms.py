"""prepare_data.py on the forms in which people have the archives: packed anew, unpacked, and
copies. Each form is built from the
official one of test_prepare_data.py, by moving its files."""

import gzip
import io
import json
import os
import pickle
import shutil
import struct
import sys
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
import test_prepare_data
from PIL import Image
from test_prepare_data import (
    CAR_CLASSES,
    jpeg,
    make_cars_one_archive,
    make_cars_two_archives,
    make_cifar100,
    make_cubs,
    make_flowers,
    make_mnist,
    mat,
    photo,
    publish,
    records,
    run,
    tgz,
    tree,
)

import prepare_data
from images import arrays, pictures
from images.archives import Archives
from images.datasets import (
    CIFAR100,
    FASHION,
    FASHION_HALVES,
    FASHION_PAIRS,
    MNIST,
    PUBLISHED,
    TINY_IMAGENET,
)
from images.folders import DataError, read_split, unsorted
from settings.config import Config

# fixtures: other official counts
small, small_arrays = test_prepare_data.small, test_prepare_data.small_arrays


# ---- how an archive is packed anew


def unpack(path: Path, folder: Path) -> Path:
    with tarfile.open(path) as archive:
        archive.extractall(folder, filter="data")
    path.unlink()
    return folder


def as_tar(path, content):
    with tarfile.open(path.with_name(f"{stem(path)}.tar"), "w") as archive:
        archive.add(content, ".")


def as_tar_gz(path, content):
    with tarfile.open(path.with_name(f"{stem(path)}.tar.gz"), "w:gz") as archive:
        archive.add(content, "some/where")


def as_plain_tar_called_tgz(path, content):
    with tarfile.open(path.with_name(f"{stem(path)}.tgz"), "w") as archive:
        archive.add(content, "")


def as_second_download(path, content):
    with tarfile.open(path.with_name(f"{stem(path)} (1).tgz"), "w:gz") as archive:
        archive.add(content, "")


def as_zip(path, content):
    zipped(path.with_name(f"{stem(path)}.zip"), content)


def as_archive_zip(path, content):
    """Kaggle's command line calls every download so."""
    zipped(path.with_name("archive.zip"), content)


def as_zip_of_tgz(path, content):
    inner = content.parent / f"{stem(path)}.tgz"
    with tarfile.open(inner, "w:gz") as archive:
        archive.add(content, "")
    with zipfile.ZipFile(path.with_name("archive.zip"), "a", zipfile.ZIP_DEFLATED) as archive:
        archive.write(inner, inner.name)
        archive.writestr(f"{stem(path)}/segmentations.tgz", as_bytes({"segmentations/x.png": b"x"}))
        archive.writestr(f"__MACOSX/._{inner.name}", b"x")


def as_folder(path, content):
    shutil.copytree(content, path.parent, dirs_exist_ok=True)


def as_nested_folder(path, content):
    shutil.copytree(content, path.parent / stem(path) / stem(path))


def as_folder_of_links(path, content):
    """As in a cache."""
    for file in content.rglob("*"):
        if file.is_file():
            link = path.parent / file.relative_to(content)
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(file)


def as_in_a_subfolder(path, content):
    (path.parent / "downloads").mkdir(exist_ok=True)
    with tarfile.open(path.parent / "downloads" / f"{stem(path)}.tgz", "w:gz") as archive:
        archive.add(content, "")


PACKED = [
    as_tar,
    as_tar_gz,
    as_plain_tar_called_tgz,
    as_second_download,
    as_zip,
    as_archive_zip,
    as_zip_of_tgz,
    as_folder,
    as_nested_folder,
    as_folder_of_links,
    as_in_a_subfolder,
]


def stem(path: Path) -> str:
    return path.name.removesuffix(".tgz").removesuffix(".tar.gz")


def zipped(path, content):
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as archive:
        for file in sorted(content.rglob("*")):
            if file.is_file():
                archive.writestr(str(file.relative_to(content)), file.read_bytes())


def as_bytes(files):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()


def repacked(archives: Path, pack, elsewhere: Path) -> None:
    """Every archive of the folder in another form."""
    for number, path in enumerate(sorted(archives.glob("*.t*gz"))):
        pack(path, unpack(path, elsewhere / str(number)))


DATASETS = {
    "cubs": make_cubs,
    "cars of one archive": make_cars_one_archive,
    "cars of two": make_cars_two_archives,
    "flowers": make_flowers,
}


@pytest.mark.parametrize("pack", PACKED)
@pytest.mark.parametrize("dataset", DATASETS)
def test_any_container_gives_the_same_images(tmp_path, small, capsys, dataset, pack):
    DATASETS[dataset](tmp_path / "archives")
    shutil.copytree(tmp_path / "archives", tmp_path / "official/archives")
    repacked(tmp_path / "archives", pack, tmp_path / "elsewhere")
    before = sorted(tmp_path.glob("archives/**/*"))
    for root in (tmp_path, tmp_path / "official"):
        assert run(root, "--dataset", dataset.split()[0]) == 0, capsys.readouterr().err
    assert capsys.readouterr().out.count("as published") == 2
    assert tree(tmp_path / "data") == tree(tmp_path / "official/data")
    assert sorted(tmp_path.glob("archives/**/*")) == before  # nothing is unpacked to the disk


@pytest.mark.parametrize("pack", PACKED)
def test_any_container_of_cifar100(tmp_path, small_arrays, pack):
    make_cifar100(tmp_path / "archives")
    shutil.copytree(tmp_path / "archives", tmp_path / "official/archives")
    repacked(tmp_path / "archives", pack, tmp_path / "elsewhere")
    for root in (tmp_path, tmp_path / "official"):
        assert run(root, "--dataset", "cifar100") == 0
    assert tree(tmp_path / "data") == tree(tmp_path / "official/data")


@pytest.mark.parametrize("depth", ["raw", "MNIST/raw", "data/MNIST/raw"])
def test_idx_files_below_a_root_as_torchvision_has_them(tmp_path, small_arrays, depth):
    make_mnist(tmp_path / "archives" / depth)
    assert run(tmp_path, "--dataset", "mnist") == 0


def dotted(path):
    path.rename(path.with_name(path.name.replace("-idx", ".idx")))


def second_download(path):
    path.rename(path.with_name(path.name.replace("ubyte", "ubyte (1)")))


def zip_all(path):
    with zipfile.ZipFile(path.parent / "archive.zip", "a") as archive:
        archive.writestr(f"MNIST/{path.name}", path.read_bytes())
    path.unlink()


def in_a_folder_of_its_name(path):
    """As Kaggle's copy has them."""
    content = path.read_bytes()
    path.unlink()
    path.mkdir()
    (path / path.name).write_bytes(content)


def called_gz(path):
    path.rename(path.with_name(f"{path.name}.gz"))


@pytest.mark.parametrize("compressed", [True, False])
@pytest.mark.parametrize(
    "change", [dotted, second_download, zip_all, in_a_folder_of_its_name, called_gz]
)
def test_idx_files_under_other_names(tmp_path, small_arrays, change, compressed):
    """called_gz: decompressed on the way, or compressed twice in name only."""
    make_mnist(tmp_path / "archives", compressed=compressed)
    make_mnist(tmp_path / "official/archives")
    for path in sorted((tmp_path / "archives").iterdir()):
        if not (compressed and change is called_gz):
            change(path)
    for root in (tmp_path, tmp_path / "official"):
        assert run(root, "--dataset", "mnist") == 0
    assert tree(tmp_path / "data") == tree(tmp_path / "official/data")


def test_an_archive_can_be_named_itself(tmp_path, small, capsys):
    make_cubs(tmp_path / "archives")
    archive = tmp_path / "archives/CUB_200_2011.tgz"
    assert (
        test_prepare_data.prepare_data.main(
            ["--archives", str(archive), "--data-root", str(tmp_path), "--dataset", "cubs"]
        )
        == 0
    )


def test_a_folder_of_cubs_under_another_name(tmp_path, small):
    make_cubs(tmp_path / "archives")
    unpack(tmp_path / "archives/CUB_200_2011.tgz", tmp_path / "archives")
    (tmp_path / "archives/CUB_200_2011").rename(tmp_path / "archives/birds")
    assert run(tmp_path, "--dataset", "cubs") == 0


# ---- what is wrong with a zip is said


def flip_a_byte(path):
    """Of the content of a file in it."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 255
    path.write_bytes(data)


def cut_off(path):
    path.write_bytes(path.read_bytes()[:-200])


@pytest.mark.parametrize("break_it", [flip_a_byte, cut_off])
@pytest.mark.parametrize("pack", [as_zip, as_zip_of_tgz])
def test_a_damaged_zip_leaves_nothing_behind(tmp_path, small, capsys, pack, break_it):
    make_flowers(tmp_path / "archives")
    repacked(tmp_path / "archives", pack, tmp_path / "elsewhere")
    (path,) = (tmp_path / "archives").glob("*.zip")
    path.rename(path.with_name("102flowers.zip"))
    break_it(path.with_name("102flowers.zip"))
    assert run(tmp_path, "--dataset", "flowers") == 2
    assert "102flowers.zip: cannot be read to its end" in capsys.readouterr().err
    assert not list((tmp_path / "data").rglob("*.jpg")) and not (tmp_path / "data/flowers").exists()


@pytest.mark.parametrize(
    "flags, method, message",
    [
        (0, 9, "That compression method is not supported"),  # deflate64: Windows, above 2 GB
        (1, 8, "is encrypted, password required"),
    ],
)
def test_a_sound_zip_that_python_cannot_unpack_is_not_called_damaged(
    tmp_path, small, capsys, flags, method, message
):
    make_flowers(tmp_path / "archives")
    repacked(tmp_path / "archives", as_zip, tmp_path / "elsewhere")
    path = tmp_path / "archives/102flowers.zip"
    content = bytearray(path.read_bytes())
    for mark, place in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):  # the heads of its files
        at = -1
        while (at := content.find(mark, at + 1)) >= 0:
            content[at + place:at + place + 4] = struct.pack("<HH", flags, method)
    path.write_bytes(content)
    assert run(tmp_path, "--dataset", "flowers") == 2
    error = capsys.readouterr().err
    assert f"{path}: cannot be unpacked here (" in error and message in error
    assert "Unpack it" in error and error.count("\n") == 1


@pytest.mark.parametrize(
    "name, link", [("../outside.jpg", False), ("/tmp/outside.jpg", False), ("jpg/link", True)]
)
def test_a_zip_that_leads_outside_is_refused(tmp_path, small, capsys, name, link):
    make_flowers(tmp_path / "archives")
    repacked(tmp_path / "archives", as_zip, tmp_path / "elsewhere")
    with zipfile.ZipFile(tmp_path / "archives/102flowers.zip", "a") as archive:
        entry = zipfile.ZipInfo(name)
        entry.external_attr = 0o120777 << 16 if link else 0
        archive.writestr(entry, "/etc/passwd")
    assert run(tmp_path, "--dataset", "flowers") == 2
    assert "a link or a path that leads outside" in capsys.readouterr().err


# ---- Stanford Cars: the form that is complete


def extracted(archives: Path) -> None:
    for path in sorted(archives.glob("*.tgz")):
        unpack(path, archives)


def kaggle_with_devkit(archives):
    """jessicali9530's folders, and abdelrahmant11's lists beside them: cars_annos.mat belongs to
    the other form."""
    make_cars_two_archives(archives)
    extracted(archives)
    for split in ("train", "test"):
        (archives / f"cars_{split}").rename(archives / "x")
        (archives / f"cars_{split}").mkdir()
        (archives / "x").rename(archives / f"cars_{split}/cars_{split}")
    path = archives / "cars_test_annos_withlabels.mat"
    (archives / "cars_annos.mat").write_bytes(path.read_bytes())
    path.rename(archives / "cars_test_annos_withlabels (1).mat")


def kaggle_nested_devkit(archives):
    make_cars_two_archives(archives)
    extracted(archives)
    (archives / "car_devkit").mkdir()
    (archives / "devkit").rename(archives / "car_devkit/devkit")


def torchvisions_root(archives):
    make_cars_two_archives(archives / "stanford_cars")
    extracted(archives / "stanford_cars")


def labels_in_the_devkit(archives):
    make_cars_two_archives(archives)
    extracted(archives)
    (archives / "cars_test_annos_withlabels.mat").rename(
        archives / "devkit/cars_test_annos_withlabels.mat"
    )


def labels_in_the_packed_devkit(archives):
    labels_in_the_devkit(archives)
    with tarfile.open(archives / "car_devkit.tgz", "w:gz") as archive:
        archive.add(archives / "devkit", "devkit")
    shutil.rmtree(archives / "devkit")


def a_stray_list(archives):
    make_cars_two_archives(archives)
    shutil.copy(archives / "cars_test_annos_withlabels.mat", archives / "cars_annos.mat")


def a_stray_archive(archives):
    make_cars_two_archives(archives)
    (archives / "car_ims.tgz").write_bytes(b"half of it")


def the_first_form_and_half_the_second(archives):
    make_cars_two_archives(archives)
    (archives / "cars_test.tgz").unlink()
    make_cars_one_archive(archives)


def csv_with_boxes(archives):
    """jutrera's: folders by class, a slash in a name is a dash, lists without a header line."""
    root = archives / "car_data/car_data"
    lines = {"train": [], "test": []}
    for label, name in enumerate(CAR_CLASSES, 1):
        for split, count in (("train", 2), ("test", 1)):
            folder = root / split / name.replace("/", "-")
            folder.mkdir(parents=True)
            for _ in range(count):
                number = len(lines[split]) + 1
                photo(number).save(folder / f"{number:05}.jpg", quality=95)
                lines[split].append(f"{number:05}.jpg,3,4,50,70,{label}\n")
    for split, rows in lines.items():
        (archives / f"anno_{split}.csv").write_text("".join(rows))
    (archives / "names.csv").write_text("".join(f"{name}\n" for name in CAR_CLASSES))


def csv_in_a_zip(archives):
    csv_with_boxes(archives / "x")
    zipped(archives / "archive.zip", archives / "x")
    shutil.rmtree(archives / "x")


CARS = [
    kaggle_with_devkit,
    kaggle_nested_devkit,
    torchvisions_root,
    labels_in_the_devkit,
    labels_in_the_packed_devkit,
    a_stray_list,
    a_stray_archive,
    the_first_form_and_half_the_second,
    csv_with_boxes,
    csv_in_a_zip,
]


@pytest.mark.parametrize("make", CARS)
def test_the_form_of_cars_that_is_complete(tmp_path, small, capsys, make):
    make(tmp_path / "archives")
    assert run(tmp_path, "--dataset", "cars") == 0, capsys.readouterr().err
    made = tmp_path / "data/stanford_cars_cropped"
    assert sorted(path.name for path in (made / "train").iterdir()) == [
        "AM General Hummer SUV 2000",
        "Ram C%2FV Cargo Van Minivan 2012",
        "smart fortwo 2012",
    ]
    for path in made.rglob("*.jpg"):
        assert Image.open(path).size == (48, 37)  # from 3, 4 to 50 and to the edge at 40, 1-based


def without_labels(archives):
    make_cars_two_archives(archives)
    (archives / "cars_test_annos_withlabels.mat").unlink()


def kaggles_images_alone(archives):
    kaggle_with_devkit(archives)
    shutil.rmtree(archives / "devkit")
    (archives / "cars_test_annos_withlabels (1).mat").unlink()


def by_class_without_boxes(archives):
    csv_with_boxes(archives)
    for path in archives.glob("*.csv"):
        path.unlink()
    (archives / "car_data/car_data/train").rename(archives / "train")
    shutil.rmtree(archives / "car_data")


@pytest.mark.parametrize(
    "make, says",
    [
        (without_labels, "Of the second form, cars_test_annos_withlabels.mat is missing."),
        (
            kaggles_images_alone,
            "Of the first form, car_ims.tgz is missing; of the second form, cars_meta.mat (of "
            "car_devkit.tgz), "
            "cars_train_annos.mat (of car_devkit.tgz), cars_test_annos_withlabels.mat are missing.",
        ),
        (
            by_class_without_boxes,
            "Copies without boxes, sorted into folders by class or as parquet, cannot be cropped.",
        ),
    ],
)
def test_what_each_form_of_cars_lacks(tmp_path, small, capsys, make, says):
    make(tmp_path / "archives")
    assert run(tmp_path, "--dataset", "cars") == 2
    error = capsys.readouterr().err
    assert says in error and error.count("\n") == 1


# ---- Flowers with lists


@pytest.mark.parametrize("first", [0, 1])
@pytest.mark.parametrize(
    "name, lists",
    [
        ("oxford-102-flowers", ("train.txt", "valid.txt", "test.txt")),
        ("flowers102", ("train_list.txt", "val_list.txt", "test_list.txt")),
    ],
)
def test_flowers_with_lists(tmp_path, small, name, lists, first):
    """As fast.ai and PaddleClas have them; labels count from 0, or from 1."""
    make_flowers(tmp_path / "official/archives")
    files = make_flowers(tmp_path / "archives")
    for path in (tmp_path / "archives").iterdir():
        path.unlink()
    lines = {name: [] for name in lists}
    # make_flowers: two of each class for training, then one to test
    for number, member in enumerate(files):
        kind = lists[2] if number >= 6 else lists[number % 2]
        label = number // 2 if number < 6 else number - 6
        lines[kind].append(f"{member} {label + first}\n")
    texts = {f"{name}/{kind}": "".join(rows).encode() for kind, rows in lines.items()}
    tgz(
        tmp_path / f"archives/{name}.tgz",
        {f"{name}/{member}": content for member, content in files.items()} | texts,
    )
    for root in (tmp_path, tmp_path / "official"):
        assert run(root, "--dataset", "flowers") == 0
    assert tree(tmp_path / "data") == tree(tmp_path / "official/data")


def test_flowers_without_a_list_of_the_split(tmp_path, small, capsys):
    make_flowers(tmp_path / "archives")
    os.unlink(tmp_path / "archives/setid.mat")
    assert run(tmp_path, "--dataset", "flowers") == 2
    assert "setid.mat is missing" in capsys.readouterr().err


# ---- CIFAR-100 for Python


class NumPy1:
    """Pickles an array as NumPy 1 did for Python 2: the functions by their old names."""

    def __init__(self, array):
        self.array = array

    def __reduce__(self):
        return (
            Old("numpy.core.multiarray", "_reconstruct"),
            (Old("numpy", "ndarray"), (0,), b"b"),
            (1, self.array.shape, OldType(), False, self.array.tobytes()),
        )


class OldType:
    def __reduce__(self):
        return Old("numpy", "dtype"), (b"u1", 0, 1), (3, b"|", None, None, None, -1, -1, 0)


class Old:
    """A name of a module, which the pickler below writes as such."""

    def __init__(self, module, name):
        self.module, self.name = module, name

    def __call__(self):
        pass


class Pickler(pickle._Pickler):
    def save(self, thing, save_persistent_id=True):
        if isinstance(thing, Old):
            self.write(b"c" + f"{thing.module}\n{thing.name}\n".encode())
        elif isinstance(thing, bytes):  # a string of Python 2
            self.write(b"T" + len(thing).to_bytes(4, "little") + thing)
        else:
            super().save(thing, save_persistent_id)

    def save_reduce(self, function, arguments, state=None, *_, obj=None):
        self.save(function)
        self.save(arguments)
        self.write(b"R")
        self.save(state)
        self.write(b"b")


def pickled(thing):
    buffer = io.BytesIO()
    Pickler(buffer, 2).dump(thing)
    return buffer.getvalue()


def protocol_2(thing):
    return pickle.dumps(thing, 2)


def protocol_5(thing):
    """What Python 3.14 takes by itself."""
    return pickle.dumps(thing, 5)


def cifar100_for_python(
    archives, array=np.asarray, write=pickle.dumps, change=lambda name, content: content
):
    """The same images and labels as the binary form in `archives`, which it takes the place of."""
    folder = (
        unpack(archives / "cifar-100-binary.tar.gz", archives.parent / "binary")
        / "cifar-100-binary"
    )
    files = {}
    for split in ("train", "test"):
        records = np.frombuffer((folder / f"{split}.bin").read_bytes(), np.uint8).reshape(-1, 3074)
        content = {
            b"data": array(records[:, 2:].copy()),
            b"coarse_labels": records[:, 0].tolist(),
            b"fine_labels": records[:, 1].tolist(),
            b"batch_label": b"",
            b"filenames": [b"x.png"] * len(records),
        }
        files[f"cifar-100-python/{split}"] = write(change(split, content))
    names = {
        f"{kind}_label_names".encode(): (folder / f"{kind}_label_names.txt").read_bytes().split()
        for kind in ("coarse", "fine")
    }
    files["cifar-100-python/meta"] = write(change("meta", names))
    tgz(archives / "cifar-100-python.tar.gz", files | {"cifar-100-python/file.txt~": b""})


@pytest.mark.parametrize(
    "options",
    [{}, dict(write=protocol_2), dict(write=protocol_5), dict(array=NumPy1, write=pickled)],
    ids=["this NumPy", "protocol 2", "protocol 5", "NumPy 1, Python 2"],
)
@pytest.mark.parametrize("unpacked", [False, True])
def test_cifar100_for_python(tmp_path, small_arrays, options, unpacked):
    make_cifar100(tmp_path / "archives")
    shutil.copytree(tmp_path / "archives", tmp_path / "official/archives")
    cifar100_for_python(tmp_path / "archives", **options)
    if unpacked:
        unpack(tmp_path / "archives/cifar-100-python.tar.gz", tmp_path / "archives")
    for root in (tmp_path, tmp_path / "official"):
        assert run(root, "--dataset", "cifar100") == 0
    assert tree(tmp_path / "data") == tree(tmp_path / "official/data")


class Evil:
    def __reduce__(self):
        return os.system, (f"touch {os.environ['EVIL']}",)


def more_labels(name, content):
    return content | {b"fine_labels": content[b"fine_labels"][1:]} if name == "train" else content


def label_below_0(name, content):
    return (
        content | {b"coarse_labels": [-1] * len(content[b"coarse_labels"])}
        if name == "test"
        else content
    )


def floats(name, content):
    return content | {b"data": content[b"data"].astype(np.float64)} if name == "train" else content


def signed(name, content):
    return content | {b"data": content[b"data"].view(np.int8)} if name == "train" else content


@pytest.mark.parametrize(
    "change",
    [more_labels, label_below_0, floats, signed, lambda *_: Evil(), lambda *_: 3],
)
def test_a_wrong_pickle_is_refused_and_runs_nothing(
    tmp_path, small_arrays, capsys, monkeypatch, change
):
    monkeypatch.setenv("EVIL", str(tmp_path / "evil"))
    make_cifar100(tmp_path / "archives")
    cifar100_for_python(tmp_path / "archives", change=change)
    assert run(tmp_path, "--dataset", "cifar100") == 2
    assert "its files train, test and meta are not those of CIFAR-100" in capsys.readouterr().err
    assert not (tmp_path / "evil").exists() and not (tmp_path / "data").exists()


# ---- data sets in MNIST's form


@pytest.fixture
def like_mnist(monkeypatch):
    publish(
        monkeypatch,
        {name: (10, 20, 10) for name in ("mnist", "fashion-mnist", "kmnist", "emnist-digits")}
        | {name: (2, 4, 2) for name in (*MNIST, *FASHION_PAIRS) if name != "mnist"}
        | {name: (5, 10, 5) for name in FASHION_HALVES}
        | {"emnist-letters": (26, 52, 26), "emnist-balanced": (47, 94, 47)},
    )


def idx(array):
    return (
        np.array([0x801 if array.ndim == 1 else 0x803, *array.shape], ">i4").tobytes()
        + array.tobytes()
    )


def write_idx(folder, starts, classes, brightness, first=0, train=2, test=1):
    """Four files; returns {split: (images, labels)}."""
    rng, made = np.random.default_rng(0), {}
    folder.mkdir(parents=True)
    for (split, start), count in zip(starts.items(), (train, test)):
        labels = rng.permutation(
            np.repeat(np.arange(first, first + classes, dtype=np.uint8), count)
        )
        images = np.full((len(labels), 28, 28), round(255 * brightness), np.uint8)
        images[:, 0, :5] = labels[:, None]  # not as high as wide
        for kind, array in (("images-idx3", images), ("labels-idx1", labels)):
            (folder / f"{start}-{kind}-ubyte.gz").write_bytes(gzip.compress(idx(array)))
        made[split] = images, labels
    return made


MNISTS_FILES = dict(train="train", test="t10k")


@pytest.mark.parametrize(
    "name, brightness, classes",
    [
        (
            "fashion-mnist",
            0.29,
            [
                "T-shirt-top",
                "Trouser",
                "Pullover",
                "Dress",
                "Coat",
                "Sandal",
                "Shirt",
                "Sneaker",
                "Bag",
                "Ankle boot",
            ],
        ),
        ("kmnist", 0.19, ["o", "ki", "su", "tsu", "na", "ha", "ma", "ya", "re", "wo"]),
    ],
)
def test_data_sets_whose_files_have_mnists_names(tmp_path, like_mnist, name, brightness, classes):
    made = write_idx(tmp_path / "archives", MNISTS_FILES, 10, brightness)
    assert run(tmp_path, "--dataset", name) == 0
    for split, (images, labels) in made.items():
        for number, label in enumerate(classes):
            files = sorted((tmp_path / "data" / name / split / label).iterdir())
            assert np.array_equal(
                [np.asarray(Image.open(path)) for path in files], images[labels == number]
            )


def test_fashion_mnists_parts_hold_the_classes_of_their_labels(tmp_path, like_mnist):
    made = write_idx(tmp_path / "archives", MNISTS_FILES, 10, 0.29)
    assert run(tmp_path, "--dataset", "fashion-mnist") == 0
    data = tmp_path / "data"
    assert sorted(path.name for path in data.iterdir()) == sorted(FASHION)
    for split, (images, labels) in made.items():
        for name in FASHION_PAIRS + FASHION_HALVES:
            first, last = int(name[-3]), int(name[-1])
            found = {}
            for folder in (data / name / split).iterdir():
                files = sorted(folder.iterdir())
                found[folder.name] = [np.asarray(Image.open(file)) for file in files]
            assert found.keys() == {*arrays.FASHION_MNIST[first : last + 1]}
            for number in range(first, last + 1):
                label = arrays.FASHION_MNIST[number]
                assert np.array_equal(found[label], images[labels == number])


def test_the_official_counts_of_fashion_mnists_parts_add_up():
    whole = PUBLISHED["fashion-mnist"].counts
    for parts in (FASHION_PAIRS, FASHION_HALVES):
        assert tuple(map(sum, zip(*(PUBLISHED[name].counts for name in parts)))) == whole


# ---- what packages have put somewhere


def test_data_sets_of_packages_are_found_without_a_folder(tmp_path, like_mnist, monkeypatch):
    made = write_idx(tmp_path / "package", MNISTS_FILES, 10, 0.29)
    there = (lambda: tmp_path / "package", "a command")
    monkeypatch.setitem(prepare_data.INSTALLED, "fashion-mnist", there)
    given = ["--data-root", str(tmp_path / "data"), "--dataset", "fashion-mnist"]
    assert prepare_data.main(given) == 0
    files = list((tmp_path / "data/fashion-mnist/train").rglob("*.png"))
    assert len(files) == len(made["train"][1])


@pytest.mark.parametrize(
    "dataset, says",
    [
        ("fashion-mnist", "is not there. `sudo apt install dataset-fashion-mnist`, or name"),
        ("sklearn-digits", "is not there. `pip install scikit-learn`, or name"),
        ("cubs", "--archives: name the folder in which the archives of cubs are"),
    ],
)
def test_without_package_and_folder_it_says_where(tmp_path, monkeypatch, capsys, dataset, says):
    for name, (_, command) in prepare_data.INSTALLED.items():
        monkeypatch.setitem(prepare_data.INSTALLED, name, (lambda: tmp_path / "none", command))
    assert prepare_data.main(["--data-root", str(tmp_path), "--dataset", dataset]) == 2
    error = capsys.readouterr().err
    assert says in error and error.count("\n") == 1


def digits_table(folder, change=lambda table: table):
    """A stand-in for scikit-learn's file: 21 images. Returns the table."""
    table = np.random.default_rng(0).integers(0, 17, (21, 65))
    table[:, 64] = np.arange(21) % 10
    table = change(table)
    folder.mkdir(parents=True)
    lines = "\n".join(",".join(map(str, row)) for row in table)
    (folder / "digits.csv.gz").write_bytes(gzip.compress(lines.encode()))
    return table


@pytest.fixture
def few_digits(monkeypatch):
    publish(monkeypatch, {"sklearn-digits": (10, 10, 11)})


def test_scikit_learns_digits(tmp_path, few_digits):
    table = digits_table(tmp_path / "archives")
    assert run(tmp_path, "--dataset", "sklearn-digits") == 0
    for split, rows in (("train", table[:10]), ("test", table[10:])):
        for digit in range(10):
            files = sorted((tmp_path / "data/sklearn-digits" / split / str(digit)).iterdir())
            got = [np.asarray(Image.open(file)).ravel().tolist() for file in files]
            # 16 is white; halves go to the even neighbour, which no level meets
            expected = [[int(level * 255 / 16 + 0.5) for level in row[:64]]
                        for row in rows if row[64] == digit]
            assert got == expected


@pytest.mark.parametrize(
    "change, says",
    [
        (lambda table: table[:, :64], "is not scikit-learn's table of digits"),
        (lambda table: table + 1, "is not scikit-learn's table of digits"),
        (lambda table: table - 1, "is not scikit-learn's table of digits"),
        (lambda table: table[:5], "the archive holds 5 classes, 5 train"),
        (lambda table: np.char.add(table.astype(str), "x"), "is no table of whole numbers"),
    ],
)
def test_a_table_that_is_not_scikit_learns(tmp_path, few_digits, capsys, change, says):
    digits_table(tmp_path / "archives", change)
    assert run(tmp_path, "--dataset", "sklearn-digits") == 2
    assert says in capsys.readouterr().err and not (tmp_path / "data").exists()


@pytest.mark.parametrize(
    "asked, brightness, says",
    [
        ("fashion-mnist", 0.19, "is not fashion-mnist but KMNIST"),
        ("kmnist", 0.29, "is not kmnist but Fashion-MNIST"),
    ],
)
def test_they_are_not_taken_for_each_other(tmp_path, like_mnist, capsys, asked, brightness, says):
    write_idx(tmp_path / "archives", MNISTS_FILES, 10, brightness)
    assert run(tmp_path, "--dataset", asked) == 2 and says in capsys.readouterr().err
    assert not (tmp_path / "data").exists()


def test_mnist_is_not_taken_for_them_nor_they_for_mnist(tmp_path, like_mnist, capsys, monkeypatch):
    """MNIST has not as many images of each digit, and they have."""
    write_idx(tmp_path / "archives", MNISTS_FILES, 10, 0.29, train=6, test=2)
    monkeypatch.setattr(arrays, "LIKE_MNIST_EACH", dict(train=6, test=2))
    assert (
        run(tmp_path, "--dataset", "mnist") == 2 and "this is not MNIST" in capsys.readouterr().err
    )
    path = tmp_path / "archives/train-labels-idx1-ubyte.gz"
    labels = np.frombuffer(gzip.decompress(path.read_bytes()), np.uint8, offset=8).copy()
    labels[labels == 3] = 4
    path.write_bytes(gzip.compress(idx(labels)))
    assert (
        run(tmp_path, "--dataset", "fashion-mnist") == 2
        and "but perhaps MNIST" in capsys.readouterr().err
    )


@pytest.mark.parametrize(
    "kind, classes, first, names",
    [
        ("letters", 26, 1, {0: "A", 25: "Z"}),
        ("digits", 10, 0, {0: "0", 9: "9"}),
        ("balanced", 47, 0, {0: "0", 10: "A", 35: "Z", 36: "small_a", 46: "small_t"}),
    ],
)
def test_emnist_upright_and_by_name(tmp_path, like_mnist, kind, classes, first, names):
    """From the one zip that is published, with all parts in a folder."""
    made = write_idx(
        tmp_path / "x/gzip",
        {split: f"emnist-{kind}-{split}" for split in ("train", "test")},
        classes,
        0.2,
        first,
    )
    (tmp_path / "archives").mkdir()
    zipped(tmp_path / "archives/gzip.zip", tmp_path / "x")
    assert run(tmp_path, "--dataset", f"emnist-{kind}") == 0
    folder = tmp_path / "data" / f"emnist-{kind}"
    assert len(list((folder / "train").iterdir())) == classes
    for number, name in names.items():
        images, labels = made["test"]
        (path,) = (folder / "test" / name).iterdir()
        assert np.array_equal(np.asarray(Image.open(path)), images[labels == number + first][0].T)


@pytest.mark.skipif(
    not Path("/usr/share/datasets/fashion-mnist").is_dir(),
    reason="needs Debian's package dataset-fashion-mnist",
)
def test_fashion_mnist_of_debian(tmp_path):
    """The real one: read whole, not written."""
    found = arrays.read_fashion_mnist(Archives(Path("/usr/share/datasets/fashion-mnist")))[
        "fashion-mnist"
    ]
    assert [len(labels) for _, labels in found.values()] == [60000, 10000]
    assert found["train"][1][:4] == ["Ankle boot", "T-shirt-top", "T-shirt-top", "Dress"]


# ---- Tiny ImageNet


def make_tiny_imagenet(folder):
    """A stand-in of the zip: 200 classes of 2 images, and one each to test. Returns {(split,
    class): contents in order}."""
    classes = [f"n{number:08}" for number in np.random.default_rng(0).permutation(200)]
    made = {}
    folder.mkdir(parents=True)
    with zipfile.ZipFile(folder / "tiny-imagenet-200.zip", "w") as archive:
        archive.writestr("tiny-imagenet-200/wnids.txt", "\n".join(classes) + "\n")
        rows = []
        for number, label in enumerate(classes):
            start = f"tiny-imagenet-200/train/{label}"
            archive.writestr(f"{start}/{label}_boxes.txt", "0\t0\t1\t1\n")
            made["train", label] = [f"{label} {i}".encode() for i in range(2)]
            for i, content in enumerate(made["train", label]):
                archive.writestr(f"{start}/images/{label}_{i}.JPEG", content)
            made["test", label] = [f"{label} to test".encode()]
            archive.writestr(f"tiny-imagenet-200/val/images/val_{number}.JPEG",
                             made["test", label][0])
            rows.append(f"val_{number}.JPEG\t{label}\t0\t0\t62\t62\n")
        archive.writestr("tiny-imagenet-200/val/val_annotations.txt", "".join(rows))
        archive.writestr("tiny-imagenet-200/test/images/test_0.JPEG", b"its class is not known")
    return made


def test_tiny_imagenet_in_ten_tasks(tmp_path, monkeypatch):
    publish(monkeypatch, {name: (20, 40, 20) for name in TINY_IMAGENET})
    made = make_tiny_imagenet(tmp_path / "archives")
    monkeypatch.setattr(prepare_data, "make", lambda picture, content, source, target:
                        prepare_data.store(content, target))  # the stand-ins are no images
    assert run(tmp_path, "--dataset", "tiny-imagenet") == 0
    data = tmp_path / "data"
    assert sorted(path.name for path in data.iterdir()) == list(TINY_IMAGENET)
    found = {}
    for name in TINY_IMAGENET:
        for folder in (data / name).glob("*/*"):
            files = sorted(folder.iterdir())
            found[folder.parent.name, folder.name] = [file.read_bytes() for file in files]
    assert found == made
    classes = [sorted(path.name for path in (data / name / "train").iterdir())
               for name in TINY_IMAGENET]
    assert sum(classes, []) == sorted({label for _, label in made})


# ---- ImageNet and Places365

WNIDS = ("n01440764", "n02099601")
TRAIN = {
    f"{wnid}/{wnid}_{number}.JPEG": jpeg(photo(number)) for wnid in WNIDS for number in (1, 23)
}
VAL = {f"ILSVRC2012_val_{number:08}.JPEG": jpeg(photo(10 + number)) for number in (1, 2)}
CLASSES = dict(zip(VAL, WNIDS[::-1]))  # the first is of the second class
SORTED = {f"train/{name}": content for name, content in TRAIN.items()} | {
    f"val/{CLASSES[name]}/{name}": VAL[name] for name in VAL
}
SOLUTION = "ImageId,PredictionString\n" + "".join(
    f"{Path(name).stem},{label} 1 2 3 4 {label} 5 6 7 8\n" for name, label in CLASSES.items()
)


def write_files(folder, files):
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)


def devkit():
    synsets = records(
        [(2, WNIDS[0], "a", 0), (1, WNIDS[1], "b", 0)],
        ["ILSVRC2012_ID", "WNID", "words", "num_children"],
    )
    return {
        "ILSVRC2012_devkit_t12/data/ILSVRC2012_validation_ground_truth.txt": b"1\n2\n",
        "ILSVRC2012_devkit_t12/data/meta.mat": mat({"synsets": synsets}),
    }


def tar_of_tars(archives):
    archives.mkdir()
    inner = {
        f"{wnid}.tar": as_tar_bytes(
            {Path(name).name: content for name, content in TRAIN.items() if name.startswith(wnid)}
        )
        for wnid in WNIDS
    }
    (archives / "ILSVRC2012_img_train.tar").write_bytes(as_tar_bytes(inner))
    (archives / "ILSVRC2012_img_val.tar").write_bytes(as_tar_bytes(VAL))
    tgz(archives / "ILSVRC2012_devkit_t12.tar.gz", devkit())


def kaggles_tree(archives):
    write_files(archives / "ILSVRC/Data/CLS-LOC/train", TRAIN)
    write_files(archives / "ILSVRC/Data/CLS-LOC/val", VAL)
    write_files(archives / "ILSVRC/Data/CLS-LOC/test", {"ILSVRC2012_test_00000001.JPEG": b"x"})
    write_files(
        archives / "ILSVRC/Annotations/CLS-LOC/train",
        {f"{WNIDS[0]}/{WNIDS[0]}_1.xml": b"<annotation>"},
    )
    write_files(archives, {"LOC_val_solution.csv": SOLUTION.encode()})


def kaggles_zip(archives):
    kaggles_tree(archives / "x")
    zipped(archives / "imagenet-object-localization-challenge.zip", archives / "x")
    shutil.rmtree(archives / "x")


def extracted_with_flat_val(archives):
    """And the inner archives left beside the folders."""
    name = f"{WNIDS[0]}_1.JPEG"
    write_files(
        archives / "train",
        TRAIN | {f"{WNIDS[0]}.tar": as_tar_bytes({name: TRAIN[f"{WNIDS[0]}/{name}"]})},
    )
    write_files(archives / "val", VAL)
    write_files(archives, devkit())


def torchvisions_imagenet(archives):
    write_files(archives / "imagenet", SORTED)


def as_tar_bytes(files):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()


@pytest.fixture
def small_large(monkeypatch):
    publish(monkeypatch, {"imagenet": (2, 4, 2), "places": (2, 4, 2)})


@pytest.mark.parametrize(
    "make", [tar_of_tars, kaggles_tree, kaggles_zip, extracted_with_flat_val, torchvisions_imagenet]
)
def test_imagenet_is_sorted_byte_for_byte(tmp_path, small_large, capsys, make):
    make(tmp_path / "archives")
    before = tree(tmp_path / "archives")
    for _ in range(2):
        assert run(tmp_path, "--dataset", "imagenet") == 0, capsys.readouterr().err
        assert "2 classes, 4 train and 2 test images, as published" in capsys.readouterr().out
    assert tree(tmp_path / "data/imagenet") == SORTED and tree(tmp_path / "archives") == before
    assert read_split("imagenet", tmp_path / "data", "test").classes == sorted(WNIDS)
    assert os.listdir(tmp_path / "data") == ["imagenet"]


def test_images_in_folders_are_linked_and_not_copied(tmp_path, small_large):
    kaggles_tree(tmp_path / "archives")
    assert run(tmp_path, "--dataset", "imagenet") == 0
    assert {path.stat().st_nlink for path in (tmp_path / "data").rglob("*.JPEG")} == {2}


def test_what_is_missing_of_imagenet_can_come_later(tmp_path, small_large, capsys):
    tar_of_tars(tmp_path / "archives")
    (tmp_path / "archives/ILSVRC2012_img_train.tar").rename(tmp_path / "later.tar")
    assert run(tmp_path, "--dataset", "imagenet") == 2
    assert (
        "holds 2 classes, 0 train and 2 test images, but official are 2, 4 and 2. Put what is "
        "missing into" in capsys.readouterr().err
    )
    (tmp_path / "later.tar").rename(tmp_path / "archives/ILSVRC2012_img_train.tar")
    assert (
        run(tmp_path, "--dataset", "imagenet") == 0 and tree(tmp_path / "data/imagenet") == SORTED
    )


def test_validation_images_without_their_classes(tmp_path, small_large, capsys):
    kaggles_tree(tmp_path / "archives")
    os.unlink(tmp_path / "archives/LOC_val_solution.csv")
    assert run(tmp_path, "--dataset", "imagenet") == 2
    assert (
        "LOC_val_solution.csv (Kaggle) or ILSVRC2012_devkit_t12.tar.gz" in capsys.readouterr().err
    )


PLACES = {
    f"train/{label}/{number:08}.jpg": jpeg(photo(number))
    for label in ("airfield", "apartment_building-outdoor")
    for number in (1, 2)
}
PLACES |= {
    "val/airfield/Places365_val_00000002.jpg": b"2",
    "val/apartment_building-outdoor/Places365_val_00000001.jpg": b"1",
}


def easy_form(archives):
    archives.mkdir()
    (archives / "places365standard_easyformat.tar").write_bytes(
        as_tar_bytes(
            {f"places365_standard/{name}": content for name, content in PLACES.items()}
            | {"places365_standard/train.txt": b""}
        )
    )


def nested_form(archives):
    nested = {
        name.replace("train/", "data_256_standard/a/").replace("-outdoor", "/outdoor"): content
        for name, content in PLACES.items()
        if name.startswith("train/")
    }
    archives.mkdir()
    (archives / "train_256_places365standard.tar").write_bytes(as_tar_bytes(nested))
    (archives / "val_256.tar").write_bytes(
        as_tar_bytes({f"val_256/Places365_val_{n:08}.jpg": str(n).encode() for n in (1, 2)})
    )
    lists = {
        "categories_places365.txt": b"/a/airfield 0\n/a/apartment_building/outdoor 1\n",
        "places365_val.txt": b"Places365_val_00000001.jpg 1\nPlaces365_val_00000002.jpg 0\n",
    }
    (archives / "filelist_places365-standard.tar").write_bytes(as_tar_bytes(lists))


def nested_form_extracted(archives):
    nested_form(archives)
    for path in list(archives.glob("*.tar")):
        unpack(path, archives)


@pytest.mark.parametrize("make", [easy_form, nested_form, nested_form_extracted])
def test_places_is_sorted(tmp_path, small_large, capsys, make):
    make(tmp_path / "archives")
    assert run(tmp_path, "--dataset", "places") == 0, capsys.readouterr().err
    assert tree(tmp_path / "data/places") == PLACES


@pytest.mark.parametrize(
    "name, files",
    [
        ("imagenet", {"train/a/1.JPEG": b"", "val/ILSVRC2012_val_00000001.JPEG": b""}),
        ("places", {"train/a/airfield/1.jpg": b"", "val/a/1.jpg": b""}),
    ],
)
def test_a_large_data_set_that_is_not_sorted_says_what_sorts_it(tmp_path, name, files):
    write_files(tmp_path / name, files)
    with pytest.raises(DataError, match=f"prepare_data.py --dataset {name} --archives"):
        read_split(name, tmp_path, "train")


FLAT = {"val/ILSVRC2012_val_00000001.JPEG": b""}


@pytest.mark.parametrize(
    "files, of_train, of_test",
    [
        ({"train/n1/1.JPEG": b"", "val/n1/1.JPEG": b""}, None, None),
        ({"val/n1/1.JPEG": b""}, "train does not exist", None),  # enough to test on
        (FLAT, "train does not exist", "00001.JPEG: a file among the class folders"),
        ({"train/n1/1.JPEG": b""} | FLAT, "a file among", "a file among"),
        ({"train/n1/1.JPEG": b"", "train/n2.tar": b"", "val/n1/1.JPEG": b""},) + ("n2.tar: a",) * 2,
        ({"train/n1/1.JPEG": b""},) + ("val does not exist",) * 2,
        ({"train/n1/1.JPEG": b"", "val/.keep": b""},) + ("val: this split is empty",) * 2,
        ({"train/a/n1/1.JPEG": b"", "val/n1/1.JPEG": b""},) + ("a: holds the folder 'n1'",) * 2,
        ({"ILSVRC/Data/CLS-LOC/val/1.JPEG": b""}, "holds the folders ILSVRC.", "val does not"),
    ],
)
def test_what_keeps_a_large_data_set_from_being_read(tmp_path, files, of_train, of_test):
    """As reading it says, from a look at its top."""
    write_files(tmp_path / "imagenet", files)
    for split, says in (("train", of_train), ("test", of_test)):
        seen = unsorted("imagenet", tmp_path, split)
        assert config_of(tmp_path).can_read("imagenet", split) == (seen is None)
        if says is None:
            assert seen is None and read_split("imagenet", tmp_path, split).classes == ["n1"]
            continue
        with pytest.raises(DataError) as error:
            read_split("imagenet", tmp_path, split)
        assert says in seen and seen == str(error.value)


def config_of(data_root):
    return Config(data_root=str(data_root), task_list=["cubs"])


def test_a_small_data_set_that_is_wrong_is_no_reason_to_go_on_without_it(tmp_path):
    write_files(tmp_path / "cubs_cropped", {"train/1.jpg": b"", "test/a/1.jpg": b""})
    assert unsorted("cubs", tmp_path, "train") is None and config_of(tmp_path).can_read("cubs")
    nothing = tmp_path / "nothing"  # what is not there is no folder that is not sorted
    assert unsorted("imagenet", nothing, "train") is unsorted("places", nothing, "test") is None
    assert not config_of(nothing).can_read("imagenet")


# ---- Keras's file, and parquet as Hugging Face's datasets writes it


def test_mnist_of_keras(tmp_path, small_arrays):
    made = make_mnist(tmp_path / "official/archives")
    (tmp_path / "archives").mkdir()
    np.savez_compressed(
        tmp_path / "archives/mnist.npz",
        **{
            f"{kind}_{split}": made[split][number]
            for split in made
            for number, kind in enumerate("xy")
        },
    )
    for root in (tmp_path, tmp_path / "official"):
        assert run(root, "--dataset", "mnist") == 0
    assert tree(tmp_path / "data") == tree(tmp_path / "official/data")


@pytest.mark.parametrize(
    "break_it",
    [cut_off, lambda path: np.savez(path, x=np.zeros(3)), lambda path: path.write_bytes(b"")],
)
def test_a_wrong_file_of_keras(tmp_path, small_arrays, capsys, break_it):
    made = make_mnist(tmp_path / "official/archives")
    (tmp_path / "archives").mkdir()
    path = tmp_path / "archives/mnist.npz"
    np.savez_compressed(
        path,
        **{
            f"{kind}_{split}": made[split][number]
            for split in made
            for number, kind in enumerate("xy")
        },
    )
    break_it(path)
    assert run(tmp_path, "--dataset", "mnist") == 2
    assert "mnist.npz: is not Keras's file of MNIST, or not whole" in capsys.readouterr().err


def write_parquet(path, columns, names):
    """`columns`: {name: values}, images as bytes; `names`: of the classes, by column."""
    pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    features = {name: {"names": labels, "_type": "ClassLabel"} for name, labels in names.items()}
    arrays_ = {}
    for name, values in columns.items():
        if isinstance(values[0], bytes):
            features[name] = {"_type": "Image"}
            values = [{"bytes": content, "path": None} for content in values]
            kind = pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())])
            arrays_[name] = pyarrow.array(values, kind)
        else:
            arrays_[name] = pyarrow.array(values)
    table = pyarrow.table(arrays_).replace_schema_metadata(
        {"huggingface": json.dumps({"info": {"features": features}})}
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(table, path, row_group_size=2)


def halves(folder, split, columns, names):
    count = len(next(iter(columns.values())))
    for part, rows in enumerate((slice(0, count // 2), slice(count // 2, count))):
        write_parquet(
            folder / f"{split}-0000{part}-of-00002.parquet",
            {name: values[rows] for name, values in columns.items()},
            names,
        )


@pytest.mark.parametrize("folder", ["", "data"])
def test_cubs_in_parquet_are_cropped_as_the_official_ones(tmp_path, small, folder):
    """A box there is x1, y1, x2, y2; the official one x, y, width, height: 139 30 153 264 is [139,
    30, 292, 294]."""
    files = make_cubs(tmp_path / "official/archives")
    columns = {split: dict(image=[], label=[], bbox=[]) for split in ("train", "test")}
    for number, content in enumerate(files.values(), 1):
        # make_cubs: two of each class to train
        split = columns["test" if number % 3 == 0 else "train"]
        left = [10.0, 50.5][number % 2]
        for column, value in dict(
            image=content, label=(number - 1) // 3, bbox=[left, 5.0, left + 20, 35.5]
        ).items():
            split[column].append(value)
    names = dict(label=["001.Bird_1", "002.Bird_2", "003.Bird_3"])
    for split, content in columns.items():
        halves(tmp_path / "archives" / folder, split, content, names)
    for root in (tmp_path, tmp_path / "official"):
        assert run(root, "--dataset", "cubs") == 0

    def by_class(root):
        made = {}
        for name, content in tree(root / "data/cubs_cropped").items():
            made.setdefault(os.path.dirname(name), []).append(content)
        return {name: sorted(contents) for name, contents in made.items()}

    assert by_class(tmp_path) == by_class(tmp_path / "official")


def tensorflows_birds(files):
    """{split: examples} of make_cubs' photographs, as TensorFlow Datasets has them: a box is its
    edges ymin, xmin, ymax, xmax as fractions, at most 1, in 32 bits."""
    splits = dict(train=[], test=[])
    for number, (name, content) in enumerate(files.items(), 1):
        width, height = Image.open(io.BytesIO(content)).size
        left = [10.0, 50.5][number % 2]
        edges = [5.0 / height, left / width, 35.5 / height, (left + 20.0) / width]
        example = {
            "bbox": np.minimum(edges, 1).astype(np.float32).tolist(),
            "image": content,
            "image/filename": name,
            "label": (number - 1) // 3,
            "label_name": "bird",
        }
        splits["test" if number % 3 == 0 else "train"].append(example)
    return splits


@pytest.fixture(scope="module")
def tf_example():
    """The class of tf.train.Example, made by Google's protobuf from its definition."""
    pytest.importorskip("google.protobuf")
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

    kinds = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(name="example.proto", package="t", syntax="proto3")

    def message(name, *fields, into=None):
        made = (file.message_type if into is None else into).add()
        made.name = name
        for number, (field, kind, repeated) in enumerate(fields, 1):
            label = kinds.LABEL_REPEATED if repeated else kinds.LABEL_OPTIONAL
            one = made.field.add(name=field, number=number, label=label)
            if isinstance(kind, str):
                one.type, one.type_name = kinds.TYPE_MESSAGE, f".t.{kind}"
            else:
                one.type = kind
        return made

    message("BytesList", ("value", kinds.TYPE_BYTES, True))
    message("FloatList", ("value", kinds.TYPE_FLOAT, True))
    message("Int64List", ("value", kinds.TYPE_INT64, True))
    message("Feature", *((f"{kind}_list", f"{kind.title()}List", False)
                         for kind in ("bytes", "float", "int64")))
    features = message("Features", ("feature", "Features.FeatureEntry", True))
    entry = message("FeatureEntry", ("key", kinds.TYPE_STRING, False), ("value", "Feature", False),
                    into=features.nested_type)
    entry.options.map_entry = True
    message("Example", ("features", "Features", False))
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("t.Example"))


def write_tfrecords(folder, splits, tf_example, shards=2):
    """The checksums are left out."""
    folder.mkdir(parents=True)
    for split, examples in splits.items():
        for shard in range(shards):
            name = f"caltech_birds2011-{split}.tfrecord-0000{shard}-of-0000{shards}"
            with open(folder / name, "wb") as file:
                for example in examples[shard::shards]:
                    message = tf_example()
                    for key, value in example.items():
                        feature = message.features.feature[key]
                        if isinstance(value, list):
                            feature.float_list.value.extend(value)
                        elif isinstance(value, int):
                            feature.int64_list.value.append(value)
                        else:
                            value = value.encode() if isinstance(value, str) else value
                            feature.bytes_list.value.append(value)
                    content = message.SerializeToString()
                    file.write(len(content).to_bytes(8, "little") + bytes(4) + content + bytes(4))


@pytest.mark.parametrize("form", ["tfrecord", "parquet"])
def test_cubs_of_tensorflow_datasets_are_cropped_as_the_official_ones(
    tmp_path, small, form, request
):
    files = make_cubs(tmp_path / "official/archives")
    splits = tensorflows_birds(files)
    if form == "tfrecord":
        folder = tmp_path / "archives/0.2.0"
        write_tfrecords(folder, splits, request.getfixturevalue("tf_example"))
    else:
        for split, examples in splits.items():
            columns = {key: [example[key] for example in examples] for key in examples[0]}
            columns["segmentation_mask"] = [b"not looked at"] * len(examples)
            write_parquet(tmp_path / f"archives/data/{split}-00000-of-00001.parquet", columns, {})
    for root in (tmp_path, tmp_path / "official"):
        assert run(root, "--dataset", "cubs") == 0

    def contents(root):
        made = tree(root / "data/cubs_cropped")
        return sorted((os.path.dirname(name), content) for name, content in made.items())

    assert contents(tmp_path) == contents(tmp_path / "official")
    if form == "tfrecord":
        assert tree(tmp_path / "data") == tree(tmp_path / "official/data")


def test_a_fraction_in_32_bits_is_the_official_edge_again(tmp_path):
    """Which is a whole number in nearly every box: a pixel more or less would show."""
    for width, height in ((500, 333), (400, 500), (121, 497)):
        photograph = jpeg(Image.new("RGB", (width, height)))
        for x, y in np.random.default_rng(0).integers(0, (width, height), (200, 2)):
            edges = np.float32([y / height, x / width, (y + 0.5) / height, (x + 1) / width])
            box = pictures._in_pixels(tmp_path, edges.tolist(), photograph)
            assert box == (x, y, x + 1, y + 0.5)


@pytest.mark.parametrize(
    "break_it, says",
    [
        (lambda content: content[:-30], "bytes is cut off"),
        (lambda content: b"\xff" * 8 + content[8:], "bytes is cut off"),
        (lambda content: content[:12] + b"\x0a\xff\xff\x7f" + content[16:], "longer than what"),
        (lambda content: content[:12] + b"\x0b" + content[13:], "cannot be read to its end"),
        (lambda content: content.replace(b"bbox", b"book"), "an example of "),
        (lambda content: content[:5], "cannot be read to its end"),
    ],
)
def test_a_damaged_file_of_tensorflow_datasets(
    tmp_path, small, capsys, tf_example, break_it, says
):
    splits = tensorflows_birds(make_cubs(tmp_path / "x"))
    write_tfrecords(tmp_path / "archives", splits, tf_example, shards=1)
    path = tmp_path / "archives/caltech_birds2011-test.tfrecord-00000-of-00001"
    path.write_bytes(break_it(path.read_bytes()))
    assert run(tmp_path, "--dataset", "cubs") == 2
    error = capsys.readouterr().err
    assert f"{path}: cannot be read to its end" in error and says in error
    assert error.count("\n") == 1


def test_flowers_in_parquet_with_a_third_split(tmp_path, small, capsys):
    names = dict(label=["pink primrose", "globe thistle", "sword lily"])
    for split in ("train", "validation", "test"):
        write_parquet(
            tmp_path / "archives" / f"{split}-00000-of-00001.parquet",
            dict(image=[jpeg(photo(number)) for number in range(3)], label=[2, 1, 0]),
            names,
        )
    assert run(tmp_path, "--dataset", "flowers") == 0
    assert sorted(os.listdir(tmp_path / "data/flowers/train")) == sorted(names["label"])
    assert next((tmp_path / "data/flowers/test/sword lily").iterdir()).read_bytes() == jpeg(
        photo(0)
    )
    os.unlink(tmp_path / "archives/validation-00000-of-00001.parquet")
    (tmp_path / "data").rename(tmp_path / "other")
    assert run(tmp_path, "--dataset", "flowers") == 2  # another split
    error = capsys.readouterr().err
    assert "3 classes, 3 train and 3 test images, but official are 3, 6 and 3" in error
    assert "another split" not in error  # but a part is missing


@pytest.mark.parametrize(
    "train, test, says",
    [
        (7, 2, "but official are 3, 6 and 3: this is another split of the same images"),
        (3, 6, "but official are 3, 6 and 3: the official train and test are the other way round"),
    ],
)
def test_another_split_of_flowers_in_parquet_is_called_so(
    tmp_path, small, capsys, train, test, says
):
    """As Hugging Face has one, 7,169 and 1,020 in place of 2,040 and 6,149."""
    names = dict(label=["pink primrose", "globe thistle", "sword lily"])
    for split, count in (("train", train), ("test", test)):
        write_parquet(
            tmp_path / "archives" / f"{split}-00000-of-00001.parquet",
            dict(
                image=[jpeg(photo(number)) for number in range(count)],
                label=[number % 3 for number in range(count)],
            ),
            names,
        )
    assert run(tmp_path, "--dataset", "flowers") == 2
    assert says in capsys.readouterr().err


def png(pixels):
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def test_cifar100_and_mnist_in_parquet(tmp_path, small_arrays):
    images = make_cifar100(tmp_path / "official/archives")
    fine = sorted({label for _, _, label in images})
    coarse = [name.removeprefix("cifar100_") for name in CIFAR100]
    for split in ("train", "test"):
        columns = dict(img=[], fine_label=[], coarse_label=[])
        for (name, kind, label), some in images.items():
            for planes in some if kind == split else ():
                columns["img"].append(png(planes.transpose(1, 2, 0)))
                columns["fine_label"].append(fine.index(label))
                columns["coarse_label"].append(CIFAR100.index(name))
        halves(tmp_path / "archives", split, columns, dict(fine_label=fine, coarse_label=coarse))
    assert run(tmp_path, "--dataset", "cifar100") == 0
    for (name, split, label), expected in images.items():
        made = [
            np.asarray(Image.open(path)).transpose(2, 0, 1)
            for path in sorted((tmp_path / "data" / name / split / label).iterdir())
        ]
        assert np.array_equal(made, expected)
    made = make_mnist(tmp_path / "mnist/official/archives")
    for split, (pixels, labels) in made.items():
        halves(
            tmp_path / "mnist/archives",
            split,
            dict(image=[png(image) for image in pixels], label=labels.tolist()),
            dict(label=[str(digit) for digit in range(10)]),
        )
    for root in (tmp_path / "mnist", tmp_path / "mnist/official"):
        assert run(root, "--dataset", "mnist") == 0
    assert tree(tmp_path / "mnist/data") == tree(tmp_path / "mnist/official/data")


@pytest.mark.parametrize(
    "columns, says",
    [
        (dict(image=[b"x"], label=[0]), "this copy has no boxes"),
        (
            dict(image=[b"x"], label=[0], bbox=[[0.1, 0.1, 0.9, 1.0]]),
            "its boxes are fractions of the image",
        ),
        (dict(picture=[b"x"], label=[0], bbox=[[1.0, 1.0, 9.0, 9.0]]), "has no column of images"),
    ],
)
def test_parquet_that_cannot_be_cropped(tmp_path, small, capsys, columns, says):
    write_parquet(tmp_path / "archives/train-00000-of-00001.parquet", columns, dict(label=["a"]))
    assert run(tmp_path, "--dataset", "cubs") == 2 and says in capsys.readouterr().err


def test_a_damaged_parquet_file(tmp_path, small, capsys):
    pytest.importorskip("pyarrow")
    (tmp_path / "archives").mkdir()
    (tmp_path / "archives/train-00000-of-00001.parquet").write_bytes(b"PAR1 and no more")
    assert (
        run(tmp_path, "--dataset", "cubs") == 2
        and "cannot be read to its end" in capsys.readouterr().err
    )


@pytest.mark.parametrize("dataset", ["cubs", "flowers", "cifar100", "mnist"])
def test_without_pyarrow_one_sentence_says_what_to_install(
    tmp_path, small, small_arrays, capsys, monkeypatch, dataset
):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    (tmp_path / "archives/data").mkdir(parents=True)
    (tmp_path / "archives/data/train-00000-of-00001.parquet").write_bytes(b"PAR1")
    assert run(tmp_path, "--dataset", dataset) == 2
    error = capsys.readouterr().err
    assert "pip install pyarrow" in error and error.count("\n") == 1


# ---- what lies there in place of what is missing


def sorted_by_class(archives):
    for split in ("train", "valid", "test"):
        write_files(archives / "x" / split / "1", {"image_00001.jpg": jpeg(photo(0))})


def webdataset(archives):
    archives.mkdir()
    (archives / "cub-train-000.tar").write_bytes(as_tar_bytes({"0.jpeg": b"x", "0.cls": b"0"}))


def imagenet_in_parquet(archives):
    write_files(archives, {f"data/train-0000{number}-of-00294.parquet": b"" for number in range(5)})


def sorted_in_a_zip(archives):
    sorted_by_class(archives / "y")
    zipped(archives / "archive.zip", archives / "y")
    shutil.rmtree(archives / "y")


def of_one_folder(name):
    return lambda archives: write_files(archives, {name: b"x"})


BY_CLASS = "images sorted into folders by class (test/1/image_00001.jpg): "


@pytest.mark.parametrize(
    "make, dataset, says",
    [
        (sorted_by_class, "cubs", f"{BY_CLASS}such a copy has no boxes"),
        (sorted_by_class, "flowers", f"{BY_CLASS}if they are split as published they can be used"),
        (sorted_in_a_zip, "flowers", f"{BY_CLASS}if they are split as published they can be used"),
        (sorted_by_class, "cifar100", f"{BY_CLASS}the official arrays are needed"),
        (webdataset, "cubs", "What is there is not known: cub-train-000.tar."),
        (
            imagenet_in_parquet,
            "imagenet",
            "every image of imagenet is missing. What is there is not known: "
            "train-00000-of-00294.parquet, train-00001-of-00294.parquet, "
            "train-00002-of-00294.parquet and 2 more.",
        ),
        (of_one_folder("mnist_train.csv"), "mnist", "What is there is not known: mnist_train.csv"),
        (of_one_folder("CUB_200_2011.7z"), "cubs", "is missing. Unpack CUB_200_2011.7z first."),
        (lambda archives: archives.mkdir(), "kmnist", "is missing. There is no file in it."),
    ],
)
def test_what_is_there_in_place_of_the_archives_is_said(
    tmp_path, small_large, small_arrays, capsys, make, dataset, says
):
    make(tmp_path / "archives")
    assert run(tmp_path, "--dataset", dataset) == 2
    error = capsys.readouterr().err
    assert says in error and error.count("\n") == 1


@pytest.mark.parametrize("name", ["CUB_200_2011.tgz", "CUB_200_2011.zip", "train-00000.parquet"])
@pytest.mark.parametrize(
    "content, says",
    [
        (b"version https://git-lfs.github.com/spec/v1\noid 0\n", "file but a Git LFS pointer"),
        (b"\n<!DOCTYPE html><html>", "file but a web page that was saved in its place"),
        (b"anything else", "cannot be read to its end"),
    ],
)
def test_what_was_saved_in_place_of_an_archive_is_said(
    tmp_path, small, capsys, name, content, says
):
    pytest.importorskip("pyarrow")
    write_files(tmp_path / "archives", {name: content})
    assert run(tmp_path, "--dataset", "cubs") == 2
    error = capsys.readouterr().err
    assert f"{name}: " in error and says in error and error.count("\n") == 1


def test_flowers_in_parquet_whose_labels_have_no_names(tmp_path, small):
    """They are called as the official ones, by their number from 1."""
    for split in ("train", "validation", "test"):
        columns = dict(image=[jpeg(photo(number)) for number in range(3)], label=[2, 1, 0])
        write_parquet(tmp_path / "archives" / f"{split}-00000-of-00001.parquet", columns, {})
    assert run(tmp_path, "--dataset", "flowers") == 0
    made = tmp_path / "data/flowers"
    assert sorted(os.listdir(made / "train")) == ["001", "002", "003"]
    assert next((made / "test/003").iterdir()).read_bytes() == jpeg(photo(0))
