"""The engine: operations, the graph that they record, and the walk back through it.

    rule.py        one line of the table: a forward function and its derivatives (VJPs)
    table.py       the table: OPS and @op
    naive.py       what a call and a walk are, in a few lines each
    call.py        calling an operation: compute, and record
    operands.py    operands of one dtype and one device
    reads.py       what is kept for the VJPs
    graph.py       nodes and variables: what is recorded
    walk.py        from the outputs back through the graph
    accumulate.py  adding gradients up, in place where nobody would see it (ownership.py)
    grad.py        the two entrances: grad and backward
    function.py    Function, as research code for PyTorch is written
    hooks.py modes.py failures.py   functions that see a gradient; no_grad; what went wrong

Reference: Baydin et al., Automatic differentiation in machine learning: a survey, JMLR 2018.
"""

from typing import TYPE_CHECKING

from tinyconv.autograd.call import Op as Op
from tinyconv.autograd.function import Function as Function
from tinyconv.autograd.grad import backward as backward, grad as grad
from tinyconv.autograd.graph import (
    Edge as Edge,
    Node as Node,
    Variable as Variable,
    is_tensor as is_tensor,
    meta_of as meta_of,
    newest_first as newest_first,
    wrap as wrap,
)
from tinyconv.autograd.hooks import RemovableHandle as RemovableHandle
from tinyconv.autograd.modes import (
    enable_grad as enable_grad,
    grad_mode as grad_mode,
    inference_mode as inference_mode,
    is_grad_enabled as is_grad_enabled,
    no_grad as no_grad,
    set_grad_enabled as set_grad_enabled,
)
from tinyconv.autograd.operands import (
    check_devices as check_devices,
    check_operands as check_operands,
    common_dtype as common_dtype,
    exact_number as exact_number,
    wide_number as wide_number,
)
from tinyconv.autograd.ownership import is_seen as is_seen
from tinyconv.autograd.reads import Reads as Reads
from tinyconv.autograd.table import OPS as OPS, op as op
from tinyconv.hints import hints_for

if not TYPE_CHECKING:  # mypy goes on to report a name that is not there
    __getattr__ = hints_for(__name__)
