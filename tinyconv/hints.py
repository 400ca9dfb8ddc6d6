"""Names that people from PyTorch try, and what they find in tinyconv instead."""

from collections.abc import Callable
from typing import Any

_TENSOR = "use tc.tensor(data, dtype=...)"
_NO_COMPILER = "nothing is compiled; tc.set_num_threads(n) and a larger batch make it faster"

INSTEAD: dict[str, dict[str, str]] = {
    "tinyconv": {
        "allclose": "use np.allclose(x.detach(), y.detach())",
        "autocast": "use tc.amp.autocast()",
        "backends": "use tc.kernels(name) to choose kernels, tc.set_num_threads(n)",
        "bfloat16": "NumPy has no bfloat16; tc.float32, tc.float16",
        "clip": "use tc.clamp",
        "compile": _NO_COMPILER,
        "concat": "use tc.cat",
        "concatenate": "use tc.cat",
        "distributed": "use tc.dist",
        "dtype": "dtypes are NumPy's: np.dtype",
        "float": "use tc.float32",
        "FloatTensor": _TENSOR,
        "Generator": "there is one stream of random numbers: tc.manual_seed(seed)",
        "int": "use tc.int32",
        "jit": _NO_COMPILER,
        "linalg": "use tc.norm, tc.matmul, tc.einsum",
        "LongTensor": _TENSOR,
        "multiply": "use tc.mul",
        "normal": "use tc.randn(size) * std + mean",
        "set_default_dtype": "floats are tc.float32; say dtype=tc.float64 where you want it",
        "Size": "a shape is a tuple of ints",
        "subtract": "use tc.sub",
        "true_divide": "use tc.div",
        "utils": "use tc.data.DataLoader, tc.data.TensorDataset; checkpoints: tc.save_checkpoint",
        "vmap": "write the batch axis out; every layer takes a batch",
    },
    "tinyconv.autograd": {
        "functional": "use tc.grad(y, x, create_graph=True), to any order",
        "gradcheck": "use tc.gradcheck(f, inputs)",
        "profiler": "use tc.trace(model, x)",
    },
    "tinyconv.nn": {
        "Conv3d": "convolutions have one or two axes: nn.Conv1d, nn.Conv2d",
        "DataParallel": "mpiexec -n 2 python train.py, and tc.dist: see docs/scaling.md",
        "GRU": "there are no recurrent layers",
        "LSTM": "there are no recurrent layers",
        "MultiheadAttention": "there are no attention layers; compose tc.einsum and tc.softmax",
        "ParameterList": "use nn.ModuleList, or set nn.Parameter attributes",
        "RNN": "there are no recurrent layers",
        "Transformer": "there are no attention layers; compose tc.einsum and tc.softmax",
        "parallel": "use tc.dist.broadcast_state(model) once, and after each backward() "
        "tc.dist.average_gradients(model.parameters())",
        "SyncBatchNorm": "use tc.dist.SyncBatchNorm",
    },
    "tinyconv.optim": {
        "Adagrad": "use optim.Adam or optim.RMSprop",
        "LBFGS": "use optim.SGD or optim.Adam",
        "lr_scheduler": "schedules are in tc.optim itself: tc.optim.StepLR, tc.optim.OneCycleLR",
        "swa_utils": "there is no weight averaging",
    },
}


def hints_for(module: str) -> Callable[[str], Any]:
    """A ``__getattr__`` for the module: AttributeError with the way to do it in tinyconv."""

    def __getattr__(name: str) -> Any:
        hint = INSTEAD[module].get(name)
        said = f"module {module!r} has no attribute {name!r}"
        raise AttributeError(f"{said}: {hint}" if hint else said, name=name)

    return __getattr__
