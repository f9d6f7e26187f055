"""The whole sequence of tasks beside the same in PyTorch, written the authors' way
(benchmarks/torch_twin.py): a few steps of
every phase, in which rounding does not grow yet."""

import numpy as np
import pytest

pytest.importorskip("torch")
import twin


def test_four_tasks_take_the_same_steps_in_both(monkeypatch):
    """The base network's re-training and the first task's first steps, where rounding has not grown
    yet, and the masks of the first prune. How far the two drift apart later follows from processor
    and seed; benchmarks/twin.py reports it."""
    monkeypatch.setattr(twin, "TRAIN", 16)
    monkeypatch.setattr(twin, "TEST", 4)
    result = twin.run(0, epochs=2)
    losses = np.array(result["losses"])  # [steps, (ours, PyTorch, control)]
    apart, control = (np.abs(losses[:, 0] - losses[:, column]) for column in (1, 2))
    assert len(losses) == 10 + 3 * 16
    assert apart[:10].max() < 2e-6  # of losses near 2.3
    assert apart[:26].max() < max(control[:26].max(), 1e-4)
    assert [prune["task"] for prune in result["prunes"]] == twin.TASKS
    assert result["prunes"][0]["different"] == 0
