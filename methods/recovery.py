"""What brings the pruned base network back where its own data are not there (--recover).

    nothing   it stays as the prune left it
    norms     the statistics of its batch norms are measured anew, on images without labels
    distil    what each layer has kept is fitted by least squares to what the whole one gives for
              such images (packing/least_squares.py); then all of it is re-trained towards that, by
              Adam, with the statistics of its batch norms as they are

The images are the training images of the tasks at hand, or any photographs (--recover-images). The
loss: the distances of what each layer gives, and of the features (as "hints" do: Romero et al.,
"FitNets", ICLR 2015), as shares of their variance. With the divergence of the classes (Hinton et
al., 2015) beside them, networks came less near to the whole one on photographs held out
(docs/faithfulness.md).

Gradients of the layers' distances differ by orders of magnitude, and no one rate of SGD suits them
all: hence Adam (Kingma and Ba, ICLR 2015). The statistics of batch norm stay those of the data that
the whole network has learnt from, which a few photographs cannot tell as well.
"""
from typing import TYPE_CHECKING

from methods.steps import Phase

if TYPE_CHECKING:
    from packing.loops import Loss
    from settings.config import Config

# With what is said of a base network that was brought back so instead of on its own data.
RECOVERIES = {
    "nothing": "",
    "norms": "; its batch norms were measured anew",
    "distil": "; it was distilled from the whole network instead",
}
WITH_IMAGES = ("norms", "distil")
UNLABELLED = ("recovery", "images")  # of a run's loaders, the one whose images have no labels
PASSES = 8  # of images by which layers are fitted
PIXELS = 64 * 224**2  # of the images of one: all go through the network at once
LAYERS = 10  # what the distance of the layers counts, of the features' 1
TINY = 1e-12


def at_once(c: "Config") -> int:
    """How many images each pass has by which layers are fitted: whole batches."""
    return max(1, PIXELS // c.image_size**2 // c.batch_size) * c.batch_size


def distilling(c: "Config") -> Phase:
    """The epochs of "distil"."""
    return Phase("recover", c.recover_epochs, c.recover_lr, distils=True)


def towards(teacher, task: str) -> "Loss":
    """The loss for images whose labels are all 0. `teacher`: a networks.MultiHead in test mode, the
    whole network. Its second value, in place of logits, is float32 [B, 2]: (1, 0) where the class
    of the base task is the teacher's, else (0, 1); so that accuracy counts the agreement."""
    import jittor as jt
    from jittor import nn

    from packing.watching import channels_of, watched

    def apart(given: "jt.Var", aim: "jt.Var", channels: int) -> "jt.Var":
        """The squared distance, as a share of the variance about each channel's mean."""
        aim = aim.stop_grad()
        others = [axis for axis in range(aim.ndim) if axis != channels]
        variance = ((aim - aim.mean(others, keepdims=True)) ** 2).sum()
        return ((given - aim) ** 2).sum() / variance.maximum(TINY)

    def layers_of(net) -> dict[str, "nn.Module"]:
        """Batch norms, where the trunk has any; else its convolutions and linear layers."""
        modules = dict(net.trunk.named_modules())
        for kinds in (nn.BatchNorm, (nn.Conv, nn.Linear)):
            found = {name: layer for name, layer in modules.items() if isinstance(layer, kinds)}
            if found:
                return found
        return {}

    its_layers = layers_of(teacher)

    def loss(net, images: "jt.Var", _: "jt.Var") -> tuple["jt.Var", "jt.Var"]:
        with jt.no_grad(), watched(its_layers) as aims:
            aim = teacher.trunk(images)
            said = teacher.heads[task](aim).stop_grad()
        with watched(layers_of(net)) as given:
            features = net.trunk(images)
        total = apart(features, aim, 1)
        shares = [apart(given[name], aims[name], channels_of(layer, aims[name]))
                  for name, layer in its_layers.items() if name in given]
        if shares:
            total = total + LAYERS * sum(shares) / len(shares)
        with jt.no_grad():
            guess = net.heads[task](features)
        same = (guess.argmax(1)[0] == said.argmax(1)[0]).float32()
        return total, jt.stack([same, 1 - same], dim=1)

    return loss
