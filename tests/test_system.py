"""Files in one step, and progress on a terminal and in a log."""

import os
import pty
import re
import subprocess
import sys
import termios
import threading
import time
from pathlib import Path

import conftest
import pytest
from conftest import ROOT

import system
from system import files, processes

GONE = 1 << 22  # no process: Linux numbers them below that


def test_only_what_is_surely_ours_and_dead_is_removed(tmp_path, monkeypatch):
    target, gone, alive = tmp_path / "cubs", GONE, os.getppid()
    mine = f".cubs{files.MARK}{files._here()}"
    monkeypatch.setattr(files, "_here", lambda: "another-box")
    with files.replacing(target) as elsewhere:
        pass_on = elsewhere.name.rpartition(f"{os.getpid()}")[0] + f"{gone}.1"
        elsewhere.touch()
    monkeypatch.undo()
    strangers = [
        ".cubs.yaml",
        ".cubs.swp",
        f".cubs.{gone}",
        ".cubs.1234567",
        f".cubs-2{files.MARK}{files._here()}.{gone}.1",
        f"{mine}.{alive}.1",
        f"{mine}.x.1",
        pass_on,
    ]
    for name in [*strangers, f"{mine}.{gone}.1"]:
        (tmp_path / name).write_text("content")
    (tmp_path / f"{mine}.{gone}.2/folder").mkdir(parents=True)
    files.write(target, b"new")
    assert (
        sorted(os.listdir(tmp_path)) == sorted(["cubs", *strangers])
        and target.read_bytes() == b"new"
    )


def test_two_threads_write_one_file(tmp_path):
    both, done = threading.Barrier(2), []

    def write(content: bytes) -> None:
        with files.replacing(tmp_path / "x") as temporary:
            temporary.write_bytes(content)
            both.wait()
            assert temporary.read_bytes() == content
        done.append(content)

    threads = [threading.Thread(target=write, args=(content,)) for content in (b"a", b"b")]
    [thread.start() for thread in threads], [thread.join() for thread in threads]
    assert (
        sorted(done) == [b"a", b"b"]
        and (tmp_path / "x").read_bytes() in done
        and os.listdir(tmp_path) == ["x"]
    )


def test_after_an_exception_the_file_is_as_it_was(tmp_path):
    files.write(tmp_path / "x", b"old")
    with pytest.raises(RuntimeError), files.replacing(tmp_path / "x") as temporary:
        temporary.write_bytes(b"half")
        raise RuntimeError
    assert (tmp_path / "x").read_bytes() == b"old" and os.listdir(tmp_path) == ["x"]


# By a clock of its own, which goes on as it sleeps: two seconds on a machine of any speed.
LOOP = """
import sys, time
now = time.time()
def sleep(seconds):
    global now
    now += seconds
time.time, time.sleep = lambda: now, sleep
from system import progress
progress.SIGN_OF_LIFE = {rhythm}
bar = progress.Progress(range(40), "cubs, train 1/20", unit="batch")
for step in bar:
    time.sleep(0.05)
    bar.set_postfix(loss=f"{{step:.3f}}", refresh=False)
progress.say("next line")
"""


def run(rhythm: float, **environment) -> str:
    done = subprocess.run(
        [sys.executable, "-c", LOOP.format(rhythm=rhythm)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env=os.environ | environment,
    )
    assert done.stdout == "next line\n"
    return done.stderr


def test_in_a_log_there_is_now_and_then_a_line_and_nothing_redrawn():
    assert run(60) == ""
    lines = run(0.5).splitlines()
    assert len(lines) == 3 and all(
        re.match(r"cubs, train 1/20: +\d+%.*batch.*loss=", line) for line in lines
    )


def test_of_several_processes_the_first_shows_progress():
    assert run(0.5, OMPI_COMM_WORLD_RANK="1") == ""


def test_on_a_terminal_the_bar_is_gone_before_the_next_line():
    master, slave = pty.openpty()
    termios.tcsetwinsize(slave, (24, 100))
    process = subprocess.Popen(
        [sys.executable, "-c", LOOP.format(rhythm=60)], cwd=ROOT, stdout=slave, stderr=slave
    )
    process.wait()
    os.close(slave)
    text = b""
    while True:
        try:
            block = os.read(master, 65536)
        except OSError:
            break
        text += block
    os.close(master)
    shown = [part for part in text.decode().replace("\r\n", "\n").split("\n") if part]
    last = shown[-1].split("\r")
    assert (
        "cubs, train" in text.decode()
        and last[-1] == "next line"
        and not any(part.strip() for part in last[-2:-1])
    )


@pytest.mark.parametrize(
    "wait",
    [lambda command: subprocess.run(command), lambda command: subprocess.Popen(command).wait()],
)
def test_a_process_of_the_tests_that_hangs_is_named(monkeypatch, wait):
    monkeypatch.setattr(conftest, "TIME_LIMIT", 0.2)
    with pytest.raises(subprocess.TimeoutExpired, match="'sleep', '30'.* timed out after"):
        wait(["sleep", "30"])


LEAVE = """
import atexit, multiprocessing, os, sys, time
from system import processes
atexit.register(os.abort)  # as Jittor's own tidying up at times ends
def wait():
    os.close(1), os.close(2)  # what is captured ends with the program
    time.sleep(60)
for _ in range(2):
    multiprocessing.get_context("fork").Process(target=wait).start()
print(*(process.pid for process in multiprocessing.active_children()), end="")
processes.leave(int(sys.argv[1]))
"""


POOL = """
import multiprocessing, os, time
from system import processes
pool, leave = multiprocessing.get_context("fork").Pool(2), os._exit
def late(code):
    time.sleep(0.5)
    print(len(multiprocessing.active_children()), flush=True)
    leave(code)
os._exit = late
processes.leave(0)
"""


def test_a_pool_makes_no_new_process_while_a_program_leaves():
    """One that was made between the end of the others and the program's waited for ever."""
    done = subprocess.run(
        [sys.executable, "-c", POOL], cwd=ROOT, capture_output=True, text=True
    )
    assert (done.returncode, done.stdout) == (0, "0\n"), done.stderr


def alive(process: int) -> bool:
    try:
        return " Z " not in Path(f"/proc/{process}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):  # the second: it ended as this was read
        return False


@pytest.mark.parametrize("code", [0, 3])
def test_a_program_leaves_with_its_output_and_without_children(code):
    done = subprocess.run(
        [sys.executable, "-c", LEAVE, str(code)], cwd=ROOT, capture_output=True, text=True
    )
    children = [int(word) for word in done.stdout.split()]
    assert done.returncode == code and len(children) == 2 and done.stderr == ""
    for _ in range(1200):
        if not any(map(alive, children)):
            return
        time.sleep(0.05)
    raise AssertionError(f"of {children} some are left behind")


def test_what_could_not_be_printed_is_no_success():
    with open("/dev/full", "w") as full:
        assert (
            subprocess.run(
                [
                    sys.executable,
                    "-c",
                    "from system import processes; print(1); processes.leave(0)",
                ],
                cwd=ROOT,
                stdout=full,
            ).returncode
            == 1
        )


# Without the packages: -S leaves site-packages out.
@pytest.mark.parametrize(
    "program",
    [
        "-m toolchain",
        "main.py --demo",
        "evaluate.py",
        "report.py",
        "prepare_data.py",
        "test_basic.py",
        "benchmarks/step.py",
        "benchmarks/gpu.py",
    ],
)
def test_a_python_without_the_requirements_is_told_so_in_one_sentence(program):
    done = subprocess.run(
        [sys.executable, "-S", *program.split()], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 2 and done.stdout == "" and done.stderr.count("\n") == 1
    assert done.stderr.startswith(
        "error: numpy, pillow, tqdm, matplotlib, scipy, safetensors: not installed in this Python ("
    )
    assert "pip install -r requirements.txt" in done.stderr


def test_every_requirement_is_looked_for():
    lines = (ROOT / "requirements-numpy2.txt").read_text().splitlines()
    required = {re.match(r"[\w-]+", line)[0] for line in lines if line and not line.startswith("#")}
    assert required - set(system.PACKAGES.values()) == {
        "astunparse",
        "onednn-cpu-gomp",
        "onednn-devel-cpu-gomp",
    }  # cpu.py, compiling.py


def test_windows_and_old_pythons_are_refused_by_name(monkeypatch):
    monkeypatch.setattr(system.os, "name", "nt")
    said = system.problem()
    monkeypatch.undo()
    assert "Linux x86-64" in said and "WSL" in said
    monkeypatch.setattr(system.sys, "version_info", (3, 9, 18))
    assert system.problem().endswith("is too old: this project needs 3.10 or newer")


def test_cores_are_counted_where_the_system_cannot_say_which(monkeypatch):
    monkeypatch.delattr(os, "sched_getaffinity")
    assert processes.cores() == os.cpu_count()


def test_a_file_system_without_locks_is_no_other_process(tmp_path, monkeypatch, capsys):
    from runs.log import Log

    monkeypatch.setattr(
        "fcntl.flock", lambda *a: (_ for _ in ()).throw(OSError(37, "No locks available"))
    )
    Log(tmp_path / "log.txt")("a line")
    assert (tmp_path / "log.txt").read_text() == "a line\n"
    assert "knows no locks (No locks available)" in capsys.readouterr().err


def test_a_log_that_was_moved_away_begins_anew(tmp_path):
    from runs.log import Log

    Log(tmp_path / "log.txt", length=1000)("a line")
    assert (tmp_path / "log.txt").read_text() == "a line\n"
    Log(tmp_path / "log.txt", length=2)("nother")
    assert (tmp_path / "log.txt").read_text() == "a nother\n"
