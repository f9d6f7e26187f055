"""The data sets of the sequence of recognition tasks, from small stand-ins of their archives, with
what is awkward in the real ones."""

import io
import shutil
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from test_forms import write_parquet
from test_prepare_data import jpeg, mat, photo, publish, run, tgz, tree

import prepare_data
from images import recogseq
from images.datasets import PUBLISHED
from images.preprocess import Preparation, preprocess
from test_basic import check_data


def in_format(image, kind, **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def tar(path, files):
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))


def zipped(path):
    """The archive as a .zip of the same files, in its place."""
    files = files_of(path)
    path.unlink()
    with zipfile.ZipFile(path.with_name("archive.zip"), "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)


def unpacked(path):
    files = files_of(path)
    path.unlink()
    for name, content in files.items():
        target = path.parent / "some" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)


def files_of(path):
    with tarfile.open(path) as archive:
        return {entry.name: archive.extractfile(entry).read() for entry in archive}


def without(path, end):
    """The archive without the files whose names end so."""
    files = {name: content for name, content in files_of(path).items() if not name.endswith(end)}
    tar(path, files)


def made(tmp_path, name):
    """{split: {class: {file: content}}} of a data set that was made."""
    found = {}
    for path, content in tree(tmp_path / "data" / PUBLISHED[name].folder).items():
        split, label, file = Path(path).parts
        found.setdefault(split, {}).setdefault(label, {})[file] = content
    return found


def said(capsys):
    """The one sentence of the error."""
    lines = capsys.readouterr().err.replace("\r", "\n").strip().splitlines()
    assert lines[-1].startswith("error: ") and not any("Traceback" in line for line in lines)
    return lines[-1]


# ---- the archives

INDOOR = {
    "train": {
        "airport_inside/airport_inside_0001.jpg": jpeg(photo(1)),
        "mall/shopping mall.jpg": jpeg(photo(2, mode="L")),
        "mall/Foo_gif.jpg": in_format(photo(3), "GIF"),
        "concert_hall/concert.hall.jpg": jpeg(photo(4, mode="CMYK")),
    },
    "test": {
        "airport_inside/airport_inside_0002.jpg": jpeg(photo(5)),
        "mall/shopping mall_2.jpg": in_format(photo(6, mode="RGBA"), "PNG"),
        "concert_hall/int7.jpg": jpeg(photo(7)),
    },
}


def make_indoor67(folder, split=INDOOR):
    files = {f"indoorCVPR_09/Images/{name}": content
             for images in split.values() for name, content in images.items()}
    files["indoorCVPR_09/Images/mall/in_no_list.jpg"] = jpeg(photo(8))
    tar(folder / "indoorCVPR_09.tar", files)
    for part, name in (("train", "TrainImages.txt"), ("test", "TestImages.txt")):
        (folder / name).write_bytes("\r\n".join(split[part]).encode())  # no end of the last line
    return folder / "indoorCVPR_09.tar"


AIRCRAFT = {  # the number of an image: split, variant
    "0034309": ("train", "A300B4"),
    "0034958": ("train", "F/A-18"),
    "0037511": ("train", "Cessna 172"),
    "0056978": ("test", "A300B4"),
    "0061581": ("test", "F/A-18"),
    "0062765": ("test", "Cessna 172"),
}


def make_aircraft(folder):
    start = "fgvc-aircraft-2013b/data"
    files = {f"{start}/images/{number}.jpg": jpeg(photo(int(number))) for number in AIRCRAFT}
    files[f"{start}/images/0000001.jpg"] = jpeg(photo(0))
    for part in ("train", "test"):
        lines = [f"{number} {name}\n" for number, (split, name) in AIRCRAFT.items()
                 if split == part]
        end = "trainval" if part == "train" else "test"
        files[f"{start}/images_variant_{end}.txt"] = "".join(lines).encode()
        files[f"{start}/images_family_{end}.txt"] = b"0034309 A300\n"
    folder.mkdir(parents=True)
    tgz(folder / "fgvc-aircraft-2013b.tar.gz", files)
    return folder / "fgvc-aircraft-2013b.tar.gz"


# An image: its part, and of each object the box (1-based, both ends included) and the actions; None
# for an object that is no person of the task.
VOC = {
    "2010_000001": ("train", [((11, 6, 30, 25), ["jumping"]), None, ((31, 1, 60, 40), [])]),
    "2010_000002": ("train", [None, ((1.0, 1.0, 20.7, 9.2), ["phoning", "walking"]),
                              ((21, 11, 30, 20), ["phoning"])]),
    "2011_000003": ("val", [((2, 3, 21, 33), ["jumping"]), ((1, 1, 60, 40), ["phoning"]),
                            ((5, 5, 9, 9), [])]),
}


def make_voc_actions(folder):
    start = "VOCdevkit/VOC2012"
    files = {}
    lists = {}
    for number, (image, (part, things)) in enumerate(VOC.items()):
        texts = []
        for place, thing in enumerate(things, start=1):
            if thing is None:
                texts.append("<object><name>horse</name><point><x>3</x></point></object>")
                continue
            (left, top, right, bottom), actions = thing
            texts.append(f"<object><name>person</name><bndbox><xmax>{right}</xmax><xmin>{left}"
                         f"</xmin><ymax>{bottom}</ymax><ymin>{top}</ymin></bndbox></object>")
            for action in recogseq.ACTIONS:
                does = 1 if action in actions else -1
                lists.setdefault(f"{action}_{part}", []).append(f"{image} {place} {does:2}\n")
        files[f"{start}/Annotations/{image}.xml"] = (
            f"<annotation>{''.join(texts)}</annotation>".encode())
        files[f"{start}/JPEGImages/{image}.jpg"] = jpeg(photo(number))
    for name, lines in lists.items():
        files[f"{start}/ImageSets/Action/{name}.txt"] = "".join(lines).encode()
    files["VOCdevkit/VOC2011/ImageSets/Action/jumping_train.txt"] = b"another year\n"
    tar(folder / "VOCtrainval_11-May-2012.tar", files)
    return folder / "VOCtrainval_11-May-2012.tar"


PER_LETTER = 8


def letter_png(sample, number):
    """A few are not in RGB."""
    mode = {1: "L", 2: "RGBA", 3: "P"}.get(number, "RGB")
    return in_format(photo(100 * sample + number, (9, 12), mode), "PNG")


def make_chars74k(folder):
    files = {}
    for sample in range(1, 63):
        for number in range(PER_LETTER, 0, -1):  # not in their order
            name = f"Bmp/Sample{sample:03}/img{sample:03}-{number:05}.png"
            content = letter_png(sample, number) if sample > 10 else b"a digit"
            files[f"English/Img/GoodImg/{name}"] = content
            files[f"English/Img/GoodImg/{name.replace('Bmp', 'Msk')}"] = b"a mask"
            files[f"English/Img/BadImag/{name}"] = b"a bad image"
    folder.mkdir(parents=True)
    tgz(folder / "EnglishImg.tgz", files)
    return folder / "EnglishImg.tgz"


def make_svhn(folder):
    """Returns {split: (pixels [N, 32, 32, 3], digits)}."""
    rng = np.random.default_rng(0)
    splits = {}
    folder.mkdir(parents=True)
    for split, each in (("train", 2), ("test", 1)):
        digits = rng.permutation(np.repeat(np.arange(10), each))
        pixels = rng.integers(0, 256, (len(digits), 32, 32, 3), np.uint8)
        labels = np.where(digits == 0, 10, digits).astype(np.uint8)[:, None]
        content = mat(dict(X=pixels.transpose(1, 2, 3, 0), y=labels))
        (folder / f"{split}_32x32.mat").write_bytes(content)
        splits[split] = pixels, digits
    return splits


@pytest.fixture
def small_ones(monkeypatch):
    publish(monkeypatch, {"indoor67": (3, 4, 3), "aircraft": (3, 3, 3), "svhn": (10, 20, 10)})


# ---- each of them

PACKED = [lambda path: None, zipped, unpacked]


@pytest.mark.parametrize("pack", PACKED, ids=["official", "zip", "folder"])
def test_indoor67(tmp_path, small_ones, capsys, pack):
    pack(make_indoor67(tmp_path / "archives"))
    assert run(tmp_path, "--dataset", "indoor67") == 0
    assert "3 classes, 4 train and 3 test images, as published" in capsys.readouterr().out
    found = made(tmp_path, "indoor67")
    for split, images in INDOOR.items():
        files = {f"{label}/{file}": content for label, files in found[split].items()
                 for file, content in files.items()}
        assert files == images  # byte for byte, whatever they hold
    assert "3 classes, 4 train" in check_data("indoor67", tmp_path / "data")
    for path in (tmp_path / "data").rglob("*.jpg"):
        pixels = preprocess(path, Preparation(32, "centre"))
        assert pixels.shape == (3, 32, 32) and pixels.std() > 5


@pytest.mark.parametrize("pack", PACKED, ids=["official", "zip", "folder"])
def test_aircraft(tmp_path, small_ones, pack):
    pack(make_aircraft(tmp_path / "archives"))
    assert run(tmp_path, "--dataset", "aircraft") == 0
    found = made(tmp_path, "aircraft")
    assert found.keys() == {"train", "test"}
    for number, (split, variant) in AIRCRAFT.items():
        label = variant.replace("/", "%2F")
        assert found[split][label] == {f"{number}.jpg": jpeg(photo(int(number)))}


@pytest.mark.parametrize("pack", PACKED, ids=["official", "zip", "folder"])
def test_voc_actions(tmp_path, capsys, pack):
    pack(make_voc_actions(tmp_path / "archives"))
    assert run(tmp_path, "--dataset", "voc-actions") == 0
    assert capsys.readouterr().out == "voc-actions: 3 classes, 3 train and 3 test images\n"
    expected = {}
    for image, (part, things) in VOC.items():
        for place, thing in enumerate(things, start=1):
            if thing and len(thing[1]) < 2:  # not who phones and walks
                split = "train" if part == "train" else "test"
                label = (thing[1] or ["other"])[0]
                (left, top, right, bottom) = thing[0]
                size = right - left + 1, bottom - top + 1
                expected[f"{split}/{label}/{image}_{place}.jpg"] = size, (left - 1, top - 1)
    sizes = {}
    for path in (tmp_path / "data").rglob("*.jpg"):
        with Image.open(path) as image:
            name = str(path.relative_to(tmp_path / "data" / "voc-actions"))
            sizes[name] = image.size
            number = [*VOC].index(path.stem.rpartition("_")[0])
            with Image.open(io.BytesIO(jpeg(photo(number)))) as whole:
                left, top = expected[name][1]
                pixels = np.asarray(whole.convert("RGB"), int)[top:, left:]
            difference = np.asarray(image, int) - pixels[:image.size[1], :image.size[0]]
            assert np.abs(difference).max() <= 4
    assert sizes == {name: size for name, (size, _) in expected.items()}


@pytest.mark.parametrize("pack", PACKED, ids=["official", "zip", "folder"])
def test_chars74k(tmp_path, capsys, pack):
    pack(make_chars74k(tmp_path / "archives"))
    assert run(tmp_path, "--dataset", "chars74k") == 0
    assert capsys.readouterr().out == "chars74k: 52 classes, 364 train and 52 test images\n"
    found = made(tmp_path, "chars74k")
    # folders that differ in case only are one on some disks
    assert len({label.lower() for label in found["train"]}) == 52
    letters = [*map(chr, range(ord("A"), ord("Z") + 1))]
    letters += [f"small_{chr(letter)}" for letter in range(ord("a"), ord("z") + 1)]
    for sample, letter in enumerate(letters, start=11):
        for split, numbers in (("train", (1, 2, 3, 4, 5, 6, 8)), ("test", (7,))):
            assert found[split][letter] == {
                f"img{sample:03}-{number:05}.png": letter_png(sample, number)
                for number in numbers
            }
    assert "52 classes" in check_data("chars74k", tmp_path / "data")


def test_svhn(tmp_path, small_ones):
    splits = make_svhn(tmp_path / "archives")
    assert run(tmp_path, "--dataset", "svhn") == 0
    found = made(tmp_path, "svhn")
    for split, (pixels, digits) in splits.items():
        for digit in range(10):
            files = found[split][str(digit)]
            images = [np.asarray(Image.open(io.BytesIO(files[name]))) for name in sorted(files)]
            assert np.array_equal(images, pixels[digits == digit])


def test_svhn_in_parquet_is_the_same(tmp_path, small_ones):
    """As Hugging Face has it, with a third split, which is not used."""
    splits = make_svhn(tmp_path / "archives")
    assert run(tmp_path, "--dataset", "svhn") == 0
    official = made(tmp_path, "svhn")
    shutil.rmtree(tmp_path / "data")
    shutil.rmtree(tmp_path / "archives")
    for split, (pixels, digits) in (splits | {"extra": splits["test"]}).items():
        images = [in_format(Image.fromarray(each), "PNG") for each in pixels]
        path = tmp_path / "archives" / "cropped_digits" / f"{split}-00000-of-00001.parquet"
        write_parquet(path, {"image": images, "label": digits.tolist()},
                      {"label": list("0123456789")})
    assert run(tmp_path, "--dataset", "svhn") == 0
    assert made(tmp_path, "svhn") == official


def test_what_is_made_is_made_once(tmp_path, small_ones, monkeypatch):
    """A command that goes on makes what is missing of a photograph with several persons."""
    make_voc_actions(tmp_path / "archives")
    make = prepare_data.make
    seen = []

    def stop(picture, *others):
        if len(seen) == 2:
            raise prepare_data.ArchiveError("stopped")
        seen.append(picture.name)
        make(picture, *others)

    monkeypatch.setattr(prepare_data, "cores", lambda: 1)
    monkeypatch.setattr(prepare_data, "make", stop)
    assert run(tmp_path, "--dataset", "voc-actions") == 2
    again = []
    monkeypatch.setattr(prepare_data, "make", lambda picture, *others: (
        again.append(picture.name), make(picture, *others)))
    assert run(tmp_path, "--dataset", "voc-actions") == 0
    assert len(again) == 4 and len({*seen, *again}) == 6


# ---- what is wrong


def remove(name):
    return lambda folder: (folder / name).unlink()


def rewritten(name, text):
    return lambda folder: (folder / name).write_text(text)


def added(name, text):
    return lambda folder: (folder / name).write_text(f"{(folder / name).read_text()}\n{text}")


def another(name):
    """An archive of something else under that name."""
    return lambda folder: tar(folder / name, {"some/thing.txt": b"else"})


def less(name, end):
    return lambda folder: without(folder / name, end)


def changed(name, end, old, new):
    def change(folder):
        files = {member: content.replace(old, new) if member.endswith(end) else content
                 for member, content in files_of(folder / name).items()}
        tar(folder / name, files)
    return change


INDOOR_TAR, VOC_TAR = "indoorCVPR_09.tar", "VOCtrainval_11-May-2012.tar"
AIRCRAFT_TAR = "fgvc-aircraft-2013b.tar.gz"
WRONG = [
    ("indoor67", remove(INDOOR_TAR), "the archive indoorCVPR_09.tar is missing"),
    ("indoor67", remove("TestImages.txt"), "TestImages.txt is missing, the list of the test image"),
    ("indoor67", another(INDOOR_TAR), "holds no Images/airport_inside/airport_inside_0001.jpg"),
    ("indoor67", less(INDOOR_TAR, "shopping mall.jpg"), "holds no Images/mall/shopping mall.jpg"),
    ("indoor67", rewritten("TestImages.txt", "<!DOCTYPE html>\n"), "not a class and a photograph"),
    ("indoor67", added("TrainImages.txt", "mall/shopping mall.jpg"), "shopping mall.jpg twice"),
    ("indoor67", rewritten("TestImages.txt", "mall/a.jpg"), "but official are 3, 4 and 3"),
    ("indoor67", changed(INDOOR_TAR, "int7.jpg", jpeg(photo(7)), b"no image"),
     "Images/concert_hall/int7.jpg cannot be decoded as an image"),
    ("aircraft", another(AIRCRAFT_TAR), "holds no data/images_variant_test.txt, data/images_var"),
    ("aircraft", less(AIRCRAFT_TAR, "variant_test.txt"), "holds no data/images_variant_test.txt:"),
    ("aircraft", changed(AIRCRAFT_TAR, "_test.txt", b"0056978", b"x"), "but 'x A300B4'"),
    ("voc-actions", remove(VOC_TAR), "the archive VOCtrainval_11-May-2012.tar is missing"),
    ("voc-actions", another(VOC_TAR), "holds no jumping_train.txt: this is not the official"),
    ("voc-actions", less(VOC_TAR, "walking_val.txt"), "holds no walking_val.txt: this is not the"),
    ("voc-actions", less(VOC_TAR, "2011_000003.xml"), "holds no 2011_000003.xml: this is not the"),
    ("voc-actions", changed(VOC_TAR, ".xml", b"xmin", b"x"), "do not fit together (TypeError"),
    ("voc-actions", changed(VOC_TAR, ".xml", b"</annotation>", b""), "do not fit together (Par"),
    ("voc-actions", changed(VOC_TAR, ".txt", b"01 3", b"01 9"), "no object 9 of 3"),
    ("voc-actions", changed(VOC_TAR, "_val.txt", b"03 2  1", b"03 2 -1"),
     "only one of training and test images has the class phoning"),
    ("chars74k", another("EnglishImg.tgz"), "holds no good image of A (GoodImg/Bmp/Sample011)"),
    ("svhn", remove("test_32x32.mat"), "the archive test_32x32.mat is missing"),
    ("svhn", rewritten("train_32x32.mat", "no such thing"), "is no MATLAB 5 file"),
    ("svhn", lambda folder: (folder / "test_32x32.mat").write_bytes(mat(dict(z=[1]))),
     "test_32x32.mat: is not SVHN's file"),
    ("svhn", lambda folder: (folder / "test_32x32.mat").write_bytes(
        mat(dict(X=np.zeros((32, 32, 3, 2), np.uint8), y=np.uint8([0, 1])))),
     "labels y from 1 to 10"),
]
MAKERS = {
    "indoor67": make_indoor67,
    "aircraft": make_aircraft,
    "voc-actions": make_voc_actions,
    "chars74k": make_chars74k,
    "svhn": make_svhn,
}


@pytest.mark.parametrize("name, change, message", WRONG)
def test_what_is_wrong_is_said_in_a_sentence(tmp_path, small_ones, capsys, name, change, message):
    MAKERS[name](tmp_path / "archives")
    change(tmp_path / "archives")
    assert run(tmp_path, "--dataset", name) == 2
    assert message in said(capsys)
    assert not (tmp_path / "data" / name).exists()


def test_a_letter_that_no_image_shows_is_named(tmp_path, capsys):
    make_chars74k(tmp_path / "archives")
    path = tmp_path / "archives" / "EnglishImg.tgz"
    files = {name: content for name, content in files_of(path).items() if "Sample040" not in name}
    tgz(path, files)
    assert run(tmp_path, "--dataset", "chars74k") == 2
    assert "holds no good image of small_d (GoodImg/Bmp/Sample040)" in said(capsys)
