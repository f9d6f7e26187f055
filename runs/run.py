"""A run in the making: what its steps work on, saved and restored."""
import hashlib
import json
import time
from collections.abc import Container
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

import toolchain
from dataset import Loader, create_dataloader, unlabelled
from images.datasets import another_split, data_set
from images.folders import DataError, read_split, unused_validation
from images.preprocess import Preparation, look_uncropped
from methods import METHODS
from methods.recovery import UNLABELLED, WITH_IMAGES
from networks import MultiHead, assign, build
from packing import loops
from packing.portrait import Portrait, readable
from packing.sgd import SGD
from pruning import PackNet
from reporting.continual import measures
from runs.addition import Earlier
from runs.log import Log
from runs.network import contents, first_network, rebuild
from runs.recognition import right_of_all_classes, seen
from runs.results import Loaders, Results, Score
from settings.config import Config, ConfigError
from settings.plan import plan
from storage.packed import Packed, save_packed
from storage.state import State, other_version
from system import processes
from system.files import CHECKPOINT, LOG, RESULTS, STATE, write
from system.progress import say

jt = toolchain.start()
from jittor import nn


class Run:
    """One run: settings, loaders, the network with its owners, and what was measured so far.

    `steps`: its plan; `position`: the number of the next one. Everything that later ones need goes
    into the state file, so that a killed run goes on from there and ends as if nothing had
    happened. `kept`: the arrays that steps want to find again, {kind: {name: array}}; `best`: the
    accuracy of the epoch whose parameters are among them. `portraits`: {task: {name: array}} of the
    tasks that are frozen (packing/portrait.py).
    """

    def __init__(self, config: Config, earlier: Earlier | None = None) -> None:
        """`earlier`: the packed network that a new run begins with, if it is one of --add-to."""
        self.config = config
        self.folder = Path(config.output_dir)
        self.started = time.monotonic()
        self.position = 0
        self.kept: dict[str, dict[str, np.ndarray]] = {}
        self.best = -1.0
        self.optimizer: nn.Optimizer | None = None
        self.moving: dict[str, jt.Var] = {}  # what the optimizer moves, by name
        # Of the optimizer when the run was stopped.
        self.stopped_momentum: dict[str, np.ndarray] = {}
        self.stopped_after = 0  # steps
        if (self.folder / STATE).exists():
            self._restore(self.folder / STATE)
        else:
            entries = earlier.entries if earlier else []
            self.steps = plan(config, [entry["name"] for entry in entries])
            self.loaders = open_loaders(config, entries)
            seed(config.seed)
            train = self.loaders.get((config.base_task, "train"))
            self.packnet = first_network(config, earlier, len(train.classes) if train else None)
            self.log = Log(self.folder / LOG)
            self.results = Results(config, self.loaders, self.log)
            self.results.opened(self.packnet, earlier)
            self.portraits = dict(earlier.packed.portraits) if earlier else {}
            self.save_results(finished=False)

    @property
    def net(self) -> MultiHead:
        return self.packnet.model

    @property
    def has_base_data(self) -> bool:
        """Whether the base task is one of the run's own, and has data."""
        return not self.config.add_to and (self.config.base_task, "train") in self.loaders

    def prunes_base(self, task: str) -> bool:
        """Whether a prune of `task` is the first, that of the base network."""
        return not self.config.add_to and task == self.config.base_task

    @property
    def tasks_with_data(self) -> list[str]:
        """The run's own tasks, in the order they are learnt."""
        base = [self.config.base_task] if self.has_base_data else []
        return base + self.config.task_list

    # ---- for the steps

    def seed(self, *place: str | int) -> int:
        """Set every random state from the run's seed and a place in it alone, as task, phase and
        epoch: what follows is the same whatever ran before, in this process or in this run.
        Returns a number that stands for the place."""
        number = int.from_bytes(hashlib.sha256(json.dumps(place).encode()).digest()[:6], "little")
        seed(self.config.seed, number)
        return number

    def add_head(self, task: str) -> None:
        self.seed(task, "head")
        self.net.add_head(task, len(self.loaders[task, "train"].classes))

    def arrays(self) -> dict[str, np.ndarray]:
        """The network as it is, float32 by parameter name."""
        return {name: parameter.numpy() for name, parameter in self.net.state_dict().items()}

    def network_of(self, arrays: dict[str, np.ndarray], tasks: list[str]) -> MultiHead:
        """Another network of the run's kind with these arrays and the heads of `tasks`."""
        net = build(**self.config.network())
        for task in tasks:
            net.add_head(task, len(arrays[f"heads.{task}.weight"]))
        assign(net, arrays, "an earlier moment of the run")
        return net

    def branch_off(self, anew: bool) -> None:
        """Go on with a network of which nothing is packed: the one at hand, or `anew` with the one
        that was kept for the baselines."""
        net = self.net
        if anew:
            stages = self.results.stages[:len(self.results.earlier) or 1]
            net = self.network_of(self.kept["dense"], [stage.name for stage in stages])
        self.packnet = PackNet(net)

    def images(self, task: str, split: str, like: str) -> Loader:
        """Images of a task, prepared as the task `like` prepares its own. Raises DataError."""
        return open_loader(self.config, task, split, self.results.preparation(like))

    def make_portrait(self, task: str) -> None:
        """Of a task that is frozen, by what its images will be recognised; nothing where there are
        no data."""
        if (task, "train") in self.loaders:
            images = partial(self.images, task, "portrait")
            self.portraits[task] = Portrait.of(*seen(self.packnet, images, task)).arrays()

    def ask_whose(self) -> None:
        """How often each task's images are recognised as its own, with all tasks learnt."""
        self.results.recognised(self.packnet, readable(self.portraits), self.images)

    def ask_all_heads(self, method: str) -> None:
        """How often a baseline's network names the class of an image without being told the
        task."""
        self.packnet.set_training(False)
        tasks = self.tasks_with_data
        groups: dict[Preparation, list[str]] = {}
        for task in tasks:
            groups.setdefault(self.results.preparation(task), []).append(task)
        hits = {task: right_of_all_classes(self.net, list(groups.values()), task,
                                           partial(self.images, task, "test")) for task in tasks}
        self.results.baseline_asked(method, hits)

    def score(self, task: str, split: str = "test") -> Score:
        """Of the network as it is: nothing is hidden from a task."""
        self.packnet.set_training(False)
        self.net.select(task)
        return Score.of(*loops.predict(self.net, self.loaders[task, split], f"{task}, {split}"))

    def begin_epoch(self, moving: dict[str, jt.Var], lr: float, weight_decay: float,
                    goes_on: bool, adam: bool = False) -> nn.Optimizer:
        """SGD, or Adam, that moves the parameters `moving`; the network is in training mode.

        `goes_on`: the phase has begun before, and its momentum is kept, from before a stop too.
        """
        if not goes_on or not self.optimizer:
            packed = self.packnet.owners if self.config.weight_decay_on == "packed" else moving
            groups = decayed_and_not(moving, packed, weight_decay)
            self.moving = {name: moving[name] for group in groups for name in group["names"]}
            self.optimizer = nn.Adam(groups, lr) if adam else SGD(
                groups, lr, momentum=self.config.momentum, nesterov=self.config.nesterov)
            if goes_on:
                momentum = self._momentum()
                if self.stopped_momentum.keys() != momentum.keys():
                    raise other_version(self.folder / STATE, KeyError("momentum"))
                for name, value in momentum.items():
                    value.assign(jt.array(self.stopped_momentum[name]).stop_grad())
                self.optimizer.n_step = self.stopped_after
            self.stopped_momentum, self.stopped_after = {}, 0
        self.optimizer.lr = lr
        self.packnet.set_training(True)
        return self.optimizer

    def end_optimizer(self) -> None:
        """At the end of a phase: the momentum is needed no more."""
        self.optimizer, self.moving = None, {}
        self.stopped_momentum, self.stopped_after = {}, 0

    def keep_if_best(self, top1: float) -> None:
        """With --keep best or best-on-test: keep the network as it is now, unless it was as good
        before in this phase."""
        if self.config.keep != "last" and top1 > self.best:
            self.kept["best"] = self.arrays()
            self.best = top1

    def take_best(self) -> None:
        """The end of a phase: go on from what was kept, if anything was."""
        if best := self.kept.pop("best", None):
            assign(self.net, best, "the best epoch")
        self.best = -1.0
        self.end_optimizer()

    def _momentum(self) -> dict[str, jt.Var]:
        """Of what the optimizer moves, by name: SGD's, or Adam's mean of the squares; and Adam's
        mean, `mean.<name>`."""
        if not self.optimizer:
            return {}
        values, means = [], []
        for group in self.optimizer.param_groups:
            values.extend(group["values"])
            means.extend(group.get("m", []))
        of_adam = {f"mean.{name}": mean for name, mean in zip(self.moving, means)}
        return dict(zip(self.moving, values)) | of_adam

    # ---- files; under mpirun the first process writes for all

    def contents(self) -> Packed:
        """The packed network as it is."""
        return replace(contents(self.packnet), portraits=self.portraits)

    def content(self) -> dict:
        results = self.results.asdict(time.monotonic() - self.started, jt.world_size)
        return results | dict(continual=measures(results))

    def save_results(self, finished: bool) -> None:
        if not processes.RANK:
            content = dict(finished=finished) | self.content()
            write(self.folder / RESULTS, json.dumps(content, indent=1).encode())

    def save_packed(self) -> None:
        """Seal the task that was frozen last, and write the packed file. Raises TrainingError where
        an earlier seal is broken."""
        if processes.RANK:
            return
        packed = self.contents()
        self.results.sealed(packed)
        config = self.config.of_packed_network()
        base, *added = self.results.entries
        config["task_list"] = [entry["name"] for entry in added]
        config["pruning_ratios"] = [entry["pruning_ratio"] for entry in added]
        metadata = dict(arch=self.config.arch, image_size=self.config.image_size,
                        tasks=[base, *added], config=config)
        if self.results.source:
            metadata["network"] = self.results.source | dict(last=self.config.last)
        self.results.storage = save_packed(self.folder / CHECKPOINT, packed, metadata)

    def save_state(self) -> None:
        if processes.RANK:
            return
        momentum = {name: value.numpy() for name, value in self._momentum().items()}
        step = self.steps[self.position].plain() if self.position < len(self.steps) else None
        steps = self.optimizer.n_step if self.optimizer else self.stopped_after
        values = dict(position=self.position, step=step, best=self.best, optimizer_steps=steps,
                      seconds=time.monotonic() - self.started, data=self._data(),
                      log_length=self.log.length, results=self.results.figures())
        kept = dict(reference=self.results.reference) | self.kept
        state = State(self.contents(), kept, momentum or self.stopped_momentum, values)
        state.save(self.folder / STATE)

    def _restore(self, path: Path) -> None:
        state = State.load(path)
        try:
            saved = state.values
            earlier = saved["results"]["earlier"]
            self.steps = plan(self.config, [entry["name"] for entry in earlier])
            self.loaders = open_loaders(self.config, earlier)
            data = self._data()
            for key in saved["data"].keys() | data.keys():
                if saved["data"].get(key) != data.get(key):
                    raise ConfigError("--resume: the data have changed since the run stopped "
                                      f"({key}: images and classes were {saved['data'].get(key)}, "
                                      f"are {data.get(key)}), and the result would be neither run")
            self.position = saved["position"]
            self.best = saved["best"]
            self.started = time.monotonic() - saved["seconds"]
            step = self.steps[self.position].plain() if self.position < len(self.steps) else None
            if step != saved["step"]:
                raise ValueError(f"its next step is {saved['step']}, here it would be {step}")
            method = METHODS[self.steps[self.position - 1].method]  # whose network it is
            self.packnet = rebuild(state.packed, self.config, method.packnet_options(self.config))
            reference = state.kept.pop("reference")
            self.portraits = state.packed.portraits
            self.kept = state.kept
            self.stopped_momentum = state.momentum
            self.stopped_after = saved.get("optimizer_steps", 0)
            # Last: it cuts off what was logged after the state.
            self.log = Log(self.folder / LOG, saved["log_length"])
            self.results = Results(self.config, self.loaders, self.log, saved["results"], reference)
        except (KeyError, TypeError, ValueError, IndexError) as error:
            raise other_version(path, error) from error

    def _data(self) -> dict[str, list[int]]:
        return {f"{name}, {split}": [loader.num_images, len(loader.classes)]
                for (name, split), loader in self.loaders.items()}


def decayed_and_not(moving: dict[str, jt.Var], decayed: Container[str],
                    weight_decay: float) -> list[dict]:
    """Parameter groups of an optimizer: those whose names are in `decayed`, and the rest, which has
    no weight decay."""
    inside = [name for name in moving if name in decayed]
    outside = [name for name in moving if name not in decayed]
    return [dict(names=names, params=[moving[name] for name in names], weight_decay=decay)
            for names, decay in ((inside, weight_decay), (outside, 0.0)) if names]


def open_loaders(config: Config, earlier: list[dict]) -> Loaders:
    """Every loader at once: what is wrong with any data set is said before the first epoch.
    `earlier`: the metadata of the tasks that are packed already. Raises DataError, where the data
    of one of these have other classes too."""
    loaders = {}
    # All splits of a task are prepared alike: as it was packed, else as its training images.
    known = {entry["name"]: Preparation.from_plain(entry["input"]) for entry in earlier}
    if processes.LOCAL_RANK:
        processes.wait_for_all()  # for the first process of this machine, which makes the caches
    for name, splits in splits_to_open(config, earlier).items():
        for split in splits:
            loader = open_loader(config, name, split, known.get(name))
            loaders[name, split] = loader
            if split == "train":
                known[name] = loader.preparation
    if config.recovery() in WITH_IMAGES:
        loaders[UNLABELLED] = recovery_images(config, loaders)
    for entry in earlier:
        loader = loaders.get((entry["name"], "test"))
        if loader:
            check_classes(entry, loader.classes, config)
    if not processes.RANK:
        remark(config, loaders)
    if not processes.LOCAL_RANK:
        processes.wait_for_all()
    return loaders


def recovery_images(config: Config, loaders: Loaders) -> Loader:
    """The images that the pruned base network is brought back with. Raises DataError."""
    of_tasks = [loaders[task, "train"] for task in config.task_list]
    return unlabelled(
        config.recover_images or of_tasks,
        config.recover_most,
        batch_size=config.batch_size,
        seed=config.seed,
        image_size=config.image_size,
        cache_dir=config.cache_dir or Path(config.data_root) / ".cache",
        crop=config.crop,
    )


def open_loader(config: Config, name: str, split: str, preparation: Preparation | None) -> Loader:
    """One split of a data set; `preparation`: None for the one by the settings. Raises
    DataError."""
    loader, _ = create_dataloader(
        name,
        config.data_root,
        split,
        config.batch_size,
        seed=config.seed,
        image_size=config.image_size,
        cache_dir=config.cache_dir,
        validation=config.validation,
        crop=config.crop,
        normalise=config.normalise,
        preparation=preparation,
    )
    return loader


def splits_to_open(config: Config, earlier: list[dict]) -> dict[str, tuple[str, ...]]:
    """{data set: the splits that a run with these settings needs}. Of `earlier` tasks (their
    metadata) the test split, where their data are there; of the last one all, if it is pruned once
    more."""
    every = ("train", "validation", "test") if config.validation else ("train", "test")
    if not config.add_to:
        splits = dict.fromkeys(config.task_list, every)
        if config.num_epochs_base or config.can_read(config.base_task):
            splits[config.base_task] = every
        return splits
    names = [entry["name"] for entry in earlier]
    splits = {name: ("test",) for name in names if config.can_read(name, "test")}
    if config.prune_last:
        splits[names[-1]] = every
    return splits | dict.fromkeys(config.task_list, every)


def check_classes(entry: dict, classes: list[str], config: Config) -> None:
    """Raise DataError unless the data of a packed task have the classes of its `entry`, which may
    know their number only."""
    if entry["classes"] not in (None, classes) or entry["num_classes"] != len(classes):
        raise DataError(f"{config.folder(entry['name'])}: its classes are not those of the packed "
                        f"task {entry['name']}. Move the folder away: what is stored of the task "
                        "is then shown.")


def remark(config: Config, loaders: Loaders) -> None:
    """Say what in the data sets that are trained on is no error, but may not be meant."""
    names = [name for name, split in loaders if split == "train"]
    unused = {unused_validation(name, config.data_root) for name in names}
    for folder in sorted(unused - {None}):
        say(f"{folder} is not used: --validation holds a part of the training images out.")
    for name in names:
        about = data_set(name)
        parts = [loaders[name, split].num_images for split in ("train", "validation", "test")
                 if (name, split) in loaders]
        found = len(loaders[name, "train"].classes), sum(parts[:-1]), parts[-1]
        if about.counts and (other := another_split(found, about.counts)):
            say(f"warning: {config.folder(name)} has {found[1]:,} train and {found[2]:,} test "
                f"images, officially {about.train:,} and {about.test:,}: {other}.")
        if about.boxes and look_uncropped(read_split(name, config.data_root, "train")):
            say(f"warning: the images in {config.folder(name)} look like whole photographs. Those "
                f"of {name} are cropped to their boxes, which prepare_data.py does; without that "
                "the results cannot stand beside published ones.")


def seed(number: int, *position: int) -> None:
    """Set every random state from the seed `number` and a position in a run alone."""
    # Jittor computes when a value is needed: what it has not drawn yet belongs to the seed before.
    jt.sync_all()
    # + 1: to NumPy (s, 0) is the same seed as (s,)
    state = np.random.SeedSequence((number, *(int(p) + 1 for p in position))).generate_state(1)[0]
    jt.set_global_seed(int(state >> 1), different_seed_for_mpi=False)
