"""Convolutions as oneDNN computes them, in a precision and a layout of our choice (onednn.h)."""
import ctypes
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

CONSTANTS = "constexpr bool BF16 = %d, CHANNELS_LAST = %d;\n"
CONVOLUTION = """
    const onednn::Convolution layer(
        {%(x)s_shape0, %(x)s_shape%(c)d, %(x)s_shape%(h)d, %(x)s_shape%(w)d},
        {%(filters)s_shape0, %(filters)s_shape1, %(filters)s_shape2, %(filters)s_shape3},
        {%(y)s_shape0, %(y)s_shape%(c)d, %(y)s_shape%(h)d, %(y)s_shape%(w)d}, data["groups"],
        {int(data["stride0"]), int(data["stride1"])},
        {int(data["padding0"]), int(data["padding1"])},
        {int(data["dilation0"]), int(data["dilation1"])});
    layer.%(what)s(in0_p, in1_p, out0_p);
"""
FORWARD = dict(what="forward", x="in0", filters="in1", y="out0")
INPUT = dict(what="input_gradient", x="out0", filters="in1", y="in0")
WEIGHTS = dict(what="weight_gradient", x="in0", filters="out0", y="in1")


def code(jt: ModuleType, onednn: ctypes.CDLL, bf16: bool, channels_last: bool) -> Callable:
    """jt.code, float32 out, of a kernel that calls onednn.h."""
    include = Path(onednn._name).parents[1] / "include"
    header = CONSTANTS % (bf16, channels_last) + Path(__file__).with_name("onednn.h").read_text()
    options = {f'FLAGS: -I"{include}" ': 1}

    def made(shape, given, source: str, data: dict[str, int]):
        with jt.flag_scope(compile_options=options):
            return jt.code(shape, "float32", given, cpu_header=header, cpu_src=source, data=data)

    return made


def convolution(jt: ModuleType, onednn: ctypes.CDLL, bf16: bool = False,
                channels_last: bool = False) -> Callable:
    """A function of (x float32 [N, C, H, W], w float32 [K, C / groups, kh, kw], the layer, whose
    stride, padding, dilation and groups count) that gives float32 [N, K, H', W']; channels last: of
    [N, H, W, C], and gives [N, H', W', K]. Raises AssertionError where no pixel would come out."""
    made = code(jt, onednn, bf16, channels_last)
    axes = dict(c=3, h=1, w=2) if channels_last else dict(c=1, h=2, w=3)

    class Convolution(jt.Function):
        def execute(self, x, w, layer):
            self.x, self.w, self.data = x, w, dict(groups=layer.groups)
            shape = [x.shape[0]] * 4
            shape[axes["c"]] = w.shape[0]
            for axis, place in enumerate((axes["h"], axes["w"])):
                stride, padding = layer.stride[axis], layer.padding[axis]
                dilation = layer.dilation[axis]
                reach = dilation * (w.shape[2 + axis] - 1) + 1
                shape[place] = (x.shape[place] + 2 * padding - reach) // stride + 1
                assert shape[place] > 0, (x.shape, w.shape)
                self.data |= {f"stride{axis}": stride, f"padding{axis}": padding,
                              f"dilation{axis}": dilation}
            return self.made(shape, [x, w], FORWARD)

        def grad(self, dy):
            dx = self.made(self.x.shape, [dy, self.w], INPUT)
            dw = self.made(self.w.shape, [self.x, dy], WEIGHTS)
            return dx, dw, None

        def made(self, shape, given, what: dict[str, str]):
            return made(shape, given, CONVOLUTION % (what | axes), self.data)

    return Convolution.apply
