"""Jittor's model zoo beside torchvision: the same weights, the same images, how far logits differ.

    python benchmarks/zoo.py [NAME ...]      # needs torch and torchvision; minutes on one core

Of each network that both have: torchvision's with random weights and running statistics, once as
Jittor's zoo computes it and once as networks.py does; in test mode, at the size that the networks
were made for and at one that their poolings do not divide. A difference is the largest of the
logits, as a part of how far the logits of two images are apart. A file of torchvision's is what
goes between the two, so that --pretrained is tried on each as well.
"""
import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path

import common
import numpy as np
import torch

import networks
from settings.archs import ZOO
from system import processes
from trunks.zoo import AUXILIARY

jt = networks.jt
from jittor import models

SIZES = (224, 200)
LARGER = {"inception_v3": (299, 275)}


def import_torchvision():
    """torchvision, also beside a PyTorch for the CPU, where its own operators are missing and
    nothing here asks for them."""
    library = torch.library.Library("torchvision", "DEF")
    while True:
        try:
            import torchvision
            return torchvision, library
        except RuntimeError as error:
            missing = str(error).partition("torchvision::")[2].split()
            if not missing:
                raise
            library.define(f"{missing[0]}(Tensor a) -> Tensor")


def random_network(torchvision, name: str) -> torch.nn.Module:
    """In which every part does something to an image: norms and running statistics are drawn too,
    and convolutions such that what they see gets through."""
    torch.manual_seed(0)
    named = {}
    if name in AUXILIARY:  # as torchvision sets them for its published weights
        named = dict(aux_logits=False, transform_input=True, init_weights=True)
    net = getattr(torchvision.models, name)(weights=None, **named).eval()
    with torch.no_grad():
        for key, tensor in net.state_dict().items():
            if tensor.ndim > 1:
                torch.nn.init.kaiming_normal_(tensor, nonlinearity="relu")
            elif tensor.is_floating_point():
                scale = 0.2 * torch.rand_like(tensor)
                tensor.copy_(1 + scale if key.endswith(("var", "weight")) else scale - 0.1)
    return net


def logits_of(net, images: np.ndarray) -> np.ndarray:
    with jt.no_grad():
        return net(jt.array(images)).numpy()


def compare(torchvision, name: str) -> None:
    theirs = random_network(torchvision, name)
    sides = {"zoo": lambda: zoos(name, theirs), "ours": lambda: ours(name, theirs)}
    nets = {side: attempt(make) for side, make in sides.items()}
    for size in LARGER.get(name, SIZES):
        images = np.random.default_rng(0).normal(size=(2, 3, size, size)).astype(np.float32)
        with torch.no_grad():
            expected = theirs(torch.from_numpy(images)).numpy()
        row = dict(network=name, size=size)
        for side, net in nets.items():
            row[side] = net
            if not isinstance(net, str):
                logits = attempt(lambda net=net: logits_of(net, images))
                row[side] = logits
                if not isinstance(logits, str):
                    apart = np.abs(expected[0] - expected[1]).max()
                    row[side] = float(np.abs(logits - expected).max() / apart)
        common.record(**row)


def attempt(make: Callable):
    """What cannot be done is a result too."""
    try:
        return make()
    except Exception as error:
        return f"{type(error).__name__} ({str(error).strip()[:150]})"


def zoos(name: str, theirs: torch.nn.Module):
    net = getattr(models, name)()
    state = {key: value.numpy() for key, value in theirs.state_dict().items()
             if not key.endswith("num_batches_tracked")}
    shapes = {key: tuple(value.shape) for key, value in net.state_dict().items()}
    others = [key for key in state if shapes.get(key) != state[key].shape]
    if others:
        raise ValueError(f"{len(others)} of {len(state)} parameters have another shape or none")
    net.load_state_dict(state)
    net.eval()
    return net


def ours(name: str, theirs: torch.nn.Module):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"{name}.pth"
        torch.save(theirs.state_dict(), path)
        net = networks.build(name)
        networks.load_pretrained(net, path, "imagenet")
    net.select("imagenet")
    net.eval()
    return net


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("names", nargs="*", default=list(ZOO))
    torchvision, _ = import_torchvision()
    print(f"torchvision {torchvision.__version__}, torch {torch.__version__}")
    for name in parser.parse_args().names:
        if hasattr(torchvision.models, name):
            compare(torchvision, name)
    return 0


if __name__ == "__main__":
    processes.leave(main())
