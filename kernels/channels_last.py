"""Layers on images that have their channels last, float32 [N, H, W, C]: oneDNN convolves them as
they are (onednn.h), which plain ones it brings into a layout of its own before and after; those of
1x1 are one matrix product (channels_last.h), those of 3x3 Winograd's (winograd_last.h), and for
these two the frozen norm and the ReLU behind them happen while the output is in the cache
(finish.h).

Layer by layer, on one core of an Intel Xeon with AVX-512, batch 8, forward and both gradients: the
convolutions of MobileNet-V2 take 0.71 of what the other ways take on plain images, DenseNet-121's
0.79, ResNet-50's 0.98; the last two without Winograd's here (winograd_last.h).
"""
import ctypes
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

from kernels import norm, winograd
from kernels import onednn as by_onednn
from kernels.conv import has_avx512
from kernels.sgemm import SGEMM

# Winograd's algorithm: of outputs of at least this side, from and to at least so many channels.
LEAST_SIDE, LEAST_CHANNELS = 14, 16

NO_LIMIT = 3e38
PIXELS = "in0_shape0 * in0_shape1 * in0_shape2"
POINTWISE = dict(
    forward=f"""
    channels_last::convolve(in0_p, in1_p, out0_p, {PIXELS}, in0_shape3, out0_shape3, false,
                            {{AFTER}});
""",
    input=f"""
    channels_last::convolve(in0_p, in1_p, out0_p, {PIXELS}, in0_shape3, out0_shape3, true);
""",
    weights=f"""
    channels_last::weight_gradient(in0_p, in1_p, out0_p, {PIXELS}, in0_shape3, in1_shape3);
""")
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


def text(name: str) -> str:
    return Path(__file__).with_name(name).read_text()


def code(jt: ModuleType) -> Callable:
    """jt.code, float32 out, of a kernel that calls channels_last.h. For a list of shapes it gives
    as many Vars."""
    header = SGEMM + text("finish.h") + text("channels_last.h")

    def made(shape, given, source: str):
        several = isinstance(shape[0], list)
        dtype = ["float32"] * len(shape) if several else "float32"
        return jt.code(shape, dtype, given, cpu_header=header, cpu_src=source)

    return made


def convolution(jt: ModuleType, onednn: ctypes.CDLL) -> Callable:
    """A function of (x float32 [N, H, W, C], the layer, an nn.Conv, whose bias does not count) that
    gives float32 [N, H', W', K]. Raises AssertionError for other channels than the layer's, and
    where no pixel would come out.

    A layer that `finishes` may be given more: scale and offset, float32 [K], and an image like the
    output; it gives max(scale y + offset + image, 0) then, and what is above `most` as `most`. Its
    gradient asks the output; scale and offset have none.
    """
    convolve = by_onednn.convolution(jt, onednn, channels_last=True)
    headers = dict(pointwise=SGEMM + text("finish.h") + text("channels_last.h"),
                   winograd=winograd.header() + text("finish.h") + text("winograd_last.h"))
    sources = dict(pointwise=POINTWISE, winograd=winograd.LAST)

    class Own(jt.Function):
        def execute(self, x, w, how: str, padding: int, most: float, *after):
            self.x, self.w, self.how, self.padding = x, w, how, padding
            self.most, self.after = most, after
            sides = [side + 2 * padding - w.shape[2] + 1 for side in x.shape[1:3]]
            y = self.made("forward", [x.shape[0], *sides, w.shape[0]], [x, w, *after])
            self.y = y if after else None
            return y

        def grad(self, dy):
            passed = dy
            if self.after:
                passed = dy * (self.y > 0)
                if self.most < NO_LIMIT:
                    passed = passed * (self.y < self.most)
                dy = passed * self.after[0].broadcast(dy.shape, [0, 1, 2])
            dx = self.made("input", self.x.shape, [dy, self.w])
            dw = self.made("weights", self.w.shape, [self.x, dy])
            return dx, dw, None, None, None, *(None, None, passed)[:len(self.after)]

        def made(self, what: str, shape, given):
            after = [f"in{i}_p" for i in range(2, len(given))]
            if after:
                after = [*after, "nullptr"][:3] + [f"{self.most!r}f"]
            source = sources[self.how][what].replace("AFTER", ", ".join(after))
            return jt.code(shape, "float32", given, cpu_header=headers[self.how], cpu_src=source,
                           data=dict(pad=self.padding))

    def execute(x, layer, *after, most: float = NO_LIMIT):
        assert x.shape[3] == layer.in_channels, (x.shape, layer.weight.shape)
        how = way(x, layer)
        if how == "direct":
            return convolve(x, layer.weight, layer)
        return Own.apply(x, layer.weight, how, layer.padding[0], most, *after)

    return execute


def finishes(x, layer) -> bool:
    return way(x, layer) != "direct"


def way(x, layer) -> str:
    """The fastest for `layer` (nn.Conv) on images like `x`: "winograd", "pointwise" or
    "direct"."""
    if layer.stride != (1, 1) or layer.groups > 1 or layer.dilation != (1, 1):
        return "direct"
    if layer.kernel_size == (1, 1) and layer.padding == (0, 0):
        return "pointwise"
    if layer.kernel_size == (3, 3) and layer.padding in ((0, 0), (1, 1), (2, 2)):
        side = min(x.shape[1:3]) + 2 * layer.padding[0] - 2
        if side >= LEAST_SIDE and min(layer.weight.shape[:2]) >= LEAST_CHANNELS:
            return "winograd"
    return "direct"


def cutting(jt: ModuleType, most: float) -> Callable:
    """A function of (x float32 [N, H, W, C], w, b, both float32 [C]) that gives w x + b, negative
    values as 0 and those above `most` as `most`: a norm in test mode and the ReLU6 behind it. Its
    gradient asks the output."""
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
