"""The table at the end of a log."""
from methods import METHODS
from reporting.published import COLUMNS, other_base
from settings.config import KEPT_EPOCH

ON_VALIDATION = "Before the prune, and right after it: on the validation part."


def summary(results: dict) -> list[str]:
    """The lines at the end of the log. Errors in percent."""
    tasks = [result for result in (results["base"], *results["tasks"])
             if result["top1_final"] is not None]
    columns = {source: column.errors for source, column in COLUMNS.items()
               if column.arch == results["arch"]
               and any(task["name"] in column.errors for task in tasks)}
    kept = KEPT_EPOCH[results["config"]["keep"]]
    if not judged(results):
        kept += (" In brackets: of the last phase's epoch that is best on it, which the authors "
                 "keep.")
    published = "".join(f"  {source}" for source in columns)
    lines = [f"Top-1 error in % on the test split. {kept}",
             f"{'task':14} {'ours':>16} {'before prune':>13} {'of weights':>11} "
             f"{'logit change':>13}{published}"]
    for task in tasks:
        error = f"{_error(task['top1_final'])} ({_error(task['top1_best_epoch'])})"
        before = _error(task["top1_before_prune"])
        change = "stored" if task["max_logit_change"] is None else f"{task['max_logit_change']:g}"
        published = "".join(f"  {figures.get(task['name'], '-'):>{len(source)}}"
                            for source, figures in columns.items())
        lines.append(f"{task['name']:14} {error:>16} {before:>13} "
                     f"{100 * task['owned_fraction']:9.2f} % {change:>13}{published}")
    if said := other_base(results):
        lines.append(said)
    if judged(results):
        lines.append(ON_VALIDATION)
    if any(task.get("stored") for task in tasks):
        lines.append("stored: there are no data here to measure the task again; the figures are "
                     "those of the packed file.")
    if results["seals_unchanged"]:
        lines.append(f"Seals of {len(results['seals_unchanged'])} earlier tasks: unchanged.")
    for method, figures in results["baselines"].items():
        errors = ", ".join(f"{name} {100 - top1:.2f}" for name, top1
                           in zip(figures["tasks"], figures["top1_by_stage"][-1]))
        lines.append(f"{METHODS[method].title}: {errors}")
    lines += ["", f"{'over the added tasks':28} {'average accuracy':>17} "
              f"{'backward transfer':>18} {'gap to individual':>18} {'class-incremental':>18}"]
    for method, figures in results["continual"].items():
        line = f"{METHODS[method].title:28}"
        for value, width in zip(figures.values(), (17, 18, 18, 18)):
            figure = "-" if value is None else f"{value:.2f}"
            line += f" {figure:>{width}}"
        lines.append(line)
    lines += ["", "Capacity: fraction of all prunable weights, expected and (counted)"]
    for row in results["capacity"]:
        lines.append(f"  {row['task']:14} "
                     f"available {row['available']:.4f} ({row['measured_available']:.4f}), "
                     f"used {row['used']:.4f} ({row['measured_used']:.4f})")
    storage = results["storage"]
    packed = storage["packed_file"]
    apart = storage["separate_networks"]
    lines += ["", f"Storage: one file of {packed / 1e6:.1f} MB "
              f"(owner maps {storage['owner_maps'] / 1e6:.2f} MB of it) for "
              f"{len(results['tasks']) + 1} tasks; as networks of their own "
              f"{apart / 1e6:.1f} MB, {apart / packed:.2f} times as much"]
    return lines


def top5_tells(num_classes: int) -> bool:
    """Whether a task's top-5 accuracy says anything: of five classes or fewer it is always
    100 %."""
    return num_classes > 5


def judged(results: dict) -> str:
    """For the name of a figure from around a prune: the split that it is of, where that is not the
    test split."""
    return " (validation)" if results["config"]["validation"] else ""


def _error(top1: float | None) -> str:
    return "-" if top1 is None else f"{100 - top1:.2f}"
