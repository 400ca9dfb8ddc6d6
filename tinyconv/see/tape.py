"""``with tc.record() as tape: loss.backward()``: every gradient contribution, in order.

The text answers two questions by itself.  Why a topological order?  An operation's turn comes when
every contribution to its gradient has come.  Does ``.grad`` accumulate?  Yes, where two operations
read one tensor, and from one ``backward()`` to the next.
"""

from __future__ import annotations

import html
import threading
from collections import Counter
from collections.abc import Mapping
from contextlib import ContextDecorator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from tinyconv.autograd import Edge, Node, Variable
from tinyconv.autograd.outputs import Gradients
from tinyconv.backend import backend_of
from tinyconv.context import context
from tinyconv.nn.module import Module, Parameter
from tinyconv.tensor import Tensor


@dataclass(frozen=True)
class Contribution:
    """One gradient that was sent.

    kind:   "start", the gradient that backward() begins with; "send", from an operation to one of
            its inputs; "store", into a leaf's .grad
    source: the sender, "conv1: conv2d %3"; "" for a start, ".grad" has the leaf itself
    target: what it is the gradient of, an operation's output ("bn1: affine %2") or a leaf ("x")
    norm:   of the contribution alone; total: of the sum with what had come before
    order:  the how-manieth contribution to that target in this walk, or to that .grad; 2 and more
            were added to what was there
    """

    kind: Literal["start", "send", "store"]
    source: str
    target: str
    shape: tuple[int, ...]
    norm: float
    total: float
    order: int

    @property
    def accumulated(self) -> bool:
        """Was it added to an earlier one?"""
        return self.order > 1

    def __str__(self) -> str:
        text = f"{self.target}  {self.shape}  norm {self.norm:.4g}"
        if not self.accumulated:
            return text
        what = "to the .grad that was there" if self.kind == "store" else f"as number {self.order}"
        return f"{text}, added {what}: norm {self.total:.4g}"


class Tape:
    """The contributions of every backward pass inside the ``with`` block; printed, a protocol."""

    def __init__(self, names: Mapping[str, Tensor]) -> None:
        self.contributions: list[Contribution] = []
        self._leaves: dict[Edge, str] = {t.node or t: name for name, t in names.items()}
        self._numbers: dict[Edge, int] = {}  # of operations, in the order in which they appear
        self._arrived: Counter[Edge] = Counter()  # contributions in the walk that is going on

    def __len__(self) -> int:
        return len(self.contributions)

    def __getitem__(self, index: int) -> Contribution:
        return self.contributions[index]

    # --- called by the walk (tinyconv.autograd)

    def start(self, roots: Mapping[Edge, Any]) -> None:
        """A walk begins with these gradients."""
        self._arrived.clear()
        for edge, gradient in roots.items():
            self._arrived[edge] = 1
            self._add("start", "", self._name(edge), gradient, gradient, 1)

    def send(self, node: Node, edge: Edge, share: Any, total: Any) -> None:
        """``node`` sent ``share`` to ``edge``, whose gradient is ``total`` so far."""
        if isinstance(share, Gradients):  # to a call with several outputs, by one of these
            share = total = share.sent()
        self._arrived[edge] += 1
        self._add("send", self._name(node), self._name(edge, node), share, total,
                  self._arrived[edge])  # fmt: skip

    def store(self, leaf: Variable, gradient: Any) -> None:
        """``leaf.grad`` is about to get ``gradient``, or to have it added."""
        before, name = leaf.grad, self._name(leaf) + ".grad"
        if before is None:
            self._add("store", "", name, gradient, gradient, 1)
        else:
            self._add("store", "", name, gradient, before.array + _array(gradient), 2)

    def _add(self, kind: Any, source: str, target: str, one: Any, total: Any, order: int) -> None:
        norms = _norm(one), _norm(total)
        self.contributions.append(
            Contribution(kind, source, target, tuple(one.shape), *norms, order)
        )

    def _name(self, edge: Edge, reader: Node | None = None) -> str:
        if isinstance(edge, Node):
            number = self._numbers.setdefault(edge, len(self._numbers) + 1)
            given = self._leaves.get(edge, "")
            parts = [f"{edge.scope}:" if edge.scope else "", given, edge.op.name, f"%{number}"]
            return " ".join(part for part in parts if part)
        if edge not in self._leaves:
            self._leaves[edge] = self._guess(edge, reader)
        return self._leaves[edge]

    def _guess(self, leaf: Variable, reader: Node | None) -> str:
        """A leaf that nobody named: by the place where it is read."""
        kind = "parameter" if isinstance(leaf, Parameter) else "leaf"
        number = sum(name.startswith(kind) for name in self._leaves.values()) + 1
        scope = f" of {reader.scope}" if reader is not None and reader.scope else ""
        return f"{kind} {number}{scope}"

    def _close(self) -> None:
        """Names are words by now; the graph need not be held any longer."""
        self._leaves, self._numbers = {}, {}
        self._arrived.clear()

    # --- read by people

    def to(self, target: str) -> list[Contribution]:
        """The contributions to one tensor, by its name as printed, or its path."""
        return [one for one in self.contributions if target in (one.target, one.target.split()[0])]

    def __str__(self) -> str:
        lines: list[str] = []
        before = ("", "")
        arrived: Counter[str] = Counter()
        for i, one in enumerate(self.contributions, 1):
            if one.kind == "start" and before[0] != "start":
                lines.append("backward pass")
                arrived.clear()
            elif one.kind == "send" and one.source != before[1]:
                count = arrived[one.source]
                lines.append(f"  {one.source}: its gradient is complete, {_times(count)} came")
            elif one.kind == "store" and before[0] != "store":
                lines.append("  the leaves' .grad")
            if one.kind != "store":
                arrived[one.target] += 1
            arrow = "" if one.kind == "store" else "-> "
            lines.append(f"{i:5}   {arrow}{one}")
            before = (one.kind, one.source)
        return "\n".join(lines) or "nothing was recorded: no backward() ran inside the with block"

    __repr__ = __str__

    def _repr_html_(self) -> str:
        return f"<pre>{html.escape(str(self))}</pre>"


class record(ContextDecorator):
    """``with tc.record() as tape: loss.backward()`` writes down every gradient contribution.

    params: names of tensors, as for `trace`: the model, or a dict {"x": x}.
    Acts on this thread's backward passes; of nested records the innermost writes.
    """

    def __init__(self, params: Module | Mapping[str, Tensor] | None = None) -> None:
        if isinstance(params, Module):
            params = {**dict(params.named_parameters()), **dict(params.named_buffers())}
        for name, tensor in (params or {}).items():
            if not isinstance(tensor, Tensor):
                raise TypeError(f"record: params[{name!r}] is a {type(tensor).__name__}, no Tensor")
        self.names: Mapping[str, Tensor] = params or {}
        # By thread, which may share this object: tapes, with what was there before.
        self.open: dict[int, list[tuple[Tape, Any]]] = {}

    def __enter__(self) -> Tape:
        tape = Tape(self.names)
        self.open.setdefault(threading.get_ident(), []).append((tape, context.tape))
        context.tape = tape
        return tape

    def __exit__(self, *_: object) -> None:
        tape, context.tape = self.open[threading.get_ident()].pop()
        tape._close()


def _array(gradient: Any) -> Any:
    array = gradient.array if isinstance(gradient, Variable) else gradient
    return np.asarray(array) if isinstance(array, np.generic) else array


def _norm(gradient: Any) -> float:
    array = _array(gradient)
    return float(np.linalg.norm(backend_of(array).to_numpy(array).astype(np.float64)))


def _times(n: int) -> str:
    return f"{n} contribution{'' if n == 1 else 's'}"
