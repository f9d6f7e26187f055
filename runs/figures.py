"""The figures of a run, plain values; and what the packed file says of a task: an entry, from a stage and back."""
from dataclasses import dataclass, field

# Figures of a stage that an entry keeps as they were when the task was frozen.
KEPT = ("name", "num_classes", "pruning_ratio", "top1_before_prune", "top1_after_prune", "top1_after_finetune", "top1_best_epoch",
        "still_zero")


@dataclass
class Figures:
    """What a run has measured so far: it goes into the state as it is, and into results.json.

    `stages`: the base task, then the added ones, with all their figures. `entries`: what the packed file says of each. `earlier`:
    the entries of the tasks that were packed before the run, of --add-to; `unchanged`: the names of those whose seal was compared
    when the last task was frozen. `history`: a record per epoch. `capacity`, `owners_by_layer`, `storage` (bytes): as of the last
    frozen task. `baselines`: the figures of each method.
    """
    stages: list[dict] = field(default_factory=list)
    entries: list[dict] = field(default_factory=list)
    earlier: list[dict] = field(default_factory=list)
    unchanged: list[str] = field(default_factory=list)
    history: list[dict] = field(default_factory=list)
    capacity: list[dict] = field(default_factory=list)
    owners_by_layer: dict[str, list[int]] = field(default_factory=dict)
    storage: dict[str, int] = field(default_factory=dict)
    baselines: dict[str, dict] = field(default_factory=dict)

    def matrix(self, tasks: int) -> list[list[float | None]]:
        """The accuracies of the added tasks, `tasks` of them in the end, after each of them; None for one that comes later or was
        not measured."""
        rows = [stage["top1_by_stage"] for stage in self.stages[1:]]
        return [[rows[task][after - task] if task <= after else None for task in range(tasks)]
                for after in range(len([row for row in rows if row]))]


def entry_of(stage: dict, classes: list[str] | None, how: dict) -> dict:
    """The entry of a stage that was frozen a moment ago, but for its seal. It holds what is true of the task for good, so that it is
    the same whatever is added later, with the task's data or without. `classes`: their names, where there are
    data; `how`: its input settings."""
    return {name: stage[name] for name in KEPT} | dict(top1=stage["top1_final"], top5=stage["top5_final"], classes=classes, input=how)


def stage_of(entry: dict, later: int, stored: bool) -> dict:
    """The stage of a task that was packed before the run, with its figures from the file. `later`: how many tasks were added
    after it, `stored`: there are no data here to measure it again."""
    return {name: entry[name] for name in (*KEPT, "seal")} | dict(
        top1_final=entry["top1"], top5_final=entry["top5"], top1_by_stage=[entry["top1"]] * (1 + later),
        top5_by_stage=[entry["top5"]] * (1 + later), max_logit_change=None, stored=stored)
