"""What `tinyconv.see` adds to the command line."""

from __future__ import annotations

from typing import Any

from tinyconv.see.curves import add_command as add_curves
from tinyconv.see.explain.command import add_command as add_explain
from tinyconv.see.shapes import add_command as add_shapes
from tinyconv.see.summary import add_command as add_summary


def add_commands(commands: Any) -> None:
    """Add the parsers to argparse's sub-parsers."""
    add_explain(commands)
    add_curves(commands)
    add_shapes(commands)
    add_summary(commands)
