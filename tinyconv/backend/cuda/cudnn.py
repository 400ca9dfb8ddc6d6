"""Convolutions by cuDNN through NVIDIA's frontend, with the arguments of `backend.reference`.

For each geometry cuDNN is asked once for a plan, which takes milliseconds; the plan is kept, and a
convolution is then one call.  Covers float32, and float16 multiplied in half and added up in float;
arrays of fewer than 2^31 elements.  What cuDNN has no plan for goes to the next layer, after one
warning; so does, without one, what a kernel here does not cover: it returns NotImplemented.

Source: cuDNN's graph API, https://docs.nvidia.com/deeplearning/cudnn/frontend/latest

Axes: N batch, C channels, H W image, O output channels, OH OW output image, KH KW kernel.
"""

from __future__ import annotations

import math
import threading
import warnings
from collections.abc import Sequence
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from typing import Any, NamedTuple

import numpy as np

from tinyconv.backend import modes
from tinyconv.backend.array import Array, array_module
from tinyconv.backend.reference import Padding, Pair, output_size

DTYPES = {"e": "HALF", "f": "FLOAT"}  # cuDNN's names of NumPy's
LARGEST = 2**31  # elements of an array
WORKSPACE = 2**30  # bytes: what a plan may use besides its operands
WINOGRADS = ("WINOGRAD", "WINOGRAD_TILE_4x4", "WINOGRAD_TILE_6x6", "WINOGRAD_TILE_13x13")
ALIGNMENT = 16  # bytes: cuDNN's kernels ask for no more
INSTALL = (
    "pip install 'nvidia-cudnn-frontend>=1.23,<1.27' nvidia-cudnn-cu12, "
    "or -cu13 for a driver of CUDA 13"
)


# ----------------------------------------------------------------------------------- the library


def missing() -> str | None:
    """The optional package that is not installed, with its remedy; None if it is there."""
    found = find_spec("cudnn") is not None
    return None if found else f"nvidia-cudnn-frontend is not installed; {INSTALL}"


def prepare(cupy: Any) -> None:
    """Open cuDNN and find a plan of one small convolution; raises where that does not work."""
    image = Operand((1, 1, 3, 3), (9, 9, 3, 1), ALIGNMENT)
    geometry = ((1, 1), ((1, 1), (1, 1)), (1, 1))
    _library(cupy).find(Problem("conv_fprop", (image,) * 3, "f", *geometry, False, False))


def about(cupy: Any) -> str:
    """Which cuDNN computes."""
    frontend = _library(cupy).frontend
    return f"cuDNN {frontend.backend_version_string()}, frontend {frontend.__version__}"


class Library:
    """cuDNN's frontend, a handle for each thread, and the plans that were found."""

    def __init__(self, xp: Any) -> None:
        self.xp = xp
        self.frontend = import_module("cudnn")
        try:
            self.frontend.backend_version()
        except RuntimeError as error:
            raise ImportError(f"the frontend finds no cuDNN ({error}); {INSTALL}") from error
        # The frontend would ask a libcudart for it, which need not be where it looks.
        self.device = {"sm_version": int(xp.cuda.Device().compute_capability)}
        self.plans: dict[Problem, Plan | None] = {}  # None: cuDNN has none
        self.threads = threading.local()

    def handle(self) -> int:
        """This thread's handle, bound to the stream that CuPy launches on now."""
        if not hasattr(self.threads, "handle"):
            self.threads.handle = self.frontend.create_handle()
        handle: int = self.threads.handle
        self.frontend.set_stream(handle=handle, stream=self.xp.cuda.get_current_stream().ptr)
        return handle

    def plan(self, problem: Problem) -> Plan | None:
        """The plan for a problem, None if there is none: the next layer computes it then."""
        if problem not in self.plans:
            try:
                self.plans[problem] = self.find(problem)
            except (self.frontend.cudnnGraphNotSupportedError, RuntimeError) as error:
                self.plans[problem] = None
                said = str(error).strip().partition("\n")[0]
                warnings.warn(
                    f"cuda: cuDNN has no plan for {problem} ({said}); the next slower layer serves",
                    stacklevel=2,
                )
        return self.plans[problem]

    def find(self, problem: Problem) -> Plan:
        return find_plan(self.frontend, problem, handle=self.handle(), **self.device)


@cache
def _library(xp: Any) -> Library:
    return Library(xp)


# ----------------------------------------------------------------------------------------- plans


class Operand(NamedTuple):
    """An array, as far as a plan depends on it; strides in elements, alignment in bytes."""

    shape: tuple[int, ...]
    strides: tuple[int, ...]
    alignment: int


class Problem(NamedTuple):
    """All that a plan depends on.  The groups are in the shapes: channels of x over those of w."""

    kind: str  # conv_fprop, conv_dgrad, conv_wgrad: the frontend's words
    operands: tuple[Operand, ...]  # two inputs, perhaps a bias, and the result
    dtype: str
    stride: Pair
    padding: Padding
    dilation: Pair
    deterministic: bool
    tf32: bool

    def __str__(self) -> str:
        shapes = ", ".join(str(operand.shape) for operand in self.operands)
        geometry = f"stride {self.stride}, padding {self.padding}, dilation {self.dilation}"
        return f"{self.kind} of {np.dtype(self.dtype)} {shapes}, {geometry}"


class Plan(NamedTuple):
    """A plan that can be executed.

    names: the numbers that the graph has for the problem's operands
    workspace: bytes
    """

    graph: Any
    names: tuple[int, ...]
    workspace: int


def find_plan(cudnn: Any, problem: Problem, **device: Any) -> Plan:
    """The first plan that cuDNN's heuristics propose and that is exact enough.

    device: for which GPU, as the frontend's `pygraph` takes it
    """
    graph = cudnn.pygraph(
        io_data_type=getattr(cudnn.data_type, DTYPES[problem.dtype]),
        intermediate_data_type=cudnn.data_type.FLOAT,
        compute_data_type=cudnn.data_type.FLOAT,
        **device,
    )
    tensors = _describe(graph, problem)
    graph.validate()
    graph.build_operation_graph()
    graph.create_execution_plans([cudnn.heur_mode.A, cudnn.heur_mode.FALLBACK])
    graph.deselect_numeric_notes(_refused(cudnn.numerical_note, problem))
    graph.deselect_workspace_greater_than(WORKSPACE)
    graph.check_support()
    graph.build_plans()
    return Plan(graph, tuple(t.get_uid() for t in tensors), graph.get_workspace_size())


def _describe(graph: Any, problem: Problem) -> list[Any]:
    """Put the convolution into the graph; its tensors, in the order of the problem's operands."""
    *inputs, result = problem.operands
    first, second, *bias = tensors = [
        graph.tensor(dim=shape, stride=strides).set_alignment(alignment)
        for shape, strides, alignment in inputs
    ]
    before, after = zip(*problem.padding, strict=True)
    y = getattr(graph, problem.kind)(
        first,
        second,
        pre_padding=before,
        post_padding=after,
        stride=problem.stride,
        dilation=problem.dilation,
    )
    if bias:
        y = graph.bias(y.set_dim(result.shape).set_stride(result.strides), bias[0])
    y.set_output(True).set_dim(result.shape).set_stride(result.strides)
    return [*tensors, y.set_alignment(result.alignment)]


def _refused(note: Any, problem: Problem) -> list[Any]:
    """What may not be said of a plan; cuDNN multiplies float32 as TF32 unless that is refused."""
    refused = [note.REDUCED_PRECISION_REDUCTION]  # sums are float32
    # Fast algorithms let an output depend on pixels that it does not read (docs/conv.md).
    refused += [note.FFT, *(note.__members__[name] for name in WINOGRADS)]
    if problem.deterministic:
        refused.append(note.NONDETERMINISTIC)
    if problem.dtype == "f" and not problem.tf32:
        refused += [note.TENSOR_CORE, note.DOWN_CONVERT_INPUTS]
    return refused


def _convolve(
    kind: str,
    inputs: Sequence[Array],
    shape: Sequence[int],
    *,
    stride: Pair,
    padding: Padding,
    dilation: Pair,
) -> Array:
    """A new array of `shape`; NotImplemented where there is no plan."""
    xp, dtype = array_module(inputs[0]), inputs[0].dtype
    inputs = [_packed(x) for x in inputs]
    result = xp.empty(tuple(shape), dtype)
    operands = [*inputs, result]
    library = _library(xp)
    problem = Problem(
        kind,
        tuple(map(_operand, operands)),
        dtype.char,
        stride,
        padding,
        dilation,
        modes.deterministic(),
        dtype.char == "f" and modes.get_float32_precision() == "tf32",
    )
    plan = library.plan(problem)
    if plan is None:
        return NotImplemented
    workspace = xp.empty((plan.workspace,), np.uint8)
    plan.graph.execute(
        dict(zip(plan.names, (x.data.ptr for x in operands), strict=True)),
        workspace.data.ptr,
        handle=library.handle(),
    )
    return result


def _packed(x: Array) -> Array:
    """x itself if its images lie one after the other, by channel or by pixel; or else a copy."""
    if x.flags.c_contiguous or x.transpose(0, 2, 3, 1).flags.c_contiguous:
        return x
    return array_module(x).ascontiguousarray(x)


def _operand(x: Array) -> Operand:
    """A packed array; its own strides would do, but along an axis of size 1 they can be 0."""
    C, H, W = x.shape[1:]
    by_channel, by_pixel = (C * H * W, H * W, W, 1), (C * H * W, 1, W * C, C)
    address = x.data.ptr
    largest_power = address & -address  # of two, that divides it
    strides = by_channel if x.flags.c_contiguous else by_pixel
    return Operand(x.shape, strides, min(ALIGNMENT, largest_power))


# ----------------------------------------------------------------------------------- convolution


def conv2d(
    x: Array,
    w: Array,
    *,
    stride: Pair,
    padding: Padding,
    dilation: Pair,
    groups: int,
    bias: Array | None = None,
) -> Array:
    """See `reference.conv2d`; a bias (O,) is added in the same call."""
    out_size = output_size(x.shape[2:], w.shape[2:], stride, dilation, padding)
    shape = (len(x), len(w), *out_size)
    inputs = [x, w] if bias is None else [x, w, bias.reshape(1, -1, 1, 1)]
    if not _covers(inputs, shape):
        return NotImplemented
    return _convolve("conv_fprop", inputs, shape, stride=stride, padding=padding, dilation=dilation)


def conv2d_input(
    g: Array,
    w: Array,
    *,
    input_size: Pair,
    stride: Pair,
    padding: Padding,
    dilation: Pair,
    groups: int,
) -> Array:
    """See `reference.conv2d_input`."""
    shape = (len(g), w.shape[1] * groups, *input_size)
    out_size = output_size(shape[2:], w.shape[2:], stride, dilation, padding)
    if not _covers([g, w], shape) or out_size != g.shape[2:]:
        return NotImplemented
    return _convolve("conv_dgrad", [g, w], shape, stride=stride, padding=padding, dilation=dilation)


def conv2d_weight(
    x: Array,
    g: Array,
    *,
    kernel_size: Pair,
    stride: Pair,
    padding: Padding,
    dilation: Pair,
    groups: int,
) -> Array:
    """See `reference.conv2d_weight`."""
    shape = (g.shape[1], x.shape[1] // groups, *kernel_size)
    out_size = output_size(x.shape[2:], kernel_size, stride, dilation, padding)
    if not _covers([x, g], shape) or out_size != g.shape[2:]:
        return NotImplemented  # cuDNN wants a gradient of every window that there is room for
    return _convolve("conv_wgrad", [x, g], shape, stride=stride, padding=padding, dilation=dilation)


def _covers(inputs: Sequence[Array], shape: Sequence[int]) -> bool:
    """Are the inputs of one dtype that cuDNN is asked for, and no array empty or too large?"""
    dtype = inputs[0].dtype
    return (
        dtype.char in DTYPES
        and all(x.dtype == dtype for x in inputs)
        and min(shape) > 0
        and all(0 < size < LARGEST for size in (math.prod(shape), *(x.size for x in inputs)))
    )
