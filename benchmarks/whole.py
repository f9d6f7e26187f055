"""A whole run of a small network: loader, steps, log, saving, tests of all tasks, pictures.

    python benchmarks/whole.py                             # PackNet of fashion-5, seed 0
    python benchmarks/whole.py --against ../before         # beside another checkout, in turn
    python benchmarks/whole.py --tasks 2 --threads 1       # its first two tasks, on one core

Needs the experiment's data in --data-root. Each run has a process and an output folder of its own;
baselines are left out. Prints the processor's seconds, which other programs hardly change, those of
the clock, and the most memory; of two checkouts also whether they leave the same packed file, to
the byte.
"""
import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import common

from system import processes

ONE = """
import json, os, resource, sys, time
sys.path.insert(0, os.getcwd())
import main
from settings.experiments import runs_of
name, tasks, data, output = sys.argv[1:]
_, settings = runs_of(name, seeds=1)[0]
added = int(tasks) - 1 if int(tasks) else None
settings |= {key: settings[key][:added] for key in ("task_list", "pruning_ratios")}
settings |= dict(baselines=[], data_root=data, output_dir=output)
code = main.run(settings, False, False)
clock = time.clock_gettime(time.CLOCK_BOOTTIME) - float(os.environ["BEGUN"])
print(json.dumps(dict(code=code, processor=time.process_time(), clock=clock,
                      memory=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)))
sys.stdout.flush()
os._exit(code)
"""


def one(checkout: Path, options: argparse.Namespace, output: Path) -> dict:
    """What a run in `checkout` took."""
    command = [sys.executable, "-c", ONE, options.experiment, str(options.tasks),
               str(options.data_root.resolve()), str(output)]
    environment = os.environ | dict(BEGUN=str(time.clock_gettime(time.CLOCK_BOOTTIME)))
    if options.threads:
        environment["OMP_NUM_THREADS"] = str(options.threads)
    done = subprocess.run(command, cwd=checkout, env=environment, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise SystemExit(f"error: the run in {checkout} has ended; the lines above say why")
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--experiment", default="fashion-5")
    parser.add_argument("--tasks", type=int, default=0, help="how many (default: all)")
    parser.add_argument("--data-root", type=Path, default=Path("data"))
    parser.add_argument("--threads", type=int, help="OMP_NUM_THREADS")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--against", type=Path, help="another checkout of this project")
    options = parser.parse_args()
    sides = {"ours": common.ROOT}
    if options.against:
        sides[str(options.against)] = options.against.resolve()
    found = {name: [] for name in sides}
    with tempfile.TemporaryDirectory() as folder:
        for number in range(options.rounds):
            for side, (name, checkout) in enumerate(sides.items()):
                output = Path(folder) / f"{number}-{side}"
                found[name].append(one(checkout, options, output))
                common.record(side=name, **found[name][-1])
        packed = {path.read_bytes() for path in Path(folder).glob("*/packnet.safetensors")}
    if options.against:
        ours, other = ([run["processor"] for run in runs] for runs in found.values())
        common.record(name=options.experiment, same_file=len(packed) == 1,
                      ratio=statistics.median(other) / statistics.median(ours))


if __name__ == "__main__":
    main()
    processes.leave(0)
