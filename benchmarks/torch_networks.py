"""The networks of networks.py in plain PyTorch, whole, with torchvision's parameter names.

Needs torch; the project does not. Nothing here starts Jittor, so that PyTorch's side of a
comparison has its process for itself.
"""
from typing import NamedTuple

import torch
from torch import nn
from torch.nn import functional as F


class VGGShape(NamedTuple):
    widths: tuple[int, ...]  # of the stages' convolutions; a pooling follows each stage
    repeats: tuple[int, ...]
    pooled: int              # side of the feature map that fc6 sees
    hidden: int              # outputs of fc6 and fc7
    dropout: float
    batch_norm: bool = False


DEEP = (2, 2, 3, 3, 3)  # convolutions of VGG-16's five stages
VGGS = {
    "vgg16": VGGShape((64, 128, 256, 512, 512), DEEP, 7, 4096, 0.5),
    "vgg16-bn": VGGShape((64, 128, 256, 512, 512), DEEP, 7, 4096, 0.5, True),
    "vgg16-slim": VGGShape((8, 16, 32, 64, 64), DEEP, 7, 64, 0.5),
    "vgg-slim": VGGShape((16, 32, 64), (1, 1, 2), 6, 128, 0.2),
    "vgg-bn-slim": VGGShape((16, 32, 64), (1, 1, 2), 6, 128, 0.2, True),
}


def classifier(arch: str, classes: int) -> nn.Module:
    """float32 [B, 3, S, S] -> [B, classes]; its last layer has torchvision's name."""
    if arch in VGGS:
        return VGG(VGGS[arch], classes)
    others = {
        "resnet50": lambda: ResNet((3, 4, 6, 3), 64, classes),
        "resnet-slim": lambda: ResNet((1, 1, 1, 1), 16, classes),
        "densenet121": lambda: DenseNet(32, (6, 12, 24, 16), 64, classes),
        "densenet-slim": lambda: DenseNet(12, (2, 2, 2, 2), 16, classes),
    }
    return others[arch]()


class VGG(nn.Module):
    def __init__(self, shape: VGGShape, classes: int) -> None:
        super().__init__()
        layers = []
        channels = 3
        for width, repeats in zip(shape.widths, shape.repeats):
            for _ in range(repeats):
                layers.append(nn.Conv2d(channels, width, 3, padding=1))
                if shape.batch_norm:
                    layers.append(nn.BatchNorm2d(width))
                layers.append(nn.ReLU(inplace=True))
                channels = width
            layers.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Sequential(
            nn.Linear(channels * shape.pooled ** 2, shape.hidden),
            nn.ReLU(inplace=True),
            nn.Dropout(shape.dropout),
            nn.Linear(shape.hidden, shape.hidden),
            nn.ReLU(inplace=True),
            nn.Dropout(shape.dropout),
            nn.Linear(shape.hidden, classes),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.classifier(self.features(x).flatten(1))


class Bottleneck(nn.Module):
    """The stride is in the 3x3 convolution."""

    def __init__(self, inputs: int, width: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, outputs, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(outputs)
        self.downsample = nn.Identity()
        if stride > 1 or inputs != outputs:
            self.downsample = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False),
                                            nn.BatchNorm2d(outputs))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = F.relu(self.bn1(self.conv1(x)), inplace=True)
        y = F.relu(self.bn2(self.conv2(y)), inplace=True)
        return F.relu(self.bn3(self.conv3(y)) + self.downsample(x), inplace=True)


class ResNet(nn.Module):
    def __init__(self, blocks: tuple, width: int, classes: int) -> None:
        """`width`: of the 3x3 convolutions in the first stage. The blocks of the four stages put
        out 256, 512, 1024 and 2048 channels."""
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        channels = 64
        for stage, count in enumerate(blocks):
            outputs = 256 * 2 ** stage
            layers = []
            for i in range(count):
                stride = 2 if stage and not i else 1
                layers.append(Bottleneck(channels, width * 2 ** stage, outputs, stride))
                channels = outputs
            setattr(self, f"layer{stage + 1}", nn.Sequential(*layers))
        self.fc = nn.Linear(channels, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.max_pool2d(F.relu(self.bn1(self.conv1(x)), inplace=True), 3, 2, 1)
        for layer in (self.layer1, self.layer2, self.layer3, self.layer4):
            x = layer(x)
        return self.fc(x.mean((2, 3)))


class DenseLayer(nn.Module):
    def __init__(self, inputs: int, growth: int) -> None:
        super().__init__()
        self.norm1 = nn.BatchNorm2d(inputs)
        self.conv1 = nn.Conv2d(inputs, 4 * growth, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(4 * growth)
        self.conv2 = nn.Conv2d(4 * growth, growth, 3, padding=1, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.conv1(F.relu(self.norm1(x), inplace=True))
        return torch.cat([x, self.conv2(F.relu(self.norm2(y), inplace=True))], 1)


class Transition(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(channels)
        self.conv = nn.Conv2d(channels, channels // 2, 1, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.avg_pool2d(self.conv(F.relu(self.norm(x), inplace=True)), 2)


class DenseNet(nn.Module):
    def __init__(self, growth: int, blocks: tuple, channels: int, classes: int) -> None:
        super().__init__()
        self.features = nn.Sequential()
        self.features.add_module("conv0", nn.Conv2d(3, channels, 7, 2, 3, bias=False))
        self.features.add_module("norm0", nn.BatchNorm2d(channels))
        self.features.add_module("relu0", nn.ReLU(inplace=True))
        self.features.add_module("pool0", nn.MaxPool2d(3, 2, 1))
        for number, count in enumerate(blocks, start=1):
            block = nn.Sequential()
            for i in range(count):
                block.add_module(f"denselayer{i + 1}", DenseLayer(channels, growth))
                channels += growth
            self.features.add_module(f"denseblock{number}", block)
            if number < len(blocks):
                self.features.add_module(f"transition{number}", Transition(channels))
                channels //= 2
        self.features.add_module("norm5", nn.BatchNorm2d(channels))
        self.classifier = nn.Linear(channels, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.classifier(F.relu(self.features(x), inplace=True).mean((2, 3)))
