"""What the first prune does to the base network, and what its re-training brings back.

Where the base network is not re-trained on its own data, nothing else would tell: the paper
re-trains its pruned ImageNet network on ImageNet, and hardly anybody has that. So the network
before its prune is compared with what is left of it, on training images of the first added task,
without their labels: how often it still gives the same class of the base task, and how much of its
features is left. A run's weights are the same with it and without.
"""
from typing import TYPE_CHECKING

import numpy as np

import toolchain

jt = toolchain.start()

if TYPE_CHECKING:
    from runs.run import Run

IMAGES = 256
# In percent; below this agreement the log warns. Half is a judgement: with EfficientNet-Lite0 and
# its ImageNet weights, pruned by 0.5 and not re-trained, 1.7 % agreed, and added tasks stayed at
# chance.
BOUND = 50.0
HELP = ("Added tasks will learn from what is left. Re-train it on its own data, in {folder}, or "
        "prune less (--initial-pruning-ratio 0.1); --train-bn gives each task norms that fit it")


def outputs(run: "Run") -> dict[str, np.ndarray]:
    """`features` float32 [N, width] and `logits` float32 [N, classes of the base task] of the
    network as it is, for the first N <= IMAGES training images of the first added task."""
    loader = run.loaders[run.config.task_list[0], "train"]
    loader.epoch = 0  # the same images and crops each time
    run.packnet.set_training(False)
    head = run.net.heads[run.config.base_task]
    features, logits = [], []
    seen = 0
    with jt.no_grad():
        for images, _ in loader:
            found = run.net.trunk(images)
            logits.append(head(found).numpy())
            features.append(found.numpy())
            seen += len(images)
            if seen >= IMAGES:
                break
    return dict(features=np.concatenate(features)[:IMAGES], logits=np.concatenate(logits)[:IMAGES])


def compared(whole: dict[str, np.ndarray], now: dict[str, np.ndarray]) -> dict[str, float]:
    """In percent: `agreement`, of the images whose likeliest class is the whole network's;
    `variance_kept`, of the features' variance over the images, what the features now explain
    without being scaled or shifted (100 - the unexplained share, at least 0). And `images`, how
    many. Features that are the same for all images are kept whole or not at all."""
    same = whole["logits"].argmax(1) == now["logits"].argmax(1)
    before, after = (outputs["features"].astype(np.float64) for outputs in (whole, now))
    variance = np.square(before - before.mean(0)).sum()
    apart = np.square(after - before).sum()
    unexplained = apart / variance if variance else float(apart > 0)
    return dict(images=len(same), agreement=100 * float(same.mean()),
                variance_kept=100 * max(0.0, 1 - float(unexplained)))


def lines(task: str, when: str, figures: dict[str, float], folder: str, last: bool) -> list[str]:
    """For a person. `when`: "after its prune", say; `last`: no re-training follows."""
    said = [f"{task}, {when}: gives the class of the whole network for "
            f"{figures['agreement']:.1f} % of {figures['images']} images, and keeps "
            f"{figures['variance_kept']:.1f} % of its features' variance"]
    if last and figures["agreement"] < BOUND:
        said.append(f"{task}: WARNING, less than {BOUND:g} %. {HELP.format(folder=folder)} "
                    "(docs/faithfulness.md).")
    return said
