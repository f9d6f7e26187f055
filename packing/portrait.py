"""Whose image is it? What each task's images look like to the network decides. NumPy only.

All tasks' images are looked at in the first task's view: it is there for every later task, never
changes, and makes them comparable. What of it is looked at: runs/recognition.py. When a task is
frozen, a Gaussian for each of its classes is fitted to what is seen of its training images, and
stored as its *portrait*: where the classes are, and one covariance for all of them, a few main
directions and what each number varies beside them. An image goes to the task of the class in which
it is likeliest, by the mean covariance of all tasks with a tenth of the task's own in it
(regularised discriminant analysis: Friedman 1989). By the task's own covariance alone it is
measured whether it is as near as the task's own images: where not, it is none of the tasks'.
benchmarks/recognise.py has measured this beside other ways.
"""
from collections.abc import Mapping
from dataclasses import dataclass, fields

import numpy as np

IMAGES = 10_000  # that a portrait is made from, at most
DIRECTIONS = 24  # that are known of a covariance
TURNS = 6        # of the search for them
RIDGE = 0.001    # of the mean variance is added to each: few images say little of a direction
LEAST = 1e-12    # variance, of what is always the same
OWN = 0.1        # of the covariance by which an image goes to a task is that task's own
FIT = 4          # of each class one image after so many is kept from the fit: what is usual?
KNOWN = 0.95     # of these are within the task's limit

Arrays = dict[str, np.ndarray]


@dataclass(frozen=True)
class Portrait:
    """`rows` int8 [2 + C, W] times `scales` float32 [2 + C]: the mean of all images; by how much
    each number varies beside the directions (a deviation); from the mean of all to that of each
    class. `directions` int8 [W, q]: in which images differ most within a class, each as long as
    int8 allows. `variances` float32 [q]: along the `basis` that they give. `usual` float64 [3]: of
    the distances of the task's own images, of those not fitted, mean, deviation, and the limit of
    what is known, in float32's digits: those behind hang on how many threads BLAS has. What is
    rounded first is known to what is fitted next."""
    rows: np.ndarray
    scales: np.ndarray
    directions: np.ndarray
    variances: np.ndarray
    usual: np.ndarray

    @classmethod
    def of(cls, seen: np.ndarray, labels: np.ndarray) -> "Portrait":
        """`seen` float32 [N, W]: what is seen of a task's training images; `labels` int [N]."""
        fit = fitted(labels)
        numbers, label = np.unique(labels[fit], return_inverse=True)
        x = seen[fit].astype(np.float64)
        centre, scale = to_int8(x.mean(0)[None], axis=1)
        means = np.stack([x[label == number].mean(0) for number in range(len(numbers))])
        classes, scales = to_int8(means - centre * scale, axis=1)
        apart = x - (centre * scale + classes * scales[:, None])[label]
        directions, _ = to_int8(main_directions(apart), axis=0)
        known = basis(directions)
        inside = apart @ known
        least = RIDGE * np.square(apart).mean() + LEAST
        beside = np.sqrt(np.square(apart - inside @ known.T).mean(0) + least)
        deviations, unit = to_int8(beside[None], axis=1)
        portrait = cls(np.concatenate([centre, np.maximum(deviations, 1), classes]),
                       np.concatenate([scale, unit, scales]), directions,
                       np.float32(np.square(inside).mean(0) + least), np.array([0.0, 1.0, 0.0]))
        distances = portrait.distance(seen[fit if fit.all() else ~fit])
        portrait.usual[:] = np.float32([distances.mean(), max(distances.std(), LEAST),
                                        np.quantile(distances, KNOWN)])
        return portrait

    def decoded(self) -> np.ndarray:
        """The rows, float64 [2 + C, W]."""
        return self.rows * self.scales[:, None].astype(np.float64)

    def means(self) -> np.ndarray:
        """Of the classes, float64 [C, W]."""
        centre, _, *classes = self.decoded()
        return centre + np.stack(classes)

    def covariance(self) -> np.ndarray:
        """float64 [W, W]."""
        known = basis(self.directions)
        return known * self.variances @ known.T + np.diag(np.square(self.decoded()[1]))

    def distance(self, seen: np.ndarray) -> np.ndarray:
        """The squared distance from the nearest class, by the task's own covariance: float32 [N, W]
        to float64 [N]."""
        return nearest(seen, self.means(), np.linalg.cholesky(self.covariance()))

    def beyond(self, seen: np.ndarray) -> np.ndarray:
        """How far images are beyond the task's limit, in deviations of the task's own: float64 [N],
        above 0 where an image is not known."""
        _, deviation, limit = self.usual
        return (self.distance(seen) - limit) / deviation

    def arrays(self) -> Arrays:
        """By name, as a packed file has them."""
        return vars(self)


def readable(stored: Mapping[str, Arrays]) -> dict[str, Portrait]:
    """{task: portrait} of what a packed file has of each task, without those of another version of
    this project, which had other parts."""
    parts = {field.name for field in fields(Portrait)}
    return {task: Portrait(**arrays) for task, arrays in stored.items() if set(arrays) == parts}


def recognise(portraits: list[Portrait], seen: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(number of the task that each image looks most like, int [N]; how far it is beyond that
    task's limit, float64 [N]: it is none of the tasks' where that is above 0). `seen` float32 [N,
    W]."""
    own = [portrait.covariance() for portrait in portraits]
    shared = np.mean(own, axis=0)
    unlikely = []  # -2 times the logarithm of the likelihood, less what is the same for all
    for portrait, covariance in zip(portraits, own):
        root = np.linalg.cholesky(OWN * covariance + (1 - OWN) * shared)
        volume = 2 * np.log(np.diag(root)).sum()
        unlikely.append(nearest(seen, portrait.means(), root) + volume)
    task = np.argmin(unlikely, axis=0)
    beyond = np.empty(len(task))
    for number in np.unique(task):
        beyond[task == number] = portraits[number].beyond(seen[task == number])
    return task, beyond


def nearest(seen: np.ndarray, means: np.ndarray, root: np.ndarray) -> np.ndarray:
    """The squared distance of images [N, W] from the nearest of `means` [C, W] by the covariance
    whose Cholesky factor is `root` [W, W]: float64 [N]."""
    white = np.linalg.solve(root, np.concatenate([means, seen]).T).T
    images = white[len(means):]
    return np.min([np.square(images - mean).sum(1) for mean in white[:len(means)]], axis=0)


def auroc(known: np.ndarray, others: np.ndarray) -> float:
    """How often one of `others` is further beyond than one of `known`, both float64 [N]: 0.5 is
    chance, 1 tells them apart."""
    below = np.searchsorted(np.sort(known), others, "left")
    equal = np.searchsorted(np.sort(known), others, "right") - below
    return float((below + equal / 2).mean() / len(known))


def fitted(labels: np.ndarray) -> np.ndarray:
    """bool [N]: all images but every fifth of each class."""
    fit = np.ones(len(labels), bool)
    for label in np.unique(labels):
        fit[np.flatnonzero(labels == label)[FIT::FIT + 1]] = False
    return fit


def main_directions(x: np.ndarray) -> np.ndarray:
    """float64 [W, q], orthonormal: the first principal components of `x` float64 [N, W], whose mean
    is 0. Found by turning random directions towards them."""
    count, width = x.shape
    q = min(DIRECTIONS, width, max(1, count // 4))
    directions = np.random.default_rng(0).normal(size=(width, q))
    for _ in range(TURNS):
        directions = np.linalg.qr(x.T @ (x @ np.linalg.qr(directions)[0]))[0]
    return directions


def to_int8(array: np.ndarray, axis: int) -> tuple[np.ndarray, np.ndarray]:
    """`array` as int8, and the float32 scales along `axis` that give it back."""
    largest = np.maximum(np.abs(array).max(axis, keepdims=True), LEAST)
    numbers = np.rint(127 / largest * array).astype(np.int8)
    return numbers, (largest / 127).squeeze(axis).astype(np.float32)


def basis(directions: np.ndarray) -> np.ndarray:
    """float64 [W, q], orthonormal, of directions int8."""
    return np.linalg.qr(directions.astype(np.float64))[0]
