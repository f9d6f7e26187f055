"""Our SGD beside Jittor's: the same values to the bit, whatever counts as large."""

import numpy as np
import pytest
from conftest import jt
from jittor import nn

from packing import sgd
from pruning import PackNet


def trained(optimizer_class, large, monkeypatch, **options):
    """(every parameter, every momentum) after four steps on the second task of a network."""
    monkeypatch.setattr(sgd, "LARGE", large)
    jt.set_global_seed(5)
    net = nn.Sequential(
        nn.Conv(3, 8, 3), nn.BatchNorm(8), nn.ReLU(), nn.Flatten(), nn.Linear(128, 40), nn.ReLU(),
        nn.Linear(40, 5),
    )  # fmt: skip
    packnet = PackNet(net)
    packnet.start_task("a")
    packnet.prune("a", 0.5)
    packnet.start_task("b")
    packnet.set_training(True)
    moving = packnet.trainable()
    packed = [var for name, var in moving.items() if name in packnet.owners]
    rest = [var for name, var in moving.items() if name not in packnet.owners]
    groups = [dict(params=packed, weight_decay=0.01), dict(params=rest, weight_decay=0.0)]
    groups = [group for group in groups if group["params"]]
    optimizer = optimizer_class(groups, 0.1, momentum=0.9, **options)
    rng = np.random.default_rng(0)
    for _ in range(4):
        images = jt.array(rng.standard_normal((6, 3, 6, 6), np.float32))
        optimizer.step(nn.cross_entropy_loss(net(images), jt.array(rng.integers(0, 5, 6))))
        jt.sync_all()
    momentum = [value.numpy() for group in optimizer.param_groups for value in group["values"]]
    kept = ["grads" in group for group in optimizer.param_groups]
    return [value.numpy() for value in net.state_dict().values()], momentum, kept


@pytest.mark.parametrize("options", [dict(), dict(nesterov=True)], ids=str)
@pytest.mark.parametrize("large", [1, 5000, 10**9], ids=["all", "one", "none"])
def test_the_values_are_those_of_jittors_sgd(large, options, monkeypatch):
    ours, momentum, kept = trained(sgd.SGD, large, monkeypatch, **options)
    theirs, their_momentum, _ = trained(nn.SGD, large, monkeypatch, **options)
    assert all(map(np.array_equal, ours, theirs))
    assert all(map(np.array_equal, momentum, their_momentum)) and any(m.any() for m in momentum)
    assert any(kept) == (large == 10**9)  # no gradient stays where it is large


def test_a_large_one_moves_before_the_layers_in_front_have_gradients(monkeypatch):
    """Nothing else is computed for it: their gradients would be there when it needs the most."""
    monkeypatch.setattr(sgd, "LARGE", 2000)
    front, large = nn.Linear(30, 50), nn.Linear(50, 60)
    optimizer = sgd.SGD([*front.parameters(), *large.parameters()], 0.1, momentum=0.9)
    seen = []

    def move(self, groups):
        gradients = [group["grads"] for group in groups]
        seen.append([gradient.location() for some in gradients for gradient in some])
        return moved(self, groups)

    moved = sgd.SGD._move
    monkeypatch.setattr(sgd.SGD, "_move", move)
    optimizer.step(nn.relu(large(nn.relu(front(jt.rand(4, 30))))).sum())
    assert seen == [["cpu"], ["none"] * 3]
    assert large.weight.location() == "cpu" and front.weight.location() == "none"
