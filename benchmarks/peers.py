"""PackNet as people would have it elsewhere, beside ours: what each task reaches, what it still
reaches at the end, how far frozen logits have moved, seconds, memory, size of the file.

    python benchmarks/peers.py --images 200                    # a look, a minute
    python benchmarks/peers.py --seeds 3                       # all of it; needs torch
    python benchmarks/peers.py --avalanche VENV/bin/python     # and avalanche-lib 0.6.0 of a venv

Fashion-MNIST's classes in pairs, five tasks in the network of the experiment fashion-5 (the same
initial weights but for the heads' layout, the same batches; Avalanche shuffles them itself): 2
epochs, prune by 0.75, 1 epoch. Each side has a process of its own, one after another.

* ours: PackNet of pruning.py.
* authors: PyTorch with masks as the authors' release handles them (torch_twin.py): gradients of
  what others own are 0 before a step, free weights are 0 after it. Its own runs have no weight
  decay.
* avalanche: PackNetModel and PackNetPlugin of avalanche-lib, by its own strategy. It has one last
  layer, packed like the others, and refuses norms, and layers without a bias.
* sketch: the short PyTorch class of the second document that this project began with, as it is
  written: no heads, biases and norms are pruned too, what trains after the prune is what was freed,
  and nothing is hidden from an earlier task. The first document's rules are ours.

Of a side that refuses a setting the table says so. Seconds are the processor's, of an epoch of
training and from the imports to the packed file: with OMP_NUM_THREADS=1 other programs hardly
change them. The memory is the process's at most; the file is what each side saves of the packed
network.
"""
import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
import zlib
from pathlib import Path

import common
import numpy as np

from images.archives import Archives
from images.arrays import MNIST_FILES, read_idx_splits
from system import processes

TASKS = 5
TRAIN, RETRAIN, BATCH, RATIO, RATE, MOMENTUM = 2, 1, 32, 0.75, 1e-2, 0.9
RATES = dict(sgd=RATE, adamw=1e-3)
MEAN, DEVIATION = 0.286, 0.353  # of the training pixels in [0, 1]
SIDES = ("ours", "authors", "avalanche", "sketch")
SETTINGS = [dict(optimizer=optimizer, decay=decay, norm=norm)
            for norm in (False, True) for optimizer in RATES for decay in (0.0, 5e-4)]


class Refused(Exception):
    """The side cannot do this; the message is what it says."""


class Data:
    """Fashion-MNIST's pairs as all sides get them: float32 [N, 3, 28, 28], labels int64 [N] of 0
    and 1. `images`: how many of each class train; all are tested."""

    def __init__(self, folder: Path, images: int, seed: int) -> None:
        self.seed = seed
        self.splits = {}
        for split, (pixels, labels) in read_idx_splits(Archives(folder), MNIST_FILES, 10).items():
            for task in range(TASKS):
                most = images if split == "train" else None
                rows = [np.flatnonzero(labels == 2 * task + label)[:most] for label in (0, 1)]
                rows = np.sort(np.concatenate(rows))
                scaled = (pixels[rows].astype(np.float32) / 255 - MEAN) / DEVIATION
                x = np.repeat(scaled[:, None], 3, axis=1)
                self.splits[split, task] = x, labels[rows].astype(np.int64) - 2 * task

    def batches(self, task: int, epoch: int):
        """The training batches of an epoch, drawn from seed, task and epoch alone."""
        x, y = self.splits["train", task]
        order = np.random.default_rng((self.seed, task, epoch)).permutation(len(y))
        for first in range(0, len(y), BATCH):
            rows = order[first:first + BATCH]
            yield x[rows], y[rows]


def initial(shapes: dict[str, tuple[int, ...]], seed: int) -> dict[str, np.ndarray]:
    """Weights by name: of the trunk He et al.'s, of heads a deviation of 1 / sqrt(inputs); biases
    are 0, a norm's scale is 1. What a name gets hangs on seed, name and shape alone."""
    values = {}
    for name, shape in shapes.items():
        if len(shape) == 1:
            values[name] = np.full(shape, float(name.endswith("weight")), np.float32)
            continue
        gain = 1 if name.startswith("heads.") else 2
        deviation = (gain / np.prod(shape[1:])) ** 0.5
        rng = np.random.default_rng((seed, zlib.crc32(name.encode())))
        values[name] = (rng.standard_normal(shape) * deviation).astype(np.float32)
    return values


# --------------------------------------------------------------------------------------- the sides

class Ours:
    def __init__(self, data: Data, optimizer: str, decay: float, norm: bool) -> None:
        import toolchain
        self.jt = toolchain.start("cpu")
        import networks
        from packing import loops
        from pruning import PackNet
        shape = networks.ARCHITECTURES["vgg-slim-28"]
        trunk = networks.VGG(networks.VGGShape(shape.convolutions, shape.pooled, shape.hidden,
                                               shape.dropout, batch_norm=norm))
        self.net = networks.MultiHead(trunk, trunk.num_features)
        for task in range(TASKS):
            self.net.add_head(task, 2)
        learned = {name: tuple(var.shape) for name, var in self.net.state_dict().items()
                   if "running" not in name}
        for name, value in initial(learned, data.seed).items():
            self.net.state_dict()[name].assign(self.jt.array(value))
        self.packnet = PackNet(self.net, RATIO)
        self.data, self.loops, self.loss_of = data, loops, loops.cross_entropy
        self.make = dict(sgd=self.jt.nn.SGD, adamw=self.jt.optim.AdamW)[optimizer]
        self.settings = dict(lr=RATES[optimizer], weight_decay=decay)
        if optimizer == "sgd":
            self.settings["momentum"] = MOMENTUM

    def learn(self, task: int) -> None:
        self.packnet.start_task(task)
        self._train(task, range(TRAIN))
        self.packnet.prune(task)
        self._train(task, range(TRAIN, TRAIN + RETRAIN))

    def _train(self, task: int, epochs: range) -> None:
        self.net.select(task)
        optimizer = self.make(list(self.packnet.trainable().values()), **self.settings)
        self.packnet.set_training(True)
        for epoch in epochs:
            batches = [(x, y) for x, y in self.data.batches(task, epoch)]
            loader = Batches(batches, self.jt.array)
            self.loops.train_epoch(self.net, self.loss_of, loader, optimizer, f"task {task}")

    def logits(self, task: int, x: np.ndarray) -> np.ndarray:
        parts = [(self.jt.array(x[i:i + 500]), np.zeros(len(x[i:i + 500]), np.int32))
                 for i in range(0, len(x), 500)]
        return self.packnet.predict(task, parts)[0]

    def save(self, path: Path) -> None:
        from runs.network import contents
        from storage.packed import save_packed
        save_packed(path, contents(self.packnet),
                    dict(tasks=[dict(name=str(task)) for task in range(TASKS)]))


class Batches:
    """Batches that become the framework's as they are asked for."""

    def __init__(self, batches: list, convert) -> None:
        self.batches = batches
        self.convert = convert

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self):
        for x, y in self.batches:
            yield self.convert(x), self.convert(y)


class Torch:
    """What the sides in PyTorch share. `net` is the module whose weights are set."""

    def __init__(self, data: Data, optimizer: str, decay: float, norm: bool) -> None:
        import torch
        torch.manual_seed(data.seed)
        self.torch, self.data, self.kind, self.decay = torch, data, optimizer, decay
        self.arch = "vgg-bn-slim-28" if norm else "vgg-slim-28"

    def whole(self):
        """The network with one last layer for all tasks, and the initial weights."""
        from torch_networks import classifier
        net = classifier(self.arch, 2)
        self.load({f"trunk.{name}".replace("trunk.classifier.6.", "heads.0."): parameter
                   for name, parameter in net.named_parameters()})
        return net

    def load(self, parameters: dict) -> None:
        shapes = {name: tuple(parameter.shape) for name, parameter in parameters.items()}
        with self.torch.no_grad():
            for name, value in initial(shapes, self.data.seed).items():
                parameters[name].copy_(self.torch.from_numpy(value))

    def optimizer(self, parameters):
        if self.kind == "adamw":
            return self.torch.optim.AdamW(parameters, RATES["adamw"], weight_decay=self.decay)
        return self.torch.optim.SGD(parameters, RATES["sgd"], momentum=MOMENTUM,
                                    weight_decay=self.decay)

    def batches(self, task: int, epochs: range):
        for epoch in epochs:
            for x, y in self.data.batches(task, epoch):
                yield self.torch.from_numpy(x), self.torch.from_numpy(y)

    def in_parts(self, function, x: np.ndarray) -> np.ndarray:
        with self.torch.no_grad():
            parts = [function(self.torch.from_numpy(x[i:i + 500])) for i in range(0, len(x), 500)]
        return np.concatenate([np.asarray(part) for part in parts])


class Authors(Torch):
    precision = "fp32"

    def __init__(self, data: Data, optimizer: str, decay: float, norm: bool) -> None:
        super().__init__(data, optimizer, decay, norm)
        from torch_twin import Twin
        self.twin = Twin(self.arch, {str(task): 2 for task in range(TASKS)},
                         precision=self.precision)
        self.load(dict(self.twin.net.named_parameters()))

    def learn(self, task: int) -> None:
        self.twin.start_task(str(task))
        self._train(task, range(TRAIN))
        self.twin.prune(RATIO)
        self._train(task, range(TRAIN, TRAIN + RETRAIN))

    def _train(self, task: int, epochs: range) -> None:
        self.twin.optimizer = self.optimizer(self.twin.trained())
        for x, y in self.batches(task, epochs):
            self.twin.step(x, y)

    def logits(self, task: int, x: np.ndarray) -> np.ndarray:
        return self.in_parts(lambda part: self.twin.evaluate(part, str(task)), x)

    def save(self, path: Path) -> None:
        self.torch.save(dict(model=self.twin.net.state_dict(), masks=self.twin.owners), path)


class Avalanche(Torch):
    def __init__(self, data: Data, optimizer: str, decay: float, norm: bool) -> None:
        super().__init__(data, optimizer, decay, norm)
        self._beside_a_cpu_build()
        try:
            from avalanche.benchmarks import benchmark_from_datasets
            from avalanche.benchmarks.scenarios import (
                task_incremental_benchmark,
                with_classes_timeline,
            )
            from avalanche.benchmarks.utils import as_classification_dataset
            from avalanche.models.packnet import PackNetModel, PackNetPlugin
            from avalanche.training.plugins import EvaluationPlugin
            from avalanche.training.templates import SupervisedTemplate
        except ImportError as error:
            raise Refused(f"not installed ({error}): --avalanche names a Python that has it"
                          ) from error
        try:
            self.net = PackNetModel(self.whole())
        except ValueError as error:
            raise Refused(str(error)) from error
        plugin = PackNetPlugin(post_prune_epochs=RETRAIN, prune_proportion=RATIO)
        self.strategy = SupervisedTemplate(
            model=self.net, optimizer=self.optimizer(self.net.parameters()),
            criterion=self.torch.nn.CrossEntropyLoss(), train_mb_size=BATCH,
            train_epochs=TRAIN + RETRAIN, eval_mb_size=500, plugins=[plugin],
            evaluator=EvaluationPlugin())
        sets = []
        for task in range(TASKS):
            x, y = map(self.torch.from_numpy, data.splits["train", task])
            tensors = self.torch.utils.data.TensorDataset(x, y)
            tensors.targets = y.tolist()
            sets.append(as_classification_dataset(tensors))
        labelled = task_incremental_benchmark(benchmark_from_datasets(train=sets))
        self.stream = list(with_classes_timeline(labelled).train_stream)

    def _beside_a_cpu_build(self) -> None:
        """torchvision from PyPI is built for CUDA, and does not import beside PyTorch for the CPU
        until something has defined its operators' names."""
        try:
            import torchvision  # noqa: F401
            return
        except ImportError as error:
            raise Refused(f"not installed ({error}): --avalanche names a Python that has it"
                          ) from error
        except RuntimeError:
            pass
        names = ["nms", "qnms", "qroi_align"]
        for name in ("roi_align", "ps_roi_align", "roi_pool", "ps_roi_pool", "deform_conv2d"):
            names += [name, f"_{name}_backward"]
        self.library = self.torch.library.Library("torchvision", "DEF")
        for name in names:
            self.library.define(f"{name}(Tensor a) -> Tensor")

    def learn(self, task: int) -> None:
        try:
            self.strategy.train(self.stream[task])
        except TypeError as error:  # it makes its optimizer anew from the defaults of the first
            raise Refused(str(error)) from error

    def logits(self, task: int, x: np.ndarray) -> np.ndarray:
        self.net.eval()
        return self.in_parts(
            lambda part: self.net(part, self.torch.full((len(part),), task)), x)

    def save(self, path: Path) -> None:
        self.torch.save(self.net.state_dict(), path)


class Sketch(Torch):
    def __init__(self, data: Data, optimizer: str, decay: float, norm: bool) -> None:
        super().__init__(data, optimizer, decay, norm)
        self.net = self.whole()
        self.frozen = {name: self.torch.zeros_like(parameter, dtype=self.torch.bool)
                       for name, parameter in self.net.named_parameters()}
        self.masks = {}

    def learn(self, task: int) -> None:
        self._train(task, range(TRAIN))
        self._prune(task)
        self._train(task, range(TRAIN, TRAIN + RETRAIN))

    def _train(self, task: int, epochs: range) -> None:
        optimizer = self.optimizer(self.net.parameters())
        self.net.train()
        for x, y in self.batches(task, epochs):
            optimizer.zero_grad()
            self.torch.nn.functional.cross_entropy(self.net(x), y).backward()
            for name, parameter in self.net.named_parameters():
                parameter.grad[self.frozen[name]] = 0
            optimizer.step()

    def _prune(self, task: int) -> None:
        self.masks[task] = {}
        with self.torch.no_grad():
            for name, parameter in self.net.named_parameters():
                available = ~self.frozen[name]
                kept = self.torch.zeros_like(available)
                if available.any():
                    limit = self.torch.quantile(parameter.abs()[available], RATIO)
                    kept = (parameter.abs() >= limit) & available
                self.masks[task][name] = kept
                self.frozen[name] |= kept
                parameter[available & ~kept] = 0

    def logits(self, task: int, x: np.ndarray) -> np.ndarray:
        self.net.eval()
        return self.in_parts(self.net, x)

    def save(self, path: Path) -> None:
        self.torch.save(dict(model=self.net.state_dict(), masks=self.masks), path)


KINDS = dict(ours=Ours, authors=Authors, avalanche=Avalanche, sketch=Sketch)


# ----------------------------------------------------------------------------------- one side's run

def measured(side: str, data: Data, setting: dict) -> dict:
    """Learn the tasks one after another, and test each when it is learnt and at the end."""
    begin = time.process_time()
    peer = KINDS[side](data, **setting)
    learnt, seconds = [], []
    for task in range(TASKS):
        start = time.process_time()
        peer.learn(task)
        seconds.append((time.process_time() - start) / (TRAIN + RETRAIN))
        learnt.append(peer.logits(task, data.splits["test", task][0]))
    atend = [peer.logits(task, data.splits["test", task][0]) for task in range(TASKS)]
    labels = [data.splits["test", task][1] for task in range(TASKS)]
    with tempfile.TemporaryDirectory() as folder:
        peer.save(Path(folder) / "packed")
        size = (Path(folder) / "packed").stat().st_size
    return dict(
        when_learnt=[accuracy(*pair) for pair in zip(learnt, labels)],
        at_the_end=[accuracy(*pair) for pair in zip(atend, labels)],
        moved=[float(np.abs(a - b).max()) for a, b in zip(learnt, atend)],
        # The first task has what is compiled while it runs.
        seconds=statistics.median(seconds[1:]),
        whole=time.process_time() - begin,
        memory=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        file=size / 1e6,
    )


def accuracy(logits: np.ndarray, labels: np.ndarray) -> float:
    return 100 * float((logits.argmax(1) == labels).mean())


# ------------------------------------------------------------------------------------------- all

def run(side: str, setting: dict, seed: int, options: argparse.Namespace) -> dict:
    """In a process of its own; what it says there goes to the terminal."""
    python = options.avalanche if side == "avalanche" else sys.executable
    command = [python, __file__, "--side", side, "--setting", json.dumps(setting),
               "--seeds", str(seed), "--images", str(options.images), "--data", str(options.data)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise SystemExit(f"error: {side} with {shown(setting)} has ended; the lines above say why")
    return json.loads(done.stdout.splitlines()[-1])


def shown(setting: dict) -> str:
    name = dict(sgd="SGD, momentum 0.9", adamw="AdamW")[setting["optimizer"]]
    norm = ", batch norm" if setting["norm"] else ""
    return f"{name}, decay {setting['decay']:g}{norm}"


def row(setting: dict, side: str, results: list[dict]) -> str:
    """A line of the table: means over the seeds, of `moved` the largest."""
    if "refused" in results[0]:
        return f"| {shown(setting)} | {side} | refused: {results[0]['refused']} | | | | | | |"
    mean = {name: np.mean([result[name] for result in results]) for name in results[0]}
    moved = max(max(result["moved"]) for result in results)
    tasks = np.mean([result["at_the_end"] for result in results], axis=0)
    return (f"| {shown(setting)} | {side} | {mean['when_learnt']:.2f} | {mean['at_the_end']:.2f} "
            f"({', '.join(f'{task:.1f}' for task in tasks)}) | {moved:.3g} | "
            f"{mean['seconds']:.2f} | {mean['whole']:.1f} | {mean['memory']:.0f} | "
            f"{mean['file']:.2f} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--images", type=int, default=6000, help="of each class, to train on")
    parser.add_argument("--data", type=Path, default=Path("/usr/share/datasets/fashion-mnist"),
                        help="folder of the four files")
    parser.add_argument("--avalanche", default=sys.executable, metavar="PYTHON",
                        help="a Python that has avalanche-lib 0.6.0, torch and numpy")
    parser.add_argument("--sides", nargs="+", choices=SIDES, default=SIDES)
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    parser.add_argument("--setting", type=json.loads, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.side:
        answers = common.answers_alone()
        data = Data(options.data, options.images, options.seeds)
        try:
            result = measured(options.side, data, options.setting)
        except Refused as error:
            result = dict(refused=str(error))
        print(json.dumps(result), file=answers, flush=True)
        return
    print("| setting | side | accuracy when learnt, mean | at the end, mean (by task) | logits "
          "moved by, at most | processor seconds: an epoch | all | MB of memory | MB of file |\n"
          "| --- | --- | --- | --- | --- | --- | --- | --- | --- |", flush=True)
    for setting in SETTINGS:
        for side in options.sides:
            results = []
            for seed in range(options.seeds):
                results.append(run(side, setting, seed, options))
                common.keep(side=side, seed=seed, **setting, **results[-1])
                if "refused" in results[-1]:
                    break
            print(row(setting, side, results), flush=True)


if __name__ == "__main__":
    main()
    processes.leave(0)
