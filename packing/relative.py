"""SGD whose steps are relative to what they move: at rate 0.01 a parameter moves by a hundredth of
its own norm, however steep the loss (You et al., "Large Batch Training of Convolutional Networks",
2017). Where a loss says what whole layers should give, gradients of layers differ by orders of
magnitude, and no one rate of plain SGD suits them all.
"""
import toolchain

jt = toolchain.start()
from jittor import nn

LEAST = 0.01  # a parameter's mean size counts at least as much: a bias may begin at 0
TINY = 1e-12


class RelativeSGD(nn.SGD):
    """Takes what nn.SGD takes, and has its momentum."""

    def pre_step(self, loss: jt.Var, retain_graph: bool = False) -> None:
        super().pre_step(loss, retain_graph)
        for group in self.param_groups:
            for parameter, gradient in zip(group["params"], group["grads"]):
                if not parameter.is_stop_grad():
                    gradient.update(gradient * scale(parameter, gradient))


def scale(parameter: jt.Var, gradient: jt.Var) -> jt.Var:
    """float32 [1]: what makes the gradient as long as the parameter."""
    size = (parameter * parameter).sum().sqrt().maximum(LEAST * parameter.numel() ** 0.5)
    return size / (gradient * gradient).sum().sqrt().maximum(TINY)
