"""The page of everything that was run, beside the published figures."""
import json
import statistics
from collections.abc import Callable, Iterable
from pathlib import Path

from methods import METHODS
from reporting import plots
from reporting.gather import Runs, errors, find_runs, grouped, spread, tasks_of, together
from reporting.markup import PAGES, Document, plural
from reporting.overview import ORDERS, beside, overview
from reporting.published import COLUMNS, Column, other_base
from reporting.summary import ON_VALIDATION, judged
from reporting.table import write_table
from settings.config import KEPT_EPOCH, ConfigError
from settings.effort import load_rates
from settings.experiments import EXPERIMENTS

TITLE = "PackNet in Jittor: what was run"
FIRST_LINE = f"# {TITLE}\n".encode()  # of report.md
TABLE = "report.csv"
BENCHMARKS = Path(__file__).parents[1] / "benchmarks" / "results"
HALFWAY = 12  # of a long sequence the mean of so many tasks stands beside the mean of all


def known(tasks: list[dict], key: str, value: Callable[[float], float]) -> str:
    """"-" of a task that was imported, or that no earlier run had data to measure."""
    if any(task[key] is None for task in tasks):
        return "-"
    return spread([value(task[key]) for task in tasks])


def errors_table(page: Document, labels: dict[str, Runs]) -> None:
    """A row per task: ours for every label. Of a single label what else is known of the task."""
    everything = together(labels)
    first = everything[0][1]
    if len(labels) > 1:
        head = ["top-1 error, %", *(f"ours, {label}" for label in labels)]
    else:
        head = ["top-1 error, %", "ours", "best epoch", f"before prune{judged(first)}",
                "of the weights", "still 0 before its prune", "logit change"]
    rows = []
    for name in tasks_of(everything):
        stored = any(task["name"] == name and task.get("stored")
                     for task in (first["base"], *first["tasks"]))
        title = f"{name} (stored)" if stored else name
        row = [title, *(spread(errors(runs, name)) for runs in labels.values())]
        if len(labels) == 1:
            row += more_of_task(everything, name, stored)
        rows.append(row)
    page.table(head, rows)


def more_of_task(runs: Runs, name: str, stored: bool) -> list[str]:
    """The cells of a task's row that stand beside its error."""
    tasks = []
    for _, results in runs:
        tasks += [task for task in (results["base"], *results["tasks"])
                  if task["name"] == name and task["top1_final"] is not None]
    owned = statistics.mean(task["owned_fraction"] for task in tasks)
    still_zero = known(tasks, "still_zero", lambda share: 100 * share)
    change = "-" if stored else f"{max(task['max_logit_change'] for task in tasks):g}"
    return [known(tasks, "top1_best_epoch", lambda top1: 100 - top1),
            known(tasks, "top1_before_prune", lambda top1: 100 - top1),
            f"{100 * owned:.2f} %", f"{still_zero} %", change]


def published_table(page: Document, everything: Runs, sources: Iterable[str]) -> None:
    """A row per task: for each published column that runs of ours can stand beside, ours, the
    published, the difference. Means over the orders of the tasks where the column is one; top-5
    errors in brackets where they are published."""
    pairs = []
    for source in sources:
        pairs += [(source, apart, runs) for apart, runs in beside(source, everything)]
    names = [name for name in tasks_of(everything)
             if any(name in COLUMNS[source].errors for source, *_ in pairs)]
    if not names:
        return
    head = ["top-1 error, %"]
    rows = [[name] for name in names]
    for source, apart, runs in pairs:
        column = COLUMNS[source]
        ours = ", ".join(filter(None, (f"ours, {METHODS[column.method].title}", apart)))
        head += [ours, source, "difference"]
        for row, name in zip(rows, names):
            row += three_cells(column, runs, name)
    page.text("Beside the published figures (what each is of: at the end of the page):")
    page.table(head, rows)


def three_cells(column: Column, runs: Runs, name: str) -> list[str]:
    """Of a task: our error, that of a published column, the difference."""
    ours = errors(runs, name, column.method)
    top5 = errors(runs, name, column.method, "top5")
    theirs = column.errors.get(name)
    cell = spread(ours)
    if name in column.top5 and top5:
        cell += f" ({spread(top5)})"
    difference = f"{statistics.mean(ours) - theirs:+.2f}" if ours and theirs else "-"
    return [cell, column.printed(name), difference]


def baselines_table(page: Document, runs: Runs, label: str) -> None:
    methods = runs[0][1]["baselines"]
    names = next(iter(methods.values()))["tasks"]
    page.text(f"Baselines{label and f', {label}'}, top-1 error in % after all tasks:")
    rows = []
    for method in (*methods, "packnet"):
        cells = [spread(errors(runs, name, method)) for name in names]
        rows.append([METHODS[method].title, *cells])
    page.table(["method", *names], rows)


MEASURES = ("average_accuracy", "backward_transfer", "gap_to_individual", "class_incremental")


def continual_table(page: Document, labels: dict) -> None:
    """Average accuracy, backward transfer and gap to individual networks, for PackNet and every
    baseline."""
    page.text("Over the added tasks after the last of them, in % and points: average accuracy; "
              "backward transfer (accuracy at the end minus accuracy when learnt, 0: nothing "
              "forgotten); gap to individual networks. Class-incremental accuracy: over all tasks, "
              "where the network is not told which task an image is of.")
    head = ["method", "average accuracy", "backward transfer", "gap to individual",
            "class-incremental"]
    rows = []
    for label, runs in labels.items():
        for method in runs[0][1]["continual"]:
            figures = [results["continual"][method] for _, results in runs]
            row = [METHODS[method].title]
            for key in MEASURES:
                row.append(spread([run[key] for run in figures if run.get(key) is not None]))
            rows.append([label, *row] if len(labels) > 1 else row)
    page.table(["run", *head] if len(labels) > 1 else head, rows)


def check_free(out: Path) -> None:
    """Raise ConfigError where the page would take the place of a file that is not this program's.
    The files of a page are, where report.md, which is written first, begins like one."""
    if out.exists() and not out.is_dir():
        raise ConfigError(f"--out {out}: is a file, and must be the folder for {PAGES[0]}, "
                          f"{PAGES[1]} and {TABLE}")
    if (out / PAGES[0]).exists():
        with open(out / PAGES[0], "rb") as file:
            if file.read(len(FIRST_LINE)) == FIRST_LINE:
                return
    for name in (*PAGES, TABLE):
        if (out / name).exists():
            raise ConfigError(f"--out {out}: holds a {name}, and no {PAGES[0]} that this program "
                              "has written. Nothing is overwritten: choose another folder, or "
                              f"move {name} away.")


def write_page(runs_folder: Path, out: Path) -> list[Path]:
    """report.md, report.html and report.csv in `out`, of the runs below `runs_folder`. Returns
    their paths."""
    found = find_runs(runs_folder)
    page = Document(out)
    page.heading(TITLE, 1)
    page.text("Top-1 errors in percent, on the test split where no other is named, after the last "
              "epoch where no other is said to be kept, beside the published ones. ± is the "
              "standard deviation over seeds. \"logit change\" is the largest change of a frozen "
              "task's test logits by all later tasks: PackNet's promise is 0.")
    overview(page, found, load_rates())
    for name, labels in found.items():
        experiment_section(page, name, labels)
    twin_section(page)
    published_section(page)
    return [*page.write(), write_table(found, out / TABLE)]


def experiment_section(page: Document, name: str, labels: dict) -> None:
    """Accuracies, baselines, storage, pictures and command of one experiment. `labels`: as
    find_runs has them."""
    plain_name = name.removeprefix("demo-")
    experiment = EXPERIMENTS.get(plain_name)
    demo = experiment and name.startswith("demo-")
    if not experiment:
        title = f"Run {name}"
        sources = COLUMNS
    elif demo:
        title = f"{experiment.title} (on the demo data, slim network)"
        sources = ()
    else:
        title = experiment.title
        sources = experiment.published
    page.heading(title)
    everything = together(labels)
    errors_table(page, labels)
    published_table(page, everything, sources)
    if picture := PICTURES.get(plain_name):
        picture(page, labels, name)
    for label, runs in labels.items():
        if runs[0][1]["baselines"]:
            baselines_table(page, runs, label if len(labels) > 1 else "")
    continual_table(page, labels)
    first = next(iter(labels.values()))[0][1]
    if any(task.get("stored") for task in (first["base"], *first["tasks"])):
        page.text("(stored): there were no data to measure the task again; the figures are those "
                  "of the packed file it was added to.")
    if unchanged := first["seals_unchanged"]:
        page.text(f"{len(unchanged)} earlier tasks: seals unchanged ({', '.join(unchanged)}).")
    for said in dict.fromkeys(filter(None, (other_base(results) for _, results in everything))):
        page.text(said)
    base_table(page, labels)
    if first["config"]["keep"] != "last":
        page.text(KEPT_EPOCH[first["config"]["keep"]])
    if any(judged(results) for _, results in everything):
        page.text(ON_VALIDATION)
    storage_table(page, labels)
    folder, first = everything[0]
    drawn = folder / "plots"
    pictures = ("error_as_tasks_are_added", "change_as_tasks_are_added", "capacity", "forgetting",
                "left_of_base")
    page.pictures([*(drawn / f"{picture}.png" for picture in pictures),
                   *sorted(drawn.glob("ratios_*.png")), *sorted(drawn.glob("training_*.png"))])
    seconds = sum(results["seconds"] for _, results in everything)
    page.text(f"{plural(len(everything), 'run')}, {seconds:,.0f} s in all. {first['toolchain']}. "
              f"Network: {first['arch']}.")
    if experiment:
        command = f"python main.py --experiment {plain_name}"
        page.code(f"{command} --demo" if demo else command)


def base_table(page: Document, labels: dict[str, Runs]) -> None:
    """What the first prune has left of the base network, and what was brought back of it, where it
    was measured (runs/damage.py)."""
    moments = {"pruned": "right after its prune", "frozen": "as it is frozen"}
    rows = []
    for label, runs in labels.items():
        found = [results["base"].get("left_of_base") for _, results in runs]
        for moment, words in moments.items():
            figures = [left[moment] for left in found if left]
            if not figures:
                continue
            cells = [spread([each[key] for each in figures])
                     for key in ("agreement", "variance_kept")]
            layers = figures[0].get("layers", {})
            least = min(sorted(layers), key=layers.get, default="")
            cells.append(f"{least}: {layers[least]:.1f}" if layers else "-")
            rows.append([label, words, *cells] if len(labels) > 1 else [words, *cells])
    if not rows:
        return
    page.text("What is left of the base network, in % of the images of the first added task that "
              "get the class which the whole network gives, and of the variance of its features "
              "(of what a layer gives, for the layer that keeps least):")
    head = ["base network", "same class", "features", "least, by layer"]
    page.table(["run", *head] if len(labels) > 1 else head, rows)


def storage_table(page: Document, labels: dict[str, Runs]) -> None:
    """What the first run of each label has measured."""
    page.text("Storage in MB, measured:")
    rows = []
    for label, runs in labels.items():
        storage = runs[0][1]["storage"]
        sizes = [f"{storage[key] / 1e6:.2f}"
                 for key in ("packed_file", "owner_maps", "separate_networks")]
        ratio = storage["separate_networks"] / storage["packed_file"]
        rows.append([label, *sizes, f"{ratio:.2f}"])
    page.table(["run", "packed file", "owner maps in it", "as separate networks", "ratio"], rows)


def picture_place(page: Document, name: str, number: int, groups: dict) -> Path:
    """Where the picture of one of several groups goes; numbered where there are several."""
    if len(groups) > 1:
        name = f"{name}-{number}"
    return page.folder / f"{name}.png"


def by_position(page: Document, labels: dict, name: str) -> None:
    """What becomes of the tasks in a long sequence: a table for each figure, a row per position;
    and a picture."""
    results = {label: [results for _, results in runs] for label, runs in labels.items()}
    length = min(len(run["tasks"]) for _, run in together(labels))
    parts = {f"mean of the {length} tasks": slice(length)}
    if length > HALFWAY:
        first = {f"mean of the first {HALFWAY}": slice(HALFWAY)}
        parts = first | parts | {"mean of the last 3": slice(length - 3, length)}
    page.text("Top-1 accuracy at the end, in %:")
    rows = []
    for title, part in parts.items():
        cells = []
        for runs in results.values():
            means = [statistics.mean(task["top1_final"] for task in run["tasks"][part])
                     for run in runs]
            cells.append(spread(means))
        rows.append([title, *cells])
    page.table(["free weights start at", *results], rows)
    figures = {"still_zero": "Of the weights a task took over, still 0 when it is pruned, in %:",
               "owned_fraction": "Of all weights, owned by the task, in %:"}
    for key, title in figures.items():
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
    groups = grouped(together(labels), ORDERS)
    for number, (apart, runs) in enumerate(groups.items(), start=1):
        found: dict[str, dict[int, list[float]]] = {}
        for run in runs:
            for position, task in enumerate(run[1]["config"]["task_list"], start=1):
                found.setdefault(task, {}).setdefault(position, []).extend(errors([run], task))
        page.text(f"Top-1 error in % by the task's position in the order{apart and f', {apart}'}:")
        positions = sorted(set().union(*found.values()))
        rows = []
        for task, its in found.items():
            rows.append([task, *(spread(its.get(position, [])) for position in positions)])
        page.table(["task", *(f"position {position}" for position in positions)], rows)
        path = picture_place(page, name, number, groups)
        plots.draw_by_order(found, path)
        page.pictures([path])


def by_ratio(page: Document, labels: dict[str, Runs], name: str) -> None:
    """The error of the first added task against the ratio of its prune, on a base that stays: a
    table, and a picture."""
    groups = grouped(together(labels), ["pruning_ratios"])
    for number, (apart, runs) in enumerate(groups.items(), start=1):
        split = judged(runs[0][1])
        moments = {f"before the prune{split}": "top1_before_prune",
                   f"right after it{split}": "top1_after_prune",
                   "re-trained": "top1_after_finetune"}
        tasks = sorted((results["tasks"][0] for _, results in runs),
                       key=lambda task: task["pruning_ratio"])
        found: dict[str, dict[float, list[float]]] = {moment: {} for moment in moments}
        for moment, key in moments.items():
            for task in tasks:
                found[moment].setdefault(task["pruning_ratio"], []).append(100 - task[key])
        of_base = runs[0][1]["base"]["pruning_ratio"]
        page.text(f"Top-1 error in % of {tasks[0]['name']} against the ratio of its prune, on a "
                  f"base that was pruned by {of_base:g}{apart and f', {apart}'}:")
        rows = []
        for ratio in found["re-trained"]:
            rows.append([f"{ratio:g}", *(spread(its[ratio]) for its in found.values())])
        page.table(["ratio", *found], rows)
        path = picture_place(page, name, number, groups)
        plots.draw_by_ratio(found, path)
        page.pictures([path])


# What an experiment has beside the tables of all.
PICTURES = {
    "free-weights": by_position,
    "orders": by_order,
    "main-table": by_order,
    "ratios": by_ratio,
}


def published_section(page: Document) -> None:
    """What each published column is of."""
    page.heading("The published figures")
    page.text("One order of the tasks, or a mean over their orders. (m): quoted from memory, to be "
              "held against the paper before it is relied on. The authors keep of each phase the "
              "epoch that is best on the test split.")
    rows = []
    for source, column in COLUMNS.items():
        order = "mean over orders" if column.order is None else " → ".join(column.order)
        ratio = "-" if column.ratio is None else f"{column.ratio:g}"
        figures = ", ".join(f"{task} {column.printed(task)}" for task in column.errors)
        method = METHODS[column.method].title
        rows.append([source, column.arch, method, order, ratio, figures])
    page.table(["column", "network", "method", "order of the tasks", "base pruned by",
                "top-1 error (top-5), %"], rows)


def twin_section(page: Document) -> None:
    """What benchmarks/twin.py has found, where it was run."""
    if not (BENCHMARKS / "twin.json").exists():
        return
    result = json.loads((BENCHMARKS / "twin.json").read_text())
    page.heading("The same run in Jittor and in PyTorch: same initial weights, batches and rules")
    for line in result["lines"]:
        page.text(line)
    rows = []
    for index, side in enumerate(("Jittor", "PyTorch", "control: Jittor, started 1e-7 apart")):
        rows.append([side, *(f"{pair[index]:.2f}" for pair in result["top1"][-1])])
    page.table(["top-1 after all tasks, %", *result["tasks"]], rows)
