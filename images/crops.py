"""The random crop of a training image, drawn anew each time: from the image whose short side is at
256/224 of the crop, or, for the kinds of images.preprocess.SQUARE, from one of its size.

A kind of crop is a function (sizes, size, rng) -> places. `sizes`: int [N, 2], height and width of
N images; a place: the part (top, left, height, width) of an image that becomes its size x size
pixels, or None (see `cut`).
"""
import numpy as np
from PIL import Image

from images.preprocess import centre, with_short_side

# Of `resized`.
AREA = (0.08, 1.0)
ASPECT = (3 / 4, 4 / 3)
TRIES = 10

Place = tuple[int, int, int, int]


def plain(sizes: np.ndarray, size: int, rng: np.random.Generator) -> list[Place | None]:
    """The first Jittor implementation's: size x size, anywhere in the image."""
    return [(top, left, size, size) for top, left in rng.integers(0, sizes - size + 1)]


def resized(sizes: np.ndarray, size: int, rng: np.random.Generator) -> list[Place | None]:
    """The authors' release's, which is torchvision 0.1.9's RandomSizedCrop: of ten tries the first
    that fits into the image, 8 to 100 % of its area, with an aspect uniform in [3/4, 4/3] and width
    and height swapped half of the time."""
    draws = (len(sizes), TRIES)
    area = sizes.prod(axis=1)[:, None] * rng.uniform(*AREA, draws)
    aspect = rng.uniform(*ASPECT, draws) ** rng.choice((1, -1), draws)
    heights_and_widths = np.stack([area / aspect, area * aspect], axis=2)  # of every try, squared
    parts = np.sqrt(heights_and_widths).round().astype(int)
    fit = ((parts > 0) & (parts <= sizes[:, None])).all(axis=2)
    parts = parts[np.arange(len(sizes)), fit.argmax(axis=1)]
    corners = rng.integers(0, np.maximum(sizes - parts, 0) + 1)
    return [(*corner, *part) if fits else None
            for corner, part, fits in zip(corners, parts, fit.any(axis=1))]


def padded(sizes: np.ndarray, size: int, rng: np.random.Generator) -> list[Place | None]:
    """Usual for CIFAR: size x size, anywhere in the image of that size with a black edge of an
    eighth of it around."""
    edge = size // 8
    corners = rng.integers(-edge, edge + 1, (len(sizes), 2))
    return [(top, left, size, size) for top, left in corners]


# The choices of --crop; whole: the image as it is, never mirrored.
CROPS = {"resized": resized, "plain": plain, "padded": padded, "whole": None}


def cut(image: np.ndarray, place: Place | None, size: int) -> np.ndarray:
    """uint8 [3, size, size] from uint8 [3, H, W]. None, where no try has fitted: the short side is
    resized to `size`, and the centre taken. A place of `padded` may reach over the edge, where the
    image is black."""
    if place is None:
        image = resize(image, *with_short_side(image.shape[1:], size))
        place = (*centre(image.shape[1:], size), size, size)
    top, left, height, width = place
    part = image[:, max(top, 0):top + height, max(left, 0):left + width]
    if part.shape[1:] != (height, width):
        seen = part
        part = np.zeros((3, height, width), np.uint8)
        row = max(-top, 0)
        column = max(-left, 0)
        part[:, row:row + seen.shape[1], column:column + seen.shape[2]] = seen
    return resize(part, size, size)


def resize(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """uint8 [3, height, width], as Pillow resizes the image of these planes."""
    if image.shape[1:] == (height, width):
        return image
    planes = [Image.fromarray(np.ascontiguousarray(plane)) for plane in image]
    return np.stack([plane.resize((width, height), Image.BILINEAR) for plane in planes])
