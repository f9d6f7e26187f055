"""What is measured in a run: told to the log, kept for results.json and the state."""
import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np

import toolchain
from dataset import Loader
from images.folders import unsorted
from images.preprocess import Preparation, preparation_of
from methods.recovery import RECOVERIES
from packing.portrait import Portrait, recognise
from pruning import PackNet
from reporting.published import OTHER_BASE
from reporting.summary import top5_tells
from runs import damage
from runs.addition import Earlier
from runs.log import Log
from runs.recognition import seen
from runs.stage import Stage, precision_of
from settings.archs import source_of
from settings.config import KEPT_EPOCH, Config
from storage import seals
from storage.packed import Packed
from system.errors import TrainingError

Loaders = dict[tuple[str, str], Loader]  # by data set and split


def base_retrained(config: Config) -> bool:
    """Whether a run re-trains its base network after the prune, if it prunes it."""
    return config.initial_pruning_ratio == 0 or config.recovery() == "retrain"


def input_of(task: str, loader: Loader | None, config: Config) -> dict:
    """How a task's images are prepared, as its entry holds it; `loader`: of its test split, None
    where there are no data."""
    known = loader.preparation if loader else preparation_of(task, config.image_size, config.crop)
    return known.plain()


@dataclass
class Score:
    """A pass over a split. Accuracies in percent, logits float32 [N, classes]."""
    top1: float
    top5: float
    logits: np.ndarray

    @classmethod
    def of(cls, logits: np.ndarray, labels: np.ndarray) -> "Score":
        order = np.argsort(-logits, axis=1, kind="stable")[:, :5]
        hits = order == labels[:, None]
        return cls(100 * float(hits[:, 0].mean()), 100 * float(hits.any(1).mean()), logits)

    @property
    def top5_tells(self) -> bool:
        return top5_tells(self.logits.shape[1])

    def shown(self) -> str:
        """Top-1 for a person, and top-5 where that tells something."""
        top5 = f" ({self.top5:.2f} %)" if self.top5_tells else ""
        return f"{self.top1:.2f} %{top5}"


def still_zero(packnet: PackNet, task: str) -> float:
    """The fraction of the weights that a task owns which are exactly 0."""
    k = packnet.owner_of(task)
    owned, zeros = 0, 0
    for name, weight in packnet.weights.items():
        mine = packnet.owners[name] == k
        owned += int(mine.sum().item())
        zeros += int((mine & (weight == 0)).sum().item())
    return zeros / max(1, owned)


def owners_by_layer(packnet: PackNet) -> dict[str, list[int]]:
    """{parameter name: how many weights are free, how many the first task owns, the second, ...}"""
    return {name: [int((owner == k).sum().item()) for k in range(len(packnet.tasks) + 1)]
            for name, owner in packnet.owners.items()}


class Results:
    """Each event of a run is told to one method, which measures, logs and remembers it.

    stages           the base task, then the added ones, with all their figures
    entries          what the packed file says of each (Stage.entry)
    earlier          the entries of the tasks that were packed before the run, of --add-to
    unchanged        the tasks whose seal was compared when the last one was frozen
    history          a record per epoch
    capacity, owners_by_layer, storage (bytes)    as of the last frozen task
    baselines        the figures of each method

    `reference`: a task's test logits when it was frozen.
    """

    def __init__(self, config: Config, loaders: Loaders, log: Log, figures: dict | None = None,
                 reference: dict[str, np.ndarray] | None = None) -> None:
        """`figures` and `reference`: those of a run that goes on. Raises TypeError and KeyError
        where the figures are not those of this version."""
        self.config, self.loaders, self.log = config, loaders, log
        self.reference = reference or {}
        self.source = source_of(config.arch)  # as it was when the run, or the rest of it, began
        # The split that epochs are judged on.
        self.judging = "validation" if config.validation else "test"
        self.stages: list[Stage] = []
        self.entries: list[dict] = []
        self.earlier: list[dict] = []
        self.unchanged: list[str] = []
        self.history: list[dict] = []
        self.capacity: list[dict] = []
        self.owners_by_layer: dict[str, list[int]] = {}
        self.storage: dict[str, int] = {}
        self.baselines: dict[str, dict] = {}
        if figures:
            for name in self.figures():
                setattr(self, name, figures[name])
            self.stages = [Stage(**stage) for stage in figures["stages"]]

    def figures(self) -> dict:
        """Everything but the arrays, for the state."""
        return dict(stages=[stage.asdict() for stage in self.stages], entries=self.entries,
                    earlier=self.earlier, unchanged=self.unchanged, history=self.history,
                    capacity=self.capacity, owners_by_layer=self.owners_by_layer,
                    storage=self.storage, baselines=self.baselines)

    def asdict(self, seconds: float, processes: int) -> dict:
        """The content of results.json."""
        base, *added = [stage.asdict() for stage in self.stages] or [None]
        retrained = None if self.earlier else base_retrained(self.config)
        return dict(arch=self.config.arch, device=toolchain.device, processes=processes,
                    toolchain=toolchain.describe(), seconds=seconds, config=self.config.asdict(),
                    tasks=added, earlier=[entry["name"] for entry in self.earlier],
                    seals_unchanged=self.unchanged, base_retrained=retrained,
                    accuracy_matrix=self.accuracy_matrix(), capacity=self.capacity,
                    owners_by_layer=self.owners_by_layer, history=self.history,
                    baselines=self.baselines, base=base, storage=self.storage,
                    network=self.source)

    def accuracy_matrix(self) -> list[list[float | None]]:
        """The accuracies of the added tasks, of all that the run will have, after each of them;
        None for one that comes later or was not measured."""
        tasks = max(0, len(self.earlier) - 1) + len(self.config.task_list)
        rows = [stage.top1_by_stage for stage in self.stages[1:]]
        learnt = len([row for row in rows if row])
        return [[rows[task][after - task] if task <= after else None for task in range(tasks)]
                for after in range(learnt)]

    # ---- measuring

    def score(self, packnet: PackNet, task: str) -> Score:
        return Score.of(*packnet.predict(task, self.loaders[task, "test"]))

    def preparation(self, task: str) -> Preparation:
        """How the images of a task become the network's input."""
        entry = {entry["name"]: entry for entry in self.entries}.get(task)
        loader = self.loaders.get((task, "test"))
        return Preparation.from_plain(entry["input"] if entry
                                      else input_of(task, loader, self.config))

    def judge(self, packnet: PackNet, task: str) -> float:
        """Top-1 while a task is still in the making: on its validation part, where there is one."""
        return Score.of(*packnet.predict(task, self.loaders[task, self.judging])).top1

    def measured(self, task: str) -> bool:
        """Whether there are data to test the task on: the base task may have none."""
        return (task, "test") in self.loaders

    def count_owners(self, packnet: PackNet) -> None:
        self.capacity = packnet.capacity()
        self.owners_by_layer = owners_by_layer(packnet)

    # ---- the events of a run

    def opened(self, packnet: PackNet, earlier: Earlier | None) -> None:
        self.count_owners(packnet)
        self.log(toolchain.describe())
        for line in earlier.report if earlier else ():
            self.log(line)
        self.log("Settings: " + json.dumps(self.config.asdict()))
        judged = f"Accuracies are top-1 on the {self.judging} split"
        if self.config.validation:
            judged += "; those of frozen tasks on the test split"
        self.log(f"{KEPT_EPOCH[self.config.keep]} Losses are means per image. {judged}.")
        for (name, split), loader in self.loaders.items():
            classes = f", {len(loader.classes)} classes" if loader.classes else ""
            self.log(f"{name}, {split}: {loader.num_images:,} images{classes}")
        if earlier:
            self.take_earlier(packnet, earlier.entries)

    def take_earlier(self, packnet: PackNet, entries: list[dict]) -> None:
        """The tasks packed before the run: the figures stored in their file, and what is measured
        anew where there are data."""
        self.earlier = entries
        self.entries = list(entries)
        for number, entry in enumerate(entries, start=1):
            task = entry["name"]
            stored = entry["top1"]
            later = len(entries) - number
            self.stages.append(Stage.of_entry(entry, later, not self.measured(task)))
            if self.measured(task):
                score = self.score(packnet, task)
                self.reference[task] = score.logits
                as_stored = f", {stored:.2f} % as stored" if stored is not None else ""
                if as_stored and precision_of(entry) != toolchain.precision:
                    as_stored += f" (in {precision_of(entry)}, now in {toolchain.precision})"
                self.log(f"{task}: {score.top1:.2f} % now{as_stored}")
            elif stored is not None:
                folder = self.config.folder(task)
                why = unsorted(task, self.config.data_root, "test")
                why = why or f"there is no {folder} to measure it again"
                self.log(f"{task}: {stored:.2f} % as stored; {why}")
        if self.config.prune_last:  # the last task is pruned and frozen once more
            self.entries.pop()
            for stage in self.stages:
                stage.top1_by_stage.pop()
                stage.top5_by_stage.pop()

    def started(self, task: str, num_classes: int) -> None:
        self.log(f"\n== {task} ==")
        if not self.measured(task):
            why = unsorted(task, self.config.data_root, "train")
            said = f"{why} Until then" if why else f"There is no {self.config.folder(task)}:"
            said += " its own accuracy is not measured."
            if not base_retrained(self.config):
                said += (f" The pruned base network is not re-trained on {task}"
                         f"{RECOVERIES[self.config.recover]}. {OTHER_BASE}")
            self.log(said)
        self.stages.append(Stage(task, num_classes))

    def epoch_line(self, title: str, record: dict) -> None:
        """An epoch has ended; `record`: task, phase, epoch, lr, loss, train_top1 (of a phase that
        distils: for how many images the class is the whole network's), seconds and, where there are
        data, <split that it is judged on>_top1."""
        seen = "as the whole network" if record["phase"] == "recover" else "train"
        judged = record.get(f"{self.judging}_top1")
        there = "" if judged is None else f", {self.judging} {judged:.2f} %"
        self.log("{}: lr {lr:g}, loss {loss:.4f}, {} {train_top1:.2f} %{} "
                 "({seconds:.1f} s)".format(title, seen, there, **record))

    def about_to_prune(self, packnet: PackNet, task: str) -> float | None:
        """The accuracy before the prune, None where there are no data; counts what is exactly 0
        already."""
        self.stages[-1].precision = toolchain.precision
        self.stages[-1].still_zero = still_zero(packnet, task)
        return self.judge(packnet, task) if self.measured(task) else None

    def pruned(self, packnet: PackNet, task: str, ratio: float, freed: dict[str, int],
               before: float | None) -> float | None:
        """`freed` from each layer; nothing, where the ratio is 0. Returns the accuracy after the
        prune."""
        k = packnet.owner_of(task)
        after = before
        if freed:
            self.log(f"{task}: pruned {100 * ratio:g} % of its weights, layer by layer")
            kept = {name: int((packnet.owners[name] == k).sum().item()) for name in freed}
            freed = freed | {"all": sum(freed.values())}
            kept = kept | {"all": sum(kept.values())}
            width = max(map(len, freed))
            for name, count in freed.items():
                owned = kept[name] + count
                self.log(f"  {name:{width}}  owned {owned:>11,}  freed {count:>11,}  "
                         f"kept {kept[name]:>11,}")
            asked = sum(round(ratio * (kept[name] + freed[name])) for name in packnet.owners)
            if packnet.pruned_units == "weights" and freed["all"] > asked:
                self.log(f"  {freed['all'] - asked:,} of them beyond {100 * ratio:g} %: as small "
                         "as the largest that goes, as all weights that training has left at "
                         "exactly 0; later tasks get them")
            if before is not None:
                after = self.judge(packnet, task)
                self.log(f"{task}: {before:.2f} % before the prune, {after:.2f} % after it")
        stage = self.stages[-1]
        stage.pruning_ratio = packnet.ratios.get(task, 0.0)
        stage.top1_before_prune = before
        stage.top1_after_prune = after
        return after

    def damaged(self, when: str, figures: dict[str, float], last: bool = False) -> None:
        """What is left of the base network after its prune (runs/damage.py); `last`: as it is
        frozen."""
        stage = self.stages[-1]
        stage.left_of_base["frozen" if last else "pruned"] = figures
        folder = str(self.config.folder(stage.name))
        for line in damage.lines(stage.name, when, figures, folder, last):
            self.log(line)

    def frozen(self, packnet: PackNet, task: str) -> None:
        """Test every task so far, and keep the logits of the new one."""
        scores = {name: self.score(packnet, name) for name in packnet.tasks if self.measured(name)}
        if self.measured(task):
            self.reference[task] = scores[task].logits
        self.count_owners(packnet)
        for stage, row in zip(self.stages, self.capacity):
            stage.owned_weights = row["owned_weights"]
            stage.owned_fraction = row["measured_used"]
            if score := scores.get(stage.name):
                change = np.abs(score.logits - self.reference[stage.name]).max()
                stage.max_logit_change = float(change)
                stage.top1_final = score.top1
                stage.top5_final = score.top5
            stage.top1_by_stage.append(stage.top1_final)
            stage.top5_by_stage.append(stage.top5_final)
        stage = self.stages[-1]
        last_phase = "retrain" if stage.pruning_ratio else "train"
        tested = [record["test_top1"] for record in self.history if "test_top1" in record
                  and (record["task"], record["phase"]) == (task, last_phase)]
        stage.top1_after_finetune = stage.top1_final
        stage.top1_best_epoch = max(tested, default=stage.top1_final)
        shown = [f"{name} {score.shown()}" for name, score in scores.items()]
        top5 = " (top-5)" if any(score.top5_tells for score in scores.values()) else ""
        self.log(f"{task} is frozen. Top-1{top5} now: {', '.join(shown)}")

    def sealed(self, packed: Packed) -> None:
        """The entry of the task that was frozen last, with its seal; and whether those of the
        earlier tasks are what they were. Raises TrainingError where one is not."""
        stage = self.stages[-1]
        broken = seals.broken(packed, self.entries)
        if broken:
            raise TrainingError(f"{stage.name}: the seals of {', '.join(broken)} are broken: these "
                                "tasks are not what they were when they were frozen. The packed "
                                "file before this task is kept.")
        if self.entries:
            tasks = "task" if len(self.entries) == 1 else "tasks"
            self.log(f"{len(self.entries)} earlier {tasks}: seals unchanged")
        self.unchanged = [entry["name"] for entry in self.entries]
        loader = self.loaders.get((stage.name, "test"))
        classes = loader.classes if loader else None
        self.entries.append(stage.entry(classes, input_of(stage.name, loader, self.config)))
        stage.seal = seals.of_task(packed, self.entries, len(self.entries) - 1)
        self.entries[-1]["seal"] = stage.seal
        self.entries[-1]["portrait"] = seals.of_portrait(packed, stage.name)

    def recognised(self, packnet: PackNet, portraits: dict[str, Portrait],
                   images: Callable[[str, str, str], Loader]) -> None:
        """All tasks are learnt: of the test images of each, how many the network takes for its own
        (runs/recognition.py). `images(task, split, like)`: as of Run."""
        asked = [stage for stage in self.stages
                 if stage.name in portraits and self.measured(stage.name)]
        if len(portraits) < 2:
            return
        self.log("\nWhose image is it? Of each task's test images, without its name being told:")
        for stage in asked:
            look, _ = seen(packnet, partial(images, stage.name, "test"), stage.name)
            task, beyond = recognise(list(portraits.values()), look)
            found = task == list(portraits).index(stage.name)
            logits, labels = packnet.predict(stage.name, self.loaders[stage.name, "test"])
            right = logits.argmax(1) == labels
            stage.task_found = 100 * float(found.mean())
            stage.top1_class_incremental = 100 * float((found & right).mean())
            self.log(f"  {stage.name:14} task found {stage.task_found:6.2f} %, its class too "
                     f"{stage.top1_class_incremental:6.2f} %, said to be none of the tasks' "
                     f"{100 * float((beyond > 0).mean()):.2f} %")

    def baseline_started(self, method: str, tasks: list[str]) -> None:
        """`tasks`: those that it will be tested on, in the order they are learnt."""
        before = "the packed network" if self.config.add_to else "the base network before its prune"
        self.log(f"\n== Baseline {method}, for comparison: from {before} ==")
        self.baselines[method] = dict(tasks=tasks, top1_by_stage=[], top5_by_stage=[],
                                      class_incremental=[None] * len(tasks))

    def baseline_finished(self, method: str, after: str, top1: dict[str, float],
                          top5: dict[str, float]) -> None:
        """`top1`, `top5`: of the tasks that were tested after the task `after`; the others keep
        their figures."""
        figures = self.baselines[method]
        for table, values in ((figures["top1_by_stage"], top1), (figures["top5_by_stage"], top5)):
            before = table[-1] if table else [None] * len(figures["tasks"])
            table.append([values.get(name, old) for name, old in zip(figures["tasks"], before)])
        row = zip(figures["tasks"], figures["top1_by_stage"][-1])
        shown = ", ".join(f"{name} {value:.2f} %" for name, value in row if value is not None)
        self.log(f"{method}, after {after}: {shown}")

    def baseline_asked(self, method: str, top1: dict[str, float]) -> None:
        """All its tasks are learnt; `top1`: where the likeliest of all classes of all tasks counts,
        by task."""
        tasks = self.baselines[method]["tasks"]
        self.baselines[method]["class_incremental"] = [top1.get(task) for task in tasks]
        shown = ", ".join(f"{name} {value:.2f} %" for name, value in top1.items())
        self.log(f"{method}, of all classes of all tasks: {shown}")
