"""docs/reading.md keeps its promise: short files, short functions, and their true lengths."""

import ast
import re
from pathlib import Path

import pytest

PAGE = Path(__file__).parent.parent / "docs" / "reading.md"
ROWS = re.findall(r"^\|[^|]*\| \[[\w/.]+\]\(\.\./([\w/.]+)\) \| (\d+) \|", PAGE.read_text(), re.M)
FILES = {PAGE.parent.parent / path: int(lines) for path, lines in ROWS}


def test_the_path_is_there() -> None:
    assert len(FILES) == 12
    assert all(path.is_file() for path in FILES)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_no_file_is_long(path: Path) -> None:
    lines = len(path.read_text().splitlines())
    assert lines <= 300
    assert abs(lines - FILES[path]) <= 0.1 * lines, f"docs/reading.md says {FILES[path]}: {lines}"


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_no_function_is_long(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef):
            assert node.end_lineno is not None
            assert node.end_lineno - node.lineno < 40, node.name


def test_half_an_hour_a_stop() -> None:
    """At some ten lines a minute."""
    stops: list[int] = []
    for line in PAGE.read_text().splitlines():
        row = re.match(r"\| (\d\.)?.*\]\(\.\./[\w/.]+\) \| (\d+) \|", line)
        if row and row[1]:
            stops.append(int(row[2]))
        elif row:
            stops[-1] += int(row[2])
    assert len(stops) == 7
    assert max(stops) <= 450


def test_the_naive_walk_fits_a_screen() -> None:
    tree = ast.parse((PAGE.parent.parent / "tinyconv/autograd/naive.py").read_text())
    walk = next(n for n in tree.body if getattr(n, "name", "") == "naive_walk")
    assert isinstance(walk, ast.FunctionDef)
    assert walk.end_lineno is not None
    assert walk.end_lineno - walk.lineno < 15


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_samples_are_out_of_sight(path: Path) -> None:
    """In a table of rules no rule has its samples between its derivatives."""
    if path.parent.name == "ops":
        rules = path.read_text().split("# --- what to test them with")[0]
        assert "samples=" not in rules
