"""What a prune has left is fitted to what the whole network gives: NumPy finds the same."""

import copy

import numpy as np
import pytest
from conftest import jt

from packing import least_squares
from packing.least_squares import RIDGE, refit, solved

nn = jt.nn


def nearest(inputs, wanted, start, constant):
    """(weights, constants) of one layer by numpy.linalg.lstsq, a channel at a time: inputs [places,
    width], wanted [places, channels], start [width, channels]. What it costs to move a weight are
    rows of its own."""
    if constant:
        shift, aim = inputs.mean(0), wanted.mean(0)
    else:
        shift, aim = np.zeros(inputs.shape[1]), np.zeros(wanted.shape[1])
    inputs, wanted = inputs - shift, wanted - aim
    dear = np.sqrt(RIDGE * np.square(inputs).sum(0).mean())
    found = np.zeros(start.shape)
    for channel in range(start.shape[1]):
        kept = np.flatnonzero(start[:, channel])
        rows = np.concatenate([inputs[:, kept], dear * np.eye(len(kept))])
        aims = np.concatenate([wanted[:, channel], dear * start[kept, channel]])
        found[kept, channel] = np.linalg.lstsq(rows, aims, rcond=None)[0]
    return found, aim - shift @ found


def test_the_least_squares_are_numpys():
    """Of several groups and channels, some with little kept, one with nothing."""
    rng = np.random.default_rng(0)
    inputs = rng.normal(size=(2, 300, 7)) @ rng.normal(size=(2, 7, 7))
    wanted = rng.normal(size=(2, 300, 5))
    start = rng.normal(size=(2, 7, 5)).astype(np.float32) * (rng.random((2, 7, 5)) < 0.6)
    start[0, :, 2] = 0
    found = solved(inputs.transpose(0, 2, 1) @ inputs, inputs.transpose(0, 2, 1) @ wanted, start)
    assert found.dtype == np.float32 and (found[start == 0] == 0).all()
    for group in range(2):
        aim, _ = nearest(inputs[group], wanted[group], start[group], constant=False)
        np.testing.assert_allclose(found[group], aim, rtol=1e-3, atol=1e-4)


class Uneven(nn.Conv):
    """With a padding of its own."""

    def execute(self, x):
        return super().execute(nn.ZeroPad2d((0, 1, 0, 1))(x))


class Last(nn.Conv):
    """Of images whose channels come last."""

    channels_last = True

    def execute(self, x):
        y = nn.conv2d(x.transpose(0, 3, 1, 2), self.weight, self.bias, 1, self.padding)
        return y.transpose(0, 2, 3, 1)


class Net(nn.Module):
    """Layers of every kind in a row; `convolve` [B, 3, 9, 9] -> what each gets, at its end."""

    def __init__(self):
        self.first = nn.Conv(3, 8, 3, stride=2, padding=1, bias=False)
        self.norm = nn.BatchNorm(8)
        self.each = Uneven(8, 8, 2, groups=8, bias=False)
        self.pairs = nn.Conv(8, 6, (3, 2), padding=(2, 1), dilation=(2, 3), groups=2)
        self.last = Last(6, 4, 3, padding=1)
        self.line = nn.Linear(4, 5)

    def execute(self, x):
        self._normed = self.norm(self.first(x))
        self._got = [x, nn.relu(self._normed)]
        self._got.append(self.each(self._got[-1]))
        pairs = self.pairs(self._got[-1])
        pairs += 0.5  # which changes, in Jittor, what the layer has given
        self._got.append(nn.relu(pairs))
        plain = self.last(self._got[-1].transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)
        self._got.append(nn.relu(plain).mean((2, 3)))
        return self.line(self._got[-1])


def columns(layer, x):
    """[groups, places, inputs of a channel] of what a convolution is computed from."""
    if isinstance(layer, nn.Linear):
        return x[None]
    edges = ((0, 1), (0, 1)) if isinstance(layer, Uneven) else [(p, p) for p in layer.padding]
    x = np.pad(x, ((0, 0), (0, 0), *edges))
    (high, wide), (down, right) = layer.kernel_size, layer.dilation
    rows = (x.shape[2] - (high - 1) * down - 1) // layer.stride[0] + 1
    across = (x.shape[3] - (wide - 1) * right - 1) // layer.stride[1] + 1
    found = np.empty((len(x), rows, across, x.shape[1], high, wide))
    for row in range(rows):
        for column in range(across):
            top, left = row * layer.stride[0], column * layer.stride[1]
            found[:, row, column] = x[:, :, top:top + high * down:down,
                                      left:left + wide * right:right]  # fmt: skip
    return found.reshape(len(x) * rows * across, layer.groups, -1).transpose(1, 0, 2)


def by_group(layer, weight):
    """[groups, inputs of a channel, channels]"""
    groups = getattr(layer, "groups", 1)
    return weight.reshape(groups, len(weight) // groups, -1).transpose(0, 2, 1)


def networks():
    """(the whole, the same with half of its weights 0)"""
    jt.set_global_seed(0)
    whole = Net()
    whole.norm.running_mean.assign(jt.randn(8) * 0.1)
    whole.norm.running_var.assign(jt.rand(8) + 0.5)
    whole.norm.weight.assign(jt.rand(8) + 0.5)
    whole.eval()
    net = copy.deepcopy(whole)
    for layer in layers_of(net).values():
        weight = layer.weight.numpy()
        layer.weight.assign(jt.array(weight * (np.abs(weight) > np.median(np.abs(weight)))))
    return whole, net


def layers_of(net):
    return {name: layer for name, layer in net.named_modules() if hasattr(layer, "kernel_size")
            or isinstance(layer, nn.Linear)}  # fmt: skip


@pytest.mark.parametrize("sizes", [(60,), (20, 40)], ids=["at once", "in two"])
def test_each_layer_is_fitted_to_the_whole_ones_output_for_what_reaches_it(sizes, monkeypatch):
    """In the order of the network, all layers in front of it being fitted. Of several batches the
    last layers see what the first ones were after each."""
    monkeypatch.setattr(least_squares, "STEPS", 200)
    whole, net = networks()
    start = {name: layer.weight.numpy() for name, layer in layers_of(net).items()}
    stopped = [each.is_stop_grad() for each in net.parameters()]
    images = np.random.default_rng(0).normal(size=(60, 3, 9, 9)).astype(np.float32)
    batches = map(jt.array, np.split(images, np.cumsum(sizes)[:-1]))
    assert refit(net, whole, batches, "fitted") == 5
    assert not any("execute" in vars(layer) for layer in net.modules())
    whole(jt.array(images)), net(jt.array(images))
    for number, (name, layer) in enumerate(layers_of(net).items()):
        theirs, weight = layers_of(whole)[name], layer.weight.numpy()
        assert ((weight == 0) == (start[name] == 0)).all()
        if len(sizes) > 1 and number:
            continue
        given, aims = (columns(layer, side._got[number].numpy()) for side in (net, whole))
        shift = 0 if theirs.bias is None else theirs.bias.numpy()
        wanted = aims @ by_group(theirs, theirs.weight.numpy())
        wanted += np.reshape(shift + np.zeros(len(weight)), (wanted.shape[0], 1, -1))
        constants = []
        for group, before in enumerate(by_group(layer, start[name])):
            found, constant = nearest(given[group], wanted[group], before, name != "each")
            ours = by_group(layer, weight)[group]
            np.testing.assert_allclose(ours, found, rtol=2e-3, atol=2e-4, err_msg=name)
            constants.extend(constant)
        if layer.bias is not None:
            np.testing.assert_allclose(layer.bias.numpy(), constants, rtol=2e-3, atol=2e-4)
        elif name == "first":  # its norm has it: the means are the whole network's
            means = [side._normed.numpy().mean((0, 2, 3)) for side in (net, whole)]
            np.testing.assert_allclose(*means, atol=1e-4)
    assert [each.is_stop_grad() for each in net.parameters()] == stopped
    for name in ("running_mean", "running_var", "weight"):
        assert (getattr(net.norm, name).numpy() == getattr(whole.norm, name).numpy()).all()


def test_a_layer_with_too_few_outputs_stays_as_it_is():
    """As a linear layer with more inputs than there are images."""
    whole, net = networks()
    before = net.line.weight.numpy()
    images = jt.array(np.random.default_rng(0).normal(size=(4, 3, 9, 9)).astype(np.float32))
    assert refit(net, whole, [images], "fitted") == 4
    assert (net.line.weight.numpy() == before).all()


def test_of_many_places_some_are_looked_at(monkeypatch):
    """Others in each batch; what they are computed from is made a part at a time."""
    monkeypatch.setattr(least_squares, "LEAST", 30)
    monkeypatch.setattr(least_squares, "PLACES", 2)
    monkeypatch.setattr(least_squares, "AT_ONCE", 300)
    whole, net = networks()
    images = jt.array(np.random.default_rng(0).normal(size=(60, 3, 9, 9)).astype(np.float32))
    counts = []
    fit = least_squares.Fit.fit
    monkeypatch.setattr(least_squares.Fit, "fit",
                        lambda self: counts.append(self.count) or fit(self))  # fmt: skip
    refit(net, whole, [images, images], "fitted")
    assert counts == [54, 30, 48, 108, 30, 108, 60, 96, 216, 60]
