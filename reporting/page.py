"""The page of everything that was run, beside the published figures."""
import json
import statistics
from collections.abc import Callable, Iterable
from pathlib import Path

from reporting import plots
from reporting.gather import Runs, errors, find_runs, grouped, spread, tasks_of
from reporting.markup import PAGES, Document
from reporting.overview import ORDERS, beside, overview
from reporting.published import ABOUT, METHODS, OTHER_BASE, PUBLISHED, TOP5, About, printed
from reporting.summary import KEPT_EPOCH, ON_VALIDATION, judged
from reporting.table import write_table
from settings.config import ConfigError
from settings.effort import load_rates
from settings.experiments import EXPERIMENTS

TITLE = "PackNet in Jittor: what was run"
FIRST_LINE = f"# {TITLE}\n".encode()  # of report.md
TABLE = "report.csv"
BENCHMARKS = Path(__file__).parents[1] / "benchmarks" / "results"
HALFWAY = 12  # of a long sequence the mean of so many tasks stands beside the mean of all


def known(tasks: list[dict], key: str, value: Callable[[float], float]) -> str:
    """"-" of a task that was imported, or that no earlier run had data to measure."""
    return "-" if any(task[key] is None for task in tasks) else spread([value(task[key]) for task in tasks])


def errors_table(page: Document, labels: dict[str, Runs]) -> None:
    """A row per task: ours for every label."""
    everything = [run for runs in labels.values() for run in runs]
    first = everything[0][1]
    head = ["top-1 error, %", *(f"ours, {label}" if len(labels) > 1 else "ours" for label in labels)]
    if len(labels) == 1:
        head += ["best epoch", f"before prune{judged(first)}", "of the weights", "still 0 before its prune", "logit change"]
    rows = []
    for name in tasks_of(everything):
        stored = any(task["name"] == name and task.get("stored") for task in (first["base"], *first["tasks"]))
        row = [name + " (stored)" * stored, *(spread(errors(runs, name)) for runs in labels.values())]
        if len(labels) == 1:
            tasks = [task for _, results in everything for task in (results["base"], *results["tasks"])
                     if task["name"] == name and task["top1_final"] is not None]
            row += [known(tasks, "top1_best_epoch", lambda top1: 100 - top1), known(tasks, "top1_before_prune", lambda top1: 100 - top1),
                    f"{100 * statistics.mean(task['owned_fraction'] for task in tasks):.2f} %",
                    known(tasks, "still_zero", lambda share: 100 * share) + " %",
                    "-" if stored else f"{max(task['max_logit_change'] for task in tasks):g}"]
        rows.append(row)
    page.table(head, rows)


def published_table(page: Document, everything: Runs, sources: Iterable[str]) -> None:
    """A row per task: for each published column that runs of ours can stand beside, ours, the published, the difference. Means over the
    orders of the tasks where the column is one; top-5 errors in brackets where they are published."""
    pairs = [(source, apart, runs) for source in sources for apart, runs in beside(source, everything)]
    names = [name for name in tasks_of(everything) if any(name in PUBLISHED[source][1] for source, *_ in pairs)]
    if not names:
        return
    head, rows = ["top-1 error, %"], [[name] for name in names]
    for source, apart, runs in pairs:
        method = ABOUT.get(source, About()).method
        head += [", ".join(filter(None, (f"ours, {METHODS[method]}", apart))), source, "difference"]
        for row, name in zip(rows, names):
            ours, top5, theirs = errors(runs, name, method), errors(runs, name, method, "top5"), PUBLISHED[source][1].get(name)
            row += [spread(ours) + (f" ({spread(top5)})" if name in TOP5.get(source, {}) and top5 else ""), printed(source, name),
                    f"{statistics.mean(ours) - theirs:+.2f}" if ours and theirs else "-"]
    page.text("Beside the published figures (what each is of: at the end of the page):")
    page.table(head, rows)


def baselines_table(page: Document, runs: Runs, label: str) -> None:
    methods = runs[0][1]["baselines"]
    names = next(iter(methods.values()))["tasks"]
    page.text(f"Baselines{label and f', {label}'}, top-1 error in % after all tasks:")
    page.table(["method", *names], [[METHODS[method], *(spread(errors(runs, name, method)) for name in names)]
                                    for method in (*methods, "packnet")])


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


def check_free(out: Path) -> None:
    """Raise ConfigError where the page would take the place of a file that is not this program's. The files of a page are, where
    report.md, which is written first, begins like one."""
    if out.exists() and not out.is_dir():
        raise ConfigError(f"--out {out}: is a file, and must be the folder for {PAGES[0]}, {PAGES[1]} and {TABLE}")
    if (out / PAGES[0]).exists():
        with open(out / PAGES[0], "rb") as file:
            if file.read(len(FIRST_LINE)) == FIRST_LINE:
                return
    for name in (*PAGES, TABLE):
        if (out / name).exists():
            raise ConfigError(f"--out {out}: holds a {name}, and no {PAGES[0]} that this program has written. Nothing is overwritten: "
                              f"choose another folder, or move {name} away.")


def write_page(runs_folder: Path, out: Path) -> list[Path]:
    """report.md, report.html and report.csv in `out`, of the runs below `runs_folder`. Returns their paths."""
    found = find_runs(runs_folder)
    page = Document(out)
    page.heading(TITLE, 1)
    page.text("Top-1 errors in percent, on the test split where no other is named, after the last epoch where no other is said to be kept, "
              "beside the published ones. ± is the standard deviation over seeds. \"logit change\" is the largest change of a frozen "
              "task's test logits by all later tasks: PackNet's promise is 0.")
    overview(page, found, load_rates())
    for name, labels in found.items():
        experiment_section(page, name, labels)
    twin_section(page)
    published_section(page)
    return [*page.write(), write_table(found, out / TABLE)]


def experiment_section(page: Document, name: str, labels: dict) -> None:
    """Accuracies, baselines, storage, pictures and command of one experiment. `labels`: as find_runs has them."""
    experiment = EXPERIMENTS.get(name.removeprefix("demo-"))
    demo = name.startswith("demo-") and experiment
    page.heading(f"{experiment.title}{' (on the demo data, slim network)' if demo else ''}" if experiment else f"Run {name}")
    everything = [run for runs in labels.values() for run in runs]
    errors_table(page, labels)
    published_table(page, everything, PUBLISHED if not experiment else () if demo else experiment.published)
    if picture := PICTURES.get(name.removeprefix("demo-")):
        picture(page, labels, name)
    for label, runs in labels.items():
        if runs[0][1]["baselines"]:
            baselines_table(page, runs, label if len(labels) > 1 else "")
    continual_table(page, labels)
    first = next(iter(labels.values()))[0][1]
    if any(task.get("stored") for task in (first["base"], *first["tasks"])):
        page.text("(stored): there were no data to measure the task again; the figures are those of the packed file it was added to.")
    if first["seals_unchanged"]:
        page.text(f"{len(first['seals_unchanged'])} earlier tasks: seals unchanged ({', '.join(first['seals_unchanged'])}).")
    if any(results["base_retrained"] is False for _, results in everything):
        page.text(f"{first['base']['name']} was not re-trained after its prune. {OTHER_BASE}")
    if first["config"]["keep"] != "last":
        page.text(KEPT_EPOCH[first["config"]["keep"]])
    if any(judged(results) for _, results in everything):
        page.text(ON_VALIDATION)
    page.text("Storage in MB, measured:")
    page.table(["run", "packed file", "owner maps in it", "as separate networks", "ratio"],
               [[label, *(f"{results['storage'][key] / 1e6:.2f}" for key in ("packed_file", "owner_maps", "separate_networks")),
                 f"{results['storage']['separate_networks'] / results['storage']['packed_file']:.2f}"]
                for label, [(_, results), *_] in labels.items()])
    folder, first = everything[0]
    drawn = folder / "plots"
    names = ("error_as_tasks_are_added", "change_as_tasks_are_added", "capacity", "forgetting")
    page.pictures([*(drawn / f"{name}.png" for name in names),
                   *sorted(drawn.glob("ratios_*.png")), *sorted(drawn.glob("training_*.png"))])
    seconds = sum(results["seconds"] for _, results in everything)
    page.text(f"{len(everything)} run{'s' * (len(everything) > 1)}, {seconds:,.0f} s in all. {first['toolchain']}. "
              f"Network: {first['arch']}.")
    if experiment:
        page.code(f"python main.py --experiment {name.removeprefix('demo-')}{' --demo' if demo else ''}")


def by_position(page: Document, labels: dict, name: str) -> None:
    """What becomes of the tasks in a long sequence: a table for each figure, a row per position; and a
    picture."""
    results = {label: [results for _, results in runs] for label, runs in labels.items()}
    length = min(len(run["tasks"]) for runs in results.values() for run in runs)
    parts = {f"mean of the {length} tasks": slice(length)}
    if length > HALFWAY:
        first = {f"mean of the first {HALFWAY}": slice(HALFWAY)}
        parts = first | parts | {"mean of the last 3": slice(length - 3, length)}
    page.text("Top-1 accuracy at the end, in %:")
    rows = []
    for title, part in parts.items():
        cells = []
        for runs in results.values():
            means = [statistics.mean(task["top1_final"] for task in run["tasks"][part]) for run in runs]
            cells.append(spread(means))
        rows.append([title, *cells])
    page.table(["free weights start at", *results], rows)
    for key, title in (("still_zero", "Of the weights a task took over, still 0 when it is pruned, in %:"),
                       ("owned_fraction", "Of all weights, owned by the task, in %:")):
        page.text(title)
        rows = []
        for number in range(length):
            cells = [spread([100 * run["tasks"][number][key] for run in runs])
                     for runs in results.values()]
            rows.append([str(number + 1), *cells])
        page.table(["position", *results], rows)
    path = page.folder / f"{name}.png"
    plots.draw_by_position(results, path)
    page.pictures([path])


def by_order(page: Document, labels: dict[str, Runs], name: str) -> None:
    """Each task's error by its position in the order: a table, and a picture."""
    groups = grouped([run for runs in labels.values() for run in runs], ORDERS)
    for number, (apart, runs) in enumerate(groups.items()):
        found: dict[str, dict[int, list[float]]] = {}
        for run in runs:
            for position, task in enumerate(run[1]["config"]["task_list"], start=1):
                found.setdefault(task, {}).setdefault(position, []).extend(errors([run], task))
        page.text(f"Top-1 error in % by the task's position in the order{apart and f', {apart}'}:")
        positions = sorted({position for its in found.values() for position in its})
        page.table(["task", *(f"position {position}" for position in positions)],
                   [[task, *(spread(its.get(position, [])) for position in positions)] for task, its in found.items()])
        path = page.folder / f"{name}{f'-{number + 1}' * (len(groups) > 1)}.png"
        plots.draw_by_order(found, path)
        page.pictures([path])


def by_ratio(page: Document, labels: dict[str, Runs], name: str) -> None:
    """The error of the first added task against the ratio of its prune, on a base that stays: a table, and a picture."""
    groups = grouped([run for runs in labels.values() for run in runs], ["pruning_ratios"])
    for number, (apart, runs) in enumerate(groups.items()):
        split = judged(runs[0][1])
        moments = {f"before the prune{split}": "top1_before_prune", f"right after it{split}": "top1_after_prune",
                   "re-trained": "top1_after_finetune"}
        tasks = sorted((results["tasks"][0] for _, results in runs), key=lambda task: task["pruning_ratio"])
        found: dict[str, dict[float, list[float]]] = {moment: {} for moment in moments}
        for moment, key in moments.items():
            for task in tasks:
                found[moment].setdefault(task["pruning_ratio"], []).append(100 - task[key])
        page.text(f"Top-1 error in % of {tasks[0]['name']} against the ratio of its prune, on a base that was pruned by "
                  f"{runs[0][1]['config']['initial_pruning_ratio']:g}{apart and f', {apart}'}:")
        page.table(["ratio", *found], [[f"{ratio:g}", *(spread(its[ratio]) for its in found.values())] for ratio in found["re-trained"]])
        path = page.folder / f"{name}{f'-{number + 1}' * (len(groups) > 1)}.png"
        plots.draw_by_ratio(found, path)
        page.pictures([path])


# What an experiment has beside the tables of all.
PICTURES = {"free-weights": by_position, "orders": by_order, "main-table": by_order, "ratios": by_ratio}


def published_section(page: Document) -> None:
    """What each published column is of."""
    page.heading("The published figures")
    page.text("One order of the tasks, or a mean over their orders. (m): quoted from memory, to be held against the paper before it is "
              "relied on. The authors keep of each phase the epoch that is best on the test split.")
    rows = []
    for source, (arch, figures) in PUBLISHED.items():
        about = ABOUT.get(source, About(order=tuple(figures)))
        rows.append([source, arch, METHODS[about.method], "mean over orders" if about.order is None else " → ".join(about.order),
                     "-" if about.ratio is None else f"{about.ratio:g}", ", ".join(f"{task} {printed(source, task)}" for task in figures)])
    page.table(["column", "network", "method", "order of the tasks", "base pruned by", "top-1 error (top-5), %"], rows)


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
