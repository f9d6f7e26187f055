"""Image folders to batches on Jittor's device.

    loader, num_classes = create_dataloader("cubs", data_root="data", split="train", batch_size=32)
    for images, labels in loader:        # float32 [B, 3, 224, 224], normalised; int32 [B]
        ...

Layout: `<data_root>/<folder>/{train,test}/<class>/<image>`; ImageNet and Places365 have `val` for `test`. The folder is
cubs_cropped, stanford_cars_cropped or flowers for the three data sets of the paper, and the data set's own name
for any other. Labels follow the sorted class names.

Preprocessing (paper, section 4): CUBS and Cars are resized to 224x224. Flowers, and data sets of your own, have their
short side resized to 256 and are cropped to 224x224, at random to train and in the centre to test. ImageNet and
Places365 train on random resized crops. All train with random horizontal flips.

An image is decoded and resized once, to uint8 planes in one memory-mapped file in `<data_root>/.cache` (which
may be deleted at any time); crops and flips are drawn anew each epoch from the seed. Measured with
benchmarks/loader.py. ImageNet-sized training sets are decoded as they are needed.
"""
import errno
import hashlib
import os
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps
from tqdm import tqdm

import toolchain
from config import dataset_folder
from files import replacing

jt = toolchain.start()

RESIZED = ("cubs", "cars")
STREAMED = ("imagenet", "places")

MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)
SHORT_SIDE = 256 / 224  # of the crop's side
CROP_SCALE, CROP_RATIO = (0.08, 1.0), (3 / 4, 4 / 3)  # of the random resized crops
IGNORED = ("Thumbs.db", "desktop.ini")  # and names that begin with a dot
# Batches prepared in a thread while the GPU computes. On the CPU the cores are busy computing, and a thread beside
# them halves the loader's speed (OpenMP's workers spin while they wait).
AHEAD = 2 if toolchain.device == "cuda" else 0
CORES = len(os.sched_getaffinity(0))


class DataError(Exception):
    """The data are not as they must be. The message names the file or folder and says what to do."""


@dataclass(frozen=True)
class Split:
    """The files of one split: `paths` relative to `folder`, `labels` int32 [N], and all `classes`, sorted."""
    folder: Path
    classes: list[str]
    paths: list[str]
    labels: np.ndarray


# ------------------------------------------------------------------------------------------------ folders

def read_split(dataset_name: str, data_root: str | Path, split: str) -> Split:
    """List one split. Raises DataError for whatever would make a class or an image vanish in silence."""
    if split not in ("train", "test"):
        raise DataError(f"split {split!r} is unknown: train or test")
    folder = dataset_folder(dataset_name, data_root)
    test = "val" if dataset_name in STREAMED else "test"
    if not folder.is_dir():
        raise DataError(f"{dataset_name}: the folder {folder} does not exist. "
                        f"It must hold train/<class>/<image> and {test}/<class>/<image>.")
    found = {name: _read_classes(folder / name) for name in ("train", test)}
    for here, there in (("train", test), (test, "train")):
        missing = sorted(found[here].keys() - found[there].keys())
        if missing:
            raise DataError(f"{folder}: {_several(missing, 'class', 'classes')} in {here}/ but not in {there}/. "
                            "Both must hold the same classes.")
    chosen = found["train" if split == "train" else test]
    classes = sorted(chosen)
    paths = [f"{name}/{file}" for name in classes for file in chosen[name]]
    labels = np.repeat(np.arange(len(classes), dtype=np.int32), [len(chosen[name]) for name in classes])
    return Split(folder / ("train" if split == "train" else test), classes, paths, labels)


def _read_classes(folder: Path) -> dict[str, list[str]]:
    """{class name: sorted file names} of one split's folder."""
    if not folder.is_dir():
        raise DataError(f"the folder {folder} does not exist. It must hold one folder of images per class.")
    classes: dict[str, list[str]] = {}
    for entry in _entries(folder):
        if not entry.is_dir():
            raise DataError(f"{entry.path}: a file among the class folders. Move it into its class, or away.")
        files = _entries(Path(entry.path))
        nested = [file.name for file in files if file.is_dir()]
        if nested:
            raise DataError(f"{entry.path}: holds the folder {nested[0]!r}, but classes must not be nested. A slash in a "
                            f"class name does this (\"Ram C/V Cargo Van\"): rename it, to {entry.name}-{nested[0]!s}.")
        if not files:
            raise DataError(f"{entry.path}: this class has no images.")
        classes[entry.name] = [file.name for file in files]
    if not classes:
        raise DataError(f"{folder}: this split is empty. It must hold one folder of images per class.")
    return classes


def _entries(folder: Path) -> list[os.DirEntry]:
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError as error:
        raise DataError(f"{folder}: cannot be read ({error.strerror}).") from error
    return [entry for entry in entries if not entry.name.startswith(".") and entry.name not in IGNORED]


def _several(names: list[str], one: str, many: str) -> str:
    shown = ", ".join(repr(name) for name in names[:3])
    return f"{one} {shown} is" if len(names) == 1 else f"{len(names)} {many} ({shown}{', ...' * (len(names) > 3)}) are"


# ------------------------------------------------------------------------------------------------ one image

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
    height, width = size
    short = round(crop * SHORT_SIDE)
    return (short, int(short * width / height)) if height <= width else (int(short * height / width), short)


def planes(image: Image.Image) -> np.ndarray:
    """uint8 [3, H, W]: the order the network wants; from planes, mirroring and normalising vectorise."""
    return np.ascontiguousarray(np.asarray(image).transpose(2, 0, 1))


def preprocess(path: str | Path, how: str, size: int) -> np.ndarray:
    """The part of the preprocessing that is the same every time: uint8 [3, H, W].

    `how`: "resize" gives size x size; "short_side" the whole image at the size it is cropped from; "centre"
    the crop from its centre. Bilinear, as Pillow does it.
    """
    image = open_rgb(path)
    if how == "resize":
        return planes(image.resize((size, size), Image.BILINEAR))
    height, width = short_side_size(image.size[::-1], size)
    image = image.resize((width, height), Image.BILINEAR)
    if how == "centre":
        top, left = round((height - size) / 2), round((width - size) / 2)
        image = image.crop((left, top, left + size, top + size))
    return planes(image)


def random_resized_crop(path: str | Path, size: int, rng: np.random.Generator) -> np.ndarray:
    """uint8 [3, size, size]: 8-100 % of the area, aspect 3/4 to 4/3, as in the authors' ImageNet training."""
    image = open_rgb(path)
    width, height = image.size
    for _ in range(10):
        area = width * height * rng.uniform(*CROP_SCALE)
        ratio = np.exp(rng.uniform(*np.log(CROP_RATIO)))
        w, h = round((area * ratio) ** 0.5), round((area / ratio) ** 0.5)
        if 0 < w <= width and 0 < h <= height:
            break
    else:  # a very long image: the largest crop in the centre with an allowed aspect
        ratio = min(max(width / height, CROP_RATIO[0]), CROP_RATIO[1])
        w, h = min(width, round(height * ratio)), min(height, round(width / ratio))
    left, top = rng.integers(0, width - w + 1), rng.integers(0, height - h + 1)
    return planes(image.resize((size, size), Image.BILINEAR, box=(left, top, left + w, top + h)))


# ------------------------------------------------------------------------------------------------ a split's pixels

class CachedImages:
    """A split, decoded once: `crops(indices, rng)` gives uint8 [B, 3, size, size].

    The file holds the sizes (npy, int32 [N, 2]) and the planes of all images one after another. Its name holds a
    fingerprint of the sources (path, bytes, time of change) and of the preprocessing.
    """

    def __init__(self, split: Split, name: str, how: str, size: int, cache_dir: Path) -> None:
        self.size = size
        stem = f"{name}-{split.folder.name}-{how}{size}-"
        path = cache_dir / f"{stem}{_fingerprint(split, how, size)}.pixels"
        if not path.exists():
            self._build(split, how, path)
            for old in set(cache_dir.glob(f"{stem}{'?' * 16}.pixels")) - {path}:
                old.unlink(missing_ok=True)  # the sources have changed since
        with open(path, "rb") as f:
            self.sizes = np.load(f)
            self.pixels = np.asarray(np.memmap(f, np.uint8, "r", offset=f.tell()))
        self.starts = np.concatenate([[0], np.cumsum(3 * np.prod(self.sizes, axis=1, dtype=np.int64))])
        # All of one size: [N, 3, size, size], so that a batch is one gather.
        self.uniform = self.pixels.reshape(-1, 3, size, size) if (self.sizes == size).all() else None

    def _build(self, split: Split, how: str, path: Path) -> None:
        files = [split.folder / name for name in split.paths]
        label = f"{split.folder.parent.name}/{split.folder.name}"
        sizes = np.full((len(files), 2), self.size, np.int32)
        with ThreadPoolExecutor(CORES) as pool:
            originals = _collect(pool.map(_attempt(upright_size), files), files, f"Checking {label}")
            if how == "short_side":
                sizes = np.array([short_side_size(original, self.size) for original in originals], np.int32)
            lengths = 3 * np.prod(sizes, axis=1, dtype=np.int64)
            starts = np.cumsum(lengths) - lengths
            try:
                with replacing(path) as temporary, open(temporary, "wb") as f:
                    np.save(f, sizes)
                    offset = f.tell()
                    f.flush()

                    def store(i: int) -> None:
                        pixels = preprocess(files[i], how, self.size).tobytes()
                        if os.pwrite(f.fileno(), pixels, offset + int(starts[i])) != lengths[i]:
                            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

                    _collect(pool.map(_attempt(store), range(len(files))), files, f"Decoding {label}, once")
            except OSError as error:
                need = f", {lengths.sum() / 1e9:.2f} GB are needed" if error.errno == errno.ENOSPC else ""
                raise DataError(f"{path.parent}: cannot write the cache of {label} ({error.strerror}{need}). "
                                "Choose another folder with --cache-dir.") from error

    def crops(self, indices: np.ndarray, rng: np.random.Generator, mine: slice = slice(None)) -> np.ndarray:
        """The images `indices[mine]`; what is drawn from `rng` is drawn for all of `indices`."""
        if self.uniform is not None:
            return self.uniform[indices[mine]]
        room = self.sizes[indices] - self.size + 1
        corners = rng.integers(0, room)[mine]
        batch = np.empty((len(corners), 3, self.size, self.size), np.uint8)
        for row, (i, (top, left)) in enumerate(zip(indices[mine], corners)):
            height, width = self.sizes[i]
            image = self.pixels[self.starts[i]:self.starts[i + 1]].reshape(3, height, width)
            batch[row] = image[:, top:top + self.size, left:left + self.size]
        return batch


class StreamedImages:
    """A split too large to keep: random resized crops, decoded when asked for."""

    def __init__(self, split: Split, size: int) -> None:
        self.size = size
        self.files = [split.folder / name for name in split.paths]
        self.pool = ThreadPoolExecutor(CORES)
        _collect(self.pool.map(_attempt(upright_size), self.files), self.files, f"Checking {split.folder}")

    def crops(self, indices: np.ndarray, rng: np.random.Generator, mine: slice = slice(None)) -> np.ndarray:
        rngs = rng.spawn(len(indices))
        return np.stack(list(self.pool.map(
            lambda i, rng: random_resized_crop(self.files[i], self.size, rng), indices[mine], rngs[mine])))


def _fingerprint(split: Split, how: str, size: int) -> str:
    digest = hashlib.sha256(f"1 {how} {size}".encode())
    for path in split.paths:
        status = os.stat(split.folder / path)
        digest.update(f"\n{path}\0{status.st_size}\0{status.st_mtime_ns}".encode("utf8", "surrogateescape"))
    return digest.hexdigest()[:16]


def _attempt(function):
    """`function`, returning a DataError instead of raising it, so that one pass finds every broken file."""
    def attempt(argument):
        try:
            return function(argument)
        except DataError as error:
            return error
    return attempt


def _collect(results, files: list[Path], title: str) -> list:
    results = list(tqdm(results, title, total=len(files), unit="image", leave=False, delay=1))
    broken = [result for result in results if isinstance(result, DataError)]
    if broken:
        more = f"; and {len(broken) - 3} more" if len(broken) > 3 else ""
        raise DataError("; ".join(str(error) for error in broken[:3]) + more + ". Replace or remove.")
    return results


# ------------------------------------------------------------------------------------------------ batches

class Loader:
    """Iterates over (images float32 [B, 3, size, size] normalised, labels int32 [B]) on Jittor's device.

    To train: shuffled and flipped, by `seed` and `epoch` (which counts up by itself, and may be set). To test: in
    order. Attributes: `classes`, `num_images`, `epoch`, `batch_size`.

    Under mpirun the processes share the work: to train, each gets an equal part of every batch, and all of an incomplete
    last one (so that the mean over the processes is the mean over the batch); to test, every so-many-th batch, and
    `gather` brings the results together.
    """

    def __init__(self, images, split: Split, batch_size: int, train: bool, seed: int) -> None:
        self.images, self.labels, self.classes = images, split.labels, split.classes
        self.batch_size, self.train, self.seed = batch_size, train, seed
        self.num_images = len(split.labels)
        self.epoch = 0

    def __len__(self) -> int:
        return -(-self.num_images // self.batch_size)

    def __iter__(self) -> Iterator[tuple[jt.Var, jt.Var]]:
        for batch, (images, flips, labels) in zip(self._batches(), self.host_batches()):
            if self.train:
                toolchain.part, toolchain.parts = self._part(batch)
            yield to_input(images, flips), jt.array(labels)

    def _part(self, batch: int) -> tuple[int, int]:
        """(which, of how many) equal parts of a training batch is this process's."""
        return (jt.rank, jt.world_size) if (batch + 1) * self.batch_size <= self.num_images else (0, 1)

    def gather(self, rows: np.ndarray) -> np.ndarray:
        """`rows` [images this process tested, ...] of all processes: [num_images, ...] in order, on each of them."""
        if jt.world_size == 1:
            return rows
        everything = np.zeros((self.num_images, *rows.shape[1:]), rows.dtype)
        if jt.rank < len(self):  # else it did what another did too
            everything[np.concatenate([np.arange(self.num_images)[batch * self.batch_size:(batch + 1) * self.batch_size]
                                       for batch in self._batches()])] = rows
        return jt.array(everything).mpi_all_reduce("add").numpy()

    def _batches(self) -> range:
        """The numbers of the batches that this process takes part in."""
        return range(len(self)) if self.train else range(jt.rank % len(self), len(self), jt.world_size)

    def host_batches(self) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """One epoch as (uint8 [B, 3, size, size], flips uint8 [B], labels int32 [B]), prepared ahead in a thread.
        An image whose flip is 1 is to be mirrored, which to_input does."""
        epoch, self.epoch = self.epoch, self.epoch + 1
        order = np.arange(self.num_images)
        if self.train:
            np.random.default_rng((self.seed, epoch)).shuffle(order)

        def prepare(batch: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
            rng = np.random.default_rng((self.seed, epoch, batch + 1))  # 0 would be the shuffle's
            indices = order[batch * self.batch_size:(batch + 1) * self.batch_size]
            flips = rng.integers(0, 2, len(indices), np.uint8) if self.train else np.zeros(len(indices), np.uint8)
            part, parts = self._part(batch) if self.train else (0, 1)
            mine = slice(part * len(indices) // parts, (part + 1) * len(indices) // parts)
            return self.images.crops(indices, rng, mine), flips[mine], self.labels[indices[mine]]

        if not AHEAD:
            yield from map(prepare, self._batches())
            return
        with ThreadPoolExecutor(1) as thread:
            ahead = deque()
            for batch in self._batches():
                ahead.append(thread.submit(prepare, batch))
                if len(ahead) > AHEAD:
                    yield ahead.popleft().result()
            while ahead:
                yield ahead.popleft().result()


AFFINE = np.array([[1 / (255 * std) for std in STD], [-mean / std for mean, std in zip(MEAN, STD)]], np.float32)

# One pass over the pixels on all cores. Jittor's own operators take three times as long on the CPU, because they
# do not vectorise the mirrored index.
TO_INPUT_CPU = """
    const int B = in0_shape0, C = in0_shape1, H = in0_shape2, W = in0_shape3;
    #pragma omp parallel for collapse(2)
    for (int b = 0; b < B; b++) for (int c = 0; c < C; c++) {
        const float scale = in2_p[c], shift = in2_p[C + c];
        const unsigned char* from = in0_p + (size_t)(b * C + c) * H * W;
        float* to = out0_p + (size_t)(b * C + c) * H * W;
        if (!in1_p[b]) {
            for (int i = 0; i < H * W; i++) to[i] = from[i] * scale + shift;
        } else {
            for (int y = 0; y < H; y++, from += W, to += W)
                for (int x = 0; x < W; x++) to[x] = from[W - 1 - x] * scale + shift;
        }
    }
"""


def to_input(images: np.ndarray, flips: np.ndarray) -> jt.Var:
    """uint8 [B, 3, H, W] to the network's input on the device: mirrored where `flips` (uint8 [B]) is 1, and
    normalised to float32 (x / 255 - MEAN) / STD."""
    pixels, flip, affine = jt.array(images), jt.array(flips), jt.array(AFFINE)
    if not jt.flags.use_cuda:
        return jt.code(pixels.shape, "float32", [pixels, flip, affine], cpu_src=TO_INPUT_CPU)
    return to_input_by_operators(pixels, flip, affine)


def to_input_by_operators(pixels: jt.Var, flip: jt.Var, affine: jt.Var) -> jt.Var:
    """The same from Jittor's own operators, which become one kernel on the GPU."""
    mirrored = pixels.reindex(pixels.shape, ["i0", "i1", "i2", f"@e0(i0) ? {pixels.shape[3] - 1} - i3 : i3"], extras=[flip])
    scale, shift = affine[0].reshape((1, 3, 1, 1)), affine[1].reshape((1, 3, 1, 1))
    return mirrored.float32() * scale + shift


def create_dataloader(dataset_name: str, data_root: str | Path = "data", split: str = "train", batch_size: int = 32,
                      *, seed: int = 0, image_size: int = 224,
                      cache_dir: str | Path | None = None) -> tuple[Loader, int]:
    """(loader, num_classes) of one split ("train" or "test") of a data set.

    The first call decodes the images into the cache (`cache_dir`, by default `<data_root>/.cache`); a file that
    cannot be decoded is found here, before any training. `image_size` is the side of the crop, in pixels; the short
    side is 256/224 of it. Raises DataError.
    """
    if batch_size < 1:
        raise DataError(f"batch_size {batch_size} must be at least 1")
    files, train = read_split(dataset_name, data_root, split), split == "train"
    if train and dataset_name in STREAMED:
        images = StreamedImages(files, image_size)
    else:
        how = "resize" if dataset_name in RESIZED else "short_side" if train else "centre"
        name = dataset_folder(dataset_name, data_root).name
        images = CachedImages(files, name, how, image_size, Path(cache_dir or Path(data_root) / ".cache"))
    return Loader(images, files, batch_size, train, seed), len(files.classes)
