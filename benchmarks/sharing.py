"""Two runs on the same cores: a training step of the slim network, alone and beside another, with OpenMP's threads waiting as
libgomp has them by default (300,000 turns) and as system/processes.py sets them.

    python benchmarks/sharing.py [--rounds 3]      # about a minute
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
    """Mean seconds of a step while `runs` processes take steps (the median is blind to the few that wait for long); `spins` None: as
    the toolchain sets it."""
    environment = {name: value for name, value in os.environ.items() if name not in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")}
    environment |= {} if spins is None else {"GOMP_SPINCOUNT": str(spins)}
    processes = [subprocess.Popen([sys.executable, "-c", STEPS], cwd=common.ROOT, env=environment, text=True,
                                  stdin=subprocess.PIPE, stdout=subprocess.PIPE) for _ in range(runs)]
    for process in processes:
        while process.stdout.readline() != "ready\n":
            pass
    for process in processes:
        process.stdin.write("go\n")
        process.stdin.flush()
    return statistics.mean(t for process in processes for t in json.loads(process.communicate()[0].splitlines()[-1]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    for runs, what in ((1, "alone"), (2, "two at once, each")):
        pairs = [(measure(None, runs), measure(DEFAULT, runs)) for _ in range(options.rounds)]
        common.report(f"a step of 32 images, {what}", [ours for ours, _ in pairs], [default for _, default in pairs],
                      "libgomp's default")


if __name__ == "__main__":
    main()
    processes.leave(0)
