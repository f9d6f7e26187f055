"""The networks: a trunk that all tasks share, one linear head per task.

    net = build("vgg16")
    load_pretrained(net, "vgg16-397923af.pth", head="imagenet")
    net.add_head("cubs", 200)
    net.select("cubs")
    logits = net(images)            # float32 [B, 3, 224, 224] -> [B, 200]

The paper's four: VGG-16 with and without batch norm, ResNet-50 and DenseNet-121; and slim ones of each kind to try
things out in seconds. VGG-16's trunk is its 13 convolutions and fc6, fc7: 15 prunable layers, 134,248,128 weights.
ResNet and DenseNet are those of Jittor's model zoo without their last layer. Jittor's batch norm keeps the variance of a
batch as it is in its running statistics, PyTorch's multiplies it by n / (n - 1). Parameters of the trunk have
torchvision's names below `trunk.`, heads are `heads.<task>.{weight,bias}`.
"""
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import toolchain
from storage.checkpoint import WeightsError
from storage.pretrained import read_pretrained

jt = toolchain.start()
from jittor import models, nn


@dataclass(frozen=True)
class VGGShape:
    convolutions: tuple  # output channels, "M" for a 2x2 max-pooling
    pooled: int          # side of the feature map that fc6 sees
    hidden: int          # outputs of fc6 and fc7
    dropout: float
    pretrained: str = ""  # name in Jittor's model zoo
    batch_norm: bool = False
    last: str = "classifier.6"  # the layer of the whole classifier that becomes the head


@dataclass(frozen=True)
class Zoo:
    """A network of Jittor's model zoo."""
    make: Callable[[], nn.Module]
    last: str
    pretrained: str = ""


VGG16 = (64, 64, "M", 128, 128, "M", 256, 256, 256, "M", 512, 512, 512, "M", 512, 512, 512, "M")
ARCHITECTURES = {
    "vgg16": VGGShape(VGG16, pooled=7, hidden=4096, dropout=0.5, pretrained="vgg16.pkl"),
    "vgg16-bn": VGGShape(VGG16, pooled=7, hidden=4096, dropout=0.5, pretrained="vgg16_bn.pkl", batch_norm=True),
    "resnet50": Zoo(models.resnet50, "fc", "resnet50.pkl"),
    "densenet121": Zoo(models.densenet121, "classifier", "densenet121.pkl"),
    # The same 15 layers at an eighth of the width: the whole VGG-16 path in seconds, for trying things out.
    "vgg16-slim": VGGShape((8, 8, "M", 16, 16, "M", 32, 32, 32, "M", 64, 64, 64, "M", 64, 64, 64, "M"),
                           pooled=7, hidden=64, dropout=0.5),
    # For the demo and the tests: small images, seconds on a laptop.
    "vgg-slim": VGGShape((16, "M", 32, "M", 64, 64, "M"), pooled=6, hidden=128, dropout=0.2),
    "vgg-bn-slim": VGGShape((16, "M", 32, "M", 64, 64, "M"), pooled=6, hidden=128, dropout=0.2, batch_norm=True),
    "resnet-slim": Zoo(lambda: models.resnet.ResNet(models.resnet.Bottleneck, [1, 1, 1, 1], width_per_group=16), "fc"),
    "densenet-slim": Zoo(lambda: models.densenet.DenseNet(12, (2, 2, 2, 2), 16), "classifier"),
}


class Dropout(nn.Dropout):
    """nn.Dropout; a batch of which this process sees one of several equal parts is masked as one process would mask it."""
    part, parts = 0, 1

    def execute(self, x: jt.Var) -> jt.Var:
        if self.parts == 1 or not self.is_train:
            return super().execute(x)
        kept = jt.random((x.shape[0] * self.parts, *x.shape[1:])) > self.p
        first = self.part * x.shape[0]
        return x * kept[first:first + x.shape[0]] / (1 - self.p)


class VGG(nn.Module):
    """Simonyan & Zisserman's network up to fc7: float32 [B, 3, S, S] -> [B, hidden]. Names as in torchvision."""

    def __init__(self, shape: VGGShape) -> None:
        layers, channels = [], 3
        for width in shape.convolutions:
            if width == "M":
                layers.append(nn.MaxPool2d(2, 2))
            else:
                layers += [nn.Conv(channels, width, 3, padding=1), *[nn.BatchNorm(width)] * shape.batch_norm, nn.ReLU()]
                channels = width
        self.features = nn.Sequential(*layers)
        self.pooled = shape.pooled
        self.avgpool = nn.AdaptiveAvgPool2d((shape.pooled, shape.pooled))
        self.classifier = nn.Sequential(
            nn.Linear(channels * shape.pooled ** 2, shape.hidden), nn.ReLU(), Dropout(shape.dropout),
            nn.Linear(shape.hidden, shape.hidden), nn.ReLU(), Dropout(shape.dropout))
        self.num_features = shape.hidden
        for layer in self.modules():  # He et al.: a deep stack of ReLUs that trains from scratch
            if isinstance(layer, (nn.Conv, nn.Linear)):
                jt.init.kaiming_normal_(layer.weight, mode="fan_in", nonlinearity="relu")
                jt.init.zero_(layer.bias)

    def execute(self, x: jt.Var) -> jt.Var:
        x = self.features(x)
        if x.shape[2:] != [self.pooled, self.pooled]:
            x = self.avgpool(x)
        return self.classifier(x.reshape((x.shape[0], -1)))


class MultiHead(nn.Module):
    """A trunk and one linear head per task; `select` says which head the next calls use.

    `trunk` is any module with images in and float32 [B, num_features] out.
    """

    def __init__(self, trunk: nn.Module, num_features: int) -> None:
        self.trunk = trunk
        self.heads = nn.Sequential()  # a dictionary of modules: keyed by task, never run as a sequence
        self.num_features = num_features
        self.task = None
        self.shared = 0, 1

    def add_head(self, task: str, num_classes: int) -> None:
        if task in self.heads.keys():
            raise ValueError(f"task {task!r} has a head already")
        self.heads.add_module(task, nn.Linear(self.num_features, num_classes))

    def num_classes(self, task: str) -> int:
        return self.heads[task].weight.shape[0]

    def select(self, task: str) -> None:
        if task not in self.heads.keys():
            raise ValueError(f"task {task!r} has no head: call add_head({task!r}, num_classes) first")
        self.task = task

    def share_batch(self, part: int, parts: int) -> None:
        """The next batches are the part `part` of `parts` equal ones; other processes have the rest."""
        if (part, parts) == self.shared:
            return
        self.shared = part, parts
        for module in self.modules():
            if isinstance(module, Dropout):
                module.part, module.parts = part, parts

    def execute(self, x: jt.Var) -> jt.Var:
        return self.heads[self.task](self.trunk(x))


def build(arch: str) -> MultiHead:
    """A network of ARCHITECTURES with random weights and no heads."""
    shape = ARCHITECTURES[arch]
    if isinstance(shape, VGGShape):
        trunk = VGG(shape)
        return MultiHead(trunk, trunk.num_features)
    trunk = shape.make()
    num_features = getattr(trunk, shape.last).weight.shape[1]
    setattr(trunk, shape.last, nn.Identity())
    return MultiHead(trunk, num_features)


def load_pretrained(net: MultiHead, path: str | Path, head: str, last: str = "classifier.6") -> None:
    """Load a whole classifier of the trunk's architecture; its layer `last` becomes the head of task `head`.

    `path`: torchvision's .pth or Jittor's .pkl. Raises WeightsError with what differs if names or shapes do.
    """
    tensors = {re.sub(r"(denselayer\d+\.(?:norm|conv))\.(\d)", r"\1\2", name): value  # torchvision's older DenseNets
               for name, value in read_pretrained(path).items() if not name.endswith(".num_batches_tracked")}
    if f"{last}.weight" not in tensors or tensors[f"{last}.weight"].ndim != 2:
        raise WeightsError(f"{path}: holds no {last}.weight, the last layer of a network with this trunk")
    net.add_head(head, len(tensors[f"{last}.weight"]))
    assign(net, {f"heads.{head}{name[len(last):]}" if name.startswith(last + ".") else f"trunk.{name}": value
                 for name, value in tensors.items()}, path)


def assign(net: nn.Module, tensors: dict, source: str | Path) -> None:
    """Set all parameters of `net`, past any freezing. Raises WeightsError unless names and shapes are the same."""
    parameters = net.state_dict()
    differences = [f"{name} is missing" for name in parameters if name not in tensors]
    differences += [f"{name} is not part of the network" for name in tensors if name not in parameters]
    differences += [f"{name} is {list(tensors[name].shape)}, not {list(parameters[name].shape)}" for name in tensors
                    if name in parameters and list(tensors[name].shape) != list(parameters[name].shape)]
    if differences:
        more = f"; {len(differences) - 3} more differences" if len(differences) > 3 else ""
        raise WeightsError(f"{source}: does not fit the network: {'; '.join(differences[:3])}{more}")
    for name, parameter in parameters.items():
        value = jt.array(tensors[name])
        parameter.assign(value.stop_grad() if parameter.is_stop_grad() else value)
    jt.sync_all()
