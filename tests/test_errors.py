"""How a program ends: one message and its code for what a user can mend, a traceback for a bug, no
end at all for a screen that is gone."""

import os
import pty
import signal
import subprocess
import sys

import pytest
from conftest import ROOT

import evaluate
import main
import prepare_data
import report
import test_basic
from images.archives import ArchiveError
from images.folders import DataError
from settings.config import ConfigError
from storage.checkpoint import WeightsError
from system.errors import TrainingError, UserError, run_cli
from toolchain import ToolchainError, doctor

BEGIN = (
    "import os, signal, sys\nfrom system.errors import UserError, run_cli\nfrom "
    "system.screen import screen_may_go\n"
)


def program(body: str, **options) -> subprocess.Popen:
    """A process with `body` as the main of a program."""
    lines = "\n".join(f"    {line}" for line in body.splitlines())
    code = (
        f"{BEGIN}@run_cli\ndef main(arguments=None):\n{lines}\nfrom system import processes\n"
        "processes.leave(main())"
    )
    return subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=ROOT,
        **{"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | options,
    )


def ended(body: str, **options) -> tuple[int, bytes, bytes]:
    process = program(body, **options)
    out, error = process.communicate()
    return process.returncode, out, error


@pytest.mark.parametrize(
    "kind, code",
    [
        (ArchiveError, 2),
        (ConfigError, 2),
        (DataError, 2),
        (WeightsError, 2),
        (ToolchainError, 2),
        (TrainingError, 1),
    ],
)
def test_what_a_user_can_mend_is_one_message_and_a_code(kind, code, capsys):
    @run_cli
    def main(arguments=None):
        raise kind("--what: is wrong")

    assert issubclass(kind, UserError) and main() == code
    assert capsys.readouterr().err == "error: --what: is wrong\n"


def test_a_file_that_cannot_be_read_is_named(tmp_path, capsys):
    assert run_cli(lambda arguments: open(arguments[0]))([tmp_path / "nowhere"]) == 2
    assert capsys.readouterr().err == f"error: {tmp_path}/nowhere: No such file or directory\n"


@pytest.mark.parametrize("program", [main, evaluate, report, prepare_data, test_basic, doctor])
def test_wrong_arguments_are_one_line_without_the_list_of_all(program, capsys):
    assert program.main(["--no-such-option"]) == 2
    said = capsys.readouterr()
    assert said.err == (
        "error: unrecognized arguments: --no-such-option. `--help` lists what there is.\n"
    )
    assert said.out == ""


@pytest.mark.parametrize(
    "program, arguments, option",
    [
        (main, ["--task-list", "birds", "--add-to", ""], "--add-to"),
        (main, ["--pretrained=", "--demo"], "--pretrained="),
        (main, ["--data-root", "", "--task-list", "birds"], "--data-root"),
        (evaluate, ["--task", ""], "--task"),
        (report, ["--out", ""], "--out"),
        (prepare_data, ["--archives", ""], "--archives"),
    ],
)
def test_an_empty_word_is_no_default(program, arguments, option, capsys):
    """So a shell writes "$FOLDER" that was never set. It would mean the folder at hand, or that
    nothing was asked for."""
    assert program.main(arguments) == 2
    assert capsys.readouterr().err.startswith(f"error: {option}: nothing stands behind it")


@pytest.mark.parametrize("bug", [RuntimeError, KeyError, AttributeError])
def test_a_bug_keeps_its_traceback(bug):
    with pytest.raises(bug):
        run_cli(lambda arguments: (_ for _ in ()).throw(bug("ours")).send(None))()


def test_ctrl_c_is_a_line_and_130(capsys):
    def main(arguments):
        raise KeyboardInterrupt

    assert run_cli(main)() == 130 and capsys.readouterr().err == "\nInterrupted.\n"


def test_a_reader_that_has_gone_ends_a_table_in_silence():
    process = program("for number in range(100_000): print(number)\nreturn 0")
    process.stdout.readline()
    process.stdout.close()
    assert process.stderr.read() == b"" and process.wait() == 141


def test_output_that_cannot_be_written_is_no_success():
    with open("/dev/full", "w") as full:
        code, _, error = ended("print('a table')\nreturn 0", stdout=full)
    assert code == 2 and error == b"error: No space left on device\n"


AS_A_COPY = (
    "with screen_may_go():\n    for number in range(20_000): print(number)\n"
    "open(sys.argv[1], 'w').close()\nreturn 0"
)


@pytest.mark.parametrize("which", ["stdout", "stderr"])
def test_a_copy_goes_on_when_its_reader_has_gone(tmp_path, which):
    body = AS_A_COPY.replace("sys.argv[1]", repr(str(tmp_path / "done")))
    process = program(body.replace("print(number)", f"print(number, file=sys.{which})"))
    getattr(process, which).readline()
    getattr(process, which).close()
    assert process.wait() == 0 and (tmp_path / "done").exists()


def test_a_copy_goes_on_on_a_full_disk(tmp_path):
    with open("/dev/full", "w") as full:
        code, _, error = ended(
            AS_A_COPY.replace("sys.argv[1]", repr(str(tmp_path / "done"))), stdout=full
        )
    assert (code, error) == (0, b"") and (tmp_path / "done").exists()


def test_a_copy_goes_on_when_its_terminal_is_closed(tmp_path):
    """As where ssh is dropped: the terminal's end is closed, and SIGHUP was ignored (nohup,
    disown)."""
    ours, its = pty.openpty()
    body = (
        "signal.signal(signal.SIGHUP, signal.SIG_IGN)\n"
        "with screen_may_go(): print('ready', flush=True)\n"
        "signal.sigwait({signal.SIGUSR1})\n"
        f"{AS_A_COPY.replace('sys.argv[1]', repr(str(tmp_path / 'done')))}"
    )
    process = program(
        body,
        stdin=its,
        stdout=its,
        stderr=its,
        start_new_session=True,
        preexec_fn=lambda: signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1}),
    )
    os.close(its)
    assert b"ready" in os.read(ours, 100)
    os.close(ours)
    process.send_signal(signal.SIGUSR1)
    assert process.wait() == 0 and (tmp_path / "done").exists()


def test_streams_that_are_closed_from_the_start(tmp_path):
    done = tmp_path / "done"
    code, *_ = ended(
        f"print('out')\nprint(sys.stderr.isatty(), file=sys.stderr)\nopen({str(done)!r}, "
        "'w').close()\nreturn 0",
        stdout=None,
        stderr=None,
        preexec_fn=lambda: os.closerange(1, 3),
    )
    assert code == 0 and done.read_bytes() == b""


def test_what_a_terminal_does_not_know_is_written_in_ascii():
    code, out, _ = ended(
        "print('花卉 \\udcff')\nreturn 0", env=os.environ | {"PYTHONIOENCODING": "ascii"}
    )
    assert code == 0 and out == b"\\u82b1\\u5349 \\udcff\n"
