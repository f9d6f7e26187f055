"""Folders, preprocessing, awkward files, the cache, and errors that name what is wrong."""

import contextlib
import io
import os
import shutil
import subprocess
import sys
import threading
from dataclasses import replace
from random import Random

import numpy as np
import pytest
from conftest import ROOT, write_images
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import dataset
import images.cache
from dataset import MEAN, STD, create_dataloader
from images import drawings
from images.crops import CROPS, cut, resized
from images.datasets import PUBLISHED, data_set, found_datasets
from images.folders import DataError, unused_validation
from images.preprocess import Preparation, open_rgb, preprocess, short_side_size, upright_size
from prepare_data import counted
from runs.folder import check_folders
from runs.run import open_loaders
from settings.config import Config, ConfigError
from test_basic import check_data


def one_image(root, name, pixels_or_image, split_folders=("train", "test"), file="x.png", **save):
    image = (
        pixels_or_image
        if isinstance(pixels_or_image, Image.Image)
        else Image.fromarray(pixels_or_image)
    )
    for split in split_folders:
        (root / name / split / "only").mkdir(parents=True, exist_ok=True)
        image.save(root / name / split / "only" / file, **save)
    return root


def pixels(height, width, seed=0):
    small = np.random.default_rng(seed).integers(
        0, 256, (height // 8 + 1, width // 8 + 1, 3), np.uint8
    )
    return np.asarray(Image.fromarray(small).resize((width, height), Image.BICUBIC))


def normalised(rgb):
    """uint8 [H, W, 3] -> float64 [3, H, W]"""
    return ((rgb / 255 - np.array(MEAN)) / np.array(STD)).transpose(2, 0, 1)


# ---- preprocessing, against Pillow


def test_cubs_are_resized_to_a_square(tmp_path):
    rgb = pixels(300, 500)
    one_image(tmp_path, "cubs_cropped", rgb)
    loader, classes = create_dataloader("cubs", tmp_path, "test", 4)
    ((images, labels),) = list(loader)
    expected = normalised(np.asarray(Image.fromarray(rgb).resize((224, 224), Image.BILINEAR)))
    assert classes == 1 and images.shape == [1, 3, 224, 224] and labels.numpy().tolist() == [0]
    assert images.dtype == "float32" and np.abs(images.numpy()[0] - expected).max() < 1e-5


@pytest.mark.parametrize(
    "height, width", [(300, 500), (500, 300), (256, 256), (100, 90), (257, 700)]
)
def test_flowers_are_cropped_from_the_centre_to_test(tmp_path, height, width):
    rgb = pixels(height, width)
    one_image(tmp_path, "flowers", rgb)
    ((images, _),) = list(create_dataloader("flowers", tmp_path, "test", 1)[0])
    short = min(height, width)
    h, w = (256, int(256 * width / height)) if height == short else (int(256 * height / width), 256)
    resized = np.asarray(Image.fromarray(rgb).resize((w, h), Image.BILINEAR))
    top, left = round((h - 224) / 2), round((w - 224) / 2)
    assert (
        np.abs(images.numpy()[0] - normalised(resized[top : top + 224, left : left + 224])).max()
        < 1e-5
    )


def test_flowers_train_on_random_crops_and_flips_of_the_whole_image(tmp_path):
    rgb = pixels(260, 400)
    one_image(tmp_path, "flowers", rgb)
    resized = np.asarray(Image.fromarray(rgb).resize((int(256 * 400 / 260), 256), Image.BILINEAR))
    windows = {}
    for top in range(256 - 224 + 1):
        for left in range(resized.shape[1] - 224 + 1):
            crop = resized[top : top + 224, left : left + 224]
            windows[crop[0].tobytes()] = (crop, top, left, False)
            windows[crop[0, ::-1].tobytes()] = (crop[:, ::-1], top, left, True)
    loader, _ = create_dataloader("flowers", tmp_path, "train", 1, crop="plain")
    seen = []
    for _ in range(60):
        ((images, _),) = epoch(loader)
        got = images[0].transpose(1, 2, 0)
        crop, *place = windows[got[0].tobytes()]
        assert (got == crop).all()
        seen.append(place)
    tops, lefts, flips = zip(*seen)
    assert (
        min(tops) < 8
        and max(tops) > 24
        and min(lefts) < 40
        and max(lefts) > 130
        and 15 < sum(flips) < 45
    )


@given(st.integers(1, 5000), st.integers(1, 5000), st.sampled_from([48, 224]))
def test_the_short_side_fits_the_crop(height, width, crop):
    h, w = short_side_size((height, width), crop)
    assert min(h, w) == round(crop * 256 / 224) and (
        h == min(h, w) if height <= width else w == min(h, w)
    )
    assert abs(max(h, w) - min(h, w) * max(height, width) / min(height, width)) < 1


# ---- crops


def random_sized_crop(image, size, random):
    """torchvision 0.1.9's RandomSizedCrop, try by try, on a Pillow image; the box it has taken too,
    None for its way out."""
    width, height = image.size
    for _ in range(10):
        target, aspect = random.uniform(0.08, 1) * width * height, random.uniform(3 / 4, 4 / 3)
        w, h = round((target * aspect) ** 0.5), round((target / aspect) ** 0.5)
        if random.random() < 0.5:
            w, h = h, w
        if w <= width and h <= height:
            left, top = random.randint(0, width - w), random.randint(0, height - h)
            return image.crop((left, top, left + w, top + h)).resize(
                (size, size), Image.BILINEAR
            ), (top, left, h, w)
    w, h = (
        (size, int(size * height / width)) if width < height else (int(size * width / height), size)
    )
    left, top = round((w - size) / 2), round((h - size) / 2)
    return image.resize((w, h), Image.BILINEAR).crop((left, top, left + size, top + size)), None


@pytest.mark.parametrize(
    "height, width", [(256, 341), (300, 256), (256, 256), (256, 1900), (1500, 256)]
)
def test_the_pixels_of_a_crop_are_pillows(height, width):
    """To the bit, the way out for long images too, from the places that torchvision's own code
    draws."""
    image, random, without = Image.fromarray(pixels(height, width)), Random(height), 0
    planes = np.asarray(image).transpose(2, 0, 1)
    for _ in range(40):
        expected, place = random_sized_crop(image, 224, random)
        without += place is None
        assert (cut(planes, place, 224) == np.asarray(expected).transpose(2, 0, 1)).all()
    assert (without > 0) == (max(height, width) > 1000)


@pytest.mark.parametrize("height, width", [(256, 384), (341, 256), (256, 1900)])
def test_resized_crops_are_drawn_as_torchvisions(height, width):
    """Area, aspect, corners and how often none fits: quantiles of 6,000 draws beside those of
    torchvision's loop."""

    def figures(places):
        there = np.array([place for place in places if place is not None], float)
        top, left, h, w = there.T
        free = np.maximum(1, [height - h, width - w])
        columns = [h * w / (height * width), np.log(w / h), *(np.array([top, left]) / free)]
        return [
            len(there) / len(places),
            *np.quantile(columns, (0.05, 0.25, 0.5, 0.75, 0.95), axis=1).ravel(),
        ]

    ours = figures(resized(np.array([[height, width]] * 6000), 224, np.random.default_rng(1)))
    random = Random(1)

    class Blank:
        size = width, height

        def crop(self, box):
            return self

        def resize(self, *_):
            return self

    theirs = figures([random_sized_crop(Blank(), 224, random)[1] for _ in range(6000)])
    assert np.allclose(ours, theirs, atol=0.02)
    assert ours[0] < 0.99 if width > 1000 else ours[0] == 1


def test_flowers_train_on_the_releases_crop_of_the_resized_image(tmp_path, monkeypatch):
    """From the file: short side to 256, the part that was drawn, 224 x 224, as Pillow does all of
    it."""
    rgb, drawn = pixels(260, 400), []
    one_image(tmp_path, "flowers", rgb)
    monkeypatch.setitem(CROPS, "resized", lambda *a: drawn.extend(resized(*a)) or drawn[-1:])
    loader, _ = create_dataloader("flowers", tmp_path, "train", 1, crop="resized")
    scaled = Image.fromarray(rgb).resize((int(256 * 400 / 260), 256), Image.BILINEAR)
    for _ in range(20):
        ((images, _),) = epoch(loader)
        top, left, height, width = drawn[-1]
        part = np.asarray(
            scaled.crop((left, top, left + width, top + height)).resize((224, 224), Image.BILINEAR)
        ).transpose(2, 0, 1)
        assert (images[0] == part).all() or (images[0] == part[:, :, ::-1]).all()
    assert len(drawn) == 20 and len(set(drawn)) > 15


@pytest.mark.parametrize("crop", ["resized", "plain"])
def test_imagenet_is_decoded_as_needed_and_cropped_as_the_rest(tmp_path, crop):
    """Its crops come from the image whose short side is 256 already, as in the release."""
    one_image(tmp_path, "imagenet", pixels(300, 400), ("train", "val"))
    loader, _ = create_dataloader("imagenet", tmp_path, "train", 1, crop=crop)
    whole = preprocess(tmp_path / "imagenet/train/only/x.png", Preparation(224, "short_side"))
    assert whole.shape[1:] == (256, 341) and not list(tmp_path.glob(".cache/*.pixels"))
    crops = []
    for number in range(5):
        rng = np.random.default_rng((0, number, 1))
        flip = rng.integers(0, 2, 1, np.uint8)  # dataset.Loader's draw before the crop's
        (place,) = CROPS[crop](np.array([[256, 341]]), 224, rng.spawn(1)[0])
        expected = cut(whole, place, 224)
        ((images, _),) = epoch(loader)
        assert (images[0] == (expected[:, :, ::-1] if flip[0] else expected)).all()
        crops.append(images)
    assert not any((crops[0] == c).all() for c in crops[1:])
    assert create_dataloader("imagenet", tmp_path, "test", 1)[0].num_images == 1


@settings(max_examples=60)
@given(
    st.integers(1, 300),
    st.integers(1, 300),
    st.sampled_from([8, 32]),
    st.integers(0, 1000),
    st.sampled_from(["resized", "plain"]),
)
def test_a_crop_of_any_shape(height, width, size, seed, crop):
    shape = short_side_size((height, width), size)
    image = np.broadcast_to(np.array([10, 20, 30], np.uint8)[:, None, None], (3, *shape))
    for place in CROPS[crop](np.array([shape] * 3), size, np.random.default_rng(seed)):
        got = cut(image, place, size)
        assert got.shape == (3, size, size) and (got == np.array([10, 20, 30])[:, None, None]).all()
        if place:
            top, left, h, w = place
            assert min(top, left) >= 0 and top + h <= shape[0] and left + w <= shape[1]


@pytest.mark.parametrize("name, alike", [("cubs", True), ("cars", True), ("flowers", False)])
def test_what_is_cropped_to_boxes_is_never_cropped_again(image_root, name, alike):
    one, other = (
        epoch(create_dataloader(name, image_root, "train", 12, image_size=48, crop=crop)[0])
        for crop in ("resized", "plain")
    )
    assert equal(one, other) == alike
    assert len(list((image_root / ".cache").iterdir())) == 1  # both crops come from the same cache


@settings(max_examples=30)
@given(st.integers(1, 4), st.integers(1, 9), st.integers(1, 40), st.integers(0, 100))
def test_what_reaches_the_network_is_mirrored_and_normalised(count, height, width, seed):
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, (count, 3, height, width), np.uint8)
    flips = rng.integers(0, 2, count, np.uint8)
    expected = np.stack([normalised(image.transpose(1, 2, 0)) for image in mirrored(images, flips)])
    got = dataset.to_input(images, flips)
    other = dataset.to_input_by_operators(*map(dataset.jt.array, (images, flips, dataset.AFFINE)))
    assert got.dtype == other.dtype == "float32"
    assert (
        np.abs(got.numpy() - expected).max() < 1e-5
        and np.abs(other.numpy() - expected).max() < 1e-5
    )


# ---- awkward files


def test_greyscale_cmyk_palette_16_bit_alpha_and_rotated_files(tmp_path):
    rgb = pixels(40, 60)
    image = Image.fromarray(rgb)
    grey = np.asarray(image.convert("L"))

    def saved(img, name, **options):
        img.save(tmp_path / name, **options)
        return np.asarray(open_rgb(tmp_path / name)).astype(int)

    assert (saved(Image.fromarray(grey), "grey.png") == grey[..., None]).all()
    assert (
        saved(Image.fromarray(grey.astype(np.uint16) * 256 + 37), "grey16.png") == grey[..., None]
    ).all()
    palette = image.quantize(16)
    assert (saved(palette, "palette.png") == np.asarray(palette.convert("RGB"))).all()
    assert (saved(palette, "clear.png", transparency=0) == np.asarray(palette.convert("RGB"))).all()
    assert (saved(image.convert("RGBA"), "alpha.png") == rgb).all()
    assert np.abs(saved(image.convert("CMYK"), "cmyk.jpg", quality=100) - rgb).mean() < 3
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: shown a quarter turn clockwise
    turned = saved(image.transpose(Image.ROTATE_90), "turned.png", exif=exif)
    assert turned.shape == rgb.shape and (turned == rgb).all()
    assert upright_size(tmp_path / "turned.png") == rgb.shape[:2]


@pytest.mark.parametrize(
    "content", [b"", b"not an image", b"\xff\xd8\xff\xe0 broken"], ids=["empty", "text", "header"]
)
def test_a_file_that_is_no_image_is_named_before_training(image_root, content):
    bad = image_root / "flowers" / "train" / "b" / "bad.jpg"
    bad.write_bytes(content)
    with pytest.raises(DataError, match="flowers/train/b/bad.jpg"):
        create_dataloader("flowers", image_root, "train", 2)
    assert not list((image_root / ".cache").glob("*"))  # nothing half-made


def test_a_truncated_jpeg_is_named_and_all_are_counted(image_root):
    for i in range(4):
        path = image_root / "cubs_cropped" / "train" / "a" / f"{i}.jpg"
        path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(DataError, match=r"a/0.jpg.*and 1 more"):
        create_dataloader("cubs", image_root, "train", 2)


# ---- folders


def test_labels_follow_the_sorted_names_in_both_splits(image_root):
    train, n = create_dataloader("cubs", image_root, "train", 32)
    test, _ = create_dataloader("cubs", image_root, "test", 32)
    assert n == 3 and train.classes == test.classes == ["a", "b", "c"]
    assert (
        train.num_images == 12
        and test.labels.tolist() == [0, 0, 1, 1, 2, 2]
        and test.labels.dtype == np.int32
    )


def test_a_data_set_of_ones_own(tmp_path):
    for split in ("train", "test"):
        write_images(tmp_path / "my_birds" / split, {"鸟": 2, "z": 1})
    (tmp_path / "my_birds" / "train" / "z" / ".DS_Store").write_bytes(b"x")
    loader, n = create_dataloader("my_birds", tmp_path, "train", 2)
    assert n == 2 and loader.num_images == 3


def break_missing_class(root):
    shutil.rmtree(root / "flowers/test/b")


def break_extra_class(root):
    write_images(root / "flowers/test", {"d": 1})


def break_empty_class(root):
    [f.unlink() for f in (root / "flowers/train/c").iterdir()]


def break_empty_split(root):
    [shutil.rmtree(f) for f in (root / "flowers/train").iterdir()]


def break_no_split(root):
    shutil.rmtree(root / "flowers/test")


def break_no_folder(root):
    shutil.rmtree(root / "flowers")


def break_nested(root):
    write_images(root / "flowers/train/Ram C", {"V Cargo Van": 1})


def break_stray_file(root):
    (root / "flowers/train/x.jpg").write_bytes(b"x")


@pytest.mark.parametrize(
    "break_it, message",
    [
        (break_missing_class, r"class 'b' is in train/ but not in test/"),
        (break_extra_class, r"class 'd' is in test/ but not in train/"),
        (break_empty_class, r"train/c: this class has no images"),
        (break_empty_split, r"train: this split is empty"),
        (break_no_split, r"flowers/test does not exist"),
        (break_no_folder, r"folder .*flowers does not exist"),
        (break_nested, r"Ram C: holds the folder 'V Cargo Van'"),
        (break_stray_file, r"train/x.jpg: a file among the class folders"),
    ],
)
def test_nothing_is_skipped_in_silence(image_root, break_it, message):
    break_it(image_root)
    for split in ("train", "test"):
        with pytest.raises(DataError, match=message):
            create_dataloader("flowers", image_root, split, 2)


def test_arguments_are_checked(image_root):
    with pytest.raises(DataError, match="split 'valid'"):
        create_dataloader("cubs", image_root, "valid", 2)
    with pytest.raises(DataError, match="batch_size 0"):
        create_dataloader("cubs", image_root, "train", 0)


# ---- cache, seeds, batches


def mirrored(images, flips):
    return np.where(flips[:, None, None, None] == 1, images[..., ::-1], images)


def epoch(loader):
    """One epoch as the network will see it, before normalising."""
    return [
        (mirrored(images, flips), labels.copy()) for images, flips, labels in loader.host_batches()
    ]


def equal(one, two):
    return len(one) == len(two) and all(
        (a == c).all() and (b == d).all() for (a, b), (c, d) in zip(one, two)
    )


def test_the_same_seed_gives_the_same_batches(image_root):
    def two_epochs(seed):
        loader, _ = create_dataloader("flowers", image_root, "train", 5, seed=seed, image_size=48)
        return epoch(loader), epoch(loader)

    one, two, other = two_epochs(7), two_epochs(7), two_epochs(8)
    assert equal(one[0], two[0]) and equal(one[1], two[1])
    assert not equal(one[0], one[1]) and not equal(one[0], other[0])
    loader, _ = create_dataloader("flowers", image_root, "train", 5, seed=7, image_size=48)
    loader.epoch = 1
    assert equal(epoch(loader), one[1])


@pytest.mark.parametrize("ahead", [0, 1, 2])  # 2 on a GPU
def test_an_epoch_shows_every_image_once(image_root, monkeypatch, ahead):
    monkeypatch.setattr(dataset, "AHEAD", ahead)
    loader, _ = create_dataloader("cubs", image_root, "train", 5)
    got = epoch(loader)
    assert [len(labels) for _, labels in got] == [5, 5, 2] and len(loader) == 3
    assert (
        sorted(np.concatenate([labels for _, labels in got]).tolist())
        == [0] * 4 + [1] * 4 + [2] * 4
    )
    rows = {
        min(image.tobytes(), image[..., ::-1].tobytes()) for images, _ in got for image in images
    }
    assert len(rows) == 12


def test_images_are_decoded_once_and_again_when_they_change(image_root, monkeypatch):
    calls = []
    original = images.cache.preprocess
    monkeypatch.setattr(images.cache, "preprocess", lambda *a: calls.append(a) or original(*a))
    first = epoch(create_dataloader("cubs", image_root, "test", 8)[0])
    assert len(calls) == 6
    assert (
        equal(epoch(create_dataloader("cubs", image_root, "test", 8)[0]), first) and len(calls) == 6
    )
    files = list((image_root / ".cache").iterdir())
    assert len(files) == 1
    path = image_root / "cubs_cropped" / "test" / "a" / "0.jpg"
    Image.new("RGB", (50, 50), (200, 0, 0)).save(path)
    changed = epoch(create_dataloader("cubs", image_root, "test", 8)[0])
    assert len(calls) == 12 and not equal(changed, first) and (changed[0][0][0, 0] >= 198).all()
    assert len(list((image_root / ".cache").iterdir())) == 1  # the outdated one is gone
    shutil.rmtree(image_root / ".cache")
    assert equal(epoch(create_dataloader("cubs", image_root, "test", 8)[0]), changed)


def test_a_cache_that_cannot_be_written_is_named(image_root, tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("")
    with pytest.raises(DataError, match="--cache-dir"):
        create_dataloader("cubs", image_root, "train", 4, cache_dir=blocked / "cache")


def test_a_full_disk_leaves_no_half_written_cache(image_root, monkeypatch):
    def full(fd, data, offset):
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(images.cache.os, "pwrite", full)
    with pytest.raises(DataError, match="No space left on device.*GB are needed"):
        create_dataloader("cubs", image_root, "train", 4)
    assert not list((image_root / ".cache").iterdir())


def test_training_batches_come_in_another_order_each_epoch(image_root):
    """cubs: 12 images of three classes in folder order; a batch of the folder's order has one
    class."""
    loader, _ = create_dataloader("cubs", image_root, "train", 4, seed=1, image_size=48)
    orders = [[label for _, labels in epoch(loader) for label in labels.tolist()] for _ in range(3)]
    assert sorted(orders[0]) == [0] * 4 + [1] * 4 + [2] * 4
    assert (
        all(order != sorted(order) for order in orders)
        and len({tuple(order) for order in orders}) > 1
    )


def test_the_headers_of_a_large_set_are_read_once(tmp_path, monkeypatch):
    for split in ("train", "val"):
        write_images(tmp_path / "imagenet" / split, {"a": 3, "b": 2})
    calls = []
    monkeypatch.setattr(
        images.cache, "upright_size", lambda path: calls.append(path) or upright_size(path)
    )
    for _ in range(2):
        create_dataloader("imagenet", tmp_path, "train", 4, image_size=48)
    assert len(calls) == 5
    (tmp_path / "imagenet/train/a/0.jpg").write_bytes(b"broken")
    with pytest.raises(DataError, match="a/0.jpg: cannot be read"):
        create_dataloader("imagenet", tmp_path, "train", 4, image_size=48)


def test_a_few_files_are_under_way_at_once_and_stay_in_order(monkeypatch):
    from concurrent.futures import ThreadPoolExecutor

    from system.processes import cores

    monkeypatch.setattr(images.cache, "AHEAD", 4)
    with ThreadPoolExecutor(2) as pool:
        assert images.cache.collect(pool, lambda i: i * i, range(100), "title") == [
            i * i for i in range(100)
        ]
        submitted = []
        monkeypatch.setattr(
            pool,
            "submit",
            lambda f, i: (
                submitted.append(i) or type("F", (), dict(result=lambda s: submitted[-1] - i))()
            ),
        )
        assert max(images.cache.collect(pool, None, range(100), "title")) <= 4 * cores()


def test_two_data_roots_share_a_cache(image_root, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(image_root / "cubs_cropped", other / "cubs_cropped")
    for root in (image_root, other, image_root):
        create_dataloader("cubs", root, "test", 4, image_size=48, cache_dir=tmp_path / "cache")
        count = len(list((tmp_path / "cache").iterdir()))
    assert count == 2


def test_a_folder_that_cannot_be_read_is_no_data_set(image_root, monkeypatch):
    original = os.stat

    def forbidden(path, *a, **k):
        if "lost+found" in str(path):
            raise PermissionError(13, "Permission denied", str(path))
        return original(path, *a, **k)

    (image_root / "lost+found").mkdir()
    monkeypatch.setattr("os.stat", forbidden)
    assert found_datasets(image_root) == ["cars", "cubs", "flowers"]


def test_a_data_set_in_the_making_is_none(image_root):
    (image_root / "flowers").rename(image_root / ".flowers.partial")
    assert found_datasets(image_root) == ["cars", "cubs"]


def test_two_processes_that_draw_the_same_end_with_one_whole_data_set(tmp_path, monkeypatch):
    """Before the first has drawn its first image, a second (here a thread) begins, and is done."""
    begun = []

    def bird(rng, **parts):
        if not begun:
            begun.append(threading.Thread(target=draw))
            begun[0].start(), begun[0].join()
        return drawings.bird(rng, **parts)

    def draw():
        drawings.draw(tmp_path, train=2, test=1, names=["demo_birds"])

    classes = {name: (bird, parts) for name, (_, parts) in drawings.DATASETS["demo_birds"].items()}
    monkeypatch.setitem(drawings.DATASETS, "demo_birds", classes)
    draw()
    assert begun and [path.name for path in tmp_path.iterdir()] == ["demo_birds"]
    assert len([*tmp_path.rglob("train/*/*.jpg")]) == 2 * len(classes) and len(
        [*tmp_path.rglob("test/*/*.jpg")]
    ) == len(classes)


# ---- greyscale of more than 8 bits


def test_16_bits_lose_the_lowest_8_whatever_mode_pillow_opens_them_in(tmp_path):
    """Pillow 10.0 opens 16-bit PNG, and every Pillow 16-bit PGM, in its mode of 32 bits."""
    values = (np.arange(40 * 60, dtype=np.uint16) * 27).reshape(40, 60)
    Image.fromarray(values).save(tmp_path / "x.png")
    Image.fromarray(values).save(tmp_path / "x.tif")
    (tmp_path / "x.pgm").write_bytes(b"P5 60 40 65535\n" + values.astype(">u2").tobytes())
    for name in ("x.png", "x.tif", "x.pgm"):
        assert np.array_equal(
            np.asarray(open_rgb(tmp_path / name)), (values >> 8)[..., None].repeat(3, 2)
        )
        assert upright_size(tmp_path / name) == (40, 60)
    Image.new("I;16", (6, 4)).save(tmp_path / "black.png")
    assert not np.asarray(open_rgb(tmp_path / "black.png")).any()


def test_pillow_10_opens_a_16_bit_png_in_its_mode_of_32_bits(tmp_path, monkeypatch):
    values = (np.arange(40 * 60, dtype=np.uint16) * 27).reshape(40, 60)
    Image.fromarray(values).save(tmp_path / "x.png")

    def as_pillow_10(path):
        image = Image.fromarray(values.astype(np.int32))
        image.format = "PNG"
        return image

    monkeypatch.setattr(Image, "open", as_pillow_10)
    assert np.array_equal(
        np.asarray(open_rgb(tmp_path / "x.png")), (values >> 8)[..., None].repeat(3, 2)
    )


@pytest.mark.parametrize(
    "values, name, says",
    [
        (np.full((4, 6), 70_000, np.int32), "x.tif", "integers of 32 bits"),
        (np.full((4, 6), 0.5, np.float32), "x.tif", "floats"),
        (np.full((4, 6), 4095, np.uint16), "x.png", "none of its 16-bit values is above 4,095"),
        (np.full((4, 6), 255, np.uint16), "x.tif", "none of its 16-bit values is above 255"),
    ],
)
def test_what_has_no_known_white_is_refused_by_name(tmp_path, values, name, says):
    """Not clipped to white, nor nearly black: before training, and by --predict, which opens one
    file."""
    for split in ("train", "test"):
        (tmp_path / "own" / split / "only").mkdir(parents=True)
        Image.fromarray(values).save(tmp_path / "own" / split / "only" / name)
    for split in ("train", "test"):
        with pytest.raises(
            DataError, match=f"{split}/only/{name}: .*{says}.*; convert it to 8 bits"
        ):
            create_dataloader("own", tmp_path, split, 2, image_size=32)
    with pytest.raises(DataError, match=says):
        open_rgb(tmp_path / "own/train/only" / name)


def test_pillows_own_warnings_do_not_reach_the_screen(tmp_path):
    """Of an image of 100 million pixels."""
    Image.new("1", (10_000, 10_000)).save(tmp_path / "large.png")
    code = "import sys; from images.preprocess import open_rgb; print(open_rgb(sys.argv[1]).size)"
    done = subprocess.run(
        [sys.executable, "-c", code, tmp_path / "large.png"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.stdout == "(10000, 10000)\n" and done.stderr == ""


# ---- links, and what is no file


def dangling(path):
    path.symlink_to("/nowhere/x.jpg")


def looping(path):
    path.symlink_to(path)


def pipe(path):
    os.mkfifo(path)


@pytest.mark.parametrize(
    "make, says",
    [
        (dangling, "a link to /nowhere/x.jpg, where there is no file"),
        (looping, "a link to .*, where there is no file"),
        (pipe, "is no file"),
    ],
)
@pytest.mark.parametrize("name", ["own", "imagenet"])
def test_links_that_lead_nowhere_are_all_named(image_root, name, make, says):
    (image_root / "flowers").rename(image_root / name)
    if name == "imagenet":
        (image_root / "imagenet/test").rename(image_root / "imagenet/val")
    for number in range(5):
        make(image_root / name / "train" / "abc"[number % 3] / f"gone{number}.jpg")
    with pytest.raises(
        DataError,
        match=rf"a/gone0.jpg: {says}; .*a/gone3.*b/gone1.*; and 2 more\. Replace or remove",
    ):
        create_dataloader(name, image_root, "train", 2)
    if name == "own":
        with pytest.raises(DataError, match=rf"a/gone0.jpg: {says}; .*and 2 more"):
            check_data(name, image_root)


@pytest.mark.parametrize("make", [dangling, looping])
def test_a_class_that_is_a_link_to_nowhere_is_named(image_root, make):
    make(image_root / "flowers/train/d")
    with pytest.raises(DataError, match="train/d: a link to .*, where there is no file"):
        create_dataloader("flowers", image_root, "train", 2)


def test_linked_images_and_classes_are_images_and_classes(image_root, tmp_path):
    shutil.move(image_root / "flowers/train/a", tmp_path / "elsewhere")
    (image_root / "flowers/train/a").symlink_to(tmp_path / "elsewhere")
    (image_root / "flowers/train/b/9.jpg").symlink_to(tmp_path / "elsewhere/0.jpg")
    assert create_dataloader("flowers", image_root, "train", 2)[0].num_images == 13


# ---- what people's folders hold beside it


@pytest.mark.parametrize(
    "name",
    [
        "Thumbs.db",
        "0.jpg:Zone.Identifier",
        "0.jpg\uf03aZone.Identifier",
        ".DS_Store",
        "desktop.ini",
    ],
)
def test_what_operating_systems_leave_is_no_image(image_root, name):
    (image_root / "flowers/train/a" / name).write_bytes(b"x")
    (image_root / "flowers/train" / name).write_bytes(b"x")
    assert create_dataloader("flowers", image_root, "train", 2)[0].num_images == 12
    assert counted(image_root / "flowers") == (3, 12, 6)


@pytest.mark.parametrize("name", ["__MACOSX", "@eaDir"])
def test_their_folders_are_no_classes(image_root, name):
    write_images(image_root / "flowers/train", {name: 1})
    (image_root / "flowers/train/a" / name).mkdir()
    assert create_dataloader("flowers", image_root, "train", 2)[1] == 3


@pytest.mark.parametrize("name", ["val", "valid", "validation"])
def test_a_folder_of_validation_images_is_named(image_root, name):
    """In place of test/, and beside train/ and test/."""
    (image_root / "flowers/test").rename(image_root / "flowers" / name)
    for split in ("train", "test"):
        with pytest.raises(
            DataError,
            match=rf"flowers/test does not exist.*flowers/{name} is there: .*rename it test",
        ):
            create_dataloader("flowers", image_root, split, 2)
    assert unused_validation("flowers", image_root) == str(image_root / "flowers" / name)
    write_images(image_root / "flowers/test", dict(a=1, b=1, c=1))
    create_dataloader("flowers", image_root, "test", 2)
    assert unused_validation("cubs", image_root) is None
    config = Config(task_list=["flowers", "cubs"], data_root=str(image_root), image_size=48)
    with contextlib.redirect_stdout(io.StringIO()) as out:
        open_loaders(config, [])
    assert (
        out.getvalue().startswith(f"{image_root / 'flowers' / name} is not used")
        and out.getvalue().count("\n") == 1
    )


def test_validation_images_of_imagenet_are_its_test_images(tmp_path):
    for split in ("train", "val"):
        write_images(tmp_path / "imagenet" / split, {"a": 1})
    assert unused_validation("imagenet", tmp_path) is None


def test_what_a_folder_holds_in_place_of_a_split_is_named(image_root):
    (image_root / "flowers/train").rename(image_root / "flowers/Training")
    (image_root / "flowers/test").rename(image_root / "flowers/Testing")
    with pytest.raises(DataError, match="flowers holds the folders Testing, Training"):
        create_dataloader("flowers", image_root, "train", 2)


@pytest.mark.parametrize(
    "official, says",
    [
        ((3, 12, 6), None),
        ((3, 6, 12), "the official train and test are the other way round"),
        ((3, 10, 8), "this is another split of the same images"),
        ((3, 10, 9), None),  # not all of them: counts that differ
        ((4, 10, 8), None),
    ],
)
@pytest.mark.parametrize("validation", [0.0, 0.3])
def test_another_split_of_the_official_images_is_called_so(
    image_root, monkeypatch, official, says, validation
):
    counts = dict(zip(("classes", "train", "test"), official))
    monkeypatch.setitem(PUBLISHED, "flowers", replace(PUBLISHED["flowers"], **counts))
    config = Config(
        task_list=["flowers"], data_root=str(image_root), image_size=32, validation=validation
    )
    with contextlib.redirect_stdout(io.StringIO()) as out:
        open_loaders(config, [])
    warning = "flowers has 12 train and 6 test images, officially"
    assert (f"{warning} {official[1]} and {official[2]}: {says}" in out.getvalue()) == bool(says)
    assert bool(says) == ("warning" in out.getvalue())
    if official == (3, 12, 6):
        assert check_data("flowers", image_root).endswith("as published")
        return
    with pytest.raises(AssertionError) as error:
        check_data("flowers", image_root)
    assert (says or "official are") in str(error.value)
    assert bool(says) == (": " in str(error.value).partition("official are")[2])


@pytest.mark.parametrize("name", ["cubs", "cars"])
def test_whole_photographs_are_not_taken_for_crops(image_root, name, monkeypatch):
    """In the folder of crops; counts and classes are right."""
    folder = data_set(name).folder_in(image_root)
    monkeypatch.setitem(PUBLISHED, name, replace(PUBLISHED[name], classes=3, train=30, test=6))
    for path in folder.glob("train/*/*"):
        path.unlink()
    config = Config(task_list=[name], data_root=str(image_root), image_size=32)
    for photographs in (False, True):
        for number in range(30):
            size = (500, (333, 375, 400)[number % 3]) if photographs else (500, 200 + 7 * number)
            Image.new("RGB", size).save(folder / "train" / "abc"[number % 3] / f"{number}.jpg")
        with contextlib.redirect_stdout(io.StringIO()) as out:
            open_loaders(config, [])
        assert ("look like whole photographs" in out.getvalue()) == photographs
        if photographs:
            with pytest.raises(AssertionError, match="look like whole photographs"):
                check_data(name, image_root)
        else:
            assert check_data(name, image_root).endswith("as published")


# ---- names and defaults


def test_only_what_can_be_a_task_is_found(image_root):
    for folder in ("my birds", "v1.2", "cubs"):  # cubs is read from cubs_cropped
        write_images(image_root / folder / "train", {"a": 1})
        write_images(image_root / folder / "test", {"a": 1})
    shutil.rmtree(image_root / "cubs_cropped")
    assert found_datasets(image_root) == ["cars", "flowers"]
    (image_root / "flowers").rename(image_root / "imagenet")
    config = Config(task_list=["nothing", "cars"], data_root=str(image_root), num_epochs_base=1)
    # cars is one already, imagenet the base task
    with pytest.raises(ConfigError, match=r"Found in .*: none\. "):
        check_folders(config)
    with pytest.raises(DataError, match="my birds: cannot be a task by this name"):
        check_data("my birds", image_root)


def test_a_known_data_set_that_is_missing_has_a_source(image_root):
    config = Config(
        task_list=["sketch"], data_root=str(image_root), num_epochs_base=1, base_task="cars"
    )
    with pytest.raises(ConfigError, match="Source: .*uofi.box.com"):
        check_folders(config)


def test_the_authors_folder_of_sketches_is_sketch(tmp_path):
    for folder in ("sketches", "birds"):
        for split in ("train", "test"):
            write_images(tmp_path / folder / split, {"a": 1})
    assert found_datasets(tmp_path) == ["birds", "sketch"]
    assert create_dataloader("sketch", tmp_path, "train", 1)[0].num_images == 1


def test_the_loaders_defaults_are_main_pys():
    import inspect

    defaults, config = inspect.signature(create_dataloader).parameters, Config()
    shared = {
        name: parameter.default for name, parameter in defaults.items() if hasattr(config, name)
    }
    assert {
        "batch_size",
        "image_size",
        "crop",
        "normalise",
        "validation",
        "seed",
        "data_root",
    } < shared.keys()
    assert shared == {name: getattr(config, name) for name in shared}
