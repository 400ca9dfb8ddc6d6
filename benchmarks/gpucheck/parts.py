"""The registry of parts, and how one is run.

A part is a function from a `Context` to its rows: a name for each, and what measures it.

    @part(share=10)
    def ceilings(context: Context) -> Rows:
        "The first line says what is measured."
        return {"copy": lambda: {"bytes_per_second": ...}}

All names are noted as "not run" before the first row is measured.  So whatever ends the part, its
time or a crash, the file says of each row what became of it.
"""

from __future__ import annotations

import json
import os
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from geometry import Geometry

Row = dict[str, Any]
Rows = dict[str, Callable[[], Row]]


class Missing(RuntimeError):
    """This machine or version has no such side."""


@dataclass(frozen=True)
class Sizes:
    """How much is measured; `TINY` is for machines without a GPU."""

    batches: tuple[int, ...] = (128, 512, 2048)
    precisions: tuple[str, ...] = ("fp32", "tf32")  # of the steps
    rounds: int = 9
    turn: float = 0.02  # seconds for which a side does steps in its turn, about
    short_turn: float = 0.006  # the same of single convolutions
    steps: int = 20
    copied: int = 2**30  # bytes
    matrix: int = 8192
    busy: float = 0.3  # seconds for which the device is kept busy
    operations: tuple[str, ...] | None = None  # None: all
    convolutions: tuple[Geometry, ...] = (
        Geometry(128, 28, 1, 16),
        Geometry(128, 28, 16, 16),
        Geometry(128, 28, 16, 32, stride=2),
        Geometry(128, 14, 32, 32),
        Geometry(128, 7, 64, 64),
        Geometry(128, 56, 64, 64),
        Geometry(128, 28, 128, 128),
        Geometry(128, 14, 256, 256),
        Geometry(128, 28, 16, 32, k=1, stride=2),
    )
    images: int | None = None  # of MNIST's training images; None: all
    accuracy: float = 90.0  # after an epoch; a sound run ends a good deal above it
    tests: tuple[str, ...] = ("-m", "device")


TINY = Sizes(
    batches=(2,),
    precisions=("tf32",),
    rounds=1,
    turn=0.0,
    short_turn=0.0,
    steps=2,
    copied=2**10,
    matrix=8,
    busy=0.0,
    operations=("add", "relu", "conv2d", "max_pool2d", "softmax"),
    convolutions=(Geometry(1, 5, 2, 3), Geometry(1, 5, 64, 2, stride=2)),
    images=8,
    accuracy=0.0,
    tests=("-m", "device", "-k", "test_gradcheck and relu", "tests/test_ops.py"),
)


@dataclass
class Context:
    """What a part is given.

    seconds: for the whole part, from now on
    folder:  where it may write
    backend: "cupy", or the stand-in for it: what `pytest --backend` takes
    """

    seconds: float
    folder: Path
    sizes: Sizes = field(default_factory=Sizes)
    backend: str = "cupy"
    started: float = field(default_factory=time.monotonic)

    def left(self) -> float:
        """Seconds that the part has left."""
        return self.seconds - (time.monotonic() - self.started)


@dataclass(frozen=True)
class Part:
    """share: of the time, relative to the other parts'."""

    name: str
    title: str
    share: float
    rows: Callable[[Context], Rows]


PARTS: dict[str, Part] = {}


def part(share: float) -> Callable[[Callable[[Context], Rows]], Callable[[Context], Rows]]:
    """Register a part; its title is the first line of its docstring."""

    def register(rows: Callable[[Context], Rows]) -> Callable[[Context], Rows]:
        name = rows.__name__
        PARTS[name] = Part(name, (rows.__doc__ or name).partition("\n")[0], share, rows)
        return rows

    return register


def in_order() -> list[Part]:
    """Small shares first: what they leave goes to those that can use it."""
    return sorted(PARTS.values(), key=lambda part: part.share)


def run(chosen: Part, context: Context, path: Path) -> Row:
    """Measure the rows of a part, writing all that is known into `path` after each."""
    found: Row = {"rows": {}}
    try:
        rows = chosen.rows(context)
    except Exception as error:
        found["error"] = reason(error)
        write(path, found)
        return found
    found["rows"] = {name: {"not run": "time"} for name in rows}
    write(path, found)
    for name, measure in rows.items():
        if context.left() <= 0:
            break
        try:
            found["rows"][name] = measure()
        except Exception as error:
            found["rows"][name] = {"error": reason(error)}
        write(path, found)
    return found


def reason(error: BaseException) -> str:
    """An exception and where it was raised, in a line."""
    frames = traceback.extract_tb(error.__traceback__)
    where = f" ({Path(frames[-1].filename).name}:{frames[-1].lineno})" if frames else ""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}{where}"


def write(path: Path, value: Any) -> None:
    """JSON, completely or not at all; numbers that JSON lacks become text."""
    temporary = path.with_name(f"{path.name}.tmp")
    temporary.write_text(json.dumps(_plain(value), indent=1, allow_nan=False) + "\n")
    os.replace(temporary, path)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _plain(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(entry) for entry in value]
    if isinstance(value, float) and value - value != 0:
        return str(value)  # "nan" or "inf"
    return value
