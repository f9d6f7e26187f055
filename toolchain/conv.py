"""Which way a convolution goes on the CPU: Winograd's algorithm (winograd.py), a matrix product (pointwise.py), or directly, as Jittor
asks oneDNN for it.

The way follows from the layer, the size of its images and the processor alone, so that the same seed gives the same bits, in a
resumed run too. benchmarks/convolution.py measures what the rules stand on, with AVX-512 and without.
"""
from types import ModuleType

from toolchain import pointwise, winograd
from toolchain.cpu import has_avx512

# Winograd: with fewer channels than this the transforms cost what the products spare.
LEAST_CHANNELS = 16
# With AVX-512 direct convolutions win on small images and narrow layers, too: Winograd takes outputs of at least this side, and of at
# least this side times channels (the smaller of each).
LEAST_SIDE, LEAST_PRODUCT = 14, 2500
# Matrix products: on fewer pixels oneDNN's own way is as fast, or faster.
LEAST_PIXELS = 14 * 14


def install(jt: ModuleType) -> None:
    """From now on every `nn.Conv` goes its way."""
    direct, wide, narrow, avx512 = jt.nn.Conv.execute, winograd.convolution(jt), pointwise.convolution(jt), has_avx512()

    def execute(self, x):
        match way(self, x, avx512):
            case "winograd":
                return wide(x, self.weight, self.bias, self.padding[0])
            case "pointwise":
                return narrow(x, self.weight)
        return direct(self, x)

    jt.nn.Conv.execute = execute


def way(layer, x, avx512: bool) -> str:
    """"winograd", "pointwise" or "direct": what is fastest for `layer` (nn.Conv) on images like `x`.

    Winograd: 3x3, square padding up to 2; pointwise: 1x1, no padding, no bias; both stride 1, float32 and large enough. Images of other
    channels than the layer's are left to Jittor, which refuses them.
    """
    if not (layer.stride == layer.dilation == (1, 1) and layer.groups == 1 and x.ndim == 4 and x.shape[1] == layer.weight.shape[1]
            and x.dtype == layer.weight.dtype == "float32"):
        return "direct"
    if layer.kernel_size == (1, 1):
        large = layer.padding == (0, 0) and layer.bias is None and x.shape[2] * x.shape[3] >= LEAST_PIXELS
        return "pointwise" if large else "direct"
    if layer.kernel_size == (3, 3) and layer.padding in ((0, 0), (1, 1), (2, 2)):
        channels, side = min(layer.weight.shape[:2]), min(x.shape[2:]) + 2 * layer.padding[0] - 2
        large = side >= LEAST_SIDE and side * channels >= LEAST_PRODUCT if avx512 else side >= 1
        return "winograd" if large and channels >= LEAST_CHANNELS else "direct"
    return "direct"
