"""What a pruned network has kept is fitted anew, layer by layer, to what the whole one gives.

The weights that a prune leaves are those of a sum whose other terms are gone. By least squares they
become those that come nearest to the whole sum: of each convolution and linear layer, for what
reaches it in the pruned network as it is by then, with all layers in front of it fitted. So images
need to go through once, and no gradient is asked for. What is 0 stays 0.
"""
import contextlib
from collections.abc import Callable, Iterable, Iterator

import numpy as np

import toolchain
from system.progress import Progress

jt = toolchain.start()
from jittor import nn

PLACES = 2  # of a layer's output that are looked at for each input that a channel has, and
LEAST = 2048  # at least so many, in a batch
AT_ONCE = 1 << 24  # numbers in memory that those are computed from
RIDGE = 0.01  # of the inputs' mean variance: what it costs to change a weight
STEPS = 30  # of conjugate gradients
TINY = 1e-12

# (what a layer does, the layer, its input) -> its output
Around = Callable[[Callable, nn.Module, jt.Var], jt.Var]


def refit(net: nn.Module, whole: nn.Module, batches: Iterable[jt.Var], title: str) -> int:
    """Fit the layers of `net`, anew with each batch, to all batches so far. `whole`: the same
    network before its prune; both are in test mode. `batches` float32 [N, 3, H, W], large ones:
    there must be memory for what the layers give for one, a few times over. Returns how many layers
    were fitted: those that were seen to give more outputs than a channel has inputs.

    A constant that a layer without a bias would add goes into the batch norm behind it. Under
    mpirun every process has its own images, and all get the same weights.
    """
    names = {layer: name for name, layer in [*whole.named_modules(), *net.named_modules()]}
    norms = {name: layer for name, layer in net.named_modules() if isinstance(layer, nn.BatchNorm)}
    given: dict[str, jt.Var] = {}  # what the layers of the whole network give,
    aims: dict[str, jt.Var] = {}  # and as they gave it: Jittor's `output += shortcut` changes it
    behind: dict[str, nn.BatchNorm] = {}  # the norm that takes what a layer gives, by its name
    fits: dict[str, Fit] = {}

    def watch(plain: Callable, layer: nn.Module, x: jt.Var) -> jt.Var:
        output = plain(layer, x)
        if isinstance(layer, nn.BatchNorm):
            behind.update({name: norms[names[layer]] for name, var in given.items() if var is x})
        elif names[layer] not in aims:
            given[names[layer]] = output
            aims[names[layer]] = output.clone()
        return output

    def fit(plain: Callable, layer: nn.Module, x: jt.Var) -> jt.Var:
        name = names[layer]
        if name in aims:  # else it is a norm, or has been called before
            if name not in fits:
                fits[name] = Fit(layer, behind.get(name))
            fits[name].look(x, aims.pop(name))
            fits[name].fit()
            bar.update()
        return plain(layer, x)

    with Progress(desc=title, unit="layer") as bar, jt.no_grad():
        for images in batches:
            with around_layers(whole, watch):
                whole(images)
            given.clear()
            with around_layers(net, fit):
                net(images)
    return sum(layer.enough() for layer in fits.values())


@contextlib.contextmanager
def around_layers(net: nn.Module, around: Around) -> Iterator[None]:
    """Within this context `around` is what every convolution, linear layer and batch norm of `net`
    does; of a layer derived from these, what it calls of theirs."""
    kinds = {nn.Conv, nn.Linear, nn.BatchNorm}
    kinds |= {type(layer) for layer in net.modules()
              if getattr(layer, "channels_last", False) and isinstance(layer, tuple(kinds))}
    plain = {kind: kind.execute for kind in kinds}
    for kind in kinds:
        kind.execute = lambda layer, x, kind=kind: around(plain[kind], layer, x)
    try:
        yield
    finally:
        for kind in kinds:
            kind.execute = plain[kind]


class Fit:
    """The least squares of one layer.

    start     its weights as they were pruned, float32 [groups, inputs of a channel, channels]
    count     how many places were looked at
    totals    the sums over these of inputs and aims, float64 [groups, inputs + channels]
    products  the sums of the inputs' products with both, float32 [groups, inputs, both]
    """

    def __init__(self, layer: nn.Module, norm: nn.BatchNorm | None) -> None:
        weight = layer.weight.numpy()
        self.layer = layer
        self.norm = norm if norm is not None and norm.affine else None
        self.shift = self.norm.bias.clone() if self.norm else None
        self.groups = getattr(layer, "groups", 1)
        self.width = weight[0].size
        self.start = weight.reshape(self.groups, -1, self.width).transpose(0, 2, 1)
        self.count, self.totals, self.products = 0, 0.0, 0.0

    def enough(self) -> bool:
        return self.count > self.width

    def look(self, x: jt.Var, aim: jt.Var) -> None:
        """At what the layer gets, and what it is to give."""
        count, totals, products = 0, 0.0, 0.0
        for rows in self.rows(x, aim):
            count += rows.shape[1]
            totals = totals + rows.sum(1, dtype=np.float64)
            products = products + rows[:, :, :self.width].transpose(0, 2, 1) @ rows
        if jt.in_mpi:
            count, totals, products = map(over_processes, (np.array([count]), totals, products))
        self.count += int(np.sum(count))
        self.totals = self.totals + totals
        self.products = self.products + products

    def rows(self, x: jt.Var, aim: jt.Var) -> Iterator[np.ndarray]:
        """The inputs of a channel, and the aims, at some places of the layer's output: float32
        [groups, places, inputs + channels], part by part."""
        # These alone: by default Jittor computes all that was asked for before them, too.
        jt.sync([x, aim], device_sync=False, weak_sync=False)
        layer = self.layer
        if isinstance(layer, nn.Linear):
            x, aim = (var.numpy().reshape(-1, var.shape[-1], 1, 1) for var in (x, aim))
            kernel = stride = dilation = (1, 1)
            padding = (0, 0)
        else:
            x, aim = x.numpy(), aim.numpy()
            if getattr(layer, "channels_last", False):
                x, aim = (array.transpose(0, 3, 1, 2) for array in (x, aim))
            kernel, stride, padding = layer.kernel_size, layer.stride, layer.padding
            dilation = layer.dilation
        height, width = x.shape[2:]
        shape = aim.shape[0], *aim.shape[2:]
        places = np.random.default_rng(self.count).permutation(int(np.prod(shape)))
        places = np.sort(places[:max(LEAST, PLACES * self.width)])
        inputs = x.shape[1] * kernel[0] * kernel[1]
        for part in np.array_split(places, -(-len(places) * inputs // AT_ONCE)):
            image, down, right = np.unravel_index(part, shape)
            seen = np.empty((len(part), x.shape[1], *kernel), np.float32)
            for i, j in np.ndindex(*kernel):
                row = down * stride[0] - padding[0] + i * dilation[0]
                column = right * stride[1] - padding[1] + j * dilation[1]
                inside = (row >= 0) & (row < height) & (column >= 0) & (column < width)
                values = x[image, :, row.clip(0, height - 1), column.clip(0, width - 1)]
                seen[:, :, i, j] = values * inside[:, None]
            both = (seen, aim[image, :, down, right])
            both = [array.reshape(len(part), self.groups, -1) for array in both]
            yield np.concatenate(both, axis=2).transpose(1, 0, 2)

    def fit(self) -> None:
        """Give the layer, and the norm behind it, what comes nearest."""
        if not self.enough():
            return
        products, width = self.products, self.width
        if self.layer.bias is not None or self.norm:
            products = products - self.totals[:, :width, None] * self.totals[:, None] / self.count
        found = solved(products[:, :, :width], products[:, :, width:], self.start)
        weight = found.transpose(0, 2, 1).reshape(self.layer.weight.shape)
        put(self.layer.weight, jt.array(weight))
        left = self.totals[:, None, width:] - self.totals[:, None, :width] @ found
        constant = jt.array((left.ravel() / self.count).astype(np.float32))
        if self.layer.bias is not None:
            put(self.layer.bias, constant)
        elif self.norm:
            slope = self.norm.weight / jt.sqrt(self.norm.running_var + self.norm.eps)
            put(self.norm.bias, self.shift + slope * constant)


def put(parameter: jt.Var, value: jt.Var) -> None:
    """`value` comes from where no gradients are wanted, and would take the parameter's with it."""
    learns = not parameter.is_stop_grad()
    parameter.assign(value)
    if learns:
        parameter.start_grad()


def over_processes(sums: np.ndarray) -> np.ndarray:
    return jt.array(sums.astype(np.float32)).mpi_all_reduce("add").numpy()


def solved(gram: np.ndarray, cross: np.ndarray, start: np.ndarray) -> np.ndarray:
    """For all channels at once, by conjugate gradients: the weights w, 0 where those of `start` are
    0 and not far from them elsewhere, of which w' gram w - 2 w' cross is least. [groups, inputs,
    inputs], [groups, inputs, channels] and the same, float32."""
    kept = start != 0
    variances = np.einsum("gii->gi", gram)[:, :, None]
    ridge = RIDGE * variances.mean(1, keepdims=True) + TINY
    scale = 1 / np.sqrt(variances + ridge)
    cross = ((cross + ridge * start) * scale).astype(np.float32)
    gram = (gram + ridge * np.eye(gram.shape[1])) * scale * scale.transpose(0, 2, 1)
    gram, scale = gram.astype(np.float32), scale.astype(np.float32)
    found = start / scale
    rest = kept * (cross - gram @ found)
    way = rest
    power = np.square(rest).sum(1, keepdims=True)
    for _ in range(STEPS):
        along = kept * (gram @ way)
        step = power / (way * along).sum(1, keepdims=True).clip(TINY)
        found = found + step * way
        rest = rest - step * along
        before, power = power, np.square(rest).sum(1, keepdims=True)
        way = rest + power / before.clip(TINY) * way
    return found * scale
