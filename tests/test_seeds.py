"""What the four articles that tinyconv grew from get wrong, and what is true.

One test for each row of the table in the design: the claim in the first line, the fact below.
"""

import inspect
import io
import tokenize
import warnings

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

import tinyconv as tc
from tinyconv import nn
from tinyconv.backend import naive
from tinyconv.nn import functional as F
from tinyconv.see.curves import curves

RNG = np.random.default_rng(0)


def drawn(*shape):
    return tc.tensor(RNG.uniform(0.5, 1.5, shape))


def reached(layer, shape):
    """(H, W): which input pixels get a gradient."""
    x = tc.tensor(RNG.uniform(0.5, 1.5, shape), requires_grad=True)
    layer.to(tc.float64)
    layer(x).sum().backward()
    return (x.grad.array != 0).any((0, 1))


# --- 000, a mental model


def test_kernels_need_not_be_square():
    """Claim: a kernel is always square, K x K."""
    layer = nn.Conv2d(3, 10, (5, 2))
    assert layer.weight.shape == (10, 3, 5, 2)
    assert layer(tc.zeros(1, 3, 64, 64)).shape == (1, 10, 60, 63)
    assert tc.shapes(layer, (3, 64, 64)).output == (1, 10, 60, 63)


def test_even_kernels_eat_no_side():
    """Claim: an even kernel eats from the top left.  A valid convolution reads every pixel, and
    its output belongs to no side; it is ``same`` that must choose: 1 before and 2 after."""
    assert reached(nn.Conv2d(1, 1, 6), (1, 1, 9, 9)).all()
    assert tc.shapes(nn.Conv2d(1, 1, 6), (1, 9, 9)).layers[0].unread == ([], [])
    same = tc.shapes(nn.Conv2d(1, 1, 4, padding="same"), (1, 9, 9))
    assert str(same).count("padded 1 before and 2 after") == 2
    x, w = drawn(1, 1, 9, 9), drawn(1, 1, 4, 4)
    by_hand = F.conv2d(F.pad(x, (1, 2, 1, 2)), w)
    np.testing.assert_array_equal(F.conv2d(x, w, padding="same").array, by_hand.array)


def test_even_kernels_pad_as_pytorch():
    torch = pytest.importorskip("torch")
    x, w = RNG.standard_normal((1, 1, 9, 9)), RNG.standard_normal((1, 1, 4, 4))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyTorch warns once of even kernels
        theirs = torch.nn.functional.conv2d(torch.tensor(x), torch.tensor(w), padding="same")
    ours = F.conv2d(tc.tensor(x), tc.tensor(w), padding="same")
    np.testing.assert_allclose(ours.array, theirs.numpy(), atol=1e-12)


def test_there_is_an_exact_solution():
    """Claim: 64 wide, kernel 3, stride 2: 31 or 32? "There is no exact solution".  31 exactly;
    row 63 and column 63 are never read."""
    layer = nn.Conv2d(1, 1, 3, 2)
    found = tc.shapes(layer, (1, 64, 64))
    assert found.output == layer(tc.zeros(1, 1, 64, 64)).shape == (1, 1, 31, 31)
    assert found.layers[0].unread == ([63], [63])
    assert "remainder 1: input row 63 is never read" in str(found)
    truth = reached(layer, (1, 1, 64, 64))
    assert not truth[63].any()
    assert not truth[:, 63].any()
    assert truth[:63, :63].all()


def test_a_remainder_may_leave_only_padding_unread():
    """(28, kernel 3, stride 2, padding 1) has remainder 1, too."""
    layer = nn.Conv2d(1, 1, 3, 2, 1)
    text = str(tc.shapes(layer, (1, 28, 28)))
    assert text.count("remainder 1: only padding goes unread") == 2
    assert reached(layer, (1, 1, 28, 28)).all()


def test_residual_blocks():
    """Claim: the identity needs equal shapes, else strides and 1x1 convolutions.  True: so they
    are built, and the error says which one is needed."""
    x = tc.zeros(2, 8, 7, 7)
    same = nn.Residual(nn.Conv2d(8, 8, 3, padding=1))
    assert same(x).shape == x.shape
    assert nn.BasicBlock(8, 16, stride=2)(x).shape == (2, 16, 4, 4)
    branch = nn.Conv2d(8, 16, 3, stride=2, padding=1)
    with pytest.raises(tc.ShapeError, match=r"the shortcut needs Conv2d\(8, 16, 1, stride=2\)"):
        nn.Residual(branch)(x)
    assert nn.Residual(branch, nn.Conv2d(8, 16, 1, stride=2))(x).shape == (2, 16, 4, 4)


# --- 001, a cheat sheet


@settings(max_examples=25, deadline=None)
@given(
    st.integers(1, 4), st.integers(1, 4), st.integers(1, 3), st.integers(1, 5), st.integers(1, 5)
)
def test_parameters_of_a_layer(c, o, groups, kh, kw):
    """Claim: H * W * C + 1.  That is one filter; a layer has C_out of them, and each reads
    C_in / groups channels."""
    layer = nn.Conv2d(c * groups, o * groups, (kh, kw), groups=groups)
    expected = o * groups * (c * kh * kw + 1)
    assert sum(p.numel() for p in layer.parameters()) == expected
    (row,) = tc.summary(layer, (c * groups, 6, 6)).rows
    assert row.parameters == expected
    text = str(tc.shapes(layer, (c * groups, 6, 6)))
    assert f"parameters {o * groups}*({c}*{kh}*{kw} + 1) = {expected:,}" in text


def test_a_transposed_convolution_recovers_no_shape():
    """Claim: it recovers the shape.  Four sizes become three, and none of them comes back but 13
    and 16; output_padding says which one is meant."""
    there, back = nn.Conv2d(1, 1, 5, 3, 2), nn.ConvTranspose2d(1, 1, 5, 3, 2)
    down = [there(tc.zeros(1, 1, n, n)).shape[2] for n in (15, 16, 17, 18)]
    assert down == [5, 6, 6, 6]
    assert [back(tc.zeros(1, 1, n, n)).shape[2] for n in down] == [13, 16, 16, 16]
    for extra, size in ((0, 16), (1, 17), (2, 18)):
        layer = nn.ConvTranspose2d(1, 1, 5, 3, 2, output_padding=extra)
        assert layer(tc.zeros(1, 1, 6, 6)).shape[2] == size
    assert "16, 17 and 18 all give 6" in str(tc.shapes(there, (1, 17, 17)))
    assert "output_padding 0 gives 16, 1 gives 17, 2 gives 18" in str(tc.shapes(back, (1, 6, 6)))


def test_a_transposed_convolution_is_the_adjoint_not_the_inverse():
    """<g, conv(x)> = <convT(g), x>, but convT(conv(x)) is not x."""
    x, g, w = drawn(1, 2, 16, 16), drawn(1, 3, 6, 6), drawn(3, 2, 5, 5)
    y = F.conv2d(x, w, stride=3, padding=2)
    z = F.conv_transpose2d(g, w, stride=3, padding=2)
    assert (y * g).sum().item() == pytest.approx((z * x).sum().item())
    again = F.conv_transpose2d(y, w, stride=3, padding=2)
    assert again.shape == x.shape
    assert not np.allclose(again.array, x.array)


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 4), st.integers(1, 3), st.integers(0, 2), st.integers(1, 2), st.data())
def test_zero_insertion_gives_the_same_numbers(k, stride, padding, dilation, data):
    """Claim: rows and columns of zeros emulate it.  True: insert them and convolve, flipped."""
    padding = min(padding, dilation * (k - 1))
    extra = data.draw(st.integers(0, stride - 1))
    x, w = drawn(2, 3, 4, 5), drawn(3, 2, k, k)
    wide = np.zeros((2, 3, 3 * stride + 1, 4 * stride + 1))
    wide[:, :, ::stride, ::stride] = x.array
    around = dilation * (k - 1) - padding
    wide = np.pad(wide, ((0, 0), (0, 0), (around, around + extra), (around, around + extra)))
    flipped = tc.flip(w, (2, 3)).transpose(0, 1)
    emulated = F.conv2d(tc.tensor(wide), flipped, dilation=dilation)
    direct = F.conv_transpose2d(
        x, w, stride=stride, padding=padding, output_padding=extra, dilation=dilation
    )
    np.testing.assert_allclose(direct.array, emulated.array)


def test_dilation_loses_coverage():
    """Claim: no loss of coverage.  Dilation 2 with stride 2 never reads every second row; and two
    layers of dilation 2 see a quarter of the square that they span (gridding)."""
    layer = nn.Conv2d(1, 1, 3, stride=2, dilation=2)
    truth = reached(layer, (1, 1, 13, 13))
    assert truth.sum() == 49
    np.testing.assert_array_equal(tc.shapes(layer, (1, 13, 13)).unread, ~truth)
    stack = nn.Sequential(nn.Conv2d(1, 1, 3, dilation=2), nn.Conv2d(1, 1, 3, dilation=2))
    field = tc.shapes(stack, (1, 21, 21)).field
    assert (field.height, field.width, field.holes) == (9, 9, 81 - 25)


def test_pooling_is_not_rotation_invariant():
    """Claim: pooling extracts features that are rotation invariant.  The pool of an image that is
    rotated is another; even for a quarter turn it is only turned along, which is equivariance."""
    image = np.zeros((1, 1, 6, 6))
    image[0, 0, 0, 1] = image[0, 0, 3, 4] = 1
    x = tc.tensor(image)
    for pool in (nn.MaxPool2d(2), nn.AvgPool2d(2)):
        y = pool(x).array
        turned = pool(tc.tensor(np.rot90(image, axes=(2, 3)).copy())).array
        assert not np.array_equal(turned, y)
        np.testing.assert_array_equal(turned, np.rot90(y, axes=(2, 3)))
    # nor is it invariant to a shift by one pixel
    shifted = nn.MaxPool2d(2)(tc.tensor(np.roll(image, 1, 3))).array
    assert not np.array_equal(shifted, nn.MaxPool2d(2)(x).array)


# --- 002, a question and its answer


def naive_source():
    return "".join(map(inspect.getsource, (naive.multiply_adds, naive.conv2d)))


def test_the_naive_twin_is_short_and_right():
    """Asked for: a minimal implementation.  At most 25 lines, and the fast one's numbers."""
    tokens = tokenize.generate_tokens(io.StringIO(naive_source()).readline)
    skipped = (tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT)
    lines = {token.start[0] for token in tokens if token.type not in (*skipped, tokenize.ENDMARKER)}
    assert len(lines) <= 25
    x, w = drawn(1, 4, 7, 6), drawn(4, 2, 3, 2)
    options = {"stride": (2, 1), "padding": (1, 0), "dilation": (1, 2), "groups": 2}
    fast = F.conv2d(x, w, **options)
    with tc.kernels("naive"):
        slow = F.conv2d(x, w, **options)
    np.testing.assert_allclose(slow.array, fast.array)


def test_it_is_cross_correlation():
    """Asked: convolution or cross-correlation?  Cross-correlation: the kernel is not flipped."""
    x, w = RNG.standard_normal(9), RNG.standard_normal(3)
    layer = F.conv1d(tc.tensor(x[None, None]), tc.tensor(w[None, None])).array[0, 0]
    np.testing.assert_allclose(layer, np.correlate(x, w, "valid"))
    assert not np.allclose(layer, np.convolve(x, w, "valid"))
    flipped = tc.flip(tc.tensor(w[None, None]), (2,))
    convolution = F.conv1d(tc.tensor(x[None, None]), flipped).array[0, 0]
    np.testing.assert_allclose(convolution, np.convolve(x, w, "valid"))


# --- 003, Conv2d's arguments


def test_the_caption_of_a_rectangular_kernel():
    """Claim: K (5, 2) takes (3, 7, 9) to (2, 3, 9).  To (2, 3, 8)."""
    layer = nn.Conv2d(3, 2, (5, 2))
    assert layer(tc.zeros(1, 3, 7, 9)).shape == (1, 2, 3, 8)
    found = tc.shapes(layer, (3, 7, 9))
    assert found.output == (1, 2, 3, 8)
    assert "W: floor((9 + 2*0 - 1*(2-1) - 1)/1) + 1 = 8" in str(found)


def test_work_falls_with_both_strides():
    """Claim: time falls linearly with the stride.  Multiply-adds fall with SH * SW."""
    costs = {
        stride: tc.summary(nn.Conv2d(3, 8, 3, stride, 1), (3, 60, 60)).multiply_adds
        for stride in (1, 2, 3, 4, (1, 2), (3, 2))
    }
    for stride, cost in costs.items():
        sh, sw = stride if isinstance(stride, tuple) else (stride, stride)
        assert cost * sh * sw == costs[1]


def test_groups_have_kernels_of_their_own():
    """Claim: kernels are shared between groups.  Each group has its own: (C_out, C_in/groups, ...),
    and the group's output depends on its kernels alone."""
    layer = nn.Conv2d(6, 4, 3, groups=2).double()
    assert layer.weight.shape == (4, 3, 3, 3)
    x = drawn(1, 6, 5, 5)
    before = layer(x).array.copy()
    layer.weight.array[2:] += 1  # the second group's
    after = layer(x).array
    np.testing.assert_array_equal(after[:, :2], before[:, :2])
    assert (after[:, 2:] != before[:, 2:]).all()
    parts = [F.conv2d(x[:, 3 * i : 3 * i + 3], layer.weight[2 * i : 2 * i + 2]) for i in (0, 1)]
    whole = F.conv2d(x, layer.weight, groups=2)
    np.testing.assert_allclose(whole.array, tc.cat(parts, 1).array, rtol=1e-10)


def test_curves_have_times_beside_multiply_adds():
    """Claim: curves of a single run.  Medians after a warm-up, beside parameters and
    multiply-adds; tests/test_curves.py looks at the figure."""
    found = curves(["stride"], (1, 2, 8, 8), rounds=3)
    assert [p.value for p in found.of("stride")] == [1, 2, 3, 4, 5]
    assert all(p.forward > 0 < p.backward for p in found.points)
    assert found.points[0].multiply_adds == 4 * found.points[1].multiply_adds
