"""A report's tables in Markdown, for docs/performance.md: every figure is the report's."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from timing import format_time

from gpucheck.parts import Row
from gpucheck.verdict import as_number, rows_of

Section = Callable[[Row], Iterator[str]]
SECTIONS: dict[str, Section] = {}
KERNELS = ("forward", "dX", "dW")


def section(title: str) -> Callable[[Section], Section]:
    """Register what a section says; one without lines is left out."""

    def register(lines: Section) -> Section:
        SECTIONS[title] = lines
        return lines

    return register


def tables(report: Row) -> str:
    """All sections, under their titles."""
    written = []
    for title, lines in SECTIONS.items():
        if body := list(lines(report)):
            written.append("\n".join([f"### {title}", "", *body]))
    return "\n\n".join(written)


def table(header: Iterable[str], rows: Iterable[Iterable[Any]]) -> Iterator[str]:
    """The lines of a table; no lines without rows."""
    lines = [[str(cell).replace("|", "/").replace("\n", " ") for cell in row] for row in rows]
    if lines:
        header = list(header)
        for cells in (header, ["---"] * len(header), *lines):
            yield f"| {' | '.join(cells)} |"


def mebibytes(count: float) -> str:
    return f"{count / 2**20:,.0f} MiB"


def not_measured(row: Row) -> str:
    """Why a row has no figures; empty if it has."""
    return str(row.get("not run") or row.get("error") or row.get("missing") or "")


# ------------------------------------------------------------------------------------ sections


@section("Machine")
def machine(report: Row) -> Iterator[str]:
    rows = rows_of(report["parts"], "configuration")
    device, software = rows.get("device", {}), rows.get("software", {})
    if "name" in device:
        memory = mebibytes(device["memory"])
        versions = f"driver {device['driver']}, runtime {device['runtime']}"
        yield f"- {device['name']}, {memory}, {versions}"
    if "cupy" in software:
        yield f"- tinyconv {software['tinyconv']} ({software['commit']}), CuPy {software['cupy']}"
        packages = ", ".join(f"{k} {v}" for k, v in sorted(software["packages"].items()))
        yield f"- {packages}"
    if torch := rows.get("torch"):
        yield "- PyTorch: " + ", ".join(f"{key} {value}" for key, value in torch.items())
    if "layers" in (paths := rows.get("paths", {})):
        layers = (f"{path}: {', '.join(names)}" for path, names in paths["layers"].items())
        yield f"- paths: {'; '.join(layers)}"
        yield from (f"- not {name}: {why}" for name, why in paths["left out"].items())
    yield f"- {report['started']}, {report['seconds']:.0f} of {report['budget']:.0f} seconds"


@section("Targets")
def targets(report: Row) -> Iterator[str]:
    def number(value: Any) -> str:
        if value is None:
            return ""
        return f"{as_number(value):.3g}" if isinstance(value, (float, str)) else str(value)

    yield from table(
        ("what", "found", "target", "", "remark"),
        (
            (v["what"], number(v["value"]), f"<= {v['target']:g}", v["verdict"], v["why"][:200])
            for v in report["verdicts"]
        ),
    )


@section("Parts")
def parts(report: Row) -> Iterator[str]:
    yield from table(
        ("part", "state", "seconds", "of", "not run, or wrong"),
        (
            (name, entry.get("status", "not run"), f"{entry.get('seconds', 0):.0f}",
             f"{entry.get('limit', 0):.0f}", faults(entry))
            for name, entry in report["parts"].items()
        ),
    )  # fmt: skip


def faults(entry: Row) -> str:
    rows = entry.get("rows", {})
    told = [str(entry[key]) for key in ("not run", "stopped", "error") if key in entry]
    for name, row in rows.items():
        wrong = row.get("why", "") if row.get("ok") is False else None
        told += [
            f"{name}: {said}" for said in (row.get("not run"), row.get("error"), wrong) if said
        ]
    shown = "; ".join(told[:5])
    return f"{shown}; and {len(told) - 5} more" if len(told) > 5 else shown


@section("Ceilings")
def ceilings(report: Row) -> Iterator[str]:
    def figure(row: Row) -> str:
        if "flops" in row:
            return f"{row['flops'] / 1e12:.3g} TFLOP/s (n = {row['n']})"
        if "bytes_per_second" in row:
            return f"{row['bytes_per_second'] / 1e9:.3g} GB/s, read and written"
        return not_measured(row)

    rows = rows_of(report["parts"], "ceilings").items()
    yield from table(("what", "reached"), ((name, figure(row)) for name, row in rows))


def raced(report: Row, part: str, what: str) -> Iterator[str]:
    """A line for each of our sides: its seconds, and each peer's with the ratio and quartiles."""
    rows = rows_of(report["parts"], part)
    found = [row["ratios"] for row in rows.values() if "ratios" in row]
    peers = list(dict.fromkeys(p for ratios in found for beside in ratios.values() for p in beside))

    def lines() -> Iterator[tuple[str, ...]]:
        for name, row in rows.items():
            if "ratios" not in row:
                yield name, "", not_measured(row), *([""] * (1 + len(peers)))
            for side, beside in row.get("ratios", {}).items():
                own = (format_time(row[clock][side]) for clock in ("seconds", "host_clock"))
                yield name, side, *own, *(against(row, peer, beside) for peer in peers)

    yield from table((what, "path", "tinyconv", "by the host's clock", *peers), lines())
    missing = [
        f"no {k}: {why}" for row in rows.values() for k, why in row.get("missing", {}).items()
    ]
    if missing:
        yield ""
        yield from (f"- {why} ({count} rows)" for why, count in Counter(missing).items())


def against(row: Row, peer: str, ratios: dict[str, Any]) -> str:
    """A peer's seconds, and the ratio to them."""
    if peer not in ratios:
        return ""
    ratio = "{:.2f} ({:.2f}-{:.2f})".format(*map(as_number, ratios[peer]))
    return f"{format_time(row['seconds'][peer])}: {ratio}"


@section("ResNet-8, a train step")
def steps(report: Row) -> Iterator[str]:
    yield from raced(report, "steps", "batch, precision")


@section("ResNet-8, a train step in a CUDA graph")
def graphs(report: Row) -> Iterator[str]:
    yield from raced(report, "graphs", "batch, precision")


@section("Single convolutions, forward and both gradients")
def convolutions(report: Row) -> Iterator[str]:
    yield from raced(report, "convolutions", "convolution")


@section("The three kernels of a convolution")
def kernels(report: Row) -> Iterator[str]:
    def lines() -> Iterator[tuple[str, ...]]:
        for name, row in rows_of(report["parts"], "convolutions").items():
            times = row.get("kernels", {})
            sides = dict.fromkeys(side for seconds in times.values() for side in seconds)
            for side in sides:
                own = (times[kernel].get(side) for kernel in KERNELS)
                yield name, side, *("" if t is None else format_time(t) for t in own)

    yield from table(("convolution", "side", *KERNELS), lines())


@section("Memory at the peak of a train step")
def memory(report: Row) -> Iterator[str]:
    rows = rows_of(report["parts"], "memory").items()
    yield from table(
        ("batch, side", "taken from the driver", "held by tensors", "remark"),
        (
            (name, *(mebibytes(row[k]) if k in row else "" for k in ("taken", "arrays")),
             not_measured(row))
            for name, row in rows
        ),
    )  # fmt: skip


@section("Waits and launches of a train step")
def audit(report: Row) -> Iterator[str]:
    def said(row: Row) -> str:
        if "waited" in row:
            what = "the host waited" if row["waited"] else "no wait"
            return f"{what}; the host needs {format_time(row['host_seconds'])} for it"
        if "kernels" in row:
            kinds = [f"{row[kind]} {kind}" for kind in ("kernels", "copies", "fills")]
            waits = [f"{count} {call}" for call, count in row["waits"].items()]
            return ", ".join(kinds + waits)
        return not_measured(row)

    rows = rows_of(report["parts"], "audit").items()
    yield from table(("path", "found"), ((name, said(row)) for name, row in rows))


@section("Equal bits")
def determinism(report: Row) -> Iterator[str]:
    def said(row: Row) -> tuple[str, str]:
        if "losses" not in row:
            return "", not_measured(row)
        losses = "{:.4f} to {:.4f}".format(*map(as_number, row["losses"]))
        return losses, "the same bits twice" if row["ok"] else f"differ: {row['why']}"

    rows = rows_of(report["parts"], "determinism").items()
    yield from table(("path", "loss", "found"), ((name, *said(row)) for name, row in rows))


@section("MNIST")
def epoch(report: Row) -> Iterator[str]:
    for name, row in rows_of(report["parts"], "epoch").items():
        if "test_accuracy" not in row:
            yield f"- {name}: {not_measured(row)}"
            continue
        trained = f"{row['data']} set, {row['images']:,} images, batch {row['batch']}"
        figures = f"{row['seconds']:.1f} s, test accuracy {row['test_accuracy']:.2f} %"
        yield f"- {name}, one epoch, {trained}: {figures}"


@section("Test suite")
def suite(report: Row) -> Iterator[str]:
    for row in rows_of(report["parts"], "suite").values():
        if "passed" not in row:
            yield f"- {row.get('why') or not_measured(row)}"
            continue
        figures = ", ".join(f"{row[kind]} {kind}" for kind in ("passed", "failed", "skipped"))
        yield f"- {figures}{', interrupted: time' if 'not run' in row else ''}"
        yield from (f"    - {name}" for name in row["failures"])
