"""A run of PackNet: the base network, then task after task, with everything that is measured on the way.

    base task:   load pretrained weights (or train from scratch)  ->  prune  ->  re-train where its data are present
    each task:   train on the free weights  ->  prune  ->  re-train  ->  evaluate every task so far

`run(config)` writes log.txt, results.json, the checkpoint and plots/ to the output directory. Settings and schedule:
config.py; the algorithm: pruning.py.
"""
import json
import math
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

import files
import toolchain
from config import CHECKPOINT, LOG, RESULTS, Config, ConfigError
from dataset import Loader, create_dataloader
from networks import ARCHITECTURES, MultiHead, assign, build, load_pretrained
from pruning import PackNet, predict
from weights import download, load_checkpoint, save_checkpoint

jt = toolchain.start()
from jittor import nn  # noqa: E402

# Published top-1 errors in percent, to stand beside ours (VGG-16; order CUBS, Cars, Flowers).
PUBLISHED = {
    "paper, VGG-16, ratio 0.75": {"cubs": 24.95, "cars": 15.75, "flowers": 9.75},
    "authors' release, VGG-16": {"imagenet": 29.19, "cubs": 22.56, "cars": 17.09, "flowers": 11.07},
    "first seed, Jittor": {"cubs": 31.31, "cars": 20.86, "flowers": 12.26},
    "first seed, PyTorch": {"cubs": 24.06, "cars": 16.61, "flowers": 12.57},
}


class TrainingError(Exception):
    """Training cannot go on. The message names task, phase and epoch."""


@dataclass(frozen=True)
class Phase:
    name: str  # "train" or "retrain"
    epochs: int
    lr: float
    decay_every: int

    def lr_at(self, epoch: int) -> float:
        return self.lr * 0.1 ** (epoch // self.decay_every)


class Log:
    """Lines for a person: on the terminal and in log.txt."""

    def __init__(self, path: Path) -> None:
        self.file = open(path, "a", encoding="utf8")

    def __call__(self, line: str = "") -> None:
        tqdm.write(line)
        print(line, file=self.file, flush=True)


@dataclass
class Score:
    """A pass over a test split. Accuracies in percent, logits float32 [N, classes]."""
    top1: float
    top5: float
    logits: np.ndarray

    @classmethod
    def of(cls, logits: np.ndarray, labels: np.ndarray) -> "Score":
        order = np.argsort(-logits, axis=1, kind="stable")[:, :5]
        hits = order == labels[:, None]
        return cls(100 * float(hits[:, 0].mean()), 100 * float(hits.any(1).mean()), logits)


def train_epoch(model: nn.Module, loader: Loader, optimizer: nn.Optimizer, title: str) -> tuple[float, float]:
    """One epoch. Returns the mean loss per image and the top-1 accuracy in percent, both as seen while training.

    Raises TrainingError when the loss is NaN or infinite.
    """
    loss_sum, hits = jt.zeros(1), jt.zeros(1)
    seen = 0
    bar = tqdm(loader, title, unit="batch", leave=False, delay=1)
    for step, (images, labels) in enumerate(bar):
        logits = model(images)
        loss = nn.cross_entropy_loss(logits, labels)
        optimizer.step(loss)
        loss_sum = (loss_sum + loss.detach() * len(labels)).stop_grad()
        hits = (hits + (logits.argmax(1)[0] == labels).sum()).stop_grad()
        jt.sync_all()
        seen += len(labels)
        if step % 20 == 0 or step == len(loader) - 1:
            mean = loss_sum.item() / seen
            if not math.isfinite(mean):
                raise TrainingError(f"{title}: the loss is {mean} at learning rate {optimizer.lr:g}. "
                                    "Start again with a lower one.")
            bar.set_postfix(loss=f"{mean:.3f}")
    return mean, 100 * hits.item() / seen


def seed(config: Config, *position: int) -> None:
    """Set every random state from the run's seed and a position in it alone, so that what follows is the same whatever
    ran before it in this process."""
    # + 1: to NumPy (s, 0) is the same seed as (s,)
    state = np.random.SeedSequence((config.seed, *(int(p) + 1 for p in position))).generate_state(1)[0]
    jt.set_global_seed(int(state >> 1))


class Run:
    """The state of one run: the network, its owners, the loaders, and what was measured so far."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.started = time.monotonic()
        self.folder = Path(config.output_dir)
        self.history: list[dict] = []
        self.tasks: list[dict] = []
        self.base: dict = {}
        self.matrix: list[list[float | None]] = []
        self.reference: dict[str, np.ndarray] = {}  # a task's test logits when it was frozen
        self.dense: dict[str, np.ndarray] = {}  # the base network before its prune
        self.loaders = {}
        self._open_data()
        seed(config)
        self.net = self._base_network()
        self.packnet = PackNet(self.net)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.log = Log(self.folder / LOG)

    def _open_data(self) -> None:
        """Every loader at once: what is wrong with any data set is said before the first epoch."""
        c = self.config
        names = [*c.task_list] + [c.base_task] * c.has_data(c.base_task)
        for name in names:
            for split in ("train", "test"):
                self.loaders[name, split], _ = create_dataloader(
                    name, c.data_root, split, c.batch_size, seed=c.seed, image_size=c.image_size, cache_dir=c.cache_dir)

    def _base_network(self) -> MultiHead:
        c = self.config
        net = build(c.arch)
        if c.num_epochs_base:
            net.add_head(c.base_task, len(self.loaders[c.base_task, "train"].classes))
            return net
        load_pretrained(net, c.pretrained or download(ARCHITECTURES[c.arch].pretrained), head=c.base_task)
        classes = len(self.loaders[c.base_task, "train"].classes) if self.has_base_data else None
        if classes and classes != net.heads[c.base_task].weight.shape[0]:
            raise ConfigError(f"{c.folder(c.base_task)} has {classes} classes, the pretrained network "
                              f"{net.heads[c.base_task].weight.shape[0]}: they must be the same")
        return net

    @property
    def has_base_data(self) -> bool:
        return (self.config.base_task, "train") in self.loaders

    # ---- pieces

    def train(self, task: str, phase: Phase, first_epoch: int = 0) -> float | None:
        """Run one phase; the test accuracy after its last epoch, None if it has no epochs."""
        c, number = self.config, self.packnet.tasks.index(task)
        if phase.epochs == 0:
            return None
        loader = self.loaders[task, "train"]
        optimizer = nn.SGD(self.packnet.parameters(), phase.lr, momentum=c.momentum, weight_decay=c.weight_decay)
        for epoch in range(phase.epochs):
            start = time.monotonic()
            optimizer.lr = phase.lr_at(epoch)
            seed(c, number, phase.name == "retrain", epoch)
            loader.epoch = first_epoch + epoch
            self.net.select(task)
            self.packnet.set_training(True)
            title = f"{task}, {phase.name} {epoch + 1}/{phase.epochs}"
            loss, train_top1 = train_epoch(self.net, loader, optimizer, title)
            score = self.score(task)
            self.history.append(dict(task=task, phase=phase.name, epoch=epoch + 1, lr=optimizer.lr, loss=loss,
                                     train_top1=train_top1, test_top1=score.top1, seconds=time.monotonic() - start))
            self.log(f"{title}: lr {optimizer.lr:g}, loss {loss:.4f}, train {train_top1:.2f} %, "
                     f"test {score.top1:.2f} % ({time.monotonic() - start:.1f} s)")
        return score.top1

    def score(self, task: str) -> Score:
        loader = self.loaders[task, "test"]
        return Score.of(*self.packnet.predict(task, tqdm(loader, f"{task}, test", unit="batch", leave=False, delay=1)))

    def prune(self, task: str, ratio: float) -> None:
        """Prune and log what each layer lost."""
        owner = self.packnet.owner_of(task)
        sizes = {name: int((self.packnet.owners[name] == owner).sum().item()) for name in self.packnet.layers}
        freed = self.packnet.prune(task, ratio)
        self.log(f"{task}: pruned {100 * ratio:g} % of its weights, layer by layer")
        width = max(map(len, freed))
        for name, count in freed.items():
            self.log(f"  {name:{width}}  owned {sizes[name]:>11,}  freed {count:>11,}  kept {sizes[name] - count:>11,}")
        total = sum(sizes.values())
        self.log(f"  {'all':{width}}  owned {total:>11,}  freed {sum(freed.values()):>11,}  "
                 f"kept {total - sum(freed.values()):>11,}")

    def learn(self, task: str, train: Phase, ratio: float, retrain: Phase) -> dict:
        """Train, prune, re-train; the accuracies in percent (None where there are no data)."""
        c = self.config
        result = dict(name=task, num_classes=int(self.net.heads[task].weight.shape[0]), pruning_ratio=ratio)
        measured = (task, "test") in self.loaders
        before = self.train(task, train)
        if before is None and measured:
            before = self.score(task).top1
        if task == c.base_task and c.compare_finetuning:
            self.dense = {name: parameter.numpy() for name, parameter in self.net.state_dict().items()}
        result["top1_before_prune"] = result["top1_after_prune"] = result["top1_after_finetune"] = before
        if ratio:
            self.prune(task, ratio)
            if measured:
                result["top1_after_prune"] = result["top1_after_finetune"] = self.score(task).top1
                self.log(f"{task}: {before:.2f} % before the prune, {result['top1_after_prune']:.2f} % after it")
                after = self.train(task, retrain, first_epoch=train.epochs)
                if after is not None:
                    result["top1_after_finetune"] = after
        last = [h["test_top1"] for h in self.history if h["task"] == task and h["phase"] == ("retrain" if ratio else "train")]
        result["top1_best_epoch"] = max(last, default=result["top1_after_finetune"])
        return result

    # ---- the two kinds of stages

    def base_stage(self) -> None:
        c = self.config
        self.packnet.start_task(c.base_task)
        self.log(f"\n== {c.base_task}, the base task ==")
        if not self.has_base_data:
            self.log(f"There is no {c.folder(c.base_task)}: the pruned base network is not re-trained on {c.base_task} and "
                     "its own accuracy is not measured; the tasks build on a base that has not recovered from its prune.")
        self.base = self.learn(
            c.base_task, Phase("train", c.num_epochs_base, c.base_lr, max(1, math.ceil(c.num_epochs_base * 2 / 3))),
            c.initial_pruning_ratio,
            Phase("retrain", c.num_epochs_base_finetune * self.has_base_data, c.base_finetune_lr, c.base_lr_decay_every))
        self.finish_stage(c.base_task)

    def task_stage(self, task: str, ratio: float) -> None:
        c = self.config
        self.log(f"\n== {task} ==")
        seed(c, len(self.packnet.tasks))
        self.net.add_head(task, len(self.loaders[task, "train"].classes))
        self.packnet.start_task(task)
        self.tasks.append(self.learn(
            task, Phase("train", c.num_epochs_per_task, c.initial_lr, c.lr_decay_every), ratio,
            Phase("retrain", c.num_epochs_finetune, c.finetune_lr, c.lr_decay_every)))
        self.finish_stage(task)

    def finish_stage(self, task: str) -> None:
        """The task is frozen: keep its logits, evaluate every task so far, save."""
        if (task, "test") in self.loaders:
            self.reference[task] = self.score(task).logits
        scores = {name: self.score(name) for name in self.packnet.tasks if (name, "test") in self.loaders}
        for result in (self.base, *self.tasks):
            name = result["name"]
            score = scores.get(name)
            result["top1_final"] = score and score.top1
            result["top5_final"] = score and score.top5
            result["max_logit_change"] = score and float(np.abs(score.logits - self.reference[name]).max())
            result.setdefault("top1_by_stage", []).append(result["top1_final"])
            result.setdefault("top5_by_stage", []).append(result["top5_final"])
        if self.tasks:
            row = [scores[name].top1 if name in scores else None for name in self.config.task_list]
            self.matrix.append(row)
        self.log(f"{task} is frozen. Top-1 now: " + ", ".join(f"{name} {score.top1:.2f} %" for name, score in scores.items()))
        for row, result in zip(self.packnet.capacity(), (self.base, *self.tasks)):
            result.update(owned_weights=row["owned_weights"], owned_fraction=row["measured_used"])
        self.save()

    # ---- results and checkpoint

    def save(self) -> None:
        metadata = dict(arch=self.config.arch, image_size=self.config.image_size, base_task=self.config.base_task,
                        tasks=[dict(name=r["name"], num_classes=r["num_classes"], pruning_ratio=r["pruning_ratio"],
                                    top1=r["top1_final"], classes=self._classes(r["name"]))
                               for r in (self.base, *self.tasks)], config=self.config.asdict())
        save_packed(self.folder / CHECKPOINT, self.packnet, metadata)
        files.write(self.folder / RESULTS, json.dumps(self.results(), indent=1).encode())

    def _classes(self, task: str) -> list[str] | None:
        return self.loaders[task, "test"].classes if (task, "test") in self.loaders else None

    def results(self) -> dict:
        owners = {name: np.bincount(owner.numpy().ravel(), minlength=len(self.packnet.tasks) + 1).tolist()
                  for name, owner in self.packnet.owners.items()}
        return dict(arch=self.config.arch, device=toolchain.device, toolchain=toolchain.describe(),
                    seconds=time.monotonic() - self.started, config=self.config.asdict(),
                    tasks=self.tasks, base=self.base, accuracy_matrix=self.matrix, capacity=self.packnet.capacity(),
                    owners_by_layer=owners, history=self.history)


def save_packed(path: Path, packnet: PackNet, metadata: dict) -> None:
    """Write weights, heads and owner maps (`owner.<parameter name>`, uint8) to one safetensors file."""
    tensors = {name: parameter.numpy() for name, parameter in packnet.model.state_dict().items()}
    tensors |= {f"owner.{name}": owner.numpy() for name, owner in packnet.owners.items()}
    save_checkpoint(path, tensors, metadata)


def load_packed(path: str | Path) -> tuple[PackNet, dict]:
    """The packed network of a checkpoint and its metadata, frozen and ready to evaluate. Raises WeightsError."""
    tensors, metadata = load_checkpoint(path)
    net = build(metadata["arch"])
    for task in metadata["tasks"]:
        net.add_head(task["name"], task["num_classes"])
    packnet = PackNet(net)
    owners = {name: tensors.pop(f"owner.{name}", None) for name in packnet.owners}
    assign(net, tensors, path)
    packnet.restore([task["name"] for task in metadata["tasks"]], owners)
    return packnet, metadata


def sequential_finetuning(run: Run) -> list[list[float | None]]:
    """The lower bound: the same network and schedule, every weight trained on every task in turn.

    Starts from the base network before its prune. Returns its accuracy matrix, in percent, as accuracy_matrix.
    """
    c, log = run.config, run.log
    log("\n== Sequential fine-tuning, for comparison: nothing is frozen ==")
    net = build(c.arch)
    net.add_head(c.base_task, run.base["num_classes"])
    assign(net, run.dense, "the base network")
    matrix = []
    for number, task in enumerate(c.task_list):
        seed(c, number, 2)
        net.add_head(task, run.tasks[number]["num_classes"])
        single = PackNet(net)  # on its own this task owns every weight
        single.start_task(task)
        net.select(task)
        optimizer = nn.SGD(single.parameters(), c.initial_lr, momentum=c.momentum, weight_decay=c.weight_decay)
        loader = run.loaders[task, "train"]
        loader.epoch = 0
        for phase in (Phase("train", c.num_epochs_per_task, c.initial_lr, c.lr_decay_every),
                      Phase("retrain", c.num_epochs_finetune, c.finetune_lr, c.lr_decay_every)):
            for epoch in range(phase.epochs):
                optimizer.lr = phase.lr_at(epoch)
                single.set_training(True)
                train_epoch(net, loader, optimizer, f"{task}, fine-tuning {epoch + 1}/{phase.epochs}")
        single.set_training(False)
        row = []
        for name in c.task_list[:number + 1]:
            net.select(name)
            row.append(Score.of(*predict(net, run.loaders[name, "test"])).top1)
        log(f"After {task}: " + ", ".join(f"{name} {top1:.2f} %" for name, top1 in zip(c.task_list, row)))
        matrix.append(row + [None] * (len(c.task_list) - len(row)))
    return matrix


def summary(results: dict) -> list[str]:
    """The table at the end of the log: our errors beside the published ones, in percent."""
    tasks = [result for result in (results["base"], *results["tasks"]) if result["top1_final"] is not None]
    columns = [source for source, figures in PUBLISHED.items() if any(task["name"] in figures for task in tasks)]
    lines = ["Top-1 error in %, last epoch; the authors keep the epoch that is best on the test set (in brackets).",
             f"{'task':14} {'ours':>16} {'before prune':>13} {'of weights':>11} {'logit change':>13}"
             + "".join(f"  {source:>{len(source)}}" for source in columns)]
    for task in tasks:
        error, best = 100 - task["top1_final"], 100 - task["top1_best_epoch"]
        lines.append(f"{task['name']:14} {f'{error:.2f} ({best:.2f})':>16} {100 - task['top1_before_prune']:13.2f} "
                     f"{100 * task['owned_fraction']:9.2f} % {task['max_logit_change']:13g}"
                     + "".join(f"  {PUBLISHED[source].get(task['name'], '-'):>{len(source)}}" for source in columns))
    return lines


def run(config: Config) -> dict:
    """Run everything `config` says and return results.json's content.

    `config.check()` comes first. Raises DataError, WeightsError and ConfigError before anything is written to the
    output directory, TrainingError after.
    """
    import plots
    state = Run(config)
    log = state.log
    log(toolchain.describe())
    log("Settings: " + json.dumps(config.asdict()))
    log("The figure of a phase is that of its last epoch. Losses are means per image. Accuracies are top-1 on the test split.")
    for (name, split), loader in state.loaders.items():
        log(f"{name}, {split}: {loader.num_images:,} images, {len(loader.classes)} classes")
    state.base_stage()
    for task, ratio in zip(config.task_list, config.pruning_ratios):
        state.task_stage(task, ratio)
    results = state.results()
    if config.compare_finetuning:
        results["finetuning_matrix"] = sequential_finetuning(state)
    log("\n== Result ==")
    for line in summary(results):
        log(line)
    log("\nCapacity: fraction of all prunable weights, expected and (counted)")
    for row in results["capacity"]:
        log(f"  {row['task']:14} available {row['available']:.4f} ({row['measured_available']:.4f}), "
            f"used {row['used']:.4f} ({row['measured_used']:.4f})")
    for path in plots.draw(results, state.folder / "plots"):
        log(f"Drawn: {path}")
    results["seconds"] = time.monotonic() - state.started
    files.write(state.folder / RESULTS, json.dumps(results, indent=1).encode())
    log(f"Done in {results['seconds']:.0f} s. `python evaluate.py --output-dir {config.output_dir}` checks every task "
        "again from the checkpoint.")
    return results
