"""How much of a task can be pruned (--pruning-ratios auto), or of the base network
(--initial-pruning-ratio auto): the largest ratio whose loss of accuracy, or of agreement with the
network before it, stays within a limit.

A trial is a dictionary of plain values: ratio, epochs (of re-training), before and top1
(accuracies), drop (percentage points).
"""
RATIOS = (0.3, 0.4, 0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.925, 0.95, 0.975, 0.99)
# Of the base network, whose small weights may count: compact ones lose much at once.
BASE_RATIOS = (0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.45, 0.5, 0.55, 0.6, 0.65, 0.7, 0.75)
TRIALS = 4  # which find the place among 15 by bisection, where a larger ratio costs more


def next_ratio(trials: list[dict], limit: float, ratios: tuple[float, ...] = RATIOS) -> float:
    """The one of `ratios` to try after `trials`, fewer than TRIALS."""
    good = [ratios.index(trial["ratio"]) for trial in trials if trial["drop"] <= limit]
    bad = [ratios.index(trial["ratio"]) for trial in trials if trial["drop"] > limit]
    return ratios[(max(good, default=-1) + min(bad, default=len(ratios))) // 2]


def chosen(trials: list[dict], limit: float, ratios: tuple[float, ...] = RATIOS) -> float:
    """The largest ratio that was tried and stayed within the limit; the smallest there is, where
    none did."""
    return max((trial["ratio"] for trial in trials if trial["drop"] <= limit), default=ratios[0])


def table(task: str, trials: list[dict], limit: float, trained: int,
          ratios: tuple[float, ...] = RATIOS) -> list[str]:
    """Lines for a person. `trained`: the epochs of the task's own training, on top of which the
    search comes; `ratios`: as for the others, and those of the base network say what they are."""
    what = f"the trained weights ({trials[0]['before']:.2f} % on the validation part)"
    if ratios is BASE_RATIOS:
        what = "the whole network (the share of the images that it gives the same class)"
    lines = [f"{task}: pruning ratios tried from {what}; at most {limit:g} points may be lost"]
    for trial in sorted(trials, key=lambda trial: trial["ratio"]):
        line = f"  {trial['ratio']:5g}  {trial['top1']:6.2f} %  {-trial['drop']:+6.2f}"
        if trial["ratio"] == chosen(trials, limit, ratios):
            line += "  taken"
        lines.append(line)
    if all(trial["drop"] > limit for trial in trials):
        lines.append(f"  None stays within the limit; the smallest, {ratios[0]:g}, is taken.")
    epochs = sum(trial["epochs"] for trial in trials)
    if not epochs:
        return lines
    share = 100 * epochs / max(1, trained)
    return [*lines, f"{task}: the search took {epochs} epochs, {share:.0f} % of the {trained} of "
            "its training"]
