"""Functions on Tensors: torch.nn.functional's names, arguments and meaning.

Input first.  Everything is made of the operations in `tinyconv.ops` and so can be differentiated
to any order.
"""

from tinyconv.nn.functional.activation import (
    dropout as dropout,
    dropout2d as dropout2d,
    elu as elu,
    gelu as gelu,
    hardtanh as hardtanh,
    leaky_relu as leaky_relu,
    log_softmax as log_softmax,
    relu as relu,
    relu6 as relu6,
    sigmoid as sigmoid,
    silu as silu,
    softmax as softmax,
    softplus as softplus,
    tanh as tanh,
)
from tinyconv.nn.functional.conv import (
    conv1d as conv1d,
    conv2d as conv2d,
    conv_transpose1d as conv_transpose1d,
    conv_transpose2d as conv_transpose2d,
    fold as fold,
    unfold as unfold,
)
from tinyconv.nn.functional.linear import (
    embedding as embedding,
    linear as linear,
    one_hot as one_hot,
)
from tinyconv.nn.functional.loss import (
    binary_cross_entropy as binary_cross_entropy,
    binary_cross_entropy_with_logits as binary_cross_entropy_with_logits,
    cross_entropy as cross_entropy,
    huber_loss as huber_loss,
    l1_loss as l1_loss,
    mse_loss as mse_loss,
    nll_loss as nll_loss,
    smooth_l1_loss as smooth_l1_loss,
)
from tinyconv.nn.functional.norm import (
    batch_norm as batch_norm,
    batch_norm_relu as batch_norm_relu,
    group_norm as group_norm,
    instance_norm as instance_norm,
    layer_norm as layer_norm,
    normalize as normalize,
)
from tinyconv.nn.functional.pool import (
    adaptive_avg_pool2d as adaptive_avg_pool2d,
    adaptive_max_pool2d as adaptive_max_pool2d,
    avg_pool2d as avg_pool2d,
    lp_pool2d as lp_pool2d,
    max_pool2d as max_pool2d,
    max_unpool2d as max_unpool2d,
)
from tinyconv.nn.functional.shape import (
    interpolate as interpolate,
    pad as pad,
    pixel_shuffle as pixel_shuffle,
    pixel_unshuffle as pixel_unshuffle,
)
