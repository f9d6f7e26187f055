"""The maximum over windows of an image, on all cores (pooling.h): Jittor's own gradient runs on
one, and took a fifth of a step of the demo's network.

The gradient goes to the first largest entry of a window, in reading order, as in PyTorch. Each
thread has planes of its own, so that the same input gives the same bits.
"""
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType

CONSTANTS = """
namespace pooling { namespace {
constexpr int KH = %d, KW = %d, SH = %d, SW = %d, PH = %d, PW = %d;
} }
"""
EACH_PLANE = """
    const int height = %(x)s_shape2, width = %(x)s_shape3, high = %(y)s_shape2, wide = %(y)s_shape3;
    const size_t pixels = (size_t)height * width, cells = (size_t)high * wide;
    #pragma omp parallel for
    for (int plane = 0; plane < %(x)s_shape0 * %(x)s_shape1; plane++)
"""
FORWARD = EACH_PLANE % dict(x="in0", y="out0") + """
        pooling::forward(in0_p + plane * pixels, height, width, out0_p + plane * cells,
                         out1_p + plane * cells, high, wide);
"""
BACKWARD = EACH_PLANE % dict(x="out0", y="in0") + """
        pooling::backward(in0_p + plane * cells, in1_p + plane * cells, height, width, high, wide,
                          out0_p + plane * pixels);
"""


def maximum(jt: ModuleType) -> Callable:
    """A function of (x float32 [B, C, H, W], cells, kernel, stride, padding, all pairs of int) that
    gives the largest entry of each of `cells` windows, float32 [B, C, *cells]. Every window must
    hold a pixel."""
    code = Path(__file__).with_name("pooling.h").read_text()

    class Maximum(jt.Function):
        def execute(self, x, cells: Sequence[int], place: str, header: str):
            self.shape, self.header = x.shape, header
            shape = [*x.shape[:2], *cells]
            y, self.at = jt.code([shape, shape], ["float32", place], [x], cpu_header=header,
                                 cpu_src=FORWARD)
            return y

        def grad(self, dy):
            return jt.code(self.shape, "float32", [self.at, dy], cpu_header=self.header,
                           cpu_src=BACKWARD), None, None, None

    def largest(x, cells: Sequence[int], kernel: Sequence[int], stride: Sequence[int],
                padding: Sequence[int]):
        header = CONSTANTS % (*kernel, *stride, *padding) + code
        place = "uint8" if kernel[0] * kernel[1] <= 256 else "int32"
        return Maximum()(x, cells, place, header)

    return largest
