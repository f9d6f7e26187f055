"""The published figures to stand beside ours, what they are of, and what to say of them."""
from collections.abc import Mapping
from dataclasses import dataclass, field

from images.datasets import CIFAR100, OF_THE_PAPER
from methods import BASELINES
from methods.recovery import RECOVERIES

FOUR = ("imagenet", *OF_THE_PAPER)
SIX = (*OF_THE_PAPER, "wikiart", "sketch")
# What to say of a run without it.
OTHER_BASE = ("The base network of the paper and of the authors' release was re-trained after its "
              "prune: their figures are of another base.")
# PackNet as it is published: with none of the options that are compared with it.
PLAIN = dict(train_biases=False, train_bn=False, free_weights=0.0, pack="all", prune="weights")


@dataclass(frozen=True)
class Column:
    """A published column and what it is of.

    arch      the network
    errors    top-1 errors in percent, by data set
    top5      the top-5 errors that are published too
    method    a name of methods.METHODS
    ratio     by which the base network was pruned; None: not said
    order     the one order in which the tasks were added; None: a mean over their orders
    memory    the data sets whose figures are quoted from memory
    any_run   whether every run of that network can stand beside it
    """
    arch: str
    errors: Mapping[str, float]
    top5: Mapping[str, float] = field(default_factory=dict)
    method: str = "packnet"
    ratio: float | None = None
    order: tuple[str, ...] | None = OF_THE_PAPER
    memory: tuple[str, ...] = ()
    any_run: bool = False

    def fits(self, results: dict) -> bool:
        """Whether the results of a run can stand beside it: same network, method, options, ratio of
        the base network's prune, and order of the tasks where the column is of one."""
        config = results["config"]
        if results["arch"] != self.arch or self.any_run:
            return results["arch"] == self.arch
        if self.order not in (None, tuple(config["task_list"])):
            return False
        if self.method in BASELINES:
            return self.method in results["baselines"]
        if self.ratio not in (None, config["initial_pruning_ratio"]):
            return False
        return all(config.get(key, value) == value for key, value in PLAIN.items())

    def printed(self, task: str) -> str:
        """An error, with the top-5 error in brackets where there is one; (m): from memory."""
        if task not in self.errors:
            return "-"
        text = f"{self.errors[task]:.2f}"
        if task in self.top5:
            text += f" ({self.top5[task]:.2f})"
        if task in self.memory:
            text += " (m)"
        return text


COLUMNS = {
    "paper, classifier only, VGG-16": Column(
        "vgg16", dict(zip(FOUR, (28.42, 36.76, 56.42, 20.50))),
        method="classifier", order=None, memory=FOUR),
    "paper, LwF, VGG-16": Column(
        "vgg16", dict(zip(FOUR, (39.23, 30.42, 22.97, 15.21))),
        method="lwf", order=None, memory=FOUR),
    "paper, VGG-16, ratio 0.50": Column(
        "vgg16", dict(zip(FOUR, (29.33, 25.72, 18.08, 10.09))),
        ratio=0.5, order=None, memory=FOUR),
    "paper, VGG-16, ratio 0.75": Column(
        "vgg16", dict(zip(FOUR, (30.87, 24.95, 15.75, 9.75))),
        ratio=0.75, order=None, memory=("imagenet",)),
    "paper, individual networks, VGG-16": Column(
        "vgg16", dict(zip(FOUR, (28.42, 22.57, 13.97, 8.65))),
        method="individual", order=None, memory=FOUR),
    "authors' release, VGG-16": Column(
        "vgg16", dict(zip(FOUR, (29.19, 22.56, 17.09, 11.07))), dict(imagenet=9.90), ratio=0.5),
    "LwF, VGG-16": Column(
        "vgg16", dict(zip(FOUR, (36.58, 34.24, 22.07, 12.15))), dict(imagenet=14.75),
        method="lwf"),
    "authors' release, VGG-16 BN": Column(
        "vgg16-bn", dict(zip(FOUR, (27.10, 20.43, 14.92, 8.59))), dict(imagenet=8.70), ratio=0.5),
    "authors' release, ResNet-50": Column(
        "resnet50", dict(zip(FOUR, (24.33, 19.59, 14.03, 8.12))), dict(imagenet=7.17), ratio=0.5),
    "authors' release, DenseNet-121": Column(
        "densenet121", dict(zip(FOUR, (25.51, 20.11, 16.18, 9.07))), dict(imagenet=7.85),
        ratio=0.5),
    "PackNet by CPG's authors, ResNet-50": Column(
        "resnet50", dict(zip(("imagenet", *SIX), (24.29, 19.59, 13.89, 6.96, 30.60, 23.83))),
        order=SIX),
    "fine-tuned networks, ResNet-50": Column(
        "resnet50", dict(zip(SIX, (17.17, 8.17, 3.44, 24.40, 19.22))),
        method="individual", order=SIX),
    "Piggyback, ResNet-50": Column(
        "resnet50", dict(zip(("imagenet", *SIX), (23.84, 15.41, 10.38, 5.23, 28.67, 20.09))),
        order=SIX),
    "PackNet by CPG's authors, VGG-16 BN": Column(
        "vgg16-bn-cifar",
        dict(zip(CIFAR100, (33.6, 20.0, 23.8, 21.6, 20.0, 20.2, 32.2, 38.6, 31.2, 22.8,
                            21.0, 40.6, 33.6, 42.8, 64.0, 45.8, 48.4, 41.2, 32.2, 16.8))),
        order=CIFAR100, any_run=True),
}


def other_base(results: dict) -> str | None:
    """What to say of a run whose base network was not re-trained on its own data; None of
    others."""
    if results["base_retrained"] is not False:
        return None
    instead = RECOVERIES[results["config"].get("recover", "nothing")]
    return f"{results['base']['name']} was not re-trained after its prune{instead}. {OTHER_BASE}"


def of_the_release(arch: str) -> Mapping[str, float]:
    """{data set: error} of the authors' release for a network, in the order CUBS, Cars, Flowers;
    empty for others."""
    for source, column in COLUMNS.items():
        if column.arch == arch and source.startswith("authors' release"):
            return column.errors
    return {}
