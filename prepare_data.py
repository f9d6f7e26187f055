"""From the archives of a data set to data/: crop, sort into train and test, and check that nothing
is lost.

    python prepare_data.py --archives DIR [--data-root data] [--contact-sheet sheet.png]
    python prepare_data.py --archives DIR --dataset cifar100 mnist
    python prepare_data.py --dataset fashion-mnist sklearn-digits   # where packages have put them

Without --dataset: CUBS, Cars and Flowers. DIR holds the archives as they were published, the same
files packed as .tar or .zip, or unpacked (images/archives.py); docs/data.md lists their names.

* CUB-200-2011: each image cropped to its bounding box.
* Stanford Cars, in whichever form is complete: cropped to its box.
* Oxford Flowers 102: the official JPEG files byte for byte; train is the official train and valid
  together.
* CIFAR-100, MNIST, what has MNIST's form, scikit-learn's digits and SVHN: arrays of pixels
  (images/arrays.py), as PNG; of CIFAR-100, MNIST and Fashion-MNIST several data sets each.

* Tiny ImageNet (--dataset tiny-imagenet): ten data sets of 20 classes, the files as they are.
* MIT Indoor 67, FGVC Aircraft, the actions of VOC 2012 and the letters of Chars74K
  (images/recogseq.py): the files as they are, but each acting person cropped to the box.
* ImageNet and Places365 (--dataset imagenet places): sorted into a folder for each class, the files
  as they are.

A data set grows in `<data root>/.<folder>.partial` and takes its name only when every image is
there and the counts are the official ones. Stop it at any moment and start it again: it makes what
is missing. Crops are stored as JPEG of quality 100 without chroma subsampling, see docs/data.md for
why. Wrong archives end with one message and exit code 2.
"""
import importlib.util
import io
import os
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from pathlib import Path, PurePosixPath
from urllib.parse import quote

from system import processes  # first: it says in one sentence which package is missing

# isort: split
import numpy as np
from PIL import Image, ImageDraw, ImageOps
from PIL.PngImagePlugin import PngInfo

from images import parquet, recogseq, tfrecords
from images.archives import (
    ENDINGS,
    ArchiveError,
    Archives,
    DamagedArchive,
    Member,
    Missing,
    members,
)
from images.arrays import (
    EMNIST,
    read_cifar100,
    read_emnist,
    read_fashion_mnist,
    read_kmnist,
    read_mnist,
    read_sklearn_digits,
    read_svhn,
)
from images.datasets import (
    CIFAR100,
    FASHION,
    MNIST,
    OF_THE_PAPER,
    PUBLISHED,
    TINY_IMAGENET,
    another_split,
    dataset_folder,
)
from images.folders import is_of_the_data
from images.instead import instead
from images.large import imagenet_sorter, places_sorter
from images.pictures import (
    Picture,
    Sources,
    read_cars,
    read_cubs,
    read_flowers,
    read_tiny_imagenet,
)
from system.errors import CommandLine, run_cli
from system.files import replacing
from system.processes import cores
from system.progress import Progress

# Differences of at most 4 levels: benchmarks/crops.py.
JPEG = dict(format="JPEG", quality=100, subsampling=0)

DRAWN_BY = "prepare_data.py --contact-sheet"  # in a contact sheet

READERS = {"cubs": read_cubs, "cars": read_cars, "flowers": read_flowers}
READERS |= {name: read_tiny_imagenet(name) for name in TINY_IMAGENET}
READERS |= recogseq.READERS
# And the data sets that are made of each.
ARRAYS = {
    "cifar100": (read_cifar100, CIFAR100),
    "mnist": (read_mnist, MNIST),
    "fashion-mnist": (read_fashion_mnist, FASHION),
    "kmnist": (read_kmnist, ["kmnist"]),
    **{f"emnist-{kind}": (read_emnist(kind), [f"emnist-{kind}"]) for kind in EMNIST},
    "sklearn-digits": (read_sklearn_digits, ["sklearn-digits"]),
    "svhn": (read_svhn, ["svhn"]),
}


LARGE = {"imagenet": imagenet_sorter, "places": places_sorter}
Counts = tuple[int, int, int]  # of classes, training images, test images


def folder_name(class_name: str) -> str:
    """A class name as a folder name. A slash becomes %2F, so that it can be turned back
    (urllib.parse.unquote)."""
    if "/" in class_name or "%" in class_name:
        return quote(class_name, safe=" !#$&'()+,-.;=@[]^_`{}~")
    return class_name


# ---------------------------------------------------------------------------------------- the
# images

def clipped_box(box: tuple[float, float, float, float],
                size: tuple[int, int]) -> tuple[int, int, int, int] | None:
    """The pixels of a box that lie in an image of `size` (width, height): whole pixels the box
    touches; None where nothing is left."""
    left, top = max(0, int(np.floor(box[0]))), max(0, int(np.floor(box[1])))
    right, bottom = min(size[0], int(np.ceil(box[2]))), min(size[1], int(np.ceil(box[3])))
    some = left < right and top < bottom and box[0] < box[2] and box[1] < box[3]
    return (left, top, right, bottom) if some else None


def make(picture: Picture, content: bytes, source: Path, target: Path) -> None:
    """Crop one image, if it has a box, and write it in one step."""
    try:
        with Image.open(io.BytesIO(content)) as image:
            image.load()
            if picture.box:
                pixels = clipped_box(picture.box, image.size)
                if pixels is None:
                    raise ArchiveError(f"{source}: the box {picture.box} of {picture.member} holds "
                                       f"no pixel of its {image.size[0]}x{image.size[1]} image")
                buffer = io.BytesIO()
                image.convert("RGB").crop(pixels).save(buffer, **JPEG)
                content = buffer.getvalue()
    except ArchiveError:
        raise
    except Exception as error:  # Pillow raises many kinds for broken files
        raise ArchiveError(f"{source}: {picture.member} cannot be decoded as an image "
                           f"({error})") from error
    store(content, target)


def store(content: bytes, target: Path) -> None:
    """Write a file in one step. It is not forced to the disk, which takes milliseconds for each of
    a hundred thousand (2 of an SSD's): `completed` does it for all, and what a power cut before
    that has left empty is made again."""
    temporary = target.with_name(f".{target.name}")
    temporary.write_bytes(content)
    os.replace(temporary, target)


def is_made(target: Path) -> bool:
    return target.is_file() and target.stat().st_size > 0


def prepare(name: str, archives: Archives, data_root: Path) -> str:
    """Make one data set, or what is missing of it. Returns a line that says what is there."""
    official = PUBLISHED[name].counts
    final = dataset_folder(name, data_root)
    if final.exists():
        return there_already(name, final, official)
    sources = READERS[name](archives)
    counts = check_lists(name, sources, official)
    partial = final.with_name(f".{final.name}.partial")
    bar = Progress(total=sum(counts[1:]), desc=f"Making {final.name}", unit="image")
    with bar, ThreadPoolExecutor(cores()) as pool:
        for path, pictures in sources:
            make_all(path, pictures, partial, pool, bar)
    return completed(name, partial, final, counts)


def check_lists(name: str, sources: Sources, official: Counts | None) -> Counts:
    """How many classes and images the lists name. Raises ArchiveError unless these are the official
    ones, where there are such, both splits have the same classes, and no image is made twice."""
    labels, images = dict(train=set(), test=set()), dict(train=0, test=0)
    made = set()
    for path, pictures in sources:
        for picture in pictures:
            labels[picture.split].add(picture.label)
            images[picture.split] += 1
            place = picture.split, picture.label, picture.file
            if place in made:
                raise ArchiveError(f"{name}: the lists of {path} name {picture.member} twice, or "
                                   f"two images of {picture.label} would both be {picture.file}")
            made.add(place)
    found = len(labels["train"]), images["train"], images["test"]
    if official not in (None, found):
        raise ArchiveError(f"{name}: the archive's lists give {describe(found, official)}")
    if other := labels["train"] ^ labels["test"]:
        raise ArchiveError(f"{name}: by the archive's lists only one of training and test images "
                           f"has the class {min(other)}")
    return found


def make_all(path: Path, pictures: list[Picture], partial: Path, pool: ThreadPoolExecutor,
             bar: Progress) -> None:
    """Make the pictures of one container that are not made yet. Of a damaged one none is left."""
    targets = {}
    missing: dict[str, list[tuple[Picture, Path]]] = {}  # by member
    for picture in pictures:
        folder = partial / picture.split / folder_name(picture.label)
        folder.mkdir(parents=True, exist_ok=True)
        targets[picture] = folder / picture.file
        if not is_made(targets[picture]):
            missing.setdefault(picture.member, []).append((picture, targets[picture]))
    checked = partial / f".{path.name}.checked"  # that it was read to its end
    bar.update(len(pictures) - sum(map(len, missing.values())))
    running = set()
    try:
        for member, content in reader(path)(path) if missing or not checked.exists() else ():
            key = next((end for end in (member, *_ends(member)) if end in missing), None)
            if key is None:
                continue
            photograph = content()
            for picture, target in missing.pop(key):
                running.add(pool.submit(make, picture, photograph, path, target))
            if len(running) >= 8 * cores():  # so that the reader does not run away with the memory
                _finish(running, bar, all_of_them=False)
    except DamagedArchive:
        _finish(running, bar, all_of_them=True)
        for target in targets.values():
            target.unlink(missing_ok=True)
        raise
    _finish(running, bar, all_of_them=True)
    if missing:
        raise ArchiveError(f"{path}: holds no {sorted(missing)[0]}, which its list names "
                           f"({len(missing):,} images are missing): this is not the official "
                           "archive")
    checked.touch()


def reader(path: Path) -> Callable[[Path], Iterator[Member]]:
    """What gives the images of a container."""
    if path.suffix == ".parquet":
        return parquet.members
    return tfrecords.members if path.suffix.startswith(".tfrecord") else members


def prepare_large(name: str, archives: Archives, data_root: Path) -> str:
    """Sort the images of a large data set into its folders, byte for byte: those that lie in
    folders are linked, where they are on the same disk. Returns a line that says what is there."""
    about = PUBLISHED[name]
    final = dataset_folder(name, data_root)
    if final.exists():
        return there_already(name, final, about.counts)
    place = LARGE[name](archives)
    partial = final.with_name(f".{final.name}.partial")
    with Progress(total=sum(about.counts[1:]), desc=f"Sorting {name}", unit="image") as bar:
        for path in archives.files:
            if not path.name.endswith(ENDINGS):
                continue
            for member, content in members(path):
                if target := _target(partial, place(member), member):
                    bar.update()
                    if not is_made(target):
                        store(content(), target)
        for member in archives.unpacked:
            if target := _target(partial, place(member), member):
                bar.update()
                if not is_made(target):
                    link(archives.folder.parent / member, target)
    made = counted(partial, about.test_folder)
    if not any(made):
        raise Missing(archives.folder, f"every image of {name}")
    if made != about.counts:
        raise ArchiveError(f"{partial}: holds {describe(made, about.counts)}. Put what is missing "
                           f"into {archives} and start again.")
    return completed(name, partial, final, about.counts)


def _target(partial: Path, place: tuple[str, str] | None, member: str) -> Path | None:
    if place is None:
        return None
    split, label = place
    folder = partial / split / folder_name(label)
    folder.mkdir(parents=True, exist_ok=True)
    return folder / PurePosixPath(member).name


def link(source: Path, target: Path) -> None:
    """The file under a second name, or, where the disk cannot do that, a copy."""
    try:
        os.link(os.path.realpath(source), target)
    except OSError:
        store(source.read_bytes(), target)


def prepare_arrays(archive: str, archives: Archives, data_root: Path) -> Iterator[str]:
    """Make the data sets of one of ARRAYS, or what is missing of them. Yields a line for each that
    says what is there."""
    read, names = ARRAYS[archive]
    made = {name for name in names if dataset_folder(name, data_root).exists()}
    content = read(archives) if made != set(names) else {}
    for name, splits in content.items():
        counts = PUBLISHED[name].counts
        labels = {split: labels for split, (_, labels) in splits.items()}
        found = len(set(labels["train"])), len(labels["train"]), len(labels["test"])
        if found != counts or set(labels["train"]) != set(labels["test"]):
            raise ArchiveError(f"{name}: the archive holds {describe(found, counts)}")
    for name in names:
        final = dataset_folder(name, data_root)
        counts = PUBLISHED[name].counts
        if name in made:
            yield there_already(name, final, counts)
            continue
        partial = final.with_name(f".{final.name}.partial")
        bar = Progress(total=sum(counts[1:]), desc=f"Making {final.name}", unit="image")
        with bar, ThreadPoolExecutor(cores()) as pool:
            for split, (pixels, labels) in content[name].items():
                folders = {label: partial / split / folder_name(label) for label in set(labels)}
                for folder in folders.values():
                    folder.mkdir(parents=True, exist_ok=True)
                targets = [folders[label] / f"{number:05}.png"
                           for number, label in enumerate(labels)]
                for _ in pool.map(make_png, pixels, targets):
                    bar.update()
        yield completed(name, partial, final, counts)


def make_png(pixels: np.ndarray, target: Path) -> None:
    """Write uint8 [H, W] or [H, W, 3], unless it was written before."""
    if not is_made(target):
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, "PNG")
        store(buffer.getvalue(), target)


def there_already(name: str, final: Path, official: Counts | None) -> str:
    made = counted(final, PUBLISHED[name].test_folder)
    return f"{name}: {final} is there already, left as it is: {describe(made, official)}"


def completed(name: str, partial: Path, final: Path, counts: Counts) -> str:
    """Give a data set its name, if it is whole: `counts` of what it must hold."""
    made = counted(partial, PUBLISHED[name].test_folder)
    if made != counts:
        raise ArchiveError(f"{partial}: holds {describe(made, None)}, not "
                           f"{describe(counts, None)}. Remove the folder and start again.")
    for checked in partial.glob(".*.checked"):
        checked.unlink()
    os.sync()  # the images before the name that says they are all there
    partial.rename(final)
    return f"{name}: {describe(made, PUBLISHED[name].counts)}"


def _ends(member: str) -> list[str]:
    """The path without its leading folders, one after another: archives differ in what they put in
    front."""
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


def counted(folder: Path, test: str = "test") -> tuple[int, int, int]:
    """(classes, train images, test images) on disk; `test`: the folder of the latter."""
    classes, images = set(), {"train": 0, test: 0}
    for split in images:
        for path in (folder / split).glob("*/*"):
            if is_of_the_data(path.parent.name) and is_of_the_data(path.name):
                classes.add(path.parent.name)
                images[split] += 1
    return len(classes), images["train"], images[test]


def describe(found: Counts, official: Counts | None) -> str:
    text = f"{found[0]} classes, {found[1]:,} train and {found[2]:,} test images"
    if official is None:
        return text
    if found == official:
        return f"{text}, as published"
    text += f", but official are {official[0]}, {official[1]:,} and {official[2]:,}"
    other = another_split(found, official)
    return f"{text}: {other}" if other else text


# -------------------------------------------------------------------------------------- a look at
# it

def prepared(name: str, archives: Archives, data_root: Path) -> Iterator[str]:
    """Make what --dataset calls `name`; a line for each data set of it."""
    if name in ARRAYS:
        yield from prepare_arrays(name, archives, data_root)
    elif name in LARGE:
        yield prepare_large(name, archives, data_root)
    else:
        yield prepare(name, archives, data_root)


def contact_sheet(folders: list[Path], target: Path, columns: int = 10, side: int = 120) -> None:
    """A row or two of crops per data set, evenly over the classes, each whole and undistorted, on
    one picture."""
    step = side + 6
    title = 24
    rows = []
    for folder in folders:
        classes = sorted(path for path in (folder / "train").iterdir() if path.is_dir())
        count = min(2 * columns, len(classes))
        chosen = np.linspace(0, len(classes) - 1, count).round().astype(int)
        rows.append((folder.name, [min(classes[row].iterdir()) for row in chosen]))
    heights = [title + -(-len(files) // columns) * step for _, files in rows]
    sheet = Image.new("RGB", (columns * step + 6, sum(heights) + 6), "white")
    pen = ImageDraw.Draw(sheet)
    top = 6
    for (name, files), height in zip(rows, heights):
        pen.text((6, top + 4), name, fill="black")
        for number, file in enumerate(files):
            with Image.open(file) as image:
                image = ImageOps.contain(image.convert("RGB"), (side, side))
            left = 6 + number % columns * step + (side - image.width) // 2
            upper = top + title + number // columns * step + (side - image.height) // 2
            sheet.paste(image, (left, upper))
        top += height
    drawn_by = PngInfo()
    drawn_by.add_text("Software", DRAWN_BY)
    with replacing(target) as temporary:
        sheet.save(temporary, format="PNG", pnginfo=drawn_by)


def check_sheet(target: Path) -> None:
    """Raise ArchiveError where a contact sheet would take the place of something else."""
    if target.suffix.lower() != ".png":
        raise ArchiveError(f"--contact-sheet {target}: the name must end in .png")
    if target.exists():
        try:
            with Image.open(target) as there:
                if there.info.get("Software") == DRAWN_BY:
                    return
        except OSError:
            pass
        raise ArchiveError(f"--contact-sheet {target}: is there already, and no contact sheet; "
                           "never overwritten. Choose another name.")


# ------------------------------------------------------------------------------------------ where

def _of_debian() -> Path:
    return Path("/usr/share/datasets/fashion-mnist")


def _of_scikit_learn() -> Path:
    found = importlib.util.find_spec("sklearn")
    return Path(found.origin).parent / "datasets/data" if found else Path("sklearn/datasets/data")


# Of data sets that packages have: the folder, and what to type where it is not there.
INSTALLED = {
    "fashion-mnist": (_of_debian, "sudo apt install dataset-fashion-mnist"),
    "sklearn-digits": (_of_scikit_learn, "pip install scikit-learn"),
}


def installed(name: str) -> Path:
    """The folder in which a package has put a data set. Raises ArchiveError."""
    if name not in INSTALLED:
        raise ArchiveError(f"--archives: name the folder in which the archives of {name} are")
    where, command = INSTALLED[name]
    if not where().exists():
        raise ArchiveError(f"{name}: {where()} is not there. `{command}`, or name the folder in "
                           "which its files are with --archives.")
    return where()


@run_cli
def main(arguments: list[str] | None = None) -> int:
    title = __doc__.split("\n")[0]
    parser = CommandLine(title)
    parser.add_argument("--archives", type=Path,
                        help="folder with the archives, packed or unpacked (default, of "
                             f"{' and '.join(INSTALLED)}: where a package has put them)")
    parser.add_argument("--data-root", type=Path, default=Path("data"),
                        help="where the folders go (default: data)")
    parser.add_argument("--dataset", nargs="+", default=list(OF_THE_PAPER),
                        choices=[*OF_THE_PAPER, *ARRAYS, "tiny-imagenet", *recogseq.READERS,
                                 *LARGE],
                        help="which (default: the three of the paper)")
    parser.add_argument("--contact-sheet", type=Path,
                        help="also draw some crops of each data set to this PNG file")
    options = parser.parse_args(arguments)
    if options.archives and not options.archives.exists():
        raise ArchiveError(f"--archives {options.archives}: no such folder")
    if options.contact_sheet:
        check_sheet(options.contact_sheet)
    names = []
    for name in options.dataset:
        names += TINY_IMAGENET if name == "tiny-imagenet" else [name]
    folders = {name: options.archives or installed(name) for name in names}
    made = []
    for name, folder in folders.items():
        archives = Archives(folder)
        made += ARRAYS[name][1] if name in ARRAYS else [name]
        try:
            for line in prepared(name, archives, options.data_root):
                print(line, flush=True)
        except Missing as missing:
            hint = instead(archives, name, options.data_root)
            raise ArchiveError(f"{missing}. {hint}") from missing
    if options.contact_sheet:
        folders = [dataset_folder(name, options.data_root) for name in made]
        contact_sheet(folders, options.contact_sheet)
    return 0


if __name__ == "__main__":
    processes.leave(main())
