"""What the benchmarks share: the path to the project, alternating timings, one line of result."""
import importlib.util
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))


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
    print(f"{name}: ours {statistics.median(ours):.4g} s, {other} {statistics.median(theirs):.4g} s, "
          f"ratio {statistics.median(ratios):.2f} (min {min(ratios):.2f}, max {max(ratios):.2f}, {len(ratios)} pairs)")
