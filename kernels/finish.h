// What follows a convolution of images that have their channels last, while its output is in the
// cache: a norm in test mode, the sum with another image, and ReLU or ReLU6.
#include <algorithm>
#include <cstdint>

namespace finish {
namespace {
struct Finish {
    const float *scale = nullptr, *offset = nullptr;  // of the norm, [K]; none: nothing follows
    const float* sum = nullptr;                       // like the output, or none
    float most = 3e38f;

    // y [P, K] = min(max(scale y + offset + sum, 0), most), of `pixels` from `first` on, and of
    // `channels` from k on.
    void operator()(float* y, int64_t first, int64_t pixels, int64_t k, int64_t channels,
                    int64_t K) const {
        if (!scale) return;
        const float *w = scale + k, *b = offset + k;
        for (int64_t p = first; p < first + pixels; p++) {
            float* at = y + p * K + k;
            const float* s = sum ? sum + p * K + k : nullptr;
            if (s) {
#pragma GCC ivdep
                for (int64_t c = 0; c < channels; c++)
                    at[c] = std::min(std::max(w[c] * at[c] + b[c] + s[c], 0.f), most);
            } else {
#pragma GCC ivdep
                for (int64_t c = 0; c < channels; c++)
                    at[c] = std::min(std::max(w[c] * at[c] + b[c], 0.f), most);
            }
        }
    }
};
}  // namespace
}  // namespace finish
