// Sums of channels, as a batch norm that learns needs them: sums [2, C], of `a` and of its products
// with `b`, over images and pixels. A few hundred numbers, or a plane, are summed up in float32,
// these sums in float64.
#include <omp.h>
#include <algorithm>
#include <cstdint>
#include <memory>

namespace norm {
namespace {
constexpr int64_t ROWS = 512;  // pixels whose sums are float32

// Of plain images [n, C, P].
inline void over_planes(const float* a, const float* b, float* sums, int64_t n, int64_t C,
                        int64_t P) {
#pragma omp parallel for
    for (int64_t c = 0; c < C; c++) {
        double sum = 0, of_products = 0;
        for (int64_t i = 0; i < n; i++) {
            const float *x = a + (i * C + c) * P, *y = b + (i * C + c) * P;
            float plane = 0, products = 0;
            for (int64_t p = 0; p < P; p++) {
                plane += x[p];
                products += x[p] * y[p];
            }
            sum += plane;
            of_products += products;
        }
        sums[c] = sum;
        sums[C + c] = of_products;
    }
}

// Of images that have their channels last, [P, C].
inline void over_rows(const float* a, const float* b, float* sums, int64_t P, int64_t C) {
    const int64_t blocks = (P + ROWS - 1) / ROWS;
    const std::unique_ptr<float[]> parts(new float[blocks * 2 * C]());
#pragma omp parallel for
    for (int64_t block = 0; block < blocks; block++) {
        float *sum = parts.get() + block * 2 * C, *of_products = sum + C;
        for (int64_t p = block * ROWS; p < std::min(P, (block + 1) * ROWS); p++)
#pragma GCC ivdep
            for (int64_t c = 0; c < C; c++) {
                sum[c] += a[p * C + c];
                of_products[c] += a[p * C + c] * b[p * C + c];
            }
    }
    for (int64_t e = 0; e < 2 * C; e++) {
        double sum = 0;
        for (int64_t block = 0; block < blocks; block++) sum += parts[block * 2 * C + e];
        sums[e] = sum;
    }
}
}  // namespace
}  // namespace norm
