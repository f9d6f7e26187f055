"""Depthwise convolutions, a filter of its own for each channel (depthwise.h): oneDNN's bring images
into a layout of its own and back, which costs more than the few products.

Nothing depends on the number of threads, so that the same input gives the same bits.
"""
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType

CONSTANTS = """
namespace depthwise { namespace {
constexpr int KH = %d, KW = %d, SH = %d, SW = %d, PH = %d, PW = %d;
} }
"""
CALL = """
    depthwise::%s(in0_p, in1_p, out0_p, in0_shape0, in0_shape1,
                  {%s_shape2, %s_shape3, %s_shape2, %s_shape3});
"""
FORWARD = CALL % ("forward", "in0", "in0", "out0", "out0")
INPUT = CALL % ("input_gradient", "out0", "out0", "in0", "in0")
WEIGHTS = CALL % ("weight_gradient", "in0", "in0", "in1", "in1")


def convolution(jt: ModuleType) -> Callable:
    """A function of (x float32 [N, C, H, W], w float32 [C, 1, kh, kw], stride, padding, both pairs
    of int) that gives float32 [N, C, H', W']. The output must have a pixel."""
    code = Path(__file__).with_name("depthwise.h").read_text()

    class Depthwise(jt.Function):
        def execute(self, x, w, stride: Sequence[int], padding: Sequence[int]):
            self.x, self.w = x, w
            self.header = CONSTANTS % (*w.shape[2:], *stride, *padding) + code
            sides = [(side + 2 * pad - kernel) // step + 1 for side, kernel, step, pad
                     in zip(x.shape[2:], w.shape[2:], stride, padding)]
            return self.made([*x.shape[:2], *sides], [x, w], FORWARD)

        def grad(self, dy):
            dx = self.made(self.x.shape, [dy, self.w], INPUT)
            dw = self.made(self.w.shape, [self.x, dy], WEIGHTS)
            return dx, dw, None, None

        def made(self, shape, given, source):
            return jt.code(shape, "float32", given, cpu_header=self.header, cpu_src=source)

    return Depthwise.apply
