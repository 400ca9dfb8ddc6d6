"""The code in the README and in docs/ runs and prints what it says."""

import doctest
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
FENCE = re.compile(r"^```python\n(.*?)^```", re.M | re.S)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_page(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    blocks = FENCE.findall(page.read_text())
    runner = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE)
    names: dict[str, object] = {}
    report: list[str] = []
    for i, block in enumerate(blocks):
        source = block if ">>>" in block else _as_session(block)
        test = doctest.DocTestParser().get_doctest(source, names, f"{page.name}[{i}]", page.name, 0)
        runner.run(test, out=report.append, clear_globs=False)
        names.update(test.globs)
    assert runner.failures == 0, "".join(report)
    assert not blocks or runner.tries > 0


def _as_session(block: str) -> str:
    """A block without prompts: run it whole; what it prints is not compared."""
    return f""">>> import contextlib, io
>>> with contextlib.redirect_stdout(io.StringIO()):
...     exec({block!r}, globals())
"""
