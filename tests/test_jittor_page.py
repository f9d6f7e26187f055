"""docs/jittor.md: each numbered line of it is what Jittor does.

The checks run in one process of their own (this file, called as a program), as what another test
has imported changes Jittor's modules (packing/freezing.py). Values are computed by hand, or are
what the page says.
"""

import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[1]
NAN = float("nan")


def values(var) -> list:
    return var.numpy().tolist()


def dropout():
    layer = nn.Dropout(0.5)
    fresh = float(layer(jt.ones(1000)).min().item())
    layer.train()
    return fresh, float(layer(jt.ones(1000)).min().item())


def times_a_mask():
    x = jt.array(np.float32([1, -2, 3]))
    mask = x > 0
    halves = [str((number * mask).dtype) for number in (1e5, jt.ones(3), x.mean())]
    beyond = values(mask * 1e5)[0]
    right = str((mask.float32() * 1e5).dtype)
    return halves[0], NAN if np.isinf(beyond) else beyond, *halves[1:], right


def computed_beside():
    """Whether what was made before a result, and what was made after it, is computed with it."""
    folder = tempfile.mkdtemp(dir=made)
    x = jt.array(np.ones(4, np.float32))
    x.sync()
    files = [Path(folder) / name for name in ("before", "asked", "after")]
    results = [
        jt.code(
            x.shape,
            x.dtype,
            [x],
            cpu_src=f"""fclose(fopen("{file}", "w"));
                for (int i = 0; i < in0_shape0; i++) out0_p[i] = in0_p[i];""",
        )
        for file in files
    ]
    results[1].numpy()
    return files[0].exists(), files[2].exists()


def running_variance():
    norm = nn.BatchNorm(1, momentum=1)
    norm(jt.array(np.float32([0, 2]).reshape(2, 1, 1, 1)))
    return values(norm.running_var)


def spread_after(norm, shape):
    """Of data of mean 1000 and deviation 0.1: what is left of their variance is rounding, another
    one each time and on each processor; of a batch norm about half of them show it."""
    drawn = [np.random.default_rng(seed).normal(1000, 0.1, shape) for seed in range(40)]
    return max(norm(jt.array(x.astype(np.float32))).numpy().std() for x in drawn)


class Buffered:
    """Made when Jittor runs."""

    def __new__(cls):
        class Net(nn.Module):
            def __init__(self):
                self.linear = nn.Linear(1, 1)
                self.register_buffer("mask", jt.ones(1))

            def execute(self, x):
                return self.linear(x) * self.mask

        return Net()


def names_of_parameters(net):
    return [name for name, _ in net.named_parameters()]


def moved_buffer():
    net = Buffered()
    optimizer = nn.SGD(net.parameters(), 0.1)
    optimizer.step(net(jt.ones((1, 1))).sum() + 1)
    return values(net.mask) != [1.0]


def thawed():
    net = nn.Linear(1, 1)
    net.eval()
    net.train()
    net.weight.stop_grad()
    net.eval()
    net.train()
    return net.weight.is_stop_grad()


def cut_gradient():
    first, second = nn.Linear(1, 1), nn.Linear(1, 1)
    second.requires_grad_(False)
    loss = second(first(jt.ones((1, 1)))).sum()
    return jt.grad(loss, first.weight).abs().sum().item()


class Underscored:
    def __new__(cls):
        class Net(nn.Module):
            def __init__(self):
                self._scale, self.bias = jt.ones(1), jt.ones(1)

        return Net()


def loaded_half():
    net = nn.Linear(1, 1)
    net.load_state_dict({"weight": np.ones((1, 1), np.float16)})
    return str(net.weight.dtype)


def class_weights():
    weight = jt.array([1.0, 1.0])
    nn.nll_loss(jt.array([[-1.0, -2.0]]), jt.array([0]), weight, ignore_index=1).sync()
    return values(weight)


def adam_after(passes):
    weight = jt.array([1.0])
    optimizer = nn.Adam([weight], 0.1)
    for _ in range(passes):
        optimizer.backward(weight.sum())
    optimizer.step()
    return 1 - weight.item()


def second_step():
    weight = jt.array([1.0])
    optimizer, loss = nn.SGD([weight], 0.1), (weight * 1.0).sum()
    optimizer.step(loss)
    optimizer.step(loss)
    return weight.item()


def rates(schedule, *arguments, **named):
    """After each of three steps from learning rate 1."""
    optimizer = nn.SGD([jt.ones(1)], 1.0)
    scheduler = schedule(optimizer, *arguments, **named)
    seen = []
    for _ in range(3):
        scheduler.step()
        seen.append(optimizer.lr)
    return seen


def rate_of_groups():
    optimizer = nn.SGD([{"params": [jt.ones(1)]} for _ in range(3)], 1.0)
    scheduler = lr_scheduler.ReduceLROnPlateau(optimizer, factor=0.5, patience=0)
    scheduler.step(1.0)
    scheduler.step(1.0)
    return optimizer.lr


def picture(width, height):
    return Image.fromarray(np.zeros((height, width, 3), np.uint8))


def shapes_of_random_crops():
    """Of crops with one number for a size, and with two: whether some are no squares of 8 pixels,
    and whether all are. A crop's own shape is drawn, and one in a few is a square by chance."""
    one, two = transform.RandomCropAndResize(8), transform.RandomCropAndResize((8, 8))
    some = any(one(picture(40, 20)).size != (8, 8) for _ in range(100))
    return [some, all(two(picture(40, 20)).size == (8, 8) for _ in range(100))]


def images_of(folder):
    """Of class/sub/1.png."""
    (folder / "class" / "sub").mkdir(parents=True)
    picture(2, 2).save(folder / "class" / "sub" / "1.png")
    return [
        Path(name).relative_to(folder).as_posix()
        for name, _ in dataset.ImageFolder(str(folder)).imgs
    ]


class Numbers:
    def __new__(cls, **named):
        class Set(dataset.Dataset):
            def __init__(self):
                super().__init__(**named)
                self.set_attrs(total_len=8)

            def __getitem__(self, index):
                return index

        return Set()


def orders():
    seen = []
    for seed in (1, 2):
        jt.set_global_seed(seed)
        order = []
        for batch in Numbers(shuffle=True, batch_size=8):
            order += map(int, values(batch))
        seen.append(order)
    return seen[0] == seen[1] != sorted(seen[0])


def second_loader():
    numbers = Numbers(batch_size=2)
    first = dataset.DataLoader(numbers, batch_size=2)
    dataset.DataLoader(numbers, batch_size=4)
    return len(first)


def aliased():
    x = jt.array([1.0, 2.0])
    x.data[0] = 5
    x.numpy()[1] = 5
    return values(x)


def scattered():
    x = jt.ones(3)
    x.scatter(0, jt.array([1]), jt.array([6.0]), reduce="add").sync()
    return values(x)


def refused(call) -> bool:
    try:
        call()
    except Exception:
        return True
    return False


def row(*numbers):
    return jt.array(np.float32(numbers))


def average(**named):
    """Of the corner, where one of four values is no padding."""
    pool = nn.Pool(2, stride=2, padding=1, op="mean", **named)
    return pool(jt.ones((1, 1, 4, 4))).numpy()[0, 0, 0, 0]


def dropped():
    """Whether a DenseNet of the zoo drops in training, and whether its layers are told to."""
    net = models.densenet.DenseNet(4, (1, 1), 8, drop_rate=0.5, num_classes=3)
    net.train()
    images = jt.array(np.random.default_rng(0).normal(size=(2, 3, 32, 32)).astype(np.float32))
    passes = [values(net(images)) for _ in range(2)]
    return passes[0] != passes[1], net.features["denseblock1"]["denselayer1"].drop.is_train


def hooked():
    """Which of two hooks run, and whether the class is what it was."""

    class Layer(nn.Module):
        def execute(self, x):
            return x

    ran, layer, before = [], Layer(), Layer.__call__
    for name in ("first", "second"):
        layer.register_forward_hook(lambda *_, name=name: ran.append(name))
    layer(jt.ones(1))
    layer.remove_forward_hook()
    return ran, Layer.__call__ is before


def pre_hooked(returned):
    class Sum(nn.Module):
        def execute(self, x, y):
            return x + y

    layer = Sum()
    layer.register_pre_forward_hook(returned)
    return values(layer(row(1), row(2)))


def nan_of_maximum():
    """The share of NaN among eight maxima where one side is all NaN: less first, as the compiler
    decides which side that is."""
    nans, ones = row(*[NAN] * 8), row(*[1] * 8)
    both = jt.maximum(nans, ones), jt.maximum(ones, nans)
    return sorted(float(np.isnan(values(x)).mean()) for x in both)


# {number of the line: (what is done, what comes out)}
CHECKS = {
    # layers
    1: (dropout, (1, 0)),
    2: (
        lambda: (
            average(count_include_pad=False),
            average(count_include_pad=False, ceil_mode=True),
        ),
        (0.25, 1),
    ),
    3: (
        lambda: values(
            nn.AdaptiveAvgPool2d((1, 3))(row(0, 1, 2, 3, 4).reshape(1, 1, 1, 5))[0, 0, 0]
        ),
        [1, 2, 3],
    ),
    4: (lambda: refused(lambda: nn.Pool(4, op="maximum")(jt.ones((1, 1, 4, 4))).sync()), True),
    5: (
        lambda: values(nn.interpolate(row(0, 4).reshape(1, 1, 1, 2), (1, 4))[0, 0, 0]),
        [0, 1, 3, 4],
    ),
    6: (lambda: nn.LSTM(2, 5, batch_first=True)(jt.ones((3, 4, 2)))[0].shape, [4, 3, 5]),
    7: (
        lambda: [hasattr(nn, name) for name in ("Hardswish", "Hardsigmoid", "Hardtanh", "SELU")],
        [False] * 4,
    ),
    8: (lambda: values(nn.Softmax()(jt.zeros((2, 2)))), [[0.25, 0.25]] * 2),
    # norms
    9: (running_variance, [1]),
    10: (lambda: spread_after(nn.BatchNorm(1), (8, 1, 16, 16)) > 5, True),
    11: (lambda: spread_after(nn.LayerNorm(256), (8, 256)) > 5, True),
    12: (lambda: nn.InstanceNorm2d(2).weight.shape, [2]),
    # modules
    13: (
        lambda: names_of_parameters(nn.BatchNorm(1)),
        ["weight", "bias", "running_mean", "running_var"],
    ),
    14: (moved_buffer, True),
    15: (thawed, False),
    16: (cut_gradient, 0),
    17: (lambda: list(Underscored().state_dict()), ["bias"]),
    # losses
    18: (lambda: nn.cross_entropy_loss(jt.zeros((2, 2)), jt.array([0, 7])).item(), np.log(2)),
    19: (class_weights, [1, 0]),
    20: (lambda: np.isnan(nn.KLDivLoss()(row(-1, -1), row(0, 1)).item()), True),
    21: (lambda: (hasattr(nn, "SmoothL1Loss"), hasattr(nn, "smooth_l1_loss")), (False, True)),
    # optimizers
    22: (lambda: (adam_after(1), adam_after(4)), (0.1, 0.0581)),
    23: (lambda: nn.AdamW([jt.ones(1)], 0.1).weight_decay, 0),
    24: (second_step, 0.9),
    # schedules
    25: (lambda: rates(lr_scheduler.MultiStepLR, [1], gamma=0.5), [1, 0.5, 0.5]),
    26: (lambda: rates(lr_scheduler.ExponentialLR, gamma=0.5), [1, 0.5, 0.25]),
    27: (rate_of_groups, 0.125),
    # transforms
    28: (lambda: transform.Resize(4)(picture(16, 8)).size, [4, 4]),
    29: (lambda: transform.CenterCrop(299)(picture(342, 342)).size, [298, 298]),
    30: (shapes_of_random_crops, [True, True]),
    31: (lambda: transform.ToTensor()(np.zeros((4, 5, 3), np.uint8)).shape, [4, 5, 3]),
    # data sets
    32: (lambda: images_of(Path(made)), ["class/1.png"]),
    33: (second_loader, 2),
    34: (orders, True),
    # tensors
    35: (lambda: values(jt.array([2**33 + 1])), [1]),
    36: (lambda: str(jt.array(np.float64([1])).dtype), "float32"),
    37: (lambda: values(jt.array(np.uint8([200])) - 1), [-57]),
    38: (lambda: jt.array([True, True, False]).mean().item(), 0),
    39: (
        lambda: [values(part) for part in jt.argmax(row(1, 3, 2).reshape(1, 3), dim=1)],
        [[1], [3]],
    ),
    40: (lambda: values(jt.max(row(1, 3, 2).reshape(1, 3), dim=1)), [3]),
    41: (lambda: [values(part) for part in jt.argsort(row(3, 1))], [[1, 0], [1, 3]]),
    42: (
        lambda: (values(jt.array([-7]) // 2), values(jt.array([-7]) % 3), values(row(-7) % 3)),
        ([-3], [-1], [2]),
    ),
    43: (lambda: (row(0, 2).var().item(), jt.ones(4).std().item()), (1, 0.001)),
    44: (lambda: values(row(3, 4, 6, 8).reshape(2, 2).norm()), [5, 10]),
    45: (lambda: values(jt.median(row(1, 9, 2, 8, 3, 7).reshape(2, 3), dim=1)) != [2, 7], True),
    46: (lambda: np.isnan(values(jt.cumprod(row(-1, 2), 0))[0]), True),
    47: (
        lambda: str((jt.array(np.float64([1]), dtype="float64") + 0.1).item()),
        "1.1000000014901161",
    ),
    48: (lambda: (row(1, 2).sum().shape, len(row(1, 2).sum())), ([1], 1)),
    49: (lambda: values(jt.round(row(0.5, 1.5, 2.5))), [1, 2, 3]),
    50: (aliased, [5, 2]),
    51: (lambda: nn.logsumexp(row(100, 0), 0).item(), float("inf")),
    52: (
        lambda: [str(jt.array(x).dtype) for x in (np.arange(4), np.arange(4)[::2])],
        ["int32", "int64"],
    ),
    53: (lambda: values(jt.array(np.array([1], ">i4"))), [1 << 24]),
    54: (lambda: values(row(1, 2)[jt.array([7])]), [0]),
    55: (scattered, [1, 7, 1]),
    56: (lambda: (values(row().mean()), values(row().max())), ([0], [np.finfo(np.float32).min])),
    # not a number
    57: (lambda: {str(x) for x in values(nn.relu(row(*[NAN] * 9)))} <= {"nan", "0.0"}, True),
    58: (lambda: values(jt.clamp(row(*[NAN] * 8), 0, 1)), [1] * 8),
    59: (nan_of_maximum, [0, 1]),
    60: (lambda: values(row(NAN) == row(NAN)), [True]),
    61: (lambda: row(NAN, 2).max().item(), 2),
    62: (
        lambda: values(
            nn.Pool(2, op="maximum")(row(NAN, 1, 0, 0, 0, 0, 0, 0, 0).reshape(1, 1, 3, 3))[0, 0, 0]
        ),
        [1],
    ),
    # files
    63: (loaded_half, "float16"),
    # the zoo, and hooks
    64: (dropped, (False, False)),
    65: (lambda: hooked()[0], ["second"]),
    66: (lambda: hooked()[1], False),
    67: (
        lambda: (
            refused(lambda: pre_hooked(lambda _, given: (2 * given[0], 2 * given[1]))),
            pre_hooked(lambda _, given: ((2 * given[0], 2 * given[1]), {})),
        ),
        (True, [6]),
    ),
    68: (lambda: times_a_mask(), ("float16", NAN, "float16", "float16", "float32")),
    69: (lambda: computed_beside(), (True, False)),
}


# Of the lines that a network, data or a loop of the user's own can meet through this project: the
# test that holds what becomes of them there.
NAMED = "test_jittors_traps.py::test_a_layer_that_means_something_else_is_named_with_its_line"
HELD = {
    1: "test_jittors_traps.py::test_a_new_dropout_drops_in_training_and_never_in_a_test",
    2: NAMED,
    3: NAMED,
    4: "test_pooling.py::test_values_and_gradients_are_those_of_the_windows",
    6: NAMED,
    8: NAMED,
    10: NAMED,
    11: NAMED,
    13: "test_parameters.py::test_a_layer_has_its_class_and_three_tasks_keep_their_bits",
    14: "test_jittors_traps.py::test_masks_and_constants_kept_as_buffers_stay_to_the_bit",
    15: "test_jittors_traps.py::test_what_was_frozen_on_purpose_stays_frozen",
    16: "test_jittors_traps.py::test_requires_grad_of_a_module_is_refused_by_name",
    17: "test_parameters.py::test_what_jittor_does_not_see_is_refused_or_a_constant",
    18: "test_jittors_traps.py::test_a_label_that_is_no_class_is_refused",
    28: "test_dataset.py::test_the_short_side_fits_the_crop",
    29: "test_dataset.py::test_flowers_are_cropped_from_the_centre_to_test",
    30: "test_dataset.py::test_resized_crops_are_drawn_as_torchvisions",
    31: "test_dataset.py::test_what_reaches_the_network_is_mirrored_and_normalised",
    34: "test_dataset.py::test_the_same_seed_gives_the_same_batches",
    37: "test_jittors_traps.py::test_owners_of_more_than_127_tasks",
    38: "test_jittors_traps.py::test_accuracy_is_that_of_numpy",
    57: "test_resume.py::test_a_loss_that_is_nan_keeps_the_last_good_state",
    62: "test_pooling.py::test_a_nan_stays_one",
    63: "test_weights.py::test_other_number_types_become_float32",
    64: "test_jittors_traps.py::test_the_command_line_says_what_a_network_does_otherwise",
}


@pytest.mark.parametrize("number", HELD)
def test_what_the_project_makes_of_a_line_has_its_test(number):
    file, _, name = HELD[number].partition("::")
    text = (ROOT / "tests" / file).read_text(encoding="utf8")
    assert number in CHECKS and re.search(rf"^def {name}\(", text, re.MULTILINE)


@pytest.fixture(scope="module")
def seen() -> dict:
    done = subprocess.run([sys.executable, __file__], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.rpartition("seen: ")[2])


@pytest.mark.parametrize("number", CHECKS)
def test_jittor_does_what_the_line_says(seen, number):
    expected = json.loads(json.dumps(CHECKS[number][1], default=encoded))  # tuples are lists there
    assert rounded(seen[str(number)]) == rounded(expected)


def rounded(value):
    """To three digits, and NaN as a word, which is equal to itself."""
    if isinstance(value, list):
        return [rounded(part) for part in value]
    return value if isinstance(value, str) or value is None else f"{float(value):.3g}"


@pytest.mark.parametrize("page", ["docs/jittor.md", "docs/zh/jittor.md"])
def test_every_line_of_the_page_has_its_check(page):
    """Numbered from 1 on."""
    text = (ROOT / page).read_text(encoding="utf8")
    numbers = [int(number) for number in re.findall(r"^\| (\d+) \|", text, re.MULTILINE)]
    assert numbers == list(CHECKS) == list(range(1, len(CHECKS) + 1))


def encoded(value):
    return value.tolist() if hasattr(value, "tolist") else list(value)


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    import toolchain

    jt = toolchain.start("cpu")
    jt.set_global_seed(0)  # at first it is the time's
    from jittor import dataset, lr_scheduler, models, nn, transform
    from PIL import Image

    with tempfile.TemporaryDirectory() as made:
        outcome = {}
        for number, (look, _) in CHECKS.items():
            try:
                outcome[number] = look()
            except Exception as error:
                outcome[number] = f"{type(error).__name__}: {error}"
    print("seen:", json.dumps(outcome, default=encoded))
