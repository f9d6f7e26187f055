// The maximum over windows of an image, and its gradient, plane by plane. pooling.py puts the
// constants KH, KW (kernel), SH, SW (stride), PH, PW (padding) before it.
//
// Window (r, c) of a plane begins at row r * SH - PH, column c * SW - PW and is cut off at the
// borders.
//
// Windows of 2 x 2 side by side, as VGG has them, go LANES at a time (pairs_*). Rows are short, so
// a plane is copied to where a vector may reach beyond its row: what it writes there is written
// again by the row that comes next.
#include <algorithm>
#include <cstring>
#include <vector>

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

#ifdef __AVX2__  // else the compiler has no instruction for what follows
constexpr bool PAIRS = KH == 2 && KW == 2 && SH == 2 && SW == 2 && PH == 0 && PW == 0;
#else
constexpr bool PAIRS = false;
#endif
constexpr int LANES = 8;
typedef float Lanes __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef int Choice __attribute__((vector_size(4 * LANES)));
constexpr Choice EVEN = {0, 2, 4, 6, 8, 10, 12, 14};
constexpr Choice LOW = {0, 8, 1, 9, 2, 10, 3, 11};
constexpr Choice NUMBER = {0, 1, 2, 3, 4, 5, 6, 7};

inline Lanes& lanes(const float* at) { return *(Lanes*)at; }
inline Lanes evens(const float* x) { return __builtin_shuffle(lanes(x), lanes(x + LANES), EVEN); }
inline Lanes odds(const float* x) {
    return __builtin_shuffle(lanes(x), lanes(x + LANES), EVEN + 1);
}
inline Lanes larger(Lanes a, Lanes b) { return (b > a) | (b != b) ? b : a; }
inline Choice same(Lanes a, Lanes b) { return (a == b) | ((a != a) & (b != b)); }
inline void put(float* dx, Lanes even, Lanes odd) {
    lanes(dx) = __builtin_shuffle(even, odd, LOW);
    lanes(dx + LANES) = __builtin_shuffle(even, odd, LOW + LANES / 2);
}

// A thread's copy of a plane of n values, with room for two vectors behind them.
inline float* room(std::vector<float>& copy, size_t n) {
    if (copy.size() < n + 2 * LANES) copy.resize(n + 2 * LANES);
    return copy.data();
}
inline const float* copied(std::vector<float>& copy, const float* from, size_t n) {
    return (const float*)memcpy(room(copy, n), from, sizeof(float) * n);
}

inline void pairs_forward(const float* plane, int height, int width, float* out, int high,
                          int wide) {
    thread_local std::vector<float> of_x, of_y;
    const float* x = copied(of_x, plane, (size_t)height * width);
    float* y = room(of_y, (size_t)high * wide);
    for (int r = 0; r < high; r++, x += 2 * width, y += wide)
        for (int c = 0; c < wide; c += LANES) {
            const float *a = x + 2 * c, *b = a + width;
            lanes(y + c) = larger(larger(evens(a), odds(a)), larger(evens(b), odds(b)));
        }
    memcpy(out, of_y.data(), sizeof(float) * high * wide);
}

// From a row's last vector to its first, so that what reaches beyond it is written before what
// belongs there. Beyond the last window the gradient is 0.
inline void pairs_backward(const float* plane, int height, int width, const float* maxima,
                           const float* gradient, int high, int wide, float* out) {
    thread_local std::vector<float> of_x, of_y, of_dy;
    const size_t pixels = (size_t)height * width, cells = (size_t)high * wide;
    const float *x = copied(of_x, plane, pixels), *y = copied(of_y, maxima, cells),
                *dy = copied(of_dy, gradient, cells);
    std::vector<float> of_dx(pixels + 2 * LANES);
    float* dx = of_dx.data();
    const Lanes none = {};
    for (int r = 0; r < high; r++, x += 2 * width, dx += 2 * width, y += wide, dy += wide)
        for (int c = (wide - 1) / LANES * LANES; c >= 0; c -= LANES) {
            const float *a = x + 2 * c, *b = a + width;
            const Lanes most = lanes(y + c), given = lanes(dy + c);
            Lanes g = NUMBER < wide - c ? given : none, shares[4];
            const Lanes entries[4] = {evens(a), odds(a), evens(b), odds(b)};
            for (int i = 0; i < 4; i++) {
                const Choice found = same(entries[i], most);
                shares[i] = found ? g : none;
                g = found ? none : g;
            }
            put(dx + 2 * c, shares[0], shares[1]);
            put(dx + 2 * c + width, shares[2], shares[3]);
        }
    memcpy(out, of_dx.data(), sizeof(float) * pixels);
}

inline void forward(const float* x, int height, int width, float* y, int high, int wide) {
    if (PAIRS && 2 * high <= height && 2 * wide <= width)
        return pairs_forward(x, height, width, y, high, wide);
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
    if (PAIRS && 2 * high <= height && 2 * wide <= width)
        return pairs_backward(x, height, width, y, dy, high, wide, dx);
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
