"""Batch norms that learn, with sums over images and pixels that g++ can vectorise (norm.h): Jittor
adds one number after the other, which took a quarter of a step of ResNet-50's first task.

Nothing depends on the number of threads, so that the same input gives the same bits. A norm in test
mode is left to Jittor, which compiles it into one kernel with the ReLU behind it.
"""
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

# By the axis that the channels are on.
SUMS = {
    1: """
    norm::over_planes(in0_p, in1_p, out0_p, in0_shape0, in0_shape1, in0_shape2 * in0_shape3);
""",
    3: """
    norm::over_rows(in0_p, in1_p, out0_p, in0_shape0 * in0_shape1 * in0_shape2, in0_shape3);
""",
}


def install(jt: ModuleType) -> None:
    """From now on every `nn.BatchNorm` that learns from float32 images goes this way."""
    by_jittor, learn = jt.nn.BatchNorm.execute, learning(jt)

    def execute(self, x):
        fits = self.is_train and x.ndim == 4 and x.dtype == "float32" and x.numel()
        return learn(self, x, 1) if fits else by_jittor(self, x)

    jt.nn.BatchNorm.execute = execute


def learning(jt: ModuleType) -> Callable:
    """A function of (an nn.BatchNorm, x float32 [N, C, H, W] or [N, H, W, C], the axis of its
    channels) that does what the layer does in training, formula by formula."""
    moments, scaled = moments_of(jt), scaling(jt)

    def execute(self, x, channels: int):
        mean, squares = moments(x, channels)
        if self.sync and jt.in_mpi:
            mean, squares = (of.mpi_all_reduce("mean") for of in (mean, squares))
        variance = (squares - mean * mean).maximum(0.0)
        for kept, now in ((self.running_mean, mean), (self.running_var, variance)):
            kept.update(kept + (now - kept) * self.momentum)
        w = self.weight / jt.sqrt(variance + self.eps)
        return scaled(x, w, self.bias - mean * w, channels)

    return execute


def others(channels: int) -> list[int]:
    return [axis for axis in range(4) if axis != channels]


def summing(jt: ModuleType) -> Callable:
    """A function of (a, b, both float32 [N, C, H, W] or [N, H, W, C], the axis of the channels)
    that gives the sums of a and those of a * b, float32 [2, C]."""
    header = Path(__file__).with_name("norm.h").read_text()

    def sums(a, b, channels: int):
        return jt.code([2, a.shape[channels]], "float32", [a, b], cpu_header=header,
                       cpu_src=SUMS[channels])

    return sums


def moments_of(jt: ModuleType) -> Callable:
    """A function of (x, the axis of its channels) that gives their means and the means of their
    squares, float32 [C] each."""
    sums = summing(jt)

    class Moments(jt.Function):
        def execute(self, x, channels: int):
            self.x, self.channels = x, channels
            self.count = x.numel() / x.shape[channels]
            of = sums(x, x, channels) / self.count
            return of[0], of[1]

        def grad(self, of_mean, of_squares):
            mean, squares = ((up / self.count).broadcast(self.x.shape, others(self.channels))
                             for up in (of_mean, 2 * of_squares))
            return mean + squares * self.x, None

    return Moments.apply


def scaling(jt: ModuleType) -> Callable:
    """A function of (x, w, b, both float32 [C], the axis of the channels of x) that gives
    w x + b."""
    sums = summing(jt)

    class Scaling(jt.Function):
        def execute(self, x, w, b, channels: int):
            self.x, self.w, self.channels = x, w, channels
            w, b = (of.broadcast(x.shape, others(channels)) for of in (w, b))
            return x * w + b

        def grad(self, dy):
            of = sums(dy, self.x, self.channels)
            dx = dy * self.w.broadcast(dy.shape, others(self.channels))
            return dx, of[1], of[0], None

    return Scaling.apply
