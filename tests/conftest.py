"""What several tests share. Importing toolchain first lets Jittor compile with its progress bar
visible."""

import os
import signal
import subprocess
import sys
from pathlib import Path

# `pytest -n 2`: the processes share the cores. Before NumPy, whose BLAS reads it once.
if workers := int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", 0)):
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, len(os.sched_getaffinity(0)) // workers)))

# isort: split
import hypothesis
import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
sys.path.append(str(ROOT / "benchmarks"))  # some tests import them by name, and they each other

import toolchain

jt = toolchain.start()
# Jittor ends the process when a child of it is killed. The tests that kill processes on purpose
# would not survive.
signal.signal(signal.SIGCHLD, signal.SIG_DFL)

# The same examples in every run, and none that fails because the machine was busy.
hypothesis.settings.register_profile(
    "the same",
    derandomize=True,
    deadline=None,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
hypothesis.settings.load_profile("the same")


def prunable_weights(model) -> dict:
    from pruning import prunable

    return {name: parameter.var for name, parameter in prunable(model).items()}


@pytest.hookimpl(tryfirst=True)
def pytest_fixture_setup() -> None:
    """Before each fixture, also one that several tests share: what it draws hangs neither on the
    clock, which Jittor takes its first seed from, nor on what the process has drawn before."""
    jt.set_global_seed(0)


@pytest.fixture(autouse=True)
def _seed():
    """Before each test, whatever its fixtures drew."""
    jt.set_global_seed(0)


TIME_LIMIT = 900.0  # seconds: far more than any process of ours takes, compiling included


@pytest.fixture(autouse=True)
def _time_limit(monkeypatch):
    """No process that a test starts is waited for without end: subprocess.TimeoutExpired says which
    one did not, and for how long."""

    def limited(function):
        return lambda *a, timeout=None, **options: function(
            *a, timeout=timeout or TIME_LIMIT, **options
        )

    for holder, name in (
        (subprocess, "run"),
        (subprocess.Popen, "communicate"),
        (subprocess.Popen, "wait"),
    ):
        monkeypatch.setattr(holder, name, limited(getattr(holder, name)))


WHOLE_RUNS = (  # files of long tests; the longest first
    "test_resume.py",
    "test_mpi.py",
    "test_experiments.py",
    "test_any_network.py",
    "test_main.py",
    "test_sequences.py",
    "test_epochs_and_ratios.py",
    "test_addition.py",
    "test_release.py",
    "test_twin.py",
    "test_seals.py",
)


def pytest_collection_modifyitems(items) -> None:
    """`-m unit`: everything but whole runs and what is marked as long. The longest files come
    first, so that at the end of `pytest -n 2` no process waits for the other."""
    order = {name: number for number, name in enumerate(WHOLE_RUNS)}
    items.sort(key=lambda item: order.get(item.path.name, len(order)))
    for item in items:
        long = any(map(item.get_closest_marker, ("slow", "cuda_wheels", "alone")))
        if item.path.name not in WHOLE_RUNS and not long:
            item.add_marker("unit")


def executable(path: Path, text: str = "exit 1") -> Path:
    """A shell script."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


def same_with_any_number_of_threads(script: str) -> bool:
    """Whether a script, which may import what the root has, prints the same with 1, 2 and 5."""

    def printed(threads: int) -> str:
        done = subprocess.run(
            [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(ROOT)!r})\n{script}"],
            env=os.environ | {"OMP_NUM_THREADS": str(threads)},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.split()[-1]

    return printed(1) == printed(2) == printed(5)


def write_images(folder: Path, classes: dict[str, int], size=(40, 32), seed: int = 0) -> None:
    """`classes`: {class name: number of JPEG files}, drawn at random."""
    rng = np.random.default_rng(seed)
    for name, count in classes.items():
        (folder / name).mkdir(parents=True, exist_ok=True)
        for i in range(count):
            pixels = rng.integers(0, 256, (4, 4, 3), np.uint8)
            Image.fromarray(pixels).resize(size).save(folder / name / f"{i}.jpg", quality=95)


@pytest.fixture
def image_root(tmp_path):
    """A data root in the first Jittor implementation's layout: three tasks of three classes, 4
    train and 2 test images each."""
    for number, folder in enumerate(("cubs_cropped", "stanford_cars_cropped", "flowers")):
        for split, count in (("train", 4), ("test", 2)):
            write_images(
                tmp_path / "data" / folder / split, {name: count for name in "abc"}, seed=number
            )
    return tmp_path / "data"
