"""Two runs on the same cores: a training step of the slim network, alone and beside another.

    python benchmarks/sharing.py [--rounds 3]      # about a minute

OpenMP's threads wait for work as libgomp has them by default (they look 300,000 times before they
sleep), and as system/processes.py sets them.
"""
import argparse
import json
import os
import statistics
import subprocess
import sys

import common

from system import processes

DEFAULT = 300_000  # libgomp, where neither GOMP_SPINCOUNT nor OMP_WAIT_POLICY is set: about 3 ms
STEPS = """
import json, sys, time
import numpy as np
import toolchain
jt = toolchain.start("cpu")
import networks
from pruning import PackNet
net = networks.build("vgg-slim")
net.add_head("a", 10)
net.select("a")
packnet = PackNet(net)
packnet.start_task("a")
optimizer = jt.nn.SGD(list(packnet.trainable().values()), 1e-3, momentum=0.9)
x, y = jt.array(np.zeros((32, 3, 48, 48), np.float32)), jt.array(np.zeros(32, np.int32))
def step():
    optimizer.step(jt.nn.cross_entropy_loss(net(x), y))
    jt.sync_all(True)
for _ in range(10):
    step()
print("ready", flush=True)
sys.stdin.readline()
times, end = [], time.perf_counter() + 4
while time.perf_counter() < end:
    start = time.perf_counter()
    step()
    times.append(time.perf_counter() - start)
print(json.dumps(times), flush=True)
"""


def measure(spins: int | None, runs: int) -> float:
    """Mean seconds of a step while `runs` processes take steps: the median would not show the few
    that wait for long. `spins`: how often a thread looks for work before it sleeps; None: as the
    toolchain sets it."""
    environment = dict(os.environ)
    for name in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY"):
        environment.pop(name, None)
    if spins is not None:
        environment["GOMP_SPINCOUNT"] = str(spins)
    running = []
    for _ in range(runs):
        running.append(subprocess.Popen(
            [sys.executable, "-c", STEPS], cwd=common.ROOT, env=environment, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE))
    for process in running:
        while process.stdout.readline() != "ready\n":
            pass
    for process in running:
        process.stdin.write("go\n")
        process.stdin.flush()
    times = []
    for process in running:
        printed, _ = process.communicate()
        times += json.loads(printed.splitlines()[-1])
    return statistics.mean(times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    for runs, what in ((1, "alone"), (2, "two at once, each")):
        pairs = [(measure(None, runs), measure(DEFAULT, runs)) for _ in range(options.rounds)]
        common.report(f"a step of 32 images, {what}", *zip(*pairs), "libgomp's default")


if __name__ == "__main__":
    main()
    processes.leave(0)
