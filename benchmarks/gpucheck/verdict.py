"""The targets, and what a report says of each: met, short, or not measured and why."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from gpucheck.parts import Row

Parts = dict[str, Row]

# A train step's time divided by PyTorch's, by path and batch, in the same precision and run.
STEPS = {
    "xp": {128: 6.0, 512: 5.0, 2048: 6.0},
    "own": {128: 1.8, 512: 2.0, 2048: 2.5},
    "cudnn": {128: 1.3, 512: 1.3, 2048: 1.3},
    "graph": {128: 0.6, 512: 0.9, 2048: 1.2},
}
# A single 3x3 convolution, forward and both gradients: path, precisions, channels, target.
SINGLE = (
    ("own", ("fp32",), range(1, 33), 3.0),
    ("own", ("fp32",), range(64, 257), 1.7),
    ("cudnn", ("fp32", "tf32", "fp16"), range(1, 257), 1.1),
)
TOLERANCES = {"fp32": 1e-5, "tf32": 2e-3, "fp16": 1e-2}  # ||error|| / ||reference||
LAUNCHES = {"own": 130, "cudnn": 100}  # of a train step
PEER = "torch"  # eager, its default layout


def verdicts(parts: Parts) -> list[Row]:
    """A row for each target: what, value, target, verdict, why."""
    return [*correctness(parts), *steps(parts), *single(parts)]


def judged(what: str, value: float | None, target: float, why: str = "") -> Row:
    verdict = "not measured" if value is None else "met" if value <= target else "short"
    return {"what": what, "value": value, "target": target, "verdict": verdict, "why": why}


def rows_of(parts: Parts, name: str) -> dict[str, Row]:
    return parts.get(name, {}).get("rows", {})


def first(rows: dict[str, Row]) -> Row | None:
    return next(iter(rows.values()), None)


def why_not(parts: Parts, part: str, row: Row | None, *sides: str) -> str:
    """What kept a figure, or the ratio of the sides, from being measured."""
    if part not in parts:
        return "not asked for"
    for held in (row or {}, parts[part]):
        for key in ("not run", "error", "stopped"):
            if key in held:
                return str(held[key])
    if row is None:
        return "not among the rows"
    missing = row.get("missing", {})
    if isinstance(missing, str):
        return missing
    left_out = rows_of(parts, "configuration").get("paths", {}).get("left out", {})
    for side in sides:
        if why := missing.get(side) or left_out.get(side):
            return str(why)
    return f"no path {sides[0]!r} here" if sides else "no such figure"


# --------------------------------------------------------------------------------- correctness


FAULTS = {
    "operations": "operations with a wrong result, on any path",
    "determinism": "paths on which two equal runs differ, or fail",
    "audit": "train steps that wait for the device, or fail",
    "epoch": "epochs of MNIST that end with too low an accuracy",
    "suite": "failures in the test suite",
}


def correctness(parts: Parts) -> Iterator[Row]:
    for part, what in FAULTS.items():
        rows = rows_of(parts, part)
        told = {name: row for name, row in rows.items() if "ok" in row or "error" in row}
        wrong = {name: row for name, row in told.items() if not row.get("ok")}
        count = sum(row.get("failed", 1) for row in wrong.values())
        why = "; ".join(f"{k}: {r.get('why') or r.get('error')}" for k, r in wrong.items())
        left = sum("not run" in row for row in rows.values())
        if not told:
            yield judged(what, None, 0, why_not(parts, part, first(rows)))
        else:
            yield judged(what, count, 0, "; ".join(filter(None, [why, left and f"{left} not run"])))
    yield from errors(parts)
    yield from launches(parts)


def errors(parts: Parts) -> Iterator[Row]:
    """The registry's largest error in each precision, on any path."""
    rows = rows_of(parts, "operations")
    for precision, tolerance in TOLERANCES.items():
        what = f"largest relative error of an operation, {precision}"
        found = [
            (as_number(error), f"{name}, {path}, {order}")
            for name, row in rows.items()
            for path, precisions in row.get("worst", {}).items()
            for order, error in precisions.get(precision, {}).items()
        ]
        if found:
            worst, where = max(found, key=lambda pair: (math.isnan(pair[0]), pair[0]))
            yield judged(what, worst, tolerance, where)
        else:
            yield judged(what, None, tolerance, why_not(parts, "operations", first(rows)))


def launches(parts: Parts) -> Iterator[Row]:
    for path, most in LAUNCHES.items():
        row = rows_of(parts, "audit").get(f"{path}: launches")
        counts = [row[kind] for kind in ("kernels", "copies", "fills") if kind in (row or {})]
        why = "" if counts else why_not(parts, "audit", row, path)
        yield judged(
            f"launches of a train step, {path}", sum(counts) if counts else None, most, why
        )


def as_number(value: Any) -> float:
    """Of the report, in which nan and inf are text."""
    return float(value)


# --------------------------------------------------------------------------------------- ratios


def ratio_of(row: Row, path: str) -> float | None:
    found = row.get("ratios", {}).get(path, {}).get(PEER)
    return None if found is None else as_number(found[0])


def steps(parts: Parts) -> Iterator[Row]:
    for path, targets in STEPS.items():
        part = "graphs" if path == "graph" else "steps"
        for precision in ("fp32", "tf32"):
            for batch, target in targets.items():
                row = rows_of(parts, part).get(f"batch {batch}, {precision}")
                value = ratio_of(row or {}, path)
                why = "" if value is not None else why_not(parts, part, row, path, PEER)
                what = f"ResNet-8 step, batch {batch}, {precision}, {path}"
                yield judged(what, value, target, why)


def single(parts: Parts) -> Iterator[Row]:
    """The worst 3x3 convolution in each range of channels."""
    rows = rows_of(parts, "convolutions")
    for path, precisions, channels, target in SINGLE:
        for precision in precisions:
            wanted = [row for name, row in rows.items() if name.endswith(f", {precision}")]
            mine = [r for r in wanted if r.get("k") == 3 and r.get("c") in channels]
            found = [(value, r["geometry"]) for r in mine if (value := ratio_of(r, path))]
            what = (f"3x3 convolutions, {channels[0]} to {channels[-1]} channels, "
                    f"{precision}, {path}")  # fmt: skip
            if found:
                value, where = max(found)
                yield judged(what, value, target, f"worst of {len(found)}: {where}")
            else:
                row = next(iter([*mine, *wanted]), None)
                yield judged(what, None, target, why_not(parts, "convolutions", row, path, PEER))
