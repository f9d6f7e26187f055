"""What brings the pruned base network back where its own data are not there (--recover).

    nothing   it stays as the prune left it
    norms     the statistics of its batch norms are measured anew, on images without labels
    distil    it is re-trained towards what the whole network gives for such images, and then its
              norms are measured anew

The images are the training images of the tasks at hand, or any photographs (--recover-images). The
loss: section 2 of Hinton et al., "Distilling the Knowledge in a Neural Network" (2015), on the
logits of the base task, and the distance of the features, as a share of their variance.
"""
import math
from typing import TYPE_CHECKING

from methods.method import Loss
from methods.steps import Phase

if TYPE_CHECKING:
    from settings.config import Config

WITH_IMAGES = ("norms", "distil")  # both end with the norms
RECOVERIES = ("nothing", *WITH_IMAGES)
IMAGES = ("recovery", "images")  # of a run's loaders, the one whose images have no labels
TEMPERATURE = 2


def distilling(c: "Config") -> Phase:
    """The epochs of "distil": the rate is divided by 10 for the last third."""
    once = max(1, math.ceil(c.recover_epochs * 2 / 3))
    return Phase("recover", c.recover_epochs, c.recover_lr, once, distils=True)


def towards(teacher, task: str) -> Loss:
    """The loss for images whose labels are all 0. `teacher`: a networks.MultiHead in test mode, the
    whole network. Its second value, in place of logits, is float32 [B, 2]: (1, 0) where the class
    of the base task is the teacher's, else (0, 1); so that accuracy counts the agreement."""
    import jittor as jt
    from jittor import nn

    def loss(net, images: "jt.Var", _: "jt.Var") -> tuple["jt.Var", "jt.Var"]:
        with jt.no_grad():
            aim = teacher.trunk(images)
            said = teacher.heads[task](aim)
        aim, said = aim.stop_grad(), said.stop_grad()
        features = net.trunk(images)
        logits = net.heads[task](features)
        wanted = nn.softmax(said / TEMPERATURE, dim=1)
        guess = nn.log_softmax(logits / TEMPERATURE, dim=1)
        known = nn.log_softmax(said / TEMPERATURE, dim=1)
        divergence = (wanted * (known - guess)).sum(1).mean() * TEMPERATURE ** 2
        variance = ((aim - aim.mean(0, keepdims=True)) ** 2).sum()
        apart = ((features - aim) ** 2).sum() / variance.maximum(1e-12)
        same = (logits.argmax(1)[0] == said.argmax(1)[0]).float32()
        return divergence + apart, jt.stack([same, 1 - same], dim=1)
    return loss
