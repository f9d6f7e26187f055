"""Draws the demo's data: three small fine-grained data sets and a base task, as JPEG in the real
folder layout; and, for long sequences of tasks, alphabets of signs.

Stand-ins for CUBS, Cars, Flowers and ImageNet. Within a set the classes differ in small parts only
(beak, crest and tail; roof and spoiler; number and shape of petals); colours, size, place and
background are drawn at random and say nothing about the class.
"""
import itertools
import math
import shutil
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from system.files import temporary_beside
from system.progress import Progress

SIDE = 64        # pixels of a JPEG
SCALE = 4        # drawn larger, then reduced, for smooth edges
TRAIN, TEST = 80, 25  # images per class
STROKES, SIGNS = 4, 8  # of a sign, of an alphabet

Rng = np.random.Generator


def colour(rng: Rng, low: int, high: int) -> tuple[int, int, int]:
    return tuple(int(v) for v in rng.integers(low, high, 3))


class Canvas:
    """Draws in units of the subject: x and y from -1 to 1, turned, scaled and moved at random."""

    def __init__(self, rng: Rng, turn: float, size: float = 1.0) -> None:
        side = SIDE * SCALE
        self.image = Image.new("RGB", (side, side), colour(rng, 150, 256))
        self.pen = ImageDraw.Draw(self.image)
        for _ in range(3):  # background that means nothing
            x = rng.uniform(0, side)
            y = rng.uniform(0, side)
            r = rng.uniform(0.1, 0.3) * side
            self.pen.ellipse((x - r, y - r, x + r, y + r), fill=colour(rng, 150, 256))
        self.scale = size * side * rng.uniform(0.36, 0.42)
        self.centre = side * (0.5 + rng.uniform(-0.05, 0.05, 2))
        self.angle = math.radians(rng.uniform(-turn, turn))
        self.facing = rng.choice((-1, 1))

    def polygon(self, points, fill) -> None:
        """`points`: [N, 2] in units of the subject."""
        x, y = np.asarray(points, float).T
        x = x * self.facing
        c = math.cos(self.angle)
        s = math.sin(self.angle)
        turned = np.stack([c * x - s * y, s * x + c * y], 1) * self.scale + self.centre
        self.pen.polygon([tuple(p) for p in turned], fill=fill)

    def ellipse(self, x: float, y: float, rx: float, ry: float, fill) -> None:
        t = np.linspace(0, 2 * math.pi, 40)
        self.polygon(np.stack([x + rx * np.cos(t), y + ry * np.sin(t)], 1), fill)


def bird(rng: Rng, beak: str, crest: bool, tail: str) -> Canvas:
    c = Canvas(rng, turn=10, size=0.9)
    body = colour(rng, 60, 200)
    wing = colour(rng, 60, 200)
    dark = colour(rng, 0, 60)
    if tail == "forked":
        c.polygon([(-0.4, 0), (-1.05, -0.35), (-0.8, 0.05), (-1.05, 0.45), (-0.4, 0.25)], dark)
    else:
        c.polygon([(-0.4, 0.02), (-0.95, -0.02), (-0.95, 0.22), (-0.4, 0.22)], dark)
    for x in (-0.05, 0.15):
        c.polygon([(x, 0.4), (x + 0.05, 0.4), (x + 0.05, 0.85), (x, 0.85)], dark)
    c.ellipse(0, 0.15, 0.55, 0.36, body)
    c.ellipse(-0.1, 0.12, 0.32, 0.2, wing)
    if crest:
        c.polygon([(0.25, -0.45), (0.1, -0.95), (0.42, -0.65), (0.45, -0.98), (0.62, -0.5)], dark)
    c.ellipse(0.45, -0.3, 0.27, 0.26, body)
    length = 0.6 if beak == "long" else 0.12
    c.polygon([(0.64, -0.46), (0.68 + length, -0.24), (0.64, -0.1)], dark)
    c.ellipse(0.52, -0.36, 0.06, 0.06, (255, 255, 255))
    return c


def car(rng: Rng, roof: str, spoiler: bool) -> Canvas:
    c = Canvas(rng, turn=5)
    paint = colour(rng, 40, 200)
    glass = colour(rng, 190, 256)
    dark = colour(rng, 0, 50)
    roofs = {"saloon": [(-0.5, -0.05), (-0.3, -0.5), (0.3, -0.5), (0.55, -0.05)],
             "hatchback": [(-0.9, -0.05), (-0.75, -0.5), (0.25, -0.5), (0.5, -0.05)],
             "pickup": [(-0.05, -0.05), (-0.05, -0.5), (0.4, -0.5), (0.6, -0.05)],
             "van": [(-0.95, -0.05), (-0.95, -0.65), (0.6, -0.65), (0.85, -0.05)]}
    shape = np.array(roofs[roof])
    c.polygon(shape, paint)
    c.polygon((shape - shape.mean(0)) * (0.8, 0.65) + shape.mean(0), glass)
    c.polygon([(-0.98, -0.08), (0.98, -0.08), (1.0, 0.35), (-1.0, 0.35)], paint)
    if spoiler:
        c.polygon([(-1.12, -0.34), (-0.72, -0.27), (-0.72, -0.19), (-0.84, -0.19),
                   (-0.84, -0.05), (-0.94, -0.05), (-0.94, -0.21), (-1.12, -0.24)], dark)
    for x in (-0.58, 0.58):
        c.ellipse(x, 0.37, 0.22, 0.22, dark)
        c.ellipse(x, 0.37, 0.1, 0.1, glass)
    return c


def flower(rng: Rng, petals: int, pointed: bool) -> Canvas:
    c = Canvas(rng, turn=180)
    fill = colour(rng, 40, 210)
    heart = colour(rng, 200, 256)
    leaf = (40, int(rng.integers(90, 150)), 40)
    c.polygon([(-0.04, 0.2), (0.04, 0.2), (0.04, 1.2), (-0.04, 1.2)], leaf)
    t = np.linspace(0, 1, 16)
    width = 1.5 / petals
    form = np.minimum(t / 0.35, (1 - t) / 0.65) if pointed else np.sin(math.pi * t ** 0.7)
    outline = width * form
    side = np.stack([0.15 + 0.75 * t, outline], 1)
    petal = np.concatenate([side, side[::-1] * (1, -1)])
    for k in range(petals):
        a = 2 * math.pi * k / petals
        c.polygon(petal @ np.array([[math.cos(a), math.sin(a)], [-math.sin(a), math.cos(a)]]), fill)
    c.ellipse(0, 0, 0.22, 0.22, heart)
    return c


def thing(rng: Rng, kind: str) -> Canvas:
    c = Canvas(rng, turn=25)
    fill = colour(rng, 0, 160)
    other = colour(rng, 150, 256)
    r = 0.8
    corners = {"triangle": 3, "square": 4, "hexagon": 6}
    if kind in corners:
        a = 2 * math.pi * np.arange(corners[kind]) / corners[kind] - math.pi / 2
        if kind == "square":
            a = a + math.pi / 4
        c.polygon(r * np.stack([np.cos(a), np.sin(a)], 1), fill)
    elif kind == "star":
        a = math.pi * np.arange(10) / 5 - math.pi / 2
        radii = (r * np.where(np.arange(10) % 2, 0.4, 1.1))[:, None]
        c.polygon(radii * np.stack([np.cos(a), np.sin(a)], 1), fill)
    elif kind == "ring":
        c.ellipse(0, 0, r, r, fill)
        c.ellipse(0, 0, 0.5 * r, 0.5 * r, other)
    elif kind == "disc":
        c.ellipse(0, 0, r, r, fill)
    elif kind == "cross":
        for w, h in ((0.25, 0.85), (0.85, 0.25)):
            c.polygon([(-w, -h), (w, -h), (w, h), (-w, h)], fill)
    elif kind == "stripes":
        for x in (-0.7, -0.15, 0.4):
            c.polygon([(x, -0.8), (x + 0.3, -0.8), (x + 0.3, 0.8), (x, 0.8)], fill)
    elif kind == "arrow":
        c.polygon([(-0.85, -0.2), (0.1, -0.2), (0.1, -0.6), (0.9, 0), (0.1, 0.6), (0.1, 0.2),
                   (-0.85, 0.2)], fill)
    elif kind == "moon":
        c.ellipse(0, 0, r, r, fill)
        c.ellipse(0.4, -0.1, 0.75 * r, 0.75 * r, other)
    return c


def sign(rng: Rng, strokes: frozenset) -> Canvas:
    """`strokes`: pairs of the nine points of a grid."""
    c = Canvas(rng, turn=12, size=0.9)
    ink = colour(rng, 0, 130)
    width = rng.uniform(0.07, 0.12)
    points = np.array(list(itertools.product((-0.85, 0, 0.85), repeat=2)))[:, ::-1]  # (x, y)
    for start, end in strokes:
        along = (points[end] - points[start]) / np.linalg.norm(points[end] - points[start]) * width
        across = along[::-1] * (1, -1)
        before = points[start] - along
        after = points[end] + along
        c.polygon([before + across, after + across, after - across, before - across], ink)
    return c


def _mirrored(stroke: tuple[int, int]) -> tuple[int, ...]:
    return tuple(sorted(point - 2 * (point % 3) + 2 for point in stroke))


def alphabet(number: int) -> dict:
    """Its signs, drawn by its number; none is another's mirror image, which training on flipped
    images could not tell apart."""
    rng = np.random.default_rng((number, 1))
    known = set()
    signs = {}
    while len(signs) < SIGNS:
        pairs = [map(int, rng.choice(9, 2, replace=False)) for _ in range(STROKES)]
        strokes = frozenset(tuple(sorted(pair)) for pair in pairs)
        mirrored = frozenset(map(_mirrored, strokes))
        if len(strokes) == STROKES and strokes not in known:
            known |= {strokes, mirrored}
            signs[f"sign{len(signs)}"] = (sign, dict(strokes=strokes))
    return signs


ALPHABETS = {f"signs_{number:02}": alphabet(number) for number in range(1, 21)}
THINGS = ("triangle", "square", "hexagon", "star", "ring", "disc", "cross", "stripes", "arrow",
          "moon")


def _birds() -> dict:
    classes = {}
    parts = itertools.product(("short", "long"), (False, True), ("square", "forked"))
    for beak, crest, tail in parts:
        name = f"{beak}_beak-{'crest' if crest else 'plain'}-{tail}_tail"
        classes[name] = (bird, dict(beak=beak, crest=crest, tail=tail))
    return classes


def _cars() -> dict:
    classes = {}
    for roof, spoiler in itertools.product(("saloon", "hatchback", "pickup", "van"), (False, True)):
        name = f"{roof}{'-spoiler' if spoiler else ''}"
        classes[name] = (car, dict(roof=roof, spoiler=spoiler))
    return classes


def _flowers() -> dict:
    classes = {}
    for petals, pointed in itertools.product((3, 4, 5, 7), (False, True)):
        name = f"{petals}_petals-{'pointed' if pointed else 'round'}"
        classes[name] = (flower, dict(petals=petals, pointed=pointed))
    return classes


DATASETS = {
    "demo_base": {kind: (thing, dict(kind=kind)) for kind in THINGS},
    "demo_birds": _birds(),
    "demo_cars": _cars(),
    "demo_flowers": _flowers(),
}


def draw(data_root: str | Path, seed: int = 0, train: int = TRAIN, test: int = TEST,
         names: Iterable[str] = DATASETS) -> None:
    """Write the data sets `names`, of DATASETS and ALPHABETS, below `data_root`, `train` and `test`
    images per class.

    A data set that is there is left as it is; a new one appears only once it is complete. Several
    processes may draw at once.
    """
    drawn = DATASETS | ALPHABETS
    for name in names:
        number = list(drawn).index(name)
        final = Path(data_root) / name
        classes = drawn[name]
        if final.exists():
            continue
        partial = temporary_beside(final)
        try:
            rng = np.random.default_rng((seed, number))
            _fill(partial, classes, rng, dict(train=train, test=test), name)
            partial.rename(final)
        except OSError:
            if not final.exists():  # where it does, another process was faster
                raise
        finally:
            shutil.rmtree(partial, ignore_errors=True)


def _fill(folder: Path, classes: dict, rng: Rng, counts: dict[str, int], name: str) -> None:
    for split, count in counts.items():
        title = f"Drawing {name}/{split}"
        for label, (subject, parts) in Progress(classes.items(), title, unit="class"):
            (folder / split / label).mkdir(parents=True)
            for i in range(count):
                image = subject(rng, **parts).image.resize((SIDE, SIDE), Image.BOX)
                noise = rng.normal(0, 6, (SIDE, SIDE, 3))
                pixels = np.clip(np.asarray(image) + noise, 0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(folder / split / label / f"{i:03}.jpg", quality=92)
