"""What the first prune does to the base network, and what is brought back of it.

Where the base network is not re-trained on its own data, nothing else would tell: the paper
re-trains its pruned ImageNet network on ImageNet, and hardly anybody has that. So the network
before its prune is compared with what is left of it, on images of the first added task that no
network has trained on, without their labels: how often it still gives the same class of the base
task, and how much of its features, and of what each layer gives, is left. A run's weights are the
same with it and without.
"""
from typing import TYPE_CHECKING

import numpy as np

import toolchain
from packing.watching import channels_of, watched

jt = toolchain.start()
from jittor import nn

if TYPE_CHECKING:
    from runs.run import Run

IMAGES = 256
# In percent; below this agreement the log warns. Half is a judgement: with EfficientNet-Lite0 and
# its ImageNet weights, pruned by 0.5 and not re-trained, 1.7 % agreed, and added tasks stayed at
# chance.
BOUND = 50.0
HELP = ("Added tasks will learn from what is left. Re-train it on its own data, in {folder}, bring "
        "it back by --recover distil, with more photographs (--recover-images DIR) or for longer "
        "(--recover-epochs), or prune less (--initial-pruning-ratio 0.1); --train-bn gives each "
        "task norms that fit it")
LAYER = "layer."  # of `outputs`, in front of a layer's name


def outputs(run: "Run") -> dict[str, np.ndarray]:
    """Of the network as it is, for at most IMAGES images of the split of the first added task on
    which epochs are judged: `features` float32 [N, width], `logits` float32 [N, classes of the base
    task], and for each packed layer `layer.<name of its weight>` float32 [N, channels], the means
    over the positions of its map."""
    loader = run.loaders[run.config.task_list[0], run.results.judging]
    run.packnet.set_training(False)
    head = run.net.heads[run.config.base_task]
    found: dict[str, list[np.ndarray]] = dict(features=[], logits=[])
    layers = run.packnet.layers
    with jt.no_grad(), watched(layers) as seen:
        for images in loader.some(IMAGES):
            seen.clear()
            features = run.net.trunk(images)
            now = dict(features=features, logits=head(features))
            now |= {LAYER + name: means(layers[name], output) for name, output in seen.items()}
            for name, var in now.items():
                found.setdefault(name, []).append(var.numpy())
    return {name: np.concatenate(batches) for name, batches in found.items()}


def means(layer: nn.Module, output: jt.Var) -> jt.Var:
    """[B, channels] of what a layer gives: the means over all positions."""
    channels = channels_of(layer, output)
    places = [axis for axis in range(1, output.ndim) if axis != channels]
    return output.mean(places) if places else output


def figures(whole: dict[str, np.ndarray], now: dict[str, np.ndarray]) -> dict:
    """What `compared` says, and `layers`, {name of the weight: the variance kept of what the layer
    gives}."""
    layers = {name.removeprefix(LAYER): kept(whole[name], now[name])
              for name in whole if name.startswith(LAYER)}
    return compared(whole, now) | dict(layers=layers)


def compared(whole: dict[str, np.ndarray], now: dict[str, np.ndarray]) -> dict[str, float]:
    """In percent: `agreement`, of the images whose likeliest class is the whole network's;
    `variance_kept`, of the features. And `images`, how many."""
    same = whole["logits"].argmax(1) == now["logits"].argmax(1)
    return dict(images=len(same), agreement=100 * float(same.mean()),
                variance_kept=kept(whole["features"], now["features"]))


def kept(before: np.ndarray, after: np.ndarray) -> float:
    """In percent, of the variance over the images (rows), what is now explained without scaling or
    shifting: 100 - the unexplained share, at least 0. What is the same for all images is kept whole
    or not at all."""
    before, after = before.astype(np.float64), after.astype(np.float64)
    variance = np.square(before - before.mean(0)).sum()
    apart = np.square(after - before).sum()
    unexplained = apart / variance if variance else float(apart > 0)
    return 100 * max(0.0, 1 - float(unexplained))


def lines(task: str, when: str, figures: dict, folder: str, last: bool) -> list[str]:
    """For a person. `when`: "after its prune", say; `last`: nothing follows that brings it back."""
    said = [f"{task}, {when}: gives the class of the whole network for "
            f"{figures['agreement']:.1f} % of {figures['images']} images, and keeps "
            f"{figures['variance_kept']:.1f} % of its features' variance"]
    if layers := figures.get("layers"):
        # By name where several keep as little: after a stop they come in another order.
        least = min(sorted(layers), key=layers.get)
        said.append(f"{task}, {when}: of its layers {least} keeps least, {layers[least]:.1f} %")
    if last and figures["agreement"] < BOUND:
        said.append(f"{task}: WARNING, less than {BOUND:g} %. {HELP.format(folder=folder)} "
                    "(docs/faithfulness.md).")
    return said
