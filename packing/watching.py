"""What layers give, seen from outside while a network computes."""
import contextlib
from collections.abc import Iterator

import toolchain

jt = toolchain.start()
from jittor import nn


@contextlib.contextmanager
def watched(layers: dict[str, nn.Module]) -> Iterator[dict[str, jt.Var]]:
    """Within this context: what each layer has given last, by its name in `layers`; an image as
    [N, C, H, W], whatever the layer's own layout. One that gives several Vars, as attention and
    recurrent layers do, is passed over."""
    seen: dict[str, jt.Var] = {}

    def watch(name: str, layer: nn.Module) -> None:
        plain = layer.execute

        def execute(*inputs, **options):
            output = plain(*inputs, **options)
            if isinstance(output, jt.Var):
                # Computed in any case, it need not be so once more in one with what follows.
                for note in ("convolved", "normed"):
                    if hasattr(output, note):
                        delattr(output, note)
                last = getattr(layer, "channels_last", False)
                # A Var of its own: Jittor's `output += shortcut` changes what it is called on.
                seen[name] = output.transpose(0, 3, 1, 2) if last else output.clone()
            return output

        layer.execute = execute

    try:
        for name, layer in layers.items():
            watch(name, layer)
        yield seen
    finally:
        for layer in layers.values():
            vars(layer).pop("execute", None)


def channels_of(layer: nn.Module, output: jt.Var) -> int:
    """The axis of a layer's output that its channels are on."""
    last = isinstance(layer, (nn.Linear, nn.Bilinear, nn.LayerNorm))
    return output.ndim - 1 if last else 1
