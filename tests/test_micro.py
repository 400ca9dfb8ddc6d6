"""examples/micro.py: short, right, and good at digits."""

import ast
import re
import runpy
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

import tinyconv as tc
from tinyconv.nn import functional as F

PAGE = Path(__file__).parent.parent / "examples" / "micro.py"
micro = SimpleNamespace(**runpy.run_path(str(PAGE)))


def ours(x: tc.Tensor, t: tc.Tensor, weights: list[tc.Tensor]) -> tc.Tensor:
    """The same network and its loss, in the library."""
    for w, b in (weights[:2], weights[2:4]):
        x = F.max_pool2d(F.relu(F.conv2d(x, w, b)), 2)
    return F.cross_entropy(F.linear(x.flatten(1), *weights[4:]), t)


@given(st.integers(0, 2**32 - 1), st.integers(1, 4))
@settings(max_examples=10, deadline=None)
def test_gradients_are_the_librarys(seed: int, n: int) -> None:
    rng = np.random.default_rng(seed)
    x, t = rng.normal(size=(n, 1, 28, 28)).astype(np.float32), rng.integers(0, 10, n)
    leaves = [micro.Tensor(x), *micro.parameters(rng)]
    loss = micro.cross_entropy(micro.network(leaves[0], leaves[1:]), t)
    loss.backward()
    twins = [tc.tensor(leaf.data, requires_grad=True) for leaf in leaves]
    expected = ours(twins[0], tc.tensor(t), twins[1:])
    np.testing.assert_allclose(loss.data, expected.item(), rtol=1e-5)
    for leaf, g in zip(leaves, tc.grad(expected, twins), strict=True):
        np.testing.assert_allclose(leaf.grad, g.array, rtol=1e-3, atol=1e-5)


def test_what_is_used_twice_gets_both_gradients() -> None:
    x = micro.Tensor([[1.0, -2.0], [3.0, 4.0]])
    y = micro.linear(x, x, micro.Tensor([0.0, 0.0]))  # x x^T
    micro.cross_entropy(micro.relu(y), [0, 1]).backward()
    twin = tc.tensor(x.data, requires_grad=True)
    F.cross_entropy(F.relu(twin @ twin.T), tc.tensor([0, 1])).backward()
    np.testing.assert_allclose(x.grad, twin.grad.array, rtol=1e-5)


def test_it_is_one_page() -> None:
    assert len(PAGE.read_text().splitlines()) <= 150


def test_every_twin_is_there() -> None:
    root = PAGE.parent.parent / "tinyconv"
    found = [
        part.split('"')[0].strip().rstrip(".")
        for part in PAGE.read_text().split("Twin: ")[1:]
        for part in [part.split("\n")[0]]
    ]
    assert len(found) >= 10
    for name in found:
        assert (root / name).exists(), name


@pytest.mark.slow
def test_it_reads_digits(capsys: pytest.CaptureFixture[str]) -> None:
    micro.main()
    assert float(capsys.readouterr().out.splitlines()[-1].split()[0]) > 95


def test_the_course_quotes_it() -> None:
    """docs/course/micro.md defines the same functions, docstrings apart."""

    def defined(text: str) -> dict[str, str]:
        found = {}
        for node in ast.parse(text).body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                for part in ast.walk(node):
                    if isinstance(part, ast.FunctionDef | ast.ClassDef) and ast.get_docstring(part):
                        part.body = part.body[1:]
                found[node.name] = ast.dump(node)
        return found

    page = (PAGE.parent.parent / "docs" / "course" / "micro.md").read_text()
    blocks = "\n".join(re.findall(r"^```python\n(?!>>>)(.*?)^```$", page, re.M | re.S))
    quoted, real = defined(blocks), defined(PAGE.read_text())
    assert quoted.keys() >= real.keys() - {"main"}
    for name in real.keys() - {"main"}:
        assert quoted[name] == real[name], name
