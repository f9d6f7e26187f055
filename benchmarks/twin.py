"""The same run in Jittor and in PyTorch: losses, masks and accuracies side by side.

    python benchmarks/twin.py     # on the demo's data, about five minutes on two cores; needs torch

Both start from the same weights, get the same batches and follow the same rules; PyTorch's side is
torch_twin.py. Jittor trains the base network alone, in place of the ImageNet weights that a real
run is given. From there on both sides take every step: the base network's prune and re-training,
then the three tasks of the demo. Dropout is off, since the two draw it differently.

Both round differently, and the difference grows. It hardly does in the first 100 steps, the base
network's re-training; while a task trains at the demo's learning rate it grows fast, so that later
losses and masks agree in distribution only. How far they can be expected to differ is shown by a
third side, the control: ours again, from weights that differ by one part in 10 million. Writes
benchmarks/results/twin.json, which report.py shows.
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
from dataset import Loader, create_dataloader
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
# Images per class: as many to train as in the demo; to test more, so that an accuracy is known to
# half a percentage point.
TRAIN, TEST = 80, 100


def phases(task: str) -> list[Phase]:
    """As main.py --demo has them, but longer, so that a task's accuracy depends less on chance: 40
    epochs, decay after 30."""
    steps = plan(Config(**DEMO | dict(num_epochs_per_task=40, lr_decay_every=30, baselines=[])))
    epochs = [step for step in steps if step.kind == "epoch" and step.task == task]
    return list(dict.fromkeys(step.phase for step in epochs))


class Ours:
    def __init__(self, classes: dict[str, int], number: int,
                 tensors: dict[str, np.ndarray] | None = None) -> None:
        """`number`: the seed. `tensors`: start from these, times 1 ± 1e-7, instead of at random."""
        seed(number)
        self.net = build(DEMO["arch"])
        for task, count in classes.items():
            self.net.add_head(task, count)
        jt.sync_all()
        if tensors:
            rng = np.random.default_rng(number)
            moved = {}
            for name, array in tensors.items():
                factor = 1 + 1e-7 * rng.choice((-1, 1), array.shape)
                moved[name] = (array * factor).astype(np.float32)
            assign(self.net, moved, "ours")
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
        batches = [(jt.array(images), labels) for images, labels in batches]
        return self.packnet.evaluate_task(task, batches)


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
        loss = self.twin.step(torch.from_numpy(images), torch.from_numpy(labels).long())
        return float(loss)

    def prune(self, ratio: float) -> None:
        self.twin.prune(ratio)

    def owners(self) -> dict[str, np.ndarray]:
        return {name: owner.numpy().copy() for name, owner in self.twin.owners.items()}

    def weights(self) -> dict[str, np.ndarray]:
        weights = self.twin.weights
        return {name: weight.detach().numpy().copy() for name, weight in weights.items()}

    def top1(self, task: str, batches: list) -> float:
        hits = []
        for images, labels in batches:
            logits = self.twin.evaluate(torch.from_numpy(images), task)
            hits.append(logits.argmax(1) == labels)
        return 100 * float(np.concatenate(hits).mean())


def demo_data(root: str, number: int) -> tuple[dict, dict[str, int], dict[str, list]]:
    """Draw the demo's data below `root`. Of each task: the loader of its training images, by the
    seed `number`; its number of classes; its test images as batches (float32 [B, 3, S, S], int32
    labels [B])."""
    drawings.draw(root, train=TRAIN, test=TEST)
    options = dict(seed=number, image_size=DEMO["image_size"], crop="plain")
    train, classes, tests = {}, {}, {}
    for task in TASKS:
        train[task], _ = create_dataloader(task, root, "train", 32, **options)
        test, classes[task] = create_dataloader(task, root, "test", 32, **options)
        tests[task] = [(images.numpy(), labels.numpy()) for images, labels in test]
    return train, classes, tests


def run(number: int, epochs: int | None) -> dict:
    """`number`: the seed. `epochs` caps those of every phase."""
    result: dict = dict(tasks=TASKS, losses=[], prunes=[], control_prunes=[], top1=[])
    with tempfile.TemporaryDirectory() as root:
        train, classes, tests = demo_data(root, number)
        ours = Ours(classes, number)
        sides: dict = dict(ours=ours)
        epochs_so_far = 0
        for task in TASKS:
            for side in sides.values():
                side.start_task(task)
            for phase in phases(task):
                count = min(phase.epochs, epochs or phase.epochs)
                losses = train_phase(sides, phase, count, train[task], epochs_so_far)
                epochs_so_far += count
                if len(sides) > 1:
                    result["losses"] += losses
                else:  # the base network is trained: the others begin here, from its weights
                    state = ours.net.state_dict()
                    tensors = {name: parameter.numpy() for name, parameter in state.items()}
                    sides["torch"] = Theirs(classes, tensors)
                    sides["control"] = Ours(classes, number, tensors)
                    sides["torch"].start_task(task)
                    sides["control"].start_task(task)
                if phase.name == "train":
                    prune, control_prune = prune_all(sides, task)
                    result["prunes"].append(prune)
                    result["control_prunes"].append(control_prune)
            accuracies = []
            for earlier in TASKS[:TASKS.index(task) + 1]:
                accuracies.append([side.top1(earlier, tests[earlier]) for side in sides.values()])
            result["top1"].append(accuracies)
            mine, theirs, control = accuracies[-1]
            print(f"{task}: top-1 ours {mine:.2f} %, PyTorch {theirs:.2f} %, control "
                  f"{control:.2f} %", flush=True)
    return result


def train_phase(sides: dict, phase: Phase, epochs: int, loader: Loader,
                epochs_so_far: int) -> list[list[float]]:
    """`epochs` of a phase on the same batches for all sides: the loss of each side in each step.
    `epochs_so_far`: of the whole run, which say in what order the images come."""
    losses = []
    for side in sides.values():
        side.start_phase(phase.lr)
    for epoch in range(epochs):
        loader.epoch = epochs_so_far + epoch
        for images, labels in loader:
            images, labels = images.numpy(), labels.numpy()
            losses.append([])
            for side in sides.values():
                side.set_lr(phase.lr_at(epoch))
                losses[-1].append(side.step(images, labels))
    return losses


def prune_all(sides: dict, task: str) -> tuple[dict, dict]:
    """Prune the task on all sides: how PyTorch's masks differ from ours, and the control's."""
    before = {key: (side.weights(), side.owners()) for key, side in sides.items()}
    for side in sides.values():
        side.prune(0.75)
    mine = before["ours"]
    ours = sides["ours"]
    return (compare(ours, sides["torch"], mine, before["torch"], task),
            compare(ours, sides["control"], mine, before["control"], task))


def compare(ours: Ours, other, before: tuple, others_before: tuple, task: str) -> dict:
    """Both have pruned: where their masks differ, and how far from its cut-off the farthest such
    weight was. `before`, `others_before`: (weights, owners) before the prune."""
    weights, owners = before
    others_weights, _ = others_before
    theirs = other.owners()
    k = TASKS.index(task) + 1
    differing, total = 0, 0
    farthest, apart = 0.0, 0.0
    for name, mine in ours.owners().items():
        different = mine != theirs[name]
        owned = owners[name] == k
        differing += int((different & owned).sum())
        total += int(owned.sum())
        magnitudes = np.abs(weights[name])
        cutoff = magnitudes[(mine == FREE) & owned].max(initial=0)
        if cutoff > 0 and different.any():
            distance = np.abs(magnitudes[different] - cutoff).max() / cutoff
            farthest = max(farthest, float(distance))
        apart = max(apart, float(np.abs(weights[name] - others_weights[name]).max()))
    return dict(task=task, owned=total, different=differing, farthest_from_cutoff=farthest,
                weights_apart=apart)


def lines(result: dict) -> list[str]:
    """The figures in sentences, for the terminal and the report."""
    losses = np.array(result["losses"])  # [steps, (ours, PyTorch, control)]
    apart = np.abs(losses[:, :1] - losses[:, 1:])
    largest = apart[:100].max(0)
    median = np.median(apart, 0)
    first, *later = result["prunes"]
    masks = (f"Masks after the first prune: {first['different']} of {first['owned']:,} weights "
             "differ")
    if first["different"]:
        masks += f", the farthest {first['farthest_from_cutoff']:.1e} of the cut-off away from it"
    said = [
        f"Jittor {jt.__version__} and PyTorch {torch.__version__}, {cpu_name()}; the demo's data, "
        "dropout off. Control: ours again, from weights that differ by one part in 10 million.",
        f"Losses of the first 100 steps differ by {largest[0]:.1e} at most (control: "
        f"{largest[1]:.1e}); in the median of all {len(losses):,} steps by {median[0]:.1e} "
        f"(control: {median[1]:.1e}).",
        f"{masks}.",
    ]
    for prune, control in zip(later, result["control_prunes"][1:]):
        said.append(f"Masks after the prune of {prune['task']}: {percent(prune):.1f} % of the "
                    f"task's weights differ (control: {percent(control):.1f} %).")
    return said


def percent(prune: dict) -> float:
    """Of the weights that the task owned, those whose masks differ."""
    return 100 * prune["different"] / prune["owned"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--epochs", type=int,
                        help="at most so many in every phase, for a quick look")
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
