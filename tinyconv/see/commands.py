"""What `tinyconv.see` adds to the command line."""

from __future__ import annotations

from typing import Any

from tinyconv.see.shapes import add_command as add_shapes


def add_commands(commands: Any) -> None:
    """Add the parsers to argparse's sub-parsers."""
    add_shapes(commands)
