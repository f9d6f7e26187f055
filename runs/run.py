"""A run in the making: what its steps work on, saved and restored."""
import json
import time
from pathlib import Path

import numpy as np

import toolchain
from dataset import create_dataloader
from networks import MultiHead
from pruning import PackNet
from runs.log import Log
from runs.network import base_network, contents, rebuild
from runs.results import Loaders, Results
from settings.config import Config, ConfigError
from storage.packed import save_packed
from storage.state import State, other_version
from system import processes
from system.files import CHECKPOINT, LOG, RESULTS, STATE, write

jt = toolchain.start()
from jittor import nn

Step = tuple  # (function, its arguments after the run)
NOT_PACKED = ("output_dir", "baselines")  # settings that are none of the packed network's


class Run:
    """One run: settings, loaders, the network with its owners, and what was measured so far.

    Steps are functions of a run; `position` is the number of the next one. Everything that later ones need goes into the state
    file, so that a killed run goes on from there and ends as if nothing had happened. `kept`: the arrays that steps want to
    find again, {kind: {name: array}}.
    """

    def __init__(self, config: Config) -> None:
        self.config, self.folder = config, Path(config.output_dir)
        self.started = time.monotonic()
        self.position = 0
        self.kept: dict[str, dict[str, np.ndarray]] = {}
        self.optimizer: nn.SGD | None = None
        self.moving: dict[str, jt.Var] = {}  # what the optimizer moves, by name
        self.stopped_momentum: dict[str, np.ndarray] = {}  # of the optimizer when the run was stopped
        self.loaders = open_loaders(config)
        if (self.folder / STATE).exists():
            self._restore(self.folder / STATE)
        else:
            seed(config.seed)
            train = self.loaders.get((config.base_task, "train"))
            net = base_network(config, len(train.classes) if train else None)
            self.packnet = PackNet(net, **config.packnet_options())
            self.log = Log(self.folder / LOG)
            self.results = Results(config, self.loaders, self.log)
            self.results.opened(self.packnet)
            self.save_results(finished=False)

    @property
    def net(self) -> MultiHead:
        return self.packnet.model

    @property
    def has_base_data(self) -> bool:
        return (self.config.base_task, "train") in self.loaders

    # ---- for the steps

    def seed(self) -> None:
        """Set every random state from the run's seed and the number of the step alone, so that what follows is the same
        whatever ran before it in this process."""
        seed(self.config.seed, self.position)

    def add_head(self, task: str) -> None:
        self.seed()
        self.net.add_head(task, len(self.loaders[task, "train"].classes))

    def begin_epoch(self, moving: dict[str, jt.Var], lr: float, weight_decay: float, goes_on: bool) -> nn.SGD:
        """SGD that moves the parameters `moving`; everything random is seeded, and the network is in training mode.

        `goes_on`: the phase has begun before, and its momentum is kept, from before a stop too.
        """
        if not goes_on or not self.optimizer:
            self.moving = moving
            self.optimizer = nn.SGD(list(moving.values()), lr, momentum=self.config.momentum, weight_decay=weight_decay)
            if goes_on:
                if self.stopped_momentum.keys() != moving.keys():
                    raise other_version(self.folder / STATE, KeyError("momentum"))
                for name, value in self._momentum().items():
                    value.assign(jt.array(self.stopped_momentum[name]).stop_grad())
            self.stopped_momentum = {}
        self.optimizer.lr = lr
        self.seed()
        self.packnet.set_training(True)
        return self.optimizer

    def end_optimizer(self) -> None:
        """At the end of a phase: the momentum is needed no more."""
        self.optimizer, self.moving, self.stopped_momentum = None, {}, {}

    def _momentum(self) -> dict[str, jt.Var]:
        return dict(zip(self.moving, self.optimizer.param_groups[0]["values"])) if self.optimizer else {}

    # ---- files; under mpirun the first process writes for all

    def content(self) -> dict:
        return self.results.asdict(time.monotonic() - self.started, jt.world_size)

    def save_results(self, finished: bool) -> None:
        if not processes.RANK:
            write(self.folder / RESULTS, json.dumps(dict(finished=finished) | self.content(), indent=1).encode())

    def save_packed(self) -> None:
        """Seal the task that was frozen last, and write the packed file. Raises TrainingError where an earlier seal is broken."""
        if processes.RANK:
            return
        packed = contents(self.packnet)
        self.results.sealed(packed)
        config = {name: value for name, value in self.config.asdict().items() if name not in NOT_PACKED}
        metadata = dict(arch=self.config.arch, image_size=self.config.image_size, tasks=self.results.entries, config=config)
        self.results.storage = save_packed(self.folder / CHECKPOINT, packed, metadata)

    def save_state(self) -> None:
        if processes.RANK:
            return
        momentum = {name: value.numpy() for name, value in self._momentum().items()} or self.stopped_momentum
        values = dict(position=self.position, seconds=time.monotonic() - self.started, data=self._data(), log_length=self.log.length,
                      heads={task: self.net.num_classes(task) for task in self.net.heads.keys()},
                      packed_tasks=self.packnet.tasks, ratios=self.packnet.ratios, options=self.packnet.options,
                      results=self.results.figures())
        kept = dict(reference=self.results.reference) | self.kept
        State(contents(self.packnet), kept, momentum, values).save(self.folder / STATE)

    def _restore(self, path: Path) -> None:
        state = State.load(path)
        try:
            saved, data = state.values, self._data()
            for key in saved["data"].keys() | data.keys():
                if saved["data"].get(key) != data.get(key):
                    raise ConfigError(f"--resume: the data have changed since the run stopped ({key}: images and classes were "
                                      f"{saved['data'].get(key)}, are {data.get(key)}), and the result would be neither run")
            self.position, self.started = saved["position"], time.monotonic() - saved["seconds"]
            self.packnet = rebuild(self.config.arch, saved["heads"], state.packed, saved["options"], path,
                                   saved["packed_tasks"], saved["ratios"])
            reference, self.kept, self.stopped_momentum = state.kept.pop("reference"), state.kept, state.momentum
            figures = {name: saved["results"][name] for name in Results.FIGURES}
            self.log = Log(self.folder / LOG, saved["log_length"])  # last: it cuts off what was logged after the state
            self.results = Results(self.config, self.loaders, self.log)
            self.results.take_over(figures, reference)
        except (KeyError, TypeError, ValueError, IndexError) as error:
            raise other_version(path, error) from error

    def _data(self) -> dict[str, list[int]]:
        return {f"{name}, {split}": [loader.num_images, len(loader.classes)] for (name, split), loader in self.loaders.items()}


def open_loaders(config: Config) -> Loaders:
    """Every loader at once: what is wrong with any data set is said before the first epoch."""
    names = [*config.task_list] + [config.base_task] * config.has_data(config.base_task)
    loaders = {}
    if processes.LOCAL_RANK:
        processes.wait_for_all()  # for the first process of this machine, which makes the caches
    for name in names:
        for split in ("train", "test"):
            loaders[name, split], _ = create_dataloader(name, config.data_root, split, config.batch_size, seed=config.seed,
                                                        image_size=config.image_size, cache_dir=config.cache_dir)
    if not processes.LOCAL_RANK:
        processes.wait_for_all()
    return loaders


def seed(number: int, *position: int) -> None:
    """Set every random state from the seed `number` and a position in a run alone."""
    jt.sync_all()  # Jittor computes late: what is still to be drawn belongs to the seed before
    # + 1: to NumPy (s, 0) is the same seed as (s,)
    state = np.random.SeedSequence((number, *(int(p) + 1 for p in position))).generate_state(1)[0]
    jt.set_global_seed(int(state >> 1), different_seed_for_mpi=False)
