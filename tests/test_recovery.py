"""The pruned base network brought back without its own data: the images that serve, norms measured
anew, distillation, and what a run makes of them."""

import json
import re

import numpy as np
import pytest
from conftest import jt, write_images
from PIL import Image
from test_main import options
from test_storage import pretrained_tensors, torch_zip

import main
import networks
import training
from dataset import create_dataloader, unlabelled
from images.folders import DataError, read_photographs
from methods import search
from methods.recovery import LAYERS, PASSES, towards
from packing.loops import measure_norms
from packing.parameters import OWNED, SHARED, parameters_of
from settings.config import Config, ConfigError
from settings.effort import effort
from settings.plan import plan
from storage.checkpoint import load_checkpoint
from storage.packed import unpack_owners

# ------------------------------------------------------------------------ the images


def test_photographs_lie_in_any_folders_and_formats(tmp_path):
    picture = Image.fromarray(np.full((6, 6, 3), 200, np.uint8))
    for name in ("a.jpg", "deep/er/b.png", "deep/c.WEBP", "deep/d.bmp", "e.tiff"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        picture.save(tmp_path / name, format=name.split(".")[1].upper().replace("JPG", "JPEG"))
    for name in ("read.me", "deep/list.json", "drawing.svg", "paper.pdf"):
        (tmp_path / name).write_text("no photograph")
    for name in (".DS_Store", ".hidden.jpg", "deep/Thumbs.db"):
        (tmp_path / name).write_text("left by a system")
    (tmp_path / "deep/around").symlink_to(tmp_path)
    found, others = read_photographs(tmp_path)
    assert found.paths == ["a.jpg", "deep/c.WEBP", "deep/d.bmp", "deep/er/b.png", "e.tiff"]
    assert others == 4 and found.classes == [] and (found.labels == np.zeros(5)).all()
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="empty: there is no image in it"):
        read_photographs(tmp_path / "empty")


def images_of_tasks(image_root, tmp_path, most=100):
    about = dict(image_size=16, cache_dir=tmp_path / "cache", crop="whole")
    loaders = [
        create_dataloader(name, image_root, batch_size=5, **about)[0] for name in ("cubs", "cars")
    ]
    return loaders, unlabelled(loaders, most, batch_size=5, seed=0, **about)


def pixels(loader):
    """Of an epoch, each image as bytes."""
    batches = list(loader)
    assert all((np.asarray(labels) == 0).all() and labels.ndim == 1 for _, labels in batches)
    return [image.tobytes() for images, _ in batches for image in images.numpy()]


def test_the_images_of_several_tasks_are_one_set(image_root, tmp_path):
    """Each once an epoch, in another order each time."""
    loaders, together = images_of_tasks(image_root, tmp_path)
    everything = []
    for loader in loaders:
        everything += [image.tobytes() for images, _ in loader for image in images.numpy()]
    first, second = pixels(together), pixels(together)
    assert sorted(first) == sorted(second) == sorted(everything) and len(set(first)) == 24
    assert first != second and len(together) == 5


def test_of_more_images_each_epoch_draws_others(image_root, tmp_path):
    _, together = images_of_tasks(image_root, tmp_path, most=7)
    epochs = [pixels(together) for _ in range(12)]
    assert all(len(set(epoch)) == 7 for epoch in epochs) and together.num_images == 7
    assert len(set().union(*epochs)) == 24


# ------------------------------------------------------------------------ norms


def test_norms_are_measured_as_numpy_does():
    """The mean over the batches of their means and variances; nothing else moves."""

    class Net(jt.nn.Module):
        def __init__(self):
            self.norm = jt.nn.BatchNorm(3, momentum=0.3)
            self.drop = jt.nn.Dropout(0.9)

        def execute(self, x):
            return self.norm(self.drop(x))

    net = Net()
    before = net.norm.weight.numpy(), net.norm.bias.numpy()
    rng = np.random.default_rng(0)
    batches = [rng.normal(3, 2, (size, 3, 4, 4)).astype(np.float32) for size in (8, 8, 5)]
    assert measure_norms(net, [(jt.array(batch), None) for batch in batches], "norms") == 1
    means = np.mean([batch.mean((0, 2, 3)) for batch in batches], axis=0)
    variances = np.mean([batch.var((0, 2, 3)) for batch in batches], axis=0)
    np.testing.assert_allclose(net.norm.running_mean.numpy(), means, rtol=1e-5)
    np.testing.assert_allclose(net.norm.running_var.numpy(), variances, rtol=1e-4)
    assert (before[0] == net.norm.weight.numpy()).all() and net.norm.momentum == 0.3
    assert (before[1] == net.norm.bias.numpy()).all() and not net.norm.is_train
    assert measure_norms(jt.nn.Linear(2, 2), [], "none") == 0


# ------------------------------------------------------------------------ distillation


class Trunk(jt.nn.Module):
    """Two layers in a row, [B, 3, H, W] -> [B, 6]; with a batch norm behind each, or none."""

    def __init__(self, normed):
        self.convs = jt.nn.ModuleList([jt.nn.Conv(3, 4, 1), jt.nn.Conv(4, 6, 1)])
        self.norms = jt.nn.ModuleList([jt.nn.BatchNorm(4), jt.nn.BatchNorm(6)] if normed else [])

    def maps(self, x):
        found = []
        for number, conv in enumerate(self.convs):
            x = conv(x)
            if len(self.norms):
                x = self.norms[number](x)
            found.append(x)
        return found

    def execute(self, x):
        return self.maps(x)[-1].mean((2, 3))


@pytest.mark.parametrize("normed", [True, False], ids=["norms", "no norms"])
def test_the_loss_is_the_distances(normed):
    """Against NumPy; 0 for the teacher itself; no gradient reaches the teacher, and every layer is
    afterwards what it was."""
    nets = []
    for seed in (0, 1):
        jt.set_global_seed(seed)
        net = networks.MultiHead(Trunk(normed), 6)
        net.add_head("base", 5)
        net.eval()
        nets.append(net)
    net, teacher = nets
    images = jt.array(np.random.default_rng(0).normal(size=(7, 3, 5, 4)).astype(np.float32))
    loss, agreement = towards(teacher, "base")(net, images, jt.zeros(7))

    def apart(given, aim):
        others = tuple(axis for axis in range(aim.ndim) if axis != 1)
        return ((given - aim) ** 2).sum() / ((aim - aim.mean(others, keepdims=True)) ** 2).sum()

    features, aim = (side.trunk(images).numpy() for side in (net, teacher))
    logits, said = (side.heads["base"](side.trunk(images)).numpy() for side in (net, teacher))
    ours, theirs = ([each.numpy() for each in side.trunk.maps(images)] for side in (net, teacher))
    layers = LAYERS * np.mean([apart(*pair) for pair in zip(ours, theirs)])
    assert loss.item() == pytest.approx(apart(features, aim) + layers, rel=1e-4)
    same = logits.argmax(1) == said.argmax(1)
    assert (agreement.numpy() == np.stack([same, ~same], 1)).all()
    moving = [net.trunk.convs[0].weight, net.trunk.convs[1].bias, teacher.trunk.convs[0].weight]
    gradients = jt.grad(loss, moving)
    assert [bool(np.abs(each.numpy()).sum()) for each in gradients] == [True, True, False]
    assert not any("execute" in vars(layer) for side in nets for layer in side.modules())
    loss, agreement = towards(teacher, "base")(teacher, images, jt.zeros(7))
    assert loss.item() == pytest.approx(0, abs=1e-6) and (agreement.numpy()[:, 0] == 1).all()


# ------------------------------------------------------------------------ the plan


def test_when_the_base_is_brought_back_and_how(tmp_path):
    """Without its own data only; where they are, the plan is that of the release."""

    def kinds(**settings):
        config = Config(task_list=["cubs"], data_root=str(tmp_path), **settings)
        steps = [step for step in plan(config) if step.task == "imagenet"]
        return [step.phase.name if step.phase else step.kind for step in steps]

    around = ["start", "prune", "finish"]
    assert kinds(recover="nothing") == around
    assert kinds(recover="norms") == ["start", "prune", "norms", "finish"]
    distilled = ["start", "keep", "prune", "refit", "recover", "recover", "finish"]
    assert kinds(recover="distil", recover_epochs=2) == distilled
    fitted = ["start", "keep", "prune", "refit", "finish"]
    assert kinds(recover="distil", recover_epochs=0) == fitted
    assert kinds(recover="distil", initial_pruning_ratio=0.0) == around
    for split in ("train", "val"):
        write_images(tmp_path / "imagenet" / split, {"x": 1})
    released = ["start", "prune", *["retrain"] * 10, "finish"]
    assert kinds(recover="distil") == kinds(recover="nothing") == released
    assert kinds(recover="norms", num_epochs_base_finetune=0) == [
        "start", "prune", "norms", "finish"
    ]  # fmt: skip
    rates = [step.phase.lr_at(step.epoch) for step in plan(
        Config(data_root=str(tmp_path / "none"), recover="distil", recover_epochs=6, recover_lr=0.5)
    ) if step.phase and step.phase.distils]  # fmt: skip
    falling = [0.5, 0.46650635, 0.375, 0.25, 0.125, 0.03349365]  # half a cosine
    assert rates == pytest.approx(falling)


def test_an_addition_brings_nothing_back(tmp_path):
    config = Config(add_to="x", task_list=["cubs"], data_root=str(tmp_path), recover="distil")
    kinds = {step.kind for step in plan(config, ["imagenet"])}
    assert kinds == {"start", "epoch", "prune", "finish"} and config.recovery() == "nothing"


def test_the_estimate_counts_what_is_distilled(tmp_path):
    """20 epochs over at most `recover_most` images, each seen by the teacher too; and before them
    the images by which the layers are fitted."""

    def counted(**settings):
        c = Config(task_list=["a", "b"], data_root=str(tmp_path), **settings)
        found = effort(c, lambda task: (100, 0))
        return found.trained, found.forward

    trained, forward = counted(recover="nothing")
    assert counted(recover="norms") == (trained, forward + 200)
    assert counted(recover="distil", recover_epochs=20, recover_most=150) == (
        trained + 20 * 150, forward + 20 * 150 + 2 * PASSES * 64
    )  # fmt: skip


@pytest.mark.parametrize(
    "settings, message",
    [
        (dict(recover="imagenet"), "--recover imagenet: must be one of nothing, norms, distil"),
        (dict(recover="nothing", recover_images="x"), "--recover-images x: is for --recover norms"),
        (dict(recover_lr=0), "--recover-lr 0: must be a positive number"),
        (dict(recover_epochs=-1), "--recover-epochs -1: must not be negative"),
        (dict(recover_most=0), "--recover-most 0: must be at least 1"),
    ],
)
def test_what_cannot_be_recovered_by_is_refused(settings, message):
    with pytest.raises(ConfigError, match=re.escape(message)):
        Config(**settings).check_values()


# ------------------------------------------------------------------------ runs

QUICK = ("--num-epochs-per-task", "1", "--recover-epochs", "4", "--recover-lr", "0.001")


@pytest.fixture
def run(image_root, tmp_path):
    """run(name, *more) -> (results, log, tensors) of a network with batch norm without its data."""
    (tmp_path / "slim.pth").write_bytes(torch_zip(pretrained_tensors("vgg-bn-slim")))

    def carried_out(name, *more):
        folder = tmp_path / name
        arguments = options(image_root, folder, tmp_path / "slim.pth", *QUICK, *more)
        arguments[arguments.index("vgg-slim")] = "vgg-bn-slim"
        assert main.main([*arguments, "--task-list", "cubs"]) == 0
        results = json.loads((folder / "results.json").read_text())
        tensors = load_checkpoint(folder / "packnet.safetensors")[0]
        return results, (folder / "log.txt").read_text(), tensors

    return carried_out


def test_each_way_does_what_it_says(run, capsys):
    """Nothing leaves what the prune left; norms moves the statistics alone; distil moves what is
    kept and the norms' parameters, never what is pruned nor the statistics, and comes nearest to
    the whole network. What it was is said."""
    ratio = ("--pruning-ratios", "0")
    found = {how: run(how, *ratio, "--recover", how) for how in ("nothing", "norms", "distil")}
    left = {how: results["base"]["left_of_base"] for how, (results, _, _) in found.items()}
    assert left["nothing"]["pruned"] == left["nothing"]["frozen"]
    assert left["nothing"]["pruned"] == left["norms"]["pruned"] == left["distil"]["pruned"]
    assert left["distil"]["frozen"]["agreement"] >= left["nothing"]["frozen"]["agreement"]

    def moved(how):
        before, after = found["nothing"][2], found[how][2]
        owner = {name.removeprefix("owner."): value for name, value in before.items()
                 if name.startswith("owner.")}  # fmt: skip
        assert owner.keys() <= after.keys()
        return {name for name in before if name.startswith("trunk.") and name not in owner
                and not np.array_equal(before[name], after[name])}  # fmt: skip

    statistics = {name for name in found["norms"][2] if "running_" in name}
    owned = {name.removeprefix("owner.") for name in found["nothing"][2] if "owner." in name}
    learnt = {name for name in found["nothing"][2]
              if name.startswith("trunk.") and name not in owned | statistics}  # fmt: skip
    assert moved("norms") == statistics and len(statistics) == 8
    assert moved("distil") == learnt and len(learnt) >= 8
    for name in ("heads.imagenet.weight", "heads.imagenet.bias"):
        assert np.array_equal(found["distil"][2][name], found["nothing"][2][name])
    for how in found:  # the same weights were pruned, and the task got the rest
        for name, value in found[how][2].items():
            if name.startswith("owner."):
                assert np.array_equal(value, found["nothing"][2][name])
    records = [record for record in found["distil"][0]["history"] if record["phase"] == "recover"]
    assert len(records) == 4 and "test_top1" not in records[0]
    assert records[-1]["loss"] < records[0]["loss"]
    assert "distilled from the whole network" in found["distil"][1]
    assert "batch norms were measured anew" in found["norms"][1]
    assert "imagenet: 4 batch norms measured anew" in found["norms"][1]
    assert "as the whole network" in found["distil"][1]
    fitted = "imagenet: 4 of 6 layers fitted to what the whole network gives"
    assert [fitted in log for _, log, _ in found.values()] == [False, False, True]
    assert all("is not re-trained on imagenet" in log for _, log, _ in found.values())


def test_pruned_weights_stay_0_while_it_is_distilled(run, monkeypatch):
    """Looked at when the base is frozen, before any task takes the free weights."""
    seen, finish = {}, training.finish

    def watched(run, step):
        finish(run, step)
        if step.task == "imagenet":
            seen["free"] = {
                name: weight.numpy()[run.packnet.owners[name].numpy() == 0]
                for name, weight in run.packnet.weights.items()
            }
            seen["kept"] = list(run.kept)

    monkeypatch.setattr(training, "finish", watched)
    results, _, tensors = run("out", "--recover", "distil", "--recover-most", "5")
    assert all(len(values) and (values == 0).all() for values in seen["free"].values())
    assert "dense" not in seen["kept"]
    assert results["tasks"][0]["max_logit_change"] == 0.0


def test_photographs_of_ones_own_serve_instead(run, tmp_path, capsys):
    write_images(tmp_path / "photographs/of", {"mine": 3})
    (tmp_path / "photographs/of/list.txt").write_text("mine")
    folder = str(tmp_path / "photographs")
    results, log, _ = run("out", "--recover", "norms", "--recover-images", folder)
    assert "recovery, images: 3 images\n" in log
    assert "1 other files are left out" in capsys.readouterr().out


def test_photographs_that_are_missing_or_not_needed(image_root, tmp_path, capsys):
    (tmp_path / "slim.pth").write_bytes(torch_zip(pretrained_tensors()))

    def refused(where):
        arguments = options(
            image_root, tmp_path / "out", tmp_path / "slim.pth", "--recover", "norms"
        )
        assert main.main([*arguments, "--recover-images", str(where)]) == 2
        assert not (tmp_path / "out").exists()
        return capsys.readouterr().err

    assert "--recover-images" in (said := refused(tmp_path / "nowhere"))
    assert "no such folder" in said
    (tmp_path / "empty").mkdir()
    assert "there is no image in it" in refused(tmp_path / "empty")
    for split in ("train", "val"):
        write_images(image_root / "imagenet" / split, {"x": 1})
    assert "re-trained on" in refused(tmp_path / "empty")


SEARCHED = ("--initial-pruning-ratio", "auto", "--validation", "0.25", "--recover-epochs", "5")


@pytest.mark.parametrize("how, drop", [("distil", 50), ("norms", 100), ("nothing", 0)])
def test_the_ratio_of_the_base_is_found_by_what_it_still_gives(
    run, how, drop, tmp_path, monkeypatch
):
    """Each trial is brought back as the base will be, and undone; the largest within the limit is
    taken, of the smallest there is where none is."""
    calls = {"measure_norms": 0, "fit_layers": 0}

    def watch(name, plain):
        def watched(*arguments):
            calls[name] += 1
            return plain(*arguments)

        monkeypatch.setattr(training, name, watched)

    for name in calls:
        watch(name, getattr(training, name))
    results, log, tensors = run("out", *SEARCHED, "--recover", how, "--max-drop", str(drop))
    each_time = {"norms": "measure_norms", "distil": "fit_layers"}.get(how)
    assert calls == {name: (name == each_time) * (search.TRIALS + 1) for name in calls}
    base = results["base"]
    assert [trial["before"] for trial in base["tried"]] == [100] * search.TRIALS
    assert {trial["epochs"] for trial in base["tried"]} == {1 if how == "distil" else 0}
    assert base["pruning_ratio"] == search.chosen(base["tried"], drop, search.BASE_RATIOS)
    if drop == 100:
        assert base["pruning_ratio"] == search.BASE_RATIOS[-1]
    owned = sum(int((unpack(name, tensors) == 1).sum()) for name in tensors
                if name.startswith("owner."))  # fmt: skip
    assert owned == base["owned_weights"]
    assert base["owned_fraction"] == pytest.approx(1 - base["pruning_ratio"], abs=1e-3)
    assert (tmp_path / "out/plots/ratios_imagenet.png").exists()
    assert "pruning ratios tried from the whole network" in log and "  taken" in log
    assert base["left_of_base"]["frozen"]["images"] == 3  # of the validation part, not the tests


def unpack(name, tensors):
    return unpack_owners(tensors[name], tensors[name.removeprefix("owner.")].shape)


def test_a_search_for_the_bases_ratio_that_is_stopped_goes_on_to_the_bit(
    run, monkeypatch, tmp_path
):
    distil = (*SEARCHED, "--recover", "distil", "--max-drop", "50")
    whole, _, _ = run("whole", *distil)
    plain, attempts = training.attempt, []

    def stopped(run, step):
        attempts.append(step)
        if len(attempts) == 3:
            raise KeyboardInterrupt
        plain(run, step)

    monkeypatch.setattr(training, "attempt", stopped)
    with pytest.raises(AssertionError):
        run("stopped", *distil)
    results, _, _ = run("stopped", "--resume", *distil)
    packed = [(tmp_path / name / "packnet.safetensors").read_bytes()
              for name in ("whole", "stopped")]  # fmt: skip
    assert packed[0] == packed[1] and results["base"] == whole["base"]


@pytest.mark.parametrize(
    "settings, message",
    [
        (dict(), "--initial-pruning-ratio auto: auto needs a --validation part"),
        (dict(initial_pruning_ratio="equal", validation=0.1), "equal: must be in [0, 1), or auto"),
        (dict(initial_pruning_ratio=1.0), "must be in [0, 1), or auto"),
    ],
)
def test_a_base_ratio_that_cannot_be_is_refused(settings, message):
    with pytest.raises(ConfigError, match=re.escape(message)):
        Config(**dict(initial_pruning_ratio="auto") | settings).check_values()


def test_depthwise_layers_stay_whole_where_asked():
    """They are shared then: pruned by nothing, moved by the base task alone."""
    nn = jt.nn
    model = nn.Sequential(nn.Conv(3, 8, 3), nn.Conv(8, 8, 3, groups=8), nn.Conv(8, 8, 3, groups=4),
                          nn.Conv(8, 6, 1), nn.Conv(1, 1, 3), nn.Linear(6, 2))  # fmt: skip
    packed = parameters_of(model, packed_layers="no-depthwise")
    kinds = [packed[f"{layer}.weight"].kind for layer in range(6)]
    assert kinds == [OWNED, SHARED, OWNED, OWNED, OWNED, OWNED]
    everything = parameters_of(model)
    assert {everything[f"{layer}.weight"].kind for layer in range(6)} == {OWNED}


def test_a_recovery_that_is_stopped_goes_on_to_the_bit(run, monkeypatch, tmp_path):
    """Before its layers are fitted; in the midst of its epochs, with Adam's moments and the number
    of its steps; and behind them."""
    distil = ("--recover", "distil")
    whole, _, _ = run("whole", *distil)
    for name, at in (("not-fitted", ("refit", 0)), ("in-its-epochs", ("epoch", 2)),
                     ("behind-them", ("finish", 0))):  # fmt: skip
        plain = training.take

        def stopped(run, step, at=at):
            if (step.kind, step.epoch) == at and step.task == "imagenet":
                raise KeyboardInterrupt
            plain(run, step)

        monkeypatch.setattr(training, "take", stopped)
        with pytest.raises(AssertionError):
            run(name, *distil)
        monkeypatch.setattr(training, "take", plain)
        results, _, _ = run(name, "--resume", *distil)
        packed = [(tmp_path / folder / "packnet.safetensors").read_bytes()
                  for folder in ("whole", name)]  # fmt: skip
        assert packed[0] == packed[1]
        assert results["base"] == whole["base"]
