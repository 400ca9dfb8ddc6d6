"""What every test gets: seeds, global state put back, and the list of backends."""

from collections.abc import Iterator

import numpy as np
import pytest

from tinyconv import random as tc_random
from tinyconv.autograd import OPS
from tinyconv.backend import BACKENDS
from tinyconv.context import context


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--backend",
        action="append",
        default=None,
        metavar="DEVICE",
        help="test on this device (repeatable; default: cpu)",
    )


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "device" in metafunc.fixturenames:
        metafunc.parametrize("device", metafunc.config.getoption("--backend") or ["cpu"])


@pytest.fixture(autouse=True)
def fresh_state() -> Iterator[None]:
    """Seeds before, global flags after: no test sees another one's."""
    stream = tc_random.generator()
    tc_random.manual_seed(0)
    choices = {backend: backend.choice for backend in BACKENDS.values()}
    enabled, operations = context.grad_enabled, dict(OPS)
    yield
    leaked = context.grad_enabled != enabled or context.scope or context.module is not None
    context.grad_enabled, context.scope, context.module = enabled, "", None
    for backend, choice in choices.items():
        backend.use(choice)
    tc_random._generator = stream
    OPS.clear()
    OPS.update(operations)  # an operation that a test made does not stay in the table
    assert not leaked, "the test left the grad mode or the module scope changed"


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)
