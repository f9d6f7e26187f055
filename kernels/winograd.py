"""3x3 convolutions by Winograd's algorithm (winograd.h).

Memory that is kept: 144 bytes for each pair of channels of the widest layer (38 MB for VGG-16's
512 x 512), and SCRATCH.
"""
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

from kernels.sgemm import SGEMM

# Bytes of transformed tiles at a time: smaller, and the matrix products get slow; larger, and the
# tiles leave the cache.
SCRATCH = 16 << 20

FORWARD = """
    @alias(x, in0)
    @alias(w, in1)
    winograd::convolve(x_p, w_p, BIAS, out0_p, x_shape0, x_shape1, w_shape0, x_shape2, x_shape3,
                       int(data["pad"]), false);
"""
INPUT = """
    @alias(dy, in0)
    @alias(w, in1)
    winograd::convolve(dy_p, w_p, nullptr, out0_p, dy_shape0, dy_shape1, out0_shape1, dy_shape2,
                       dy_shape3, 2 - int(data["pad"]), true);
"""
WEIGHTS = """
    @alias(x, in0)
    @alias(dy, in1)
    winograd::weight_gradient(x_p, dy_p, out0_p, x_shape0, x_shape1, dy_shape1, x_shape2, x_shape3,
                              int(data["pad"]));
"""
# Of images that have their channels last (channels_last.py).
LAST = dict(
    forward="""
    winograd::last::convolve(in0_p, in1_p, out0_p, in0_shape0, in0_shape3, out0_shape3, in0_shape1,
                             in0_shape2, int(data["pad"]), false, {AFTER});
""",
    input="""
    winograd::last::convolve(in0_p, in1_p, out0_p, in0_shape0, in0_shape3, out0_shape3, in0_shape1,
                             in0_shape2, 2 - int(data["pad"]), true);
""",
    weights="""
    winograd::last::weight_gradient(in0_p, in1_p, out0_p, in0_shape0, in0_shape3, in1_shape3,
                                    in0_shape1, in0_shape2, int(data["pad"]));
""")
BIAS = """
    winograd::bias_gradient(in0_p, out0_p, in0_shape0, in0_shape1, in0_shape2 * in0_shape3);
"""


def header() -> str:
    code = Path(__file__).with_name("winograd.h").read_text()
    return SGEMM + code.replace("#pragma once", f"#define SCRATCH_BYTES {SCRATCH}")


def convolution(jt: ModuleType) -> Callable:
    """A function of (x float32 [N, C, H, W], w float32 [K, C, 3, 3], bias float32 [K] or None,
    padding 0 to 2) that gives float32 [N, K, H', W']."""
    included = header()

    # A gradient given to jt.code would keep the output until it is needed; a Function does not.
    class Winograd(jt.Function):
        def execute(self, x, w, bias, padding):
            self.x, self.w, self.bias, self.padding = x, w, bias, padding
            n, _, height, width = x.shape
            shape = [n, w.shape[0], height + 2 * padding - 2, width + 2 * padding - 2]
            if bias is None:
                return self.code(shape, [x, w], FORWARD.replace("BIAS", "nullptr"))
            return self.code(shape, [x, w, bias], FORWARD.replace("BIAS", "in2_p"))

        def grad(self, dy):
            dx = self.code(self.x.shape, [dy, self.w], INPUT)
            dw = self.code(self.w.shape, [self.x, dy], WEIGHTS)
            db = None
            if self.bias is not None:
                db = self.code(self.bias.shape, [dy], BIAS)
            return dx, dw, db, None

        def code(self, shape, given, source):
            return jt.code(shape, "float32", given, cpu_header=included, cpu_src=source,
                           data=dict(pad=self.padding))

    return Winograd.apply
