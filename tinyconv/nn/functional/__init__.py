"""Functions on Tensors: torch.nn.functional's names, arguments and meaning.

Input first.  Everything is made of the operations in `tinyconv.ops` and so can be differentiated
to any order.
"""

from tinyconv.nn.functional.activation import (
    dropout,
    dropout2d,
    elu,
    gelu,
    hardtanh,
    leaky_relu,
    log_softmax,
    relu6,
    silu,
    softmax,
)
from tinyconv.nn.functional.conv import (
    conv1d,
    conv2d,
    conv_transpose1d,
    conv_transpose2d,
    fold,
    unfold,
)
from tinyconv.nn.functional.linear import embedding, linear, one_hot
from tinyconv.nn.functional.loss import (
    binary_cross_entropy,
    binary_cross_entropy_with_logits,
    cross_entropy,
    huber_loss,
    l1_loss,
    mse_loss,
    nll_loss,
    smooth_l1_loss,
)
from tinyconv.nn.functional.norm import (
    batch_norm,
    group_norm,
    instance_norm,
    layer_norm,
    normalize,
)
from tinyconv.nn.functional.pool import (
    adaptive_avg_pool2d,
    adaptive_max_pool2d,
    avg_pool2d,
    lp_pool2d,
    max_pool2d,
    max_unpool2d,
)
from tinyconv.nn.functional.shape import interpolate, pad, pixel_shuffle, pixel_unshuffle
from tinyconv.ops.elementwise import relu, sigmoid, softplus, tanh
