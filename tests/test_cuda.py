"""The choice and the assembly of a CUDA toolkit, on pretended toolkits and wheels; with `-m
cuda_wheels` on the real wheels,
where all of Jittor's CUDA code and the kernels of a whole run are compiled and walked through on a
pretended GPU."""

import json
import os
import subprocess
import sys
from pathlib import Path
from shutil import which

import fake_gpu
import pytest
from conftest import ROOT, executable, jt

from toolchain import ToolchainError, cuda, cuda_folder, cuda_parts, doctor, gpu


@pytest.fixture(autouse=True)
def nothing_of_the_machine(monkeypatch, tmp_path):
    """No nvcc, no wheels, a driver for CUDA 13 and one GPU."""
    monkeypatch.delenv("nvcc_path", raising=False)
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    monkeypatch.setattr(cuda, "SYSTEM_NVCC", ())
    monkeypatch.setattr("shutil.which", lambda name: None)
    monkeypatch.setattr(cuda_parts, "SYSTEM_LIBRARIES", str(tmp_path / "usr-lib"))
    monkeypatch.setattr(cuda_parts, "SYSTEM_HEADERS", (str(tmp_path / "usr-include"),))
    for name in cuda.HOMES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(gpu, "driver", lambda: ((13, 0), 1))
    monkeypatch.setattr(gpu, "cards", lambda: [gpu.Card("Some GPU", (9, 0), 80.0)])
    monkeypatch.setattr(cuda_parts, "version", lambda wheel: "")


def fake_toolkit(folder: Path, version="12.4", runtime=True, cudnn=True) -> str:
    nvcc = executable(
        folder / "bin/nvcc",
        f'[ "$1" = --version ] && echo "Cuda compilation tools, release {version}, V{version}.1"',
    )
    (folder / "lib64").mkdir()
    (folder / "lib64/libcublas.so.12").touch()
    if runtime:
        (folder / "lib64/libcudart.so").touch()
    if cudnn:
        (folder / "lib64/libcudnn_ops_infer.so").touch()
    (folder / "include").mkdir()
    (folder / "include/cuda_runtime.h").touch()
    return str(nvcc)


def system_nvcc(monkeypatch, *paths: str) -> None:
    monkeypatch.setattr(cuda, "SYSTEM_NVCC", paths)


WHEELS = {
    "nvidia-cuda-nvcc": "13.0.88",
    "nvidia-cuda-crt": "13.0.88",
    "nvidia-nvvm": "13.0.88",
    "nvidia-cuda-cccl": "13.0.85",
    "nvidia-cuda-runtime": "13.0.96",
    "nvidia-cuda-nvrtc": "13.0.88",
    "nvidia-cublas": "13.1.0.3",
    "nvidia-curand": "10.4.0.35",
    "nvidia-cufft": "12.0.0.61",
    "nvidia-cusparse": "12.6.3.3",
    "nvidia-nvjitlink": "13.0.88",
    "nvidia-cudnn-cu13": "9.20.0.48",
    "nvidia-nccl-cu13": "2.29.7",
}


@pytest.fixture
def wheels(monkeypatch, tmp_path):
    """Pretended wheels: an environment of their own with the files that matter. Returns the
    versions, to be changed."""
    root = tmp_path / "site-packages"
    cu13, cudnn, nccl = root / "nvidia/cu13", root / "nvidia/cudnn", root / "nvidia/nccl"
    for path in (
        *(
            cu13 / "include" / name
            for name in ("cublas_v2.h", "cccl/cub/cub.cuh", "cccl/thrust/version.h")
        ),
        *(cu13 / "lib" / name for name in ("libcublas.so.13", "libcudart.so.13", "libcudadevrt.a")),
        *(
            cudnn / "lib" / name
            for name in ("libcudnn.so.9", "libcudnn_ops.so.9", "libcudnn_cnn.so.9")
        ),
        nccl / "include/nccl.h",
        nccl / "lib/libnccl.so.2",
    ):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    (cu13 / "include/cuda_runtime.h").write_text("""#ifndef REAL_RUNTIME
#define REAL_RUNTIME
struct cudaDeviceProp { int major, minor; };
enum cudaError_t { cudaSuccess, cudaErrorInvalid };
enum cudaDeviceAttr { cudaDevAttrClockRate = 13, cudaDevAttrComputeMode = 20 };
extern "C" inline cudaError_t cudaGetDeviceProperties(cudaDeviceProp* p, int) {
    p->major = 9; return cudaSuccess; }
extern "C" inline cudaError_t cudaDeviceGetAttribute(int* v, cudaDeviceAttr a, int) {
    *v = 100 + a; return cudaSuccess; }
#endif
""")
    (cudnn / "include").mkdir()
    (cudnn / "include/cudnn.h").write_text(
        "enum cudnnStatus_t { CUDNN_STATUS_SUCCESS, CUDNN_STATUS_NOT_SUPPORTED };\n"
    )
    executable(
        cu13 / "bin/nvcc",
        '[ "$1" = --version ] && echo "release 13.0, V13.0.88" || printf "%s\\n" "$@"',
    )

    class Distribution:
        version = "1"

        @staticmethod
        def locate_file(name):
            return root / name

    versions = dict(WHEELS)
    monkeypatch.setattr(cuda_parts, "version", lambda wheel: versions.get(wheel, ""))
    monkeypatch.setattr("importlib.metadata.distribution", lambda wheel: Distribution)
    return versions


# ---- which toolkits can be used as they are


@pytest.mark.parametrize(
    "options, problem",
    [
        (dict(), ""),
        (dict(version="11.8"), ""),
        (dict(version="13.0"), "wants a CUDA 11 or 12 toolkit"),
        (dict(runtime=False), "no CUDA runtime beside it"),
        (dict(cudnn=False), "cuDNN 8 is missing"),
    ],
)
def test_which_toolkits_can_be_used(tmp_path, options, problem):
    assert problem in cuda.toolkit_problem(fake_toolkit(tmp_path, **options))
    assert bool(cuda.toolkit_problem(fake_toolkit(tmp_path / "again", **options))) == bool(problem)


def test_an_nvcc_that_is_no_program(tmp_path):
    assert "is no program" in cuda.toolkit_problem(str(tmp_path / "nvcc"))


# ---- the order of the choice


def test_what_the_user_set_comes_first(monkeypatch, tmp_path, wheels):
    mine, other = fake_toolkit(tmp_path / "mine"), fake_toolkit(tmp_path / "other")
    system_nvcc(monkeypatch, other)
    monkeypatch.setenv("nvcc_path", mine)
    chosen = cuda.choose(tmp_path)
    assert chosen.nvcc == mine and chosen.why == f"nvcc_path toolkit {tmp_path}/mine, as it is"


def test_what_the_user_set_is_never_replaced_in_silence(monkeypatch, tmp_path, wheels):
    monkeypatch.setenv("nvcc_path", fake_toolkit(tmp_path / "mine", version="10.2"))
    chosen = cuda.choose(tmp_path)
    assert chosen.nvcc == "" and "wants a CUDA 11 or 12 toolkit" in chosen.why
    monkeypatch.setenv("nvcc_path", "")
    assert cuda.choose(tmp_path) == cuda.Toolkit(
        "", "nvcc_path is set to nothing in the environment"
    )


def test_a_system_toolkit_as_it_is_comes_before_the_wheels(monkeypatch, tmp_path, wheels):
    broken, good = fake_toolkit(tmp_path / "broken", runtime=False), fake_toolkit(tmp_path / "good")
    system_nvcc(monkeypatch, broken, good)
    chosen = cuda.choose(tmp_path)
    assert chosen.nvcc == good and chosen.why == f"the system's toolkit {tmp_path}/good, as it is"


def test_a_system_toolkit_without_cudnn_is_completed_from_its_wheel(monkeypatch, tmp_path, wheels):
    system_nvcc(monkeypatch, fake_toolkit(tmp_path / "system", cudnn=False))
    cudnn = tmp_path / "site-packages/nvidia/cudnn/lib/libcudnn_ops_infer.so.8"
    cudnn.touch()
    wheels["nvidia-cudnn-cu12"] = "8.9.7.29"
    chosen = cuda.choose(tmp_path / "cache")
    assert chosen.why == (
        f"the system's toolkit of {tmp_path}/system/bin/nvcc (CUDA 12.4), completed with cuDNN "
        "8.9.7.29 of "
        "nvidia-cudnn-cu12"
    )
    lib64 = chosen.folder / "lib64"
    assert (lib64 / "libcudart.so").resolve() == tmp_path / "system/lib64/libcudart.so"
    assert (
        (lib64 / "libcudnn_ops_infer.so").resolve()
        == (lib64 / "libcudnn_ops_infer.so.8").resolve()
        == cudnn
    )
    assert (
        chosen.folder / "include/cuda_runtime.h"
    ).resolve() == tmp_path / "system/include/cuda_runtime.h"
    assert cuda.cuda_version(chosen.nvcc) == (12, 4) and cuda.toolkit_problem(chosen.nvcc) == ""


def test_wheels_of_cudnn_9_do_not_complete_a_cuda_12_toolkit(monkeypatch, tmp_path):
    system_nvcc(monkeypatch, fake_toolkit(tmp_path / "system", version="11.8", cudnn=False))
    monkeypatch.setattr(
        cuda_parts, "version", lambda wheel: "9.10.2.21" if wheel == "nvidia-cudnn-cu11" else ""
    )
    chosen = cuda.choose(tmp_path)
    assert chosen.nvcc == "" and 'pip install "nvidia-cudnn-cu11==8.9.*"' in chosen.why


def test_the_wheels_come_last_and_then_the_cpu(tmp_path, wheels):
    chosen = cuda.choose(tmp_path)
    assert (
        chosen.why == "CUDA 13.0 put together from PyPI's wheels, cuDNN 9.20.0.48"
        and Path(chosen.nvcc).exists()
    )
    wheels.clear()
    assert cuda.choose(tmp_path) == cuda.Toolkit(
        "", "CUDA 13 is not installed as wheels: `pip install -r requirements-cuda.txt`"
    )


@pytest.mark.parametrize(
    "change, says",
    [
        (
            {"nvidia-cuda-nvcc": "", "nvidia-nvvm": "", "nvidia-curand": ""},
            '`pip install "nvidia-cuda-nvcc==13.0.*" "nvidia-nvvm==13.0.*" nvidia-curand`',
        ),
        ({"nvidia-cuda-nvcc": "13.2.86"}, '`pip install "nvidia-cuda-nvcc==13.0.*"`'),
        (
            {"nvidia-cuda-runtime": ""},
            "nvidia-cuda-runtime is missing: `pip install -r requirements-cuda.txt`",
        ),
        (
            {"nvidia-cuda-runtime": "14.0.1"},
            "the wheels of CUDA 14.0 are installed, only CUDA 13 is known",
        ),
        ({"nvidia-cudnn-cu13": "10.1.0.1"}, "only cuDNN 9 is known to work"),
    ],
)
def test_incomplete_wheels_are_named_with_what_mends_them(tmp_path, wheels, change, says):
    wheels |= change
    chosen = cuda.choose(tmp_path)
    assert chosen.nvcc == "" and says in chosen.why


def test_an_old_driver_is_named(monkeypatch, tmp_path, wheels):
    monkeypatch.setattr(gpu, "driver", lambda: ((12, 4), 1))
    assert (
        "the driver supports CUDA 12.4 at most, and the wheels' CUDA 13 wants a driver of "
        "version 580" in cuda.choose(tmp_path).why
    )


def test_a_card_that_cuda_13_no_longer_compiles_for_is_named(monkeypatch, tmp_path, wheels):
    monkeypatch.setattr(
        gpu, "cards", lambda: [gpu.Card("Good", (7, 5), 16.0), gpu.Card("GTX 1080", (6, 1), 8.0)]
    )
    chosen = cuda.choose(tmp_path)
    assert (
        chosen.nvcc == ""
        and "no longer compiles for GTX 1080 (compute capability 6.1, it wants 7.5)" in chosen.why
    )
    system_nvcc(monkeypatch, fake_toolkit(tmp_path / "good"))
    assert cuda.choose(tmp_path).nvcc == str(tmp_path / "good/bin/nvcc")  # CUDA 12 does


DRIVER = """
#include <cstring>
extern "C" {
int cuDriverGetVersion(int* v) { *v = 13020; return 0; }
int cuInit(unsigned) { return 0; }
int cuDeviceGetCount(int* n) { *n = 3; return 0; }
int cuDeviceGet(int* d, int i) { *d = 100 + i; return 0; }
int cuDeviceGetName(char* s, int n, int d) {
    strncpy(s, d == 100 ? "First" : "Second", n); return 0; }
int cuDeviceTotalMem_v2(size_t* m, int d) { *m = (d == 100 ? 8ull : 80ull) << 30; return 0; }
int cuDeviceGetAttribute(int* v, int a, int d) {
    *v = a == 75 ? (d == 100 ? 6 : 9) : a == 76 ? d - 100 : -1;
    return d == 102; }
}
"""


def test_the_cards_are_those_the_driver_shows(monkeypatch, tmp_path):
    """The third answers with an error."""
    import ctypes

    monkeypatch.undo()
    (tmp_path / "driver.cc").write_text(DRIVER)
    subprocess.run(
        ["g++", "-shared", "-fPIC", tmp_path / "driver.cc", "-o", tmp_path / "libcuda.so.1"],
        check=True,
    )
    original = ctypes.CDLL
    monkeypatch.setattr("ctypes.CDLL", lambda name: original(str(tmp_path / name)))
    assert gpu.driver() == ((13, 2), 3) and gpu.gpu_problem() == "" and gpu.gpu_name() == "First"
    assert [str(card) for card in gpu.cards()] == [
        "First, 8 GiB, compute capability 6.0",
        "Second, 80 GiB, compute capability 9.1",
    ]
    monkeypatch.setattr("system.processes.LOCAL_RANK", 1)
    assert gpu.gpu_name() == "Second"


# ---- a compiler of the system with cuDNN 9, its libraries from wherever they are


def compiler_alone(folder: Path, release="13.0", lib="lib64") -> str:
    """A toolkit with the compiler's parts and no library but the runtime."""
    major = release.partition(".")[0]
    nvcc = executable(
        folder / "bin/nvcc",
        f'[ "$1" = --version ] && echo "release {release}, V{release}.88" || printf "%s\\n" "$@"',
    )
    cub = "cccl/cub/cub.cuh" if int(major) > 12 else "cub/cub.cuh"
    for path in (
        "nvvm/bin/cicc",
        "include/crt/host_config.h",
        f"include/{cub}",
        "include/cuda_runtime.h",
        f"{lib}/libcudart.so",
        f"{lib}/libcudart.so.{major}",
    ):
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).touch()
    return str(nvcc)


LIBRARIES = {
    "cublas": ("cublas_v2.h", {12: 12, 13: 13}),
    "cufft": ("cufft.h", {12: 11, 13: 12}),
    "curand": ("curand.h", {12: 10, 13: 10}),
    "cusparse": ("cusparse.h", {12: 12, 13: 12}),
    "nvJitLink": ("nvJitLink.h", {12: 12, 13: 13}),
    "nvrtc": ("nvrtc.h", {12: 12, 13: 13}),
}


def add_libraries(include: Path, lib: Path, major: int, but: tuple[str, ...] = ()) -> None:
    for folder in (include, lib):
        folder.mkdir(parents=True, exist_ok=True)
    for name, (header, numbers) in LIBRARIES.items():
        if name not in but:
            (include / header).touch()
            (lib / f"lib{name}.so.{numbers[major]}").symlink_to(
                lib / f"lib{name}.so.{numbers[major]}.4.2"
            )
            (lib / f"lib{name}.so.{numbers[major]}.4.2").touch()


def add_cudnn(include: Path, lib: Path) -> None:
    for folder in (include, lib):
        folder.mkdir(parents=True, exist_ok=True)
    (include / "cudnn.h").touch()
    for name in ("cudnn", "cudnn_ops", "cudnn_cnn", "cudnn_graph"):
        (lib / f"lib{name}.so.9").symlink_to(lib / f"lib{name}.so.9.11.0")
        (lib / f"lib{name}.so.9.11.0").touch()


def test_a_compiler_alone_takes_its_libraries_from_wheels(monkeypatch, tmp_path, wheels):
    """As /usr/local/cuda of a box where PyTorch has brought the libraries, and no compiler."""
    for wheel in (
        "nvidia-cuda-nvcc",
        "nvidia-cuda-crt",
        "nvidia-nvvm",
        "nvidia-cuda-cccl",
        "nvidia-cuda-runtime",
    ):
        del wheels[wheel]
    (tmp_path / "site-packages/nvidia/cu13/bin/nvcc").unlink()
    system_nvcc(monkeypatch, compiler_alone(tmp_path / "cuda"))
    chosen = cuda.choose(tmp_path / "cache")
    assert (
        chosen.why
        == f"CUDA 13.0 put together from {tmp_path}/cuda and PyPI's wheels, cuDNN 9.20.0.48"
    )
    folder, lib64 = chosen.folder, chosen.folder / "lib64"
    assert (lib64 / "libcudart.so.13").resolve() == tmp_path / "cuda/lib64/libcudart.so.13"
    assert (lib64 / "libcublas.so").resolve().is_relative_to(tmp_path / "site-packages")
    assert (lib64 / "libcudnn_ops_infer.so").resolve().name == "libcudnn_ops.so.9"
    assert (folder / "include/cub/cub.cuh").resolve() == tmp_path / "cuda/include/cccl/cub/cub.cuh"
    assert (
        f'#include "{tmp_path}/cuda/include/cuda_runtime.h"'
        in (folder / "include/cuda_runtime.h").read_text()
    )
    done = subprocess.run(
        [chosen.nvcc, "-std=c++14", "-code=sm_90"], capture_output=True, text=True
    )
    assert done.stdout.split() == ["-std=c++17", "-code=sm_90,compute_90"]
    table = {part.name: str(part) for part in cuda.parts(chosen)}
    assert (
        table["nvcc"] == f"13.0.88, {tmp_path}/cuda"
        and table["cuBLAS"] == "13.1.0.3, wheel nvidia-cublas"
    )
    assert table["NCCL"] == "2.29.7, wheel nvidia-nccl-cu13" and set(table) == {
        "nvcc",
        "crt",
        "nvvm",
        "CCCL",
        "runtime",
        "nvrtc",
        "cuBLAS",
        "cuRAND",
        "cuFFT",
        "cuSPARSE",
        "nvJitLink",
        "cuDNN",
        "NCCL",
    }
    monkeypatch.setenv("nvcc_path", chosen.nvcc)  # of a process that this one starts
    assert (
        cuda.choose(tmp_path / "cache") == chosen
        and {part.name: str(part) for part in cuda.parts(chosen)} == table
    )


@pytest.mark.parametrize("major", [12, 13])
@pytest.mark.parametrize("lib", ["lib64", "lib", "targets/x86_64-linux/lib"])
def test_a_whole_toolkit_with_cudnn_9_of_the_system(monkeypatch, tmp_path, major, lib):
    """As NVIDIA's containers have it: no wheel at all."""
    monkeypatch.setattr(gpu, "driver", lambda: ((13, 2), 1))
    nvcc = compiler_alone(tmp_path / "cuda", f"{major}.1", lib)
    add_libraries(tmp_path / "cuda/include", tmp_path / "cuda" / lib, major)
    add_cudnn(tmp_path / "usr-include", tmp_path / "usr-lib")
    system_nvcc(monkeypatch, nvcc)
    chosen = cuda.choose(tmp_path / "cache")
    assert (
        chosen.why
        == f"CUDA {major}.1 put together from {tmp_path}/cuda and the system's libraries, "
        "cuDNN 9.11.0"
    )
    lib64 = chosen.folder / "lib64"
    assert (lib64 / "libcusparse.so").resolve() == tmp_path / "cuda" / lib / "libcusparse.so.12.4.2"
    assert (
        lib64 / "libcudnn_cnn_train.so"
    ).resolve() == tmp_path / "usr-lib/libcudnn_cnn.so.9.11.0"
    assert (lib64 / "libcudnn_graph.so.9").exists()
    assert (
        f'#include "{tmp_path}/usr-include/cudnn.h"'
        in (chosen.folder / "include/cudnn.h").read_text()
    )
    done = subprocess.run(
        [chosen.nvcc, "-std=c++14", "-code=sm_90"], capture_output=True, text=True
    )
    assert done.stdout.split() == [
        "-std=c++17" if major == 13 else "-std=c++14",
        "-code=sm_90,compute_90",
    ]
    assert (chosen.folder / "include/cuda_runtime.h").is_symlink() == (
        major == 12
    )  # 12 has all that Jittor reads


def test_cuda_12_with_pytorchs_cudnn_9(monkeypatch, tmp_path, wheels):
    """As on Colab: the toolkit with all its libraries; cuDNN 9 and NCCL as wheels, which lie in
    folders of their own."""
    wheels.clear()
    wheels |= {
        "nvidia-cudnn-cu12": "9.19.0.56",
        "nvidia-nccl-cu12": "2.28.9",
        "nvidia-cublas-cu12": "12.8.4.1",
    }
    nvcc = compiler_alone(tmp_path / "cuda", "12.8")
    add_libraries(tmp_path / "cuda/include", tmp_path / "cuda/lib64", 12)
    (tmp_path / "cuda/lib64/libcudnn.so").touch()  # left there by an older cuDNN, with its header
    (tmp_path / "cuda/include/cudnn.h").touch()
    system_nvcc(monkeypatch, nvcc)
    chosen = cuda.choose(tmp_path / "cache")
    assert (
        chosen.why
        == f"CUDA 12.8 put together from {tmp_path}/cuda and PyPI's wheels, cuDNN 9.19.0.56"
    )
    lib64 = chosen.folder / "lib64"
    assert (lib64 / "libcublas.so").resolve() == tmp_path / "cuda/lib64/libcublas.so.12.4.2"
    assert (
        lib64 / "libcudnn.so"
    ).resolve() == tmp_path / "site-packages/nvidia/cudnn/lib/libcudnn.so.9"
    assert (
        "site-packages/nvidia/cudnn/include/cudnn.h"
        in (chosen.folder / "include/cudnn.h").read_text()
    )
    assert cuda.nccl(chosen) == (str(chosen.folder / "include"), str(lib64))


def test_libraries_are_not_mixed_where_the_toolkit_lacks_one(monkeypatch, tmp_path, wheels):
    """cuSPARSE wants the nvJitLink of its own release or a newer one."""
    nvcc = compiler_alone(tmp_path / "cuda")
    add_libraries(tmp_path / "cuda/include", tmp_path / "cuda/lib64", 13, but=("nvJitLink",))
    system_nvcc(monkeypatch, nvcc)
    table = {part.name: part for part in cuda.parts(cuda.choose(tmp_path / "cache"))}
    assert {table[name].wheel for name in ("cuSPARSE", "nvJitLink", "cuBLAS")} == {
        "nvidia-cusparse",
        "nvidia-nvjitlink",
        "nvidia-cublas",
    }
    assert table["runtime"].wheel == ""


def test_what_is_missing_beside_a_compiler_is_named_with_one_command(monkeypatch, tmp_path):
    monkeypatch.setattr(gpu, "driver", lambda: ((13, 0), 1))
    nvcc = compiler_alone(tmp_path / "cuda")
    (tmp_path / "cuda/include/cccl/cub/cub.cuh").unlink()
    add_libraries(tmp_path / "cuda/include", tmp_path / "cuda/lib64", 13, but=("cufft",))
    system_nvcc(monkeypatch, nvcc)
    chosen = cuda.choose(tmp_path / "cache")
    assert chosen == cuda.Toolkit(
        "",
        f"beside {nvcc} (CUDA 13.0) Jittor also wants CCCL, cuFFT, cuDNN: "
        '`pip install "nvidia-cuda-cccl==13.0.*" nvidia-cufft "nvidia-cudnn-cu13==9.*"`',
    )
    table = {part.name: str(part) for part in cuda.parts(chosen)}
    assert (
        table["cuFFT"] == "missing: `pip install nvidia-cufft`"
        and table["cuBLAS"] == f"13.4.2, {tmp_path}/cuda/lib64"
    )
    (tmp_path / "cuda/nvvm/bin/cicc").unlink()
    assert (
        f"nvvm is not beside {nvcc}: install that toolkit anew"
        in cuda.choose(tmp_path / "cache").why
    )


@pytest.mark.parametrize(
    "wheel, wrong",
    [("nvidia-cublas", "12.9.1.4"), ("nvidia-cufft", "11.4.1.4"), ("nvidia-nvjitlink", "12.9.86")],
)
def test_a_wheel_of_another_cuda_does_not_count(monkeypatch, tmp_path, wheels, wheel, wrong):
    wheels[wheel] = wrong
    assert f"`pip install {wheel}`" in cuda.choose(tmp_path / "cache").why
    system_nvcc(monkeypatch, compiler_alone(tmp_path / "cuda"))
    assert f"`pip install {wheel}`" in cuda.choose(tmp_path / "cache").why


def test_a_toolkit_that_is_newer_than_the_driver_is_named(monkeypatch, tmp_path, wheels):
    nvcc = compiler_alone(tmp_path / "cuda", "13.2")
    monkeypatch.setenv("nvcc_path", nvcc)
    assert cuda.choose(tmp_path).why == (
        f"the driver supports CUDA 13.0 at most, and {nvcc}'s CUDA is 13.2: update the driver, or "
        "install CUDA 13.0"
    )
    monkeypatch.setattr(gpu, "driver", lambda: ((12, 9), 1))
    assert "wants a driver of version 580" in cuda.choose(tmp_path).why
    monkeypatch.setattr(gpu, "driver", lambda: ((13, 3), 1))
    assert cuda.choose(tmp_path).nvcc


def test_an_nvcc_that_only_calls_another(monkeypatch, tmp_path):
    """The real one says with --dryrun where it lies."""
    real = fake_toolkit(tmp_path / "real")
    executable(
        Path(real),
        f'[ "$1" = --dryrun ] && echo "#$ _HERE_={tmp_path}/real/bin" >&2\n'
        '[ "$1" = --version ] && echo "release 12.4,"',
    )
    wrapper = executable(tmp_path / "bin/nvcc", f'exec {real} "$@"')
    monkeypatch.setattr("shutil.which", lambda name: str(wrapper))
    assert cuda.choose(tmp_path) == cuda.Toolkit(
        real, f"the system's toolkit {tmp_path}/real, as it is"
    )
    assert cuda_parts.program(str(tmp_path / "none")) == str(tmp_path / "none")


def test_every_nvcc_is_asked_once_the_newest_first(monkeypatch, tmp_path):
    for release in ("9.2", "12.4", "13.0"):
        fake_toolkit(tmp_path / f"cuda-{release}", release)
    (tmp_path / "cuda").symlink_to(tmp_path / "cuda-12.4")
    conda = fake_toolkit(tmp_path / "env", "12.9")
    monkeypatch.setenv("CONDA_PREFIX", str(tmp_path / "env"))
    system_nvcc(monkeypatch, str(tmp_path / "cuda/bin/nvcc"), str(tmp_path / "cuda-*/bin/nvcc"))
    assert cuda.system_nvccs() == [
        conda,
        *(str(tmp_path / name / "bin/nvcc") for name in ("cuda", "cuda-13.0", "cuda-9.2")),
    ]


# ---- the device


def test_the_doctor_shows_every_part_and_the_command_that_gets_it(monkeypatch, tmp_path, wheels):
    monkeypatch.setattr(doctor, "cache_folder", lambda: tmp_path / "cache")
    rows = {what: found for what, found, _ in doctor.diagnose()}
    assert rows["  nvcc"] == "13.0.88, wheel nvidia-cuda-nvcc"
    assert rows["  cuDNN"] == "9.20.0.48, wheel nvidia-cudnn-cu13"
    wheels["nvidia-cufft"] = ""
    rows = {what: found for what, found, _ in doctor.diagnose()}
    assert rows["  cuFFT"] == "missing: `pip install nvidia-cufft`"
    monkeypatch.setattr(gpu, "driver", lambda: ((0, 0), 0))
    assert "  cuFFT" not in {what for what, _, _ in doctor.diagnose()}  # nobody needs it


def test_a_batch_is_copied_while_the_card_computes():
    """Jittor's default waits for the card; and cuDNN chooses the same in every process."""
    code = """import sys, types, toolchain
said = types.SimpleNamespace()
cudnn = types.SimpleNamespace(set_algorithm_cache_size=lambda size: setattr(said, "size", size))
jittor = types.SimpleNamespace(flags=said, cudnn=cudnn)
toolchain.compiling.import_jittor = lambda: jittor
toolchain._prepare = lambda wanted, precision: toolchain.cuda.Toolkit("nvcc", "")
toolchain.start("cuda")
print(said.use_cuda, said.use_cuda_host_allocator, said.size)"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout == "1 0 0\n", done.stderr


def test_the_doctor_asks_for_all_its_results_at_once(monkeypatch):
    """On a GPU a gradient of a weight that is fetched by itself is no convolution of cuDNN's."""
    said, sync, numpy = [], jt.sync, jt.Var.numpy
    monkeypatch.setattr(jt, "sync", lambda values: (said.append("sync"), sync(values)))
    monkeypatch.setattr(jt.Var, "numpy", lambda value: (said.append("fetch"), numpy(value))[1])
    results = len(doctor.check(jt))
    assert results >= 15
    assert said == ["sync", *["fetch"] * results]


def test_the_device(monkeypatch, tmp_path, wheels):
    monkeypatch.setattr(cuda, "cache_folder", lambda: tmp_path)
    assert cuda.for_device("auto") == cuda.for_device("cuda") and cuda.for_device("auto").nvcc
    assert cuda.for_device("cpu").nvcc == ""
    monkeypatch.setattr(gpu, "driver", lambda: ((13, 0), 0))
    assert cuda.for_device("auto") == cuda.Toolkit(
        "", "the NVIDIA driver reports no usable GPU (see nvidia-smi)"
    )
    monkeypatch.setattr(gpu, "driver", lambda: ((0, 0), 0))
    with pytest.raises(
        ToolchainError, match="--device cuda cannot be used: no NVIDIA driver is installed"
    ):
        cuda.for_device("cuda")


# ---- the folder


def test_the_folder_is_laid_out_as_jittor_expects_it(tmp_path, wheels):
    folder = cuda.choose(tmp_path / "cache").folder
    lib64 = folder / "lib64"
    assert (lib64 / "libcudart.so").resolve().name == "libcudart.so.13" and (
        lib64 / "libcudart.so.13"
    ).exists()
    for old, new in (
        ("ops_infer", "ops"),
        ("ops_train", "ops"),
        ("cnn_infer", "cnn"),
        ("cnn_train", "cnn"),
    ):
        assert (lib64 / f"libcudnn_{old}.so").resolve().name == f"libcudnn_{new}.so.9"
    assert (folder / "include/cub/cub.cuh").exists() and (folder / "include/cublas_v2.h").exists()
    assert (lib64 / "libcudadevrt.a").exists()
    assert cuda.nccl(cuda.choose(tmp_path / "cache")) == (str(folder / "include"), str(lib64))
    copied = [path for path in folder.rglob("*") if path.is_file() and not path.is_symlink()]
    assert {path.name for path in copied} == {
        "nvcc",
        "cuda_runtime.h",
        "cudnn.h",
        "npp.h",
        "assembled.json",
    }
    assert (
        cuda.toolkit_problem(str(folder / "bin/nvcc")) == ""
    )  # a child process is given it as nvcc_path


def test_the_nvcc_translates(tmp_path, wheels):
    nvcc = cuda.choose(tmp_path).nvcc
    done = subprocess.run(
        [nvcc, "a b.cu", "-std=c++14", "-arch=compute_90", "-code=sm_90", '-I"x"'],
        capture_output=True,
        text=True,
    )
    assert done.stdout.splitlines() == [
        "a b.cu",
        "-std=c++17",
        "-arch=compute_90",
        "-code=sm_90,compute_90",
        '-I"x"',
    ]


def test_the_headers_give_back_what_was_dropped(tmp_path, wheels):
    folder = cuda.choose(tmp_path).folder
    source = tmp_path / "program.cc"
    source.write_text("""#include <cuda_runtime.h>
#include <cuda_runtime.h>
#include <cudnn.h>
#include <npp.h>
#include <cstdio>
int main() {
    cudaDeviceProp prop;
    if (cudaGetDeviceProperties(&prop, 0) != cudaSuccess) return 1;
    printf("%d %d %d %d", prop.major, prop.clockRate, prop.computeMode,
           cudnnGetRNNParamsSize(1, "x", 2.0));
    return NPP_MAX_32S != 2147483647 || NPP_MIN_64S >= 0 || NPP_MAX_32U != 4294967295u;
}""")
    for standard in ("c++14", "c++17"):
        subprocess.run(
            ["g++", f"-std={standard}", f"-I{folder}/include", source, "-o", tmp_path / "program"],
            check=True,
        )
        done = subprocess.run([tmp_path / "program"], capture_output=True, text=True)
        assert (done.returncode, done.stdout) == (0, "9 113 120 1")


def test_the_folder_is_kept_and_follows_the_versions(tmp_path, wheels):
    first = cuda.choose(tmp_path / "cache")
    before = (first.folder / "assembled.json").stat().st_mtime_ns
    assert cuda.choose(tmp_path / "cache") == first
    assert (first.folder / "assembled.json").stat().st_mtime_ns == before
    wheels["nvidia-cudnn-cu13"] = "9.26.0.51"
    second = cuda.choose(tmp_path / "cache")
    assert second.nvcc != first.nvcc
    assert (
        json.loads((second.folder / "assembled.json").read_text())["versions"]["nvidia-cudnn-cu13"]
        == "9.26.0.51"
    )
    assert sorted(path.name for path in (tmp_path / "cache").iterdir()) == sorted(
        [first.folder.name, second.folder.name]
    )


def test_a_process_that_was_slower_leaves_nothing_behind(monkeypatch, tmp_path, wheels):
    rename = Path.rename

    def late(self, target):
        if not Path(target).exists():  # another process finishes just before
            subprocess.run(["cp", "-a", self, target], check=True)
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", late)
    chosen = cuda.choose(tmp_path / "cache")
    assert Path(chosen.nvcc).exists() and [
        path.name for path in (tmp_path / "cache").iterdir()
    ] == [chosen.folder.name]


def test_wheels_in_two_environments_are_joined(monkeypatch, tmp_path, wheels):
    """PyTorch's in the system's, the compiler in a virtual environment on top of it."""
    root, other = tmp_path / "site-packages", tmp_path / "other"
    (other / "nvidia/cu13").mkdir(parents=True)
    (root / "nvidia/cu13/bin").rename(other / "nvidia/cu13/bin")
    monkeypatch.setattr(
        "importlib.metadata.distribution",
        lambda wheel: type(
            "Distribution",
            (),
            dict(
                locate_file=staticmethod(
                    lambda name: (other if wheel == "nvidia-cuda-nvcc" else root) / name
                )
            ),
        ),
    )
    chosen = cuda.choose(tmp_path / "cache")
    assert (
        cuda.cuda_version(chosen.nvcc) == (13, 0)
        and (chosen.folder / "include/cublas_v2.h").exists()
    )


def test_a_toolkit_whose_wheels_are_gone_is_not_used(monkeypatch, tmp_path, wheels):
    nvcc = cuda.choose(tmp_path / "cache").nvcc
    (tmp_path / "site-packages/nvidia/cu13/bin/nvcc").unlink()
    assert "leads nowhere" in cuda.toolkit_problem(nvcc)


def test_precision_and_processes_decide_the_environment(monkeypatch, tmp_path, wheels):
    toolkit = cuda.choose(tmp_path)
    for name in (
        "NVIDIA_TF32_OVERRIDE",
        "use_nccl",
        "use_cutt",
        "use_cutlass",
        "nccl_lib_path",
        "OMPI_COMM_WORLD_SIZE",
    ):
        monkeypatch.setenv(name, "before")
        monkeypatch.delenv(name)
    cuda.set_environment(toolkit, "fp32")
    assert (os.environ["NVIDIA_TF32_OVERRIDE"], os.environ["use_nccl"], os.environ["use_cutt"]) == (
        "0",
        "0",
        "0",
    )
    cuda.set_environment(toolkit, "tf32")
    assert "NVIDIA_TF32_OVERRIDE" not in os.environ
    monkeypatch.setenv("OMPI_COMM_WORLD_SIZE", "2")
    cuda.set_environment(toolkit, "fp32")
    assert os.environ["nccl_lib_path"] == str(toolkit.folder / "lib64")
    monkeypatch.delenv("nccl_lib_path")
    monkeypatch.setattr(cuda, "nccl", lambda toolkit: None)
    with pytest.raises(
        ToolchainError, match="several GPUs need NCCL.*pip install -r requirements-cuda.txt"
    ):
        cuda.set_environment(toolkit, "fp32")


# ---- the real wheels


def real_toolkit(compiler: str, cache: Path) -> str:
    """The nvcc of a toolkit put together of what this machine really has; skips where that is too
    little."""
    if compiler == "of a wheel":
        problem = cuda_folder.wheels_problem()
        found = problem or cuda_folder.from_wheels(cache).nvcc
    else:
        usable = [nvcc for nvcc in cuda.system_nvccs() if cuda.cuda_version(nvcc)[0] in (12, 13)]
        problem = cuda_folder.problem_beside(usable[0]) if usable else "no nvcc of CUDA 12 or 13"
        found = problem or cuda_folder.around(usable[0], cache).nvcc
    if problem:
        pytest.skip(problem)
    return found


@pytest.mark.cuda_wheels
@pytest.mark.parametrize("compiler", ["of the system", "of a wheel"])
def test_a_whole_run_compiles_and_goes_through_on_a_pretended_gpu(monkeypatch, tmp_path, compiler):
    """Everything but the numbers: the real nvcc and headers, every kernel of a run, what the
    libraries export."""
    monkeypatch.undo()
    environment = dict(
        os.environ,
        HOME=str(tmp_path),
        FAKE_GPU_TRACE=str(tmp_path / "trace"),
        nvcc_path=real_toolkit(compiler, tmp_path / "gpu"),
    )
    for name in ("cache_name", "python_config_path", "use_mpi", "cc_flags"):
        environment.pop(name, None)
    trace = tmp_path / "trace"
    # Where no kernel writes a weight, an owner or a count, it is what lay there: a pixel, say, that
    # makes the weight NaN.
    unchecked = """import sys, toolchain
toolchain.start("cuda")
import main
from packing import loops
from reporting import plots
from storage import seals
loops.finite, plots.draw = lambda parameter: True, lambda results, folder: []
seals.broken = lambda packed, entries: []
sys.exit(main.main())"""
    pretended = [sys.executable, "tests/fake_gpu.py", tmp_path / "gpu", sys.executable]
    done = subprocess.run(
        [*pretended, "-m", "toolchain", "--check", "--device", "cuda"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env=environment,
    )
    assert done.returncode == 1, done.stderr[-3000:]  # nothing is computed
    # Three convolutions, their two gradients: all of them cuDNN's.
    assert sorted(trace.read_text().split()) == sorted(
        [*["chosen"] * 9, *["Forward", "BackwardData", "BackwardFilter"] * 3]
    )
    trace.unlink()
    done = subprocess.run(
        [
            *pretended,
            "-c",
            unchecked,
            "--demo",
            "--device",
            "cuda",
            "--data-root",
            tmp_path / "data",
            "--output-dir",
            tmp_path / "run",
            *"""
                --num-epochs-base 1 --num-epochs-base-finetune 1 --num-epochs-per-task 1
                --num-epochs-finetune 1
            """.split(),
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env=environment,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    results = json.loads((tmp_path / "run/results.json").read_text())
    assert results["finished"] and results["device"] == "cuda"
    assert "PyPI's wheels" in results["toolchain"]
    asked = trace.read_text().split("\n")  # cuDNN's own choice of algorithms: none was timed
    assert all(line.startswith("chosen ") for line in asked if line)
    assert len(asked) < 300, len(asked)  # once for each shape, not 11 times in each step
    if which("mpirun"):  # several GPUs: Jittor's part of NCCL
        code = """import toolchain
jt = toolchain.start("cuda")
print(jt.compile_extern.nccl_ops.__name__, jt.ones(4).mpi_all_reduce("mean").shape)"""
        done = subprocess.run(
            ["mpirun", "-np", "1", sys.executable, "-c", code],
            cwd=ROOT,
            capture_output=True,
            text=True,
            env=environment
            | fake_gpu.environment(tmp_path / "gpu")
            | dict(OMPI_ALLOW_RUN_AS_ROOT="1", OMPI_ALLOW_RUN_AS_ROOT_CONFIRM="1"),
        )
        assert done.stdout == "jittor_nccl_core.ops [4,]\n", done.stderr[-3000:]
