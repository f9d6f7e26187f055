"""Whose image is it? The network's part in it: what the first task's view sees of an image.

What is made of that: packing/portrait.py.
"""
from collections.abc import Callable, Iterable

import numpy as np

import toolchain
from networks import MultiHead
from packing import loops
from packing.watching import watched
from pruning import PackNet

jt = toolchain.start()
from jittor import nn

WIDTH = 512  # of what is seen of an image
GRID = 7     # of the layers' maps, at most so many means each way are looked at

# (task) -> batches of images, prepared as the task prepares its own
Images = Callable[[str], Iterable]


def seen(packnet: PackNet, images: Images, title: str) -> tuple[np.ndarray, np.ndarray]:
    """(float32 [N, WIDTH], labels int [N]) of images: a sketch of what all packed layers of the
    first task's view put out, or of its features where no layer tells images apart. Each number is
    a sum of many outputs with random signs."""
    first = packnet.tasks[0]
    with packnet.task_view(first) as net, watched(packnet.layers) as outputs:
        told_apart: set[str] | None = None

        def execute(batch: jt.Var) -> jt.Var:
            nonlocal told_apart
            if told_apart is None:
                told_apart = with_a_row_for_each(net.trunk, outputs, batch)
            outputs.clear()  # they come in the order in which the layers compute
            features = net.trunk(batch)
            return sketch([outputs[name] for name in outputs if name in told_apart] or [features])

        return loops.predict(execute, images(first), f"{title}, as {first} sees it")


def with_a_row_for_each(trunk: nn.Module, outputs: dict[str, jt.Var], batch: jt.Var) -> set[str]:
    """The layers whose output has a row for each image. In a network of the user's own others may
    have one for each step of a sequence, or part of an image; and one whose weight is computed with
    elsewhere puts out nothing. Nothing is computed for it. `outputs`: of the layers, as watched
    gives them."""
    found = []
    for count in (2, 3):
        outputs.clear()
        trunk(jt.zeros((count, *batch.shape[1:])))
        found.append({name for name, output in outputs.items() if output.shape[0] == count})
    return found[0] & found[1]


def sketch(outputs: list[jt.Var]) -> jt.Var:
    """float32 [B, WIDTH] of layers' outputs [B, ...]: what is positive of them, of maps the means
    of a grid; each layer counts as much as another however many numbers it has."""
    total, place = 0, 0
    for number, out in enumerate(outputs):
        flat = coarse(nn.relu(out)).reshape((out.shape[0], -1))
        size = flat.shape[1]
        before = place % WIDTH  # where the last layer ended
        rows = -(-(before + size) // WIDTH)
        signs = np.random.default_rng(number).choice((-1, 1), (rows, WIDTH)) / size ** 0.5
        edges = [jt.zeros((flat.shape[0], width)) for width in
                 (before, rows * WIDTH - before - size)]
        whole = jt.concat([edges[0], flat, edges[1]], 1).reshape((-1, rows, WIDTH))
        total = total + (whole * jt.array(signs.astype(np.float32))).sum(1)
        place += size
    return total


def coarse(out: jt.Var) -> jt.Var:
    """Of a map [B, C, H, W] the means of at most GRID x GRID equal parts, leaving out what is over
    at the edge; of rows of tokens [B, N, C] their mean."""
    if len(out.shape) == 3:
        return out.mean(1)
    if len(out.shape) != 4:
        return out
    batch, channels, *sides = out.shape
    steps = [-(-side // GRID) for side in sides]
    counts = [side // step for side, step in zip(sides, steps)]
    out = out[:, :, :counts[0] * steps[0], :counts[1] * steps[1]]
    parts = (batch, channels, counts[0], steps[0], counts[1], steps[1])
    return out.reshape(parts).mean((3, 5))


def right_of_all_classes(net: MultiHead, groups: list[list[str]], task: str,
                         images: Images) -> float:
    """Top-1 in percent on images of `task`, of a network with a head for each task, where the
    likeliest of all classes of all tasks must be the right one. `groups`: the tasks, together those
    whose images are prepared alike."""
    logits = {}
    for tasks in groups:
        def execute(batch: jt.Var) -> jt.Var:
            features = net.trunk(batch)
            return jt.concat([net.heads[each](features) for each in tasks], 1)

        rows, labels = loops.predict(execute, images(tasks[0]), f"{task}, all classes")
        ends = np.cumsum([net.num_classes(each) for each in tasks])
        logits |= zip(tasks, np.split(rows, ends[:-1], axis=1))
    best = np.max([rows.max(1) for each, rows in logits.items() if each != task], axis=0,
                  initial=-np.inf)
    own = logits[task]
    return 100 * float(((own.argmax(1) == labels) & (own.max(1) > best)).mean())
