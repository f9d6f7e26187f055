"""What is left of the base network after its prune: measured without labels, said, and nothing else
changed."""

import json

import numpy as np
import pytest
from test_main import options
from test_storage import pretrained_tensors, torch_zip

import main
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
    assert ["WARNING" in line and "data/imagenet" in line for line in said[1:]] == [True] * warned


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
    assert left["pruned"]["images"] == 12 and left["pruned"]["variance_kept"] < 50
    assert log.count("imagenet: WARNING") == 1 and "--initial-pruning-ratio 0.1" in log
    left, log = run("whole", "0.001", 0)
    assert left["frozen"]["variance_kept"] > 90 and "WARNING" not in log
    left, log = run("none", "0", 101)
    assert left == {} and "of the whole network" not in log


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
