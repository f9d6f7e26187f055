"""How much of a network each task gets: what the ratios say, and what was counted."""
from collections.abc import Iterable, Mapping


def capacity_table(ratios: Iterable[float]) -> list[dict]:
    """The fraction of each layer a task finds free and the fraction it keeps, for one ratio per
    task in order.

    With 0.75 throughout: available 1, 0.75, 0.5625, 0.4219; used 0.25, 0.1875, 0.1406, 0.1055.
    """
    rows, available = [], 1.0
    for number, ratio in enumerate(ratios, start=1):
        used = available * (1 - ratio)
        rows.append(dict(task=number, available=available, used=used))
        available -= used
    return rows


def counted(owners: Mapping, ratios: Mapping) -> list[dict]:
    """`capacity_table` with what was counted beside it, a row per task of `ratios` ({task: its
    ratio}, in order); fractions of all weights in `owners` ({parameter name: uint8 Var}).

    Keys: task, available, used (expected from the ratios), measured_available, measured_used,
    owned_weights (counted).
    """
    total = left = sum(owner.numel() for owner in owners.values())
    rows = capacity_table(ratios.values())
    for k, (task, row) in enumerate(zip(ratios, rows), start=1):
        owned = sum(int((owner == k).sum().item()) for owner in owners.values())
        row.update(task=task, measured_available=left / total, measured_used=owned / total,
                   owned_weights=owned)
        left -= owned
    return rows
