"""oneDNN's matrix product, as kernels call it."""

# Row-major: C = alpha op(A) op(B) + beta C. Within a parallel region it runs on the calling thread
# alone.
SGEMM = """
#include <cstdint>
extern "C" int dnnl_sgemm(
    char transpose_a, char transpose_b, int64_t m, int64_t n, int64_t k, float alpha,
    const float* A, int64_t lda, const float* B, int64_t ldb, float beta, float* C, int64_t ldc);
"""
