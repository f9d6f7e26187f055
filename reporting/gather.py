"""The finished runs below a folder, those of one experiment and label together where their settings
are the same."""
import json
import statistics
import sys
from collections.abc import Iterable
from pathlib import Path

from reporting.published import other_base
from reporting.shape import missing
from reporting.summary import top5_tells
from settings.config import names_of
from settings.experiments import EXPERIMENTS
from system.files import RESULTS

Runs = list[tuple[Path, dict]]  # (folder, results), one per seed
# Settings that make no other experiment: seeds of one are averaged, wherever their files lay and on
# whatever they ran.
NO_OTHER = ("seed", "device", *names_of("may_move"))


def find_runs(folder: Path) -> dict[str, dict[str, Runs]]:
    """{experiment: {label: its runs}}. A run that is of no experiment is one of its own, by its
    place below `folder`. Runs of one label with different settings stand apart, what differs in
    their label."""
    found: dict[str, dict[str, Runs]] = {}
    for path in sorted(folder.rglob(RESULTS)):
        try:
            results = json.loads(path.read_text(encoding="utf8"))
            if what := missing(results):
                raise ValueError(what)
            if not results["finished"]:
                print(f"{path.parent}: not finished, left out", file=sys.stderr)
                continue
            if said := other_base(results):
                print(f"{path.parent}: {said}", file=sys.stderr)
        except (OSError, ValueError, RecursionError) as error:
            print(f"{path}: not the results of a run of this version, left out ({error})",
                  file=sys.stderr)
            continue
        label, _, seed = path.parent.name.rpartition("-seed")
        name = path.parent.parent.name
        if not label or not seed.isdigit() or name.removeprefix("demo-") not in EXPERIMENTS:
            label = "packnet"
            name = str(path.parent.relative_to(folder))
            if name == ".":
                name = path.parent.resolve().name
        found.setdefault(name, {}).setdefault(label, []).append((path.parent, results))
    order = list(EXPERIMENTS)

    def place(name: str) -> tuple:
        base = name.removeprefix("demo-")
        return (order.index(base) if base in EXPERIMENTS else len(order), name)

    def labels(name: str) -> dict[str, Runs]:
        experiment = EXPERIMENTS.get(name.removeprefix("demo-"))
        known = list(experiment.runs) if experiment else []
        in_order = sorted(found[name],
                          key=lambda label: known.index(label) if label in known else 0)
        apart = {}
        for label in in_order:
            for what, runs in grouped(found[name][label]).items():
                apart[", ".join(filter(None, (label, what)))] = runs
        return apart

    return {name: labels(name) for name in sorted(found, key=place)}


def grouped(runs: Runs, varied: Iterable[str] = ()) -> dict[str, Runs]:
    """{what differs: the runs that have the same settings}; the key is "" where all have. `varied`:
    settings that may differ."""
    ignored = {*NO_OTHER, *varied}
    groups = {}
    for folder, results in runs:
        settings = {name: shown(value) for name, value in results["config"].items()
                    if name not in ignored}
        # Wherever it lay.
        settings["pretrained"] = Path(results["config"].get("pretrained") or "-").name
        groups.setdefault(tuple(sorted(settings.items())), []).append((folder, results))
    everything = [dict(settings) for settings in groups]
    names = {}  # in their order
    for settings in everything:
        names |= settings
    apart = [name for name in names if len({settings.get(name) for settings in everything}) > 1]

    def difference(settings: dict[str, str]) -> str:
        return ", ".join(f"{name.replace('_', '-')} {settings.get(name, '(unknown)')}"
                         for name in apart)

    return {difference(settings): group for settings, group in zip(everything, groups.values())}


def shown(value) -> str:
    if isinstance(value, list):
        return " ".join(map(str, value)) or "none"
    return str(value)


def errors(runs: Runs, task: str, method: str = "packnet", key: str = "top1") -> list[float]:
    """The errors in percent of a task at the end of each run that has measured it with the method.
    `key`: top1, or top5, of which a task with five classes or fewer has none."""
    found = []
    for _, results in runs:
        classes = {stage["name"]: stage["num_classes"]
                   for stage in (results["base"], *results["tasks"])}
        figure = at_the_end(results, key).get(method, {}).get(task)
        tells = key == "top1" or task in classes and top5_tells(classes[task])
        if figure is not None and tells:
            found.append(100 - figure)
    return found


def at_the_end(results: dict, key: str) -> dict[str, dict[str, float | None]]:
    """{method: {task: accuracy in percent after the last task}}, of PackNet ("packnet") and every
    baseline; None where it was not measured. `key`: top1 or top5."""
    stages = [results["base"], *results["tasks"]]
    found = {"packnet": {stage["name"]: stage[f"{key}_final"] for stage in stages}}
    for method, figures in results["baselines"].items():
        found[method] = dict(zip(figures["tasks"], figures[f"{key}_by_stage"][-1]))
    return found


def together(labels: dict[str, Runs]) -> Runs:
    """The runs of all labels."""
    return [run for runs in labels.values() for run in runs]


def tasks_of(runs: Runs) -> list[str]:
    """All tasks that any of the runs has measured, in order."""
    names = []
    for _, results in runs:
        for stage in (results["base"], *results["tasks"]):
            if stage["top1_final"] is not None and stage["name"] not in names:
                names.append(stage["name"])
    return names


def spread(values: list[float]) -> str:
    """Mean, and standard deviation where there are several; "-" where there is none."""
    if not values:
        return "-"
    mean = statistics.mean(values)
    return f"{mean:.2f}" if len(values) == 1 else f"{mean:.2f} ± {statistics.stdev(values):.2f}"
