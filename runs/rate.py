"""What a training step and a pass forward take on this machine, of each network that the
experiments use: a few are timed."""
import statistics
import time
from collections.abc import Callable

import numpy as np

import toolchain
from networks import build
from pruning import PackNet
from settings.config import Config
from settings.effort import Rates, key
from settings.experiments import EXPERIMENTS, runs_of

jt = toolchain.start()
from jittor import nn

WARM_UP, STEPS = 2, 3  # the first step compiles


def measured(configs: list[Config] | None = None) -> Rates:
    """Time the networks of `configs`; by default, of all experiments."""
    if configs is None:
        runs = [run for name in EXPERIMENTS for run in runs_of(name)]
        configs = [Config(**settings) for _, settings in runs]
    seconds = {}
    for name, config in {key(config): config for config in configs}.items():
        seconds[name] = seconds_an_image(config)
        train, forward = (1000 * value for value in seconds[name])
        print(f"{name}: {train:.3g} ms an image to train on, {forward:.3g} ms forward", flush=True)
    return Rates(toolchain.describe(), seconds)


def seconds_an_image(c: Config) -> tuple[float, float]:
    """(to train on, to go forward), of the second task on a network whose first is frozen, with
    random images."""
    size = c.batch_size
    if toolchain.device == "cpu" and c.image_size >= 100:
        size = min(8, size)  # enough to keep all cores busy
    packnet = PackNet(build(**c.network()), **c.packnet_options())
    for task in ("first", "second"):
        packnet.model.add_head(task, 200)
        packnet.start_task(task)
        packnet.prune(task, 0.5 if task == "first" else 0.0)
    packnet.select("second")
    rng = np.random.default_rng(0)
    images = jt.array(rng.standard_normal((size, 3, c.image_size, c.image_size), np.float32))
    labels = jt.array(rng.integers(0, 200, size).astype(np.int32))
    optimizer = nn.SGD(list(packnet.trainable().values()), 1e-4, momentum=0.9)

    def forward() -> None:
        with jt.no_grad():
            packnet.model(images).sync()

    packnet.set_training(True)
    train = timed(lambda: optimizer.step(nn.cross_entropy_loss(packnet.model(images), labels)))
    packnet.set_training(False)
    return train / size, timed(forward) / size


def timed(step: Callable[[], None]) -> float:
    """The median of STEPS after WARM_UP."""
    times = []
    for _ in range(WARM_UP + STEPS):
        start = time.perf_counter()
        step()
        jt.sync_all(True)
        times.append(time.perf_counter() - start)
    return statistics.median(times[WARM_UP:])
