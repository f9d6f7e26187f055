"""The settings of a run, their defaults and what they may be.

The names are those of the first Jittor implementation (initial_lr, num_epochs_per_task,
pruning_ratios, ...); each has a flag on main.py's command line (--initial-lr, ...). The defaults
are the paper's, from the authors' release where the paper is silent. Nothing here needs Jittor, so
that a wrong option is answered at once.
"""
import dataclasses
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from images.crops import CROPS
from images.datasets import NAME, OF_THE_PAPER, dataset_folder
from images.folders import unsorted
from methods import BASELINES
from methods.recovery import RECOVERIES
from settings.archs import ARCHS, FIXED_SIZE, PUBLISHED_WEIGHTS, own
from system.errors import UserError
from toolchain import CONVOLUTIONS, DEVICES, PRECISIONS

RATIO_WORDS = ("auto", "equal")
MOST_PIXELS = 4096  # a side: of more a batch is in no memory, and Linux ends what asks for it
PUBLISHED = "published"  # what --pretrained may be, beside a file
# What --keep may be, and what a log says of it.
KEPT_EPOCH = {
    "last": "Of each phase its last epoch is kept.",
    "best": "Of each phase the epoch that is best on the validation part is kept.",
    "best-on-test": "Of each phase the epoch that is best on the test split is kept, as by the "
                    "authors: figures beside theirs, and too good for a test.",
}
# The groups of --help.
TASKS = "tasks"
NETWORK = "network"
OPTIONS = "options of the authors' release, and one of our own (free-weights)"
COMPARED = "what the paper's text compares"
SCHEDULE = "schedule of an added task (defaults: the authors' release)"
BASE = "schedule of the pretrained network"
COMPARISONS = "comparisons"
MACHINE = "machine"


class ConfigError(UserError):
    """A setting cannot be used. The message names it and says what is allowed."""


def setting(default, text: str, group: str, *, kind: Callable | None = None,
            choices: tuple[str, ...] = (), fixed_when_packed: bool = False, may_move: bool = False,
            of_machine: bool = False, of_tasks: bool = False, packed: bool = True):
    """A field of Config with its line of help; a list as default stands for its value.

    group               of --help
    kind                how one is read from the command line, where its type does not say so
    choices             what it may be; of a list, what each of its elements may be
    fixed_when_packed   a packed network was made with it, and no later task can change it
    may_move            where something is: a run that goes on may name another place
    of_machine          what a machine has: never taken from a packed file
    of_tasks            what the packed tasks had, and a later one does not take from the file
    packed              whether a packed file holds it: what concerns the run alone is not in it
    """
    metadata = dict(text=text, group=group, kind=kind, choices=tuple(choices),
                    fixed_when_packed=fixed_when_packed, may_move=may_move, of_machine=of_machine,
                    of_tasks=of_tasks, packed=packed)
    if isinstance(default, list):
        return field(default_factory=lambda: list(default), metadata=metadata)
    return field(default=default, metadata=metadata)


def names_of(kind: str, value: bool = True) -> tuple[str, ...]:
    """The settings of a kind, as "may_move"."""
    return tuple(each.name for each in dataclasses.fields(Config) if each.metadata[kind] == value)


def ratio(text: str) -> float | str:
    """A pruning ratio of the command line."""
    return text if text in RATIO_WORDS else float(text)


@dataclass
class WhatIsPacked:
    """The part of Config that says which tasks go into which network."""
    task_list: list[str] = setting(
        list(OF_THE_PAPER),
        "data sets to add, in this order: cubs, cars, flowers, or any folder X of the data "
        "root with X/{train,test}/<class>/",
        group=TASKS, of_tasks=True)
    pruning_ratios: list[float | str] = setting(
        [],
        "fraction of its weights each task gives up, one per task; 0 keeps all; auto finds it"
        " (--max-drop), equal gives all the same share of the weights (--tasks-to-come), less"
        " those that a task's training has left at exactly 0, which later tasks get; one word"
        " stands for all tasks (default: 0.75 for each)",
        kind=ratio, group=TASKS, of_tasks=True)
    max_drop: float = setting(
        1.0,
        "with auto: how many percentage points of accuracy on the validation part a prune may"
        " cost; of the pretrained network, of agreement with itself before it",
        group=TASKS)
    tasks_to_come: int = setting(
        0,
        "with equal: how many tasks are to be added later, for which the same share of the "
        "weights is left",
        group=TASKS)
    initial_pruning_ratio: float | str = setting(
        0.5,
        "the same for the pretrained network, before the first task (the first Jittor "
        "implementation: 0.75); auto takes the largest at which the network, once brought back, "
        "gives another class than before for at most --max-drop percent of the images",
        kind=ratio, group=TASKS, fixed_when_packed=True)
    base_task: str = setting(
        "imagenet",
        "data set of the pretrained network; where its folder is present, the pruned network "
        "is re-trained on it",
        group=TASKS, fixed_when_packed=True)
    add_to: str | None = setting(
        None,
        "folder of a finished run, or its packed file: the tasks are added to that network "
        "(default: none)",
        group=TASKS, may_move=True, packed=False)
    prune_last: float | None = setting(
        None,
        "with --add-to: fraction of its weights that the last task of that network gives up "
        "first, where none are free (default: nothing)",
        group=TASKS, packed=False)
    arch: str = setting(
        "vgg16",
        f"network: {', '.join(ARCHS)}; or one of your own, path/to/my_net.py:build, "
        "a function that returns it",
        group=NETWORK, fixed_when_packed=True)
    last: str | None = setting(
        None,
        "of a network of your own, the linear layer that each task replaces by a head of its "
        "own, or none where it gives features (default: the one that it ends with)",
        group=NETWORK, fixed_when_packed=True, packed=False)
    pretrained: str | None = setting(
        None,
        "file with the pretrained weights, torchvision's or timm's: .pth, .safetensors or "
        "Jittor's .pkl; a checkpoint that holds them, or an exported network of this project, "
        "will do (default, or published: what torch.hub or Hugging Face have in their caches, or "
        "Jittor's own download)",
        group=NETWORK, fixed_when_packed=True, may_move=True)
    image_size: int = setting(
        224,
        "side of the network's input in pixels",
        group=NETWORK, fixed_when_packed=True)
    crop: str = setting(
        "resized",
        "how training images are cropped that are not cropped to boxes: resized is the "
        "authors' release's (8 to 100 % of the area), plain the first Jittor implementation's"
        " (any part of the crop's size); padded: of the image with a black edge of an eighth "
        "around it; whole: not cropped, and not mirrored",
        choices=tuple(CROPS), group=NETWORK)
    normalise: str = setting(
        "imagenet",
        "by what mean and deviation images are normalised: imagenet's, or each task's own, of"
        " its training images (ImageNet and Places365 keep ImageNet's)",
        choices=("imagenet", "own"), group=NETWORK)
    train_biases: bool = setting(
        False,
        "give every task biases of its own, stored per task",
        group=OPTIONS, fixed_when_packed=True)
    train_bn: bool = setting(
        False,
        "give every task norms (batch, layer, ...) of its own, stored per task",
        group=OPTIONS, fixed_when_packed=True)
    free_weights: float = setting(
        0.0,
        "where the free weights that a task takes over start: at 0, or at random, with this "
        "fraction of He's deviation",
        group=OPTIONS)
    pack: str = setting(
        "all",
        "which layers are packed: all, convolutions only (conv), linear layers only (fc) or all "
        "but depthwise convolutions (no-depthwise, ours); the others move with the base task and "
        "stay as they are afterwards",
        choices=("all", "conv", "fc", "no-depthwise"), group=COMPARED, fixed_when_packed=True)
    prune: str = setting(
        "weights",
        "what a prune frees: weights, or whole filters, by their norm",
        choices=("weights", "filters"), group=COMPARED)


@dataclass
class Config(WhatIsPacked):
    batch_size: int = setting(32, "images per step", group=SCHEDULE)
    initial_lr: float = setting(1e-3, "learning rate of a new task", group=SCHEDULE)
    num_epochs_per_task: int = setting(
        20,
        "epochs a new task trains before its prune",
        group=SCHEDULE)
    finetune_lr: float = setting(
        1e-4,
        "learning rate of the re-training after a prune",
        group=SCHEDULE)
    num_epochs_finetune: int = setting(10, "epochs of re-training after a prune", group=SCHEDULE)
    lr_decay_every: int = setting(
        10,
        "epochs after which the learning rate is divided by 10",
        group=SCHEDULE)
    lr_decay_at: list[int] = setting(
        [],
        "epochs after which a task's training (not its re-training) divides the learning rate"
        " by 10, in place of --lr-decay-every; training the base network from scratch too "
        "(default: none)",
        group=SCHEDULE)
    momentum: float = setting(0.9, "SGD's momentum", group=SCHEDULE)
    nesterov: bool = setting(False, "Nesterov's momentum", group=SCHEDULE)
    weight_decay: float = setting(
        0.0,
        "SGD's weight decay; it never reaches a frozen weight",
        group=SCHEDULE)
    weight_decay_on: str = setting(
        "all",
        "what it acts on: all that trains, or packed, the weights that the task owns, without"
        " head, biases and norms",
        choices=("all", "packed"), group=SCHEDULE)
    validation: float = setting(
        0.0,
        "fraction of each training split that is held out of training; epochs are then judged"
        " on it, and the test split is used only once a task is frozen",
        group=SCHEDULE)
    keep: str = setting(
        "last",
        "which epoch of each phase is kept: last; best, on the validation part; or "
        "best-on-test, the authors' protocol",
        choices=tuple(KEPT_EPOCH), group=SCHEDULE)
    num_epochs_base: int = setting(
        0,
        "epochs of training the base network on its data set: from scratch, or with --pretrained "
        "(a file, or published) from those weights, under a new head",
        group=BASE, fixed_when_packed=True)
    base_lr: float = setting(
        1e-2,
        "learning rate of that training",
        group=BASE, fixed_when_packed=True)
    num_epochs_base_finetune: int = setting(
        10,
        "epochs of re-training the pruned base network on its data set",
        group=BASE, fixed_when_packed=True)
    base_finetune_lr: float = setting(
        1e-4,
        "learning rate of that re-training",
        group=BASE, fixed_when_packed=True)
    base_lr_decay_every: int = setting(
        5,
        "epochs after which that learning rate is divided by 10",
        group=BASE, fixed_when_packed=True)
    recover: str = setting(
        "distil",
        "what brings the pruned base network back where it is not re-trained on its own data: "
        "nothing; norms: the statistics of batch norm are measured anew; distil: what each layer "
        "has kept is fitted to give what the whole network gives, for images without labels, and "
        "then learns it",
        choices=tuple(RECOVERIES), group=BASE, fixed_when_packed=True)
    recover_images: str | None = setting(
        None,
        "folder of photographs to do that with, flat or nested, of any format (default: the "
        "training images of the tasks)",
        group=BASE, may_move=True, packed=False)
    recover_most: int = setting(
        5_000,
        "of more images than this, so many are drawn anew for each epoch of it",
        group=BASE, fixed_when_packed=True)
    recover_epochs: int = setting(
        20,
        "with distil: epochs, over which the learning rate falls along half a cosine",
        group=BASE, fixed_when_packed=True)
    recover_lr: float = setting(
        2e-4,
        "with distil: learning rate of Adam",
        group=BASE, fixed_when_packed=True)
    baselines: list[str] = setting(
        [],
        "what to compare with, each from the same base network (default: none)",
        choices=BASELINES, group=COMPARISONS, packed=False)
    data_root: str = setting("data", "folder of the data sets", group=MACHINE, may_move=True)
    output_dir: str = setting(
        "checkpoints/packnet",
        "folder for log.txt, results.json, the checkpoint and plots/",
        group=MACHINE, may_move=True, packed=False)
    cache_dir: str | None = setting(
        None,
        "folder for decoded images (default: <data root>/.cache)",
        group=MACHINE, may_move=True, of_machine=True)
    seed: int = setting(0, "seed of weights, shuffling, crops, flips and dropout", group=MACHINE)
    device: str = setting(
        "auto",
        "what to compute on: auto is a GPU (cuda) where one can be used, else the cpu",
        choices=DEVICES, group=MACHINE, of_machine=True)
    precision: str = setting(
        "fp32",
        "how exactly is multiplied: a GPU knows fp32, tf32 and fp16, the CPU fp32 and, with "
        "AVX-512 BF16 or AMX, bf16",
        choices=PRECISIONS, group=MACHINE, of_machine=True)
    convolution: str = setting(
        "winograd",
        "how the CPU computes convolutions: direct = all as oneDNN does; winograd = 3x3 ones "
        "by Winograd's algorithm and 1x1 ones as matrix products, where that is faster",
        choices=CONVOLUTIONS, group=MACHINE)

    def __post_init__(self) -> None:
        self.pruning_ratios = self.pruning_ratios or [0.75] * len(self.task_list)
        if len(self.pruning_ratios) == 1 and self.pruning_ratios[0] in RATIO_WORDS:
            self.pruning_ratios = self.pruning_ratios * len(self.task_list)

    def check_values(self, weights: bool = True) -> None:
        """Raise ConfigError for the first setting that cannot be used; no file is looked at.
        `weights`: whether the run needs any to start from."""
        need = self.need
        need(self.arch in ARCHS or bool(own(self.arch)), "arch",
             f"must be one of {', '.join(ARCHS)}, or path/to/file.py:function")
        need(self.last is None or bool(own(self.arch)), "last",
             f"is for a network of your own; the last layer of {self.arch} is known")
        self._check_choices()
        need(self.precision in ("fp32", "bf16") or self.device != "cpu", "precision",
             "needs a GPU; --device cpu computes in fp32 or bf16")
        need(self.precision != "bf16" or self.device != "cuda", "precision",
             "is for the CPU; --device cuda computes in fp32, tf32 or fp16")
        need(len(set(self.baselines)) == len(self.baselines), "baselines", "names one twice")
        need(self.free_weights >= 0, "free_weights", "must not be negative")
        need(self.free_weights < float("inf"), "free_weights", "must be a finite number")
        self._check_judging()
        self._check_tasks()
        self._check_ratios()
        self._check_schedule()
        self._check_image_size()
        need(self.pretrained != PUBLISHED or self.arch in PUBLISHED_WEIGHTS, "pretrained",
             f"{self.arch} has no published weights: give a file")
        if weights and self.add_to is None and self.arch not in PUBLISHED_WEIGHTS:
            need(self.pretrained is not None or self.num_epochs_base > 0, "arch",
                 "has no published weights: give --pretrained FILE or --num-epochs-base N")

    def _check_choices(self) -> None:
        for each in dataclasses.fields(self):
            value = getattr(self, each.name)
            choices = each.metadata["choices"]
            if choices and isinstance(value, list):
                self.need(set(value) <= set(choices), each.name,
                          f"must be of {', '.join(choices)}")
            elif choices:
                self.need(value in choices, each.name, f"must be one of {', '.join(choices)}")

    def _check_judging(self) -> None:
        """What the epochs are judged on."""
        self.need(0 <= self.validation < 1, "validation", "must be in [0, 1)")
        if self.keep == "best":
            self.need(self.validation > 0, "keep",
                      "needs a --validation part to judge the epochs on")
        if self.keep == "best-on-test":
            self.need(self.validation == 0, "keep",
                      "judges on the test split; leave --validation out, or choose --keep best")

    def _check_tasks(self) -> None:
        need = self.need
        need(bool(self.task_list), "task_list", "needs at least one task")
        need(len(set(self.task_list)) == len(self.task_list), "task_list", "names a task twice")
        settings = [("task_list", task) for task in self.task_list]
        settings.append(("base_task", self.base_task))
        for name, task in settings:
            need(bool(NAME.fullmatch(task)), name,
                 f"{task!r} is no name of a data set: only letters, digits, - and _ are allowed")
        need(self.base_task not in self.task_list, "task_list",
             f"holds the base task {self.base_task!r}")

    def _check_ratios(self) -> None:
        need = self.need
        need(len(self.pruning_ratios) == len(self.task_list), "pruning_ratios",
             f"needs one ratio for each of the {len(self.task_list)} tasks, has "
             f"{len(self.pruning_ratios)}")
        for ratio in self.pruning_ratios:
            need(ratio in RATIO_WORDS or 0 <= ratio < 1, "pruning_ratios", "each must be in [0, 1)")
        need("auto" not in self.pruning_ratios or self.validation > 0, "pruning_ratios",
             "auto needs a --validation part to judge on")
        first = self.initial_pruning_ratio
        need(first == "auto" or first != "equal" and 0 <= first < 1, "initial_pruning_ratio",
             "must be in [0, 1), or auto")
        need(first != "auto" or self.validation > 0 or self.add_to is not None,
             "initial_pruning_ratio", "auto needs a --validation part to judge on")
        need(0 <= self.max_drop <= 100, "max_drop", "must be in [0, 100]")
        need(self.tasks_to_come >= 0, "tasks_to_come", "must not be negative")
        need(self.tasks_to_come == 0 or "equal" in self.pruning_ratios, "tasks_to_come",
             "goes with --pruning-ratios equal")
        if self.prune_last is not None:
            need(self.add_to is not None, "prune_last", "goes with --add-to only")
            need(0 < self.prune_last < 1, "prune_last", "must be in (0, 1)")

    def _check_schedule(self) -> None:
        need = self.need
        for name in ("num_epochs_per_task", "num_epochs_finetune", "num_epochs_base",
                     "num_epochs_base_finetune", "recover_epochs", "seed", "weight_decay"):
            need(getattr(self, name) >= 0, name, "must not be negative")
            need(getattr(self, name) < float("inf"), name, "must be a finite number")
        for name in ("batch_size", "lr_decay_every", "base_lr_decay_every", "recover_most"):
            need(getattr(self, name) >= 1, name, "must be at least 1")
        for name in ("initial_lr", "finetune_lr", "base_lr", "base_finetune_lr", "recover_lr"):
            need(0 < getattr(self, name) < float("inf"), name, "must be a positive number")
        if self.recover_images is not None:
            need(self.recover != "nothing" and not self.add_to, "recover_images",
                 "is for --recover norms or distil, of a base network that is not packed yet")
        need(0 <= self.momentum < 1, "momentum", "must be in [0, 1)")
        need(not self.nesterov or self.momentum > 0, "momentum", "must be above 0 with --nesterov")
        ascending = self.lr_decay_at == sorted(set(self.lr_decay_at))
        need(ascending and all(epoch > 0 for epoch in self.lr_decay_at), "lr_decay_at",
             "must be numbers of epochs, ascending")

    def _check_image_size(self) -> None:
        least = ARCHS.get(self.arch, 1)
        self.need(self.arch not in FIXED_SIZE or self.image_size == least, "image_size",
                  f"must be {least} for {self.arch}, whose position embedding is for that size")
        self.need(self.image_size >= least, "image_size",
                  f"must be at least {least} for {self.arch}")
        self.need(self.image_size <= MOST_PIXELS, "image_size", f"must be at most {MOST_PIXELS}")

    def need(self, good: bool, name: str, rule: str) -> None:
        """Raise ConfigError for the setting `name` unless it is good."""
        if not good:
            raise ConfigError(f"{flag_of(name)} {shown(getattr(self, name))}: {rule}")

    def ratios(self) -> list[float | str]:
        """The pruning ratio of each task: a number, or "auto". A task whose ratio is "equal" keeps
        one of as many equal shares as there are such tasks from it on, those to come included."""
        ratios = []
        for number, ratio in enumerate(self.pruning_ratios):
            if ratio == "equal":
                shares = self.pruning_ratios[number:].count("equal") + self.tasks_to_come
                ratio = 1 - 1 / shares
            ratios.append(ratio)
        return ratios

    def recovery(self) -> str:
        """What follows the prune of the base network: "retrain", on its own data, or one of
        RECOVERIES."""
        if self.add_to or self.initial_pruning_ratio == 0:
            return "nothing"
        there = self.num_epochs_base > 0 or self.can_read(self.base_task)
        return "retrain" if there and self.num_epochs_base_finetune > 0 else self.recover

    def folder(self, task: str) -> Path:
        return dataset_folder(task, self.data_root)

    def has_data(self, task: str) -> bool:
        return os.path.isdir(self.folder(task))

    def can_read(self, task: str, split: str = "train") -> bool:
        """Whether there are data of a task that a run can do without, as ImageNet's: a folder that
        is not sorted yet counts as none."""
        return self.has_data(task) and not unsorted(task, self.data_root, split)

    def asdict(self) -> dict:
        return dataclasses.asdict(self)

    def of_packed_network(self) -> dict:
        """What a packed file says of the settings."""
        return {name: value for name, value in self.asdict().items() if name in names_of("packed")}

    def network(self) -> dict:
        """What networks.build needs."""
        return dict(arch=self.arch, last=self.last, image_size=self.image_size)

    def packnet_options(self) -> dict:
        """The options of the run's pruning.PackNet."""
        return dict(train_biases=self.train_biases, train_bn=self.train_bn,
                    free_weights=self.free_weights, packed_layers=self.pack,
                    pruned_units=self.prune)


def flag_of(name: str) -> str:
    """The flag of the command line that sets the setting `name`."""
    return "--" + name.replace("_", "-")


def shown(value) -> str:
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)
