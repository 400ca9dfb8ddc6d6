"""Geometry: every claim about sizes, unread pixels and receptive fields against gradients."""

import math
import re
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import assume, given, settings, strategies as st

import tinyconv as tc
from tinyconv import cli, nn
from tinyconv.autograd import OPS
from tinyconv.see import reach
from tinyconv.see.axes import Stamp, Window, positions
from tinyconv.see.language import LanguageError, parse_network, parse_shape, with_batch
from tinyconv.see.probe import probe
from tinyconv.see.reach import layer_axes
from tinyconv.see.shapes import shapes

quick = settings(max_examples=40, deadline=None)


# --- the truth: where gradients arrive


def positive(model):
    """float64 and all weights positive, so that no gradient cancels or vanishes."""
    model.to(tc.float64).eval()
    for parameter in model.parameters():
        parameter.array[...] = np.abs(parameter.array) + 0.1
    return model


def support(model, shape, at=None):
    """(H, W): the input pixels with a gradient from output pixel ``at`` (None: from any)."""
    x = tc.tensor(np.random.default_rng(0).uniform(1, 2, shape), requires_grad=True)
    y = positive(model)(x)
    g = np.zeros(y.shape)
    g[(slice(None), slice(None), *(at or ()))] = 1
    (dx,) = tc.grad(y, x, tc.tensor(g))
    return (dx.array != 0).any((0, 1))


def spikes(layer, shape, axis):
    """(out, n) along an axis: which input positions change which outputs, one spike at a time."""
    n = shape[2 + axis]
    rows = []
    for i in range(n):
        x = np.zeros(shape)
        x[(slice(None),) * (2 + axis) + (i,)] = 1
        y = layer(tc.tensor(x)).array
        others = tuple(a for a in range(4) if a != 2 + axis)
        rows.append((y > 0).any(others))
    return np.array(rows).T


# --- drawn layers

small = st.integers(1, 3)


@st.composite
def convolutions(draw):
    kernel = draw(st.tuples(st.integers(1, 4), st.integers(1, 4)))
    same = draw(st.booleans())
    stride = (1, 1) if same else draw(st.tuples(small, small))
    padding = "same" if same else draw(st.tuples(st.integers(0, 3), st.integers(0, 3)))
    mode = draw(st.sampled_from(["zeros", "zeros", "reflect", "replicate", "circular"]))
    return nn.Conv2d(2, 4, kernel, stride, padding, draw(st.tuples(small, small)),
                     draw(st.sampled_from([1, 2])), padding_mode=mode)  # fmt: skip


@st.composite
def transposed(draw):
    stride, dilation = draw(st.tuples(small, small)), draw(st.tuples(small, small))
    extra = [draw(st.integers(0, max(s, d) - 1)) for s, d in zip(stride, dilation, strict=True)]
    kernel = draw(st.tuples(st.integers(1, 4), st.integers(1, 4)))
    padding = draw(st.tuples(st.integers(0, 2), st.integers(0, 2)))
    return nn.ConvTranspose2d(2, 3, kernel, stride, padding, extra, 1, True, dilation)


@st.composite
def pools(draw):
    kernel = draw(st.tuples(st.integers(1, 4), st.integers(1, 4)))
    padding = [draw(st.integers(0, k // 2)) for k in kernel]
    stride = draw(st.none() | st.tuples(small, small))
    ceil = draw(st.booleans())
    if draw(st.booleans()):
        return nn.AvgPool2d(kernel, stride, padding, ceil)
    return nn.MaxPool2d(kernel, stride, padding, draw(st.tuples(small, small)), ceil_mode=ceil)


@st.composite
def resizers(draw):
    kind = draw(st.integers(0, 4))
    size = draw(st.tuples(st.integers(1, 9), st.integers(1, 9)))
    if kind == 0:
        return draw(st.sampled_from([nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d]))(size)
    if kind == 1:
        return nn.Upsample(size, mode=draw(st.sampled_from(["nearest", "bilinear"])))
    if kind == 2:
        factor = draw(st.sampled_from([2, (1.5, 3), 2.5]))
        return nn.Upsample(None, factor, mode=draw(st.sampled_from(["nearest", "bilinear"])))
    if kind == 3:
        pads = [nn.ZeroPad2d, nn.ReflectionPad2d, nn.ReplicationPad2d, nn.CircularPad2d]
        return draw(st.sampled_from(pads))(draw(st.tuples(*[st.integers(0, 3)] * 4)))
    return nn.PixelShuffle(2)


images = st.tuples(st.integers(3, 9), st.integers(3, 9))


def fits(layer, shape):
    return probe(layer, shape).error is None


@quick
@given(st.one_of(convolutions(), transposed(), pools(), resizers()), images)
def test_every_axis_is_where_gradients_go(layer, size):
    shape = (1, 4 if isinstance(layer, nn.PixelShuffle) else 2, *size)
    assume(fits(layer, shape))
    if isinstance(layer, (nn.Upsample, nn.AdaptiveMaxPool2d, nn.MaxPool2d)) or not list(
        layer.parameters()
    ):
        check_axes(layer, shape)
    else:
        check_axes(positive(layer), shape, bias_free=True)


def check_axes(layer, shape, bias_free=False):
    if bias_free:
        layer.bias.array[...] = 0
    axes = layer_axes(layer, shape)
    for i, axis in enumerate(axes):
        y = layer(tc.zeros(shape, dtype=tc.float64))
        assert axis.out == y.shape[2 + i]
        np.testing.assert_array_equal(axis.matrix, spikes(layer, shape, i))


def test_the_check_finds_an_index_error(monkeypatch):
    layer, shape = nn.Conv2d(1, 1, 3, 2), (1, 1, 8, 8)
    check_axes(positive(layer), shape, bias_free=True)
    right = Window.reads
    monkeypatch.setattr(Window, "reads", lambda self, o: right(self, o) + 1)
    with pytest.raises(AssertionError):
        check_axes(positive(nn.Conv2d(1, 1, 3, 2)), shape, bias_free=True)


@quick
@given(st.one_of(convolutions(), transposed()), images)
def test_unread_pixels_get_no_gradient(layer, size):
    assume(fits(layer, (1, 2, *size)))
    found = shapes(layer, (1, 2, *size))
    rows, columns = found.layers[0].unread
    reached = support(layer, (1, 2, *size))
    assert rows == [int(i) for i in np.flatnonzero(~reached.any(1))]
    assert columns == [int(i) for i in np.flatnonzero(~reached.any(0))]
    np.testing.assert_array_equal(found.unread, ~reached)


@quick
@given(st.one_of(convolutions(), pools(), transposed()), images)
def test_the_formula_is_arithmetic(layer, size):
    shape = (1, 2, *size)
    assume(fits(layer, shape))
    for axis, out in zip(layer_axes(layer, shape), layer(tc.zeros(shape)).shape[2:], strict=True):
        left, right = re.sub(r" = \d+, less 1 .* =", " - 1 =", axis.formula()).split("=")
        assert eval(left, {"floor": math.floor, "ceil": math.ceil}) == int(right) == out


@quick
@given(st.one_of(convolutions(), pools()), images)
def test_inverse_sizes_by_trying_all(layer, size):
    assume(fits(layer, (1, 2, *size)))
    for i, axis in enumerate(layer_axes(layer, (1, 2, *size))):
        tried = []
        for m in range(1, 20):
            other = [9, 9]
            other[i] = m
            (made,) = [layer_axes(layer, (1, 2, *other))[i]]
            if made.free >= 0 and made.out == axis.out:
                tried.append(m)
        if axis.mode == "zeros":
            assert axis.sizes() == tried


def test_inverse_of_a_transposed_convolution():
    text = Stamp(7, 4, 2, 1).inverse()
    assert text == "output_padding 0 gives 14, 1 gives 15"
    for extra, size in ((0, 14), (1, 15)):
        assert nn.ConvTranspose2d(1, 1, 4, 2, 1, extra)(tc.zeros(1, 1, 7, 7)).shape[2] == size
        assert nn.Conv2d(1, 1, 4, 2, 1)(tc.zeros(1, 1, size, size)).shape[2] == 7


# --- drawn networks

layer_texts = st.sampled_from([
    "conv(2,k3)", "conv(2,k3,p1)", "conv(2,k3,s2,p1)", "conv(2,k2x3,d2)", "conv(2,k3,d3,p3)",
    "conv(2,k4,psame)", "conv(2,k1,s2)", "avgpool(2)", "avgpool(3,s2,p1,ceil)",
    "convT(2,k3,s2)", "convT(2,k3,s2,p1,op1)", "convT(2,k2,s3)", "up(2)", "up(2,bilinear)",
    "pad(1)", "bn", "relu", "adaptive(4x3)", "res(conv(2,k3,p1))", "res(conv(2,k3,p2,d2) relu)",
    "res(conv(2,k3,s2,p1) conv(2,k3,p1) | conv(2,k1,s2))", "res(conv(2,k5,p4,d2) | pad(0))",
])  # fmt: skip


@settings(max_examples=60, deadline=None)
@given(st.lists(layer_texts, min_size=1, max_size=5), images, st.data())
def test_receptive_field_of_drawn_networks(texts, size, data):
    shape = (1, 2, *size)
    model = parse_network(" ".join(texts), shape)
    seen = probe(model, shape)
    assume(seen.error is None and max(seen.calls[0].output.shape) < 60)
    output = seen.calls[0].output
    at = tuple(data.draw(st.integers(0, n - 1)) for n in output.shape[2:])
    truth = support(model, shape, at)
    field = seen.receptive_field(output, at)
    if field is None:
        assert not truth.any()
        return
    np.testing.assert_array_equal(field.mask, truth)
    rows, columns = np.flatnonzero(truth.any(1)), np.flatnonzero(truth.any(0))
    if len(rows):
        assert field.rows[0] <= rows[0]
        assert rows[-1] <= field.rows[1]
        assert field.columns[0] <= columns[0]
        assert columns[-1] <= field.columns[1]
        box = truth[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        assert field.holes == int((~box).sum())
    np.testing.assert_array_equal(shapes(model, shape).unread, ~support(model, shape))


class ByHand(nn.Module):
    """What people write: functions, slices, concatenation, a global gate."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 2, 3, padding=1)
        self.gate = nn.Conv2d(2, 2, 1)

    def forward(self, x):
        y = nn.functional.relu(self.conv(x))
        y = nn.functional.avg_pool2d(y, 2)
        y = tc.cat([y[:, :, 1:], y[:, :, :-1] * 2.0], 1)
        return nn.functional.pad(y, (1, 0, 1, 0), "reflect")


def test_receptive_field_of_functions():
    model, shape = ByHand(), (1, 1, 10, 12)
    seen = probe(model, shape)
    output = seen.calls[0].output
    for at in np.ndindex(*output.shape[2:]):
        field = seen.receptive_field(output, at)
        np.testing.assert_array_equal(field.mask, support(model, shape, at))


@pytest.mark.parametrize("function", [
    lambda x: nn.functional.adaptive_avg_pool2d(x, (3, 4)),
    lambda x: nn.functional.interpolate(x, (7, 13), mode="bilinear"),
    lambda x: x @ tc.ones(10, 3, dtype=tc.float64, requires_grad=True),
    lambda x: tc.ones(4, 9, dtype=tc.float64, requires_grad=True) @ x,
    lambda x: x.mean(3, keepdim=True) + x,
    lambda x: x[:, :, 2:, ::2],
    lambda x: x[:, :, [0, 3, 3]],
    lambda x: nn.functional.pad(x, (1, -2, 0, 3)),
    lambda x: tc.cat([x, x * 2.0, x[:, :, :2]], 2),
    lambda x: x.softmax(2),
    lambda x: nn.functional.unfold(x, 2),
])  # fmt: skip
def test_receptive_field_of_operations(function):
    class Model(nn.Module):
        def forward(self, x):
            return function(x)

    shape = (1, 1, 9, 10)
    x = tc.zeros(shape, dtype=tc.float64)
    seen = probe(Model(), x)
    assert seen.error is None
    output = seen.calls[0].output
    if output.ndim == 3:  # windows as columns: no pixels any more, so an upper bound
        assert seen.receptive_field(output, (0, 0)).everything
        return
    for at in np.ndindex(*output.shape[2:]):
        field = seen.receptive_field(output, at)
        mask = np.zeros(shape[2:], bool) if field is None else field.mask
        np.testing.assert_array_equal(mask, support(Model(), shape, at))


class Functional(nn.Module):
    def forward(self, x):
        return nn.functional.max_pool2d(x, 3, 2, 1)


def test_a_functional_max_pool_is_a_window():
    for model in (Functional(), nn.MaxPool2d(3, 2, 1)):
        seen = probe(model, (1, 1, 9, 9))
        field = seen.receptive_field(seen.calls[0].output, (2, 2))
        assert (field.rows, field.columns) == ((3, 5), (3, 5))


def test_what_mixes_everything_reads_everything():
    for model in (
        nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(2 * 6 * 6, 3)),
        nn.GroupNorm(1, 1),
        nn.Softmax(3),
    ):
        seen = probe(model, (1, 1, 8, 8))
        field = seen.receptive_field(seen.calls[0].output)
        assert field.everything, model
    assert not shapes(nn.Softmax(1), (1, 2, 8, 8)).field.everything


def test_resnet_receptive_fields():
    """ResNet-18's 435 and ResNet-50's 427 (its stride is in the 3x3, as in torchvision)."""
    for model, size in ((nn.resnet.resnet18(), 435), (nn.resnet.resnet50(), 427)):
        seen = probe(model, (3, 64, 64))
        (last,) = [call for call in seen.calls if call.path == "layer4"]
        assert seen.receptive_field(last.output).height == size


def test_a_layer_with_a_forward_of_its_own():
    """Its arguments say one thing, its forward does another: the recorded operations are right."""

    class Padded(nn.Conv2d):
        def forward(self, input):
            padded = nn.functional.pad(input, (2, 2, 2, 2))
            return nn.functional.conv2d(padded, self.weight, self.bias, 2)

    seen = probe(Padded(1, 1, 3), (1, 1, 9, 9))
    output = seen.calls[0].output
    for at in np.ndindex(*output.shape[2:]):
        np.testing.assert_array_equal(
            seen.receptive_field(output, at).mask, support(seen.model, (1, 1, 9, 9), at)
        )


def test_output_size_in_the_call():
    class Back(nn.Module):
        def __init__(self):
            super().__init__()
            self.up = nn.ConvTranspose2d(1, 1, 3, 2, 1)

        def forward(self, x):
            return self.up(x, output_size=(8, 7))

    rows, columns = shapes(Back(), (1, 1, 4, 4)).layers[0].axes
    assert (rows.out, rows.extra, columns.out, columns.extra) == (8, 1, 7, 0)


def test_picture_of_holes():
    found = shapes(nn.Conv2d(1, 1, (2, 3), dilation=2), (1, 9, 9))
    assert "    # . # . #\n    . . . . .\n    # . # . #\n" in str(found)


def test_a_pixel_that_reads_nothing():
    found = shapes(nn.ConvTranspose2d(1, 1, 1, 2), (1, 2, 2))
    assert found.field is None
    assert "the middle output pixel reads no input pixel" in str(found)


def test_known_rules_name_operations():
    assert set(reach._RULES) <= set(OPS)


# --- the text


def test_the_text_of_remainders():
    text = str(shapes(nn.Conv2d(1, 1, 3, 2), (1, 64, 64)))
    assert ("H: floor((64 + 2*0 - 1*(3-1) - 1)/2) + 1 = 31   "
            "remainder 1: input row 63 is never read") in text  # fmt: skip
    assert "remainder 1: input column 63 is never read" in text
    assert (
        "63 and 64 both give 31; transposed, it goes back to 63, "
        "with output_padding=1 to 64" in text
    )
    assert "127 of 4096 input pixels reach no output: row 63 and column 63" in text
    text = str(shapes(nn.Conv2d(1, 1, 3, 2, 1), (1, 28, 28)))
    assert "= 14   remainder 1: only padding goes unread" in text
    assert "every input pixel reaches the output" in text


def test_the_text_of_other_layers():
    assert "padded 1 before and 2 after" in str(
        shapes(nn.Conv2d(1, 1, 4, padding="same"), (1, 9, 9))
    )
    text = str(shapes(nn.Conv2d(1, 1, 3, 2, dilation=2), (1, 9, 9)))
    assert (
        "input rows 1, 3, 5 and 7 are never read: stride 2 and dilation 2 share the factor 2"
        in text
    )
    assert "of the 25 inside are holes" in text
    text = str(shapes(nn.AdaptiveAvgPool2d(3), (1, 7, 7)))
    assert "0-2, 2-4, 4-6" in text
    assert "rows 2 and 4 lie in more than one window" in text
    text = str(shapes(nn.ConvTranspose2d(1, 1, 2, 3), (1, 3, 3)))
    assert "output rows 2 and 5 get no stamp, only the bias" in text
    text = str(shapes(nn.MaxPool2d(2, ceil_mode=True), (1, 5, 5)))
    assert "ceil((5 + 2*0 - 1*(2-1) - 1)/2) + 1 = 3   the last window reaches 1 row" in text
    text = str(shapes(nn.Conv1d(1, 2, 3, 4), (1, 1, 30)))
    assert (
        "L: floor((30 + 2*0 - 1*(3-1) - 1)/4) + 1 = 7   remainder 3: input positions 27-29" in text
    )
    assert "reads 3 positions: 12..14" in text


def test_lists_of_positions():
    assert positions([5], "row", "rows") == "row 5"
    assert positions([5, 6, 7], "row", "rows") == "rows 5-7"
    assert positions([1, 3], "row", "rows") == "rows 1 and 3"
    assert positions(list(range(1, 41, 2)), "row", "rows") == "rows 1, 3, 5, ..., 39 (20 of them)"


def test_up_to_the_layer_that_fails():
    model = nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Conv2d(9, 8, 3), nn.ReLU())
    found = shapes(model, (1, 28, 28))
    assert [layer.path for layer in found.layers] == ["0", "1", "2"]
    assert found.layers[2].output is None
    assert found.failed == "2 Conv2d(9->8, k3)"
    assert "axis 1 has 8 channels but the weight wants 9" in str(found)
    assert str(found).count("2 Conv2d(9->8, k3)") == 1  # the heading has two blanks


def test_the_model_is_left_as_it_was():
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Dropout(0.5))
    model[1].eval()
    before = {k: v.array.copy() for k, v in model.state_dict().items()}
    buffers = {id(b) for b in model.buffers()}
    state = tc.get_rng_state()
    shapes(model, (4, 1, 8, 8))
    tc.summary(model, (4, 1, 8, 8))
    assert tc.get_rng_state() == state
    assert [m.training for m in model.modules()] == [True, True, False, True]
    assert buffers == {id(b) for b in model.buffers()}
    for key, value in model.state_dict().items():
        np.testing.assert_array_equal(value.array, before[key])
    assert not any(module._hooks for module in model.modules())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_bad_input():
    with pytest.raises(TypeError, match="need a model or a layer"):
        shapes("conv", (1, 8, 8))
    with pytest.raises(tc.ShapeError, match="no shape"):
        shapes(nn.ReLU(), (1, 0, 8))
    with pytest.raises(tc.ShapeError, match="no shape"):
        shapes(nn.ReLU(), "1x8x8")


def test_notebook_html_is_escaped():
    assert "-&gt;" in shapes(nn.Conv2d(1, 1, 3), (1, 8, 8))._repr_html_()


# --- the language


@quick
@given(st.integers(1, 9), st.tuples(small, small), small, st.integers(0, 3), small, st.booleans())
def test_language_says_what_is_built(out, kernel, stride, padding, dilation, bias):
    text = f"conv({out},k{kernel[0]}x{kernel[1]}, s{stride},p{padding},d{dilation}"
    layer = parse_network(text + (")" if bias else ",nobias)"), (3, 40, 40))[0]
    assert (layer.in_channels, layer.out_channels, layer.kernel_size) == (3, out, kernel)
    assert (layer.stride, layer.padding) == ((stride, stride), (padding, padding))
    assert layer.dilation == (dilation, dilation)
    assert (layer.bias is not None) == bias


def test_language_follows_channels_and_features():
    text = "conv(8,k3,s2,p1) bn relu res(conv(8,k3,p1)) pool(2) convT(4,k3,s2,p1,op1)"
    text += " flatten linear(10)"
    model = parse_network(text, (1, 28, 28))
    assert model(tc.zeros(2, 1, 28, 28)).shape == (2, 10)
    assert model[-1].in_features == 4 * 14 * 14
    assert parse_network("conv(4,k3) pool(2)", (1, 1, 9, 9))[0].in_channels == 1
    assert isinstance(parse_network("conv(4,k3)", (2, 30))[0], nn.Conv1d)


@pytest.mark.parametrize(
    ("text", "position", "said"),
    [
        ("conv(8,k3", 10, "found the end, expected ',' or ')'"),
        ("conv(8,k3) conf(8)", 12, "'conf' is no layer; did you mean conv?"),
        ("conv(8)", 1, "conv needs a kernel size such as k3"),
        ("conv", 1, "conv needs the number of output channels"),
        ("relu conv(8,k3,z2)", 16, "'z2' is no argument of conv(CHANNELS,k3"),
        ("pool(2,op1)", 1, "pool does not take op1"),
        ("conv(8,k3))", 11, "found ')', expected a layer"),
        ("conv(8,k3,k4)", 11, "k is given twice"),
        ("conv(8,k3,,s1)", 11, "found ',', expected an argument of conv"),
        ("conv(8,3", 9, "found the end"),
        ("conv(8,k3,g3)", 1, "3 groups do not divide"),
        ("", 1, "found the end, expected a layer"),
        ("res conv", 5, "found 'c', expected '('"),
        ("res(conv(1,k3,p1)", 18, "found the end, expected ')'"),
        ("conv(8,k3x)", 8, "'k3x' is no argument of conv("),
    ],
)
def test_language_errors(text, position, said):
    with pytest.raises(LanguageError) as caught:
        parse_network(text, (1, 28, 28))
    assert said in str(caught.value)
    assert str(caught.value).endswith(f"^ position {position}")


def test_language_errors_show_their_line():
    with pytest.raises(LanguageError) as caught:
        parse_network("conv(8,k3)\n  conf(8)\nrelu", (1, 28, 28))
    assert str(caught.value).endswith("\n      conf(8)\n      ^ position 14")


def test_language_keeps_what_does_not_fit():
    """The network ends with the layer that fails, so that its error is the layer's."""
    model = parse_network("conv(4,k3) res(conv(6,k3,p1)) relu", (1, 9, 9))
    assert len(model) == 2
    found = shapes(model, (1, 9, 9))
    assert "the shortcut needs Conv2d(4, 6, 1)" in str(found)
    assert found.failed.startswith("1 Residual")


def test_shapes_as_text():
    assert parse_shape("1x28x28") == (1, 28, 28)
    assert with_batch((1, 28, 28)) == (1, 1, 28, 28)
    for bad in ("28", "1x28x"):
        with pytest.raises(ValueError, match="shape"):
            with_batch(parse_shape(bad))


def test_command(capsys):
    assert cli.main(["shapes", "1x28x28", "conv(8,k3,s2,p1) pool(2) convT(4,k3,s2,p1,op1)"]) == 0
    text = capsys.readouterr().out
    assert "H: (7-1)*2 - 2*1 + 1*(3-1) + 1 + 1 = 14" in text
    assert "reads 9x9 pixels" in text
    assert cli.main(["shapes", "1x28x28", "conv(8,k3) conv(8,k40)"]) == 1
    assert "FAILED: 1 Conv2d(8->8, k40): k40 spans 40 > 26" in capsys.readouterr().out
    assert cli.main(["shapes", "1x28x28", "cnov(8)"]) == 2
    assert "did you mean conv?" in capsys.readouterr().err
    assert cli.main(["shapes", "28", "relu"]) == 2


def test_window_is_immutable_data():
    assert replace(Window(64, 3, 2), n=63).out == 31
