"""A strict fake of NVIDIA's cudnn-frontend 1.23 to 1.26 (`import cudnn`), on fake_cupy's memory.

Names, parameters and types are those of the real wheels, as test_cudnn.py proves where one is
installed.  Each `execute` counts as one launch.

- What the frontend refuses it refuses with the same exception: unknown keywords, a graph whose
  sizes do not fit, plans before the graph, an execution without a plan or a tensor.
- Where the frontend goes on with nonsense, or dies, it raises `fake_cupy.Undefined`: a pointer that
  is not of the device, memory that is too short or not aligned, no workspace, another stream than
  CuPy's, notes that are deselected before there are plans, the gradient of a weight without sizes.
- Engines have numerical notes as cuDNN's have, and compute accordingly: TF32 rounds what it
  multiplies, an engine with NONDETERMINISTIC adds in another order in every run.

    with fake_cupy.installed(), fake_cudnn.installed():   # `import cudnn` finds it

The convolutions are written out tap by tap, with no code of tinyconv's.
"""

from __future__ import annotations

import enum
import inspect
import itertools
import sys
import types
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import wraps
from importlib.machinery import ModuleSpec
from typing import Any, get_args, get_origin, get_type_hints

import fake_cupy
import numpy as np
from fake_cupy import Undefined

__version__ = "1.25.0"


class cudnnGraphNotSupportedError(Exception):
    """cudnn.cudnnGraphNotSupportedError"""


def _enum(name: str, members: str) -> Any:
    return enum.Enum(name, members.split())


data_type = _enum(
    "data_type",
    "FLOAT DOUBLE HALF INT8 INT32 INT8x4 UINT8 UINT8x4 INT8x32 BFLOAT16 INT64 BOOLEAN FP8_E4M3 "
    "FP8_E5M2 FAST_FLOAT_FOR_FP8 FP8_E8M0 FP4_E2M1 INT4 NOT_SET",
)
heur_mode = _enum("heur_mode", "A B FALLBACK OPENSOURCE")
numerical_note = _enum(
    "numerical_note",
    "TENSOR_CORE DOWN_CONVERT_INPUTS REDUCED_PRECISION_REDUCTION FFT NONDETERMINISTIC WINOGRAD "
    "WINOGRAD_TILE_4x4 WINOGRAD_TILE_6x6 WINOGRAD_TILE_13x13 STRICT_NAN_PROP",
)
build_plan_policy = _enum("build_plan_policy", "HEURISTICS_CHOICE ALL")
tensor_reordering = _enum("tensor_reordering", "NONE INT8x32 F16x16 F8_128x4")
convolution_mode = _enum("convolution_mode", "CONVOLUTION CROSS_CORRELATION")


# ------------------------------------------------------------------------------- types, as pybind


def _fits(value: Any, kind: Any) -> bool:
    """Does pybind11 convert the value?  It takes any sequence for a list, no float for an int."""
    if kind is Any:
        return True
    if get_origin(kind) is Sequence:
        return not isinstance(value, str) and all(_fits(v, *get_args(kind)) for v in value)
    if kind == int | None:
        return value is None or _fits(value, int)
    if kind is int:
        return isinstance(value, (int, np.integer)) and not isinstance(value, bool)
    return isinstance(value, kind)


def _typed(function: Callable[..., Any]) -> Any:
    """Refuse arguments of other types than the parameters are annotated with."""
    signature = inspect.signature(function)

    @wraps(function)
    def call(*args: Any, **options: Any) -> Any:
        hints = get_type_hints(function)
        for name, value in signature.bind(*args, **options).arguments.items():
            if name != "self" and not _fits(value, hints[name]):
                raise TypeError(f"{function.__name__}(): incompatible {name}={value!r}")
        return function(*args, **options)

    return call


# ---------------------------------------------------------------------------------------- handles

_streams: dict[int, int] = {}  # by handle


def backend_version() -> int:
    return 91900


def backend_version_string() -> str:
    return "9.19.0"


def create_handle() -> int:
    handle = 1000 + len(_streams)
    _streams[handle] = 0
    return handle


def destroy_handle(arg0: int) -> None:
    del _streams[arg0]


@_typed
def set_stream(handle: int, stream: int) -> None:
    if handle not in _streams:
        raise Undefined(f"{handle} is no handle")
    _streams[handle] = stream


def get_stream(arg0: int) -> int:
    return _streams[arg0]


# ----------------------------------------------------------------------------------------- graphs

Note = frozenset[str]
ENGINES: dict[str, list[tuple[str, Note, int]]] = {  # name, notes and workspace, the fastest first
    "FLOAT": [
        ("tf32", frozenset({"TENSOR_CORE", "DOWN_CONVERT_INPUTS"}), 4096),
        ("greedy", frozenset(), 2**31),
        ("atomics", frozenset({"NONDETERMINISTIC"}), 0),
        ("plain", frozenset(), 512),
    ],
    "HALF": [
        ("narrow sums", frozenset({"TENSOR_CORE", "REDUCED_PRECISION_REDUCTION"}), 0),
        ("atomics", frozenset({"TENSOR_CORE", "NONDETERMINISTIC"}), 0),
        ("tensor cores", frozenset({"TENSOR_CORE"}), 4096),
    ],
}
refused: list[Callable[[pygraph], bool]] = []  # graphs for which a test wants no engine
built: list[pygraph] = []  # every graph that got a plan


class tensor:
    """cudnn.tensor"""

    def __init__(self, dim: Sequence[int], stride: Sequence[int], virtual: bool = False) -> None:
        self._dim, self._stride, self._virtual = tuple(dim), tuple(stride), virtual
        self._uid, self._alignment = 0, 16

    @_typed
    def set_dim(self, arg0: Sequence[int]) -> tensor:
        self._dim = tuple(arg0)
        return self

    @_typed
    def set_stride(self, arg0: Sequence[int]) -> tensor:
        self._stride = tuple(arg0)
        return self

    @_typed
    def set_alignment(self, arg0: int) -> tensor:
        self._alignment = arg0
        return self

    @_typed
    def set_output(self, arg0: bool) -> tensor:
        self._virtual = not arg0
        return self

    def get_uid(self) -> int:
        return self._uid

    def get_dim(self) -> list[int]:
        return list(self._dim)

    def get_stride(self) -> list[int]:
        return list(self._stride)

    def get_alignment(self) -> int:
        return self._alignment


class pygraph:
    """cudnn.pygraph, for one convolution and a bias."""

    @_typed
    def __init__(
        self,
        name: str = "test_graph",
        io_data_type: data_type = data_type.NOT_SET,
        intermediate_data_type: data_type = data_type.NOT_SET,
        compute_data_type: data_type = data_type.NOT_SET,
        handle: int | None = None,
        sm_count: Any = None,
        sm_version: Any = None,
        kernel_cache: Any = None,
        device_property: Any = None,
        is_dynamic_shape_enabled: bool = False,
        is_override_shape_enabled: bool = False,
    ) -> None:
        if handle is not None and handle not in _streams:
            raise Undefined(f"{handle} is no handle")
        self.io, self.compute = io_data_type.name, compute_data_type.name
        self._handle, self._sm_version = handle, sm_version
        self._convolution: Convolution | None = None
        self._bias: tuple[tensor, tensor, tensor] | None = None  # input, bias, output
        self._stage: set[str] = set()
        self._engines: list[tuple[str, Note, int]] = []
        self._candidate: tuple[str, Note, int] | None = None
        self._largest = sys.maxsize

    @_typed
    def tensor(
        self,
        dim: Sequence[int],
        stride: Sequence[int],
        data_type: data_type = data_type.NOT_SET,
        is_virtual: bool = False,
        is_pass_by_value: bool = False,
        ragged_offset: Any = None,
        reordering_type: tensor_reordering = tensor_reordering.NONE,
        name: str = "",
        uid: int = -1,
    ) -> Any:
        return tensor(dim, stride)

    # --- operations: an image, a weight and a response are two given tensors and one to be found

    @_typed
    def conv_fprop(
        self,
        image: tensor,
        weight: tensor,
        pre_padding: Sequence[int] = (),
        post_padding: Sequence[int] = (),
        stride: Sequence[int] = (),
        dilation: Sequence[int] = (),
        convolution_mode: convolution_mode = convolution_mode.CROSS_CORRELATION,
        compute_data_type: data_type = data_type.NOT_SET,
        name: str = "",
    ) -> Any:
        y = tensor((), (), virtual=True)
        geometry = (pre_padding, post_padding, stride, dilation)
        self._convolution = Convolution("conv_fprop", image, weight, y, y, *map(tuple, geometry))
        return y

    @_typed
    def conv_dgrad(
        self,
        loss: tensor,
        filter: tensor,
        pre_padding: Sequence[int] = (),
        post_padding: Sequence[int] = (),
        stride: Sequence[int] = (),
        dilation: Sequence[int] = (),
        convolution_mode: convolution_mode = convolution_mode.CROSS_CORRELATION,
        compute_data_type: data_type = data_type.NOT_SET,
        name: str = "",
    ) -> Any:
        x = tensor((), (), virtual=True)
        geometry = (pre_padding, post_padding, stride, dilation)
        self._convolution = Convolution("conv_dgrad", x, filter, loss, x, *map(tuple, geometry))
        return x

    @_typed
    def conv_wgrad(
        self,
        image: tensor,
        loss: tensor,
        pre_padding: Sequence[int] = (),
        post_padding: Sequence[int] = (),
        stride: Sequence[int] = (),
        dilation: Sequence[int] = (),
        convolution_mode: convolution_mode = convolution_mode.CROSS_CORRELATION,
        compute_data_type: data_type = data_type.NOT_SET,
        name: str = "",
    ) -> Any:
        w = tensor((), (), virtual=True)
        geometry = (pre_padding, post_padding, stride, dilation)
        self._convolution = Convolution("conv_wgrad", image, w, loss, w, *map(tuple, geometry))
        return w

    @_typed
    def bias(
        self,
        input: tensor,
        bias: tensor,
        compute_data_type: data_type = data_type.NOT_SET,
        name: str = "",
    ) -> Any:
        result = tensor((), (), virtual=True)
        self._bias = (input, bias, result)
        return result

    # --- from the graph to a plan

    def validate(self) -> None:
        c = self._given()
        if not all((c.before, c.after, c.stride, c.dilation)):
            raise ValueError("Pre padding not set.")
        for t in self._tensors():
            if not t._dim and t is c.found and c.kind == "conv_wgrad":
                raise Undefined("the process dies: the sizes of a weight are not inferred")
            if not t._dim and t is c.found and c.kind == "conv_dgrad":
                raise ValueError("For dgrad node, output dimension inferencing is not possible.")
            if not t._dim or not t._stride:
                raise Undefined("strides that are not set become those of channels last")
            if len(t._dim) != len(t._stride):
                raise ValueError("Tensor '' does not equal dimensionality in dim and stride.")
        self._stage.add("validated")

    def build_operation_graph(self) -> None:
        self._after("validated")
        c = self._given()
        for t in self._tensors():
            if min(t._stride) < 0:
                raise RuntimeError("CUDNN_BACKEND_TENSOR_DESCRIPTOR cudnnFinalize failed")
        (N, C, *size), (O, CG, *kernel), (M, P, *out) = (t._dim for t in (c.x, c.w, c.y))
        padding = zip(size, c.before, c.after, strict=True)
        padded = [n + before + after for n, before, after in padding]
        rooms = [n - d * (k - 1) for n, k, d in zip(padded, kernel, c.dilation, strict=True)]
        wanted = [(room - 1) // s + 1 for room, s in zip(rooms, c.stride, strict=True)]
        if C % CG or O % (C // CG) or (N, O, *wanted) != (M, P, *out) or min(wanted) < 1:
            raise RuntimeError("detail::finalize(convolution_operation.get_raw_desc()) failed")
        if self._bias and self._bias[1]._dim != (1, O, 1, 1):
            raise RuntimeError("detail::finalize(pointwise_operation.get_raw_desc()) failed")
        for uid, t in enumerate(self._tensors(), 1):
            t._uid = uid
        self._stage.add("graph")

    @_typed
    def create_execution_plans(self, arg0: Sequence[heur_mode]) -> None:
        if "graph" not in self._stage:
            raise cudnnGraphNotSupportedError("Empty operation graph provided.")
        zero = any(0 in t._stride for t in self._tensors())
        known = ENGINES.get(self.io, [])
        if zero or not known or self.compute != "FLOAT" or any(test(self) for test in refused):
            raise cudnnGraphNotSupportedError("No valid engine configs for _\nReason: the fake's")
        self._engines = list(known)
        self._stage.add("plans")

    @_typed
    def deselect_numeric_notes(self, arg0: Sequence[numerical_note]) -> None:
        self._after("plans")
        names = {note.name for note in arg0}
        self._engines = [engine for engine in self._engines if not engine[1] & names]

    @_typed
    def deselect_workspace_greater_than(self, arg0: int) -> None:
        self._largest = arg0

    def check_support(self) -> None:
        if self._sm_version is None:  # the frontend asks a libcudart.so, which CuPy does not need
            raise RuntimeError("Unable to load any libcudart.so.* library.")
        if not self._supported():
            raise cudnnGraphNotSupportedError("No execution plans support the graph.")

    @_typed
    def build_plans(self, policy: build_plan_policy = build_plan_policy.HEURISTICS_CHOICE) -> None:
        if not self._supported():
            raise cudnnGraphNotSupportedError("No valid execution plans built.")
        self._candidate = self._supported()[0]
        built.append(self)

    def get_workspace_size(self) -> int:
        return self._plan()[2]

    def execute(
        self,
        tensor_to_device_buffer: Any,
        workspace: Any,
        handle: Any = None,
        override_uids: Any = None,
        override_shapes: Any = None,
        override_strides: Any = None,
    ) -> None:
        engine = self._plan()
        handle = self._handle if handle is None else handle
        if handle is None:
            raise RuntimeError("detail::get_stream(handle, &stream) failed: handle is NULL.")
        if _streams[handle] != fake_cupy.cupy.cuda.get_current_stream().ptr:
            raise Undefined("the handle is bound to another stream than CuPy launches on")
        pointers = {
            key if type(key) is int else key.get_uid(): _pointer(value)
            for key, value in tensor_to_device_buffer.items()
        }
        scratch = _memory(_pointer(workspace), engine[2]) if engine[2] else None
        arrays = {}
        for t in self._tensors():
            if t._virtual:
                continue
            if t._uid not in pointers:
                raise ValueError(f"Uid {t._uid} not found in variant pack.")
            arrays[t] = _array(pointers[t._uid], t, np.dtype({"FLOAT": "f", "HALF": "e"}[self.io]))
        c = self._given()
        result = arrays[self._bias[2] if self._bias else c.found]
        if any(np.shares_memory(result, a) for a in arrays.values() if a is not result):
            raise Undefined("the result lies where an operand lies")

        def compute() -> np.ndarray:
            if scratch is not None:
                scratch[...] = 0xFF
            y = c.compute(arrays, engine[1])
            if self._bias:
                y = y + arrays[self._bias[1]].astype(y.dtype)
            result[...] = y.astype(result.dtype)
            return result

        fake_cupy._launch(c.kind, compute, into=result)

    # --- what the fake's own code asks

    @property
    def engine(self) -> str:
        return self._plan()[0]

    def _given(self) -> Convolution:
        assert self._convolution is not None, "a graph without a convolution"
        return self._convolution

    def _tensors(self) -> list[tensor]:
        c = self._given()
        return [c.x, c.w, c.y, *(t for t in self._bias or () if t is not c.found)]

    def _after(self, stage: str) -> None:
        if stage not in self._stage:
            caller = inspect.stack()[1].function
            raise Undefined(f"{caller} before {stage}: the frontend goes on, without effect")

    def _supported(self) -> list[tuple[str, Note, int]]:
        return [engine for engine in self._engines if engine[2] <= self._largest]

    def _plan(self) -> tuple[str, Note, int]:
        if self._candidate is None:
            raise RuntimeError("Plan index -1 is invalid.")
        return self._candidate


# ----------------------------------------------------------------------------------------- memory


def _pointer(value: Any) -> int:
    if type(value) is not int:
        if hasattr(value, "__dlpack__"):
            raise Undefined("fake cudnn: arrays are passed by their addresses")
        raise ValueError("Object does not have the __dlpack__() method")
    return value


def _memory(address: int, size: int) -> np.ndarray:
    """The bytes at an address that an array of fake_cupy gave away."""
    owner = fake_cupy.memory_at(address, size)
    if owner is None:
        raise Undefined(f"{address:#x} is not the address of {size} bytes that are in use")
    interface = {"data": (address, False), "shape": (size,), "typestr": "|u1", "version": 3}
    return np.asarray(types.SimpleNamespace(owner=owner, __array_interface__=interface))


def _array(address: int, t: tensor, dtype: np.dtype) -> np.ndarray:
    if address % t._alignment:
        raise Undefined(f"{address:#x} is not aligned to {t._alignment} bytes, as was promised")
    last = sum((n - 1) * s for n, s in zip(t._dim, t._stride, strict=True))
    memory = _memory(address, (last + 1) * dtype.itemsize).view(dtype)
    strides = [s * dtype.itemsize for s in t._stride]
    return np.lib.stride_tricks.as_strided(memory, t._dim, strides)


# ----------------------------------------------------------------------------------- convolutions


class Convolution:
    """One of the three, in float32, tap by tap."""

    def __init__(
        self,
        kind: str,
        x: tensor,
        w: tensor,
        y: tensor,
        found: tensor,
        before: tuple[int, ...],
        after: tuple[int, ...],
        stride: tuple[int, ...],
        dilation: tuple[int, ...],
    ) -> None:
        self.kind, self.x, self.w, self.y, self.found = kind, x, w, y, found
        self.before, self.after, self.stride, self.dilation = before, after, stride, dilation

    def compute(self, arrays: dict[tensor, np.ndarray], notes: Note) -> np.ndarray:
        given = {
            t: _multiplied(arrays[t], notes)
            for t in (self.x, self.w, self.y)
            if t is not self.found
        }
        (N, C, *size), (O, CG, *kernel), (_, _, *out) = (t._dim for t in (self.x, self.w, self.y))
        G = C // CG
        border = [n + b + a for n, b, a in zip(size, self.before, self.after, strict=True)]
        inside = tuple(slice(b, b + n) for n, b in zip(size, self.before, strict=True))
        image = np.zeros((N, G, CG, *border), np.float32)
        weight = np.zeros((G, O // G, CG, *kernel), np.float32)
        response = np.zeros((N, G, O // G, *out), np.float32)
        if self.x in given:
            image[(..., *inside)] = given[self.x].reshape(N, G, CG, *size)
        if self.w in given:
            weight[...] = given[self.w].reshape(weight.shape)
        if self.y in given:
            response[...] = given[self.y].reshape(response.shape)
        narrow = np.float16 if "REDUCED_PRECISION_REDUCTION" in notes else np.float32
        taps = list(itertools.product(*map(range, kernel)))
        if "NONDETERMINISTIC" in notes:
            np.random.default_rng().shuffle(taps)
        for tap in taps:
            rows, columns = (
                slice(k * d, k * d + (n - 1) * s + 1, s)
                for k, d, n, s in zip(tap, self.dilation, out, self.stride, strict=True)
            )
            window, matrix = image[..., rows, columns], weight[(..., *tap)]
            if self.kind == "conv_fprop":
                response += np.einsum("ngchw,goc->ngohw", window, matrix).astype(narrow)
            elif self.kind == "conv_dgrad":
                window += np.einsum("ngohw,goc->ngchw", response, matrix).astype(narrow)
            else:
                matrix += np.einsum("ngohw,ngchw->goc", response, window).astype(narrow)
        made = {"conv_fprop": response, "conv_dgrad": image[(..., *inside)], "conv_wgrad": weight}
        return made[self.kind].reshape(self.found._dim)


def _multiplied(x: np.ndarray, notes: Note) -> np.ndarray:
    """What an engine multiplies: float32, or its first 10 bits of mantissa on tensor cores."""
    x = x.astype(np.float32)
    if "DOWN_CONVERT_INPUTS" in notes:
        bits = x.view(np.uint32) + np.uint32(0x1000)
        x = (bits & np.uint32(0xFFFFE000)).view(np.float32)
    return x


# ------------------------------------------------------------------------------------ the module

PUBLIC = (
    "backend_version", "backend_version_string", "build_plan_policy", "create_handle",
    "cudnnGraphNotSupportedError", "data_type", "destroy_handle", "get_stream", "heur_mode",
    "numerical_note", "pygraph", "set_stream", "tensor", "tensor_reordering", "__version__",
)  # fmt: skip


@contextmanager
def installed() -> Iterator[types.ModuleType]:
    """``import cudnn`` finds the fake inside, and what was there before comes back."""
    made = types.ModuleType("cudnn")
    made.__spec__ = ModuleSpec("cudnn", None)
    made.__dict__.update({name: globals()[name] for name in PUBLIC})
    before = sys.modules.get("cudnn")
    sys.modules["cudnn"] = made
    try:
        yield made
    finally:
        built.clear()
        refused.clear()
        if before is None:
            del sys.modules["cudnn"]
        else:
            sys.modules["cudnn"] = before
