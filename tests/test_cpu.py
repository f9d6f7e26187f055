"""What makes the CPU faster than Jittor leaves it: the ReLU and the memory that is kept.
Convolutions: test_conv.py and beside it."""

import os
import resource
import subprocess
import sys

import numpy as np
import pytest
from conftest import ROOT, jt
from jittor import nn

from trunks import zoo
from trunks.layers import NormReLU

if jt.flags.use_cuda:
    pytest.skip("on a GPU both are Jittor's", allow_module_level=True)


def test_relu_and_its_gradient():
    """Of 0 the gradient is 0, as PyTorch's: with all weights 0, as a task finds them, it
    matters."""
    assert nn.relu.__self__.__module__ == "kernels.relu"
    assert nn.BatchNorm.execute.__module__ == "kernels.norm"
    values = np.array([-np.inf, -2, -0.0, 0, 1e-30, 3, np.inf], np.float32)
    for relu in (nn.relu, nn.ReLU(), nn.Relu(), NormReLU()):
        x, dy = jt.array(values), jt.array(np.arange(7, dtype=np.float32) + 1)
        y = relu(x)
        assert y.dtype == "float32" and np.array_equal(
            y.numpy(), [0, 0, 0, 0, np.float32(1e-30), 3, np.inf]
        )
        assert np.array_equal(jt.grad((y * dy).sum(), [x])[0].numpy(), [0, 0, 0, 0, 5, 6, 7])
    assert nn.relu(jt.array(values).float64()).dtype == "float64"


def test_relus_gradient_of_a_sum_is_no_half():
    """bool times a number is float16 in Jittor."""
    for relu in (nn.relu, nn.ReLU(), NormReLU()):
        x = jt.array(np.array([-1, 2, 3], np.float32))
        gradient = jt.grad(relu(x).sum(), x)
        assert gradient.dtype == "float32" and gradient.numpy().tolist() == [0, 1, 1]


def test_relus_gradient_goes_through_several_layers():
    rng = np.random.default_rng(0)
    x, w = (rng.standard_normal((5, 5)).astype(np.float32) for _ in range(2))
    images, weight = jt.array(x), jt.array(w)
    grads = jt.grad(
        nn.relu(jt.matmul(nn.relu(jt.matmul(images, weight)), weight)).sum(), [images, weight]
    )
    h = np.maximum(x @ w, 0)
    up = (h @ w > 0).astype(np.float32)
    down = (up @ w.T) * (h > 0)
    for grad, right in zip(grads, (down @ w.T, x.T @ down + h.T @ up)):
        np.testing.assert_allclose(grad.numpy(), right, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "network, norms", [("resnet18", True), ("densenet121", True), ("squeezenet1_1", False)]
)
def test_relu_behind_a_norm_is_compiled_into_its_kernel(network, norms):
    layers = [layer for layer in zoo.make(network).modules() if isinstance(layer, nn.ReLU)]
    assert {isinstance(layer, NormReLU) for layer in layers} == {norms}


FAULTS = """
import ctypes, resource, sys
sys.path.insert(0, {root!r})
import toolchain
toolchain.start("cpu")
libc = ctypes.CDLL("libc.so.6")
libc.prctl(41, 1, 0, 0, 0)  # PR_SET_THP_DISABLE: a fault for each page, not for 2 MB
libc.malloc.restype = ctypes.c_void_p
libc.malloc.argtypes = [ctypes.c_size_t]
libc.free.argtypes = [ctypes.c_void_p]
def touch():
    block = libc.malloc(200 << 20)
    ctypes.memset(block, 1, 200 << 20)
    libc.free(block)
touch()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
touch()
print((resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before) * {page} >> 20)
"""


@pytest.mark.parametrize(
    "settings, least, most",
    [
        ({}, 0, 10),
        ({"MALLOC_ARENA_MAX": "2"}, 0, 10),
        ({"MALLOC_TOP_PAD_": "131072"}, 190, 300),
        ({"GLIBC_TUNABLES": "glibc.malloc.top_pad=131072"}, 190, 300),
    ],
    ids=str,
)
def test_freed_memory_is_kept_unless_the_user_has_settings(settings, least, most):
    """MB that the system gave anew for a block of 200 MB of which as much had just been freed."""
    code = FAULTS.format(root=str(ROOT), page=resource.getpagesize())
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")
    } | settings
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert least <= int(done.stdout.split()[-1]) <= most
