"""What storing a crop costs: largest and mean pixel difference, and size, for the ways to store it.

    python benchmarks/crops.py

Draws images like photographs (smooth shapes, sharp edges, grain), sends each through a JPEG of
quality 90, as those of the official archives, cuts out a part whose edges are not on JPEG's grid of
8x8 pixels, and stores it.
"""
import io

import numpy as np
from PIL import Image, ImageDraw

WAYS = {
    "JPEG 95, default": dict(format="JPEG", quality=95),
    "JPEG 95, 4:4:4": dict(format="JPEG", quality=95, subsampling=0),
    "JPEG 98, 4:4:4": dict(format="JPEG", quality=98, subsampling=0),
    "JPEG 100, 4:4:4": dict(format="JPEG", quality=100, subsampling=0),
    "PNG": dict(format="PNG"),
}


def photograph(seed: int) -> Image.Image:
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (12, 16, 3), np.uint8))
    image = coarse.resize((500, 375), Image.BICUBIC)
    pen = ImageDraw.Draw(image)
    for _ in range(25):
        x, y = rng.integers(0, 500, 2)
        r = rng.integers(4, 60)
        pen.ellipse((x - r, y - r, x + r, y + r), fill=tuple(rng.integers(0, 256, 3)))
    grain = rng.normal(0, 5, (375, 500, 1))
    pixels = (np.asarray(image) + grain).clip(0, 255).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=90)
    return Image.open(buffer).convert("RGB")


def main() -> None:
    crops = [photograph(seed).crop((101, 53, 399, 271)) for seed in range(30)]
    pixels = sum(crop.width * crop.height for crop in crops)
    print(f"{'stored as':18} {'largest':>8} {'mean':>6} {'bytes/pixel':>12}   "
          "(difference in levels of 255)")
    for name, options in WAYS.items():
        largest, size = 0, 0
        means = []
        for crop in crops:
            buffer = io.BytesIO()
            crop.save(buffer, **options)
            difference = np.abs(np.asarray(Image.open(buffer)).astype(int) - np.asarray(crop))
            largest = max(largest, difference.max())
            size += buffer.tell()
            means.append(difference.mean())
        print(f"{name:18} {largest:8} {np.mean(means):6.2f} {size / pixels:12.2f}")


if __name__ == "__main__":
    main()
