"""The first fifteen minutes on a card: one command, in phases. What a phase has found is on disk as
soon as it is known; one that fails does not stop the next.

    python benchmarks/gpu.py                            # into benchmarks/results/<card>/
    python benchmarks/gpu.py --small --device cpu       # the program itself, with slim networks
    python benchmarks/gpu.py --phases rates networks    # some of them

check     the doctor computes and compares with NumPy, in each precision; what a start costs
demo      the demo, killed and resumed: accuracies beside the CPU's, frozen logits, seals
rates     VGG-16: images per second beside PyTorch's, in each precision, and the share of the card's
          measured matrix rate; which bits repeat
loader    images per second that the loader delivers, from the cache and from JPEGs; a prune; from
          all of these the time of the paper's whole sequence
networks  the other three networks: rates and bits

It needs no network connection. Each measurement is a process of its own with a time limit, and what
it printed is in <phase>.log. The table of all that is there is written anew after each phase
(table.md). Without PyTorch its columns stay empty.
"""
import argparse
import hashlib
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import common

from images.datasets import PUBLISHED
from settings.config import Config
from settings.effort import effort
from settings.experiments import PAPERS_TASKS
from settings.plan import plan
from system import processes
from system.files import RESULTS, STATE
from toolchain import ToolchainError, cpu, cuda, gpu

NETWORKS = ("vgg16", "vgg16-bn", "resnet50", "densenet121")
SLIM = ("vgg-slim", "vgg-bn-slim", "resnet-slim", "densenet-slim")
SIDES = {"ours": "ours", "torch": "PyTorch, authors' masks", "torch-best": "PyTorch at its best"}
MULTIPLY_ADDS = 15.47e9  # of an image of 224x224 going forward through VGG-16
TARGETS = dict(authors=1.3, best=1.0, loader=3.0, sequence_minutes=8.0)
FINE = (0, "stopped")  # exits
STEPS_OF_BITS = 5
SHORT_DEMO = ("--num-epochs-base", "3", "--num-epochs-base-finetune", "1",
              "--num-epochs-per-task", "2", "--num-epochs-finetune", "1")
SHORTEST_DEMO = ("--num-epochs-base", "1", "--num-epochs-base-finetune", "1",
                 "--num-epochs-per-task", "1", "--num-epochs-finetune", "1")


class Run:
    """The commands of a phase, one after another, and what is kept of them."""

    def __init__(self, options, phase: str, limit: float) -> None:
        self.options, self.phase, self.ends = options, phase, time.monotonic() + limit
        self.found: dict = dict(phase=phase, commands=[], rows=[])
        self.log = options.out / f"{phase}.log"
        self.log.write_text("")
        self.write()

    def write(self) -> None:
        text = json.dumps(self.found, indent=1)
        (self.options.out / f"{self.phase}.json").write_text(f"{text}\n")

    def python(self, *arguments, kill_at: Path | None = None, **about) -> dict:
        """Run Python with these arguments, until the phase's time is over at most; `kill_at`: until
        this file is there, which is no failure. Returns what became of it; `about` is kept with
        its rows."""
        command = [sys.executable, *map(str, arguments)]
        rows = self.options.out / f".{self.phase}.rows"
        rows.unlink(missing_ok=True)
        begin, ended = time.monotonic(), ""
        with open(self.log, "a") as log:
            print(f"\n$ {' '.join(command)}", file=log, flush=True)
            process = subprocess.Popen(
                command, cwd=common.ROOT, stdout=log, stderr=log, start_new_session=True,
                env=os.environ | dict(BENCHMARK_ROWS=str(rows)))
            try:
                while process.poll() is None and not ended:
                    if kill_at and kill_at.exists():
                        ended = "stopped"
                    elif time.monotonic() > self.ends:
                        ended = "its time was over"
                    time.sleep(0.05)
            finally:  # with whatever it has started itself; also where this program is interrupted
                if process.poll() is None:
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        lines = rows.read_text().splitlines() if rows.exists() else []
        rows.unlink(missing_ok=True)
        result = dict(command=command[1:], exit=ended or process.returncode,
                      seconds=time.monotonic() - begin)
        self.found["commands"].append(result)
        self.found["rows"] += [about | json.loads(line) for line in lines]
        self.write()
        return result

    def keep(self, **figures) -> None:
        self.found |= figures
        self.write()


# --------------------------------------------------------------------------------------- the phases

def check(run: Run) -> None:
    for precision in run.options.precisions:
        begin = len(run.log.read_text())
        done = run.python("-m", "toolchain", "--check", "--device", run.options.device,
                          "--precision", precision)
        said = run.log.read_text()[begin:]
        run.found["rows"].append(dict(
            precision=precision, right=said.count(" right: "), wrong=said.count(" WRONG: "),
            seconds=done["seconds"], exit=done["exit"]))
        run.write()


def demo(run: Run) -> None:
    out = run.options.out / "demo"
    shutil.rmtree(out, ignore_errors=True)
    epochs = SHORTEST_DEMO if run.options.small else SHORT_DEMO
    common_to_both = ("main.py", "--demo", "--data-root", out / "data", *epochs)
    card = (*common_to_both, "--device", run.options.device, "--output-dir", out / "card")
    run.python(*card, kill_at=out / "card" / STATE)
    run.python(*card, "--resume")
    if run.options.device != "cpu":
        run.python(*common_to_both, "--device", "cpu", "--output-dir", out / "cpu")
    for name in ("card", "cpu"):
        if (out / name / RESULTS).exists():
            results = json.loads((out / name / RESULTS).read_text())
            tasks = [*filter(None, [results["base"]]), *results["tasks"]]
            run.keep(**{name: dict(
                finished=results["finished"], seconds=results["seconds"],
                top1={task["name"]: task["top1_final"] for task in tasks},
                max_logit_change=max(task["max_logit_change"] for task in tasks),
                seals_unchanged=len(results["seals_unchanged"]))})


def rates(run: Run) -> None:
    _rates_of(run, run.options.networks[0], run.options.batches, run.options.precisions)


def networks(run: Run) -> None:
    for arch in run.options.networks[1:]:
        _rates_of(run, arch, run.options.batches[:1], run.options.precisions[:1])


def _rates_of(run: Run, arch: str, batches: list[int], precisions: tuple[str, ...]) -> None:
    o = run.options
    for precision in precisions:
        for side in o.sides:
            what = ["step", "evaluation"]
            if side == "ours":
                what += ["fed", "matrix"]
            run.python("benchmarks/step.py", "--alone", side, "--device", o.device, "--precision",
                       precision, "--arch", arch, "--batch-size", *batches, "--what", *what,
                       "--seconds", o.seconds, "--matrix", o.matrix)
    for number in (1, 2):
        run.python("benchmarks/gpu.py", "--bits", arch, "--device", o.device, "--batch", batches[0],
                   process=number)


def loader(run: Run) -> None:
    o = run.options
    run.python("benchmarks/loader.py", "--images", o.images, "--rounds", 2, "--device", o.device)
    run.python("benchmarks/prune.py", "--alone", "--rounds", 2, "--arch", o.networks[0],
               "--device", o.device)


PHASES: dict[str, tuple[float, Callable[[Run], None]]] = {  # minutes
    "check": (2, check), "demo": (2, demo), "rates": (4, rates), "loader": (2, loader),
    "networks": (5, networks)}


def bits(arch: str, device: str, batch: int) -> None:
    """A few steps on a first task, a prune, a few on a second, from one seed: what repeats within
    this process, and the hash of all weights, which another process must find too."""
    import numpy as np

    import toolchain
    jt = toolchain.start(device)
    from jittor import nn

    import networks
    from pruning import PackNet
    jt.set_global_seed(0)
    net = networks.build(arch)
    packnet = PackNet(net)
    x, y = common.batch(arch, batch)
    images, labels = jt.array(x), jt.array(y)
    logits = []
    for task in ("first", "second"):
        net.add_head(task, 200)
        packnet.start_task(task)
        net.select(task)
        packnet.set_training(True)
        sgd = nn.SGD(list(packnet.trainable().values()), 1e-3, momentum=0.9, weight_decay=1e-4)
        for _ in range(STEPS_OF_BITS):
            sgd.step(nn.cross_entropy_loss(net(images), labels))
            jt.sync_all()
        if task == "first":
            packnet.prune("first", 0.75)
        with packnet.task_view("first"), jt.no_grad():
            logits += [net(images).numpy(), net(images).numpy()]
    before, again, after, after_again = logits
    content = hashlib.sha256()
    for weight in packnet.weights.values():
        content.update(weight.numpy().tobytes())
    common.record(what="bits", arch=arch, content=content.hexdigest(),
                  evaluations_equal=bool((before == again).all() and (after == after_again).all()),
                  max_logit_change=float(np.abs(after - before).max()))


# ---------------------------------------------------------------------------------------- the table

def sequence_minutes(train: float, forward: float, prune: float) -> float:
    """Of the paper's sequence on the pretrained VGG-16, CUBS, Cars, Flowers at their published
    sizes, from images per second and the seconds of a prune."""
    # no ImageNet is found there, and nothing is done instead
    config = Config(task_list=PAPERS_TASKS, data_root="/no/such/folder", recover="nothing")
    whole = effort(config, lambda task: (PUBLISHED[task].train, PUBLISHED[task].test))
    prunes = sum(step.kind == "prune" for step in plan(config))
    return (whole.trained / train + whole.forward / forward + prunes * prune) / 60


def table(out: Path, title: str) -> str:  # noqa: C901 (one section after another)
    """All that is in this folder, in Markdown."""
    found = {name: json.loads((out / f"{name}.json").read_text()) for name in PHASES
             if (out / f"{name}.json").exists()}
    lines = [title]

    def grid(*rows: tuple) -> None:
        texts = [[f"{cell:,.4g}" if isinstance(cell, float) else str(cell) for cell in row]
                 for row in rows]
        texts.insert(1, ["---"] * len(texts[0]))
        lines.extend(["", *(f"| {' | '.join(row)} |" for row in texts)])

    if "check" in found:
        grid(("the doctor's check", "right", "wrong", "seconds", "exit code"),
             *((row["precision"], row["right"], row["wrong"], row["seconds"], row["exit"])
               for row in found["check"]["rows"]))
    runs = {name: found["demo"][name] for name in ("card", "cpu") if name in found.get("demo", {})}
    if runs:
        tasks = list(next(iter(runs.values()))["top1"])
        grid(("the demo, resumed after a kill", "finished", "seconds", *tasks, "max_logit_change",
              "seals unchanged"),
             *((name, run["finished"], run["seconds"],
                *(run["top1"].get(task, "-") for task in tasks), run["max_logit_change"],
                run["seals_unchanged"]) for name, run in runs.items()))
    rows = [row for name in ("rates", "networks") if name in found for row in found[name]["rows"]]
    speeds = [row for row in rows if "images_per_second" in row]
    matrix = {row["precision"]: row["tflops"] for row in rows if row.get("what") == "matrix"}

    def speed(what: str, side: str, arch: str, precision: str, batch: int) -> float | None:
        return next((row["images_per_second"] for row in speeds if (
            row["what"], row["side"], row["arch"], row["precision"], row["batch"])
            == (what, side, arch, precision, batch)), None)

    cases = list(dict.fromkeys((row["arch"], row["precision"], row["batch"]) for row in speeds))
    reached = []
    if cases:
        body = []
        for case in cases:
            step, best = speed("step", "ours", *case), speed("step", "torch-best", *case)
            theirs = speed("step", "torch", *case)
            share = (f"{step * 6 * MULTIPLY_ADDS / 1e12 / matrix[case[1]]:.0%}"
                     if step and case[0] == "vgg16" and matrix.get(case[1]) else "-")
            ratios = [step / other if step and other else None for other in (theirs, best)]
            cells = (step, speed("fed", "ours", *case), speed("evaluation", "ours", *case), theirs,
                     ratios[0], best, ratios[1])
            body.append((*case, *("-" if cell is None else cell for cell in cells), share))
            for name, ratio, target in zip(("as the authors handle masks", "at its best"), ratios,
                                           (TARGETS["authors"], TARGETS["best"])):
                if ratio and case[0] == "vgg16":
                    reached.append((f"a step, {case[1]}, batch {case[2]}, PyTorch {name} = 1",
                                    ratio, f"at least {target}", ratio >= target))
        grid(("network", "precision", "batch", "step, images/s", "fed from the host", "evaluation",
              SIDES["torch"], "ratio", SIDES["torch-best"], "ratio", "of the matrix rate"), *body)
    bits_of: dict[str, list[dict]] = {}
    for row in rows:
        if row.get("what") == "bits":
            bits_of.setdefault(row["arch"], []).append(row)
    if bits_of:
        grid(("bits", "evaluations equal", "max_logit_change", "two processes equal"),
             *((arch, all(row["evaluations_equal"] for row in both),
                max(row["max_logit_change"] for row in both),
                len({row["content"] for row in both}) == 1 if len(both) > 1 else "-")
               for arch, both in bits_of.items()))
    fed = found.get("loader", {}).get("rows", [])
    delivered = [row for row in fed if "images_per_second_at_best" in row]
    if delivered:
        grid(("the loader, images/s", "from the cache", "decoding JPEGs"),
             *((f"{row['data_set']}, crop {row['crop']}",
                *row["images_per_second_at_best"].values()) for row in delivered))
    prune = next((row["seconds"] for row in fed if row.get("what") == "prune"), None)
    for case in cases:
        train, forward = (speed(what, "ours", *case) for what in ("fed", "evaluation"))
        if case[0] == cases[0][0] and case[2] == cases[0][2] and train and forward:
            if delivered:
                least = min(row["images_per_second_at_best"]["ours"] for row in delivered) / train
                reached.append((f"the loader, what {case[1]} eats = 1", least,
                                f"at least {TARGETS['loader']:g}", least >= TARGETS["loader"]))
            if prune is not None:
                minutes = sequence_minutes(train, forward, prune)
                reached.append((f"the paper's sequence, {case[1]}, minutes, reckoned", minutes,
                                f"at most {TARGETS['sequence_minutes']:g}",
                                minutes <= TARGETS["sequence_minutes"]))
    if reached:
        grid(("", "measured", "target", "reached"),
             *((*row[:3], "yes" if row[3] else "no") for row in reached))
    failed = [command for phase in found.values() for command in phase["commands"]
              if command["exit"] not in FINE]
    lines += ["", f"{len(failed)} commands failed" + (":" if failed else "")]
    lines += [f"* {command['exit']}: `python {' '.join(command['command'])}`" for command in failed]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"))
    parser.add_argument("--small", action="store_true",
                        help="slim networks, small batches, short timings")
    parser.add_argument("--phases", nargs="+", choices=PHASES, default=list(PHASES))
    parser.add_argument("--minutes", type=float, help="for all (default: 15; with --small 60)")
    parser.add_argument("--out", type=Path, help="folder (default: benchmarks/results/<card>)")
    parser.add_argument("--bits", help=argparse.SUPPRESS)
    parser.add_argument("--batch", type=int, help=argparse.SUPPRESS)
    o = parser.parse_args()
    if o.bits:
        bits(o.bits, o.device, o.batch)
        return
    try:
        chosen = cuda.for_device(o.device)
    except ToolchainError as error:
        raise SystemExit(f"error: {error}") from error
    o.device = "cuda" if chosen.nvcc else "cpu"
    card = gpu.gpu_name() if chosen.nvcc else cpu.cpu_name()
    o.out = (o.out or common.ROOT / "benchmarks/results" / card.replace(" ", "-").lower()).resolve()
    o.out.mkdir(parents=True, exist_ok=True)
    o.precisions = ("fp32", "tf32", "fp16") if o.device == "cuda" else ("fp32",)
    if o.small:
        o.networks, o.batches, o.seconds, o.matrix, o.images = SLIM, [2, 4], 0.1, 256, 8
    else:
        o.networks, o.batches, o.seconds, o.matrix, o.images = NETWORKS, [32, 128], 2.0, 8192, 400
    o.sides = list(SIDES) if common.installed("torch") else ["ours"]
    title = (f"{card}, {os.cpu_count()} CPU cores, Python {platform.python_version()}, "
             f"{chosen.why}{', slim networks' if o.small else ''} (`benchmarks/gpu.py`).")
    left = (o.minutes or (60 if o.small else 15)) * 60
    scale = 1 if not o.small else 10  # a CPU compiles and computes as long as it takes
    print(f"{title}\nInto {o.out}:")
    for name in o.phases:
        print(f"  {name}: {PHASES[name][0] * scale:g} min at most")
    ends = time.monotonic() + left
    for name in o.phases:
        begin = time.monotonic()
        limit = min(PHASES[name][0] * 60 * scale, ends - begin)
        if limit < 5:
            print(f"{name}: skipped, no time is left", flush=True)
            continue
        print(f"{name} ...", flush=True)
        run = Run(o, name, limit)
        try:
            PHASES[name][1](run)
        except Exception as error:  # whatever it is, the next phase may go well
            run.keep(error=f"{type(error).__name__}: {error}")
            print(f"  {run.found['error']}")
        run.keep(seconds=time.monotonic() - begin)
        bad = sum(command["exit"] not in FINE for command in run.found["commands"])
        print(f"{name}: {run.found['seconds']:.0f} s, {len(run.found['rows'])} rows"
              f"{f', {bad} commands failed: {run.log}' if bad else ''}", flush=True)
        (o.out / "table.md").write_text(table(o.out, title))
    print(f"\n{table(o.out, title)}\nWritten: {o.out}/table.md")


if __name__ == "__main__":
    main()
    processes.leave(0)
