"""The algorithm against a NumPy version of its rules, and frozen weights against everything that
could move them."""

import math

import numpy as np
import pytest
from conftest import jt, prunable_weights
from hypothesis import given, settings
from hypothesis import strategies as st

import networks
from packing.capacity import capacity_table
from pruning import PackNet, PackNetPruning, cutoff, free_smallest, freeze

nn = jt.nn
LONG = settings(max_examples=60)


def reference_prune(weight, owner, task, ratio):
    """Rule 3, word by word: sort what the task owns, take the r-th smallest, free everything up to
    it."""
    magnitudes = sorted(abs(w) for w, o in zip(weight.ravel(), owner.ravel()) if o == task)
    r = round(ratio * len(magnitudes))
    weight, owner = weight.copy(), owner.copy()
    if r > 0:
        for i in np.ndindex(weight.shape):
            if owner[i] == task and abs(weight[i]) <= magnitudes[r - 1]:
                weight[i], owner[i] = 0, 0
    return weight, owner


class Small(nn.Module):
    """Convolution, batch norm, two linear layers; its own last layer, so no heads."""

    def __init__(self):
        self.conv = nn.Conv(3, 6, 3, padding=1)
        self.norm = nn.BatchNorm(6)
        self.hidden = nn.Linear(6, 12)
        self.last = nn.Linear(12, 4)

    def execute(self, x):
        x = nn.relu(self.norm(self.conv(x))).mean(3).mean(2)
        return self.last(nn.relu(self.hidden(x)))


def small_network(tasks=()):
    class Trunk(Small):
        def __init__(self):
            super().__init__()
            del self.last

        def execute(self, x):
            return nn.relu(self.hidden(nn.relu(self.norm(self.conv(x))).mean(3).mean(2)))

    net = networks.MultiHead(Trunk(), 12)
    for task in tasks:
        net.add_head(task, 4)
    return net


def batches(seed, count=3):
    rng = np.random.default_rng(seed)
    return [
        (
            jt.array(rng.normal(1, 2, (8, 3, 6, 6)).astype(np.float32)),
            jt.array(rng.integers(0, 4, 8)),
        )
        for _ in range(count)
    ]


def snapshot(model):
    return {name: parameter.numpy().copy() for name, parameter in model.state_dict().items()}


# ---- rule 3

# No st.floats: it refuses to work where denormals are flushed to zero, as Jittor does.
weights = st.lists(
    st.sampled_from([-2.0, -1.0, -0.5, 0.0, 0.0, 0.25, 0.5, 1.0, 3.0])
    | st.integers(-4000, 4000).map(lambda i: i / 997),
    min_size=1,
    max_size=40,
)
ratios = st.sampled_from([0, 0.1, 0.25, 0.5, 0.75, 0.9, 1]) | st.integers(0, 1000).map(
    lambda i: i / 1000
)


@LONG
@given(weights, ratios, st.integers(0, 2**31))
def test_free_smallest_is_the_rule(values, ratio, seed):
    weight = np.array(values, np.float32)
    owner = np.random.default_rng(seed).integers(0, 4, len(values)).astype(np.uint8)
    w, o = jt.array(weight), jt.array(owner)
    freed = free_smallest(w, o, 2, ratio)
    expected_w, expected_o = reference_prune(weight, owner, 2, ratio)
    assert (
        (w.numpy() == expected_w).all() and (o.numpy() == expected_o).all() and o.dtype == "uint8"
    )
    assert freed == ((owner == 2) & (expected_o == 0)).sum()


def test_free_smallest_by_hand():
    w, o = jt.array(np.float32([3, -1, 2, -4, 0.5, 9])), jt.array(np.uint8([2, 2, 2, 2, 1, 1]))
    assert free_smallest(w, o, 2, 0.5) == 2
    assert w.numpy().tolist() == [3, 0, 0, -4, 0.5, 9] and o.numpy().tolist() == [2, 0, 0, 2, 1, 1]


@pytest.mark.parametrize(
    "values, ratio, kept",
    [
        ([5.0], 0.75, []),  # one weight: round(0.75) = 1 goes
        ([5.0], 0.25, [5.0]),  # round(0.25) = 0 go
        ([1.0, 2.0], 0.0, [1.0, 2.0]),
        ([1.0, 2.0], 1.0, []),
        ([1.0, -1.0, 1.0, 2.0], 0.25, [2.0]),  # ties at the cut-off go together
        ([0.0, 0.0, 0.0, 7.0], 0.5, [7.0]),  # zeros too: more than the ratio
    ],
)
def test_edges_of_the_rule(values, ratio, kept):
    w = jt.array(np.float32(values))
    free_smallest(w, jt.ones(len(values), "uint8"), 1, ratio)
    assert [v for v in w.numpy().tolist() if v] == kept


def test_a_layer_in_which_the_task_owns_nothing():
    w, o = jt.array(np.float32([1, 2])), jt.array(np.uint8([1, 0]))
    assert free_smallest(w, o, 2, 0.75) == 0 and w.numpy().tolist() == [1, 2]


@LONG
@given(st.lists(st.integers(0, 10**6).map(lambda i: i / 7919), min_size=1, max_size=200), ratios)
def test_cutoff_is_the_order_statistic(values, ratio):
    rank = round(ratio * len(values))
    expected = None if rank == 0 else np.sort(np.float32(values))[rank - 1]
    assert cutoff(np.array(values, np.float32), ratio) == expected


@pytest.mark.parametrize("ratio", [-0.1, 1.1, math.nan])
def test_ratio_outside_its_range(ratio):
    with pytest.raises(ValueError, match="ratio"):
        cutoff(np.ones(3, np.float32), ratio)


@pytest.mark.parametrize("what", ["weights", "filters"])
def test_a_ratio_that_is_refused_is_not_recorded(what):
    packnet = PackNet(small_network(["a"]), pruned_units=what)
    packnet.start_task("a")
    before, owners = (
        snapshot(packnet.model),
        {name: owner.numpy() for name, owner in packnet.owners.items()},
    )
    for ratio in (1.5, -0.1, math.nan):
        with pytest.raises(ValueError, match="outside"):
            packnet.prune("a", ratio)
        assert packnet.ratios == {}
    assert all((value == before[name]).all() for name, value in snapshot(packnet.model).items())
    assert all((owner.numpy() == owners[name]).all() for name, owner in packnet.owners.items())


def test_a_second_prune_frees_of_what_is_left():
    """Counted beside recorded: a half of a half is left of 2^n weights."""
    packnet = PackNet(nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 8)))
    packnet.start_task("a")
    for ratio, recorded in ((0.5, 0.5), (0.5, 0.75), (0.25, 0.8125), (0.0, 0.8125)):
        packnet.prune("a", ratio)
        (row,) = packnet.capacity()
        assert (
            packnet.ratios["a"] == recorded and row["used"] == row["measured_used"] == 1 - recorded
        )
    packnet.start_task("b")
    packnet.prune("b", 0.1)
    assert packnet.ratios["b"] == 0.1  # to the bit


def test_pruning_matches_the_authors_kthvalue():
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    weight = np.random.default_rng(0).normal(size=(64, 3, 3, 3)).astype(np.float32)
    tensor = torch.from_numpy(weight)
    limit = tensor.abs().view(-1).kthvalue(round(0.75 * tensor.numel())).values
    w = jt.array(weight)
    free_smallest(w, jt.ones(weight.shape, "uint8"), 1, 0.75)
    assert (w.numpy() == torch.where(tensor.abs() <= limit, 0, tensor).numpy()).all()


# ---- rules 1, 2, 6: which parameters


def test_prunable_are_convolutions_and_linear_layers_but_no_heads_and_no_norms():
    assert set(prunable_weights(small_network(["a"]))) == {
        "trunk.conv.weight",
        "trunk.hidden.weight",
    }
    assert set(prunable_weights(Small())) == {"conv.weight", "hidden.weight", "last.weight"}
    assert set(prunable_weights(nn.Linear(2, 3))) == {"weight"}


def test_vgg16_has_fifteen_prunable_layers():
    vgg = networks.VGG(networks.ARCHITECTURES["vgg16"])
    sizes = [weight.numel() for weight in prunable_weights(vgg).values()]
    assert len(sizes) == 15 and sum(sizes) == 134_248_128


def test_a_model_without_weights_is_refused():
    with pytest.raises(ValueError, match="no convolution"):
        PackNet(nn.Sequential(nn.ReLU()))


# ---- rule 5: nothing moves what is frozen


def test_a_step_is_the_update_formula_where_owned_and_nothing_elsewhere():
    """v = m v + (g + wd p); p = p - lr v, with g of softmax regression from NumPy."""
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(16, 5)).astype(np.float32), rng.integers(0, 3, 16)
    layer, lr, momentum, decay = nn.Linear(5, 3, bias=False), 0.1, 0.9, 5e-4
    owner = rng.integers(0, 3, (3, 5)).astype(np.uint8)
    freeze(layer, jt.array(owner), 2)
    start = layer.weight.numpy().astype(np.float64)
    p, v = start.copy(), np.zeros_like(start)
    optimizer = nn.SGD(layer.parameters(), lr, momentum=momentum, weight_decay=decay)
    for _ in range(4):
        optimizer.step(nn.cross_entropy_loss(layer(jt.array(x)), jt.array(y)))
        z = np.exp(x @ p.T)
        g = ((z / z.sum(1, keepdims=True) - np.eye(3)[y]).T @ x) / len(x)
        v = momentum * v + g + decay * p
        p = np.where(owner == 2, p - lr * v, p)
    got = layer.weight.numpy()
    assert (got[owner != 2] == start[owner != 2]).all()
    assert np.allclose(got, p, atol=1e-6) and (got[owner == 2] != start[owner == 2]).all()


@pytest.mark.parametrize(
    "make",
    [
        lambda p: nn.SGD(p, 0.1, momentum=0.9, weight_decay=5e-4),
        lambda p: nn.SGD(p, 0.1, momentum=0.9, weight_decay=5e-4, nesterov=True),
        lambda p: nn.RMSprop(p, 0.01),
        lambda p: nn.Adam(p, 0.01, weight_decay=5e-4),
        lambda p: nn.AdamW(p, 0.01, weight_decay=0.1),
    ],
    ids=["sgd", "nesterov", "rmsprop", "adam", "adamw"],
)
def test_no_optimizer_moves_frozen_weights(make):
    """All parameters of the model handed to an ordinary optimizer, biases, norms and old heads
    included."""
    net = small_network(["a", "b"])
    packnet = PackNet(net)
    packnet.train_task("a", batches(1), epochs=1)
    packnet.prune_and_freeze("a")
    packnet.start_task("b")
    net.select("b")
    before, owners = snapshot(net), {name: owner.numpy() for name, owner in packnet.owners.items()}
    optimizer = make(net.parameters())
    net.train()
    for images, labels in batches(2):
        optimizer.step(nn.cross_entropy_loss(net(images), labels))
    after = snapshot(net)
    for name in before:
        if name in owners:
            frozen = owners[name] == 1
            assert (before[name][frozen] == after[name][frozen]).all() and frozen.any(), name
            assert (before[name][~frozen] != after[name][~frozen]).any(), name
        elif name.startswith("heads.b"):
            assert (before[name] != after[name]).any(), name
        else:
            assert (before[name] == after[name]).all(), name


def test_a_loss_that_is_nan_leaves_frozen_weights_alone():
    layer = nn.Linear(4, 2)
    owner = jt.array(np.uint8([[1, 1, 2, 2], [1, 2, 1, 2]]))
    freeze(layer, owner, 2)
    before = layer.weight.numpy().copy()
    optimizer = nn.SGD(layer.parameters(), 0.1, momentum=0.9, weight_decay=1e-3)
    optimizer.step(layer(jt.ones((3, 4))).sum() * jt.array(np.float32(np.inf)) * 0)
    after = layer.weight.numpy()
    assert (after[owner.numpy() == 1] == before[owner.numpy() == 1]).all()
    assert not np.isfinite(after[owner.numpy() == 2]).any()


def test_freed_weights_stay_zero_even_with_one_optimizer_for_everything():
    """The momentum of before the prune must not revive what was pruned."""
    net = small_network(["a"])
    packnet = PackNet(net)
    packnet.start_task("a")
    net.select("a")
    optimizer = nn.SGD(net.parameters(), 0.1, momentum=0.9, weight_decay=5e-4)
    for images, labels in batches(1):
        optimizer.step(nn.cross_entropy_loss(net(images), labels))
    packnet.prune("a", 0.75)
    for images, labels in batches(1):
        optimizer.step(nn.cross_entropy_loss(net(images), labels))
    for name, owner in packnet.owners.items():
        weight, free = packnet.weights[name].numpy(), owner.numpy() == 0
        assert (weight[free] == 0).all() and (weight[~free] != 0).all() and 0.7 < free.mean() < 0.8


def test_three_tasks_keep_their_logits_to_the_bit():
    """Momentum 0.9, weight decay 5e-4, batch norm: train, prune, re-train, freeze, three times."""
    tasks = ("a", "b", "c")
    net = small_network()
    packnet = PackNet(net, prune_ratio=0.75)
    logits, owned = {}, {}
    for number, task in enumerate(tasks):
        net.add_head(task, 4)
        packnet.train_task(task, batches(number), epochs=2, weight_decay=5e-4)
        packnet.prune_and_freeze(task)
        packnet.train_task(task, batches(number), epochs=2, weight_decay=5e-4)
        logits[task] = packnet.predict(task, batches(number))[0]
        owned[task] = {
            name: (owner.numpy() == number + 1, packnet.weights[name].numpy().copy())
            for name, owner in packnet.owners.items()
        }
        for old, weights in owned.items():
            for name, (mask, values) in weights.items():
                assert (packnet.weights[name].numpy()[mask] == values[mask]).all(), (old, name)
    for number, task in enumerate(tasks):
        again = packnet.predict(task, batches(number))[0]
        assert (again == logits[task]).all() and np.abs(again).max() > 0.01


def test_batch_norm_of_the_first_task_trains_and_then_stands_still():
    net = small_network(["a", "b"])
    packnet = PackNet(net)
    packnet.train_task("a", batches(1), epochs=1)
    first = snapshot(net)
    assert (first["trunk.norm.running_mean"] != 0).any() and (first["trunk.norm.weight"] != 1).any()
    assert net.trunk.norm.is_train
    packnet.train_task("b", batches(2), epochs=1)
    assert (
        not net.trunk.norm.is_train and net.trunk.is_train
    )  # b trains with the statistics it is tested with
    second = snapshot(net)
    for name in first:
        if ".norm." in name or name.endswith("bias") and name.startswith("trunk"):
            assert (first[name] == second[name]).all(), name


def test_each_task_trains_its_head_whenever_that_was_added():
    tasks = ("a", "b", "c")
    net = small_network(tasks)
    packnet = PackNet(net)
    for number, task in enumerate(tasks):
        before = snapshot(net)
        packnet.train_task(task, batches(number), epochs=1)
        packnet.prune(task)
        for name, value in snapshot(net).items():
            if name.startswith("heads."):
                assert (value != before[name]).any() == name.startswith(f"heads.{task}."), (
                    task,
                    name,
                )


@pytest.mark.parametrize("way", ["train_task fails first", "start_task first", "by hand"])
def test_a_head_that_is_added_after_its_task_is_trained(way):
    net = small_network(["a"])
    packnet = PackNet(net)
    packnet.train_task("a", batches(0), epochs=1)
    packnet.prune("a")
    if way == "train_task fails first":
        before = snapshot(net)
        with pytest.raises(ValueError, match="call add_head"):
            packnet.train_task("b", batches(1), epochs=1)
        assert packnet.tasks == ["a"] and net.task == "a"
        assert all((value == before[name]).all() for name, value in snapshot(net).items())
    else:
        packnet.start_task("b")
    net.add_head("b", 4)
    before = snapshot(net)
    if way == "by hand":
        net.select("b")
        packnet.set_training(True)
        optimizer = nn.SGD(list(packnet.trainable().values()), 0.1)
        for images, labels in batches(1):
            optimizer.step(nn.cross_entropy_loss(net(images), labels))
    else:
        packnet.train_task("b", batches(1), epochs=1)
    moved = {name for name, value in snapshot(net).items() if (value != before[name]).any()}
    assert moved == {"heads.b.weight", "heads.b.bias", "trunk.conv.weight", "trunk.hidden.weight"}
    logits = packnet.predict("b", batches(9))[0]
    net.add_head("c", 4)
    packnet.prune("b")
    kept = packnet.predict("b", batches(9))[0]
    packnet.train_task("c", batches(2), epochs=1, weight_decay=1e-2)
    assert (packnet.predict("b", batches(9))[0] == kept).all() and (logits != kept).any()


def test_tasks_that_are_numbers():
    net = small_network()
    packnet = PackNet(net)
    for task in (1, 2):
        net.add_head(task, 4)
        before = snapshot(net)
        packnet.train_task(task, batches(task), epochs=1)
        packnet.prune(task)
        assert (snapshot(net)[f"heads.{task}.weight"] != before[f"heads.{task}.weight"]).any()
    assert packnet.tasks == [1, 2] and net.num_classes(1) == 4
    for again in (2, "2"):
        with pytest.raises(ValueError, match="has a head already"):
            net.add_head(again, 4)
        with pytest.raises(ValueError, match="started before"):
            packnet.start_task(again)
    logits, labels = packnet.predict(1, batches(1))
    assert packnet.evaluate_task(1, batches(1)) == 100 * np.mean(logits.argmax(1) == labels)


def test_a_new_packnet_of_the_same_network_starts_anew():
    """What an earlier one has fixed moves again."""
    net = small_network(["a", "b"])
    earlier = PackNet(net)
    earlier.start_task("a"), earlier.start_task("b")
    before = snapshot(net)
    PackNet(net).train_task("a", batches(1), epochs=1)
    after = snapshot(net)
    for name in (
        "trunk.conv.weight",
        "trunk.norm.weight",
        "trunk.norm.running_mean",
        "trunk.hidden.bias",
        "heads.a.weight",
    ):
        assert (after[name] != before[name]).any(), name


@pytest.mark.parametrize(
    "make",
    [lambda p: nn.SGD(p, 0.01, momentum=0.9), lambda p: nn.Adam(p, 0.01)],
    ids=["SGD", "Adam"],
)
def test_fixed_parameters_pile_nothing_up_in_jittors_graph(make):
    """Their steps are asked for by nobody. Left uncomputed, they make Jittor compile one kernel of
    thousands of operators."""
    net = small_network("abc")
    packnet = PackNet(net)
    images, labels = batches(0)[0]
    for task in "abc":
        packnet.start_task(task)
        net.select(task)
        packnet.set_training(True)
        optimizer = make(net.parameters())
        counts = []
        for _ in range(12):
            loss = nn.cross_entropy_loss(net(images), labels)
            optimizer.step(loss)
            loss.item()
            counts.append(jt.number_of_lived_ops())
        assert counts[-1] <= counts[5] + 20, (task, counts)


def test_freezing_leaks_no_memory():
    import gc

    def make():
        model = Small()
        packnet = PackNet(model)
        packnet.start_task(1)
        packnet.prune(1)
        packnet.start_task(2)
        jt.sync_all()

    make()
    gc.collect()
    before = jt.number_of_lived_vars()
    for _ in range(5):
        make()
    gc.collect()
    assert jt.number_of_lived_vars() <= before


# ---- rules 4 and 7


def test_a_new_task_starts_from_zero_on_all_free_weights():
    packnet = PackNet(small_network(["a", "b"]))
    packnet.start_task("a")
    packnet.prune("a", 0.5)
    free = {name: owner.numpy() == 0 for name, owner in packnet.owners.items()}
    packnet.start_task("b")
    for name, owner in packnet.owners.items():
        assert ((owner.numpy() == 2) == free[name]).all() and (
            packnet.weights[name].numpy()[free[name]] == 0
        ).all()


def test_task_view_hides_later_tasks_and_restores_to_the_bit():
    net = small_network(["a", "b"])
    packnet = PackNet(net)
    for number, task in enumerate(("a", "b")):
        packnet.train_task(task, batches(number), epochs=1)
        packnet.prune_and_freeze(task)
    before = snapshot(net)
    net.select("b")
    with pytest.raises(RuntimeError, match="on purpose"):
        with packnet.task_view("a"):
            assert net.task == "a"
            for name, owner in packnet.owners.items():
                expected = np.where(owner.numpy() == 1, before[name], 0)
                assert (packnet.weights[name].numpy() == expected).all()
            raise RuntimeError("on purpose")
    assert net.task == "b"
    after = snapshot(net)
    assert all((before[name] == after[name]).all() for name in before)


def test_training_goes_on_after_a_look_at_an_old_task():
    """Evaluating between two phases changes nothing about the training that follows."""

    def run(look):
        jt.set_global_seed(3)
        net = small_network(["a", "b"])
        packnet = PackNet(net)
        packnet.train_task("a", batches(0), epochs=1)
        packnet.prune_and_freeze("a")
        packnet.train_task("b", batches(1), epochs=1)
        if look:
            packnet.evaluate_task("a", batches(0))
        packnet.prune_and_freeze("b")
        packnet.train_task("b", batches(1), epochs=1)
        return snapshot(net)

    looked, plain = run(True), run(False)
    assert all((looked[name] == plain[name]).all() for name in plain)


def test_mistakes_are_named():
    packnet = PackNet(small_network(["a", "b"]))
    with pytest.raises(ValueError, match="never started"):
        packnet.prune_and_freeze("a")
    packnet.start_task("a")
    packnet.start_task("b")
    with pytest.raises(ValueError, match="frozen for good"):
        packnet.train_task("a", batches(0), epochs=1)
    with pytest.raises(ValueError, match="started before"):
        packnet.start_task("a")
    with pytest.raises(ValueError, match="no head"):
        packnet.train_task("c", batches(0), epochs=1)
    with pytest.raises(ValueError, match="prune_ratio"):
        PackNet(Small(), prune_ratio=1.0)


# ---- capacity


def test_capacity_table_is_the_seeds():
    rows = capacity_table([0.75] * 4)
    assert [round(100 * row["available"], 2) for row in rows] == [100, 75, 56.25, 42.19]
    assert [round(100 * row["used"], 2) for row in rows] == [25, 18.75, 14.06, 10.55]


def test_capacity_counts_what_is_owned():
    packnet = PackNet(networks.build("vgg-slim"))
    for task in ("a", "b", "c"):
        packnet.start_task(task)
        for weight in packnet.weights.values():  # stands for training: no zeros left
            weight.assign(jt.randn(weight.shape))
        packnet.prune_and_freeze(task)
    for row, used in zip(packnet.capacity(), (0.25, 0.1875, 0.140625)):
        assert row["used"] == used and abs(row["measured_used"] - used) < 1e-4
    total = sum(owner.numel() for owner in packnet.owners.values())
    owned = [
        sum(int((owner.numpy() == k).sum()) for owner in packnet.owners.values()) for k in (1, 2, 3)
    ]
    left = [total, total - owned[0], total - owned[0] - owned[1]]
    assert [row["measured_available"] for row in packnet.capacity()] == [
        free / total for free in left
    ]
    counted = sum(int((owner.numpy() == 2).sum()) for owner in packnet.owners.values())
    assert packnet.capacity()[1]["owned_weights"] == counted


@pytest.mark.parametrize("idle", [0.0, 0.8])
def test_equal_shares_are_equal_but_for_weights_that_never_moved(idle):
    """`equal` for three tasks prunes by 2/3, 1/2 and not at all. Weights that the second leaves at
    0, `idle` of its own, are ties at the cut-off: it keeps those that moved, the third gets the
    rest."""
    from settings.config import Config

    ratios = Config(task_list=["a", "b", "c"], pruning_ratios=["equal"]).ratios()
    packnet = PackNet(nn.Sequential(nn.Linear(30, 40), nn.ReLU(), nn.Linear(40, 30)))
    rng = np.random.default_rng(0)
    for task, ratio in zip("abc", ratios):
        packnet.start_task(task)
        k = len(packnet.tasks)
        for name, weight in packnet.weights.items():
            mine = packnet.owners[name].numpy() == k
            new = rng.uniform(0.1, 1, weight.shape).astype(np.float32)
            if task == "b":
                new[
                    np.where(mine)[0][: round(idle * mine.sum())],
                    np.where(mine)[1][: round(idle * mine.sum())],
                ] = 0
            weight.assign(jt.array(np.where(mine, new, weight.numpy())))
        if ratio:
            packnet.prune(task, ratio)
    shares = [row["measured_used"] for row in packnet.capacity()]
    expected = [1 / 3, 1 / 3, 1 / 3] if not idle else [1 / 3, 2 / 3 * 0.2, 2 / 3 * 0.8]
    assert np.allclose(shares, expected, atol=1e-3) and sum(shares) == 1


def test_the_default_learning_rates_are_those_of_the_two_documents():
    import inspect

    from settings.config import Config

    parameters = inspect.signature(PackNet.train_task).parameters
    assert parameters["lr"].default == 0.01 and Config().initial_lr == 0.001
    assert parameters["momentum"].default == Config().momentum == 0.9
    assert "0.01" in PackNet.train_task.__doc__ and "0.001" in PackNet.train_task.__doc__


# ---- masks in, masks out


def test_prune_model_protects_previous_masks():
    model = Small()
    first = PackNetPruning.prune_model(model=model, pruning_ratio=0.75, previous_masks=None)
    kept = {name: weight.numpy().copy() for name, weight in prunable_weights(model).items()}
    for name, weight in prunable_weights(model).items():
        weight.assign(jt.ternary(first[name], weight, jt.randn(weight.shape)))
    trained = {name: weight.numpy().copy() for name, weight in prunable_weights(model).items()}
    for previous in (first, [first], {"first": first}):
        for name, weight in prunable_weights(model).items():
            weight.assign(jt.array(trained[name]))
        second = PackNetPruning.prune_model(model=model, pruning_ratio=0.5, previous_masks=previous)
        for name, weight in prunable_weights(model).items():
            one, two = first[name].numpy(), second[name].numpy()
            assert not (one & two).any() and (weight.numpy()[one] == kept[name][one]).all()
            expected, _ = reference_prune(trained[name], np.where(one, 1, 2), 2, 0.5)
            assert (weight.numpy() == expected).all() and (two == ((expected != 0) & ~one)).all()


def test_freeze_weights_by_mask_holds_against_a_plain_optimizer_and_can_be_undone():
    model = Small()
    masks = PackNetPruning.prune_model(model, 0.75)
    for frozen in (masks, None):
        PackNetPruning.freeze_weights_by_mask(model, frozen)
        before = snapshot(model)
        optimizer = nn.SGD(model.parameters(), 0.1, momentum=0.9, weight_decay=5e-4)
        for images, labels in batches(1):
            optimizer.step(nn.cross_entropy_loss(model(images), labels))
        for name, mask in masks.items():
            same = (before[name] == snapshot(model)[name])[mask.numpy()]
            assert same.all() if frozen else not same.any()


def test_masks_that_do_not_fit_are_named():
    with pytest.raises(ValueError, match="'nothing.weight'"):
        PackNetPruning.freeze_weights_by_mask(Small(), {"nothing.weight": np.ones((2, 2), bool)})
    with pytest.raises(ValueError, match="shape"):
        PackNetPruning.prune_model(Small(), 0.5, {"last.weight": np.ones((2, 2), bool)})
