"""The reference, written from the package when the site is built: docs/reference/*.rst.

Every public name stands on the page of its module, grouped by the file that defines it; autodoc
fills in the docstrings.  The table of operations is another page (rules.py).
"""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType
from typing import Any

import rules
from sphinx.application import Sphinx
from sphinx.util.inspect import stringify_signature

import tinyconv as tc
from tinyconv import data, func, nn, optim, see
from tinyconv.autograd import Op
from tinyconv.nn import functional, init, resnet

PAGES = {
    "tinyconv": (tc, "Tensors, their creation, gradients, files."),
    "nn": (nn, "Layers and the containers that hold them."),
    "functional": (functional, "The same computations as functions."),
    "init": (init, "First values of the weights."),
    "resnet": (resnet, "Residual networks."),
    "optim": (optim, "Optimizers and schedules."),
    "func": (func, "Gradients of functions, products with Jacobians and Hessians."),
    "data": (data, "Data sets and loaders."),
    "see": (
        see,
        "Explainers, traces, shapes, costs. All but `curves` are also in `tinyconv` itself.",
    ),
}

# --- which names


def public(module: ModuleType) -> dict[str, Any]:
    """The names that users see, without submodules and what was imported from elsewhere."""
    names = getattr(module, "__all__", None) or [n for n in vars(module) if not n.startswith("_")]
    found = {name: getattr(module, name) for name in names}
    return {name: thing for name, thing in found.items() if _belongs(thing, module)}


def _belongs(thing: Any, module: ModuleType) -> bool:
    if not (inspect.isclass(thing) or inspect.isfunction(thing) or isinstance(thing, Op)):
        return False
    home = _home(thing)
    if module in (init, resnet):  # these have helpers of other modules in them
        return home == module.__name__
    if module is tc and home.startswith("tinyconv.see."):
        return False
    return home.startswith("tinyconv.") and home != "tinyconv.hints"


def _home(thing: Any) -> str:
    return (thing.forward if isinstance(thing, Op) else thing).__module__


def groups(module: ModuleType) -> dict[str, list[str]]:
    """The public names by the file that defines them, in the order of import."""
    found: dict[str, list[str]] = {}
    for name, thing in public(module).items():
        found.setdefault(_home(thing), []).append(name)
    return found


# --- pages


def page(module: ModuleType, about: str) -> str:
    title = f"``{module.__name__}``"
    parts = [title, "=" * len(title), "", to_rst(about.splitlines())[0], ""]
    by_file = groups(module)
    for home, names in by_file.items():
        if len(by_file) > 1:
            heading = home.removeprefix("tinyconv.")
            parts += [heading, "-" * len(heading), ""]
            parts += [*to_rst((sys.modules[home].__doc__ or "").split("\n\n")[0].splitlines()), ""]
        for name in names:
            parts += [*entry(module, name), ""]
    return "\n".join(parts)


def entry(module: ModuleType, name: str) -> list[str]:
    """The directive that documents a name."""
    thing = getattr(module, name)
    full = f"{'tinyconv' if getattr(tc, name, None) is thing else module.__name__}.{name}"
    if isinstance(thing, Op):
        body = [f"   {line}" for line in to_rst((inspect.getdoc(thing) or "").splitlines())]
        return [f".. py:function:: {full}{inspect.signature(thing)}", "", *body]
    if inspect.isclass(thing):
        return [f".. autoclass:: {full}", "   :members:"]
    return [f".. autofunction:: {full}"]


def index() -> str:
    entries = "\n   ".join([*PAGES, "operations"])
    return f"Reference\n=========\n\n.. toctree::\n   :maxdepth: 2\n\n   {entries}\n"


# --- docstrings

ITEM = re.compile(r"^(\*{0,2}[\w.]+(?:, \*{0,2}[\w.]+)*): +(.*)$")  # "x, w: what they are"


def to_rst(lines: list[str]) -> list[str]:
    """reStructuredText of a plain docstring.

    After the first paragraph ``name: what it is`` begins an item that indented lines continue; a
    block that is indented as a whole stays as it is; everything else is a paragraph.
    """
    out: list[str] = []
    for i, block in enumerate(blocks(lines)):
        if i == 0:
            out += [escaped(block[0]), *paragraph(block[1:]), ""]
        elif all(line.startswith(" ") for line in block):
            out += ["::", "", *(f"   {line}" for line in block), ""]
        elif block[0].startswith(">>>"):
            out += [*block, ""]
        else:
            out += [*paragraph(block), ""]
    return out


def blocks(lines: Iterable[str]) -> list[list[str]]:
    """The runs of lines between the empty ones."""
    found: list[list[str]] = [[]]
    for line in lines:
        if line.strip():
            found[-1].append(line)
        elif found[-1]:
            found.append([])
    return [block for block in found if block]


def paragraph(block: list[str]) -> list[str]:
    """A paragraph's lines, and the items after them as a list."""
    out: list[str] = []
    listed = False
    for line in block:
        item = ITEM.match(line)
        if item:
            out += [] if listed else [""]
            out.append(f"- ``{item[1]}``: {escaped(item[2])}")
            listed = True
        else:
            out.append("  " * listed + escaped(line.strip()))
    return out


def escaped(text: str) -> str:
    """Code spans with two backticks; what means something to reStructuredText, escaped."""
    parts = re.split(r"(``.+?``|`[^`]+`)", text)
    for i, part in enumerate(parts):
        if i % 2:  # a code span ends where a letter follows only after "\\ "
            joined = "\\ " if parts[i + 1][:1].isalnum() else ""
            parts[i] = f"``{part.strip('`')}``{joined}"
        else:
            parts[i] = re.sub(r"([\\*|`])|(_)(?!\w)", r"\\\1\2", part)
    return "".join(parts)


# --- Sphinx


def write(app: Sphinx) -> None:
    folder = Path(app.srcdir, "reference")
    folder.mkdir(exist_ok=True)
    pages = {name: page(module, about) for name, (module, about) in PAGES.items()}
    for name, text in {**pages, "operations": rules.text(escaped), "index": index()}.items():
        target = folder / f"{name}.rst"
        if not target.exists() or target.read_text() != text:
            target.write_text(text)


def docstring(
    _app: Any, _what: str, _name: str, _thing: Any, _options: Any, lines: list[str]
) -> None:
    lines[:] = to_rst(lines)


def signature(
    _app: Any,
    what: str,
    _name: str,
    thing: Any,
    _options: Any,
    text: str | None,
    returns: str | None,
) -> tuple[str | None, str | None]:
    """Of a class the arguments of its own __init__, where a base class has a __new__."""
    if what != "class" or thing.__init__ is object.__init__:
        return text, returns
    own = inspect.signature(thing.__init__)
    own = own.replace(parameters=list(own.parameters.values())[1:])  # without self
    return stringify_signature(own, show_return_annotation=False, unqualified_typehints=True), None


def setup(app: Sphinx) -> dict[str, bool]:
    app.connect("builder-inited", write)
    app.connect("autodoc-process-docstring", docstring)
    app.connect("autodoc-process-signature", signature)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
