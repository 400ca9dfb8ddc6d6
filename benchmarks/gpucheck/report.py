"""Every part in a process of its own, within a share of the time; the report after each change.

A fault on a GPU ends every later call of its process, and a part that hangs can only be killed.  So
a part is a process, which writes its rows into a file of its own; this one watches it, copies the
rows into the report and kills it at the end of its share.  What a part leaves of its share is
divided among those after it.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from gpucheck.parts import Part, Row, in_order, write
from gpucheck.verdict import verdicts

SCRIPT = Path(__file__).parents[1] / "gpu_check.py"
LEAST = 5.0  # seconds: with less a part is not begun
OWN = 0.9  # of its seconds a part plans with; the rest is for its last row to end
BEFORE = "the check ended before"


def check(
    names: Sequence[str],
    out: Path,
    budget: float,
    options: Sequence[str] = (),
    say: Callable[[str], None] = print,
) -> Row:
    """Run the parts and return the report, which is also in `out`.

    budget:  seconds for all of it
    options: for the parts' processes, besides what says which part
    """
    chosen = [part for part in in_order() if part.name in names]
    started = time.monotonic()
    report: Row = {
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "budget": budget,
        "options": list(options),
        "parts": {part.name: {"title": part.title, "not run": BEFORE} for part in chosen},
    }

    def save() -> None:
        report["seconds"] = time.monotonic() - started
        report["verdicts"] = verdicts(report["parts"])
        write(out, report)

    save()
    for i, part in enumerate(chosen):
        left = budget - (time.monotonic() - started)
        limit = left * part.share / sum(later.share for later in chosen[i:])
        entry = report["parts"][part.name]
        if limit < LEAST:
            entry["not run"] = "time"
        else:
            del entry["not run"]
            _watch(part, entry, limit, options, save)
        entry["status"] = status(entry)
        save()
        say(f"{part.name}: {entry['status']}{_faults(entry)}")
    return report


def _watch(
    part: Part, entry: Row, limit: float, options: Sequence[str], save: Callable[[], None]
) -> None:
    """Run one part's process to its end, or to the end of its time."""
    with tempfile.TemporaryDirectory(prefix="gpu_check-") as folder:
        rows, log = Path(folder) / "rows.json", Path(folder) / "log"
        entry["limit"], began, seen = limit, time.monotonic(), 0
        command = [sys.executable, str(SCRIPT), "--child", part.name, "--rows", str(rows)]
        with log.open("wb") as stream:
            child = subprocess.Popen(
                [*command, "--seconds", str(OWN * limit), *options],
                stdin=subprocess.DEVNULL, stdout=stream, stderr=stream, start_new_session=True,
            )  # fmt: skip
        try:
            while child.poll() is None and time.monotonic() - began < limit:
                time.sleep(0.1)
                if rows.exists() and (now := rows.stat().st_mtime_ns) != seen:
                    seen = now
                    entry.update(json.loads(rows.read_text()))
                    save()
            late = child.poll() is None
        finally:
            end_group(child)
        if rows.exists():
            entry.update(json.loads(rows.read_text()))
        entry["seconds"] = time.monotonic() - began
        if late or child.returncode:
            how = f"time: killed after {limit:.0f} s" if late else ended(child.returncode)
            _stopped(entry, how, log.read_text(errors="replace")[-2000:])


def end_group(child: subprocess.Popen[bytes]) -> None:
    """End a process that leads a session, and all that it started."""
    with suppress(ProcessLookupError):  # all of them have ended
        os.killpg(child.pid, signal.SIGKILL)
    child.wait()


def ended(code: int) -> str:
    """How a process ended that did not end well."""
    return f"its process ended with {f'signal {-code}' if code < 0 else f'exit status {code}'}"


def _stopped(entry: Row, how: str, said: str) -> None:
    entry["stopped"], entry["said"] = how, said
    for row in entry.get("rows", {}).values():
        if "not run" in row:
            row["not run"] = how


def failed(row: Row) -> bool:
    return "error" in row or row.get("ok") is False


def empty(row: Row) -> bool:
    """Has nothing been measured, because its side is not there?"""
    return isinstance(row.get("missing"), str) or row.get("seconds") == {}


def status(entry: Row) -> str:
    """ "ok", "failed", "incomplete" or "not run", of a part's entry in the report."""
    rows = entry.get("rows", {}).values()
    crashed = entry.get("stopped", "").startswith("its process")
    if failed(entry) or crashed or any(map(failed, rows)):
        return "failed"
    if all(map(empty, rows)):
        return "not run"
    complete = "stopped" not in entry and not any("not run" in row for row in rows)
    return "ok" if complete else "incomplete"


def _faults(entry: Row) -> str:
    """What keeps a part from being "ok", for the one who watches the check run."""
    told = [f"\n  {entry[key]}" for key in ("not run", "stopped", "error") if key in entry]
    for name, row in entry.get("rows", {}).items():
        if failed(row) or "not run" in row:
            what = row.get("error") or row.get("not run") or row.get("why") or "wrong"
            told.append(f"\n  {name}: {what}")
    most = 12
    return "".join(told[:most]) + (f"\n  and {len(told) - most} more" if len(told) > most else "")


def read(path: Path) -> Any:
    return json.loads(path.read_text())
