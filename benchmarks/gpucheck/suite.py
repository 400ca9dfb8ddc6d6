"""The test suite on the device; last, because it takes what time is left."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from xml.etree import ElementTree

from gpucheck.device import ROOT
from gpucheck.parts import Context, Row, Rows, part

WORKERS = 4  # processes that share the GPU, where pytest-xdist is installed
CLOSING = 15.0  # seconds in which an interrupted pytest writes what it knows
SHOWN = 50


@part(share=130)
def suite(context: Context) -> Rows:
    """`pytest --backend cupy`: the tests that compute on the device"""
    return {"pytest": lambda: tests(context)}


def tests(context: Context) -> Row:
    """Interrupted when the time is over; pytest then writes the results it has."""
    results = context.folder / "results.xml"
    command = [
        sys.executable, "-m", "pytest", "-q", "--backend", context.backend,
        f"--junitxml={results}", "-p", "no:cacheprovider", *context.sizes.tests,
        "-W", "ignore:cuda:UserWarning",  # a slower layer serves: no error here, but in the report
    ]  # fmt: skip
    if context.backend == "cupy" and find_spec("xdist"):
        command += ["-n", str(WORKERS)]
    process = subprocess.Popen(
        command, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    late = False
    try:
        said, _ = process.communicate(timeout=max(1.0, context.left() - CLOSING))
    except subprocess.TimeoutExpired:
        late = True
        process.send_signal(signal.SIGINT)
        try:
            said, _ = process.communicate(timeout=max(1.0, context.left()))
        except subprocess.TimeoutExpired:
            process.kill()
            said, _ = process.communicate()
    if not results.exists():
        why = "time" if late else f"pytest ended with exit status {process.returncode}"
        return {"ok": False, "why": f"no results: {why}", "said": said[-3000:]}
    found = summary(results)
    right = found["passed"] > 0 and not found["failures"]
    why = "; ".join(found["failures"][:3]) or ("" if right else "no test has passed")
    return {**found, "ok": right, "why": why, **({"not run": "time"} if late else {})}


def summary(results: Path) -> Row:
    """The figures of a JUnit file, and which tests have failed."""
    cases = list(ElementTree.parse(results).getroot().iter("testcase"))
    kinds = [{child.tag for child in case} for case in cases]
    wrong = [
        f"{case.get('classname')}::{case.get('name')}"
        for case, tags in zip(cases, kinds, strict=True)
        if tags & {"failure", "error"}
    ]
    skipped = sum("skipped" in tags for tags in kinds)
    return {
        "passed": len(cases) - len(wrong) - skipped,
        "skipped": skipped,
        "failed": len(wrong),
        "failures": wrong[:SHOWN],
    }
