"""3x3 convolutions on the CPU by Winograd's algorithm (winograd.h), in place of the direct ones that Jittor asks oneDNN for.

A layer's forward pass and both gradients take a third to a half of the time, at the same accuracy (benchmarks/convolution.py).
Which of the two a layer takes follows from its shape and the processor alone, so that the same seed gives the same bits, in a
resumed run too.
Memory that is kept: 144 bytes for each pair of channels of the widest layer (38 MB for VGG-16's 512 x 512), and SCRATCH.
"""
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

from toolchain.cpu import onednn

# With fewer channels than this the transforms cost what the products spare.
LEAST_CHANNELS = 16
# With AVX-512 oneDNN's direct convolutions are so fast that they win on small images and narrow layers: Winograd takes outputs of at
# least this side, and of at least this side times channels (the smaller of each).
LEAST_SIDE, LEAST_PRODUCT = 14, 2500
# Bytes of transformed tiles at a time: smaller, and the matrix products get slow; larger, and the tiles leave the cache.
SCRATCH = 16 << 20

FORWARD = """
    @alias(x, in0)
    @alias(w, in1)
    winograd::convolve(x_p, w_p, BIAS, out0_p, x_shape0, x_shape1, w_shape0, x_shape2, x_shape3, int(data["pad"]), false);
"""
INPUT = """
    @alias(dy, in0)
    @alias(w, in1)
    winograd::convolve(dy_p, w_p, nullptr, out0_p, dy_shape0, dy_shape1, out0_shape1, dy_shape2, dy_shape3, 2 - int(data["pad"]), true);
"""
WEIGHTS = """
    @alias(x, in0)
    @alias(dy, in1)
    winograd::weight_gradient(x_p, dy_p, out0_p, x_shape0, x_shape1, dy_shape1, x_shape2, x_shape3, int(data["pad"]));
"""
BIAS = """
    winograd::bias_gradient(in0_p, out0_p, in0_shape0, in0_shape1, in0_shape2 * in0_shape3);
"""


def install(jt: ModuleType) -> None:
    """From now on every `nn.Conv` that `suits` goes this way; the others stay Jittor's."""
    direct, convolve, avx512 = jt.nn.Conv.execute, convolution(jt), has_avx512()

    def execute(self, x):
        return convolve(x, self.weight, self.bias, self.padding[0]) if suits(self, x, avx512) else direct(self, x)

    jt.nn.Conv.execute = execute


def has_avx512() -> bool:
    """Whether oneDNN uses it on this processor (dnnl_cpu_isa_avx512_core and what came after it have this bit)."""
    return bool(onednn().dnnl_get_effective_cpu_isa() & 0x20)


def convolution(jt: ModuleType) -> Callable:
    """A function of (x float32 [N, C, H, W], w float32 [K, C, 3, 3], bias float32 [K] or None, padding 0 to 2) that gives
    float32 [N, K, H', W']."""
    onednn()  # kernels find dnnl_sgemm in it
    header = Path(__file__).with_name("winograd.h").read_text().replace("#pragma once", f"#define SCRATCH_BYTES {SCRATCH}")

    class Winograd(jt.Function):  # unlike a gradient that jt.code is given, it does not keep the output until it is needed
        def execute(self, x, w, bias, padding):
            self.x, self.w, self.bias, self.padding = x, w, bias, padding
            n, _, height, width = x.shape
            shape = [n, w.shape[0], height + 2 * padding - 2, width + 2 * padding - 2]
            given = [x, w] if bias is None else [x, w, bias]
            return self.code(shape, given, FORWARD.replace("BIAS", "nullptr" if bias is None else "in2_p"))

        def grad(self, dy):
            return (self.code(self.x.shape, [dy, self.w], INPUT), self.code(self.w.shape, [self.x, dy], WEIGHTS),
                    None if self.bias is None else self.code(self.bias.shape, [dy], BIAS), None)

        def code(self, shape, given, source):
            return jt.code(shape, "float32", given, cpu_header=header, cpu_src=source, data=dict(pad=self.padding))

    return lambda x, w, bias, padding: Winograd()(x, w, bias, padding)


def suits(layer, x, avx512: bool) -> bool:
    """Whether `layer` (nn.Conv) is faster this way on images like `x`: 3x3, stride 1, square padding up to 2, float32, and large
    enough. An image of other channels than the layer's is none of them: Jittor's way refuses it."""
    if not (layer.kernel_size == (3, 3) and layer.stride == layer.dilation == (1, 1) and layer.groups == 1
            and layer.padding in ((0, 0), (1, 1), (2, 2)) and x.ndim == 4 and x.shape[1] == layer.weight.shape[1]
            and x.dtype == layer.weight.dtype == "float32"):
        return False
    channels, side = min(layer.weight.shape[:2]), min(x.shape[2:]) + 2 * layer.padding[0] - 2
    if avx512:
        return side >= LEAST_SIDE and side * channels >= LEAST_PRODUCT
    return side >= 1 and channels >= LEAST_CHANNELS
