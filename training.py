"""A run of PackNet: the base network, then task after task, with everything that is measured on the way.

    base task:   load pretrained weights (or train from scratch)  ->  prune  ->  re-train where its data are present
    each task:   train on the free weights  ->  prune  ->  re-train  ->  evaluate every task so far

`Run(config).go()` writes log.txt, results.json, the checkpoint and plots/ to the output directory, and goes on where a
run in it stopped. Settings: config.py; the steps: schedule.py; the algorithm: pruning.py.
"""
import fcntl
import json
import math
import os
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

import baselines
import files
import plots
import toolchain
from config import CHECKPOINT, LOG, RESULTS, STATE, Config, ConfigError
from dataset import Loader, create_dataloader
from networks import ARCHITECTURES, MultiHead, assign, build, load_pretrained
from pruning import PackNet, predict
from report import summary
from schedule import ALL, Phase, plan
from weights import WeightsError, download, load_checkpoint, pack_owners, save_checkpoint, unpack_owners

jt = toolchain.start()
from jittor import nn  # noqa: E402


# Steps between two looks at the loss. On a GPU a look waits for all that is under way.
CHECK_EVERY = 20 if toolchain.device == "cuda" else 1
SAVING_SHARE = 0.05  # of the time, at most, for the state that --resume goes on from


class TrainingError(Exception):
    """Training cannot go on. The message names task, phase and epoch."""


class Log:
    """Lines for a person: on the terminal and in log.txt.

    Holds the run's folder: while it is open, a second process that opens it gets a ConfigError.
    """

    def __init__(self, path: Path, length: int = 0) -> None:
        """Goes on after the first `length` bytes; what a killed process wrote after them is written again."""
        path.parent.mkdir(parents=True, exist_ok=True)
        self.file = None
        if toolchain.RANK:
            return  # under mpirun the first process writes for all
        self.file = open(path, "ab")
        try:
            fcntl.flock(self.file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise ConfigError(f"--output-dir {path.parent}: another process is running there. "
                              "Wait for it, or choose another folder.") from error
        self.file.truncate(length)

    def __call__(self, line: str = "") -> None:
        if not self.file:
            return
        tqdm.write(line)
        self.file.write(f"{line}\n".encode())
        self.file.flush()

    @property
    def length(self) -> int:
        return os.fstat(self.file.fileno()).st_size


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


def train_epoch(loss_of: baselines.Loss, loader: "Loader | baselines.Mixture", optimizer: nn.Optimizer,
                title: str) -> tuple[float, float]:
    """One epoch. Returns the mean loss per image and the top-1 accuracy in percent, both as seen while training.

    `loss_of`: (images, labels) -> (loss, logits).
    Raises TrainingError when the loss is NaN or infinite.
    """
    loss_sum, hits = jt.zeros(1), jt.zeros(1)
    seen = 0
    bar = tqdm(loader, title, unit="batch", leave=False, delay=1)
    for step, (images, labels) in enumerate(bar):
        loss, logits = loss_of(images, labels)
        optimizer.step(loss)
        share = toolchain.parts / jt.world_size  # 1, or what this process counts for where all have the whole batch
        loss_sum = (loss_sum + loss.detach() * (len(labels) * share)).stop_grad()
        hits = (hits + (logits.argmax(1)[0] == labels).sum() * share).stop_grad()
        jt.sync_all()
        seen += len(labels) * toolchain.parts
        if step % CHECK_EVERY == 0 or step == len(loader) - 1:
            mean = over_processes(loss_sum) / seen
            if not math.isfinite(mean):
                raise TrainingError(f"{title}: the loss is {mean} at learning rate {optimizer.lr:g}. The last saved state is "
                                    "kept; start again in another folder with a lower rate.")
            bar.set_postfix(loss=f"{mean:.3f}")
    return mean, 100 * over_processes(hits) / seen


def over_processes(value: jt.Var) -> float:
    """The sum of a one-element Var over all processes."""
    return (value.mpi_all_reduce("add") if jt.in_mpi else value).item()


def seed(config: Config, *position: int) -> None:
    """Set every random state from the run's seed and a position in it alone, so that what follows is the same whatever
    ran before it in this process."""
    jt.sync_all()  # Jittor computes late: what is still to be drawn belongs to the seed before
    # + 1: to NumPy (s, 0) is the same seed as (s,)
    state = np.random.SeedSequence((config.seed, *(int(p) + 1 for p in position))).generate_state(1)[0]
    jt.set_global_seed(int(state >> 1), different_seed_for_mpi=False)


class Run:
    """One run: the network, its owners, the loaders, and what was measured so far.

    It carries out `plan` step by step, from `position` on. After an epoch and a finished task everything that later
    steps need goes into the state file, so that a killed run goes on from there and ends as if nothing had happened.
    """

    def __init__(self, config: Config) -> None:
        self.config = config
        self.folder = Path(config.output_dir)
        self.started = time.monotonic()
        self.saved_at, self.saving_seconds = 0.0, 0.0
        self.position = 0
        # What is measured; all of it goes into results.json and the state.
        self.stages: list[dict] = []  # the base task, then the added ones
        self.history: list[dict] = []
        self.matrix: list[list[float | None]] = []
        self.baseline: dict | None = None  # once they have begun: their methods' figures, and the results of PackNet
        self.storage: dict = {}  # bytes of the checkpoint, of the owner maps in it, of the tasks' networks kept apart
        # Arrays of the state
        self.reference: dict[str, np.ndarray] = {}  # a task's test logits when it was frozen
        self.dense: dict[str, np.ndarray] = {}  # the base network before its prune, where baselines need it
        self.teacher: dict[str, np.ndarray] = {}  # Learning without Forgetting: the network before the task at hand
        self.optimizer: nn.SGD | None = None
        self.loaders = {}
        self._open_data()
        self.steps = plan(config, self.has_base_data)
        state = self.folder / STATE
        if state.exists():
            tensors, metadata = load_checkpoint(state)
            try:
                self._restore(tensors, metadata)
                self.log = Log(self.folder / LOG, metadata["log_length"])
            except (KeyError, TypeError, ValueError, IndexError) as error:
                raise WeightsError(f"{state}: not the state of this version of the program "
                                   f"({type(error).__name__}: {error})") from error
            tqdm.write(f"Going on in {self.folder} after step {self.position} of {len(self.steps)}.")
        else:
            seed(config)
            self.net = self._base_network()
            self.packnet = make_packnet(self.net, config)
            self.log = Log(self.folder / LOG)
            self._open_log()
            self.save_results(finished=False)

    # ---- the beginning

    def _open_data(self) -> None:
        """Every loader at once: what is wrong with any data set is said before the first epoch."""
        c = self.config
        names = [*c.task_list] + [c.base_task] * c.has_data(c.base_task)
        if toolchain.LOCAL_RANK:
            toolchain.wait_for_all()  # for the first process of this machine, which makes the caches
        for name in names:
            for split in ("train", "test"):
                self.loaders[name, split], _ = create_dataloader(
                    name, c.data_root, split, c.batch_size, seed=c.seed, image_size=c.image_size, cache_dir=c.cache_dir)
        if not toolchain.LOCAL_RANK:
            toolchain.wait_for_all()

    def _base_network(self) -> MultiHead:
        c = self.config
        net = build(c.arch)
        if c.num_epochs_base:
            net.add_head(c.base_task, len(self.loaders[c.base_task, "train"].classes))
            return net
        shape = ARCHITECTURES[c.arch]
        load_pretrained(net, c.pretrained or download(shape.pretrained), c.base_task, shape.last)
        classes = len(self.loaders[c.base_task, "train"].classes) if self.has_base_data else None
        if classes and classes != net.num_classes(c.base_task):
            raise ConfigError(f"{c.folder(c.base_task)} has {classes} classes, the pretrained network "
                              f"{net.num_classes(c.base_task)}: they must be the same")
        return net

    def _data(self) -> dict[str, list[int]]:
        return {f"{name}, {split}": [loader.num_images, len(loader.classes)] for (name, split), loader in self.loaders.items()}

    def _open_log(self) -> None:
        self.log(toolchain.describe())
        self.log("Settings: " + json.dumps(self.config.asdict()))
        self.log("The figure of a phase is that of its last epoch. Losses are means per image. Accuracies are top-1 on "
                 "the test split.")
        for name, (images, classes) in self._data().items():
            self.log(f"{name}: {images:,} images, {classes} classes")

    @property
    def has_base_data(self) -> bool:
        return (self.config.base_task, "train") in self.loaders

    # ---- the steps

    def go(self) -> dict:
        """Carry out the rest of the plan. Returns the content of results.json."""
        toolchain.interrupted = False
        while self.position < len(self.steps):
            step, *arguments = self.steps[self.position]
            getattr(self, step)(*arguments)
            self.position += 1
            if step in ("epoch", "finish", "finish_baseline") and self._saving_pays():
                self.save_state()
            if toolchain.interrupted:
                raise KeyboardInterrupt
        self.save_results(finished=True)
        if not toolchain.RANK:
            (self.folder / STATE).unlink(missing_ok=True)  # results and checkpoint are complete
        return self.results()

    def start(self, task: str) -> None:
        c = self.config
        self.log(f"\n== {task} ==")
        if task == c.base_task:
            if not self.has_base_data:
                self.log(f"There is no {c.folder(task)}: the pruned base network is not re-trained on {task} and its own "
                         "accuracy is not measured; the tasks build on a base that has not recovered from its prune.")
        else:
            self._add_head(task)
        self.packnet.start_task(task)
        self.stages.append(dict(name=task, num_classes=self.net.num_classes(task)))

    def epoch(self, task: str, phase: Phase, epoch: int) -> None:
        """Train one epoch and test. The seed follows from the position, so that nothing before it matters."""
        c, start = self.config, time.monotonic()
        if epoch == 0:
            self.optimizer = self._optimizer(task, phase)
        self.optimizer.lr = phase.lr_at(epoch)
        seed(c, self.position)
        if task == ALL:
            loader = baselines.Mixture({name: loader for (name, split), loader in self.loaders.items() if split == "train"},
                                       self.net.select)
        else:
            loader = self.loaders[task, "train"]
            self.net.select(task)
        loader.epoch = self.position
        self.packnet.set_training(True)
        title = f"{f'{phase.method}: ' if phase.method else ''}{task}, {phase.name} {epoch + 1}/{phase.epochs}"
        loss_of = baselines.loss_of(phase, self.net, c.arch, self.teacher)
        loss, train_top1 = train_epoch(loss_of, loader, self.optimizer, title)
        top1 = float(np.mean([self.score(name).top1 for name in (c.task_list if task == ALL else [task])]))
        self.log(f"{title}: lr {self.optimizer.lr:g}, loss {loss:.4f}, train {train_top1:.2f} %, test {top1:.2f} % "
                 f"({time.monotonic() - start:.1f} s)")
        if not phase.method:
            self.history.append(dict(task=task, phase=phase.name, epoch=epoch + 1, lr=self.optimizer.lr, loss=loss,
                                     train_top1=train_top1, test_top1=top1, seconds=time.monotonic() - start))

    def prune(self, task: str, ratio: float) -> None:
        """Prune and log what each layer lost, with the accuracies before and after (None where there are no data)."""
        stage, measured = self.stages[-1], (task, "test") in self.loaders
        if self.config.baselines and task == self.config.base_task:
            self.dense = {name: parameter.numpy() for name, parameter in self.net.state_dict().items()}
        before = after = self.score(task).top1 if measured else None
        self.net.mpi_param_broadcast()  # under mpirun the same weights, to the bit, and so the same masks
        owner = self.packnet.owner_of(task)
        sizes, zeros = {}, 0
        for name, weight in self.packnet.weights.items():
            mine = self.packnet.owners[name] == owner
            sizes[name] = int(mine.sum().item())
            zeros += int((mine & (weight == 0)).sum().item())
        stage["still_zero"] = zeros / max(1, sum(sizes.values()))
        if ratio:
            freed = self.packnet.prune(task, ratio)
            self.log(f"{task}: pruned {100 * ratio:g} % of its weights, layer by layer")
            sizes["all"], freed["all"] = sum(sizes.values()), sum(freed.values())
            width = max(map(len, freed))
            for name, count in freed.items():
                self.log(f"  {name:{width}}  owned {sizes[name]:>11,}  freed {count:>11,}  kept {sizes[name] - count:>11,}")
            if measured:
                after = self.score(task).top1
                self.log(f"{task}: {before:.2f} % before the prune, {after:.2f} % after it")
        stage.update(pruning_ratio=ratio, top1_before_prune=before, top1_after_prune=after)

    def finish(self, task: str) -> None:
        """The task is frozen: keep its logits, evaluate every task so far, write the checkpoint."""
        if (task, "test") in self.loaders:
            self.reference[task] = self.score(task).logits
        scores = {name: self.score(name) for name in self.packnet.tasks if (name, "test") in self.loaders}
        for stage, row in zip(self.stages, self.packnet.capacity()):
            score = scores.get(stage["name"])
            stage.update(owned_weights=row["owned_weights"], owned_fraction=row["measured_used"],
                         top1_final=score and score.top1, top5_final=score and score.top5,
                         max_logit_change=score and float(np.abs(score.logits - self.reference[stage["name"]]).max()))
            stage.setdefault("top1_by_stage", []).append(stage["top1_final"])
            stage.setdefault("top5_by_stage", []).append(stage["top5_final"])
        stage = self.stages[-1]
        last_phase = "retrain" if stage["pruning_ratio"] else "train"
        stage["top1_after_finetune"] = stage["top1_final"]
        stage["top1_best_epoch"] = max((record["test_top1"] for record in self.history
                                        if record["task"] == task and record["phase"] == last_phase),
                                       default=stage["top1_final"])
        if len(self.stages) > 1:
            self.matrix.append([scores[name].top1 if name in scores else None for name in self.config.task_list])
        self.log(f"{task} is frozen. Top-1 (top-5) now: "
                 + ", ".join(f"{name} {score.top1:.2f} % ({score.top5:.2f} %)" for name, score in scores.items()))
        self.optimizer = None
        self._save_checkpoint()
        self.save_results(finished=False)

    def start_baseline(self, method: str, task: str) -> None:
        """The network that the method trains next: the base network, or where it goes on with one, that; and a new head."""
        base = self.config.base_task
        if not self.baseline:
            self.baseline = dict(methods={}, packnet=self.results())
        first = method not in self.baseline["methods"]
        if first:
            self.log(f"\n== Baseline {method}, for comparison: from the base network before its prune ==")
            names = [base] * self.has_base_data + self.config.task_list
            self.baseline["methods"][method] = dict(tasks=names, top1_by_stage=[], top5_by_stage=[])
        if first or method == "individual":
            self.net = build(self.config.arch)
            self.net.add_head(base, self.stages[0]["num_classes"])
            assign(self.net, self.dense, "the base network")
        self.teacher = {name: parameter.numpy() for name, parameter in self.net.state_dict().items()} if method == "lwf" else {}
        for name in self.config.task_list if task == ALL else [task]:
            self._add_head(name)
        self.packnet = PackNet(self.net)
        if method == "classifier":
            self.packnet.start_task(base)  # which owns every weight, for good
        self.packnet.start_task(task)

    def finish_baseline(self, method: str, task: str) -> None:
        """Test every task so far; with networks of their own, earlier tasks keep their figures."""
        figures = self.baseline["methods"][method]
        names, tables = figures["tasks"], (figures["top1_by_stage"], figures["top5_by_stage"])
        row, top5 = ([*table[-1]] if table else [None] * len(names) for table in tables)
        if method == "individual":
            tested = [task]
            if self.has_base_data:
                row[0] = self.stages[0]["top1_before_prune"]  # of the base network itself
        else:
            tested = names[:names.index(task) + 1] if task in names else names
        for name in tested:
            score = self.score(name)
            row[names.index(name)], top5[names.index(name)] = score.top1, score.top5
        for table, values in zip(tables, (row, top5)):
            table.append(values)
        self.log(f"{method}, after {task}: " + ", ".join(f"{name} {top1:.2f} %" for name, top1 in zip(names, row) if top1 is not None))
        self.optimizer = None

    def report(self) -> None:
        if toolchain.RANK:
            return
        results = self.results()
        self.log("\n== Result ==")
        for line in summary(results):
            self.log(line)
        for path in plots.draw(results, self.folder / "plots"):
            self.log(f"Drawn: {path}")
        self.log(f"Done in {results['seconds']:.0f} s. `python evaluate.py --output-dir {self.folder}` checks every task "
                 "again from the checkpoint.")

    # ---- pieces

    def _saving_pays(self) -> bool:
        """Saving takes at most SAVING_SHARE of the time: on a fast GPU an epoch can be as short as writing a state."""
        return time.monotonic() - self.saved_at >= self.saving_seconds / SAVING_SHARE

    def score(self, task: str) -> Score:
        if self.baseline:
            self.packnet.set_training(False)
            self.net.select(task)
            return Score.of(*predict(self.net, self.loaders[task, "test"], f"{task}, test"))
        return Score.of(*self.packnet.predict(task, self.loaders[task, "test"]))

    def _add_head(self, task: str) -> None:
        seed(self.config, self.position)
        self.net.add_head(task, len(self.loaders[task, "train"].classes))

    def _optimizer(self, task: str, phase: Phase) -> nn.SGD:
        trainable = baselines.trainable(phase, self.packnet, task)
        return nn.SGD(list(trainable.values()), phase.lr, momentum=self.config.momentum, weight_decay=phase.weight_decay)

    def _momentum(self) -> dict[str, jt.Var]:
        """The momentum of every parameter that the optimizer moves, by the parameter's name."""
        _, task, phase, _ = self.steps[self.position - 1]
        return dict(zip(baselines.trainable(phase, self.packnet, task), self.optimizer.param_groups[0]["values"]))

    # ---- results, checkpoint, state

    def results(self) -> dict:
        """The content of results.json so far."""
        seconds = time.monotonic() - self.started
        if self.baseline:
            return self.baseline["packnet"] | dict(seconds=seconds, baselines=self.baseline["methods"])
        owners = {name: [int((owner == k).sum().item()) for k in range(len(self.packnet.tasks) + 1)]
                  for name, owner in self.packnet.owners.items()}
        return dict(arch=self.config.arch, device=toolchain.device, processes=jt.world_size, toolchain=toolchain.describe(), seconds=seconds,
                    config=self.config.asdict(), tasks=self.stages[1:], base=self.stages[0] if self.stages else None,
                    accuracy_matrix=self.matrix, capacity=self.packnet.capacity(), owners_by_layer=owners,
                    history=self.history, baselines={}, storage=self.storage)

    def save_results(self, finished: bool) -> None:
        if toolchain.RANK:
            return
        files.write(self.folder / RESULTS, json.dumps(dict(finished=finished) | self.results(), indent=1).encode())

    def _save_checkpoint(self) -> None:
        """The packed network as evaluate.py needs it: weights, heads and owner maps (`owner.<parameter name>`)."""
        if toolchain.RANK:
            return
        config = self.config.asdict()
        config.pop("output_dir")  # the folder may be moved
        tasks = [dict(name=stage["name"], num_classes=stage["num_classes"], pruning_ratio=stage["pruning_ratio"],
                      top1=stage["top1_final"], classes=self.loaders[stage["name"], "test"].classes
                      if (stage["name"], "test") in self.loaders else None) for stage in self.stages]
        tensors = {name: pack_owners(array, len(self.packnet.tasks)) if name.startswith("owner.") else array
                   for name, array in packed_tensors(self.packnet).items()}
        shared = sum(array.nbytes for name, array in tensors.items() if name.startswith("trunk."))
        heads = sum(array.nbytes for name, array in tensors.items() if name.startswith("heads."))
        save_checkpoint(self.folder / CHECKPOINT, tensors,
                        dict(arch=self.config.arch, image_size=self.config.image_size, tasks=tasks, config=config))
        self.storage = dict(packed_file=(self.folder / CHECKPOINT).stat().st_size,
                            owner_maps=sum(array.nbytes for name, array in tensors.items() if name.startswith("owner.")),
                            separate_networks=len(tasks) * shared + heads)

    def save_state(self) -> None:
        """Everything the remaining steps need, in one file, in place of the one before."""
        if toolchain.RANK:
            return
        start = time.monotonic()
        tensors = packed_tensors(self.packnet)
        tensors |= {f"reference.{task}": logits for task, logits in self.reference.items()}
        if self.config.baselines:
            tensors |= {f"dense.{name}": array for name, array in self.dense.items()}
        tensors |= {f"teacher.{name}": array for name, array in self.teacher.items()}
        if self.optimizer:
            tensors |= {f"momentum.{name}": value.numpy() for name, value in self._momentum().items()}
        save_checkpoint(self.folder / STATE, tensors, dict(
            position=self.position, data=self._data(), log_length=self.log.length,
            seconds=time.monotonic() - self.started, stages=self.stages, history=self.history, matrix=self.matrix,
            baseline=self.baseline, storage=self.storage, packed_tasks=self.packnet.tasks,
            ratios=list(self.packnet.ratios.values()),
            heads={task: self.net.num_classes(task) for task in self.net.heads.keys()}))
        self.saved_at = time.monotonic()
        self.saving_seconds = self.saved_at - start

    def _restore(self, tensors: dict[str, np.ndarray], saved: dict) -> None:
        def part(prefix: str) -> dict[str, np.ndarray]:
            return {name[len(prefix):]: tensors.pop(name) for name in list(tensors) if name.startswith(prefix)}

        path = self.folder / STATE
        for key in saved["data"].keys() | self._data().keys():
            if saved["data"].get(key) != self._data().get(key):
                raise ConfigError(f"--resume: the data have changed since the run stopped ({key}: images and classes were "
                                  f"{saved['data'].get(key)}, are {self._data().get(key)}), and the result would be neither run")
        self.position, self.started = saved["position"], time.monotonic() - saved["seconds"]
        self.stages, self.history, self.matrix = saved["stages"], saved["history"], saved["matrix"]
        self.baseline, self.storage = saved["baseline"], saved["storage"]
        self.teacher = part("teacher.")
        self.reference, self.dense, owners = part("reference."), part("dense."), part("owner.")
        private = {task: part(f"private.{task}.") for task in saved["packed_tasks"][:-1]}
        momentum = part("momentum.")
        self.net = build(self.config.arch)
        for task, classes in saved["heads"].items():
            self.net.add_head(task, classes)
        assign(self.net, tensors, path)
        self.packnet = PackNet(self.net) if self.baseline else make_packnet(self.net, self.config)
        self.packnet.restore(saved["packed_tasks"], owners, dict(zip(saved["packed_tasks"], saved["ratios"])), private)
        if momentum:
            _, task, phase, _ = self.steps[self.position - 1]
            self.optimizer = self._optimizer(task, phase)
            for name, value in self._momentum().items():
                value.assign(jt.array(momentum[name]).stop_grad())


def make_packnet(net: MultiHead, config: Config) -> PackNet:
    return PackNet(net, train_biases=config.train_biases, train_bn=config.train_bn, fresh_weights=config.free_weights == "init")


def packed_tensors(packnet: PackNet) -> dict[str, np.ndarray]:
    """All parameters by name, the owner maps as `owner.<parameter name>`, and what earlier tasks have of their own as
    `private.<task>.<parameter name>`."""
    tensors = {name: parameter.numpy() for name, parameter in packnet.model.state_dict().items()}
    tensors |= {f"owner.{name}": owner.numpy() for name, owner in packnet.owners.items()}
    return tensors | {f"private.{task}.{name}": value.numpy() for task, values in packnet.private.items()
                      for name, value in values.items()}


def load_packed(path: str | Path) -> tuple[PackNet, dict]:
    """The packed network of a checkpoint and its metadata, ready to evaluate. Raises WeightsError."""
    tensors, metadata = load_checkpoint(path)
    try:
        net = build(metadata["arch"])
        for task in metadata["tasks"]:
            net.add_head(task["name"], task["num_classes"])
        tasks = [task["name"] for task in metadata["tasks"]]
        packnet = make_packnet(net, Config(**metadata["config"]))
        owners = {name: unpack_owners(tensors.pop(f"owner.{name}"), tuple(owner.shape)) for name, owner in packnet.owners.items()}
        private = {task: {name: tensors.pop(f"private.{task}.{name}") for name in packnet.private_names} for task in tasks[:-1]}
        assign(net, tensors, path)
        packnet.restore(tasks, owners, private=private)
    except (KeyError, TypeError, ValueError) as error:
        raise WeightsError(f"{path}: not a checkpoint of this version ({type(error).__name__}: {error})") from error
    return packnet, metadata
