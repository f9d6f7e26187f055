"""What is left of the base network after its prune: measured without labels, said, and nothing else
changed."""

import json

import numpy as np
import pytest
from conftest import jt
from test_main import options
from test_storage import pretrained_tensors, torch_zip

import main
import report
from dataset import create_dataloader
from packing.watching import watched
from runs import damage
from storage.checkpoint import load_checkpoint


def test_agreement_and_variance_by_hand():
    """Of three images two keep their class; the features vary by 8 about their mean, 2 of it are
    lost."""
    whole = dict(
        logits=np.array([[3, 1], [0, 2], [5, 4]], np.float32),
        features=np.array([[0.0], [2.0], [4.0]], np.float32),
    )
    now = dict(
        logits=np.array([[9, 0], [1, 3], [0, 1]], np.float32),
        features=np.array([[1.0], [2.0], [3.0]], np.float32),
    )
    found = damage.compared(whole, now)
    assert found == dict(
        images=3, agreement=pytest.approx(200 / 3), variance_kept=pytest.approx(75)
    )
    assert damage.compared(whole, whole) == dict(images=3, agreement=100, variance_kept=100)
    ruined = damage.compared(whole, dict(whole, features=whole["features"] * -5))
    assert ruined["variance_kept"] == 0
    still = dict(whole, features=np.ones((3, 1), np.float32))
    assert damage.compared(still, still)["variance_kept"] == 100
    assert (
        damage.compared(still, dict(still, features=np.zeros((3, 1), np.float32)))["variance_kept"]
        == 0
    )


@pytest.mark.parametrize(
    "agreement, last, warned", [(49.9, True, True), (50.0, True, False), (1.7, False, False)]
)
def test_the_warning_comes_once_it_is_final_and_below_the_bound(agreement, last, warned):
    said = damage.lines(
        "imagenet",
        "as it is frozen",
        dict(images=256, agreement=agreement, variance_kept=3.0),
        "data/imagenet",
        last,
    )
    assert f"{agreement:.1f} % of 256 images" in said[0]
    assert len(said) == (2 if warned else 1)
    assert all("WARNING" in line and "data/imagenet" in line for line in said[1:])


def test_a_run_says_what_its_first_prune_destroyed(image_root, tmp_path, capsys, monkeypatch):
    """A base network that is not re-trained. Whether the log warns is a matter of the bound alone;
    a prune that takes next to nothing leaves nearly all, one that is not done, no figures."""
    (tmp_path / "slim.pth").write_bytes(torch_zip(pretrained_tensors()))

    def run(name, ratio, bound):
        monkeypatch.setattr(damage, "BOUND", bound)
        more = ("--initial-pruning-ratio", ratio, "--task-list", "cubs")
        folder = tmp_path / name
        assert main.main(options(image_root, folder, tmp_path / "slim.pth", *more)) == 0
        results = json.loads((folder / "results.json").read_text())
        return results["base"]["left_of_base"], (folder / "log.txt").read_text()

    left, log = run("ruined", "0.98", 101)
    assert left["pruned"] == left["frozen"]  # not re-trained
    layers = left["pruned"]["layers"]
    assert len(layers) == 6 and all(0 <= share <= 100 for share in layers.values())
    assert f"{min(sorted(layers), key=layers.get)} keeps least" in log
    assert left["pruned"]["images"] == 6 and left["pruned"]["variance_kept"] < 50
    assert log.count("imagenet: WARNING") == 1 and "--initial-pruning-ratio 0.1" in log
    assert (tmp_path / "ruined/plots/left_of_base.png").exists()
    assert report.main(["--runs", str(tmp_path / "ruined"), "--out", str(tmp_path / "page")]) == 0
    page = (tmp_path / "page/report.md").read_text()
    figures = left["frozen"]
    least = min(sorted(layers), key=layers.get)
    row = (f"| as it is frozen | {figures['agreement']:.2f} | {figures['variance_kept']:.2f} | "
           f"{least}: {layers[least]:.1f} |")  # fmt: skip
    assert row in page and "left_of_base.png" in page
    left, log = run("whole", "0.001", 0)
    assert left["frozen"]["variance_kept"] > 90 and "WARNING" not in log
    assert min(left["frozen"]["layers"].values()) > 90
    left, log = run("none", "0", 101)
    assert left == {} and "of the whole network" not in log
    assert not (tmp_path / "none/plots/left_of_base.png").exists()


def test_what_each_layer_gives_by_hand():
    """Of a convolution the means over its map, of a linear layer on words those over the words; a
    layer that gives several is passed over. Afterwards the layers are what they were."""
    nn = damage.nn
    layers = dict(
        conv=nn.Conv(3, 5, 3), linear=nn.Linear(4, 6), several=nn.LSTM(4, 2, batch_first=True)
    )
    rng = np.random.default_rng(0)
    image = rng.normal(size=(2, 3, 8, 7)).astype(np.float32)
    words = rng.normal(size=(2, 9, 4)).astype(np.float32)
    with watched(layers) as seen:
        map_ = layers["conv"](jt.array(image)).numpy()
        told = layers["linear"](jt.array(words)).numpy()
        layers["several"](jt.array(words))
    assert seen.keys() == {"conv", "linear"}
    assert np.array_equal(seen["conv"].numpy(), map_)
    assert np.array_equal(seen["linear"].numpy(), told)
    found = {name: damage.means(layers[name], output).numpy() for name, output in seen.items()}
    np.testing.assert_allclose(found["conv"], map_.mean((2, 3)), atol=1e-6)
    np.testing.assert_allclose(found["linear"], told.mean(1), atol=1e-6)
    assert np.array_equal(damage.means(layers["linear"], seen["linear"][:, 0]).numpy(), told[:, 0])
    assert not any("execute" in vars(layer) for layer in layers.values())


def test_the_images_that_are_looked_at_are_spread_over_the_split(image_root, tmp_path):
    """Of 6 test images in three classes, 3: the first, one in the midst, the last; as to test."""
    about = dict(image_size=16, cache_dir=tmp_path, crop="plain", batch_size=2)
    loader, _ = create_dataloader("flowers", image_root, "test", **about)
    everything = np.concatenate([images.numpy() for images, _ in loader])
    some = [images.numpy() for images in loader.some(3)]
    assert [len(images) for images in some] == [2, 1]
    assert np.array_equal(np.concatenate(some), everything[[0, 2, 5]])
    assert np.array_equal(np.concatenate([*map(np.asarray, loader.some(100))]), everything)


def test_the_measurement_moves_nothing(image_root, tmp_path, monkeypatch):
    """The packed file is the same, to the byte, where nothing is measured."""
    (tmp_path / "slim.pth").write_bytes(torch_zip(pretrained_tensors()))

    def packed(name):
        assert (
            main.main(
                options(image_root, tmp_path / name, tmp_path / "slim.pth", "--task-list", "cubs")
            )
            == 0
        )
        return load_checkpoint(tmp_path / name / "packnet.safetensors")[0]

    with_it = packed("with")
    nothing = dict(features=np.zeros((1, 1), np.float32), logits=np.zeros((1, 1), np.float32))
    monkeypatch.setattr(damage, "outputs", lambda run: nothing)
    without = packed("without")
    assert with_it.keys() == without.keys() and all(
        np.array_equal(with_it[name], without[name]) for name in with_it
    )


def test_what_is_said_does_not_hang_on_the_order_of_the_layers():
    """A run that was stopped finds them in another; several can keep nothing."""
    layers = {"features.0": 0.0, "classifier.3": 0.0, "classifier.0": 0.0, "features.3": 7.5}
    said = []
    for names in (list(layers), sorted(layers), sorted(layers, reverse=True)):
        figures = dict(images=4, agreement=75.0, variance_kept=1.0,
                       layers={name: layers[name] for name in names})
        said.append(damage.lines("base", "after its prune", figures, "data/base", False))
    assert said[0] == said[1] == said[2] and "classifier.0 keeps least, 0.0 %" in said[0][1]
