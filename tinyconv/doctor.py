"""``tinyconv doctor``: what is there, what is missing, and the fix for each problem."""

from __future__ import annotations

import os
import platform
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from threadpoolctl import threadpool_info

import tinyconv
from tinyconv import cuda, data
from tinyconv.backend import CPU, Backend, backend_named, threads

PACKAGES = {
    "numpy": "arrays",
    "safetensors": "checkpoints",
    "graphviz": "graphs",
    "pooch": "downloads",
    "threadpoolctl": "threads of the BLAS",
    "tqdm": "progress bars",
}
OPTIONAL = {
    "numba": ("compiled kernels, which are faster", "pip install numba"),
    "matplotlib": ("curves", "pip install matplotlib"),
    "mpi4py": ("data-parallel training", "pip install mpi4py mpich"),
}
AVX512_KERNELS = {"SkylakeX", "Cooperlake", "SapphireRapids"}


@dataclass(frozen=True)
class Finding:
    """One line of the report; ``fix`` is set where something is wrong, or could be better."""

    topic: str
    text: str
    fix: str = ""
    optional: bool = False  # all works without it

    def __str__(self) -> str:
        mark = "ok" if not self.fix else "--" if self.optional else "!!"
        line = f"{mark}  {self.topic:<14} {self.text}"
        word = "to get it" if self.optional else "fix"
        return f"{line}\n{'':<19}{word}: {self.fix}" if self.fix else line


def versions() -> Iterator[Finding]:
    python = f"Python {platform.python_version()} on {platform.system()} {platform.machine()}"
    yield Finding("tinyconv", f"{tinyconv.__version__}, {python}")
    for name, purpose in PACKAGES.items():
        yield Finding(name, f"{metadata.version(name)} ({purpose})")
    for name, (purpose, fix) in OPTIONAL.items():
        if find_spec(name) is None:
            yield Finding(name, f"not installed: no {purpose}", fix, optional=True)
        else:
            yield Finding(name, f"{metadata.version(name)} ({purpose})")


def backends() -> Iterator[Finding]:
    yield Finding("cpu", _kernels(CPU))
    reason = cuda.why_not()
    if reason is not None:
        said, _, remedy = reason.partition("; ")
        yield Finding("cuda", f"not available: {said}", remedy or "see nvidia-smi", optional=True)
        return
    gpu = backend_named("cuda")
    live = f"convolutions by {gpu.convolutions()}"
    yield Finding("cuda", f"{cuda.get_device_name()}, {_kernels(gpu)}; {live}")
    for name, why in gpu.reasons.items():
        said, _, remedy = why.partition("; ")
        fix = remedy or "see docs/gpu.md"
        yield Finding("cuda", f"not the faster {name}: {said}", fix, optional=True)


def _kernels(backend: Backend) -> str:
    layers = ", ".join(layer.__name__.rpartition(".")[2] for layer in backend.layers)
    version = getattr(backend.xp, "__version__", "")
    return f"{backend.xp.__name__} {version}, kernels from {layers}"


def blas() -> Iterator[Finding]:
    count = threads.get_num_threads()
    yield Finding("threads", f"{count} of {os.cpu_count()} cores (OMP_NUM_THREADS sets it)")
    libraries = [info for info in threadpool_info() if info["user_api"] == "blas"]
    if not libraries:
        yield Finding("BLAS", "NumPy's is not one that threadpoolctl knows; speed is unknown")
    for info in libraries:
        kernel = info.get("architecture", "unknown")
        library = f"{info['internal_api']} {info['version']}"
        text = f"{library}, {info['num_threads']} threads, {kernel} kernels"
        yield Finding("BLAS", text, _blas_fix(info["internal_api"], kernel))


def _blas_fix(library: str, kernel: str) -> str:
    """OpenBLAS picks AVX2 kernels on CPUs it does not know: half the speed where AVX-512 is."""
    if library == "openblas" and _has_avx512() and kernel not in AVX512_KERNELS:
        return "this CPU has AVX-512: export OPENBLAS_CORETYPE=SkylakeX before Python starts"
    return ""


def _has_avx512() -> bool:
    cpuinfo = Path("/proc/cpuinfo")
    return cpuinfo.exists() and " avx512f " in cpuinfo.read_text()


def data_sets() -> Iterator[Finding]:
    try:
        folder = data.locate(data.MNIST.files, None, download=False)
        yield Finding("MNIST", f"full set in {folder}")
    except data.DataNotFound:
        yield Finding(
            "MNIST",
            "only the embedded sample (10,000 + 2,000 images)",
            "tinyconv data mnist downloads it; or put the four IDX files into a folder and "
            "set TINYCONV_DATA to it",
            optional=True,
        )


def programs() -> Iterator[Finding]:
    dot = shutil.which("dot")
    fix = "" if dot else "apt-get install graphviz (Debian), brew install graphviz (macOS)"
    text = dot or "not found: graphs are written as text and DOT source"
    yield Finding("dot", text, fix, optional=True)


CHECKS: list[Callable[[], Iterator[Finding]]] = [versions, backends, blas, data_sets, programs]


def examine() -> list[Finding]:
    """All findings."""
    np.ones((2, 2)) @ np.ones((2, 2))  # the BLAS is loaded now
    return [finding for check in CHECKS for finding in check()]


def main() -> int:
    """Print the report; 0 also with problems: each of them has a fallback."""
    findings = examine()
    print(*findings, sep="\n")
    problems = sum(1 for finding in findings if finding.fix and not finding.optional)
    extras = sum(1 for finding in findings if finding.optional and finding.fix)
    print(f"\n{problems} to fix" if problems else "\nall is well", end="")
    print(f", {extras} optional" if extras else "")
    return 0
