"""What is measured in a run: stages, history, accuracies after every task; told to the log and kept for results.json."""
import json
from dataclasses import dataclass

import numpy as np

import toolchain
from dataset import Loader
from images.preprocess import input_settings
from pruning import PackNet
from runs.log import Log
from settings.config import Config
from storage import seals
from storage.packed import Packed

Loaders = dict[tuple[str, str], Loader]  # by data set and split


class TrainingError(Exception):
    """Training cannot go on. The message names task, phase and epoch."""


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


class Results:
    """Each event of a run is told to one method, which measures, logs and remembers it.

    `stages`: the base task, then the added ones, with all their figures. `entries`: what the packed file says of each, from when
    it was frozen. `history`: a record per epoch. `matrix`: accuracies
    of the added tasks after each of them. `capacity`, `owners_by_layer`, `storage` (bytes): as of the last frozen task.
    `baselines`: the figures of each method. `reference`: a task's test logits when it was frozen.
    """
    FIGURES = ("stages", "entries", "history", "matrix", "capacity", "owners_by_layer", "storage", "baselines")

    def __init__(self, config: Config, loaders: Loaders, log: Log) -> None:
        self.config, self.loaders, self.log = config, loaders, log
        self.stages: list[dict] = []
        self.entries: list[dict] = []
        self.history: list[dict] = []
        self.matrix: list[list[float | None]] = []
        self.capacity: list[dict] = []
        self.owners_by_layer: dict[str, list[int]] = {}
        self.storage: dict[str, int] = {}
        self.baselines: dict[str, dict] = {}
        self.reference: dict[str, np.ndarray] = {}

    # ---- to and from files

    def figures(self) -> dict:
        """Everything but the arrays, for the state."""
        return {name: getattr(self, name) for name in self.FIGURES}

    def take_over(self, figures: dict, reference: dict[str, np.ndarray]) -> None:
        for name in self.FIGURES:
            setattr(self, name, figures[name])
        self.reference = reference

    def asdict(self, seconds: float, processes: int) -> dict:
        """The content of results.json."""
        return dict(arch=self.config.arch, device=toolchain.device, processes=processes, toolchain=toolchain.describe(),
                    seconds=seconds, config=self.config.asdict(), tasks=self.stages[1:],
                    base=self.stages[0] if self.stages else None, accuracy_matrix=self.matrix, capacity=self.capacity,
                    owners_by_layer=self.owners_by_layer, history=self.history, baselines=self.baselines, storage=self.storage)

    # ---- measuring

    def score(self, packnet: PackNet, task: str) -> Score:
        return Score.of(*packnet.predict(task, self.loaders[task, "test"]))

    def measured(self, task: str) -> bool:
        """Whether there are data to test the task on: the base task may have none."""
        return (task, "test") in self.loaders

    def count_owners(self, packnet: PackNet) -> None:
        self.capacity = packnet.capacity()
        self.owners_by_layer = {name: [int((owner == k).sum().item()) for k in range(len(packnet.tasks) + 1)]
                                for name, owner in packnet.owners.items()}

    # ---- the events of a run

    def opened(self, packnet: PackNet) -> None:
        self.count_owners(packnet)
        self.log(toolchain.describe())
        self.log("Settings: " + json.dumps(self.config.asdict()))
        self.log("The figure of a phase is that of its last epoch. Losses are means per image. Accuracies are top-1 on "
                 "the test split.")
        for (name, split), loader in self.loaders.items():
            self.log(f"{name}, {split}: {loader.num_images:,} images, {len(loader.classes)} classes")

    def started(self, task: str, num_classes: int) -> None:
        self.log(f"\n== {task} ==")
        if not self.measured(task):
            self.log(f"There is no {self.config.folder(task)}: the pruned base network is not re-trained on {task} and its own "
                     "accuracy is not measured; the tasks build on a base that has not recovered from its prune.")
        self.stages.append(dict(name=task, num_classes=num_classes))

    def trained(self, title: str, record: dict) -> None:
        """An epoch of PackNet; `record`: task, phase, epoch, lr, loss, train_top1, test_top1, seconds."""
        self.epoch_line(title, record)
        self.history.append(record)

    def epoch_line(self, title: str, record: dict) -> None:
        """An epoch of anything."""
        self.log("{}: lr {lr:g}, loss {loss:.4f}, train {train_top1:.2f} %, test {test_top1:.2f} % ({seconds:.1f} s)"
                 .format(title, **record))

    def about_to_prune(self, packnet: PackNet, task: str) -> float | None:
        """The accuracy before the prune, None where there are no data; counts what is exactly 0 already."""
        before = self.score(packnet, task).top1 if self.measured(task) else None
        k, owned, zeros = packnet.owner_of(task), 0, 0
        for name, weight in packnet.weights.items():
            mine = packnet.owners[name] == k
            owned += int(mine.sum().item())
            zeros += int((mine & (weight == 0)).sum().item())
        self.stages[-1]["still_zero"] = zeros / max(1, owned)
        return before

    def pruned(self, packnet: PackNet, task: str, ratio: float, freed: dict[str, int], before: float | None) -> None:
        """`freed` from each layer; nothing, where the ratio is 0."""
        after, k = before, packnet.owner_of(task)
        if freed:
            self.log(f"{task}: pruned {100 * ratio:g} % of its weights, layer by layer")
            kept = {name: int((packnet.owners[name] == k).sum().item()) for name in freed}
            freed, kept = freed | {"all": sum(freed.values())}, kept | {"all": sum(kept.values())}
            width = max(map(len, freed))
            for name, count in freed.items():
                self.log(f"  {name:{width}}  owned {kept[name] + count:>11,}  freed {count:>11,}  kept {kept[name]:>11,}")
            if before is not None:
                after = self.score(packnet, task).top1
                self.log(f"{task}: {before:.2f} % before the prune, {after:.2f} % after it")
        self.stages[-1].update(pruning_ratio=ratio, top1_before_prune=before, top1_after_prune=after)

    def frozen(self, packnet: PackNet, task: str) -> None:
        """Keep the logits of the task, and test every task so far."""
        if self.measured(task):
            self.reference[task] = self.score(packnet, task).logits
        scores = {name: self.score(packnet, name) for name in packnet.tasks if self.measured(name)}
        self.count_owners(packnet)
        for stage, row in zip(self.stages, self.capacity):
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

    def sealed(self, packed: Packed) -> None:
        """The seal of the task that was frozen last, in a new entry; and whether those of the earlier tasks are what they were.
        Raises TrainingError where one is not."""
        stage = self.stages[-1]
        loader = self.loaders.get((stage["name"], "test"))
        entry = {key: stage[key] for key in ("name", "num_classes", "pruning_ratio", "top1_before_prune", "top1_after_prune", "still_zero")}
        entry |= dict(top1=stage["top1_final"], top5=stage["top5_final"], classes=loader and loader.classes,
                      input=input_settings(stage["name"], self.config.image_size))
        broken = seals.broken(packed, self.entries)
        if broken:
            raise TrainingError(f"{stage['name']}: the seals of {', '.join(broken)} are broken: these tasks are not what they were when "
                                "they were frozen. The packed file before this task is kept.")
        if self.entries:
            self.log(f"{len(self.entries)} earlier task{'s' * (len(self.entries) > 1)}: seals unchanged")
        self.entries.append(entry)
        entry["seal"] = stage["seal"] = seals.of_task(packed, self.entries, len(self.entries) - 1)
