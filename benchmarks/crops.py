"""What storing a crop costs: largest and mean pixel difference, and size, for the ways to store it.

    python benchmarks/crops.py

Draws photograph-like images (smooth shapes, sharp edges, grain), sends each through a JPEG of quality 90 as the
official archives do, crops off the 8x8 grid and stores the crop.
"""
import io

import numpy as np
from PIL import Image, ImageDraw


def photograph(seed: int) -> Image.Image:
    rng = np.random.default_rng(seed)
    image = Image.fromarray(rng.integers(0, 256, (12, 16, 3), np.uint8)).resize((500, 375), Image.BICUBIC)
    pen = ImageDraw.Draw(image)
    for _ in range(25):
        x, y, r = *rng.integers(0, 500, 2), rng.integers(4, 60)
        pen.ellipse((x - r, y - r, x + r, y + r), fill=tuple(rng.integers(0, 256, 3)))
    grain = rng.normal(0, 5, (375, 500, 1))
    buffer = io.BytesIO()
    Image.fromarray((np.asarray(image) + grain).clip(0, 255).astype(np.uint8)).save(buffer, "JPEG", quality=90)
    return Image.open(buffer).convert("RGB")


def main() -> None:
    crops = [photograph(seed).crop((101, 53, 399, 271)) for seed in range(30)]
    ways = {"JPEG 95, default": dict(format="JPEG", quality=95), "JPEG 95, 4:4:4": dict(format="JPEG", quality=95, subsampling=0),
            "JPEG 98, 4:4:4": dict(format="JPEG", quality=98, subsampling=0),
            "JPEG 100, 4:4:4": dict(format="JPEG", quality=100, subsampling=0), "PNG": dict(format="PNG")}
    print(f"{'stored as':18} {'largest':>8} {'mean':>6} {'bytes/pixel':>12}   (difference in levels of 255)")
    for name, options in ways.items():
        largest, means, size = 0, [], 0
        for crop in crops:
            buffer = io.BytesIO()
            crop.save(buffer, **options)
            difference = np.abs(np.asarray(Image.open(buffer)).astype(int) - np.asarray(crop))
            largest, size = max(largest, difference.max()), size + buffer.tell()
            means.append(difference.mean())
        print(f"{name:18} {largest:8} {np.mean(means):6.2f} {size / sum(c.width * c.height for c in crops):12.2f}")


if __name__ == "__main__":
    main()
