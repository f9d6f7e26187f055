"""Which layers are packed (--pack), and pruning whole filters instead of weights (--prune
filters)."""

import numpy as np
import pytest
from conftest import jt

import networks
from packing.filters import free_filters
from pruning import PackNet

nn = jt.nn


def freed(layer, weight, owner, task, ratio):
    weight, owner = jt.array(np.float32(weight)), jt.array(np.uint8(owner))
    count = free_filters(layer, weight, owner, task, ratio)
    return count, weight.numpy(), owner.numpy()


def test_filters_by_hand():
    """Of task 2, three outputs with norms 5, 1 and 2: two of them go, and what task 1 owns
    stays."""
    weight = [[3, 4, 9], [0.6, 0.8, 9], [9, 9, 9], [9, 2, 9]]
    owner = [[2, 2, 1], [2, 2, 1], [1, 1, 1], [1, 2, 1]]
    count, weight, owner = freed(nn.Linear(3, 4), weight, owner, 2, 0.6)
    assert count == 3 and owner.tolist() == [[2, 2, 1], [0, 0, 1], [1, 1, 1], [1, 0, 1]]
    assert weight.tolist() == [[3, 4, 9], [0, 0, 9], [9, 9, 9], [9, 0, 9]]


@pytest.mark.parametrize("ratio", [0.0, 0.1, 0.5, 0.75, 1.0])
@pytest.mark.parametrize(
    "layer, output",
    [
        (nn.Conv(6, 8, 3), lambda place: place[0]),
        (nn.Conv(6, 8, 3, groups=2), lambda place: place[0]),
        (nn.Conv1d(3, 8, 5), lambda place: place[0]),
        (nn.Linear(7, 9), lambda place: place[0]),
        (nn.ConvTranspose(6, 8, 3), lambda place: place[1]),
        (
            nn.ConvTranspose(6, 8, 3, groups=2),
            lambda place: (place[0] // 3, place[1]),
        ),  # 6 inputs in two groups
        (nn.ConvTranspose3d(3, 5, 2), lambda place: place[1]),
    ],
    ids=lambda value: type(value).__name__ * isinstance(value, nn.Module),
)
def test_filters_against_a_loop_over_weights(layer, output, ratio):
    rng = np.random.default_rng(3)
    weight = rng.standard_normal(layer.weight.shape).astype(np.float32)
    owner = rng.integers(1, 3, weight.shape).astype(np.uint8)
    squares = {}
    for place in np.ndindex(weight.shape):
        if owner[place] == 2:
            squares[output(place)] = squares.get(output(place), 0.0) + float(weight[place]) ** 2
    going = sorted(squares, key=squares.get)[: round(ratio * len(squares))]
    expected = np.array(
        [owner[place] == 2 and output(place) in going for place in np.ndindex(weight.shape)]
    ).reshape(weight.shape)
    count, now, owners = freed(layer, weight, owner, 2, ratio)
    assert count == expected.sum()
    assert np.array_equal(now, np.where(expected, 0, weight)) and np.array_equal(
        owners, np.where(expected, 0, owner)
    )


def test_a_task_that_owns_nothing_in_a_layer_frees_nothing():
    assert freed(nn.Linear(2, 2), [[1, 2], [3, 4]], [[1, 1], [1, 1]], 2, 0.9)[0] == 0


def batches(seed):
    rng = np.random.default_rng(seed)
    return [
        (
            jt.array(rng.standard_normal((8, 3, 16, 16)).astype(np.float32)),
            jt.array(rng.integers(0, 4, 8).astype(np.int32)),
        )
        for _ in range(2)
    ]


def values(packnet):
    return {name: value.numpy() for name, value in packnet.model.state_dict().items()}


@pytest.mark.parametrize("pack", ["conv", "fc"])
def test_what_is_not_packed_moves_with_the_first_task_only(pack):
    net = networks.build("vgg-slim", image_size=16)
    packnet = PackNet(net, 0.5, packed_layers=pack)
    weights = {name for name in values(packnet) if name.endswith("weight")}
    packed = {name for name in weights if ("features" in name) == (pack == "conv")}
    assert set(packnet.owners) == packed
    history, logits = [values(packnet)], {}
    for number, task in enumerate("abc"):
        net.add_head(task, 4)
        packnet.train_task(task, batches(number), 2, lr=0.05, momentum=0.9, weight_decay=1e-3)
        packnet.prune(task)
        packnet.train_task(task, batches(number), 1, lr=0.05, momentum=0.9, weight_decay=1e-3)
        history.append(values(packnet))
        logits[task] = packnet.predict(task, batches(9))[0]
    before, first, *later = history
    for name in before:
        if not name.startswith("heads."):
            assert not np.array_equal(before[name], first[name]), (
                name
            )  # the first task moves everything
        if name in weights - packed:
            assert all(np.array_equal(now[name], first[name]) for now in later), name
    assert all(not np.array_equal(first[name], later[-1][name]) for name in packed)
    for task in "abc":
        assert np.array_equal(packnet.predict(task, batches(9))[0], logits[task])
    table = packnet.describe()
    for name in weights - packed:
        kind, reason = ("Conv", "linear layers") if pack == "fc" else ("Linear", "convolutions")
        (line,) = (line for line in table.splitlines() if line.startswith(f"{name} "))
        assert f"shared  weight of {kind}, and only {reason} are packed" in line


def test_filters_through_the_whole_of_packnet():
    """Whole outputs are free after each prune, and the first task's logits stay to the bit."""
    net = networks.build("vgg-slim", image_size=16)
    packnet, logits = PackNet(net, 0.5, pruned_units="filters"), []
    for number, task in enumerate("ab"):
        net.add_head(task, 4)
        packnet.train_task(task, batches(number), 1, lr=0.05)
        freed = packnet.prune(task)
        for name, owner in packnet.owners.items():
            owner = owner.numpy().reshape(len(owner), -1)
            rows = owner[(owner != 1).any(1)] if task == "b" else owner
            assert freed[name] == (owner == 0).sum() and all(len(set(row)) == 1 for row in rows)
            assert (rows[:, 0] == 0).sum() == len(rows) // 2
        logits.append(packnet.predict("a", batches(9))[0])
    assert np.array_equal(*logits)


@pytest.mark.parametrize(
    "options, says",
    [
        (dict(packed_layers="fc"), "no linear layer that could be pruned"),
        (dict(packed_layers="x"), "packed_layers 'x' is none of all, conv, fc"),
        (dict(pruned_units="x"), "pruned_units 'x' is neither weights nor filters"),
    ],
)
def test_options_that_mean_nothing_are_refused(options, says):
    with pytest.raises(ValueError, match=says):
        PackNet(networks.build("resnet-slim"), **options)
