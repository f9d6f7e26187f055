"""1x1 convolutions as the matrix products that they are (pointwise.h), by oneDNN's sgemm: its
convolutions bring images into a layout of their own and back, which on large images costs as much
as the products.

Nothing depends on the number of threads, so that the same input gives the same bits.
"""
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

from kernels.sgemm import SGEMM

FORWARD = """
    pointwise::convolve(in0_p, in1_p, out0_p, in0_shape0, in0_shape1, out0_shape1,
                        in0_shape2 * in0_shape3, false);
"""
INPUT = """
    pointwise::convolve(in0_p, in1_p, out0_p, in0_shape0, in0_shape1, out0_shape1,
                        in0_shape2 * in0_shape3, true);
"""
WEIGHTS = """
    pointwise::weight_gradient(in0_p, in1_p, out0_p, in0_shape0, in0_shape1, in1_shape1,
                               in0_shape2 * in0_shape3);
"""


def convolution(jt: ModuleType) -> Callable:
    """A function of (x float32 [N, C, H, W], w float32 [K, C, 1, 1]) that gives float32
    [N, K, H, W]."""
    header = SGEMM + Path(__file__).with_name("pointwise.h").read_text()

    class Pointwise(jt.Function):
        def execute(self, x, w):
            self.x, self.w = x, w
            return code([x.shape[0], w.shape[0], *x.shape[2:]], [x, w], FORWARD)

        def grad(self, dy):
            dx = code(self.x.shape, [dy, self.w], INPUT)
            dw = code(self.w.shape, [self.x, dy], WEIGHTS)
            return dx, dw

    def code(shape, given, source):
        return jt.code(shape, "float32", given, cpu_header=header, cpu_src=source)

    return Pointwise.apply
