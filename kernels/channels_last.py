"""Layers on images that have their channels last, float32 [N, H, W, C]: oneDNN convolves them as
they are (onednn.h), which plain ones it brings into a layout of its own before and after; those of
1x1 are one matrix product (channels_last.h).

Layer by layer, on one core of an Intel Xeon with AVX-512, batch 8, forward and both gradients: the
convolutions of MobileNet-V2 take 0.71 of what the other ways take on plain images, DenseNet-121's
0.79, ResNet-50's 0.98 (most of its 3x3 ones are Winograd's on plain images).
"""
import ctypes
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

from kernels import norm
from kernels import onednn as by_onednn
from kernels.conv import has_avx512
from kernels.sgemm import SGEMM

PIXELS = "in0_shape0 * in0_shape1 * in0_shape2"
FORWARD = f"""
    channels_last::convolve(in0_p, in1_p, out0_p, {PIXELS}, in0_shape3, out0_shape3, false);
"""
INPUT = f"""
    channels_last::convolve(in0_p, in1_p, out0_p, {PIXELS}, in0_shape3, out0_shape3, true);
"""
WEIGHTS = f"""
    channels_last::weight_gradient(in0_p, in1_p, out0_p, {PIXELS}, in0_shape3, in1_shape3);
"""
CUT = f"""
    channels_last::cut(in0_p, in1_p, in2_p, out0_p, MOST, {PIXELS}, in0_shape3);
"""
CUT_GRADIENT = f"""
    channels_last::cut_gradient(in0_p, in1_p, in2_p, out0_p, MOST, {PIXELS}, in0_shape3);
"""
JOIN = f"""
    channels_last::join(in0_p, in1_p, out0_p, {PIXELS}, in0_shape3, in1_shape3);
"""
PART = f"""
    channels_last::part(in0_p, out0_p, out1_p, {PIXELS}, out0_shape3, out1_shape3);
"""


def worth_it(onednn: ctypes.CDLL) -> bool:
    """Whether this processor is one that it was measured on."""
    return has_avx512(onednn)


def code(jt: ModuleType) -> Callable:
    """jt.code, float32 out, of a kernel that calls channels_last.h. For a list of shapes it gives
    as many Vars."""
    header = SGEMM + Path(__file__).with_name("channels_last.h").read_text()

    def made(shape, given, source: str):
        several = isinstance(shape[0], list)
        dtype = ["float32"] * len(shape) if several else "float32"
        return jt.code(shape, dtype, given, cpu_header=header, cpu_src=source)

    return made


def convolution(jt: ModuleType, onednn: ctypes.CDLL) -> Callable:
    """A function of (x float32 [N, H, W, C], the layer, an nn.Conv) that gives float32 [N, H', W',
    K], without the layer's bias. Raises AssertionError for other channels than the layer's, and
    where no pixel would come out."""
    convolve, made = by_onednn.convolution(jt, onednn, channels_last=True), code(jt)

    class Pointwise(jt.Function):
        def execute(self, x, w):
            self.x, self.w = x, w
            return made([*x.shape[:3], w.shape[0]], [x, w], FORWARD)

        def grad(self, dy):
            dx = made(self.x.shape, [dy, self.w], INPUT)
            dw = made(self.w.shape, [self.x, dy], WEIGHTS)
            return dx, dw

    def execute(x, layer):
        assert x.shape[3] == layer.in_channels, (x.shape, layer.weight.shape)
        bare = layer.stride == (1, 1) and layer.padding == (0, 0) and layer.groups == 1
        if bare and layer.kernel_size == (1, 1):
            return Pointwise.apply(x, layer.weight)
        return convolve(x, layer.weight, layer)

    return execute


def cutting(jt: ModuleType, most: float) -> Callable:
    """A function of (x float32 [N, H, W, C], w, b, both float32 [C]) that gives w x + b, negative
    values as 0 and those above `most` as `most`: a norm in test mode and the ReLU behind it, on all
    cores, where Jittor's own loops run on one. Its gradient asks the output."""
    made, sums = code(jt), norm.summing(jt)
    forward, gradient = (source.replace("MOST", f"{most!r}f") for source in (CUT, CUT_GRADIENT))

    class Cutting(jt.Function):
        def execute(self, x, w, b):
            self.w = w
            self.x = None if w.is_stop_grad() and b.is_stop_grad() else x
            self.y = made(list(x.shape), [x, w, b], forward)
            return self.y

        def grad(self, dy):
            dx = made(list(dy.shape), [dy, self.y, self.w], gradient)
            if self.x is None:
                return dx, None, None
            passed = made(list(dy.shape), [dy, self.y, jt.ones_like(self.w)], gradient)
            of_b, of_w = sums(passed, self.x, 3)
            return dx, of_w, of_b

    return Cutting.apply


def joining(jt: ModuleType) -> Callable:
    """A function of (a float32 [N, H, W, A], b float32 [N, H, W, B]) that gives both in one,
    float32 [N, H, W, A + B]."""
    made = code(jt)

    class Joining(jt.Function):
        def execute(self, a, b):
            self.shapes = list(a.shape), list(b.shape)
            return made([*a.shape[:3], a.shape[3] + b.shape[3]], [a, b], JOIN)

        def grad(self, dy):
            return made(list(self.shapes), [dy], PART)

    return Joining.apply
