"""The pictures of a run, drawn from the content of results.json; each can go into a report as it
is. To draw them again:

    import json
    from reporting import plots
    plots.draw(json.load(open("RUN/results.json")), "RUN/plots")
"""
import math
import os
import statistics
from pathlib import Path

from matplotlib import pyplot as plt
from matplotlib.patches import Patch

from reporting.fonts import style
from reporting.summary import judged

COLOURS = ["#4C72B0", "#DD8452", "#55A868", "#C44E52", "#8172B3",
           "#937860", "#DA8BC3", "#8C8C8C", "#CCB974", "#64B5CD"]
FREE_COLOUR = "#E6E6E6"


def draw(results: dict, folder: str | Path) -> list[Path]:
    """Draw all pictures of `results` into `folder` (made if missing) and return their paths."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    stages = [results["base"], *results["tasks"]]
    trained = {record["task"] for record in results["history"] if record["phase"] != "recover"}
    pictures = {}
    for stage in stages:
        if stage["name"] in trained:
            pictures[f"training_{stage['name']}.png"] = (training_curve, results, stage)
    for stage in stages:
        if stage.get("tried"):
            pictures[f"ratios_{stage['name']}.png"] = (ratios_tried, results, stage)
    pictures["error_as_tasks_are_added.png"] = (error_as_tasks_are_added, results)
    pictures["capacity.png"] = (capacity, results)
    if layers_left(results):
        pictures["left_of_base.png"] = (left_of_base, results)
    if "finetune" in results["baselines"]:
        pictures["forgetting.png"] = (forgetting, results)
    if "lwf" in results["baselines"]:
        pictures["change_as_tasks_are_added.png"] = (change_as_tasks_are_added, results)
    paths = []
    names = [stage["name"] for stage in stages]
    with style([*names, *results["owners_by_layer"]]):
        for name, (function, *arguments) in pictures.items():
            figure = function(*arguments)
            figure.savefig(folder / name)
            plt.close(figure)
            paths.append(folder / name)
    return paths


def draw_by_position(runs: dict[str, list[dict]], path: Path) -> None:
    """Of runs of a long sequence, {fraction: results, one per seed}: accuracy, weights that are
    still 0 and weights owned, by the task's position; a line for each fraction, the mean over
    seeds."""
    panels = (("top1_final", 1, "top-1 accuracy (%)"),
              ("still_zero", 100, "still 0 at its prune (%)"),
              ("owned_fraction", 100, "owned (%)"))
    with style([]):
        figure, axes = plt.subplots(1, 3, figsize=(11, 3))
        for panel, (key, scale, title) in zip(axes, panels):
            for number, (label, results) in enumerate(runs.items()):
                of_runs = [[task[key] for task in run["tasks"]] for run in results]
                means = [scale * statistics.mean(values) for values in zip(*of_runs)]
                panel.plot(range(1, len(means) + 1), means, color=COLOURS[number % len(COLOURS)],
                           marker=".", label=label)
            panel.set(xlabel="position of the task", ylabel=title)
            panel.set_yscale("log" if key == "owned_fraction" else "linear")
            panel.xaxis.get_major_locator().set_params(integer=True)
        axes[-1].legend(title="free weights\nstart at", loc="center left", bbox_to_anchor=(1, 0.5))
        figure.tight_layout()
        _save(figure, path)


def draw_by_order(errors: dict[str, dict[int, list[float]]], path: Path) -> None:
    """{task: {its position in the order: errors in percent}}: a line for each task through the
    means, a dot for each run."""
    with style(errors):
        figure, axes = plt.subplots(figsize=(6, 4))
        for number, (task, by_position) in enumerate(errors.items()):
            colour = COLOURS[1 + number % (len(COLOURS) - 1)]  # the first is the base task's
            positions = sorted(by_position)
            for position in positions:
                found = by_position[position]
                axes.plot([position] * len(found), found, "o", ms=4, mfc="none", color=colour,
                          alpha=0.6)
            means = [statistics.mean(by_position[position]) for position in positions]
            axes.plot(positions, means, marker="s", ms=5, color=colour, label=task)
        axes.set(xlabel="position of the task in the order", ylabel="top-1 error (%)",
                 ylim=(0, None))
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.set_title("Error by position in the order", loc="left", fontweight="bold")
        axes.legend(loc="center left", bbox_to_anchor=(1, 0.5))
        _save(figure, path)


def draw_by_ratio(errors: dict[str, dict[float, list[float]]], path: Path) -> None:
    """{moment: {pruning ratio: errors in percent}}: a line for each moment (before the prune, right
    after it, re-trained) through the means, with the deviation over seeds."""
    looks = (dict(color="0.45", ls=":", marker="o", mfc="none"),
             dict(color=COLOURS[3], ls="--", marker="v"),
             dict(color=COLOURS[0], marker="s"))
    with style([]):
        figure, axes = plt.subplots(figsize=(6, 4))
        for (moment, by_ratio), look in zip(errors.items(), looks):
            ratios = sorted(by_ratio)
            means = [statistics.mean(by_ratio[ratio]) for ratio in ratios]
            deviations = [statistics.stdev(by_ratio[ratio]) if len(by_ratio[ratio]) > 1 else 0
                          for ratio in ratios]
            percent = [100 * ratio for ratio in ratios]
            axes.errorbar(percent, means, deviations, ms=5, capsize=3, label=moment, **look)
        axes.set(xlabel="weights that the task gives up (%)", ylabel="top-1 error (%)")
        axes.set(ylim=(0, None), xlim=(0, 100))
        axes.set_title("Error against the pruning ratio", loc="left", fontweight="bold")
        axes.legend()
        _save(figure, path)


def _save(figure: plt.Figure, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)
    plt.close(figure)


def _colour(results: dict, name: str) -> str:
    names = [results["base"]["name"], *(task["name"] for task in results["tasks"])]
    return COLOURS[names.index(name) % len(COLOURS)]


def _drawn_error(top1: float | None) -> float:
    """In percent; what was not measured is nan, which is not drawn."""
    return math.nan if top1 is None else 100 - top1


def _tasks_below(axes: plt.Axes, names: list[str], **look) -> None:
    """Name the places of the x axis, without what all names begin with, up to a "_" ("demo_"); of
    a long sequence upright, as they would cover each other."""
    beginning, line, _ = os.path.commonprefix(names).rpartition("_")
    first, *others = [name.removeprefix(beginning + line) for name in names]
    axes.set_xticks(range(len(names)), [first, *(f"+ {other}" for other in others)],
                    rotation=90 if len(names) > 6 else 0, **look)


def training_curve(results: dict, stage: dict) -> plt.Figure:
    """Accuracy and loss over the epochs of one task: train, prune, re-train."""
    records = [record for record in results["history"] if record["task"] == stage["name"]]
    trained = sum(record["phase"] == "train" for record in records)
    epochs = range(1, len(records) + 1)
    figure, (top, bottom) = plt.subplots(2, 1, figsize=(7, 5), sharex=True, height_ratios=[2, 1])
    split = "validation" if "validation_top1" in records[0] else "test"
    top.plot(epochs, [record[f"{split}_top1"] for record in records],
             color=COLOURS[0], marker=".", label=split)
    top.plot(epochs, [record["train_top1"] for record in records],
             color=COLOURS[1], ls="--", label="train (while learning)")
    bottom.plot(epochs, [record["loss"] for record in records], color=COLOURS[3])
    if stage["pruning_ratio"]:
        at = trained + 0.5
        top.plot([at], [stage["top1_after_prune"]], "v", color=COLOURS[3], ms=8,
                 label="right after the prune")
        for axes in (top, bottom):
            axes.axvline(at, color=COLOURS[3], lw=1)
            axes.axvspan(at, len(records) + 0.5, color=FREE_COLOUR, alpha=0.6, lw=0)
    else:
        at = len(records) + 0.5
    phases = [("train", 0.5, min(at, len(records) + 0.5)), ("re-train", at, len(records) + 0.5)]
    for title, start, end in phases:
        if end - start >= 1:
            top.text((start + end) / 2, 1.01, title, transform=top.get_xaxis_transform(),
                     ha="center", va="bottom")
    if stage["pruning_ratio"]:
        top.text(at, 1.07, f"prune {100 * stage['pruning_ratio']:g} %",
                 transform=top.get_xaxis_transform(), ha="center", va="bottom", color=COLOURS[3])
    top.set(ylabel="top-1 accuracy (%)", ylim=(0, 102), xlim=(0.5, len(records) + 0.5))
    top.set_title(stage["name"], pad=32, loc="left", fontweight="bold")
    top.legend(loc="lower right")
    bottom.set(ylabel="training loss", xlabel="epoch", ylim=(0, None))
    bottom.xaxis.get_major_locator().set_params(integer=True)
    return figure


def ratios_tried(results: dict, stage: dict) -> plt.Figure:
    """What each pruning ratio that was tried would cost, and which was taken."""
    trials = sorted(stage["tried"], key=lambda trial: trial["ratio"])
    figure, axes = plt.subplots(figsize=(6, 3.5))
    axes.plot([100 * trial["ratio"] for trial in trials], [-trial["drop"] for trial in trials],
              color=COLOURS[0], marker="s", ms=5)
    axes.axhline(-results["config"]["max_drop"], color=COLOURS[3], lw=1, label="limit")
    axes.axvline(100 * stage["pruning_ratio"], color="0.5", lw=1, ls=":", label="taken")
    of_base = stage["name"] == results["base"]["name"]
    changed = "agreement with the\nwhole network" if of_base else "top-1 on the\nvalidation part"
    axes.set(xlabel="weights that the task gives up (%)", ylabel=f"change of {changed} (points)",
             xlim=(0 if of_base else 25, 101))
    axes.set_title(f"{stage['name']}: how much can be pruned", loc="left", fontweight="bold")
    axes.legend()
    return figure


def error_as_tasks_are_added(results: dict) -> plt.Figure:
    """A line per task: its error after each later task. A dot: its error before its prune."""
    stages = [results["base"], *results["tasks"]]
    names = [stage["name"] for stage in stages]
    figure, axes = plt.subplots(figsize=(7, 4))
    for first, stage in enumerate(stages):
        if stage["top1_final"] is None:
            continue
        errors = [_drawn_error(top1) for top1 in stage["top1_by_stage"]]
        before = [_drawn_error(stage["top1_before_prune"])]
        if stage.get("stored"):  # not measured in this run
            look = dict(ls=":", mfc="white", label=f"{stage['name']} (stored)")
        else:
            look = dict(ls="-", label=stage["name"])
        colour = _colour(results, stage["name"])
        axes.plot(range(first, len(stages)), errors, marker="s", ms=5, color=colour, clip_on=False,
                  **look)
        axes.plot([first], before, "o", ms=9, mfc="none", mew=1.5, clip_on=False, color=colour)
    axes.plot([], [], "o", ms=9, mfc="none", mew=1.5, color="0.4",
              label=f"before its prune{judged(results)}")
    _tasks_below(axes, names)
    axes.set(ylabel="top-1 error (%)", xlabel="tasks in the network", ylim=(0, None),
             xlim=(-0.3, len(names) - 0.7))
    axes.set_title("Error as tasks are added", loc="left", fontweight="bold")
    axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), ncols=1 + (len(names) > 12))
    return figure


def change_as_tasks_are_added(results: dict) -> plt.Figure:
    """A panel for Learning without Forgetting and one for PackNet, a line per task: how much its
    error has changed since it was learnt, after each later task."""
    base = results["base"]
    stages = [base, *results["tasks"]]
    names = [stage["name"] for stage in stages]
    lwf = results["baselines"]["lwf"]
    columns = {}
    for column, name in enumerate(lwf["tasks"]):
        columns[name] = [row[column] for row in lwf["top1_by_stage"] if row[column] is not None]
        if name == base["name"]:  # the base network, before the baseline began
            columns[name].insert(0, base.get("top1_dense"))
    packnet = {stage["name"]: stage["top1_by_stage"] for stage in stages
               if stage["top1_final"] is not None}
    panels = {"Learning without Forgetting": columns, "PackNet": packnet}
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.6), sharey=True)
    for panel, (method, histories) in zip(axes, panels.items()):
        for name, accuracies in histories.items():
            first = len(names) - len(accuracies)
            changes = [accuracies[0] - accuracy for accuracy in accuracies]
            panel.plot(range(first, len(names)), changes, marker="s", ms=5,
                       color=_colour(results, name), label=name, clip_on=False)
        panel.set_title(method, loc="left", fontweight="bold")
        _tasks_below(panel, names, fontsize=8)
        panel.set(xlabel="tasks in the network", xlim=(-0.3, len(names) - 0.7))
    axes[0].set_ylabel("change of top-1 error since\nthe task was learnt (points)")
    figure.tight_layout()
    figure.legend(*axes[0].get_legend_handles_labels(), loc="lower center",
                  bbox_to_anchor=(0.5, 1.0), ncols=min(len(names), 5))
    return figure


def capacity(results: dict) -> plt.Figure:
    """Who owns how much of each layer, and of all prunable weights together."""
    names = [results["base"]["name"], *(task["name"] for task in results["tasks"])]
    layers = dict(results["owners_by_layer"])
    rows = {"all layers": [sum(column) for column in zip(*layers.values())]}
    for name, counts in layers.items():
        rows[name.removeprefix("trunk.").removesuffix(".weight")] = counts
    figure, axes = plt.subplots(figsize=(8, 0.9 + 0.3 * len(rows)))
    for y, counts in enumerate(rows.values()):
        left = 0.0
        for owner in [*range(1, len(names) + 1), 0]:
            share = 100 * counts[owner] / sum(counts)
            colour = _colour(results, names[owner - 1]) if owner else FREE_COLOUR
            axes.barh(y, share, left=left, height=0.75, color=colour)
            if y == 0 and share > 5:
                axes.text(left + share / 2, y, f"{share:.2f}", ha="center", va="center",
                          fontsize=8, color="white" if owner else "0.3")
            left += share
    titles = [f"{name} ({sum(counts):,})" for name, counts in rows.items()]
    axes.set_yticks(range(len(rows)), titles, fontsize=8)
    axes.set(xlabel="share of the weights (%)", xlim=(0, 100), ylim=(len(rows) - 0.5, -0.5))
    axes.grid(False)
    patches = [Patch(color=_colour(results, name), label=name) for name in names]
    patches.append(Patch(color=FREE_COLOUR, label="free"))
    axes.legend(handles=patches, loc="lower center", bbox_to_anchor=(0.4, 1.0),
                ncols=min(len(patches), 5), fontsize=9)
    return figure


def layers_left(results: dict) -> dict[str, dict[str, float]]:
    """{"pruned", "frozen": {layer: share of its variance that the base network keeps, in %}}; empty
    where that was not measured."""
    found = results["base"].get("left_of_base", {})
    return {moment: figures["layers"] for moment, figures in found.items()
            if figures.get("layers")}


def left_of_base(results: dict) -> plt.Figure:
    """How much of what each layer of the base network gave is left right after the first prune, and
    as the network is frozen."""
    looks = {"pruned": dict(color=COLOURS[3], marker="v", ls="--", label="right after its prune"),
             "frozen": dict(color=COLOURS[0], marker="s", ls="-", label="as it is frozen")}
    figure, axes = plt.subplots(figsize=(8, 4))
    for moment, layers in layers_left(results).items():
        axes.plot(range(1, len(layers) + 1), layers.values(), ms=4, clip_on=False, **looks[moment])
    names = [name.removeprefix("trunk.").removesuffix(".weight") for name in layers]
    if len(names) > 30:
        axes.set(xlabel="layer, from the image to the head")
    else:
        axes.set_xticks(range(1, len(names) + 1), names, rotation=90, fontsize=8)
    of_all = results["base"]["left_of_base"]["frozen"]["agreement"]
    axes.set(ylabel="variance kept of what\nthe layer gives (%)", ylim=(0, 102))
    axes.set_title(f"{results['base']['name']}: what the first prune leaves\n"
                   f"in the end {of_all:.0f} % of the images get the same class", loc="left",
                   fontweight="bold", fontsize=10)
    axes.legend()
    return figure


def forgetting(results: dict) -> plt.Figure:
    """A panel per task that both have measured, the base task too: its accuracy as later tasks are
    learnt, with PackNet and with plain fine-tuning."""
    finetune = results["baselines"]["finetune"]
    stages = [stage for stage in (results["base"], *results["tasks"])
              if stage["name"] in finetune["tasks"]]
    names = [stage["name"] for stage in stages]
    across = min(len(names), 5)
    down = math.ceil(len(names) / across)
    figure, grid = plt.subplots(down, across, figsize=(3.2 * across, 3.2 * down), sharey=True,
                                squeeze=False)
    panels = [*grid.flat]
    for empty in panels[len(names):]:
        empty.remove()
    for number, (stage, axes) in enumerate(zip(stages, panels)):
        name = stage["name"]
        after = range(number, len(names))
        column = finetune["tasks"].index(name)
        finetuned = [row[column] for row in finetune["top1_by_stage"] if row[column] is not None]
        if name == results["base"]["name"]:  # as the baseline found it
            finetuned.insert(0, stage["top1_dense"])
        axes.plot(after, stage["top1_by_stage"], label="PackNet", color=COLOURS[0], marker="s")
        axes.plot(after, finetuned, label="sequential fine-tuning", color=COLOURS[3], marker="x",
                  ls="--")
        chance = 100 / stage["num_classes"]
        axes.axhline(chance, color="0.5", lw=1, ls=":")
        axes.text(-0.15, chance - 1, "chance", va="top", fontsize=8, color="0.4")
        axes.set_title(name, loc="left", fontweight="bold")
        _tasks_below(axes, names)
        axes.set(ylim=(0, 103), xlim=(-0.2, len(names) - 0.8))
        axes.set_xlabel("tasks learnt so far")
        if number % across == 0:
            axes.set_ylabel("top-1 accuracy (%)")
    figure.tight_layout()
    figure.legend(*panels[0].get_legend_handles_labels(), loc="lower center",
                  bbox_to_anchor=(0.5, 1.0), ncols=2)
    return figure
