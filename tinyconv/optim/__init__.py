"""Optimizers, learning-rate schedules and gradient clipping; names as in torch.optim."""

from typing import TYPE_CHECKING

from tinyconv.hints import hints_for
from tinyconv.optim.adam import Adam as Adam, AdamW as AdamW
from tinyconv.optim.clip import (
    clip_grad_norm_ as clip_grad_norm_,
    clip_grad_value_ as clip_grad_value_,
)
from tinyconv.optim.optimizer import Optimizer as Optimizer
from tinyconv.optim.rmsprop import RMSprop as RMSprop
from tinyconv.optim.schedule import (
    CosineAnnealingLR as CosineAnnealingLR,
    LinearLR as LinearLR,
    LRScheduler as LRScheduler,
    MultiStepLR as MultiStepLR,
    OneCycleLR as OneCycleLR,
    StepLR as StepLR,
)
from tinyconv.optim.sgd import SGD as SGD

if not TYPE_CHECKING:  # mypy goes on to report a name that is not there
    __getattr__ = hints_for(__name__)
