"""What --precision bf16 costs in accuracy on the CPU: beside float32, and PyTorch's autocast.

    python benchmarks/bf16.py          # three seeds; needs torch, and a processor that has bf16
    python benchmarks/bf16.py --images 100 --seeds 1                # a look

Fashion-MNIST's classes in pairs, five tasks in the network of the experiment fashion-5, as in
peers.py, with its weights and batches: 2 epochs, prune by 0.75, 1 epoch, SGD with momentum 0.9.
Ours and PyTorch with the authors' masks, each in both precisions and in a process of its own.
Prints the mean of the losses of the first 100 steps and of the last ten of them, how far one of
them is from that of the same side and seed in float32, and the accuracy of all five tasks at the
end.
"""
import argparse
import json
import subprocess
import sys
from pathlib import Path

import common
import numpy as np
import peers

from system import processes

SIDES = ("ours", "authors")
PRECISIONS = ("fp32", "bf16")
STEPS = 100


def measured(side: str, precision: str, data: peers.Data) -> dict:
    """The losses of the first STEPS steps, and the accuracy of each task at the end."""
    losses = []
    if side == "ours":
        import toolchain
        toolchain.start("cpu", precision)
        peer = peers.Ours(data, "sgd", 0.0, False)
        ours = peer.loss_of

        def loss_of(net, images, labels) -> tuple:
            loss, logits = ours(net, images, labels)
            losses.append(loss.detach())
            return loss, logits

        peer.loss_of = loss_of
    else:
        peers.Authors.precision = precision
        peer = peers.Authors(data, "sgd", 0.0, False)
        step = peer.twin.step
        peer.twin.step = lambda images, labels: losses.append(step(images, labels))
    for task in range(peers.TASKS):
        peer.learn(task)
    accuracies = []
    for task in range(peers.TASKS):
        images, labels = data.splits["test", task]
        accuracies.append(peers.accuracy(peer.logits(task, images), labels))
    return dict(losses=[loss.item() for loss in losses[:STEPS]], accuracies=accuracies)


def run(side: str, precision: str, seed: int, options: argparse.Namespace) -> dict:
    """In a process of its own; what it says there goes to the terminal."""
    command = [sys.executable, __file__, "--side", side, "--precision", precision, "--seeds",
               str(seed), "--images", str(options.images), "--data", str(options.data)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise SystemExit(f"error: {side} in {precision} has ended; the lines above say why")
    return json.loads(done.stdout.splitlines()[-1])


def row(side: str, precision: str, results: list[dict], exact: list[dict]) -> str:
    """A line of the table, over the seeds; `exact`: the same side's in float32."""
    losses, right = (np.array([one["losses"] for one in some]) for some in (results, exact))
    means = np.mean([one["accuracies"] for one in results], axis=1)
    spread = f" ± {means.std(ddof=1):.2f}" if len(means) > 1 else ""
    return (f"| {side} | {precision} | {losses.mean():.4f} | {losses[:, -10:].mean():.4f} | "
            f"{np.abs(losses - right).max():.2g} | {means.mean():.2f}{spread} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--images", type=int, default=1600, help="of each class, to train on")
    parser.add_argument("--data", type=Path, default=Path("/usr/share/datasets/fashion-mnist"),
                        help="folder of the four files")
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    parser.add_argument("--precision", choices=PRECISIONS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.side:
        answers = common.answers_alone()
        data = peers.Data(options.data, options.images, options.seeds)
        result = measured(options.side, options.precision, data)
        print(json.dumps(result), file=answers, flush=True)
        return
    print("| side | precision | loss, mean of 100 steps | of the last ten | furthest from "
          "float32 | top-1 at the end, % |\n| --- | --- | --- | --- | --- | --- |", flush=True)
    for side in SIDES:
        exact = []
        for precision in PRECISIONS:
            results = []
            for seed in range(options.seeds):
                results.append(run(side, precision, seed, options))
                common.keep(side=side, precision=precision, seed=seed, **results[-1])
            exact = exact or results
            print(row(side, precision, results, exact), flush=True)


if __name__ == "__main__":
    main()
    processes.leave(0)
