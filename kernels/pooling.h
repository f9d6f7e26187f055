// The maximum over windows of an image, and its gradient, plane by plane. pooling.py puts the
// constants KH, KW (kernel), SH, SW (stride), PH, PW (padding) before it.
//
// Window (r, c) of a plane begins at row r * SH - PH, column c * SW - PW and is cut off at the
// borders. Beside its largest entry the place of the first such is kept, counted in reading order
// from where the window begins: a byte or, of windows of more than 256 entries, an int. It is all
// that the gradient asks for, and the image need not be kept.
//
// Windows of 2 x 2 side by side, as VGG has them, go LANES at a time (pairs_*). Rows are short, so
// a plane is copied to where a vector may reach beyond its row: what it writes there is written
// again by the row that comes next.
#include <algorithm>
#include <cstdint>
#include <cstring>
#include <vector>

namespace pooling {
namespace {

// Of a window with a NaN in it the largest entry is NaN, the last one, as in PyTorch: a network
// that diverges must be seen to. Kernels are compiled as if there were none.
#pragma GCC push_options
#pragma GCC optimize("no-finite-math-only")
inline bool beats(float b, float a) { return (b > a) | (b != b); }

// Of the window that begins at row `top`, column `left`.
template <class Place>
inline void largest(const float* x, int height, int width, int top, int left, float& y, Place& at) {
    int best = -1;
    for (int p = std::max(top, 0); p < std::min(top + KH, height); p++)
        for (int q = std::max(left, 0); q < std::min(left + KW, width); q++)
            if (best < 0 || beats(x[p * width + q], y))
                y = x[p * width + q], best = (p - top) * KW + q - left;
    at = best;
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
typedef uint8_t Bytes __attribute__((vector_size(LANES), aligned(1), may_alias));
constexpr Choice EVEN = {0, 2, 4, 6, 8, 10, 12, 14};
constexpr Choice LOW = {0, 8, 1, 9, 2, 10, 3, 11};
constexpr Choice NUMBER = {0, 1, 2, 3, 4, 5, 6, 7};

inline Lanes& lanes(const float* at) { return *(Lanes*)at; }
inline Lanes evens(const float* x) { return __builtin_shuffle(lanes(x), lanes(x + LANES), EVEN); }
inline Lanes odds(const float* x) {
    return __builtin_shuffle(lanes(x), lanes(x + LANES), EVEN + 1);
}
inline Choice beats(Lanes b, Lanes a) { return (b > a) | (b != b); }
inline void put(float* dx, Lanes even, Lanes odd) {
    lanes(dx) = __builtin_shuffle(even, odd, LOW);
    lanes(dx + LANES) = __builtin_shuffle(even, odd, LOW + LANES / 2);
}

// A thread's copy of a plane of n values, with room for two vectors behind them.
template <class Value>
inline Value* room(std::vector<Value>& copy, size_t n) {
    if (copy.size() < n + 2 * LANES) copy.resize(n + 2 * LANES);
    return copy.data();
}
template <class Value>
inline const Value* copied(std::vector<Value>& copy, const Value* from, size_t n) {
    return (const Value*)memcpy(room(copy, n), from, sizeof(Value) * n);
}

inline void pairs_forward(const float* plane, int height, int width, float* out, uint8_t* places,
                          int high, int wide) {
    thread_local std::vector<float> of_x, of_y;
    thread_local std::vector<uint8_t> of_at;
    const size_t cells = (size_t)high * wide;
    const float* x = copied(of_x, plane, (size_t)height * width);
    float* y = room(of_y, cells);
    uint8_t* at = room(of_at, cells);
    for (int r = 0; r < high; r++, x += 2 * width, y += wide, at += wide)
        for (int c = 0; c < wide; c += LANES) {
            const float *a = x + 2 * c, *b = a + width;
            const Lanes entries[4] = {evens(a), odds(a), evens(b), odds(b)};
            Lanes most = entries[0];
            Choice place = {};
            for (int i = 1; i < 4; i++) {
                const Choice better = beats(entries[i], most);
                most = better ? entries[i] : most;
                place = better ? Choice{} + i : place;
            }
            lanes(y + c) = most;
            *(Bytes*)(at + c) = __builtin_convertvector(place, Bytes);
        }
    memcpy(out, of_y.data(), sizeof(float) * cells);
    memcpy(places, of_at.data(), cells);
}

// From a row's last vector to its first, so that what reaches beyond it is written before what
// belongs there. Beyond the last window the gradient is 0.
inline void pairs_backward(const uint8_t* places, const float* gradient, int height, int width,
                           int high, int wide, float* out) {
    thread_local std::vector<float> of_dy;
    thread_local std::vector<uint8_t> of_at;
    const size_t pixels = (size_t)height * width, cells = (size_t)high * wide;
    const float* dy = copied(of_dy, gradient, cells);
    const uint8_t* at = copied(of_at, places, cells);
    std::vector<float> of_dx(pixels + 2 * LANES);
    float* dx = of_dx.data();
    const Lanes none = {};
    for (int r = 0; r < high; r++, dx += 2 * width, dy += wide, at += wide)
        for (int c = (wide - 1) / LANES * LANES; c >= 0; c -= LANES) {
            const Lanes g = NUMBER < wide - c ? lanes(dy + c) : none;
            const Choice place = __builtin_convertvector(*(const Bytes*)(at + c), Choice);
            put(dx + 2 * c, place == 0 ? g : none, place == 1 ? g : none);
            put(dx + 2 * c + width, place == 2 ? g : none, place == 3 ? g : none);
        }
    memcpy(out, of_dx.data(), sizeof(float) * pixels);
}

template <class Place>
inline void forward(const float* x, int height, int width, float* y, Place* at, int high,
                    int wide) {
    if constexpr (PAIRS)
        if (2 * high <= height && 2 * wide <= width)
            return pairs_forward(x, height, width, y, at, high, wide);
    thread_local std::vector<int> places;  // as wide as the entries, for the compiler's vectors
    int* of_row = room(places, wide);
    for (int r = 0; r < high; r++, y += wide, at += wide) {
        const int top = r * SH - PH;
        const int first = first_whole(wide),
                  end = top >= 0 && top + KH <= height ? end_whole(width, wide) : first;
        for (int c = first ? 0 : end; c < wide; c = c + 1 == first ? end : c + 1)
            largest(x, height, width, top, c * SW - PW, y[c], at[c]);
#pragma GCC ivdep
        for (int c = first; c < end; c++) {
            const float* window = x + top * width + c * SW - PW;
            float most = window[0];
            int place = 0;
#pragma GCC unroll 8
            for (int p = 0; p < KH; p++)
#pragma GCC unroll 8
                for (int q = 0; q < KW; q++) {
                    const float entry = window[p * width + q];
                    const bool better = beats(entry, most);
                    most = better ? entry : most;
                    place = better ? p * KW + q : place;
                }
            y[c] = most;
            of_row[c] = place;
        }
        for (int c = first; c < end; c++) at[c] = of_row[c];
    }
}

template <class Place>
inline void backward(const Place* at, const float* dy, int height, int width, int high, int wide,
                     float* dx) {
    if constexpr (PAIRS)
        if (2 * high <= height && 2 * wide <= width)
            return pairs_backward(at, dy, height, width, high, wide, dx);
    memset(dx, 0, sizeof(float) * height * width);
    for (int r = 0; r < high; r++, at += wide, dy += wide) {
        float* row = dx + (r * SH - PH) * width - PW;
        for (int c = 0; c < wide; c++) row[at[c] / KW * width + c * SW + at[c] % KW] += dy[c];
    }
}
#pragma GCC pop_options
}  // namespace
}  // namespace pooling
