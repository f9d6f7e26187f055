"""Loader against decoding from JPEG: images per second, on the same cores, in one run.

    python benchmarks/loader.py [--images 400] [--rounds 5] [--device auto]

Both sides deliver the same: normalised float32 batches of 32 on Jittor's device, shuffled and
flipped. "decoding" opens, resizes and crops every JPEG anew on all cores, as an image-folder loader
does; "ours" is an epoch after the first, from the cache. The files have the usual sizes: cropped
birds and cars about 300x220, flowers 500x667; flowers with both kinds of --crop.
"""
import argparse
import tempfile
from functools import partial
from pathlib import Path

import common
import numpy as np
from PIL import Image

import toolchain
from images.cache import StreamedImages
from images.crops import CROPS
from images.folders import read_split
from images.preprocess import preparation_of, preprocess
from system import processes
from system.processes import cores

SETS = (  # (data set, its folder, width and height of its files, --crop)
    ("cubs", "cubs_cropped", (300, 220), "plain"),
    ("flowers", "flowers", (500, 667), "plain"),
    ("flowers", "flowers", (500, 667), "resized"),
)


def draw(folder: Path, count: int, size: tuple[int, int]) -> None:
    """`count` JPEGs of quality 95 with about a photograph's detail (0.6 bytes per pixel)."""
    rng = np.random.default_rng(0)
    width, height = size
    for split, number in (("train", count), ("test", 1)):
        only_class = folder / split / "only"
        only_class.mkdir(parents=True)
        for i in range(number):
            coarse = rng.integers(0, 256, (height // 12, width // 12, 3), np.uint8)
            smooth = np.asarray(Image.fromarray(coarse).resize(size, Image.BICUBIC))
            pixels = (smooth + rng.normal(0, 6, (height, width, 1))).clip(0, 255)
            Image.fromarray(pixels.astype(np.uint8)).save(only_class / f"{i}.jpg", quality=95)


class Decoding(StreamedImages):
    """Takes the place of the cached images: everything from the file, every time."""

    def _one(self, i: int, rng: np.random.Generator) -> np.ndarray:
        if self.preparation.fit == "resize":
            return preprocess(self.files[i], self.preparation)
        return super()._one(i, rng)


def epoch(loader) -> None:
    for images, _ in loader:
        images.sync()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--images", type=int, default=400)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--device", choices=toolchain.DEVICES, default="auto")
    options = parser.parse_args()
    toolchain.start(options.device)
    from dataset import Loader, create_dataloader
    for name, folder, size, crop in SETS:
        with tempfile.TemporaryDirectory() as root:
            draw(Path(root) / folder, options.images, size)
            ours, _ = create_dataloader(name, root, "train", 32, crop=crop)
            split = read_split(name, root, "train")
            whole = preparation_of(name, 224, crop, "train")
            images = Decoding(split, name, whole, Path(root), CROPS[crop])
            theirs = Loader(images, split, 32, True, 0, ours.preparation)
            epoch(ours)  # warm-up
            epoch(theirs)
            a, b = common.alternate(partial(epoch, ours), partial(epoch, theirs), options.rounds)
        what = f"an epoch of {options.images} images {size[0]}x{size[1]} on {cores()} cores"
        common.report(f"{name}, crop {crop}: {what}", a, b, "decoding")
        best = dict(ours=options.images / min(a), decoding=options.images / min(b))
        common.record(data_set=name, crop=crop, images_per_second_at_best=best)


if __name__ == "__main__":
    main()
    processes.leave(0)
