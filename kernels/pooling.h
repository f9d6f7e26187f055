// The maximum over windows of an image, and its gradient, plane by plane. pooling.py puts the
// constants KH, KW (kernel), SH, SW (stride), PH, PW (padding) before it.
//
// Window (r, c) of a plane begins at row r * SH - PH, column c * SW - PW and is cut off at the
// borders.
#include <algorithm>
#include <cstring>

namespace pooling {
namespace {

// Of a window with a NaN in it the largest entry is NaN, as in PyTorch: a network that diverges
// must be seen to. Kernels are compiled as if there were none.
#pragma GCC push_options
#pragma GCC optimize("no-finite-math-only")
inline float larger(float a, float b) { return (b > a) | (b != b) ? b : a; }
inline bool same(float a, float b) { return (a == b) | ((a != a) & (b != b)); }

inline float largest(const float* x, int width, int top, int bottom, int left, int right) {
    float most = x[top * width + left];
    for (int p = top; p < bottom; p++)
        for (int q = left; q < right; q++) most = larger(most, x[p * width + q]);
    return most;
}

// The border cuts no column of windows from `first_whole` to before `end_whole`.
inline int first_whole(int wide) { return std::min((PW + SW - 1) / SW, wide); }
inline int end_whole(int width, int wide) {
    return std::max(first_whole(wide),
                    std::min(width + PW < KW ? 0 : (width + PW - KW) / SW + 1, wide));
}

inline void forward(const float* x, int height, int width, float* y, int high, int wide) {
    for (int r = 0; r < high; r++, y += wide) {
        const int top = std::max(r * SH - PH, 0), bottom = std::min(r * SH - PH + KH, height);
        const int first = first_whole(wide),
                  end = bottom - top == KH ? end_whole(width, wide) : first;
        for (int c = first ? 0 : end; c < wide; c = c + 1 == first ? end : c + 1)
            y[c] = largest(x, width, top, bottom, std::max(c * SW - PW, 0),
                           std::min(c * SW - PW + KW, width));
#pragma GCC ivdep
        for (int c = first; c < end; c++) {
            const float* window = x + top * width + c * SW - PW;
            float most = window[0];
#pragma GCC unroll 8
            for (int p = 0; p < KH; p++)
#pragma GCC unroll 8
                for (int q = 0; q < KW; q++) most = larger(most, window[p * width + q]);
            y[c] = most;
        }
    }
}

// Of windows that do not overlap, many at once and without a branch, which would be mispredicted:
// any entry may be the largest.
inline void whole_windows(const float* x, int width, const float* y, const float* dy, int first,
                          int end, float* dx) {
#pragma GCC ivdep
    for (int c = first; c < end; c++) {
        float g = dy[c];
#pragma GCC unroll 8
        for (int p = 0; p < KH; p++)
#pragma GCC unroll 8
            for (int q = 0; q < KW; q++) {
                const int i = p * width + c * SW - PW + q;
                const bool found = same(x[i], y[c]);
                dx[i] = found ? g : 0;
                g = found ? 0 : g;
            }
    }
}

inline void backward(const float* x, int height, int width, const float* y, const float* dy,
                     int high, int wide, float* dx) {
    memset(dx, 0, sizeof(float) * height * width);
    for (int r = 0; r < high; r++, y += wide, dy += wide) {
        const int top = std::max(r * SH - PH, 0), bottom = std::min(r * SH - PH + KH, height);
        const bool alone = KH <= SH && KW <= SW && bottom - top == KH;
        const int first = first_whole(wide), end = alone ? end_whole(width, wide) : first;
        whole_windows(x + top * width, width, y, dy, first, end, dx + top * width);
        for (int c = first ? 0 : end; c < wide; c = c + 1 == first ? end : c + 1) {
            const int left = std::max(c * SW - PW, 0), right = std::min(c * SW - PW + KW, width);
            bool sought = true;
            for (int p = top; p < bottom && sought; p++)
                for (int q = left; q < right && sought; q++)
                    if (same(x[p * width + q], y[c])) dx[p * width + q] += dy[c], sought = false;
        }
    }
}
#pragma GCC pop_options
}  // namespace
}  // namespace pooling
