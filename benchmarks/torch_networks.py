"""The networks of networks.py in plain PyTorch, whole, with torchvision's parameter names; the
vision transformer has ours (`in_proj`, a linear layer).

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
    "vgg-slim-28": VGGShape((16, 32, 64), (1, 1, 2), 3, 128, 0.0),
    "vgg-bn-slim-28": VGGShape((16, 32, 64), (1, 1, 2), 3, 128, 0.0, True),
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
        "mobilenet_v2": lambda: MobileNetV2(classes),
        "vit_b_16": lambda: ViT(224, 16, 12, 12, 768, 3072, classes),
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


class ConvNormReLU(nn.Sequential):
    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1,
                 groups: int = 1) -> None:
        convolution = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups,
                                bias=False)
        super().__init__(convolution, nn.BatchNorm2d(outputs), nn.ReLU6(inplace=True))


class InvertedResidual(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int, expansion: int) -> None:
        super().__init__()
        self.added = stride == 1 and inputs == outputs
        width = inputs * expansion
        widened = [ConvNormReLU(inputs, width, 1)] if expansion > 1 else []
        self.conv = nn.Sequential(*widened, ConvNormReLU(width, width, 3, stride, width),
                                  nn.Conv2d(width, outputs, 1, bias=False),
                                  nn.BatchNorm2d(outputs))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.conv(x) if self.added else self.conv(x)


class MobileNetV2(nn.Module):
    # (expansion, channels, repeats, stride of the first)
    BLOCKS = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1),
              (6, 160, 3, 2), (6, 320, 1, 1))

    def __init__(self, classes: int) -> None:
        super().__init__()
        layers = [ConvNormReLU(3, 32, 3, 2)]
        channels = 32
        for expansion, outputs, repeats, stride in self.BLOCKS:
            for i in range(repeats):
                layers.append(InvertedResidual(channels, outputs, 1 if i else stride, expansion))
                channels = outputs
        self.features = nn.Sequential(*layers, ConvNormReLU(channels, 1280, 1))
        self.classifier = nn.Sequential(nn.Dropout(0.2), nn.Linear(1280, classes))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.classifier(self.features(x).mean((2, 3)))


class SelfAttention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.in_proj, self.out_proj = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        batch, count, width = x.shape
        projected = self.in_proj(x).view(batch, count, 3, self.heads, width // self.heads)
        seen = F.scaled_dot_product_attention(*projected.permute(2, 0, 3, 1, 4))
        return self.out_proj(seen.transpose(1, 2).reshape(batch, count, width))


class EncoderLayer(nn.Module):
    def __init__(self, heads: int, width: int, hidden: int) -> None:
        super().__init__()
        self.ln_1 = nn.LayerNorm(width, eps=1e-6)
        self.self_attention = SelfAttention(width, heads)
        self.ln_2 = nn.LayerNorm(width, eps=1e-6)
        self.mlp = nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Dropout(0.0),
                                 nn.Linear(hidden, width), nn.Dropout(0.0))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.self_attention(self.ln_1(x))
        return x + self.mlp(self.ln_2(x))


class ViT(nn.Module):
    def __init__(self, side: int, patch: int, layers: int, heads: int, width: int, hidden: int,
                 classes: int) -> None:
        super().__init__()
        self.class_token = nn.Parameter(torch.zeros(1, 1, width))
        self.conv_proj = nn.Conv2d(3, width, patch, patch)
        self.encoder = nn.Module()
        self.encoder.pos_embedding = nn.Parameter(
            0.02 * torch.randn(1, (side // patch) ** 2 + 1, width))
        self.encoder.layers = nn.Sequential()
        for number in range(layers):
            self.encoder.layers.add_module(f"encoder_layer_{number}",
                                           EncoderLayer(heads, width, hidden))
        self.encoder.ln = nn.LayerNorm(width, eps=1e-6)
        self.heads = nn.Sequential()
        self.heads.add_module("head", nn.Linear(width, classes))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        tokens = self.conv_proj(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.class_token.expand(len(x), -1, -1), tokens], 1)
        x = self.encoder.layers(x + self.encoder.pos_embedding)
        return self.heads(self.encoder.ln(x)[:, 0])
