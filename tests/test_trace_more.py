"""The tracer's zooms, figures, backward pass, failures and Mermaid: each against a walk of its own.

`test_trace` holds what they share: the operation-level graph, its DOT and its text.
"""

import gc
import os
import re
import subprocess
import sys
import sysconfig
import time
import weakref

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from test_trace import Affine, drawn, needs_dot, parsed, recorded

import tinyconv as tc
from tinyconv import nn
from tinyconv.context import context
from tinyconv.nn import functional as F, resnet
from tinyconv.see import trace, zoom
from tinyconv.see.graph import _Builder, backward_steps
from tinyconv.see.statistics import statistics

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:pydot.*")


@pytest.fixture(scope="module")
def network() -> tuple[nn.Module, tc.Tensor]:
    tc.manual_seed(0)
    return resnet.resnet8(), tc.randn(2, 1, 28, 28)


class Twice(nn.Module):
    """One layer, called twice; and a sum that belongs to no layer."""

    def __init__(self) -> None:
        super().__init__()
        self.affine, self.relu = Affine(3, 3), nn.ReLU()

    def forward(self, x):
        hidden = self.relu(self.affine(x))
        return self.affine(hidden) + hidden


# --- zooms


def folded_by_hand(output: tc.Tensor, key) -> set[tuple[str, str]]:
    """Edges between boxes, from the engine's own nodes; leaves left out."""
    nodes, _ = recorded(output)
    return {
        (key(edge), key(node))
        for node in nodes
        for edge in node.inputs
        if hasattr(edge, "op") and edge.op is not None and key(edge) != key(node)
    }


def drawn_boxes(found) -> dict[str, str]:
    """DOT name -> the module's path, or the operation's name, of all that is no leaf."""
    names = {}
    for node, label in found.labels.items():
        first = label.split("\n")[0]
        path = found.tooltips[node]
        is_box = path and first.startswith(path.rpartition(".")[2] + "  ")
        names[node] = path if is_box else first.partition("(")[0]
    return names


def test_modules_are_boxes_and_edges_are_those_of_the_graph(network):
    model, x = network
    loss = model(x).sum()
    found = parsed(trace(loss, model, zoom="module").dot)
    scopes = {node.scope for node in recorded(loss)[0]}
    leaves = {s for s in scopes if s and not any(t.startswith(f"{s}.") for t in scopes)}
    assert len(leaves) > 15
    names = drawn_boxes(found)
    drawn = {(names[a], names[b]) for a, b in found.edges if names[a] != "input"}
    assert drawn == folded_by_hand(loss, lambda n: n.scope if n.scope in leaves else n.op.name)
    assert found.cluster[found.node(tooltip="layer2.0.downsample.1")] == "layer2.0.downsample"


def test_the_models_children_are_boxes(network):
    model, x = network
    loss = model(x).sum()
    found = parsed(trace(loss, model, zoom="model").dot)
    names = drawn_boxes(found)
    drawn = {(names[a], names[b]) for a, b in found.edges if names[a] != "input"}
    assert drawn == folded_by_hand(loss, lambda n: n.scope.partition(".")[0] or n.op.name)
    assert set(found.cluster.values()) == {""}
    label = found.labels[found.node(tooltip="layer2")]
    assert label.startswith("layer2  Sequential\nBasicBlock: ")
    size = sum(p.numel() for p in model.layer2.parameters())
    assert label.endswith(f"(2, 32, 14, 14)  {size:,} parameters")


def test_every_zoom_has_all_parameters(network):
    model, x = network
    total = sum(p.numel() for p in model.parameters())
    result = trace(model, x)
    for at in ("model", "module", "operation"):
        zoomed = result.at(at)
        assert f"{total:,} parameters" in zoomed.title
        shown = [
            vertex.parameters or vertex.size
            for vertex in zoomed.graph.vertices
            if vertex.parameters or vertex.kind == "parameter"
        ]
        assert sum(shown) == total
        assert all(i < j for i, j in zoomed.graph.edges)


def test_a_layer_called_twice_is_two_boxes():
    model = Twice()
    x = tc.randn(2, 3)
    boxes = trace(model, x, zoom="module").graph
    assert [v.name for v in boxes.vertices] == ["x", "affine", "relu", "affine", "add"]
    assert list(boxes.edges) == [(0, 1), (1, 2), (2, 3), (3, 4), (2, 4)]
    assert [v.parameters for v in boxes.vertices] == [0, 12, 0, 0, 0]


def test_an_operation_outside_all_modules_keeps_both_edges():
    b = tc.randn(3, requires_grad=True)
    assert list(trace(b + b, zoom="model").graph.edges) == [(0, 1), (0, 1)]


def test_a_box_with_two_outputs_says_which_flows_where():
    class Split(nn.Module):
        def forward(self, x):
            return x.exp(), x.sum(1)

    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.split, self.end = Split(), nn.Identity()

        def forward(self, x):
            whole, part = self.split(x)
            return (whole * part.reshape(2, 1)).sum()

    x = tc.randn(2, 3, requires_grad=True)
    found = parsed(trace(Both(), x, zoom="module").dot)
    assert "(2, 3)" in found.edge_labels.values()
    assert found.labels[found.node(tooltip="split")].endswith("(2,)")


def test_an_unknown_zoom_lists_those_known():
    with pytest.raises(ValueError, match="'layer', it is one of model, module, operation"):
        trace(tc.randn(2, requires_grad=True), zoom="layer")


def test_a_residual_inside_a_norm_is_seen(network):
    model, x = network
    text = str(trace(model, x))
    assert text.count("batch_norm + residual, relu (2, ") == 3  # one for each block
    assert text.count("batch_norm, relu (2, ") == 4
    model.eval()
    try:
        assert str(trace(model, x)).count("affine + residual, relu (2, ") == 3
    finally:
        model.train()


def test_after_backward_no_operand_is_made_up(network):
    model, x = network
    loss = model(x).sum()
    before = trace(loss, model).graph
    loss.backward()
    after = trace(loss, model).graph
    assert len(after.vertices) == len(before.vertices)
    assert [v.label for v in after.vertices] == [v.label for v in before.vertices]
    model.zero_grad()


# --- figures


def test_statistics_are_numpys():
    array = np.array([[0.0, -2.0, np.nan], [np.inf, 0.0, 5.0]], np.float32)
    assert statistics(array) == (-2.0, 0.75, 5.0, pytest.approx(1 / 3), pytest.approx(1 / 3))
    assert str(statistics(array)) == "-2 … 0.75 … 5, 33 % zeros, 33 % NaN or inf"
    assert statistics(np.zeros((0, 3))) is None
    assert np.isnan(statistics(np.full(3, np.nan)).mean)
    rare = np.ones(1000)
    rare[0] = 0
    assert "under 1 % zeros" in str(statistics(rare))
    assert "over 99 % zeros" in str(statistics(1 - rare + (rare == 0)[::-1]))


def test_values_of_a_run_are_all_known():
    model, x = nn.Sequential(Affine(3, 4), nn.ReLU()), tc.randn(5, 3)
    by_name = {v.label or v.name: v.values for v in trace(model, x, values=True).graph.vertices}
    weight, bias = model[0].weight.array, model[0].bias.array
    product = x.numpy() @ weight
    expected = {
        "input": x.numpy(),
        "0.weight": weight,
        "0.bias": bias,
        "matmul": product,
        "add": product + bias,
        "relu": np.maximum(product + bias, 0),
    }
    assert by_name.keys() == expected.keys()
    for name, array in expected.items():
        least, mean, greatest, zeros, lost = by_name[name]
        np.testing.assert_allclose(
            [least, mean, greatest], [array.min(), array.mean(), array.max()], rtol=1e-5, atol=1e-6
        )
        assert zeros == pytest.approx((array == 0).mean())
        assert lost == 0


def test_values_of_a_tensor_are_those_that_are_kept():
    x = tc.randn(3, requires_grad=True)
    vertices = trace((x + 1.0).exp(), {"x": x}, values=True).graph.vertices
    assert [v.values is not None for v in vertices] == [True, False, True]  # exp reads its output


def test_gradients_are_autograds_and_nothing_is_left_behind():
    model, x = Twice(), tc.randn(2, 3)
    loss = (model(x) ** 2).sum()
    traced = trace(loss, model, gradients=True)
    assert all(p.grad is None for p in model.parameters())
    loss.backward()  # the graph was kept
    for vertex in traced.graph.of_kind("parameter"):
        expected = statistics(dict(model.named_parameters())[vertex.name].grad.array)
        np.testing.assert_allclose(vertex.gradient, expected, rtol=1e-5)
    assert all(v.gradient for v in traced.graph.of_kind("operation"))
    assert not any(node.hooks for node in recorded(loss)[0])
    with pytest.raises(tc.GraphError, match=r"gradients=True: .*already walked and freed"):
        trace(loss, model, gradients=True)


def test_gradients_of_many_outputs_are_of_their_sum():
    x = tc.tensor([1.0, 2.0], requires_grad=True)
    vertices = trace(x * 3.0, gradients=True).graph.vertices
    assert vertices[0].gradient[:3] == (3.0, 3.0, 3.0)


def test_lost_numbers_are_red():
    x = tc.zeros(3, requires_grad=True)
    source = trace(lambda x: (x.log() * x).sum(), x, values=True).dot
    assert "100 % NaN or inf" in source
    assert source.count('color="#c0271d"') == 3  # log, mul, sum


def test_saved_bytes_count_memory_once():
    x = tc.randn(100, requires_grad=True)
    y = x.exp()  # keeps its output
    z = (y * y).tanh()  # mul keeps y, which is counted; tanh keeps its own
    saved = {v.name: v.saved for v in trace(z.sum(), saved=True).graph.vertices}
    assert saved == {"": 0, "exp": 400, "mul": 0, "tanh": 400, "sum": 0}
    assert "saves 400 B for backward" in trace(z, saved=True).text()


def test_figures_of_a_box_are_its_outputs(network):
    model, x = network
    result = trace(model, x, values=True, gradients=True, saved=True)
    whole, boxes = result.graph.vertices, result.at("model").graph.vertices
    assert boxes[-1].values == whole[-1].values
    assert boxes[-1].gradient == whole[-1].gradient
    assert sum(v.saved for v in boxes) == sum(v.saved for v in whole) > 100_000


# --- the backward pass


def test_backward_steps_are_in_the_engines_order(network):
    model, x = network
    loss = (model(x) ** 2).sum()
    walked = []
    for node in recorded(loss)[0]:
        node.hooks = [lambda g, node=node: walked.append((node.op.name, node.scope))]
    graph = trace(loss, model).graph
    loss.backward()
    steps = [graph.vertices[number] for number, _ in backward_steps(graph)]
    assert [(v.name, v.scope) for v in steps] == walked


def test_each_share_is_a_gradient_and_later_ones_are_added():
    b = tc.randn(3, requires_grad=True)
    c = b * 2.0
    graph = trace(c * c + c, {"b": b}).graph
    assert [
        (graph.vertices[n].name, [tuple(s) for s in shares]) for n, shares in backward_steps(graph)
    ] == [
        ("add", [("a", 2, False), ("b", 1, False)]),
        ("mul", [("a", 1, True), ("b", 1, True)]),
        ("mul", [("a", 0, False)]),
    ]


def test_the_backward_graph_stands_beside_the_forward_one(network):
    model, x = network
    result = trace(model, x, backward=True)
    found = parsed(result.dot)
    forward = {(a, b) for a, b in found.edges if a[0] == b[0] == "n"}
    backward = {(a, b) for a, b in found.edges if a[0] == b[0] == "b"}
    computed = {f"n{i}" for i, v in enumerate(result.graph.vertices) if v.computes}
    assert {(a[1:], b[1:]) for a, b in backward} == {
        (a[1:], b[1:]) for a, b in forward if a in computed and b in computed
    }
    last = len(result.graph.vertices) - 1
    assert found.labels[f"b{last}"].startswith("step 1 · add")
    assert "   1  %" in result.text()
    boxes = result.at("model")
    assert "dinput -> d%1, dparameters\n" in boxes.text()
    assert "step 1 · fc" in boxes.dot


# --- a model that is run, and one that fails


def test_a_run_leaves_the_model_as_it_was(network):
    model, x = network
    before = {name: b.numpy().copy() for name, b in model.named_buffers()}
    state = tc.get_rng_state()
    model.zero_grad()
    dropped = nn.Sequential(model, nn.Dropout(0.5))
    with tc.no_grad():
        assert trace(dropped, x).error is None
        assert trace(lambda x: dropped(x).sum(), x, params=dropped).error is None
    for name, buffer in model.named_buffers():
        np.testing.assert_array_equal(buffer.numpy(), before[name])
    assert tc.get_rng_state() == state
    assert all(p.grad is None for p in model.parameters())


def test_a_run_leaves_no_graph_behind(network):
    model, x = network
    nodes = []

    def forward(x):
        y = model(x)
        nodes.append(weakref.ref(y.node))
        return y

    gc.disable()  # reference counting alone must free it
    try:
        result = trace(forward, x, params=model, values=True, gradients=True, saved=True)
    finally:
        gc.enable()
    assert nodes[0]() is None
    assert len(result.graph.of_kind("operation")) > 20
    assert context.watch is None


def test_inputs_have_the_names_of_forwards_arguments():
    class Product(nn.Module):
        def forward(self, left, right):
            return (left * right).sum()

    a, b = tc.randn(3, requires_grad=True), tc.randn(3)
    leaves = trace(Product(), a, b).graph.vertices[:2]
    assert [(v.name, v.kind) for v in leaves] == [("left", "parameter"), ("right", "input")]


def test_several_outputs_are_one_graph():
    x = tc.randn(3, requires_grad=True)
    graph = trace(lambda x: {"a": x.exp(), "b": [x.sin(), (x.cos(),)]}, x).graph
    assert {v.name for v in graph.of_kind("operation")} == {"exp", "sin", "cos"}
    assert len(graph.vertices) == 4


class Forked(nn.Module):
    """Fails in the way that it is asked for, after two operations."""

    def __init__(self, fail) -> None:
        super().__init__()
        self.conv, self.fc, self.fail = nn.Conv2d(1, 2, 3, bias=False), nn.Linear(7, 2), fail

    def forward(self, x):
        hidden = self.conv(x).exp()
        return self.fail(self, hidden)


def raises(self, hidden):
    raise KeyError("own mistake")


@pytest.mark.parametrize(
    ("fail", "name", "scope", "said"),
    [
        (lambda self, h: self.fc(h.flatten(1)), "Linear(7->2)", "fc", "got 32"),
        (lambda self, h: h + tc.zeros(3, 3), "add", "", "axis -1 has sizes 3 and 4"),
        (lambda self, h: tc.matmul(h, tc.zeros(5, 5)), "matmul", "", "matmul"),
        (lambda self, h: h.reshape(5, 5), "reshape", "", "reshape"),
        (lambda self, h: tc.cat([h, h.sum()]), "cat", "", "cat"),
        (lambda self, h: F.cross_entropy(h, tc.tensor([9])), "cross_entropy", "", "cross_entropy"),
        (raises, "raises", "", "own mistake"),
    ],
)
def test_the_failing_call_is_drawn_in_red(fail, name, scope, said):
    result = trace(Forked(fail), tc.randn(1, 1, 6, 6))
    *ran, failed = result.graph.vertices
    assert {"conv2d", "exp"} <= {v.name for v in ran}
    assert failed.kind == "failed"
    assert failed.name.endswith(name) or (fail is raises and failed.name == "Forked")
    assert failed.scope == scope
    assert said in failed.notes[0]
    assert said in str(result.error)
    assert failed.inputs  # it hangs on what it was called with
    tails = [result.graph.vertices[i] for i in failed.inputs]
    assert any(v.name in ("exp", "reshape") for v in tails)
    found = parsed(result.dot)
    assert found.labels[f"n{len(ran)}"].startswith(failed.name)
    assert 'fillcolor="#fbd9d5"' in result.dot
    assert "FAILED: " in result.text()
    assert ":::failed" in result.mermaid()
    assert f", then {type(result.error).__name__}>" in repr(result)
    assert any(v.kind == "failed" for v in result.at("model").graph.vertices)


def test_a_layer_inside_a_block_fails_in_its_place():
    model = nn.Sequential(nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU()), nn.Conv2d(8, 4, 3))
    result = trace(model, tc.randn(1, 1, 8, 8), gradients=True, backward=True, values=True)
    assert result.graph.vertices[-1].scope == "1"
    assert "1 Conv2d(8->4, k3): " in result.graph.vertices[-1].notes[0]
    boxes = result.at("model").graph
    assert [(v.kind, v.name) for v in boxes.vertices] == [
        ("input", "input"),
        ("module", "0"),
        ("failed", "1"),
    ]
    assert list(boxes.edges) == [(0, 1), (1, 2)]
    assert "backward" not in result.dot


def test_a_block_of_the_library_fails_as_itself():
    block = resnet.BasicBlock(2, 4, downsample=nn.Identity())
    *ran, failed = trace(nn.Sequential(block), tc.randn(1, 2, 5, 5)).graph.vertices
    assert (failed.name, failed.scope) == ("BasicBlock(2->4)", "0")
    assert "the shortcut needs Conv2d(2, 4, 1)" in failed.notes[0]
    assert [ran[i].name for i in failed.inputs] == ["input", "conv2d"]


def test_the_first_call_may_fail():
    result = trace(nn.Linear(3, 2), tc.zeros(2, 5))
    assert [v.kind for v in result.graph.vertices] == ["input", "failed"]


def test_a_wrong_number_of_arguments_is_drawn_too():
    result = trace(nn.ReLU(), tc.zeros(2), tc.zeros(2))
    assert isinstance(result.error, TypeError)
    assert result.graph.vertices[-1].kind == "failed"


def test_what_cannot_be_run():
    with pytest.raises(tc.GraphError, match=r"what it returned has no graph.*requires_grad_"):
        trace(nn.ReLU(), tc.zeros(2))
    with pytest.raises(tc.GraphError, match="what it returned has no graph"):
        trace(lambda: None)


@needs_dot
def test_a_failure_is_a_picture(tmp_path):
    model = nn.Sequential(nn.Flatten(), nn.Linear(3, 2))
    svg = trace(model, tc.zeros(2, 5)).save(tmp_path / "failed.svg").read_text()
    assert "Linear(5, 2)" in svg


# --- Mermaid


def mermaid_edges(source: str) -> list[tuple[str, str]]:
    return sorted(re.findall(r"^ +(\w+) --> (\w+)$", source, re.M))


@pytest.mark.parametrize("at", ["model", "module", "operation"])
def test_mermaid_has_the_edges_of_the_dot(network, at):
    model, x = network
    result = trace(model, x, zoom=at)
    source = result.mermaid()
    assert mermaid_edges(source) == parsed(result.dot).edges
    nodes = re.findall(r"^ +(n\d+)[\[({]+\"", source, re.M)
    assert sorted(nodes) == sorted(parsed(result.dot).labels)
    assert source.count("subgraph ") == source.count("  end\n")
    assert result.mermaid() == source


def test_mermaid_quotes_what_it_would_read():
    w = tc.randn(2, requires_grad=True)
    source = trace(w.exp(), {'a"b<i>#1;\n`c`': w}).mermaid()
    assert '"a#quot;b#lt;i#gt;#35;1;<br/>#96;c#96;<br/>(2,)<br/>2 parameters"' in source


def test_mermaid_is_a_file(tmp_path):
    x = tc.randn(2, requires_grad=True)
    result = trace(x.exp().sum(), {"x": x}, backward=True)
    assert result.save(tmp_path / "g.mmd").read_text() == MERMAID


MERMAID = """\
---
title: "2 operations, 2 parameters in 1 tensor"
---
flowchart TD
  n0["x<br/>(2,)<br/>2 parameters"]:::parameter
  n1("exp<br/>(2,)"):::operation
  n2("sum<br/>()"):::operation
  n0 --> n1
  n1 --> n2
  subgraph backward["backward, numbered in its order"]
    direction BT
    b2("step 1 · sum<br/>∂x"):::backward
    b1("step 2 · exp<br/>∂x"):::backward
  end
  b2 -.-> b1
  classDef operation fill:#d6e9f8,stroke:#0072b2,color:#1a1a1a
  classDef parameter fill:#fdebc8,stroke:#e69f00,color:#1a1a1a
  classDef backward fill:#f5e1ec,stroke:#b3548a,color:#1a1a1a
"""


# --- drawn graphs

MAKERS = [lambda a, b: a + b, lambda a, b: a * b, lambda a, b: a.tanh(), lambda a, b: a * 2.0 - b]


class Drawn(nn.Module):
    """Results of the steps are read by later ones; every third step is a layer of its own."""

    def __init__(self, steps) -> None:
        super().__init__()
        self.steps = steps
        for i in range(0, len(steps), 3):
            self.register_module(f"layer{i}", Affine(2, 2))

    def forward(self, x):
        results = [x]
        for i, (maker, first, second) in enumerate(self.steps):
            a, b = results[first % len(results)], results[second % len(results)]
            results.append(getattr(self, f"layer{i}")(a) if i % 3 == 0 else MAKERS[maker](a, b))
        return sum(results[1:], results[0]).sum()


steps = st.lists(
    st.tuples(st.integers(0, 3), st.integers(0, 9), st.integers(0, 9)), min_size=1, max_size=8
)


@settings(max_examples=15, deadline=None)
@given(steps, st.booleans())
def test_any_graph_is_drawn_as_it_is(drawn_steps, wanted):
    tc.manual_seed(0)
    model, x = Drawn(drawn_steps), tc.randn(2, 2, requires_grad=wanted)
    loss = model(x)
    check_against_the_engine(loss, model)


def check_against_the_engine(loss: tc.Tensor, model: nn.Module) -> None:
    """Edges of all zooms by pydot, and the order of the backward pass by hooks."""
    nodes, edges = recorded(loss)
    assert drawn(trace(loss, model)) == edges
    found = parsed(trace(loss, model, zoom="model").dot)
    names = drawn_boxes(found)
    by_hand = folded_by_hand(loss, lambda n: n.scope or n.op.name)
    boxes = {name for edge in by_hand for name in edge}
    folded = {(names[a], names[b]) for a, b in found.edges if names[a] != names[b]}
    assert {edge for edge in folded if boxes.issuperset(edge)} == by_hand
    walked = []
    for node in nodes:
        node.hooks = [lambda g, node=node: walked.append(node.seq)]
    graph = trace(loss, model).graph
    order = sorted(nodes, key=lambda node: node.seq)
    numbers = [i for i, v in enumerate(graph.vertices) if v.kind == "operation"]
    seq = dict(zip(numbers, (node.seq for node in order), strict=True))
    loss.backward()
    assert [seq[number] for number, _ in backward_steps(graph)] == walked


@pytest.mark.parametrize("error", ["edge", "box", "order"])
def test_an_error_put_in_on_purpose_is_found(monkeypatch, error):
    model = Drawn([(0, 0, 0), (1, 0, 1), (2, 1, 0), (0, 2, 1), (3, 0, 3)])
    loss = model(tc.randn(2, 2))
    plain_arguments, plain_inputs = _Builder._arguments, zoom._inputs
    plain_steps = backward_steps
    if error == "edge":  # the first operand twice
        monkeypatch.setattr(
            _Builder,
            "_arguments",
            lambda self, node: [
                (role, next(iter(plain_arguments(self, node)))[1])
                for role, _ in plain_arguments(self, node)
            ],
        )
    elif error == "box":
        monkeypatch.setattr(zoom, "_inputs", lambda *given: plain_inputs(*given)[:1])
    else:

        def swapped(graph):
            first, second, *others = plain_steps(graph)
            return [second, first, *others]

        monkeypatch.setattr(sys.modules[__name__], "backward_steps", swapped)
    with pytest.raises(AssertionError):
        check_against_the_engine(loss, model)


# --- stable, linear, on a screen

PRINTED = """
import tinyconv as tc
from tinyconv.nn import resnet
tc.manual_seed(0)
model, x = resnet.resnet8(), tc.randn(2, 1, 28, 28)
for zoom in ("model", "module", "operation"):
    result = tc.trace(model, x, zoom=zoom, values=True, gradients=True, saved=True, backward=True)
    print(result.dot, result.mermaid(), result)
"""


def test_two_processes_give_the_same_bytes():
    outputs = [
        subprocess.run(
            [sys.executable, "-c", PRINTED],
            capture_output=True,
            check=True,
            env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONIOENCODING": "utf-8"},
        )
        for seed in ("1", "2")
    ]
    assert outputs[0].stdout == outputs[1].stdout
    assert b"gradient" in outputs[0].stdout


def test_all_of_it_is_linear():
    def seconds(n: int) -> float:
        x = tc.randn(3, requires_grad=True)
        y = x
        for _ in range(n):
            y = y + 1.0
        started = time.perf_counter()
        result = trace(y, values=True, gradients=True, saved=True, backward=True, zoom="module")
        assert result.dot.count("->") == 2 * n - 1
        assert result.mermaid().count("->") == 2 * n - 1
        assert len(result.text().splitlines()) == 2 * n + 6
        return time.perf_counter() - started

    seconds(100)
    assert seconds(5000) < 10


def test_a_diamond_thirty_deep_goes_back_in_thirty_steps():
    b = tc.randn(3, requires_grad=True)
    for _ in range(30):
        b = b + b
    assert len(backward_steps(trace(b, gradients=True, zoom="model").graph)) == 30


@needs_dot
def test_resnet50_is_quick_and_its_model_fits_a_screen():
    model = resnet.resnet50()
    x = tc.randn(1, 3, 64, 64)
    model(x)  # compiles the kernels
    started = time.perf_counter()
    result = trace(model, x)
    pictures = [result.at(at).render("svg") for at in ("model", "module", "operation")]
    assert time.perf_counter() - started < 2
    width, height = re.search(rb'width="(\d+)pt" height="(\d+)pt"', pictures[0]).groups()
    assert int(width) * 4 / 3 < 1200  # pixels of a screen, at 96 to the inch
    assert int(height) * 4 / 3 < 900


# --- without the dot program


def pure(folder) -> None:
    program = folder / "graphviz-pure"
    program.write_text(
        f"#!{sys.executable}\nimport sys\nsource = sys.stdin.read()\n"
        "sys.exit('bad luck') if 'broken' in source else print(sys.argv[1:])\n"
    )
    program.chmod(0o755)


def test_graphviz_pure_draws_instead(tmp_path, monkeypatch, caplog):
    pure(tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    x = tc.randn(2, requires_grad=True)
    picture = trace(x.exp()).save(tmp_path / "g.svg")
    assert picture.read_text() == "['-Tsvg']\n"
    assert trace(x.exp()).save(tmp_path / "g.pdf") == tmp_path / "g.txt"  # it writes no PDF
    caplog.clear()
    assert trace(x.exp(), {"broken": x}).save(tmp_path / "g.png") == tmp_path / "g.txt"
    assert "graphviz-pure failed (bad luck)" in caplog.text


def test_graphviz_pure_is_found_beside_python(tmp_path, monkeypatch):
    pure(tmp_path)
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr(sysconfig, "get_path", lambda _: str(tmp_path))
    assert trace(tc.randn(2, requires_grad=True).exp()).render("png") == b"['-Tpng']\n"
