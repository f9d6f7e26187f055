"""The same run in Jittor and in PyTorch: same initial weights, same batches, same rules; losses, masks and accuracies side by side.

    python benchmarks/twin.py            # on the demo's data, about five minutes on two cores; needs torch

Jittor trains the base network, as ImageNet's weights are given to a real run; from there on both sides take every step: prune,
re-train, then the three tasks of the demo. Dropout is off, since the two draw it differently. PyTorch's side is torch_twin.py.
The first 100 steps are the base network's re-training, where rounding hardly grows. While a task trains at the demo's
learning rate it grows fast, so that later losses and masks agree in distribution only. How far is shown by a third side, the
control: ours again from weights that differ by one part in 10 million. Writes benchmarks/results/twin.json, which report.py shows.
"""
import argparse
import json
import tempfile
from pathlib import Path

import common  # noqa: F401
import numpy as np
import torch
from torch_twin import FREE, Twin

import toolchain
from dataset import create_dataloader
from images import drawings
from methods.steps import Phase
from networks import assign, build
from pruning import PackNet
from runs.run import seed
from settings.config import Config
from settings.experiments import DEMO
from settings.plan import plan
from system import processes
from toolchain.cpu import cpu_name

jt = toolchain.start("cpu")
from jittor import nn

TASKS = [DEMO["base_task"], *DEMO["task_list"]]
TRAIN, TEST = 80, 100  # images per class: the demo's to train; more to test, so that an accuracy is known to half a point


def phases(task: str) -> list[Phase]:
    """As main.py --demo has them, but longer, so that a task's accuracy depends less on chance: 40
    epochs, decay after 30."""
    steps = plan(Config(**DEMO | dict(num_epochs_per_task=40, lr_decay_every=30, baselines=[])))
    epochs = [step for step in steps if step.kind == "epoch" and step.task == task]
    return list(dict.fromkeys(step.phase for step in epochs))


class Ours:
    def __init__(self, classes: dict[str, int], number: int, tensors: dict[str, np.ndarray] | None = None) -> None:
        """`number`: the seed. `tensors`: start from these, times 1 ± 1e-7, instead of at random."""
        seed(number)
        self.net = build(DEMO["arch"])
        for task, count in classes.items():
            self.net.add_head(task, count)
        jt.sync_all()
        if tensors:
            rng = np.random.default_rng(number)
            assign(self.net, {name: (array * (1 + 1e-7 * rng.choice((-1, 1), array.shape))).astype(np.float32)
                              for name, array in tensors.items()}, "ours")
        self.packnet = PackNet(self.net)

    def start_task(self, task: str) -> None:
        self.packnet.start_task(task)
        self.net.select(task)
        self.packnet.set_training(False)  # no dropout; nothing else depends on it in this network

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
        return {name: owner.numpy().copy() for name, owner in self.twin.owners.items()}

    def weights(self) -> dict[str, np.ndarray]:
        return {name: weight.detach().numpy().copy() for name, weight in self.twin.weights.items()}

    def top1(self, task: str, batches: list) -> float:
        hits = [self.twin.evaluate(torch.from_numpy(images), task).argmax(1) == labels for images, labels in batches]
        return 100 * float(np.concatenate(hits).mean())


def run(number: int, epochs: int | None) -> dict:
    """`number`: the seed. `epochs` caps those of every phase."""
    with tempfile.TemporaryDirectory() as root:
        drawings.draw(root, train=TRAIN, test=TEST)
        loaders = {(task, split): create_dataloader(task, root, split, 32, seed=number, image_size=DEMO["image_size"],
                                                      crop="plain")[0]
                   for task in TASKS for split in ("train", "test")}
        classes = {task: len(loaders[task, "test"].classes) for task in TASKS}
        ours = Ours(classes, number)
        tests = {task: [(images.numpy(), labels.numpy()) for images, labels in loaders[task, "test"]] for task in TASKS}
        result: dict = dict(tasks=TASKS, losses=[], prunes=[], control_prunes=[], top1=[])
        position = 0
        sides: dict = dict(ours=ours)
        for task in TASKS:
            for side in sides.values():
                side.start_task(task)
            for phase in phases(task):
                for side in sides.values():
                    side.start_phase(phase.lr)
                for epoch in range(min(phase.epochs, epochs or phase.epochs)):
                    loader = loaders[task, "train"]
                    loader.epoch = position
                    position += 1
                    for images, labels in loader:
                        images, labels, losses = images.numpy(), labels.numpy(), []
                        for side in sides.values():
                            side.set_lr(phase.lr_at(epoch))
                            losses.append(side.step(images, labels))
                        if len(sides) > 1:
                            result["losses"].append(losses)
                if len(sides) == 1:
                    tensors = {name: parameter.numpy() for name, parameter in ours.net.state_dict().items()}
                    sides |= dict(torch=Theirs(classes, tensors), control=Ours(classes, number, tensors))
                    sides["torch"].start_task(task), sides["control"].start_task(task)
                if phase.name == "train":
                    before = {key: (side.weights(), side.owners()) for key, side in sides.items()}
                    for side in sides.values():
                        side.prune(0.75)
                    for key, list_of in (("torch", "prunes"), ("control", "control_prunes")):
                        result[list_of].append(compare(ours, sides[key], before["ours"], before[key], task))
            accuracies = [[side.top1(earlier, tests[earlier]) for side in sides.values()] for earlier in TASKS[:TASKS.index(task) + 1]]
            result["top1"].append(accuracies)
            print(f"{task}: top-1 ours {accuracies[-1][0]:.2f} %, PyTorch {accuracies[-1][1]:.2f} %, control "
                  f"{accuracies[-1][2]:.2f} %", flush=True)
        return result


def compare(ours: Ours, other, before: tuple, others_before: tuple, task: str) -> dict:
    """Both have pruned: where their masks differ, and how far from its cut-off the farthest such weight was."""
    (weights, owners), (others_weights, _) = before, others_before
    count, total, farthest, apart, k = 0, 0, 0.0, 0.0, TASKS.index(task) + 1
    theirs = other.owners()
    for name, mine in ours.owners().items():
        different, owned = mine != theirs[name], owners[name] == k
        count, total = count + int((different & owned).sum()), total + int(owned.sum())
        freed = (mine == FREE) & owned
        cutoff = np.abs(weights[name][freed]).max(initial=0)
        if cutoff > 0 and different.any():
            farthest = max(farthest, float(np.abs(np.abs(weights[name][different]) - cutoff).max() / cutoff))
        apart = max(apart, float(np.abs(weights[name] - others_weights[name]).max()))
    return dict(task=task, owned=total, different=count, farthest_from_cutoff=farthest, weights_apart=apart)


def lines(result: dict) -> list[str]:
    """The figures in sentences, for the terminal and the report."""
    losses = np.array(result["losses"])  # [steps, (ours, PyTorch, control)]
    apart = np.abs(losses[:, :1] - losses[:, 1:])
    first = result["prunes"][0]
    return [f"Jittor {jt.__version__} and PyTorch {torch.__version__}, {cpu_name()}; the demo's data, dropout off. "
            "Control: ours again, from weights that differ by one part in 10 million.",
            f"Losses of the first 100 steps differ by {apart[:100, 0].max():.1e} at most (control: {apart[:100, 1].max():.1e}); in the "
            f"median of all {len(losses):,} steps by {np.median(apart[:, 0]):.1e} (control: {np.median(apart[:, 1]):.1e}).",
            f"Masks after the first prune: {first['different']} of {first['owned']:,} weights differ"
            + (f", the farthest {first['farthest_from_cutoff']:.1e} of the cut-off away from it." if first["different"] else "."),
            *(f"Masks after the prune of {prune['task']}: {100 * prune['different'] / prune['owned']:.1f} % of the task's weights differ "
              f"(control: {100 * control['different'] / control['owned']:.1f} %)."
              for prune, control in zip(result["prunes"][1:], result["control_prunes"][1:]))]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--epochs", type=int, help="at most so many in every phase, for a quick look")
    parser.add_argument("--out", default=Path(__file__).parent / "results" / "twin.json", type=Path)
    options = parser.parse_args()
    result = run(options.seed, options.epochs)
    shown = dict(tasks=result["tasks"], top1=result["top1"], lines=lines(result))
    print("", *shown["lines"], sep="\n")
    options.out.parent.mkdir(exist_ok=True)
    options.out.write_text(json.dumps(shown, indent=1) + "\n")


if __name__ == "__main__":
    main()
    processes.leave(0)
