"""Optimizers, learning-rate schedules and gradient clipping; names as in torch.optim."""

from tinyconv.optim.adam import Adam, AdamW
from tinyconv.optim.clip import clip_grad_norm_, clip_grad_value_
from tinyconv.optim.optimizer import Optimizer
from tinyconv.optim.rmsprop import RMSprop
from tinyconv.optim.schedule import (
    CosineAnnealingLR,
    LinearLR,
    LRScheduler,
    MultiStepLR,
    OneCycleLR,
    StepLR,
)
from tinyconv.optim.sgd import SGD
