"""A task of a run with all its figures; what of them its packed file keeps as the task's entry."""
import dataclasses
from dataclasses import dataclass, field

# What an entry keeps as it was when the task was frozen, and under the same name.
KEPT = ("name", "num_classes", "pruning_ratio", "top1_before_prune", "top1_after_prune",
        "top1_after_finetune", "top1_best_epoch", "still_zero")


def precision_of(entry: dict) -> str:
    """In which precision a task was trained and measured."""
    return entry.get("precision", "fp32")


@dataclass
class Stage:
    """Accuracies in percent, on the test split but for the first two where there is a validation
    part; None: not measured (yet).

    `top1_by_stage`, `top5_by_stage`: after this task was frozen, and after each later one.
    `max_logit_change`: the largest change of a test logit since it was frozen. `still_zero`: of the
    weights it owned before its prune, the fraction that was exactly 0. `tried`: what the search for
    its ratio found (methods/search.py). `top1_dense`: of the base task, before its prune, on the
    test split. `left_of_base`: of the base task, what was left of its network after its prune
    ("pruned") and after the re-training ("frozen"), as runs/damage.py compares. `stored`: it was
    packed before the run, and there are no data to measure it again. `precision`: in which it was
    trained and measured. `task_found`, with all tasks learnt: of its test images, those that the
    network takes for this task's without being told (runs/recognition.py);
    `top1_class_incremental`: those of which it then names the class too.
    """
    name: str
    num_classes: int
    pruning_ratio: float | None = None
    top1_before_prune: float | None = None
    top1_after_prune: float | None = None
    top1_after_finetune: float | None = None
    top1_best_epoch: float | None = None
    top1_final: float | None = None
    top5_final: float | None = None
    top1_by_stage: list[float | None] = field(default_factory=list)
    top5_by_stage: list[float | None] = field(default_factory=list)
    max_logit_change: float | None = None
    still_zero: float | None = None
    owned_weights: int | None = None
    owned_fraction: float | None = None
    tried: list[dict] = field(default_factory=list)
    top1_dense: float | None = None
    left_of_base: dict[str, dict] = field(default_factory=dict)
    task_found: float | None = None
    top1_class_incremental: float | None = None
    seal: str | None = None
    stored: bool = False
    precision: str = "fp32"

    def asdict(self) -> dict:
        """As in results.json and in a state."""
        return dataclasses.asdict(self)

    def entry(self, classes: list[str] | None, preparation: dict) -> dict:
        """The task's entry in the packed file, but for its seals: what is true of it for good, so
        that it is the same whatever is added later, with the task's data or without. `classes`:
        their names, where there are data; `preparation`: Preparation.plain of its images. Of a
        precision that is not named it is fp32."""
        kept = {name: getattr(self, name) for name in KEPT}
        if self.precision != "fp32":
            kept["precision"] = self.precision
        return kept | dict(top1=self.top1_final, top5=self.top5_final, classes=classes,
                           input=preparation)

    @classmethod
    def of_entry(cls, entry: dict, later: int, stored: bool) -> "Stage":
        """A task that was packed before the run, with the figures of its file. `later`: how many
        tasks were added after it."""
        top1, top5 = entry["top1"], entry["top5"]
        kept = {name: entry[name] for name in (*KEPT, "seal")}
        kept["precision"] = precision_of(entry)
        return cls(**kept, top1_final=top1, top5_final=top5, top1_by_stage=[top1] * (1 + later),
                   top5_by_stage=[top5] * (1 + later), stored=stored)
