"""What the benchmarks share: the path to the project, alternating timings, one line of result."""
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import system  # noqa: F401  (first: it says in one sentence which package is missing)

# isort: split
import numpy as np

SHORTEST = 0.5  # seconds of one side's turn
# Of the images of the slim networks, in pixels; those of the others have 224.
SIDES = {"vgg-slim": 48, "vgg-bn-slim": 48, "resnet-slim": 64, "densenet-slim": 64}


def installed(package: str) -> bool:
    return importlib.util.find_spec(package) is not None


def seconds(function: Callable[[], object]) -> float:
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def alternate(ours: Callable, theirs: Callable, rounds: int) -> tuple[list[float], list[float]]:
    """Time both in turn, ours first, so that a drift of the machine's speed meets both alike."""
    pairs = [(seconds(ours), seconds(theirs)) for _ in range(rounds)]
    return [a for a, _ in pairs], [b for _, b in pairs]


def report(name: str, ours: list[float], theirs: list[float], other: str) -> None:
    ratios = [b / a for a, b in zip(ours, theirs)]
    a, b = statistics.median(ours), statistics.median(theirs)
    print(f"{name}: ours {a:.4g} s, {other} {b:.4g} s, ratio {statistics.median(ratios):.2f} "
          f"(min {min(ratios):.2f}, max {max(ratios):.2f}, {len(ratios)} pairs)", flush=True)
    keep(name=name, other=other, ours=a, theirs=b)


def record(**row) -> None:
    """Print a row of figures, and keep it."""
    print(", ".join(f"{name} {value:,.4g}" if isinstance(value, float) else f"{name} {value}"
                    for name, value in row.items()), flush=True)
    keep(**row)


def keep(**row) -> None:
    """Where BENCHMARK_ROWS names a file: a line of JSON in it, at once."""
    if path := os.environ.get("BENCHMARK_ROWS"):
        with open(path, "a") as file:
            print(json.dumps(row), file=file)


def batch(arch: str, size: int) -> tuple[np.ndarray, np.ndarray]:
    """(images float32 [size, 3, S, S], labels int32 [size] of 200 classes), at random; S as the
    network is used here."""
    rng = np.random.default_rng(0)
    side = SIDES.get(arch, 224)
    images = rng.standard_normal((size, 3, side, side), np.float32)
    return images, rng.integers(0, 200, size).astype(np.int32)


class Side:
    """A process of its own that has something to time: two frameworks in one process get into each
    other's way, since each brings its own OpenMP threads. While one side is timed the other waits
    for its turn, asleep."""

    def __init__(self, *arguments, environment: dict[str, str] | None = None) -> None:
        """`environment`: variables that this process has beside the others."""
        command = [sys.executable, sys.argv[0], *map(str, arguments)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                        text=True, env=os.environ | (environment or {}))
        self._answer()  # once it is ready: none of its preparation falls into the other's turn

    def __call__(self) -> float:
        """Seconds of one turn, as the process itself measured them."""
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        return float(self._answer())

    def _answer(self) -> str:
        answer = self.process.stdout.readline()
        if not answer:
            raise SystemExit("error: a side has ended; the lines above say why")
        return answer

    def __enter__(self) -> "Side":
        return self

    def __exit__(self, *error) -> None:
        self.process.stdin.close()
        self.process.wait()


def answers_alone():
    """The standard output as a text file, for answers alone: whatever else is printed goes to the
    terminal from now on, and must not be taken for one."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    return answers


def serve(make: Callable[[], Callable[[], object]],
          time: Callable[[Callable], float] = seconds) -> None:
    """The other end of a Side: `make` what is to be timed; then, for every line that comes in, time
    it again and again for at least SHORTEST seconds and answer with the median. `time`: how one
    turn is timed; a turn that has to prepare something first returns its seconds itself."""
    answers = answers_alone()
    turn = make()
    print("ready", file=answers, flush=True)
    for _ in sys.stdin:
        times = [time(turn)]
        while sum(times) < SHORTEST:
            times.append(time(turn))
        print(statistics.median(times), file=answers, flush=True)
