"""1x1 convolutions on the CPU as the matrix products that they are, by oneDNN's sgemm: its convolutions bring images into a layout of
their own and back, which on large images costs as much as the products (benchmarks/convolution.py).

Nothing depends on the number of threads, so that the same input gives the same bits.
"""
from collections.abc import Callable
from types import ModuleType

from toolchain.cpu import onednn

# On fewer pixels oneDNN's own way is as fast, or faster.
LEAST_PIXELS = 14 * 14

# Images are [n, channels, pixels].
HEADER = """
#include <omp.h>
#include <algorithm>
#include <cstdint>
#include <vector>

// oneDNN's, row-major: C = alpha op(A) op(B) + beta C. Within a parallel region it runs on the calling thread alone.
extern "C" int dnnl_sgemm(char transpose_a, char transpose_b, int64_t m, int64_t n, int64_t k, float alpha, const float* A, int64_t lda,
                          const float* B, int64_t ldb, float beta, float* C, int64_t ldc);

namespace pointwise { namespace {
constexpr int64_t ROWS = 256, PIXELS = 784;  // of the result at a time
constexpr int64_t OUT = 128, IN = 512;       // of the weights' gradient at a time
constexpr int64_t PARTS = 4;                 // of the batch, each summed up by itself

// y [n, K, P] = w [K, C] x [n, C, P]; turned: w is [C, K].
inline void convolve(const float* x, const float* w, float* y, int64_t n, int64_t C, int64_t K, int64_t P, bool turned) {
    #pragma omp parallel for collapse(3)
    for (int64_t i = 0; i < n; i++) for (int64_t k = 0; k < K; k += ROWS) for (int64_t p = 0; p < P; p += PIXELS)
        dnnl_sgemm(turned ? 'T' : 'N', 'N', std::min(ROWS, K - k), std::min(PIXELS, P - p), C, 1, turned ? w + k : w + k * C,
                   turned ? K : C, x + i * C * P + p, P, 0, y + (i * K + k) * P + p, P);
}

// dw [K, C]: the sum over images and pixels of dy [n, K, P] times x [n, C, P].
inline void weight_gradient(const float* x, const float* dy, float* dw, int64_t n, int64_t C, int64_t K, int64_t P) {
    const int64_t parts = std::min(PARTS, n), size = K * C;
    std::vector<float> sums(parts * size);
    #pragma omp parallel
    {
        #pragma omp for collapse(3)
        for (int64_t part = 0; part < parts; part++) for (int64_t k = 0; k < K; k += OUT) for (int64_t c = 0; c < C; c += IN)
            for (int64_t first = n * part / parts, i = first; i < n * (part + 1) / parts; i++)
                dnnl_sgemm('N', 'T', std::min(OUT, K - k), std::min(IN, C - c), P, 1, dy + (i * K + k) * P, P, x + (i * C + c) * P, P,
                           i > first, sums.data() + part * size + k * C + c, C);
        #pragma omp for
        for (int64_t e = 0; e < size; e++) {
            float sum = 0;
            for (int64_t part = 0; part < parts; part++) sum += sums[part * size + e];
            dw[e] = sum;
        }
    }
}
} }
"""
FORWARD = "pointwise::convolve(in0_p, in1_p, out0_p, in0_shape0, in0_shape1, out0_shape1, in0_shape2 * in0_shape3, false);"
INPUT = "pointwise::convolve(in0_p, in1_p, out0_p, in0_shape0, in0_shape1, out0_shape1, in0_shape2 * in0_shape3, true);"
WEIGHTS = "pointwise::weight_gradient(in0_p, in1_p, out0_p, in0_shape0, in0_shape1, in1_shape1, in0_shape2 * in0_shape3);"


def install(jt: ModuleType) -> None:
    """From now on every `nn.Conv` that `suits` goes this way; the others stay what they were."""
    others, convolve = jt.nn.Conv.execute, convolution(jt)

    def execute(self, x):
        return convolve(x, self.weight) if suits(self, x) else others(self, x)

    jt.nn.Conv.execute = execute


def convolution(jt: ModuleType) -> Callable:
    """A function of (x float32 [N, C, H, W], w float32 [K, C, 1, 1]) that gives float32 [N, K, H, W]."""
    onednn()  # kernels find dnnl_sgemm in it

    class Pointwise(jt.Function):
        def execute(self, x, w):
            self.x, self.w = x, w
            return code([x.shape[0], w.shape[0], *x.shape[2:]], [x, w], FORWARD)

        def grad(self, dy):
            return code(self.x.shape, [dy, self.w], INPUT), code(self.w.shape, [self.x, dy], WEIGHTS)

    def code(shape, given, source):
        return jt.code(shape, "float32", given, cpu_header=HEADER, cpu_src=source)

    return lambda x, w: Pointwise()(x, w)


def suits(layer, x) -> bool:
    """Whether `layer` (nn.Conv) is faster this way on images like `x`: 1x1, stride 1, no padding, no bias, float32, and large enough."""
    return (layer.kernel_size == layer.stride == layer.dilation == (1, 1) and layer.padding == (0, 0) and layer.groups == 1
            and layer.bias is None and x.ndim == 4 and x.shape[1] == layer.weight.shape[1]
            and x.shape[2] * x.shape[3] >= LEAST_PIXELS and x.dtype == layer.weight.dtype == "float32")
