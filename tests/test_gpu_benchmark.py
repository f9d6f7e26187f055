"""benchmarks/gpu.py, the first fifteen minutes on a card: its phases, and what is left on disk."""

import json
import os
import subprocess
import sys

import gpu as benchmark
import pytest
from conftest import ROOT

ROW = """import json, os
print(json.dumps(dict(what="x", value=1.5)), file=open(os.environ["BENCHMARK_ROWS"], "a"))"""


def run(monkeypatch, capsys, tmp_path, phases: dict, *arguments: str) -> str:
    """What is printed."""
    monkeypatch.setattr(benchmark, "PHASES", phases)
    monkeypatch.setattr(
        sys,
        "argv",
        [
            "gpu.py",
            "--device",
            "cpu",
            "--small",
            "--out",
            str(tmp_path),
            *(arguments or ("--phases", *phases)),
        ],
    )
    benchmark.main()
    return capsys.readouterr().out


def found(tmp_path, phase: str) -> dict:
    return json.loads((tmp_path / f"{phase}.json").read_text())


def test_a_phase_that_fails_does_not_stop_the_next(monkeypatch, capsys, tmp_path):
    on_disk = []

    def measures(this) -> None:
        this.python("-c", ROW, side="ours")
        on_disk.append(found(tmp_path, "good")["rows"])  # before the phase is over
        this.python("-c", "import sys; sys.exit('no')")
        this.python("-c", ROW, side="torch")

    def breaks(this) -> None:
        raise ZeroDivisionError("of no use")

    printed = run(
        monkeypatch,
        capsys,
        tmp_path,
        dict(bad=(1, breaks), good=(1, measures), last=(1, lambda this: this.python("-c", ""))),
    )
    assert on_disk == [[dict(side="ours", what="x", value=1.5)]]
    assert [row["side"] for row in found(tmp_path, "good")["rows"]] == ["ours", "torch"]
    assert [row["exit"] for row in found(tmp_path, "good")["commands"]] == [0, 1, 0]
    assert found(tmp_path, "bad")["error"] == "ZeroDivisionError: of no use"
    assert found(tmp_path, "last")["commands"][0]["exit"] == 0
    assert "no\n" in (tmp_path / "good.log").read_text()
    said = printed.splitlines()
    assert said[2:5] == [f"  {name}: 10 min at most" for name in ("bad", "good", "last")]
    assert "1 commands failed:" in (tmp_path / "table.md").read_text()


def test_a_command_ends_with_its_phases_time(monkeypatch, tmp_path):
    """Which is over, however slow the machine, once the command has written its row."""
    options = type("Options", (), dict(out=tmp_path))
    this, rows = benchmark.Run(options, "short", limit=3600), tmp_path / ".short.rows"
    sleep = benchmark.time.sleep

    def late(seconds: float) -> None:
        if rows.exists() and rows.read_text().endswith("\n"):
            this.ends -= 3600
        sleep(seconds)

    monkeypatch.setattr(benchmark.time, "sleep", late)
    done = this.python("-c", ROW + "\nimport time; time.sleep(600)")
    assert done["exit"] == "its time was over" and done["seconds"] < 600
    assert found(tmp_path, "short")["rows"] == [dict(what="x", value=1.5)]


def test_a_command_is_killed_when_a_file_is_there(tmp_path):
    options = type("Options", (), dict(out=tmp_path))
    this = benchmark.Run(options, "demo", limit=3600)
    mark = tmp_path / "state"
    code = f"import time; open({str(mark)!r}, 'w'); time.sleep(600)"
    assert this.python("-c", code, kill_at=mark)["exit"] == "stopped"


def test_an_interrupt_ends_what_was_started(monkeypatch, tmp_path):
    options = type("Options", (), dict(out=tmp_path))
    this, mark = benchmark.Run(options, "demo", limit=3600), tmp_path / "pid"

    sleep = benchmark.time.sleep

    def interrupt(seconds: float) -> None:
        if mark.exists() and mark.read_text().endswith("."):
            monkeypatch.setattr(benchmark.time, "sleep", sleep)  # once
            raise KeyboardInterrupt

    monkeypatch.setattr(benchmark.time, "sleep", interrupt)
    code = f"import os, time; open({str(mark)!r}, 'w').write(f'{{os.getpid()}}.'); time.sleep(600)"
    with pytest.raises(KeyboardInterrupt):
        this.python("-c", code)
    with pytest.raises(ProcessLookupError):
        os.kill(int(mark.read_text()[:-1]), 0)


def test_what_no_time_is_left_for_is_skipped(monkeypatch, capsys, tmp_path):
    printed = run(
        monkeypatch,
        capsys,
        tmp_path,
        dict(first=(1, lambda this: None)),
        "--phases",
        "first",
        "--minutes",
        "0.01",
    )
    assert "first: skipped, no time is left" in printed and not (tmp_path / "first.json").exists()


def test_the_time_of_the_papers_sequence():
    """30 epochs of each task, counted by hand; and a prune of each, and of the pretrained
    network."""
    images = 5994 + 8144 + 2040
    trained = benchmark.sequence_minutes(1000.0, float("inf"), 0.0)
    assert trained == pytest.approx(30 * images / 1000 / 60)
    assert benchmark.sequence_minutes(float("inf"), float("inf"), 60.0) == 4
    tests = 5794 + 8041 + 6149
    assert benchmark.sequence_minutes(float("inf"), 1000.0, 0.0) >= 30 * tests / 1000 / 60


def test_the_table_compares_and_says_what_was_reached(tmp_path):
    def rate(side, what, images):
        return dict(
            side=side, what=what, precision="fp32", arch="vgg16", batch=32, images_per_second=images
        )

    rows = [
        rate("ours", "step", 1500.0),
        rate("ours", "fed", 1400.0),
        rate("ours", "evaluation", 4500.0),
        rate("torch", "step", 1000.0),
        rate("torch-best", "step", 2000.0),
        dict(what="matrix", precision="fp32", tflops=500.0),
        *(
            dict(
                what="bits",
                arch="vgg16",
                content=content,
                evaluations_equal=True,
                max_logit_change=0.0,
            )
            for content in "ab"
        ),
    ]
    (tmp_path / "rates.json").write_text(json.dumps(dict(rows=rows, commands=[])))
    lines = benchmark.table(tmp_path, "A card.").splitlines()
    assert lines[0] == "A card."
    assert (
        "| vgg16 | fp32 | 32 | 1,500 | 1,400 | 4,500 | 1,000 | 1.5 | 2,000 | 0.75 | 28% |" in lines
    )
    assert "| vgg16 | True | 0 | False |" in lines
    assert "| a step, fp32, batch 32, PyTorch at its best = 1 | 0.75 | at least 1.0 | no |" in lines


@pytest.mark.slow
def test_the_real_phases_come_to_their_end_on_the_cpu(tmp_path):
    subprocess.run(
        [sys.executable, "benchmarks/gpu.py", "--small", "--device", "cpu", "--out", tmp_path],
        cwd=ROOT,
        check=True,
    )
    for phase in benchmark.PHASES:
        exits = [row["exit"] for row in found(tmp_path, phase)["commands"]]
        assert exits == (["stopped", 0] if phase == "demo" else [0] * len(exits)), phase
    card = found(tmp_path, "demo")["card"]
    assert card["finished"] and card["max_logit_change"] == 0 and card["seals_unchanged"]
    text = (tmp_path / "table.md").read_text()
    assert "0 commands failed" in text and "| vgg-slim | True | 0 | True |" in text
