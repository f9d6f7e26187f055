"""Convolutions and linear layers whose factors are rounded to bfloat16, by oneDNN (bf16.h), on
processors with AVX-512 BF16 or AMX. Sums are float32, and so is everything that is stored.
"""
import ctypes
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

BF16 = 0xE7  # the bits of dnnl_cpu_isa_avx512_core_bf16, which AMX has too

CONVOLUTION = """
    const bf16::Convolution layer(
        {%(x)s_shape0, %(x)s_shape1, %(x)s_shape2, %(x)s_shape3},
        {%(w)s_shape0, %(w)s_shape1, %(w)s_shape2, %(w)s_shape3},
        {%(y)s_shape0, %(y)s_shape1, %(y)s_shape2, %(y)s_shape3}, data["groups"],
        {int(data["stride0"]), int(data["stride1"])},
        {int(data["padding0"]), int(data["padding1"])},
        {int(data["dilation0"]), int(data["dilation1"])});
"""
FORWARD = CONVOLUTION % dict(x="in0", w="in1", y="out0") + """
    layer.forward(in0_p, in1_p, out0_p);
"""
INPUT = CONVOLUTION % dict(x="out0", w="in1", y="in0") + """
    layer.input_gradient(in0_p, in1_p, out0_p);
"""
WEIGHTS = CONVOLUTION % dict(x="in0", w="out0", y="in1") + """
    layer.weight_gradient(in0_p, in1_p, out0_p);
"""
PRODUCT = """
    bf16::product(in0_p, %s, in1_p, %s, out0_p, out0_shape0, out0_shape1, %s);
"""
FORWARD_PRODUCT = PRODUCT % ("false", "true", "in0_shape1")
INPUT_PRODUCT = PRODUCT % ("false", "false", "in0_shape1")
WEIGHTS_PRODUCT = PRODUCT % ("true", "false", "in0_shape0")


def supported(onednn: ctypes.CDLL) -> bool:
    """Whether oneDNN multiplies in bfloat16 on this processor; elsewhere it only acts as if."""
    return onednn.dnnl_get_effective_cpu_isa() & BF16 == BF16


def install(jt: ModuleType, onednn: ctypes.CDLL) -> None:
    """From now on every `nn.Conv` and `nn.Linear` goes this way."""
    by_jittor, by_jittor_linear = jt.nn.Conv.execute, jt.nn.Linear.execute
    convolve, multiply = convolution(jt, onednn), product(jt, onednn)

    def execute(self, x):
        fits = x.ndim == 4 and x.shape[1] == self.in_channels
        if not (fits and x.dtype == self.weight.dtype == "float32" and x.numel()):
            return by_jittor(self, x)  # which refuses what does not fit
        y = convolve(x, self.weight, self)
        return y if self.bias is None else y + self.bias.broadcast(y.shape, [0, 2, 3])

    def execute_linear(self, x):
        fits = x.shape[-1] == self.in_features
        if not (fits and x.dtype == self.weight.dtype == "float32" and x.numel()):
            return by_jittor_linear(self, x)
        y = multiply(x.reshape((-1, self.in_features)), self.weight)
        y = y.reshape((*x.shape[:-1], self.out_features))
        return y if self.bias is None else y + self.bias

    jt.nn.Conv.execute, jt.nn.Linear.execute = execute, execute_linear


def code(jt: ModuleType, onednn: ctypes.CDLL) -> Callable:
    """jt.code, float32 out, of a kernel that calls bf16.h."""
    include = Path(onednn._name).parents[1] / "include"
    header = Path(__file__).with_name("bf16.h").read_text()
    options = {f'FLAGS: -I"{include}" ': 1}

    def made(shape, given, source: str, data: dict[str, int]):
        with jt.flag_scope(compile_options=options):
            return jt.code(shape, "float32", given, cpu_header=header, cpu_src=source, data=data)

    return made


def convolution(jt: ModuleType, onednn: ctypes.CDLL) -> Callable:
    """A function of (x float32 [N, C, H, W], w float32 [K, C / groups, kh, kw], the layer, whose
    stride, padding, dilation and groups count) that gives float32 [N, K, H', W']. Raises
    AssertionError where no pixel would come out."""
    made = code(jt, onednn)

    class Convolution(jt.Function):
        def execute(self, x, w, layer):
            self.x, self.w, self.data = x, w, dict(groups=layer.groups)
            sides = []
            for axis in (0, 1):
                stride, padding = layer.stride[axis], layer.padding[axis]
                dilation = layer.dilation[axis]
                reach = dilation * (w.shape[2 + axis] - 1) + 1
                sides.append((x.shape[2 + axis] + 2 * padding - reach) // stride + 1)
                self.data |= {f"stride{axis}": stride, f"padding{axis}": padding,
                              f"dilation{axis}": dilation}
            assert min(sides) > 0, (x.shape, w.shape)
            return made([x.shape[0], w.shape[0], *sides], [x, w], FORWARD, self.data)

        def grad(self, dy):
            dx = made(self.x.shape, [dy, self.w], INPUT, self.data)
            dw = made(self.w.shape, [self.x, dy], WEIGHTS, self.data)
            return dx, dw, None

    return Convolution.apply


def product(jt: ModuleType, onednn: ctypes.CDLL) -> Callable:
    """A function of (x float32 [N, C], w float32 [K, C]) that gives x times w turned, float32
    [N, K]."""
    made = code(jt, onednn)

    class Product(jt.Function):
        def execute(self, x, w):
            self.x, self.w = x, w
            return made([x.shape[0], w.shape[0]], [x, w], FORWARD_PRODUCT, {})

        def grad(self, dy):
            dx = made(self.x.shape, [dy, self.w], INPUT_PRODUCT, {})
            dw = made(self.w.shape, [dy, self.x], WEIGHTS_PRODUCT, {})
            return dx, dw

    return Product.apply
