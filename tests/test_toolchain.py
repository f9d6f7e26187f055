"""What Jittor needs is found, or named in one sentence; and a run on the CPU starts with a useless nvcc around."""
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT

import toolchain
from toolchain import ToolchainError


def python(code, **environment):
    """Run `code` in a fresh interpreter; variables set to None are removed."""
    env = {name: value for name, value in {**os.environ, **environment}.items() if value is not None}
    for name in ("nvcc_path", "python_config_path", "cache_name", "log_silent"):
        if name not in environment:
            env.pop(name, None)
    return subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=env, capture_output=True, text=True, timeout=600)


def executable(path: Path, text: str = "exit 1") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


SAY = "import toolchain\ntry: toolchain.start({!r})\nexcept toolchain.ToolchainError as e: print('SAID', e)"


# ---- starting

def test_a_useless_nvcc_does_not_matter_and_jittor_is_silent(tmp_path):
    nvcc = executable(tmp_path / "bin" / "nvcc", 'echo "Cuda compilation tools, release 12.4, V12.4.1"')
    done = python("import toolchain; jt = toolchain.start(); print((jt.ones(3) * 2).sum().item(), toolchain.device)",
                  PATH=f"{nvcc.parent}:{os.environ['PATH']}", nvcc_path=None)
    assert done.returncode == 0 and done.stdout == "6.0 cpu\n", done.stderr
    assert "[i " not in done.stderr and "[w " not in done.stderr


def test_convolutions_run_through_onednn():
    done = python("import toolchain; jt = toolchain.start()\n"
                  "from jittor import compile_extern\nprint(compile_extern.mkl_ops is not None)")
    assert done.stdout == "True\n", done.stderr


def test_what_the_user_set_wins():
    done = python("import toolchain, os; toolchain.start()\n"
                  "import jittor_utils, jittor; print(jittor_utils.LOG.log_silent, os.environ['cache_name'])",
                  log_silent="0", cache_name="packnet-cpu")
    assert done.stdout.splitlines()[-1] == "0 packnet-cpu" and "[i " in done.stderr + done.stdout


def test_start_gives_one_module_and_refuses_another_device():
    assert toolchain.start() is toolchain.start("cpu") is sys.modules["jittor"]
    with pytest.raises(ToolchainError, match="start a new one"):
        toolchain.start("cuda")
    with pytest.raises(ToolchainError, match="'gpu' is unknown"):
        toolchain.start("gpu")


# ---- what is missing is named

def test_no_compiler(tmp_path):
    done = python(SAY.format("cpu"), PATH=str(tmp_path), cc_path=None)
    assert "SAID the C++ compiler g++ was not found" in done.stdout and "apt install g++" in done.stdout


def test_no_python_headers(monkeypatch, tmp_path):
    monkeypatch.setattr("sysconfig.get_path", lambda name: str(tmp_path))
    with pytest.raises(ToolchainError, match=rf"apt install python3.{sys.version_info.minor}-dev"):
        toolchain._python_config()


def test_no_onednn(monkeypatch, tmp_path):
    monkeypatch.setenv("JITTOR_HOME", str(tmp_path))
    monkeypatch.setattr("importlib.metadata.files", lambda name: [])
    with pytest.raises(ToolchainError, match="onednn-cpu-gomp.*pip install -r requirements.txt"):
        toolchain._link_onednn()


def test_onednn_links_are_made_and_mended(monkeypatch, tmp_path):
    monkeypatch.setenv("JITTOR_HOME", str(tmp_path))
    folder = tmp_path / ".cache/jittor/mkl" / toolchain.ONEDNN_FOLDER
    toolchain._link_onednn()
    library = (folder / "lib" / "libmkldnn.so").resolve()
    assert library.is_file() and (folder / "lib" / "libdnnl.so.2").exists() and (folder / "include/dnnl.hpp").exists()
    (folder / "lib" / "libmkldnn.so").unlink()
    (folder / "lib" / "libmkldnn.so").symlink_to(tmp_path / "environment-that-was-deleted")
    toolchain._link_onednn()
    assert (folder / "lib" / "libmkldnn.so").resolve() == library
    (folder / "lib" / "libmkldnn.so").unlink()
    (folder / "lib" / "libmkldnn.so").write_text("Jittor's own download")
    toolchain._link_onednn()
    assert (folder / "lib" / "libmkldnn.so").read_text() == "Jittor's own download"


def test_the_python_config_answers_for_this_interpreter():
    import sysconfig
    script = os.environ["python_config_path"]
    def ask(question):
        return subprocess.run([script, question], capture_output=True, text=True)
    assert Path(ask("--includes").stdout.split()[0][2:], "Python.h").is_file()
    assert ask("--extension-suffix").stdout.strip() == sysconfig.get_config_var("EXT_SUFFIX")
    assert ask("--prefix").returncode == 1


def test_jittors_home_is_found_as_jittor_finds_it(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("JITTOR_HOME", raising=False)
    assert toolchain._jittor_home() == tmp_path
    (tmp_path / ".cache/jittor").mkdir(parents=True)
    (tmp_path / ".cache/jittor/config.json").write_text(json.dumps({"JITTOR_HOME": "/saved"}))
    assert toolchain._jittor_home() == Path("/saved")
    monkeypatch.setenv("JITTOR_HOME", "/set")
    assert toolchain._jittor_home() == Path("/set")


# ---- CPU or CUDA

def fake_toolkit(folder: Path, version="12.4", runtime=True, cudnn=True) -> str:
    nvcc = executable(folder / "bin/nvcc", f'echo "Cuda compilation tools, release {version}, V{version}.1"')
    (folder / "lib64").mkdir()
    for name in ["libcudart.so"] * runtime + ["libcudnn_ops_infer.so"] * cudnn:
        (folder / "lib64" / name).touch()
    return str(nvcc)


@pytest.mark.parametrize("options, problem", [
    (dict(), ""), (dict(version="11.8"), ""),
    (dict(version="13.0"), "wants a CUDA 11 or 12 toolkit"),
    (dict(runtime=False), "no CUDA runtime beside it"),
    (dict(cudnn=False), "cuDNN 8 is missing"),
])
def test_which_toolkits_can_be_used(tmp_path, options, problem):
    assert problem in toolchain.toolkit_problem(fake_toolkit(tmp_path, **options))
    assert bool(toolchain.toolkit_problem(fake_toolkit(tmp_path / "again", **options))) == bool(problem)


def test_the_choice(monkeypatch, tmp_path):
    nvcc = fake_toolkit(tmp_path)
    monkeypatch.setenv("nvcc_path", nvcc)
    monkeypatch.setattr(toolchain, "gpu_problem", lambda: "")
    assert toolchain._choose_nvcc("auto") == toolchain._choose_nvcc("cuda") == nvcc
    assert toolchain._choose_nvcc("cpu") == ""
    monkeypatch.setattr(toolchain, "gpu_problem", lambda: "no driver")
    assert toolchain._choose_nvcc("auto") == ""
    with pytest.raises(ToolchainError, match="--device cuda cannot be used: no driver"):
        toolchain._choose_nvcc("cuda")
    monkeypatch.setattr(toolchain, "gpu_problem", lambda: "")
    monkeypatch.setenv("nvcc_path", "")
    assert toolchain._choose_nvcc("auto") == ""
    with pytest.raises(ToolchainError, match="nvcc_path is set to nothing"):
        toolchain._choose_nvcc("cuda")
    monkeypatch.setenv("nvcc_path", str(tmp_path / "none"))
    with pytest.raises(ToolchainError, match="no CUDA toolkit found"):
        toolchain._choose_nvcc("cuda")


@pytest.mark.skipif(not toolchain.gpu_problem(), reason="this machine has a GPU")
def test_device_cuda_without_a_gpu_is_one_sentence():
    done = python(SAY.format("cuda"))
    assert done.stdout.startswith("SAID --device cuda cannot be used: ") and done.stdout.count("\n") == 1
