"""`python main.py` and `python evaluate.py` on small folders of real JPEG files: results, files,
and wrong input."""

import inspect
import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import ROOT, write_images
from test_storage import pretrained_tensors, torch_zip

import evaluate
import main
import training
from images import drawings
from images.datasets import PUBLISHED
from images.preprocess import preparation_of
from reporting.summary import summary
from runs.run import splits_to_open
from settings.config import Config
from storage.checkpoint import load_checkpoint
from storage.packed import unpack_owners
from toolchain import gpu


@pytest.fixture
def pretrained(tmp_path):
    (tmp_path / "slim.pth").write_bytes(torch_zip(pretrained_tensors()))
    return tmp_path / "slim.pth"


def options(root, output, pretrained, *more):
    return [
        "--data-root",
        str(root),
        "--output-dir",
        str(output),
        *"--arch vgg-slim --image-size 48 --pretrained".split(),
        str(pretrained),
        *"""
            --num-epochs-per-task 2 --num-epochs-finetune 1 --batch-size 8 --initial-lr 0.01
            --recover nothing
        """.split(),
        *map(str, more),
    ]


def without_times(results):
    results = json.loads(json.dumps(results))
    results.pop("seconds")
    results["config"].pop("output_dir")
    for record in results["history"]:
        record.pop("seconds")
    return results


def test_a_run_from_folders_to_report(image_root, tmp_path, pretrained, capsys):
    output = tmp_path / "out"
    assert main.main(options(image_root, output, pretrained, "--weight-decay", "5e-4")) == 0
    results = json.loads((output / "results.json").read_text())
    assert {"arch", "device", "seconds", "config", "accuracy_matrix", "tasks"} <= results.keys()
    assert results["arch"] == "vgg-slim" and results["device"] == "cpu" and results["seconds"] > 0
    assert [task["name"] for task in results["tasks"]] == ["cubs", "cars", "flowers"]
    log = (output / "log.txt").read_text()
    for number, task in enumerate(results["tasks"]):
        assert task["max_logit_change"] == 0.0 and task["num_classes"] == 3
        line = re.search(
            rf"^{task['name']}: (\S+) % before the prune, (\S+) % after it$", log, re.MULTILINE
        )
        assert [f"{task[key]:.2f}" for key in ("top1_before_prune", "top1_after_prune")] == [
            *line.groups()
        ]
        assert (
            task["top1_final"]
            == task["top1_after_finetune"]
            == results["accuracy_matrix"][2][number]
        )
        mine = [h["test_top1"] for h in results["history"] if h["task"] == task["name"]]
        assert (
            len(mine) == 3
            and task["top1_before_prune"] == mine[1]
            and task["top1_best_epoch"] == mine[2]
        )
    matrix = results["accuracy_matrix"]
    assert matrix[0][1:] == [None, None] and matrix[1][2] is None
    assert matrix[0][0] == matrix[1][0] == matrix[2][0]
    assert results["base"]["top1_final"] is None and results["base"][
        "owned_fraction"
    ] == pytest.approx(0.5, abs=1e-4)

    tensors, metadata = load_checkpoint(output / "packnet.safetensors")
    for name in [name for name in tensors if name.startswith("owner.")]:
        tensors[name] = unpack_owners(tensors[name], tensors[name.removeprefix("owner.")].shape)
    owned = [
        sum(int((t == k).sum()) for name, t in tensors.items() if name.startswith("owner."))
        for k in (1, 2, 3, 4)
    ]
    assert owned == [results["base"]["owned_weights"]] + [
        task["owned_weights"] for task in results["tasks"]
    ]
    for name, owner in tensors.items():
        if name.startswith("owner."):
            assert (
                owner.dtype == np.uint8
                and (tensors[name.removeprefix("owner.")][owner == 0] == 0).all()
            )

    assert "not re-trained on imagenet" in log and "last epoch" in log
    assert "24.95" not in log  # the paper's VGG-16 is no match for a slim one
    assert any(
        "24.95" in line and line.startswith("cubs")
        for line in summary(results | dict(arch="vgg16"))
    )
    assert len(re.findall(r"trunk\.\S+ +owned .* freed .* kept", log)) == 6 * 4
    assert "top-5" not in log and "cubs is frozen. Top-1 now: cubs " in log  # of three classes
    assert sorted(path.name for path in (output / "plots").iterdir()) == [
        "capacity.png",
        "error_as_tasks_are_added.png",
        "left_of_base.png",
        "training_cars.png",
        "training_cubs.png",
        "training_flowers.png",
    ]
    assert sorted(path.name for path in output.iterdir()) == [
        "log.txt",
        "packnet.safetensors",
        "plots",
        "results.json",
    ]

    # evaluate.py: the same figures from the checkpoint and the data
    capsys.readouterr()
    assert evaluate.main(["--output-dir", str(output)]) == 0
    table = {line.split()[0]: line.split()[1:] for line in capsys.readouterr().out.splitlines()}
    for task in results["tasks"]:
        assert table[task["name"]][0] == table[task["name"]][2] == f"{task['top1_final']:.2f}"
        assert table[task["name"]][1] == "-"  # top-5 of three classes
    assert (
        evaluate.main(["--output-dir", str(output), "--cache-dir", str(tmp_path / "elsewhere")])
        == 0
    )
    capsys.readouterr()
    assert len(list((tmp_path / "elsewhere").iterdir())) == 3
    assert evaluate.main(["--output-dir", str(output), "--task", "cars"]) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == ["task", "cars"]
    assert evaluate.main(["--output-dir", str(output), "--task", "boats"]) == 2
    assert "the checkpoint holds imagenet, cubs, cars, flowers" in capsys.readouterr().err

    # its seals
    assert evaluate.main(["--output-dir", str(output), "--seals"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "4 tasks: seals unchanged"
    assert [line for line in log.splitlines() if "seals" in line] == [
        f"{count} earlier task{s}: seals unchanged" for count, s in ((1, ""), (2, "s"), (3, "s"))
    ]
    assert [task["seal"] for task in results["tasks"]] == [
        task["seal"] for task in metadata["tasks"][1:]
    ]

    # a finished run is never overwritten
    before = {path: path.read_bytes() for path in output.rglob("*") if path.is_file()}
    assert main.main(options(image_root, output, pretrained)) == 2
    assert "never overwritten" in capsys.readouterr().err
    assert before == {path: path.read_bytes() for path in output.rglob("*") if path.is_file()}


def test_vgg16s_fifteen_layers_at_an_eighth_of_the_width(image_root, tmp_path):
    """The defaults' own path: 224x224, a pretrained file in torchvision's names, three tasks."""
    (tmp_path / "vgg16.pth").write_bytes(torch_zip(pretrained_tensors("vgg16-slim", 1000)))
    arguments = [
        "--data-root",
        str(image_root),
        "--output-dir",
        str(tmp_path / "out"),
        "--arch",
        "vgg16-slim",
        "--pretrained",
        str(tmp_path / "vgg16.pth"),
        *"--num-epochs-per-task 1 --num-epochs-finetune 1 --batch-size 6".split(),
        *"--recover-epochs 1".split(),
    ]
    assert main.main(arguments) == 0
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert [record["phase"] for record in results["history"]].count("recover") == 1
    assert len(results["owners_by_layer"]) == 15 and results["base"]["num_classes"] == 1000
    assert all(task["max_logit_change"] == 0.0 for task in results["tasks"])


def test_the_same_seed_gives_the_same_run(image_root, tmp_path, pretrained):
    runs = {}
    for name, seed in (("one", 3), ("two", 3), ("other", 4)):
        assert main.main(options(image_root, tmp_path / name, pretrained, "--seed", seed)) == 0
        runs[name] = (
            without_times(json.loads((tmp_path / name / "results.json").read_text())),
            load_checkpoint(tmp_path / name / "packnet.safetensors")[0],
        )
    assert runs["one"][0] == runs["two"][0]
    assert all((runs["one"][1][name] == runs["two"][1][name]).all() for name in runs["one"][1])
    assert runs["one"][0]["history"] != runs["other"][0]["history"]


def test_with_imagenet_the_base_is_retrained_and_measured_at_every_stage(
    image_root, tmp_path, pretrained
):
    for split in ("train", "val"):
        write_images(
            image_root / "imagenet" / split, {name: 2 for name in ("n1", "n2", "n3", "n4", "n5")}
        )
    assert (
        main.main(
            options(
                image_root,
                tmp_path / "out",
                pretrained,
                *"--num-epochs-base-finetune 1 --pruning-ratios 0.5 0.75 0".split(),
            )
        )
        == 0
    )
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    base = results["base"]
    assert len(base["top1_by_stage"]) == len(base["top5_by_stage"]) == 4 and set(
        base["top5_by_stage"]
    ) == {100.0}
    assert len(set(base["top1_by_stage"])) == 1 and base["max_logit_change"] == 0.0
    assert [h["phase"] for h in results["history"] if h["task"] == "imagenet"] == ["retrain"]
    # the last task is not pruned: all that was free is its own
    assert sum(row["measured_used"] for row in results["capacity"]) == 1
    last = results["tasks"][2]
    assert (
        last["top1_before_prune"] == last["top1_after_finetune"]
        and last["top1_best_epoch"] >= last["top1_final"]
    )


def test_an_imagenet_that_is_not_sorted_stops_no_run(image_root, tmp_path, pretrained, capsys):
    """Which has the base network's own images only to re-train it: the run is as without them."""
    some = ("--task-list", "cubs", "--pruning-ratios", "0.5", "--num-epochs-per-task", "1")
    assert main.main(options(image_root, tmp_path / "without", pretrained, *some)) == 0
    flat = image_root / "imagenet/val/ILSVRC2012_val_00000001.JPEG"
    flat.parent.mkdir(parents=True)
    flat.touch()
    (image_root / "imagenet/train/n1").mkdir(parents=True)
    (image_root / "imagenet/train/n1/1.JPEG").touch()
    assert main.main(options(image_root, tmp_path / "with", pretrained, *some)) == 0
    said = capsys.readouterr().out
    assert f"{flat}: a file among the class folders. Move imagenet to another folder, and" in said
    one, two = (
        without_times(json.loads((tmp_path / name / "results.json").read_text()))
        for name in ("without", "with")
    )
    assert one == two and two["base_retrained"] is False
    assert evaluate.main(["--output-dir", str(tmp_path / "with")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines if line.endswith("(no data)")] == ["imagenet"]
    config = Config(data_root=str(image_root), add_to="with", task_list=["cars"])
    earlier = [{"name": "imagenet"}, {"name": "cubs"}]
    assert splits_to_open(config, earlier) == {"cubs": ("test",), "cars": ("train", "test")}
    alone = Config(data_root=str(image_root), num_epochs_base=1, task_list=["cars"])
    assert "imagenet" in splits_to_open(alone, [])  # to be trained on it needs it, and stops


def test_places365_is_a_task_like_any_other(image_root, tmp_path, pretrained):
    """Its test split is called val, and it trains on random resized crops."""
    for split, count in (("train", 6), ("val", 3)):
        write_images(
            image_root / "places" / split,
            {name: count for name in ("airfield", "alley", "zen_garden")},
        )
    more = ("--task-list", "places", "cubs", "--pruning-ratios", "0.5", "0")
    assert main.main(options(image_root, tmp_path / "out", pretrained, *more)) == 0
    places, cubs = json.loads((tmp_path / "out" / "results.json").read_text())["tasks"]
    assert (places["name"], places["num_classes"], places["max_logit_change"]) == ("places", 3, 0.0)
    assert "places, test: 9 images, 3 classes" in (tmp_path / "out" / "log.txt").read_text()


def reading_order(monkeypatch) -> tuple[list[str], set[str]]:
    """(the files that CONTRIBUTING.md tells a reader to open; those that a run goes through to its
    first training step, once it is run)."""
    page = (ROOT / "CONTRIBUTING.md").read_text()
    paragraph = page[page.index("**Read**") : page.index("**Where things go.**")]
    passed = set()
    train_epoch = training.train_epoch

    def seen(*arguments):
        paths = [Path(frame.filename) for frame in inspect.stack(0)[1:]]
        ours = {path.relative_to(ROOT).as_posix() for path in paths if path.is_relative_to(ROOT)}
        passed.update(name for name in ours if not name.startswith("tests/"))
        monkeypatch.setattr(training, "train_epoch", train_epoch)
        return train_epoch(*arguments)

    monkeypatch.setattr(training, "train_epoch", seen)
    return re.findall(r"\]\((\S+\.py)\)", paragraph), passed


def test_a_small_demo(tmp_path, capsys, monkeypatch):
    """The demo's own path with fewer images and epochs: base from scratch, sequential fine-tuning,
    its plot; and the one line that adds a folder of the user's own, carried out. A reader of
    CONTRIBUTING.md is led past every file that stands between the command and a training step."""
    to_read, passed = reading_order(monkeypatch)
    drawings.draw(tmp_path / "data", train=4, test=2)
    arguments = [
        "--demo",
        "--data-root",
        str(tmp_path / "data"),
        "--output-dir",
        str(tmp_path / "out"),
        *"""
            --num-epochs-base 2 --num-epochs-base-finetune 1 --num-epochs-per-task 2
            --num-epochs-finetune 1
        """.split(),
    ]
    assert main.main(arguments) == 0
    assert len(to_read) == 10 and passed - {"system/errors.py"} <= set(to_read)  # around everything
    assert {"main.py", "runs/carry_out.py", "training.py"} <= passed
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert results["base"]["name"] == "demo_base" and results["base"]["max_logit_change"] == 0.0
    assert all(task["max_logit_change"] == 0.0 for task in results["tasks"])
    log = (tmp_path / "out/log.txt").read_text()  # of more than five classes
    assert re.search(r"Top-1 \(top-5\) now: demo_base [\d.]+ % \([\d.]+ %\), demo_birds", log)
    line = capsys.readouterr().out.splitlines()[-1].split()
    assert line[:2] == ["python", "main.py"] and f"{tmp_path}/with_birds" in line
    for split in ("train", "test"):
        write_images(tmp_path / "data/my_birds" / split, {"wren": 3, "owl": 3})
    assert main.main(line[2:]) == 0
    added = json.loads((tmp_path / "with_birds/results.json").read_text())
    assert [task["name"] for task in added["tasks"]] == [
        *(task["name"] for task in results["tasks"]),
        "my_birds",
    ]
    assert all(task["max_logit_change"] == 0.0 for task in added["tasks"])
    finetuned = results["baselines"]["finetune"]
    assert len(finetuned["top1_by_stage"]) == 3 and None not in finetuned["top1_by_stage"][2]
    assert (tmp_path / "out" / "plots" / "forgetting.png").stat().st_size > 10_000


@pytest.mark.slow  # six to eight minutes; test_a_small_demo goes the same way
def test_the_demo_keeps_its_promises(tmp_path):
    """As a user runs it: every task at least 80 % and 5 times chance, all old logits equal to the
    bit."""
    done = subprocess.run(
        [
            sys.executable,
            "main.py",
            "--demo",
            "--data-root",
            tmp_path / "data",
            "--output-dir",
            tmp_path / "out",
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert (
        "\r" not in done.stdout + done.stderr
        and "Compiling Operators" not in done.stdout + done.stderr
    )  # no terminal, no bars
    assert len(done.stderr) < 5000 and done.stdout.count("\n") < 300
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    for task in results["tasks"]:
        assert task["top1_final"] >= 80 and task["top1_final"] >= 5 * 100 / task["num_classes"], (
            task
        )
        assert task["max_logit_change"] == 0.0
    forgotten = results["baselines"]["finetune"]["top1_by_stage"][2][1]
    assert forgotten < results["accuracy_matrix"][2][0] - 30  # what the demo is there to show


# ---- wrong input


def test_wrong_options_of_the_demo_draw_nothing(tmp_path, capsys):
    assert main.main(["--demo", "--data-root", str(tmp_path / "data"), "--batch-size", "0"]) == 2
    assert (
        "--batch-size 0: must be at least 1" in capsys.readouterr().err
        and not (tmp_path / "data").exists()
    )


def test_a_data_root_that_cannot_be_written_is_one_line(tmp_path, capsys):
    (tmp_path / "file").touch()
    assert (
        main.main(
            [
                "--demo",
                "--data-root",
                str(tmp_path / "file" / "data"),
                "--output-dir",
                str(tmp_path / "out"),
            ]
        )
        == 2
    )
    assert capsys.readouterr().err.startswith(f"error: {tmp_path}/file/data")


WRONG = [
    (["--task-list", "boats"], "unknown task 'boats'"),
    (["--task-list", "cubs", "cubs"], "names a task twice"),
    (["--task-list", "../cubs"], "no name of a data set"),
    (["--task-list", "imagenet"], "holds the base task"),
    (["--base-task", "a b"], "--base-task a b: 'a b' is no name of a data set"),
    (["--pruning-ratios", "0.75"], "one ratio for each of the 3 tasks"),
    (["--pruning-ratios", "0.75", "1", "0.5"], "in [0, 1)"),
    (["--pruning-ratios", "0.75", "-0.1", "0.5"], "in [0, 1)"),
    (["--pruning-ratios", "0.75", "nan", "0.5"], "in [0, 1)"),
    (["--initial-pruning-ratio", "1.5"], "in [0, 1)"),
    (["--num-epochs-per-task", "-1"], "must not be negative"),
    (["--num-epochs-finetune", "-3"], "must not be negative"),
    (["--batch-size", "0"], "at least 1"),
    (["--initial-lr", "0"], "positive"),
    (["--initial-lr", "nan"], "positive"),
    (["--momentum", "1"], "in [0, 1)"),
    (["--pruning-ratios", "half"], "invalid ratio value: 'half'"),
    (["--pruning-ratios", "auto"], "auto needs a --validation part"),
    (["--tasks-to-come", "2"], "goes with --pruning-ratios equal"),
    (["--pruning-ratios", "equal", "--tasks-to-come", "-1"], "must not be negative"),
    (["--max-drop", "-1"], "must be in [0, 100]"),
    (["--validation", "1"], "in [0, 1)"),
    (["--validation", "nan"], "in [0, 1)"),
    (["--keep", "first"], "must be one of last, best, best-on-test"),
    (["--keep", "best"], "needs a --validation part"),
    (["--keep", "best-on-test", "--validation", "0.1"], "leave --validation out"),
    (["--crop", "none"], "--crop none: must be one of resized, plain, padded, whole"),
    (["--normalise", "mine"], "--normalise mine: must be one of imagenet, own"),
    (["--weight-decay-on", "heads"], "must be one of all, packed"),
    (["--nesterov", "--momentum", "0"], "must be above 0 with --nesterov"),
    (["--lr-decay-at", "80", "50"], "--lr-decay-at 80 50: must be numbers of epochs, ascending"),
    (["--lr-decay-at", "0", "50"], "must be numbers of epochs, ascending"),
    (["--free-weights", "-0.1"], "must not be negative"),
    (["--free-weights", "nan"], "must not be negative"),
    (["--weight-decay", "-1"], "must not be negative"),
    (["--seed", "-1"], "must not be negative"),
    (["--image-size", "7"], "must be at least 8 for vgg-slim"),
    (["--arch", "vgg18"], "must be one of vgg16, vgg16-bn, resnet50, densenet121"),
    (["--arch", "vgg16", "--image-size", "31"], "--image-size 31: must be at least 32 for vgg16"),
    (["--arch", "vit_b_16"], "--image-size 48: must be 224 for vit_b_16"),
    (["--arch", "nowhere.py:build"], "no such file"),
    (["--last", "fc"], "is for a network of your own"),
    (["--pretrained", "nowhere.pth"], "no such file"),
    (["--data-root", "nowhere"], "no such folder"),
    (["--output-dir", __file__], "is a file"),
    (["--output-dir", f"{__file__}/out"], "test_main.py is a file, or belongs to somebody else"),
    (["--image-size", "20000"], "must be at most 4096"),
    (["--free-weights", "inf"], "must be a finite number"),
    (["--weight-decay", "inf"], "must be a finite number"),
    (["--num-epochs-base", "1"], "the base network trains on"),  # where there is none
    (["--pretrained", "published"], "vgg-slim has no published weights: give a file"),
    (["--device", "cuda"], "--device cuda cannot be used"),
    (["--device", "tpu"], "must be one of auto, cpu, cuda"),
    (["--batch-size", "many"], "invalid int value"),
    (["--epochs", "3"], "unrecognized arguments"),
]


@pytest.mark.parametrize("more, message", WRONG, ids=[" ".join(more)[:40] for more, _ in WRONG])
def test_wrong_options_end_with_code_2_before_anything_is_written(
    image_root, tmp_path, pretrained, more, message, capsys
):
    if more == ["--device", "cuda"] and not gpu.gpu_problem():
        pytest.skip("this machine has a GPU")
    try:
        code = main.main(options(image_root, tmp_path / "out", pretrained, *more))
    except SystemExit as exit:
        code = exit.code
    error = capsys.readouterr().err
    # this process has a device; ask a new one
    if more == ["--device", "cuda"] and "already runs" in error:
        done = subprocess.run(
            [sys.executable, "main.py", *options(image_root, tmp_path / "out", pretrained, *more)],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=600,
        )
        code, error = done.returncode, done.stderr
    assert code == 2 and message in error and "Traceback" not in error, error
    assert not (tmp_path / "out").exists()


def test_broken_data_end_with_code_2(image_root, tmp_path, pretrained, capsys):
    (image_root / "flowers/test/a/0.jpg").write_bytes(b"broken")
    assert main.main(options(image_root, tmp_path / "out", pretrained)) == 2
    assert "flowers/test/a/0.jpg" in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_a_broken_pretrained_file_ends_with_code_2(image_root, tmp_path, pretrained, capsys):
    pretrained.write_bytes(pretrained.read_bytes()[:1000])
    assert main.main(options(image_root, tmp_path / "out", pretrained)) == 2
    assert "slim.pth" in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_imagenet_of_another_size_ends_with_code_2(image_root, tmp_path, pretrained, capsys):
    for split in ("train", "val"):
        write_images(image_root / "imagenet" / split, {"n1": 1, "n2": 1})
    assert main.main(options(image_root, tmp_path / "out", pretrained)) == 2
    assert "has 2 classes, the pretrained network 5" in capsys.readouterr().err


def test_a_loss_that_diverges_is_named(image_root, tmp_path, pretrained, capsys):
    assert main.main(options(image_root, tmp_path / "out", pretrained, "--initial-lr", "1e20")) == 1
    error = capsys.readouterr().err
    assert re.search(
        r"error: cubs, train \d/2: (the loss is (nan|inf)|weights are NaN or infinite) at "
        r"learning rate 1e\+20",
        error,
    )


def test_a_loss_that_is_no_number_ends_the_epoch():
    import networks
    from packing.loops import TrainingError, cross_entropy, train_epoch

    jt = networks.jt
    net = networks.build("vgg-slim")
    net.add_head("a", 2), net.select("a")
    batch = jt.rand(2, 3, 48, 48), jt.array(np.array([0, 1], np.int32))
    net.heads["a"].bias.assign(jt.array(np.array([np.nan, 0], np.float32)))
    with pytest.raises(TrainingError, match="a, train 1/1: the loss is nan at learning rate 0.001"):
        train_epoch(net, cross_entropy, [batch], jt.nn.SGD(net.parameters(), 1e-3), "a, train 1/1")


def test_a_weight_that_is_no_number_ends_the_epoch_though_the_loss_is_one():
    """The loss does not see it; as where ReLU has turned what came of it into 0."""
    import networks
    from packing.loops import TrainingError, cross_entropy, train_epoch

    jt = networks.jt
    net = networks.build("vgg-slim")
    net.add_head("unseen", 2), net.add_head("a", 2), net.select("a")
    batch = jt.rand(2, 3, 48, 48), jt.array(np.array([0, 1], np.int32))
    optimizer = jt.nn.SGD(net.parameters(), 1e-3)
    loss, _ = train_epoch(net, cross_entropy, [batch], optimizer, "a, train 1/1")
    weight = net.heads["unseen"].weight
    weight.assign(jt.array(np.full(weight.shape, np.nan, np.float32)))
    assert np.isfinite(loss) and np.isfinite(cross_entropy(net, *batch)[0].item())
    with pytest.raises(
        TrainingError, match="a, train 1/1: weights are NaN or infinite at learning rate 0.001"
    ):
        train_epoch(net, cross_entropy, [batch], optimizer, "a, train 1/1")


@pytest.mark.parametrize("content", [None, b"broken"])
def test_evaluate_without_a_checkpoint_ends_with_code_2(tmp_path, content, capsys):
    if content:
        (tmp_path / "packnet.safetensors").write_bytes(content)
    assert evaluate.main(["--output-dir", str(tmp_path)]) == 2
    assert "packnet.safetensors" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--predict", "x.jpg", "--task-agnostic"], "--predict and --task-agnostic: one at a time"),
        (
            ["--predict", "x.jpg", "--export", "cubs", "out"],
            "--predict and --export: one at a time",
        ),
        (["--seals", "--task-agnostic"], "--task-agnostic and --seals: one at a time"),
        (
            ["--task", "cubs", "--task-agnostic"],
            "--task cubs: goes with --predict or alone, not with --task-agnostic",
        ),
        (["--task", "cubs", "--export", "cars", "out"], "not with --export"),
        (["--batch-size", "0"], "--batch-size 0: must be at least 1"),
    ],
)
def test_options_of_evaluate_that_would_be_ignored_are_refused(arguments, message, capsys):
    assert evaluate.main(arguments) == 2 and message in capsys.readouterr().err


def test_prediction_takes_a_batch_of_images_at_a_time(image_root):
    taken, paths = [], sorted(image_root.rglob("*.jpg"))[:5]

    def predict(task, batches):
        taken.append([images.numpy() for images, _ in batches])
        return np.concatenate(taken[-1]), None

    entry = dict(name="cubs", input=preparation_of("cubs", 32, "resized").plain())
    for size in (2, 5):
        assert evaluate.logits_of(SimpleNamespace(predict=predict), entry, paths, size).shape == (
            5,
            3,
            32,
            32,
        )
    assert [len(images) for images in taken[0]] == [2, 2, 1] and np.array_equal(
        np.concatenate(taken[0]), taken[1][0]
    )


def test_help_needs_no_jittor():
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "main.py", "--help"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert (
        done.returncode == 0 and "--pruning-ratios" in done.stdout and "jittor" not in done.stderr
    )


# ---- test_basic.py


def test_basic_looks_into_no_folder_that_is_not_there(tmp_path, capsys):
    import test_basic

    assert test_basic.main(["--data-root", str(tmp_path / "nowhere")]) == 2
    assert f"--data-root {tmp_path}/nowhere: no such folder" in capsys.readouterr().err


def test_the_sanity_check_tells_right_from_wrong(image_root, capsys, monkeypatch):
    import test_basic

    files = sorted(image_root.rglob("*"))
    assert test_basic.main(["--data-root", str(image_root)]) == 1
    lines = {
        line.split()[1]: line
        for line in capsys.readouterr().out.splitlines()
        if len(line.split()) > 1
    }
    assert lines["toolchain"].startswith("ok") and lines["algorithm"].startswith("ok")
    assert (
        lines["cubs"].startswith("WRONG") and "official are 200, 5,994 and 5,794" in lines["cubs"]
    )
    assert lines["imagenet"].startswith("absent")
    assert files == sorted(image_root.rglob("*"))  # it changes no file
    for name in ("cubs", "cars", "flowers"):
        monkeypatch.setitem(PUBLISHED, name, replace(PUBLISHED[name], classes=3, train=12, test=6))
    assert test_basic.main(["--data-root", str(image_root)]) == 0
    assert "All is well." in capsys.readouterr().out
    (image_root / "cubs_cropped/train/a/0.jpg").write_bytes(b"")
    assert test_basic.main(["--data-root", str(image_root)]) == 1
    assert "cubs_cropped/train/a/0.jpg" in capsys.readouterr().out
