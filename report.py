"""What a person reads: the table at the end of a log, and a page of everything that was run, beside the published figures.

    python report.py                     # checkpoints/report.md and report.html, from all runs below checkpoints/
    python report.py --runs D --out D    # from and to other folders

The page holds accuracies with the paper's and the seeds' figures, baselines, curves, capacity, storage, and how each run was
made. An experiment that was not run shows as missing, with its command. The HTML needs no other file.
"""
import argparse
import base64
import html
import json
import statistics
import sys
from pathlib import Path

import files
from config import RESULTS
from experiments import EXPERIMENTS

# Published top-1 errors in percent, to stand beside ours (order CUBS, Cars, Flowers): (network, {data set: error}).
PUBLISHED = {
    "paper, VGG-16, ratio 0.75": ("vgg16", {"cubs": 24.95, "cars": 15.75, "flowers": 9.75}),
    "authors' release, VGG-16": ("vgg16", {"imagenet": 29.19, "cubs": 22.56, "cars": 17.09, "flowers": 11.07}),
    "first seed, Jittor": ("vgg16", {"cubs": 31.31, "cars": 20.86, "flowers": 12.26}),
    "first seed, PyTorch": ("vgg16", {"cubs": 24.06, "cars": 16.61, "flowers": 12.57}),
    "LwF, VGG-16": ("vgg16", {"imagenet": 36.58, "cubs": 34.24, "cars": 22.07, "flowers": 12.15}),
    "authors' release, VGG-16 BN": ("vgg16-bn", {"imagenet": 27.10, "cubs": 20.43, "cars": 14.92, "flowers": 8.59}),
    "authors' release, ResNet-50": ("resnet50", {"imagenet": 24.33, "cubs": 19.59, "cars": 14.03, "flowers": 8.12}),
    "authors' release, DenseNet-121": ("densenet121", {"imagenet": 25.51, "cubs": 20.11, "cars": 16.18, "flowers": 9.07}),
}
BENCHMARKS = Path(__file__).parent / "benchmarks" / "results"
METHODS = {"classifier": "classifier only", "individual": "individual networks", "finetune": "sequential fine-tuning",
           "lwf": "Learning without Forgetting", "joint": "joint training"}


def summary(results: dict) -> list[str]:
    """The lines at the end of the log. Errors in percent."""
    tasks = [result for result in (results["base"], *results["tasks"]) if result["top1_final"] is not None]
    columns = {source: figures for source, (arch, figures) in PUBLISHED.items()
               if arch == results["arch"] and any(task["name"] in figures for task in tasks)}
    lines = ["Top-1 error in %, last epoch; the authors keep the epoch that is best on the test set (in brackets).",
             f"{'task':14} {'ours':>16} {'before prune':>13} {'of weights':>11} {'logit change':>13}"
             + "".join(f"  {source:>{len(source)}}" for source in columns)]
    for task in tasks:
        error, best = 100 - task["top1_final"], 100 - task["top1_best_epoch"]
        lines.append(f"{task['name']:14} {f'{error:.2f} ({best:.2f})':>16} {100 - task['top1_before_prune']:13.2f} "
                     f"{100 * task['owned_fraction']:9.2f} % {task['max_logit_change']:13g}"
                     + "".join(f"  {figures.get(task['name'], '-'):>{len(source)}}" for source, figures in columns.items()))
    for method, figures in results["baselines"].items():
        errors = ", ".join(f"{name} {100 - top1:.2f}" for name, top1 in zip(figures["tasks"], figures["top1_by_stage"][-1]))
        lines.append(f"{METHODS[method]}: {errors}")
    lines += ["", "Capacity: fraction of all prunable weights, expected and (counted)"]
    for row in results["capacity"]:
        lines.append(f"  {row['task']:14} available {row['available']:.4f} ({row['measured_available']:.4f}), "
                     f"used {row['used']:.4f} ({row['measured_used']:.4f})")
    packed, apart = results["storage"]["packed_file"], results["storage"]["separate_networks"]
    lines += ["", f"Storage: one file of {packed / 1e6:.1f} MB (owner maps {results['storage']['owner_maps'] / 1e6:.2f} MB of it) for "
              f"{len(results['tasks']) + 1} tasks; as networks of their own {apart / 1e6:.1f} MB, {apart / packed:.2f} times as much"]
    return lines


# ------------------------------------------------------------------------------------------------ the page

class Page:
    """Blocks written once, as Markdown and as HTML."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.markdown, self.html = folder, [], []

    def heading(self, text: str, level: int = 2) -> None:
        self.markdown.append(f"{'#' * level} {text}")
        self.html.append(f"<h{level}>{html.escape(text)}</h{level}>")

    def text(self, text: str) -> None:
        self.markdown.append(text)
        self.html.append(f"<p>{html.escape(text)}</p>")

    def code(self, text: str) -> None:
        self.markdown.append(f"```bash\n{text}\n```")
        self.html.append(f"<pre>{html.escape(text)}</pre>")

    def table(self, head: list[str], rows: list[list[str]]) -> None:
        lines = [head, ["---"] * len(head), *rows]
        self.markdown.append("\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines))
        words = [not all(row[column][:1] in "+-" or row[column][:1].isdigit() for row in rows) for column in range(len(head))]

        def line(cells: list[str], tag: str) -> str:
            return "<tr>" + "".join(f"<{tag}{' class=words' * word}>{html.escape(cell)}</{tag}>"
                                    for cell, word in zip(cells, words)) + "</tr>\n"

        cells, body = line(head, "th"), "".join(line(row, "td") for row in rows)
        self.html.append(f"<div class=wide><table><thead>{cells}</thead>\n<tbody>{body}</tbody></table></div>")

    def pictures(self, paths: list[Path]) -> None:
        paths = [path for path in paths if path.exists()]
        for path in paths:
            place = path.relative_to(self.folder) if path.is_relative_to(self.folder) else path
            self.markdown.append(f"![{path.stem}]({place})")
        images = "".join(f'<img alt="{path.stem}" src="data:image/png;base64,{base64.b64encode(path.read_bytes()).decode()}">'
                         for path in paths)
        self.html.append(f"<div class=pictures>{images}</div>")

    def write(self) -> list[Path]:
        self.folder.mkdir(parents=True, exist_ok=True)
        style = ("body{font:16px/1.5 system-ui,sans-serif;max-width:70rem;margin:2rem auto;padding:0 1rem;color:#222}"
                 "table{border-collapse:collapse;margin:.5rem 0}th,td{padding:.25rem .7rem;border-bottom:1px solid #ddd;"
                 "text-align:right;white-space:nowrap}.words{text-align:left;white-space:normal}thead th{border-bottom:2px solid #888;"
                 "white-space:normal;vertical-align:bottom;max-width:8rem}h1,h2,h3{line-height:1.2;margin-top:2rem}pre{background:#f4f4f4;padding:.6rem;overflow-x:auto}"
                 ".wide{overflow-x:auto}.pictures img{max-width:32%;min-width:18rem;vertical-align:top;margin:.3rem}")
        page = ("<!doctype html>\n<html lang=en><head><meta charset=utf-8><meta name=viewport content='width=device-width'>"
                f"<title>PackNet in Jittor: report</title><style>{style}</style></head><body>\n" + "\n".join(self.html)
                + "\n</body></html>\n")
        paths = [self.folder / "report.md", self.folder / "report.html"]
        files.write(paths[0], ("\n\n".join(self.markdown) + "\n").encode())
        files.write(paths[1], page.encode())
        return paths


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
            results["storage"], results["baselines"], results["tasks"][0]["still_zero"]
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


def errors_table(page: Page, labels: dict, published: tuple[str, ...]) -> None:
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
        row, mean = [name], None
        for runs in labels.values():
            tasks = [task for _, results in runs for task in (results["base"], *results["tasks"])
                     if task["name"] == name and task["top1_final"] is not None]
            mean = statistics.mean(100 - task["top1_final"] for task in tasks) if tasks else None
            row.append(spread([100 - task["top1_final"] for task in tasks]) if tasks else "-")
        if len(labels) == 1:
            row += [spread([100 - task["top1_best_epoch"] for task in tasks]), spread([100 - task["top1_before_prune"] for task in tasks]),
                    f"{100 * statistics.mean(task['owned_fraction'] for task in tasks):.2f} %",
                    spread([100 * task["still_zero"] for task in tasks]) + " %",
                    f"{max(task['max_logit_change'] for task in tasks):g}"]
        for source in columns:
            figure = PUBLISHED[source][1].get(name)
            row += [f"{figure:.2f}" if figure else "-", f"{mean - figure:+.2f}" if figure and mean is not None and len(labels) == 1 else "-"]
        rows.append(row)
    page.table(head, rows)


def baselines_table(page: Page, runs: list[tuple[Path, dict]], published: tuple[str, ...]) -> None:
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


def write_page(runs_folder: Path, out: Path) -> list[Path]:
    found = find_runs(runs_folder)
    page = Page(out)
    page.heading("PackNet in Jittor: what was run", 1)
    page.text("Top-1 errors in percent on the test split after the last epoch, beside the published ones. ± is the standard "
              "deviation over seeds. \"logit change\" is the largest change of a frozen task's test logits by all later tasks: "
              "PackNet's promise is 0.")
    missing = [name for name in EXPERIMENTS if name not in found and f"demo-{name}" not in found]
    for name, labels in found.items():
        experiment = EXPERIMENTS.get(name.removeprefix("demo-"))
        demo = name.startswith("demo-") and experiment
        page.heading(f"{experiment.title}{' (on the demo data, slim network)' if demo else ''}" if experiment else f"Run {name}")
        published = () if demo or not experiment else experiment.published
        errors_table(page, labels, published)
        if name.endswith("free-weights"):
            page.text("Of the weights a task took over, still 0 when it is pruned, in %:")
            page.table(["task", *labels], [[task["name"], *(spread([100 * results["tasks"][number]["still_zero"] for _, results in runs])
                                                           for runs in labels.values())]
                                           for number, task in enumerate(next(iter(labels.values()))[0][1]["tasks"])])
        everything = [run for runs in labels.values() for run in runs]
        for label, runs in labels.items():
            if runs[0][1]["baselines"]:
                baselines_table(page, runs, published)
        page.text("Storage in MB, measured:")
        page.table(["run", "packed file", "owner maps in it", "as separate networks", "ratio"],
                   [[label, *(f"{results['storage'][key] / 1e6:.2f}" for key in ("packed_file", "owner_maps", "separate_networks")),
                     f"{results['storage']['separate_networks'] / results['storage']['packed_file']:.2f}"]
                    for label, [(_, results), *_] in labels.items()])
        folder = everything[0][0]
        page.pictures([folder / "plots" / "error_as_tasks_are_added.png", folder / "plots" / "capacity.png",
                       folder / "plots" / "forgetting.png", *sorted((folder / "plots").glob("training_*.png"))])
        page.text(f"{len(everything)} run{'s' * (len(everything) > 1)}, {sum(results['seconds'] for _, results in everything):,.0f} s in all. "
                  f"{everything[0][1]['toolchain']}. Network: {everything[0][1]['arch']}.")
        if experiment:
            page.code(f"python main.py --experiment {name.removeprefix('demo-')}{' --demo' if demo else ''}")
    twin = BENCHMARKS / "twin.json"
    if twin.exists():
        result = json.loads(twin.read_text())
        page.heading("The same run in Jittor and in PyTorch: same initial weights, batches and rules")
        for line in result["lines"]:
            page.text(line)
        page.table(["top-1 after all tasks, %", *result["tasks"]],
                   [[name, *(f"{pair[index]:.2f}" for pair in result["top1"][-1])] for index, name in enumerate(("Jittor", "PyTorch", "control: Jittor, started 1e-7 apart"))])
    page.heading("Not run yet" if missing else "Every experiment was run")
    if missing:
        page.table(["experiment", "command", "on one H100 (estimated)"],
                   [[EXPERIMENTS[name].title, f"python main.py --experiment {name}", f"{EXPERIMENTS[name].hours:g} h"] for name in missing])
    return page.write()


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0], allow_abbrev=False)
    parser.add_argument("--runs", default="checkpoints", help="folder with the runs (default: %(default)s)")
    parser.add_argument("--out", help="folder for report.md and report.html (default: the same)")
    options = parser.parse_args(arguments)
    if not Path(options.runs).is_dir():
        print(f"error: --runs {options.runs}: no such folder", file=sys.stderr)
        return 2
    for path in write_page(Path(options.runs), Path(options.out or options.runs)):
        print(f"Written: {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
