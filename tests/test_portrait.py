"""Whose image is it: portraits against dense Gaussians and rules by hand, in NumPy."""

import numpy as np
import pytest
from conftest import jt, same_with_any_number_of_threads, write_images
from test_networks import batches, random_network

from dataset import create_dataloader
from images.folders import hold_out, read_split
from images.preprocess import Preparation, preprocess
from networks import MultiHead
from packing import portrait
from packing.portrait import Portrait, auroc, fitted, main_directions, readable, recognise
from pruning import PackNet
from runs import recognition
from runs.recognition import WIDTH, sketch

nn = jt.nn


def images(seed, count=400, width=40, classes=3, shift=0.0):
    """(float32 [N, width], labels): classes of one covariance of low rank, and noise."""
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(classes), count // classes)
    inside = rng.normal(size=(len(labels), 6)) * [9, 7, 5, 3, 2, 1]
    seen = inside @ rng.normal(size=(6, width)) + rng.normal(size=(classes, width))[labels] * 4
    seen += 0.3 * rng.normal(size=(len(labels), width)) + shift
    return seen.astype(np.float32), labels


def by_hand(made):
    """(means of the classes, covariance) that a portrait's arrays say."""
    centre, deviations, *classes = made.rows * made.scales.astype(np.float64)[:, None]
    known = np.linalg.qr(made.directions.astype(np.float64))[0]
    along = sum(v * np.outer(u, u) for v, u in zip(made.variances.astype(float), known.T))
    return [centre + each for each in classes], along + np.diag(deviations**2)


def dense(means, covariance, seen):
    """The squared distances from the nearest class."""
    inverse = np.linalg.inv(covariance)
    return np.min([np.einsum("nd,de,ne->n", seen - m, inverse, seen - m) for m in means], axis=0)


@pytest.mark.parametrize("width", [5, 24, 40, 70])
def test_distances_are_those_of_a_dense_gaussian(width):
    made = Portrait.of(*images(1, width=width))
    assert made.directions.shape == (width, min(24, width))
    others = images(2, width=width)[0]
    assert made.distance(others) == pytest.approx(dense(*by_hand(made), others), rel=1e-4)


def test_means_and_variances_are_those_of_the_images():
    """In as many directions as there are, where nothing is left out."""
    seen, labels = images(3, width=8)
    x, label = seen[fitted(labels)].astype(np.float64), labels[fitted(labels)]
    means = np.stack([x[label == number].mean(0) for number in range(3)])
    covariance = np.cov((x - means[label]).T, bias=True)
    made = Portrait.of(seen, labels)
    assert made.means() == pytest.approx(means, abs=0.06)  # int8 of up to 10
    # directions are int8: what varies by itself is found to about a hundredth
    ridge = portrait.RIDGE * np.trace(covariance) / 8
    found = made.covariance()
    scale = np.sqrt(np.outer(np.diag(covariance), np.diag(covariance)))
    assert np.abs((found - covariance - ridge * np.eye(8)) / scale).max() < 0.05
    values = np.linalg.eigvalsh(covariance) + ridge
    assert np.sort(made.variances) == pytest.approx(values, rel=0.1)


def test_what_varies_beside_the_directions_is_each_numbers_own(monkeypatch):
    """Noise that differs from number to number; what never varies is no trouble."""
    seen, labels = images(11, count=3000)
    noise = np.linspace(0.1, 4, 40)
    noise[::10] = 0
    rng = np.random.default_rng(12)
    inside = rng.normal(size=(len(labels), 3)) * [25, 20, 15]
    seen = inside @ np.linalg.qr(rng.normal(size=(40, 3)))[0].T * (noise > 0)
    seen += noise * rng.normal(size=seen.shape)
    monkeypatch.setattr(portrait, "DIRECTIONS", 3)
    made = Portrait.of(seen.astype(np.float32), labels)
    x, label = seen[fitted(labels)], labels[fitted(labels)]
    apart = x - np.array(by_hand(made)[0])[label]
    known = np.linalg.qr(made.directions.astype(np.float64))[0]
    beside = np.square(apart - apart @ known @ known.T).mean(0)
    deviations = made.rows[1] * made.scales[1]
    expected = np.sqrt(beside + portrait.RIDGE * np.square(apart).mean())
    assert deviations == pytest.approx(expected, abs=0.51 * expected.max() / 127)
    assert deviations == pytest.approx(noise, abs=0.6)
    assert (deviations > 0).all() and np.isfinite(made.distance(seen.astype(np.float32))).all()


def test_main_directions_are_the_principal_components():
    seen = images(4, width=60)[0].astype(np.float64)
    x = seen - seen.mean(0)
    values, vectors = np.linalg.eigh(x.T @ x)
    found = main_directions(x)
    assert np.allclose(found.T @ found, np.eye(24))
    strong = vectors[:, -6:]  # which stand out of the noise
    assert np.allclose(found @ (found.T @ strong), strong, atol=1e-6)
    kept = np.square(x @ found).sum() / values[-24:].sum()
    assert 0.999 < kept <= 1 + 1e-9


def test_a_fifth_of_each_class_says_what_is_usual():
    labels = np.array([0] * 11 + [1] * 4 + [2] * 5)
    assert np.flatnonzero(~fitted(labels)).tolist() == [4, 9, 19]
    seen, labels = images(5)
    fit = fitted(labels)
    made = Portrait.of(seen, labels)
    distances = made.distance(seen[~fit])
    expected = [distances.mean(), distances.std(), np.quantile(distances, 0.95)]
    assert made.usual == pytest.approx(expected)
    others = images(6, shift=0.5)[0]
    beyond = (made.distance(others) - expected[2]) / expected[1]
    assert made.beyond(others) == pytest.approx(beyond)
    moved = seen.copy()
    moved[~fit] += 50  # what was kept from the fit has no part in it
    other = Portrait.of(moved, labels)
    for name in ("rows", "scales", "directions", "variances"):
        assert np.array_equal(getattr(other, name), getattr(made, name)), name


def test_an_image_goes_to_the_likeliest_class():
    """The rule by hand; and images of none are beyond the limit of the nearest task."""
    made = [Portrait.of(*images(task, shift=3 * task)) for task in range(3)]
    own = [images(task, shift=3 * task)[0][:30] for task in range(3)]
    seen = np.concatenate([*own, images(7, shift=60)[0][:10]])
    shared = sum(by_hand(each)[1] for each in made) / 3
    unlikely = []
    for means, own in map(by_hand, made):
        covariance = 0.1 * own + 0.9 * shared
        sign, volume = np.linalg.slogdet(covariance)
        unlikely.append(dense(means, covariance, seen) + volume)
    task, beyond = recognise(made, seen)
    assert np.array_equal(task, np.argmin(unlikely, axis=0))
    assert np.array_equal(task[:90], np.repeat([0, 1, 2], 30))
    assert beyond == pytest.approx([made[k].beyond(seen[i:i + 1])[0] for i, k in enumerate(task)])
    assert (beyond[90:] > 0).all() and 0 < (beyond[:90] > 0).sum() < 15


def test_a_wider_task_gets_what_lies_far_out():
    """Of two tasks around one point, one ten times as wide: what is near is the narrow one's, up to
    17, where the likelihoods are equal: 1/1 and 1/100 in a mean of 50.5, six numbers."""
    rng = np.random.default_rng(0)
    labels = np.zeros(4000, int)
    narrow, wide = (Portrait.of(np.float32(rng.normal(size=(4000, 6)) * width), labels)
                    for width in (1, 10))
    seen = np.eye(6, dtype=np.float32)
    assert recognise([narrow, wide], np.concatenate([22 * seen, -22 * seen]))[0].all()
    assert not recognise([narrow, wide], np.concatenate([13 * seen, -13 * seen]))[0].any()


BITS = """
import hashlib
import numpy as np
from packing.portrait import Portrait
rng, labels = np.random.default_rng(0), np.arange(64) % 8
seen = rng.normal(size=(64, 30)) @ rng.normal(size=(30, 1024))
arrays = Portrait.of(seen.astype(np.float32), labels).arrays()
print(hashlib.sha256(b"".join(array.tobytes() for array in arrays.values())).hexdigest())
"""


def test_the_bits_do_not_depend_on_the_number_of_threads():
    """Of NumPy's BLAS: a run goes on to the same file with fewer cores."""
    assert same_with_any_number_of_threads(BITS)


def test_a_portrait_is_the_same_after_it_was_stored():
    made = Portrait.of(*images(8))
    stored = {"a": dict(made.arrays()), "b": dict(made.arrays(), more=made.rows), "c": {}}
    again = readable(stored)
    assert list(again) == ["a"]  # the others are not of this version
    other = images(9)[0]
    assert np.array_equal(again["a"].distance(other), made.distance(other))
    assert np.array_equal(again["a"].usual, made.usual)


@pytest.mark.parametrize(
    "classes, packed",  # networks of 0.75 MB and of the paper's size, on CUBS
    [(2, 0.75e6), (200, 134_248_128 * (4 + 3 / 8))],
)
def test_a_portrait_is_small(classes, packed):
    seen = np.random.default_rng(0).normal(size=(200, WIDTH)).astype(np.float32)
    arrays = Portrait.of(seen, np.arange(200) % classes).arrays()
    assert arrays["directions"].shape == (WIDTH, 24)
    assert sum(array.nbytes for array in arrays.values()) < 0.02 * packed


@pytest.mark.parametrize("count, width", [(1, 4), (2, 1), (3, 50), (40, 4)])
def test_few_images_and_what_looks_alike_give_numbers(count, width):
    labels = np.arange(count) % 3
    for seen in (np.zeros((count, width), np.float32), images(1, 42, width)[0][:count]):
        made = Portrait.of(seen, labels)
        assert all(np.isfinite(array).all() for array in made.arrays().values())
        assert np.isfinite(recognise([made], seen)[1]).all()


def positive(out):
    """What a layer [B, ...] adds to the sketch, in NumPy: the means of a grid of at most 7 x 7."""
    out = np.maximum(out, 0)
    if out.ndim == 3:
        return out.mean(1)
    if out.ndim == 4:
        height, width = (max(n for n in range(1, 8) if side // -(-side // 7) >= n)
                         for side in out.shape[2:])
        tall, wide = (-(-side // 7) for side in out.shape[2:])
        cells = [out[:, :, i * tall:(i + 1) * tall, j * wide:(j + 1) * wide].mean((2, 3))
                 for i in range(height) for j in range(width)]
        return np.stack(cells, 2).reshape(len(out), -1)
    return out


def test_a_sketch_is_a_sum_with_random_signs():
    """Layers of all forms; each number at its place, behind those of the layer before."""
    rng = np.random.default_rng(0)
    outputs = [rng.normal(size=shape).astype(np.float32)
               for shape in ((2, 3, 28, 28), (2, 50, 9, 16), (2, 5, 3, 3), (2, 10, 20), (2, 30))]
    expected, place = np.zeros((2, WIDTH)), 0
    for number, out in enumerate(outputs):
        flat = positive(out)
        size = flat.shape[1]
        start = place % WIDTH
        rows = -(-(start + size) // WIDTH)
        signs = np.random.default_rng(number).choice((-1, 1), (rows, WIDTH)).ravel()
        for index in range(size):
            at = start + index
            expected[:, at % WIDTH] += signs[at] * flat[:, index] / np.sqrt(size)
        place += size
    assert sketch([jt.array(out) for out in outputs]).numpy() == pytest.approx(expected, abs=1e-5)


def test_what_is_seen_is_of_the_first_tasks_view():
    """And stays, to the bit, when a later task is trained; no layer keeps a trace of it."""
    packnet = PackNet(random_network("vgg-bn-slim", "ab"), 0.5)
    packnet.train_task("a", batches(0), 1, lr=0.01)
    packnet.prune("a")
    before, labels = recognition.seen(packnet, lambda task: batches(5), "x")
    packnet.train_task("b", batches(1), 1, lr=0.01)
    after, _ = recognition.seen(packnet, lambda task: batches(5), "x")
    assert before.shape == (len(labels), WIDTH) and np.array_equal(before, after)
    assert not any("execute" in vars(layer) for layer in packnet.layers.values())


class Steps(nn.Module):
    """A network of the user's own: a convolution whose weight is standardised, and so computed with
    outside the layer, then 16 steps of a sequence, [steps, images, width]."""

    def __init__(self, by_image=True):
        self.conv, self.step = nn.Conv(3, 4, 3, padding=1), nn.Linear(4, 5)
        self.last = nn.Linear(5, 6) if by_image else nn.ReLU()

    def execute(self, x):
        weight = self.conv.weight - self.conv.weight.mean((1, 2, 3), keepdims=True)
        maps = nn.relu(nn.conv2d(x, weight, self.conv.bias, padding=1))
        steps = self.step(maps.reshape((x.shape[0], 4, 16)).transpose(2, 0, 1))
        return self.last(steps.mean(0))


@pytest.mark.parametrize("by_image", [True, False])
def test_what_is_seen_of_a_layer_that_tells_no_images_apart(by_image):
    """Nothing, in batches of whatever size; of features, where there is no other layer."""
    trunk = Steps(by_image)
    net = MultiHead(trunk, 6 if by_image else 5)
    net.add_head("a", 2)
    packnet = PackNet(net, 0.5)
    packnet.start_task("a")
    pixels = np.random.default_rng(0).normal(size=(18, 3, 4, 4)).astype(np.float32)
    with packnet.task_view("a"):
        expected = sketch([trunk(jt.array(pixels))]).numpy()
    for size in (16, 2, 5):
        parts = [pixels[start:start + size] for start in range(0, 18, size)]
        loader = [(jt.array(part), jt.zeros(len(part), "int32")) for part in parts]
        seen = recognition.seen(packnet, lambda task: loader, "x")[0]
        assert seen == pytest.approx(expected, abs=1e-5)


def test_auroc_counts_the_pairs():
    rng = np.random.default_rng(0)
    known, others = rng.integers(0, 6, 30).astype(float), rng.integers(2, 9, 20).astype(float)
    pairs = [(a < b) + (a == b) / 2 for a in known for b in others]
    assert auroc(known, others) == pytest.approx(np.mean(pairs))
    assert auroc(known, known) == pytest.approx(0.5) and auroc(np.zeros(3), np.ones(2)) == 1


def test_the_images_of_a_portrait(tmp_path, monkeypatch):
    """Of the training images that are not held out, in order, as test images are prepared."""
    write_images(tmp_path / "birds/train", {"a": 12, "b": 8})
    write_images(tmp_path / "birds/test", {"a": 1, "b": 1})
    split = read_split("birds", tmp_path, "train")
    for fit in ("centre", "resize"):
        preparation = Preparation(24, fit)
        for held, most in ((0.0, 100), (0.25, 100), (0.0, 5)):
            monkeypatch.setattr("dataset.IMAGES", most)
            loader, classes = create_dataloader(
                "birds", tmp_path, "portrait", 4, image_size=24, validation=held, seed=3,
                preparation=preparation)
            rows = hold_out(split, held, 3)[0] if held else np.arange(20)
            rows = rows if len(rows) <= most else rows[::4]
            expected = [preprocess(split.folder / split.paths[row], preparation) for row in rows]
            batches = list(loader.host_batches())
            pixels, flips, labels = (np.concatenate(parts) for parts in zip(*batches))
            assert np.array_equal(pixels, expected) and not flips.any() and classes == 2
            assert np.array_equal(labels, split.labels[rows])
    assert not list(tmp_path.rglob("*.pixels"))
