"""SGD that needs less memory where a layer is very large, as VGG-16's fc6, which has three quarters
of the network's weights."""
import toolchain

jt = toolchain.start()
from jittor import nn

LARGE = 1 << 24  # entries of a parameter: 64 MB
LISTS = ("params", "grads", "values")  # of a group, in the same order


class SGD(nn.SGD):
    """nn.SGD, to the bit. Parameters of at least LARGE entries are moved one by one, the last layer
    first, before the layers in front of it compute their gradients: neither their gradients nor
    their new values beside the old ones are there when those need the most memory.

    VGG-16's training holds 4.4 GB at most at batch 32, 3.1 at batch 8 (benchmarks/memory.py).
    """

    def step(self, loss: jt.Var) -> None:
        large = [(group, i) for group in self.param_groups
                 for i, parameter in enumerate(group["params"])
                 if parameter.numel() >= LARGE and not parameter.is_stop_grad()]
        if not large:
            super().step(loss)
            return
        self.backward(loss)
        for group, i in reversed(large):
            alone = group | {name: [group[name][i]] for name in LISTS}
            group["grads"][i] = None
            self._compute(alone["grads"])
            self._move([alone])
            self._compute(alone["params"] + alone["values"])
        rest = []
        for group in self.param_groups:
            there = [i for i, gradient in enumerate(group["grads"]) if gradient is not None]
            rest.append(group | {name: [group[name][i] for i in there] for name in LISTS})
            del group["grads"]  # Jittor would keep them until the next step
        self._move(rest)

    def _compute(self, values: list[jt.Var]) -> None:
        """These and no more. By default Jittor computes all that was asked for before them, too:
        the gradients of every other layer."""
        jt.sync(values, device_sync=False, weak_sync=False)

    def _move(self, groups: list[dict]) -> None:
        """Jittor's step on the parameters of `groups`, whose gradients are known."""
        every, self.param_groups = self.param_groups, groups
        try:
            super().step()
        finally:
            self.param_groups = every
