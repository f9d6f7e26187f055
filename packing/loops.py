"""The loops: an epoch of SGD, for a run and for a program of one's own alike; a pass over test
images."""
import itertools
import math
from collections.abc import Callable, Iterable, Iterator

import numpy as np

import toolchain
from packing.sgd import SGD
from system.errors import TrainingError, UserError
from system.progress import Progress

jt = toolchain.start()
from jittor import nn

# Steps between two looks at the loss. On a GPU a look waits for all that is under way.
CHECK_EVERY = 20 if toolchain.device == "cuda" else 1

# (network, images, labels) -> (loss, logits)
Loss = Callable[[nn.Module, jt.Var, jt.Var], tuple[jt.Var, jt.Var]]


def train(model: nn.Module, parameters: list[jt.Var], loader: Iterable, epochs: int, title: str,
          *, lr: float, momentum: float, weight_decay: float) -> None:
    """`epochs` passes of SGD over `loader`, which yields (images float32 [B, ...], labels int [B]).
    Raises ValueError for a label that is no class, and for a batch of one image from which a batch
    norm can compute nothing; TrainingError as train_epoch."""
    optimizer = SGD(parameters, lr, momentum=momentum, weight_decay=weight_decay)
    for epoch in range(epochs):
        its = f"{title}: epoch {epoch + 1}/{epochs}"
        # On a GPU a look at the labels waits for all that is under way: in the first epoch only.
        loss_of = cross_entropy if epoch else cross_entropy_of_classes
        train_epoch(model, loss_of, Learnable(loader, model, its), optimizer, its)
    jt.sync_all()


def cross_entropy(net: nn.Module, images: jt.Var, labels: jt.Var) -> tuple[jt.Var, jt.Var]:
    """(loss, logits) of the network, with the head that is selected."""
    logits = net(images)
    return nn.cross_entropy_loss(logits, labels), logits


def cross_entropy_of_classes(net: nn.Module, images: jt.Var,
                             labels: jt.Var) -> tuple[jt.Var, jt.Var]:
    """cross_entropy, after a look at the labels: for one that is no class Jittor's counts nothing,
    without a word. -100 says so on purpose, as in PyTorch. Raises ValueError."""
    loss, logits = cross_entropy(net, images, labels)
    numbers, classes = labels.numpy(), logits.shape[1]
    strays = numbers[((numbers < 0) | (numbers >= classes)) & (numbers != -100)]
    if len(strays):
        raise ValueError(f"label {strays[0]} is none of the {classes} classes that the network "
                         f"tells apart, which are numbered from 0 to {classes - 1}.")
    return loss, logits


def train_epoch(net: nn.Module, loss_of: Loss, loader: Iterable, optimizer: nn.Optimizer,
                title: str) -> tuple[float, float]:
    """One epoch. Returns the mean loss per image and the top-1 accuracy in percent, both as seen
    while training.

    Under mpirun every process computes its part of a batch (dataset.Loader). Raises TrainingError
    when the loss, or after the epoch a weight, is NaN or infinite.
    """
    loss_sum, hits = jt.zeros(1), jt.zeros(1)
    seen = 0
    bar = Progress(loader, title, unit="batch")
    for step, (images, labels) in enumerate(bar):
        part, parts = part_of(loader)
        if hasattr(net, "share_batch"):
            net.share_batch(part, parts)
        loss, logits = loss_of(net, images, labels)
        optimizer.step(loss)
        # 1, or what this process counts for where all have the whole batch
        share = parts / jt.world_size
        loss_sum = (loss_sum + loss.detach() * (len(labels) * share)).stop_grad()
        hits = (hits + (logits.argmax(1)[0] == labels).sum() * share).stop_grad()
        jt.sync_all()
        seen += len(labels) * parts
        if step % CHECK_EVERY == 0:
            mean = mean_loss(loss_sum, seen, title, optimizer)
            bar.set_postfix(loss=f"{mean:.3f}", refresh=False)  # shown with the bar's next turn
    if not seen:
        raise UserError(f"{title}: there is no batch to train on.")
    mean = mean_loss(loss_sum, seen, title, optimizer)
    moved = itertools.chain.from_iterable(group["params"] for group in optimizer.param_groups)
    if not all(map(finite, moved)):
        raise TrainingError(f"{title}: weights are NaN or infinite at learning rate "
                            f"{optimizer.lr:g}.")
    return mean, 100 * over_processes(hits) / seen


def measure_norms(net: nn.Module, loader: Iterable, title: str) -> int:
    """Give every batch norm of `net` the mean over one pass of `loader` of its batches' means, and
    that of their variances; all else is in test mode, and stays as it is. Returns how many norms
    there are; where there are none, no image is looked at."""
    norms = [layer for layer in net.modules() if isinstance(layer, nn.BatchNorm)]
    if not norms:
        return 0
    momenta = [norm.momentum for norm in norms]
    for layer in net.modules():
        layer.is_train = False
    for norm in norms:
        norm.is_train = True
    try:
        with jt.no_grad():
            for number, (images, _) in enumerate(Progress(loader, title, unit="batch")):
                for norm in norms:
                    norm.momentum = 1 / (number + 1)  # a running mean becomes the mean of all
                net(images)
                jt.sync_all()
    finally:
        for norm, momentum in zip(norms, momenta):
            norm.momentum = momentum
            norm.is_train = False
    return len(norms)


def mean_loss(loss_sum: jt.Var, seen: int, title: str, optimizer: nn.Optimizer) -> float:
    """The mean over the images seen so far. Raises TrainingError where it is no number."""
    mean = over_processes(loss_sum) / seen
    if not math.isfinite(mean):
        raise TrainingError(f"{title}: the loss is {mean} at learning rate {optimizer.lr:g}.")
    return mean


def finite(parameter: jt.Var) -> bool:
    """Whether all its values are numbers. The loss alone does not tell: on the CPU kernels are
    compiled as if there were no NaN, and ReLU may turn it into 0."""
    return bool(np.isfinite((parameter.data.min(), parameter.data.max())).all())


def over_processes(value: jt.Var) -> float:
    """The sum of a one-element Var over all processes."""
    return (value.mpi_all_reduce("add") if jt.in_mpi else value).item()


class Learnable:
    """The batches of `loader` from which `net` can learn: all but those of one image of which a
    batch norm would see one value per channel; `tell` is told which norm. Without `tell` such a
    batch is refused: ValueError.

    Raises UserError at the end of an epoch of which nothing is left.
    """

    def __init__(self, loader: Iterable, net: nn.Module, title: str,
                 tell: Callable[[str], None] | None = None) -> None:
        self.loader = loader
        self.net = net
        self.title = title
        self.tell = tell

    def __getattr__(self, name: str):
        return getattr(self.loader, name)

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[tuple[jt.Var, jt.Var]]:
        left, starved = 0, None
        for images, labels in self.loader:
            name = starved_norm(self.net, images, part_of(self.loader))
            if name and not self.tell:
                raise ValueError(f"{self.title}: of a batch of one image the batch norm {name} "
                                 "sees one value per channel, which has no variance to learn from. "
                                 "Take another batch size, or leave that batch out.")
            if name:
                starved = name
            else:
                left += 1
                yield images, labels
        if starved and not left:
            raise UserError(f"{self.title}: every batch is one image, of which the batch norm "
                            f"{starved} sees one value per channel: nothing can be learned. Take "
                            "larger batches (--batch-size), or larger images (--image-size).")
        if starved:
            self.tell(f"{self.title}: the last batch of an epoch is one image, of which the batch "
                      f"norm {starved} sees one value per channel; it is left out, another image "
                      "in each epoch.")


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
    if images.shape[0] * part[1] > 1:
        return None
    norms = {name: layer for name, layer in model.named_modules()
             if isinstance(layer, nn.BatchNorm) and layer.is_train}
    if not norms:
        return None
    starved = []

    def watch(name: str, layer: nn.BatchNorm) -> None:
        def execute(x: jt.Var) -> jt.Var:
            if x.numel() == layer.num_features:
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
