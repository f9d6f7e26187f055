// 3x3 convolution with stride 1 by Winograd's algorithm F(4x4, 3x3) (Lavin & Gray, CVPR 2016),
// float32, NCHW.
//
// An output tile of 4x4 takes 36 multiplications per pair of channels instead of 144. A tile of 6x6
// inputs d, a filter g and an output tile y belong together by
//
//     y = A^T [(G g G^T) * (B^T d B)] A          (* element by element)
//
// Summed over the channels the products are 36 matrix products, one for each point of a tile: M_p
// [K, T] = U_p [K, C] V_p [C, T] with K output channels, C input channels, T tiles; oneDNN's sgemm
// computes them. The gradient of the input is a convolution with the filters turned by half a turn;
// that of the weights is the same formula transposed: dg = G^T [sum over tiles of (A dy A^T) * (B^T
// d B)] G.
//
// The points of the transforms are 0, +-5/8, +-3/2 and infinity: with them float32 errors stay near
// 1e-5 of the largest value. Work goes strip by strip (a row of tiles of one image), as many at
// once as fit into SCRATCH. Nothing depends on the number of threads, so that the same input gives
// the same bits.
#pragma once
#include <omp.h>
#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <cstring>

namespace winograd {

constexpr int TILE = 4, SIDE = 6, POINTS = SIDE * SIDE;
constexpr size_t SCRATCH = SCRATCH_BYTES;  // of transformed tiles at a time
constexpr float a = 5 / 8.f, b = 3 / 2.f, a2 = a * a, b2 = b * b;

// ---- the three transforms and the transposes of two of them, in one dimension, on vectors of n
// values: element i of value p is at from[p][i]. In two dimensions each is done over columns, then
// over rows.

using In = const float* const*;
using Out = float* const*;
#define VECTOR _Pragma("GCC ivdep") for (int i = 0; i < n; i++)

// B^T: 6 inputs -> 6 points
inline void input_transform(In from, Out to, int n) {
    const float *d0 = from[0], *d1 = from[1], *d2 = from[2], *d3 = from[3], *d4 = from[4],
                *d5 = from[5];
    float *p0 = to[0], *p1 = to[1], *p2 = to[2], *p3 = to[3], *p4 = to[4], *p5 = to[5];
    VECTOR {
        const float even_a = d4[i] - b2 * d2[i], odd_a = a * (d3[i] - b2 * d1[i]);
        const float even_b = d4[i] - a2 * d2[i], odd_b = b * (d3[i] - a2 * d1[i]);
        const float first = a2 * b2 * d0[i] - (a2 + b2) * d2[i] + d4[i],
                    last = a2 * b2 * d1[i] - (a2 + b2) * d3[i] + d5[i];
        p0[i] = first, p1[i] = even_a + odd_a, p2[i] = even_a - odd_a, p3[i] = even_b + odd_b,
        p4[i] = even_b - odd_b, p5[i] = last;
    }
}

// A^T: 6 points -> 4 outputs
inline void output_transform(In from, Out to, int n) {
    const float *p0 = from[0], *p1 = from[1], *p2 = from[2], *p3 = from[3], *p4 = from[4],
                *p5 = from[5];
    float *y0 = to[0], *y1 = to[1], *y2 = to[2], *y3 = to[3];
    VECTOR {
        const float sum_a = p1[i] + p2[i], difference_a = p1[i] - p2[i], sum_b = p3[i] + p4[i],
                    difference_b = p3[i] - p4[i];
        y0[i] = p0[i] + sum_a + sum_b;
        y1[i] = a * difference_a + b * difference_b;
        y2[i] = a2 * sum_a + b2 * sum_b;
        y3[i] = a * a2 * difference_a + b * b2 * difference_b + p5[i];
    }
}

// A: 4 gradients of outputs -> 6 points
inline void gradient_transform(In from, Out to, int n) {
    const float *y0 = from[0], *y1 = from[1], *y2 = from[2], *y3 = from[3];
    float *p0 = to[0], *p1 = to[1], *p2 = to[2], *p3 = to[3], *p4 = to[4], *p5 = to[5];
    VECTOR {
        const float even_a = y0[i] + a2 * y2[i], odd_a = a * y1[i] + a * a2 * y3[i];
        const float even_b = y0[i] + b2 * y2[i], odd_b = b * y1[i] + b * b2 * y3[i];
        const float first = y0[i], last = y3[i];
        p0[i] = first, p1[i] = even_a + odd_a, p2[i] = even_a - odd_a, p3[i] = even_b + odd_b,
        p4[i] = even_b - odd_b, p5[i] = last;
    }
}

constexpr float scale_0 = 1 / (a2 * b2), scale_a = 1 / (2 * a2 * (a2 - b2)),
                scale_b = 1 / (2 * b2 * (b2 - a2));

// G: 3 weights -> 6 points
inline void weight_transform(In from, Out to, int n) {
    const float *g0 = from[0], *g1 = from[1], *g2 = from[2];
    float *p0 = to[0], *p1 = to[1], *p2 = to[2], *p3 = to[3], *p4 = to[4], *p5 = to[5];
    VECTOR {
        const float even_a = scale_a * (g0[i] + a2 * g2[i]), odd_a = scale_a * a * g1[i];
        const float even_b = scale_b * (g0[i] + b2 * g2[i]), odd_b = scale_b * b * g1[i];
        const float first = scale_0 * g0[i], last = g2[i];
        p0[i] = first, p1[i] = even_a + odd_a, p2[i] = even_a - odd_a, p3[i] = even_b + odd_b,
        p4[i] = even_b - odd_b, p5[i] = last;
    }
}

// G^T: 6 points -> 3 gradients of weights
inline void weight_gradient_transform(In from, Out to, int n) {
    const float *p0 = from[0], *p1 = from[1], *p2 = from[2], *p3 = from[3], *p4 = from[4],
                *p5 = from[5];
    float *g0 = to[0], *g1 = to[1], *g2 = to[2];
    VECTOR {
        const float sum_a = scale_a * (p1[i] + p2[i]), difference_a = scale_a * (p1[i] - p2[i]);
        const float sum_b = scale_b * (p3[i] + p4[i]), difference_b = scale_b * (p3[i] - p4[i]);
        const float first = scale_0 * p0[i] + sum_a + sum_b, last = a2 * sum_a + b2 * sum_b + p5[i];
        g0[i] = first, g1[i] = a * difference_a + b * difference_b, g2[i] = last;
    }
}

// ---- one strip of one channel. `work` has room for WORK * (tiles of a strip + 1) floats. A row of
// pixels is taken apart by column modulo 4, so that the transforms find their values side by side:
// phase q of tile j is the pixel 4j + q.

constexpr int WORK = 2 * SIDE * TILE + TILE;

inline void take_apart(const float* row, int pad, int width, int tiles, float* phases) {
    const float* from = row - pad;  // from[x] is there for pad <= x < pad + width
    const int first = std::min((pad + 3) / 4, tiles),
              end = std::max(first, std::min((pad + width) / 4, tiles));  // whole tiles
    float *q0 = phases, *q1 = q0 + tiles, *q2 = q1 + tiles, *q3 = q2 + tiles;
    _Pragma("GCC ivdep") for (int j = first; j < end; j++)
        q0[j] = from[4 * j],
        q1[j] = from[4 * j + 1], q2[j] = from[4 * j + 2], q3[j] = from[4 * j + 3];
    for (int j = 0; j < tiles; j = j + 1 == first ? end : j + 1)  // at the borders, 0 beyond
        if (j < first || j >= end)
            for (int q = 0, x = 4 * j; q < 4; q++, x++)
                phases[q * tiles + j] = x >= pad && x < pad + width ? from[x] : 0;
}

struct Pointers {
    float* p[SIDE];
};

inline Pointers rows(float* first, size_t step) {
    Pointers result;
    for (int i = 0; i < SIDE; i++) result.p[i] = first + i * step;
    return result;
}

// Points of the input tiles: point p of tile j at points[p * step + j].
inline void input_strip(const float* plane, int height, int width, int pad, int strip, int tiles,
                        float* points, size_t step, float* work) {
    const int wide = tiles + 1, row = 4 * wide;  // a tile of 6 reaches into the next one's 4
    float* columns = work + SIDE * row;
    for (int r = 0; r < SIDE; r++) {
        const int y = strip * TILE - pad + r;
        if (y < 0 || y >= height)
            memset(work + r * row, 0, row * sizeof(float));
        else
            take_apart(plane + (size_t)y * width, pad, width, wide, work + r * row);
    }
    input_transform(rows(work, row).p, rows(columns, row).p, row);
    for (int r = 0; r < SIDE; r++) {
        Pointers phases = rows(columns + r * row, wide);
        phases.p[4] = phases.p[0] + 1, phases.p[5] = phases.p[1] + 1;
        input_transform(phases.p, rows(points + r * SIDE * step, step).p, tiles);
    }
}

// Points of the gradients of the output tiles.
inline void gradient_strip(const float* plane, int height, int width, int strip, int tiles,
                           float* points, size_t step, float* work) {
    const int row = 4 * tiles;
    float* columns = work + TILE * row;
    for (int r = 0; r < TILE; r++) {
        const int y = strip * TILE + r;
        if (y >= height)
            memset(work + r * row, 0, row * sizeof(float));
        else
            take_apart(plane + (size_t)y * width, 0, width, tiles, work + r * row);
    }
    gradient_transform(rows(work, row).p, rows(columns, row).p, row);
    for (int r = 0; r < SIDE; r++)
        gradient_transform(rows(columns + r * row, tiles).p, rows(points + r * SIDE * step, step).p,
                           tiles);
}

// The output pixels from their points, with the bias of their channel.
inline void output_strip(float* points, size_t step, float bias, float* plane, int height,
                         int width, int strip, int tiles, float* work) {
    const int row = SIDE * tiles;
    float *line = work + TILE * row, *phases = line + 4 * tiles;
    for (int c = 0; c < SIDE; c++)
        output_transform(rows(points + c * step, SIDE * step).p, rows(work + c * tiles, row).p,
                         tiles);
    for (int r = 0; r < TILE && strip * TILE + r < height; r++) {
        output_transform(rows(work + r * row, tiles).p, rows(phases, tiles).p, tiles);
        const float *q0 = phases, *q1 = q0 + tiles, *q2 = q1 + tiles, *q3 = q2 + tiles;
        _Pragma("GCC ivdep") for (int j = 0; j < tiles; j++)
            line[4 * j] = q0[j] + bias,
                     line[4 * j + 1] = q1[j] + bias, line[4 * j + 2] = q2[j] + bias,
                     line[4 * j + 3] = q3[j] + bias;
        memcpy(plane + (size_t)(strip * TILE + r) * width, line, width * sizeof(float));
    }
}

// ---- filters, BLOCK at a time

constexpr int BLOCK = 32;

// u [36, n] of w [n, 3, 3], which may be turned by half a turn.
inline void transform_weights(const float* w, size_t n, bool turned, float* u) {
#pragma omp parallel for
    for (size_t first = 0; first < n; first += BLOCK) {
        const int count = std::min<size_t>(BLOCK, n - first);
        float g[9][BLOCK] = {}, columns[SIDE][3][BLOCK], points[POINTS][BLOCK];
        for (int i = 0; i < 9; i++)
            for (int e = 0; e < count; e++) g[turned ? 8 - i : i][e] = w[(first + e) * 9 + i];
        weight_transform(rows(g[0], 3 * BLOCK).p, rows(columns[0][0], 3 * BLOCK).p, 3 * BLOCK);
        for (int r = 0; r < SIDE; r++)
            weight_transform(rows(columns[r][0], BLOCK).p, rows(points[r * SIDE], BLOCK).p, BLOCK);
        for (int p = 0; p < POINTS; p++)
            memcpy(u + p * n + first, points[p], count * sizeof(float));
    }
}

// dw [n, 3, 3] of du [36, n].
inline void gather_weight_gradients(const float* du, size_t n, float* dw) {
#pragma omp parallel for
    for (size_t first = 0; first < n; first += BLOCK) {
        const int count = std::min<size_t>(BLOCK, n - first);
        float points[POINTS][BLOCK] = {}, columns[3][SIDE][BLOCK], g[9][BLOCK];
        for (int p = 0; p < POINTS; p++)
            memcpy(points[p], du + p * n + first, count * sizeof(float));
        weight_gradient_transform(rows(points[0], SIDE * BLOCK).p,
                                  rows(columns[0][0], SIDE * BLOCK).p, SIDE * BLOCK);
        for (int r = 0; r < 3; r++)
            weight_gradient_transform(rows(columns[r][0], BLOCK).p, rows(g[3 * r], BLOCK).p, BLOCK);
        for (int e = 0; e < count; e++)
            for (int i = 0; i < 9; i++) dw[(first + e) * 9 + i] = g[i][e];
    }
}

// ---- whole tensors

// Memory that is kept: fresh memory costs as much as the work on it. The largest layer decides how
// much of it there is.
inline float* kept(int which, size_t floats) {
    static float* memory[4];
    static size_t size[4];
    if (size[which] < floats) {
        free(memory[which]);
        size[which] = (floats + 15) / 16 * 16;
        memory[which] = (float*)aligned_alloc(64, size[which] * sizeof(float));
    }
    return memory[which];
}

struct Plan {  // how the tiles of n planes of height x width outputs are worked through
    int tiles, of_plane, strips, at_once;
    Plan(int n, int channels, int height, int width)
        : tiles((width + 3) / 4),
          of_plane((height + 3) / 4),
          strips(n * of_plane),
          at_once(std::max<int>(
              1, std::min<size_t>(strips, SCRATCH / (POINTS * sizeof(float) * channels * tiles)))) {
    }
    size_t work() const { return (size_t)WORK * (tiles + 1); }
};

// v [36, C, T]: the points of `count` strips from `first` on of x [n, C, h, w]. Called by all
// threads of a region; does not wait.
inline void input_points(const float* x, int C, int height, int width, int pad, const Plan& plan,
                         int first, int count, float* v, float* work) {
    const size_t T = (size_t)count * plan.tiles;
#pragma omp for collapse(2) nowait
    for (int c = 0; c < C; c++)
        for (int i = 0; i < count; i++) {
            const int image = (first + i) / plan.of_plane, strip = (first + i) % plan.of_plane;
            input_strip(x + ((size_t)image * C + c) * height * width, height, width, pad, strip,
                        plan.tiles, v + c * T + i * plan.tiles, C * T, work);
        }
}

// y [n, K, h + 2 pad - 2, w + 2 pad - 2] of x [n, C, h, w] and the filters w [K, C, 3, 3]; turned:
// w is [C, K, 3, 3]. `bias` [K] is added where it is given.
inline void convolve(const float* x, const float* w, const float* bias, float* y, int n, int C,
                     int K, int height, int width, int pad, bool turned) {
    const int high = height + 2 * pad - 2, wide = width + 2 * pad - 2;
    const Plan plan(n, C + K, high, wide);
    const size_t most = (size_t)plan.at_once * plan.tiles;
    float *u = kept(0, (size_t)POINTS * K * C), *v = kept(1, POINTS * C * most),
          *m = kept(2, POINTS * K * most);
    float* work = kept(3, plan.work() * omp_get_max_threads());
    transform_weights(w, (size_t)K * C, turned, u);
    for (int first = 0; first < plan.strips; first += plan.at_once) {
        const int count = std::min(plan.at_once, plan.strips - first);
        const size_t T = (size_t)count * plan.tiles;
#pragma omp parallel
        {
            float* mine = work + plan.work() * omp_get_thread_num();
            input_points(x, C, height, width, pad, plan, first, count, v, mine);
#pragma omp barrier
#pragma omp for
            for (int p = 0; p < POINTS; p++)
                dnnl_sgemm(turned ? 'T' : 'N', 'N', K, T, C, 1, u + (size_t)p * K * C,
                           turned ? K : C, v + p * C * T, T, 0, m + p * K * T, T);
#pragma omp for collapse(2)
            for (int k = 0; k < K; k++)
                for (int i = 0; i < count; i++) {
                    const int image = (first + i) / plan.of_plane,
                              strip = (first + i) % plan.of_plane;
                    output_strip(m + k * T + i * plan.tiles, K * T, bias ? bias[k] : 0,
                                 y + ((size_t)image * K + k) * high * wide, high, wide, strip,
                                 plan.tiles, mine);
                }
        }
    }
}

// dw [K, C, 3, 3] of x [n, C, h, w] and dy [n, K, h + 2 pad - 2, w + 2 pad - 2].
inline void weight_gradient(const float* x, const float* dy, float* dw, int n, int C, int K,
                            int height, int width, int pad) {
    const int high = height + 2 * pad - 2, wide = width + 2 * pad - 2;
    const Plan plan(n, C + K, high, wide);
    const size_t most = (size_t)plan.at_once * plan.tiles;
    float *du = kept(0, (size_t)POINTS * K * C), *v = kept(1, POINTS * C * most),
          *m = kept(2, POINTS * K * most);
    float* work = kept(3, plan.work() * omp_get_max_threads());
    for (int first = 0; first < plan.strips; first += plan.at_once) {
        const int count = std::min(plan.at_once, plan.strips - first);
        const size_t T = (size_t)count * plan.tiles;
#pragma omp parallel
        {
            float* mine = work + plan.work() * omp_get_thread_num();
            input_points(x, C, height, width, pad, plan, first, count, v, mine);
#pragma omp for collapse(2)
            for (int k = 0; k < K; k++)
                for (int i = 0; i < count; i++) {
                    const int image = (first + i) / plan.of_plane,
                              strip = (first + i) % plan.of_plane;
                    gradient_strip(dy + ((size_t)image * K + k) * high * wide, high, wide, strip,
                                   plan.tiles, m + k * T + i * plan.tiles, K * T, mine);
                }
#pragma omp for
            for (int p = 0; p < POINTS; p++)
                dnnl_sgemm('N', 'T', K, C, T, 1, m + p * K * T, T, v + p * C * T, T, first ? 1 : 0,
                           du + (size_t)p * K * C, C);
        }
    }
    if (!plan.strips) memset(du, 0, sizeof(float) * POINTS * K * C);  // no image
    gather_weight_gradients(du, (size_t)K * C, dw);
}

// db [K]: the sum of dy [n, K, pixels] over images and pixels.
inline void bias_gradient(const float* dy, float* db, int n, int K, int pixels) {
#pragma omp parallel for
    for (int k = 0; k < K; k++) {
        double sum = 0;
        for (int image = 0; image < n; image++) {
            const float* plane = dy + ((size_t)image * K + k) * pixels;
            float of_plane = 0;
            for (int i = 0; i < pixels; i++) of_plane += plane[i];
            sum += of_plane;
        }
        db[k] = sum;
    }
}

}  // namespace winograd
