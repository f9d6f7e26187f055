"""Layers that Jittor lacks, and how to exchange one in a network."""
import numpy as np

import toolchain

jt = toolchain.start()
from jittor import nn

from kernels import pooling

largest = pooling.maximum(jt)


class Dropout(nn.Dropout):
    """nn.Dropout; a batch of which this process sees one of several equal parts is masked as one
    process would mask it."""
    part, parts = 0, 1

    def execute(self, x: jt.Var) -> jt.Var:
        if self.parts == 1 or not self.is_train or not self.p:
            return super().execute(x)
        kept = jt.random((x.shape[0] * self.parts, *x.shape[1:])) > self.p
        first = self.part * x.shape[0]
        return x * kept[first:first + x.shape[0]] / (1 - self.p)


class Pool(nn.Pool):
    """nn.Pool, for an image no larger than the kernel, too; as PyTorch's. The maximum on the CPU is
    one of our own (kernels/pooling.py)."""

    def execute(self, x: jt.Var) -> jt.Var:
        if self.op != "maximum":
            if tuple(x.shape[2:]) == self.kernel_size:
                return x.reduce(self.op, [2, 3], keepdims=True)
            return super().execute(x)
        cells = []
        axes = zip(x.shape[2:], self.kernel_size, self.stride, self.padding)
        for n, kernel, stride, padding in axes:
            count = (n + 2 * padding - kernel + (stride - 1) * self.ceil_mode) // stride + 1
            if self.ceil_mode and (count - 1) * stride >= n + padding:
                count -= 1  # the last one begins within the image
            cells.append(count)
        if min(cells) < 1:
            raise ValueError(f"an image of {list(x.shape[2:])} is smaller than the kernel "
                             f"{list(self.kernel_size)}")
        if toolchain.device == "cpu" and x.dtype == "float32":
            return largest(x, cells, self.kernel_size, self.stride, self.padding)
        if all(n > kernel for n, kernel in zip(x.shape[2:], self.kernel_size)):
            return super().execute(x)
        row = f"i2*{self.stride[0]}-{self.padding[0]}+i4"
        column = f"i3*{self.stride[1]}-{self.padding[1]}+i5"
        windows = x.reindex([*x.shape[:2], *cells, *self.kernel_size], ["i0", "i1", row, column],
                            overflow_value=-3e38)
        return windows.reduce("maximum", [4, 5])


class NormReLU(nn.ReLU):
    """nn.ReLU behind a norm, or a sum of norms. That of kernels/relu.py is a kernel of its own, so
    that what it was given need not be kept; Jittor compiles this one into the norm's kernel, one
    pass over the images less. Its gradient asks the output, too."""

    def execute(self, x: jt.Var) -> jt.Var:
        return jt.maximum(x, 0.0)


class AdaptivePool(nn.Module):
    """Average pooling to `side` x `side` cells as PyTorch's AdaptiveAvgPool2d: cell i of an axis of
    n is the mean of the entries from floor(i n / side) to ceil((i + 1) n / side). Jittor's is
    another where n is no multiple of `side`, and fails below it."""

    def __init__(self, side: int) -> None:
        self.side = side

    def execute(self, x: jt.Var) -> jt.Var:
        if x.shape[2:] == [self.side, self.side]:
            return x
        if all(n % self.side == 0 for n in x.shape[2:]):
            return nn.AdaptiveAvgPool2d((self.side, self.side))(x)
        shape = x.shape
        rows, columns = (jt.array(self.means(n)).stop_grad() for n in shape[2:])
        x = jt.matmul(x.reshape((-1, shape[3])), columns.transpose())
        x = x.reshape((*shape[:3], self.side))
        x = jt.matmul(x.transpose(0, 1, 3, 2).reshape((-1, shape[2])), rows.transpose())
        return x.reshape((*shape[:2], self.side, self.side)).transpose(0, 1, 3, 2)

    def means(self, n: int) -> np.ndarray:
        """float32 [side, n]: row i takes the mean that cell i is."""
        matrix = np.zeros((self.side, n), np.float32)
        for i in range(self.side):
            first, end = i * n // self.side, -(-(i + 1) * n // self.side)
            matrix[i, first:end] = 1 / (end - first)
        return matrix


class PooledConv(nn.Conv):
    """A head as SqueezeNet's: a 1x1 convolution, ReLU, and the mean over the image. float32 [B,
    channels * pixels] -> [B, classes]."""

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__(channels, classes, 1)

    def execute(self, x: jt.Var) -> jt.Var:
        pixels = x.reshape((x.shape[0], self.in_channels, -1, 1))
        return nn.relu(super().execute(pixels)).mean((2, 3))


def layer_at(model: nn.Module, name: str) -> nn.Module | None:
    """The layer `name` ("classifier.6") of a network; None where it has none of that name."""
    return dict(model.named_modules()).get(name)


def put(model: nn.Module, name: str, layer: nn.Module) -> None:
    """Let `layer` be the layer `name` of the network."""
    parent, _, key = name.rpartition(".")
    parent = layer_at(model, parent) if parent else model
    if isinstance(parent, nn.Sequential):
        parent.layers[key] = layer
    else:
        setattr(parent, key, layer)
