"""The baselines, every named experiment from its command on small demo data, the page that gathers
them, and what evaluate.py
does with a packed network."""

import collections
import csv
import dataclasses
import html
import json
import math
import os
import re
import shutil
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import ROOT, jt, write_images
from test_sequences import SEQUENCES
from test_storage import pretrained_tensors, torch_zip

import evaluate
import main
import networks
import pruning
import report
import training
from dataset import create_dataloader, to_input
from images import drawings
from images.folders import read_split
from images.preprocess import Preparation, preparation_of, preprocess
from methods import METHODS
from methods.joint import ALL, Mixture
from methods.lwf import WEIGHT_DECAY, without_forgetting
from methods.steps import Step
from packing import loops
from packing.portrait import Portrait, auroc, recognise
from packing.watching import watched
from reporting.continual import measures
from reporting.published import OTHER_BASE
from reporting.table import rows as report_rows
from runs.recognition import sketch
from settings.config import Config
from settings.effort import Rates, effort, images_of, save_rates
from settings.experiments import EXPERIMENTS, runs_of
from settings.plan import plan
from storage import seals
from storage.packed import load_packed, save_packed

nn = jt.nn
# Those without a base network, one of them from ImageNet's weights.
FROM_SCRATCH = {*SEQUENCES} - {"six-tasks"}
LONG = ("tiny-imagenet-10", "recogseq-8", "fashion-5", "fashion-2", "fashion-permuted-10",
        "sources-2")
# Their network and their steps, apart from each other, are in the experiments before them.
SLOW = ("release-densenet121", "baselines-resnet50", "baselines-densenet121")
FEWER = {  # of an experiment's runs: enough for each kind of them and for a mean
    "main-table": ("0.50-cubs-cars-flowers", "0.50-flowers-cars-cubs", "0.75-cars-flowers-cubs"),
    "orders": ("cubs-cars-flowers", "cars-flowers-cubs"),
}
SHORT = """
    --num-epochs-base 1 --num-epochs-base-finetune 1 --num-epochs-per-task 1
    --num-epochs-finetune 1 --device cpu
""".split()


COMPARED = [
    *SHORT,
    *"--num-epochs-per-task 4 --baselines classifier individual finetune lwf joint".split(),
]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("data")
    drawings.draw(root, train=4, test=2)
    return root


# ---- the parts of the baselines


def test_the_loss_of_learning_without_forgetting_is_the_papers():
    rng = np.random.default_rng(0)
    student, teacher = networks.build("vgg-slim"), networks.build("vgg-slim")
    for net in (student, teacher):
        for task, classes in (("old", 3), ("older", 4), ("new", 5)):
            net.add_head(task, classes)
        net.eval()
    student.select("new")
    images, labels = rng.normal(size=(6, 3, 48, 48)).astype(np.float32), rng.integers(0, 5, 6)
    loss, logits = without_forgetting(teacher, ["old", "older"])(
        student, jt.array(images), jt.array(labels)
    )

    def outputs(net, task):
        net.select(task)
        return net(jt.array(images)).numpy().astype(np.float64)

    def softmax(z):
        return np.exp(z) / np.exp(z).sum(1, keepdims=True)

    new = outputs(student, "new")
    expected = -np.log(softmax(new)[np.arange(6), labels]).mean()
    for task in ("old", "older"):
        target, guess = softmax(outputs(teacher, task) / 2), softmax(outputs(student, task) / 2)
        expected += -(target * np.log(guess)).sum(1).mean()
    assert loss.item() == pytest.approx(expected, rel=1e-5) and np.allclose(
        logits.numpy(), new, atol=1e-5
    )


def test_a_mixture_hands_out_every_batch_once_with_its_task_selected():
    class Batches(list):
        seed, epoch, part = 5, 0, (0, 1)

    selected, log = [], []
    loaders = {
        task: Batches(f"{task}{i}" for i in range(count)) for task, count in (("a", 30), ("b", 20))
    }
    orders = []
    for epoch in (1, 2, 1):
        mixture = Mixture(loaders, selected.append)
        mixture.epoch = epoch
        log = [(selected[-1], batch) for batch in mixture]
        assert len(mixture) == 50 and sorted(batch for _, batch in log) == sorted(
            [*loaders["a"], *loaders["b"]]
        )
        assert (
            all(task == batch[0] for task, batch in log)
            and loaders["a"].epoch == loaders["b"].epoch == epoch
        )
        orders.append([batch[0] for _, batch in log])
    assert orders[0] == orders[2] != orders[1] and orders[0] != sorted(orders[0])


@pytest.mark.parametrize(
    "method, rates, warm_up, decay",
    [
        ("classifier", [1e-3] * 20, 0, 0.0),
        ("individual", [1e-3] * 10 + [1e-4] * 10, 0, 0.0),
        ("finetune", [1e-3] * 10 + [1e-4] * 10, 0, 0.0),
        ("joint", [1e-3] * 10 + [1e-4] * 10, 0, 0.0),
        ("lwf", [1e-3] * 10 + [1e-4] * 10, 5, 5e-4),
    ],
)
def test_the_baselines_follow_the_schedule_of_the_release(method, rates, warm_up, decay):
    config = Config(baselines=[method])
    steps = [step for step in plan(config) if step.method == method]
    assert steps[0].kind == "start"
    end = next(number for number, step in enumerate(steps) if step.kind == "finish")
    epochs = steps[1:end]
    assert all(step.kind == "epoch" for step in epochs)
    assert [step.phase.lr_at(step.epoch) for step in epochs] == pytest.approx(rates)
    assert [step.phase.name for step in epochs] == ["warm-up"] * warm_up + ["train"] * (
        20 - warm_up
    )
    assert {step.phase.weight_decay for step in epochs} == {decay}


def test_what_a_baseline_may_move():
    net = networks.build("vgg-bn-slim")
    for task in ("old", "new"):
        net.add_head(task, 3)
    packnet = pruning.PackNet(net)
    packnet.start_task("new")

    def moved(method):
        return set(METHODS[method].moving(SimpleNamespace(packnet=packnet), "new", None))

    everything = {name for name in net.state_dict() if "running" not in name}
    head = {"heads.new.weight", "heads.new.bias"}
    assert moved("lwf") == moved("joint") == everything and moved("classifier") == head
    assert (
        moved("individual")
        == moved("finetune")
        == everything - {"heads.old.weight", "heads.old.bias"}
    )


@pytest.fixture(scope="module")
def compared(data, tmp_path_factory):
    """A run with all baselines; with it, every network as its baseline finished a task, the base
    network, and the images that went
    through."""
    out = tmp_path_factory.mktemp("compared") / "run"
    seen = {}
    finish, epoch = training.finish, training.epoch

    def watched(run, step):
        finish(run, step)
        if step.method != "packnet":
            seen[step.method, step.task] = run.arrays()
            seen["base"] = run.kept["dense"]

    def watched_epoch(run, step):
        epoch(run, step)
        if step.phase.name == "warm-up":
            seen[step.phase.name, step.task] = run.arrays()

    seen["images"] = images = collections.Counter()
    train_epoch, predict = training.train_epoch, loops.predict

    def counted(net, loss, loader, optimizer, title):
        batches = loader.loader  # within Learnable
        there = batches.loaders.values() if isinstance(batches, Mixture) else [batches]
        kind = "head" if "warm-up" in title or title.startswith("classifier:") else "trained"
        images[kind] += sum(its.num_images for its in there)
        images["teacher"] += loader.num_images if title.startswith("lwf:") else 0
        return train_epoch(net, loss, loader, optimizer, title)

    def counted_test(net, loader, title="test"):
        images["tested"] += loader.num_images
        return predict(net, loader, title)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "train_epoch", counted)
        patch.setattr(loops, "predict", counted_test)
        patch.setattr(training, "finish", watched)
        patch.setattr(training, "epoch", watched_epoch)
        assert (
            main.main(["--demo", "--data-root", str(data), "--output-dir", str(out), *COMPARED])
            == 0
        )
    return out, json.loads((out / "results.json").read_text()), seen


def changed(before, after, prefix):
    return {
        name
        for name in before
        if name.startswith(prefix) and not np.array_equal(before[name], after[name])
    }


def test_each_baseline_moves_what_it_may_and_nothing_else(compared):
    _, _, seen = compared
    base, trunk = seen["base"], "trunk."
    everything = {name for name in base if name.startswith(trunk)}
    assert not changed(base, seen["classifier", "demo_flowers"], trunk)
    first, second = seen["classifier", "demo_birds"], seen["classifier", "demo_cars"]
    assert not changed(first, second, "heads.demo_birds.")
    assert changed(base, seen["individual", "demo_cars"], trunk) == everything
    # from the base network, not from the one before
    assert "heads.demo_birds.weight" not in seen["individual", "demo_cars"]
    assert (
        changed(seen["finetune", "demo_birds"], seen["finetune", "demo_cars"], trunk) == everything
    )
    assert not changed(
        seen["finetune", "demo_birds"], seen["finetune", "demo_cars"], "heads.demo_birds."
    )
    # held back, not frozen
    assert changed(seen["lwf", "demo_birds"], seen["lwf", "demo_cars"], "heads.demo_birds.")
    assert changed(base, seen["lwf", "demo_birds"], "heads.demo_base.")
    joint = seen["joint", ALL]
    assert all(
        f"heads.{task}.weight" in joint
        for task in ("demo_base", "demo_birds", "demo_cars", "demo_flowers")
    )
    assert changed(base, joint, "heads.demo_base.")


def test_in_lwfs_warm_up_only_the_new_head_learns_and_the_decay_shrinks_the_rest(compared):
    """As in the release, whose one optimizer has everything: gradients are 0, momentum and decay
    act. By hand, of one number:"""
    _, results, seen = compared
    # 32 images of demo_birds in one batch
    lr, decay, steps = results["config"]["initial_lr"], WEIGHT_DECAY, 1
    assert results["config"]["momentum"] == 0.9 and results["config"]["batch_size"] == 32
    value, speed = 1.0, 0.0
    for _ in range(steps):
        speed = 0.9 * speed + decay * value
        value -= lr * speed
    base, after = seen["base"], seen["warm-up", "demo_birds"]
    for name in base:
        assert np.allclose(after[name], base[name].astype(np.float64) * value, rtol=1e-6, atol=0), (
            name
        )
        assert not np.array_equal(after[name], base[name]) or not base[name].any(), name


def test_the_optimizer_of_lwfs_warm_up_goes_on_in_its_training(compared, monkeypatch):
    """Of a phase the momentum starts at 0, but not where an earlier one counts for it."""
    seen = []

    class Watched:
        config, net, results, kept = Config(), type("Net", (), dict(select=print)), None, {}
        packnet, loaders = None, {("new", "train"): None}

        def begin_epoch(self, moving, lr, weight_decay, goes_on, adam):
            seen.append(goes_on)
            raise KeyboardInterrupt

    method = METHODS["lwf"]
    monkeypatch.setattr(type(method), "moving", lambda *_: {})
    for phase in method.phases(Config()):
        for number in (0, 1):
            with pytest.raises(KeyboardInterrupt):
                training.epoch(Watched(), Step("lwf", "epoch", "new", phase, number))
    assert seen == [False, True, True, True]


@pytest.mark.parametrize("train_bn", [False, True])
def test_individual_networks_keep_the_statistics_of_batch_norm(
    data, tmp_path, monkeypatch, train_bn
):
    """Unless with --train-bn, as in the release; what batch norm multiplies by and adds moves in
    both."""
    seen, finish = {}, training.finish

    def watched(run, step):
        finish(run, step)
        if step.method == "individual":
            seen.update(base=run.kept["dense"], after=run.arrays())

    monkeypatch.setattr(training, "finish", watched)
    more = ["--train-bn"] if train_bn else []
    assert (
        main.main(
            [
                "--demo",
                "--data-root",
                str(data),
                "--output-dir",
                str(tmp_path / "out"),
                *SHORT,
                *"--arch vgg-bn-slim --task-list demo_birds --baselines individual".split(),
                *more,
            ]
        )
        == 0
    )
    moved = changed(seen["base"], seen["after"], "trunk.")
    statistics = {name for name in seen["base"] if "running" in name}
    assert len(statistics) == 8 and moved == {
        name for name in seen["base"] if name.startswith("trunk.")
    } - (set() if train_bn else statistics)


def test_a_run_without_imagenet_says_that_its_base_is_not_the_releases(
    image_root, tmp_path, capsys
):
    """In log, results and report; and not where the base is re-trained, or not pruned."""
    (tmp_path / "vgg.pth").write_bytes(torch_zip(pretrained_tensors("vgg-slim", 3)))

    def said(out, *more):
        assert (
            main.main(
                [
                    "--data-root",
                    str(image_root),
                    "--output-dir",
                    str(tmp_path / out),
                    *"--arch vgg-slim --image-size 48 --pretrained".split(),
                    str(tmp_path / "vgg.pth"),
                    "--task-list",
                    "cubs",
                    *SHORT[2:],
                    *"--recover nothing".split(),
                    *more,
                ]
            )
            == 0
        )
        log = (tmp_path / out / "log.txt").read_text()
        capsys.readouterr()
        assert report.main(["--runs", str(tmp_path / out), "--out", str(tmp_path / out)]) == 0
        places = (
            log,
            capsys.readouterr().err,
            (tmp_path / out / "report.md").read_text(),
            (tmp_path / out / "report.html").read_text(),
        )
        results = json.loads((tmp_path / out / "results.json").read_text())
        return results["base_retrained"], [OTHER_BASE in html.unescape(text) for text in places]

    assert said("none") == (False, [True] * 4)
    assert said("whole", "--initial-pruning-ratio", "0") == (True, [False] * 4)
    write_images(image_root / "imagenet/train", dict.fromkeys("xyz", 2))
    write_images(image_root / "imagenet/val", dict.fromkeys("xyz", 2))
    assert said("there") == (True, [False] * 4)
    assert said("no-epochs", "--num-epochs-base-finetune", "0") == (False, [True] * 4)


def test_the_estimate_counts_the_images_that_go_through_a_run(compared, data):
    _, results, seen = compared
    images, found = (
        seen["images"],
        effort(Config(**results["config"]), lambda task: images_of(task, str(data))),
    )
    assert images_of("demo_birds", str(data)) == (32, 16) and images_of("demo_base", str(data)) == (
        40,
        20,
    )
    assert images_of("mnist_permuted_03", "none") == images_of("mnist", "none") == (60000, 10000)
    assert (found.trained, found.forward) == (
        images["trained"],
        images["head"] + images["teacher"] + images["tested"],
    )


def test_the_results_of_baselines(compared):
    out, results, _ = compared
    names = ["demo_base", "demo_birds", "demo_cars", "demo_flowers"]
    assert list(results["baselines"]) == ["classifier", "individual", "finetune", "lwf", "joint"]
    for method, figures in results["baselines"].items():
        assert figures["tasks"] == names and len(figures["top1_by_stage"]) == (
            1 if method == "joint" else 3
        )
        assert None not in figures["top1_by_stage"][-1]
    for method in ("classifier", "individual"):  # nothing that was learnt changes
        rows = results["baselines"][method]["top1_by_stage"]
        assert rows[0][1] == rows[1][1] == rows[2][1] and rows[0][3] is None
    assert (
        results["baselines"]["individual"]["top1_by_stage"][0][0]
        == results["base"]["top1_before_prune"]
    )
    log = (out / "log.txt").read_text()
    assert "Learning without Forgetting: demo_base" in log
    assert "lwf: demo_cars, warm-up 1/1" in log and "lwf: demo_cars, train 3/3" in log


def test_a_baseline_that_was_interrupted_goes_on_to_the_same_end(
    compared, data, tmp_path, monkeypatch
):
    out, expected, _ = compared
    train_epoch, stops = (
        training.train_epoch,
        ["joint: all tasks, train 3/4", "lwf: demo_cars, train 1/3"],
    )

    def interrupted(net, loss, loader, optimizer, title):
        if title in stops:
            stops.remove(title)
            raise KeyboardInterrupt
        return train_epoch(net, loss, loader, optimizer, title)

    monkeypatch.setattr(training, "train_epoch", interrupted)
    monkeypatch.setattr("runs.carry_out.SAVING_SHARE", 1e9)
    command = [
        "--demo",
        "--data-root",
        str(data),
        "--output-dir",
        str(tmp_path / "run"),
        "--resume",
        *COMPARED,
    ]
    assert [main.main(command), main.main(command), main.main(command)] == [130, 130, 0]
    assert (
        json.loads((tmp_path / "run/results.json").read_text())["baselines"]
        == expected["baselines"]
    )


def test_a_baseline_goes_on_as_it_began_where_packnets_tasks_have_parameters_of_their_own(
    data, tmp_path, monkeypatch
):
    """The network of a baseline is packed without PackNet's options, after a stop too."""
    train_epoch, stops = training.train_epoch, []
    command = [
        "--demo",
        "--data-root",
        str(data),
        *SHORT,
        *"""
            --arch vgg-bn-slim --train-bn --train-biases --task-list demo_birds demo_cars
            --baselines classifier --num-epochs-per-task 2 --output-dir
        """.split(),
    ]

    def interrupted(net, loss, loader, optimizer, title):
        if title in stops:
            stops.remove(title)
            raise KeyboardInterrupt
        return train_epoch(net, loss, loader, optimizer, title)

    def baselines(name):
        return json.loads((tmp_path / name / "results.json").read_text())["baselines"]

    monkeypatch.setattr(training, "train_epoch", interrupted)
    monkeypatch.setattr("runs.carry_out.SAVING_SHARE", 1e9)
    assert main.main([*command, str(tmp_path / "whole")]) == 0
    stops.append("classifier: demo_cars, train 2/2")
    assert main.main([*command, str(tmp_path / "stopped")]) == 130
    assert main.main([*command, str(tmp_path / "stopped"), "--resume"]) == 0
    assert baselines("stopped") == baselines("whole")


# ---- every named experiment


@pytest.fixture(scope="module")
def runs(data, tmp_path_factory):
    return tmp_path_factory.mktemp("runs")


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[pytest.mark.slow] * (name in SLOW)) for name in EXPERIMENTS],
)
def test_an_experiment_runs_from_its_command(name, data, runs, monkeypatch, capsys):
    # seconds a run; the page's test has real ones
    monkeypatch.setattr("reporting.plots.draw", lambda results, folder: [])
    if name == "free-weights":  # two of its fractions, fewer tasks
        drawings.draw(data, train=4, test=2, names=["signs_01", "signs_02"])
        few = {
            label: EXPERIMENTS[name].runs[label] | dict(task_list=["signs_01", "signs_02"])
            for label in ("0", "0.1")
        }
        monkeypatch.setitem(EXPERIMENTS, name, dataclasses.replace(EXPERIMENTS[name], runs=few))
    if name in FEWER:
        few = {label: EXPERIMENTS[name].runs[label] for label in FEWER[name]}
        monkeypatch.setitem(EXPERIMENTS, name, dataclasses.replace(EXPERIMENTS[name], runs=few))
    # the first of their tasks
    if name in SEQUENCES:
        drawings.draw(data, train=4, test=2, names=["signs_01", "signs_02", "signs_03"])
        tasks = 1 if name in LONG else 2
        few = {
            label: settings
            | {key: settings[key][:tasks] for key in ("task_list", "pruning_ratios")}
            for label, settings in EXPERIMENTS[name].runs.items()
        }
        monkeypatch.setitem(EXPERIMENTS, name, dataclasses.replace(EXPERIMENTS[name], runs=few))
    seeds = ["--seeds", "2"] if name == "seeds" else ["--seeds", "1"]
    command = [
        "--experiment",
        name,
        "--demo",
        "--data-root",
        str(data),
        "--output-dir",
        str(runs),
        *SHORT,
        *seeds,
    ]
    assert main.main(command) == 0
    folders = sorted((runs / f"demo-{name}").iterdir())
    assert len(folders) == len(EXPERIMENTS[name].runs) * int(seeds[1])
    for folder in folders:
        results = json.loads((folder / "results.json").read_text())
        assert results["finished"] and all(
            task["max_logit_change"] == 0.0 for task in results["tasks"]
        )
        label = folder.name.rpartition("-seed")[0]
        for key, value in EXPERIMENTS[name].runs[label].items():
            if key in (
                "initial_pruning_ratio",
                "crop",
                "pruning_ratios",
                "baselines",
                "train_biases",
                "train_bn",
                "free_weights",
                "normalise",
                "nesterov",
                "weight_decay",
                "weight_decay_on",
                "image_size",
                "pack",
                "prune",
            ):
                assert results["config"][key] == value
    capsys.readouterr()
    assert main.main(command) == 0  # nothing is repeated
    assert capsys.readouterr().out.count("is finished; nothing is changed") == len(folders)


def test_figures_stand_beside_the_authors_with_the_authors_kept_epoch():
    for name, experiment in EXPERIMENTS.items():
        for settings in experiment.runs.values():
            theirs = name not in ("seed", "seeds", "free-weights", *FROM_SCRATCH)
            survey = name == "tiny-imagenet-10"  # which holds images out to judge on
            expected = "best" if survey else "best-on-test" if theirs else "last"
            assert Config(**settings).keep == expected, name
    assert Config(**EXPERIMENTS["batch-norm"].runs["own"]).train_biases


def test_the_first_implementations_protocol_stays_under_its_name_and_all_else_has_the_releases():
    for name in EXPERIMENTS.keys() - {
        "free-weights",
        *FROM_SCRATCH,
    }:
        for _, settings in runs_of(name):
            assert Config(**settings).crop == (
                "plain" if name in ("seed", "seeds") else "resized"
            ), name
    ratios = {name: Config(**runs_of(name)[0][1]).initial_pruning_ratio for name in EXPERIMENTS}
    assert Config().initial_pruning_ratio == ratios["release-vgg16"] == 0.5
    assert ratios["seed"] == ratios["seeds"] == ratios["paper-0.75"] == 0.75


def test_what_is_packed_and_pruned_goes_with_the_packed_file(data, tmp_path, capsys):
    """--pack conv --prune filters: evaluate.py and --add-to know it from the file, and another
    --pack is refused."""
    out, more = str(tmp_path / "out"), str(tmp_path / "more")
    demo = [
        "--demo",
        "--data-root",
        str(data),
        *SHORT,
        *"--task-list demo_birds --baselines --pack conv --prune filters".split(),
    ]
    assert main.main([*demo, "--output-dir", out]) == 0
    packed, metadata = load_packed(f"{out}/packnet.safetensors")
    assert packed.owners and all("features" in name for name in packed.owners)
    for owner in packed.owners.values():
        assert all(len(set(filter)) == 1 for filter in owner.reshape(len(owner), -1))
    capsys.readouterr()
    assert evaluate.main(["--output-dir", out]) == 0
    shown = {
        line.split()[0]: line.split()[1::2] for line in capsys.readouterr().out.splitlines()[1:]
    }
    assert shown["demo_birds"][0] == shown["demo_birds"][1] == f"{metadata['tasks'][1]['top1']:.2f}"
    add = [
        "--add-to",
        out,
        "--task-list",
        "demo_cars",
        "--output-dir",
        more,
        "--device",
        "cpu",
        "--data-root",
        str(data),
    ]
    assert main.main([*add, "--pack", "fc"]) == 2
    assert "--pack fc: the packed network was made with conv" in capsys.readouterr().err
    assert main.main([*add, "--num-epochs-per-task", "1"]) == 0
    results = json.loads((tmp_path / "more/results.json").read_text())
    assert (results["config"]["pack"], results["config"]["prune"]) == ("conv", "filters") and len(
        results["seals_unchanged"]
    ) == 2
    later, _ = load_packed(f"{more}/packnet.safetensors")
    assert later.owners.keys() == packed.owners.keys()
    fc = "trunk.classifier.0.weight"
    assert np.array_equal(later.parameters[fc], packed.parameters[fc])
    for options, says in (
        (["--pack", "x"], "--pack x: must be one of all, conv, fc"),
        (["--prune", "x"], "--prune x: must be one of"),
    ):
        assert main.main(["--demo", *options]) == 2
        assert says in capsys.readouterr().err
    assert main.main(["--arch", "resnet50", "--pack", "fc", "--dry-run", "--device", "cpu"]) == 2
    assert (
        "--arch resnet50: the model has no linear layer that could be pruned"
        in capsys.readouterr().err
    )


def test_an_experiment_says_how_long_it_takes_where_that_was_measured(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    command = ["--experiment", "release-vgg16", "--data-root", str(tmp_path / "none")]
    assert main.main(command) == 2 and "h in all" not in capsys.readouterr().out
    rates = Rates("This CPU", {"vgg16 224": (3.6, 0.0)})
    save_rates(rates)
    assert main.main(command) == 2
    images = (5994 + 8144) * 30 + 2040 * 20
    images += 20 * 5000  # without ImageNet the pruned base is brought back: 20 epochs of 5,000
    assert (
        f"==== release-vgg16: about {round(images / 1000, -1):g} h in all"
        in capsys.readouterr().out
    )


def test_no_sign_of_an_alphabet_is_anothers_mirror_image():
    def mirrored(strokes):
        column = {0: 2, 1: 1, 2: 0, 3: 5, 4: 4, 5: 3, 6: 8, 7: 7, 8: 6}
        return frozenset(tuple(sorted(column[point] for point in stroke)) for stroke in strokes)

    alphabets = [
        [parts["strokes"] for _, parts in classes.values()]
        for classes in drawings.ALPHABETS.values()
    ]
    assert len(alphabets) == 20 and len({frozenset(signs) for signs in alphabets}) == 20
    for signs in alphabets:
        assert len(signs) == 8 and all(
            len(strokes) == 4 and all(a < b for a, b in strokes) for strokes in signs
        )
        assert len({frozenset((strokes, mirrored(strokes))) for strokes in signs}) == 8


def test_the_list_of_experiments_has_a_line_for_each(capsys):
    assert main.main(["--experiments"]) == 0
    heading, *lines = capsys.readouterr().out.splitlines()
    assert heading.split() == ["experiment", "runs", "what", "it", "is"]
    assert [line.split()[0] for line in lines] == list(EXPERIMENTS)
    for line, (name, experiment) in zip(lines, EXPERIMENTS.items(), strict=True):
        assert line.endswith(experiment.title)
        assert int(line.split()[1]) == len(experiment.runs) * experiment.seeds == len(runs_of(name))


@pytest.mark.parametrize(
    "arguments",
    [
        ["--experiment", "seed", "--seeds", "0"],
        ["--experiment", "seed", "--seeds", "-1"],
        ["--seeds", "3"],
    ],
)
def test_seeds_that_mean_nothing_are_refused(arguments, capsys):
    assert main.main(arguments) == 2
    assert f"--seeds {arguments[-1]}: must be at least 1" in capsys.readouterr().err


def test_an_experiment_sets_its_own_tasks(capsys):
    assert main.main(["--experiment", "seed", "--task-list", "cubs"]) == 2
    assert "--task-list: --experiment seed sets this itself" in capsys.readouterr().err


@pytest.mark.parametrize("hash_seed", ["0", "1", "2", "3"])
def test_all_flags_that_an_experiment_sets_itself_are_named_in_their_order(hash_seed):
    command = [
        "main.py",
        *"--experiment seed --arch vgg16 --task-list cubs --seed 3".split(),
    ]
    done = subprocess.run(
        [sys.executable, *command],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONHASHSEED": hash_seed},
    )
    message = "error: --arch, --task-list, --seed: --experiment seed sets this itself\n"
    assert (done.returncode, done.stderr) == (2, message)


@pytest.mark.parametrize(
    "name, wrong, message",
    [
        ("mnist-5", ["--tasks-to-come", "-1"], "--tasks-to-come -1: must not be negative"),
        ("seed", ["--num-epochs-per-task", "-5"], "--num-epochs-per-task -5: must not be negative"),
    ],
)
def test_settings_are_checked_before_hours_are_estimated(
    name, wrong, message, tmp_path, monkeypatch, capsys
):
    rates = Rates("This CPU", {"vgg16 224": (2.0, 0.5), "mlp 28": (2.0, 0.5)})
    monkeypatch.setattr(main, "load_rates", lambda: rates)
    monkeypatch.chdir(tmp_path)
    assert main.main(["--experiment", name, *wrong]) == 2
    out, error = capsys.readouterr()
    assert message in error and out == "" and not list(tmp_path.iterdir())


# ---- the page (after the experiments: it gathers their runs)


def test_the_page_shows_every_run_beside_the_published_figures(runs, compared, capsys, tmp_path):
    out, results, _ = compared
    shutil.copytree(out, runs / "compared")
    real = runs / "release-vgg16" / "packnet-seed0"  # as if it had been run on the real data
    real.mkdir(parents=True)
    renamed = json.loads(
        json.dumps(results)
        .replace("demo_birds", "cubs")
        .replace("demo_cars", "cars")
        .replace("demo_flowers", "flowers")
        .replace("vgg-slim", "vgg16")
    )
    renamed["tasks"][0]["top1_final"] = 75.0
    renamed["config"]["initial_pruning_ratio"] = 0.5
    (real / "results.json").write_text(json.dumps(renamed))
    (runs / "half").mkdir(exist_ok=True)
    (runs / "half" / "results.json").write_text(json.dumps(renamed | dict(finished=False)))
    assert report.main(["--runs", str(runs), "--out", str(tmp_path)]) == 0
    captured = capsys.readouterr()
    assert "half: not finished, left out" in captured.err
    markdown, page = (tmp_path / "report.md").read_text(), (tmp_path / "report.html").read_text()
    for experiment in EXPERIMENTS.values():
        assert experiment.title in markdown
    # 100 - 75, and against the release
    assert "| cubs | 25.00 |" in markdown and "| 22.56 | +2.44 |" in markdown
    assert "Learning without Forgetting" in page and "± " in markdown
    assert (
        "main-table-1.png" in markdown
        and "main-table-2.png" in markdown
        and "orders.png" in markdown
        and "ratios.png" in markdown
    )
    assert (
        "owned by the task" in markdown
        and "| position | 0 | 0.1 |" in markdown
        and "free-weights.png" in markdown
    )
    # nothing from elsewhere
    assert "<script" not in page and not re.findall(r"(?:src|href)=\"(?!data:)", page)
    assert page.count("data:image/png;base64,") >= 6


def test_the_page_names_what_is_missing_with_its_command(compared, tmp_path, capsys):
    assert report.main(["--runs", str(compared[0]), "--out", str(tmp_path)]) == 0
    markdown = (tmp_path / "report.md").read_text()
    assert "| Not run yet: python main.py --experiment release-resnet50 |" in markdown
    assert report.main(["--runs", str(tmp_path / "nothing")]) == 2
    assert "no such folder" in capsys.readouterr().err


# ---- what papers on continual learning compare


def test_the_measures_of_continual_learning_by_hand():
    asked = dict(a=50, b=None, c=60)
    results = dict(
        base=dict(name="base", top1_class_incremental=40),
        tasks=[dict(name=name, top1_class_incremental=asked[name]) for name in "abc"],
        accuracy_matrix=[[80, None, None], [80, 60, None], [80, 60, 70]],
        baselines={
            "finetune": dict(
                tasks=["base", "a", "b", "c"],
                top1_by_stage=[[50, 90, None, None], [40, 30, 80, None], [30, 20, 50, 95]],
                class_incremental=[0, 0, 20, 80],
            ),
            "individual": dict(tasks=["a", "b"], top1_by_stage=[[85, None], [85, 66]]),
            "joint": dict(tasks=["a", "b", "c"], top1_by_stage=[[70, 71, 72]]),
        },
    )
    names = ("average_accuracy", "backward_transfer", "gap_to_individual", "class_incremental")
    assert {
        method: tuple(map(found.get, names)) for method, found in measures(results).items()
    } == {
        "packnet": (70, 0, -5.5, 50),
        "finetune": (55, -50, -40.5, 25),
        "individual": (75.5, 0, 0, None),
        "joint": (71, None, -5, None),
    }


def test_the_measures_are_in_results_log_and_page(compared, tmp_path):
    out, results, _ = compared
    figures = results["continual"]
    assert list(figures) == ["packnet", "classifier", "individual", "finetune", "lwf", "joint"]
    final = np.array(results["accuracy_matrix"][-1])
    assert (
        figures["packnet"]["average_accuracy"] == pytest.approx(final.mean())
        and figures["packnet"]["backward_transfer"] == 0
    )
    rows = np.array(results["baselines"]["finetune"]["top1_by_stage"], float)[:, 1:]
    assert figures["finetune"]["backward_transfer"] == pytest.approx(
        ((rows[2] - np.diag(rows))[:2]).mean()
    )
    individual = np.array(results["baselines"]["individual"]["top1_by_stage"][-1][1:])
    assert figures["packnet"]["gap_to_individual"] == pytest.approx((final - individual).mean())
    log = (out / "log.txt").read_text()
    assert re.search(rf"PackNet +{final.mean():.2f} +0.00 +{(final - individual).mean():.2f}", log)
    assert report.main(["--runs", str(out), "--out", str(tmp_path)]) == 0
    assert f"| PackNet | {final.mean():.2f} | 0.00 |" in (tmp_path / "report.md").read_text()


def test_the_table_has_a_row_for_each_run_task_and_method(compared, tmp_path):
    out, results, _ = compared
    assert report.main(["--runs", str(out), "--out", str(tmp_path)]) == 0
    with open(tmp_path / "report.csv", newline="") as f:
        rows = list(csv.DictReader(f))
    assert len(rows) == 4 + 5 * 4 and {row["method"] for row in rows} == {
        "packnet",
        *results["baselines"],
    }
    for position, stage in enumerate((results["base"], *results["tasks"])):
        (row,) = [
            row for row in rows if row["method"] == "packnet" and row["task"] == stage["name"]
        ]
        assert (float(row["top1"]), int(row["position"])) == (stage["top1_final"], position)
        assert float(row["owned_fraction"]) == stage["owned_fraction"]
        (row,) = [
            row for row in rows if row["method"] == "finetune" and row["task"] == stage["name"]
        ]
        assert (
            float(row["top1"]) == results["baselines"]["finetune"]["top1_by_stage"][-1][position]
            and row["owned_fraction"] == ""
        )


# ---- a packed network is usable elsewhere


def test_predicting_classes_by_name(compared, data, capsys):
    out, _, _ = compared
    image = str(next((data / "demo_birds/test/long_beak-crest-forked_tail").iterdir()))
    assert (
        evaluate.main(["--output-dir", str(out), "--task", "demo_birds", "--predict", image, image])
        == 0
    )
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == lines[6] == image and lines[1:6] == lines[7:]
    shares = [float(line.split()[0]) for line in lines[1:6]]
    assert shares == sorted(shares, reverse=True) and all(
        line.split()[2] in drawings.DATASETS["demo_birds"] for line in lines[1:6]
    )


def softmax(rows):
    shares = np.exp(np.float64(rows) - rows.max(1, keepdims=True))
    return shares / shares.sum(1, keepdims=True)


@pytest.fixture(scope="module")
def opened(compared):
    packed, metadata = load_packed(compared[0] / "packnet.safetensors")
    return evaluate.unpack(
        packed, metadata, evaluate.network_of(metadata, None, "x"), "x"
    ), metadata


def views(opened, data, name):
    """(probabilities by each task's view, the labels) of the test images of a data set."""
    packnet, metadata = opened
    loader, _ = create_dataloader(name, data, "test", 4, image_size=48)
    answers = [packnet.predict(entry["name"], loader) for entry in metadata["tasks"]]
    return [softmax(logits) for logits, _ in answers], answers[0][1]


def surest_by_hand(probabilities):
    """For one image: -sum p log p / log C of each task, the lowest."""
    return min(
        range(len(probabilities)),
        key=lambda k: (
            -sum(p * math.log(p) for p in probabilities[k] if p) / math.log(len(probabilities[k]))
        ),
    )


def without_portraits(out, folder, *tasks):
    """A copy of the packed file in which these tasks, all by default, have none."""
    packed, metadata = load_packed(out / "packnet.safetensors")
    for entry in metadata["tasks"]:
        if entry["name"] in (tasks or packed.tasks):
            del packed.portraits[entry["name"]], entry["portrait"]
    save_packed(folder / "packnet.safetensors", packed, metadata)
    return folder


def test_predicting_without_a_portrait_asks_the_surest(compared, opened, data, capsys, tmp_path):
    images = sorted((data / "demo_cars/test").rglob("*.jpg"))
    bare = without_portraits(compared[0], tmp_path)
    assert evaluate.main(["--output-dir", str(bare), "--predict", *map(str, images)]) == 0
    said = capsys.readouterr()
    assert said.err.startswith("No task has a portrait: the one whose view is surest is taken")
    assert f"`python evaluate.py --output-dir {bare} --portraits` makes one" in said.err
    lines = said.out.splitlines()
    shares, _ = views(opened, data, "demo_cars")
    assert len(lines) == len(images)
    for number, (image, line) in enumerate(zip(images, lines)):
        task = surest_by_hand([rows[number] for rows in shares])
        entry, row = opened[1]["tasks"][task], shares[task][number]
        assert (
            line == f"{image}: {entry['name']}, {entry['classes'][int(row.argmax())]}, "
            f"{100 * row.max():.2f} %"
        )


def test_how_often_the_surest_task_is_the_right_one(compared, opened, data, capsys, tmp_path):
    bare = without_portraits(compared[0], tmp_path)
    assert evaluate.main(["--output-dir", str(bare), "--task-agnostic"]) == 0
    head, *lines, mean = capsys.readouterr().out.splitlines()
    table = {line.split()[0]: [float(cell) for cell in line.split()[1:]] for line in lines}
    assert (
        list(table) == ["demo_base", "demo_birds", "demo_cars", "demo_flowers"]
        and mean.split()[0] == "mean"
    )
    for number, (name, (found, end_to_end, known)) in enumerate(table.items()):
        shares, labels = views(opened, data, name)
        tasks = [surest_by_hand([rows[i] for rows in shares]) for i in range(len(labels))]
        right = [shares[number][i].argmax() == label for i, label in enumerate(labels)]
        assert found == pytest.approx(100 * np.mean([task == number for task in tasks]), abs=0.006)
        assert end_to_end == pytest.approx(
            100 * np.mean([task == number and hit for task, hit in zip(tasks, right)]), abs=0.006
        )
        assert known == pytest.approx(100 * np.mean(right), abs=0.006)
    assert [float(cell) for cell in mean.split()[1:]] == pytest.approx(
        np.mean(list(table.values()), axis=0), abs=0.01
    )


@pytest.fixture(scope="module")
def recognised(opened, data):
    """(portraits made anew of the training images; {task: (the number of the task that each test
    image looks most like, beyond, whether its class is right with the task known)})"""
    packnet = opened[0]

    def read(name, split):
        files = read_split(name, data, split)
        planes = [
            preprocess(files.folder / path, Preparation(48, "centre")) for path in files.paths
        ]
        batches = [np.stack(planes[start : start + 32]) for start in range(0, len(planes), 32)]
        return [(to_input(batch, np.zeros(len(batch), np.uint8)), None) for batch in batches], (
            files.labels
        )

    def look(batches):
        rows = []
        for images, _ in batches:
            with packnet.task_view("demo_base") as net, watched(packnet.layers) as outputs:
                net.trunk(images)
                rows.append(sketch(list(outputs.values())).numpy())
        return np.concatenate(rows)

    made = []
    for name in packnet.tasks:
        batches, labels = read(name, "train")
        made.append(Portrait.of(look(batches), labels))
    found = {}
    for name in packnet.tasks:
        batches, labels = read(name, "test")
        with packnet.task_view(name) as net:
            logits = np.concatenate([net(images).numpy() for images, _ in batches])
        found[name] = (*recognise(made, look(batches)), logits.argmax(1) == labels)
    return made, found


def test_portraits_are_of_the_training_images(compared, recognised):
    packed, metadata = load_packed(compared[0] / "packnet.safetensors")
    assert list(packed.portraits) == packed.tasks
    for task, made in zip(packed.tasks, recognised[0]):
        stored = packed.portraits[task]
        assert stored.keys() == made.arrays().keys()
        for name, array in made.arrays().items():
            assert np.array_equal(stored[name], array), (task, name)
            assert stored[name].dtype == array.dtype, (task, name)
    assert [entry["portrait"] for entry in metadata["tasks"]] == [
        seals.of_portrait(packed, task) for task in packed.tasks
    ]


def test_whose_image_it_is(compared, recognised, capsys):
    """What results.json, report.csv and --task-agnostic say of it is what the rule says."""
    out, results, _ = compared
    assert evaluate.main(["--output-dir", str(out), "--task-agnostic", "demo_birds"]) == 0
    *lines, mean, other = capsys.readouterr().out.splitlines()
    table = {line.split()[0]: [float(cell) for cell in line.split()[1:]] for line in lines[1:]}
    rows = {row["task"]: row for row in report_rows(results) if row["method"] == "packnet"}
    expected, beyond = {}, {}
    for number, stage in enumerate([results["base"], *results["tasks"]]):
        task, beyond[stage["name"]], right = recognised[1][stage["name"]]
        found = 100 * np.mean(task == number)
        both = 100 * np.mean((task == number) & right)
        none = 100 * np.mean(beyond[stage["name"]] > 0)
        expected[stage["name"]] = [found, both, 100 * np.mean(right), none]
        assert stage["task_found"] == found and stage["top1_class_incremental"] == both
        row = rows[stage["name"]]
        assert (row["task_found"], row["class_incremental"]) == (found, both)
        line = f"task found {found:6.2f} %, its class too {both:6.2f} %"
        assert line in (out / "log.txt").read_text()
    for name, cells in expected.items():
        assert table[name] == pytest.approx(cells, abs=0.006)
    average = np.mean([cells[1] for cells in expected.values()])
    assert results["continual"]["packnet"]["class_incremental"] == pytest.approx(average)
    assert float(mean.split()[2]) == pytest.approx(average, abs=0.006)
    apart = auroc(np.concatenate(list(beyond.values())), beyond["demo_birds"])
    assert other == (
        f"demo_birds: {expected['demo_birds'][3]:.2f} % said to be none of them, AUROC {apart:.3f}"
    )


def test_the_class_of_an_image_by_all_heads_of_a_baseline(compared, data):
    """For finetune, the classifiers, LwF and joint training: the likeliest of all classes."""
    _, results, seen = compared
    names = ["demo_base", "demo_birds", "demo_cars", "demo_flowers"]
    config = Config(**results["config"])
    for method, last in (("finetune", "demo_flowers"), ("joint", ALL)):
        net = networks.build(**config.network())
        for name in names:
            net.add_head(name, len(seen[method, last][f"heads.{name}.weight"]))
        networks.assign(net, seen[method, last], "test")
        net.eval()
        for number, name in enumerate(names):
            loader, _ = create_dataloader(name, data, "test", 4, image_size=48)
            hits = []
            for images, labels in loader:
                rows = []
                for task in names:
                    net.select(task)
                    rows.append(net(images).numpy())
                start = sum(part.shape[1] for part in rows[:number])
                hits.append(np.concatenate(rows, 1).argmax(1) == labels.numpy() + start)
            found = results["baselines"][method]["class_incremental"][number]
            assert found == pytest.approx(100 * np.concatenate(hits).mean())
    assert results["baselines"]["individual"]["class_incremental"] == [None] * 4
    assert results["continual"]["individual"]["class_incremental"] is None
    mean = np.mean(results["baselines"]["lwf"]["class_incremental"])
    assert results["continual"]["lwf"]["class_incremental"] == pytest.approx(mean)


def test_a_prediction_names_the_task_or_none(compared, opened, recognised, data, capsys):
    images = sorted((data / "demo_cars/test").rglob("*.jpg"))
    assert evaluate.main(["--output-dir", str(compared[0]), "--predict", *map(str, images)]) == 0
    lines = capsys.readouterr().out.splitlines()
    tasks, beyond, _ = recognised[1]["demo_cars"]
    assert len(lines) == len(images)
    for number, (image, line) in enumerate(zip(images, lines)):
        entry = opened[1]["tasks"][tasks[number]]
        logits = evaluate.logits_of(opened[0], entry, [image], 1)
        answer = (
            f"{entry['name']}, {entry['classes'][int(logits.argmax())]}, "
            f"{100 * softmax(logits).max():.2f} %"
        )
        if beyond[number] > 0:
            answer = f"none of the tasks (nearest: {answer})"
        assert line == f"{image}: {answer}"


def test_portraits_are_made_later_where_the_data_are(compared, data, tmp_path, capsys):
    """The file is then that of a run that made them, to the byte; what has one keeps it."""
    out = compared[0]
    whole = (out / "packnet.safetensors").read_bytes()
    for tasks in ((), ("demo_cars",)):
        folder = without_portraits(out, tmp_path, *tasks)
        assert evaluate.main(["--output-dir", str(folder), "--portraits"]) == 0
        assert (folder / "packnet.safetensors").read_bytes() == whole
        assert capsys.readouterr().out.count("portrait made") == len(tasks or "four")
    without_portraits(out, tmp_path, "demo_cars")
    before = (tmp_path / "packnet.safetensors").read_bytes()
    assert evaluate.main(["--output-dir", str(tmp_path), "--task-agnostic"]) == 0
    said = capsys.readouterr()
    assert "No portrait: demo_cars; whose images are not recognised." in said.err
    assert "(no portrait)" in said.out and said.out.count("\n") == 6
    (tmp_path / "state.safetensors").touch()
    assert evaluate.main(["--output-dir", str(tmp_path), "--portraits"]) == 2
    assert "was stopped before its end. Finish it first" in capsys.readouterr().err
    (tmp_path / "state.safetensors").unlink()
    shutil.copytree(data / "demo_base", tmp_path / "data/demo_base")
    moved = ["--output-dir", str(tmp_path), "--data-root", str(tmp_path / "data")]
    assert evaluate.main([*moved, "--portraits"]) == 0
    assert "demo_cars      no data, no portrait" in capsys.readouterr().out
    assert (tmp_path / "packnet.safetensors").read_bytes() == before
    assert evaluate.main([*moved, "--task-agnostic", "nothing"]) == 2
    assert "data/nothing does not exist" in capsys.readouterr().err


def test_a_portrait_of_another_version_is_as_good_as_none(compared, data, tmp_path, capsys):
    out = compared[0]
    packed, metadata = load_packed(out / "packnet.safetensors")
    own = packed.portraits["demo_cars"]
    packed.portraits["demo_cars"] = {"centre": own["rows"][0], "directions": own["directions"]}
    metadata["tasks"][2]["portrait"] = seals.of_portrait(packed, "demo_cars")
    save_packed(tmp_path / "packnet.safetensors", packed, metadata)
    image = str(next((data / "demo_birds/test").rglob("*.jpg")))
    assert evaluate.main(["--output-dir", str(tmp_path), "--predict", image]) == 0
    said = capsys.readouterr()
    assert said.out.startswith(image) and said.err.splitlines() == [
        "The portraits of demo_cars are of another version of this project, which looks at other "
        "things: they are as good as none.",
        "No portrait: demo_cars; whose images are not recognised. `python evaluate.py --output-dir "
        f"{tmp_path} --portraits` makes one where a task's training images are.",
    ]
    assert evaluate.main(["--output-dir", str(tmp_path), "--seals"]) == 0
    assert evaluate.main(["--output-dir", str(tmp_path), "--portraits"]) == 0
    whole = (out / "packnet.safetensors").read_bytes()
    assert (tmp_path / "packnet.safetensors").read_bytes() == whole


def test_a_portrait_is_sealed(compared, tmp_path, capsys):
    """By a seal of its own: a change breaks it for this task, and no other."""
    packed, metadata = load_packed(compared[0] / "packnet.safetensors")
    packed.portraits["demo_birds"]["directions"][3] ^= 1
    save_packed(tmp_path / "packnet.safetensors", packed, metadata)
    assert evaluate.main(["--output-dir", str(tmp_path), "--seals"]) == 1
    *lines, last = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines if "BROKEN" in line] == ["demo_birds"]
    assert last == "4 tasks: 1 not what they were: demo_birds"
    seal = metadata["tasks"][1]["seal"]
    assert f"BROKEN: is {seal} with another portrait" in lines[1]
    for change in ({"portrait": None}, {"portrait": "0" * 64}):
        packed, metadata = load_packed(compared[0] / "packnet.safetensors")
        metadata["tasks"][2].update(change)
        assert seals.broken(packed, metadata["tasks"]) == ["demo_cars"]
    without_portraits(compared[0], tmp_path)
    assert evaluate.main(["--output-dir", str(tmp_path), "--seals"]) == 0


def test_another_tasks_preparation(image_root):
    """An image whose task is not known is prepared as the task that is asked prepares its own."""

    def pixels(name, like=None):
        loader, _ = create_dataloader(
            name,
            image_root,
            "test",
            6,
            image_size=48,
            preparation=like and preparation_of(like, 48),
        )
        return next(loader.host_batches())[0]

    path = next((image_root / "cubs_cropped/test/a").iterdir())
    assert np.array_equal(pixels("cubs", "flowers")[0], preprocess(path, Preparation(48, "centre")))
    assert np.array_equal(pixels("cubs")[0], preprocess(path, Preparation(48, "resize")))
    assert not np.array_equal(pixels("cubs"), pixels("cubs", "flowers"))


@pytest.mark.parametrize(
    "arguments, says",
    [
        (["--predict", "no-such.jpg"], "no-such.jpg: cannot be decoded"),
        (["--task", "demo_birds", "--predict", "no-such.jpg"], "no-such.jpg: cannot be decoded"),
        (
            ["--task", "cubs", "--predict", "x.jpg"],
            "--task cubs: the checkpoint holds demo_base, demo_birds",
        ),
        (["--export", "cubs", "x"], "--export cubs: the checkpoint holds demo_base"),
        (["--export", "demo_birds", "/proc/x/y"], "/proc/x"),
    ],
)
def test_wrong_input_is_one_line(compared, capsys, arguments, says):
    assert evaluate.main(["--output-dir", str(compared[0]), *arguments]) == 2
    error = capsys.readouterr().err
    assert says in error and error.count("\n") == 1


def test_storage_is_what_is_on_the_disk(compared):
    out, results, _ = compared
    net = networks.build("vgg-slim")
    trunk = sum(parameter.numel() for parameter in net.parameters()) * 4
    heads = sum(
        (128 + 1) * task["num_classes"] * 4 for task in (results["base"], *results["tasks"])
    )
    weights = sum(sum(counts) for counts in results["owners_by_layer"].values())
    storage = results["storage"]
    assert storage["packed_file"] == (out / "packnet.safetensors").stat().st_size
    assert storage["separate_networks"] == 4 * trunk + heads
    # owners 0 to 4: three bits each
    assert storage["owner_maps"] == pytest.approx(3 * weights / 8, rel=0.001)
    assert storage["packed_file"] == pytest.approx(
        trunk + heads + storage["owner_maps"] + storage["portraits"], abs=20_000
    )
    packed, _ = load_packed(out / "packnet.safetensors")
    sizes = [sum(array.nbytes for array in arrays.values()) for arrays in packed.portraits.values()]
    assert sum(sizes) == storage["portraits"] and max(sizes) < 0.02 * storage["packed_file"]
