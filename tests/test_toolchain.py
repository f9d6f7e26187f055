"""What Jittor needs is found, or named in one sentence; and a run on the CPU starts with a useless
nvcc around."""

import importlib.metadata
import json
import os
import re
import shlex
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
from conftest import ROOT, executable, jt

import toolchain
from kernels import channels_last
from toolchain import ToolchainError, base, compiling, cpu, cuda, doctor, gpu, mending


def python(code, **environment):
    """Run `code` in a fresh interpreter; variables set to None are removed."""
    env = {
        name: value for name, value in {**os.environ, **environment}.items() if value is not None
    }
    for name in ("nvcc_path", "python_config_path", "cache_name", "log_silent"):
        if name not in environment:
            env.pop(name, None)
    return subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=env, capture_output=True, text=True, timeout=600
    )


SAY = (
    "import toolchain\ntry: toolchain.start({!r})\nexcept toolchain.ToolchainError as e: "
    "print('SAID', e)"
)


# ---- starting


def test_a_useless_nvcc_does_not_matter_and_jittor_is_silent(tmp_path):
    nvcc = executable(
        tmp_path / "bin" / "nvcc", 'echo "Cuda compilation tools, release 12.4, V12.4.1"'
    )
    done = python(
        "import toolchain; jt = toolchain.start(); print((jt.ones(3) * 2).sum().item(), "
        "toolchain.device)",
        PATH=f"{nvcc.parent}:{os.environ['PATH']}",
        nvcc_path=None,
    )
    assert done.returncode == 0 and done.stdout == "6.0 cpu\n", done.stderr
    assert "[i " not in done.stderr and "[w " not in done.stderr


def test_convolutions_run_through_onednn():
    done = python(
        "import toolchain; jt = toolchain.start()\n"
        "from jittor import compile_extern\nprint(compile_extern.mkl_ops is not None)"
    )
    assert done.stdout == "True\n", done.stderr


def test_pytorch_is_not_imported_where_it_is_installed(tmp_path):
    (tmp_path / "torch.py").write_text("print('imported')")
    done = python(
        "import toolchain; toolchain.start(); print('started')",
        PYTHONPATH=str(tmp_path),
        FIX_TORCH_ERROR=None,
    )
    assert done.stdout == "started\n", done.stderr


def test_what_the_user_set_wins():
    name = os.environ["cache_name"]  # which is compiled
    done = python(
        "import toolchain, os; toolchain.start()\n"
        "import jittor_utils, jittor; print(jittor_utils.LOG.log_silent, os.environ['cache_name'])",
        log_silent="0",
        cache_name=name,
    )
    assert done.stdout.splitlines()[-1] == f"0 {name}" and "[i " in done.stderr + done.stdout


def test_start_gives_one_module_and_refuses_another_device():
    assert toolchain.start() is toolchain.start("cpu") is sys.modules["jittor"]
    with pytest.raises(ToolchainError, match="start a new one"):
        toolchain.start("cuda")
    with pytest.raises(ToolchainError, match="'gpu' is unknown"):
        toolchain.start("gpu")


@pytest.mark.alone
def test_a_cache_that_was_made_with_other_flags_is_made_anew_and_the_program_goes_on():
    """Of all the compiled code only Jittor's helper is made stale here: its key, the command line
    that made it, is changed."""
    keys = [*Path(jt.flags.cache_path).glob("jit_utils_core*.so.key")]
    assert len(keys) >= 1
    for key in keys:
        key.write_text(key.read_text().replace(" ", " -DOTHER ", 1))
    done = python(
        "import toolchain; jt = toolchain.start('cpu'); print((jt.ones(3) * 2).sum().item())"
    )
    assert done.returncode == 0 and done.stdout == "6.0\n", done.stderr
    assert not any("-DOTHER" in key.read_text() for key in keys)


def test_a_jittor_that_ends_the_process_is_an_error(monkeypatch):
    original = __import__

    def ends(name, *rest):
        if name == "jittor_utils":
            raise SystemExit(0)
        return original(name, *rest)

    monkeypatch.setattr("builtins.__import__", ends)
    with pytest.raises(
        ToolchainError,
        match="has ended the process as it was imported .exit code 0.: run the command again",
    ):
        compiling.import_jittor()


def test_a_compiler_that_fails_at_once_is_told_in_a_sentence(tmp_path):
    compiler = executable(
        tmp_path / "g++",
        'case "$1" in --version) echo "g++ 12.2.0";; *) echo "x.h:1:2: error: no luck"; exit 1;; '
        "esac",
    )
    home = dict(
        HOME=str(tmp_path),
        XDG_CACHE_HOME=str(tmp_path),
        JITTOR_HOME=str(tmp_path),
        cc_path=str(compiler),
    )
    done = python(SAY.format("cpu"), **home)
    assert done.returncode == 0 and "Traceback" not in done.stderr, done.stderr
    said = done.stdout.splitlines()
    assert re.fullmatch(  # of several files that are compiled side by side, the first to fail
        r"SAID the compiler could not make \w+\.cc of Jittor: x.h:1:2: error: no luck", said[0]
    )
    assert (
        said[1].startswith(
            f"All that it said: {tmp_path}/packnet-jittor/compiler-output.txt. `python -m "
            "toolchain`"
        )
        and len(said) == 2
    )
    assert (
        "x.h:1:2: error: no luck" in (tmp_path / "packnet-jittor/compiler-output.txt").read_text()
    )


@pytest.mark.parametrize("count", [1, 3])
def test_a_kernel_that_cannot_be_compiled_in_the_middle_of_a_run(tmp_path, count):
    """One kernel is compiled by the main thread's call, several by threads of their own."""
    compiler = executable(
        tmp_path / "g++", 'echo "k.cc:7:7: \033[1merror: \033[mno luck"; echo more; exit 1'
    )
    code = (
        "import toolchain, random; jt = toolchain.start('cpu'); print('saved', flush=True); "
        f"jt.flags.cc_path = {str(compiler)!r}\n"
        f"jt.sync([jt.code([1], 'int32', [], cpu_src=f'out0_p[0] = {{random.random()}};') for i "
        f"in range({count})])"
    )
    done = python(code)
    assert done.returncode == 2 and done.stdout == "saved\n" and "Traceback" not in done.stderr, (
        done.stderr
    )
    assert done.stderr.splitlines()[-2].startswith("error: the compiler could not make ")
    assert done.stderr.splitlines()[-2].endswith("of Jittor: k.cc:7:7: error: no luck")
    assert done.stderr.splitlines()[-1].startswith(
        f"All that it said: {base.cache_folder()}/compiler-output.txt."
    )


# ---- other backends


def test_rocm_is_off_unless_it_is_asked_for(tmp_path):
    hipcc = executable(tmp_path / "bin/hipcc", "echo 'HIP version: 5.4.22801-aaa1e3d8'")
    paths = dict(PATH=f"{hipcc.parent}:{os.environ['PATH']}")
    code = (
        "import toolchain; toolchain.start('cpu')\nfrom jittor.extern.rocm import "
        "rocm_compiler as r; print([r.hipcc_path])"
    )
    done = python(code, hipcc_path=None, **paths)
    assert done.stdout == "['']\n" and done.stderr == "", done.stderr
    asked = (
        "import toolchain; toolchain._prepare('cpu', 'fp32'); import os; "
        "print(os.environ['hipcc_path'])"
    )
    assert python(asked, hipcc_path=str(hipcc), **paths).stdout == f"{hipcc}\n"
    doctor = python(
        "from toolchain import doctor; doctor.main([])", hipcc_path=None, **paths
    ).stdout
    assert (
        f"ROCm, DCU                {hipcc} is not used: `export hipcc_path={hipcc}` asks for it"
        in doctor
    )


# ---- paths


def test_a_path_with_a_space_reaches_jittor_whole(tmp_path):
    """Its question for Python's headers, which it puts on each command line, answered by a script
    of our cache."""
    code = (
        "import toolchain; toolchain._prepare('cpu', 'fp32'); import jittor_utils as u\n"
        "print(u.get_py3_include_path(), u.get_py3_extension_suffix())"
    )
    done = python(code, XDG_CACHE_HOME=str(tmp_path / "my cache 我的"), cc_flags="")
    include = sysconfig.get_path("include")
    assert done.stdout == f"-I{include} -I{include} {sysconfig.get_config_var('EXT_SUFFIX')}\n", (
        done.stderr
    )


def test_python_headers_below_a_folder_with_a_space_are_quoted(monkeypatch, tmp_path):
    (tmp_path / "my python").mkdir()
    (tmp_path / "my python/Python.h").touch()
    monkeypatch.setattr("sysconfig.get_path", lambda name: str(tmp_path / "my python"))
    said = subprocess.run(
        [cpu.python_config(), "--includes"], capture_output=True, text=True
    ).stdout
    assert shlex.split(said) == [f"-I{tmp_path}/my python"] * 2


@pytest.mark.parametrize("character", [*cpu.UNUSABLE])
def test_a_path_that_no_command_line_takes_is_refused(monkeypatch, tmp_path, character):
    monkeypatch.setenv("XDG_CACHE_HOME", f"{tmp_path}/a{character}b")
    with pytest.raises(
        ToolchainError, match="(?s)this project's cache: .* set XDG_CACHE_HOME to another"
    ):
        cpu.check_paths()


# ---- the precompiled header


def test_gxx_takes_the_precompiled_header_with_jittors_own_flags(tmp_path):
    """-H lists the headers that are read: "!" before one that was taken precompiled."""
    flags = jt.flags.cc_flags
    header = re.search('-include "(.*?)"', flags)
    assert header, "Jittor runs without the precompiled header"
    (tmp_path / "kernel.cc").write_text(
        '#define JIT 1\n#include "fused_op.h"\n#include "ops/unary_op.h"\nint main() {}\n'
    )
    (tmp_path / "core.cc").write_text('#include "var.h"\nint main() {}\n')

    def read(file, *more):
        done = subprocess.run(
            ["g++", *shlex.split(flags), *more, "-H", "-fsyntax-only", str(tmp_path / file)],
            capture_output=True,
            text=True,
            check=True,
        )
        return [line for line in done.stderr.splitlines() if line.startswith(("! ", ". "))]

    # All that the kernel includes is in it. -g: as jittor/utils/asm_tuner.py calls it
    kernel = ("kernel.cc", "-DJIT=1")
    assert read(*kernel) == read(*kernel, "-g") == [f"! {header[1]}.gch/kernels"]
    assert f"! {header[1]}.gch/kernels" not in read(*kernel, "-g", "-O1")
    flags = " ".join(flag for flag in flags.split() if flag not in ("-Ofast", "-fopenmp"))
    assert read("core.cc", "-O1") == [f"! {header[1]}.gch/core"]


def test_without_gxx_or_space_there_is_no_precompiled_header(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("cc_path", str(executable(tmp_path / "clang", 'echo "clang version 15"')))
    assert compiling.precompiled_header() == ""
    monkeypatch.setenv(
        "cc_path",
        str(
            executable(
                tmp_path / "g++", 'echo "g++ Free Software Foundation"; test "$1" = --version'
            )
        ),
    )
    assert compiling.precompiled_header() == "" and not list(tmp_path.glob("packnet-jittor/*"))


def test_compiler_flags_of_the_user_are_kept():
    code = (
        "import os, sys, toolchain; toolchain.compiling.import_jittor = lambda: "
        "sys.exit(os.environ['cc_flags']); toolchain.start('cpu')"
    )
    needed = " ".join(filter(None, (mending.numpy_flags(), mending.gcc_flags())))
    assert python(code, cc_flags="-DMINE=1").stderr.strip() == f"-DMINE=1 {needed}".strip()
    assert python(code, cc_flags=None).stderr.startswith('-include "')


# ---- what is missing is named


def test_no_compiler(tmp_path):
    done = python(SAY.format("cpu"), PATH=str(tmp_path), cc_path=None)
    assert (
        "SAID the C++ compiler g++ was not found" in done.stdout
        and "apt install g++" in done.stdout
    )


def test_no_python_headers(monkeypatch, tmp_path):
    monkeypatch.setattr("sysconfig.get_path", lambda name: str(tmp_path))
    with pytest.raises(ToolchainError, match=rf"apt install python3.{sys.version_info.minor}-dev"):
        cpu.python_config()


def test_no_onednn(monkeypatch, tmp_path):
    monkeypatch.setenv("JITTOR_HOME", str(tmp_path))
    monkeypatch.setattr("importlib.metadata.files", lambda name: [])
    with pytest.raises(
        ToolchainError, match="onednn-cpu-gomp.*pip install -r requirements.txt && pip"
    ):
        cpu.link_onednn()


def test_onednn_links_are_made_and_mended(monkeypatch, tmp_path):
    monkeypatch.setenv("JITTOR_HOME", str(tmp_path))
    folder = tmp_path / ".cache/jittor/mkl" / cpu.ONEDNN_FOLDER
    cpu.link_onednn()
    library = (folder / "lib" / "libmkldnn.so").resolve()
    assert (
        library.is_file()
        and (folder / "lib" / "libdnnl.so.2").exists()
        and (folder / "include/dnnl.hpp").exists()
    )
    (folder / "lib" / "libmkldnn.so").unlink()
    (folder / "lib" / "libmkldnn.so").symlink_to(tmp_path / "environment-that-was-deleted")
    cpu.link_onednn()
    assert (folder / "lib" / "libmkldnn.so").resolve() == library
    (folder / "lib" / "libmkldnn.so").unlink()
    (folder / "lib" / "libmkldnn.so").write_text("Jittor's own download")
    cpu.link_onednn()
    assert (folder / "lib" / "libmkldnn.so").read_text() == "Jittor's own download"


def test_the_python_config_answers_for_this_interpreter():
    script = os.environ["python_config_path"]

    def ask(question):
        return subprocess.run([script, question], capture_output=True, text=True)

    assert Path(ask("--includes").stdout.split()[0][2:], "Python.h").is_file()
    assert ask("--extension-suffix").stdout.strip() == sysconfig.get_config_var("EXT_SUFFIX")
    assert ask("--prefix").returncode == 1


def test_jittors_home_is_found_as_jittor_finds_it(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("JITTOR_HOME", raising=False)
    assert base.jittor_home() == tmp_path
    (tmp_path / ".cache/jittor").mkdir(parents=True)
    (tmp_path / ".cache/jittor/config.json").write_text(json.dumps({"JITTOR_HOME": "/saved"}))
    assert base.jittor_home() == Path("/saved")
    monkeypatch.setenv("JITTOR_HOME", "/set")
    assert base.jittor_home() == Path("/set")


# ---- CPU or CUDA (which toolkit: test_cuda.py)


@pytest.mark.skipif(not gpu.gpu_problem(), reason="this machine has a GPU")
def test_device_cuda_without_a_gpu_is_one_sentence():
    done = python(SAY.format("cuda"))
    assert (
        done.stdout.startswith("SAID --device cuda cannot be used: ")
        and done.stdout.count("\n") == 1
    )


# ---- the doctor


def test_the_doctor_says_what_will_be_used(capsys, monkeypatch):
    monkeypatch.setattr(gpu, "driver", lambda: ((0, 0), 0))
    assert doctor.main([]) == 0
    out = capsys.readouterr().out
    assert f"Python                   {sys.version.split()[0]} with headers in" in out
    assert (
        "will be used             the CPU: no NVIDIA driver is installed" in out
        and "MISSING" not in out
    )


def test_the_doctor_says_which_python_was_not_tried(capsys, monkeypatch):
    monkeypatch.setattr(doctor, "UNTRIED", sys.version_info[:2])
    assert doctor.main([]) == 0
    assert (
        f"Python                   {sys.version.split()[0]} (not tried) with headers in"
        in capsys.readouterr().out
    )


@pytest.mark.parametrize(
    "version, remark",
    [("12.2.0", ""), ("16.2.0", ""), ("11.4.0", " (not tried)"), ("17.1.0", " (not tried)")],
)
def test_the_doctor_says_which_compiler_was_not_tried(
    capsys, monkeypatch, tmp_path, version, remark
):
    monkeypatch.setenv(
        "cc_path",
        str(executable(tmp_path / "g++", f"echo 'g++ {version}\nFree Software Foundation'")),
    )
    assert doctor.main([]) == 0
    assert f"C++ compiler             g++ {version}{remark}\n" in capsys.readouterr().out


@pytest.mark.parametrize("version, trap", [("0.8.0", True), ("0.7.0", False)])
def test_the_doctor_tells_of_a_known_trap(capsys, monkeypatch, version, trap):
    installed = importlib.metadata.version
    monkeypatch.setattr(
        importlib.metadata,
        "version",
        lambda name: version if name == "safetensors" else installed(name),
    )
    assert doctor.main([]) == 0
    out = capsys.readouterr().out
    assert f"safetensors              {version}" in out
    assert ("wrong numbers for arrays that are not in C order" in out) == trap


def test_the_doctor_names_what_is_missing(capsys, monkeypatch):
    monkeypatch.setenv("cc_path", "/no/such/g++")
    assert doctor.main(["--check"]) == 2
    assert (
        "MISSING: the C++ compiler /no/such/g++ was not found: install it with `sudo apt install "
        "g++`" in capsys.readouterr().out
    )


def test_the_doctor_says_why_a_gpu_is_not_used(capsys, monkeypatch):
    monkeypatch.setattr(gpu, "driver", lambda: ((12, 4), 1))
    monkeypatch.setattr(gpu, "cards", lambda: [gpu.Card("Some GPU", (8, 6), 8.0)])
    monkeypatch.setattr(cuda, "choose", lambda cache: cuda.Toolkit("", "this is why"))
    assert doctor.main([]) == 0
    out = capsys.readouterr().out
    assert "supports CUDA 12.4" in out and "Some GPU" in out and "MISSING: this is why" in out
    assert "will be used             the CPU: this is why" in out


def test_the_check_computes_and_notices_a_wrong_result(capsys, monkeypatch):
    last = toolchain.convolution == "winograd" and channels_last.worth_it(cpu.onednn())
    assert doctor.main(["--check", "--device", "cpu"]) == 0
    assert capsys.readouterr().out.count(" right: largest error ") == (21 if last else 15)
    jt = toolchain.start()
    execute = jt.nn.Conv.execute
    monkeypatch.setattr(jt.nn.Conv, "execute", lambda layer, x: execute(layer, x) * 1.001)
    assert doctor.main(["--check", "--device", "cpu"]) == 1
    assert capsys.readouterr().out.count(" WRONG: largest error ") == 12


def test_precision_on_the_cpu_is_refused(capsys):
    from main import main

    assert main(["--demo", "--precision", "fp16", "--device", "cpu"]) == 2
    assert "--precision fp16: needs a GPU" in capsys.readouterr().err


# ---- homes and machines


def test_there_is_no_home(monkeypatch):
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(
        Path,
        "home",
        lambda: (_ for _ in ()).throw(RuntimeError("Could not determine home directory.")),
    )
    for function in (base.cache_folder, base.jittor_home):
        with pytest.raises(ToolchainError, match="no home folder: set HOME"):
            function()


@pytest.mark.parametrize("name", ["HOME", "XDG_CACHE_HOME"])
def test_a_home_that_cannot_be_written_is_one_sentence(tmp_path, name):
    (tmp_path / "file").touch()
    done = python(
        SAY.format("cpu"),
        JITTOR_HOME=str(tmp_path / "jittor"),
        **{name: str(tmp_path / "file" / "x")},
    )
    said = done.stdout.splitlines()[-1]
    assert said.startswith("SAID ") and "set HOME (and XDG_CACHE_HOME, if you use it)" in said, (
        done.stderr
    )


def test_a_cache_without_room_is_one_sentence(tmp_path):
    code = (
        "import toolchain.cpu\ndef full(*a): raise OSError(28, 'No space left on device', '/x')\n"
        "toolchain.cpu.replacing = full\n" + SAY.format("cpu")
    )
    done = python(code, XDG_CACHE_HOME=str(tmp_path))
    assert "SAID /x: No space left on device; set HOME" in done.stdout


def test_a_processor_without_a_name(monkeypatch):
    monkeypatch.setattr(
        Path, "read_text", lambda self: (_ for _ in ()).throw(FileNotFoundError(2, "gone"))
    )
    assert cpu.cpu_name() == "x86_64"


def test_a_libstdcxx_older_than_the_compiler_is_named(monkeypatch):
    original = __import__

    def old(name, *rest):
        if name == "jittor_utils":
            raise ImportError("/opt/conda/lib/libstdc++.so.6: version `GLIBCXX_3.4.32' not found")
        return original(name, *rest)

    monkeypatch.setattr("builtins.__import__", old)
    with pytest.raises(
        ToolchainError,
        match="older than the g.. that compiles.*conda install -c conda-forge libstdcxx-ng",
    ):
        compiling.import_jittor()


def test_threads_sleep_soon_while_they_wait_unless_the_user_has_said_how(monkeypatch):
    from system import processes

    for given, expected in (
        ({}, "2000"),
        ({"GOMP_SPINCOUNT": "7"}, "7"),
        ({"OMP_WAIT_POLICY": "active"}, None),
    ):
        for name in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY"):
            monkeypatch.delenv(name, raising=False)
        for name, value in given.items():
            monkeypatch.setenv(name, value)
        processes.share_cores()
        assert os.environ.get("GOMP_SPINCOUNT") == expected
