"""What Jittor does otherwise than PyTorch, in networks of the user's own: buffers, eval and train,
requires_grad_, dropout, bytes and bools, and batch norms that see one value. A run is right, or
refuses by name."""

import copy

import numpy as np
import pytest
from conftest import ROOT, jt

import main
import networks
from packing.loops import starved_norm
from pruning import PackNet, PackNetPruning
from runs.network import contents
from trunks.differs import differences

nn = jt.nn
TASKS = ("a", "b", "c")
CONSTANT = np.float32([0.3, 1.7, -0.9, 1 / 3])
BYTES = np.uint8([1, 0, 1, 1])
BOOLS = np.array([True, True, False, True])


class Masked(nn.Module):
    """A constant, masks of bytes and of bools, and a constant that no file holds, as buffers."""

    def __init__(self):
        self.conv, self.out = nn.Conv(3, 4, 3), nn.Linear(16, 6)
        self.register_buffer("constant", jt.array(CONSTANT))
        self.register_buffer("bytes", jt.array(BYTES))
        self.register_buffer("bools", jt.array(BOOLS))
        self.register_buffer("unstored", jt.array(CONSTANT), persistent=False)

    def execute(self, x):
        x = self.conv(x).transpose(0, 2, 3, 1)
        x = x * (self.constant + self.unstored) * self.bytes + x * (1 - self.bytes) * self.bools
        return nn.relu(self.out(x.reshape((x.shape[0], -1))))

    def unchanged(self):
        return all(
            np.array_equal(buffer.numpy(), start)
            for buffer, start in (
                (self.constant, CONSTANT),
                (self.bytes, BYTES),
                (self.bools, BOOLS),
                (self.unstored, CONSTANT),
            )
        )


def with_heads(trunk, features=6):
    net = networks.MultiHead(trunk, features)
    for task in TASKS:
        net.add_head(task, 3)
    return net


def batches(seed, count=2, size=4):
    rng = np.random.default_rng(seed)
    return [
        (
            jt.array(rng.normal(1, 2, (size, 3, 4, 4)).astype(np.float32)),
            jt.array(rng.integers(0, 3, size)),
        )
        for _ in range(count)
    ]


def snapshot(model):
    return {name: parameter.numpy().copy() for name, parameter in model.state_dict().items()}


# ---- buffers


def plain_optimizer(packnet, task, data):
    """Given all that Jittor calls a parameter, as people do."""
    if task not in packnet.tasks:
        packnet.start_task(task)
    packnet.model.select(task)
    packnet.model.eval()
    packnet.model.train()
    optimizer = nn.Adam(packnet.model.parameters(), 0.01, weight_decay=1e-2)
    for images, labels in data:
        optimizer.step(nn.cross_entropy_loss(packnet.model(images), labels))


def train_task(packnet, task, data):
    packnet.train_task(task, data, 2, lr=0.05, weight_decay=1e-2)


@pytest.mark.parametrize("train", [train_task, plain_optimizer])
@pytest.mark.parametrize("copied", [False, True])
def test_masks_and_constants_kept_as_buffers_stay_to_the_bit(train, copied):
    net = with_heads(Masked())
    packnet = PackNet(copy.deepcopy(net) if copied else net, 0.5)
    trunk, kept = packnet.model.trunk, {}
    buffers = {f"trunk.{name}" for name in ("constant", "bytes", "bools", "unstored")}
    for number, task in enumerate(TASKS):
        before = snapshot(packnet.model)
        train(packnet, task, batches(number))
        packnet.prune(task)
        train(packnet, task, batches(number))
        assert trunk.unchanged() and not buffers & packnet.trainable().keys()
        assert (snapshot(packnet.model)["trunk.out.weight"] != before["trunk.out.weight"]).any()
        kept[task] = packnet.predict(task, batches(9))[0]
        for old, logits in kept.items():
            assert np.array_equal(packnet.predict(old, batches(9))[0], logits), (old, task)
    assert packnet.parameters["trunk.constant"].reason == "a buffer of Masked"
    packed = contents(packnet)
    assert (
        packed.parameters["trunk.bytes"].dtype == np.uint8
        and "trunk.unstored" not in packed.parameters
    )
    again = PackNet(with_heads(Masked()), 0.5)
    networks.assign(again.model, packed.parameters, "x")
    again.restore(list(TASKS), packed.owners)
    assert again.model.trunk.unchanged()
    for task in TASKS:
        assert np.array_equal(again.predict(task, batches(9))[0], kept[task])


# ---- eval, train and stop_grad


def stem_and_rest():
    return nn.Sequential(nn.Conv(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(16, 6))


@pytest.mark.parametrize(
    "order",
    [
        ("eval", "stop", "train"),
        ("eval", "train", "stop"),
        ("stop", "eval", "train"),
        ("eval", "train", "stop", "eval", "train"),
        ("stop",),
        ("stop", "eval"),
    ],
    ids=" ".join,
)
def test_what_was_frozen_on_purpose_stays_frozen(order):
    net = with_heads(stem_and_rest())
    for call in order:
        if call == "stop":
            net.trunk[0].weight.stop_grad()
        else:
            getattr(net, call)()
    packnet = PackNet(net, 0.5)
    assert "trunk.0.weight" not in packnet.owners
    before = snapshot(net)
    train_task(packnet, "a", batches(0))
    plain_optimizer(packnet, "a", batches(0))
    after = snapshot(net)
    assert (after["trunk.0.weight"] == before["trunk.0.weight"]).all()
    assert (after["trunk.3.weight"] != before["trunk.3.weight"]).any()


def test_a_layer_in_test_mode_trains_again_when_the_network_does():
    net = with_heads(stem_and_rest())
    net.trunk[0].eval()
    net.train()
    before = snapshot(net)
    plain_optimizer(PackNet(net, 0.5), "a", batches(0))
    assert (snapshot(net)["trunk.0.weight"] != before["trunk.0.weight"]).any()


def test_what_jittors_own_eval_has_stopped_before_is_trained():
    """It leaves its notes in the module."""
    for train in (train_task, plain_optimizer):
        net = with_heads(stem_and_rest())
        net.backup_grad_state = {id(parameter): True for parameter in net.parameters()}
        for parameter in net.parameters():
            parameter.stop_grad()
        packnet, before = PackNet(net, 0.5), snapshot(net)
        assert "trunk.0.weight" in packnet.owners
        train(packnet, "a", batches(0))
        assert (snapshot(net)["trunk.0.weight"] != before["trunk.0.weight"]).any()


def test_requires_grad_of_a_module_is_refused_by_name():
    net = with_heads(stem_and_rest())
    net.trunk[3].requires_grad_(False)
    for pack in (PackNet, lambda model: PackNetPruning.prune_model(model, 0.5)):
        with pytest.raises(
            ValueError, match=r"trunk\.3 cannot be packed: .*requires_grad_.*stop_grad"
        ):
            pack(net)
    net.trunk[3].requires_grad_(True)
    packnet = PackNet(net, 0.5)
    packnet.start_task("a")
    net.trunk[0].requires_grad_(False)  # later
    with pytest.raises(ValueError, match=r"trunk\.0 cannot be packed"):
        packnet.train_task("a", batches(0), 1)


# ---- dropout


def test_a_new_dropout_drops_in_training_and_never_in_a_test():
    seen = []

    class Watched(nn.Dropout):
        def execute(self, x):
            y = super().execute(x)
            seen.append((y == 0).numpy().mean() - (x == 0).numpy().mean())
            return y

    net = with_heads(nn.Sequential(nn.Flatten(), nn.Linear(48, 6), Watched(0.5)))
    packnet = PackNet(net, 0.5)
    packnet.train_task("a", batches(0, size=64), 1)
    assert len(seen) == 2 and all(0.4 < share < 0.6 for share in seen)
    seen.clear()
    packnet.predict("a", batches(0))
    assert seen == [0, 0]


def test_a_dropout_where_jittor_does_not_see_it_is_refused():
    class Listed(nn.Module):
        def __init__(self, name, make):
            self.out = nn.Linear(48, 6)
            setattr(self, name, make([nn.Dropout(0.5), nn.ReLU()]))

    with pytest.raises(
        ValueError, match=r"trunk\.drops\.0 would never drop anything.*nn\.ModuleList"
    ):
        PackNet(with_heads(Listed("drops", list)))
    with pytest.raises(ValueError, match=r"trunk\.drops\.x would never"):
        PackNet(with_heads(Listed("drops", lambda layers: {"x": layers[0]})))

    class Beside(nn.Sequential):
        """As the layers of Jittor's DenseNet, whose rate is 0."""

        def __init__(self, rate):
            super().__init__(nn.Flatten(), nn.Linear(48, 6))
            self.drop = nn.Dropout(rate)

    with pytest.raises(ValueError, match=r"trunk\.drop would never .* beside the layers"):
        PackNet(with_heads(Beside(0.5)))
    PackNet(with_heads(Beside(0)))
    PackNet(with_heads(Listed("drops", nn.ModuleList)))
    PackNet(with_heads(Listed("_teachers_drops", list)))  # hidden on purpose


# ---- arithmetic of bytes, and means of bools


def test_owners_of_more_than_127_tasks():
    """Jittor's uint8 minus, or plus, uint8 is signed."""
    layer = nn.Linear(40, 30)
    packnet, rng = PackNet(nn.Sequential(layer)), np.random.default_rng(0)
    owners = np.zeros((30, 40), np.uint8)
    for k in range(1, 256):
        packnet.start_task(k)
        weight = rng.normal(size=owners.shape).astype(np.float32)
        mine = owners == 0
        layer.weight.assign(jt.array(np.where(mine, weight, layer.weight.numpy())))
        packnet.prune(k, 0.97)
        magnitudes = np.sort(np.abs(weight[mine]))
        limit = magnitudes[round(0.97 * mine.sum()) - 1]
        owners[mine & (np.abs(weight) > limit)] = k
    assert np.array_equal(packnet.owners["0.weight"].numpy(), owners) and owners.max() > 127
    with packnet.task_view(200) as view:
        shown = (owners > 0) & (owners <= 200)
        assert np.array_equal(view[0].weight.numpy() != 0, shown)
    with pytest.raises(ValueError, match="at most 255"):
        packnet.start_task(256)


def test_masks_of_the_caller_may_be_of_any_kind():
    for kind in (bool, np.uint8, np.int32, np.float32):
        layer = nn.Linear(4, 3)
        before = layer.weight.numpy().copy()
        keep = np.zeros((3, 4), kind)
        keep[0] = 200 if kind is np.uint8 else 1
        model = nn.Sequential(layer)
        for masks in ({"0.weight": keep}, [{"0.weight": jt.array(keep)}] * 2):
            kept = PackNetPruning.prune_model(model, 1.0, masks)["0.weight"].numpy()
            assert not kept.any()
            assert np.array_equal(layer.weight.numpy(), np.where(keep != 0, before, 0))


def test_accuracy_is_that_of_numpy():
    """Jittor's mean of bools is 0."""
    packnet = PackNet(with_heads(Masked()), 0.5)
    packnet.train_task("a", batches(0), 1)
    logits, labels = packnet.predict("a", batches(1, 5))
    right = [int(np.argmax(row)) == int(label) for row, label in zip(logits, labels)]
    assert packnet.evaluate_task("a", batches(1, 5)) == 100 * sum(right) / len(right) > 0


# ---- a batch norm that sees one value per channel


def pooled_norm():
    return nn.Sequential(
        nn.Conv(3, 4, 4), nn.BatchNorm(4), nn.ReLU(), nn.Flatten(), nn.Linear(4, 6)
    )


@pytest.mark.parametrize(
    "make, size, expected",
    [
        (pooled_norm, 1, "trunk.1"),
        (pooled_norm, 2, None),
        (
            lambda: nn.Sequential(
                nn.Conv(3, 4, 3), nn.BatchNorm(4), nn.Flatten(), nn.Linear(16, 6)
            ),
            1,
            None,
        ),
        (lambda: nn.Sequential(nn.Flatten(), nn.Linear(48, 6), nn.BatchNorm1d(6)), 1, "trunk.2"),
    ],
)
def test_which_batch_norm_sees_one_value(make, size, expected):
    net = with_heads(make())
    net.select("a")
    net.train()
    before = snapshot(net)
    images = batches(0, 1, size)[0][0]
    assert starved_norm(net, images) == expected
    assert starved_norm(net, images, (0, 2)) is None  # another process has more of it
    assert all((value == before[name]).all() for name, value in snapshot(net).items())
    assert all(layer.is_train for layer in net.modules()) and not any(
        "execute" in vars(layer) for layer in net.modules()
    )
    net.eval()
    assert starved_norm(net, images) is None


def test_train_task_refuses_such_a_batch_by_name_as_pytorch_does():
    torch = pytest.importorskip("torch")
    packnet = PackNet(with_heads(pooled_norm()), 0.5)
    with pytest.raises(ValueError, match=r"batch norm trunk\.1 sees one value per channel"):
        packnet.train_task("a", batches(0) + batches(1, 1, size=1), 1)
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        torch.nn.BatchNorm2d(4)(torch.zeros(1, 4, 1, 1))
    packnet.train_task("a", batches(0), 1)
    packnet.prune("a")
    packnet.train_task("b", batches(1, 1, size=1), 1)  # a norm that stands still needs no variance


# ---- labels


@pytest.mark.parametrize("labels", [[1, 2, 3, 1], [0, 1, -1, 2]])
def test_a_label_that_is_no_class_is_refused(labels):
    """Jittor leaves such images out of the loss: classes numbered from 1 would train but one."""
    images = batches(0, 1)[0][0]
    stray = 3 if 3 in labels else -1
    packnet = PackNet(with_heads(stem_and_rest()), 0.5)
    with pytest.raises(ValueError, match=f"label {stray} is none of the 3 classes .* 0 to 2"):
        packnet.train_task("a", [(images, jt.array(labels))], 1)
    packnet.train_task("a", [(images, jt.array([0, 1, 2, -100]))], 1)


# ---- layers of a network of the user's own that mean something else: docs/jittor.md by its lines


class Shifted(nn.Module):
    """What a norm is given: numbers of this mean, and of deviation 1."""

    def __init__(self, norm, mean, shape=None):
        self.norm, self.mean, self.shape = norm, mean, shape

    def execute(self, x):
        x = self.norm((x + self.mean).reshape(self.shape or x.shape))
        return x.reshape((x.shape[0], -1))


class Read(nn.Module):
    """Rows of an image as a sequence."""

    def __init__(self, **named):
        self.rnn = nn.GRU(36, 5, **named)

    def execute(self, x):
        return self.rnn(x.reshape((x.shape[0], -1, 36)))[0]


def averaging(**named):
    return nn.Pool(3, stride=2, padding=1, op="mean", **named)


OWN_LAYERS = {
    "padding counted": (2, lambda: averaging(count_include_pad=False), "count_include_pad=False"),
    "cells": (3, lambda: nn.AdaptiveAvgPool2d(5), "makes 5 x 5 cells of 12 x 12, which do not"),
    "cells by rows": (3, lambda: nn.AdaptiveAvgPool2d((None, 5)), "makes 12 x 5 cells of 12 x 12"),
    "largest": (3, lambda: nn.AdaptiveMaxPool2d(7), "AdaptiveMaxPool2d makes 7 x 7 cells"),
    "sequence": (6, lambda: Read(batch_first=True), "gives (sequence, batch, features)"),
    "all classes": (8, lambda: nn.Softmax(), "over the whole batch"),
    "batch norm": (10, lambda: Shifted(nn.BatchNorm(3), 1000), "BatchNorm is given numbers of"),
    "instance norm": (10, lambda: Shifted(nn.InstanceNorm2d(3), -1000), "InstanceNorm is given"),
    "group norm": (10, lambda: Shifted(nn.GroupNorm(3, 3), 1000), "GroupNorm is given"),
    "layer norm": (11, lambda: Shifted(nn.LayerNorm(48), 1000, (-1, 48)), "LayerNorm is given"),
}
SAME_IN_BOTH = {
    "padding": lambda: averaging(),
    "left out": lambda: averaging(count_include_pad=False, ceil_mode=True),
    "none to leave out": lambda: nn.Pool(3, op="mean", count_include_pad=False),
    "the largest": lambda: nn.Pool(3, padding=1, op="maximum", count_include_pad=False),
    "even cells": lambda: nn.AdaptiveAvgPool2d((4, None)),
    "one cell": lambda: nn.AdaptiveMaxPool2d(1),
    "classes": lambda: nn.Softmax(dim=-1),
    "classes by place": lambda: nn.Softmax(1),
    "batch norm": lambda: Shifted(nn.BatchNorm(3), 100),
    "layer norm": lambda: Shifted(nn.LayerNorm(48), 100, (-1, 48)),
}


def said_of(layer):
    net = nn.Sequential(layer)
    images = jt.array(np.random.default_rng(0).normal(size=(2, 3, 12, 12)).astype(np.float32))
    before = {name: dict(vars(module)) for name, module in net.named_modules()}
    said = differences(net, lambda: net(images).sync())
    for name, module in net.named_modules():  # it leaves nothing behind
        assert vars(module).keys() - before[name].keys() <= {"sh", "sw", "ksh", "ksw"}
    return said


@pytest.mark.parametrize("name", OWN_LAYERS)
def test_a_layer_that_means_something_else_is_named_with_its_line(name):
    number, make, says = OWN_LAYERS[name]
    (sentence,) = said_of(make())
    assert sentence.startswith("0") and says in sentence
    assert sentence.endswith(f"(docs/jittor.md, line {number})")
    page = (ROOT / "docs/jittor.md").read_text()
    (line,) = [line for line in page.splitlines() if line.startswith(f"| {number} |")]
    words = {2: "count_include_pad", 3: "Adaptive", 6: "batch_first", 8: "Softmax"}
    assert words.get(number, "Norm") in line


@pytest.mark.parametrize("name", SAME_IN_BOTH)
def test_a_layer_that_means_the_same_is_not_named(name):
    assert said_of(SAME_IN_BOTH[name]()) == []


def test_the_command_line_says_what_a_network_does_otherwise(tmp_path, capsys):
    """Lines 3 and 64; the second is refused, as no dropout may be silent."""
    path = tmp_path / "my_net.py"
    path.write_text(
        "from jittor import models, nn\n\n\ndef build():\n"
        "    return nn.Sequential(nn.Conv(3, 4, 3), nn.AdaptiveAvgPool2d(3), nn.Flatten(),"
        " nn.Linear(36, 5))\n\n\n"
        "def dense():\n    return models.densenet.DenseNet(12, (2, 2, 2, 2), 16, drop_rate=0.2)\n"
    )
    assert main.main(["--arch", f"{path}:build", "--image-size", "12", "--dry-run"]) == 0
    warning = f"warning: --arch {path}:build: 1: AdaptiveAvgPool2d makes 3 x 3 cells of 10 x 10"
    assert warning in capsys.readouterr().out
    assert main.main(["--arch", f"{path}:build", "--image-size", "11", "--dry-run"]) == 0
    assert "warning" not in capsys.readouterr().out
    assert main.main(["--arch", f"{path}:dense", "--image-size", "64", "--dry-run"]) == 2
    error = capsys.readouterr().err
    assert "denselayer1.drop would never drop anything" in error and error.count("\n") == 1
