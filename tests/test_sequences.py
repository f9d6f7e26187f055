"""What the benchmarks after the paper need: their crops and inputs, each task's own mean and
deviation, permuted pixels, their
optimizer and schedule, their networks."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import ROOT, jt, write_images
from PIL import Image

import evaluate
import main
import networks
import training
from dataset import create_dataloader
from images.cache import mean_and_deviation
from images.crops import CROPS, cut
from images.datasets import CIFAR100, PUBLISHED, TINY_IMAGENET, dataset_folder
from images.folders import read_split
from images.preprocess import MEAN, STD, Preparation, permute, preparation_of
from methods import METHODS
from pruning import PackNet
from runs.folder import check_folders
from runs.run import Run
from settings.config import Config, ConfigError
from settings.experiments import EXPERIMENTS, runs_of
from settings.plan import plan
from settings.sequences import DEMO_TASKS
from storage.packed import load_packed
from test_basic import check_data

nn = jt.nn
SEQUENCES = (
    "cifar100-20",
    "six-tasks",
    "mnist-5",
    "mnist-permuted-10",
    "tiny-imagenet-10",
    "recogseq-8",
    "fashion-5",
    "fashion-2",
    "fashion-permuted-10",
    "sources-2",
)


def write_pngs(folder, count, side=32, classes="ab", seed=0):
    """PNG files of random pixels, class by class. Returns them: uint8 [N, 3, side, side]."""
    made = np.random.default_rng(seed).integers(
        0, 200, (len(classes) * count, 3, side, side), np.uint8
    )
    for i, planes in enumerate(made):
        (folder / classes[i // count]).mkdir(parents=True, exist_ok=True)
        Image.fromarray(planes.transpose(1, 2, 0)).save(
            folder / classes[i // count] / f"{i:03}.png"
        )
    return made


@pytest.fixture
def small(tmp_path):
    """(data root, training images, test images) of a data set `small` of 32 x 32."""
    return (
        tmp_path,
        write_pngs(tmp_path / "small/train", 6),
        write_pngs(tmp_path / "small/test", 3, seed=1),
    )


# ---- crops


def test_a_padded_crop_is_a_window_of_the_image_with_a_black_edge(small):
    root, images, _ = small
    loader, _ = create_dataloader("small", root, "train", 12, image_size=32, crop="padded", seed=3)
    edge, seen = np.pad(images, ((0, 0), (0, 0), (4, 4), (4, 4))), set()
    for _ in range(40):
        order = np.arange(12)
        np.random.default_rng((3, loader.epoch)).shuffle(order)
        ((got, flips, _),) = loader.host_batches()
        for row, i in zip(got, order):
            seen |= {
                (top, left)
                for top in range(9)
                for left in range(9)
                if (row == edge[i, :, top : top + 32, left : left + 32]).all()
            }
        assert set(flips.tolist()) <= {0, 1}
    assert len(seen) > 75  # of 81: both ends are among them
    assert {0, 8} <= {top for top, _ in seen} and {0, 8} <= {left for _, left in seen}


def test_all_places_of_a_padded_crop_are_equally_likely():
    places = CROPS["padded"](np.full((20000, 2), 32), 32, np.random.default_rng(0))
    for axis in (0, 1):
        numbers, counts = np.unique([place[axis] for place in places], return_counts=True)
        assert numbers.tolist() == list(range(-4, 5)) and (abs(counts - 20000 / 9) < 200).all()
    assert all(place[2:] == (32, 32) for place in places)


def test_a_place_over_each_edge():
    image = np.arange(1, 49, dtype=np.uint8).reshape(3, 4, 4)
    expected = np.zeros((3, 4, 4), np.uint8)
    expected[:, 1:, :3] = image[:, :3, 1:]
    assert np.array_equal(cut(image, (-1, 1, 4, 4), 4), expected)
    expected = np.zeros((3, 4, 4), np.uint8)
    expected[:, :2, 3:] = image[:, 2:, :1]
    assert np.array_equal(cut(image, (2, -3, 4, 4), 4), expected)


@pytest.mark.parametrize("crop", ["padded", "whole"])
def test_tests_are_on_the_whole_image(small, crop):
    root, _, images = small
    loader, _ = create_dataloader("small", root, "test", 6, image_size=32, crop=crop)
    ((got, flips, _),) = loader.host_batches()
    assert np.array_equal(got, images) and not flips.any()
    assert loader.preparation.plain() == dict(
        size=32, prepared="resize", mean=list(MEAN), std=list(STD)
    )


def test_whole_images_are_neither_cropped_nor_mirrored(small):
    root, images, _ = small
    loader, _ = create_dataloader("small", root, "train", 12, image_size=32, crop="whole")
    orders = []
    for _ in range(5):
        ((got, flips, _),) = loader.host_batches()
        assert not flips.any()
        orders.append([next(i for i in range(12) if (row == images[i]).all()) for row in got])
    assert all(sorted(order) == list(range(12)) for order in orders) and orders[0] != orders[1]


@pytest.mark.parametrize("crop", ["padded", "whole"])
def test_imagenet_too(tmp_path, crop):
    for split in ("train", "val"):
        write_pngs(tmp_path / "imagenet" / split, 2)
    loader, _ = create_dataloader(
        "imagenet", tmp_path, "train", 4, image_size=32, crop=crop, normalise="own"
    )
    ((images, *_),) = loader.host_batches()
    # its own are ImageNet's
    assert images.shape == (4, 3, 32, 32) and loader.preparation.mean == MEAN


# ---- each task's own mean and deviation


@pytest.mark.parametrize("crop", ["padded", "plain"])  # all of one size, or of several
def test_own_mean_and_deviation_are_those_of_the_training_pixels(tmp_path, crop):
    write_images(tmp_path / "own/train", {"a": 3}, size=(40, 32))
    write_images(tmp_path / "own/train", {"b": 4}, size=(32, 60), seed=1)
    write_images(tmp_path / "own/test", {"a": 2, "b": 2}, seed=2)
    train, test = (
        create_dataloader("own", tmp_path, split, 7, image_size=32, crop=crop, normalise="own")[0]
        for split in ("train", "test")
    )
    split = read_split("own", tmp_path, "train")
    pictures = [Image.open(split.folder / path).convert("RGB") for path in split.paths]
    if crop == "padded":
        pictures = [picture.resize((32, 32), Image.BILINEAR) for picture in pictures]
    else:
        pictures = [
            picture.resize(
                (int(37 * picture.width / picture.height), 37)
                if picture.width >= picture.height
                else (37, int(37 * picture.height / picture.width)),
                Image.BILINEAR,
            )
            for picture in pictures
        ]
    pixels = np.concatenate([np.asarray(picture).reshape(-1, 3) for picture in pictures]) / 255
    assert train.preparation == test.preparation
    assert np.allclose(train.preparation.mean, pixels.mean(0), atol=1e-12)
    assert np.allclose(train.preparation.std, pixels.std(0), atol=1e-12)
    ((raw, _, _),) = test.host_batches()
    ((images, _),) = test
    mean, std = pixels.mean(0)[:, None, None], pixels.std(0)[:, None, None]
    assert np.abs(images.numpy() - (raw[:4] / 255 - mean) / std).max() < 1e-5


def test_images_of_one_colour_have_a_deviation_to_divide_by(tmp_path):
    for split in ("train", "test"):
        (tmp_path / "grey" / split / "only").mkdir(parents=True)
        Image.new("RGB", (32, 32), (51, 0, 255)).save(tmp_path / "grey" / split / "only/x.png")
    loader, _ = create_dataloader(
        "grey", tmp_path, "test", 1, image_size=32, crop="whole", normalise="own"
    )
    assert loader.preparation.mean == (0.2, 0.0, 1.0) and loader.preparation.std == (1.0, 1.0, 1.0)
    assert np.abs(next(iter(loader))[0].numpy()).max() < 1e-6


@pytest.mark.parametrize("times", [1, 10**9])
def test_mean_and_deviation_of_more_pixels_than_64_bits_can_square(times):
    counts = np.zeros((3, 256), np.int64)
    counts[0, [0, 255]], counts[1, [50, 52, 54]], counts[2, 102] = 12, (9, 6, 9), 24
    mean, deviation = mean_and_deviation(counts * times)
    assert mean == pytest.approx([0.5, 52 / 255, 0.4], abs=1e-15)
    # (9 * 4 + 6 * 0 + 9 * 4) / 24 = 3
    assert deviation == pytest.approx([0.5, 3**0.5 / 255, 1.0], abs=1e-15)


# ---- permuted pixels


def test_a_permuted_data_set_is_the_other_with_its_pixels_in_another_order(small):
    root, images, tests = small
    assert (
        dataset_folder("small_permuted_07", root) == root / "small"
        and dataset_folder("cubs_permuted_1", root) == root / "cubs_cropped"
    )
    order = np.random.default_rng(7).permutation(1024)
    for split, expected in (("train", images), ("test", tests)):
        loader, classes = create_dataloader(
            "small_permuted_07", root, split, 12, image_size=32, crop="resized"
        )
        ((got, flips, labels),) = loader.host_batches()
        rows = expected.reshape(len(expected), 3, 1024)[:, :, order].reshape(expected.shape)
        assert not flips.any() and classes == 2 and loader.preparation.permuted == 7
        assert sorted(row.tobytes() for row in got) == sorted(row.tobytes() for row in rows)
        if split == "test":
            assert np.array_equal(got, rows)
    assert len(list((root / ".cache").iterdir())) == 2  # shared by all its permutations
    create_dataloader("small_permuted_08", root, "test", 12, image_size=32)
    create_dataloader("small", root, "test", 12, image_size=32, crop="whole")
    assert len(list((root / ".cache").iterdir())) == 2


def test_settings_of_an_input_change_only_where_they_must():
    plain = dict(size=224, mean=list(MEAN), std=list(STD))
    assert preparation_of("flowers", 224).plain() == dict(plain, prepared="centre")
    assert preparation_of("cubs", 224).plain() == dict(plain, prepared="resize")
    for name in ("flowers", "flowers_permuted_3"):
        preparation = preparation_of(name, 224)
        assert Preparation.from_plain(json.loads(json.dumps(preparation.plain()))) == preparation
    pixels = np.arange(24, dtype=np.uint8).reshape(2, 3, 2, 2)
    assert permute(pixels, preparation_of("flowers", 2)) is pixels


# ---- optimizer and schedule


def test_nesterovs_momentum_and_decay_of_the_packed_weights_by_hand():
    """Two steps of a task that owns half of a layer, against a hand computation in float32; the
    other half to the bit."""
    rng = np.random.default_rng(0)
    net = networks.MultiHead(nn.Sequential(nn.Linear(6, 8), nn.ReLU()), 8)
    net.add_head("a", 3), net.add_head("b", 3)
    packnet = PackNet(net, 0.5, train_biases=True)
    packnet.start_task("a")
    packnet.prune("a")
    packnet.start_task("b")
    net.select("b")
    weights = packnet.weights["trunk.0.weight"]
    weights.assign(jt.array(rng.normal(size=(8, 6)).astype(np.float32)))
    mine = packnet.owners["trunk.0.weight"].numpy() == 2
    assert 0 < mine.sum() < mine.size
    run = SimpleNamespace(
        config=Config(nesterov=True, weight_decay_on="packed"),
        packnet=packnet,
        optimizer=None,
        moving={},
        stopped_momentum={},
    )
    optimizer = Run.begin_epoch(run, packnet.trainable(), 0.1, 0.01, goes_on=False)
    names = list(run.moving)
    assert set(names) == {"trunk.0.weight", "trunk.0.bias", "heads.b.weight", "heads.b.bias"}
    before = {name: run.moving[name].numpy().astype(np.float64) for name in names}
    start, velocity, frozen = dict(before), {name: 0 for name in names}, weights.numpy()[~mine]
    images, labels = rng.normal(size=(5, 6)).astype(np.float32), rng.integers(0, 3, 5)
    for _ in range(2):
        loss = nn.cross_entropy_loss(net(jt.array(images)), jt.array(labels))
        hidden = np.maximum(images @ before["trunk.0.weight"].T + before["trunk.0.bias"], 0)
        logits = hidden @ before["heads.b.weight"].T + before["heads.b.bias"]
        shares = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
        slope = (shares - np.eye(3)[labels]) / 5
        back = slope @ before["heads.b.weight"] * (hidden > 0)
        gradients = {
            "heads.b.weight": slope.T @ hidden,
            "heads.b.bias": slope.sum(0),
            "trunk.0.weight": back.T @ images,
            "trunk.0.bias": back.sum(0),
        }
        optimizer.step(loss)
        for name in names:
            gradient = gradients[name] + (0.01 * before[name] if name == "trunk.0.weight" else 0)
            velocity[name] = 0.9 * velocity[name] + gradient
            step = 0.1 * (gradient + 0.9 * velocity[name])
            before[name] = before[name] - (step * mine if name == "trunk.0.weight" else step)
            assert np.allclose(run.moving[name].numpy(), before[name], atol=1e-6), name
    assert np.array_equal(weights.numpy()[~mine], frozen) and not np.allclose(
        start["trunk.0.weight"][mine], weights.numpy()[mine]
    )
    assert list(Run._momentum(run)) == names
    for name, value in Run._momentum(run).items():
        assert np.allclose(value.numpy(), velocity[name], atol=1e-6)


@pytest.mark.parametrize(
    "on, decayed",
    [
        ("all", {"trunk.0.weight", "trunk.0.bias", "heads.a.weight", "heads.a.bias"}),
        ("packed", {"trunk.0.weight"}),
    ],
)
def test_what_weight_decay_acts_on(on, decayed):
    net = networks.MultiHead(nn.Sequential(nn.Linear(3, 4)), 4)
    net.add_head("a", 2)
    packnet = PackNet(net)
    packnet.start_task("a")
    net.select("a")
    run = SimpleNamespace(
        config=Config(momentum=0.0, weight_decay_on=on),
        packnet=packnet,
        optimizer=None,
        moving={},
        stopped_momentum={},
    )
    optimizer = Run.begin_epoch(run, packnet.trainable(), 1.0, 0.25, goes_on=False)
    for parameter in run.moving.values():
        parameter.assign(jt.ones_like(parameter))
    optimizer.step(0 * net(jt.ones((1, 3))).sum())
    assert {
        name for name, parameter in run.moving.items() if (parameter.numpy() == 0.75).all()
    } == decayed
    assert all(
        (parameter.numpy() == 1).all()
        for name, parameter in run.moving.items()
        if name not in decayed
    )


def rates(steps, task, name):
    return [
        step.phase.lr_at(step.epoch)
        for step in steps
        if (step.method, step.kind, step.task) == ("packnet", "epoch", task)
        and step.phase.name == name
    ]


def test_the_schedule_of_the_twenty_tasks_is_that_of_their_authors(tmp_path):
    ((label, settings),) = runs_of("cifar100-20")
    for name in CIFAR100:
        (tmp_path / name).mkdir()
    config = Config(**settings, data_root=str(tmp_path))
    config.check_values()
    steps = plan(config)
    assert [step.task for step in steps if step.kind == "start"] == list(CIFAR100)
    for task in CIFAR100:
        assert rates(steps, task, "train") == pytest.approx([1e-2] * 50 + [1e-3] * 30 + [1e-4] * 20)
        assert rates(steps, task, "retrain") == pytest.approx([1e-3] * 25 + [1e-4] * 5)
        assert [step.ratio for step in steps if step.kind == "prune" and step.task == task] == [0.6]
    assert (
        config.batch_size,
        config.momentum,
        config.nesterov,
        config.weight_decay,
        config.keep,
    ) == (32, 0.9, True, 4e-5, "last")


def test_milestones_hold_for_baselines_but_the_constant_one():
    config = Config(lr_decay_at=[5, 15], baselines=["lwf", "individual", "classifier"])
    for method, drops in (("individual", (5, 15)), ("lwf", (5, 15)), ("classifier", ())):
        given = [
            phase.lr_at(number)
            for phase in METHODS[method].phases(config)
            for number in range(phase.epochs)
        ]
        assert given == pytest.approx(
            [1e-3 * 0.1 ** sum(epoch >= drop for drop in drops) for epoch in range(20)]
        )


@pytest.mark.parametrize(
    "name, tasks", [("mnist-5", 5), ("mnist-permuted-10", 10), ("fashion-permuted-10", 10)]
)
def test_every_task_of_the_digits_keeps_as_many_weights(name, tasks):
    ((_, settings),) = runs_of(name, seeds=1)
    config = Config(**settings)
    free = 1.0
    for ratio in (config.initial_pruning_ratio, *config.ratios()):
        assert free * (1 - ratio) == pytest.approx(1 / tasks)
        free *= ratio
    assert free == pytest.approx(0) and config.base_task not in config.task_list


@pytest.mark.parametrize("name, tasks", [("fashion-5", 5), ("fashion-2", 2), ("sources-2", 2)])
def test_the_schedule_of_fashion(tmp_path, name, tasks):
    """Two epochs, the paper's prune, one epoch, all at one rate; every task alike, the first too;
    all baselines; three seeds."""
    runs = runs_of(name)
    assert [settings["seed"] for _, settings in runs] == [0, 1, 2]
    settings = runs[0][1]
    (tmp_path / settings["base_task"]).mkdir()
    config = Config(**settings, data_root=str(tmp_path))
    config.check_values()
    steps = plan(config)
    learnt = [step.task for step in steps if (step.method, step.kind) == ("packnet", "start")]
    assert learnt == [config.base_task, *config.task_list] and len(learnt) == tasks
    for task in learnt:
        assert rates(steps, task, "train") == [1e-2] * 2
        assert rates(steps, task, "retrain") == [1e-2]
        assert [s.ratio for s in steps if s.kind == "prune" and s.task == task] == [0.75]
    assert (config.batch_size, config.momentum, config.weight_decay) == (32, 0.9, 0.0)
    assert {step.method for step in steps} == {*METHODS}


@pytest.mark.parametrize("missing", ["fashion_0_1", "fashion_6_7"])
def test_a_task_without_data_is_said_where_to_be_had(tmp_path, missing):
    """The first of a sequence, which is its base task, and any other."""
    settings = runs_of("fashion-5")[0][1]
    for task in {settings["base_task"], *settings["task_list"]} - {missing}:
        (tmp_path / task).mkdir()
    with pytest.raises(ConfigError, match="Source: the package dataset-fashion-mnist of Debian"):
        check_folders(Config(**settings, data_root=str(tmp_path), output_dir=str(tmp_path / "o")))


def test_what_the_experiments_need_is_known():
    """Counts of all their data, where there are such, and something that stands for it in the
    demo."""
    uncounted = ("voc-actions", "chars74k")  # nobody has published how many they are here
    for name in SEQUENCES:
        for _, settings in runs_of(name):
            config = Config(**settings)
            for task in {config.base_task, *config.task_list} - {
                "imagenet",
                "cubs",
                "cars",
                "flowers",
            }:
                known = PUBLISHED[config.folder(task).name]
                assert (known.counts is None) == (task in uncounted) and task in DEMO_TASKS
                assert known.source
    assert PUBLISHED["wikiart"].counts == (195, 42129, 10628)
    assert PUBLISHED["sketch"].counts == (250, 16000, 4000)
    for page in ("docs/data.md", "docs/zh/data.md"):
        text = (ROOT / page).read_text(encoding="utf8")
        for task in ("wikiart", "sketch"):
            assert all(f"{count:,}" in text for count in PUBLISHED[task].counts[1:])


@pytest.mark.parametrize("task", ["wikiart", "sketch", "cifar100_trees", "mnist_0_1"])
def test_the_check_of_the_data_knows_the_official_counts(tmp_path, task):
    write_images(tmp_path / task / "train", {"a": 2, "b": 1})
    write_images(tmp_path / task / "test", {"a": 1, "b": 1})
    classes, train, test = PUBLISHED[task].counts
    message = (
        f"{task} has 2 classes, 3 train and 2 test images; official are {classes}, "
        f"{train:,} and {test:,}"
    )
    with pytest.raises(AssertionError, match=message):
        check_data(task, tmp_path)


# ---- networks


def test_the_network_for_small_images_has_the_layers_of_its_authors():
    net = networks.build("vgg16-bn-cifar")
    packnet = PackNet(net)
    assert [weight.shape[:2] for weight in packnet.weights.values()][-2:] == [
        [4096, 512],
        [4096, 4096],
    ]
    assert len(packnet.weights) == 15
    assert net.trunk(jt.zeros((2, 3, 32, 32))).shape == [2, 4096]


@pytest.mark.parametrize(
    "arch, count",
    [
        ("vgg9-small", 334_016),
        ("vgg9-base", 1_145_408),
        ("vgg9-wide", 4_500_864),
        ("vgg22-deep", 4_280_704),
    ],
)
def test_the_networks_for_tiny_imagenet_are_as_large_as_their_authors_say(arch, count):
    """The parameters of their convolutions; and two layers of 128 or 512 behind 4 x 4 cells."""
    shape = networks.ARCHITECTURES[arch]
    inputs, parameters = 3, 0
    for width in shape.convolutions:
        if width != "M":
            parameters += (9 * inputs + 1) * width
            inputs = width
    assert parameters == count
    assert shape.convolutions.count("M") == 4 and shape.pooled == 64 // 2**4
    assert shape.hidden == (128 if arch == "vgg9-small" else 512)


def test_the_schedule_of_tiny_imagenet(tmp_path):
    runs = runs_of("tiny-imagenet-10")
    assert [label for label, _ in runs] == [f"{s}-seed0" for s in ("small", "base", "wide", "deep")]
    (tmp_path / "tiny_imagenet_01").mkdir()
    for _, settings in runs:
        config = Config(**settings, data_root=str(tmp_path))
        config.check_values()
        steps = plan(config)
        assert [s.task for s in steps if s.kind == "start"] == list(TINY_IMAGENET)
        assert config.batch_size == 200 and config.validation == 0.2 and config.keep == "best"
        for task in TINY_IMAGENET:
            assert rates(steps, task, "train") == pytest.approx(
                [1e-2] * 40 + [1e-3] * 20 + [1e-4] * 10
            )
            last = task == TINY_IMAGENET[-1]  # keeps all that is left: nothing to re-train
            assert rates(steps, task, "retrain") == [1e-3] * (0 if last else 10)


def test_the_schedule_of_the_recognition_tasks(tmp_path):
    """As the survey's code has it: every task pruned by 0.9, the last one too; ImageNet's weights
    to start from, and no task of its own for ImageNet."""
    ((label, settings),) = runs_of("recogseq-8")
    (tmp_path / "flowers").mkdir()
    config = Config(**settings, data_root=str(tmp_path))
    config.check_values()
    steps = plan(config)
    tasks = "flowers indoor67 cubs cars aircraft voc-actions chars74k svhn".split()
    assert label == "packnet-seed0"
    assert [step.task for step in steps if step.kind == "start"] == tasks
    assert [step.ratio for step in steps if step.kind == "prune"] == [0.9] * 8
    for task in tasks:
        assert rates(steps, task, "train") == pytest.approx(
            [1e-4] * 60 + [1e-5] * 25 + [1e-6] * 15
        )
        assert rates(steps, task, "retrain") == pytest.approx([1e-5] * 10)
        # 256 x 256 or more of which any 224 x 224; but of boxes the whole, as of the paper's
        fit = preparation_of(task, config.image_size, config.crop, "train").fit
        boxes = task in ("cubs", "cars", "voc-actions")
        assert fit == ("resize" if boxes else "short_side")
    assert (config.arch, config.pretrained) == ("alexnet", "published")
    assert (config.batch_size, config.momentum, config.weight_decay) == (200, 0.9, 0.0)


def test_the_perceptron_in_numpy():
    rng = np.random.default_rng(0)
    trunk = networks.build("mlp").trunk
    images = rng.normal(size=(3, 3, 28, 28)).astype(np.float32)
    (w1, b1), (w2, b2) = (
        (trunk.hidden[i].weight.numpy(), trunk.hidden[i].bias.numpy()) for i in (0, 2)
    )
    expected = np.maximum(np.maximum(images.reshape(3, -1) @ w1.T + b1, 0) @ w2.T + b2, 0)
    assert w1.shape == (400, 2352) and np.allclose(
        trunk(jt.array(images)).numpy(), expected, atol=1e-5
    )


# ---- a run, and everything that reads its packed file


@pytest.fixture(scope="module")
def packed_run(tmp_path_factory):
    """Three tasks, each with its own normalisation; the second permuted; from scratch."""
    root = tmp_path_factory.mktemp("run")
    for number, name in enumerate(("first", "second", "third", "fourth")):
        for split, count in (("train", 8), ("test", 4)):
            write_pngs(root / "data" / name / split, count, seed=10 * number + count)
    command = [
        *"""
            --arch vgg-bn-slim --image-size 32 --base-task first --task-list second_permuted_3 third
            --pruning-ratios 0.5 0.5 --data-root
        """.split(),
        str(root / "data"),
        "--output-dir",
        str(root / "out"),
        *"""
            --crop padded --normalise own --nesterov --weight-decay 4e-5 --weight-decay-on packed
            --train-bn --train-biases --num-epochs-base 3 --num-epochs-base-finetune 1
            --num-epochs-per-task 3 --num-epochs-finetune 1 --lr-decay-at 1 2 --device cpu
        """.split(),
    ]
    assert main.main(command) == 0
    return root, command


def test_the_entries_say_how_each_task_gets_its_input(packed_run):
    root, _ = packed_run
    results = json.loads((root / "out/results.json").read_text())
    assert all(task["max_logit_change"] == 0 for task in (results["base"], *results["tasks"]))
    _, metadata = load_packed(root / "out/packnet.safetensors")
    inputs = [entry["input"] for entry in metadata["tasks"]]
    assert [entry["prepared"] for entry in inputs] == ["resize"] * 3 and len(
        {tuple(entry["mean"]) for entry in inputs}
    ) == 3
    assert ["permuted" in entry for entry in inputs] == [False, True, False] and inputs[1][
        "permuted"
    ] == 3
    rates = [
        record["lr"]
        for record in results["history"]
        if record["phase"] == "train" and record["task"] == "third"
    ]
    assert rates == pytest.approx([1e-3, 1e-4, 1e-5])


def test_evaluation_prediction_and_export_use_it(packed_run, capsys, tmp_path, monkeypatch):
    root, _ = packed_run
    out = ["--output-dir", str(root / "out")]
    capsys.readouterr()
    assert evaluate.main([*out, "--seals"]) == 0
    assert capsys.readouterr().out.count("unchanged") == 4
    assert evaluate.main(out) == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines()[1:]]
    assert len(rows) == 3 and all(row[1] == row[3] for row in rows)  # measured as recorded
    packed, metadata = load_packed(root / "out/packnet.safetensors")
    packnet = evaluate.unpack(packed, metadata, evaluate.network_of(metadata, None, "x"), "x")
    for entry in metadata["tasks"]:
        loader = evaluate.test_loader(
            entry, metadata, SimpleNamespace(data_root=None, batch_size=8, cache_dir=None)
        )
        logits, _ = packnet.predict(entry["name"], loader)
        split = read_split(entry["name"], root / "data", "test")
        assert np.array_equal(
            evaluate.logits_of(packnet, entry, [split.folder / path for path in split.paths], 32),
            logits,
        )
    images, sizes, logits_of = [split.folder / path for path in split.paths], [], evaluate.logits_of
    monkeypatch.setattr(
        evaluate,
        "logits_of",
        lambda *arguments: sizes.append(arguments[-1]) or logits_of(*arguments),
    )
    for more in ([], ["--batch-size", "2"]):
        assert (
            evaluate.main([*out, "--task", "third", "--predict", *map(str, images[:2]), *more]) == 0
        )
    assert sizes == [32, 2]
    assert evaluate.main([*out, "--task-agnostic"]) == 0
    assert (
        evaluate.main([*out, "--export", "second_permuted_3", str(tmp_path / "one.safetensors")])
        == 0
    )
    assert evaluate.main(["--seals", str(tmp_path / "one.safetensors")]) == 0
    from safetensors import safe_open

    with safe_open(tmp_path / "one.safetensors", "numpy") as f:
        assert json.loads(f.metadata()["input"]) == metadata["tasks"][1]["input"]


def test_a_later_addition_measures_the_earlier_tasks_by_their_own_input(packed_run, capsys):
    """Even if it is made with another crop and normalisation itself, and goes on after a stop."""
    root, _ = packed_run
    command = [
        "--add-to",
        str(root / "out"),
        "--task-list",
        "fourth",
        "--output-dir",
        str(root / "more"),
        *"--normalise imagenet --crop plain --device cpu".split(),
    ]
    real, calls = training.train_epoch, []

    def stops(*arguments):
        calls.append(arguments[-1])
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(*arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "train_epoch", stops)
        assert main.main(command) == 130
    assert main.main([*command, "--resume"]) == 0
    before, after = (
        json.loads((root / name / "results.json").read_text()) for name in ("out", "more")
    )
    assert [task["top1_final"] for task in after["tasks"][:2]] == [
        task["top1_final"] for task in before["tasks"]
    ]
    assert all(task["max_logit_change"] == 0 for task in (after["base"], *after["tasks"]))
    entries = load_packed(root / "more/packnet.safetensors")[1]["tasks"]
    assert entries[:3] == load_packed(root / "out/packnet.safetensors")[1]["tasks"]
    assert entries[3]["input"] == preparation_of("fourth", 32).plain()
    assert evaluate.main(["--output-dir", str(root / "more")]) == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines()[-4:]]
    assert all(row[1] == row[3] for row in rows)


def test_momentum_in_two_groups_survives_a_stop(packed_run, tmp_path, monkeypatch):
    """A run that is stopped within a phase ends with the same file."""
    root, command = packed_run
    command = [str(tmp_path / "out") if part == str(root / "out") else part for part in command]
    real, calls = training.train_epoch, []

    def stops(*arguments):
        calls.append(arguments[-1])
        if len(calls) in (2, 7):
            raise KeyboardInterrupt
        return real(*arguments)

    monkeypatch.setattr(training, "train_epoch", stops)
    monkeypatch.setattr("runs.carry_out.SAVING_SHARE", 1e9)
    assert [main.main([*command, "--resume"]) for _ in range(3)] == [130, 130, 0]
    assert (tmp_path / "out/packnet.safetensors").read_bytes() == (
        root / "out/packnet.safetensors"
    ).read_bytes()


def test_published_figures_stand_beside_the_twenty_tasks():
    from reporting.published import COLUMNS

    for name in ("cifar100-20", "six-tasks"):
        experiment = EXPERIMENTS[name]
        ((_, settings),) = runs_of(name)
        for source in experiment.published:
            column = COLUMNS[source]
            assert column.arch == settings["arch"] and column.errors.keys() <= {
                settings.get("base_task", "imagenet"),
                *settings["task_list"],
            }
    errors = COLUMNS["PackNet by CPG's authors, VGG-16 BN"].errors.values()
    assert len(errors) == 20 and np.mean(list(errors)) == pytest.approx(100 - 67.5, abs=0.05)
