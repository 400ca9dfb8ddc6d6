"""The one stream of random numbers that initialisation, dropout and ``tc.randn`` draw from."""

from typing import Any

import numpy as np

_generator = np.random.default_rng()


def manual_seed(seed: int) -> np.random.Generator:
    """Start the stream anew; the same seed gives the same numbers."""
    global _generator
    _generator = np.random.default_rng(seed)
    return _generator


def generator() -> np.random.Generator:
    """The stream itself."""
    return _generator


def get_rng_state() -> dict[str, Any]:
    """The stream's state, as plain numbers and strings (JSON can hold it)."""
    return dict(_generator.bit_generator.state)


def set_rng_state(state: dict[str, Any]) -> None:
    """Continue a stream where `get_rng_state` left it."""
    _generator.bit_generator.state = state
