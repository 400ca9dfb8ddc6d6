"""Learning-rate schedules: they write ``group["lr"]`` once per epoch or per step.

As in PyTorch a schedule computes the next rate from the present one wherever it can, so two
schedules stepped in turn multiply, and what you write into ``group["lr"]`` is respected.
"""

import math
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from tinyconv.context import context
from tinyconv.optim.optimizer import Group, Optimizer


class LRScheduler:
    """Base class; a new schedule defines `next_lr`.

    last_epoch: how often `step` was called; the constructor already sets the rate for 0.
    """

    def __init__(self, optimizer: Optimizer) -> None:
        self.optimizer = _optimizer(type(self).__name__, optimizer)
        self.last_epoch = -1
        self.step()

    def next_lr(self, group: Group) -> float:
        """The rate for ``self.last_epoch``, from the present one, group["lr"].

        group["initial_lr"] is the one before the schedule.
        """
        raise NotImplementedError

    def step(self) -> None:
        """Advance by one; call it after ``optimizer.step()``."""
        if context.capture is not None:  # the host does it again after each launch
            context.capture.host(self._advance)
        else:
            self._advance()

    def _advance(self) -> None:
        self.last_epoch += 1
        for group in self.optimizer.param_groups:
            group.setdefault("initial_lr", group["lr"])
            group["lr"] = self.next_lr(group)

    def get_last_lr(self) -> list[float]:
        """The present rate of each group."""
        return [group["lr"] for group in self.optimizer.param_groups]

    def state_dict(self) -> dict[str, Any]:
        """Everything but the optimizer, which saves the rates with its groups."""
        return {key: value for key, value in vars(self).items() if key != "optimizer"}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue from `state_dict`; load the optimizer's too."""
        unknown = state_dict.keys() ^ self.state_dict().keys()
        if unknown:
            raise ValueError(
                f"{type(self).__name__}.load_state_dict: saved by another kind of schedule; only "
                f"one of the two has {', '.join(sorted(unknown))}"
            )
        vars(self).update(state_dict)


class StepLR(LRScheduler):
    """Times gamma every ``step_size`` epochs."""

    def __init__(self, optimizer: Optimizer, step_size: int, gamma: float = 0.1) -> None:
        self.step_size = _positive("StepLR", "step_size", step_size)
        self.gamma = gamma
        super().__init__(optimizer)

    def next_lr(self, group: Group) -> float:
        turn = self.last_epoch > 0 and self.last_epoch % self.step_size == 0
        return group["lr"] * self.gamma if turn else group["lr"]


class MultiStepLR(LRScheduler):
    """Times gamma at each of the ``milestones``; one named twice counts twice."""

    def __init__(self, optimizer: Optimizer, milestones: Iterable[int], gamma: float = 0.1) -> None:
        self.milestones = dict(Counter(milestones))
        self.gamma = gamma
        super().__init__(optimizer)

    def next_lr(self, group: Group) -> float:
        times = self.milestones.get(self.last_epoch, 0)
        return group["lr"] * self.gamma**times if times else group["lr"]


class LinearLR(LRScheduler):
    """Warm-up: from start_factor to end_factor times the rate, in ``total_iters`` equal steps."""

    def __init__(
        self, optimizer: Optimizer, start_factor: float = 1 / 3, end_factor: float = 1.0,
        total_iters: int = 5,
    ) -> None:
        if not 0 < start_factor <= 1:
            raise ValueError(f"LinearLR: start_factor must be in 0 < x <= 1, got {start_factor}")
        if not 0 <= end_factor <= 1:
            raise ValueError(f"LinearLR: end_factor must be from 0 to 1, got {end_factor}")
        self.start_factor, self.end_factor = start_factor, end_factor
        self.total_iters = _positive("LinearLR", "total_iters", total_iters)
        super().__init__(optimizer)

    def next_lr(self, group: Group) -> float:
        if self.last_epoch == 0:
            return group["lr"] * self.start_factor
        if self.last_epoch > self.total_iters:
            return group["lr"]
        rise = self.end_factor - self.start_factor  # over total_iters steps
        before = self.total_iters * self.start_factor + (self.last_epoch - 1) * rise
        return group["lr"] * (1 + rise / before)


class CosineAnnealingLR(LRScheduler):
    """Half a cosine from the initial rate to ``eta_min`` in ``T_max`` epochs, and back up after it.

        lr = eta_min + (initial_lr - eta_min) (1 + cos(pi epoch / T_max)) / 2

    Reference: Loshchilov and Hutter, SGDR: stochastic gradient descent with warm restarts, 2017.
    """

    def __init__(self, optimizer: Optimizer, T_max: int, eta_min: float = 0.0) -> None:
        self.T_max = _positive("CosineAnnealingLR", "T_max", T_max)
        self.eta_min = eta_min
        super().__init__(optimizer)

    def next_lr(self, group: Group) -> float:
        t, T = self.last_epoch, self.T_max
        if t == 0:
            return group["lr"]
        if (t - 1 - T) % (2 * T) == 0:  # the last was the lowest: the ratio below would be 0 / 0
            height = group["initial_lr"] - self.eta_min
            return group["lr"] + height * (1 - math.cos(math.pi / T)) / 2
        ratio = (1 + math.cos(math.pi * t / T)) / (1 + math.cos(math.pi * (t - 1) / T))
        return ratio * (group["lr"] - self.eta_min) + self.eta_min


class OneCycleLR(LRScheduler):
    """Up to ``max_lr`` and down to nearly nothing, once; call `step` after every batch.

    The rate starts at max_lr / div_factor, reaches max_lr after pct_start of the steps and ends at
    the start's 1 / final_div_factor.  three_phase: down to the start symmetrically first, then to
    the end.  cycle_momentum: momentum (Adam: the first beta) goes the other way, between
    max_momentum and base_momentum.  A list for max_lr or a momentum: one value per group.

    Reference: Smith and Topin, Super-convergence, 2018.
    """

    def __init__(
        self, optimizer: Optimizer, max_lr: float | Sequence[float], total_steps: int | None = None,
        epochs: int | None = None, steps_per_epoch: int | None = None, pct_start: float = 0.3,
        anneal_strategy: str = "cos", cycle_momentum: bool = True,
        base_momentum: float | Sequence[float] = 0.85, max_momentum: float | Sequence[float] = 0.95,
        div_factor: float = 25.0, final_div_factor: float = 1e4, three_phase: bool = False,
    ) -> None:
        if total_steps is None:
            if epochs is None or steps_per_epoch is None:
                raise ValueError("OneCycleLR: how long is the cycle? Pass total_steps, or epochs "
                                 "and steps_per_epoch=len(loader)")
            total_steps = epochs * steps_per_epoch
        if not 0 <= pct_start <= 1:
            raise ValueError(f"OneCycleLR: pct_start is a share, from 0 to 1, got {pct_start}")
        if anneal_strategy not in ("cos", "linear"):
            raise ValueError("OneCycleLR: anneal_strategy is 'cos' or 'linear', "
                             f"got {anneal_strategy!r}")
        options = _optimizer("OneCycleLR", optimizer).defaults.keys()
        if cycle_momentum and not {"momentum", "betas"} & options:
            raise ValueError(f"OneCycleLR: {optimizer.name} has neither momentum nor betas; pass "
                             "cycle_momentum=False")
        self.total_steps = _positive("OneCycleLR", "total_steps", total_steps)
        self.anneal_strategy = anneal_strategy
        self.cycle_momentum = cycle_momentum
        # last step, rate from and to, momentum from and to: keys of the group
        up = (pct_start * total_steps - 1, "initial_lr", "max_lr", "max_momentum", "base_momentum")
        self.phases = [up, (total_steps - 1, "max_lr", "min_lr", "base_momentum", "max_momentum")]
        if three_phase:
            self.phases = [
                up,
                (2 * up[0], "max_lr", "initial_lr", "base_momentum", "max_momentum"),
                (total_steps - 1, "initial_lr", "min_lr", "max_momentum", "max_momentum"),
            ]
        values = zip(_per_group("max_lr", optimizer, max_lr),
                     _per_group("base_momentum", optimizer, base_momentum),
                     _per_group("max_momentum", optimizer, max_momentum), strict=True)
        for group, (lr, low, high) in zip(optimizer.param_groups, values, strict=True):
            start = lr / div_factor
            group.update(initial_lr=start, max_lr=lr, min_lr=start / final_div_factor)
            if cycle_momentum:
                group.update(base_momentum=low, max_momentum=high)
        super().__init__(optimizer)

    def next_lr(self, group: Group) -> float:
        if self.last_epoch > self.total_steps:
            raise ValueError(
                f"OneCycleLR: step {self.last_epoch} of a cycle of {self.total_steps} steps. Pass "
                "the number of batches of the whole training as total_steps"
            )
        ends = [phase[0] for phase in self.phases]
        i = min(bisect_left(ends, self.last_epoch), len(ends) - 1)
        start, end = (ends[i - 1] if i else 0), ends[i]
        share = (self.last_epoch - start) / (end - start) if end > start else 1.0
        lr_from, lr_to, momentum_from, momentum_to = (group.get(key) for key in self.phases[i][1:])
        if self.cycle_momentum:
            momentum = self._between(momentum_from, momentum_to, share)
            if "betas" in group:
                group["betas"] = (momentum, *group["betas"][1:])
            else:
                group["momentum"] = momentum
        return self._between(lr_from, lr_to, share)

    def _between(self, start: Any, end: Any, share: float) -> float:
        if self.anneal_strategy == "linear":
            return start + (end - start) * share
        return end + (start - end) / 2 * (1 + math.cos(math.pi * share))


def _optimizer(name: str, value: Any) -> Optimizer:
    if not isinstance(value, Optimizer):
        raise TypeError(f"{name}: expected an optimizer first, got a {type(value).__name__}")
    return value


def _positive(name: str, option: str, value: int) -> int:
    if not isinstance(value, int) or value <= 0:
        raise ValueError(f"{name}: {option} must be a positive integer, got {value!r}")
    return value


def _per_group(option: str, optimizer: Optimizer, value: float | Sequence[float]) -> list[float]:
    groups = len(optimizer.param_groups)
    values = list(value) if isinstance(value, Sequence) else [value] * groups
    if len(values) != groups:
        raise ValueError(f"OneCycleLR: {option} has {len(values)} values, the optimizer {groups} "
                         "parameter groups")
    return values
