"""--add-to: a task that is added to a packed network later is packed as if it had been in the list,
and nothing else changes."""

import json
import shutil
import signal

import numpy as np
import pytest
from test_resume import KILL, PLACES, finish, start

import evaluate
import main
import training
from images import drawings
from runs.addition import completed, room
from runs.run import Run
from settings.config import Config
from storage.checkpoint import load_metadata, save_checkpoint
from storage.packed import Packed, load_packed, save_packed

NETWORK = """
    --arch vgg-bn-slim --image-size 48 --base-task demo_base --num-epochs-base 1 --device
    cpu --base-lr 0.01 --num-epochs-base-finetune 1 --num-epochs-per-task 2
    --num-epochs-finetune 1 --initial-lr 0.01 --initial-pruning-ratio 0.75
""".split()
OPTIONS = {"shared": [], "own": ["--train-biases", "--train-bn"]}


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A folder with data/ (everything) and, as another machine, elsewhere/data/ (the new task's
    alone)."""
    root = tmp_path_factory.mktemp("home")
    drawings.draw(root / "data", train=8, test=4)
    (root / "elsewhere/data").mkdir(parents=True)
    shutil.copytree(root / "data/demo_flowers", root / "elsewhere/data/demo_flowers")
    return root


@pytest.fixture(autouse=True)
def here(home, monkeypatch):
    monkeypatch.chdir(home)
    monkeypatch.setattr("runs.carry_out.SAVING_SHARE", 1e9)  # a state after every step


def run(out, tasks, *more):
    assert main.main([*NETWORK, "--task-list", *tasks, "--output-dir", out, *more]) == 0
    return out


def add(to, out, *more):
    return main.main(
        [
            "--add-to",
            to,
            "--task-list",
            "demo_flowers",
            "--output-dir",
            out,
            "--device",
            "cpu",
            *more,
        ]
    )


@pytest.fixture(scope="module", params=OPTIONS)
def runs(home, request):
    """(A, B; A, B, C in one run; the bytes of its packed file)"""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(home)
        name, options = request.param, OPTIONS[request.param]
        two = run(f"{name}/two", ["demo_birds", "demo_cars"], *options)
        three = run(f"{name}/three", ["demo_birds", "demo_cars", "demo_flowers"], *options)
    return two, three, (home / three / "packnet.safetensors").read_bytes()


def files(folder):
    return {
        path: (path.read_bytes(), path.stat().st_mtime_ns)
        for path in folder.rglob("*")
        if path.is_file()
    }


def results_of(out):
    return json.loads((out / "results.json").read_text())


def test_added_later_is_added_at_once_to_the_bit(runs, home):
    two, three, whole = runs
    before = files(home / two)
    assert add(two, f"{two}-added") == 0
    assert (home / f"{two}-added/packnet.safetensors").read_bytes() == whole
    assert files(home / two) == before  # the old folder is not touched
    assert evaluate.main(["--output-dir", f"{two}-added", "--seals"]) == 0

    added, at_once = results_of(home / f"{two}-added"), results_of(home / three)
    assert (
        added["accuracy_matrix"] == at_once["accuracy_matrix"]
        and added["capacity"] == at_once["capacity"]
    )
    assert added["earlier"] == added["seals_unchanged"] == ["demo_base", "demo_birds", "demo_cars"]
    assert [task["max_logit_change"] for task in (added["base"], *added["tasks"])] == [0.0] * 4
    assert not any(task.get("stored") for task in (added["base"], *added["tasks"]))
    assert [record["task"] for record in added["history"]] == ["demo_flowers"] * 3
    log = (home / f"{two}-added/log.txt").read_text()
    assert (
        log.count("3 earlier tasks: seals unchanged") == 2 and "Free: " in log.split("Settings:")[0]
    )
    assert "demo_cars: " in log and " % as stored" in log


def test_no_data_results_or_state_of_earlier_tasks_are_needed(runs, home, monkeypatch, capsys):
    two, three, whole = runs
    monkeypatch.chdir(home / "elsewhere")
    shutil.copy(home / two / "packnet.safetensors", f"{two.partition('/')[0]}.safetensors")
    out = f"{two}-added"
    assert add(f"{two.partition('/')[0]}.safetensors", out) == 0
    assert (home / "elsewhere" / out / "packnet.safetensors").read_bytes() == whole
    added, at_once = results_of(home / "elsewhere" / out), results_of(home / three)
    # the promise: stored figures are those that would be measured
    assert added["accuracy_matrix"] == at_once["accuracy_matrix"]
    assert [task.get("stored", False) for task in (added["base"], *added["tasks"])] == [
        True,
        True,
        True,
        False,
    ]
    assert [task["max_logit_change"] for task in added["tasks"]] == [None, None, 0.0]
    log = (home / "elsewhere" / out / "log.txt").read_text()
    assert (
        "as stored; there is no data/demo_birds to measure it again" in log
        and "the figures are those of the packed file" in log
    )
    assert (home / "elsewhere" / out / "plots/error_as_tasks_are_added.png").exists()
    capsys.readouterr()
    assert evaluate.main(["--output-dir", out]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines if line.endswith("(no data)")] == [
        "demo_base",
        "demo_birds",
        "demo_cars",
    ]
    assert f"{at_once['tasks'][0]['top1_final']:9.2f}  (no data)" in lines[2] and float(
        lines[4].split()[1]
    ) == float(lines[4].split()[3])
    assert evaluate.main(["--output-dir", out, "--data-root", "data/demo_flowers"]) == 2
    assert "holds none of the tasks demo_base, demo_birds" in capsys.readouterr().err
    import report

    assert report.main(["--runs", out]) == 0
    page = (home / "elsewhere" / out / "report.md").read_text()
    assert (
        "| demo_birds (stored) |" in page
        and "| demo_flowers |" in page
        and "3 earlier tasks: seals unchanged" in page
    )


@pytest.mark.parametrize("title", ["demo_flowers, train 1/2", "demo_flowers, retrain 1/1"])
def test_a_stopped_addition_goes_on_to_the_same_end(runs, home, monkeypatch, title):
    two, _, whole = runs
    out, train_epoch = f"{two}-stopped-{title[14:19]}", training.train_epoch
    with monkeypatch.context() as patch:

        def stopped(net, loss, loader, optimizer, its_title):
            if its_title == title:
                raise KeyboardInterrupt
            return train_epoch(net, loss, loader, optimizer, its_title)

        patch.setattr(training, "train_epoch", stopped)
        assert add(two, out) == 130
    assert main.main(["--resume", "--output-dir", out]) == 0
    assert (home / out / "packnet.safetensors").read_bytes() == whole


def test_a_stopped_addition_goes_on_with_its_own_settings(runs, home, monkeypatch):
    if runs[0] != "shared/two":
        pytest.skip("once is enough")
    with monkeypatch.context() as patch:
        patch.setattr(training, "finish", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        assert (
            add(
                "shared/two",
                "own-settings",
                "--initial-lr",
                "0.02",
                "--data-root",
                "elsewhere/data",
            )
            == 130
        )
    assert add("shared/two", "own-settings", "--resume") == 0
    config = results_of(home / "own-settings")["config"]
    assert (config["initial_lr"], config["data_root"]) == (0.02, "elsewhere/data")


KILLED = {
    "before the first state": f"{KILL}import runs.run; runs.run.Run.save_state = kill",
    "its earlier tasks": f"{KILL}import runs.results; runs.results.Results.take_earlier = kill",
} | {
    place: PLACES[place]
    for place in PLACES
    if "baseline" not in place and place != "keep_and_prune"
}
QUICK = ("before the first state", "half a checkpoint")  # the others of test_resume.py's


@pytest.mark.parametrize("runs", ["own"], indirect=True)
@pytest.mark.parametrize(
    "place",
    [place if place in QUICK else pytest.param(place, marks=pytest.mark.slow) for place in KILLED],
)
def test_a_killed_addition_goes_on_to_the_same_end(runs, home, place):
    two, _, whole = runs
    before, out = files(home / two), f"{two}-killed-{place.replace(' ', '-')}"
    arguments = [
        "--add-to",
        two,
        "--task-list",
        "demo_flowers",
        "--output-dir",
        out,
        "--device",
        "cpu",
    ]
    code, _, error = finish(start(home, arguments, KILLED[place]))
    assert code == -signal.SIGKILL, error
    assert files(home / two) == before
    code, _, error = finish(start(home, [*arguments, "--resume"]))
    assert code == 0, error
    assert (home / out / "packnet.safetensors").read_bytes() == whole and files(
        home / two
    ) == before


@pytest.mark.parametrize("runs", ["shared"], indirect=True)
def test_the_test_split_alone_is_measured(runs, home, tmp_path, monkeypatch):
    two, _, _ = runs
    monkeypatch.chdir(tmp_path)
    shutil.copytree(home / "data/demo_flowers", "data/demo_flowers")
    shutil.copytree(home / "data/demo_birds/test", "data/demo_birds/test")
    assert add(str(home / two), "out") == 0
    tasks = {task["name"]: task for task in results_of(tmp_path / "out")["tasks"]}
    assert tasks["demo_birds"]["max_logit_change"] == 0.0 and tasks["demo_cars"]["stored"]


@pytest.mark.parametrize("runs", ["own"], indirect=True)
def test_a_full_network_makes_room_by_pruning_its_last_task(runs, home, capsys):
    two, _, _ = runs
    options = OPTIONS[two.partition("/")[0]]
    full = run(
        f"{two}-full", ["demo_birds", "demo_cars"], "--pruning-ratios", "0.75", "0", *options
    )
    at_once = run(
        f"{two}-at-once",
        ["demo_birds", "demo_cars", "demo_flowers"],
        "--pruning-ratios",
        "0.75",
        "0.5",
        "0.75",
        *options,
    )
    capsys.readouterr()
    assert add(full, f"{two}-room") == 2
    error = capsys.readouterr().err
    assert (
        "no weight is free, since demo_cars kept all that were left. Add `--prune-last 0.75`"
        in error
        and error.count("\n") == 1
    )
    assert not (home / f"{two}-room").exists()
    assert add(full, f"{two}-room", "--prune-last", "0.5") == 0
    assert (home / f"{two}-room/packnet.safetensors").read_bytes() == (
        home / at_once / "packnet.safetensors"
    ).read_bytes()
    assert (
        results_of(home / f"{two}-room")["accuracy_matrix"]
        == results_of(home / at_once)["accuracy_matrix"]
    )
    old, new = (
        load_metadata(home / out / "packnet.safetensors")["tasks"] for out in (full, f"{two}-room")
    )
    assert old[:2] == new[:2] and old[2]["seal"] != new[2]["seal"]

    assert add(full, f"{two}-no-data", "--prune-last", "0.5", "--data-root", "elsewhere/data") == 2
    assert (
        "demo_cars is re-trained after its prune, and there is no elsewhere/data/demo_cars"
        in capsys.readouterr().err
    )


@pytest.mark.parametrize("runs", ["shared"], indirect=True)
def test_a_task_can_be_pruned_more_than_once(runs, home):
    two, _, _ = runs
    assert add(two, f"{two}-smaller", "--prune-last", "0.5") == 0
    cars = results_of(home / f"{two}-smaller")["tasks"][1]
    assert cars["pruning_ratio"] == 0.875 and cars["owned_fraction"] == pytest.approx(
        0.25 * 0.75**2 / 2, rel=0.02
    )


def the_base_alone(home, path):
    """What a packed file with the base task and nothing else holds."""
    packed, metadata = load_packed(home / path / "packnet.safetensors")
    packed.owners = {name: np.where(owner == 1, owner, 0) for name, owner in packed.owners.items()}
    packed.parameters = {
        name: value * packed.owners[name] if name in packed.owners else value
        for name, value in packed.parameters.items()
        if name.startswith(("trunk.", "heads.demo_base."))
    }
    save_packed(home / "base.safetensors", packed, metadata | dict(tasks=metadata["tasks"][:1]))
    return "base.safetensors"


@pytest.mark.parametrize("runs", ["shared"], indirect=True)
@pytest.mark.parametrize("last", ["demo_cars", "demo_base"])
def test_an_addition_that_prunes_the_last_task_goes_on_from_every_step(
    runs, home, monkeypatch, last
):
    to = runs[0] if last == "demo_cars" else the_base_alone(home, runs[0])
    assert add(to, f"{last}-undisturbed", "--prune-last", "0.5") == 0
    save_state = Run.save_state

    def stopped(run):
        save_state(run)
        raise KeyboardInterrupt

    monkeypatch.setattr(Run, "save_state", stopped)
    codes = [add(to, f"{last}-stopped", "--prune-last", "0.5")]
    while codes[-1] == 130:
        codes.append(main.main(["--resume", "--output-dir", f"{last}-stopped"]))
    # prune, re-train, finish; start, two epochs, prune, re-train, finish
    assert codes == [130] * 9 + [0]
    one, two = (home / f"{last}-{how}" for how in ("undisturbed", "stopped"))
    assert (one / "packnet.safetensors").read_bytes() == (two / "packnet.safetensors").read_bytes()
    assert results_of(one)["accuracy_matrix"] == results_of(two)["accuracy_matrix"]


@pytest.mark.parametrize("runs", ["own"], indirect=True)
def test_baselines_that_concern_the_new_task_start_from_the_packed_network(runs, home, capsys):
    two, _, whole = runs
    assert add(two, f"{two}-compared", "--baselines", "classifier", "individual") == 0
    assert (home / f"{two}-compared/packnet.safetensors").read_bytes() == whole
    baselines = results_of(home / f"{two}-compared")["baselines"]
    assert {method: figures["tasks"] for method, figures in baselines.items()} == {
        "classifier": ["demo_flowers"],
        "individual": ["demo_flowers"],
    }
    capsys.readouterr()
    assert add(two, f"{two}-joint", "--baselines", "joint") == 2
    assert (
        "--baselines joint: not from a packed network: it is about the earlier tasks too"
        in capsys.readouterr().err
    )


@pytest.mark.parametrize(
    "more, message",
    [
        (
            ["--arch", "vgg-slim"],
            "--arch vgg-slim: the packed network was made with vgg-bn-slim. Leave it out.",
        ),
        (["--image-size", "64"], "--image-size 64: the packed network was made with 48"),
        (
            ["--initial-pruning-ratio", "0.5"],
            "--initial-pruning-ratio 0.5: the packed network was made with 0.75",
        ),
        (
            ["--task-list", "demo_birds"],
            "'demo_birds' is in shared/two/packnet.safetensors already, which holds demo_base, "
            "demo_birds",
        ),
        (["--task-list", "demo_base"], "'demo_base' is in"),
        (["--task-list", "boats"], "unknown task 'boats'"),
        (["--pruning-ratios", "0.5", "0.5"], "needs one ratio for each of the 1 tasks, has 2"),
        (["--prune-last", "1"], "--prune-last 1.0: must be in (0, 1)"),
        (["--add-to", "nowhere"], "nowhere: no such file"),
        (["--add-to", "data"], "data/packnet.safetensors: no such file"),
        (["--output-dir", "shared/two"], "holds a run already"),
        (["--demo"], "leave --demo out"),
        (["--experiment", "seed"], "--experiment seed sets this itself"),
    ],
)
def test_what_contradicts_the_packed_network_is_refused(runs, home, more, message, capsys):
    if runs[0] != "shared/two":
        pytest.skip("once is enough")
    before = files(home / "shared")
    assert (
        main.main(
            [
                *"--add-to shared/two --task-list demo_flowers --output-dir refused".split(),
                *more,
            ]
        )
        == 2
    )
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1, error
    assert not (home / "refused").exists() and files(home / "shared") == before


def test_a_dry_run_is_of_the_packed_network(runs, home, capsys):
    before = files(home)
    assert add(runs[0], "dry", "--dry-run") == 0
    private = next(
        line
        for line in capsys.readouterr().out.splitlines()
        if line.startswith("trunk.features.0.bias")
    )
    assert ("private" if "own" in runs[0] else "shared") in private and files(home) == before
    assert (
        add("nowhere", "dry", "--dry-run") == 2
        and "nowhere: no such file" in capsys.readouterr().err
    )


def test_the_new_task_must_be_named_and_prune_last_needs_a_network(runs, capsys):
    assert main.main(["--add-to", runs[0], "--output-dir", "refused"]) == 2
    assert "--task-list must say which tasks are added" in capsys.readouterr().err
    assert (
        main.main(
            [
                *NETWORK,
                *"--task-list demo_birds --output-dir refused --prune-last 0.5".split(),
            ]
        )
        == 2
    )
    assert "--prune-last 0.5: goes with --add-to only" in capsys.readouterr().err


def test_a_network_that_is_not_what_it_was_is_not_added_to(runs, home, tmp_path, capsys):
    """One weight of one task has moved, and somebody has written the file anew, checksums and
    all."""
    packed, metadata = load_packed(home / runs[0] / "packnet.safetensors")
    name = "trunk.classifier.0.weight"
    packed.parameters[name] = packed.parameters[name] + (packed.owners[name] == 3) * np.float32(
        1e-3
    )
    save_packed(tmp_path / "moved.safetensors", packed, metadata)
    assert add(str(tmp_path / "moved.safetensors"), "refused") == 2
    assert (
        "the seals of demo_cars are broken" in capsys.readouterr().err
        and not (home / "refused").exists()
    )
    (tmp_path / "other.safetensors").write_bytes(b"")
    save_checkpoint(tmp_path / "other.safetensors", {}, dict(tasks=3))
    assert add(str(tmp_path / "other.safetensors"), "refused") == 2
    assert "not a checkpoint of this version" in capsys.readouterr().err


def test_other_classes_in_the_folder_of_an_earlier_task_are_refused(
    runs, home, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    for name in ("demo_flowers", "demo_birds"):
        shutil.copytree(home / "data" / name, f"data/{name}")
    (
        shutil.rmtree("data/demo_birds/train"),
        (tmp_path / "data/demo_birds/test/long_beak-plain-square_tail").rename(
            "data/demo_birds/test/x"
        ),
    )
    assert add(str(home / runs[0]), "out") == 2
    assert (
        "data/demo_birds: its classes are not those of the packed task demo_birds"
        in capsys.readouterr().err
    )


@pytest.mark.parametrize("given, crop", [({}, "plain"), (dict(crop="resized"), "resized")])
def test_images_are_cropped_as_for_the_tasks_before_unless_told_otherwise(
    runs, tmp_path, given, crop
):
    packed, metadata = load_packed(f"{runs[0]}/packnet.safetensors")
    assert metadata["config"]["crop"] == "resized"
    save_packed(
        tmp_path / "plain.safetensors",
        packed,
        metadata | dict(config=metadata["config"] | dict(crop="plain")),
    )
    assert (
        completed(
            dict(add_to=str(tmp_path / "plain.safetensors"), task_list=["demo_flowers"], **given)
        )["crop"]
        == crop
    )


def test_what_is_of_a_machine_does_not_come_from_the_file(tmp_path):
    settings = dict(device="cuda", precision="fp16", cache_dir="/of/another/machine", seed=7)
    save_checkpoint(
        tmp_path / "x.safetensors",
        {},
        dict(config=Config(**settings).asdict(), tasks=[dict(name="imagenet")]),
    )
    config = Config(**completed(dict(add_to=str(tmp_path / "x.safetensors"), task_list=["cubs"])))
    assert (config.device, config.precision, config.cache_dir, config.seed) == (
        "auto",
        "fp32",
        None,
        7,
    )


def test_room_is_counted_in_all_and_in_the_tightest_layer():
    owners = {
        "a": np.array([[0, 1], [2, 0]], np.uint8),
        "b": np.array([1, 1, 0, 1, 1, 1], np.uint8),
    }
    assert room(Packed({}, owners, {})) == [
        "Free: 30.00 % of the weights (3 of 10); least in b: 16.67 % (1 of 6)"
    ]
