"""The page of everything that was run, beside the published figures."""
import json
import statistics
import sys
from collections.abc import Callable
from pathlib import Path

from reporting import plots
from reporting.markup import Document
from reporting.published import METHODS, OTHER_BASE, PUBLISHED
from reporting.summary import KEPT
from reporting.table import write_table
from settings.experiments import EXPERIMENTS
from system.files import RESULTS

BENCHMARKS = Path(__file__).parents[1] / "benchmarks" / "results"


def find_runs(folder: Path) -> dict[str, dict[str, list[tuple[Path, dict]]]]:
    """{experiment: {label: [(folder, results), one per seed]}} of the finished runs below `folder`. A run that is of no
    experiment is an experiment of its own."""
    found: dict = {}
    for path in sorted(folder.rglob(RESULTS)):
        try:
            results = json.loads(path.read_text(encoding="utf8"))
            if not results["finished"]:
                print(f"{path.parent}: not finished, left out", file=sys.stderr)
                continue
            results["storage"], results["continual"], results["tasks"][0]["still_zero"]
            if results["base_retrained"] is False:
                print(f"{path.parent}: {results['base']['name']} was not re-trained after its prune. {OTHER_BASE}", file=sys.stderr)
        except (OSError, ValueError, KeyError, TypeError, IndexError):
            print(f"{path}: not the results of a run of this version, left out", file=sys.stderr)
            continue
        label, _, seed = path.parent.name.rpartition("-seed")
        name = path.parent.parent.name
        if not label or not seed.isdigit() or name.removeprefix("demo-") not in EXPERIMENTS:
            name, label = path.parent.name, "packnet"
        found.setdefault(name, {}).setdefault(label, []).append((path.parent, results))
    order = list(EXPERIMENTS)

    def place(name: str) -> tuple:
        base = name.removeprefix("demo-")
        return (order.index(base) if base in EXPERIMENTS else len(order), name)

    def labels(name: str) -> dict:
        known = list(EXPERIMENTS[name.removeprefix("demo-")].runs) if name.removeprefix("demo-") in EXPERIMENTS else []
        return {label: found[name][label] for label in sorted(found[name], key=lambda label: known.index(label) if label in known else 0)}

    return {name: labels(name) for name in sorted(found, key=place)}


def spread(values: list[float]) -> str:
    mean = statistics.mean(values)
    return f"{mean:.2f}" if len(values) == 1 else f"{mean:.2f} ± {statistics.stdev(values):.2f}"


def known(tasks: list[dict], key: str, value: Callable[[float], float]) -> str:
    """"-" of a task that was imported, or that no earlier run had data to measure."""
    return "-" if any(task[key] is None for task in tasks) else spread([value(task[key]) for task in tasks])


def errors_table(page: Document, labels: dict, published: tuple[str, ...]) -> None:
    """A row per task: ours for every label, then the published figures and our difference from them."""
    first = next(iter(labels.values()))[0][1]
    names = list(dict.fromkeys(task["name"] for runs in labels.values() for _, results in runs
                               for task in (results["base"], *results["tasks"]) if task["top1_final"] is not None))
    columns = published or [source for source, (arch, _) in PUBLISHED.items() if arch == first["arch"]]
    columns = [source for source in columns if any(name in PUBLISHED[source][1] for name in names)]
    head = ["top-1 error, %", *(f"ours, {label}" if len(labels) > 1 else "ours" for label in labels)]
    if len(labels) == 1:
        head += ["best epoch", "before prune", "of the weights", "still 0 before its prune", "logit change"]
    head += [cell for source in columns for cell in (source, "difference")]
    rows = []
    for name in names:
        stored = any(task["name"] == name and task.get("stored") for task in (first["base"], *first["tasks"]))
        row, mean = [name + " (stored)" * stored], None
        for runs in labels.values():
            tasks = [task for _, results in runs for task in (results["base"], *results["tasks"])
                     if task["name"] == name and task["top1_final"] is not None]
            mean = statistics.mean(100 - task["top1_final"] for task in tasks) if tasks else None
            row.append(spread([100 - task["top1_final"] for task in tasks]) if tasks else "-")
        if len(labels) == 1:
            row += [known(tasks, "top1_best_epoch", lambda top1: 100 - top1), known(tasks, "top1_before_prune", lambda top1: 100 - top1),
                    f"{100 * statistics.mean(task['owned_fraction'] for task in tasks):.2f} %",
                    known(tasks, "still_zero", lambda share: 100 * share) + " %",
                    "-" if stored else f"{max(task['max_logit_change'] for task in tasks):g}"]
        for source in columns:
            figure = PUBLISHED[source][1].get(name)
            apart = f"{mean - figure:+.2f}" if figure and mean is not None and len(labels) == 1 else "-"
            row += [f"{figure:.2f}" if figure else "-", apart]
        rows.append(row)
    page.table(head, rows)


def baselines_table(page: Document, runs: list[tuple[Path, dict]], published: tuple[str, ...]) -> None:
    results = [results for _, results in runs]
    names = next(iter(results[0]["baselines"].values()))["tasks"]

    def final(table: list[list]) -> list:
        return table[-1]

    rows = []
    for method in results[0]["baselines"]:
        errors = [[100 - top1 for top1 in final(run["baselines"][method]["top1_by_stage"])] for run in results]
        rows.append([METHODS[method], *(spread(list(column)) for column in zip(*errors))])
    packed = {name: [100 - task["top1_final"] for run in results for task in (run["base"], *run["tasks"]) if task["name"] == name]
              for name in names}
    rows.append(["PackNet", *(spread(packed[name]) for name in names)])
    for source in published:
        figures = PUBLISHED[source][1]
        rows.append([f"published: {source}", *(f"{figures[name]:.2f}" if name in figures else "-" for name in names)])
    page.text("Baselines, top-1 error in % after all tasks:")
    page.table(["method", *names], rows)


def continual_table(page: Document, labels: dict) -> None:
    """Average accuracy, backward transfer and gap to individual networks, for PackNet and every baseline."""
    page.text("Over the added tasks after the last of them, in % and points: average accuracy; backward transfer (accuracy at the end "
              "minus accuracy when learnt, 0: nothing forgotten); gap to individual networks.")
    rows = []
    for label, runs in labels.items():
        for method in runs[0][1]["continual"]:
            figures = [results["continual"][method] for _, results in runs]
            cells = [[run[key] for run in figures if run[key] is not None] for key in figures[0]]
            rows.append([*([label] if len(labels) > 1 else []), METHODS[method], *(spread(cell) if cell else "-" for cell in cells)])
    page.table([*(["run"] if len(labels) > 1 else []), "method", "average accuracy", "backward transfer", "gap to individual"], rows)


def write_page(runs_folder: Path, out: Path) -> list[Path]:
    """report.md, report.html and report.csv in `out`, of the runs below `runs_folder`. Returns their paths."""
    found = find_runs(runs_folder)
    page = Document(out)
    page.heading("PackNet in Jittor: what was run", 1)
    page.text("Top-1 errors in percent on the test split, after the last epoch where no other is said to be kept, beside the published "
              "ones. ± is the standard deviation over seeds. \"logit change\" is the largest change of a frozen task's test logits by "
              "all later tasks: PackNet's promise is 0.")
    for name, labels in found.items():
        experiment_section(page, name, labels)
    twin_section(page)
    missing = [name for name in EXPERIMENTS if name not in found and f"demo-{name}" not in found]
    page.heading("Not run yet" if missing else "Every experiment was run")
    if missing:
        rows = [[EXPERIMENTS[name].title, f"python main.py --experiment {name}",
                 f"{EXPERIMENTS[name].hours:g} h" + " on 2 CPU cores" * EXPERIMENTS[name].drawn] for name in missing]
        page.table(["experiment", "command", "on one H100 (estimated)"], rows)
    return [*page.write(), write_table(found, out / "report.csv")]


def experiment_section(page: Document, name: str, labels: dict) -> None:
    """Accuracies, baselines, storage, pictures and command of one experiment. `labels`: as find_runs has them."""
    experiment = EXPERIMENTS.get(name.removeprefix("demo-"))
    demo = name.startswith("demo-") and experiment
    page.heading(f"{experiment.title}{' (on the demo data, slim network)' if demo else ''}" if experiment else f"Run {name}")
    published = () if demo or not experiment else experiment.published
    errors_table(page, labels, published)
    if name.endswith("free-weights"):
        by_position(page, labels, name)
    for runs in labels.values():
        if runs[0][1]["baselines"]:
            baselines_table(page, runs, published)
    continual_table(page, labels)
    first = next(iter(labels.values()))[0][1]
    if any(task.get("stored") for task in (first["base"], *first["tasks"])):
        page.text("(stored): there were no data to measure the task again; the figures are those of the packed file it was added to.")
    if first["seals_unchanged"]:
        page.text(f"{len(first['seals_unchanged'])} earlier tasks: seals unchanged ({', '.join(first['seals_unchanged'])}).")
    if any(results["base_retrained"] is False for runs in labels.values() for _, results in runs):
        page.text(f"{first['base']['name']} was not re-trained after its prune. {OTHER_BASE}")
    if first["config"]["keep"] != "last":
        page.text(f"Epoch: {KEPT[first['config']['keep']]}.")
    page.text("Storage in MB, measured:")
    page.table(["run", "packed file", "owner maps in it", "as separate networks", "ratio"],
               [[label, *(f"{results['storage'][key] / 1e6:.2f}" for key in ("packed_file", "owner_maps", "separate_networks")),
                 f"{results['storage']['separate_networks'] / results['storage']['packed_file']:.2f}"]
                for label, [(_, results), *_] in labels.items()])
    everything = [run for runs in labels.values() for run in runs]
    folder, first = everything[0]
    drawn = folder / "plots"
    page.pictures([drawn / "error_as_tasks_are_added.png", drawn / "capacity.png", drawn / "forgetting.png",
                   *sorted(drawn.glob("ratios_*.png")), *sorted(drawn.glob("training_*.png"))])
    seconds = sum(results["seconds"] for _, results in everything)
    page.text(f"{len(everything)} run{'s' * (len(everything) > 1)}, {seconds:,.0f} s in all. {first['toolchain']}. "
              f"Network: {first['arch']}.")
    if experiment:
        page.code(f"python main.py --experiment {name.removeprefix('demo-')}{' --demo' if demo else ''}")


def by_position(page: Document, labels: dict, name: str) -> None:
    """What becomes of the tasks in a long sequence: a table for each figure, a row per position; and a picture."""
    results = {label: [results for _, results in runs] for label, runs in labels.items()}
    means = [[statistics.mean(task["top1_final"] for task in run["tasks"]) for run in runs] for runs in results.values()]
    page.text("Accuracy of all tasks at the end, mean, in %:")
    page.table(["", *results], [["mean of the tasks", *map(spread, means)]])
    length = max(len(runs[0]["tasks"]) for runs in results.values())
    for key, title in (("still_zero", "Of the weights a task took over, still 0 when it is pruned, in %:"),
                       ("owned_fraction", "Of all weights, owned by the task, in %:")):
        page.text(title)
        page.table(["position", *results], [
            [str(number + 1), *(spread([100 * run["tasks"][number][key] for run in runs]) if number < len(runs[0]["tasks"]) else "-"
                                for runs in results.values())] for number in range(length)])
    path = page.folder / f"{name}.png"
    plots.draw_by_position(results, path)
    page.pictures([path])


def twin_section(page: Document) -> None:
    """What benchmarks/twin.py has found, where it was run."""
    if not (BENCHMARKS / "twin.json").exists():
        return
    result = json.loads((BENCHMARKS / "twin.json").read_text())
    page.heading("The same run in Jittor and in PyTorch: same initial weights, batches and rules")
    for line in result["lines"]:
        page.text(line)
    sides = ("Jittor", "PyTorch", "control: Jittor, started 1e-7 apart")
    page.table(["top-1 after all tasks, %", *result["tasks"]],
               [[side, *(f"{pair[index]:.2f}" for pair in result["top1"][-1])] for index, side in enumerate(sides)])
