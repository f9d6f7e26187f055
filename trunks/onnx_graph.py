"""The graph of a network as an ONNX model, written down while two images go through it.

Layers and functions of Jittor take a Traced in place of a Var: it holds the Var, and each step
that it goes through becomes a node of the graph. What has no form here is refused by name. Needs
the package onnx.
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence

import numpy as np

import toolchain
from settings.config import ConfigError
from trunks.channels_last import plain_images
from trunks.layers import AdaptivePool, PooledConv

jt = toolchain.start()
import onnx
from jittor import nn
from onnx import TensorProto, helper, numpy_helper

OPSET = 18
IR_VERSION = 8  # the one that came with this opset: runtimes of three years ago read it
BATCH = 2  # images that go through; the graph takes any number


class Graph:
    """Nodes and constants in the making. `names`: {id of a parameter: its name in the file}."""

    def __init__(self, names: dict[int, str]) -> None:
        self.names = names
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, onnx.TensorProto] = {}

    def add(self, kind: str, inputs: Sequence, value: jt.Var, **attributes) -> "Traced":
        """A node whose output is `value`. `inputs`: Traced, Vars, arrays or numbers."""
        name = f"{kind}_{len(self.nodes)}"
        self.nodes.append(
            helper.make_node(kind, [self.named(x) for x in inputs], [name], name, **attributes)
        )
        return Traced(self, name, value)

    def named(self, x) -> str:
        """The name of what a node takes; a constant is put into the graph."""
        if isinstance(x, Traced):
            return x.name
        array = x.numpy() if isinstance(x, jt.Var) else np.asarray(x)
        if array.dtype == np.float64:
            array = array.astype(np.float32)
        name = self.names.get(id(x)) or f"constant_{len(self.constants)}"
        if name not in self.constants:
            self.constants[name] = numpy_helper.from_array(np.asarray(array, order="C"), name)
        return name


class Traced:
    """A Var on its way through the network, and the name of what it is in the graph."""

    def __init__(self, graph: Graph, name: str, value: jt.Var) -> None:
        self.graph, self.name, self.value = graph, name, value

    @property
    def shape(self) -> list[int]:
        return self.value.shape

    @property
    def ndim(self) -> int:
        return len(self.shape)

    def __getattr__(self, name: str):
        raise NotImplementedError(f"Var.{name}")

    @property
    def data(self) -> "Traced":
        return self

    def float_auto(self) -> "Traced":
        return self

    float32 = float = contiguous = float_auto

    def __len__(self) -> int:
        return self.shape[0]

    def size(self, axis: int | None = None):
        return self.shape if axis is None else self.shape[axis]

    def _with(self, kind: str, other, reverse: bool, compute: Callable) -> "Traced":
        mine, theirs = self.value, other.value if isinstance(other, Traced) else other
        inputs = (self, np.float32(other) if isinstance(other, (int, float)) else other)
        if reverse:
            return self.graph.add(kind, inputs[::-1], compute(theirs, mine))
        return self.graph.add(kind, inputs, compute(mine, theirs))

    def __add__(self, other):
        return self._with("Add", other, False, lambda a, b: a + b)

    def __radd__(self, other):
        return self._with("Add", other, True, lambda a, b: a + b)

    def __sub__(self, other):
        return self._with("Sub", other, False, lambda a, b: a - b)

    def __rsub__(self, other):
        return self._with("Sub", other, True, lambda a, b: a - b)

    def __mul__(self, other):
        return self._with("Mul", other, False, lambda a, b: a * b)

    def __rmul__(self, other):
        return self._with("Mul", other, True, lambda a, b: a * b)

    def __truediv__(self, other):
        return self._with("Div", other, False, lambda a, b: a / b)

    def reshape(self, *shape) -> "Traced":
        shape = shape[0] if len(shape) == 1 and isinstance(shape[0], (list, tuple)) else shape
        value = self.value.reshape(tuple(shape))
        sides = list(value.shape)
        if self.shape[0] != BATCH or sides[0] != BATCH:
            raise NotImplementedError(f"a reshape of {self.shape} to {sides}, which mixes images")
        return self.graph.add(
            "Reshape", [self, np.array([0, *sides[1:]], np.int64)], value
        )  # 0: as it is

    view = reshape

    def flatten(self, start_dim: int = 0, end_dim: int = -1) -> "Traced":
        return self.reshape(self.value.flatten(start_dim, end_dim).shape)

    def transpose(self, *axes) -> "Traced":
        axes = axes[0] if len(axes) == 1 and isinstance(axes[0], (list, tuple)) else axes
        order = list(range(self.ndim))
        if len(axes) == 2 and self.ndim > 2:
            order[axes[0]], order[axes[1]] = order[axes[1]], order[axes[0]]
        else:
            order = list(axes) or order[::-1]
        return self.graph.add("Transpose", [self], self.value.transpose(*axes), perm=order)

    permute = transpose

    def mean(self, dims=None, keepdims: bool = False, **other) -> "Traced":
        dims = other.get("dim", dims)
        dims = [dims] if isinstance(dims, int) else list(dims)
        value = self.value.mean(dims, keepdims=keepdims)
        return self.graph.add(
            "ReduceMean", [self, np.array(dims, np.int64)], value, keepdims=int(keepdims)
        )

    def __getitem__(self, key) -> "Traced":
        keys, x = key if isinstance(key, tuple) else (key,), self
        taken = 0  # axes that are gone
        for axis, part in enumerate(keys):
            axis -= taken
            if isinstance(part, int):
                index = (slice(None),) * axis + (part,)
                x = self.graph.add("Gather", [x, np.int64(part)], x.value[index], axis=axis)
                taken += 1
            elif isinstance(part, slice) and part.step in (None, 1):
                first, end, _ = part.indices(x.shape[axis])
                if (first, end) != (0, x.shape[axis]):
                    x = x.cut(axis, first, end)
            else:
                raise NotImplementedError(f"an index {part!r}")
        return x

    def cut(self, axis: int, first: int, end: int) -> "Traced":
        value = self.value[(slice(None),) * axis + (slice(first, end),)]
        ends = [np.array([number], np.int64) for number in (first, end, axis)]
        return self.graph.add("Slice", [self, *ends], value)


# ---- layers


def conv(graph: Graph, layer: nn.Conv, x: Traced) -> Traced:
    inputs = [x, layer.weight] + ([layer.bias] if layer.bias is not None else [])
    return graph.add(
        "Conv",
        inputs,
        layer.execute(x.value),
        kernel_shape=list(layer.weight.shape[2:]),
        strides=list(layer.stride),
        pads=[*layer.padding] * 2,
        dilations=list(layer.dilation),
        group=layer.groups,
    )


def linear(graph: Graph, layer: nn.Linear, x: Traced) -> Traced:
    value = layer.execute(x.value)
    bias = [layer.bias] if layer.bias is not None else []
    if x.ndim == 2:
        return graph.add("Gemm", [x, layer.weight, *bias], value, transB=1)
    turned = graph.add("Transpose", [layer.weight], layer.weight, perm=[1, 0])
    product = graph.add("MatMul", [x, turned], value)
    return graph.add("Add", [product, *bias], value) if bias else product


def batch_norm(graph: Graph, layer: nn.BatchNorm, x: Traced) -> Traced:
    count = layer.running_mean.shape[0]
    scale, shift = (
        part if isinstance(part, jt.Var) else np.full(count, part, np.float32)
        for part in (layer.weight, layer.bias)
    )
    return graph.add(
        "BatchNormalization",
        [x, scale, shift, layer.running_mean, layer.running_var],
        layer.execute(x.value),
        epsilon=layer.eps,
    )


def layer_norm(graph: Graph, layer: nn.LayerNorm, x: Traced) -> Traced:
    scale, shift = (
        part if isinstance(part, jt.Var) else np.full(layer.normalized_shape, part, np.float32)
        for part in (layer.weight, layer.bias)
    )
    return graph.add(
        "LayerNormalization",
        [x, scale, shift],
        layer.execute(x.value),
        axis=-len(layer.normalized_shape),
        epsilon=layer.eps,
    )


def pool(graph: Graph, layer: nn.Pool, x: Traced) -> Traced:
    """Windows that go beyond the image at the end are written as padding there: the same windows
    whatever the runtime's rounding."""
    value = layer.execute(x.value)
    if (
        layer.op == "mean"
        and tuple(x.shape[2:]) == layer.kernel_size
        and list(value.shape[2:]) == [1, 1]
    ):
        return graph.add("GlobalAveragePool", [x], value)
    if (
        layer.op not in ("maximum", "mean")
        or layer.return_indices
        or (layer.op == "mean" and layer.ceil_mode)
    ):
        raise NotImplementedError(f"a pooling by {layer.op}")
    begin = list(layer.padding)
    needed = [
        (cells - 1) * stride + kernel - side - first
        for cells, stride, kernel, side, first in zip(
            value.shape[2:], layer.stride, layer.kernel_size, x.shape[2:], begin
        )
    ]
    end = [max(0, need) for need in needed]
    attributes = dict(
        kernel_shape=list(layer.kernel_size), strides=list(layer.stride), pads=begin + end
    )
    if layer.op == "maximum":
        return graph.add("MaxPool", [x], value, **attributes)
    return graph.add("AveragePool", [x], value, count_include_pad=1, **attributes)


def adaptive_pool(graph: Graph, layer: AdaptivePool | nn.AdaptiveAvgPool2d, x: Traced) -> Traced:
    """Equal windows as a pooling; those of AdaptivePool that are not, as products with the
    matrices of means."""
    value = layer.execute(x.value)
    sides, cells = x.shape[2:], value.shape[2:]
    if list(cells) == [1, 1]:
        return graph.add("GlobalAveragePool", [x], value)
    if list(sides) == list(cells):
        return x
    if isinstance(layer, AdaptivePool) and any(n % layer.side for n in sides):
        rows, columns = (layer.means(n) for n in sides)
        wide = graph.add("MatMul", [x, np.ascontiguousarray(columns.T)], value)
        return graph.add("MatMul", [rows, wide], value)
    strides = [side // cell for side, cell in zip(sides, cells)]
    kernel = [side - (cell - 1) * stride for side, cell, stride in zip(sides, cells, strides)]
    return graph.add("AveragePool", [x], value, kernel_shape=kernel, strides=strides)


def pooled_conv(graph: Graph, layer: PooledConv, x: Traced) -> Traced:
    """The head of SqueezeNet."""
    maps = x.reshape((x.shape[0], layer.in_channels, -1, 1))
    convolved = jt.nn.conv2d(maps.value, layer.weight, layer.bias)
    inputs = [maps, layer.weight] + ([layer.bias] if layer.bias is not None else [])
    return relu(graph, graph.add("Conv", inputs, convolved)).mean((2, 3))


def same(graph: Graph, layer: nn.Module, x: Traced) -> Traced:
    """What does nothing in test mode."""
    return x


LAYERS = {
    PooledConv: pooled_conv,
    nn.Conv: conv,
    nn.Linear: linear,
    nn.BatchNorm: batch_norm,
    nn.LayerNorm: layer_norm,
    nn.Pool: pool,
    AdaptivePool: adaptive_pool,
    nn.AdaptiveAvgPool2d: adaptive_pool,
    nn.Dropout: same,
    nn.Dropout2d: same,
    nn.DropPath: same,
    nn.Identity: same,
    nn.ReLU: lambda graph, layer, x: relu(graph, x),
    nn.ReLU6: lambda graph, layer, x: relu6(graph, x),
    nn.GELU: lambda graph, layer, x: gelu(graph, x),
    nn.SiLU: lambda graph, layer, x: silu(graph, x),
    nn.Sigmoid: lambda graph, layer, x: sigmoid(graph, x),
    nn.Softmax: lambda graph, layer, x: softmax(graph, x, *layer.args, **layer.kw),
}


# ---- functions


def relu(graph: Graph, x: Traced) -> Traced:
    return graph.add("Relu", [x], nn.relu(x.value))


def relu6(graph: Graph, x: Traced) -> Traced:
    return graph.add("Clip", [x, np.float32(0), np.float32(6)], nn.relu6(x.value))


def sigmoid(graph: Graph, x: Traced) -> Traced:
    return graph.add("Sigmoid", [x], jt.sigmoid(x.value))


def silu(graph: Graph, x: Traced) -> Traced:
    return x * sigmoid(graph, x)


def gelu(graph: Graph, x: Traced) -> Traced:
    scaled = x / float(np.sqrt(2))
    return x * (graph.add("Erf", [scaled], jt.erf(scaled.value)) + 1.0) * 0.5


def softmax(graph: Graph, x: Traced, dim: int) -> Traced:
    return graph.add("Softmax", [x], nn.softmax(x.value, dim=dim), axis=dim)


def matmul(graph: Graph, a, b) -> Traced:
    values = (x.value if isinstance(x, Traced) else x for x in (a, b))
    return graph.add("MatMul", [a, b], jt.matmul(*values))


def concat(graph: Graph, parts: Sequence, dim: int = 0) -> Traced:
    values = [part.value if isinstance(part, Traced) else part for part in parts]
    first = next(part for part in parts if isinstance(part, Traced))
    parts = [
        part if isinstance(part, Traced) else for_each_image(graph, part, first) for part in parts
    ]
    return graph.add("Concat", parts, jt.concat(values, dim=dim), axis=dim)


def for_each_image(graph: Graph, constant: jt.Var, beside: Traced) -> Traced:
    """A constant that is the same for each image of a batch, for as many as there are in
    `beside`."""
    array = constant.numpy()
    if len(array) != BATCH or not np.array_equal(array[0], array[1]):
        raise NotImplementedError("a constant that differs from image to image")
    count = graph.add("Shape", [beside], beside.value, start=0, end=1)
    shape = graph.add("Concat", [count, np.array(array.shape[1:], np.int64)], beside.value, axis=0)
    return graph.add("Expand", [array[:1], shape], constant)


def split(graph: Graph, x: Traced, sizes: int | Sequence[int], dim: int = 0) -> tuple[Traced, ...]:
    side = x.shape[dim]
    if isinstance(sizes, int):
        sizes = [min(sizes, side - first) for first in range(0, side, sizes)]
    ends = np.cumsum(sizes)
    return tuple(x.cut(dim, int(end - size), int(end)) for size, end in zip(sizes, ends))


FUNCTIONS = {
    (jt, "concat"): concat,
    (jt, "split"): split,
    (jt, "matmul"): matmul,
    (nn, "matmul"): matmul,
    (nn, "relu"): relu,
    (nn, "relu6"): relu6,
    (nn, "gelu"): gelu,
    (nn, "silu"): silu,
    (nn, "softmax"): softmax,
    (jt, "sigmoid"): sigmoid,
    (jt, "reshape"): lambda graph, x, *shape: x.reshape(*shape),
    (jt, "transpose"): lambda graph, x, *axes: x.transpose(*axes),
    (jt, "flatten"): lambda graph, x, *axes: x.flatten(*axes),
    (jt, "mean"): lambda graph, x, *dims, **how: x.mean(*dims, **how),
}


# ---- the whole


def traced(arguments: Sequence) -> Traced | None:
    """The first Traced among the arguments of a call, or in a list of them."""
    for argument in arguments:
        if isinstance(argument, Traced):
            return argument
        if isinstance(argument, (list, tuple)) and (found := traced(argument)) is not None:
            return found
    return None


def subclasses(kind: type) -> Iterator[type]:
    """All that inherit from it, at any distance."""
    for child in kind.__subclasses__():
        yield child
        yield from subclasses(child)


@contextlib.contextmanager
def tracing() -> Iterator[None]:
    """Within it, Jittor's layers and functions take a Traced too."""
    call, functions = nn.Module.__call__, {place: getattr(*place) for place in FUNCTIONS}

    # Once a layer has a hook, Jittor lets its whole class go past nn.Module.__call__: the class's
    # own runs the hooks, and calls what it kept under this name.
    hooked = [kind for kind in subclasses(nn.Module) if "__hooked_call__" in vars(kind)]

    def layer_call(layer: nn.Module, *arguments, **others):
        x = traced(arguments)
        kind = next((kind for kind in type(layer).__mro__ if kind in LAYERS), None)
        if x is None or kind is None:
            return call(layer, *arguments, **others)
        return LAYERS[kind](x.graph, layer, x)

    def either(ours: Callable, jittors: Callable) -> Callable:
        def function(*arguments, **others):
            x = traced(arguments)
            if x is None:
                return jittors(*arguments, **others)
            return ours(x.graph, *arguments, **others)

        return function

    try:
        nn.Module.__call__ = layer_call
        for kind in hooked:
            kind.__hooked_call__ = layer_call
        for (room, name), ours in FUNCTIONS.items():
            setattr(room, name, either(ours, functions[room, name]))
        yield
    finally:
        nn.Module.__call__ = call
        for kind in hooked:
            kind.__hooked_call__ = call
        for (room, name), jittors in functions.items():
            setattr(room, name, jittors)


def onnx_model(
    net: nn.Module, names: dict[int, str], image_size: int, about: dict[str, str]
) -> bytes:
    """The network, in test mode, as the content of an .onnx file.

    Input `images`, float32 [any number, 3, image_size, image_size], normalised; output `logits`,
    float32 [as many, classes]. `names`: {id of a parameter: its name}; `about`: what else the file
    says. Raises ConfigError for a network with something in it that has no form here.
    """
    images = jt.array(
        np.random.default_rng(0).normal(size=(BATCH, 3, image_size, image_size)).astype(np.float32)
    )
    graph = Graph(names)
    try:
        with tracing(), plain_images(net), jt.no_grad():
            logits = net(Traced(graph, "images", images))
    except Exception as error:  # a network of the user's own can do anything with what it is given
        what = " ".join(str(error).split())[:200]
        raise ConfigError(
            "the network cannot be written as ONNX: it uses something that is not known here "
            f"({what}). Export it as .safetensors or .pth, and from PyTorch as ONNX."
        ) from error
    graph.nodes[-1].output[0] = "logits"
    model = helper.make_model(
        helper.make_graph(
            graph.nodes,
            about["task"],
            [
                helper.make_tensor_value_info(
                    "images", TensorProto.FLOAT, ["images", 3, image_size, image_size]
                )
            ],
            [
                helper.make_tensor_value_info(
                    "logits", TensorProto.FLOAT, ["images", logits.shape[1]]
                )
            ],
            list(graph.constants.values()),
        ),
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
        producer_name="packnet-jittor",
    )
    helper.set_model_props(model, about)
    onnx.checker.check_model(model)
    return model.SerializeToString()
