"""One image file to uint8 pixels, as the paper and the release prepare them (paper, section 4).

CUBS and Cars are resized to 224x224. All others have their short side resized to 256 and are cropped to 224x224, in the centre to
test and at random to train (images/crops.py); with the kinds of crop that are SQUARE they are resized to 224x224 too.
"""
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from images.folders import PERMUTED, DataError

RESIZED = ("cubs", "cars")
SQUARE = ("padded", "whole")  # kinds of --crop
SHORT_SIDE = 256 / 224  # of the crop's side
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet's pixels in [0, 1], by colour


def preparation(dataset_name: str, split: str, crop: str = "plain") -> str:
    """How the images of a split are prepared: "resize" to size x size; "short_side", the whole image at the size it is
    cropped from at random; "centre", the crop from its centre."""
    return "resize" if dataset_name in RESIZED or crop in SQUARE else "short_side" if split == "train" else "centre"


def input_settings(dataset_name: str, size: int, crop: str = "plain", mean: Sequence[float] = MEAN, std: Sequence[float] = STD) -> dict:
    """How a test image of the data set becomes the network's input, as plain values: `size`, `prepared` (as of `preparation`), `mean`,
    `std`, and of a permuted one `permuted`, the seed of the order of its pixels."""
    permuted = PERMUTED.fullmatch(dataset_name)
    return dict(size=size, prepared=preparation(dataset_name, "test", crop), mean=list(mean), std=list(std),
                **(dict(permuted=int(permuted[2])) if permuted else {}))


def permuted(pixels: np.ndarray, how: dict) -> np.ndarray:
    """uint8 [..., H, W]: the pixels in the order that the input settings `how` name; mostly as they are."""
    if "permuted" not in how:
        return pixels
    order = np.random.default_rng(how["permuted"]).permutation(pixels.shape[-2] * pixels.shape[-1])
    return pixels.reshape(*pixels.shape[:-2], -1)[..., order].reshape(pixels.shape)


def open_rgb(path: str | Path) -> Image.Image:
    """Decode an image file to RGB, upright. Raises DataError with the path for a file that cannot be decoded."""
    try:
        with Image.open(path) as image:
            image = ImageOps.exif_transpose(image)
            if image.mode.startswith("I;16"):  # 16-bit grey: Pillow would clip it to white
                image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
            if image.mode == "P" and "transparency" in image.info:
                image = image.convert("RGBA")
            return image.convert("RGB")
    except Exception as error:  # Pillow raises many kinds for broken files
        raise DataError(f"{path}: cannot be decoded as an image ({error})") from error


def upright_size(path: str | Path) -> tuple[int, int]:
    """(height, width) after EXIF rotation, from the file's header alone."""
    try:
        with Image.open(path) as image:
            width, height = image.size
            return (width, height) if image.getexif().get(0x0112, 1) in (5, 6, 7, 8) else (height, width)
    except Exception as error:
        raise DataError(f"{path}: cannot be read as an image ({error})") from error


def short_side_size(size: tuple[int, int], crop: int) -> tuple[int, int]:
    """(height, width) with the short side at 256/224 of the crop, the long side in proportion, as torchvision's."""
    return with_short_side(size, round(crop * SHORT_SIDE))


def with_short_side(size: tuple[int, int], short: int) -> tuple[int, int]:
    """(height, width) with the short side at `short`."""
    height, width = size
    return (short, int(short * width / height)) if height <= width else (int(short * height / width), short)


def centre(size: tuple[int, int], crop: int) -> tuple[int, int]:
    """(top, left) of the crop in the centre of an image of (height, width)."""
    height, width = size
    return round((height - crop) / 2), round((width - crop) / 2)


def planes(image: Image.Image) -> np.ndarray:
    """uint8 [3, H, W]: the order the network wants; from planes, mirroring and normalising vectorise."""
    return np.ascontiguousarray(np.asarray(image).transpose(2, 0, 1))


def preprocess(path: str | Path, how: str, size: int) -> np.ndarray:
    """The part of the preprocessing that is the same every time: uint8 [3, H, W].

    `how`: one of `preparation`. Bilinear, as Pillow does it.
    """
    image = open_rgb(path)
    if how == "resize":
        return planes(image.resize((size, size), Image.BILINEAR))
    height, width = short_side_size(image.size[::-1], size)
    image = image.resize((width, height), Image.BILINEAR)
    if how == "centre":
        top, left = centre((height, width), size)
        image = image.crop((left, top, left + size, top + size))
    return planes(image)
