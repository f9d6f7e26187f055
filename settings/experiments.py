"""The demo, and the experiments of the paper, of the authors' release, of the first Jittor
implementation, and ours: each is one command.

    python main.py --experiments                       # the list: name, runs, what it is
    python main.py --experiment release-vgg16          # its runs, into checkpoints/release-vgg16/
    python main.py --experiment release-vgg16 --demo   # the same, demo's data, slim networks
    python report.py                                   # what was run, beside published figures

A run that is finished is not repeated and one that was stopped goes on (`--resume` is implied);
other options of main.py apply to every run. Weights: `--pretrained FILE`, else Jittor's download.
"""
import itertools
from dataclasses import dataclass

from images.datasets import OF_THE_PAPER
from methods import BASELINES
from settings import sequences
from settings.sequences import DEMO_ARCHS, DEMO_TASKS, NOT_IN_THE_DEMO

PAPERS_TASKS = list(OF_THE_PAPER)


@dataclass(frozen=True)
class Experiment:
    """`runs`: {label: settings that differ from the defaults}. `published`: the columns of
    reporting.published to stand beside. `drawn`: on drawn data and a slim network always, in the
    demo's settings."""
    title: str
    runs: dict[str, dict]
    published: tuple[str, ...] = ()
    seeds: int = 1
    drawn: bool = False


# Of the first Jittor implementation.
FIRST_JITTOR = dict(initial_pruning_ratio=0.75, crop="plain", recover="nothing")
BEST_ON_TEST = dict(keep="best-on-test")  # of the authors: where figures stand beside theirs


def _release(arch: str) -> dict:
    return dict(arch=arch, initial_pruning_ratio=0.5, pruning_ratios=[0.75, 0.75, 0.0],
                **BEST_ON_TEST)


def _baselines(arch: str, published: tuple[str, ...] = ()) -> Experiment:
    name = {"vgg16": "VGG-16", "vgg16-bn": "VGG-16 BN", "resnet50": "ResNet-50",
            "densenet121": "DenseNet-121"}[arch]
    settings = _release(arch) | dict(baselines=list(BASELINES))
    return Experiment(f"PackNet beside the paper's baselines, {name}", {"all": settings},
                      (f"authors' release, {name}", *published))


def _main_table() -> dict[str, dict]:
    """Both ratio columns over the six orders. The baselines start from the base network before its
    prune, so that one column has them; classifiers and individual networks do not depend on the
    order."""
    runs = {}
    for ratio in (0.5, 0.75):
        for order in map(list, itertools.permutations(PAPERS_TASKS)):
            settings = dict(task_list=order, initial_pruning_ratio=ratio, baselines=[])
            if ratio == 0.5:
                settings["baselines"] = ["lwf"]
                if order == PAPERS_TASKS:
                    settings["baselines"] = ["classifier", "individual", "lwf"]
            runs[f"{ratio:.2f}-{'-'.join(order)}"] = _release("vgg16") | settings
    return runs


def _places(ratio: float, baselines: list[str]) -> dict:
    return _release("vgg16") | dict(
        task_list=["places"], initial_pruning_ratio=ratio, pruning_ratios=[0.0],
        num_epochs_per_task=10, lr_decay_every=5, baselines=baselines)


def _free_weights(fraction: float) -> dict:
    return dict(task_list=[f"signs_{number:02}" for number in range(1, 21)], num_epochs_per_task=4,
                num_epochs_finetune=2, lr_decay_every=3, free_weights=fraction)


EXPERIMENTS = {
    "seed": Experiment(
        "The first Jittor implementation's setting: every task pruned by 75 %, ImageNet not "
        "re-trained unless it is there",
        {"packnet": FIRST_JITTOR}),
    "paper-0.75": Experiment(
        "The paper's VGG-16 column 0.75, 0.75, 0.75 (ImageNet, CUBS, Cars; Flowers keeps what "
        "is left)",
        {"packnet": _release("vgg16") | dict(initial_pruning_ratio=0.75)},
        ("paper, VGG-16, ratio 0.75",)),
    "release-vgg16": Experiment(
        "Authors' release, VGG-16",
        {"packnet": _release("vgg16")},
        ("authors' release, VGG-16",)),
    "release-vgg16-bn": Experiment(
        "Authors' release, VGG-16 with batch norm",
        {"packnet": _release("vgg16-bn")},
        ("authors' release, VGG-16 BN",)),
    "release-resnet50": Experiment(
        "Authors' release, ResNet-50",
        {"packnet": _release("resnet50")},
        ("authors' release, ResNet-50",)),
    "release-densenet121": Experiment(
        "Authors' release, DenseNet-121",
        {"packnet": _release("densenet121")},
        ("authors' release, DenseNet-121",)),
    "main-table": Experiment(
        "The paper's main table: both ratio columns over the six orders, classifier only, "
        "individual networks, LwF",
        _main_table(),
        ("paper, classifier only, VGG-16",
         "paper, LwF, VGG-16",
         "paper, VGG-16, ratio 0.50",
         "paper, VGG-16, ratio 0.75",
         "paper, individual networks, VGG-16")),
    "baselines": _baselines("vgg16", ("LwF, VGG-16",)),
    "baselines-vgg16-bn": _baselines("vgg16-bn"),
    "baselines-resnet50": _baselines("resnet50"),
    "baselines-densenet121": _baselines("densenet121"),
    "orders": Experiment(
        "Every order in which the tasks can be added",
        {"-".join(order): dict(task_list=list(order), **_release("vgg16"))
         for order in itertools.permutations(PAPERS_TASKS)},
        ("paper, VGG-16, ratio 0.50",)),
    "ratios": Experiment(
        "How much can be pruned: one task on the base pruned by 0.5, the ratio of its prune varied",
        {f"{ratio:g}": _release("vgg16") | dict(task_list=["cubs"], pruning_ratios=[ratio])
         for ratio in (0.25, 0.5, 0.75, 0.9)}),
    "biases": Experiment(
        "Biases shared, or of each task's own",
        {"shared": _release("vgg16"),
         "own": dict(train_biases=True, **_release("vgg16"))},
        ("authors' release, VGG-16",)),
    "batch-norm": Experiment(
        "Batch norm shared, or of each task's own, and biases with it",
        {"shared": _release("vgg16-bn"),
         "own": dict(train_bn=True, train_biases=True, **_release("vgg16-bn"))},
        ("authors' release, VGG-16 BN",)),
    "pack": Experiment(
        "Which layers are packed: all, convolutions only, fully connected layers only",
        {pack: _release("vgg16") | dict(pack=pack) for pack in ("all", "conv", "fc")},
        ("authors' release, VGG-16",)),
    "filters": Experiment(
        "Whole filters pruned instead of weights",
        {prune: _release("vgg16") | dict(prune=prune) for prune in ("weights", "filters")},
        ("authors' release, VGG-16",)),
    "places": Experiment(
        "A large task: Places365 beside ImageNet, both ratios, with an individual network and "
        "joint training",
        {"0.50": _places(0.5, ["individual", "joint"]), "0.75": _places(0.75, [])}),
    "seeds": Experiment(
        "The spread over random seeds, in the first Jittor implementation's setting",
        {"packnet": FIRST_JITTOR},
        seeds=3),
    # As each task is pruned by the same ratio, the first 12 are what a run of 12 tasks gives.
    "free-weights": Experiment(
        "Ours: 20 tasks whose weights start from 0, as in the release, or at random",
        {f"{fraction:g}": _free_weights(fraction)
         for fraction in (0.0, 0.03, 0.1, 0.3, 1.0)},
        seeds=3, drawn=True),
    "cifar100-20": Experiment(
        "CIFAR-100's superclasses as 20 tasks from scratch, VGG-16 BN, as in CPG's comparison",
        {"packnet": sequences.CIFAR100_20},
        ("PackNet by CPG's authors, VGG-16 BN",)),
    "six-tasks": Experiment(
        "ImageNet, CUBS, Cars, Flowers, WikiArt, Sketch, ResNet-50, beside three methods' "
        "published figures",
        {"packnet": _release("resnet50") | sequences.SIX_TASKS},
        ("PackNet by CPG's authors, ResNet-50",
         "fine-tuned networks, ResNet-50",
         "Piggyback, ResNet-50")),
    "mnist-5": Experiment(
        "MNIST's digits in pairs as 5 tasks from scratch",
        {"packnet": sequences.MNIST_5}),
    "mnist-permuted-10": Experiment(
        "MNIST with its pixels in ten orders as 10 tasks from scratch",
        {"packnet": sequences.MNIST_PERMUTED_10}),
    "tiny-imagenet-10": Experiment(
        "Tiny ImageNet as 10 tasks of 20 classes, four networks, as in De Lange et al.'s survey",
        sequences.TINY_IMAGENET_10),
    "recogseq-8": Experiment(
        "Eight recognition data sets from ImageNet's AlexNet, as in De Lange et al.'s survey",
        {"packnet": sequences.RECOGSEQ_8}),
    "fashion-5": Experiment(
        "Fashion-MNIST's classes in pairs as 5 tasks from scratch, beside all baselines",
        {"packnet": sequences.FASHION_5},
        seeds=3),
    "fashion-2": Experiment(
        "Fashion-MNIST's classes 0 to 4, then 5 to 9, from scratch, beside all baselines",
        {"packnet": sequences.FASHION_2},
        seeds=3),
    "fashion-permuted-10": Experiment(
        "Fashion-MNIST with its pixels in ten orders as 10 tasks from scratch, beside all "
        "baselines",
        {"packnet": sequences.FASHION_PERMUTED_10}),
    "sources-2": Experiment(
        "Two real sources: Fashion-MNIST, then scikit-learn's handwritten digits, beside all "
        "baselines",
        {"packnet": sequences.SOURCES_2},
        seeds=3),
}

# main.py --demo: small drawn data sets and a slim network. Its crops are plain: of images of 48
# pixels, a crop of 8 % of the area does not show what was drawn.
DEMO = FIRST_JITTOR | dict(
    data_root="data/demo", output_dir="checkpoints/demo",
    base_task="demo_base", task_list=["demo_birds", "demo_cars", "demo_flowers"],
    arch="vgg-slim", image_size=48,
    num_epochs_base=15, base_lr=0.02,
    num_epochs_base_finetune=4, base_finetune_lr=5e-3,
    num_epochs_per_task=24, initial_lr=0.02,
    num_epochs_finetune=8, finetune_lr=5e-3,
    lr_decay_every=16, baselines=["finetune"])


def runs_of(name: str, demo: bool = False, seeds: int | None = None) -> list[tuple[str, dict]]:
    """(name of the run's folder, its settings) of an experiment; `demo`: on the demo's data, with
    slim networks."""
    experiment = EXPERIMENTS[name]
    result = []
    for label, settings in experiment.runs.items():
        if demo and not experiment.drawn:
            settings = _of_the_demo(settings)
        if demo or experiment.drawn:
            settings = DEMO | dict(baselines=[]) | settings
        for seed in range(seeds or experiment.seeds):
            result.append((f"{label}-seed{seed}", settings | dict(seed=seed)))
    return result


def _of_the_demo(settings: dict) -> dict:
    """The same experiment on the demo's data sets and networks, by the demo's schedule."""
    kept = {name: value for name, value in settings.items() if name not in NOT_IN_THE_DEMO}
    kept["arch"] = DEMO_ARCHS[settings.get("arch", "vgg16")]
    kept["task_list"] = [DEMO_TASKS[task] for task in settings.get("task_list", PAPERS_TASKS)]
    kept["base_task"] = DEMO_TASKS.get(settings.get("base_task"), DEMO["base_task"])
    return kept


def listed() -> str:
    """The table that `main.py --experiments` prints: name, number of runs and title of each."""
    width = max(map(len, EXPERIMENTS))
    lines = [f"{'experiment':<{width}}  runs  what it is"]
    for name, experiment in EXPERIMENTS.items():
        lines.append(f"{name:<{width}}  {len(runs_of(name)):>4}  {experiment.title}")
    return "\n".join(lines)
