"""Operands of one dtype and one device, as PyTorch promotes them, or an error that says which."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from tinyconv.backend import backend_of
from tinyconv.backend.silence import silence
from tinyconv.dtypes import float16, float32, int64
from tinyconv.errors import DeviceError, DTypeError, not_taken

if TYPE_CHECKING:
    from tinyconv.autograd.rule import Rule


def agree(rule: Rule, arrays: list[Any]) -> list[Any]:
    """Operands of one dtype and one device, or an error; numbers take the tensor's dtype."""
    same = range(len(arrays)) if rule.variadic else rule.same
    first = arrays[same[0]]
    if not hasattr(first, "dtype"):
        return _promote(rule, arrays, same)
    kind = type(first)
    for i in same:
        other = arrays[i]
        if other is not None and (type(other) is not kind or other.dtype is not first.dtype):
            return _promote(rule, arrays, same)
    return arrays


def _promote(rule: Rule, arrays: list[Any], same: Sequence[int]) -> list[Any]:
    # np.float64(2) counts as the number 2: it must not widen float32
    arrays = [a.item() if isinstance(a, np.generic) else a for a in arrays]
    numbers = [i for i in same if type(arrays[i]) in (int, float, bool)]
    tensors = [i for i in same if i not in numbers and arrays[i] is not None]
    for i in tensors:
        if not hasattr(arrays[i], "astype"):  # no array
            check_operands(rule.name, arrays)
            said = f"operand {i} has a Tensor as its .array, need an array: x.array = y.array"
            raise DTypeError(rule.name, said)
    check_devices(rule.name, arrays)
    floats = {arrays[i].dtype for i in tensors if arrays[i].dtype.kind == "f"}
    if len(floats) > 1:
        listed = " and ".join(f"operand {i} is {arrays[i].dtype}" for i in tensors)
        target = min(floats, key=lambda d: abs(d.itemsize - 4))
        raise DTypeError(rule.name, f"{listed}; convert one: x.to(tc.{target})")
    if floats:
        (target,) = floats
        if rule.float32_number and target == float16:
            for i in numbers:
                arrays[i] = wide_number(arrays[i])
    elif rule.takes == "promoted":
        return arrays
    elif tensors:
        target = common_dtype([arrays[i] for i in (*tensors, *numbers)])
        for i in numbers:
            arrays[i] = rule.number(rule.name, arrays[i], target)
    for i in tensors:
        arrays[i] = arrays[i].astype(target, copy=False)
    return arrays


def admit(rule: Rule, arrays: list[Any], params: dict[str, Any]) -> list[Any]:
    """What `takes` promises; integers as float32 where they are "promoted"."""
    if params.get("dtype") is not None:  # says what to compute in
        return arrays
    places = range(len(arrays)) if rule.variadic else rule.same or range(len(arrays))
    if rule.takes in ("floats", "promoted") and rule.agree:
        arrays = agree(rule, arrays)  # integers beside floats become floats
    dtypes = {i: arrays[i].dtype for i in places if hasattr(arrays[i], "dtype")}
    for i, dtype in dtypes.items():
        if dtype.kind == "b" or (dtype.kind in "iu" and rule.takes in ("floats", "promoted")):
            if rule.takes != "promoted":
                raise not_taken(rule.name, i, dtype)
            arrays[i] = arrays[i].astype(float32)
    mixed = rule.takes == "alike" and len(set(dtypes.values())) > 1
    if mixed and all(dtype.kind != "f" for dtype in dtypes.values()):
        listed = " and ".join(f"operand {i} is {dtype}" for i, dtype in dtypes.items())
        raise DTypeError(rule.name, f"{listed}; convert them: x.long()")
    return arrays


def common_dtype(operands: Sequence[Any]) -> Any:
    """The dtype that PyTorch computes in, of arrays of which at most one kind of float is there.

    Floats come before integers, integers before booleans; within one kind an array with axes
    counts, then a 0-d one, then a Python number.
    """
    ranked: dict[tuple[int, int], Any] = {}
    for x in operands:
        dtype = _NUMBERS[type(x)] if not hasattr(x, "dtype") else x.dtype
        place = (2 if getattr(x, "shape", ()) else 1) if hasattr(x, "dtype") else 0
        rank = ("biuf".index(dtype.kind) + 1) // 2, place  # i and u are one kind
        held = ranked.get(rank)
        ranked[rank] = dtype if held is None else np.promote_types(held, dtype)
    return np.dtype(ranked[max(ranked)])


_NUMBERS = {bool: np.dtype(bool), int: int64, float: float32}


def wide_number(value: float) -> np.float32:
    """A Python number that widens float16, as in PyTorch: 65536 is infinite in float16."""
    with silence():
        return np.float32(value)


def as_number(name: str, value: Any, dtype: Any) -> Any:
    """A Python number as an operand of this dtype: integers wrap as PyTorch's, uint8 * -1."""
    if dtype.kind == "f" or type(value) is float:
        return value
    if not -(2**63) <= value < 2**64:
        raise DTypeError(name, f"{value} does not fit into 64 bits; use a float: {float(value)}")
    if dtype.kind == "b":
        return bool(value)
    bits = 8 * dtype.itemsize
    low = 0 if dtype.kind == "u" else -(2 ** (bits - 1))
    return (int(value) - low) % 2**bits + low


def exact_number(name: str, value: Any, dtype: Any) -> Any:
    """A number that is written into this dtype; DTypeError where PyTorch finds no room for it."""
    if dtype.kind in "iu" and not isinstance(value, bool):
        most = np.iinfo(dtype).max
        least = -most if dtype.kind == "u" else -most - 1  # PyTorch lets -1 be 255, but not 300
        if not least <= value <= most:
            raise DTypeError(name, f"{value} does not fit into {dtype}; convert: x.float()")
        return as_number(name, int(value), dtype)
    return bool(value) if dtype.kind == "b" else value


def check_operands(name: str, operands: Iterable[Any]) -> None:
    """DTypeError for what is neither a tensor, an array nor a number: a list, say."""
    for i, x in enumerate(operands):
        if not (x is None or hasattr(x, "dtype") or isinstance(x, (int, float))):
            raise DTypeError(name, f"operand {i} is a {type(x).__name__}; use tc.tensor(...)")


def check_devices(name: str, operands: Sequence[Any]) -> None:
    """DeviceError unless all arrays are on one device; numbers go everywhere."""
    held = [(i, x) for i, x in enumerate(operands) if hasattr(x, "strides")]
    held = [(i, x) for i, x in held if not isinstance(x, np.generic)]
    if len({type(x) for _, x in held}) > 1 and len({backend_of(x) for _, x in held}) > 1:
        listed = " and ".join(f"operand {i} {x.shape} on {backend_of(x).device}" for i, x in held)
        raise DeviceError(
            name, f"{listed}; move one: x.to(y.device), of an array tc.tensor(a, device=y.device)"
        )
