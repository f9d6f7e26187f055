"""Stopped at any moment and resumed, a run ends as if nothing had happened; nothing that was saved
is ever lost."""

import contextlib
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from conftest import ROOT, jt

import main
import training
from images import drawings
from storage.checkpoint import load_checkpoint, save_checkpoint

ARGUMENTS = """
    --demo --num-epochs-base 2 --num-epochs-base-finetune 1 --num-epochs-per-task 2
    --num-epochs-finetune 1 --task-list demo_birds demo_cars --pruning-ratios 0.75 0.5
""".split()


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("data")
    drawings.draw(root, train=8, test=4)
    return root


def command(data, *more):
    return [*ARGUMENTS, "--data-root", str(data), "--output-dir", "out", *more]


def start(folder, arguments, before=""):
    """main.py in a process of its own, in `folder`; `before` is code that runs first. It listens to
    Ctrl-C, though jobs in the
    background (`nohup`, a CI's `&`), which the tests may be, are started so that they do not."""
    code = (
        f"import sys; sys.path.insert(0, {str(ROOT)!r}); import os, signal\n"
        f"signal.signal(signal.SIGINT, signal.default_int_handler)\n{before}\nimport main; "
        "main.processes.leave(main.main())"
    )
    return subprocess.Popen(
        [sys.executable, "-c", code, *arguments],
        cwd=folder,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def finish(process, timeout=None):
    out, error = process.communicate(timeout=timeout)
    return process.returncode, out, error


def until(process, there) -> None:
    """Wait until `there()`, which a process that goes on brings about."""
    while not there():
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)


def ending(folder):
    """What a run ends with, times aside: results, bytes of the checkpoint, metrics of the log,
    names of all files."""
    results = json.loads((folder / "out/results.json").read_text())
    results.pop("seconds")
    for record in results["history"]:
        record.pop("seconds")
    log = re.sub(r"\(\d+\.\d s\)|in \d+ s", "", (folder / "out/log.txt").read_text())
    names = sorted(str(path.relative_to(folder)) for path in (folder / "out").rglob("*"))
    return results, (folder / "out/packnet.safetensors").read_bytes(), log, names


@pytest.fixture(scope="module")
def undisturbed(data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed")
    code, _, error = finish(start(folder, command(data)))
    assert code == 0, error
    return ending(folder)


# A state after every step, on a slow disk too: so often is each kind of file written.
KILL = """
import runs.carry_out
runs.carry_out.SAVING_SHARE = 1e9
def kill(*a, **k): os.kill(os.getpid(), signal.SIGKILL)
"""
# Where the process kills itself: each kind of step at its start, and inside the writing of files.
PLACES = (
    {
        name: f"{KILL}import {module}; {module}.{name} = kill"
        for module, name in (
            ("training", "start"),
            ("training", "prune"),
            ("training", "finish"),
            ("runs.carry_out", "report"),
            ("runs.run", "Run.save_state"),
            ("runs.run", "Run.save_results"),
            ("runs.run", "Run.save_packed"),
            ("training", "keep"),
        )
    }
    | {
        f"{step} of a baseline": f"{KILL}from methods import Baseline; Baseline.{step} = kill"
        for step in ("start", "finish")
    }
    | {
        "third epoch": KILL
        + """
import training
train_epoch, calls = training.train_epoch, []
def third(*a):
    calls.append(1)
    return kill() if len(calls) == 3 else train_epoch(*a)
training.train_epoch = third""",
        "evaluation": KILL
        + """
from packing import loops
predict, calls = loops.predict, []
def fourth(*a):
    calls.append(1)
    return kill() if len(calls) == 4 else predict(*a)
loops.predict = fourth""",
        "half a checkpoint": KILL
        + """
import safetensors.numpy as s
save, calls = s.save_file, []
def half(tensors, path, metadata):
    save(tensors, path, metadata)
    calls.append(1)
    if len(calls) == 2:
        os.truncate(path, os.path.getsize(path) // 2)
        kill()
s.save_file = half""",
        "before the rename": KILL
        + """
replace, calls = os.replace, []
def fifth(*a):
    calls.append(1)
    return kill() if len(calls) == 5 else replace(*a)
os.replace = fifth""",
    }
)


KILLS = 30
QUICK = ("prune", "third epoch", "half a checkpoint", "before the rename")


@pytest.mark.parametrize(
    "place",
    [place if place in QUICK else pytest.param(place, marks=pytest.mark.slow) for place in PLACES],
)
def test_killed_in_a_given_place(data, undisturbed, tmp_path, place):
    code, _, error = finish(start(tmp_path, command(data), PLACES[place]))
    assert code == -signal.SIGKILL, error
    code, _, error = finish(start(tmp_path, command(data, "--resume")))
    assert code == 0, error
    assert ending(tmp_path) == undisturbed


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [[], ["--arch", "vgg-bn-slim", "--train-bn", "--train-biases"]],
    ids=["shared", "own"],
)
def test_killed_at_random_moments(data, tmp_path, options):
    """At least KILLS kills over whole runs, one after another, each run ending like the undisturbed
    one, to the byte."""
    for _ in range(2):  # the first compiles
        shutil.rmtree(tmp_path / "out", ignore_errors=True)
        begin = time.monotonic()
        code, _, error = finish(start(tmp_path, command(data, *options)))
        assert code == 0, error
        undisturbed, seconds = ending(tmp_path), time.monotonic() - begin
    rng, kills = random.Random(1), 0
    while kills < KILLS:
        shutil.rmtree(tmp_path / "out")
        while True:
            process = start(tmp_path, command(data, "--resume", *options))
            try:
                code, _, error = finish(process, timeout=rng.uniform(0.25, 0.8) * seconds)
                assert code == 0, error
                break
            except subprocess.TimeoutExpired:
                os.kill(process.pid, signal.SIGKILL)
                process.communicate()
                kills += 1
        assert ending(tmp_path) == undisturbed


def test_a_resumed_run_takes_its_settings_along_and_refuses_others(
    data, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    train_epoch, calls = training.train_epoch, []

    def interrupted(*arguments):
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return train_epoch(*arguments)

    monkeypatch.setattr(training, "train_epoch", interrupted)
    assert main.main(command(data)) == 130
    error = capsys.readouterr().err
    assert (
        "Interrupted" in error and "--resume --output-dir out" in error and "Traceback" not in error
    )
    state = (tmp_path / "out/state.safetensors").read_bytes()

    assert main.main(command(data)) == 2  # without --resume
    error = capsys.readouterr().err
    assert "holds a run already" in error and "Go on with it by --resume" in error
    assert main.main(["--resume", "--output-dir", "out", "--add-to", "out"]) == 2
    assert "--add-to was None and is now out" in capsys.readouterr().err
    assert main.main(command(data, "--resume", "--initial-lr", "0.1", "--batch-size", "7")) == 2
    error = capsys.readouterr().err
    assert (
        "--initial-lr was 0.02 and is now 0.1" in error
        and "--batch-size was 32 and is now 7" in error
    )
    assert (tmp_path / "out/state.safetensors").read_bytes() == state

    shutil.copytree(data, tmp_path / "moved")
    assert main.main(["--resume", "--output-dir", "out", "--data-root", "moved"]) == 0
    results = json.loads((tmp_path / "out/results.json").read_text())
    assert (
        results["finished"]
        and results["config"]["initial_lr"] == 0.02
        and len(results["tasks"]) == 2
    )
    assert not (tmp_path / "out/state.safetensors").exists()

    before = {
        path: (path.read_bytes(), path.stat().st_mtime_ns)
        for path in (tmp_path / "out").rglob("*.*")
    }
    capsys.readouterr()
    # as after a kill between the last results and its end
    (tmp_path / "out/state.safetensors").write_bytes(state)
    assert main.main(["--resume", "--output-dir", "out"]) == 0
    assert "is finished; nothing is changed" in capsys.readouterr().out
    assert before == {
        path: (path.read_bytes(), path.stat().st_mtime_ns)
        for path in (tmp_path / "out").rglob("*.*")
    }


def test_a_ctrl_c_whose_exception_got_lost_ends_the_run_after_the_step(
    data, tmp_path, monkeypatch, capsys
):
    """C code that calls Python may drop what it raises."""
    monkeypatch.chdir(tmp_path)
    train_epoch = training.train_epoch
    signal.signal(signal.SIGINT, signal.default_int_handler)  # in a background job it is ignored

    def lost(*arguments):
        with contextlib.suppress(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        return train_epoch(*arguments)

    monkeypatch.setattr(training, "train_epoch", lost)
    assert main.main(command(data)) == 130
    assert "goes on after the last finished epoch" in capsys.readouterr().err
    assert (tmp_path / "out/log.txt").read_text().count("train 1/2") == 1 and "train 2/2" not in (
        tmp_path / "out/log.txt"
    ).read_text()


def test_ctrl_c_is_one_line_and_130(data, tmp_path):
    # as Jittor's own tidying up at times ends; and the signal comes before the run is over
    before = "import atexit, time, training; atexit.register(os.abort)\n"
    before += "training.prune = lambda *a: time.sleep(600)"
    process, log = start(tmp_path, command(data), before), tmp_path / "out/log.txt"
    until(process, lambda: log.exists() and "train 2/2" in log.read_text())
    process.send_signal(signal.SIGINT)
    code, _, error = finish(process)
    assert code == 130 and "Traceback" not in error, error
    assert "Interrupted. `python main.py --resume --output-dir out`" in error.splitlines()[-1]
    assert (tmp_path / "out/state.safetensors").exists()


def test_a_second_process_is_refused(data, tmp_path):
    waits = "import time, training; training.start = lambda *a: time.sleep(600)"
    first = start(tmp_path, command(data), waits)
    until(first, (tmp_path / "out/results.json").exists)
    try:
        code, _, error = finish(start(tmp_path, command(data, "--resume")))
        assert code == 2 and "another process is running there" in error, error
        assert first.poll() is None
    finally:
        os.kill(first.pid, signal.SIGKILL)
        first.communicate()
    # a killed process holds nothing
    assert finish(start(tmp_path, command(data, "--resume")))[0] == 0


def test_a_full_disk_keeps_the_last_state_and_names_the_need(data, tmp_path):
    """A limit on the size of files stands for the full disk."""
    limit = """
import resource, training
begin = training.start
def limited(run, task):
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000))
    begin(run, task)
training.start = limited"""
    code, _, error = finish(start(tmp_path, command(data), limit))
    assert code == 1 and "Traceback" not in error, error
    assert re.search(
        r"error: out/state.safetensors: cannot be written \(.*\); [\d,]{7,} bytes are needed", error
    )
    assert sorted(os.listdir(tmp_path / "out")) == ["log.txt", "results.json"]
    assert finish(start(tmp_path, command(data, "--resume")))[0] == 0


def test_a_loss_that_is_nan_keeps_the_last_good_state(data, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main.main(command(data, "--initial-lr", "1e20")) == 1
    # which of the two is noticed first hangs on the processor's rounding
    error = capsys.readouterr().err
    assert re.search(
        r"error: demo_birds, train \d/2: (the loss is (nan|inf)|weights are NaN or infinite) at "
        r"learning rate 1e\+20",
        error,
    )
    tensors, metadata = load_checkpoint(tmp_path / "out/state.safetensors")
    assert metadata["position"] > 0 and all(np.isfinite(t).all() for t in tensors.values())


@pytest.fixture
def half_done(data, tmp_path, monkeypatch):
    """A run that stopped after its first epochs, in the current directory."""
    monkeypatch.chdir(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(training, "prune", lambda *a: (_ for _ in ()).throw(KeyboardInterrupt))
        assert main.main(command(data)) == 130
    return tmp_path / "out"


def flip(path, data):
    path.write_bytes(
        data[: len(data) // 2] + bytes([data[len(data) // 2] ^ 1]) + data[len(data) // 2 + 1 :]
    )


def cut(path, data):
    path.write_bytes(data[:-1000])


def empty(path, data):
    path.write_bytes(b"")


def other_network(path, data):
    tensors, metadata = load_checkpoint(path)
    tensors["trunk.features.0.bias"] = np.ones(3, np.float32)
    save_checkpoint(path, tensors, metadata)


def other_version(path, data):
    tensors, metadata = load_checkpoint(path)
    del metadata["position"]
    save_checkpoint(path, tensors, metadata)


def test_data_that_changed_meanwhile_are_refused(half_done, data, tmp_path, capsys):
    shutil.copytree(data, tmp_path / "fewer")
    next((tmp_path / "fewer/demo_cars/train/van").iterdir()).unlink()
    assert main.main(["--resume", "--output-dir", "out", "--data-root", "fewer"]) == 2
    assert (
        "demo_cars, train: images and classes were [64, 8], are [63, 8]" in capsys.readouterr().err
    )


@pytest.mark.parametrize(
    "damage, message",
    [
        (flip, "checksum"),
        (cut, "truncated"),
        (empty, "truncated"),
        (other_network, "does not fit"),
        (other_version, "version"),
    ],
)
def test_a_damaged_state_is_refused(half_done, capsys, damage, message):
    state = half_done / "state.safetensors"
    damage(state, state.read_bytes())
    before = {path: path.read_bytes() for path in half_done.iterdir()}
    assert main.main(["--resume", "--output-dir", "out"]) == 2
    error = capsys.readouterr().err
    assert "state.safetensors" in error and message in error
    assert before == {path: path.read_bytes() for path in half_done.iterdir()}


def test_results_of_another_version_are_refused(half_done, capsys):
    results = json.loads((half_done / "results.json").read_text())
    results["config"].pop("momentum")
    for content in (
        "",
        "[]",
        "{}",
        '{"config": 3, "finished": false}',
        json.dumps(results),
        "[" * 100_000,
    ):
        (half_done / "results.json").write_text(content)
        assert main.main(["--resume", "--output-dir", "out"]) == 2
        assert "results.json: not the results of a run of this version" in capsys.readouterr().err
        assert (half_done / "results.json").read_text() == content


@pytest.mark.parametrize("name", ["packnet.safetensors", "state.safetensors"])
@pytest.mark.parametrize("more", [["--resume"], []])
def test_a_packed_network_or_state_alone_is_never_overwritten(tmp_path, name, more, capsys):
    (tmp_path / name).write_bytes(b"the only copy")
    assert main.main(["--output-dir", str(tmp_path), *more]) == 2
    error = capsys.readouterr().err
    assert (
        name in error
        and "Choose another folder, or move this one away." in error
        and "by --resume" not in error
    )
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"the only copy"]


# ---- nothing to go on with


@pytest.mark.parametrize(
    "more", [[], ["--data-root", "elsewhere"], ["--device", "cpu", "--cache-dir", "c"]]
)
def test_nothing_is_started_where_no_setting_says_what(tmp_path, monkeypatch, more, capsys):
    monkeypatch.chdir(tmp_path)
    assert main.main(["--resume", "--output-dir", "out", *more]) == 2
    error = capsys.readouterr().err
    assert "there is no run in out to go on with" in error and "Leave --resume out" in error
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "kind, code", [(KeyboardInterrupt, 130), (lambda: OSError(5, "Input/output error"), 2)]
)
def test_no_resume_is_advised_before_anything_is_saved(
    data, tmp_path, monkeypatch, kind, code, capsys
):
    monkeypatch.chdir(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr("runs.run.open_loaders", lambda *_: (_ for _ in ()).throw(kind()))
        assert main.main(command(data)) == code
    error = capsys.readouterr().err
    assert (
        "Nothing was saved yet; the same command begins anew." in error and "--resume" not in error
    )
    with monkeypatch.context() as patch:  # a little later there is a log
        patch.setattr("runs.results.Results.opened", lambda *_: (_ for _ in ()).throw(kind()))
        assert main.main(command(data)) == code
    assert "the same command with --resume begins anew" in capsys.readouterr().err
    with monkeypatch.context() as patch:  # and then results, but no state
        patch.setattr(training, "start", lambda *_: (_ for _ in ()).throw(kind()))
        assert main.main(command(data, "--resume")) == (code if code == 130 else 1)
    assert (
        "`python main.py --resume --output-dir out` begins it anew, with its settings"
        in capsys.readouterr().err
    )


def test_memory_does_not_grow():
    """1,000 steps of a tiny network with frozen weights: resident memory is flat after warm-up."""
    import networks
    from pruning import PackNet
    from training import cross_entropy, train_epoch

    def resident():
        return int(open("/proc/self/statm").read().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    net = networks.build("vgg-slim", image_size=16)
    packnet = PackNet(net)
    for task in ("a", "b"):
        net.add_head(task, 4)
        packnet.start_task(task)
        packnet.prune(task)
    net.select("b")
    rng = np.random.default_rng(0)
    batch = [
        (
            jt.array(rng.normal(size=(4, 3, 16, 16)).astype(np.float32)),
            jt.array(rng.integers(0, 4, 4)),
        )
    ]
    optimizer = jt.nn.SGD(list(packnet.trainable().values()), 1e-3, momentum=0.9)
    packnet.set_training(True)
    train_epoch(net, cross_entropy, batch * 300, optimizer, "warm-up")
    before = resident()
    train_epoch(net, cross_entropy, batch * 1000, optimizer, "1,000 steps")
    assert resident() - before < 10e6
