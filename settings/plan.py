"""The whole of a run as data: every step of PackNet, and then of the baselines asked for.

training.py carries the steps out, settings/effort.py counts the images that go through them, the
benchmarks take learning rates and epochs from them.
"""
from collections.abc import Sequence

from methods import METHODS
from methods.steps import Step
from settings.config import Config


def plan(c: Config, earlier: Sequence[str] = ()) -> list[Step]:
    """The steps of a run with these settings. `earlier`: the tasks of the packed network that it
    adds to (--add-to), none of a run of its own."""
    return [step for name in ("packnet", *c.baselines)
            for step in METHODS[name].steps(c, list(earlier))]
