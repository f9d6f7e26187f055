"""Pruning the VGG-16 trunk (134 M weights) against PyTorch's kthvalue.

    python benchmarks/prune.py [--rounds 5]      # about a minute; needs PyTorch

Each side is a process of its own, and they take turns. "kthvalue" is the authors' way: per layer,
select what the task owns, take the k-th smallest magnitude with kthvalue, zero the weights below
and update the mask. Both sides start from the same weights each time, and end with the same.
"""
import argparse
import hashlib
import statistics
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import common
import numpy as np

from system import processes

RATIO = 0.75


def weights(shapes: dict[str, tuple]) -> dict[str, np.ndarray]:
    """Random weights of He's deviation, drawn layer after layer."""
    rng = np.random.default_rng(0)
    drawn = {}
    for name, shape in shapes.items():
        deviation = np.float32((2 / np.prod(shape[1:])) ** 0.5)
        drawn[name] = rng.standard_normal(shape, np.float32) * deviation
    return drawn


def digest(pruned) -> str:
    checksum = hashlib.sha256()
    for array in pruned:
        checksum.update(np.ascontiguousarray(array) + np.float32(0))  # -0 is 0
    return checksum.hexdigest()


def jittor_side(options, result: Path) -> Callable[[], float]:
    import toolchain
    jt = toolchain.start(options.device)
    import networks
    from pruning import PackNet
    packnet = PackNet(networks.VGG(networks.ARCHITECTURES[options.arch]))
    packnet.start_task("base")
    start = weights({name: tuple(weight.shape) for name, weight in packnet.weights.items()})

    def turn() -> float:
        for name, weight in packnet.weights.items():
            weight.assign(jt.array(start[name]))
            packnet.owners[name].assign(jt.ones(weight.shape, "uint8"))
        jt.sync_all(True)
        return common.seconds(lambda: (packnet.prune("base", RATIO), jt.sync_all(True)))

    turn()  # compiles
    result.write_text(digest(weight.numpy() for weight in packnet.weights.values()))
    return turn


def torch_side(options, result: Path) -> Callable[[], float]:
    import torch
    from torch_twin import trunk
    layers = [parameter for parameter in trunk(options.arch)[0].parameters() if parameter.ndim > 1]
    shapes = {str(number): tuple(layer.shape) for number, layer in enumerate(layers)}
    start = weights(shapes)
    pruned: list = []
    device = "cuda" if options.device != "cpu" and torch.cuda.is_available() else "cpu"
    wait = torch.cuda.synchronize if device == "cuda" else lambda: None

    def prune(masks: list) -> None:
        for weight, mask in zip(pruned, masks):
            owned = weight[mask == 1].abs()
            limit = owned.view(-1).kthvalue(round(RATIO * owned.numel())).values
            mask[(weight.abs() <= limit) & (mask == 1)] = 0
            weight[mask == 0] = 0

    def turn() -> float:
        pruned[:] = [torch.from_numpy(value.copy()).to(device) for value in start.values()]
        masks = [torch.ones(value.shape, dtype=torch.uint8, device=device) for value in pruned]
        return common.seconds(lambda: (prune(masks), wait()))

    turn()
    result.write_text(digest(weight.cpu().numpy() for weight in pruned))
    return turn


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--arch", default="vgg16")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--alone", action="store_true", help="ours only: needs no PyTorch")
    parser.add_argument("--side", nargs=2, metavar=("SIDE", "RESULT"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.side:
        side, result = options.side
        make = torch_side if side == "torch" else jittor_side
        common.serve(partial(make, options, Path(result)), time=lambda turn: turn())
        return
    if options.alone:
        with tempfile.TemporaryDirectory() as folder:
            turn = jittor_side(options, Path(folder) / "ours")
            seconds = statistics.median(turn() for _ in range(options.rounds))
        common.record(what="prune", arch=options.arch, seconds=seconds)
        return
    if not common.installed("torch"):
        raise SystemExit("error: PyTorch is not installed: pip install torch==2.13.0")
    with tempfile.TemporaryDirectory() as folder:
        results = [Path(folder) / side for side in ("ours", "torch")]
        where = ("--arch", options.arch, "--device", options.device, "--side")
        with common.Side(*where, "ours", results[0]) as ours, \
                common.Side(*where, "torch", results[1]) as theirs:
            pairs = [(ours(), theirs()) for _ in range(options.rounds)]
        equal = results[0].read_text() == results[1].read_text()
    common.report(f"pruning {options.arch} by 75 %", *zip(*pairs), "kthvalue")
    print(f"  the pruned weights are {'equal' if equal else 'NOT EQUAL'}")


if __name__ == "__main__":
    main()
    processes.leave(0)
