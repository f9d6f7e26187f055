"""Sanity check of this machine and the data: `python test_basic.py [--data-root data]`.

Checks that Jittor runs, that the algorithm keeps its promises on a small network, and that the data
folders are complete and readable. Prints a line with a verdict for each; exits with 1 if something
is wrong. Absent data sets are no error. Changes no file. pytest collects it too.
"""
import os
import unittest
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from system import processes  # first: it says in one sentence which package is missing

# isort: split
import numpy as np

import toolchain
from images.cache import collect
from images.datasets import (
    NAME,
    OF_THE_PAPER,
    another_split,
    data_set,
    folders_with_images,
    name_of_folder,
)
from images.folders import DataError, read_split, unused_validation
from images.preprocess import look_uncropped, open_rgb, upright_size
from system.errors import CommandLine, run_cli
from system.processes import cores

NAMED = (*OF_THE_PAPER, "imagenet")  # even where they are absent


class Absent(Exception):
    """The data set is not there."""


def check_toolchain() -> str:
    """A convolution and a matrix product on Jittor's device against NumPy."""
    jt = toolchain.start()
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2, 3, 8, 8)).astype(np.float32)
    w = rng.normal(size=(4, 3, 3, 3)).astype(np.float32)
    windows = np.lib.stride_tricks.sliding_window_view(x, (3, 3), (2, 3))
    got = jt.nn.conv2d(jt.array(x), jt.array(w)).numpy()
    expected = np.einsum("bcxyij,ocij->boxy", windows, w)
    assert np.allclose(got, expected, atol=1e-4), "a convolution differs from NumPy's"
    a, b = x.reshape(6, 64), w.reshape(4, 27)[:, :1] @ np.ones((1, 64), np.float32)
    got = jt.matmul(jt.array(a), jt.array(b.T)).numpy()
    assert np.allclose(got, a @ b.T, atol=1e-3), "a matrix product differs"
    return toolchain.describe()


def check_algorithm() -> str:
    """Three tasks in a small network, with momentum and weight decay: capacity, zeros and logits to
    the bit."""
    jt = toolchain.start()
    from networks import MultiHead
    from pruning import PackNet
    nn, rng = jt.nn, np.random.default_rng(0)
    jt.set_global_seed(0)
    layers = nn.Linear(20, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU()
    net = MultiHead(nn.Sequential(*layers), 32)
    packnet = PackNet(net, prune_ratio=0.75)
    logits, frozen = {}, {}
    for task in ("first", "second", "third"):
        images = rng.normal(size=(64, 20)).astype(np.float32)
        labels = rng.integers(0, 4, 64)
        loader = [(jt.array(images), jt.array(labels))]
        net.add_head(task, 4)
        packnet.train_task(task, loader, epochs=3, weight_decay=5e-4)
        packnet.prune_and_freeze(task)
        packnet.train_task(task, loader, epochs=2, weight_decay=5e-4)
        frozen[task], logits[task] = loader, packnet.predict(task, loader)[0]
    for name, owner in packnet.owners.items():
        free = packnet.weights[name].numpy()[owner.numpy() == 0]
        assert free.size and (free == 0).all(), f"freed weights of {name} are not 0"
    for task, loader in frozen.items():
        change = np.abs(packnet.predict(task, loader)[0] - logits[task]).max()
        assert change == 0, f"the logits of the {task} task moved by {change}"
    used = [row["measured_used"] for row in packnet.capacity()]
    expected = [0.25, 0.1875, 0.140625]
    assert np.allclose(used, expected, atol=2e-3), f"the tasks own {used} of the weights"
    return "three tasks packed: 25, 18.75, 14.06 % of the weights, old logits equal to the bit"


def check_data(name: str, data_root: str | Path) -> str:
    """Folders, official counts, every header, one whole image of each class and split."""
    about = data_set(name)
    folder = about.folder_in(data_root)
    if not folder.is_dir():
        raise Absent(f"{folder} does not exist. Source: {about.source}")
    if not NAME.fullmatch(name):
        raise DataError(f"{folder}: cannot be a task by this name: only letters, digits, - and _ "
                        "are allowed. Rename the folder.")
    splits = [read_split(name, data_root, split) for split in ("train", "test")]
    counts = (len(splits[0].classes), *(len(split.paths) for split in splits))
    found = f"{counts[0]} classes, {counts[1]:,} train and {counts[2]:,} test images"
    official = None if about.large else about.counts  # of large ones parts are in use
    if official not in (None, counts):
        other = another_split(counts, official)
        raise AssertionError(f"{folder} has {found}; official are {official[0]}, {official[1]:,} "
                             f"and {official[2]:,}{f': {other}' if other else ''}")
    with ThreadPoolExecutor(cores()) as pool:
        for split in splits:
            files = [split.folder / path for path in split.paths]
            _, firsts = np.unique(split.labels, return_index=True)
            label = f"{name}, {split.folder.name}"
            if not about.large:
                collect(pool, upright_size, files, f"{label}, headers")
            collect(pool, open_rgb, [files[row] for row in firsts], f"{label}, images")
    if about.boxes and look_uncropped(splits[0]):
        raise AssertionError(f"{folder} has {found}, but they look like whole photographs: those "
                             f"of {name} are cropped to their boxes, which prepare_data.py does")
    if official:
        found += " as published"
    if unused := unused_validation(name, data_root):
        found += f"; {unused} is not used"
    return found


def test_toolchain() -> None:
    check_toolchain()


def test_algorithm() -> None:
    check_algorithm()


def test_data() -> None:
    """Every data set that is present in data/; skipped where there is none."""
    root, present = Path(__file__).parent / "data", 0
    for name in NAMED:
        try:
            check_data(name, root)
            present += 1
        except Absent:
            pass
    if not present:
        raise unittest.SkipTest("no data set in data/")


@run_cli
def main(arguments: list[str] | None = None) -> int:
    parser = CommandLine(__doc__.split("\n")[0])
    parser.add_argument("--data-root", default="data",
                        help="folder of the data sets (default: %(default)s)")
    root = parser.parse_args(arguments).data_root
    if not os.path.isdir(root) and root != parser.get_default("data_root"):
        raise DataError(f"--data-root {root}: no such folder")
    there = map(name_of_folder, folders_with_images(root)) if os.path.isdir(root) else ()
    names = dict.fromkeys((*NAMED, *sorted(there)))
    checks = [("toolchain", check_toolchain), ("algorithm", check_algorithm)]
    checks += [(name, partial(check_data, name, root)) for name in names]
    wrong = 0
    for name, check in checks:
        try:
            verdict, text = "ok", check()
        except Absent as absent:
            verdict, text = "absent", str(absent)
        except Exception as error:  # whatever it is, the other checks still run
            verdict, text = "WRONG", str(error) or repr(error)
            wrong += 1
        print(f"{verdict:7} {name:12} {text}", flush=True)
    print("Something is wrong, see above." if wrong else "All is well.")
    return 1 if wrong else 0


if __name__ == "__main__":
    processes.leave(main())
