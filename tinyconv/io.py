"""Checkpoints: nested dicts and lists of Tensors and plain values in one safetensors file.

The Tensors are the file's tensors, named by their path ("model.conv1.weight"); so the file of a
plain state_dict is what any reader of safetensors expects.  Everything else, and where each
Tensor goes, is JSON in the file's metadata.  Nothing is ever unpickled: a file cannot run code.

Format: https://huggingface.co/docs/safetensors, 8 bytes (the header's length), the header (JSON),
the numbers.
"""

from __future__ import annotations

import json
import math
import os
import re
import stat
import struct
from contextlib import suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import safetensors
from safetensors.numpy import save as to_safetensors

from tinyconv.autograd import wrap
from tinyconv.backend import Backend, backend_named, backend_of, moved
from tinyconv.errors import TinyconvError
from tinyconv.random import get_rng_state, set_rng_state
from tinyconv.tensor import Tensor

try:
    import fcntl as fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

_ORPHAN = re.compile(r"\.(.+)\.[0-9a-f]{32}\.tmp")
_METADATA = "tinyconv"  # the entry of the file's metadata that holds the structure

_DTYPES = {
    "F16": "float16", "F32": "float32", "F64": "float64", "I8": "int8", "I16": "int16",
    "I32": "int32", "I64": "int64", "U8": "uint8", "BOOL": "bool",
}

_FROM_TORCH = "in PyTorch: safetensors.torch.save_file(model.state_dict(), path), and load that"

_FOREIGN = [  # what other files begin with, what they are, what to do
    (b"PK\x03\x04", "a zip archive, as torch.save writes", _FROM_TORCH),
    (b"\x80", "a pickle, as older versions of torch.save write", _FROM_TORCH),
    (b"<", "HTML or XML, perhaps the error page of a download", "download it again and look at it"),
    (b"version https://git-lfs", "a Git LFS pointer", "fetch the file itself: git lfs pull"),
    (b"\x93NUMPY", "a .npy file", "tc.from_numpy(np.load(path))"),
    (b"\x89HDF", "an HDF5 file, such as Keras writes", "read it with h5py and save its arrays"),
    (b"\x1f\x8b", "compressed with gzip", "gunzip it first"),
]


class CheckpointError(TinyconvError, ValueError):
    """A file that is no checkpoint, or not all of one."""


# --- the two that most people need


def save(obj: Any, path: str | os.PathLike[str]) -> None:
    """Write ``obj`` to a safetensors file, completely or not at all.

    obj: a Tensor, number, string, bool or None, or dicts, lists and tuples of these, nested.
    A state_dict gives a file whose keys are the parameters' names.

    The file appears under its name only when all of it is on the disk; a crash before leaves the
    former one.  TypeError for other objects: it says where, and what to save instead.  ValueError
    for what contains itself.
    """
    target = Path(path)
    if target.exists() and not target.is_file() and not target.is_dir():
        target.write_bytes(encoded(obj))  # a device or a pipe: a file must not take its place
    else:
        write(target.resolve(), encoded(obj))  # through a link: replace the file, not the link


def encoded(obj: Any) -> bytes:
    """The file that `save` writes."""
    tensors: dict[str, np.ndarray[Any, Any]] = {}
    try:
        structure = json.dumps(_encode(obj, (), tensors), allow_nan=False, separators=(",", ":"))
    except RecursionError:
        raise ValueError(
            "save: the object contains itself, or is nested too deep for a file; leave out the "
            "dict, list or tuple that leads back to the one it is in"
        ) from None
    return to_safetensors(tensors, {_METADATA: structure})


def load(path: str | os.PathLike[str], map_location: str = "cpu") -> Any:
    """What `save` wrote, bit for bit; of another program's file, the dict of its Tensors.

    Tensors come back on the device ``map_location``, wherever they were, contiguous and without
    requires_grad; bfloat16, which NumPy lacks, as float32.

    CheckpointError for a file that is truncated or something else.
    """
    data = Path(path).read_bytes()
    try:
        entries = safetensors.deserialize(data)  # type: ignore[no-untyped-call]
    except safetensors.SafetensorError as error:
        raise CheckpointError("load", f"{path} {_diagnosis(data)} ({error})") from error
    backend = backend_named(map_location)
    tensors = {name: _tensor(path, name, entry, backend) for name, entry in entries}
    metadata = _header(data).get("__metadata__") or {}
    if _METADATA not in metadata:
        return tensors
    try:
        return _decode(json.loads(metadata[_METADATA]), tensors)
    except (ValueError, LookupError, TypeError, RecursionError) as error:
        raise CheckpointError("load", f"{path} was changed after tc.save wrote it: its structure "
                                      f"does not fit its tensors ({error!r})") from error


# --- a training run


def save_checkpoint(
    path: str | os.PathLike[str], *, model: Any, optimizer: Any = None, schedule: Any = None,
    **more: Any,
) -> None:
    """Save all that training needs to continue bit for bit: states, the random stream, ``more``.

        save_checkpoint(path, model=model, optimizer=optimizer, schedule=schedule, epoch=3)
    """
    save(checkpoint(model=model, optimizer=optimizer, schedule=schedule, **more), path)


def checkpoint(
    *, model: Any, optimizer: Any = None, schedule: Any = None, **more: Any
) -> dict[str, Any]:
    """What `save_checkpoint` saves."""
    parts = {"model": model, "optimizer": optimizer, "schedule": schedule}
    states = {name: part.state_dict() for name, part in parts.items() if part is not None}
    return {**states, "rng": get_rng_state(), **more}


def load_checkpoint(
    path: str | os.PathLike[str], *, model: Any, optimizer: Any = None, schedule: Any = None
) -> dict[str, Any]:
    """Load a `save_checkpoint` into its parts and the random stream; returns the rest.

        start = load_checkpoint(path, model=model, optimizer=optimizer)["epoch"]
    """
    found = load(path)
    if not isinstance(found, dict):
        kind = type(found).__name__
        raise CheckpointError("load_checkpoint", f"{path} holds a {kind}; use tc.load(path)")
    parts = {"model": model, "optimizer": optimizer, "schedule": schedule}
    wanted = {name: part for name, part in parts.items() if part is not None}
    missing = [name for name in (*wanted, "rng") if name not in found]
    if missing:
        held = ", ".join(map(str, list(found)[:8]))
        raise CheckpointError(
            "load_checkpoint",
            f"{path} has no {' and no '.join(missing)}; it holds {held}. For a bare state_dict: "
            "model.load_state_dict(tc.load(path))",
        )
    for name, part in wanted.items():
        part.load_state_dict(found.pop(name))
    set_rng_state(found.pop("rng"))
    return found


# --- objects to JSON and back
#
# A JSON object always has one key, which says what it stands for; so a dict may have any keys.


def _encode(obj: Any, path: tuple[str, ...], tensors: dict[str, Any]) -> Any:
    """``obj`` as JSON; its Tensors go into ``tensors``."""
    if isinstance(obj, np.generic):  # a NumPy number, as a metric often is
        obj = obj.item()
    if obj is None or type(obj) in (bool, int, str):
        return obj
    if type(obj) is float:  # JSON has no inf and no nan
        return obj if math.isfinite(obj) else {"float": struct.pack(">d", obj).hex()}
    if isinstance(obj, Tensor):
        key = _unused(".".join(path) or "tensor", tensors)
        tensors[key] = np.asarray(backend_of(obj.array).to_numpy(obj.array), order="C")
        return {"tensor": key}
    if isinstance(obj, dict):
        pairs = [[_key(k, path), _encode(v, (*path, str(k)), tensors)] for k, v in obj.items()]
        return {"dict": pairs}
    if type(obj) in (list, tuple):
        items = [_encode(item, (*path, str(i)), tensors) for i, item in enumerate(obj)]
        return items if type(obj) is list else {"tuple": items}
    raise TypeError(f"save: {_place(path)} is a {type(obj).__name__}; {_advice(obj)}")


def _key(key: Any, path: tuple[str, ...]) -> Any:
    if key is None or type(key) in (bool, int, str):
        return key
    raise TypeError(f"save: {_place(path)} has the key {key!r}; keys are strings or integers")


def _unused(key: str, tensors: dict[str, Any]) -> str:
    """{"a.b": x, "a": {"b": y}} would name two tensors alike; "__metadata__" is reserved."""
    while key in tensors or key == "__metadata__":
        key += "'"
    return key


def _place(path: tuple[str, ...]) -> str:
    return ".".join(path) or "the object"


def _advice(obj: Any) -> str:
    if hasattr(obj, "state_dict"):
        return "save what it has learnt: .state_dict()"
    if isinstance(obj, np.ndarray):
        return "make it a Tensor: tc.from_numpy(x)"
    if hasattr(obj, "numpy") and hasattr(obj, "detach"):
        return "make it a Tensor: tc.from_numpy(x.detach().numpy())"
    if callable(obj):
        return "code is not saved: save its name or its settings"
    return "save Tensors, numbers, strings, bools, None, and dicts, lists and tuples of them"


def _decode(node: Any, tensors: dict[str, Tensor]) -> Any:
    if isinstance(node, list):
        return [_decode(item, tensors) for item in node]
    if not isinstance(node, dict):
        return node
    ((kind, value),) = node.items()
    if kind == "tensor":
        return tensors[value]
    if kind == "dict":
        return {key: _decode(item, tensors) for key, item in value}
    if kind == "tuple":
        return tuple(_decode(item, tensors) for item in value)
    if kind == "float":
        return struct.unpack(">d", bytes.fromhex(value))[0]
    raise ValueError(f"unknown kind {kind!r}")


def _tensor(path: Any, name: str, entry: dict[str, Any], backend: Backend) -> Tensor:
    dtype, shape, data = entry["dtype"], entry["shape"], entry["data"]
    if dtype == "BF16":  # the upper half of a float32
        array = (np.frombuffer(data, "<u2").astype(np.uint32) << 16).view(np.float32)
    elif dtype in _DTYPES:
        array = np.frombuffer(data, np.dtype(_DTYPES[dtype]).newbyteorder("<"))
    else:
        known = ", ".join(["BF16", *_DTYPES])
        raise CheckpointError("load", f"{path}: {name} is {dtype}; tinyconv reads {known}")
    return wrap(moved(array.reshape(shape), backend))


# --- bytes to disk and back


def write(target: Path, data: bytes) -> None:
    """All or nothing, on the disk when this returns; a file that was there keeps its mode.

    The temporary name is this call's own, so writers do not meet.  A symbolic link of the target's
    name is replaced, not followed.  What killed writers of this target left is removed.
    """
    if not target.parent.is_dir():
        raise FileNotFoundError(f"save: there is no folder {target.parent}; make it first")
    remove_orphans(target.parent, _short(target.name))
    temporary, file = _temporary(target)
    try:
        with file:
            if target.is_file() and not target.is_symlink() and hasattr(os, "fchmod"):
                os.fchmod(file.fileno(), stat.S_IMODE(target.stat().st_mode))
            file.write(data)
            file.flush()
            os.fsync(file.fileno())  # or a power cut may leave the new name with an empty file
            if fcntl is None:
                file.close()  # Windows renames no open file; elsewhere the lock holds until then
            os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)
    if fcntl is not None:  # the new name, too
        folder = os.open(target.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def _temporary(target: Path) -> tuple[Path, Any]:
    """A new file beside the target, locked as long as it is open."""
    while True:
        path = target.with_name(f".{_short(target.name)}.{uuid4().hex}.tmp")
        file = open(path, "xb")  # noqa: SIM115 - the caller closes it
        if fcntl is not None:
            with suppress(OSError):  # where there are no locks, nobody removes orphans
                fcntl.flock(file.fileno(), fcntl.LOCK_EX)  # waits for who takes it for an orphan
        if path.exists():
            return path, file
        file.close()


def _short(name: str) -> str:
    """Of a long name, so much that the temporary one is not too long for the file system."""
    return os.fsdecode(os.fsencode(name)[:200])


def remove_orphans(folder: Path, name: str | None = None) -> None:
    """Remove the temporary files of writers that were killed, of one target or of all.

    A writer that is alive holds a lock on its file.
    """
    for path in folder.glob(".*.tmp") if fcntl is not None else ():
        found = _ORPHAN.fullmatch(path.name)
        if found is None or name not in (None, found[1]):
            continue
        with suppress(OSError):  # another process was faster, or may and we may not
            descriptor = os.open(path, os.O_RDWR | os.O_NOFOLLOW)
            try:
                if _try_lock(descriptor):
                    path.unlink()
            finally:
                os.close(descriptor)


def _try_lock(descriptor: int) -> bool:
    """Lock a file; False if somebody else has, or this file system cannot."""
    if fcntl is None:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _header(data: bytes) -> dict[str, Any]:
    (length,) = struct.unpack("<Q", data[:8])
    return json.loads(data[8 : 8 + length])


def _diagnosis(data: bytes) -> str:
    """What is wrong with a file that is not a safetensors file."""
    if len(data) < 9:
        fault = "is truncated" if data else "is empty"
        return f"{fault}: it has {len(data)} bytes. Copy it again, or use an earlier checkpoint"
    expected = _expected_size(data)
    if expected == len(data):
        return "has a damaged header"
    if expected is not None:
        fault = "is truncated" if expected > len(data) else "goes on after its end"
        return (f"{fault}: expected {expected:,} bytes, found {len(data):,}. Copy it again, or "
                "use an earlier checkpoint")
    for start, what, remedy in _FOREIGN:
        if data.startswith(start):
            return f"is not a safetensors file but looks like {what}; {remedy}"
    return f"is not a safetensors file: it has {len(data):,} bytes and begins with {data[:16]!r}"


def _expected_size(data: bytes) -> int | None:
    """The size that the header implies; None if there is no header."""
    if data[8:9] != b"{":
        return None
    (length,) = struct.unpack("<Q", data[:8])
    if length > 100_000_000:  # the format's limit; text gives more
        return None
    if len(data) < 8 + length:
        return int(8 + length)
    try:
        entries = [entry for name, entry in _header(data).items() if name != "__metadata__"]
        return int(8 + length + max((entry["data_offsets"][1] for entry in entries), default=0))
    except (ValueError, LookupError, TypeError):
        return None
