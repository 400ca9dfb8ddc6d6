"""What every test gets: seeds, global state put back, and the list of backends."""

import sys
import types
from collections.abc import Iterator
from typing import Any

import cuda_on_cpu
import fake_cudnn
import fake_cupy
import numpy as np
import pytest
from stand_in import FEW, RUNGS, stand_in

from tinyconv import random as tc_random
from tinyconv.autograd import OPS
from tinyconv.backend import BACKENDS, disconnect, modes
from tinyconv.backend.cuda import cudnn as cudnn_layer, ladder, own
from tinyconv.context import context

FAKE = pytest.StashKey[Any]()
DEVICES = {"cpu": "cpu"} | dict.fromkeys(["cupy", *RUNGS], "cuda")  # by what --backend says


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--backend",
        action="append",
        default=None,
        choices=DEVICES,
        help="test on the CPU, on a real GPU with CuPy, on the fake CuPy with plain array code, "
        "or there with kernels.cu, or with that and a fake cuDNN (repeatable)",
    )


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "device: computes on the device that --backend names")
    gpus = sorted(set(config.getoption("--backend") or []) - {"cpu"})
    if len(gpus) > 1:
        raise pytest.UsageError(f"--backend {', '.join(gpus)}: one of them at a time")
    if gpus and gpus != ["cupy"]:
        config.stash[FAKE] = stand_in(*gpus)
        config.stash[FAKE].__enter__()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "device" in getattr(item, "fixturenames", ()):
            item.add_marker("device")


def pytest_unconfigure(config: pytest.Config) -> None:
    if FAKE in config.stash:
        config.stash[FAKE].__exit__(None, None, None)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "device" in metafunc.fixturenames:
        chosen = metafunc.config.getoption("--backend") or ["cpu"]
        metafunc.parametrize("device", [DEVICES[name] for name in chosen], ids=chosen)


@pytest.fixture(autouse=True)
def fresh_state() -> Iterator[None]:
    """Seeds before, global flags after: no test sees another one's."""
    stream = tc_random.generator()
    tc_random.manual_seed(0)
    choices = {backend: backend.choice for backend in BACKENDS.values()}
    enabled, operations, before = context.grad_enabled, dict(OPS), dict(modes._modes)
    cupy = sys.modules.get("cupy")
    yield
    other_cupy = sys.modules.get("cupy") is not cupy
    if other_cupy and cupy is None:
        del sys.modules["cupy"]
    leaked = context.grad_enabled != enabled or context.scope or context.module is not None
    context.grad_enabled, context.scope, context.module = enabled, "", None
    for backend, choice in choices.items():
        backend.use(choice)
    tc_random._generator = stream
    modes._modes.update(before)
    OPS.clear()
    OPS.update(operations)  # an operation that a test made does not stay in the table
    assert not leaked, "the test left the grad mode or the module scope changed"
    assert not other_cupy, "the test left another cupy behind"


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[types.ModuleType]:
    """The fake CuPy in the place of a real one, with plain array code; device "cuda" is its."""
    monkeypatch.setattr(ladder, "RUNGS", [])
    if "cuda" in BACKENDS:
        disconnect("cuda")
    with fake_cupy.installed() as cupy:
        yield cupy
        if "cuda" in BACKENDS:
            disconnect("cuda")


@pytest.fixture
def own_kernels(gpu: types.ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same with kernels.cu, which g++ compiles."""
    if reason := cuda_on_cpu.missing():
        pytest.skip(reason)
    monkeypatch.setattr(ladder, "RUNGS", ["own"])
    monkeypatch.setattr(own, "THREADS", FEW)
    monkeypatch.setattr(fake_cupy.RawModule, "compiler", cuda_on_cpu.compile_kernels)


@pytest.fixture
def cudnn(gpu: types.ModuleType, monkeypatch: pytest.MonkeyPatch) -> Iterator[types.ModuleType]:
    """The same with a fake cuDNN above what there is."""
    monkeypatch.setattr(ladder, "RUNGS", ["cudnn", *ladder.RUNGS])
    with fake_cudnn.installed() as frontend:
        yield frontend
        cudnn_layer._library.cache_clear()


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)
