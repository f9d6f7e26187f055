"""The whole sequence of tasks beside the same in PyTorch, written the authors' way
(benchmarks/torch_twin.py): a few steps of
every phase, in which rounding does not grow yet."""

import sys

import numpy as np
import pytest
from conftest import ROOT

pytest.importorskip("torch")
sys.path.insert(0, str(ROOT / "benchmarks"))
import twin


def test_four_tasks_take_the_same_steps_in_both(monkeypatch):
    monkeypatch.setattr(twin, "TRAIN", 16)
    monkeypatch.setattr(twin, "TEST", 4)
    results = [twin.run(seed, epochs=2) for seed in (0, 1)]
    for result in results:
        losses = np.array(result["losses"])  # [steps, (ours, PyTorch, control)]
        apart, control = (np.abs(losses[:, 0] - losses[:, column]) for column in (1, 2))
        # of losses near 2.3: rounding has not grown yet
        assert len(losses) == 10 + 3 * 16 and apart[:10].max() < 2e-6
        assert apart[:26].max() < max(control[:26].max(), 1e-4) and apart.max() < max(
            2 * control.max(), 1e-3
        )
        assert [prune["task"] for prune in result["prunes"]] == twin.TASKS
        assert result["prunes"][0]["different"] == 0
    # Rounding grows differently on every kind of processor, with the number of threads and with the
    # seed; ours must not be farther from
    # PyTorch than twice what it is from itself, started 1e-7 apart. Of either there are two
    # samples, since one may be lucky: after the last
    # prune ours differed from itself in 0 to 3 % of the mask, from PyTorch in 0 to 2 % (4 seeds,
    # with one thread and with two).
    for step, task in enumerate(twin.TASKS[1:], 1):
        owned, different, itself = (
            sum(result[which][step][what] for result in results)
            for which, what in (
                ("prunes", "owned"),
                ("prunes", "different"),
                ("control_prunes", "different"),
            )
        )
        assert different < max(0.01 * owned, 2 * itself), task
    for result in results:
        for row in result["top1"]:
            for ours, theirs, _ in row:
                assert abs(ours - theirs) <= 100 / 32  # one image
