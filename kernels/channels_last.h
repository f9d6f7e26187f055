// What batches of images that have their channels last need beside oneDNN's convolutions; a batch
// is a matrix [pixels, channels]. 1x1 convolutions are one matrix product, by oneDNN's sgemm, which
// channels_last.py declares before it, as finish.h; dense blocks need two images in one.
#include <omp.h>
#include <algorithm>
#include <cstring>
#include <memory>

namespace channels_last {
namespace {
constexpr int64_t PIXELS = 784;             // of the result at a time
constexpr int64_t OUT = 128, IN = 256;      // of the weights' gradient at a time
constexpr int64_t LEAST = 2048, PARTS = 8;  // parts of so many pixels, summed up by themselves

// y [P, K] = x [P, C] times w [K, C] turned; the gradient: w is [C, K], and is not.
inline void convolve(const float* x, const float* w, float* y, int64_t P, int64_t C, int64_t K,
                     bool gradient, const finish::Finish& finish = {}) {
    const int64_t columns = P < 16 * PIXELS ? 256 : K;  // few blocks: more work for many cores
#pragma omp parallel for collapse(2)
    for (int64_t p = 0; p < P; p += PIXELS)
        for (int64_t k = 0; k < K; k += columns) {
            const int64_t pixels = std::min(PIXELS, P - p), channels = std::min(columns, K - k);
            dnnl_sgemm('N', gradient ? 'N' : 'T', pixels, channels, C, 1, x + p * C, C,
                       gradient ? w + k : w + k * C, gradient ? K : C, 0, y + p * K + k, K);
            finish(y, p, pixels, k, channels, K);
        }
}

// dw [K, C]: dy [P, K] turned, times x [P, C].
inline void weight_gradient(const float* x, const float* dy, float* dw, int64_t P, int64_t C,
                            int64_t K) {
    const int64_t parts = std::max<int64_t>(1, std::min(PARTS, P / LEAST)), size = K * C;
    const std::unique_ptr<float[]> sums(new float[parts * size]);
#pragma omp parallel
    {
#pragma omp for collapse(3)
        for (int64_t part = 0; part < parts; part++)
            for (int64_t k = 0; k < K; k += OUT)
                for (int64_t c = 0; c < C; c += IN) {
                    const int64_t first = P * part / parts, end = P * (part + 1) / parts;
                    dnnl_sgemm('T', 'N', std::min(OUT, K - k), std::min(IN, C - c), end - first, 1,
                               dy + first * K + k, K, x + first * C + c, C, 0,
                               sums.get() + part * size + k * C + c, C);
                }
#pragma omp for
        for (int64_t e = 0; e < size; e++) {
            float sum = 0;
            for (int64_t part = 0; part < parts; part++) sum += sums[part * size + e];
            dw[e] = sum;
        }
    }
}

// y [P, C] = min(max(w x + b, 0), most) with w, b [C].
inline void cut(const float* x, const float* w, const float* b, float* y, float most, int64_t P,
                int64_t C) {
#pragma omp parallel for
    for (int64_t p = 0; p < P; p++)
#pragma GCC ivdep
        for (int64_t c = 0; c < C; c++)
            y[p * C + c] = std::min(std::max(w[c] * x[p * C + c] + b[c], 0.f), most);
}

// dx of dy [P, C], by what came out, y.
inline void cut_gradient(const float* dy, const float* y, const float* w, float* dx, float most,
                         int64_t P, int64_t C) {
#pragma omp parallel for
    for (int64_t p = 0; p < P; p++)
#pragma GCC ivdep
        for (int64_t c = 0; c < C; c++) {
            const float up = w[c] * dy[p * C + c], at = y[p * C + c];
            dx[p * C + c] = (at > 0) & (at < most) ? up : 0;
        }
}

// both [P, A + B]: a [P, A] and b [P, B], side by side; and taken apart again.
inline void join(const float* a, const float* b, float* both, int64_t P, int64_t A, int64_t B) {
#pragma omp parallel for
    for (int64_t p = 0; p < P; p++) {
        memcpy(both + p * (A + B), a + p * A, A * sizeof(float));
        memcpy(both + p * (A + B) + A, b + p * B, B * sizeof(float));
    }
}

inline void part(const float* both, float* a, float* b, int64_t P, int64_t A, int64_t B) {
#pragma omp parallel for
    for (int64_t p = 0; p < P; p++) {
        memcpy(a + p * A, both + p * (A + B), A * sizeof(float));
        memcpy(b + p * B, both + p * (A + B) + A, B * sizeof(float));
    }
}
}  // namespace
}  // namespace channels_last
