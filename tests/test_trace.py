"""The tracer: its DOT, read by another parser, is the graph; it is linear, stable, never fails."""

import functools
import os
import re
import stat
import time
from pathlib import Path

import graphviz
import pydot
import pytest

import tinyconv as tc
from tinyconv import nn
from tinyconv.nn import functional as F, resnet
from tinyconv.see import Trace, trace
from tinyconv.see.dot import parameter_boxes
from tinyconv.see.graph import Call, calls


def has_dot() -> bool:
    try:
        graphviz.version()
    except (graphviz.ExecutableNotFound, OSError):
        return False
    return True


# pydot calls pyparsing by names that the newest one deprecates
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:pydot.*")
needs_dot = pytest.mark.skipif(not has_dot(), reason="graphviz's dot program is not installed")


# --- reading DOT back


def unquoted(attribute: str | None) -> str:
    """A quoted DOT string as the text that it stands for."""
    text = (attribute or "").removeprefix('"').removesuffix('"')
    return re.sub(r"\\(.)", lambda m: "\n" if m[1] == "n" else m[1], text)


@functools.cache
def parsed(source: str) -> "Parsed":
    return Parsed(source)  # pydot takes seconds for a ResNet


class Parsed:
    """What pydot finds in a DOT source."""

    def __init__(self, source: str) -> None:
        (self.top,) = pydot.graph_from_dot_data(source)
        self.labels: dict[str, str] = {}
        self.tooltips: dict[str, str] = {}
        self.cluster: dict[str, str] = {}  # of each node, its path by the clusters' labels
        todo = [(self.top, "")]
        while todo:
            graph, path = todo.pop()
            for node in graph.get_nodes():
                if node.get_name() not in ("graph", "node", "edge"):  # their defaults
                    assert node.get_name() not in self.labels
                    self.labels[node.get_name()] = unquoted(node.get("label"))
                    self.tooltips[node.get_name()] = unquoted(node.get("tooltip"))
                    self.cluster[node.get_name()] = path
            for child in graph.get_subgraphs():
                if child.get_name().startswith("cluster"):
                    label = unquoted(child.get_node("graph")[0].get("label")).rstrip("\u00a0")
                    name = label.split("  ")[0]
                    todo.append((child, f"{path}.{name}" if path else name))
        self.edges = sorted((e.get_source(), e.get_destination()) for e in self.top.get_edges())
        self.edge_labels = {
            (e.get_source(), e.get_destination()): unquoted(e.get("label")).strip()
            for e in self.top.get_edges()
        }

    def node(self, *, tooltip: str) -> str:
        (name,) = [name for name, text in self.tooltips.items() if tooltip in text.split("\n")]
        return name


def recorded(output: tc.Tensor) -> tuple[list, list[tuple[str, str]]]:
    """The engine's graph by a walk of its own: operations, and edges by name and shape."""
    nodes, edges = [], []
    seen = {id(output.node)}
    stack = [output.node]
    while stack:
        node = stack.pop()
        nodes.append(node)
        for edge in node.inputs:
            if edge is not None:
                edges.append((end(edge), end(node)))
                if hasattr(edge, "op") and edge.op is not None and id(edge) not in seen:
                    seen.add(id(edge))
                    stack.append(edge)
    return nodes, sorted(edges)


def end(edge) -> str:
    op = getattr(edge, "op", None)
    return f"{op.name if op else 'leaf'} {edge.shape}"


def drawn(result: Trace) -> list[tuple[str, str]]:
    """The edges between what gets a gradient, by name and shape as `recorded`; the DOT has them."""
    vertices, boxes = result.graph.vertices, parameter_boxes(result.graph)
    nodes = {(f"n{boxes.get(i, i)}", f"n{j}") for i, j in result.graph.edges}
    assert set(parsed(result.dot).edges) == nodes

    def name(i: int) -> str:
        is_leaf = vertices[i].kind == "parameter"
        return f"{'leaf' if is_leaf else vertices[i].name} {vertices[i].shape}"

    return sorted((name(i), name(j)) for i, j in result.graph.edges if vertices[i].kind != "input")


# --- networks


def resnet_loss(model: nn.Module) -> tc.Tensor:
    return F.cross_entropy(model(tc.randn(2, 1, 28, 28)), tc.tensor([1, 2]))


@pytest.fixture(scope="module")
def network() -> tuple[nn.Module, tc.Tensor]:
    tc.manual_seed(0)
    model = resnet.resnet8()
    return model, resnet_loss(model)


def mlp() -> tuple[dict[str, tc.Tensor], tc.Tensor]:
    x, w, b = tc.randn(5, 3), tc.randn(3, 4, requires_grad=True), tc.randn(4, requires_grad=True)
    hidden = tc.tanh(x @ w + b)
    return {"x": x, "w": w, "b": b, "hidden": hidden}, (hidden * 0.5).sum()


class Affine(nn.Module):
    """x @ weight + bias, whatever nn.Linear may look like."""

    def __init__(self, n: int, m: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(tc.randn(n, m))
        self.bias = nn.Parameter(tc.randn(m))

    def forward(self, x):
        return x @ self.weight + self.bias


# --- the graph


def test_edges_of_a_network_are_those_of_the_graph(network):
    model, loss = network
    result = trace(loss, model)
    nodes, edges = recorded(loss)
    assert drawn(result) == edges
    assert len(result.graph.of_kind("operation")) == len(nodes)
    assert len(result.graph.of_kind("parameter")) == len(list(model.parameters()))


def test_edges_of_plain_tensors():
    x = tc.randn(3, requires_grad=True)
    y = tc.randn(3, requires_grad=True)
    shared = x * y
    z = (shared + shared.exp() + x / shared).sum()
    assert drawn(trace(z)) == recorded(z)[1]


def test_edges_of_a_gradient():
    x = tc.randn(2, 3, requires_grad=True)
    (slope,) = tc.grad((x.tanh() * x).sum(), x, create_graph=True)
    assert drawn(trace(slope)) == recorded(slope)[1]


def test_edges_carry_the_shape_and_unusual_dtypes():
    x = tc.randn(2, 3, dtype=tc.float64, requires_grad=True)
    found = parsed(trace(x.tanh().sum(), {"x": x}).dot)
    assert found.edge_labels == {("n0", "n1"): "(2, 3) float64", ("n1", "n2"): "(2, 3) float64"}
    assert found.labels == {
        "n0": "x\n(2, 3) float64\n6 parameters",
        "n1": "tanh\n(2, 3) float64",
        "n2": "sum\n() float64",
    }


def test_names_inputs_numbers_and_intermediate_results():
    names, loss = mlp()
    found = parsed(trace(loss, names).dot)
    assert list(found.labels.values()) == [
        "x\n(5, 3)",
        "w\n(3, 4)\n12 parameters",
        "matmul\n(5, 4)",
        "b\n(4,)\n4 parameters",
        "add\n(5, 4)",
        "hidden\ntanh\n(5, 4)",
        "mul(·, 0.5)\n(5, 4)",
        "sum\n()",
    ]


def test_without_names_leaves_show_their_shape():
    _, loss = mlp()
    labels = list(parsed(trace(loss).dot).labels.values())
    assert "input\n(5, 3)" in labels
    assert "parameter\n(3, 4)\n12 parameters" in labels


def test_a_scalar_is_one_parameter():
    a, b = tc.tensor(2.0, requires_grad=True), tc.tensor(-3.0, requires_grad=True)
    result = trace((a * b + a.sin()) ** 2, {"a": a, "b": b})
    assert repr(result) == "<Trace of 4 operations, 2 parameters in 2 tensors>"
    assert parsed(result.dot).labels["n0"] == "a\n()\n1 parameter"


def test_an_input_read_twice_is_one_leaf():
    x, w = tc.randn(3), tc.randn(3, requires_grad=True)
    graph = trace((x * w + x * w.exp()).sum()).graph
    assert len(graph.of_kind("input")) == 1


def test_frozen_parameters_and_buffers_have_names():
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(tc.randn(3), requires_grad=False)
            self.register_buffer("scale", tc.randn(3))

        def forward(self, x):
            return x * self.weight * self.scale.reshape(1, 3)

    model = nn.Sequential(Scaled())
    x = tc.randn(2, 3, requires_grad=True)
    inputs = trace(model(x), model).graph.of_kind("input")
    assert [(v.name, v.scope) for v in inputs] == [("0.weight", "0"), ("0.scale", "0")]


def test_after_backward_the_graph_is_still_drawn():
    names, loss = mlp()
    before = trace(loss, names).graph
    loss.backward()
    after = trace(loss, names)
    assert len(after.graph.of_kind("operation")) == len(before.of_kind("operation"))
    assert drawn(after) == recorded(loss)[1]
    assert "freed by backward()" in after.dot
    assert "freed by backward()" in after.text()


def test_a_leaf_is_a_graph():
    w = tc.randn(2, 3, requires_grad=True)
    assert parsed(trace(w, {"w": w}).dot).labels == {"n0": "w\n(2, 3)\n6 parameters"}
    assert "w (2, 3)" in trace(w, {"w": w}).text()


def test_the_trace_holds_no_arrays():
    import weakref

    x = tc.randn(3, requires_grad=True)
    y = x.exp()
    node = weakref.ref(y.node)
    result = trace(y)
    del y
    assert node() is None
    assert "exp" in result.text()


# --- modules


def test_clusters_are_the_scopes(network):
    model, loss = network
    result = trace(loss, model)
    found = parsed(result.dot)
    boxes = parameter_boxes(result.graph)
    for i, vertex in enumerate(result.graph.vertices):
        assert found.cluster[f"n{boxes.get(i, i)}"] == vertex.scope
    scopes = sorted(node.scope for node in recorded(loss)[0])
    assert sorted(v.scope for v in result.graph.of_kind("operation")) == scopes
    assert "layer2.0.downsample.1" in scopes


def test_parameters_stand_in_their_module_under_their_path(network):
    model, loss = network
    found = parsed(trace(loss, model).dot)
    for path, tensor in model.named_parameters():
        node = found.node(tooltip=path)
        assert found.cluster[node] == path.rpartition(".")[0]
        owner, _, name = path.rpartition(".")
        *rows, count = found.labels[node].split("\n")
        assert f"{name}  {tensor.shape}" in rows
        owned = list(model.get_submodule(owner).parameters())
        assert len(rows) == len(owned)  # one node for all parameters of a module
        assert {text for (tail, _), text in found.edge_labels.items() if tail == node} == {""}
        assert count.replace(",", "").split()[0] == str(sum(p.numel() for p in owned))


def test_clusters_name_the_class(network):
    model, loss = network
    source = trace(loss, model).dot
    assert 'label="layer1  Sequential"' in source
    assert 'label="0  BasicBlock(16->16)"' in source
    assert 'label="conv1  Conv2d(16->32, k3, s2, p1)"' in source
    assert 'label="ResNet: ' in source
    total = sum(p.numel() for p in model.parameters())
    assert f"{total:,} parameters in {len(list(model.parameters()))} tensors" in source


def test_names_given_as_a_dict_make_the_same_clusters():
    model = resnet.BasicBlock(1, 2)
    loss = model(tc.randn(2, 1, 4, 4)).sum()
    by_dict = parsed(trace(loss, dict(model.named_parameters())).dot)
    assert by_dict.cluster == parsed(trace(loss, model).dot).cluster
    assert by_dict.cluster == parsed(trace(loss).dot).cluster


def test_two_calls_of_one_module_are_two_clusters():
    model = nn.Sequential(Affine(3, 3), nn.ReLU())
    model.append(model[0])
    graph = trace(model(tc.randn(2, 3)), model).graph
    paths = [member.path for member in calls(graph).members if isinstance(member, Call)]
    assert paths == ["0", "1", "0"]
    assert len(graph.of_kind("parameter")) == 2


# --- names of all kinds

ODD = [
    'a"b', "back\\slash", "ends\\", "ends\\\\", "<b>bold</b>", "<<i>>", "two\nlines", "\\n", "\\N",
    'quote\\"', "é ü 卷积", "node", "digraph", "a:b", "a->b; c [x=y]", "{a|b}", "%s", "&amp;", "7",
]


@pytest.mark.parametrize("name", ODD)
def test_odd_names_survive_the_round_trip(name):
    w = tc.randn(2, requires_grad=True)
    found = parsed(trace(w.exp(), {name: w}).dot)
    assert found.labels["n0"] == f"{name}\n(2,)\n2 parameters"
    assert found.tooltips["n0"] == name
    assert found.edges == [("n0", "n1")]


@pytest.mark.parametrize("name", [n for n in ODD if "\n" not in n])
def test_odd_module_names_survive_too(name):
    class Named(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_module(name, Affine(2, 2))

        def forward(self, x):
            return getattr(self, name)(x)

    model = Named()
    result = trace(model(tc.randn(1, 2)), model)
    assert {name} == {path for path in parsed(result.dot).cluster.values() if path}
    assert f"{name}  Affine" in result.text()


@needs_dot
def test_dot_reads_all_odd_names(tmp_path):
    names = {name: tc.randn(2, requires_grad=True) for name in ODD}
    total = sum(names.values())
    svg = trace(total, names).save(tmp_path / "odd.svg").read_text()
    assert "&lt;b&gt;bold&lt;/b&gt;" in svg
    assert "back\\slash" in svg


# --- linear and stable


def test_a_long_chain_is_linear():
    def seconds(n: int) -> float:
        x = tc.randn(3, requires_grad=True)
        for _ in range(n):
            x = x + 1.0
        started = time.perf_counter()
        result = trace(x)
        assert result.dot.count("->") == n
        assert result.text().count("\n") == n + 3
        return time.perf_counter() - started

    seconds(100)
    assert seconds(5000) < 5  # a square law would take minutes


def test_a_diamond_thirty_deep_has_thirty_operations():
    b = tc.randn(3, requires_grad=True)
    for _ in range(30):
        b = b + b
    result = trace(b)
    assert len(parsed(result.dot).edges) == 60
    assert len(result.graph.vertices) == 31


def test_deep_nesting():
    model: nn.Module = nn.ReLU()
    for _ in range(100):
        model = nn.Sequential(model)
    result = trace(model(tc.randn(2, requires_grad=True)))
    assert result.dot.count("subgraph cluster") == 100
    assert result.graph.vertices[-1].scope == ".".join(["0"] * 100)


def test_two_runs_give_the_same_bytes():
    results = []
    for seed in (1, 2):
        tc.manual_seed(seed)
        model = resnet.resnet8()
        results.append(trace(resnet_loss(model), model))
    assert results[0].dot == results[1].dot
    assert results[0].text() == results[1].text()


# --- text


def test_text_is_a_tree_in_the_order_of_execution():
    model = nn.Sequential(Affine(3, 2), nn.ReLU())
    assert str(trace(model(tc.randn(4, 3)).sum(), model)) == TREE


TREE = """\
Sequential: 4 operations, 8 parameters in 2 tensors

%0 input (4, 3)
0  Affine
  %1 weight (3, 2)  6 parameters
  %2 matmul (4, 2)  <- %0, %1
  %3 bias (2,)  2 parameters
  %4 add (4, 2)  <- %2, %3
1  ReLU
  %5 relu (4, 2)  <- %4
%6 sum ()  <- %5
"""


def test_text_lists_every_vertex_before_its_readers(network):
    model, loss = network
    result = trace(loss, model)
    numbers = [
        int(line.split()[0][1:]) for line in result.text().splitlines()
        if line.strip().startswith("%")
    ]
    assert numbers == list(range(len(result.graph.vertices)))


def test_repr_is_one_line(network):
    assert repr(trace(network[1], network[0])).startswith("<Trace of ResNet: ")


# --- files

MAGIC = {".svg": b"<?xml", ".png": b"\x89PNG", ".pdf": b"%PDF", ".SVG": b"<?xml"}


@needs_dot
@pytest.mark.parametrize("suffix", MAGIC)
def test_pictures(suffix, tmp_path):
    target = tmp_path / f"g{suffix}"
    assert trace(mlp()[1]).save(target) == target
    assert target.read_bytes().startswith(MAGIC[suffix])
    assert os.listdir(tmp_path) == [target.name]


@needs_dot
def test_the_network_is_drawn_without_complaint(network, tmp_path, capfd):
    svg = trace(network[1], network[0]).save(tmp_path / "g.svg").read_text()
    assert "layer2.0.downsample.0.weight" in svg
    assert capfd.readouterr() == ("", "")


def test_text_files(tmp_path):
    result = trace(mlp()[1])
    assert result.save(tmp_path / "g.dot").read_text() == result.dot
    assert result.save(str(tmp_path / "g.gv")).read_text() == result.dot
    assert result.save(tmp_path / "g.txt").read_text() == result.text()
    assert sorted(os.listdir(tmp_path)) == ["g.dot", "g.gv", "g.txt"]


@pytest.mark.parametrize("name", ["g.jpeg", "g", "g.svg.gz"])
def test_an_unknown_suffix_lists_those_known(name, tmp_path):
    known = re.escape("there is .svg, .png, .pdf, .dot, .gv, .mmd, .txt")
    with pytest.raises(ValueError, match=known):
        trace(mlp()[1]).save(tmp_path / name)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("suffix", [".svg", ".txt"])
def test_a_missing_folder_is_named(suffix, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no folder .*absent; make it first"):
        trace(mlp()[1]).save(tmp_path / "absent" / f"g{suffix}")


def test_a_failed_write_leaves_the_former_file(tmp_path, monkeypatch):
    result = trace(mlp()[1])
    target = result.save(tmp_path / "g.txt")

    def full(self: Path, data: bytes) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match="No space left"):
        result.save(target)
    assert target.read_text() == result.text()
    assert os.listdir(tmp_path) == ["g.txt"]


def test_a_link_stays_a_link(tmp_path):
    (tmp_path / "there").mkdir()
    (tmp_path / "g.txt").symlink_to(tmp_path / "there" / "real.txt")
    result = trace(mlp()[1])
    result.save(tmp_path / "g.txt")
    assert (tmp_path / "there" / "real.txt").read_text() == result.text()
    assert (tmp_path / "g.txt").is_symlink()


# --- without dot


@pytest.fixture
def no_dot(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path_factory.mktemp("empty")))


def test_without_dot_text_and_source_are_left(no_dot, tmp_path, caplog):
    result = trace(mlp()[1])
    assert result.save(tmp_path / "g.svg") == tmp_path / "g.txt"
    assert (tmp_path / "g.txt").read_text() == result.text()
    assert (tmp_path / "g.dot").read_text() == result.dot
    assert sorted(os.listdir(tmp_path)) == ["g.dot", "g.txt"]
    (record,) = caplog.records
    assert "apt-get install graphviz" in record.getMessage()
    assert f"dot -Tsvg {tmp_path / 'g.dot'} -o {tmp_path / 'g.svg'}" in record.getMessage()


def test_a_dot_that_fails_is_no_stack_trace(tmp_path, monkeypatch, caplog):
    folder = tmp_path / "bin"
    folder.mkdir()
    program = folder / "dot"
    program.write_text("#!/bin/sh\necho 'Format: not recognized' >&2\nexit 1\n")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", str(folder))
    assert trace(mlp()[1]).save(tmp_path / "g.png") == tmp_path / "g.txt"
    assert "Format: not recognized" in caplog.text


def test_a_notebook_shows_text_without_dot(no_dot):
    result = trace(mlp()[1])
    bundle = result._repr_mimebundle_()
    assert set(bundle) == {"text/plain"}
    assert bundle["text/plain"].startswith(result.text())
    assert "apt-get install graphviz" in bundle["text/plain"]


@needs_dot
def test_a_notebook_shows_the_picture():
    result = trace(mlp()[1])
    bundle = result._repr_mimebundle_(include=None, exclude=None)
    assert "<svg" in bundle["image/svg+xml"]
    assert bundle["text/plain"] == result.text()


# --- errors


def test_a_tensor_without_a_graph():
    x = tc.randn(2, 3, requires_grad=True)
    with tc.no_grad():
        y = x * 2
    for tensor in (y, tc.zeros(2, 3), x.exp().detach()):
        with pytest.raises(tc.GraphError, match=r"trace: .* \(2, 3\) has no graph.*no_grad"):
            trace(tensor)


def test_what_is_not_a_tensor():
    with pytest.raises(TypeError, match=r"a Linear is not .*tc\.trace\(model\(x\), model\)"):
        trace(nn.Linear(2, 2))
    with pytest.raises(TypeError, match="a float is not a Tensor"):
        trace(1.0)


def test_params_that_are_no_names():
    loss = mlp()[1]
    with pytest.raises(TypeError, match="params is a list"):
        trace(loss, [loss])
    with pytest.raises(TypeError, match=r"params\['w'\] is a int"):
        trace(loss, {"w": 3})
