"""What papers on continual learning compare, from the accuracies of a run. Percent and percentage
points, over the added tasks; class-incremental accuracy over all."""

Row = dict[str, float]  # accuracies by task


def histories(results: dict) -> dict[str, list[Row]]:
    """{method: a row after each task that was learnt}, of PackNet ("packnet") and every baseline;
    with the added tasks that were measured."""
    names = [task["name"] for task in results["tasks"]]
    found = {"packnet": [dict(zip(names, row)) for row in results["accuracy_matrix"]]}
    for method, figures in results["baselines"].items():
        found[method] = [dict(zip(figures["tasks"], row)) for row in figures["top1_by_stage"]]
    def measured(row: dict) -> Row:
        return {task: top1 for task, top1 in row.items() if task in names and top1 is not None}

    return {method: [measured(row) for row in rows] for method, rows in found.items()}


def measures(results: dict) -> dict[str, dict[str, float | None]]:
    """{method: its measures}, each None where it says nothing:

    average_accuracy    the mean over all tasks after the last one
    backward_transfer   the mean over all tasks but the last: accuracy at the end minus accuracy
                        when it was learnt; 0 is nothing forgotten
    gap_to_individual   average accuracy minus that of a network of its own for each task, over the
                        tasks that both have
    class_incremental   the mean over all tasks, the base task too, after the last one, where the
                        network is not told which task an image is of
    """
    rows = histories(results)
    last = {method: history[-1] if history else {} for method, history in rows.items()}
    individual = last.get("individual", {})
    incremental = class_incremental(results)
    return {method: dict(average_accuracy=mean(last[method].values()),
                         backward_transfer=backward_transfer(history),
                         gap_to_individual=gap(last[method], individual),
                         class_incremental=mean(incremental[method].values()))
            for method, history in rows.items()}


def class_incremental(results: dict) -> dict[str, Row]:
    """{method: by task, of those that were asked}; none of a run of an earlier version."""
    stages = [results["base"], *results["tasks"]] if results["base"] else []
    found = {"packnet": {stage["name"]: stage.get("top1_class_incremental") for stage in stages}}
    for method, figures in results["baselines"].items():
        found[method] = dict(zip(figures["tasks"], figures.get("class_incremental", [])))
    return {method: {task: top1 for task, top1 in row.items() if top1 is not None}
            for method, row in found.items()}


def backward_transfer(rows: list[Row]) -> float | None:
    """None with a single row, as of joint training: nothing is learnt after anything."""
    learnt: Row = {}
    for row in rows:
        learnt = row | learnt  # the first accuracy stays
    if len(rows) < 2:
        return None
    return mean(rows[-1][task] - learnt[task] for task in rows[-2])


def gap(accuracies: Row, individual: Row) -> float | None:
    return mean(accuracies[task] - individual[task] for task in accuracies if task in individual)


def mean(values) -> float | None:
    values = list(values)
    return sum(values) / len(values) if values else None
