"""benchmarks/peers.py: all sides get the same network, and what it says of frozen logits is so."""

import numpy as np
import pytest
from conftest import jt

pytest.importorskip("torch", reason="PyTorch is not installed")
import peers

if jt.flags.use_cuda:
    pytest.skip("the other sides are on the CPU", allow_module_level=True)


class Drawn(peers.Data):
    """Images at random in place of the files'; the class is whether they are bright."""

    def __init__(self):
        self.seed, self.splits = 0, {}
        rng = np.random.default_rng(0)
        for task in range(peers.TASKS):
            for split, count in (("train", 64), ("test", 20)):
                y = rng.integers(0, 2, count)
                x = rng.standard_normal((count, 3, 28, 28)) + (2 * y - 1)[:, None, None, None]
                self.splits[split, task] = x.astype(np.float32), y


def side(name, decay=0.0, norm=False):
    return peers.KINDS[name](Drawn(), "sgd", decay, norm)


def test_all_sides_begin_with_the_same_network():
    ours = {name: var.numpy() for name, var in side("ours").net.state_dict().items()}
    authors = side("authors").twin.net.state_dict()
    assert ours.keys() == authors.keys()
    assert all(np.array_equal(ours[name], authors[name].numpy()) for name in ours)
    for name, value in side("sketch").net.state_dict().items():
        trunk = f"trunk.{name}".replace("trunk.classifier.6.", "heads.0.")
        assert np.array_equal(value.numpy(), ours[trunk])
    x = Drawn().splits["test", 0][0]
    first = [side(name) for name in ("authors", "sketch")]
    logits = first[1].logits(0, x)
    first[0].twin.start_task("0")
    assert np.allclose(first[0].logits(0, x), logits, atol=1e-5)


@pytest.mark.parametrize(
    "name, decay, stays",
    [("ours", 0.01, True), ("authors", 0.0, True), ("authors", 0.01, False), ("sketch", 0, False)],
)
def test_how_far_frozen_logits_move(name, decay, stays):
    """Weight decay moves what the authors' masks freeze, since they are of gradients; the sketch
    hides nothing of later tasks."""
    result = peers.measured(name, Drawn(), dict(optimizer="sgd", decay=decay, norm=False))
    assert len(result["moved"]) == peers.TASKS and result["moved"][-1] == 0
    assert (max(result["moved"]) == 0) == stays
    assert len(result["at_the_end"]) == peers.TASKS and result["file"] > 0.1
