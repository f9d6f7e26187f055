"""The first table of the page: every experiment, published beside ours, or the command that is missing."""
import re
import statistics

from reporting.gather import Runs, errors, grouped, spread, tasks_of
from reporting.markup import Document
from reporting.published import ABOUT, METHODS, PUBLISHED, About, fits
from settings.effort import Rates, hours, rounded
from settings.experiments import EXPERIMENTS

# Settings that differ between the orders of a table, and not its protocol.
ORDERS = ("task_list", "baselines")


def beside(source: str, runs: Runs) -> list[tuple[str, Runs]]:
    """(what differs, runs): those that can stand beside a published column, apart where their settings are."""
    return list(grouped([run for run in runs if fits(source, run[1])], ORDERS).items())


def overview(page: Document, found: dict, rates: Rates | None) -> None:
    """A row for each experiment and published column: means over the tasks that both have, over the runs of ours."""
    page.heading("At a glance")
    page.text("Top-1 error in %, mean of the tasks that are published and measured (without a published figure: of the added tasks); ± is "
              "the standard deviation over runs, of all orders and seeds. Hours: measured; ≈ is an estimate "
              + (f"from steps timed on this machine ({rates.hardware}), without reading images, and with ImageNet's re-training only "
                 "where its folder is there." if rates else
                 "that `python report.py --measure` makes, from a few timed steps of each network on this machine."))
    rows = []
    for name, experiment in EXPERIMENTS.items():
        title = f"{name}: {experiment.title}"
        if name in found:
            rows += finished(title, found[name], experiment.published)
        else:
            estimate = rates and hours(name, rates)
            published = "; ".join(theirs(source, [*PUBLISHED[source][1]]) for source in experiment.published)
            rows.append([title, published or "-", f"Not run yet: python main.py --experiment {name}", "-", "-",
                         f"≈ {rounded(estimate)}" if estimate else "-", "-"])
        if f"demo-{name}" in found:
            rows += finished(f"{title} (on the demo data)", found[f"demo-{name}"], ())
    page.table(["experiment", "published", "ours", "difference", "seeds", "hours", "hardware"], rows)


def finished(title: str, labels: dict[str, Runs], published: tuple[str, ...]) -> list[list[str]]:
    """The rows of an experiment that was run: one for each published column, one for all runs that none
    stands beside."""
    everything = [run for runs in labels.values() for run in runs]
    rows = []
    covered = set()
    for source in published:
        for apart, runs in beside(source, everything):
            method = ABOUT.get(source, About()).method
            tasks = [task for task in PUBLISHED[source][1] if errors(runs, task, method)]
            if tasks:
                covered |= {folder for folder, _ in runs}
                ours = means(runs, tasks, method)
                mean = statistics.mean(PUBLISHED[source][1][task] for task in tasks)
                names = [title, "" if method == "packnet" else METHODS[method], apart]
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
        runs = [run for its in rest.values() for run in its]
        rows.append([title, "-", "; ".join(figures), "-", *machine(runs)])
    return rows


def theirs(source: str, tasks: list[str]) -> str:
    """The published mean over these tasks; (m) where one is quoted from memory."""
    mean = statistics.mean(PUBLISHED[source][1][task] for task in tasks)
    memory = " (m)" * bool({*tasks} & {*ABOUT.get(source, About()).memory})
    return f"{mean:.2f}{memory} ({source}; {len(tasks)} task{'s' * (len(tasks) > 1)})"


def means(runs: Runs, tasks: list[str], method: str = "packnet") -> list[float]:
    """Of each run, the mean error of these tasks; of those it has."""
    rows = [[error for task in tasks for error in errors([run], task, method)] for run in runs]
    return [statistics.mean(row) for row in rows if row]


def machine(runs: Runs) -> list[str]:
    """Seeds, hours, hardware."""
    seeds, orders = ({str(results["config"][key]) for _, results in runs} for key in ("seed", "task_list"))
    hardware = {re.sub(r".*? \((.*?)(, \w+ convolutions)?;.*", r"\1", results["toolchain"]) for _, results in runs}
    return [f"{len(seeds)}" + f", {len(orders)} orders" * (len(orders) > 1),
            rounded(sum(results["seconds"] for _, results in runs) / 3600), "; ".join(sorted(hardware))]
