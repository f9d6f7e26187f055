"""How much of a task can be pruned (--pruning-ratios auto): the largest ratio whose loss of
accuracy stays within a limit.

A trial is a dictionary of plain values: ratio, epochs (of re-training), before and top1
(accuracies), drop (percentage points).
"""
RATIOS = (0.3, 0.4, 0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.925, 0.95, 0.975, 0.99)
TRIALS = 4  # which find the place among 15 by bisection, where a larger ratio costs more


def next_ratio(trials: list[dict], limit: float) -> float:
    """The ratio to try after `trials`, fewer than TRIALS."""
    good = [RATIOS.index(trial["ratio"]) for trial in trials if trial["drop"] <= limit]
    bad = [RATIOS.index(trial["ratio"]) for trial in trials if trial["drop"] > limit]
    return RATIOS[(max(good, default=-1) + min(bad, default=len(RATIOS))) // 2]


def chosen(trials: list[dict], limit: float) -> float:
    """The largest ratio that was tried and stayed within the limit; the smallest there is, where
    none did."""
    return max((trial["ratio"] for trial in trials if trial["drop"] <= limit), default=RATIOS[0])


def table(task: str, trials: list[dict], limit: float, trained: int) -> list[str]:
    """Lines for a person. `trained`: the epochs of the task's own training, on top of which the
    search comes."""
    lines = [f"{task}: pruning ratios tried from the trained weights "
             f"({trials[0]['before']:.2f} % on the validation part); at most {limit:g} points may "
             "be lost"]
    for trial in sorted(trials, key=lambda trial: trial["ratio"]):
        line = f"  {trial['ratio']:5g}  {trial['top1']:6.2f} %  {-trial['drop']:+6.2f}"
        if trial["ratio"] == chosen(trials, limit):
            line += "  taken"
        lines.append(line)
    if all(trial["drop"] > limit for trial in trials):
        lines.append(f"  None stays within the limit; the smallest, {RATIOS[0]:g}, is taken.")
    epochs = sum(trial["epochs"] for trial in trials)
    share = 100 * epochs / max(1, trained)
    return [*lines, f"{task}: the search took {epochs} epochs, {share:.0f} % of the {trained} of "
            "its training"]
