"""What holds while the code runs: is the graph recorded, and in which module are we?

One plain object with slots; reading a flag costs one attribute look-up, which is what an
operation on eight numbers can afford.
"""

from typing import Any


class Context:
    __slots__ = ("grad_enabled", "last_write", "module", "paths", "scope")

    def __init__(self) -> None:
        self.grad_enabled = True
        self.scope = ""  # attribute path of the module that is running, e.g. "layer2.0.conv1"
        self.module: Any = None  # that module
        self.paths: dict[int, str] = {}  # id(module) -> attribute path, of the outermost call
        self.last_write = 0  # when any tensor was last written in place (see autograd.tick)


context = Context()
