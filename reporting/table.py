"""report.csv: one row a run, task and method, for who draws their own plots."""
import csv
import io
from pathlib import Path

from reporting.continual import class_incremental
from reporting.summary import top5_tells
from system import files

# Of PackNet's rows only: the figures of a stage.
OF_STAGE = ("top1_before_prune", "top1_after_prune", "top1_best_epoch", "pruning_ratio",
            "owned_fraction", "still_zero", "max_logit_change", "stored", "seal", "task_found")
HEAD = ("experiment", "run", "seed", "arch", "validation", "method", "task", "position", "top1",
        "top1_when_learnt", "top5", "class_incremental", *OF_STAGE)


def write_table(found: dict, path: Path) -> Path:
    """`found`: as reporting.gather.find_runs has it. Position 0 is the base task; what was not
    measured is empty, and so is top5 of a task with five classes or fewer. Where `validation`, the
    fraction held out, is not 0, the accuracies before and after the prune are on that part."""
    text = io.StringIO()
    table = csv.DictWriter(text, HEAD, restval="", lineterminator="\n")
    table.writeheader()
    for name, labels in found.items():
        for label, runs in labels.items():
            for _, results in runs:
                about = dict(experiment=name, run=label, arch=results["arch"],
                             **{key: results["config"][key] for key in ("seed", "validation")})
                table.writerows(about | row for row in rows(results))
    files.write(path, text.getvalue().encode())
    return path


def rows(results: dict) -> list[dict]:
    """The rows of one run, PackNet's first."""
    stages = [results["base"], *results["tasks"]]
    positions = {stage["name"]: position for position, stage in enumerate(stages)}
    classes = {stage["name"]: stage["num_classes"] for stage in stages}

    def top5(task: str, figure: float | None) -> float | None:
        return figure if top5_tells(classes[task]) else None

    incremental = class_incremental(results)
    found = []
    for stage in stages:
        task = stage["name"]
        found.append(dict(method="packnet", task=task, position=positions[task],
                          top1=stage["top1_final"], top1_when_learnt=stage["top1_by_stage"][0],
                          top5=top5(task, stage["top5_final"]),
                          class_incremental=incremental["packnet"].get(task),
                          **{key: stage[key] for key in OF_STAGE if key in stage}))
    for method, figures in results["baselines"].items():
        for column, task in enumerate(figures["tasks"]):
            history = [row[column] for row in figures["top1_by_stage"] if row[column] is not None]
            found.append(dict(method=method, task=task, position=positions[task],
                              top1=history[-1], top1_when_learnt=history[0],
                              top5=top5(task, figures["top5_by_stage"][-1][column]),
                              class_incremental=incremental[method].get(task)))
    return found
