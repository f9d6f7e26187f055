"""Layers and networks whose images have their channels last: kernels against NumPy in float64,
networks against themselves on plain images; what looks at a layer from outside sees plain ones."""

import numpy as np
import pytest
from conftest import jt
from jittor import models, nn

import toolchain
from kernels import channels_last as kernels
from packing.loops import starved_norm
from packing.watching import watched
from toolchain import cpu
from trunks import channels_last, zoo
from trunks.layers import Pool

if toolchain.convolution != "winograd" or not kernels.worth_it(cpu.onednn()):
    pytest.skip("images stay plain here", allow_module_level=True)


BOUNDS = dict(direct=3e-6, pointwise=3e-6, winograd=1e-5)  # of the largest value


def normal(*shape):
    return np.random.default_rng(sum(shape)).standard_normal(shape).astype(np.float32)


def close(found, exact, bound=3e-6):
    assert list(found.shape) == list(exact.shape)
    assert np.abs(found.numpy() - exact).max() < bound * np.abs(exact).max()


def sums(x, w, dy, stride, padding, groups):
    """(y, dx, dw) as float64, tap by tap; x [N, H, W, C], w [K, C / groups, kh, kw]."""
    x, w, dy = (array.astype(np.float64) for array in (x, w, dy))
    (height, width, channels), (high, wide, filters) = x.shape[1:], dy.shape[1:]
    padded = np.pad(x, ((0, 0), (padding, padding), (padding, padding), (0, 0)))
    y, dpadded, dw = np.zeros_like(dy), np.zeros_like(padded), np.zeros_like(w)
    for group in range(groups):
        of_x = np.s_[group * channels // groups : (group + 1) * channels // groups]
        of_y = np.s_[group * filters // groups : (group + 1) * filters // groups]
        for i, j in np.ndindex(w.shape[2:]):
            seen = np.s_[:, i : i + stride * high : stride, j : j + stride * wide : stride, of_x]
            tap = w[of_y, :, i, j]
            y[..., of_y] += padded[seen] @ tap.T
            dpadded[seen] += dy[..., of_y] @ tap
            dw[of_y, :, i, j] = np.einsum("bhwk,bhwc->kc", dy[..., of_y], padded[seen])
    inside = np.s_[:, padding : padding + height, padding : padding + width]
    return y, dpadded[inside], dw


@pytest.mark.parametrize(
    "channels, filters, kernel, stride, padding, groups, side",
    [
        (5, 7, 3, 1, 1, 1, 9),
        (16, 32, 3, 2, 1, 1, 10),
        (3, 8, 7, 2, 3, 1, 17),
        (33, 20, 1, 1, 0, 1, 13),
        (300, 270, 1, 1, 0, 1, 30),
        (12, 24, 1, 2, 0, 1, 9),
        (18, 18, 3, 2, 1, 18, 11),
        (8, 12, 3, 1, 1, 4, 8),
        (16, 20, 3, 1, 1, 1, 16),
        (33, 17, 3, 1, 0, 1, 21),
        (20, 16, 3, 1, 2, 1, 14),
        (64, 64, 3, 1, 1, 1, 150),
    ],
    ids=["3x3", "stride", "7x7", "1x1", "blocks", "1x1, stride", "depthwise", "groups"]
    + ["winograd", "padding 0", "padding 2", "strips"],
)
def test_a_convolution(channels, filters, kernel, stride, padding, groups, side):
    layer = nn.Conv(channels, filters, kernel, stride, padding, groups=groups, bias=False)
    x, w = normal(3, side, side + 1, channels), normal(*layer.weight.shape)
    layer.weight.assign(jt.array(w))
    images = jt.array(x)
    y = kernels.convolution(jt, cpu.onednn())(images, layer)
    dy = normal(*y.shape)
    found = [y, *jt.grad((y * jt.array(dy)).sum(), [images, layer.weight])]
    bound = BOUNDS[kernels.way(images, layer)]
    for value, exact in zip(found, sums(x, w, dy, stride, padding, groups)):
        close(value, exact, bound)


@pytest.mark.parametrize("kernel, side", [(1, 30), (3, 17)], ids=["1x1", "winograd"])
@pytest.mark.parametrize(
    "shortcut, most", [(False, 3e38), (True, 3e38), (False, 6.0)], ids=["relu", "sum", "relu6"]
)
def test_what_follows_a_convolution_in_one_with_it(kernel, side, shortcut, most):
    layer = nn.Conv(20, 300, kernel, padding=kernel // 2, bias=False)
    x, w, dy = normal(3, side, side, 20), normal(*layer.weight.shape), normal(3, side, side, 300)
    scale, offset, other = normal(300), normal(300), normal(3, side, side, 300)
    layer.weight.assign(jt.array(w))
    images, image = jt.array(x), jt.array(other)
    assert kernels.finishes(images, layer)
    after = [jt.array(scale).stop_grad(), jt.array(offset).stop_grad(), image]
    if not shortcut:
        del after[2]
    y = kernels.convolution(jt, cpu.onednn())(images, layer, *after, most=most)
    exact = scale * sums(x, w, dy, 1, kernel // 2, 1)[0] + offset + (other if shortcut else 0)
    bound = BOUNDS[kernels.way(images, layer)]
    close(y, np.clip(exact, 0, most), bound * np.abs(exact).max() / min(most, np.abs(exact).max()))
    passed = dy * (y.numpy() > 0) * (y.numpy() < most)  # where rounding decides, as it has
    _, dx, dw = sums(x, w, passed * scale, 1, kernel // 2, 1)
    found = jt.grad((y * jt.array(dy)).sum(), [images, layer.weight, *after[2:]])
    for value, right in zip(found, (dx, dw, passed)):
        close(value, right, bound)


def test_images_of_other_channels_are_refused():
    for kernel in (1, 3):
        with pytest.raises(AssertionError, match="5"):
            kernels.convolution(jt, cpu.onednn())(jt.rand(2, 9, 9, 5), nn.Conv(4, 6, kernel))


def test_a_norm_and_the_relu6_behind_it_at_once():
    x, w, b, dy = normal(2, 30, 29, 5) * 4, normal(5) + 1, normal(5) + 2, normal(2, 30, 29, 5)
    given = [jt.array(array) for array in (x, w, b)]
    y = kernels.cutting(jt, 6.0)(*given)
    exact = np.clip(w * x.astype(np.float64) + b, 0, 6)
    close(y, exact)
    up = dy * (exact > 0) * (exact < 6)
    found = jt.grad((y * jt.array(dy)).sum(), given)
    for value, right in zip(found, (up * w, (up * x).sum((0, 1, 2)), up.sum((0, 1, 2)))):
        close(value, right)


def test_two_images_in_one():
    a, b, dy = normal(2, 5, 4, 3), normal(2, 5, 4, 6), normal(2, 5, 4, 9)
    given = [jt.array(a), jt.array(b)]
    both = kernels.joining(jt)(*given)
    assert (both.numpy() == np.concatenate([a, b], 3)).all()
    found = jt.grad((both * jt.array(dy)).sum(), given)
    assert (found[0].numpy() == dy[..., :3]).all() and (found[1].numpy() == dy[..., 3:]).all()


def dense():
    return models.densenet.DenseNet(4, (2, 2), 8, num_classes=5)


def inverted():
    blocks = [[1, 8, 1, 1], [2, 8, 2, 2]]
    return models.mobilenet.MobileNetV2(5, inverted_residual_setting=blocks)


def residual():
    return models.resnet.ResNet(
        models.resnet.Bottleneck, [2, 1, 1, 1], num_classes=5, width_per_group=16
    )


NETWORKS = pytest.mark.parametrize("make", [residual, dense, inverted])


def refitted(make):
    """A network of the zoo, with norms that are something; and what it is given."""
    net = zoo.refitted(make())
    assert type(net) in channels_last.NETWORKS.values()
    for layer in net.modules():
        if isinstance(layer, nn.BatchNorm):
            for number, value in enumerate((layer.weight, layer.bias, layer.running_mean)):
                value.assign(jt.array(0.3 * normal(*value.shape) + (number == 0)))
    return net


def freeze_norms(net):
    for layer in net.modules():
        if isinstance(layer, nn.BatchNorm):
            layer.weight.stop_grad()
            layer.bias.stop_grad()


def results(net, x, train):
    """[logits, gradients of what learns and of the images, the norms' statistics]."""
    statistics = {name: value for name, value in net.state_dict().items() if "running" in name}
    before = {name: value.copy() for name, value in statistics.items()}
    for layer in net.modules():
        layer.is_train = train and not isinstance(layer, nn.Dropout)
    images = jt.array(x)
    logits = net(images)
    learnt = [value for value in net.state_dict().values() if not value.is_stop_grad()]
    gradients = jt.grad((logits * jt.array(normal(*logits.shape))).sum(), [*learnt, images])
    found = [logits, *gradients, *statistics.values()]
    found = [value.numpy().copy() for value in found]
    for name, value in statistics.items():
        value.assign(before[name])
    return found


@NETWORKS
@pytest.mark.parametrize(
    "side, train, frozen",
    [(32, True, False), (45, True, False), (32, False, False), (45, False, True)],
)
def test_a_network_computes_what_it_does_on_plain_images(make, side, train, frozen):
    """`frozen`: its norms, as in every task but the first."""
    if make is residual:  # its last norms see a sixteenth of the pixels that the others' see
        side *= 2
    net, x = refitted(make), normal(3, 3, side, side)
    if frozen:
        freeze_norms(net)
    found = results(net, x, train)
    with channels_last.plain_images(net):
        assert not any(getattr(layer, "channels_last", False) for layer in net.modules())
        right = results(net, x, train)
    assert type(net) in channels_last.NETWORKS.values()
    if make is residual:  # deep enough that rounding switches a ReLU, and a gradient's few numbers
        assert [value.shape for value in found] == [exact.shape for exact in right]
        size = np.linalg.norm
        largest = max(map(size, right))
        for value, exact in zip(found, right):
            assert size(value - exact) < 5e-2 * max(size(exact), 1e-2 * largest)
        assert np.abs(found[0] - right[0]).max() < 2e-4 * np.abs(right[0]).max()
        return
    largest = [np.abs(value).max() for value in right]
    for value, exact, most in zip(found, right, largest):
        assert value.shape == exact.shape
        # a gradient that is 0 but for rounding, as of a weight in front of a norm's mean
        assert np.abs(value - exact).max() < 2e-4 * max(most, 1e-2 * max(largest))


@NETWORKS
def test_without_gradients_the_logits_are_the_same_to_the_bit(make):
    net, x = refitted(make), jt.array(normal(3, 3, 45, 45))
    net.eval()
    if make is residual:  # norms with gradients are not in one with the sum behind them
        freeze_norms(net)
    with jt.no_grad():
        logits = net(x).numpy()
    assert (net(x).numpy() == logits).all()


@NETWORKS
def test_a_layer_is_seen_with_a_plain_image(make):
    net, x = refitted(make), jt.array(normal(2, 3, 32, 32))
    net.eval()
    layers = {
        name: layer
        for name, layer in net.named_modules()
        if isinstance(layer, (nn.Conv, nn.BatchNorm, nn.Linear))
    }

    def seen():
        with jt.no_grad(), watched(layers) as outputs:
            net(x)
        return {name: output.numpy() for name, output in outputs.items()}

    found = seen()
    with channels_last.plain_images(net):
        right = seen()
    assert list(found) == list(right) and len(right) == len(layers)
    for name, exact in right.items():
        assert found[name].shape == exact.shape
        np.testing.assert_allclose(found[name], exact, atol=1e-5 * np.abs(exact).max())


@pytest.mark.parametrize(
    "train, frozen, grad, seen, all_in_one",
    [
        (False, False, False, False, True),
        (False, True, True, False, True),
        (False, False, True, False, False),  # its norms have gradients
        (True, False, True, False, False),
        (False, True, True, True, False),  # each layer's output is computed for who looks at it
    ],
)
def test_norms_and_relus_in_one_with_the_convolution(
    monkeypatch, train, frozen, grad, seen, all_in_one
):
    net, more = refitted(residual), []
    for layer in net.modules():
        layer.is_train = train
    if frozen:
        freeze_norms(net)
    convolve = channels_last.convolve

    def counted(x, layer, *after):
        if after:
            more.append(len(after))
        return convolve(x, layer, *after)

    monkeypatch.setattr(channels_last, "convolve", counted)
    norms = {name: layer for name, layer in net.named_modules() if isinstance(layer, nn.BatchNorm)}
    with jt.flag_scope(no_grad=not grad), watched(norms if seen else {}):
        net(jt.array(normal(2, 3, 64, 64))).sync()
    # of five blocks the first convolution, which is 1x1, the last, with the shortcut, and of the
    # first layer's two the second one, which is Winograd's
    assert more == ([2, 2, 3] * 2 + [2, 3] * 3 if all_in_one else [])


def test_a_norm_that_sees_one_value_is_found_where_channels_are_last():
    net = refitted(dense)
    net.train()
    first = "features.denseblock2.denselayer1.norm1"  # of those that see one pixel of 8 x 8
    assert starved_norm(net, jt.array(normal(1, 3, 16, 16))) is None
    assert starved_norm(net, jt.array(normal(1, 3, 8, 8))) == first


@pytest.mark.parametrize(
    "kernel, stride, padding, side", [(2, 2, 0, 6), (2, 2, 0, 7), (3, 2, 1, 8)], ids=str
)
def test_the_mean_of_windows(kernel, stride, padding, side):
    x = jt.array(normal(2, side, side + 1, 5))
    pool = Pool(kernel, stride, padding, op="mean")
    right = pool(channels_last.plain(x)).numpy().transpose(0, 2, 3, 1)
    pool.__class__ = channels_last.MeanPool
    close(pool(x), right, 1e-6)


def test_images_stay_plain_in_other_networks_and_convolutions(monkeypatch):
    wanted = {"resnet18": True, "squeezenet1_1": False, "densenet121": True, "mobilenet_v2": True}
    for name, last in wanted.items():
        layers = zoo.make(name).modules()
        assert any(getattr(layer, "channels_last", False) for layer in layers) == last, name
    groups = dict(groups=2, width_per_group=8)
    grouped = models.resnet.ResNet(models.resnet.Bottleneck, [1, 1, 1, 1], **groups)
    assert not channels_last.wanted(grouped)
    monkeypatch.setattr(toolchain, "convolution", "direct")
    assert not channels_last.wanted(dense())
    monkeypatch.setattr(toolchain, "convolution", "winograd")
    assert channels_last.wanted(dense())
    monkeypatch.setattr(kernels, "worth_it", lambda onednn: False)
    assert not channels_last.wanted(dense())
