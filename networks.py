"""The networks: a trunk that all tasks share, one linear head per task.

    net = build("vgg16")
    load_pretrained(net, "vgg16-397923af.pth", head="imagenet")
    net.add_head("cubs", 200)
    net.select("cubs")
    logits = net(images)            # float32 [B, 3, 224, 224] -> [B, 200]

The paper's four: VGG-16 with and without batch norm, ResNet-50 and DenseNet-121; and slim ones of
each kind to try things out in seconds. VGG-16's trunk is its 13 convolutions and fc6, fc7: 15
prunable layers, 134,248,128 weights. ResNet, DenseNet and whatever else Jittor's model zoo has are
the zoo's without their last layer (trunks/zoo.py); the vision transformer is trunks/vit.py, a
network of the user's own trunks/own.py. Jittor's batch norm keeps the variance of a batch as it is
in its running statistics, PyTorch's multiplies it by n / (n - 1). Parameters of the trunk have
torchvision's names below `trunk.`, heads are `heads.<task>.{weight,bias}`.
"""
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import toolchain
from settings.archs import ZOO, own
from storage.checkpoint import WeightsError
from storage.fitting import Wanted, fitted
from storage.pretrained import read_pretrained
from trunks import own as own_networks
from trunks import zoo
from trunks.layers import AdaptivePool, Dropout, Pool, PooledConv, layer_at, put
from trunks.vit import ViT, ViTShape

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
class MLPShape:
    side: int    # of the image it sees
    hidden: int  # outputs of both layers
    pretrained: str = ""
    last: str = "classifier"


@dataclass(frozen=True)
class Zoo:
    """A network of Jittor's model zoo."""
    make: Callable[[], nn.Module]
    last: str
    pretrained: str = ""
    without: tuple[str, ...] = ()  # parts of the file that the trunk has not


VGG11 = (64, "M", 128, "M", 256, 256, "M", 512, 512, "M", 512, 512, "M")
VGG13 = (64, 64, "M", 128, 128, "M", 256, 256, "M", 512, 512, "M", 512, 512, "M")
VGG16 = (64, 64, "M", 128, 128, "M", 256, 256, 256, "M", 512, 512, 512, "M", 512, 512, 512, "M")
VGG19 = (64, 64, "M", 128, 128, "M", 256, 256, 256, 256, "M", 512, 512, 512, 512, "M",
         512, 512, 512, 512, "M")


def _zoo() -> dict[str, VGGShape | Zoo]:
    """Every network of Jittor's zoo under its name there; its VGGs are ours."""
    vggs = {"vgg11": VGG11, "vgg13": VGG13, "vgg16": VGG16, "vgg19": VGG19}
    shapes = {}
    for name in ZOO:
        if name.startswith("vgg"):
            shapes[name] = VGGShape(vggs[name[:5]], pooled=7, hidden=4096, dropout=0.5,
                                    pretrained=f"{name}.pkl", batch_norm=name.endswith("_bn"))
        else:
            shapes[name] = Zoo(lambda name=name: zoo.make(name), zoo.last_of(name),
                               zoo.FILES.get(name, f"{name}.pkl"), zoo.AUXILIARY.get(name, ()))
    return shapes


ARCHITECTURES = _zoo() | {
    "vgg16-bn": VGGShape(VGG16, pooled=7, hidden=4096, dropout=0.5, pretrained="vgg16_bn.pkl",
                         batch_norm=True),
    # For images of 32 x 32 from scratch, as Hung et al. compare on CIFAR-100 (CPG, NeurIPS 2019).
    "vgg16-bn-cifar": VGGShape(VGG16, pooled=1, hidden=4096, dropout=0.0, batch_norm=True),
    "mlp": MLPShape(side=28, hidden=400),  # for digits
    # For images of 28 x 28 from scratch: vgg-slim whose fc6 sees the 3 x 3 cells that are left.
    "vgg-slim-28": VGGShape((16, "M", 32, "M", 64, 64, "M"), pooled=3, hidden=128, dropout=0.0),
    # For images of 64 x 64 from scratch: De Lange et al.'s four for Tiny ImageNet (TPAMI 2021).
    "vgg9-small": VGGShape((64, "M", 64, "M", 64, 64, "M", 128, 128, "M"), pooled=4, hidden=128,
                           dropout=0.0),
    "vgg9-base": VGGShape((64, "M", 64, "M", 128, 128, "M", 256, 256, "M"), pooled=4, hidden=512,
                          dropout=0.0),
    "vgg9-wide": VGGShape((64, "M", 128, "M", 256, 256, "M", 512, 512, "M"), pooled=4, hidden=512,
                          dropout=0.0),
    "vgg22-deep": VGGShape((64, "M", *[64] * 6, "M", *[128] * 6, "M", *[256] * 6, "M"), pooled=4,
                           hidden=512, dropout=0.0),
    # The same 15 layers at an eighth of the width: the whole VGG-16 path in seconds, for trying
    # things out.
    "vgg16-slim": VGGShape((8, 8, "M", 16, 16, "M", 32, 32, 32, "M", 64, 64, 64, "M",
                            64, 64, 64, "M"), pooled=7, hidden=64, dropout=0.5),
    # For the demo and the tests: small images, seconds on a laptop.
    "vgg-slim": VGGShape((16, "M", 32, "M", 64, 64, "M"), pooled=6, hidden=128, dropout=0.2),
    "vgg-bn-slim": VGGShape((16, "M", 32, "M", 64, 64, "M"), pooled=6, hidden=128, dropout=0.2,
                            batch_norm=True),
    "resnet-slim": Zoo(lambda: models.resnet.ResNet(models.resnet.Bottleneck, [1, 1, 1, 1],
                                                    width_per_group=16), "fc"),
    "densenet-slim": Zoo(lambda: zoo.refitted(models.densenet.DenseNet(12, (2, 2, 2, 2), 16)),
                         "classifier"),
    "vit_b_16": ViTShape(image_size=224, patch=16, layers=12, heads=12, width=768, hidden=3072),
    "vit-slim": ViTShape(image_size=48, patch=8, layers=3, heads=4, width=64, hidden=128),
}


class VGG(nn.Module):
    """Simonyan & Zisserman's network up to fc7: float32 [B, 3, S, S] -> [B, hidden]. Names as in
    torchvision."""

    def __init__(self, shape: VGGShape) -> None:
        layers, channels = [], 3
        for width in shape.convolutions:
            if width == "M":
                # before the ReLU instead of after it: the same values and gradients from a quarter
                # of the pixels
                layers.insert(-1, Pool(2, 2, op="maximum"))
                continue
            layers.append(nn.Conv(channels, width, 3, padding=1))
            if shape.batch_norm:
                layers.append(nn.BatchNorm(width))
            layers.append(nn.ReLU())
            channels = width
        self.features = nn.Sequential(*layers)
        self.avgpool = AdaptivePool(shape.pooled)
        self.classifier = nn.Sequential(
            nn.Linear(channels * shape.pooled ** 2, shape.hidden),
            nn.ReLU(),
            Dropout(shape.dropout),
            nn.Linear(shape.hidden, shape.hidden),
            nn.ReLU(),
            Dropout(shape.dropout))
        self.num_features = shape.hidden
        for layer in self.modules():  # He et al.: a deep stack of ReLUs that trains from scratch
            if isinstance(layer, (nn.Conv, nn.Linear)):
                jt.init.kaiming_normal_(layer.weight, mode="fan_in", nonlinearity="relu")
                jt.init.zero_(layer.bias)

    def execute(self, x: jt.Var) -> jt.Var:
        x = self.avgpool(self.features(x))
        return self.classifier(x.reshape((x.shape[0], -1)))


class MLP(nn.Module):
    """Two fully connected layers: float32 [B, 3, S, S] -> [B, hidden]."""

    def __init__(self, shape: MLPShape) -> None:
        self.avgpool = AdaptivePool(shape.side)
        self.hidden = nn.Sequential(nn.Linear(3 * shape.side ** 2, shape.hidden), nn.ReLU(),
                                    nn.Linear(shape.hidden, shape.hidden), nn.ReLU())
        self.num_features = shape.hidden

    def execute(self, x: jt.Var) -> jt.Var:
        return self.hidden(self.avgpool(x).reshape((x.shape[0], -1)))


TRUNKS = {VGGShape: VGG, ViTShape: ViT, MLPShape: MLP}


class MultiHead(nn.Module):
    """A trunk and one linear head per task; `select` says which head the next calls use.

    `trunk` is any module with images in and float32 [B, num_features] out. `shape`: its entry of
    ARCHITECTURES; `last`: the name of the layer that the heads have replaced in it, "" for none;
    `make_head(num_features, num_classes)` gives a head.
    """

    def __init__(self, trunk: nn.Module, num_features: int, last: str = "",
                 shape: "VGGShape | MLPShape | Zoo | ViTShape | None" = None,
                 make_head: Callable[[int, int], nn.Module] = nn.Linear) -> None:
        self.trunk = trunk
        self.last = last
        self.shape = shape
        self.make_head = make_head
        self.heads = nn.Sequential()  # a dictionary of modules by task, never run as a sequence
        self.num_features = num_features
        self.task = None
        self.shared = 0, 1

    def add_head(self, task: str, num_classes: int) -> None:
        """A head for `task`; a task that is no string, as 1, goes by its text. Raises ValueError
        for one that has a head already."""
        if str(task) in self.heads.keys():
            raise ValueError(f"task {task!r} has a head already")
        self.heads.add_module(str(task), self.make_head(self.num_features, num_classes))

    @property
    def exported_head(self) -> str:
        """The name of a head as the last layer of a plain network: of a trunk that gives features,
        one that none of its layers has."""
        name = self.last or "head"
        while any(parameter.startswith(f"trunk.{name}.") for parameter in self.state_dict()):
            name += "_"
        return name

    def num_classes(self, task: str) -> int:
        return self.heads[str(task)].weight.shape[0]

    def select(self, task: str) -> None:
        """Use the head of `task` from now on. Raises ValueError where it has none."""
        if str(task) not in self.heads.keys():
            raise ValueError(f"task {task!r} has no head: call add_head({task!r}, num_classes) "
                             "first")
        self.task = str(task)

    def share_batch(self, part: int, parts: int) -> None:
        """The next batches are the part `part` of `parts` equal ones; other processes have the
        rest."""
        if (part, parts) == self.shared:
            return
        self.shared = part, parts
        for module in self.modules():
            if isinstance(module, Dropout):
                module.part, module.parts = part, parts

    def execute(self, x: jt.Var) -> jt.Var:
        return self.heads[self.task](self.trunk(x))


def build(arch: str, last: str | None = None, image_size: int = 224) -> MultiHead:
    """A network of ARCHITECTURES, or of the user's own (`my_net.py:build`), with random weights and
    no heads.

    `last`, `image_size`: for a network of the user's own, the layer that heads replace
    (trunks/own.py) and the images that it must take. Raises ConfigError where that one cannot be
    used.
    """
    if own(arch):
        trunk = own_networks.make(*own(arch))
        last, num_features = own_networks.split(trunk, last, image_size, f"--arch {arch}")
        return MultiHead(trunk, num_features, last)
    shape = ARCHITECTURES[arch]
    if type(shape) in TRUNKS:
        trunk = TRUNKS[type(shape)](shape)
        return MultiHead(trunk, trunk.num_features, shape.last, shape)
    trunk = shape.make()
    layer = layer_at(trunk, shape.last)
    put(trunk, shape.last, nn.Identity())
    make_head = PooledConv if isinstance(layer, nn.Conv) else nn.Linear
    return MultiHead(trunk, layer.weight.shape[1], shape.last, shape, make_head)


def load_pretrained(net: MultiHead, path: str | Path, head: str | None, last: str = "") -> None:
    """Load a whole classifier of the trunk's architecture; its layer `last` (default: net.last)
    becomes the head of task `head`, or with None is left out.

    `path`: any file of weights that storage/pretrained.py reads, with torchvision's or timm's
    names. Raises WeightsError with what differs if names or shapes do.
    """
    trunk = {name: tuple(parameter.shape) for name, parameter in net.trunk.state_dict().items()}
    wanted = Wanted(trunk, last or net.last, net.num_features, net.make_head is PooledConv,
                    getattr(net.shape, "renamed", ()), getattr(net.shape, "without", ()))
    tensors, layer = fitted(read_pretrained(path), wanted, path)
    tensors = {f"trunk.{name}": array for name, array in tensors.items()}
    if head is not None:
        net.add_head(head, len(layer["weight"]))
        tensors |= {f"heads.{head}.{name}": array for name, array in layer.items()}
    check_numbers(net, tensors, path)
    assign(net, tensors, path)


def check_numbers(net: nn.Module, tensors: dict, path: str | Path) -> None:
    """Raise WeightsError where pretrained weights are no numbers that a network computes with."""
    for name, parameter in net.state_dict().items():
        array = tensors.get(name)
        if array is None or not str(parameter.dtype).startswith("float"):
            continue
        if array.dtype.kind != "f":
            raise WeightsError(f"{path}: {name} is of {array.dtype}, not of floating-point "
                               "numbers: the file is quantised, or holds a mask. Another form of "
                               "the same weights is needed.")
        if not np.isfinite(array).all():
            raise WeightsError(f"{path}: {name} holds NaN or infinite numbers, as of a training "
                               "that has diverged, or of numbers beyond float16")


def in_torchvisions_names(net: MultiHead, task: str) -> dict[str, jt.Var]:
    """The parameters of the trunk and of the head of `task` as they are, as a file of torchvision's
    names them: the head is the last layer. The reverse of load_pretrained."""
    head = f"heads.{task}."
    tensors = {}
    for name, parameter in net.state_dict().items():
        if name.startswith(head):
            tensors[f"{net.exported_head}.{name.removeprefix(head)}"] = parameter
        elif name.startswith("trunk."):
            tensors[name.removeprefix("trunk.")] = parameter
    for theirs, ours in getattr(net.shape, "renamed", ())[:1]:
        tensors = {name.replace(ours, theirs): value for name, value in tensors.items()}
    return tensors


def assign(net: nn.Module, tensors: dict, source: str | Path) -> None:
    """Set all parameters of `net`, past any freezing. Raises WeightsError unless names and shapes
    are the same."""
    parameters = net.state_dict()
    differences = [f"{name} is missing" for name in parameters if name not in tensors]
    differences += [f"{name} is not part of the network" for name in tensors
                    if name not in parameters]
    for name in tensors:
        shape = list(tensors[name].shape)
        if name in parameters and shape != list(parameters[name].shape):
            differences.append(f"{name} is {shape}, not {list(parameters[name].shape)}")
    if differences:
        more = f"; {len(differences) - 3} more differences" if len(differences) > 3 else ""
        raise WeightsError(f"{source}: does not fit the network: {'; '.join(differences[:3])}"
                           f"{more}")
    for name, parameter in parameters.items():
        value = jt.array(tensors[name])
        parameter.assign(value.stop_grad() if parameter.is_stop_grad() else value)
    jt.sync_all()
