"""The first table of the page: every experiment, published beside ours, or the command that is
missing."""
import re
import statistics

from methods import BASELINES, METHODS
from reporting.gather import Runs, errors, grouped, spread, tasks_of, together
from reporting.markup import Document, plural
from reporting.published import COLUMNS
from settings.effort import Rates, hours, rounded
from settings.experiments import EXPERIMENTS

# Settings that differ between the orders of a table, and not its protocol.
ORDERS = ("task_list", "baselines")


def beside(source: str, runs: Runs) -> list[tuple[str, Runs]]:
    """(what differs, runs): those that can stand beside a published column, apart where their
    settings are."""
    return list(grouped([run for run in runs if COLUMNS[source].fits(run[1])], ORDERS).items())


def overview(page: Document, found: dict, rates: Rates | None) -> None:
    """A row for each experiment and published column: means over the tasks that both have, over the
    runs of ours."""
    page.heading("At a glance")
    if rates:
        source = (f"from steps timed on this machine ({rates.hardware}), without reading images, "
                  "and with ImageNet's re-training only where its folder is there.")
    else:
        source = ("that `python report.py --measure` makes, from a few timed steps of each network "
                  "on this machine.")
    page.text("Top-1 error in %, mean of the tasks that are published and measured (without a "
              "published figure: of the added tasks); ± is the standard deviation over runs, of "
              f"all orders and seeds. Hours: measured; ≈ is an estimate {source}")
    rows = []
    for name, experiment in EXPERIMENTS.items():
        title = f"{name}: {experiment.title}"
        if name in found:
            rows += finished(title, found[name], experiment.published)
        else:
            estimate = rates and hours(name, rates)
            published = "; ".join(theirs(column, [*COLUMNS[column].errors])
                                  for column in experiment.published)
            command = f"Not run yet: python main.py --experiment {name}"
            time = f"≈ {rounded(estimate)}" if estimate else "-"
            rows.append([title, published or "-", command, "-", "-", time, "-"])
        if f"demo-{name}" in found:
            rows += finished(f"{title} (on the demo data)", found[f"demo-{name}"], ())
    head = ["experiment", "published", "ours", "difference", "seeds", "hours", "hardware"]
    page.table(head, rows)


def finished(title: str, labels: dict[str, Runs], published: tuple[str, ...]) -> list[list[str]]:
    """The rows of an experiment that was run: one for each published column, one for all runs that
    none stands beside."""
    everything = together(labels)
    rows = []
    covered = set()
    for source in published:
        column = COLUMNS[source]
        method = column.method
        for apart, runs in beside(source, everything):
            tasks = [task for task in column.errors if errors(runs, task, method)]
            if tasks:
                covered |= {folder for folder, _ in runs}
                ours = means(runs, tasks, method)
                mean = statistics.mean(column.errors[task] for task in tasks)
                baseline = METHODS[method].title if method in BASELINES else ""
                names = [title, baseline, apart]
                rows.append([", ".join(filter(None, names)), theirs(source, tasks), spread(ours),
                             f"{statistics.mean(ours) - mean:+.2f}", *machine(runs)])
    rest = {label: runs for label, runs in labels.items()
            if not covered & {folder for folder, _ in runs}}
    if rest:
        figures = []
        for label, runs in rest.items():
            base_was_measured = bool(runs[0][1]["base"]["top1_final"])
            figure = spread(means(runs, tasks_of(runs)[base_was_measured:]))
            figures.append(f"{label} {figure}" if len(labels) > 1 else figure)
        rows.append([title, "-", "; ".join(figures), "-", *machine(together(rest))])
    return rows


def theirs(source: str, tasks: list[str]) -> str:
    """The published mean over these tasks; (m) where one is quoted from memory."""
    column = COLUMNS[source]
    mean = statistics.mean(column.errors[task] for task in tasks)
    memory = " (m)" if {*tasks} & {*column.memory} else ""
    return f"{mean:.2f}{memory} ({source}; {plural(len(tasks), 'task')})"


def means(runs: Runs, tasks: list[str], method: str = "packnet") -> list[float]:
    """Of each run, the mean error of these tasks; of those it has."""
    found = []
    for run in runs:
        row = []
        for task in tasks:
            row += errors([run], task, method)
        if row:
            found.append(statistics.mean(row))
    return found


def machine(runs: Runs) -> list[str]:
    """Seeds, hours, hardware."""
    seeds = {results["config"]["seed"] for _, results in runs}
    orders = {tuple(results["config"]["task_list"]) for _, results in runs}
    number = f"{len(seeds)}"
    if len(orders) > 1:
        number += f", {len(orders)} orders"
    seconds = sum(results["seconds"] for _, results in runs)
    hardware = {re.sub(r".*? \((.*?)(, \w+ convolutions)?;.*", r"\1", results["toolchain"])
                for _, results in runs}
    return [number, rounded(seconds / 3600), "; ".join(sorted(hardware))]
