"""Our maximum over windows on the CPU, against NumPy, and against PyTorch where it is there."""

import numpy as np
import pytest
from conftest import jt
from hypothesis import given, settings
from hypothesis import strategies as st

from trunks.layers import Pool

if jt.flags.use_cuda:
    pytest.skip("on a GPU Jittor pools", allow_module_level=True)


def expected(
    x: np.ndarray, dy: np.ndarray, kernel: int, stride: int, padding: int
) -> tuple[np.ndarray, np.ndarray]:
    """y and dx, window by window."""
    y, dx = np.zeros_like(dy), np.zeros_like(x)
    for b, c, r, s in np.ndindex(dy.shape):
        top, left = r * stride - padding, s * stride - padding
        window = [
            (p, q)
            for p in range(max(top, 0), min(top + kernel, x.shape[2]))
            for q in range(max(left, 0), min(left + kernel, x.shape[3]))
        ]
        first = max(window, key=lambda place: x[b, c][place])  # of equal ones the first
        y[b, c, r, s] = x[b, c][first]
        dx[b, c][first] += dy[b, c, r, s]
    return y, dx


def computed(layer: Pool, x: np.ndarray, dy: np.ndarray | None = None) -> list[np.ndarray]:
    images = jt.array(x)
    y = layer(images)
    dy = np.random.default_rng(1).integers(-4, 5, y.shape).astype(np.float32) if dy is None else dy
    return [y.numpy(), jt.grad((y * jt.array(dy)).sum(), [images])[0].numpy(), dy]


@given(
    st.integers(1, 13),
    st.integers(1, 40),
    st.sampled_from([(2, 2, 0), (2, 2, 1), (2, 3, 0), (3, 2, 1), (3, 2, 0), (2, 1, 1), (3, 1, 1)]),
    st.booleans(),
    st.integers(0, 99),
)
@settings(max_examples=40)
def test_values_and_gradients_are_those_of_the_windows(height, width, shape, ceil_mode, seed):
    kernel, stride, padding = shape
    if min(height, width) + 2 * padding < kernel:
        return
    # with equal entries
    x = np.random.default_rng(seed).integers(-3, 4, (2, 3, height, width)).astype(np.float32)
    y, dx, dy = computed(
        Pool(kernel, stride, padding=padding, ceil_mode=ceil_mode, op="maximum"), x
    )
    right_y, right_dx = expected(x, dy, kernel, stride, padding)
    assert np.array_equal(y, right_y) and np.array_equal(dx, right_dx)


def test_windows_of_more_entries_than_a_byte_counts():
    x = np.random.default_rng(0).standard_normal((1, 2, 40, 37)).astype(np.float32)
    x[0, 0, 16, 17] = 9  # entry 290 of the first window
    y, dx, dy = computed(Pool(18, 5, padding=1, op="maximum"), x)
    right_y, right_dx = expected(x, dy, 18, 5, 1)
    assert np.array_equal(y, right_y) and np.array_equal(dx, right_dx)


def test_as_pytorch():
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    for kernel, stride, padding, ceil_mode in [
        (2, 2, 0, False),
        (3, 2, 1, False),
        (3, 2, 0, True),
        (2, 2, 0, True),
    ]:
        x = np.random.default_rng(0).integers(-3, 4, (2, 5, 15, 12)).astype(np.float32)
        y, dx, dy = computed(
            Pool(kernel, stride, padding=padding, ceil_mode=ceil_mode, op="maximum"), x
        )
        images = torch.tensor(x, requires_grad=True)
        theirs = torch.nn.functional.max_pool2d(
            images, kernel, stride, padding, ceil_mode=ceil_mode
        )
        theirs.backward(torch.tensor(dy))
        assert np.array_equal(y, theirs.detach().numpy()) and np.array_equal(
            dx, images.grad.numpy()
        )


def test_the_maximum_before_relu_is_the_maximum_after_it():
    """networks.VGG pools first: the same values and the same gradients."""
    x = np.random.default_rng(0).standard_normal((2, 3, 8, 8)).astype(np.float32)
    x[0, 0, :2, :2] = -1, 1
    pool, images = Pool(2, 2, op="maximum"), jt.array(x)
    before, after = jt.nn.relu(pool(images)), pool(jt.nn.relu(images))
    dy = jt.rand(before.shape)
    assert np.array_equal(before.numpy(), after.numpy())
    assert np.array_equal(
        jt.grad((before * dy).sum(), [images])[0].numpy(),
        jt.grad((after * dy).sum(), [images])[0].numpy(),
    )


def test_a_nan_stays_one():
    """So that a network that has diverged is noticed; infinities too."""
    # wide enough for vectors
    x = np.random.default_rng(0).standard_normal((1, 2, 9, 41)).astype(np.float32)
    x[0, 0, 4, 3], x[0, 0, 0, 0], x[0, 1, 8, 8], x[0, 1, :2, :2] = np.nan, np.nan, np.inf, -np.inf
    x[0, 0, 2, 17], x[0, 0, 3, 30], x[0, 1, 4:6, 20:22] = np.nan, np.inf, -np.inf
    for kernel, stride, padding in [(2, 2, 0), (3, 2, 1)]:
        y, dx, dy = computed(Pool(kernel, stride, padding=padding, op="maximum"), x)
        right = np.array(
            [
                [
                    x[0, c][
                        max(r * stride - padding, 0) : r * stride - padding + kernel,
                        max(s * stride - padding, 0) : s * stride - padding + kernel,
                    ].max()
                    for r in range(y.shape[2])
                    for s in range(y.shape[3])
                ]
                for c in (0, 1)
            ]
        ).reshape(y[0].shape)
        assert np.isnan(y).sum() >= 2 and np.array_equal(y[0], right, equal_nan=True)
        assert dx.sum() == dy.sum()  # whole numbers: each went somewhere


def test_of_zeros_with_either_sign_the_first_is_kept_to_the_bit():
    """So that a run gives the same file however many windows go at a time."""
    rng = np.random.default_rng(0)
    x = rng.choice(np.array([-1, -0.0, 0.0], np.float32), (2, 3, 9, 43))
    dy = rng.choice(np.array([-2, -0.0, 0.0, 3], np.float32), (2, 3, 4, 21))
    y, dx, _ = computed(Pool(2, 2, op="maximum"), x, dy)
    right_y = expected(x, dy, 2, 2, 0)[0]
    assert y.tobytes() == right_y.tobytes()
    assert np.signbit(y).any() and not np.signbit(y).all()
    for b, c, r, s in np.ndindex(dy.shape):  # a gradient is handed on with its sign
        window = dx[b, c, 2 * r : 2 * r + 2, 2 * s : 2 * s + 2].ravel()
        assert dy[b, c, r, s].tobytes() in [value.tobytes() for value in window]
