"""float16 where it is fast, float32 where it is needed; names as in torch.amp.

    scaler = tc.amp.GradScaler()
    for images, labels in loader:
        optimizer.zero_grad()
        with tc.amp.autocast():
            loss = F.cross_entropy(model(images), labels)
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()

Parameters, their gradients and all that an optimizer remembers stay float32.

Reference: Micikevicius et al., Mixed precision training, ICLR 2018.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from tinyconv.autograd import no_grad
from tinyconv.context import Setting
from tinyconv.dtypes import as_dtype, float16
from tinyconv.errors import DTypeError
from tinyconv.ops.elementwise import isfinite
from tinyconv.ops.reduce import all as all_
from tinyconv.ops.shape import stack
from tinyconv.optim.optimizer import Optimizer
from tinyconv.tensor import Tensor


class autocast(Setting):
    """Inside, convolutions and linear layers of float32 tensors multiply in float16.

    Their results are float32 again, so that sums, norms and losses lose nothing.  The gradient
    takes the same way back.

    device_type: PyTorch's, without effect: what is multiplied says where
    """

    attribute = "autocast"

    def __init__(
        self, device_type: str = "cuda", dtype: Any = float16, enabled: bool = True
    ) -> None:
        if as_dtype(dtype) != float16:
            raise DTypeError("autocast", f"dtype is {as_dtype(dtype)}; tinyconv has tc.float16")
        super().__init__(as_dtype(dtype) if enabled else None)


class GradScaler:
    """Multiplies the loss so that small gradients do not vanish in float16, and divides later.

    A step whose gradients hold inf or nan is left out, and the scale shrinks by
    ``backoff_factor``; after ``growth_interval`` good steps in a row it grows by
    ``growth_factor``.  `step` looks at the gradients, so a GPU is waited for once a step.

    device: PyTorch's, without effect
    """

    def __init__(
        self,
        device: str = "cuda",
        init_scale: float = 2.0**16,
        growth_factor: float = 2.0,
        backoff_factor: float = 0.5,
        growth_interval: int = 2000,
        enabled: bool = True,
    ) -> None:
        if growth_factor <= 1 or not 0 < backoff_factor < 1:
            raise ValueError(
                f"GradScaler: growth_factor is {growth_factor} and backoff_factor "
                f"{backoff_factor}; the scale grows by more than 1 and shrinks by less than 1"
            )
        self._scale = float(init_scale)
        self._growth_factor, self._backoff_factor = growth_factor, backoff_factor
        self._growth_interval = growth_interval
        self._good_steps = 0
        self._enabled = enabled
        self._finite: dict[int, bool] = {}  # by id of the optimizers unscaled since `update`

    def is_enabled(self) -> bool:
        """Does it do anything?"""
        return self._enabled

    def get_scale(self) -> float:
        """By what the loss is multiplied."""
        return self._scale if self._enabled else 1.0

    def scale(self, outputs: Any) -> Any:
        """A loss, or several in a list or tuple, multiplied by the scale."""
        if not self._enabled:
            return outputs
        if isinstance(outputs, (list, tuple)):
            return type(outputs)(self.scale(output) for output in outputs)
        if outputs.dtype == float16:
            raise DTypeError(
                "GradScaler.scale",
                f"the loss is float16, which ends at 65504; times {self._scale:g} it overflows. "
                "Compute it in float32: F.cross_entropy(logits.float(), target)",
            )
        return outputs * self._scale

    @no_grad()
    def unscale_(self, optimizer: Optimizer) -> None:
        """Divide the optimizer's gradients now, to clip them before `step`, say; once a step."""
        if not self._enabled:
            return
        if id(optimizer) in self._finite:
            raise RuntimeError(
                "unscale_() has been called on this optimizer since the last update(); the "
                "gradients would be divided twice"
            )
        grads = [p.grad for p in _parameters(optimizer) if p.grad is not None]
        for grad in grads:
            if grad.dtype == float16:
                raise DTypeError(
                    "GradScaler.unscale_",
                    "a gradient is float16 and would vanish when divided; keep the parameters "
                    "float32 and compute inside tc.amp.autocast()",
                )
            grad.mul_(1.0 / self._scale)
        found = [all_(isfinite(grad)) for grad in grads]
        self._finite[id(optimizer)] = bool(all_(stack(found))) if found else True

    def step(self, optimizer: Optimizer, *args: Any, **options: Any) -> Any:
        """``optimizer.step()``, with the gradients divided; None and no step where one is inf."""
        if not self._enabled:
            return optimizer.step(*args, **options)
        if id(optimizer) not in self._finite:
            self.unscale_(optimizer)
        return optimizer.step(*args, **options) if self._finite[id(optimizer)] else None

    def update(self, new_scale: float | None = None) -> None:
        """Once after all steps: grow or shrink, or take ``new_scale``."""
        if not self._enabled:
            return
        if not self._finite:
            raise RuntimeError("update() comes after step(); no gradients have been looked at")
        if new_scale is not None:
            self._scale = float(new_scale)
        elif not all(self._finite.values()):
            self._scale, self._good_steps = self._scale * self._backoff_factor, 0
        else:
            self._good_steps += 1
            if self._good_steps == self._growth_interval:
                self._scale, self._good_steps = self._scale * self._growth_factor, 0
        self._finite = {}

    def state_dict(self) -> dict[str, Any]:
        """Under PyTorch's names."""
        return {
            "scale": self._scale, "growth_factor": self._growth_factor,
            "backoff_factor": self._backoff_factor, "growth_interval": self._growth_interval,
            "_growth_tracker": self._good_steps,
        } if self._enabled else {}  # fmt: skip

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue from `state_dict`, also PyTorch's."""
        if not self._enabled:
            return
        self._scale = float(state_dict["scale"])
        self._growth_factor = state_dict["growth_factor"]
        self._backoff_factor = state_dict["backoff_factor"]
        self._growth_interval = state_dict["growth_interval"]
        self._good_steps = state_dict["_growth_tracker"]


def _parameters(optimizer: Optimizer) -> Iterable[Tensor]:
    return (p for group in optimizer.param_groups for p in group["params"])
