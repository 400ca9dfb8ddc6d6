"""What holds while the code runs: is the graph recorded, and in which module are we?

Each thread has its own, as in PyTorch: one may evaluate under no_grad while another trains.
"""

import threading
from typing import Any


class Context(threading.local):
    def __init__(self) -> None:
        self.grad_enabled = True
        self.scope = ""  # attribute path of the module that is running, e.g. "layer2.0.conv1"
        self.module: Any = None  # that module
        self.paths: dict[int, str] = {}  # id(module) -> attribute path, of the outermost call
        self.tape: Any = None  # what writes down every gradient that is sent (see.tape)
        self.autocast: Any = None  # the dtype in which float32 products are computed (see amp)
        self.capture: Any = None  # what records a train step for a GPU (see capture.Recording)
        self.watch: Any = None  # called with each new node and its output's array


context = Context()
