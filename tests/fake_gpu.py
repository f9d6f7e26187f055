"""A pretended GPU: every CUDA call succeeds and no kernel runs, so that the whole CUDA path of
Jittor and of this project
is compiled by the real nvcc, linked and walked through on a machine without a GPU. What is computed
on it is
meaningless; memory is ordinary memory, set to 0.

    python tests/fake_gpu.py FOLDER COMMAND...      # runs the command with it
"""

import os
import re
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))
from toolchain import cuda, gpu

# What must answer with more than success.
ANSWERS = r"""
#include <cuda_runtime_api.h>
#include <cudnn.h>
#include <cstdlib>
#include <cstring>
#define API extern "C" __attribute__((visibility("default")))
static cudaError_t allocate(void** p, size_t n) {
    n = (n + 4095) / 4096 * 4096;
    *p = aligned_alloc(4096, n ? n : 4096);
    memset(*p, 0, n);
    return cudaSuccess;
}
API cudaError_t cudaGetDeviceCount(int* n) { *n = 1; return cudaSuccess; }
API cudaError_t cudaGetDevice(int* d) { *d = 0; return cudaSuccess; }
API cudaError_t cudaGetDeviceProperties(cudaDeviceProp* p, int) {
    memset(p, 0, sizeof *p);
    strcpy(p->name, "pretended GPU");
    p->major = 9; p->multiProcessorCount = 132; p->totalGlobalMem = 8ull << 30; p->warpSize = 32;
    p->maxThreadsPerBlock = 1024; p->sharedMemPerBlock = 49152;
    return cudaSuccess;
}
API cudaError_t cudaDeviceGetAttribute(int* v, cudaDeviceAttr a, int) {
    *v = a == cudaDevAttrComputeCapabilityMajor ? 9 : a == cudaDevAttrComputeCapabilityMinor ? 0 :
         a == cudaDevAttrMultiProcessorCount ? 132 : a == cudaDevAttrComputeMode ? 0 : 1024;
    return cudaSuccess;
}
API cudaError_t cudaFuncGetAttributes(cudaFuncAttributes* a, const void*) {
    memset(a, 0, sizeof *a);
    a->ptxVersion = a->binaryVersion = 90; a->maxThreadsPerBlock = 1024;
    return cudaSuccess;
}
API cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessor(
        int* n, const void*, int, size_t) {
    *n = 2; return cudaSuccess; }
API cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(
        int* n, const void*, int, size_t, unsigned) {
    *n = 2; return cudaSuccess;
}
API cudaError_t cudaMemGetInfo(size_t* f, size_t* t) { *f = *t = 8ull << 30; return cudaSuccess; }
API cudaError_t cudaMalloc(void** p, size_t n) { return allocate(p, n); }
API cudaError_t cudaMallocHost(void** p, size_t n) { return allocate(p, n); }
API cudaError_t cudaMallocManaged(void** p, size_t n, unsigned) { return allocate(p, n); }
API cudaError_t cudaFree(void* p) { free(p); return cudaSuccess; }
API cudaError_t cudaFreeHost(void* p) { free(p); return cudaSuccess; }
API cudaError_t cudaMemcpy(void* a, const void* b, size_t n, cudaMemcpyKind) {
    memmove(a, b, n); return cudaSuccess; }
API cudaError_t cudaMemcpyAsync(
        void* a, const void* b, size_t n, cudaMemcpyKind, cudaStream_t) {
    memmove(a, b, n); return cudaSuccess; }
API cudaError_t cudaMemset(void* a, int v, size_t n) { memset(a, v, n); return cudaSuccess; }
API cudaError_t cudaMemsetAsync(void* a, int v, size_t n, cudaStream_t) {
    memset(a, v, n); return cudaSuccess; }
API cudaError_t cudaLaunchHostFunc(cudaStream_t, cudaHostFn_t f, void* p) {
    f(p); return cudaSuccess; }
API const char* cudaGetErrorString(cudaError_t) { return "pretended"; }
API const char* cudaGetErrorName(cudaError_t) { return "pretended"; }
static const char* trace = getenv("FAKE_GPU_TRACE");  // a file: a line for each call of these
#define CONVOLUTION(NAME, KIND) \
    API cudnnStatus_t cudnnGetConvolution##NAME##Algorithm_v7( \
            cudnnHandle_t, A, B, cudnnConvolutionDescriptor_t, C, int, \
            int* found, cudnnConvolution##KIND##AlgoPerf_t* results) { \
        note("chosen " #NAME); return first(found, results); } \
    API cudnnStatus_t cudnnFindConvolution##NAME##AlgorithmEx( \
            cudnnHandle_t, A, const void*, B, const void*, \
            cudnnConvolutionDescriptor_t, C, void*, int, int* found, \
            cudnnConvolution##KIND##AlgoPerf_t* results, void*, \
            size_t) { note("timed " #NAME); return first(found, results); } \
    API cudnnStatus_t cudnnGetConvolution##NAME##WorkspaceSize( \
            cudnnHandle_t, A, B, cudnnConvolutionDescriptor_t, C, \
            cudnnConvolution##KIND##Algo_t, size_t* size) { \
        *size = 0; return CUDNN_STATUS_SUCCESS; }
static void note(const char* line) {
    if (!trace) return;
    FILE* f = fopen(trace, "a"); fprintf(f, "%s\n", line); fclose(f);
}
template <class T> static cudnnStatus_t first(int* found, T* results) {
    memset(results, 0, sizeof *results); *found = 1; return CUDNN_STATUS_SUCCESS;
}
#define A cudnnTensorDescriptor_t
#define B cudnnFilterDescriptor_t
#define C cudnnTensorDescriptor_t
CONVOLUTION(Forward, Fwd)
#undef A
#undef B
#define A cudnnFilterDescriptor_t
#define B cudnnTensorDescriptor_t
CONVOLUTION(BackwardData, BwdData)
#undef A
#undef C
#define A cudnnTensorDescriptor_t
#define C cudnnFilterDescriptor_t
CONVOLUTION(BackwardFilter, BwdFilter)
"""

DRIVER = r"""
extern "C" {
int cuInit(unsigned) { return 0; }
int cuDriverGetVersion(int* v) { *v = 13000; return 0; }
int cuDeviceGetCount(int* n) { *n = 1; return 0; }
int cuDeviceGet(int* d, int) { *d = 0; return 0; }
int cuDeviceGetAttribute(int* v, int a, int) { *v = a == 75 ? 9 : 0; return 0; }
int cuDeviceGetName(char* name, int, int) {
    for (const char* from = "pretended GPU"; (*name++ = *from++);); return 0; }
int cuDeviceTotalMem_v2(unsigned long* bytes, int) { *bytes = 8ul << 30; return 0; }
}
"""
LIBRARIES = ("cudart", "cudnn", "cublas", "curand", "cufft", "cusparse", "nccl")


def environment(folder: Path) -> dict[str, str]:
    """Build the pretended driver and libraries in `folder`; the environment variables that put them
    in place.

    The pretended libraries have the names that the real ones export, and no others: what Jittor
    would miss in the real
    ones is missing here.
    """
    driver = folder / "libcuda.so.1"
    if not driver.exists():
        folder.mkdir(parents=True, exist_ok=True)
        gpu.driver, gpu.cards = lambda: ((13, 0), 1), list
        toolkit = cuda.choose(folder)
        assert toolkit.nvcc, toolkit.why
        # in C, without the headers, so that the declarations do not matter
        lib64, silent = toolkit.folder / "lib64", ""
        for library in LIBRARIES:
            listing = subprocess.run(
                ["nm", "-D", "--defined-only", (lib64 / f"lib{library}.so").resolve()],
                capture_output=True,
                text=True,
                check=True,
            ).stdout
            for name in re.findall(r" [TW] (\w+)", listing):
                silent += f"__attribute__((weak)) int {name}() {{ return 0; }}\n"
        build(silent, folder / "silent.o", "-x", "c", "-c")
        build(
            "#include <cstdio>\n" + ANSWERS,
            folder / "libfake.so",
            f"-I{toolkit.folder}/include",
            folder / "silent.o",
        )
        for link in lib64.glob("*.so*"):
            link.unlink()
            link.symlink_to(folder / "libfake.so")
        build(DRIVER, driver)
        (folder / "libcuda.so").symlink_to(driver)
    return dict(LD_LIBRARY_PATH=str(folder), nvcc_path=str(next(folder.glob("cuda-*/bin/nvcc"))))


def build(source: str, output: Path, *flags) -> None:
    path = output.with_suffix(".cc")
    path.write_text(source)
    subprocess.run(
        ["g++", "-fPIC", "-w", *([] if "-c" in flags else ["-shared"]), *flags, path, "-o", output],
        check=True,
    )


if __name__ == "__main__":
    os.environ |= environment(Path(sys.argv[1]))
    os.execvp(sys.argv[2], sys.argv[2:])
