"""The plain loops of a library user: some epochs of SGD, and a pass over test images."""
from collections.abc import Iterable

import numpy as np

import toolchain
from system.progress import Progress

jt = toolchain.start()
from jittor import nn


def train(model: nn.Module, parameters: list[jt.Var], loader: Iterable, epochs: int, title: str,
          *, lr: float, momentum: float, weight_decay: float) -> None:
    """`epochs` passes of SGD over `loader`, which yields (images float32 [B, ...], labels int [B]).
    Raises ValueError for a batch of one image from which a batch norm can compute nothing."""
    optimizer = nn.SGD(parameters, lr, momentum=momentum, weight_decay=weight_decay)
    for epoch in range(epochs):
        bar = Progress(loader, f"{title}: epoch {epoch + 1}/{epochs}", unit="batch")
        for images, labels in bar:
            if name := starved_norm(model, images, part_of(loader)):
                raise ValueError(f"{title}: of a batch of one image the batch norm {name} sees one "
                                 "value per channel, which has no variance to learn from. Take "
                                 "another batch size, or leave that batch out.")
            if hasattr(model, "share_batch"):
                model.share_batch(*part_of(loader))
            optimizer.step(nn.cross_entropy_loss(model(images), labels))
    jt.sync_all()


def part_of(loader: Iterable) -> tuple[int, int]:
    """(which, of how many) equal parts of the batch at hand is this process's: dataset.Loader says
    so, a list has all of it."""
    return getattr(loader, "part", (0, 1))


def starved_norm(model: nn.Module, images: jt.Var, part: tuple[int, int] = (0, 1)) -> str | None:
    """The name of a batch norm that would see a single value per channel of `images` in training;
    None if there is none. Its output would be its bias, whatever the image is, and nothing in front
    of it would learn. Of more than one image there are always more values. `part`: as of part_of;
    other processes see the rest.

    What the layers see is found by a pass in test mode whose results are never computed.
    """
    norms = {name: layer for name, layer in model.named_modules()
             if isinstance(layer, nn.BatchNorm) and layer.is_train}
    if images.shape[0] * part[1] > 1 or not norms:
        return None
    starved = []

    def watch(name: str, layer: nn.BatchNorm) -> None:
        def execute(x: jt.Var) -> jt.Var:
            if x.numel() == x.shape[1]:
                starved.append(name)
            return type(layer).execute(layer, x)
        layer.execute = execute

    modes = [(module, module.is_training()) for module in model.modules()]
    try:
        for module, _ in modes:
            module.is_train = False
        for name, layer in norms.items():
            watch(name, layer)
        with jt.no_grad():
            model(images)
    finally:
        for layer in norms.values():
            vars(layer).pop("execute", None)
        for module, mode in modes:
            module.is_train = mode
    return starved[0] if starved else None


def predict(model: nn.Module, loader: Iterable,
            title: str = "test") -> tuple[np.ndarray, np.ndarray]:
    """(logits float32 [N, classes], labels int [N]) of the model as it is, over one pass of
    `loader`. Under mpirun the processes share a dataset.Loader's batches, and each gets all
    results."""
    logits, targets = [], []
    with jt.no_grad():
        for images, labels in Progress(loader, title, unit="batch"):
            logits.append(model(images))
            targets.append(labels)
            jt.sync_all()  # compute; a GPU goes on with the next batch meanwhile
    results = (np.concatenate([batch.numpy() for batch in logits]),
               np.concatenate([np.asarray(batch) for batch in targets]))
    return tuple(map(loader.gather, results)) if hasattr(loader, "gather") else results
