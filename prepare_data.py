"""From the official archives to data/: crop, sort into train and test, and check that nothing is lost.

    python prepare_data.py --archives DIR [--data-root data] [--contact-sheet sheet.png]       # CUBS, Cars, Flowers
    python prepare_data.py --archives DIR --dataset cifar100 mnist

Reads the archives as they were published (docs/data.md lists their names), straight from the .tgz files:

* CUB-200-2011: each image cropped to its bounding box (x, y, width, height as floats, 0-based).
* Stanford Cars, in either published form: cropped to its box (x1, y1, x2, y2, 1-based, both ends included).
* Oxford Flowers 102: the official JPEG files byte for byte; train is the official train and valid together.
* CIFAR-100 and MNIST: arrays of pixels (images/arrays.py), as PNG; several data sets each.

A data set grows in `<data root>/.<folder>.partial` and takes its name only when every image is there and the counts
are the official ones. Stop it at any moment and start it again: it makes what is missing. Crops are stored as JPEG of
quality 100 without chroma subsampling, see docs/data.md for why. Wrong archives end with one message and exit code 2.
"""
import argparse
import io
import os
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from urllib.parse import quote

from system import processes  # first: it says in one sentence which package is missing

# isort: split
import numpy as np
from PIL import Image, ImageDraw, ImageOps

from images.archives import ArchiveError, DamagedArchive, find, members, small_files
from images.arrays import read_cifar100, read_mnist
from images.folders import CIFAR100, MNIST, OFFICIAL, dataset_folder
from system.errors import complain
from system.files import replacing
from system.processes import cores
from system.progress import Progress

JPEG = dict(format="JPEG", quality=100, subsampling=0)  # differences of at most 4 levels: benchmarks/crops.py


@dataclass(frozen=True)
class Picture:
    """One image to be made: its member in an archive, where it goes, and its box (left, top, right, bottom;
    0-based, right and bottom excluded; None for the file as it is)."""
    member: str
    split: str
    label: str
    box: tuple[float, float, float, float] | None


def load_mat(content: bytes, path: str | Path) -> dict:
    from scipy.io import loadmat
    try:
        return loadmat(io.BytesIO(content), squeeze_me=True, struct_as_record=False)
    except Exception as error:  # loadmat raises many kinds
        raise ArchiveError(f"{path}: is no MATLAB 5 file ({error})") from error


# ------------------------------------------------------------------------------------------------ the three data sets

def folder_name(class_name: str) -> str:
    """A class name as a folder name. A slash becomes %2F, so that it can be turned back (urllib.parse.unquote)."""
    return quote(class_name, safe=" !#$&'()+,-.;=@[]^_`{}~") if "/" in class_name or "%" in class_name else class_name


def read_cubs(folder: Path) -> list[tuple[Path, list[Picture]]]:
    path = find(folder, "CUB_200_2011.tgz", "CUB_200_2011.tar.gz")
    names = ("images.txt", "image_class_labels.txt", "train_test_split.txt", "bounding_boxes.txt", "classes.txt")
    try:
        tables = {name: {line.split()[0]: line.split()[1:] for line in content.decode().splitlines() if line.strip()}
                  for name, content in small_files(path, [f"CUB_200_2011/{name}" for name in names]).items()}
        images, labels, split, boxes, classes = (tables[f"CUB_200_2011/{name}"] for name in names)
        pictures = []
        for number, (file,) in images.items():
            x, y, width, height = map(float, boxes[number])
            pictures.append(Picture(f"images/{file}", "train" if split[number][0] == "1" else "test",
                                    classes[labels[number][0]][0], (x, y, x + width, y + height)))
    except (KeyError, ValueError, IndexError, UnicodeDecodeError) as error:
        raise ArchiveError(f"{path}: its lists (images.txt, bounding_boxes.txt, ...) do not fit together "
                           f"({type(error).__name__}: {error})") from error
    return [(path, pictures)]


def read_cars(folder: Path) -> list[tuple[Path, list[Picture]]]:
    """Either car_ims.tgz with cars_annos.mat, or cars_train.tgz, cars_test.tgz, car_devkit.tgz and
    cars_test_annos_withlabels.mat."""
    def box(a) -> tuple[float, float, float, float]:
        return float(a.bbox_x1) - 1, float(a.bbox_y1) - 1, float(a.bbox_x2), float(a.bbox_y2)

    try:
        if (folder / "car_ims.tgz").exists() or (folder / "cars_annos.mat").exists():
            images, annotations = find(folder, "car_ims.tgz"), find(folder, "cars_annos.mat")
            content = load_mat(annotations.read_bytes(), annotations)
            names = [str(name) for name in np.atleast_1d(content["class_names"])]
            return [(images, [Picture(str(a.relative_im_path), "test" if int(a.test) else "train", names[int(a.__dict__["class"]) - 1],
                                      box(a)) for a in np.atleast_1d(content["annotations"])])]
        train, test, devkit = (find(folder, name) for name in ("cars_train.tgz", "cars_test.tgz", "car_devkit.tgz"))
        labels = find(folder, "cars_test_annos_withlabels.mat")
        files = small_files(devkit, ["devkit/cars_meta.mat", "devkit/cars_train_annos.mat"], whole=True)
        names = [str(name) for name in np.atleast_1d(load_mat(files["devkit/cars_meta.mat"], devkit)["class_names"])]
        result = []
        for split, images, content, source in (("train", train, files["devkit/cars_train_annos.mat"], devkit),
                                               ("test", test, labels.read_bytes(), labels)):
            annotations = np.atleast_1d(load_mat(content, source)["annotations"])
            result.append((images, [Picture(f"cars_{split}/{a.fname}", split, names[int(a.__dict__["class"]) - 1], box(a))
                                    for a in annotations]))
        return result
    except (KeyError, AttributeError, ValueError, IndexError, TypeError) as error:
        raise ArchiveError(f"{folder}: the annotations of Stanford Cars are not as published "
                           f"({type(error).__name__}: {error})") from error


def read_flowers(folder: Path) -> list[tuple[Path, list[Picture]]]:
    path, labels, sets = (find(folder, name) for name in ("102flowers.tgz", "imagelabels.mat", "setid.mat"))
    try:
        label = np.atleast_1d(load_mat(labels.read_bytes(), labels)["labels"])
        ids = load_mat(sets.read_bytes(), sets)
        return [(path, [Picture(f"jpg/image_{i:05}.jpg", split, f"{label[i - 1]:03}", None)
                        for split, keys in (("train", ("trnid", "valid")), ("test", ("tstid",)))
                        for key in keys for i in np.atleast_1d(ids[key]).tolist()])]
    except (KeyError, ValueError, IndexError, TypeError) as error:
        raise ArchiveError(f"{folder}: imagelabels.mat and setid.mat do not fit together "
                           f"({type(error).__name__}: {error})") from error


READERS = {"cubs": read_cubs, "cars": read_cars, "flowers": read_flowers}
ARRAYS = {"cifar100": (read_cifar100, CIFAR100), "mnist": (read_mnist, MNIST)}  # and the data sets that are made of them


# ------------------------------------------------------------------------------------------------ making the images

def clipped_box(box: tuple[float, float, float, float], size: tuple[int, int]) -> tuple[int, int, int, int] | None:
    """The pixels of a box that lie in an image of `size` (width, height): whole pixels the box touches; None where
    nothing is left."""
    left, top = max(0, int(np.floor(box[0]))), max(0, int(np.floor(box[1])))
    right, bottom = min(size[0], int(np.ceil(box[2]))), min(size[1], int(np.ceil(box[3])))
    return (left, top, right, bottom) if left < right and top < bottom and box[0] < box[2] and box[1] < box[3] else None


def make(picture: Picture, content: bytes, source: Path, target: Path) -> None:
    """Crop one image, if it has a box, and write it in one step."""
    try:
        with Image.open(io.BytesIO(content)) as image:
            image.load()
            if picture.box:
                pixels = clipped_box(picture.box, image.size)
                if pixels is None:
                    raise ArchiveError(f"{source}: the box {picture.box} of {picture.member} holds no pixel of its "
                                       f"{image.size[0]}x{image.size[1]} image")
                buffer = io.BytesIO()
                image.convert("RGB").crop(pixels).save(buffer, **JPEG)
                content = buffer.getvalue()
    except ArchiveError:
        raise
    except Exception as error:  # Pillow raises many kinds for broken files
        raise ArchiveError(f"{source}: {picture.member} cannot be decoded as an image ({error})") from error
    store(content, target)


def store(content: bytes, target: Path) -> None:
    """Write a file in one step. It is not forced to the disk, which takes milliseconds for each of a hundred thousand (2 of an SSD's):
    `completed` does it for all, and what a power cut before that has left empty is made again."""
    temporary = target.with_name(f".{target.name}")
    temporary.write_bytes(content)
    os.replace(temporary, target)


def is_made(target: Path) -> bool:
    return target.is_file() and target.stat().st_size > 0


def prepare(name: str, archives: Path, data_root: Path, counts: tuple[int, int, int]) -> str:
    """Make one data set, or what is missing of it. Returns a line that says what is there."""
    final = dataset_folder(name, data_root)
    if final.exists():
        return there_already(name, final, counts)
    sources = READERS[name](archives)
    pictures = [picture for _, some in sources for picture in some]
    expected = {split: len({p.label for p in pictures if p.split == split}) for split in ("train", "test")}
    found = (expected["train"], *(sum(p.split == split for p in pictures) for split in ("train", "test")))
    if found != counts or expected["train"] != expected["test"]:
        raise ArchiveError(f"{name}: the archive's lists give {describe(found, counts)}")
    partial = final.with_name(f".{final.name}.partial")
    for split, label in {(p.split, p.label) for p in pictures}:
        (partial / split / folder_name(label)).mkdir(parents=True, exist_ok=True)
    with Progress(total=len(pictures), desc=f"Making {final.name}", unit="image") as bar, ThreadPoolExecutor(cores()) as pool:
        for path, some in sources:
            targets = {p.member: (p, partial / p.split / folder_name(p.label) / f"{PurePosixPath(p.member).stem}.jpg")
                       for p in some}
            checked = partial / f".{path.name}.checked"  # that it was read to its end
            missing = {member for member, (_, target) in targets.items() if not is_made(target)}
            bar.update(len(some) - len(missing))
            running = set()
            try:
                for member, content in members(path) if missing or not checked.exists() else ():
                    key = next((end for end in (member, *_ends(member)) if end in missing), None)
                    if key is None:
                        continue
                    missing.discard(key)
                    picture, target = targets[key]
                    running.add(pool.submit(make, picture, content(), path, target))
                    if len(running) >= 8 * cores():  # so that the reader does not run away with the memory
                        _finish(running, bar, all_of_them=False)
            except DamagedArchive:
                _finish(running, bar, all_of_them=True)
                for _, target in targets.values():
                    target.unlink(missing_ok=True)
                raise
            _finish(running, bar, all_of_them=True)
            if missing:
                raise ArchiveError(f"{path}: holds no {sorted(missing)[0]}, which its list names ({len(missing)} images "
                                   "are missing): this is not the official archive")
            checked.touch()
    return completed(name, partial, final, counts)


def prepare_arrays(archive: str, archives: Path, data_root: Path) -> Iterator[str]:
    """Make the data sets of one of ARRAYS, or what is missing of them. Yields a line for each that says what is there."""
    read, names = ARRAYS[archive]
    made = {name for name in names if dataset_folder(name, data_root).exists()}
    content = read(archives) if made != set(names) else {}
    for name, splits in content.items():
        labels = {split: labels for split, (_, labels) in splits.items()}
        found = len(set(labels["train"])), len(labels["train"]), len(labels["test"])
        if found != OFFICIAL[name] or set(labels["train"]) != set(labels["test"]):
            raise ArchiveError(f"{name}: the archive holds {describe(found, OFFICIAL[name])}")
    for name in names:
        final, counts = dataset_folder(name, data_root), OFFICIAL[name]
        if name in made:
            yield there_already(name, final, counts)
            continue
        partial = final.with_name(f".{final.name}.partial")
        with ThreadPoolExecutor(cores()) as pool, Progress(total=sum(counts[1:]), desc=f"Making {final.name}", unit="image") as bar:
            for split, (pixels, labels) in content[name].items():
                for label in set(labels):
                    (partial / split / label).mkdir(parents=True, exist_ok=True)
                targets = [partial / split / label / f"{number:05}.png" for number, label in enumerate(labels)]
                for _ in pool.map(make_png, pixels, targets):
                    bar.update()
        yield completed(name, partial, final, counts)


def make_png(pixels: np.ndarray, target: Path) -> None:
    """Write uint8 [H, W] or [H, W, 3], unless it was written before."""
    if not is_made(target):
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, "PNG")
        store(buffer.getvalue(), target)


def there_already(name: str, final: Path, counts: tuple[int, int, int]) -> str:
    return f"{name}: {final} is there already, left as it is: {describe(counted(final), counts)}"


def completed(name: str, partial: Path, final: Path, counts: tuple[int, int, int]) -> str:
    """Give a data set its name, if it is whole."""
    made = counted(partial)
    if made != counts:
        raise ArchiveError(f"{partial}: holds {describe(made, counts)}. Remove the folder and start again.")
    for checked in partial.glob(".*.checked"):
        checked.unlink()
    os.sync()  # the images before the name that says they are all there
    partial.rename(final)
    return f"{name}: {describe(made, counts)}"


def _ends(member: str) -> list[str]:
    """The path without its leading folders, one after another: archives differ in what they put in front."""
    parts = member.split("/")
    return ["/".join(parts[i:]) for i in range(1, len(parts))]


def _finish(running: set, bar: Progress, all_of_them: bool) -> None:
    while running:
        done, _ = wait(running, return_when=FIRST_COMPLETED)
        for future in done:
            future.result()
            bar.update()
        running -= done
        if not all_of_them:
            return


def counted(folder: Path) -> tuple[int, int, int]:
    """(classes, train images, test images) on disk."""
    splits = [{entry.name: len([f for f in os.listdir(entry) if not f.startswith(".")]) for entry in os.scandir(folder / split)}
              if (folder / split).is_dir() else {} for split in ("train", "test")]
    return len(splits[0].keys() | splits[1].keys()), sum(splits[0].values()), sum(splits[1].values())


def describe(found: tuple[int, int, int], official: tuple[int, int, int]) -> str:
    text = f"{found[0]} classes, {found[1]:,} train and {found[2]:,} test images"
    return text + (", as published" if found == official else
                   f", but official are {official[0]}, {official[1]:,} and {official[2]:,}")


# ------------------------------------------------------------------------------------------------ a look at it

def contact_sheet(folders: list[Path], target: Path, columns: int = 10, side: int = 120) -> None:
    """A row or two of crops per data set, evenly over the classes, each whole and undistorted, on one picture."""
    rows = []
    for folder in folders:
        classes = sorted(p for p in (folder / "train").iterdir() if p.is_dir())
        chosen = np.linspace(0, len(classes) - 1, min(2 * columns, len(classes))).round().astype(int)
        rows.append((folder.name, [sorted(classes[i].iterdir())[0] for i in chosen]))
    heights = [24 + -(-len(files) // columns) * (side + 6) for _, files in rows]
    sheet = Image.new("RGB", (columns * (side + 6) + 6, sum(heights) + 6), "white")
    pen, top = ImageDraw.Draw(sheet), 6
    for (name, files), height in zip(rows, heights):
        pen.text((6, top + 4), name, fill="black")
        for i, file in enumerate(files):
            with Image.open(file) as image:
                image = ImageOps.contain(image.convert("RGB"), (side, side))
                sheet.paste(image, (6 + i % columns * (side + 6) + (side - image.width) // 2,
                                    top + 24 + i // columns * (side + 6) + (side - image.height) // 2))
        top += height
    with replacing(target) as temporary:
        sheet.save(temporary, format="PNG")


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0], allow_abbrev=False)
    parser.add_argument("--archives", type=Path, required=True, help="folder with the official archives")
    parser.add_argument("--data-root", type=Path, default=Path("data"), help="where the folders go (default: data)")
    parser.add_argument("--dataset", nargs="+", choices=[*READERS, *ARRAYS], default=list(READERS), help="which (default: the three of "
                        "the paper)")
    parser.add_argument("--contact-sheet", type=Path, help="also draw some crops of each data set to this PNG file")
    options = parser.parse_args(arguments)
    try:
        if not options.archives.is_dir():
            raise ArchiveError(f"--archives {options.archives}: no such folder")
        for name in options.dataset:
            for line in prepare_arrays(name, options.archives, options.data_root) if name in ARRAYS else \
                    [prepare(name, options.archives, options.data_root, OFFICIAL[name])]:
                print(line, flush=True)
        if options.contact_sheet:
            made = [folder for name in options.dataset for folder in (ARRAYS[name][1] if name in ARRAYS else [name])]
            contact_sheet([dataset_folder(name, options.data_root) for name in made], options.contact_sheet)
    except ArchiveError as error:
        return complain(error)
    except OSError as error:
        return complain(f"{error.filename or options.data_root}: {error.strerror}")
    return 0


if __name__ == "__main__":
    processes.leave(main())
