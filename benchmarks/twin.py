"""The same run in Jittor and in PyTorch: same initial weights, same batches, same rules; losses, masks and accuracies side by side.

    python benchmarks/twin.py            # on the demo's data, about six minutes on two cores; needs torch

Jittor trains the base network, as ImageNet's weights are given to a real run; from there on both sides take every step: prune,
re-train, then the three tasks of the demo. Dropout is off, since the two draw it differently. PyTorch's side is torch_twin.py.
The first 100 steps are the base network's re-training: there, rounding does not grow. While a task trains at the demo's
learning rate it doubles every few steps (two runs of one framework that differ by 1e-7 do the same), so that later
losses and masks agree in distribution only, and accuracies are what to compare. Writes benchmarks/results/twin.json, which report.py shows.
"""
import argparse
import json
import tempfile
import time
from pathlib import Path

import common  # noqa: F401
import numpy as np
import torch
from torch_twin import FREE, Twin

import demo
import toolchain
from config import Config
from dataset import create_dataloader
from main import DEMO
from networks import build
from pruning import PackNet
from training import Phase, seed

jt = toolchain.start("cpu")
from jittor import nn  # noqa: E402

TASKS = [DEMO["base_task"], *DEMO["task_list"]]


def phases(task: str) -> list[tuple[str, Phase]]:
    """As main.py --demo has them: training, then re-training after the prune."""
    c = Config(**DEMO)
    base = task == c.base_task
    return [("train", Phase("train", c.num_epochs_base, c.base_lr, c.num_epochs_base * 2 // 3) if base else
             Phase("train", c.num_epochs_per_task, c.initial_lr, c.lr_decay_every)),
            ("retrain", Phase("retrain", c.num_epochs_base_finetune, c.base_finetune_lr, c.base_lr_decay_every) if base else
             Phase("retrain", c.num_epochs_finetune, c.finetune_lr, c.lr_decay_every))]


class Ours:
    def __init__(self, classes: dict[str, int]) -> None:
        seed(Config())
        self.net = build(DEMO["arch"])
        for task, count in classes.items():
            self.net.add_head(task, count)
        jt.sync_all()
        self.packnet = PackNet(self.net)

    def start_task(self, task: str) -> None:
        self.packnet.start_task(task)
        self.net.select(task)

    def start_phase(self, lr: float) -> None:
        self.optimizer = nn.SGD(list(self.packnet.trainable().values()), lr, momentum=0.9)

    def set_lr(self, lr: float) -> None:
        self.optimizer.lr = lr

    def step(self, images: np.ndarray, labels: np.ndarray) -> float:
        loss = nn.cross_entropy_loss(self.net(jt.array(images)), jt.array(labels))
        self.optimizer.step(loss)
        return float(loss.item())

    def prune(self, ratio: float) -> None:
        self.packnet.prune(self.packnet.tasks[-1], ratio)

    def owners(self) -> dict[str, np.ndarray]:
        return {name: owner.numpy() for name, owner in self.packnet.owners.items()}

    def weights(self) -> dict[str, np.ndarray]:
        return {name: weight.numpy() for name, weight in self.packnet.weights.items()}

    def top1(self, task: str, batches: list) -> float:
        return self.packnet.evaluate_task(task, [(jt.array(images), labels) for images, labels in batches])


class Theirs:
    def __init__(self, classes: dict[str, int], tensors: dict[str, np.ndarray]) -> None:
        self.twin = Twin(DEMO["arch"], classes)
        self.twin.load(tensors)
        for module in self.twin.net.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0

    def start_task(self, task: str) -> None:
        self.twin.start_task(task)

    def start_phase(self, lr: float) -> None:
        self.twin.start_optimizer(lr)

    def set_lr(self, lr: float) -> None:
        self.twin.optimizer.param_groups[0]["lr"] = lr

    def step(self, images: np.ndarray, labels: np.ndarray) -> float:
        return float(self.twin.step(torch.from_numpy(images), torch.from_numpy(labels).long()))

    def prune(self, ratio: float) -> None:
        self.twin.prune(ratio)

    def owners(self) -> dict[str, np.ndarray]:
        return {name: owner.numpy() for name, owner in self.twin.owners.items()}

    def weights(self) -> dict[str, np.ndarray]:
        return {name: weight.detach().numpy() for name, weight in self.twin.weights.items()}

    def top1(self, task: str, batches: list) -> float:
        hits = [self.twin.evaluate(torch.from_numpy(images), task).argmax(1) == labels for images, labels in batches]
        return 100 * float(np.concatenate(hits).mean())


def run(epochs: int | None) -> dict:
    """`epochs` caps those of every phase; None for the demo's own."""
    with tempfile.TemporaryDirectory() as root:
        demo.draw(root)
        loaders = {(task, split): create_dataloader(task, root, split, 32, image_size=DEMO["image_size"])[0]
                   for task in TASKS for split in ("train", "test")}
        classes = {task: len(loaders[task, "test"].classes) for task in TASKS}
        ours = Ours(classes)
        tests = {task: [(images.numpy(), labels.numpy()) for images, labels in loaders[task, "test"]] for task in TASKS}
        result: dict = dict(tasks=TASKS, losses=[], prunes=[], top1=[], seconds=dict(ours=0.0, torch=0.0))
        position = 0
        sides: dict = dict(ours=ours)
        for task in TASKS:
            for side in sides.values():
                side.start_task(task)
            for name, phase in phases(task):
                for side in sides.values():
                    side.start_phase(phase.lr)
                for epoch in range(min(phase.epochs, epochs or phase.epochs)):
                    loader = loaders[task, "train"]
                    loader.epoch = position
                    position += 1
                    ours.packnet.set_training(False)  # no dropout; nothing else depends on it in this network
                    for images, labels in loader:
                        images, labels, losses = images.numpy(), labels.numpy(), []
                        for key, side in sides.items():
                            side.set_lr(phase.lr_at(epoch))
                            start = time.perf_counter()
                            losses.append(side.step(images, labels))
                            result["seconds"][key] += time.perf_counter() - start
                        if len(sides) == 2:
                            result["losses"].append(losses)
                if len(sides) == 1:
                    theirs = Theirs(classes, {name: parameter.numpy() for name, parameter in ours.net.state_dict().items()})
                    theirs.start_task(task)
                    sides["torch"] = theirs
                    result["seconds"]["ours"] = 0.0
                if name == "train":
                    result["prunes"].append(prune(ours, theirs, task))
            accuracies = [[side.top1(earlier, tests[earlier]) for side in sides.values()] for earlier in TASKS[:TASKS.index(task) + 1]]
            result["top1"].append(accuracies)
            print(f"{task}: top-1 ours {accuracies[-1][0]:.2f} %, PyTorch {accuracies[-1][1]:.2f} %", flush=True)
        return result


def prune(ours: Ours, theirs: Theirs, task: str) -> dict:
    """Prune both; where their masks differ, and how far from its cut-off the farthest such weight is."""
    before = ours.weights(), theirs.weights()
    owned = ours.owners()
    for side in (ours, theirs):
        side.prune(0.75)
    count, total, farthest, apart = 0, 0, 0.0, 0.0
    k = TASKS.index(task) + 1
    for name, mine in ours.owners().items():
        different = mine != theirs.owners()[name]
        count, total = count + int(different.sum()), total + int((owned[name] == k).sum())
        freed = (mine == FREE) & (owned[name] == k)
        if freed.any():
            cutoff = np.abs(before[0][name][freed]).max()
            if different.any():
                farthest = max(farthest, float(np.abs(np.abs(before[0][name][different]) - cutoff).max() / cutoff))
        apart = max(apart, float(np.abs(before[0][name] - before[1][name]).max()))
    return dict(task=task, owned=total, different=count, farthest_from_cutoff=farthest, weights_apart=apart)


def lines(result: dict) -> list[str]:
    """The figures in sentences, for the terminal and the report."""
    losses = np.array(result["losses"])
    apart = np.abs(losses[:, 0] - losses[:, 1])
    first, seconds = result["prunes"][0], result["seconds"]
    return [f"Jittor {jt.__version__} and PyTorch {torch.__version__}, {toolchain.cpu_name()}; the demo's data, dropout off.",
            f"Losses: they differ by {apart[:100].max():.1e} at most over the first 100 steps, by {np.median(apart):.1e} in the median of "
            f"all {len(losses):,}.",
            f"Masks after the first prune: {first['different']} of {first['owned']:,} weights differ"
            + (f", the farthest {first['farthest_from_cutoff']:.1e} of the cut-off away from it." if first["different"] else "."),
            *(f"Masks after the prune of {prune['task']}: {prune['different']:,} of {prune['owned']:,} differ; before it, weights differed "
              f"by {prune['weights_apart']:.1e} at most." for prune in result["prunes"][1:]),
            f"Seconds for the same steps: ours {seconds['ours']:.0f}, PyTorch {seconds['torch']:.0f}."]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--epochs", type=int, help="at most so many in every phase, for a quick look")
    parser.add_argument("--out", default=Path(__file__).parent / "results" / "twin.json", type=Path)
    options = parser.parse_args()
    result = run(options.epochs)
    result["lines"] = lines(result)
    print("", *result["lines"], sep="\n")
    options.out.parent.mkdir(exist_ok=True)
    options.out.write_text(json.dumps(result) + "\n")


if __name__ == "__main__":
    main()
