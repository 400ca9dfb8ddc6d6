"""Stochastic gradient descent."""

from collections.abc import Iterable
from typing import Any

from tinyconv.backend import backend_of
from tinyconv.optim.optimizer import Group, Optimizer, Ready, memory


class SGD(Optimizer):
    """Gradient descent, with momentum if asked for.

        g   <- g + weight_decay p
        buf <- momentum buf + (1 - dampening) g       (the first time: buf <- g)
        p   <- p - lr buf                             (nesterov: p - lr (g + momentum buf))

    Without momentum, p <- p - lr g.  maximize: climb instead.

    Reference: Sutskever et al., On the importance of initialization and momentum in deep
    learning, ICML 2013; in PyTorch's form, where lr multiplies the whole velocity.
    """

    def __init__(
        self, params: Iterable[Any], lr: float = 1e-3, momentum: float = 0, dampening: float = 0,
        weight_decay: float = 0, nesterov: bool = False, *, maximize: bool = False,
    ) -> None:
        super().__init__(params, {
            "lr": lr, "momentum": momentum, "dampening": dampening, "weight_decay": weight_decay,
            "nesterov": nesterov, "maximize": maximize,
        })

    def _check_options(self, group: Group) -> None:
        super()._check_options(group)
        if group["nesterov"] and (group["momentum"] == 0 or group["dampening"] != 0):
            raise ValueError(
                "SGD: nesterov looks ahead along the momentum: it needs momentum > 0 and dampening "
                f"= 0, got momentum={group['momentum']} and dampening={group['dampening']}"
            )

    def update_all(
        self, ready: list[Ready], *, lr: float, momentum: float, dampening: float,
        weight_decay: float, nesterov: bool, maximize: bool,
    ) -> None:
        # The first velocity is the gradient, undamped.
        shares = [1 - dampening if "momentum_buffer" in state else 1.0 for _, _, state in ready]
        backend_of(ready[0][0]).sgd(
            [p for p, _, _ in ready],
            [-g if maximize else g for _, g, _ in ready],
            [memory(state, "momentum_buffer", p) for p, _, state in ready] if momentum else None,
            lr=lr, momentum=momentum, shares=shares, weight_decay=weight_decay, nesterov=nesterov,
        )
