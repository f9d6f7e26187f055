"""DenseNets and MobileNet-V2 of the zoo with images that keep their channels last, [N, H, W, C],
from layer to layer: on the CPU their convolutions are faster so (kernels/channels_last.py). Inputs,
weights, and what comes out of the trunk are as ever.

Each class is one of Jittor's, or of ours, that a layer becomes where it stands. Who looks at a
layer's output from outside gets a plain image (packing/watching.py).
"""
import contextlib
from collections.abc import Iterator

import toolchain
from trunks import layers
from trunks.layers import Pool

jt = toolchain.start()
from jittor import models, nn

from kernels import channels_last, norm
from toolchain import cpu

AXES = [0, 1, 2]  # all but the channels


def last(x: jt.Var) -> jt.Var:
    """A plain image [N, C, H, W] with its channels last."""
    return x.transpose(0, 2, 3, 1)


def plain(x: jt.Var) -> jt.Var:
    """The other way round."""
    return x.transpose(0, 3, 1, 2)


class ChannelsLast:
    """A layer whose images have their channels last."""
    channels_last = True  # for who looks at its output from outside


if toolchain.convolution == "winograd":
    convolve = channels_last.convolution(jt, cpu.onednn())
    learn = norm.learning(jt)
    cut, cut_at_6 = (channels_last.cutting(jt, most) for most in (3e38, 6.0))
    joined = channels_last.joining(jt)


def wanted(model: nn.Module) -> bool:
    """Whether `model` is one of these, and they are faster so here."""
    return (type(model) in NETWORKS and toolchain.convolution == "winograd"
            and channels_last.worth_it(cpu.onednn()))


def rearrange(model: nn.Module) -> None:
    """From now on the images of `model`, one of NETWORKS, have their channels last."""
    model.__class__ = NETWORKS[type(model)]
    stem = model.stem()
    for layer in model.modules():
        if type(layer) in LAYERS and not any(layer is other for other in stem):
            layer.__class__ = LAYERS[type(layer)]


@contextlib.contextmanager
def plain_images(net: nn.Module) -> Iterator[None]:
    """Within it `net`, and each layer of it, is as Jittor has it: to be read layer by layer."""
    theirs = {ours: theirs for theirs, ours in (NETWORKS | LAYERS).items()}
    kinds = {layer: type(layer) for layer in net.modules() if type(layer) in theirs}
    for layer, kind in kinds.items():
        layer.__class__ = theirs[kind]
    try:
        yield
    finally:
        for layer, kind in kinds.items():
            layer.__class__ = kind


class Conv(ChannelsLast, nn.Conv):
    def execute(self, x: jt.Var) -> jt.Var:
        y = convolve(x, self)
        return y if self.bias is None else y + self.bias.broadcast(y.shape, AXES)


class BatchNorm(ChannelsLast, nn.BatchNorm):
    def execute(self, x: jt.Var) -> jt.Var:
        if self.is_train:
            return learn(self, x, 3)
        w = self.weight / jt.sqrt(self.running_var + self.eps)
        b = self.bias - self.running_mean * w
        if self.weight.is_stop_grad() and self.bias.is_stop_grad():
            w, b = w.stop_grad(), b.stop_grad()
        y = x * w.broadcast(x.shape, AXES) + b.broadcast(x.shape, AXES)
        y.scaled = x, w, b  # for a ReLU behind it; Jittor computes y only for who asks for it
        return y


class NormReLU(ChannelsLast, layers.NormReLU):
    def execute(self, x: jt.Var) -> jt.Var:
        # Where gradients are wanted, Jittor would keep what the norm was given, too.
        if jt.flags.no_grad and hasattr(x, "scaled"):
            return cut(*x.scaled)
        return super().execute(x)


class ReLU6(ChannelsLast, nn.ReLU6):
    def execute(self, x: jt.Var) -> jt.Var:
        return cut_at_6(*x.scaled) if hasattr(x, "scaled") else super().execute(x)


class MeanPool(ChannelsLast, Pool):
    def execute(self, x: jt.Var) -> jt.Var:
        n, height, width, channels = x.shape
        rows, columns = self.kernel_size
        apart = self.stride == self.kernel_size and self.padding == (0, 0)
        if not apart or height % rows or width % columns:
            return last(super().execute(plain(x)))
        cells = (n, height // rows, rows, width // columns, columns, channels)
        return x.reshape(cells).mean([2, 4])


class DenseLayer(ChannelsLast, models.densenet._DenseLayer):
    def execute(self, x: jt.Var) -> jt.Var:
        return joined(x, nn.Sequential.execute(self, x))


class DenseNet(models.densenet.DenseNet):
    """Its stem, up to the largest maxima, sees plain images."""

    def stem(self) -> list[nn.Module]:
        return [self.features.layers[name] for name in ("conv0", "norm0", "relu0", "pool0")]

    def execute(self, x: jt.Var) -> jt.Var:
        for layer in self.stem():
            x = layer(x)
        x = last(x)
        for layer in list(self.features.layers.values())[4:]:
            x = layer(x)
        return self.classifier(nn.relu(x).mean([1, 2]))


class MobileNetV2(models.mobilenet.MobileNetV2):
    def stem(self) -> list[nn.Module]:
        return []

    def execute(self, x: jt.Var) -> jt.Var:
        return self.classifier(self.features(last(x)).mean([1, 2]))


NETWORKS = {models.densenet.DenseNet: DenseNet, models.mobilenet.MobileNetV2: MobileNetV2}
LAYERS = {nn.Conv: Conv, nn.BatchNorm: BatchNorm, Pool: MeanPool, nn.ReLU6: ReLU6,
          layers.NormReLU: NormReLU,
          models.densenet._DenseLayer: DenseLayer}
