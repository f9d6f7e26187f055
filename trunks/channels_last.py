"""ResNets, DenseNets and MobileNet-V2 of the zoo with images that keep their channels last, [N, H,
W, C], from layer to layer: on the CPU their convolutions are faster so (kernels/channels_last.py).
Inputs, weights, and what comes out of the trunk are as ever.

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


# A convolution, the norm and the ReLU behind it can be computed in one. Each gives its output as
# ever, which Jittor computes only for who asks for it, and notes beside it what it came from, for
# the layer behind it.


if toolchain.convolution == "winograd":
    convolve = channels_last.convolution(jt, cpu.onednn())
    learn = norm.learning(jt)
    cut_at_6 = channels_last.cutting(jt, 6.0)
    joined = channels_last.joining(jt)


def wanted(model: nn.Module) -> bool:
    """Whether `model` is one of these, and they are faster so here. Convolutions in groups, as
    ResNeXt's, were not measured."""
    if type(model) not in NETWORKS or toolchain.convolution != "winograd":
        return False
    grouped = any(isinstance(layer, nn.Conv) and 1 < layer.groups < layer.in_channels
                  for layer in model.modules())
    return not grouped and channels_last.worth_it(cpu.onednn())


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
        if self.bias is not None:
            return y + self.bias.broadcast(y.shape, AXES)
        if channels_last.finishes(x, self):
            y.convolved = x, self
        return y


class BatchNorm(ChannelsLast, nn.BatchNorm):
    def execute(self, x: jt.Var) -> jt.Var:
        if self.is_train:
            return learn(self, x, 3)
        w = self.weight / jt.sqrt(self.running_var + self.eps)
        b = self.bias - self.running_mean * w
        frozen = self.weight.is_stop_grad() and self.bias.is_stop_grad()
        if frozen:
            w, b = w.stop_grad(), b.stop_grad()
        y = x * w.broadcast(x.shape, AXES) + b.broadcast(x.shape, AXES)
        y.scaled = x, w, b  # for a ReLU6 behind it
        if hasattr(x, "convolved") and (frozen or jt.flags.no_grad):
            y.normed = *x.convolved, w, b
        return y


class NormReLU(ChannelsLast, layers.NormReLU):
    def execute(self, x: jt.Var) -> jt.Var:
        return convolve(*x.normed) if hasattr(x, "normed") else super().execute(x)


class ReLU6(ChannelsLast, nn.ReLU6):
    def execute(self, x: jt.Var) -> jt.Var:
        if hasattr(x, "normed"):
            return convolve(*x.normed, most=6.0)
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


class Block(ChannelsLast):
    """Of a ResNet."""

    def shortened(self, x: jt.Var, y: jt.Var) -> jt.Var:
        """`y`, the last norm's output, and the shortcut from `x`, the block's input."""
        if self.downsample is not None:
            x = self.downsample(x)
        total = y + x
        if hasattr(y, "normed"):
            total.normed = *y.normed, x
        return self.relu(total)


class BasicBlock(Block, models.resnet.BasicBlock):
    def execute(self, x: jt.Var) -> jt.Var:
        y = self.relu(self.bn1(self.conv1(x)))
        return self.shortened(x, self.bn2(self.conv2(y)))


class Bottleneck(Block, models.resnet.Bottleneck):
    def execute(self, x: jt.Var) -> jt.Var:
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.relu(self.bn2(self.conv2(y)))
        return self.shortened(x, self.bn3(self.conv3(y)))


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


class ResNet(models.resnet.ResNet):
    """Its stem, up to the largest maxima, sees plain images."""

    def stem(self) -> list[nn.Module]:
        return [self.conv1, self.bn1, self.relu, self.maxpool]

    def execute(self, x: jt.Var) -> jt.Var:
        for layer in self.stem():
            x = layer(x)
        x = last(x)
        for layer in (self.layer1, self.layer2, self.layer3, self.layer4):
            x = layer(x)
        return self.fc(x.mean([1, 2]))


class MobileNetV2(models.mobilenet.MobileNetV2):
    def stem(self) -> list[nn.Module]:
        return []

    def execute(self, x: jt.Var) -> jt.Var:
        return self.classifier(self.features(last(x)).mean([1, 2]))


NETWORKS = {models.resnet.ResNet: ResNet, models.densenet.DenseNet: DenseNet,
            models.mobilenet.MobileNetV2: MobileNetV2}
LAYERS = {nn.Conv: Conv, nn.BatchNorm: BatchNorm, Pool: MeanPool, nn.ReLU6: ReLU6,
          layers.NormReLU: NormReLU,
          models.densenet._DenseLayer: DenseLayer, models.resnet.BasicBlock: BasicBlock,
          models.resnet.Bottleneck: Bottleneck}
