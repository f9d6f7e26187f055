"""What is measured on a network at one moment: a pass over test images, and counts of its owners."""
from dataclasses import dataclass

import numpy as np

from pruning import PackNet


@dataclass
class Score:
    """A pass over a split. Accuracies in percent, logits float32 [N, classes]."""
    top1: float
    top5: float
    logits: np.ndarray

    @classmethod
    def of(cls, logits: np.ndarray, labels: np.ndarray) -> "Score":
        order = np.argsort(-logits, axis=1, kind="stable")[:, :5]
        hits = order == labels[:, None]
        return cls(100 * float(hits[:, 0].mean()), 100 * float(hits.any(1).mean()), logits)


def still_zero(packnet: PackNet, task: str) -> float:
    """The fraction of the weights that a task owns which are exactly 0."""
    k, owned, zeros = packnet.owner_of(task), 0, 0
    for name, weight in packnet.weights.items():
        mine = packnet.owners[name] == k
        owned += int(mine.sum().item())
        zeros += int((mine & (weight == 0)).sum().item())
    return zeros / max(1, owned)


def owners_by_layer(packnet: PackNet) -> dict[str, list[int]]:
    """{parameter name: how many weights are free, how many the first task owns, the second, ...}"""
    return {name: [int((owner == k).sum().item()) for k in range(len(packnet.tasks) + 1)] for name, owner in packnet.owners.items()}
