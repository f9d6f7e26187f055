"""What a network of the user's own does otherwise in Jittor than it would in PyTorch, without an
error: by its layers, and by what they are given when it sees images. The numbers are those of the
lines of docs/jittor.md."""
from collections.abc import Callable

import numpy as np

import toolchain
from packing.parameters import NORMS

jt = toolchain.start()
from jittor import nn

# Where a mean is so many times its deviation, the variance E[x^2] - E[x]^2 is off by percents.
FAR = 300
ADAPTIVE = (nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d)


def differences(model: nn.Module, run: Callable[[], object]) -> list[str]:
    """A sentence for each layer that means something else, or whose numbers are lost. `run`: lets
    the network see some images."""
    layers = [(name, layer) for name, layer in model.named_modules() if name]
    said = [sentence for name, layer in layers if (sentence := _by_itself(name, layer))]
    heard: dict[str, str] = {}
    listening = [layer for name, layer in layers if _listen(name, layer, heard)]
    try:
        run()
    finally:
        for layer in listening:
            del layer.execute
    return said + [heard[name] for name, _ in layers if name in heard]


def _by_itself(name: str, layer: nn.Module) -> str | None:
    """Of a layer that differs whatever it is given."""
    kind = type(layer).__name__
    if isinstance(layer, nn.RNNBase) and layer.batch_first:
        return _sentence(name, 6, f"{kind}(batch_first=True) takes (batch, sequence, features) and "
                         "gives (sequence, batch, features)")
    if isinstance(layer, nn.Softmax) and not layer.args and "dim" not in layer.kw:
        return _sentence(name, 8, "Softmax without dim sums to 1 over the whole batch")
    if (isinstance(layer, nn.Pool) and layer.op == "mean" and any(layer.padding)
            and not layer.count_include_pad and not layer.ceil_mode):
        return _sentence(name, 2, "count_include_pad=False leaves the padding in the average, "
                         "unless ceil_mode=True is given too")
    return None


def _listen(name: str, layer: nn.Module, heard: dict[str, str]) -> bool:
    """Let the layer note in `heard` what it is given that it does otherwise; whether it can be."""
    look = _cells if isinstance(layer, ADAPTIVE) else _spread if isinstance(layer, NORMS) else None
    if look is None:
        return False

    def execute(x: jt.Var) -> jt.Var:
        if sentence := look(name, layer, x):
            heard[name] = sentence
        return type(layer).execute(layer, x)

    layer.execute = execute
    return True


def _cells(name: str, layer: nn.Module, x: jt.Var) -> str | None:
    size = layer.output_size
    rows, columns = size if isinstance(size, (tuple, list)) else (size, size)
    height, width = x.shape[2:]
    rows, columns = rows or height, columns or width
    if height % rows == 0 and width % columns == 0:
        return None
    kind = type(layer).__name__
    return _sentence(name, 3, f"{kind} makes {rows} x {columns} cells of {height} x {width}, which "
                     "do not divide, other cells than PyTorch's")


def _spread(name: str, layer: nn.Module, x: jt.Var) -> str | None:
    number = 11 if isinstance(layer, nn.LayerNorm) else 10
    values = _together(layer, x.numpy().astype(np.float64))
    mean, deviation = values.mean(1), np.sqrt(values.var(1) + layer.eps)
    worst = np.abs(mean / deviation).argmax()
    if abs(mean[worst]) < FAR * deviation[worst]:
        return None
    kind = type(layer).__name__
    return _sentence(name, number, f"{kind} is given numbers of mean {mean[worst]:.4g} and "
                     f"deviation {deviation[worst]:.2g}, and Jittor cannot tell that deviation")


def _together(layer: nn.Module, x: np.ndarray) -> np.ndarray:
    """[groups, numbers]: what is normalised together."""
    if isinstance(layer, nn.LayerNorm):
        return x.reshape(-1, int(np.prod(layer.normalized_shape)))
    if isinstance(layer, nn.GroupNorm):
        return x.reshape(len(x) * layer.num_groups, -1)
    if isinstance(layer, nn.InstanceNorm):
        return x.reshape(len(x) * x.shape[1], -1)
    return np.moveaxis(x, 1, 0).reshape(x.shape[1], -1)


def _sentence(name: str, number: int, what: str) -> str:
    return f"{name}: {what} (docs/jittor.md, line {number})"
