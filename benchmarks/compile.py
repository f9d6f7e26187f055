"""What the first start costs: Jittor's core and the kernels of the demo's steps, from empty caches.

    python benchmarks/compile.py [--rounds 1]      # about five minutes a round on two cores
    python benchmarks/compile.py --where           # a minute: where the seconds of ours go

They are compiled our way (a precompiled header, and what toolchain/mending.py leaves out) and as
Jittor itself does. Needs Python 3.11 or 3.12: Jittor without our changes runs on no later one.
--where, which runs on any, has each call of the compiler write down when it began and ended.
"""
import argparse
import itertools
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import common

from system import processes
from toolchain import base

STEPS = """
import sys, time
start = time.perf_counter()
import toolchain
from toolchain import mending
if sys.argv[1] == "plain":
    mending.is_known = lambda: False  # so that nothing is changed
jt = toolchain.start("cpu")
core = time.perf_counter()
import numpy as np, networks, pruning
net = networks.build("vgg-slim")
net.add_head("a", 10), net.add_head("b", 8)
packnet = pruning.PackNet(net)
batch = [(jt.array(np.zeros((8, 3, 48, 48), np.float32)), jt.array(np.zeros(8, np.int32)))]
for task in ("a", "b"):
    packnet.train_task(task, batch, epochs=2)
    packnet.prune_and_freeze(task)
    packnet.evaluate_task(task, [(images, labels.numpy()) for images, labels in batch])
print(core - start, time.perf_counter() - core)
"""


def measure(ours: bool, more: dict[str, str] | None = None) -> list[float]:
    """Seconds to start Jittor, and from there to the end of the steps; MB in the caches. `more`:
    of the environment."""
    with tempfile.TemporaryDirectory() as home:
        environment = os.environ | dict(HOME=home, XDG_CACHE_HOME=home) | (more or {})
        for name in ("cc_flags", "JITTOR_HOME"):
            environment.pop(name, None)
        command = [sys.executable, "-c", STEPS, "ours" if ours else "plain"]
        done = subprocess.run(command, cwd=common.ROOT, env=environment, stdout=subprocess.PIPE,
                              text=True, check=True)
        size = 0
        for path in Path(home).rglob("*"):
            if path.is_file() and not path.is_symlink():
                size += path.stat().st_size
        return [*map(float, done.stdout.split()[-2:]), size / 1e6]


LISTENER = """#!/bin/bash
start=$EPOCHREALTIME
{compiler} "$@"
code=$?
echo "$start $EPOCHREALTIME $*" >> {calls}
exit $code
"""
# What a call of the compiler is for, by a part of its command; the first that is there counts.
KINDS = {
    "c++-header": "the headers, parsed beforehand",
    "/jit/": "kernels",
    "mkl": "oneDNN's operators",
    "jittor_core": "Jittor's core and the helper that compiles",
    "obj_files": "Jittor's core and the helper that compiles",
}


def where() -> None:
    """Print what the compiler was busy with, when, and for how long it was not."""
    with tempfile.TemporaryDirectory() as home:
        listener, calls = Path(home) / "g++", Path(home) / "calls"
        listener.write_text(LISTENER.format(compiler=base.compiler(), calls=calls))
        listener.chmod(0o755)
        began = time.time()
        measure(True, dict(cc_path=str(listener)))
        ended = time.time()
        lines = [line.split(" ", 2) for line in calls.read_text().splitlines()]
    jobs: dict[str, list[tuple[float, float]]] = {}
    for start, end, command in lines:
        kind = next((kind for part, kind in KINDS.items() if part in command), "others")
        jobs.setdefault(kind, []).append((float(start) - began, float(end) - began))
    for kind, times in jobs.items():
        first = min(start for start, _ in times)
        last = max(end for _, end in times)
        common.record(what=kind, calls=len(times), began=first, ended=last,
                      seconds=sum(end - start for start, end in times))
    idle = ended - began
    until = 0.0
    for start, end in sorted(itertools.chain(*jobs.values())):
        idle -= max(0.0, end - max(start, until))
        until = max(until, end)
    common.record(what="all", seconds=ended - began, without_compiler=idle)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--where", action="store_true")
    options = parser.parse_args()
    if options.where:
        where()
        return
    pairs = [(measure(True), measure(False)) for _ in range(options.rounds)]
    for number, what in enumerate(("Jittor's core", "the kernels")):
        ours_seconds = [ours[number] for ours, _ in pairs]
        plain_seconds = [plain[number] for _, plain in pairs]
        common.report(f"compiling {what}", ours_seconds, plain_seconds, "as Jittor does")
    (*_, ours), (*_, plain) = pairs[0]
    print(f"Caches afterwards: {ours:.0f} MB, as Jittor does {plain:.0f} MB")


if __name__ == "__main__":
    main()
    processes.leave(0)
