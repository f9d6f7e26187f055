"""The plain loops of a library user: some epochs of SGD, and a pass over test images."""
from collections.abc import Iterable

import numpy as np

import toolchain
from system.progress import Progress

jt = toolchain.start()
from jittor import nn


def train(model: nn.Module, parameters: list[jt.Var], loader: Iterable, epochs: int, title: str, *, lr: float, momentum: float,
          weight_decay: float) -> None:
    """`epochs` passes of SGD over `loader`, which yields (images float32 [B, ...], labels int [B])."""
    optimizer = nn.SGD(parameters, lr, momentum=momentum, weight_decay=weight_decay)
    for epoch in range(epochs):
        for images, labels in Progress(loader, f"{title}: epoch {epoch + 1}/{epochs}", unit="batch"):
            if hasattr(model, "share_batch"):
                model.share_batch(*part_of(loader))
            optimizer.step(nn.cross_entropy_loss(model(images), labels))
    jt.sync_all()


def part_of(loader: Iterable) -> tuple[int, int]:
    """(which, of how many) equal parts of the batch at hand is this process's: dataset.Loader says so, a list has all of it."""
    return getattr(loader, "part", (0, 1))


def predict(model: nn.Module, loader: Iterable, title: str = "test") -> tuple[np.ndarray, np.ndarray]:
    """(logits float32 [N, classes], labels int [N]) of the model as it is, over one pass of `loader`. Under mpirun the
    processes share a dataset.Loader's batches, and each gets all results."""
    logits, targets = [], []
    with jt.no_grad():
        for images, labels in Progress(loader, title, unit="batch"):
            logits.append(model(images))
            targets.append(labels)
            jt.sync_all()  # compute; a GPU goes on with the next batch meanwhile
    results = np.concatenate([batch.numpy() for batch in logits]), np.concatenate([np.asarray(batch) for batch in targets])
    return tuple(map(loader.gather, results)) if hasattr(loader, "gather") else results
