"""The Python blocks of the pages run when the site is built, and what they make is shown.

A block with prompts is a doctest: what it prints must be what the page says.  Of any other block
the printed text is shown, and the value of its last line: an explainer as a page in a frame, a
trace or a figure as a picture, everything else as text.  A page is one session: its blocks share
their names.  A block that fails is a warning, which ends the build.
"""

from __future__ import annotations

import ast
import contextlib
import doctest
import html
import io
import re
import traceback
from pathlib import Path
from typing import Any

from docutils import nodes
from matplotlib.figure import Figure
from sphinx.application import Sphinx
from sphinx.util import logging
from sphinx.util.docutils import SphinxDirective

import tinyconv as tc

FENCE = re.compile(r"^```python$", re.M)
# A frame's document cannot be measured from outside, on file:// at least: it says its own height.
# What it takes for the window's height must not grow with the frame, or the two go on growing.
STEADY = """<script>window.innerHeight = 900;</script>
</head>"""
MEASURE = """<script>
new ResizeObserver(() => {
  parent.postMessage({width: innerWidth, height: document.body.offsetHeight}, "*");
}).observe(document.body);
</script>
</body>"""

log = logging.getLogger(__name__)


def to_live(app: Sphinx, docname: str, source: list[str]) -> None:
    """Every Python block of a Markdown page is a live one."""
    if Path(app.env.doc2path(docname)).suffix == ".md":
        source[0] = FENCE.sub("```{live}", source[0])


class Live(SphinxDirective):
    """A block of Python and what it makes."""

    has_content = True

    def run(self) -> list[nodes.Node]:
        # The session lives as long as the page is being read.
        names = self.env.current_document.setdefault("live_names", {"__name__": "__main__"})
        code = "\n".join(self.content)
        where = f"{self.env.docname}, line {self.lineno}"
        if ">>>" in code:
            self._compare(code, names, where)
            return [_literal(code, "pycon")]
        printed = io.StringIO()
        try:
            with contextlib.redirect_stdout(printed):
                value = run(code, names, where)
        except Exception:
            log.warning(
                "this block failed:\n%s", traceback.format_exc(), location=self.get_location()
            )
            return [_literal(code, "python")]
        text = printed.getvalue() + (as_text(value) or "")
        shown = [_output(text)] if text.strip() else []
        return [_literal(code, "python"), *shown, *self._picture(value)]

    def _compare(self, code: str, names: dict[str, Any], where: str) -> None:
        test = doctest.DocTestParser().get_doctest(code + "\n", names, where, None, 0)
        runner = doctest.DocTestRunner(verbose=False, optionflags=doctest.NORMALIZE_WHITESPACE)
        report: list[str] = []
        runner.run(test, out=report.append, clear_globs=False)
        names.update(test.globs)
        if report:
            log.warning("%s", "".join(report), location=self.get_location())

    def _picture(self, value: Any) -> list[nodes.Node]:
        if isinstance(value, tc.Explanation):
            return [self._frame(value)]
        if isinstance(value, tc.Trace):
            svg = value._repr_mimebundle_().get("image/svg+xml")
            return [self._image("svg", svg.encode(), value.title)] if svg else []
        if hasattr(value, "_repr_png_"):
            return [self._image("png", value._repr_png_(), type(value).__name__)]
        if isinstance(value, Figure):
            file = io.BytesIO()
            value.savefig(file, format="png", dpi=144)
            title = value.get_suptitle() or ", ".join(a.get_title() for a in value.axes)
            return [self._image("png", file.getvalue(), title)]
        return []

    def _frame(self, value: tc.Explanation) -> nodes.Node:
        page = value.html().replace("</head>", STEADY, 1).replace("</body>", MEASURE)
        at = self._write("html", page.encode())
        name = html.escape(f"{value.layer.brief()}, step by step")
        return _raw(
            f'<div class="explainer"><iframe src="{at}" title="{name}" loading="lazy"></iframe>'
            f'<a href="{at}">{name}, as a page of its own</a></div>'
        )

    def _image(self, suffix: str, data: bytes, title: str) -> nodes.Node:
        at = self._write(suffix, data)
        image = f'<img src="{at}" alt="{html.escape(title)}" loading="lazy">'
        return _raw(f'<a class="picture" href="{at}">{image}</a>')

    def _write(self, suffix: str, data: bytes) -> str:
        """Write a file of this page and return its address from this page."""
        number = self.env.current_document.get("live_files", 0) + 1
        self.env.current_document["live_files"] = number
        name = f"{self.env.docname.replace('/', '-')}-{number}.{suffix}"
        folder = Path(self.env.app.outdir, "live")
        folder.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
        return "../" * self.env.docname.count("/") + f"live/{name}"


def run(code: str, names: dict[str, Any], where: str) -> Any:
    """Run the code; the value of its last line where that is an expression."""
    tree = ast.parse(code, where)
    last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
    exec(compile(tree, where, "exec"), names)
    if last is None:
        return None
    return eval(compile(ast.Expression(last.value), where, "eval"), names)


def as_text(value: Any) -> str | None:
    """What is shown of a value that is no picture."""
    if value is None or isinstance(value, tc.Explanation | Figure) or hasattr(value, "_repr_png_"):
        return None
    if isinstance(value, tc.Trace):  # without the dot program it is text and says what to install
        bundle = value._repr_mimebundle_()
        return None if "image/svg+xml" in bundle else bundle["text/plain"]
    return str(value) if hasattr(value, "_repr_html_") else repr(value)


def _literal(code: str, language: str) -> nodes.Node:
    return nodes.literal_block(code, code, language=language)


def _output(text: str) -> nodes.Node:
    return nodes.literal_block(text, text.rstrip(), language="none", classes=["output"])


def _raw(markup: str) -> nodes.Node:
    return nodes.raw("", markup, format="html")


def setup(app: Sphinx) -> dict[str, bool]:
    app.add_directive("live", Live)
    app.connect("source-read", to_live)
    return {"parallel_read_safe": False, "parallel_write_safe": True}
