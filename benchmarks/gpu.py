"""What this card does with PackNet: ours beside PyTorch at equal precision, in one run. About fifteen minutes on a GPU.

    python benchmarks/gpu.py                       # writes benchmarks/results/<card>.json and .md (the table for docs/gpu.md)
    python benchmarks/gpu.py --small --device cpu  # a look at the program itself: slim network, seconds

VGG-16, measured in turn, each side in a process of its own, medians over --rounds: images per second training (PackNet's
step: the second task on a network whose first is frozen) and evaluating, at batch 32 and 128, 224x224; the share of the
card's measured matrix rate that this is; the loader alone; pruning the trunk; writing the state; memory; how far the loss
curve and frozen logits move with each precision. From these, the time of the whole paper sequence at official counts.
Each of the paper's four networks is also trained twice from one seed, to see whether bits repeat: between two evaluations, between
two processes, and in a frozen task's logits while the next task trains; with its speed beside PyTorch's.
On VGG-16 PyTorch runs twice: with the authors' mask handling and with its own best settings (channels-last, timed convolutions,
many-tensor calls; autocast for fp16). Without PyTorch its columns stay empty.
"""
import argparse
import hashlib
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import common
import numpy as np

from images.datasets import PUBLISHED
from settings.experiments import TASKS
from system import processes
from toolchain.base import output

SIDES = ("ours", "torch", "torch-best")
TARGETS = dict(ratio=1.2, loader=3.0, sequence_minutes=10.0)
EPOCHS = 30  # of each task: 20 of training, 10 of re-training
STEPS_OF_CURVE = 100
STEPS_OF_BITS = 5
NETWORKS = ("vgg16", "vgg16-bn", "resnet50", "densenet121")
SMALL = ("vgg16-slim", "vgg-bn-slim", "resnet-slim", "densenet-slim")


# ------------------------------------------------------------------------------------------------ one side, in its own process

def rate(step, batch: int, wait, seconds: float, warm_up: int = 5) -> float:
    """Images per second of `step`, over at least `seconds`."""
    for _ in range(warm_up):
        step()
    wait()
    start, steps = time.perf_counter(), 0
    while time.perf_counter() - start < seconds or steps < 5:
        step()
        steps += 1
        if steps % 5 == 0:
            wait()
    wait()
    return steps * batch / (time.perf_counter() - start)


def memory_mb(device: str) -> float:
    """What the process holds at its peak: its allocator keeps what it once had."""
    if device == "cpu":
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    used = output(["nvidia-smi", "--query-gpu=memory.used", "--format=csv,noheader,nounits"]).split()
    return float(used[0]) if used else float("nan")


def ours(options) -> dict:
    import toolchain
    jt = toolchain.start(options.device, options.precision)
    from jittor import nn

    import networks
    from pruning import PackNet
    from runs.network import contents
    from storage.checkpoint import save_checkpoint

    jt.set_global_seed(0)
    net = networks.build(options.arch)
    for head in ("first", "second"):
        net.add_head(head, 200)
    packnet = PackNet(net)
    packnet.start_task("first")
    jt.sync_all(True)
    start = time.perf_counter()
    packnet.prune("first", 0.75)
    jt.sync_all(True)
    result = dict(device=toolchain.describe(), prune_seconds=time.perf_counter() - start, train={}, evaluate={})
    x, y = common.batch(options.arch, options.batches[0])
    images, labels = jt.array(x), jt.array(y)
    with packnet.task_view("first"):
        before = net(images).numpy()
    packnet.start_task("second")
    net.select("second")

    def optimizer(lr: float) -> nn.SGD:
        return nn.SGD(list(packnet.trainable().values()), lr, momentum=0.9)

    sgd, losses = optimizer(1e-3), []
    packnet.set_training(True)
    for module in net.modules():
        if isinstance(module, nn.Dropout):
            module.is_train = False  # the curves of the precisions are to differ by precision alone
    for _ in range(options.curve):
        loss = nn.cross_entropy_loss(net(images), labels)
        sgd.step(loss)
        losses.append(loss)
        jt.sync_all()
    result["losses"] = [float(loss.item()) for loss in losses]
    with packnet.task_view("first"):
        result["max_logit_change"] = float(np.abs(net(images).numpy() - before).max())
    for batch in options.batches:
        x, y = common.batch(options.arch, batch)
        images, labels, sgd = jt.array(x), jt.array(y), optimizer(1e-5)

        def train() -> None:
            sgd.step(nn.cross_entropy_loss(net(images), labels))
            jt.sync_all()

        def evaluate() -> None:
            with jt.no_grad():
                outputs.append(net(images))
            jt.sync_all()

        outputs: list = []
        packnet.set_training(True)
        result["train"][str(batch)] = rate(train, batch, lambda: jt.sync_all(True), options.seconds)
        packnet.set_training(False)
        result["evaluate"][str(batch)] = rate(evaluate, batch, lambda: (jt.sync_all(True), outputs.clear()), options.seconds)
    result["memory_mb"] = memory_mb(toolchain.device)
    jt.flags.use_tensorcore = dict(fp32=0, tf32=1, fp16=3)[options.precision] if toolchain.device == "cuda" else 0
    n = options.matrix
    a, b = jt.rand(n, n), jt.rand(n, n)
    keep: list = []

    def product() -> None:
        keep.append(jt.matmul(a, b))
        jt.sync_all()

    result["matmul_tflops"] = 2 * n ** 3 * rate(product, 1, lambda: (jt.sync_all(True), keep.clear()), options.seconds) / 1e12
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        save_checkpoint(Path(folder) / "state", contents(packnet).tensors(), {})
        result["save_seconds"] = time.perf_counter() - start
    result["loader"] = loader_rate(options, jt)
    return result


def bits(options) -> dict:
    """Speed and bits of one network: a few steps on a first task, a prune, a few on a second."""
    import toolchain
    jt = toolchain.start(options.device, options.precision)
    from jittor import nn

    import networks
    from pruning import PackNet

    jt.set_global_seed(0)
    net = networks.build(options.arch)
    packnet = PackNet(net)
    x, y = common.batch(options.arch, options.batches[0])
    images, labels = jt.array(x), jt.array(y)
    logits = []

    def train() -> None:
        sgd.step(nn.cross_entropy_loss(net(images), labels))
        jt.sync_all()

    def evaluate() -> None:
        with jt.no_grad():
            logits.append(net(images))
        jt.sync_all()

    for task in ("first", "second"):
        net.add_head(task, 200)
        packnet.start_task(task)
        net.select(task)
        packnet.set_training(True)
        sgd = nn.SGD(list(packnet.trainable().values()), 1e-3, momentum=0.9, weight_decay=1e-4)
        for _ in range(STEPS_OF_BITS):
            train()
        if task == "first":
            packnet.prune("first", 0.75)
        with packnet.task_view("first"):
            evaluate(), evaluate()
    before, again, after, after_again = (values.numpy() for values in logits)
    content = hashlib.sha256(b"".join(weight.numpy().tobytes() for weight in packnet.weights.values())).hexdigest()
    logits.clear()
    packnet.set_training(True)
    result = dict(evaluations_equal=bool((before == again).all() and (after == after_again).all()),
                  max_logit_change=float(np.abs(after - before).max()), content=content,
                  train=rate(train, len(x), lambda: jt.sync_all(True), options.seconds))
    packnet.set_training(False)
    return result | dict(evaluate=rate(evaluate, len(x), lambda: (jt.sync_all(True), logits.clear()), options.seconds))


def loader_rate(options, jt) -> float:
    """Images per second that the loader alone delivers to the device, from its cache, in batches of 32."""
    from loader import draw

    import dataset
    with tempfile.TemporaryDirectory() as root:
        draw(Path(root) / "flowers", options.loader_images, (500, 667))
        loader, _ = dataset.create_dataloader("flowers", root, "train", 32, crop="plain")

        def epoch() -> None:
            for images, _ in loader:
                images.sync()
            jt.sync_all(True)

        return rate(epoch, options.loader_images, lambda: None, options.seconds, warm_up=1)


def torch_side(options) -> dict:
    import torch
    from torch_twin import Twin
    torch.manual_seed(0)
    twin = Twin(options.arch, dict(first=200, second=200), options.device, options.precision, best=options.side == "torch-best")
    twin.start_task("first")
    wait = torch.cuda.synchronize if options.device == "cuda" else lambda: None
    start = time.perf_counter()
    twin.prune(0.75)
    wait()
    result = dict(device=f"PyTorch {torch.__version__}", prune_seconds=time.perf_counter() - start, train={}, evaluate={})
    twin.start_task("second")
    for batch in options.batches:
        x, y = common.batch(options.arch, batch)
        images, labels = torch.from_numpy(x).to(options.device), torch.from_numpy(y).long().to(options.device)
        twin.start_optimizer(1e-5)
        result["train"][str(batch)] = rate(lambda: twin.step(images, labels), batch, wait, options.seconds)
        twin.net.eval()
        with torch.no_grad():
            result["evaluate"][str(batch)] = rate(lambda: twin.logits(images, "second"), batch, wait, options.seconds)
    result["memory_mb"] = memory_mb(options.device)
    return result


# ------------------------------------------------------------------------------------------------ all of them

def run_side(side: str, precision: str, options, arch: str, batches: list[int]) -> dict:
    """What a process of its own measured."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "result.json"
        done = subprocess.run([sys.executable, __file__, *sys.argv[1:], "--device", options.device, "--side", side,
                               "--precision", precision, "--out", out, "--arch", arch, "--batches", *map(str, batches)],
                              stdout=subprocess.DEVNULL)
        if done.returncode:
            raise SystemExit(f"error: {side} at {precision} failed (exit code {done.returncode}); the lines above say why")
        return json.loads(out.read_text())


def median(runs: list[dict], *path: str) -> float:
    def at(run):
        for key in path:
            run = run[key]
        return run
    return statistics.median(at(run) for run in runs)


def summarize(runs: dict, options) -> dict:
    """Medians, ratios and the estimate, from {precision: {side: [results]}}."""
    flops = 3 * 2 * multiplications(options.arch)
    result = {}
    for precision, sides in runs.items():
        mine = sides["ours"]
        row = dict(matmul_tflops=median(mine, "matmul_tflops"), loader=median(mine, "loader"), memory_mb=median(mine, "memory_mb"),
                   prune_seconds=median(mine, "prune_seconds"), save_seconds=median(mine, "save_seconds"), batches={},
                   max_logit_change=max(run["max_logit_change"] for run in mine))
        reference, curve = runs["fp32"]["ours"][0]["losses"], mine[0]["losses"]
        row["largest_loss_difference"] = max(abs(a - b) / max(abs(b), 1e-12) for a, b in zip(curve, reference))
        for batch in map(str, options.batches):
            train = median(mine, "train", batch)
            entry = dict(train=train, evaluate=median(mine, "evaluate", batch),
                         share_of_matmul=train * flops / 1e12 / row["matmul_tflops"])
            for side in SIDES[1:]:
                if sides[side]:
                    entry[side] = dict(
                        train=median(sides[side], "train", batch), evaluate=median(sides[side], "evaluate", batch),
                        ratio=statistics.median(a["train"][batch] / b["train"][batch] for a, b in zip(mine, sides[side])),
                        memory_mb=median(sides[side], "memory_mb"))
            row["batches"][batch] = entry
        first = row["batches"][str(options.batches[0])]
        row["loader_ratio"] = row["loader"] / first["train"]
        row["sequence_minutes"] = sequence_seconds(first["train"], first["evaluate"], row) / 60
        result[precision] = row
    return result


def multiplications(arch: str) -> int:
    """Multiply-adds of one image, forward."""
    import networks
    shape = networks.ARCHITECTURES[arch]
    side, channels, total = shape.pooled * 2 ** shape.convolutions.count("M"), 3, 0
    for width in shape.convolutions:
        if width == "M":
            side //= 2
        else:
            total, channels = total + 9 * channels * width * side ** 2, width
    return total + channels * shape.pooled ** 2 * shape.hidden + shape.hidden ** 2


def sequence_seconds(train: float, evaluate: float, row: dict) -> float:
    """The paper's sequence as main.py runs it, decoding not counted: epochs, an evaluation after each, those around prunes
    and after each task, prunes, and states (at most 5 % of the time)."""
    sizes = [PUBLISHED[task].counts for task in TASKS]
    seconds = 4 * row["prune_seconds"] + 4 * row["save_seconds"]
    for number, (_, images, tests) in enumerate(sizes):
        earlier = sum(test for _, _, test in sizes[:number + 1])
        seconds += EPOCHS * (images / train + tests / evaluate) + (2 * tests + earlier) / evaluate
    return seconds * 1.05


def bits_table(results: dict) -> list[str]:
    """{(precision, network): (two results of ours, PyTorch's or None)} in Markdown."""
    lines = ["", "Bits, and images per second at the first batch size; two processes took the same steps from the same seed.", "",
             "| precision | network | train | evaluate | PyTorch, train | ratio | evaluations equal | frozen logits' change | "
             "processes equal |", "| --- " * 9 + "|"]
    for (precision, arch), ((one, two), torch) in results.items():
        theirs = next(iter(torch["train"].values())) if torch else None
        lines.append(" | ".join([
            f"| {precision}", arch, f"{one['train']:,.0f}", f"{one['evaluate']:,.0f}", f"{theirs:,.0f}" if torch else "-",
            f"{one['train'] / theirs:.2f}" if torch else "-", "yes" if one["evaluations_equal"] and two["evaluations_equal"] else "NO",
            f"{max(one['max_logit_change'], two['max_logit_change']):g}", "yes |" if one["content"] == two["content"] else "NO |"]))
    return lines


def table(summary: dict, options, machine: str) -> str:
    """The table for docs/gpu.md and the targets, in Markdown."""
    lines = [f"{machine}. {options.arch}, images per second; ratios of training rates, medians of {options.rounds} rounds "
             "(`benchmarks/gpu.py`).", "",
             "| precision | batch | train | evaluate | PyTorch, authors' masks | ratio | PyTorch at its best | ratio | of matmul rate |",
             "| --- | --- | --- | --- | --- | --- | --- | --- | --- |"]
    for precision, row in summary.items():
        for batch, entry in row["batches"].items():
            cells = [precision, batch, f"{entry['train']:,.0f}", f"{entry['evaluate']:,.0f}"]
            for side in SIDES[1:]:
                cells += [f"{entry[side]['train']:,.0f}", f"{entry[side]['ratio']:.2f}"] if side in entry else ["-", "-"]
            cells.append(f"{100 * entry['share_of_matmul']:.0f} %")
            lines.append(f"| {' | '.join(cells)} |")
    lines += ["", "| precision | loader alone | of training rate | prune trunk | write state | memory | loss curve against fp32 | "
              "max_logit_change | paper sequence |", "| --- " * 9 + "|"]
    for precision, row in summary.items():
        lines.append(f"| {precision} | {row['loader']:,.0f} images/s | {row['loader_ratio']:.1f} | {row['prune_seconds']:.2f} s | "
                     f"{row['save_seconds']:.2f} s | {row['memory_mb']:,.0f} MB | {row['largest_loss_difference']:.1e} | "
                     f"{row['max_logit_change']:g} | {row['sequence_minutes']:.1f} min |")
    lines += ["", "Targets:"]
    for precision, row in summary.items():
        first = row["batches"][str(options.batches[0])]
        ratios = [first[side]["ratio"] for side in SIDES[1:] if side in first]
        checks = [("training rate against PyTorch's best", min(ratios, default=None), ratios and min(ratios) >= TARGETS["ratio"],
                   f"at least {TARGETS['ratio']}"),
                  ("loader against training rate", row["loader_ratio"], row["loader_ratio"] >= TARGETS["loader"],
                   f"at least {TARGETS['loader']:.0f}"),
                  ("paper sequence in minutes", row["sequence_minutes"], row["sequence_minutes"] <= TARGETS["sequence_minutes"],
                   f"at most {TARGETS['sequence_minutes']:.0f}")]
        for name, value, reached, target in checks:
            shown = "not measured" if value is None else f"{value:.2f}, {'reached' if reached else 'not reached'}"
            lines.append(f"* {precision}: {name}: {shown} ({target})")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"))
    parser.add_argument("--small", action="store_true", help="slim network, small batches, short timings")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", help="file for the figures (default: benchmarks/results/<card>.json; the table beside it)")
    parser.add_argument("--side", choices=(*SIDES, "bits"), help=argparse.SUPPRESS)
    parser.add_argument("--precision", default="fp32", help=argparse.SUPPRESS)
    parser.add_argument("--arch", help=argparse.SUPPRESS)
    parser.add_argument("--batches", type=int, nargs="+", help=argparse.SUPPRESS)
    options = parser.parse_args()
    options.seconds, options.matrix, options.curve, options.loader_images = (0.5, 512, 10, 40) if options.small else \
        (4.0, 8192, STEPS_OF_CURVE, 400)
    if options.side:
        measure = dict(ours=ours, bits=bits).get(options.side, torch_side)
        Path(options.out).write_text(json.dumps(measure(options)))
        return
    options.arch, options.batches = ("vgg16-slim", [4, 8]) if options.small else ("vgg16", [32, 128])

    from toolchain import ToolchainError, cpu, cuda, gpu
    try:
        chosen = cuda.for_device(options.device)
    except ToolchainError as error:
        raise SystemExit(f"error: {error}") from error
    options.device = "cuda" if chosen.nvcc else "cpu"
    card = gpu.gpu_name() if chosen.nvcc else cpu.cpu_name()
    sides = SIDES if common.installed("torch") else SIDES[:1]
    if len(sides) == 1:
        print("PyTorch is not installed: only ours is measured")
    runs: dict = {}
    for precision in ("fp32", "tf32", "fp16") if options.device == "cuda" else ("fp32",):
        runs[precision] = {side: [] for side in SIDES}
        for number in range(options.rounds):
            for side in sides:
                print(f"{precision}, round {number + 1} of {options.rounds}: {side}", flush=True)
                runs[precision][side].append(run_side(side, precision, options, options.arch, options.batches))
    repeated = {}
    for precision in runs:
        for arch in SMALL if options.small else NETWORKS:
            print(f"{precision}: the bits of {arch}", flush=True)
            repeated[precision, arch] = ([run_side("bits", precision, options, arch, options.batches[:1]) for _ in range(2)],
                                         run_side("torch", precision, options, arch, options.batches[:1]) if len(sides) > 1 else None)
    summary = summarize(runs, options)
    machine = f"{card}, {os.cpu_count()} CPU cores, Python {platform.python_version()}, {chosen.why}"
    text = table(summary, options, machine) + "\n".join(bits_table(repeated)) + "\n"
    print(f"\n{text}")
    out = Path(options.out or Path(__file__).parent / "results" / f"{card.replace(' ', '-').lower()}.json")
    out.parent.mkdir(exist_ok=True)
    out.write_text(json.dumps(dict(machine=machine, small=options.small, summary=summary, runs=runs,
                                   bits={" ".join(key): value for key, value in repeated.items()}), indent=1) + "\n")
    out.with_suffix(".md").write_text(text)
    print(f"Written: {out} and {out.with_suffix('.md').name}")


if __name__ == "__main__":
    main()
    processes.leave(0)
