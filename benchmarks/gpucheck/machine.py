"""What computes here, and what it could reach at best."""

from __future__ import annotations

import platform
import shutil
import subprocess
from collections.abc import Callable
from functools import partial
from importlib import metadata
from statistics import median
from typing import Any

from networks import tinyconv_training

import tinyconv as tc
from gpucheck import peers
from gpucheck.device import PRECISIONS, ROOT, cupy, elapsed, gpu, paths, precision
from gpucheck.parts import Context, Row, Rows, part
from tinyconv import doctor
from tinyconv.backend import config
from tinyconv.backend.cuda import ladder

PACKAGES = ("cupy", "cudnn", "cublas", "cuda-nvrtc", "cuda-runtime", "torch", "numpy")
QUERY = "name,driver_version,clocks.sm,clocks.max.sm,power.limit"


@part(share=24)
def configuration(context: Context) -> Rows:
    """Device, libraries, and which layer of kernels serves what"""
    return {
        "device": device,
        "software": software,
        "paths": live_paths,
        "kernels": lambda: kernels(context.sizes.batches[0]),
        "doctor": lambda: {"lines": [str(finding) for finding in doctor.examine()]},
        "torch": torch,
    }


def device() -> Row:
    runtime = cupy().cuda.runtime
    properties = runtime.getDeviceProperties(runtime.getDevice())
    found: Row = {
        "name": tc.cuda.get_device_name(),
        "compute capability": f"{properties['major']}.{properties['minor']}",
        "memory": properties["totalGlobalMem"],
        "multiprocessors": properties["multiProcessorCount"],
        "driver": runtime.driverGetVersion(),
        "runtime": runtime.runtimeGetVersion(),
    }
    if shutil.which("nvidia-smi"):
        command = ["nvidia-smi", f"--query-gpu={QUERY}", "--format=csv,noheader"]
        said = subprocess.run(command, capture_output=True, text=True, timeout=20)
        found["nvidia-smi"] = said.stdout.strip() or said.stderr.strip()
    return found


def software() -> Row:
    commit = subprocess.run(
        ["git", "-C", str(ROOT), "describe", "--always", "--dirty"], capture_output=True, text=True
    )
    installed = {
        found.metadata["Name"]: found.version
        for found in metadata.distributions()
        if any(package in (found.metadata["Name"] or "") for package in PACKAGES)
    }
    return {
        "tinyconv": tc.__version__,
        "commit": commit.stdout.strip() or "no repository",
        "python": platform.python_version(),
        "cupy": cupy().__version__,
        "packages": installed,
    }


def live_paths() -> Row:
    """The paths that work here, and why the ladder's other rungs do not."""
    named = {
        path: [layer.__name__.rpartition(".")[2] for layer in layers]
        for path, layers in paths().items()
    }
    return {"rungs": ladder.RUNGS, "layers": named, "left out": gpu().reasons}


def kernels(n: int) -> Row:
    """What `tc.show_config` prints after a train step: the layer that served each kernel."""
    tinyconv_training(n, device="cuda")()
    return {"lines": list(config.config_lines())}


def torch() -> Row:
    return {"missing": why} if (why := peers.missing()) else peers.describe()


# ------------------------------------------------------------------------------------ ceilings


@part(share=25)
def ceilings(context: Context) -> Rows:
    """A copy in memory and square matrix products, through CuPy: what nothing here can exceed"""
    products = {name: partial(product, name, context) for name in PRECISIONS}
    return {"copy": lambda: copy(context), **products}


def copy(context: Context) -> Row:
    source = cupy().zeros(context.sizes.copied, "uint8")
    target = cupy().empty_like(source)
    seconds = _median(lambda: target.__setitem__(..., source), context)
    return {"bytes": source.nbytes, "bytes_per_second": 2 * source.nbytes / seconds}


def product(name: str, context: Context) -> Row:
    """Random numbers: a GPU's clock and power depend on the bits that change."""
    n = context.sizes.matrix
    a = tc.randn(n, n, device="cuda").array.astype(PRECISIONS[name])
    with precision(name):
        seconds = _median(lambda: a @ a, context)
    return {"n": n, "flops": 2 * n**3 / seconds}


def _median(work: Callable[[], Any], context: Context) -> float:
    work()
    return median(elapsed(work, 3) for _ in range(context.sizes.rounds))
