"""Every parameter has a class, and what is frozen stays to the bit: in every layer of Jittor,
whatever the network does with it."""

import copy
import inspect
import sys

import numpy as np
import pytest
from conftest import jt

import networks
from packing.parameters import HEAD, OWNED, PRIVATE, SHARED, heads_of, parameters_of
from pruning import PackNet, PackNetPruning

nn = jt.nn
MultiheadAttention = jt.attention.MultiheadAttention
TASKS = ("a", "b", "c")


class Trunk(nn.Module):
    """images float32 [B, 3, 4, 4] -> `layer` as `use` says -> a linear layer of 6 features.

    They are leaky: with ReLU a seed may leave all 6 at 0, so that no weight moves, and a task whose
    weights are all 0 gives them all up.
    """

    def __init__(self, layer, use, width):
        self.layer, self.use = layer, use
        self.last = nn.Linear(width, 6)

    def execute(self, x):
        y = self.use(self.layer, x)
        return nn.leaky_relu(self.last(y.reshape((y.shape[0], -1))), 0.1)


def multi_head(trunk, features=6):
    net = networks.MultiHead(trunk, features)
    for task in TASKS:
        net.add_head(task, 3)
    return net


def batches(seed, count=1):
    rng = np.random.default_rng(seed)
    return [
        (
            jt.array(rng.normal(1, 2, (4, 3, 4, 4)).astype(np.float32)),
            jt.array(rng.integers(0, 3, 4)),
        )
        for _ in range(count)
    ]


def snapshot(model):
    return {name: parameter.numpy().copy() for name, parameter in model.state_dict().items()}


def three_tasks(packnet, train=None):
    """Train, prune and re-train three tasks with momentum and weight decay; after each, every
    earlier task gives the same logits, and no weight of an earlier one has moved. `train(task,
    batches)`: instead of train_task."""
    train = train or (
        lambda task, data: packnet.train_task(
            task, data, 1, lr=0.05, momentum=0.9, weight_decay=1e-2
        )
    )
    logits, owned = {}, {}
    for number, task in enumerate(TASKS):
        train(task, batches(number))
        packnet.prune_and_freeze(task)
        train(task, batches(number))
        logits[task] = packnet.predict(task, batches(9))[0]
        assert np.isfinite(logits[task]).all()
        owned[task] = {
            name: (owner.numpy() == number + 1, packnet.weights[name].numpy().copy())
            for name, owner in packnet.owners.items()
        }
        assert any(mask.any() for mask, _ in owned[task].values())
        for old in logits:
            for name, (mask, values) in owned[old].items():
                assert (packnet.weights[name].numpy()[mask] == values[mask]).all(), (old, name)
            assert np.array_equal(packnet.predict(old, batches(9))[0], logits[old]), (old, task)
        for name, owner in packnet.owners.items():
            assert (packnet.weights[name].numpy()[owner.numpy() == 0] == 0).all(), name
    assert not np.array_equal(logits["a"], logits["b"]) and not np.array_equal(
        logits["b"], logits["c"]
    )


# ---- every layer of Jittor that has parameters


def flat(layer, x):
    return layer(x.reshape((x.shape[0], -1)))


def sequence(layer, x):
    return layer(x.reshape((x.shape[0], 3, 16)).transpose(2, 0, 1))[0].mean(0)


def cell(layer, x):
    out = layer(x.reshape((x.shape[0], -1)))
    return out[0] if isinstance(out, tuple) else out


def volume(layer, x):
    return layer(x.reshape((x.shape[0], 3, 2, 2, 4)))


def line(layer, x):
    return layer(x.reshape((x.shape[0], 3, 16)))


def attend(layer, x):
    tokens = x.reshape((x.shape[0], 3, 16)).transpose(2, 0, 1)
    return layer(tokens, tokens, tokens)[0].mean(0)


def attend_elsewhere(layer, x):
    tokens = x.reshape((x.shape[0], 3, 16)).transpose(2, 0, 1)
    return layer(tokens, tokens[:, :, :2], tokens[:, :, :2])[0].mean(0)


def plain(layer, x):
    return layer(x)


WEIGHT, NORM = {"weight": OWNED, "bias": SHARED}, {"weight": SHARED, "bias": SHARED}
RECURRENT = {"weight_ih": OWNED, "weight_hh": OWNED, "bias_ih": SHARED, "bias_hh": SHARED}
SEQUENCE = {f"{name}_l0": kind for name, kind in RECURRENT.items()}
LAYERS = {  # name of the case: (layer, how it is used, features out of it, {parameter: class})
    "Linear": (lambda: nn.Linear(48, 5), flat, 5, WEIGHT),
    "Conv": (lambda: nn.Conv(3, 4, 3, padding=1), plain, 64, WEIGHT),
    "Conv, groups": (lambda: nn.Conv(3, 6, 3, groups=3), plain, 24, WEIGHT),
    "Conv, depthwise": (lambda: nn.Conv(3, 3, 3, groups=3), plain, 12, WEIGHT),
    "Conv1d": (lambda: nn.Conv1d(3, 4, 3), line, 56, WEIGHT),
    "Conv1d_sp": (lambda: nn.Conv1d_sp(3, 4), line, 64, WEIGHT),
    "Conv3d": (lambda: nn.Conv3d(3, 4, 2), volume, 12, WEIGHT),
    "ConvTranspose": (lambda: nn.ConvTranspose(3, 2, 2), plain, 50, WEIGHT),
    "ConvTranspose, groups": (lambda: nn.ConvTranspose(3, 3, 2, groups=3), plain, 75, WEIGHT),
    "ConvTranspose3d": (lambda: nn.ConvTranspose3d(3, 2, 2), volume, 90, WEIGHT),
    "Bilinear": (
        lambda: nn.Bilinear(48, 48, 4),
        lambda layer, x: layer(x.reshape((4, -1)), x.reshape((4, -1))) * 0.1,
        4,
        WEIGHT,
    ),
    "MultiheadAttention": (
        lambda: MultiheadAttention(3, 1),
        attend,
        3,
        {
            "in_proj_weight": OWNED,
            "in_proj_bias": SHARED,
            "out_proj.weight": OWNED,
            "out_proj.bias": SHARED,
        },
    ),
    "MultiheadAttention, other keys": (
        lambda: MultiheadAttention(3, 1, kdim=2, vdim=2, add_bias_kv=True),
        attend_elsewhere,
        3,
        {
            "q_proj_weight": OWNED,
            "k_proj_weight": OWNED,
            "v_proj_weight": OWNED,
            "in_proj_bias": SHARED,
            "out_proj.weight": OWNED,
            "out_proj.bias": SHARED,
            "bias_k": SHARED,
            "bias_v": SHARED,
        },
    ),
    "RNNCell": (lambda: nn.RNNCell(48, 4), cell, 4, RECURRENT),
    "LSTMCell": (lambda: nn.LSTMCell(48, 4), cell, 4, RECURRENT),
    "GRUCell": (lambda: nn.GRUCell(48, 4), cell, 4, RECURRENT),
    "RNN": (lambda: nn.RNN(3, 4), sequence, 4, SEQUENCE),
    "LSTM": (lambda: nn.LSTM(3, 4), sequence, 4, SEQUENCE),
    "GRU": (lambda: nn.GRU(3, 4), sequence, 4, SEQUENCE),
    "BatchNorm": (
        lambda: nn.BatchNorm(3),
        plain,
        48,
        NORM | {"running_mean": SHARED, "running_var": SHARED},
    ),
    "LayerNorm": (lambda: nn.LayerNorm(4), plain, 48, NORM),
    "GroupNorm": (lambda: nn.GroupNorm(3, 3), plain, 48, NORM),
    "InstanceNorm": (lambda: nn.InstanceNorm(3), plain, 48, NORM),
    "PReLU": (lambda: nn.PReLU(), plain, 48, {"weight": SHARED}),
    "Embedding": (
        lambda: nn.Embedding(4, 2),
        lambda layer, x: layer((x > 1).int32().sum(1)),
        32,
        {"weight": SHARED},
    ),
    "ParameterList": (
        lambda: nn.ParameterList(jt.ones(4), jt.ones((3, 1, 1))),
        lambda layer, x: x * layer[0] + layer[1],
        48,
        {"0": SHARED, "1": SHARED},
    ),
}
WITHOUT = """
    Module Pool Pool3d AdaptiveAvgPool2d AdaptiveMaxPool2d AdaptiveAvgPool3d AdaptiveMaxPool3d
    AvgPool2d AvgPool3d MaxPool2d MaxPool3d MaxUnpool2d MaxUnpool3d ELU CrossEntropyLoss MSELoss
    BCELoss L1Loss BCEWithLogitsLoss Identity Dropout Dropout2d DropPath relu leaky_relu relu6
    softmax gelu silu Flatten DepthwiseConv ReflectionPad2d ZeroPad2d ConstantPad2d
    ReplicationPad2d PixelShuffle Tanh Sigmoid Softplus Resize Upsample UpsamplingBilinear2d
    UpsamplingNearest2d Sequential KLDivLoss Mish
""".split()
ABSTRACT = ["RNNBase"]  # of RNN, LSTM and GRU


def test_the_list_of_layers_is_complete():
    """A layer that a later Jittor brings is in no list yet."""
    classes = {
        value.__name__: value
        for value in vars(nn).values()
        if inspect.isclass(value) and issubclass(value, nn.Module)
    }
    listed = {name.split(",")[0] for name in LAYERS} - {"MultiheadAttention"}
    assert classes.keys() == listed | set(WITHOUT) | set(ABSTRACT)
    for name in WITHOUT:
        source = inspect.getsource(classes[name].__init__)
        assert "init." not in source and "jt.array" not in source and "jt.empty" not in source, (
            f"{name} has parameters"
        )


@pytest.mark.parametrize("case", LAYERS)
def test_a_layer_has_its_class_and_three_tasks_keep_their_bits(case):
    make, use, width, expected = LAYERS[case]
    packnet = PackNet(multi_head(Trunk(make(), use, width)), 0.5)
    kinds = {name: parameter.kind for name, parameter in packnet.parameters.items()}
    assert {
        name.removeprefix("trunk.layer."): kind
        for name, kind in kinds.items()
        if name.startswith("trunk.layer.")
    } == expected
    assert (
        kinds["trunk.last.weight"] == OWNED
        and kinds["heads.b.weight"] == kinds["heads.c.bias"] == HEAD
    )
    before = snapshot(packnet.model)
    three_tasks(packnet)
    after = snapshot(packnet.model)
    # everything trained, but for the biases of keys, which softmax cancels, before anything is at
    # them
    for name in kinds:
        assert not np.array_equal(before[name], after[name]) or name.endswith(
            ("in_proj_bias", "bias_k")
        ), name


@pytest.mark.parametrize("case", ["BatchNorm", "LayerNorm", "GroupNorm", "InstanceNorm"])
def test_each_task_may_have_norms_of_its_own(case):
    make, use, width, expected = LAYERS[case]
    packnet = PackNet(multi_head(Trunk(make(), use, width)), 0.5, train_bn=True)
    assert packnet.own_parameters().keys() == {f"trunk.layer.{name}" for name in expected}
    three_tasks(packnet)
    for name in packnet.own_parameters():
        values = [
            packnet.private["a"][name],
            packnet.private["b"][name],
            packnet.model.state_dict()[name],
        ]
        assert not any(np.array_equal(values[i].numpy(), values[i + 1].numpy()) for i in (0, 1)), (
            f"{name} was not trained"
        )


# ---- every optimizer


@pytest.mark.parametrize(
    "make",
    [
        lambda p: nn.SGD(p, 0.05, momentum=0.9, weight_decay=1e-2),
        lambda p: nn.SGD(p, 0.05, momentum=0.9, weight_decay=1e-2, nesterov=True),
        lambda p: nn.RMSprop(p, 0.01),
        lambda p: nn.Adam(p, 0.01, weight_decay=1e-2),
        lambda p: nn.AdamW(p, 0.01, weight_decay=0.1),
        pytest.param(lambda p: jt.optim.Adan(p, 0.01, weight_decay=0.1), marks=pytest.mark.slow),
    ],
    ids=["SGD", "Nesterov", "RMSprop", "Adam", "AdamW", "Adan"],
)
def test_one_optimizer_for_everything_over_three_tasks(make):
    """Its state goes on from task to task, and it is given every parameter, old heads and shared
    ones too."""

    class Net(nn.Module):
        def __init__(self):
            self.conv, self.norm, self.last = nn.Conv(3, 4, 3), nn.BatchNorm(4), nn.Linear(16, 6)

        def execute(self, x):
            x = nn.relu(self.norm(self.conv(x)))
            return nn.leaky_relu(self.last(x.reshape((x.shape[0], -1))), 0.1)

    net = multi_head(Net())
    packnet = PackNet(net, 0.5)
    optimizer = make(net.parameters())

    def train(task, data):
        if task not in packnet.tasks:
            packnet.start_task(task)
        net.select(task)
        packnet.set_training(True)
        for images, labels in data:
            optimizer.step(nn.cross_entropy_loss(net(images), labels))

    three_tasks(packnet, train)


def test_the_optimizers_are_all_there_are():
    found = {
        name
        for name, value in vars(jt.optim).items()
        if inspect.isclass(value) and issubclass(value, jt.optim.Optimizer)
    }
    assert found == {"Optimizer", "SGD", "RMSprop", "Adam", "AdamW", "Adan"}


# ---- tied weights, and what is computed


class Words(nn.Module):
    """An embedding and a linear layer that may share their Var, as in language models."""

    def __init__(self, tied):
        self.embed, self.first, self.out = nn.Embedding(8, 4), nn.Linear(48, 4), nn.Linear(4, 8)
        if tied:
            self.out.weight = self.embed.weight

    def execute(self, x):
        tokens = (x.reshape((x.shape[0], -1)).clamp(0, 3)).int32()
        return nn.relu(
            self.out(self.first(x.reshape((x.shape[0], -1))) + self.embed(tokens).mean(1))
        )


@pytest.mark.parametrize("tied", [False, True])
def test_a_linear_layer_that_shares_an_embedding(tied):
    packnet = PackNet(multi_head(Words(tied), 8), 0.5)
    assert ("trunk.out.weight" in packnet.owners) != tied and packnet.parameters[
        "trunk.embed.weight"
    ].kind == SHARED
    if tied:
        assert "trunk.out.weight" in packnet.parameters["trunk.embed.weight"].reason
        assert "trunk.out.weight" not in packnet.parameters
    three_tasks(packnet)


def test_layers_that_share_a_weight_have_one_owner_map():
    class Twice(nn.Module):
        def __init__(self):
            self.one, self.two = nn.Linear(48, 48), nn.Linear(48, 48)
            self.two.weight = self.one.weight
            self.again = self.one

        def execute(self, x):
            return self.again(nn.relu(self.two(nn.relu(self.one(x.reshape((x.shape[0], -1)))))))

    packnet = PackNet(multi_head(Twice(), 48), 0.5)
    assert (
        list(packnet.owners) == ["trunk.one.weight"]
        and "trunk.two.weight" in packnet.parameters["trunk.one.weight"].reason
    )
    three_tasks(packnet)


def test_a_weight_that_is_also_something_else_is_refused():
    class Scaled(nn.Module):
        def __init__(self):
            self.first = nn.Linear(4, 4)
            self.scale = self.first.weight

    with pytest.raises(ValueError, match=r"first.weight.*scale|scale.*first.weight"):
        PackNet(Scaled())
    net = multi_head(Words(False), 8)
    net.heads["b"].weight = net.heads["a"].weight
    with pytest.raises(ValueError, match=r"heads.a.weight.*heads.b.weight.*one task alone"):
        PackNet(net)
    net = multi_head(nn.Linear(6, 6))
    net.heads["a"].weight = net.trunk.weight
    with pytest.raises(ValueError, match="one task alone"):
        PackNet(net)


def test_weight_norm_is_refused():
    from jittor.weightnorm import weight_norm

    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4))
    weight_norm(model[0], "weight", -1)
    for pack in (PackNet, lambda model: PackNetPruning.prune_model(model, 0.5)):
        with pytest.raises(ValueError, match=r"0\.weight cannot be packed: weight_norm"):
            pack(model)


def test_a_weight_that_is_made_anew_in_every_pass_is_refused_when_that_shows():
    class Remade(nn.Linear):
        def execute(self, x):
            self.weight = self.weight * 1.0
            return super().execute(x)

    packnet = PackNet(multi_head(nn.Sequential(nn.Flatten(), Remade(48, 6))))
    packnet.train_task("a", batches(0), 1)
    with pytest.raises(ValueError, match=r"trunk.1.weight is not the Var that was packed"):
        packnet.prune("a")


def test_what_jittor_does_not_see_is_refused_or_a_constant():
    class Hidden(nn.Module):
        def __init__(self, name):
            self.first = nn.Linear(48, 6)
            setattr(self, name, [nn.Linear(6, 6), nn.Linear(6, 6)])

        def execute(self, x):
            return vars(self)[next(name for name in vars(self) if "blocks" in name)][1](
                self.first(x.reshape((x.shape[0], -1)))
            )

    with pytest.raises(
        ValueError, match=r"trunk.blocks.0.weight cannot be packed: it is in a plain list"
    ):
        PackNet(multi_head(Hidden("blocks")))
    packnet = PackNet(multi_head(Hidden("_blocks")), 0.5)
    assert (
        packnet.parameters["trunk._blocks.1.weight"].kind == SHARED
        and "hidden" in packnet.parameters["trunk._blocks.1.weight"].reason
    )
    three_tasks(packnet)
    assert not any("_blocks" in name for name in packnet.trainable())


class Underscored(nn.Module):
    """Layers named as the ports of EfficientNet name them, and a constant that Jittor hides."""

    def __init__(self):
        self._conv_stem, self._bn0 = nn.Conv(3, 4, 3), nn.BatchNorm(4)
        self._blocks = nn.ModuleList([nn.Linear(16, 8), nn.Linear(8, 8)])
        self._inner = nn.Sequential(nn.ReLU(), nn.Linear(8, 8))
        self._fc = nn.Linear(8, 6)
        self._scale = jt.array(np.float32([3]))

    def execute(self, x):
        x = nn.relu(self._bn0(self._conv_stem(x))).reshape((x.shape[0], -1))
        for block in self._blocks:
            x = nn.relu(block(x))
        return nn.relu(self._fc(self._inner(x)) * self._scale)


def test_a_module_whose_name_begins_with_an_underscore_is_like_any_other():
    packnet = PackNet(multi_head(Underscored()), 0.5)
    weights = {"_conv_stem", "_blocks.0", "_blocks.1", "_inner.1", "_fc"}
    assert set(packnet.owners) == {f"trunk.{name}.weight" for name in weights}
    kinds = {name: parameter.kind for name, parameter in packnet.parameters.items()}
    assert {name for name in kinds if name not in packnet.model.state_dict()} == {"trunk._scale"}
    assert kinds["trunk._fc.bias"] == kinds["trunk._bn0.running_mean"] == SHARED
    assert (
        packnet.parameters["trunk._scale"].hidden
        and not packnet.parameters["trunk._fc.bias"].hidden
    )
    three_tasks(packnet)
    assert packnet.model.trunk._scale.item() == 3
    own = PackNet(multi_head(Underscored()), 0.5, train_biases=True, train_bn=True).own_parameters()
    assert {"trunk._bn0.running_var", "trunk._fc.bias", "trunk._blocks.1.bias"} <= own.keys()


def test_outputs_that_a_module_keeps():
    class Keeps(nn.Module):
        def __init__(self, name):
            self.first, self.name = nn.Linear(48, 6), name
            self._weights = [self.first.weight]  # another way to a parameter is no second parameter

        def execute(self, x):
            setattr(self, self.name, self.first(x.reshape((x.shape[0], -1))))
            return nn.relu(getattr(self, self.name))

    packnet = PackNet(multi_head(Keeps("_seen")), 0.5)
    assert list(packnet.owners) == ["trunk.first.weight"]
    three_tasks(packnet)
    packnet = PackNet(multi_head(Keeps("seen")), 0.5)
    packnet.train_task("a", batches(0), 1)
    with pytest.raises(
        ValueError, match="trunk.seen has come into the network .* must begin with _"
    ):
        packnet.start_task("b")


# ---- heads


def test_only_a_dictionary_of_heads_is_one():
    class Vit(nn.Module):
        def __init__(self):
            self.heads = nn.Sequential(
                nn.Linear(48, 6)
            )  # as torchvision's vision transformer calls its last layer

        def execute(self, x):
            return self.heads(x.reshape((x.shape[0], -1)))

    packnet = PackNet(Vit())
    assert heads_of(packnet.model) == {} and list(packnet.owners) == ["heads.0.weight"]
    before = snapshot(packnet.model)
    packnet.train_task("a", batches(0), 1)
    assert all((snapshot(packnet.model)[name] != before[name]).any() for name in before)
    net = multi_head(Vit())
    assert (
        list(heads_of(net)) == list(TASKS)
        and PackNet(net).parameters["trunk.heads.0.weight"].kind == OWNED
    )
    three_tasks(PackNet(net, 0.5))


def test_a_head_may_be_added_later_and_nothing_else():
    net = networks.MultiHead(nn.Sequential(nn.Flatten(), nn.Linear(48, 6)), 6)
    packnet = PackNet(net)
    net.add_head("a", 3)
    packnet.train_task("a", batches(0), 1)
    assert packnet.is_head("heads.a.weight", "a") and not packnet.is_head("trunk.1.weight", "a")
    net.trunk.add_module("2", nn.Linear(6, 6))
    net.add_head("b", 3)
    with pytest.raises(ValueError, match=r"trunk.2.(weight|bias) has come into the network"):
        packnet.start_task("b")


# ---- what gradients reach


@pytest.mark.parametrize("what", ["weights", "filters"])
def test_no_step_works_out_anew_whose_weights_they_are(what):
    """Jittor computes an owner when it is asked for; within a step's kernel it is asked for, and
    not kept, each time."""
    packnet = PackNet(
        multi_head(nn.Sequential(nn.Conv(3, 4, 3), nn.Flatten(), nn.Linear(16, 6))),
        0.5,
        pruned_units=what,
    )
    for task in ("a", "b"):
        packnet.model.select(task)
        jt.sync_all()
        before = jt.liveness_info()["lived_ops"]
        packnet.start_task(task)
        jt.sync(list(packnet.model.parameters()))
        assert jt.liveness_info()["lived_ops"] <= before
        packnet.prune(task)
        jt.sync(list(packnet.model.parameters()))
        assert jt.liveness_info()["lived_ops"] <= before


def test_eval_before_training_stops_nothing():
    packnet = PackNet(
        multi_head(
            nn.Sequential(nn.Conv(3, 4, 3), nn.BatchNorm(4), nn.Flatten(), nn.Linear(16, 6))
        ),
        0.5,
    )
    packnet.model.eval()
    before = snapshot(packnet.model)
    packnet.train_task("a", batches(0), 1)
    after = snapshot(packnet.model)
    still = {name for name in before if not (before[name] != after[name]).any()}
    # The gradient of a bias before a batch norm is 0 but for rounding: on some processors it stays.
    assert still - {"trunk.0.bias"} == {
        f"heads.{task}.{what}" for task in "bc" for what in ("weight", "bias")
    }
    packnet.model.eval()
    packnet.prune("a")
    packnet.train_task("b", batches(1), 1)
    moved = {
        name for name, value in snapshot(packnet.model).items() if (value != after[name]).any()
    }
    assert moved == {"trunk.0.weight", "trunk.3.weight", "heads.b.weight", "heads.b.bias"}
    evaluated = multi_head(nn.Sequential(nn.Conv(3, 4, 3), nn.Flatten(), nn.Linear(16, 6)))
    evaluated.eval()
    three_tasks(PackNet(evaluated, 0.5))  # packed after it


def test_a_weight_whose_gradient_its_owner_stopped_is_left_alone():
    net = multi_head(nn.Sequential(nn.Conv(3, 4, 3), nn.Flatten(), nn.Linear(16, 6)))
    net.trunk[0].weight.stop_grad()
    before = snapshot(net)
    packnet = PackNet(net, 0.5)
    assert (
        list(packnet.owners) == ["trunk.2.weight"]
        and "no gradient" in packnet.parameters["trunk.0.weight"].reason
    )
    three_tasks(packnet)
    assert (snapshot(net)["trunk.0.weight"] == before["trunk.0.weight"]).all()


# ---- running statistics


class Remaking(nn.Module):
    """A norm of somebody's own, which makes its statistics anew instead of updating them."""

    def __init__(self, features):
        self.weight, self.running_mean, self.running_var = (
            jt.ones(features),
            jt.zeros(features).stop_grad(),
            jt.ones(features).stop_grad(),
        )

    def execute(self, x):
        if self.is_train:
            mean = x.mean((0, 2, 3))
            self.running_mean = 0.5 * self.running_mean + 0.5 * mean
            self.running_var = 0.5 * self.running_var + 0.5 * (
                (x - mean.broadcast(x, [0, 2, 3])) ** 2
            ).mean((0, 2, 3))
        scale = self.weight / jt.sqrt(self.running_var + 1e-5)
        return (x - self.running_mean.broadcast(x, [0, 2, 3])) * scale.broadcast(x, [0, 2, 3])


@pytest.mark.parametrize("train_bn", [False, True])
@pytest.mark.parametrize("by_hand", [False, True], ids=["train_task", "model.train"])
def test_a_norm_that_makes_its_statistics_anew(train_bn, by_hand):
    net = multi_head(nn.Sequential(nn.Conv(3, 4, 3), Remaking(4), nn.Flatten(), nn.Linear(16, 6)))
    packnet = PackNet(net, 0.5, train_bn=train_bn)

    def train(task, data):
        if task not in packnet.tasks:
            packnet.start_task(task)
        optimizer = nn.SGD(
            list(packnet.trainable().values()), 0.05, momentum=0.9, weight_decay=1e-2
        )
        net.select(task)
        net.train()  # which packnet.set_training would not do for a norm that is shared
        for images, labels in data:
            optimizer.step(nn.cross_entropy_loss(net(images), labels))

    start = snapshot(net)
    three_tasks(packnet, train if by_hand else None)
    assert (snapshot(net)["trunk.1.running_mean"] != start["trunk.1.running_mean"]).all()
    assert packnet.parameters["trunk.1.running_mean"].kind == (PRIVATE if train_bn else SHARED)


# ---- copies and state dicts


def packed(tasks=2):
    packnet = PackNet(
        multi_head(
            nn.Sequential(nn.Conv(3, 4, 3), nn.BatchNorm(4), nn.Flatten(), nn.Linear(16, 6))
        ),
        0.5,
    )
    for number, task in enumerate(TASKS[:tasks]):
        packnet.train_task(task, batches(number), 1, lr=0.05)
        packnet.prune(task)
    return packnet


def test_a_deep_copy_is_frozen_too_and_goes_its_own_way():
    packnet = packed()
    packnet.start_task("c")
    kept, before = (
        {task: packnet.predict(task, batches(9))[0] for task in "ab"},
        snapshot(packnet.model),
    )
    twin = copy.deepcopy(packnet)
    twin.train_task("c", batches(2), 1, lr=0.05, weight_decay=1e-2)
    assert all(
        np.array_equal(twin.predict(task, batches(9))[0], logits) for task, logits in kept.items()
    )
    assert twin.tasks == packnet.tasks == [*"abc"]
    assert all((snapshot(packnet.model)[name] == before[name]).all() for name in before)
    assert (snapshot(twin.model)["trunk.0.weight"] != before["trunk.0.weight"]).any()


def test_a_deep_copy_of_the_model_alone_is_frozen_too():
    packnet = packed()
    packnet.start_task("c")
    net = copy.deepcopy(packnet.model)
    before = snapshot(net)
    net.select("c")
    net.train()
    optimizer = nn.SGD(net.parameters(), 0.1, momentum=0.9, weight_decay=1e-2)
    for images, labels in batches(2, 2):
        optimizer.step(nn.cross_entropy_loss(net(images), labels))
    for name, value in snapshot(net).items():
        if name in packnet.owners:
            mine = packnet.owners[name].numpy() == 3
            assert (value[~mine] == before[name][~mine]).all() and (
                value[mine] != before[name][mine]
            ).any(), name
        elif not name.startswith("heads.c"):
            assert (value == before[name]).all(), name
    weight = copy.deepcopy(
        packnet.weights["trunk.0.weight"]
    )  # a copy of the numbers alone is an array like any other
    weight.update(jt.zeros(weight.shape))
    assert (weight.numpy() == 0).all()


@pytest.mark.parametrize("part", ["the network", "a layer"])
def test_loading_a_state_dict_loads_all_of_it(part):
    packnet, other = packed(), packed()
    other.model.trunk[0].weight.assign(jt.randn(other.model.trunk[0].weight.shape))
    wanted = snapshot(other.model)
    if part == "the network":
        packnet.model.load_state_dict(wanted)
        assert all((snapshot(packnet.model)[name] == wanted[name]).all() for name in wanted)
    else:
        packnet.model.trunk[0].load_state_dict({"weight": wanted["trunk.0.weight"]})
        assert (snapshot(packnet.model)["trunk.0.weight"] == wanted["trunk.0.weight"]).all()
    kept = packnet.predict("a", batches(9))[0]
    packnet.train_task("c", batches(2), 1, lr=0.05, weight_decay=1e-2)
    assert np.array_equal(packnet.predict("a", batches(9))[0], kept)  # and it is frozen as before


# ---- a task's view


def test_an_exception_while_a_view_is_entered_changes_nothing():
    """Ctrl-C at every line between the call and the body of the with statement."""
    packnet = packed(3)
    before, code = snapshot(packnet.model), PackNet.task_view.__wrapped__.__code__
    for number in range(200):
        left = number

        def interrupt(frame, event, _):
            nonlocal left
            if frame.f_code is code and event == "line":
                left -= 1
                if left < 0:
                    sys.settrace(None)
                    raise KeyboardInterrupt
            return interrupt if frame.f_code is code else None

        view = packnet.task_view("a")
        sys.settrace(interrupt)
        try:
            view.__enter__()
            sys.settrace(None)
            view.__exit__(None, None, None)
            break
        except KeyboardInterrupt:
            pass
        finally:
            sys.settrace(None)
        assert all((snapshot(packnet.model)[name] == before[name]).all() for name in before), number
    assert 10 < number < 199


def test_a_head_that_cannot_be_selected_changes_nothing():
    packnet = packed(3)
    before = snapshot(packnet.model)
    del packnet.model.heads.layers["a"]
    with pytest.raises(ValueError, match="no head"), packnet.task_view("a"):
        pass
    assert all(
        (snapshot(packnet.model)[name] == before[name]).all()
        for name in before
        if not name.startswith("heads.a")
    )


def test_nothing_else_is_done_within_a_view():
    packnet = packed(2)
    before = packnet.predict("b", batches(0))[0]
    with packnet.task_view("a"):
        for act in (
            lambda: packnet.evaluate_task("b", batches(0)),
            lambda: packnet.prune("b"),
            lambda: packnet.start_task("c"),
            lambda: packnet.train_task("b", batches(0), 1),
        ):
            with pytest.raises(ValueError, match="view of task 'a' is entered"):
                act()
    assert packnet.tasks == ["a", "b"]
    assert np.array_equal(packnet.predict("b", batches(0))[0], before)


# ---- the table


def test_describe_accounts_for_everything():
    net = networks.build("vgg-bn-slim")
    net.add_head("a", 5)
    for options in ({}, dict(train_bn=True, train_biases=True)):
        packnet = PackNet(net, **options)
        lines = packnet.describe().splitlines()
        rows = {line.split()[0]: line.split()[1:3] for line in lines[1 : lines.index("")]}
        assert rows.keys() == net.state_dict().keys()
        assert rows["trunk.features.0.weight"] == ["16x3x3x3", "owned"] and rows[
            "heads.a.bias"
        ] == ["5", "head"]
        assert rows["trunk.features.1.running_mean"] == ["16", "private" if options else "shared"]
        assert rows["trunk.features.0.bias"][1] == ("private" if options else "shared")
        counts = {
            line.split()[0]: int(line.split()[1].replace(",", ""))
            for line in lines[lines.index("") + 1 :]
        }
        total = sum(parameter.numel() for parameter in net.state_dict().values())
        owned = sum(weight.numel() for weight in packnet.weights.values())
        assert counts["all"] == total and counts["owned"] == owned and counts["head"] == 5 * 129
        assert (
            sum(counts.values()) == 2 * total
            and f"{100 * owned / total:.2f} % are packed" in lines[-1]
        )


def test_the_names_are_those_of_the_state_dict():
    for arch in ("vgg-bn-slim", "resnet-slim", "densenet-slim"):
        net = networks.build(arch)
        assert list(parameters_of(net)) == list(net.state_dict())
