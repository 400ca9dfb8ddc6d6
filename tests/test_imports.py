"""Imports go one way: no circles, no private names taken across files."""

import ast
from pathlib import Path

ROOT = Path(__file__).parent.parent / "tinyconv"


def name_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT.parent).with_suffix("").parts).removesuffix(".__init__")


FILES = {name_of(path): ast.parse(path.read_text()) for path in ROOT.rglob("*.py")}


def imported(tree: ast.Module) -> set[tuple[str, str]]:
    """(module, name) of what a file imports of tinyconv when it is imported itself."""
    return {
        (node.module, alias.name)
        for node in tree.body if isinstance(node, ast.ImportFrom)
        if node.module and node.module.split(".")[0] == "tinyconv"
        for alias in node.names
    }  # fmt: skip


def test_no_circles() -> None:
    needs = {
        name: {full if (full := f"{m}.{n}") in FILES else m for m, n in imported(tree)}
        for name, tree in FILES.items()
    }
    while free := [name for name, wanted in needs.items() if not wanted]:
        for name in free:
            del needs[name]
        for wanted in needs.values():
            wanted.difference_update(free)
    assert not needs, f"in circles, or behind one: {sorted(needs)}"


def test_no_private_names() -> None:
    taken = [
        f"{name}: from {module} import {what}"
        for name, tree in FILES.items() for module, what in imported(tree)
        if what.startswith("_") and what != "__version__"
    ]  # fmt: skip
    assert not taken
