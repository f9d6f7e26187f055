"""Which way a convolution goes: Winograd's algorithm (winograd.py), a matrix product
(pointwise.py), channel by channel (depthwise.py), or directly, as Jittor asks oneDNN for it.

The way follows from the layer, the size of its images and the processor alone, so that the same
seed gives the same bits, in a resumed run too. benchmarks/convolution.py measures what the rules
stand on, with AVX-512 and without.
"""
import ctypes
from types import ModuleType

from kernels.depthwise import convolution as depthwise
from kernels.pointwise import convolution as pointwise
from kernels.winograd import convolution as winograd

# Winograd: with fewer channels than this the transforms cost what the products spare.
LEAST_CHANNELS = 16
# With AVX-512 direct convolutions win on small images and narrow layers, too: Winograd takes
# outputs of at least this side, and of at least this side times channels (the smaller of each).
LEAST_SIDE, LEAST_PRODUCT = 14, 2500
# Matrix products; depthwise, of the output: on fewer pixels oneDNN's own way is as fast, or faster.
LEAST_PIXELS, LEAST_DEPTHWISE = 14 * 14, 28 * 28
AVX512 = 0x20  # the bit of dnnl_cpu_isa_avx512_core and of all that came after it


def has_avx512(onednn: ctypes.CDLL) -> bool:
    """Whether oneDNN uses it on this processor."""
    return bool(onednn.dnnl_get_effective_cpu_isa() & AVX512)


def install(jt: ModuleType, onednn: ctypes.CDLL) -> None:
    """From now on every `nn.Conv` goes its way."""
    direct = jt.nn.Conv.execute
    wide = winograd(jt)
    narrow = pointwise(jt)
    single = depthwise(jt)
    avx512 = has_avx512(onednn)

    def execute(self, x):
        match way(self, x, avx512):
            case "winograd":
                return wide(x, self.weight, self.bias, self.padding[0])
            case "pointwise":
                return narrow(x, self.weight)
            case "depthwise":
                y = single(x, self.weight, self.stride, self.padding)
                if self.bias is None:
                    return y
                return y + self.bias.broadcast(y.shape, [0, 2, 3])
        return direct(self, x)

    jt.nn.Conv.execute = execute


def way(layer, x, avx512: bool) -> str:
    """The fastest for `layer` (nn.Conv) on images like `x`: "winograd", "pointwise", "depthwise" or
    "direct".

    Winograd: 3x3, square padding up to 2; pointwise: 1x1, no padding, no bias; both stride 1;
    depthwise: a filter for each channel, which all of it sees; all three float32 and large enough.
    Images of other channels than the layer's are left to Jittor, which refuses them.
    """
    fits = x.ndim == 4 and x.shape[1] == layer.in_channels and layer.dilation == (1, 1)
    if not (fits and x.dtype == layer.weight.dtype == "float32"):
        return "direct"
    if layer.groups == layer.in_channels == layer.out_channels > 1:
        sides = [(side + 2 * padding - kernel) // stride + 1 for side, kernel, stride, padding
                 in zip(x.shape[2:], layer.kernel_size, layer.stride, layer.padding)]
        large = min(sides) > 0 and sides[0] * sides[1] >= LEAST_DEPTHWISE
        return "depthwise" if large else "direct"
    if layer.groups > 1 or layer.stride != (1, 1):
        return "direct"
    if layer.kernel_size == (1, 1):
        bare = layer.padding == (0, 0) and layer.bias is None
        return "pointwise" if bare and x.shape[2] * x.shape[3] >= LEAST_PIXELS else "direct"
    if layer.kernel_size == (3, 3) and layer.padding in ((0, 0), (1, 1), (2, 2)):
        channels = min(layer.weight.shape[:2])
        side = min(x.shape[2:]) + 2 * layer.padding[0] - 2
        large = side >= 1
        if avx512:
            large = side >= LEAST_SIDE and side * channels >= LEAST_PRODUCT
        return "winograd" if large and channels >= LEAST_CHANNELS else "direct"
    return "direct"
