"""Files in one step, and progress on a terminal and in a log."""
import os
import pty
import re
import subprocess
import sys
import termios
import threading

import pytest
from conftest import ROOT

from system import files


def dead_process() -> int:
    process = subprocess.Popen(["true"])
    process.wait()
    return process.pid


def test_only_what_is_surely_ours_and_dead_is_removed(tmp_path, monkeypatch):
    target, gone, alive = tmp_path / "cubs", dead_process(), os.getppid()
    mine = f".cubs{files.MARK}{files._here()}"
    monkeypatch.setattr(files, "_here", lambda: "another-box")
    with files.replacing(target) as elsewhere:
        pass_on = elsewhere.name.rpartition(f"{os.getpid()}")[0] + f"{gone}.1"
        elsewhere.touch()
    monkeypatch.undo()
    strangers = [".cubs.yaml", ".cubs.swp", f".cubs.{gone}", ".cubs.1234567", f".cubs-2{files.MARK}{files._here()}.{gone}.1",
                 f"{mine}.{alive}.1", f"{mine}.x.1", pass_on]
    for name in [*strangers, f"{mine}.{gone}.1"]:
        (tmp_path / name).write_text("content")
    (tmp_path / f"{mine}.{gone}.2/folder").mkdir(parents=True)
    files.write(target, b"new")
    assert sorted(os.listdir(tmp_path)) == sorted(["cubs", *strangers]) and target.read_bytes() == b"new"


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
    assert sorted(done) == [b"a", b"b"] and (tmp_path / "x").read_bytes() in done and os.listdir(tmp_path) == ["x"]


def test_after_an_exception_the_file_is_as_it_was(tmp_path):
    files.write(tmp_path / "x", b"old")
    with pytest.raises(RuntimeError), files.replacing(tmp_path / "x") as temporary:
        temporary.write_bytes(b"half")
        raise RuntimeError
    assert (tmp_path / "x").read_bytes() == b"old" and os.listdir(tmp_path) == ["x"]


LOOP = """
import sys, time
from system import progress
progress.SIGN_OF_LIFE = {rhythm}
bar = progress.Progress(range(40), "cubs, train 1/20", unit="batch")
for step in bar:
    time.sleep(0.05)
    bar.set_postfix(loss=f"{{step:.3f}}", refresh=False)
progress.say("next line")
"""


def run(rhythm: float, **environment) -> str:
    done = subprocess.run([sys.executable, "-c", LOOP.format(rhythm=rhythm)], cwd=ROOT, capture_output=True, text=True,
                          env=os.environ | environment)
    assert done.stdout == "next line\n"
    return done.stderr


def test_in_a_log_there_is_now_and_then_a_line_and_nothing_redrawn():
    assert run(60) == ""
    lines = run(0.5).splitlines()
    assert 2 <= len(lines) <= 4 and all(re.match(r"cubs, train 1/20: +\d+%.*batch.*loss=", line) for line in lines)


def test_of_several_processes_the_first_shows_progress():
    assert run(0.5, OMPI_COMM_WORLD_RANK="1") == ""


def test_on_a_terminal_the_bar_is_gone_before_the_next_line():
    master, slave = pty.openpty()
    termios.tcsetwinsize(slave, (24, 100))
    process = subprocess.Popen([sys.executable, "-c", LOOP.format(rhythm=60)], cwd=ROOT, stdout=slave, stderr=slave)
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
    assert "cubs, train" in text.decode() and last[-1] == "next line" and not any(part.strip() for part in last[-2:-1])


def test_a_file_system_without_locks_is_no_other_process(tmp_path, monkeypatch, capsys):
    from runs.log import Log
    monkeypatch.setattr("fcntl.flock", lambda *a: (_ for _ in ()).throw(OSError(37, "No locks available")))
    Log(tmp_path / "log.txt")("a line")
    assert (tmp_path / "log.txt").read_text() == "a line\n"
    assert "knows no locks (No locks available)" in capsys.readouterr().err


def test_a_log_that_was_moved_away_begins_anew(tmp_path):
    from runs.log import Log
    Log(tmp_path / "log.txt", length=1000)("a line")
    assert (tmp_path / "log.txt").read_text() == "a line\n"
    Log(tmp_path / "log.txt", length=2)("nother")
    assert (tmp_path / "log.txt").read_text() == "a nother\n"
