"""Image folders to batches on Jittor's device.

    loader, num_classes = create_dataloader("cubs", data_root="data", split="train", batch_size=32)
    for images, labels in loader:        # float32 [B, 3, 224, 224], normalised; int32 [B]
        ...

The layout of the folders: images/folders.py. How an image is resized: images/preprocess.py;
cropped: images/crops.py. An image is decoded and resized once, to uint8 planes in one memory-mapped
file in `<data_root>/.cache` (images/cache.py); crops and flips are drawn anew each epoch from the
seed. ImageNet-sized training sets are decoded as they are needed.
"""
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

import toolchain
from images.cache import CachedImages, StreamedImages
from images.crops import CROPS
from images.datasets import PERMUTED, data_set
from images.folders import DataError, Split, hold_out, read_photographs, read_split
from images.preprocess import MEAN, STD, Preparation, permute, preparation_of
from packing.portrait import IMAGES
from system.progress import say

jt = toolchain.start()

# Batches prepared in a thread while the GPU computes. On the CPU the cores are busy computing: an
# epoch of the slim network takes 0.701 s without and 0.709 s with a thread beside it (medians of 12
# in turn, 2 cores), and the loader alone a third longer.
AHEAD = 2 if toolchain.device == "cuda" else 0


class Loader:
    """Iterates over (images float32 [B, 3, size, size] normalised, labels int32 [B]) on Jittor's
    device.

    To train: shuffled and, if `mirrored`, flipped, by `seed` and `epoch` (which counts up by
    itself, and may be set); of more images than `most` each epoch goes through so many others. To
    test: in order. `preparation`: how its images become the network's input. Attributes: `classes`,
    `num_images`, `epoch`, `batch_size`, `part`, `preparation`.

    Under mpirun the processes share the work: to train, each gets an equal part of every batch, and
    all of an incomplete last one (so that the mean over the processes is the mean over the batch);
    `part` says which, of how many, this process has of the batch at hand, (0, 1) for all of it. To
    test, each gets every so-many-th batch, and `gather` brings the results together.
    """

    def __init__(self, images, split: Split, batch_size: int, train: bool, seed: int,
                 preparation: Preparation, mirrored: bool = True, most: int | None = None) -> None:
        self.images = images
        self.labels = split.labels
        self.classes = split.classes
        self.batch_size = batch_size
        self.train = train
        self.seed = seed
        self.mirrored = mirrored
        self.preparation = preparation
        self.affine = affine(preparation)
        self.num_images = min(len(split.labels), most or len(split.labels))
        self.epoch = 0
        self.part = (0, 1)

    def __len__(self) -> int:
        return -(-self.num_images // self.batch_size)

    def __iter__(self) -> Iterator[tuple[jt.Var, jt.Var]]:
        for batch, (images, flips, labels) in zip(self._batches(), self.host_batches()):
            if self.train:
                self.part = self._part(batch)
            yield to_input(images, flips, self.affine), jt.array(labels)

    def _part(self, batch: int) -> tuple[int, int]:
        """(which, of how many) equal parts of a training batch is this process's."""
        whole = (batch + 1) * self.batch_size <= self.num_images
        return (jt.rank, jt.world_size) if whole else (0, 1)

    def some(self, most: int) -> Iterator[jt.Var]:
        """Of a split to test, at most `most` images, spread evenly over it, as float32 batches; all
        of them for every process."""
        rows = np.unique(np.linspace(0, self.num_images - 1, min(most, self.num_images)).round())
        for start in range(0, len(rows), self.batch_size):
            indices = rows[start:start + self.batch_size].astype(int)
            pixels = self.images.crops(indices, np.random.default_rng(self.seed))
            unmirrored = np.zeros(len(indices), np.uint8)
            yield to_input(permute(pixels, self.preparation), unmirrored, self.affine)

    def gather(self, rows: np.ndarray) -> np.ndarray:
        """`rows` [images this process tested, ...] of all processes: [num_images, ...] in order, on
        each of them."""
        if jt.world_size == 1:
            return rows
        everything = np.zeros((self.num_images, *rows.shape[1:]), rows.dtype)
        if jt.rank < len(self):  # else it did what another did too
            numbers = np.arange(self.num_images)
            size = self.batch_size
            tested = [numbers[batch * size:(batch + 1) * size] for batch in self._batches()]
            everything[np.concatenate(tested)] = rows
        return jt.array(everything).mpi_all_reduce("add").numpy()

    def _batches(self) -> range:
        """The numbers of the batches that this process takes part in."""
        if self.train:
            return range(len(self))
        return range(jt.rank % len(self), len(self), jt.world_size)

    def host_batches(self) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """One epoch as (uint8 [B, 3, size, size], flips uint8 [B], labels int32 [B]), prepared
        ahead in a thread. An image whose flip is 1 is to be mirrored, which to_input does."""
        epoch = self.epoch
        self.epoch += 1
        order = np.arange(len(self.labels))
        if self.train:
            np.random.default_rng((self.seed, epoch)).shuffle(order)
            order = order[:self.num_images]

        def prepare(batch: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
            rng = np.random.default_rng((self.seed, epoch, batch + 1))  # 0 would be the shuffle's
            indices = order[batch * self.batch_size:(batch + 1) * self.batch_size]
            flips = rng.integers(0, 1 + (self.train and self.mirrored), len(indices), np.uint8)
            part, parts = self._part(batch) if self.train else (0, 1)
            mine = slice(part * len(indices) // parts, (part + 1) * len(indices) // parts)
            pixels = permute(self.images.crops(indices, rng, mine), self.preparation)
            return pixels, flips[mine], self.labels[indices[mine]]

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


def affine(preparation: Preparation) -> np.ndarray:
    """float32 [2, 3]: scale and shift of each colour of a uint8 image, which normalise it."""
    scales = [1 / (255 * std) for std in preparation.std]
    shifts = [-mean / std for mean, std in zip(preparation.mean, preparation.std)]
    return np.array([scales, shifts], np.float32)


AFFINE = affine(Preparation(224, "resize", MEAN, STD))  # ImageNet's

# One pass over the pixels on all cores. Jittor's own operators take three times as long on the CPU,
# because they do not vectorise the mirrored index.
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


def to_input(images: np.ndarray, flips: np.ndarray, normalised: np.ndarray = AFFINE) -> jt.Var:
    """uint8 [B, 3, H, W] to the network's input on the device: mirrored where `flips` (uint8 [B])
    is 1, and normalised to float32 (x / 255 - mean) / std, which `normalised` is as `affine` gives
    it."""
    pixels = jt.array(images)
    flip = jt.array(flips)
    scale_shift = jt.array(normalised)
    if not jt.flags.use_cuda:
        inputs = [pixels, flip, scale_shift]
        return jt.code(pixels.shape, "float32", inputs, cpu_src=TO_INPUT_CPU)
    return to_input_by_operators(pixels, flip, scale_shift)


def to_input_by_operators(pixels: jt.Var, flip: jt.Var, affine: jt.Var) -> jt.Var:
    """The same from Jittor's own operators, which become one kernel on the GPU."""
    indices = ["i0", "i1", "i2", "@e0(i0) ? xshape3 - 1 - i3 : i3"]
    mirrored = pixels.reindex(pixels.shape, indices, extras=[flip])
    scale = affine[0].reshape((1, 3, 1, 1))
    shift = affine[1].reshape((1, 3, 1, 1))
    return mirrored.float32() * scale + shift


class Rows:
    """Some of the images of a split: those of `rows`."""

    def __init__(self, images, rows: np.ndarray) -> None:
        self.images = images
        self.rows = rows

    def crops(self, indices: np.ndarray, rng: np.random.Generator,
              mine: slice = slice(None)) -> np.ndarray:
        return self.images.crops(self.rows[indices], rng, mine)


class Together:
    """The images of several sources, [(source, how many it has)], one after another."""

    def __init__(self, sources: list[tuple]) -> None:
        self.sources = [source for source, _ in sources]
        self.starts = np.cumsum([0, *(count for _, count in sources)])

    def crops(self, indices: np.ndarray, rng: np.random.Generator,
              mine: slice = slice(None)) -> np.ndarray:
        batch = None
        for source, start, end in zip(self.sources, self.starts, self.starts[1:]):
            rows = np.flatnonzero((indices >= start) & (indices < end))
            if len(rows):
                pixels = source.crops(indices[rows] - start, rng)
                if batch is None:
                    batch = np.empty((len(indices), *pixels.shape[1:]), np.uint8)
                batch[rows] = pixels
        return batch[mine]


def unlabelled(sources: list[Loader] | str | Path, most: int, *, batch_size: int, seed: int,
               image_size: int, cache_dir: str | Path, crop: str) -> Loader:
    """A loader of training images whose labels are all 0, prepared as those of the base task are:
    those of the loaders `sources`, or every image at or below a folder. `most`: as of Loader.
    Raises DataError."""
    preparation = preparation_of("photographs", image_size, crop, "train")
    if isinstance(sources, list):
        images = Together([(loader.images, loader.num_images) for loader in sources])
        count = sum(loader.num_images for loader in sources)
    else:
        files, others = read_photographs(sources)
        if others and not jt.rank:
            say(f"{sources}: {len(files.paths):,} images; {others:,} other files are left out.")
        images = CachedImages(files, "recovery", preparation, Path(cache_dir), CROPS[crop])
        count = len(files.paths)
    split = Split(Path(), [], [], np.zeros(count, np.int32))
    return Loader(images, split, batch_size, True, seed, preparation, crop != "whole", most)


def create_dataloader(dataset_name: str, data_root: str | Path = "data", split: str = "train",
                      batch_size: int = 32, *, seed: int = 0, image_size: int = 224,
                      cache_dir: str | Path | None = None, validation: float = 0.0,
                      preparation: Preparation | None = None, crop: str = "resized",
                      normalise: str = "imagenet") -> tuple[Loader, int]:
    """(loader, num_classes) of one split ("train", "validation", "portrait" or "test") of a data
    set.

    `image_size`: the side of the network's input in pixels; the short side of what is cropped to it
    is 256/224 of it. `validation`: the fraction of the training split that is held out of "train"
    (images.folders.hold_out), and is "validation", prepared as test images are. "portrait": up to
    packing.portrait.IMAGES of "train", in order and prepared as test images are, too. `crop`: how
    training images are cropped that are not cropped to boxes (a key of images.crops.CROPS).
    `normalise`: by ImageNet's mean and deviation, or "own", those of the training images of the
    data set, which are measured here. `preparation`: takes the place of the data set's own
    preparation, as the entry of a task in a packed file has it. The defaults are main.py's.

    The first call decodes the images into the cache (`cache_dir`, by default `<data_root>/.cache`);
    a file that cannot be decoded is found here, before any training. Raises DataError.
    """
    if batch_size < 1:
        raise DataError(f"batch_size {batch_size} must be at least 1")
    train = split == "train"
    about = data_set(dataset_name)
    of_train = split in ("validation", "portrait")
    files = read_split(dataset_name, data_root, "train" if of_train else split)
    if PERMUTED.fullmatch(dataset_name):
        crop = "whole"  # neither cropped nor mirrored: its pixels have lost their places
    name = about.folder_in(data_root).name
    cache = Path(cache_dir or Path(data_root) / ".cache")
    rest, held_out = hold_out(files, validation, seed) if validation else (None, None)
    if split == "validation":
        files = files.of(held_out)
        name = f"{name}-validation"
    if split == "portrait":
        files = evenly(files.of(rest) if validation else files, IMAGES)
        name = f"{name}-portrait"
    if preparation is None:
        own = normalise == "own" and not about.large  # large ones keep ImageNet's
        colours = own_colours(dataset_name, data_root, image_size, cache, crop) if own else ()
        preparation = preparation_of(dataset_name, image_size, crop, "test", *colours)
    once = split == "portrait"  # looked at one time: not worth a place in the cache
    kind = StreamedImages if once or about.large and train else CachedImages
    decoded = preparation_of(dataset_name, image_size, crop, "train") if train else preparation
    draw = CROPS[crop] if train and not about.boxes else None
    images = kind(files, name, decoded, cache, draw)
    if train and validation:
        files = files.of(rest)
        images = Rows(images, rest)  # the cache is that of the whole split
    loader = Loader(images, files, batch_size, train, seed, preparation, mirrored=crop != "whole")
    return loader, len(files.classes)


def evenly(files: Split, most: int) -> Split:
    """`most` of the images, every so-many-th; all where there are no more."""
    count = min(most, len(files.paths))
    return files.of(np.arange(count) * len(files.paths) // max(1, count))


def own_colours(dataset_name: str, data_root: str | Path, image_size: int, cache: Path,
                crop: str) -> tuple[list[float], list[float]]:
    """Mean and deviation of the training images, as they are before they are cropped. Raises
    DataError."""
    files = read_split(dataset_name, data_root, "train")
    name = data_set(dataset_name).folder_in(data_root).name
    preparation = preparation_of(dataset_name, image_size, crop, "train")
    return CachedImages(files, name, preparation, cache, CROPS[crop]).colours()
