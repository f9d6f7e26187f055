"""The published figures to stand beside ours, what they are of, what to say of them, and the names
of the methods."""
from dataclasses import dataclass

from images.datasets import CIFAR100

ORDER = ("cubs", "cars", "flowers")
# Published top-1 errors in percent, to stand beside ours: (network, {data set: error}).
PUBLISHED = {
    "paper, classifier only, VGG-16": ("vgg16", {
        "imagenet": 28.42, "cubs": 36.76, "cars": 56.42, "flowers": 20.50}),
    "paper, LwF, VGG-16": ("vgg16", {
        "imagenet": 39.23, "cubs": 30.42, "cars": 22.97, "flowers": 15.21}),
    "paper, VGG-16, ratio 0.50": ("vgg16", {
        "imagenet": 29.33, "cubs": 25.72, "cars": 18.08, "flowers": 10.09}),
    "paper, VGG-16, ratio 0.75": ("vgg16", {
        "imagenet": 30.87, "cubs": 24.95, "cars": 15.75, "flowers": 9.75}),
    "paper, individual networks, VGG-16": ("vgg16", {
        "imagenet": 28.42, "cubs": 22.57, "cars": 13.97, "flowers": 8.65}),
    "authors' release, VGG-16": ("vgg16", {
        "imagenet": 29.19, "cubs": 22.56, "cars": 17.09, "flowers": 11.07}),
    "LwF, VGG-16": ("vgg16", {
        "imagenet": 36.58, "cubs": 34.24, "cars": 22.07, "flowers": 12.15}),
    "authors' release, VGG-16 BN": ("vgg16-bn", {
        "imagenet": 27.10, "cubs": 20.43, "cars": 14.92, "flowers": 8.59}),
    "authors' release, ResNet-50": ("resnet50", {
        "imagenet": 24.33, "cubs": 19.59, "cars": 14.03, "flowers": 8.12}),
    "authors' release, DenseNet-121": ("densenet121", {
        "imagenet": 25.51, "cubs": 20.11, "cars": 16.18, "flowers": 9.07}),
    "PackNet by CPG's authors, ResNet-50": ("resnet50", {
        "imagenet": 24.29, "cubs": 19.59, "cars": 13.89, "flowers": 6.96, "wikiart": 30.60,
        "sketch": 23.83}),
    "fine-tuned networks, ResNet-50": ("resnet50", {
        "cubs": 17.17, "cars": 8.17, "flowers": 3.44, "wikiart": 24.40, "sketch": 19.22}),
    "Piggyback, ResNet-50": ("resnet50", {
        "imagenet": 23.84, "cubs": 15.41, "cars": 10.38, "flowers": 5.23, "wikiart": 28.67,
        "sketch": 20.09}),
    "PackNet by CPG's authors, VGG-16 BN": ("vgg16-bn-cifar", dict(zip(CIFAR100, (
        33.6, 20.0, 23.8, 21.6, 20.0, 20.2, 32.2, 38.6, 31.2, 22.8,
        21.0, 40.6, 33.6, 42.8, 64.0, 45.8, 48.4, 41.2, 32.2, 16.8)))),
}
# The top-5 errors that are published too.
TOP5 = {
    "authors' release, VGG-16": {"imagenet": 9.90},
    "LwF, VGG-16": {"imagenet": 14.75},
    "authors' release, VGG-16 BN": {"imagenet": 8.70},
    "authors' release, ResNet-50": {"imagenet": 7.17},
    "authors' release, DenseNet-121": {"imagenet": 7.85},
}
# What to say of a run without it.
OTHER_BASE = ("The base network of the paper and of the authors' release was re-trained after its "
              "prune: their figures are of another base.")
# What was done instead (methods/recovery.py), by the setting --recover.
INSTEAD = {
    "nothing": "",
    "norms": "; its batch norms were measured anew",
    "distil": "; it was distilled from the whole network instead",
}
METHODS = {
    "packnet": "PackNet",
    "classifier": "classifier only",
    "individual": "individual networks",
    "finetune": "sequential fine-tuning",
    "lwf": "Learning without Forgetting",
    "joint": "joint training",
}


def other_base(results: dict) -> str | None:
    """What to say of a run whose base network was not re-trained on its own data; None of
    others."""
    if results["base_retrained"] is not False:
        return None
    instead = INSTEAD[results["config"].get("recover", "nothing")]
    return f"{results['base']['name']} was not re-trained after its prune{instead}. {OTHER_BASE}"


def of_the_release(arch: str) -> dict[str, float]:
    """{data set: error} of the authors' release for a network, in the order CUBS, Cars, Flowers;
    empty for others."""
    for source, (network, figures) in PUBLISHED.items():
        if network == arch and source.startswith("authors' release"):
            return figures
    return {}


@dataclass(frozen=True)
class About:
    """What a published column is of. `ratio`: by which the base network was pruned (None: not
    said). `order`: the one order in which the tasks were added; None is a mean over their orders.
    `memory`: the data sets whose figures are quoted from memory."""
    method: str = "packnet"
    ratio: float | None = None
    order: tuple[str, ...] | None = ORDER
    memory: tuple[str, ...] = ()


ALL = ("imagenet", *ORDER)
SIX = (*ORDER, "wikiart", "sketch")
ABOUT = {
    "paper, classifier only, VGG-16": About("classifier", order=None, memory=ALL),
    "paper, LwF, VGG-16": About("lwf", order=None, memory=ALL),
    "paper, VGG-16, ratio 0.50": About(ratio=0.5, order=None, memory=ALL),
    "paper, VGG-16, ratio 0.75": About(ratio=0.75, order=None, memory=("imagenet",)),
    "paper, individual networks, VGG-16": About("individual", order=None, memory=ALL),
    "authors' release, VGG-16": About(ratio=0.5),
    "authors' release, VGG-16 BN": About(ratio=0.5),
    "authors' release, ResNet-50": About(ratio=0.5),
    "authors' release, DenseNet-121": About(ratio=0.5),
    "PackNet by CPG's authors, ResNet-50": About(order=SIX),
    "Piggyback, ResNet-50": About(order=SIX),
    "fine-tuned networks, ResNet-50": About("individual", order=SIX),
    "LwF, VGG-16": About("lwf"),
}
# PackNet as it is published: with none of the options that are compared with it.
PLAIN = dict(train_biases=False, train_bn=False, free_weights=0.0, pack="all", prune="weights")


def fits(source: str, results: dict) -> bool:
    """Whether the results of a run can stand beside a published column: same network, method,
    options, ratio of the base network's prune, and order of the tasks where the column is of one.
    Of a column that nothing is said about: same network."""
    about = ABOUT.get(source)
    config = results["config"]
    if results["arch"] != PUBLISHED[source][0]:
        return False
    if about is None:
        return True
    if about.order not in (None, tuple(config["task_list"])):
        return False
    if about.method != "packnet":
        return about.method in results["baselines"]
    if about.ratio not in (None, config["initial_pruning_ratio"]):
        return False
    return all(config.get(key, value) == value for key, value in PLAIN.items())


def printed(source: str, task: str) -> str:
    """A published error, with the top-5 error in brackets where there is one; (m): from memory."""
    error = PUBLISHED[source][1].get(task)
    top5 = TOP5.get(source, {}).get(task)
    if error is None:
        return "-"
    text = f"{error:.2f}"
    if top5:
        text += f" ({top5:.2f})"
    if task in ABOUT.get(source, About()).memory:
        text += " (m)"
    return text
