"""CUDA kernels on the CPU: a .cu file compiled by g++, launched with CuPy's arguments.

    kernels = compile_kernels(source, options=("-DREAL=float",))
    kernels.launch("relu_backward", grid=(4,), block=(256,), args=(g, y, dx, np.int32(dx.size)))

Arrays are NumPy's, contiguous, and changed in place.  Arguments are checked as no GPU checks them:
a number of another type than the kernel's (Python floats are doubles and ints int64, as in CuPy),
an array of another dtype, a struct of another size, or one argument too few raises TypeError.

Kernels with `__syncthreads` run with a fibre for each CUDA thread, under a sanitizer with a
std::thread for each; the others in plain loops, under ThreadSanitizer all threads at once.
`RawModule` has the interface of CuPy's.  `missing` says why none of this works here.
"""

from __future__ import annotations

import ctypes
import hashlib
import re
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).parent
MODES = {"plain": 0, "fibres": 1, "threads": 2, "all at once": 3}
WARNINGS = ("-Wall", "-Wextra", "-Werror", "-Wno-sign-compare", "-Wno-unknown-pragmas")
_LOCK = threading.Lock()  # the kernels' blockIdx and gridDim are global


def missing() -> str | None:
    """Why CUDA kernels cannot be compiled here; None if they can."""
    return None if shutil.which("g++") else "needs g++ to compile CUDA kernels for the CPU"


class Kernels:
    """The kernels of one compiled source."""

    def __init__(self, library: Path, source: str, sanitize: str | None) -> None:
        self._library = ctypes.CDLL(str(library))
        self._library.signature_of.restype = ctypes.c_char_p
        self._library.launch.restype = ctypes.c_char_p
        self._synchronised = synchronised(source)
        self._sanitized = sanitize
        self.launched: list[str] = []
        self.names = kernel_names(source)

    @cache  # noqa: B019
    def signature(self, name: str) -> list[str]:
        """Types of a kernel's arguments: "float32*" is an array, "112" a struct's bytes."""
        if name not in self.names:
            raise AttributeError(f"no kernel {name!r}; there are {', '.join(self.names)}")
        return self._library.signature_of(name.encode()).decode().split(",")

    def launch(
        self, name: str, grid: Sequence[int], block: Sequence[int], args: Sequence[Any]
    ) -> None:
        """Run a kernel to its end."""
        types = self.signature(name)
        if len(args) != len(types):
            raise TypeError(f"{name} takes {len(types)} arguments, got {len(args)}")
        values = [
            _value(f"argument {i} of {name}", type_, arg)
            for i, (type_, arg) in enumerate(zip(types, args, strict=True))
        ]
        pointers = (ctypes.c_void_p * len(values))(*[v.ctypes.data for v in values])
        sizes = (ctypes.c_uint * 6)(*_three(grid), *_three(block))
        limits = (2**31, 2**16, 2**16)
        fits = all(0 < n < most for n, most in zip(_three(grid), limits, strict=True))
        if not fits or not 0 < np.prod(_three(block)) <= 1024:
            raise ValueError(f"{name}: a launch of {grid} blocks of {block} threads")
        mode = ("plain", "all at once")[self._sanitized == "thread"]
        if name in self._synchronised:
            mode = "threads" if self._sanitized else "fibres"
        with _LOCK:
            self.launched.append(name)
            error = self._library.launch(name.encode(), sizes, pointers, MODES[mode])
        if error:
            raise RuntimeError(f"{name}: {error.decode()}")


def _three(size: Sequence[int]) -> tuple[int, ...]:
    return (*(int(n) for n in size), 1, 1)[:3]


def _value(what: str, wanted: str, arg: Any) -> np.ndarray[Any, Any]:
    """One argument as the memory that a kernel reads its parameter from."""
    if isinstance(arg, np.ndarray) and arg.dtype.kind != "V":
        if wanted != f"{arg.dtype}*":
            raise TypeError(f"{what} is an array of {arg.dtype}, the kernel takes {wanted}")
        if not arg.flags.c_contiguous:
            raise TypeError(f"{what} has strides {arg.strides}: a kernel sees no strides")
        return np.array(arg.ctypes.data, np.uint64)
    value = np.asarray(arg)  # Python's float becomes float64, its int int64
    null = wanted.endswith("*") and value.dtype == np.uint64 and value == 0
    given = str(value.nbytes if value.dtype.kind == "V" else value.dtype)
    if not null and given != wanted:
        raise TypeError(f"{what} is {given}, the kernel takes {wanted}")
    return value


# --------------------------------------------------------------------------- compilation


def kernel_names(source: str) -> list[str]:
    """The kernels that a source defines, in order."""
    return re.findall(r"^(?:KERNEL|extern \"C\" __global__ void) (\w+)\(", source, re.MULTILINE)


def synchronised(source: str) -> set[str]:
    """Functions whose threads wait for each other, themselves or in a function that they call."""
    code = re.sub(r"//.*", "", source.replace("\\\n", ""))
    bodies = {}
    for piece in re.split(r"^(?=[A-Za-z_])", code, flags=re.MULTILINE):
        if name := re.search(r"\b(\w+)\(", piece):
            bodies[name[1]] = piece
    found = {"__syncthreads"}
    while True:
        called = re.compile(rf"\b(?:{'|'.join(found)})\(")
        more = {name for name, body in bodies.items() if called.search(body)} | found
        if more == found:
            return found
        found = more


def only(source: str, *names: str) -> str:
    """The source without its other kernels, which is quicker to compile."""
    pieces = re.split(r"^(?=[A-Za-z_#])", source, flags=re.MULTILINE)
    others = set(kernel_names(source)).difference(names)
    return "".join(piece for piece in pieces if others.isdisjoint(kernel_names(piece)))


@cache
def compile_kernels(
    source: str, options: tuple[str, ...] = (), sanitize: str | None = None
) -> Kernels:
    """Compile a .cu source.

    options:  as for NVRTC; -D, -I and -std matter
    sanitize: for g++'s -fsanitize: "address,undefined", "thread"; the process must have been
              started with the sanitizers' library: see `sanitizer_environment`
    """
    names = kernel_names(source)
    table = ", ".join(f"ENTRY({name})" for name in names)
    text = f"""#include "cuda_on_cpu.h"
#line 1 "kernels.cu"
{source}
#include "cuda_on_cpu_launch.h"
static const Kernel table[] = {{{table}}};
static const Kernel& find(const std::string& name) {{
    for (const Kernel& kernel : table) if (kernel.name == name) return kernel;
    throw std::out_of_range(name);
}}
extern "C" const char* signature_of(const char* name) {{ return find(name).signature.c_str(); }}
extern "C" const char* launch(const char* name, unsigned* sizes, void** arguments, int mode) {{
    static std::string error;
    gridDim = {{sizes[0], sizes[1], sizes[2]}}, blockDim = {{sizes[3], sizes[4], sizes[5]}};
    int blocks = sizes[0] * sizes[1] * sizes[2], threads = sizes[3] * sizes[4] * sizes[5];
    auto modes = {{in_plain_loops, in_fibres, in_threads, all_at_once}};
    try {{ modes.begin()[mode](find(name), blocks, threads, arguments); }}
    catch (const std::logic_error& fault) {{ error = fault.what(); return error.c_str(); }}
    return nullptr;
}}
"""
    wanted = [option for option in options if option.startswith(("-D", "-I"))]
    checks = [f"-fsanitize={sanitize}", "-fno-sanitize-recover=all", "-g1"] if sanitize else []
    flags = ["-std=c++20", "-O1", "-ffp-contract=off", "-shared", "-fPIC", f"-I{HERE}"]
    command = ["g++", *flags, *WARNINGS, *wanted, *checks]
    key = hashlib.sha256(repr((text, command)).encode()).hexdigest()[:16]
    library = _folder() / f"kernels-{key}.so"
    code = library.with_suffix(".cpp")
    code.write_text(text)
    done = subprocess.run(
        [*command, str(code), "-o", str(library), "-pthread"], capture_output=True, text=True
    )
    if done.returncode:
        raise RuntimeError(f"g++ does not compile the kernels:\n{done.stderr}")
    return Kernels(library, source, sanitize)


@cache
def _temporary() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="tinyconv-kernels-")


def _folder() -> Path:
    return Path(_temporary().name)


def sanitizer_environment(sanitize: str) -> dict[str, str]:
    """What a process's environment needs for kernels compiled with ``sanitize``."""
    environment = {
        "TSAN_OPTIONS": "halt_on_error=1:exitcode=66",
        "ASAN_OPTIONS": "detect_leaks=0:exitcode=66",
        "UBSAN_OPTIONS": "print_stacktrace=1:exitcode=66",
    }
    library = {"thread": "libtsan.so", "address": "libasan.so"}.get(sanitize.partition(",")[0])
    if library:
        command = ["g++", f"-print-file-name={library}"]
        found = subprocess.run(command, capture_output=True, text=True)
        environment["LD_PRELOAD"] = found.stdout.strip()
    return environment


# ------------------------------------------------------------------------ CuPy's interface


class RawModule:
    """cupy.RawModule made from ``code``, for NumPy arrays."""

    def __init__(
        self, *, code: str, options: tuple[str, ...] = (), sanitize: str | None = None
    ) -> None:
        self.kernels = compile_kernels(code, options, sanitize)

    def get_function(self, name: str) -> Any:
        self.kernels.signature(name)  # AttributeError now, as CuPy raises

        def kernel(grid: tuple[int, ...], block: tuple[int, ...], args: tuple[Any, ...]) -> None:
            self.kernels.launch(name, grid, block, args)

        return kernel
