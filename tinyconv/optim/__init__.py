"""Optimizers, learning-rate schedules and gradient clipping; names as in torch.optim."""

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
