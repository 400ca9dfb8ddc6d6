"""What people do with parameters: as one vector, or computed from others."""

from tinyconv.nn.utils import parametrizations as parametrizations, parametrize as parametrize
from tinyconv.nn.utils.vectors import (
    parameters_to_vector as parameters_to_vector,
    vector_to_parameters as vector_to_parameters,
)
from tinyconv.optim.clip import (
    clip_grad_norm_ as clip_grad_norm_,
    clip_grad_value_ as clip_grad_value_,
)
