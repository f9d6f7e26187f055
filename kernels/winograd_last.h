// Winograd's convolution of images that have their channels last, [n, h, w, channels]; winograd.h,
// whose transforms it uses, and finish.h come before it. The values of a vector are the channels of pixels that
// lie side by side, so that vectors are long however small the images are, and nothing needs to be
// taken apart. Points are [36, T, channels]: the products are M_p [T, K] = V_p [T, C] U_p [K, C]
// turned.
//
// How fast: forward and both gradients, ms, batch 8, one core of an Intel Xeon with AVX-512 that
// other programs used too, the fastest of 12 (28 pixels: of 4):
//
//     channels   pixels   this          Winograd's on plain images   oneDNN's, channels last
//     64         56      11.1 + 25.8     9.1 + 30.0                  19.5 + 48.9
//     128        28       5.9 + 12.2    11.9 + 25.9                  15.1 + 30.0
//     256        14       6.5 + 11.6     9.1 + 20.4                   9.6 + 21.5
namespace winograd {
namespace last {

// `count` rows of pixels of an image, from `first` on; those beyond it are `zeros`.
inline void rows_of(const float* image, int height, size_t row, int first, int count, float* zeros,
                    const float** from) {
    memset(zeros, 0, row * sizeof(float));
    for (int r = 0; r < count; r++) {
        const int y = first + r;
        from[r] = y < 0 || y >= height ? zeros : image + y * row;
    }
}

// ---- one strip of one image. `work` has room for room() floats.

inline size_t room(int tiles, int channels) {
    return (size_t)(SIDE + 1) * (TILE * tiles + 2) * channels;
}

// Points of the input tiles: point p of tile j at points[p * step + j * C].
inline void input_strip(const float* image, int C, int height, int width, int pad, int strip,
                        int tiles, float* points, size_t step, float* work) {
    const size_t row = (size_t)(TILE * tiles + 2) * C, inside = (size_t)width * C,
                 left = (size_t)pad * C;
    const float* from[SIDE];
    rows_of(image, height, inside, strip * TILE - pad, SIDE, work + SIDE * row, from);
    for (int r = 0; r < SIDE; r++) {
        memset(work + r * row, 0, left * sizeof(float));
        memset(work + r * row + left + inside, 0, (row - left - inside) * sizeof(float));
    }
    input_transform(from, rows(work + left, row).p, inside);
    for (int r = 0; r < SIDE; r++)
        for (int j = 0; j < tiles; j++)
            input_transform(rows(work + r * row + (size_t)j * TILE * C, C).p,
                            rows(points + r * SIDE * step + (size_t)j * C, step).p, C);
}

// Points of the gradients of the output tiles.
inline void gradient_strip(const float* image, int K, int height, int width, int strip, int tiles,
                           float* points, size_t step, float* work) {
    const size_t row = (size_t)TILE * tiles * K, inside = (size_t)width * K;
    const float* from[TILE];
    rows_of(image, height, inside, strip * TILE, TILE, work + SIDE * row, from);
    for (int r = 0; r < SIDE; r++)
        memset(work + r * row + inside, 0, (row - inside) * sizeof(float));
    gradient_transform(from, rows(work, row).p, inside);
    for (int r = 0; r < SIDE; r++)
        for (int j = 0; j < tiles; j++)
            gradient_transform(rows(work + r * row + (size_t)j * TILE * K, K).p,
                               rows(points + r * SIDE * step + (size_t)j * K, step).p, K);
}

// The output pixels from their points; the image's pixels are those of y from `first` on.
inline void output_strip(float* points, size_t step, float* y, size_t first, int K, int height,
                         int width, int strip, int tiles, const finish::Finish& finish,
                         float* work) {
    const size_t line = (size_t)tiles * K, row = SIDE * line;
    float* beyond = work + TILE * row;  // what lies right of the image
    for (int c = 0; c < SIDE; c++)
        output_transform(rows(points + c * step, SIDE * step).p, rows(work + c * line, row).p,
                         line);
    for (int r = 0; r < TILE && strip * TILE + r < height; r++) {
        const size_t left = first + (size_t)(strip * TILE + r) * width;
        for (int j = 0; j < tiles; j++) {
            Pointers pixels = rows(y + (left + j * TILE) * K, K);
            for (int q = 0; q < TILE; q++)
                if (j * TILE + q >= width) pixels.p[q] = beyond;
            output_transform(rows(work + r * row + (size_t)j * K, line).p, pixels.p, K);
        }
        finish(y, left, width, 0, K, K);
    }
}

// ---- whole tensors

struct Memory {  // that is kept: points of filters, of inputs, of outputs, and each thread's work
    size_t mine;
    float *u, *v, *m, *work;
    Memory(const Plan& plan, int C, int K)
        : mine(room(plan.tiles, std::max(C, K))),
          u(kept(0, (size_t)POINTS * K * C)),
          v(kept(1, (size_t)POINTS * C * plan.at_once * plan.tiles)),
          m(kept(2, (size_t)POINTS * K * plan.at_once * plan.tiles)),
          work(kept(3, mine * omp_get_max_threads())) {}
};

// y [n, h + 2 pad - 2, w + 2 pad - 2, K] of x [n, h, w, C] and the filters w [K, C, 3, 3]; turned:
// w is [C, K, 3, 3].
inline void convolve(const float* x, const float* w, float* y, int n, int C, int K, int height,
                     int width, int pad, bool turned, const finish::Finish& finish = {}) {
    const int high = height + 2 * pad - 2, wide = width + 2 * pad - 2;
    const Plan plan(n, C + K, high, wide);
    const Memory at(plan, C, K);
    transform_weights(w, (size_t)K * C, turned, at.u);
    for (int first = 0; first < plan.strips; first += plan.at_once) {
        const int count = std::min(plan.at_once, plan.strips - first);
        const size_t T = (size_t)count * plan.tiles;
#pragma omp parallel
        {
            float* work = at.work + at.mine * omp_get_thread_num();
#pragma omp for
            for (int i = 0; i < count; i++)
                input_strip(x + (size_t)((first + i) / plan.of_plane) * height * width * C, C,
                            height, width, pad, (first + i) % plan.of_plane, plan.tiles,
                            at.v + (size_t)i * plan.tiles * C, T * C, work);
#pragma omp for
            for (int p = 0; p < POINTS; p++)
                dnnl_sgemm('N', turned ? 'N' : 'T', T, K, C, 1, at.v + p * T * C, C,
                           at.u + (size_t)p * K * C, turned ? K : C, 0, at.m + p * T * K, K);
#pragma omp for
            for (int i = 0; i < count; i++)
                output_strip(at.m + (size_t)i * plan.tiles * K, T * K, y,
                             (size_t)((first + i) / plan.of_plane) * high * wide, K, high, wide,
                             (first + i) % plan.of_plane, plan.tiles, finish, work);
        }
    }
}

// dw [K, C, 3, 3] of x [n, h, w, C] and dy [n, h + 2 pad - 2, w + 2 pad - 2, K].
inline void weight_gradient(const float* x, const float* dy, float* dw, int n, int C, int K,
                            int height, int width, int pad) {
    const int high = height + 2 * pad - 2, wide = width + 2 * pad - 2;
    const Plan plan(n, C + K, high, wide);
    const Memory at(plan, C, K);
    for (int first = 0; first < plan.strips; first += plan.at_once) {
        const int count = std::min(plan.at_once, plan.strips - first);
        const size_t T = (size_t)count * plan.tiles;
#pragma omp parallel
        {
            float* work = at.work + at.mine * omp_get_thread_num();
#pragma omp for
            for (int i = 0; i < count; i++) {
                const int image = (first + i) / plan.of_plane, strip = (first + i) % plan.of_plane;
                const size_t tile = (size_t)i * plan.tiles;
                input_strip(x + (size_t)image * height * width * C, C, height, width, pad, strip,
                            plan.tiles, at.v + tile * C, T * C, work);
                gradient_strip(dy + (size_t)image * high * wide * K, K, high, wide, strip,
                               plan.tiles, at.m + tile * K, T * K, work);
            }
#pragma omp for
            for (int p = 0; p < POINTS; p++)
                dnnl_sgemm('T', 'N', K, C, T, 1, at.m + p * T * K, K, at.v + p * T * C, C,
                           first ? 1 : 0, at.u + (size_t)p * K * C, C);
        }
    }
    if (!plan.strips) memset(at.u, 0, sizeof(float) * POINTS * K * C);  // no image
    gather_weight_gradients(at.u, (size_t)K * C, dw);
}

}  // namespace last
}  // namespace winograd
