"""Pruning the VGG-16 trunk (134 M weights) against PyTorch's kthvalue, in one run.

    python benchmarks/pruning.py [--rounds 3]

Needs PyTorch. "kthvalue" is the authors' way: per layer, select what the task owns, take the k-th smallest magnitude
with kthvalue, zero the weights below and update the mask. Both sides start from the same weights.
"""
import argparse

import common

import networks
from pruning import PackNet

try:
    import torch
except ImportError:
    raise SystemExit("this benchmark compares with PyTorch, which is not installed") from None

jt = networks.jt


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=3)
    rounds = parser.parse_args().rounds
    packnet = PackNet(networks.VGG(networks.ARCHITECTURES["vgg16"]))
    packnet.start_task("base")
    jt.sync_all()
    start = {name: weight.numpy() for name, weight in packnet.weights.items()}

    def ours() -> None:
        packnet.prune("base", 0.75)
        jt.sync_all(True)

    def theirs() -> None:
        for weight, mask in zip(tensors, masks):
            owned = weight[mask == 1].abs()
            limit = owned.view(-1).kthvalue(round(0.75 * owned.numel())).values
            mask[(weight.abs() <= limit) & (mask == 1)] = 0
            weight[mask == 0] = 0

    times = ([], [])
    for _ in range(rounds + 1):  # the first is a warm-up
        for name, weight in packnet.weights.items():
            weight.assign(jt.array(start[name]))
            packnet.owners[name].assign(jt.ones(weight.shape, "uint8"))
        jt.sync_all(True)
        tensors = [torch.from_numpy(value.copy()) for value in start.values()]
        masks = [torch.ones(value.shape, dtype=torch.uint8) for value in tensors]
        a, b = common.alternate(ours, theirs, 1)
        times[0].extend(a), times[1].extend(b)
    equal = all((packnet.weights[name].numpy() == tensor.numpy()).all() for name, tensor in zip(start, tensors))
    common.report("pruning 134,248,128 weights by 75 %", times[0][1:], times[1][1:], "kthvalue")
    print(f"  the pruned weights are {'equal' if equal else 'NOT EQUAL'}")


if __name__ == "__main__":
    main()
