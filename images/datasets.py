"""The data sets that are known by name: where their folders are, what they hold as published, and
where they come from.

A new one is one entry of PUBLISHED. A data set of the user's own needs none: its folder has its
name, and nothing is known of it.
"""
import os
import re
from dataclasses import dataclass
from pathlib import Path

# X_permuted_N: the images of X, their pixels in the order that the seed N draws.
PERMUTED = re.compile(r"(.+)_permuted_(\d+)")
# What a data set may be called: its name becomes a part of the names of files and tensors.
NAME = re.compile(r"[\w-]+")


@dataclass(frozen=True)
class DataSet:
    """`folder`: below the data root; `other_folder`: another name under which people have it.
    `classes`, `train`, `test`: how many it has as published, images of the last two; None where
    nothing is published. `boxes`: its images are cropped to bounding boxes, so that they are
    resized to the network's input and never cropped again. `large`: as ImageNet: its test split is
    called val, its training images are decoded as they are needed, and nobody counts them.
    `source`: where it is to be had, in a line."""
    name: str
    folder: str
    other_folder: str | None = None
    classes: int | None = None
    train: int | None = None
    test: int | None = None
    boxes: bool = False
    large: bool = False
    source: str = ""

    @property
    def counts(self) -> tuple[int, int, int] | None:
        """(classes, training images, test images) as published."""
        return None if self.classes is None else (self.classes, self.train, self.test)

    @property
    def test_folder(self) -> str:
        return "val" if self.large else "test"

    def folder_in(self, data_root: str | Path) -> Path:
        """Its folder; that of the other name where only that is there."""
        path = Path(data_root) / self.folder
        other = path.with_name(self.other_folder) if self.other_folder else path
        return other if other.exists() and not path.exists() else path


OF_THE_PAPER = ("cubs", "cars", "flowers")  # that it adds to ImageNet, in its order
# In the order of its labels; one of the superclasses is called flowers, as Oxford's data set.
CIFAR100_SUPERCLASSES = (
    "aquatic_mammals", "fish", "flowers", "food_containers", "fruit_and_vegetables",
    "household_electrical_devices", "household_furniture", "insects", "large_carnivores",
    "large_man-made_outdoor_things", "large_natural_outdoor_scenes",
    "large_omnivores_and_herbivores", "medium_mammals", "non-insect_invertebrates", "people",
    "reptiles", "small_mammals", "trees", "vehicles_1", "vehicles_2",
)
AUTHORS_FOLDERS = ("the folders that PackNet's and Piggyback's authors have prepared, "
                   "uofi.box.com/s/ixncr3d85guosajywhf7yridszzg5zsq")
CIFAR100_SOURCE = ("cifar-100-binary.tar.gz or cifar-100-python.tar.gz, "
                   "www.cs.toronto.edu/~kriz/cifar.html; then prepare_data.py --dataset cifar100")
MNIST_SOURCE = ("its four files train-images-idx3-ubyte.gz, ...; "
                "then prepare_data.py --dataset mnist")
FASHION_MNIST_SOURCE = ("the package dataset-fashion-mnist of Debian and Ubuntu, or its four "
                        "files; then prepare_data.py --dataset fashion-mnist")
SKLEARN_DIGITS_SOURCE = ("the Python package scikit-learn, which holds them; "
                         "then prepare_data.py --dataset sklearn-digits")
TINY_IMAGENET_SOURCE = ("tiny-imagenet-200.zip, cs231n.stanford.edu/tiny-imagenet-200.zip; "
                        "then prepare_data.py --dataset tiny-imagenet")
INDOOR67_SOURCE = ("indoorCVPR_09.tar, TrainImages.txt and TestImages.txt, "
                   "web.mit.edu/torralba/www/indoor.html; then prepare_data.py --dataset indoor67")
AIRCRAFT_SOURCE = ("fgvc-aircraft-2013b.tar.gz, www.robots.ox.ac.uk/~vgg/data/fgvc-aircraft; "
                   "then prepare_data.py --dataset aircraft")
VOC_ACTIONS_SOURCE = ("VOCtrainval_11-May-2012.tar, host.robots.ox.ac.uk/pascal/VOC/voc2012; "
                      "then prepare_data.py --dataset voc-actions")
CHARS74K_SOURCE = ("EnglishImg.tgz, teodecampos.github.io/chars74k; "
                   "then prepare_data.py --dataset chars74k")
SVHN_SOURCE = ("train_32x32.mat and test_32x32.mat, ufldl.stanford.edu/housenumbers; "
               "then prepare_data.py --dataset svhn")
# The classes of Fashion-MNIST in pairs, and in two halves, by the numbers of its labels.
FASHION_PAIRS = ("fashion_0_1", "fashion_2_3", "fashion_4_5", "fashion_6_7", "fashion_8_9")
FASHION_HALVES = ("fashion_0_4", "fashion_5_9")


def _mnist(name: str, classes: int, train: int, test: int) -> DataSet:
    return DataSet(name, name, None, classes, train, test, source=MNIST_SOURCE)


def _like_mnist(name: str, classes: int, train: int, test: int) -> DataSet:
    source = f"its IDX files; then prepare_data.py --dataset {name}"
    return DataSet(name, name, None, classes, train, test, source=source)


def _fashion(name: str) -> DataSet:
    first, last = map(int, name.split("_")[1:])
    classes = last - first + 1
    return DataSet(name, name, None, classes, 6000 * classes, 1000 * classes,
                   source=FASHION_MNIST_SOURCE)


def _tiny_imagenet(number: int) -> DataSet:
    name = f"tiny_imagenet_{number:02}"
    return DataSet(name, name, None, 20, 10000, 1000, source=TINY_IMAGENET_SOURCE)


def _cifar100(superclass: str) -> DataSet:
    name = f"cifar100_{superclass}"
    return DataSet(name, name, None, 5, 2500, 500, source=CIFAR100_SOURCE)


PUBLISHED = {data_set.name: data_set for data_set in (
    DataSet("cubs", "cubs_cropped", None, 200, 5994, 5794, boxes=True,
            source="CUB_200_2011.tgz, www.vision.caltech.edu/datasets/cub_200_2011"),
    DataSet("cars", "stanford_cars_cropped", None, 196, 8144, 8041, boxes=True,
            source="Stanford Cars (car_ims.tgz and cars_annos.mat, or cars_train.tgz, "
                   "cars_test.tgz and the devkit); the original page is gone, Kaggle and Hugging "
                   "Face have copies"),
    DataSet("flowers", "flowers", None, 102, 2040, 6149,
            source="102flowers.tgz, imagelabels.mat, setid.mat, "
                   "www.robots.ox.ac.uk/~vgg/data/flowers/102"),
    # Split as Mallya et al. did (Piggyback, ECCV 2018); no official split exists.
    DataSet("wikiart", "wikiart", None, 195, 42129, 10628, source=AUTHORS_FOLDERS),
    DataSet("sketch", "sketch", "sketches", 250, 16000, 4000, source=AUTHORS_FOLDERS),
    DataSet("imagenet", "imagenet", None, 1000, 1_281_167, 50_000, large=True,
            source="ILSVRC2012, www.image-net.org; optional, re-trains the pruned base network"),
    DataSet("places", "places", None, 365, 1_803_460, 36_500, large=True,
            source="places365standard_easyformat.tar, places2.csail.mit.edu; its folder "
                   "places365_standard is called places here"),
    *map(_cifar100, CIFAR100_SUPERCLASSES),
    *map(_tiny_imagenet, range(1, 11)),
    _mnist("mnist", 10, 60000, 10000),
    _mnist("mnist_0_1", 2, 12665, 2115),
    _mnist("mnist_2_3", 2, 12089, 2042),
    _mnist("mnist_4_5", 2, 11263, 1874),
    _mnist("mnist_6_7", 2, 12183, 1986),
    _mnist("mnist_8_9", 2, 11800, 1983),
    DataSet("fashion-mnist", "fashion-mnist", None, 10, 60000, 10000,
            source=FASHION_MNIST_SOURCE),
    *map(_fashion, (*FASHION_PAIRS, *FASHION_HALVES)),
    _like_mnist("kmnist", 10, 60000, 10000),
    _like_mnist("emnist-balanced", 47, 112_800, 18_800),
    _like_mnist("emnist-letters", 26, 124_800, 20_800),
    _like_mnist("emnist-digits", 10, 240_000, 40_000),
    # No official split exists; this is that of scikit-learn's own example: the first half trains.
    DataSet("sklearn-digits", "sklearn-digits", None, 10, 898, 899, source=SKLEARN_DIGITS_SOURCE),
    DataSet("indoor67", "indoor67", None, 67, 5360, 1340, source=INDOOR67_SOURCE),
    DataSet("aircraft", "aircraft", None, 100, 6667, 3333, source=AIRCRAFT_SOURCE),
    # Persons, and good images of letters: how many nobody has published.
    DataSet("voc-actions", "voc-actions", boxes=True, source=VOC_ACTIONS_SOURCE),
    DataSet("chars74k", "chars74k", source=CHARS74K_SOURCE),
    DataSet("svhn", "svhn", None, 10, 73257, 26032, source=SVHN_SOURCE),
)}
TINY_IMAGENET = tuple(name for name in PUBLISHED if name.startswith("tiny_imagenet"))
CIFAR100 = tuple(f"cifar100_{name}" for name in CIFAR100_SUPERCLASSES)
MNIST = tuple(name for name in PUBLISHED if name.startswith("mnist"))
FASHION = ("fashion-mnist", *FASHION_PAIRS, *FASHION_HALVES)


def data_set(name: str) -> DataSet:
    """The data set of this name, or of one of the user's own. Of X_permuted_N it is X: the same
    images."""
    permuted = PERMUTED.fullmatch(name)
    name = permuted[1] if permuted else name
    return PUBLISHED.get(name, DataSet(name, name))


def another_split(found: tuple[int, int, int], official: tuple[int, int, int]) -> str | None:
    """What (classes, training images, test images) are that are not the official ones, where they
    seem to be the same images, divided otherwise; else None."""
    classes, train, test = official
    if found == (classes, test, train):
        return "the official train and test are the other way round"
    if found != official and found[0] == classes and sum(found[1:]) == train + test:
        return ("this is another split of the same images, whose results cannot stand beside "
                "published ones")
    return None


def dataset_folder(name: str, data_root: str | Path) -> Path:
    return data_set(name).folder_in(data_root)


def name_of_folder(folder: str) -> str:
    """The data set that a folder of this name holds."""
    for known in PUBLISHED.values():
        if folder in (known.folder, known.other_folder):
            return known.name
    return folder


def found_datasets(data_root: str | Path) -> list[str]:
    """The data sets in the data root that can be tasks, by name."""
    names = {name_of_folder(folder) for folder in folders_with_images(data_root)}
    return sorted(name for name in names
                  if NAME.fullmatch(name) and dataset_folder(name, data_root).is_dir())


def folders_with_images(data_root: str | Path) -> list[str]:
    """The folders of the data root that hold a train folder, and can be read. What begins with a
    dot is in the making."""
    return sorted(name for name in os.listdir(data_root)
                  if not name.startswith(".")
                  and os.path.isdir(os.path.join(data_root, name, "train")))
