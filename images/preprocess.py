"""One image file to uint8 pixels, as the paper and the release prepare them (paper, section 4).

CUBS and Cars are resized to 224x224. All others have their short side resized to 256 and are
cropped to 224x224, in the centre to test and at random to train (images/crops.py); with the kinds
of crop that are SQUARE they are resized to 224x224 too.

An image of more than 8 bits a colour loses its lowest bits: 65,535 becomes 255. What has no known
white, 32-bit integers and floats, is refused, and so are 8 to 12 bits in a file of 16, which would
come out nearly black.
"""
import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from images.datasets import PERMUTED, data_set
from images.folders import DataError, Split, is_file

# Of large images, of odd EXIF data: the pixels are whole, and what is not is an error.
warnings.filterwarnings("ignore", module=r"PIL\.")

SQUARE = ("padded", "whole")  # kinds of --crop
SHORT_SIDE = 256 / 224  # of the crop's side
MEAN = (0.485, 0.456, 0.406)  # of ImageNet's pixels in [0, 1], by colour
STD = (0.229, 0.224, 0.225)
# Of look_uncropped: how many images are looked at, the longer side of a photograph, and which part
# of them is of the same size.
PHOTOGRAPHS, PHOTOGRAPHS_SIDE, PHOTOGRAPHS_ALIKE = 200, 400, 0.05
TOO_DARK = 4096  # the values of a 16-bit file that are all below this have 12 bits at most


@dataclass(frozen=True)
class Preparation:
    """How an image becomes the network's input.

    `size`: the side of the input in pixels. `fit`: "resize", to size x size; "centre", the crop
    from the centre of the image whose short side was resized; "short_side", that whole image, from
    which training images are cropped at random. `mean`, `std`: by which it is normalised, by
    colour, of pixels in [0, 1]. `permuted`: the seed of the order that its pixels are brought into.
    """
    size: int
    fit: str
    mean: tuple[float, ...] = MEAN
    std: tuple[float, ...] = STD
    permuted: int | None = None

    @classmethod
    def from_plain(cls, values: dict) -> "Preparation":
        """From what `plain` gives: a packed file holds it."""
        colours = {name: tuple(values[name]) for name in ("mean", "std")}
        return cls(values["size"], values["prepared"], **colours, permuted=values.get("permuted"))

    def plain(self) -> dict:
        """As JSON holds it. The order in which pixels come is named only where there is one."""
        values = dict(size=self.size, prepared=self.fit, mean=list(self.mean), std=list(self.std))
        return values if self.permuted is None else values | dict(permuted=self.permuted)


def preparation_of(dataset_name: str, size: int, crop: str = "resized", split: str = "test",
                   mean: Sequence[float] = MEAN, std: Sequence[float] = STD) -> Preparation:
    """How the images of a data set are prepared. `split`: "train", before they are cropped, or
    "test"; `crop`: of training images, which decides for both whether they are squares."""
    permuted = PERMUTED.fullmatch(dataset_name)
    if data_set(dataset_name).boxes or crop in SQUARE:
        fit = "resize"
    else:
        fit = "short_side" if split == "train" else "centre"
    return Preparation(size, fit, tuple(mean), tuple(std), int(permuted[2]) if permuted else None)


def permute(pixels: np.ndarray, preparation: Preparation) -> np.ndarray:
    """uint8 [..., H, W]: the pixels in the order that their preparation names; mostly as they
    are."""
    if preparation.permuted is None:
        return pixels
    area = pixels.shape[-2] * pixels.shape[-1]
    order = np.random.default_rng(preparation.permuted).permutation(area)
    return pixels.reshape(*pixels.shape[:-2], -1)[..., order].reshape(pixels.shape)


def open_rgb(path: str | Path) -> Image.Image:
    """Decode an image file to RGB, upright. Raises DataError with the path for a file that cannot
    be decoded, or whose values have no known white."""
    try:
        with Image.open(path) as image:
            _check_depth(image, path)
            sixteen_bits = _has_16_bits(image)
            image = ImageOps.exif_transpose(image)
            if sixteen_bits:
                image = _eight_bits(image, path)
            if image.mode == "P" and "transparency" in image.info:
                image = image.convert("RGBA")
            return image.convert("RGB")
    except DataError:
        raise
    except Exception as error:  # Pillow raises many kinds for broken files
        raise DataError(f"{path}: cannot be decoded as an image ({error})") from error


def upright_size(path: str | Path) -> tuple[int, int]:
    """(height, width) after EXIF rotation, from the file's header alone. Raises DataError."""
    is_file(path)
    try:
        with Image.open(path) as image:
            _check_depth(image, path)
            width, height = image.size
            turned = image.getexif().get(0x0112, 1) in (5, 6, 7, 8)
            return (width, height) if turned else (height, width)
    except DataError:
        raise
    except Exception as error:
        raise DataError(f"{path}: cannot be read as an image ({error})") from error


def _has_16_bits(image: Image.Image) -> bool:
    """Pillow's mode I is of 32 bits, but some of its versions open 16-bit PNG and PGM files so."""
    return image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PNG", "PPM"))


def _check_depth(image: Image.Image, path: str | Path) -> None:
    if image.mode in ("I", "F") and not _has_16_bits(image):
        kind = "floats" if image.mode == "F" else "integers of 32 bits or with a sign"
        raise DataError(f"{path}: its pixels are {kind}, of which nobody knows what is white; "
                        "convert it to 8 bits")


def _eight_bits(image: Image.Image, path: str | Path) -> Image.Image:
    values = np.asarray(image)
    brightest = int(values.max())
    if 0 < brightest < TOO_DARK:
        raise DataError(f"{path}: none of its 16-bit values is above {brightest:,} of 65,535: "
                        "8 to 12 bits in a file of 16, as it seems; convert it to 8 bits")
    return Image.fromarray((values >> 8).astype(np.uint8))


def look_uncropped(split: Split) -> bool:
    """Whether the images of a data set that is cropped to boxes seem to be whole photographs: these
    come in a few usual sizes, and crops in almost as many sizes as there are images."""
    step = max(1, len(split.paths) // PHOTOGRAPHS)
    sizes = Counter(upright_size(split.folder / path) for path in split.paths[::step])
    size, count = sizes.most_common(1)[0]
    return max(size) >= PHOTOGRAPHS_SIDE and count > PHOTOGRAPHS_ALIKE * sizes.total()


def short_side_size(size: tuple[int, int], crop: int) -> tuple[int, int]:
    """(height, width) with the short side at 256/224 of the crop, the long side in proportion, as
    torchvision's."""
    return with_short_side(size, round(crop * SHORT_SIDE))


def with_short_side(size: tuple[int, int], short: int) -> tuple[int, int]:
    """(height, width) with the short side at `short`."""
    height, width = size
    if height <= width:
        return short, int(short * width / height)
    return int(short * height / width), short


def centre(size: tuple[int, int], crop: int) -> tuple[int, int]:
    """(top, left) of the crop in the centre of an image of (height, width)."""
    height, width = size
    return round((height - crop) / 2), round((width - crop) / 2)


def planes(image: Image.Image) -> np.ndarray:
    """uint8 [3, H, W]: the order the network wants; from planes, mirroring and normalising
    vectorise."""
    return np.ascontiguousarray(np.asarray(image).transpose(2, 0, 1))


def preprocess(path: str | Path, preparation: Preparation) -> np.ndarray:
    """The part of the preprocessing that is the same every time: uint8 [3, H, W]. Bilinear, as
    Pillow does it."""
    image = open_rgb(path)
    size = preparation.size
    if preparation.fit == "resize":
        return planes(image.resize((size, size), Image.BILINEAR))
    height, width = short_side_size(image.size[::-1], size)
    image = image.resize((width, height), Image.BILINEAR)
    if preparation.fit == "centre":
        top, left = centre((height, width), size)
        image = image.crop((left, top, left + size, top + size))
    return planes(image)
