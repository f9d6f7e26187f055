"""Whose image is it? What each task's images look like to the network decides. NumPy only.

All tasks' images are looked at in the first task's view: it is there for every later task, never
changes, and makes them comparable. What of it is looked at: runs/recognition.py. When a task is
frozen, a Gaussian for each of its classes is fitted to what is seen of its training images, and
stored as its *portrait*: where the classes are, and one covariance for all of them, of which a few
directions are known and all others count as one. An image goes to the task of the class that is
nearest by the mean covariance of all tasks. By the covariance of that task alone it is measured
whether it is as near as the task's own images: where not, it is none of the tasks'.
benchmarks/recognise.py has measured this beside other ways.
"""
from dataclasses import dataclass, fields

import numpy as np

IMAGES = 10_000  # that a portrait is made from, at most
DIRECTIONS = 24  # that are known of a covariance
TURNS = 6        # of the search for them
RIDGE = 0.01     # of the mean variance is added to each: few images say little of a direction
LEAST = 1e-12    # variance, of what is always the same
FIT = 4          # of each class one image after so many is kept from the fit: what is usual?
KNOWN = 0.95     # of these are within the task's limit

Arrays = dict[str, np.ndarray]


@dataclass(frozen=True)
class Portrait:
    """`centre` float16 [W]: the mean of all images. `classes` int8 [C, W] times `scales` float32
    [C]: from there to the mean of each class. `directions` int8 [W, q]: in which images differ most
    within a class, each as long as int8 allows. `variances` float32 [q]: along the `basis` that
    they give. `rest` float32 []: in every other direction. `usual` float64 [3]: of the distances of
    the task's own images, of those not fitted, mean, deviation, and the limit of what is known."""
    centre: np.ndarray
    classes: np.ndarray
    scales: np.ndarray
    directions: np.ndarray
    variances: np.ndarray
    rest: np.ndarray
    usual: np.ndarray

    @classmethod
    def of(cls, seen: np.ndarray, labels: np.ndarray) -> "Portrait":
        """`seen` float32 [N, W]: what is seen of a task's training images; `labels` int [N]."""
        fit = fitted(labels)
        numbers, label = np.unique(labels[fit], return_inverse=True)
        x = seen[fit].astype(np.float64)
        centre = x.mean(0).astype(np.float16)
        means = np.stack([x[label == number].mean(0) for number in range(len(numbers))])
        classes, scales = to_int8(means - centre, axis=1)
        apart = x - (centre + classes * scales[:, None])[label]
        directions, _ = to_int8(main_directions(apart), axis=0)
        inside = apart @ basis(directions)
        variances = np.square(inside).mean(0)
        others = x.shape[1] - len(variances)
        rest = outside(apart, inside).mean() / others + LEAST if others else np.inf
        least = RIDGE * max(variances.mean(), rest if others else 0.0) + LEAST
        portrait = cls(centre, classes, scales, directions, np.float32(variances + least),
                       np.array(rest, np.float32), np.array([0.0, 1.0, 0.0]))
        distances = portrait.distance(seen[fit if fit.all() else ~fit])
        portrait.usual[:] = (distances.mean(), max(distances.std(), LEAST),
                             np.quantile(distances, KNOWN))
        return portrait

    def means(self) -> np.ndarray:
        """Of the classes, float64 [C, W]."""
        return self.centre + self.classes * self.scales[:, None].astype(np.float64)

    def distance(self, seen: np.ndarray) -> np.ndarray:
        """The squared distance from the nearest class, by the task's own covariance: float32 [N, W]
        to float64 [N]."""
        known = basis(self.directions)
        nearest = np.full(len(seen), np.inf)
        for mean in self.means():
            apart = seen - mean
            inside = apart @ known
            far = (np.square(inside) / self.variances).sum(1) + outside(apart, inside) / self.rest
            nearest = np.minimum(nearest, far)
        return nearest

    def beyond(self, seen: np.ndarray) -> np.ndarray:
        """How far images are beyond the task's limit, in deviations of the task's own: float64 [N],
        above 0 where an image is not known."""
        _, deviation, limit = self.usual
        return (self.distance(seen) - limit) / deviation

    def covariance(self) -> np.ndarray:
        """float64 [W, W]."""
        known = basis(self.directions)
        rest = 0.0 if np.isinf(self.rest) else float(self.rest)
        return known * (self.variances - rest) @ known.T + rest * np.eye(len(known))

    def arrays(self) -> Arrays:
        """By name, as a packed file has them."""
        return vars(self)

    @classmethod
    def from_arrays(cls, arrays: Arrays) -> "Portrait":
        """Raises KeyError where one is missing."""
        return cls(*(arrays[field.name] for field in fields(cls)))


def recognise(portraits: list[Portrait], seen: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(number of the task that each image looks most like, int [N]; how far it is beyond that
    task's limit, float64 [N]: it is none of the tasks' where that is above 0). `seen` float32 [N,
    W]."""
    shared = np.mean([portrait.covariance() for portrait in portraits], axis=0)
    white = np.linalg.cholesky(np.linalg.inv(shared))
    images = seen @ white
    far, beyond = [], []
    for portrait in portraits:
        means = portrait.means() @ white
        far.append(np.min([np.square(images - mean).sum(1) for mean in means], axis=0))
        beyond.append(portrait.beyond(seen))
    task = np.argmin(far, axis=0)
    return task, np.stack(beyond)[task, np.arange(len(task))]


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


def outside(x: np.ndarray, inside: np.ndarray) -> np.ndarray:
    """The squared length of `x` that its coordinates `inside` a basis do not have."""
    return np.maximum(np.square(x).sum(1) - np.square(inside).sum(1), 0)
