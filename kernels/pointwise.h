// 1x1 convolutions as matrix products, by oneDNN's sgemm, which pointwise.py declares before it.
// Images are [n, channels, pixels].
#include <omp.h>
#include <algorithm>
#include <memory>

namespace pointwise {
namespace {
constexpr int64_t PIXELS = 784;         // of the result at a time
constexpr int64_t OUT = 128, IN = 256;  // of the weights' gradient at a time
constexpr int64_t PARTS = 8;            // of the batch, each summed up by itself

// y [n, K, P] = w [K, C] x [n, C, P]; turned: w is [C, K].
inline void convolve(const float* x, const float* w, float* y, int64_t n, int64_t C, int64_t K,
                     int64_t P, bool turned) {
    const int64_t blocks = n * ((P + PIXELS - 1) / PIXELS),
                  rows = blocks < 16 ? 64 : 256;  // few blocks: more work for many cores
#pragma omp parallel for collapse(3)
    for (int64_t i = 0; i < n; i++)
        for (int64_t k = 0; k < K; k += rows)
            for (int64_t p = 0; p < P; p += PIXELS)
                dnnl_sgemm(turned ? 'T' : 'N', 'N', std::min(rows, K - k), std::min(PIXELS, P - p),
                           C, 1, turned ? w + k : w + k * C, turned ? K : C, x + i * C * P + p, P,
                           0, y + (i * K + k) * P + p, P);
}

// dw [K, C]: the sum over images and pixels of dy [n, K, P] times x [n, C, P].
inline void weight_gradient(const float* x, const float* dy, float* dw, int64_t n, int64_t C,
                            int64_t K, int64_t P) {
    const int64_t parts = std::min(PARTS, n), size = K * C;
    const std::unique_ptr<float[]> sums(new float[parts * size]);
#pragma omp parallel
    {
#pragma omp for collapse(3)
        for (int64_t part = 0; part < parts; part++)
            for (int64_t k = 0; k < K; k += OUT)
                for (int64_t c = 0; c < C; c += IN)
                    for (int64_t first = n * part / parts, i = first; i < n * (part + 1) / parts;
                         i++)
                        dnnl_sgemm('N', 'T', std::min(OUT, K - k), std::min(IN, C - c), P, 1,
                                   dy + (i * K + k) * P, P, x + (i * C + c) * P, P, i > first,
                                   sums.get() + part * size + k * C + c, C);
#pragma omp for
        for (int64_t e = 0; e < size; e++) {
            float sum = 0;
            for (int64_t part = 0; part < parts; part++) sum += sums[part * size + e];
            dw[e] = sum;
        }
    }
}
}  // namespace
}  // namespace pointwise
