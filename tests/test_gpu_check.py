"""benchmarks/gpu_check.py on the fake CuPy: every part, and answers that are wrong on purpose."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import fake_cupy
import numpy as np
import pytest
from fake_cublas import Cublas

import tinyconv as tc
from tinyconv.backend.cuda import cublas, own
from tinyconv.samples import sample

try:
    import torch
except ImportError:
    torch = None

ROOT = Path(__file__).parents[1]
SCRIPT = ROOT / "benchmarks" / "gpu_check.py"
sys.path.append(str(SCRIPT.parent))

import gpu_check  # noqa: E402
from gpucheck import correct, device, markdown, ours, parts, peers, report, suite, verdict  # noqa: E402
from gpucheck.device import Side, race  # noqa: E402
from gpucheck.parts import PARTS, TINY, Context, Part, Row  # noqa: E402

needs_torch = pytest.mark.skipif(torch is None, reason="PyTorch is not installed")
LOCAL = sorted(set(PARTS) - {"suite"})  # the test suite is a process in any case
Measured = Callable[..., Row]


@pytest.fixture
def every_layer(own_kernels: None, cudnn: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """All rungs of the ladder, and what a captured step needs."""
    library = Cublas()
    monkeypatch.setattr(cublas, "library", lambda: library)


@pytest.fixture
def measured(tmp_path: Path) -> Measured:
    """Run a part here, and return its rows as they are in its file."""

    def measure(name: str, *, seconds: float = 100.0, **sizes: Any) -> Row:
        path = tmp_path / "rows.json"
        context = Context(seconds, tmp_path, replace(TINY, **sizes), "fake")
        parts.run(PARTS[name], context, path)
        found = json.loads(path.read_text())
        assert "error" not in found
        return found["rows"]

    return measure


def entry(rows: Row, **more: Any) -> Row:
    """A part's entry in a report."""
    made = {"title": "", "rows": rows, **more}
    return {**made, "status": report.status(made)}


def timed(row: Row) -> Iterator[dict[str, float]]:
    """The seconds of a race, by side."""
    if "ratios" in row:
        yield from (row["seconds"], row["host_clock"], *row.get("kernels", {}).values())


def judgement(what: str, **entries: Row) -> Row:
    """The verdict whose text holds `what`."""
    (found,) = [v for v in verdict.verdicts(entries) if what in v["what"]]
    return found


# ----------------------------------------------------------------------------------- every part


@pytest.mark.usefixtures("every_layer")
@pytest.mark.parametrize("name", LOCAL)
def test_a_part_runs_and_finds_nothing_wrong(name: str, measured: Measured) -> None:
    rows = measured(name)
    assert rows
    assert not [row for row in rows.values() if report.failed(row) or "not run" in row]
    assert list(device.paths()) == ["xp", "own", "cudnn"]
    for seconds in (kind for row in rows.values() for kind in timed(row)):
        assert list(seconds) == (["graph"] if name == "graphs" else ["xp", "own", "cudnn"])
        assert all(taken > 0 for taken in seconds.values())
    rendered = markdown.tables(
        {"parts": {name: entry(rows)}, "verdicts": verdict.verdicts({name: entry(rows)}),
         "started": "", "seconds": 0.0, "budget": 0.0}
    )  # fmt: skip
    for row_name in () if name in ("configuration", "operations") else rows:
        assert row_name in rendered


@pytest.mark.usefixtures("own_kernels")
def test_a_path_computes_with_its_layers_only() -> None:
    x = tc.ones(2, 2, 4, 4, device="cuda")
    for path, served in (("xp", False), ("own", True)):
        with device.using(path), fake_cupy.measured() as meter:
            tc.nn.functional.conv2d(x, tc.ones(1, 2, 3, 3, device="cuda"))
        assert (meter.kernels["im2col"] > 0) is served
    assert device.gpu().choice == "fast"


@pytest.mark.usefixtures("gpu")
def test_what_is_live_and_why_not_more_is_told(
    measured: Measured, monkeypatch: pytest.MonkeyPatch
) -> None:
    def prepare(cupy: Any) -> None:
        raise RuntimeError("nvrtc is not there")

    monkeypatch.setattr("tinyconv.backend.cuda.ladder.RUNGS", ["own"])
    monkeypatch.setattr(own, "prepare", prepare)
    with pytest.warns(UserWarning, match="without the layer 'own'"):
        rows = measured("configuration")
    assert list(rows["paths"]["layers"]) == ["xp"]
    assert "nvrtc is not there" in rows["paths"]["left out"]["own"]
    assert any("not own" in line for line in rows["kernels"]["lines"])
    assert any("not the faster own" in line for line in rows["doctor"]["lines"])
    row = {"seconds": {"xp": 1.0}, "ratios": {"xp": {}}, "missing": {}}
    steps = entry({"batch 128, fp32": row})
    told = judgement("batch 128, fp32, own", configuration=entry(rows), steps=steps)
    assert told["verdict"] == "not measured"
    assert "nvrtc is not there" in told["why"]


# -------------------------------------------------------------------- answers that are wrong


@pytest.mark.usefixtures("own_kernels")
def test_a_wrong_kernel_is_reported_with_its_path_and_order(
    measured: Measured, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(own, "relu_backward", lambda g, y: g)
    rows = measured("operations", operations=("relu", "add"))
    assert rows["add"]["ok"]
    assert not rows["relu"]["ok"]
    assert all(", own, " in wrong and "forward:" not in wrong for wrong in rows["relu"]["wrong"])
    told = judgement("operations with a wrong result", operations=entry(rows))
    assert (told["value"], told["verdict"]) == (1, "short")
    assert report.status(entry(rows)) == "failed"


@pytest.mark.usefixtures("own_kernels")
@pytest.mark.parametrize(
    ("error", "caught"),
    [(1e-7, set()), (1e-4, {"fp32"}), (4e-3, {"fp32", "tf32"}), (0.1, {"fp32", "tf32", "fp16"})],
)
def test_each_precision_has_its_tolerance(
    error: float, caught: set[str], measured: Measured, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = own.window_sum

    def wrong(x: Any, **window: Any) -> Any:
        return right(x, **window) * (1 + error)

    monkeypatch.setattr(own, "window_sum", wrong)
    row = measured("operations", operations=("window_sum",))["window_sum"]
    assert {name for name in device.PRECISIONS if any(f", {name}, " in w for w in row["wrong"])} \
        == caught  # fmt: skip
    for name in device.PRECISIONS:
        told = judgement(f"of an operation, {name}", operations=entry({"window_sum": row}))
        assert told["verdict"] == ("short" if name in caught else "met")


@pytest.mark.usefixtures("own_kernels")
def test_a_number_that_a_kernel_leaves_unwritten_is_reported(
    measured: Measured, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = own.window_sum

    def lazy(x: Any, **window: Any) -> Any:
        y = right(x, **window)
        part = device.cupy().empty(y.shape, y.dtype)
        part[:, :, 1:] = y[:, :, 1:]
        return part

    monkeypatch.setattr(own, "window_sum", lazy)
    rows = measured("operations", operations=("window_sum",))
    assert not rows["window_sum"]["ok"]
    assert rows["window_sum"]["worst"]["own"]["fp32"]["forward"] == "nan"
    told = judgement("of an operation, fp32", operations=entry(rows))
    assert told["verdict"] == "short"
    assert np.isnan(told["value"])


@pytest.mark.usefixtures("own_kernels")
def test_a_kernel_that_raises_or_has_another_shape_is_reported(
    measured: Measured, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(own, "relu_backward", lambda g, y: 1 / 0)
    monkeypatch.setattr(own, "window_sum", lambda x, **window: x)
    rows = measured("operations", operations=("relu", "window_sum"))
    assert "ZeroDivisionError" in rows["relu"]["why"]
    assert "shape" in rows["window_sum"]["why"]


@pytest.mark.usefixtures("gpu")
def test_a_second_derivative_that_is_wrong_on_the_device_is_reported(measured: Measured) -> None:
    @tc.op
    def third_power(x: Any) -> Any:
        return x * x * x

    def vjp(g: Any, _y: Any, x: Any) -> Any:
        lost = isinstance(x, tc.Tensor) and x.device == "cuda"
        constant = x.detach() if lost else x
        return 3 * g * constant * constant

    third_power.defvjp(vjp, samples=[sample((3, 4))])
    row = measured("operations", operations=("third_power",))["third_power"]
    assert not row["ok"]
    assert row["worst"]["xp"]["fp32"]["backward"] < 1e-6
    assert all("double backward" in wrong for wrong in row["wrong"])


def test_memory_is_poisoned_before_it_is_handed_out() -> None:
    class Memory:
        filled: tuple[int, int] | None = None

        def memset_async(self, value: int, size: int) -> None:
            self.filled = value, size

    class Pool:
        def malloc(self, size: int) -> Memory:
            return Memory()

    assert device.Poison(Pool()).malloc(24).filled == (255, 24)
    for dtype in ("float16", "float32", "float64"):
        assert np.isnan(np.full(24, 255, np.uint8).view(dtype)).all()


def test_relative_errors() -> None:
    one, zero = np.ones(4), np.zeros(4)
    assert correct.relative(one * 1.5, one) == 0.5
    assert correct.relative(zero, zero) == correct.relative(None, zero) == 0
    assert correct.relative(zero + 1e-7, zero) == pytest.approx(2e-7)
    assert correct.relative(None, one) == float("inf")
    assert correct.relative(np.arange(3), np.arange(3) + 1) == float("inf")
    assert np.isnan(correct.max_of(iter([1.0, float("nan"), 2.0])))


@pytest.mark.usefixtures("gpu")
@pytest.mark.parametrize("mistake", ["loss", "parameter", "nan"])
def test_steps_that_differ_are_reported(
    mistake: str, measured: Measured, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained, calls = correct.trained, []

    def noisy(n: int, steps: int, change: Any) -> Any:
        losses, state = trained(n, steps, change)
        calls.append(n)
        if mistake == "nan":
            losses[:] = np.nan
        elif len(calls) == 2:
            changed = losses if mistake == "loss" else state["fc.weight"]
            changed.view(np.uint32).ravel()[-1] ^= 1  # the last bit of one number
        return losses, state

    assert measured("determinism")["xp"]["ok"]
    monkeypatch.setattr(correct, "trained", noisy)
    row = measured("determinism")["xp"]
    assert not row["ok"]
    assert row["differing"] == {"loss": ["losses"], "parameter": ["fc.weight"], "nan": []}[mistake]
    assert judgement("two equal runs", determinism=entry({"xp": row}))["verdict"] == "short"
    assert not tc.are_deterministic_algorithms_enabled()


@pytest.mark.usefixtures("gpu")
def test_a_hidden_wait_is_reported(measured: Measured, monkeypatch: pytest.MonkeyPatch) -> None:
    x = tc.ones(3, device="cuda")
    steps = {"looks": lambda: Side(lambda: float(x.sum())), "does not": lambda: Side(lambda: x + x)}
    monkeypatch.setattr(ours, "steps", lambda n: steps)
    monkeypatch.setattr(ours, "graphs", lambda n: {})
    rows = measured("audit")
    assert rows["looks: waits"]["waited"]
    assert not rows["looks: waits"]["ok"]
    assert rows["does not: waits"]["ok"]
    told = judgement("wait for the device", audit=entry(rows))
    assert (told["value"], told["verdict"]) == (1, "short")
    assert "looks" in told["why"]


@pytest.mark.usefixtures("gpu")
def test_without_our_kernels_no_graph_is_captured(measured: Measured) -> None:
    rows = measured("graphs")
    assert all("needs the layer 'own'" in row["missing"]["graph"] for row in rows.values())
    told = judgement(
        "batch 128, fp32, graph", graphs=entry({"batch 128, fp32": rows["batch 2, tf32"]})
    )
    assert (told["verdict"], told["why"]) == ("not measured", "a capture needs the layer 'own'")


@pytest.mark.usefixtures("gpu")
def test_an_epoch_that_learns_nothing_is_reported(measured: Measured) -> None:
    row = measured("epoch", accuracy=100.1)["MNIST"]
    assert not row["ok"]
    assert "expected 100.1 or more" in row["why"]
    assert judgement("epochs of MNIST", epoch=entry({"MNIST": row}))["verdict"] == "short"


# ------------------------------------------------------------------------------------ the clock


@pytest.mark.usefixtures("gpu")
def test_sides_take_turns_and_one_that_fails_is_named() -> None:
    order: list[str] = []

    def made(name: str) -> Callable[[], Side]:
        return lambda: Side(lambda: time.sleep(0.002 if name == "b" else 0.001),
                            lambda: order.append(name))  # fmt: skip

    def broken() -> Side:
        raise peers.Missing("not here")

    row = race({"a": made("a"), "odd": lambda: Side(lambda: 1 / 0)},
               {"b": made("b"), "c": broken}, 4, 0.0)  # fmt: skip
    assert order == ["a", "b", *["a", "b"] * 4, "a", "b"]
    assert row["missing"]["c"] == "not here"
    assert "ZeroDivisionError" in row["missing"]["odd"]
    assert row["seconds"].keys() == row["host_clock"].keys() == {"a", "b"}
    assert 0.3 < row["ratios"]["a"]["b"][0] < 0.9
    assert row["seconds"]["b"] == pytest.approx(row["host_clock"]["b"], rel=0.5)


@needs_torch
@pytest.mark.usefixtures("gpu")
def test_pytorch_computes_the_same_convolutions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peers, "DEVICE", "cpu")
    for geometry in TINY.convolutions:
        theirs = peers.convolution(geometry, "float32")
        for kernel in ("forward", "dX", "dW"):
            mine = ours.convolution(geometry, "float32", kernel)["xp"]().work().get()
            found = theirs[kernel]()
            (array,) = [found] if kernel == "forward" else [a for a in found if a is not None]
            np.testing.assert_allclose(mine, array.numpy(), rtol=1e-4, atol=1e-4)
        assert len(ours.convolution(geometry, "float32", "all")["xp"]().work()) == 3


@needs_torch
@pytest.mark.usefixtures("gpu")
def test_with_pytorch_there_are_ratios(measured: Measured, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peers, "DEVICE", "cpu")
    rows = measured("steps")
    for row in rows.values():
        assert "seconds" in row, row  # or there is an error, to be read
        assert row["seconds"].keys() == {"xp", "torch", "torch channels_last"}
        median, low, high = row["ratios"]["xp"]["torch"]
        assert low <= median <= high
        assert "torch graph" in row["missing"]  # there is no GPU to capture on
    assert "torch channels_last" in "\n".join(markdown.raced({"parts": {"steps": entry(rows)}},
                                                            "steps", "batch"))  # fmt: skip
    assert set(measured("convolutions", convolutions=TINY.convolutions[:1])[
        "conv 1x5x5 2->3 k3 s1, fp32"]["ratios"]["xp"]) == {"torch"}  # fmt: skip


@needs_torch
@pytest.mark.usefixtures("gpu")
def test_both_sides_compute_in_the_named_precision() -> None:
    device.cupy()  # connected
    for name, chosen in (("fp32", 1), ("tf32", 7), ("fp16", 1)):
        with device.precision(name):
            kinds = fake_cupy.cupy._core._routines_linalg.chosen
            assert kinds[np.dtype("float32")] == chosen
            if torch.cuda.is_available():
                assert torch.backends.cudnn.allow_tf32 is (name == "tf32")
    assert tc.get_float32_precision() == "highest"


def test_what_a_trace_says() -> None:
    def event(name: str, cat: str, ts: float, dur: float = 1.0) -> Row:
        return {"ph": "X", "name": name, "cat": cat, "ts": ts, "dur": dur}

    trace = [
        event(peers.STEP, "user_annotation", 10, 20), event(peers.STEP, "gpu_user_annotation", 11),
        event("cuLaunchKernel", "cuda_driver", 12), event("add", "kernel", 13),
        event("cudaLaunchKernel", "cuda_runtime", 14), event("mul", "kernel", 40),
        event("cudaMemcpyAsync", "cuda_runtime", 15), event("Memcpy DtoH", "gpu_memcpy", 16),
        event("cudaStreamSynchronize", "cuda_runtime", 17),
        event("cudaDeviceSynchronize", "cuda_runtime", 35),  # after the step: the profiler's own
        event("aten::add", "cpu_op", 12), {"ph": "s", "name": "ac2g", "cat": "ac2g", "ts": 1},
    ]  # fmt: skip
    found = peers.counts(trace)
    assert found == {"kernels": 2, "copies": 1, "fills": 0, "waits": {"cudaStreamSynchronize": 1}}
    told = judgement("of a train step, own", audit=entry({"own: launches": found}))
    assert (told["value"], told["verdict"]) == (3, "met")
    many = {**found, "kernels": 130}
    assert judgement("of a train step, own", audit=entry({"own: launches": many}))["verdict"] \
        == "short"  # fmt: skip


@needs_torch
def test_the_profiler_writes_what_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peers, "DEVICE", "cpu")
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    found = peers.launches(lambda: torch.ones(3) + 1)
    assert found == {"kernels": 0, "copies": 0, "fills": 0, "waits": {}}


# ------------------------------------------------------------------------------- rows of a part


def test_a_row_that_fails_or_has_no_time_is_reported(tmp_path: Path) -> None:
    path = tmp_path / "rows.json"
    clock = Context(0.05, tmp_path)

    def raises() -> Row:
        raise ValueError("on purpose")

    def reads() -> Row:
        return {"seen": json.loads(path.read_text())["rows"]["late"]}

    def sleeps() -> Row:
        time.sleep(0.1)
        return {"nan": float("nan")}

    rows = {"raises": raises, "reads": reads, "sleeps": sleeps, "late": sleeps}
    parts.run(Part("a", "", 1, lambda context: rows), clock, path)
    found = json.loads(path.read_text())["rows"]
    assert found["raises"]["error"].startswith("ValueError: on purpose (test_gpu_check.py:")
    assert found["reads"] == {"seen": {"not run": "time"}}
    assert found["sleeps"] == {"nan": "nan"}
    assert found["late"] == {"not run": "time"}
    parts.run(Part("b", "", 1, lambda context: raises()), clock, path)
    assert report.status(json.loads(path.read_text())) == "failed"


def test_every_part_has_a_title_and_a_share() -> None:
    assert all(part.title and part.share > 0 for part in PARTS.values())
    assert [part.name for part in parts.in_order()][-1] == "suite"


# ------------------------------------------------------------------------------- whole processes

CHILD = """
import json, os, signal, subprocess, sys, time
name, path = sys.argv[2], sys.argv[4]
rows = {"first": {"ok": True}, "second": {"not run": "time"}}
if name == "good":
    rows["second"] = {"ok": True}
with open(path, "w") as stream:
    json.dump({"rows": rows}, stream)
if name == "hangs":
    child = subprocess.Popen(["sleep", "60"])
    open(os.environ["PIDS"], "w").write(f"{os.getpid()} {child.pid}")
    time.sleep(60)
if name == "faults":
    print("illegal memory access", flush=True)
    os.kill(os.getpid(), signal.SIGSEGV)
if name == "exits":
    sys.exit("cupy is broken")
"""


@pytest.fixture
def children(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Parts whose processes end in all ways; returned is where one that hangs tells its number."""
    script = tmp_path / "child.py"
    script.write_text(CHILD)
    monkeypatch.setattr(report, "SCRIPT", script)
    monkeypatch.setattr(report, "LEAST", 0.5)
    monkeypatch.setenv("PIDS", str(tmp_path / "pids"))
    names = ("faults", "exits", "hangs", "good")
    made = [Part(name, f"it {name}", 1 + i, lambda context: {}) for i, name in enumerate(names)]
    monkeypatch.setattr(report, "in_order", lambda: made)
    return tmp_path / "pids"


def alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def test_each_part_has_its_process_and_its_time(children: Path, tmp_path: Path) -> None:
    out = tmp_path / "report.json"
    said: list[str] = []
    started = time.monotonic()
    found = report.check(["faults", "exits", "hangs", "good"], out, 6.0, say=said.append)
    assert time.monotonic() - started < 6.0
    assert json.loads(out.read_text()) == json.loads(json.dumps(found))
    entries = found["parts"]
    states = {name: entry["status"] for name, entry in entries.items()}
    assert states == {"faults": "failed", "exits": "failed", "hangs": "incomplete", "good": "ok"}
    assert entries["faults"]["rows"]["second"]["not run"] == "its process ended with signal 11"
    assert "illegal memory access" in entries["faults"]["said"]
    assert "cupy is broken" in entries["exits"]["said"]
    assert entries["hangs"]["rows"]["first"] == {"ok": True}
    assert entries["hangs"]["rows"]["second"]["not run"].startswith("time: killed after")
    assert not any(alive(int(pid)) for pid in children.read_text().split())
    assert any("signal 11" in line for line in said)


def test_a_part_without_time_is_not_begun(children: Path, tmp_path: Path) -> None:
    found = report.check(["faults", "good"], tmp_path / "out.json", 0.4, say=lambda line: None)
    for entry in found["parts"].values():
        assert (entry["status"], entry["not run"]) == ("not run", "time")
        assert "rows" not in entry
    assert "good | not run" in markdown.tables(found)


def until(condition: Callable[[], object], seconds: float = 30.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it does not come"
        time.sleep(0.05)


@pytest.fixture
def started(tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    """Start the script; what is left of it at the end is killed."""
    processes = []

    def start(*options: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, str(SCRIPT), "--backend", "fake", "--tiny", *options]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE)
        processes.append(process)
        return process

    yield start
    for process in processes:
        process.kill()
        process.wait()
        process.stdout.close()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_the_report_is_complete_after_a_kill(
    number: signal.Signals, started: Callable[..., Any], tmp_path: Path
) -> None:
    out = tmp_path / "report.json"
    process = started("--out", str(out), "--part", "determinism", "--part", "operations")

    def running() -> bool:
        return out.exists() and "limit" in report.read(out)["parts"]["determinism"]

    until(lambda: running() and report.read(out)["parts"]["determinism"].get("rows"))
    process.send_signal(number)
    process.wait()
    found = report.read(out)
    assert list(found["parts"]) == ["determinism", "operations"]
    assert found["parts"]["operations"]["not run"] == report.BEFORE
    assert found["verdicts"]
    assert "operations" in markdown.tables(found)


def test_the_whole_script_and_its_tables(
    started: Callable[..., Any], tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    out = tmp_path / "report.json"
    process = started("--out", str(out), "--part", "ceilings", "--part", "operations")
    said = process.communicate()[0].decode()
    assert process.returncode == 0
    found = report.read(out)
    assert [e["status"] for e in found["parts"].values()] == ["ok", "ok"]
    assert found["seconds"] <= found["budget"]
    monkeypatch.setattr(sys, "argv", ["gpu_check.py", "--table", str(out)])
    assert gpu_check.main() == 0
    rendered = capsys.readouterr().out.strip()
    assert rendered in said
    assert f"{found['parts']['ceilings']['rows']['fp32']['flops'] / 1e12:.3g} TFLOP/s" in rendered
    widths = {line.count(" | ") for line in rendered.splitlines() if line.startswith("| what | f")}
    assert widths == {4}


def test_a_failure_is_the_exit_status(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["gpu_check.py", "--out", str(tmp_path / "out.json")])
    before = signal.getsignal(signal.SIGTERM)
    for row, code in (({"ok": True}, 0), ({"ok": False, "why": "on purpose"}, 1)):
        found = {"parts": {"operations": entry({"relu": row})}, "verdicts": [], "started": "",
                 "seconds": 1.0, "budget": 2.0}  # fmt: skip
        monkeypatch.setattr(gpu_check, "check", lambda *_, found=found: found)
        assert gpu_check.main() == code
        assert ("on purpose" in capsys.readouterr().out) is bool(code)
    signal.signal(signal.SIGTERM, before)


# ------------------------------------------------------------------------------- the test suite


def test_the_suite_runs_on_the_device(tmp_path: Path) -> None:
    row = suite.tests(Context(60.0, tmp_path, TINY, "fake"))
    assert row["ok"], row
    assert row["passed"] > 0
    assert row["failed"] == row["skipped"] == 0


def test_a_suite_without_time_or_results_says_so(tmp_path: Path) -> None:
    row = suite.tests(Context(2.0, tmp_path, replace(TINY, tests=("-m", "device")), "fake"))
    assert row.get("not run") == "time" or row["why"] == "no results: time"
    row = suite.tests(Context(60.0, tmp_path / "a", replace(TINY, tests=("--nonsense",)), "fake"))
    assert not row["ok"]
    assert row["why"] == "no results: pytest ended with exit status 4"
    assert "nonsense" in row["said"]


def test_failures_of_the_suite_are_counted(tmp_path: Path) -> None:
    results = tmp_path / "results.xml"
    results.write_text(
        '<testsuites><testsuite><testcase classname="a" name="one"/>'
        '<testcase classname="a" name="two"><failure>no</failure></testcase>'
        '<testcase classname="a" name="three"><error>no</error></testcase>'
        '<testcase classname="a" name="four"><skipped/></testcase></testsuite></testsuites>'
    )
    found = suite.summary(results)
    assert found == {"passed": 1, "skipped": 1, "failed": 2, "failures": ["a::two", "a::three"]}
    told = judgement("failures in the test suite", suite=entry({"pytest": {**found, "ok": False}}))
    assert (told["value"], told["verdict"]) == (2, "short")


# ---------------------------------------------------------------------------------- the verdicts


def ratios(value: Any, **about: Any) -> Row:
    return {"seconds": {}, "missing": {}, "ratios": {"own": {"torch": [value, value, value]}},
            **about}  # fmt: skip


@pytest.mark.parametrize(
    ("value", "expected"), [(1.79, "met"), (1.8, "met"), (1.81, "short"), ("nan", "short")]
)
def test_a_ratio_is_met_or_short(value: Any, expected: str) -> None:
    steps = entry({"batch 128, fp32": ratios(value)})
    assert judgement("batch 128, fp32, own", steps=steps)["verdict"] == expected
    assert judgement("batch 512, fp32, own", steps=steps)["verdict"] == "not measured"


@pytest.mark.parametrize(
    ("entries", "why"),
    [
        ({}, "not asked for"),
        ({"steps": entry({}, **{"not run": "time"})}, "time"),
        ({"steps": entry({"batch 128, fp32": {"error": "OutOfMemoryError"}})}, "OutOfMemoryError"),
        ({"steps": entry({"batch 128, fp32": {"ratios": {"own": {}}, "missing": {
            "torch": "PyTorch is not installed"}}})}, "PyTorch is not installed"),
    ],
    ids=["not asked for", "no time", "error", "no PyTorch"],
)  # fmt: skip
def test_a_ratio_that_is_absent_says_why(entries: Any, why: str) -> None:
    told = judgement("batch 128, fp32, own", **entries)
    assert (told["verdict"], told["value"], told["why"]) == ("not measured", None, why)


def test_the_worst_convolution_of_each_range_decides() -> None:
    rows = {
        "a, fp32": ratios(2.9, k=3, c=16, geometry="a"),
        "b, fp32": ratios(2.0, k=3, c=32, geometry="b"),
        "c, fp32": ratios(1.9, k=3, c=64, geometry="c"),
        "d, fp32": ratios(9.0, k=1, c=64, geometry="d"),  # not 3x3
        "a, tf32": ratios(9.0, k=3, c=16, geometry="a"),  # the target is for fp32
    }
    few = judgement("1 to 32 channels, fp32, own", convolutions=entry(rows))
    many = judgement("64 to 256 channels, fp32, own", convolutions=entry(rows))
    assert (few["value"], few["verdict"], few["why"]) == (2.9, "met", "worst of 2: a")
    assert (many["value"], many["verdict"], many["why"]) == (1.9, "short", "worst of 1: c")


# ----------------------------------------------------------------------------- gpu_check.sh

STUB = """#!/bin/sh
echo "$0 $*" >> "$LOG"
case "$1" in
    -c) exit "$HAS_CUPY" ;;
    scripts/*) mkdir -p .venv-gpu/bin && cp "$0" .venv-gpu/bin/python ;;
esac
"""


@pytest.mark.parametrize(
    ("has_cupy", "said", "expected"),
    [
        (True, "", ["benchmarks/gpu_check.py --list"]),
        (False, "| CUDA Version: 13.0 |", ["scripts/make_environment.py .venv-gpu dev,cudnn13",
                                           "benchmarks/gpu_check.py --list"]),
        (False, "", []),
    ],
    ids=["there is an environment", "one is made", "no GPU"],
)  # fmt: skip
def test_the_shell_script_finds_or_makes_an_environment(
    has_cupy: bool, said: str, expected: list[str], tmp_path: Path
) -> None:
    script = tmp_path / "benchmarks" / "gpu_check.sh"
    script.parent.mkdir()
    script.write_text(SCRIPT.with_suffix(".sh").read_text())
    for name, text in (("python", STUB), ("nvidia-smi", f"#!/bin/sh\necho '{said}'\n")):
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    log = tmp_path / "log"
    environment = {
        "PATH": f"{tmp_path}:{os.environ['PATH']}", "PYTHON": str(tmp_path / "python"),
        "LOG": str(log), "HAS_CUPY": str(int(not has_cupy)),
    }  # fmt: skip
    done = subprocess.run(["bash", str(script), "--list"], env=environment, capture_output=True,
                          text=True)  # fmt: skip
    assert (done.returncode == 0) is bool(expected)
    calls = [line.partition(" ")[2] for line in log.read_text().splitlines()]
    assert calls[1:] == expected
    if not expected:
        assert "no GPU" in done.stderr
