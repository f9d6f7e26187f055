"""Whose image is it? The task whose view is surest answers. NumPy only."""
import numpy as np


def relative_entropy(logits: np.ndarray) -> np.ndarray:
    """The entropy of the class probabilities as a share of what it can be, the logarithm of the
    number of classes: [N, classes] -> float64 [N] in [0, 1], 0 is sure. A task with a single class
    is never sure."""
    if logits.shape[1] == 1:
        return np.ones(len(logits))
    p = probabilities(logits)
    return -(p * np.log(np.maximum(p, 1e-300))).sum(1) / np.log(logits.shape[1])


def probabilities(logits: np.ndarray) -> np.ndarray:
    """Softmax, float64 [N, classes]."""
    shares = np.exp(logits.astype(np.float64) - logits.max(1, keepdims=True))
    return shares / shares.sum(1, keepdims=True)


def surest(logits: list[np.ndarray]) -> np.ndarray:
    """The number of the task with the lowest relative entropy for each image, int [N]; `logits`:
    [N, classes] of each task. Of equals the first."""
    return np.argmin([relative_entropy(rows) for rows in logits], axis=0)
