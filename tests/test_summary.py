"""The summary: multiply-adds against loops that count, saved bytes against memory."""

import json
import tracemalloc

import numpy as np
import pytest
from hypothesis import assume, given, settings, strategies as st

import tinyconv as tc
from tinyconv import cli, nn
from tinyconv.backend import naive
from tinyconv.see import probe as probing
from tinyconv.see.shapes import shapes
from tinyconv.see.summary import summary

small = st.integers(1, 3)


def counted(layer, shape):
    """The loops that a naive implementation runs, counting instead of multiplying."""
    out = layer(tc.zeros(shape)).shape
    count = 0
    if isinstance(layer, nn.Conv2d):
        for _ in np.ndindex(*out):  # every output sums over its window
            for _ in np.ndindex(layer.in_channels // layer.groups, *layer.kernel_size):
                count += 1
    elif isinstance(layer, nn.ConvTranspose2d):
        for _ in np.ndindex(*shape):  # every input stamps its kernel
            for _ in np.ndindex(layer.out_channels // layer.groups, *layer.kernel_size):
                count += 1
    else:
        for _ in np.ndindex(*out):
            for _ in range(layer.in_features):
                count += 1
    return count


def counted_without_padding(layer, shape):
    """The multiply-adds of tinyconv's naive kernels, which skip what lies in the padding."""
    x, weight = tc.zeros(shape), layer.weight
    out = layer(x).shape
    (top, left), geometry = layer.padding, {"stride": layer.stride, "dilation": layer.dilation}
    geometry |= {"groups": layer.groups, "padding": ((top, top), (left, left))}
    outer, inner = (out, shape[2:]) if isinstance(layer, nn.Conv2d) else (shape, out[2:])
    return sum(1 for _ in naive.multiply_adds(outer, inner, weight.shape, **geometry))


@st.composite
def layers(draw):
    two = st.tuples(small, small)
    kernel, stride, dilation = draw(two), draw(two), draw(two)
    padding = draw(st.tuples(st.integers(0, 2), st.integers(0, 2)))
    groups = draw(st.sampled_from([1, 2]))
    if draw(st.booleans()):
        return nn.Conv2d(2, 4, kernel, stride, padding, dilation, groups)
    extra = [draw(st.integers(0, max(s, d) - 1)) for s, d in zip(stride, dilation, strict=True)]
    return nn.ConvTranspose2d(2, 4, kernel, stride, padding, extra, groups, True, dilation)


@settings(max_examples=40, deadline=None)
@given(layers(), st.tuples(st.integers(1, 2), st.just(2), st.integers(1, 6), st.integers(1, 6)))
def test_multiply_adds_are_what_loops_count(layer, shape):
    assume(probing.probe(layer, shape).error is None)
    found = summary(layer, shape)
    assert found.multiply_adds == counted(layer, shape)
    (row,) = shapes(layer, shape).layers
    assert row.multiply_adds == found.multiply_adds
    assert row.multiply_adds - row.on_padding == counted_without_padding(layer, shape)


def test_multiply_adds_of_a_transposed_convolution():
    """A popular counter says 802,816: it multiplies by the output's size."""
    found = summary(nn.ConvTranspose2d(16, 8, 4, 2, 1), (2, 16, 7, 7))
    assert found.multiply_adds == 2 * 16 * 7 * 7 * 8 * 4 * 4 == 200_704
    assert found.flops == 401_408


def test_the_count_is_checked(monkeypatch):
    """Counted by the output's size the number is another: the loops above would say so."""
    right = probing.operand_shapes
    monkeypatch.setattr(probing, "operand_shapes", lambda node: [node.shape, *right(node)[1:]])
    layer, shape = nn.ConvTranspose2d(4, 2, 4, 2, 1), (1, 4, 3, 3)
    nodes = probing.probe(layer, shape).nodes()
    assert sum(map(probing.multiply_adds, nodes)) != counted(layer, shape)


def test_multiply_adds_of_products():
    assert summary(nn.Linear(5, 3), (2, 7, 5)).multiply_adds == 2 * 7 * 5 * 3
    assert counted(nn.Linear(5, 3), (2, 7, 5)) == 2 * 7 * 5 * 3

    class Attention(nn.Module):
        def forward(self, x):
            return tc.einsum("bij,bkj->bik", x, x) @ x

    assert summary(Attention(), (2, 3, 4)).multiply_adds == 2 * 3 * 4 * 3 + 2 * 3 * 3 * 4


def test_networks_that_everybody_counts():
    """torchvision's page says 1.81 and 4.09 GFLOPS (multiply-adds), 11,689,512 parameters."""
    found = summary(nn.resnet.resnet18(), (3, 224, 224))
    assert found.multiply_adds == 1_814_073_344
    assert found.parameters == 11_689_512 == sum(row.parameters for row in found.rows)


def test_parameters_agree_with_pytorch():
    torch = pytest.importorskip("torch")
    theirs = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3, groups=1), torch.nn.BatchNorm2d(8))
    ours = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8))
    want = [sum(p.numel() for p in layer.parameters()) for layer in theirs]
    assert [row.parameters for row in summary(ours, (2, 3, 9, 9)).rows] == want


# --- saved bytes


def test_saved_bytes_are_counted_once():
    model = nn.Sequential(nn.Conv2d(1, 2, 3, bias=False), nn.ReLU(), nn.Conv2d(2, 3, 3))
    rows = summary(model, (1, 8, 8)).rows
    image, activation = 8 * 8 * 4, 2 * 6 * 6 * 4
    # the first keeps its input, the ReLU its output, which is the last one's input
    assert [row.saved for row in rows] == [image, activation, 0]


def test_saved_bytes_are_what_the_graph_holds():
    """Measured: what stays allocated after the forward pass, with plain NumPy kernels."""
    model = nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(8, 8, 3, padding=1), nn.Sigmoid(), nn.Flatten(), nn.Linear(8 * 32 * 32, 10),
    )  # fmt: skip
    with tc.kernels("reference"):
        x = tc.randn(4, 1, 64, 64)
        model(x)
        found = summary(model, (4, 1, 64, 64))
        tracemalloc.start()
        before = tracemalloc.get_traced_memory()[0]
        y = model(x)
        held = tracemalloc.get_traced_memory()[0] - before + x.array.nbytes - y.array.nbytes
        tracemalloc.stop()
    assert found.saved is not None
    assert abs(found.saved - held) < 0.02 * held


def test_frozen_layers_keep_less():
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Conv2d(2, 2, 3))
    before = summary(model, (1, 8, 8))
    model.requires_grad_(False)
    after = summary(model, (1, 8, 8))
    assert after.saved == 0 < before.saved
    assert (after.trainable, after.parameters) == (0, before.parameters)
    assert "58, 58 of them frozen" in str(after)
    assert after.multiply_adds == before.multiply_adds


def test_a_mode_in_which_the_model_fails():
    model = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(9))
    found = summary(model, (1, 1, 3, 3))  # one value per channel: no variance to train on
    assert found.error is None
    assert found.saved is None
    assert "fails in this mode" in str(found)
    assert summary(model.eval(), (1, 1, 3, 3)).saved is not None


# --- rows


def test_rows_of_a_residual_network():
    found = summary(nn.resnet.resnet8(), (1, 28, 28))
    rows = {row.path: row for row in found.rows}
    assert rows["conv1"].output == (1, 16, 28, 28)
    assert rows["layer1.0.relu"].calls == 2
    field = rows["layer3.0.conv2"].receptive_field
    assert (field.height, field.width) == (25, 25)
    assert found.multiply_adds == 9_345_920
    assert found.data()[0]["flops"] == 2 * 112_896
    json.dumps(found.data())


def test_shared_modules_count_once():
    layer = nn.Linear(4, 4)
    found = summary(nn.Sequential(layer, layer, layer), (2, 4))
    (row,) = found.rows
    assert (row.calls, row.parameters, row.multiply_adds) == (3, 20, 3 * 2 * 16)
    assert found.parameters == 20


def test_up_to_the_failing_layer():
    model = nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(1568, 10))
    found = summary(model, (1, 28, 28))
    assert [row.path for row in found.rows] == ["0", "1", "2", "3"]
    assert [row.output for row in found.rows][2:] == [(1, 8 * 26 * 26), None]
    assert found.failed == "3"
    assert "FAILED: 3 Linear(1568->10): got 5408 = 8*26*26" in str(found)
    assert found.multiply_adds == 8 * 26 * 26 * 9


def test_a_failure_outside_of_all_layers():
    class Broken(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(1, 2, 3)

        def forward(self, x):
            return self.conv(x) + tc.zeros(5, 5)

    found = summary(Broken(), (1, 8, 8))
    assert found.failed == "the model"
    assert found.rows[0].path == "conv"
    assert "FAILED" in str(found)


def test_table_is_aligned():
    lines = str(summary(nn.resnet.resnet8(), (1, 28, 28))).splitlines()
    table = lines[: lines.index(lines[1], 2)]
    column = table[0].index("multiply-adds") + len("multiply-adds")
    numbers = [line[:column].split()[-1] for line in table[2:] if line[column - 1 : column].strip()]
    assert all(number.replace(",", "").isdigit() for number in numbers)
    assert len(numbers) >= 9
    page = summary(nn.Conv2d(1, 2, 3), (1, 8, 8))._repr_html_()
    assert page.count("<tr>") == 2
    assert "Conv2d(1-&gt;2, k3)" in page


def test_other_inputs():
    assert summary(nn.Conv1d(1, 2, 3), (4, 1, 9)).rows[0].receptive_field.width == 3
    assert summary(nn.Embedding(10, 4), tc.tensor([[1, 2]])).rows[0].output == (1, 2, 4)
    assert summary(nn.Conv2d(1, 2, 3), tc.zeros(3, 1, 5, 5)).input == (3, 1, 5, 5)


def test_command(capsys):
    assert cli.main(["summary", "resnet8"]) == 0
    assert "multiply-adds   9,345,920" in capsys.readouterr().out
    assert cli.main(["summary", "conv(8,k3) relu", "3x9x9"]) == 0
    assert "Conv2d(3->8, k3)" in capsys.readouterr().out
    assert cli.main(["summary", "conv(8,k3)"]) == 2
    assert "needs the input's shape" in capsys.readouterr().err
    assert cli.main(["summary", "conv(8,k30)", "1x9x9"]) == 1
