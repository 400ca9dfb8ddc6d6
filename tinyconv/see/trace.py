"""``tc.trace(model, x).save("graph.svg")``: the graph as people look at it.

`see.graph` describes the graph, `see.zoom` folds it; `see.dot`, `see.mermaid` and `see.text` draw
it.  This file is what a user calls: it runs a model where there is one, and turns drawings into
files.
"""

from __future__ import annotations

import logging
import os
import shutil
import subprocess
import sysconfig
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple
from uuid import uuid4

import graphviz

from tinyconv.autograd import Node
from tinyconv.errors import GraphError
from tinyconv.nn.module import Module
from tinyconv.see.dot import to_digraph
from tinyconv.see.graph import Details, Failure, Graph, describe, walk
from tinyconv.see.mermaid import to_mermaid
from tinyconv.see.running import input_names, outputs, run
from tinyconv.see.statistics import (
    Statistics,
    gradient_statistics,
    kept_values,
    saved_bytes,
    statistics,
)
from tinyconv.see.text import to_text
from tinyconv.see.words import title
from tinyconv.see.zoom import Zoom, zoomed
from tinyconv.tensor import Tensor

PICTURES = (".svg", ".png", ".pdf")  # drawn by the dot program
TEXTS = (".dot", ".gv", ".mmd", ".txt")
INSTALL = ("apt-get install graphviz (Debian), brew install graphviz (macOS), "
           "or for .svg and .png: pip install graphviz-pure")

_PURE = "graphviz-pure"  # a port of the dot program that pip installs
_log = logging.getLogger("tinyconv")


class NotDrawn(RuntimeError):
    """The ``dot`` program is missing or failed; says so, and what to do."""


def trace(
    subject: Tensor | Module | Callable[..., Any], *inputs: Any,
    params: Module | Mapping[str, Tensor] | None = None, zoom: Zoom = "operation",
    values: bool = False, gradients: bool = False, saved: bool = False, backward: bool = False,
) -> Trace:
    """The graph of a tensor, ``trace(loss, model)``, or of a call, ``trace(model, x)``.

    A tensor: everything that it was computed from.
        params, also by position: names for what is in it: the model (parameters and buffers get
        their paths, clusters their class), or a dict, {"x": x, "hidden": h}; leaves without a
        name show their shape.
    A model, or any function, and its inputs: runs it.  Where it raises, the graph is what ran
        before, and the call that failed, in red; the exception is in the result's `error`.
        The buffers of the model (the function's: give it as params) and the random numbers' state
        are put back.

    zoom: "model", a box for each child of the model; "module", a box for each call of a layer;
        "operation".
    values, gradients: least … mean … greatest, and the shares of zeros and of what is not finite,
        of each tensor and of the gradient of the output's sum with respect to it.  Of a tensor's
        graph only the values that are kept for the backward pass are known.
    saved: the bytes that each operation keeps for the backward pass.
    backward: the backward pass beside the graph, in its order.

    After backward() the graph is still there, but the arrays that it had kept are freed: inputs
    that need no gradient are then drawn without their shapes.
    GraphError for a tensor that does not require grad, so has no graph.
    """
    wanted = _Wanted(values, gradients, saved)
    if isinstance(subject, Tensor):
        names, modules = _names(inputs[0] if inputs and params is None else params)
        if not subject.requires_grad:
            raise _no_graph(f"the tensor {subject.shape}")
        return Trace(_described([subject], names, modules, wanted), zoom, backward)
    _check_callable(subject, inputs)
    names, modules = _names(params)
    if isinstance(subject, Module):
        own, modules = _names(subject)
        names = {**own, **names}
    names = {**names, **input_names(subject, inputs)}
    seen: dict[Any, Statistics] = {}

    def look(node: Node, array: Any) -> None:
        found = statistics(array) if values else None
        if found is not None:
            seen[node] = found

    outcome = run(subject, inputs, (subject, params), look)
    results = outcome.nodes if outcome.error else outputs(outcome.output)
    if not results and not outcome.error:
        raise _no_graph("what it returned")
    graph = _described(results, names, modules, wanted, seen, outcome.failure)
    return Trace(graph, zoom, backward and not outcome.error, outcome.error)


class _Wanted(NamedTuple):
    """The figures that were asked for."""

    values: bool
    gradients: bool
    saved: bool


def _check_callable(subject: Any, inputs: tuple[Any, ...]) -> None:
    if not callable(subject):
        raise TypeError(f"trace: a {type(subject).__name__} is not a Tensor; pass the result of a "
                        "computation, such as the loss, or a model to run: tc.trace(model, x)")
    if isinstance(subject, Module) and not inputs:
        raise TypeError(f"trace: a {type(subject).__name__} is not a Tensor; a model has no graph "
                        "before it runs: tc.trace(model, x), or tc.trace(model(x), model)")


def _no_graph(what: str) -> GraphError:
    return GraphError(
        "trace",
        f"{what} has no graph: nothing that it was computed from requires grad, or it was "
        "computed under no_grad(), or detached. To see it, compute it outside of no_grad() from a "
        "tensor that requires grad: x.requires_grad_()",
    )


def _names(params: Any) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors by name, and the short form of each module by path."""
    if params is None:
        return {}, {}
    if isinstance(params, Module):
        names = {**dict(params.named_parameters()), **dict(params.named_buffers())}
        return names, {path: module.brief() for path, module in params.named_modules()}
    if not isinstance(params, Mapping):
        raise TypeError(f"trace: params is a {type(params).__name__}; it is the model, or names of "
                        'tensors: {"x": x, "w": w}')
    for name, tensor in params.items():
        if not isinstance(tensor, Tensor):
            raise TypeError(f"trace: params[{name!r}] is a {type(tensor).__name__}, not a Tensor")
    return {str(name): tensor for name, tensor in params.items()}, {}


def _described(
    results: Sequence[Any], names: Mapping[str, Tensor], modules: Mapping[str, str],
    wanted: _Wanted, seen: Mapping[Any, Statistics] | None = None, failure: Failure | None = None,
) -> Graph:
    """The graph of tensors or nodes; ``seen``: the statistics of values that were met in a run."""
    order = walk(results)
    details = Details(
        {**kept_values(order, names), **(seen or {})} if wanted.values else {},
        gradient_statistics(results, order) if wanted.gradients and failure is None else {},
        saved_bytes(order, names) if wanted.saved else {},
    )
    return describe(results, names, modules, details, failure)


class Trace:
    """A drawn graph: a picture in a notebook, text when printed, a file with `save`.

    graph: at the zoom that is shown.  error: what a traced call raised, or None; it holds the
    frames of that call, and so their tensors, until the trace is dropped.
    """

    def __init__(
        self, graph: Graph, zoom: Zoom = "operation", backward: bool = False,
        error: Exception | None = None,
    ) -> None:
        self.graph = zoomed(graph, zoom)
        self.zoom = zoom
        self.error = error
        self._backward = backward
        self._operations = graph

    def at(self, zoom: Zoom) -> Trace:
        """The same graph at another zoom: "model", "module" or "operation"."""
        return Trace(self._operations, zoom, self._backward, self.error)

    @property
    def title(self) -> str:
        """``ResNet: 33 operations, 77,850 parameters in 29 tensors``"""
        counts = title(self._operations)
        return counts if self.error is None else f"{counts}, then {type(self.error).__name__}"

    @cached_property
    def digraph(self) -> graphviz.Digraph:
        """The graphviz.Digraph, to be changed as one likes before saving."""
        return to_digraph(self.graph, self.title, self._backward)

    @property
    def dot(self) -> str:
        """DOT source; the same bytes in every run of the same code."""
        return self.digraph.source

    def mermaid(self) -> str:
        """Mermaid source, for a Markdown page."""
        return to_mermaid(self.graph, self.title, self._backward)

    def text(self) -> str:
        """The graph as lines, indented by module, in the order of execution."""
        return to_text(self.graph, self.title, self._backward)

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the graph, all of it or nothing, and return the path written.

        The suffix decides: .svg, .png, .pdf, .dot or .gv (the source), .mmd (Mermaid), .txt.
        Pictures need graphviz's dot program, or for .svg and .png graphviz-pure from PyPI; without
        them the text goes to a .txt and the source to a .dot beside it, and a warning on the log
        "tinyconv" says so.
        ValueError for another suffix, FileNotFoundError where the folder is missing.
        """
        target = Path(path)
        kind = target.suffix.lower()
        if kind not in PICTURES + TEXTS:
            raise ValueError(f"save: {target.name!r} has the suffix {kind!r}; there is "
                             + ", ".join(PICTURES + TEXTS))
        if not target.parent.is_dir():
            raise FileNotFoundError(f"save: there is no folder {target.parent}; make it first")
        if kind in TEXTS:
            texts = {".txt": self.text, ".mmd": self.mermaid}
            return _write(target, (texts[kind]() if kind in texts else self.dot).encode())
        try:
            return _write(target, self.render(kind[1:]))
        except NotDrawn as reason:
            source = _write(target.with_suffix(".dot"), self.dot.encode())
            text = _write(target.with_suffix(".txt"), self.text().encode())
            _log.warning("%s was not drawn: %s. The graph is in %s as text and in %s as DOT; "
                         "later: dot -T%s %s -o %s",
                         target, reason, text, source, kind[1:], source, target)
            return text

    def render(self, format: str) -> bytes:
        """The picture as "svg", "png" or "pdf"; NotDrawn without a program that draws it."""
        try:
            return self.digraph.pipe(format=format, quiet=True)
        except (graphviz.ExecutableNotFound, OSError) as error:
            pure = _pure() if format in ("svg", "png") else None
            if pure is None:
                raise NotDrawn(f"graphviz's dot program was not found; {INSTALL}") from error
            return _piped([pure, f"-T{format}"], self.dot)
        except graphviz.CalledProcessError as error:
            said = (error.stderr or b"").decode(errors="replace").strip().partition("\n")[0]
            raise NotDrawn(f"the dot program failed ({said or error})") from error

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, str]:
        """What a notebook shows: the SVG, or the text and what to install for more."""
        try:
            return {"image/svg+xml": self.render("svg").decode(), "text/plain": self.text()}
        except NotDrawn as reason:
            return {"text/plain": f"{self.text()}\n({reason})"}

    def __str__(self) -> str:
        return self.text()

    def __repr__(self) -> str:
        return f"<Trace of {self.title}>"


def _pure() -> str | None:
    """graphviz-pure, on the path or where pip puts the programs of this Python."""
    return shutil.which(_PURE) or shutil.which(_PURE, path=sysconfig.get_path("scripts"))


def _piped(command: list[str], source: str) -> bytes:
    done = subprocess.run(command, input=source.encode(), capture_output=True)
    if done.returncode:
        said = done.stderr.decode(errors="replace").strip().partition("\n")[0]
        raise NotDrawn(f"{_PURE} failed ({said or done.returncode}); {INSTALL}")
    return done.stdout


def _write(target: Path, data: bytes) -> Path:
    real = target.resolve()  # through a symbolic link: replace the file, not the link
    temporary = real.with_name(f".{real.name}.{uuid4().hex}.tmp")
    try:
        temporary.write_bytes(data)
        os.replace(temporary, real)
    finally:
        temporary.unlink(missing_ok=True)
    return target
