"""The pixels of a split: decoded once into a file, or, where they are too many, as they are asked
for.

The file may be deleted at any time. Measured with benchmarks/loader.py.
"""
import contextlib
import errno
import hashlib
import os
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from images.crops import Place, cut
from images.folders import DataError, Split, is_file, listed
from images.preprocess import Preparation, preprocess, short_side_size, upright_size
from system.files import replacing, write
from system.processes import cores
from system.progress import Progress

# Of images.crops.CROPS.
Draw = Callable[[np.ndarray, int, np.random.Generator], list[Place | None]] | None

AHEAD = 32  # files a thread has before it: all of a large set at once would take gigabytes
RULES = 2  # of images.preprocess: another number when the same file becomes other pixels
REPLACE = "Replace or remove."


class CachedImages:
    """A split, decoded once: `crops(indices, rng)` gives uint8 [B, 3, size, size].

    The file holds the sizes (npy, int32 [N, 2]) and the planes of all images one after another. Its
    name holds a fingerprint of the sources (path, bytes, time of change) and of the preprocessing.
    `draw`: the kind of crop, of which each image gets one anew each time; None where they have the
    size already.
    """

    def __init__(self, split: Split, name: str, preparation: Preparation, cache_dir: Path,
                 draw: Draw) -> None:
        self.size = preparation.size
        self.draw = draw
        self.pool = ThreadPoolExecutor(cores())
        where = str(split.folder.resolve()).encode("utf8", "surrogateescape")
        place = hashlib.sha256(where).hexdigest()[:8]  # another data root may share the cache
        stem = f"{name}-{split.folder.name}-{preparation.fit}{preparation.size}-{place}-"
        path = cache_dir / f"{stem}{_fingerprint(split, preparation.fit, preparation.size)}.pixels"
        if not path.exists():
            self._build(split, preparation, path)
            for old in set(cache_dir.glob(f"{stem}{'?' * 16}.pixels")) - {path}:
                old.unlink(missing_ok=True)  # the sources have changed since
        with open(path, "rb") as f:
            self.sizes = np.load(f)
            self.pixels = np.asarray(np.memmap(f, np.uint8, "r", offset=f.tell()))
        lengths = 3 * np.prod(self.sizes, axis=1, dtype=np.int64)
        self.starts = np.concatenate([[0], np.cumsum(lengths)])
        # Without crops: [N, 3, size, size], so that a batch is one gather.
        self.uniform = self.pixels.reshape(-1, 3, self.size, self.size) if draw is None else None

    def _build(self, split: Split, preparation: Preparation, path: Path) -> None:
        files = [split.folder / name for name in split.paths]
        label = f"{split.folder.parent.name}/{split.folder.name}"
        sizes = np.full((len(files), 2), self.size, np.int32)
        with ThreadPoolExecutor(cores()) as pool:
            originals = collect(pool, upright_size, files, f"Checking {label}")
            if preparation.fit == "short_side":
                scaled = [short_side_size(original, self.size) for original in originals]
                sizes = np.array(scaled, np.int32)
            lengths = 3 * np.prod(sizes, axis=1, dtype=np.int64)
            starts = np.cumsum(lengths) - lengths
            try:
                with replacing(path) as temporary, open(temporary, "wb") as f:
                    np.save(f, sizes)
                    offset = f.tell()
                    f.flush()

                    def store(i: int) -> None:
                        pixels = preprocess(files[i], preparation).tobytes()
                        if os.pwrite(f.fileno(), pixels, offset + int(starts[i])) != lengths[i]:
                            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

                    collect(pool, store, range(len(files)), f"Decoding {label}, once")
            except OSError as error:
                full = error.errno == errno.ENOSPC
                need = f", {lengths.sum() / 1e9:.2f} GB are needed" if full else ""
                raise DataError(f"{path.parent}: cannot write the cache of {label} "
                                f"({error.strerror}{need}). Choose another folder with --cache-dir."
                                ) from error

    def crops(self, indices: np.ndarray, rng: np.random.Generator,
              mine: slice = slice(None)) -> np.ndarray:
        """The images `indices[mine]`; what is drawn from `rng` is drawn for all of `indices`."""
        if self.uniform is not None:
            return self.uniform[indices[mine]]
        places = self.draw(self.sizes[indices], self.size, rng)[mine]
        batch = np.empty((len(places), 3, self.size, self.size), np.uint8)

        def fill(first: int) -> None:
            for row in range(first, len(batch), cores()):
                i = indices[mine][row]
                image = self.pixels[self.starts[i]:self.starts[i + 1]].reshape(3, *self.sizes[i])
                batch[row] = cut(image, places[row], self.size)

        list(self.pool.map(fill, range(cores())))
        return batch

    def colours(self) -> tuple[list[float], list[float]]:
        """(mean, standard deviation) of all pixels in [0, 1], by colour; from exact counts, so that
        they are the same to the bit wherever they are computed."""
        counts = np.zeros((3, 256), np.int64)
        area = int(np.prod(self.sizes[0]))
        together = max(1, 2 ** 20 // area) if (self.sizes == self.sizes[0]).all() else 1
        for first in range(0, len(self.sizes), together):
            last = min(first + together, len(self.sizes))
            images = self.pixels[self.starts[first]:self.starts[last]].reshape(last - first, 3, -1)
            counts += [np.bincount(images[:, colour].ravel(), minlength=256) for colour in range(3)]
        return mean_and_deviation(counts)


class StreamedImages:
    """A split too large to keep: decoded and resized each time it is asked for, then cropped as
    `draw` says.

    Once for every state of the files their headers are read, by the first process that comes; a
    file that is broken further in is found when it is its turn.
    """

    def __init__(self, split: Split, name: str, preparation: Preparation, cache_dir: Path,
                 draw: Draw) -> None:
        self.preparation = preparation
        self.size = preparation.size
        self.draw = draw
        self.files = [split.folder / path for path in split.paths]
        self.pool = ThreadPoolExecutor(cores())
        fingerprint = _fingerprint(split, "headers", 0)
        checked = cache_dir / f"{name}-{split.folder.name}-{fingerprint}.checked"
        if not checked.exists():
            collect(self.pool, upright_size, self.files, f"Checking {split.folder}")
            with contextlib.suppress(OSError):  # where it cannot be written: next time again
                write(checked, b"")

    def crops(self, indices: np.ndarray, rng: np.random.Generator,
              mine: slice = slice(None)) -> np.ndarray:
        rngs = rng.spawn(len(indices))
        return np.stack(list(self.pool.map(self._one, indices[mine], rngs[mine])))

    def _one(self, i: int, rng: np.random.Generator) -> np.ndarray:
        image = preprocess(self.files[i], self.preparation)
        if self.draw is None:
            return image
        place, = self.draw(np.array([image.shape[1:]]), self.size, rng)
        return cut(image, place, self.size)


def mean_and_deviation(counts: np.ndarray) -> tuple[list[float], list[float]]:
    """Of how often each level occurs, int64 [colours, 256]: (mean, standard deviation) by colour,
    in [0, 1]; a deviation of 0 is 1."""
    levels = np.arange(256)
    number = int(counts[0].sum())
    # Python's integers: number * squares is beyond int64 from some 40 million pixels on.
    sums = (counts @ levels).astype(object)
    squares = (counts @ levels ** 2).astype(object)
    variances = (number * squares - sums ** 2) / (255.0 * number) ** 2
    deviations = [float(variance) ** 0.5 or 1.0 for variance in variances]
    return (sums / (255.0 * number)).tolist(), deviations


def _fingerprint(split: Split, fit: str, size: int) -> str:
    """Of all files and of how they are prepared. Raises DataError for whatever is no file."""
    digest = hashlib.sha256(f"{RULES} {fit} {size}".encode())
    broken = []
    folder = str(split.folder)  # to join Paths takes five times as long as to ask the disk
    for path in split.paths:
        try:
            status = is_file(f"{folder}/{path}")
        except DataError as error:
            broken.append(error)
            continue
        line = f"\n{path}\0{status.st_size}\0{status.st_mtime_ns}"
        digest.update(line.encode("utf8", "surrogateescape"))
    if broken:
        raise listed(broken, REPLACE)
    return digest.hexdigest()[:16]


def collect(pool: ThreadPoolExecutor, function: Callable, arguments: Sequence, title: str) -> list:
    """function(argument) of all of them, in order; a few at a time are under way. One pass finds
    every broken file: raises one DataError for all."""
    def attempt(argument):
        try:
            return function(argument)
        except DataError as error:
            return error

    results = []
    running = deque()
    for argument in Progress(arguments, title, unit="image"):
        running.append(pool.submit(attempt, argument))
        if len(running) > AHEAD * cores():
            results.append(running.popleft().result())
    results += [future.result() for future in running]
    broken = [result for result in results if isinstance(result, DataError)]
    if broken:
        raise listed(broken, REPLACE)
    return results
