"""What a person reads at the end of a run: our errors beside the published ones, and the capacity. From results.json."""

# Published top-1 errors in percent, to stand beside ours (VGG-16; order CUBS, Cars, Flowers).
PUBLISHED = {
    "paper, VGG-16, ratio 0.75": {"cubs": 24.95, "cars": 15.75, "flowers": 9.75},
    "authors' release, VGG-16": {"imagenet": 29.19, "cubs": 22.56, "cars": 17.09, "flowers": 11.07},
    "first seed, Jittor": {"cubs": 31.31, "cars": 20.86, "flowers": 12.26},
    "first seed, PyTorch": {"cubs": 24.06, "cars": 16.61, "flowers": 12.57},
}


def summary(results: dict) -> list[str]:
    """The lines at the end of the log. Errors in percent."""
    tasks = [result for result in (results["base"], *results["tasks"]) if result["top1_final"] is not None]
    columns = [source for source, figures in PUBLISHED.items() if any(task["name"] in figures for task in tasks)]
    lines = ["Top-1 error in %, last epoch; the authors keep the epoch that is best on the test set (in brackets).",
             f"{'task':14} {'ours':>16} {'before prune':>13} {'of weights':>11} {'logit change':>13}"
             + "".join(f"  {source:>{len(source)}}" for source in columns)]
    for task in tasks:
        error, best = 100 - task["top1_final"], 100 - task["top1_best_epoch"]
        lines.append(f"{task['name']:14} {f'{error:.2f} ({best:.2f})':>16} {100 - task['top1_before_prune']:13.2f} "
                     f"{100 * task['owned_fraction']:9.2f} % {task['max_logit_change']:13g}"
                     + "".join(f"  {PUBLISHED[source].get(task['name'], '-'):>{len(source)}}" for source in columns))
    lines += ["", "Capacity: fraction of all prunable weights, expected and (counted)"]
    for row in results["capacity"]:
        lines.append(f"  {row['task']:14} available {row['available']:.4f} ({row['measured_available']:.4f}), "
                     f"used {row['used']:.4f} ({row['measured_used']:.4f})")
    return lines
