"""tinyconv: convolutions and their gradients, to any order, in Python one reads in an afternoon."""

from tinyconv import data, nn, optim, see
from tinyconv.autograd import OPS, enable_grad, grad, is_grad_enabled, is_tensor, no_grad, op
from tinyconv.backend import kernels
from tinyconv.creation import (
    arange,
    eye,
    from_numpy,
    full,
    full_like,
    linspace,
    ones,
    ones_like,
    rand,
    rand_like,
    randint,
    randint_like,
    randn,
    randn_like,
    randperm,
    tensor,
    zeros,
    zeros_like,
)
from tinyconv.dtypes import (
    bool_ as bool,
    double,
    float16,
    float32,
    float64,
    half,
    int8,
    int16,
    int32,
    int64,
    long,
    uint8,
)
from tinyconv.errors import DeviceError, DTypeError, GraphError, ShapeError, TinyconvError
from tinyconv.gradcheck import GradcheckError, gradcheck
from tinyconv.io import CheckpointError, load, load_checkpoint, save, save_checkpoint
from tinyconv.ops.elementwise import (
    abs_ as abs,
    add,
    clamp,
    cos,
    div,
    eq,
    erf,
    exp,
    floor_divide,
    ge,
    gt,
    isfinite,
    isnan,
    le,
    log,
    log1p,
    logical_and,
    logical_not,
    logical_or,
    lt,
    maximum,
    minimum,
    mul,
    ne,
    neg,
    pow,
    relu,
    remainder,
    rsqrt,
    sigmoid,
    sign,
    sin,
    sqrt,
    sub,
    tanh,
    where,
)
from tinyconv.ops.index import gather, index_select, scatter_add
from tinyconv.ops.linalg import einsum, matmul, outer
from tinyconv.ops.reduce import (
    all,
    amax,
    amin,
    any,
    argmax,
    argmin,
    cumsum,
    log_softmax,
    logsumexp,
    max,
    mean,
    min,
    norm,
    prod,
    softmax,
    std,
    sum,
    var,
)
from tinyconv.ops.shape import (
    broadcast_to,
    cat,
    chunk,
    flatten,
    flip,
    permute,
    reshape,
    roll,
    split,
    squeeze,
    stack,
    transpose,
    unbind,
    unsqueeze,
)
from tinyconv.random import get_rng_state, manual_seed, set_rng_state
from tinyconv.samples import sample
from tinyconv.see import Trace, trace
from tinyconv.tensor import Tensor

__version__ = "0.1.0"
