"""PackNet's training step and evaluation: ours against PyTorch with the authors' mask handling.

    python benchmarks/step.py                # every row of docs/performance.md, batch 8 and 32
    python benchmarks/step.py --arch vgg16 vgg16-bn resnet50 densenet121 --batch-size 8
    python benchmarks/step.py --arch vgg-slim --batch-size 32     # the demo's network, a minute
    python benchmarks/step.py --against torch-bf16 --arch mobilenet_v2 vit_b_16
    # what our convolutions bring, what the masks cost; what bfloat16 brings on this processor:
    python benchmarks/step.py --against direct plain
    python benchmarks/step.py --precision bf16 --against fp32 torch-bf16
    python benchmarks/step.py --alone ours --device cuda --precision tf32 --batch-size 32 128

The second task on a network whose first is pruned by 75 % and frozen: random images, SGD with
momentum 0.9. Each side is a process of its own (common.Side), they take turns, and nothing else
should be running. A ratio above 1 says that ours is faster. `--precision` is ours. Against:

    torch       PyTorch as it comes, with the authors' masks (torch_twin.py), in float32 on a CPU
    torch-best  PyTorch at its best in our precision: channels-last, memory that is kept, masks by
                one call, the fused optimizer
    torch-bf16  the same with bf16 autocast: its best in any precision where the processor has it
    direct      ours with oneDNN's convolutions
    fp32        ours in float32
    plain       ours with nothing frozen

`--alone`: one side, in one process, its rates as they are measured. Networks: the paper's four,
the slim ones, mobilenet_v2 and vit_b_16; without PyTorch any that networks.py knows.

What: step = a training step on images that lie on the device; fed = the same, from pixels in the
host's memory as main.py's loop has it (ours only); evaluation; matrix = the rate of a matrix
product (ours only), which says how much of the card a step uses.
"""
import argparse
import resource
import time
from collections.abc import Callable
from functools import partial

import common
import numpy as np

from system import processes
from toolchain import PRECISIONS
from toolchain.base import output

ARCHS = ("vgg16", "vgg16-bn", "resnet50", "densenet121", "mobilenet_v2", "vit_b_16")
NAMES = {"torch": "PyTorch as it comes", "torch-best": "PyTorch at its best",
         "torch-bf16": "PyTorch at its best in bf16", "direct": "direct convolutions",
         "fp32": "float32", "plain": "nothing frozen"}
# With these the C library keeps memory that PyTorch frees, as ours does by itself.
KEEP_MEMORY = dict(MALLOC_MMAP_MAX_="0", MALLOC_TRIM_THRESHOLD_="8000000000")
WARM_UP = 3
BETWEEN_WAITS = 5  # steps; a run waits for the device every 20

Turn = Callable[[], object]
Sides = Callable[[str, int], tuple[Turn, Turn]]  # (what, batch size) -> (a step, waiting for it)


def jittor_side(options) -> Sides:
    import toolchain
    jt = toolchain.start(options.device, "fp32" if options.side == "fp32" else options.precision,
                         "direct" if options.side == "direct" else "winograd")
    from jittor import nn

    import dataset
    import networks
    from packing.sgd import SGD
    from pruning import PackNet
    net = networks.build(options.arch)
    packnet = PackNet(net)
    for task in ("a",) if options.side == "plain" else ("a", "b"):
        net.add_head(task, 200)
        packnet.start_task(task)
        if task == "a" and options.side != "plain":
            packnet.prune("a", 0.75)
    net.select(packnet.tasks[-1])

    def sides(what: str, size: int) -> tuple[Turn, Turn]:
        x, y = common.batch(options.arch, size)
        images, labels = jt.array(x), jt.array(y)
        pixels = np.random.default_rng(0).integers(0, 256, x.shape, np.uint8)
        flips = np.zeros(size, np.uint8)
        packnet.set_training(what in ("step", "fed"))
        optimizer = SGD(list(packnet.trainable().values()), 1e-3, momentum=0.9)
        kept: list = []

        def step() -> None:
            optimizer.step(nn.cross_entropy_loss(net(images), labels))
            jt.sync_all()

        def fed() -> None:
            batch = dataset.to_input(pixels, flips), jt.array(y)
            optimizer.step(nn.cross_entropy_loss(net(batch[0]), batch[1]))
            jt.sync_all()

        def evaluation() -> None:
            with jt.no_grad():
                kept.append(net(images))
            jt.sync_all()

        def matrix() -> None:
            kept.append(jt.matmul(square, square))
            jt.sync_all()

        def wait() -> None:
            jt.sync_all(True)
            kept.clear()

        if what == "matrix":
            square = jt.rand(size, size)
        return dict(step=step, fed=fed, evaluation=evaluation, matrix=matrix)[what], wait

    return sides


def torch_side(options) -> Sides:
    import torch
    from torch_twin import Twin
    torch.set_num_threads(processes.cores())
    device = "cuda" if options.device != "cpu" and torch.cuda.is_available() else "cpu"
    precision = "bf16" if options.side == "torch-bf16" else options.precision
    if device == "cpu" and options.side == "torch":
        precision = "fp32"
    twin = Twin(options.arch, dict(a=200, b=200), device, precision, best=at_its_best(options.side))
    twin.start_task("a")
    twin.prune(0.75)
    twin.start_task("b")
    twin.start_optimizer(1e-3)

    def sides(what: str, size: int) -> tuple[Turn, Turn]:
        x, y = common.batch(options.arch, size)
        images = torch.from_numpy(x).to(device)
        labels = torch.from_numpy(y).long().to(device)

        def evaluation() -> None:
            with torch.no_grad():
                twin.logits(images, "b")

        if what == "evaluation":
            twin.net.eval()
        wait = torch.cuda.synchronize if device == "cuda" else lambda: None
        return (evaluation if what == "evaluation" else lambda: twin.step(images, labels)), wait

    return sides


def at_its_best(side: str) -> bool:
    return side in ("torch-best", "torch-bf16")


def side_of(options) -> Sides:
    return (torch_side if options.side.startswith("torch") else jittor_side)(options)


def prepared(options) -> Turn:
    """What a Side times: one step, and waiting for it."""
    step, wait = side_of(options)(options.what, options.batch_size)

    def turn() -> None:
        step()
        wait()

    for _ in range(WARM_UP):
        turn()
    return turn


def rate(step: Turn, wait: Turn, seconds: float) -> float:
    """Steps per second, over at least `seconds` and BETWEEN_WAITS steps."""
    for _ in range(WARM_UP):
        step()
    wait()
    start = time.perf_counter()
    steps = 0
    while not steps or time.perf_counter() - start < seconds:
        for _ in range(BETWEEN_WAITS):
            step()
        wait()
        steps += BETWEEN_WAITS
    return steps / (time.perf_counter() - start)


def alone(options) -> None:
    """Print and record what one side does, as it is measured."""
    sides = side_of(options)
    about = dict(side=options.side, precision=options.precision)
    for what in options.what:
        if what == "matrix":
            side = options.matrix
            tflops = 2 * side ** 3 * rate(*sides(what, side), options.seconds) / 1e12
            common.record(**about, what=what, tflops=tflops)
            continue
        for size in options.batch_size:
            began = time.perf_counter()
            images = size * rate(*sides(what, size), options.seconds)
            common.record(**about, arch=options.arch, batch=size, what=what,
                          images_per_second=images, seconds=time.perf_counter() - began,
                          memory_mb=memory_mb(options.device))


def memory_mb(device: str) -> float | None:
    """What the process holds at its peak: its allocator keeps what it once had. On a GPU of all
    processes; None where nobody says."""
    if device == "cpu":
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    query = ["nvidia-smi", "--query-gpu=memory.used", "--format=csv,noheader,nounits"]
    used = output(query).split()
    return float(used[0]) if used else None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--arch", nargs="+", default=ARCHS)
    parser.add_argument("--batch-size", nargs="+", type=int, default=[8, 32])
    parser.add_argument("--what", nargs="+", choices=("step", "fed", "evaluation", "matrix"),
                        default=("step", "evaluation"))
    parser.add_argument("--against", nargs="+", choices=NAMES,
                        default=["torch", "torch-best", "torch-bf16"])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--precision", choices=PRECISIONS, default="fp32")
    parser.add_argument("--alone", choices=("ours", *NAMES), help="measure this side only")
    parser.add_argument("--seconds", type=float, default=4, help="of each of its measurements")
    parser.add_argument("--matrix", type=int, default=8192, help="rows of its matrix")
    parser.add_argument("--side", choices=("ours", *NAMES), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.alone:
        (options.arch,) = options.arch
        options.side = options.alone
        alone(options)
        return
    if options.side:
        (options.arch,) = options.arch
        (options.batch_size,) = options.batch_size
        (options.what,) = options.what
        common.serve(partial(prepared, options))
        return
    theirs = [side for side in options.against if side.startswith("torch")]
    if theirs and not common.installed("torch"):
        raise SystemExit("error: PyTorch is not installed: pip install torch==2.13.0, or compare "
                         "with --against direct plain")
    began = time.perf_counter()
    for arch in options.arch:
        for size in options.batch_size:
            for what in options.what:
                for other in options.against:
                    where = ("--arch", arch, "--batch-size", size, "--what", what, "--device",
                             options.device, "--precision", options.precision, "--side")
                    kept = KEEP_MEMORY if at_its_best(other) else {}
                    with (common.Side(*where, "ours") as ours,
                          common.Side(*where, other, environment=kept) as theirs):
                        pairs = [(ours(), theirs()) for _ in range(options.rounds)]
                    common.report(f"{arch}, batch {size}, {what}", *zip(*pairs), NAMES[other])
    print(f"all of it: {(time.perf_counter() - began) / 60:.0f} minutes")


if __name__ == "__main__":
    main()
    processes.leave(0)
