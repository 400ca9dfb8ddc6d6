"""What computes here, and what has computed so far."""

from __future__ import annotations

from collections.abc import Iterator

from tinyconv.backend import BACKENDS, compiled, modes, threads


def show_config() -> None:
    """Print the kernels' choice, layers, threads and tile, and which layer served each kernel.

    A kernel that a faster layer does not cover (a dtype, a small array) is served by the next.
    """
    print(*config_lines(), sep="\n")


def config_lines() -> Iterator[str]:
    """The lines that `show_config` prints."""
    if "cuda" not in BACKENDS:
        yield 'cuda: not in use; device="cuda" connects it, tinyconv doctor says whether it can'
    for device, backend in BACKENDS.items():
        layers = ", ".join(layer.__name__.rpartition(".")[2] for layer in backend.layers)
        yield f'{device}: kernels "{backend.choice}" from {layers}; {backend.xp.__name__} arrays'
        if device == "cpu":
            yield f"  threads: {threads.get_num_threads()}"
            yield f"  compiled: {_compiled()}"
            yield f"  direct convolutions only: {'yes' if modes.direct() else 'no'}"
        else:
            yield f"  convolutions: by {backend.convolutions()}"
            yield f"  float32 precision: {modes.get_float32_precision()}"
            yield f"  deterministic: {'yes' if modes.deterministic() else 'no'}"
        for name, reason in backend.reasons.items():
            yield f"  not {name}: {reason}"
        for (kernel, layer), count in sorted(backend.served.items()):
            yield f"  {kernel}: {count} by {layer}"


def _compiled() -> str:
    if not compiled.AVAILABLE:
        return "no, Numba is not installed: pip install numba"
    from tinyconv.backend.compiled import host, jit  # not before they are asked for: slow to import

    machine, reason = host.host(), jit.refusal()
    kept = f"kept in {jit.cache_folder()}" if reason is None else f"kept nowhere: {reason}"
    return (
        f"{machine.name}, {machine.lanes('float32')} float32 to a vector, "
        f"{machine.registers} registers; {kept}"
    )
