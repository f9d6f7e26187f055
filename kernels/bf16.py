"""Convolutions and linear layers whose factors are rounded to bfloat16, by oneDNN
(onednn.h), on processors with AVX-512 BF16 or AMX. Sums are float32, and so is everything that is
stored.

How fast depends on the processor's rate of bf16 products (benchmarks/step.py --precision bf16
--against fp32): AMX and recent AMD processors have a multiple of float32's; on an Intel Xeon of
2023 without AMX it is half of it (93 against 188 GFLOP/s on a core), and all is slower.
"""
import ctypes
from collections.abc import Callable
from types import ModuleType

from kernels.onednn import code, convolution

BF16 = 0xE7  # the bits of dnnl_cpu_isa_avx512_core_bf16, which AMX has too

PRODUCT = """
    onednn::product(in0_p, %s, in1_p, %s, out0_p, out0_shape0, out0_shape1, %s);
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
    convolve, multiply = convolution(jt, onednn, bf16=True), product(jt, onednn)

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


def product(jt: ModuleType, onednn: ctypes.CDLL) -> Callable:
    """A function of (x float32 [N, C], w float32 [K, C]) that gives x times w turned, float32
    [N, K]."""
    made = code(jt, onednn, bf16=True, channels_last=False)

    class Product(jt.Function):
        def execute(self, x, w):
            self.x, self.w = x, w
            return made([x.shape[0], w.shape[0]], [x, w], FORWARD_PRODUCT, {})

        def grad(self, dy):
            dx = made(self.x.shape, [dy, self.w], INPUT_PRODUCT, {})
            dw = made(self.w.shape, [dy, self.x], WEIGHTS_PRODUCT, {})
            return dx, dw

    return Product.apply
