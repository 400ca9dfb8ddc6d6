"""tinyconv: convolutions and their gradients, to any order, in Python one reads in an afternoon."""

from importlib import import_module as _import_module
from typing import TYPE_CHECKING, Any as _Any

from tinyconv import (
    amp as amp,
    cuda as cuda,
    data as data,
    dist as dist,
    func as func,
    nn as nn,
    optim as optim,
)
from tinyconv.autograd import (
    OPS as OPS,
    enable_grad as enable_grad,
    grad as grad,
    inference_mode as inference_mode,
    is_grad_enabled as is_grad_enabled,
    is_tensor as is_tensor,
    no_grad as no_grad,
    op as op,
    set_grad_enabled as set_grad_enabled,
)
from tinyconv.backend import device as device, kernels as kernels
from tinyconv.backend.config import show_config as show_config
from tinyconv.backend.modes import (
    are_deterministic_algorithms_enabled as are_deterministic_algorithms_enabled,
    are_direct_convolutions_enabled as are_direct_convolutions_enabled,
    get_float32_precision as get_float32_precision,
    set_float32_precision as set_float32_precision,
    use_deterministic_algorithms as use_deterministic_algorithms,
    use_direct_convolutions as use_direct_convolutions,
)
from tinyconv.backend.threads import (
    get_num_threads as get_num_threads,
    set_num_threads as set_num_threads,
)
from tinyconv.creation import (
    arange as arange,
    as_tensor as as_tensor,
    empty as empty,
    eye as eye,
    from_dlpack as from_dlpack,
    from_numpy as from_numpy,
    full as full,
    full_like as full_like,
    linspace as linspace,
    ones as ones,
    ones_like as ones_like,
    rand as rand,
    rand_like as rand_like,
    randint as randint,
    randint_like as randint_like,
    randn as randn,
    randn_like as randn_like,
    randperm as randperm,
    tensor as tensor,
    zeros as zeros,
    zeros_like as zeros_like,
)
from tinyconv.dtypes import (
    bool_ as bool,
    double as double,
    float16 as float16,
    float32 as float32,
    float64 as float64,
    half as half,
    int8 as int8,
    int16 as int16,
    int32 as int32,
    int64 as int64,
    long as long,
    uint8 as uint8,
)
from tinyconv.errors import (
    DeviceError as DeviceError,
    DimError as DimError,
    DTypeError as DTypeError,
    GraphError as GraphError,
    ShapeError as ShapeError,
    TinyconvError as TinyconvError,
)
from tinyconv.gradcheck import GradcheckError as GradcheckError, gradcheck as gradcheck
from tinyconv.hints import hints_for as _hints_for
from tinyconv.io import (
    CheckpointError as CheckpointError,
    load as load,
    load_checkpoint as load_checkpoint,
    save as save,
    save_checkpoint as save_checkpoint,
)
from tinyconv.ops.elementwise import (
    abs_ as abs,
    add as add,
    bitwise_and as bitwise_and,
    bitwise_not as bitwise_not,
    bitwise_or as bitwise_or,
    bitwise_xor as bitwise_xor,
    clamp as clamp,
    cos as cos,
    divide as div,
    eq as eq,
    erf as erf,
    exp as exp,
    expm1 as expm1,
    floor_divide as floor_divide,
    ge as ge,
    gt as gt,
    isfinite as isfinite,
    isnan as isnan,
    le as le,
    log as log,
    log1p as log1p,
    logical_and as logical_and,
    logical_not as logical_not,
    logical_or as logical_or,
    lt as lt,
    masked_fill as masked_fill,
    maximum as maximum,
    minimum as minimum,
    mul as mul,
    ne as ne,
    neg as neg,
    pow as pow,
    relu as relu,
    remainder as remainder,
    rsqrt as rsqrt,
    sigmoid as sigmoid,
    sign as sign,
    sin as sin,
    sqrt as sqrt,
    sub as sub,
    tanh as tanh,
    where as where,
)
from tinyconv.ops.index import (
    gather as gather,
    index_select as index_select,
    scatter_add as scatter_add,
)
from tinyconv.ops.linalg import (
    bmm as bmm,
    einsum as einsum,
    matmul as matmul,
    mm as mm,
    outer as outer,
)
from tinyconv.ops.reduce import (
    all as all,
    amax as amax,
    amin as amin,
    any as any,
    argmax as argmax,
    argmin as argmin,
    cumsum as cumsum,
    equal as equal,
    log_softmax as log_softmax,
    logsumexp as logsumexp,
    max as max,
    mean as mean,
    min as min,
    norm as norm,
    prod as prod,
    softmax as softmax,
    std as std,
    sum as sum,
    var as var,
)
from tinyconv.ops.shape import (
    broadcast_to as broadcast_to,
    cat as cat,
    chunk as chunk,
    flatten as flatten,
    flip as flip,
    numel as numel,
    permute as permute,
    reshape as reshape,
    roll as roll,
    split as split,
    squeeze as squeeze,
    stack as stack,
    tile as tile,
    transpose as transpose,
    tril as tril,
    triu as triu,
    unbind as unbind,
    unsqueeze as unsqueeze,
)
from tinyconv.ops.sort import argsort as argsort, sort as sort, topk as topk
from tinyconv.random import (
    get_rng_state as get_rng_state,
    manual_seed as manual_seed,
    set_rng_state as set_rng_state,
)
from tinyconv.samples import sample as sample
from tinyconv.tensor import Tensor as Tensor

__version__ = "0.1.0"

if TYPE_CHECKING:  # mypy goes on to report a name that is not there
    from tinyconv import see as see
    from tinyconv.see.curves import Curves as Curves, curves as curves
    from tinyconv.see.explain import Explanation as Explanation, explain as explain
    from tinyconv.see.shapes import Shapes as Shapes, shapes as shapes
    from tinyconv.see.summary import Summary as Summary, summary as summary
    from tinyconv.see.tape import Tape as Tape, record as record
    from tinyconv.see.trace import Trace as Trace, trace as trace
else:
    _hint = _hints_for(__name__)

    def __getattr__(name: str) -> _Any:
        """What is in `tinyconv.see`, imported when it is first asked for: training needs none."""
        if name.startswith("_"):
            return _hint(name)
        see = _import_module("tinyconv.see")
        if name not in ("see", *see.__all__):
            return _hint(name)
        return see if name == "see" else globals().setdefault(name, getattr(see, name))

    def __dir__() -> list[str]:
        return sorted({*globals(), "see", *_import_module("tinyconv.see").__all__})
