"""PyTorch's sides.  Where PyTorch or its GPU is missing each says so, and nothing else changes."""

from __future__ import annotations

import json
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from geometry import Geometry, drawn
from networks import torch_training

from gpucheck.parts import Missing

DEVICE = "cuda"
STEP = "audited step"
WAITS = ("Synchronize", "cudaMemcpy", "cuMemcpy")  # in names of calls that may wait for the device


def missing() -> str | None:
    """Why there is no PyTorch side; None if there is."""
    if find_spec("torch") is None:
        return "PyTorch is not installed"
    import torch

    if DEVICE == "cuda" and not torch.cuda.is_available():
        return f"PyTorch {torch.__version__} sees no GPU"
    return None


def _torch() -> Any:
    if why := missing():
        raise Missing(why)
    import torch

    return torch


def use_tf32(on: bool) -> None:
    """For matrix products and convolutions alike; the latter have it on by default."""
    if missing() is None:
        import torch

        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = on


def describe() -> dict[str, Any]:
    """Version and settings that decide its speed."""
    torch = _torch()
    return {
        "version": torch.__version__,
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),
        "cudnn.benchmark": torch.backends.cudnn.benchmark,
    }


# --------------------------------------------------------------------------------------- sides


def training(n: int, channels_last: bool = False) -> Callable[[], Any]:
    """A train step of ResNet-8."""
    _torch()
    return torch_training(n, channels_last, device=DEVICE)


def convolution(geometry: Geometry, dtype: str) -> dict[str, Callable[[], Any]]:
    """forward, dX, dW."""
    torch = _torch()
    x, w = (torch.from_numpy(a).to(DEVICE, getattr(torch, dtype)) for a in drawn(geometry))
    common = geometry.theirs()
    g = torch.ones_like(torch.convolution(x, w, None, *common))

    def gradient(dx: bool, dw: bool) -> Callable[[], Any]:
        mask = [dx, dw, False]
        return lambda: torch.ops.aten.convolution_backward(g, x, w, None, *common, mask)

    return {
        "forward": lambda: torch.convolution(x, w, None, *common),
        "dX": gradient(True, False),
        "dW": gradient(False, True),
        "all": lambda: (torch.convolution(x, w, None, *common), gradient(True, True)()),
    }


def graphed(work: Callable[[], object]) -> Callable[[], Any]:
    """The work captured in a CUDA graph, and replayed."""
    torch = _torch()
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            work()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        work()

    def replay(captured: Any = work) -> None:  # whose memory the graph uses
        graph.replay()

    return replay


def memory(step: Callable[[], object]) -> dict[str, int]:
    """Bytes at the step's peak, for tensors, and those taken from the driver."""
    torch = _torch()
    torch.cuda.synchronize()
    return {
        "arrays": torch.cuda.max_memory_allocated(),
        "taken": torch.cuda.max_memory_reserved(),
    }


def forget_memory() -> None:
    """Give back what no tensor holds, and begin a new peak."""
    torch = _torch()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()


# ----------------------------------------------------------------------------- what is launched


def launches(step: Callable[[], object]) -> dict[str, Any]:
    """What anybody's step gave to the device, as PyTorch's profiler sees it: all of the process.

    kernels, copies, fills: what ran on the device
    waits:                  calls in which the host may have waited for it, by name
    """
    torch = _torch()
    for _ in range(2):  # the first time wakes CUPTI, which may miss the first kernels
        with torch.profiler.profile() as profiler:
            with torch.profiler.record_function(STEP):
                step()
            torch.cuda.synchronize()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trace.json"
        profiler.export_chrome_trace(str(path))
        return counts(json.loads(path.read_text())["traceEvents"])


def counts(events: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """Of a trace in Chrome's format."""
    events = [event for event in events if event.get("ph") == "X"]
    (step,) = (e for e in events if e["name"] == STEP and e.get("cat") == "user_annotation")
    end = step["ts"] + step["dur"]
    calls = [e for e in events if e.get("cat") in ("cuda_runtime", "cuda_driver")]
    within = [e for e in calls if step["ts"] <= e["ts"] <= end]
    waits = Counter(e["name"] for e in within if _waits(e["name"]))
    kinds = Counter(e.get("cat") for e in events)
    return {
        "kernels": kinds["kernel"],
        "copies": kinds["gpu_memcpy"],
        "fills": kinds["gpu_memset"],
        "waits": dict(waits),
    }


def _waits(name: str) -> bool:
    return any(part in name for part in WAITS) and "Async" not in name
