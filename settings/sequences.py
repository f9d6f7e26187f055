"""The sequences of tasks on which PackNet was compared after its paper, as settings of a run; and
what stands for the data and networks of every experiment in the demo. Those from scratch have no
base network: their first task is the base task.
"""
from images.datasets import (
    CIFAR100,
    FASHION_HALVES,
    FASHION_PAIRS,
    MNIST,
    OF_THE_PAPER,
    TINY_IMAGENET,
)
from methods import BASELINES

PAIRS = tuple(name for name in MNIST if name != "mnist")
PERMUTED_MNIST = tuple(f"mnist_permuted_{number:02}" for number in range(1, 11))
PERMUTED_FASHION = tuple(f"fashion-mnist_permuted_{number:02}" for number in range(1, 11))
TWO_SOURCES = ("fashion-mnist", "sklearn-digits")
SIX_TASKS = dict(
    task_list=[*OF_THE_PAPER, "wikiart", "sketch"],
    pruning_ratios=[0.75] * 4 + [0.0],
    baselines=["individual"],
)


def _from_scratch(tasks: tuple[str, ...], first: float, ratios: list[float | str],
                  **others) -> dict:
    return dict(
        base_task=tasks[0],
        task_list=list(tasks[1:]),
        initial_pruning_ratio=first,
        pruning_ratios=ratios,
        **others,
    )


def _schedule(train: tuple[int, float], retrain: tuple[int, float], decay: int) -> dict:
    """(epochs, learning rate) of both phases, the same for the first task and the others; `decay`
    of the re-training."""
    return dict(
        num_epochs_base=train[0],
        base_lr=train[1],
        num_epochs_per_task=train[0],
        initial_lr=train[1],
        num_epochs_base_finetune=retrain[0],
        base_finetune_lr=retrain[1],
        base_lr_decay_every=decay,
        num_epochs_finetune=retrain[0],
        finetune_lr=retrain[1],
        lr_decay_every=decay,
    )


def _signs(tasks: tuple[str, ...]) -> dict[str, str]:
    return {name: f"signs_{number:02}" for number, name in enumerate(tasks, start=1)}


# As Hung et al. ran PackNet beside CPG (NeurIPS 2019), by their scripts. Their networks start
# otherwise: the convolutions by fan-out, the linear layers and heads with a deviation of 0.01; here
# He's by fan-in.
CIFAR100_20 = _from_scratch(
    CIFAR100, 0.6, [0.6] * 19,
    arch="vgg16-bn-cifar",
    image_size=32,
    crop="padded",
    normalise="own",
    train_biases=True,
    train_bn=True,
    nesterov=True,
    weight_decay=4e-5,
    weight_decay_on="packed",
    lr_decay_at=[50, 80],
    **_schedule((100, 1e-2), (30, 1e-3), 25),
)

# Ours: a multi-layer perceptron, and every task keeps the same share of the weights.
DIGITS = dict(
    arch="mlp",
    image_size=28,
    crop="whole",
    normalise="own",
    **_schedule((4, 1e-2), (2, 1e-3), 2),
)
MNIST_5 = _from_scratch(PAIRS, 0.8, ["equal"] * 4, **DIGITS)
MNIST_PERMUTED_10 = _from_scratch(PERMUTED_MNIST, 0.9, ["equal"] * 9, **DIGITS)
FASHION_PERMUTED_10 = _from_scratch(PERMUTED_FASHION, 0.9, ["equal"] * 9, **DIGITS,
                                    baselines=list(BASELINES))

# Ours: a small convolutional network, and the paper's 0.75 for every task.
FASHION = dict(
    arch="vgg-slim-28",
    image_size=28,
    crop="whole",
    normalise="own",
    baselines=list(BASELINES),
    **_schedule((2, 1e-2), (1, 1e-2), 10),
)
FASHION_5 = _from_scratch(FASHION_PAIRS, 0.75, [0.75] * 4, **FASHION)
FASHION_2 = _from_scratch(FASHION_HALVES, 0.75, [0.75], **FASHION)
SOURCES_2 = _from_scratch(TWO_SOURCES, 0.75, [0.75], **FASHION)

# De Lange et al.'s comparison (TPAMI 2021), by their code: 70 epochs, 10 after the prune at a tenth
# of the rate, batch 200, a fifth of the training images for validation, by which an epoch is kept.
# They choose each task's rate among several and its ratio by halving 0.9, divide the rate and stop
# where nothing improves; here the rate is one of theirs, divided after 40 and 60 epochs, and all
# tasks keep the same share, as in Avalanche's baseline.
TINY_IMAGENET_10 = {
    size: _from_scratch(
        TINY_IMAGENET, 0.9, ["equal"] * 9,
        arch=arch,
        image_size=64,
        crop="whole",
        batch_size=200,
        validation=0.2,
        keep="best",
        lr_decay_at=[40, 60],
        **_schedule((70, 1e-2), (10, 1e-3), 10),
    )
    for size, arch in {"small": "vgg9-small", "base": "vgg9-base", "wide": "vgg9-wide",
                       "deep": "vgg22-deep"}.items()
}

# Their sequence of recognition tasks, by their code and, for the rates, its note on the paper: 100
# epochs, 10 after the prune at a tenth of the rate, batch 200, ImageNet's weights to start from but
# no task of it, any 224 x 224 of an image whose short side is 256, and every task pruned by 0.9,
# their first ratio. They halve it where that costs a fifth of the accuracy, choose each task's rate
# of 1e-4 and 5e-5, divide it and stop where nothing improves, all by a half of the official test
# images; here the rate is divided after 60 and 85 epochs, and nothing is chosen by the test.
RECOGNITION = ("flowers", "indoor67", "cubs", "cars", "aircraft", "voc-actions", "chars74k", "svhn")
RECOGSEQ_8 = _from_scratch(
    RECOGNITION, 0.9, [0.9] * 7,
    arch="alexnet",
    pretrained="published",
    crop="plain",
    batch_size=200,
    lr_decay_at=[60, 85],
    **_schedule((100, 1e-4), (10, 1e-5), 10),
)

# What stands for what where an experiment runs on the demo's data, and what of its settings is then
# the demo's.
DEMO_TASKS = {"cubs": "demo_birds", "cars": "demo_cars", "flowers": "demo_flowers",
              "places": "demo_cars"}
DEMO_TASKS |= _signs(CIFAR100) | _signs(PAIRS) | _signs(("wikiart", "sketch"))
DEMO_TASKS |= _signs(TINY_IMAGENET)
DEMO_TASKS |= _signs(("indoor67", "aircraft", "voc-actions", "chars74k", "svhn"))
DEMO_TASKS |= _signs(FASHION_PAIRS) | _signs(FASHION_HALVES) | _signs(TWO_SOURCES)
DEMO_TASKS |= {name: f"signs_01_permuted_{name[-2:]}" for name in PERMUTED_MNIST + PERMUTED_FASHION}
DEMO_ARCHS = {"vgg16": "vgg-slim", "vgg16-bn": "vgg-bn-slim", "resnet50": "resnet-slim",
              "densenet121": "densenet-slim"}
DEMO_ARCHS |= {"vgg16-bn-cifar": "vgg-bn-slim", "mlp": "mlp", "vgg-slim-28": "vgg-slim",
               "alexnet": "vgg-slim"}
DEMO_ARCHS |= dict.fromkeys(("vgg9-small", "vgg9-base", "vgg9-wide", "vgg22-deep"), "vgg-slim")
NOT_IN_THE_DEMO = ("lr_decay_at", "pretrained", *_schedule((0, 0.0), (0, 0.0), 0))
