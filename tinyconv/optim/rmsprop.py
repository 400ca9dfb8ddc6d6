"""RMSprop."""

from collections.abc import Iterable
from typing import Any

from tinyconv.backend import Array, array_module
from tinyconv.optim.optimizer import Optimizer, State, memory


class RMSprop(Optimizer):
    """The gradient over the root of a running mean of its square.

        g <- g + weight_decay p
        v <- alpha v + (1 - alpha) g^2
        p <- p - lr g / (sqrt(v) + eps)

    centered: v - m^2 in v's place, with m the running mean of g: a variance.
    momentum: buf <- momentum buf + g / (sqrt(v) + eps),  p <- p - lr buf.

    Reference: Hinton, Neural networks for machine learning, lecture 6e, 2012; Graves, Generating
    sequences with recurrent neural networks, 2013 (centered).
    """

    def __init__(
        self, params: Iterable[Any], lr: float = 1e-2, alpha: float = 0.99, eps: float = 1e-8,
        weight_decay: float = 0, momentum: float = 0, centered: bool = False, *,
        maximize: bool = False,
    ) -> None:
        super().__init__(params, {
            "lr": lr, "alpha": alpha, "eps": eps, "weight_decay": weight_decay,
            "momentum": momentum, "centered": centered, "maximize": maximize,
        })

    def update(
        self, p: Array, g: Array, state: State, *, lr: float, alpha: float, eps: float,
        weight_decay: float, momentum: float, centered: bool, maximize: bool,
    ) -> None:
        xp = array_module(p)
        state["step"] = state.get("step", 0) + 1  # PyTorch's state has it; the rule does not
        if maximize:
            g = -g
        if weight_decay:
            g = g + weight_decay * p
        v = memory(state, "square_avg", p)
        v *= alpha
        v += (1 - alpha) * (g * g)
        if centered:
            m = memory(state, "grad_avg", p)
            m *= alpha
            m += (1 - alpha) * g
            v = v - m * m
        root = xp.sqrt(v)
        root += eps
        if momentum:
            buf = memory(state, "momentum_buffer", p)
            buf *= momentum
            buf += g / root
            p -= lr * buf
        else:
            p -= lr * (g / root)
