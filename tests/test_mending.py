"""Jittor 1.3.11.0 on this year's Python and NumPy: its sources are mended on their way in, and the
package stays as it is."""

import fcntl
import hashlib
import importlib.metadata
import importlib.util
import os
import select
import shlex
import subprocess
import sys
import sysconfig
import textwrap
import time
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT, executable, jt, same_with_any_number_of_threads
from packaging.requirements import Requirement

from system import INSTALL
from toolchain import ToolchainError, base, cpu, mending

PACKAGE = Path(importlib.util.find_spec("jittor").origin).parent


@pytest.mark.parametrize("name", mending.SOURCES)
def test_a_module_is_compiled_from_its_mended_source(name):
    assert isinstance(sys.modules[name].__spec__.loader, mending._Loader)
    source = Path(sys.modules[name].__file__).read_text()
    assert all(
        source.count(old) == 1 and (not new or new not in source)
        for old, new in mending.SOURCES[name]
    )  # on the disk as it was


def test_compiled_modules_are_found_where_exec_writes_no_locals():
    """What Python 3.13 does, on any Python: the names of exec go nowhere."""
    replacements = [
        pair for pairs in mending.SOURCES.values() for pair in pairs if "locals()" in pair[0]
    ]
    assert len(replacements) == 2
    for old, new in replacements:
        name = old.partition("[")[2].rstrip("]")
        code = (
            f"def f({name}):\n    exec(f'import {{{name}}}', {{}}, {{}})\n    {new}\n    "
            "return mod\nimport os, sys"
        )
        space: dict = {}
        exec(code, space)
        assert space["f"]("colorsys") is sys.modules["colorsys"]


def test_what_nothing_here_uses_is_not_compiled():
    objects = {path.name for path in Path(jt.flags.cache_path).glob("obj_files/*.o")} | {
        path.name for path in Path(jt.flags.cache_path).glob("custom_ops/obj_files/*.o")
    }
    assert "executor.cc.o" in objects and "jit_compiler.cc.o" in objects and "data.cc.o" in objects
    assert not [
        name for name in objects if name.startswith(("test_", "mkl_test", "cpu_cnn_inference"))
    ]


def test_only_kernels_with_something_to_tune_are_tuned(tmp_path):
    """The assembler files that the tuner leaves lie beside the kernels that ask for it, and beside
    no other."""
    a = jt.array(np.arange(1 << 20, dtype=np.float32))
    (a + jt.array(np.float32(3.25))).sync()
    # Other tests compile into the same folder meanwhile: a kernel is judged once its .so, which is
    # written last, lies there.
    kernels = Path(jt.flags.cache_path, "jit")
    compiled = {path.name.removesuffix(".so") for path in kernels.glob("*_op.so")}
    tuned = {name for name in compiled if (kernels / f"{name}.post.s").exists()}
    asked = {name for name in compiled if "@begin" in (kernels / f"{name}.cc").read_text()}
    assert tuned == asked
    assert compiled - tuned


def kernel_of(make):
    """The source of the one kernel that computes what `make` gives, and its value."""
    with jt.profile_scope() as rows:
        found = make().numpy()
    (row,) = [row for row in rows[1:] if row[0].startswith("«opkey")]
    return Path(row[1]).read_text(), found


@pytest.mark.skipif(jt.flags.use_cuda, reason="a GPU has loops of its own")
@pytest.mark.parametrize(
    "shape, axes",
    [((5,), None), ((3 * 16384 + 7,), None), ((200_001,), None), ((2, 3, 150, 151), [0, 2, 3]),
     ((2, 150, 151, 3), [0, 1, 2])],
    ids=str,
)  # fmt: skip
def test_element_by_element_on_all_cores(shape, axes):
    rng = np.random.default_rng(0)
    x = rng.standard_normal(shape).astype(np.float32)
    width = x.shape if axes is None else [n for axis, n in enumerate(shape) if axis not in axes]
    y = rng.standard_normal(width).astype(np.float32)
    images, other = jt.array(x), jt.array(y)
    jt.sync_all()
    if axes is not None:
        y = y.reshape([1 if axis in axes else n for axis, n in enumerate(shape)])
    text, found = kernel_of(
        lambda: jt.maximum(images + (other.broadcast(shape, axes) if axes else other), 0.5)
    )
    assert text.count("#pragma omp parallel for") == 1
    assert (found == np.maximum(x + y, np.float32(0.5))).all() and found.shape == x.shape


@pytest.mark.skipif(jt.flags.use_cuda, reason="a GPU has loops of its own")
def test_a_sum_is_left_to_one_core():
    x = np.random.default_rng(0).standard_normal((300, 301)).astype(np.float32)
    given = jt.array(x)
    jt.sync_all()
    for axes, right in ((0, x.sum(0, np.float64)), (1, x.sum(1, np.float64))):
        text, found = kernel_of(lambda: (given + 1).sum(axes))
        assert "#pragma omp" not in text
        np.testing.assert_allclose(found, right + (300, 301)[axes], rtol=1e-5)


ELEMENTWISE = """
import hashlib
import numpy as np
import toolchain
jt = toolchain.start("cpu")
rng = np.random.default_rng(0)
x, y = (jt.array(rng.standard_normal(100_003).astype(np.float32)) for _ in range(2))
w, images = jt.array(rng.standard_normal(5)), jt.array(rng.standard_normal((3, 5, 97, 101)))
w, images = w.float32(), images.float32()
found = [x / y, jt.exp(x) * jt.sqrt(y * y + 1),
         images / w.broadcast(images.shape, [0, 2, 3]) + jt.tanh(images),
         images.transpose(0, 2, 3, 1) / w]
print(hashlib.sha256(b"".join(value.numpy().tobytes() for value in found)).hexdigest())
"""


def test_the_bits_of_each_element_do_not_depend_on_the_number_of_threads():
    assert same_with_any_number_of_threads(ELEMENTWISE)


FORKED = """
import os, signal
import toolchain
jt = toolchain.start("cpu")
x = jt.ones(200_001)
(x + 1).sync()
child = os.fork()
if not child:
    signal.alarm(20)
    print((x + 1).numpy().sum(), flush=True)
    os._exit(0)
os.waitpid(child, 0)
os._exit(0)
"""


def test_a_forked_process_computes_though_it_has_no_threads():
    done = subprocess.run(
        [sys.executable, "-c", FORKED],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "2"},
        capture_output=True,
        text=True,
    )
    assert done.stdout == "400002.0\n", done.stderr


def test_a_kernel_waits_for_its_own_file_alone():
    """Another process has Jittor's one lock: not waited for. Then that of each kernel: it is."""
    cache = Path(jt.flags.cache_path)
    # Each a kernel that nobody has compiled.
    first, second = (f"/* {time.time_ns()}{n} */ @out(0) = @in0(0) + 1;" for n in (1, 2))
    code = textwrap.dedent(f"""\
        import toolchain
        jt = toolchain.start("cpu")
        print("started", flush=True)
        for source in ({first!r}, {second!r}):
            input()
            print(jt.code([1], "float32", [jt.ones(1)], cpu_src=source).item(), flush=True)
        """)
    with (
        (cache.parent / "jittor.lock").open("r+") as whole,
        (cache / "kernels.lock").open("r+") as kernels,
        subprocess.Popen(
            [sys.executable, "-c", code],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        ) as other,
    ):

        other.stdin.reconfigure(line_buffering=True)

        def said(seconds):
            return select.select([other.stdout], [], [], seconds)[0] and other.stdout.readline()

        assert said(120) == "started\n"
        fcntl.lockf(whole, fcntl.LOCK_EX)
        print(file=other.stdin)
        assert said(60) == "2.0\n"
        fcntl.lockf(whole, fcntl.LOCK_UN)

        fcntl.lockf(kernels, fcntl.LOCK_EX)
        print(file=other.stdin)
        place = f":{os.fstat(kernels.fileno()).st_ino} "
        while not any("->" in lock and place in lock
                      for lock in Path("/proc/locks").read_text().splitlines()):
            assert not said(0.01), "it has not waited"
        fcntl.lockf(kernels, fcntl.LOCK_UN)
        assert said(60) == "2.0\n"


def test_another_text_is_refused_in_one_sentence():
    with pytest.raises(ToolchainError, match="x.py is not that of Jittor 1.3.11.0: `pip install"):
        mending.replaced("mod = 1", [("mod = locals()[hash]", "")], "x.py")


def test_another_version_of_jittor_is_left_alone(monkeypatch):
    monkeypatch.setattr("importlib.metadata.version", lambda name: "1.3.12.0")
    monkeypatch.setattr(sys, "meta_path", [])
    mending.mend_imports()
    assert sys.meta_path == [] and mending.numpy_flags() == ""


@pytest.mark.parametrize(
    "said, version",
    [
        ("g++ (Debian 12.2.0-14) 12.2.0\nCopyright (C) 2022 Free Software Foundation, Inc.", 12),
        ("g++ (Debian 16.2.0-4) 16.2.0\nCopyright (C) 2026 Free Software Foundation, Inc.", 16),
        (
            "g++ (GCC) 8.5.0 20210514 (Red Hat 8.5.0-26)\nCopyright (C) 2018 Free Software "
            "Foundation, Inc.",
            8,
        ),
        ("Debian clang version 19.1.7 (3)", 0),
        ("", 0),
    ],
)
def test_the_compilers_version_decides_what_it_is_given(tmp_path, monkeypatch, said, version):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "a cache"))
    monkeypatch.setenv("cc_path", str(executable(tmp_path / "g++", f"echo '{said}'")))
    assert base.gcc_version() == version
    if version < 15:
        assert mending.gcc_flags() == ""
    else:
        header = Path(shlex.split(mending.gcc_flags())[1])
        (tmp_path / "a.cc").write_text("uint8_t a = sizeof(int64_t); int main() { return a - 8; }")
        subprocess.run(
            ["/usr/bin/env", "g++", "-include", header, tmp_path / "a.cc", "-o", tmp_path / "a"],
            check=True,
        )
        assert subprocess.run([tmp_path / "a"]).returncode == 0
    if 0 < version < 9:
        with pytest.raises(ToolchainError, match="is GCC 8, and Jittor's sources want 9 or newer"):
            cpu.check_compiler()


@pytest.mark.parametrize(
    "said",
    [
        "Debian clang version 14.0.6\nTarget: x86_64-pc-linux-gnu",
        "Debian clang version 19.1.7 (22+b1)\nTarget: x86_64-pc-linux-gnu",
    ],
)
def test_clang_is_refused_by_name(tmp_path, monkeypatch, said):
    clang = executable(tmp_path / "cc", f"echo '{said}'")
    monkeypatch.setenv("cc_path", str(clang))
    with pytest.raises(ToolchainError, match=rf"{clang} is clang, .*`export cc_path=g\+\+`"):
        cpu.check_compiler()


def test_a_free_threaded_python_is_refused_by_name(monkeypatch):
    monkeypatch.setattr("sysconfig.get_config_var", lambda name: 1)
    with pytest.raises(ToolchainError, match="is a free-threaded Python"):
        cpu.check_compiler()


@pytest.mark.parametrize("operator", ["conv", "conv_backward_x", "conv_backward_w"])
def test_cudnns_choice_is_kept_whether_it_was_timed_or_not(operator):
    """In the source; what it does on a pretended GPU is in test_cuda.py, -m cuda_wheels."""
    name = f"extern/cuda/cudnn/ops/cudnn_{operator}_op"
    text = (mending._mended(f"{name}.cc", mending.CORE[f"{name}.cc"]) / f"{name}.cc").read_text()
    asked, kept = text.index("Algorithm_v7("), text.index("_algo_cache[jk.to_string()] = algo;")
    assert asked < kept and "if (benchmark)" not in text[asked:kept]


def test_operators_of_cuda_are_compiled_from_their_mended_sources(monkeypatch):
    """The lines that are put into jittor.compile_extern."""
    lines = next(new for old, new in mending.SOURCES["jittor.compile_extern"] if "culib" in old)
    header = "extern/cuda/cudnn/ops/cudnn_conv_op.h"
    monkeypatch.setenv("packnet_files", f"src/utils/log.cc {header}")
    monkeypatch.setenv("packnet_mended", "/mended")
    files = ["/jittor/a.cc", f"/jittor/{header}"]
    names = dict(os=os, jittor_path="/jittor", culib_src_files=files)
    exec(textwrap.dedent(lines.partition("    culib = ")[0]), names)
    assert files == ["/jittor/a.cc", f"/mended/{header}"]


THREADS = """
#include <atomic>
#include <condition_variable>
#include <functional>
#include <iostream>
#include <mutex>
#include <thread>
#define S(x) std::to_string(x)
#define LOGe std::cerr
static thread_local std::string name;
std::string& get_thread_name() { return name; }
%s
int main() {
    std::atomic<int> sum(0);
    for (int i = 0; i < 300; i++) {
        { SimpleThread thread(i); }
        SimpleThread thread(i);
        thread.launch_one([&](int id) { sum += id == i; });
        while (sum <= i) std::this_thread::yield();
    }
    std::cout << sum;
}
"""


def test_a_thread_that_is_told_to_stop_before_it_listens_stops(tmp_path):
    """Jittor's threads that compile kernels, by themselves: made and at once ended, and each task
    done once."""
    text = Path(os.environ["packnet_mended"], "src/parallel_compiler.cc").read_text()
    (tmp_path / "threads.cc").write_text(
        THREADS % text[text.index("struct SimpleThread {") : text.index("struct SimpleThreads;")]
    )
    subprocess.run(
        ["g++", "-pthread", tmp_path / "threads.cc", "-o", tmp_path / "threads"], check=True
    )
    assert (
        subprocess.run([tmp_path / "threads"], capture_output=True, text=True).stdout
        == "300"
    )


OFFSETS = """
#include <Python.h>
#include <cstddef>
#include <cstdio>
%s
typedef PyArrayDescr_Proxy D;
int main() {
    printf("%%zu %%zu %%zu", offsetof(D, type_num), offsetof(D, elsize),
           sizeof(((D*)0)->elsize)); }
"""


def offsets(header: Path, tmp_path: Path) -> list[int]:
    """Where C++ finds type_num and elsize, and the size of the latter."""
    text = header.read_text()
    struct = text[text.index("struct PyArrayDescr_Proxy") : text.index("struct PyArray_Proxy")]
    (tmp_path / "offsets.cc").write_text(OFFSETS % struct)
    subprocess.run(
        [
            "g++",
            f"-I{sysconfig.get_path('include')}",
            tmp_path / "offsets.cc",
            "-o",
            tmp_path / "offsets",
        ],
        check=True,
    )
    return [
        int(word)
        for word in subprocess.run(
            [tmp_path / "offsets"], capture_output=True, text=True
        ).stdout.split()
    ]


def test_the_layout_is_that_of_numpy_2s_own_header(tmp_path, monkeypatch):
    """numpy/ndarraytypes.h of NumPy 2: object head 16, type 8, four chars, int type_num, 8 bytes of
    flags, 8 of elsize."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    before = hashlib.sha256((PACKAGE / "src/pyjt/numpy.h").read_bytes()).digest()
    folder = Path(mending.numpy_flags().removeprefix('-I"').removesuffix('"'))
    assert offsets(folder / "pyjt/numpy.h", tmp_path) == [28, 40, 8]
    assert offsets(PACKAGE / "src/pyjt/numpy.h", tmp_path) == [28, 32, 4]  # NumPy 1
    assert "elsize;" not in (folder / "pyjt/numpy.h").read_text().partition("PyArray_Size")[2]
    assert hashlib.sha256((PACKAGE / "src/pyjt/numpy.h").read_bytes()).digest() == before


@pytest.mark.parametrize("kind", ["bool", "uint8", "int16", "int32", "int64", "float16", "float64"])
def test_arrays_of_the_numpy_in_use_are_read_and_written(kind):
    """The number of a type, where NumPy 1 and 2 both have it; and whole arrays, also such as must
    be copied first. The gate runs this with both, and one compiled Jittor."""
    import ctypes

    assert ctypes.c_int.from_address(id(np.dtype(kind)) + 28).value == np.dtype(kind).num
    array = np.arange(12).reshape(3, 4).astype(kind)
    for given in (array, array[:, ::2], array.T):
        back = jt.array(given, dtype=kind).numpy()
        assert back.dtype == kind and (back == given).all()


@pytest.mark.parametrize(
    "python, jittor", [("3.10", True), ("3.12", True), ("3.13", False), ("3.15", False)]
)
def test_the_requirements_leave_pip_a_wheel_of_numpy_on_every_python(python, jittor):
    """Beside Jittor, whose metadata ask for NumPy 1, pip would build that from source where there
    is
    no wheel of it: from Python 3.13 on."""
    text = "".join(
        (ROOT / name).read_text() for name in ("requirements.txt", "requirements-numpy2.txt")
    )
    lines = [line.partition("#")[0].strip() for line in text.splitlines()]
    asked = [Requirement(line) for line in lines if line and not line.startswith("-r ")]
    asked = {
        one.name: one.specifier
        for one in asked
        if not one.marker or one.marker.evaluate({"python_version": python})
    }
    assert ("jittor" in asked) == jittor
    assert all(version in asked["numpy"] for version in ("1.26.4", "2.5.5"))
    needed = {
        Requirement(line).name
        for line in importlib.metadata.requires("jittor")
        if "Windows" not in line
    }
    assert needed <= asked.keys()  # what `--no-deps` leaves out


@pytest.mark.parametrize(
    "page", ["README.md", "README.zh.md", "docs/gpu.md", "docs/zh/gpu.md", "requirements.txt"]
)
def test_the_commands_that_install_are_the_same_everywhere(page):
    assert INSTALL.endswith(f"jittor=={mending.JITTOR}")
    assert INSTALL in (ROOT / page).read_text(encoding="utf8")


def test_the_random_numbers_of_a_seed_are_the_same_with_every_compiler():
    """C++'s std::minstd_rand0, and each of its numbers as a share of their range."""
    jt.set_global_seed(7)
    drawn = jt.random((1000,)).numpy()
    numbers, state = [], 7
    for _ in drawn:
        state = state * 16807 % (2**31 - 1)
        numbers.append(np.float32(state - 1) / np.float32(2**31 - 2))
    assert (drawn == np.array(numbers, np.float32)).all()


SCRIPT = """
import multiprocessing
multiprocessing.set_start_method("forkserver")  # what Python 3.14 does by itself
print("once")
import toolchain
jt = toolchain.start("cpu")
import jittor_utils
from system.progress import Progress
assert [*Progress([1])] == [1]
from jittor.dataset import Dataset
jittor_utils.run_cmds(['g++ "a.cc" -c -o "a.o"'], ".", ".")
class Squares(Dataset):
    def __init__(self):
        super().__init__(batch_size=2, num_workers=2)
        self.set_attrs(total_len=4)
    def __getitem__(self, i):
        return i * i
print([batch.numpy().tolist() for batch in Squares()])
toolchain.processes.leave(0)
"""


def test_jittors_processes_run_no_script_once_more(tmp_path):
    """Those that compile and those that load data, of a script without `if __name__`."""
    (tmp_path / "script.py").write_text(SCRIPT)
    (tmp_path / "a.cc").write_text("int a;\n")
    done = subprocess.run(
        [sys.executable, "script.py"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env=os.environ | dict(PYTHONPATH=str(ROOT)),
    )
    assert done.stdout == "once\n[[0, 1], [4, 9]]\n" and done.stderr == "", done.stderr
    assert (tmp_path / "a.o").exists()
