"""Infinities and NaN come about in silence, as in PyTorch: NumPy's warnings of them are off.

Off while an operation, a backward pass or an optimizer computes, and only there: what a program
does with NumPy itself warns as before.  ``np.errstate`` does the same and takes a microsecond, half
of a small operation; NumPy keeps the state in a context variable, which is set in a tenth of that.
"""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar, Token, copy_context
from typing import Any

import numpy as np


def _find() -> tuple[ContextVar[Any], Any]:
    """NumPy's context variable, and its value where nothing warns."""
    before = copy_context()
    with np.errstate(all="ignore"):
        for variable, value in copy_context().items():
            if before.get(variable) is not value:
                return variable, value
    raise RuntimeError("NumPy keeps what it warns of in no context variable; tinyconv needs 2.0")


_variable, SILENT = _find()
hush: Callable[[Any], Token[Any]] = _variable.set  # hush(SILENT), and then with what it returned
unhush: Callable[[Token[Any]], None] = _variable.reset


class silence:
    """The same as a ``with`` block, where a microsecond does not count."""

    def __enter__(self) -> None:
        self.token = hush(SILENT)

    def __exit__(self, *_: object) -> None:
        unhush(self.token)
