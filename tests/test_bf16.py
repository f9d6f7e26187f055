"""--precision bf16 on the CPU: factors rounded to bfloat16, sums in float32; what is stored says
so; refused by name where the processor has it not."""

import argparse
import os
import subprocess
import sys

import numpy as np
import pytest
from conftest import ROOT, jt
from jittor import nn

import evaluate
import toolchain
from images import drawings
from kernels import bf16, onednn
from runs.stage import Stage, precision_of
from storage.checkpoint import load_metadata
from toolchain import cpu, doctor

if jt.flags.use_cuda:
    pytest.skip("on a GPU cuDNN convolves", allow_module_level=True)

has_bf16 = pytest.mark.skipif(not cpu.has_bf16(), reason="this processor has no bfloat16")


def rounded(array):
    """To the nearest bfloat16, ties to even, as float64."""
    bits = array.astype(np.float32).view(np.uint32)
    bits = (bits + 0x7FFF + (bits >> 16 & 1)) & 0xFFFF0000
    return bits.astype(np.uint32).view(np.float32).astype(np.float64)


def check(found, of):
    """Each result is that of the rounded factors, as float32 sums it up; and within the bound of
    the doctor's check of the exact one. `of(round)`: the right results."""
    for value, right, exact in zip(found, of(rounded), of(np.float64)):
        value, largest = value.numpy(), np.abs(exact).max()
        assert value.shape == right.shape
        assert np.abs(value - right).max() < 3e-6 * largest
        assert 1e-4 * largest < np.abs(value - exact).max() < 1e-2 * largest


@has_bf16
@pytest.mark.parametrize(
    "channels, filters, kernel, stride, padding, dilation, groups",
    [
        (5, 7, (3, 3), (1, 1), (1, 1), (1, 1), 1),
        (32, 48, (5, 3), (2, 1), (2, 0), (1, 2), 1),
        (33, 64, (1, 1), (1, 1), (0, 0), (1, 1), 1),
        (8, 12, (3, 3), (2, 2), (1, 1), (1, 1), 4),
        (6, 6, (3, 3), (2, 2), (1, 1), (1, 1), 6),
    ],
    ids=["3x3", "all different", "1x1", "groups", "depthwise"],
)
def test_a_convolution_rounds_its_factors_and_nothing_else(
    channels, filters, kernel, stride, padding, dilation, groups
):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((3, channels, 14, 17)).astype(np.float32)
    w = rng.standard_normal((filters, channels // groups, *kernel)).astype(np.float32)
    layer = nn.Conv(channels, filters, kernel, stride, padding, dilation, groups, bias=False)
    images, weight = jt.array(x), jt.array(w)
    y = onednn.convolution(jt, cpu.onednn(), bf16=True)(images, weight, layer)
    up = rng.standard_normal(y.shape).astype(np.float32)
    found = [y, *jt.grad((y * jt.array(up)).sum(), [images, weight])]
    torch = pytest.importorskip("torch")

    def of(factor):
        a, b, c = (torch.from_numpy(factor(array)) for array in (x, w, up))
        rest = (stride, padding, dilation, groups)
        return (
            torch.conv2d(a, b, None, *rest).numpy(),
            torch.nn.grad.conv2d_input(a.shape, b, c, *rest).numpy(),
            torch.nn.grad.conv2d_weight(a, b.shape, c, *rest).numpy(),
        )

    check(found, of)


@has_bf16
def test_a_linear_layer_rounds_its_factors_and_nothing_else():
    rng = np.random.default_rng(0)
    x, w, up = (
        rng.standard_normal(shape).astype(np.float32) for shape in ((9, 70), (33, 70), (9, 33))
    )
    images, weight = jt.array(x), jt.array(w)
    y = bf16.product(jt, cpu.onednn())(images, weight)

    def of(factor):
        a, b, c = factor(x), factor(w), factor(up)
        return a @ b.T, c @ b, c.T @ a

    check([y, *jt.grad((y * jt.array(up)).sum(), [images, weight])], of)


BEGIN = """
import sys
sys.path.insert(0, {root!r})
import main
arguments = [*{arguments!r}, "--precision", "bf16", "--output-dir"]
assert main.main([*arguments, "whole"]) == 0
import training
epoch, calls = training.train_epoch, []
def stop_in_the_fourth(*given):
    calls.append(given)
    if len(calls) == 4:
        raise KeyboardInterrupt
    return epoch(*given)
training.train_epoch = stop_in_the_fourth
assert main.main([*arguments, "resumed"]) == 130
"""
GO_ON = """
import sys
sys.path.insert(0, {root!r})
import evaluate, main
assert main.main(["--output-dir", "resumed", "--resume"]) == 0
assert evaluate.main(["--output-dir", "resumed"]) == 0
assert main.main(["--output-dir", "resumed", "--resume", "--precision", "fp32"]) == 2
"""


@has_bf16
def test_a_resumed_run_in_bf16_is_the_same_and_says_in_which_precision_it_was(tmp_path):
    """Stopped in the retraining of the second task, and gone on with by another process."""
    drawings.draw(tmp_path / "data", train=4, test=4)
    arguments = """--demo --num-epochs-base 1 --num-epochs-base-finetune 1 --num-epochs-per-task 1
        --num-epochs-finetune 1 --task-list demo_birds --pruning-ratios 0.5
        --data-root data""".split()
    for code in (BEGIN, GO_ON):
        done = subprocess.run(
            [sys.executable, "-c", code.format(root=str(ROOT), arguments=arguments)],
            cwd=tmp_path,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stdout + done.stderr
    assert "--precision was bf16 and is now fp32" in done.stderr
    assert "note:" not in done.stderr  # evaluate.py takes the run's precision by itself
    whole, resumed = (tmp_path / name / "packnet.safetensors" for name in ("whole", "resumed"))
    assert whole.read_bytes() == resumed.read_bytes()
    metadata = load_metadata(resumed)
    assert [precision_of(task) for task in metadata["tasks"]] == ["bf16", "bf16"]
    assert "convolutions in bf16" in (tmp_path / "resumed" / "log.txt").read_text()
    rows = [line.split() for line in done.stdout.splitlines() if "demo_birds  " in line]
    assert rows[-1][1] == rows[-1][3]  # measured again, as recorded


def test_a_task_of_fp32_is_stored_as_ever():
    entry = Stage("a", 3).entry(None, {})
    assert "precision" not in entry and precision_of(entry) == "fp32"
    entry = Stage("a", 3, precision="bf16").entry(None, {})
    assert entry["precision"] == "bf16"
    assert Stage.of_entry(entry | dict(seal=""), 0, True).precision == "bf16"


def test_evaluation_in_another_precision_is_possible_and_says_so(capsys):
    metadata = dict(
        config=dict(precision="bf16", convolution="winograd"),
        tasks=[dict(name="a"), dict(name="b", precision="bf16"), dict(name="c", precision="bf16")],
    )
    options = argparse.Namespace(device="cpu", precision=None, export=None)
    evaluate.start_jittor(options, metadata)  # this process computes in fp32
    assert capsys.readouterr().err == (
        "note: b, c: trained and measured in bf16, here computed in fp32, which gives other last "
        "digits\n"
    )
    options.precision = "bf16"
    with pytest.raises(toolchain.PrecisionError, match="already computes in fp32"):
        evaluate.start_jittor(options, metadata)


def refusal(precision, **environment):
    code = f"import toolchain; toolchain._prepare('cpu', {precision!r})"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env=os.environ | environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode
    return done.stderr.splitlines()[-1]


def test_what_this_device_does_not_have_is_refused_by_name():
    needed = "PrecisionError: --precision bf16: needs a processor with AVX-512 BF16 or AMX"
    assert needed in refusal("bf16", ONEDNN_MAX_CPU_ISA="AVX2")
    assert needed in refusal("bf16", ONEDNN_MAX_CPU_ISA="AVX512_CORE")
    assert needed in refusal("bf16", use_mkl="0")
    assert "--precision tf32: needs a GPU, and none can be used" in refusal("tf32")


def test_the_settings_say_which_device_it_is_for(capsys):
    from main import main

    assert main(["--demo", "--precision", "bf16", "--device", "cuda"]) == 2
    assert "--precision bf16: is for the CPU; --device cuda computes in" in capsys.readouterr().err


@has_bf16
def test_the_doctor_checks_it():
    done = subprocess.run(
        [sys.executable, "-m", "toolchain", "--check", "--device", "cpu", "--precision", "bf16"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    errors = [line for line in done.stdout.splitlines() if "largest error" in line]
    assert done.returncode == 0 and len(errors) == 15, done.stdout
    assert all(" right: " in line and "e-03 of the largest" in line for line in errors)
    assert doctor.LIMITS["bf16"] == 1e-2
