"""Adam and AdamW."""

import math
from collections.abc import Iterable
from typing import Any

from tinyconv.backend import backend_of
from tinyconv.optim.optimizer import Optimizer, Ready, memory


class Adam(Optimizer):
    """Running mean of the gradient over the root of that of its square: steps of about lr.

        g <- g + weight_decay p
        m <- beta1 m + (1 - beta1) g
        v <- beta2 v + (1 - beta2) g^2
        p <- p - lr m^ / (sqrt(v^) + eps),   m^ = m / (1 - beta1^t),  v^ = v / (1 - beta2^t)

    m^ and v^ undo the bias of averages that start at zero.  amsgrad: the largest v so far
    takes v's place.  maximize: climb instead.

    Reference: Kingma and Ba, Adam: a method for stochastic optimization, ICLR 2015; Reddi et al.,
    On the convergence of Adam and beyond, ICLR 2018 (amsgrad).
    """

    decoupled = False  # does weight decay act on p itself (AdamW) or through the gradient?

    def __init__(
        self, params: Iterable[Any], lr: float = 1e-3, betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8, weight_decay: float = 0, amsgrad: bool = False, *,
        maximize: bool = False,
    ) -> None:
        super().__init__(params, {
            "lr": lr, "betas": tuple(betas), "eps": eps, "weight_decay": weight_decay,
            "amsgrad": amsgrad, "maximize": maximize,
        })

    def update_all(
        self, ready: list[Ready], *, lr: float, betas: tuple[float, float], eps: float,
        weight_decay: float, amsgrad: bool, maximize: bool,
    ) -> None:
        beta1, beta2 = betas
        for _, _, state in ready:
            state["step"] = state.get("step", 0) + 1
        steps = [state["step"] for _, _, state in ready]
        backend_of(ready[0][0]).adam(
            [p for p, _, _ in ready],
            [-g if maximize else g for _, g, _ in ready],
            [memory(state, "exp_avg", p) for p, _, state in ready],
            [memory(state, "exp_avg_sq", p) for p, _, state in ready],
            [memory(state, "max_exp_avg_sq", p) for p, _, state in ready] if amsgrad else None,
            step_sizes=[lr / (1 - beta1**t) for t in steps], beta1=beta1, beta2=beta2,
            roots=[math.sqrt(1 - beta2**t) for t in steps], eps=eps,
            weight_decay=0.0 if self.decoupled else weight_decay,
            shrink=1 - lr * weight_decay if self.decoupled else 1.0,
        )


class AdamW(Adam):
    """Adam whose weight decay shrinks p itself, p <- (1 - lr weight_decay) p, not the gradient.

    Reference: Loshchilov and Hutter, Decoupled weight decay regularization, ICLR 2019.
    """

    decoupled = True

    def __init__(
        self, params: Iterable[Any], lr: float = 1e-3, betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8, weight_decay: float = 1e-2, amsgrad: bool = False, *,
        maximize: bool = False,
    ) -> None:
        super().__init__(params, lr, betas, eps, weight_decay, amsgrad, maximize=maximize)
