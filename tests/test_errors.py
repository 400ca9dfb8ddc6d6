"""Errors that teach: each names the place, shows the arithmetic, and its fix works.

A row: the mistake, what its message must say, and the fix that the message suggests, which is run.
"""

import re
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import tinyconv as tc
from tinyconv import nn
from tinyconv.hints import INSTEAD
from tinyconv.nn import functional as F


class Net(nn.Module):
    """conv1, bn1, relu, pool, fc on 28x28 images; what the arguments say may be wrong."""

    def __init__(
        self, channels: int = 1, padding: Any = 0, width: int = 8, features: int = 1352,
        pool: Callable[[], nn.Module] = lambda: nn.MaxPool2d(2), kernel: int = 3, dilation: int = 1,
    ) -> None:  # fmt: skip
        super().__init__()
        self.conv1 = nn.Conv2d(channels, 8, kernel, padding=padding, dilation=dilation)
        self.bn1 = nn.BatchNorm2d(width)
        self.pool = pool()
        self.fc = nn.Linear(features, 10)

    def forward(self, x: Any) -> Any:
        x = self.pool(F.relu(self.bn1(self.conv1(x))))
        return self.fc(x.flatten(1))


class Deep(nn.Module):
    """Two convolutions, both without padding."""

    def __init__(self, features: int, padding1: int = 0, padding2: int = 0) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 4, 3, stride=2, padding=padding1)
        self.conv2 = nn.Conv2d(4, 6, 5, padding=padding2)
        self.fc = nn.Linear(features, 2)

    def forward(self, x: Any) -> Any:
        return self.fc(F.gelu(self.conv2(F.relu(self.conv1(x)))).flatten(1))


def inside(branch: nn.Module, shortcut: nn.Module | None = None) -> nn.Module:
    net = nn.Module()
    net.layer2 = nn.Sequential(nn.Residual(branch, shortcut))
    net.forward = net.layer2.forward  # type: ignore[method-assign]
    return net


def x(*shape: int) -> Any:
    return tc.randn(*shape)


def i(*shape: int, high: int = 3) -> Any:
    return tc.randint(0, high, shape)


BYTES = tc.tensor(np.zeros((4, 1, 28, 28), np.uint8))
DOUBLES = tc.tensor(np.zeros((4, 1, 28, 28)))
LABELS = tc.tensor([n % 10 if n != 37 else 10 for n in range(64)])
IMAGES = tc.ones(4, 1, 28, 28)
MAPS = tc.ones(2, 4, 8, 8)
K = tc.ones(4, 4, 5, 5)
LOGITS = tc.zeros(64, 10)
PLACES = tc.tensor([[[[0, 2], [8, 24]]]])


def down(c: int = 64) -> nn.Module:
    return nn.Conv2d(c, 128, 3, stride=2, padding=1)


def stem(channels: int) -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, 16, 3), nn.Conv2d(channels, 8, 3))


def twice(retain_graph: bool) -> None:
    net = Net()
    y = net(IMAGES)
    seed = tc.ones_like(y)
    y.backward(seed, retain_graph=retain_graph)
    y.backward(seed)


def overwritten(copy: bool) -> None:
    w = x(3).requires_grad_()
    v = w * 2
    y = (v * v).sum()
    with tc.no_grad():
        (v.clone() if copy else v).zero_()
    y.backward()


# id: mistake, what is said, the fix
TABLE: dict[str, tuple[Callable[[], Any], str | list[str], Callable[[], Any]]] = {
    # --- the eight of the design
    "no channel axis": (
        lambda: Net()(x(64, 28, 28)),
        ("conv1 Conv2d(1->8, k3): input (64, 28, 28) is 3-D, need (N,C,H,W). "
         "If 64 is the batch: x[:, None]"),
        lambda: Net()(x(64, 28, 28)[:, None]),
    ),
    "channels last": (
        lambda: Net(3)(x(4, 28, 28, 3)),
        ("conv1 Conv2d(3->8, k3): input (4, 28, 28, 3): axis 1 has 28 channels but the weight "
         "wants 3; axis 3 is 3, so this looks like NHWC: x.permute(0, 3, 1, 2)"),
        lambda: Net(3)(x(4, 28, 28, 3).permute(0, 3, 1, 2)),
    ),
    "flatten size": (
        lambda: Net(features=1568)(IMAGES),
        ("fc Linear(1568->10): got 1352 = 8*13*13 (from (4, 8, 13, 13)), expects 1568. "
         "Linear(1352, 10), or padding=1 in conv1"),
        lambda: (Net(features=1352)(IMAGES), Net(features=1568, padding=1)(IMAGES)),
    ),
    "dilated kernel too big": (
        lambda: nn.Sequential(nn.Conv2d(4, 4, 5, dilation=3))(MAPS),
        ("0 Conv2d(4->4, k5, d3): k5 with dilation 3 spans 3*(5-1)+1 = 13 > 8 (H = 8). "
         "Smallest padding that fits: 3"),
        lambda: nn.Conv2d(4, 4, 5, dilation=3, padding=3)(MAPS),
    ),
    "residual mismatch": (
        lambda: inside(down())(x(4, 64, 28, 28)),
        ("branch (4, 128, 14, 14), shortcut (4, 64, 28, 28): the shortcut needs "
         "Conv2d(64, 128, 1, stride=2)"),
        lambda: inside(down(), nn.Conv2d(64, 128, 1, stride=2))(x(4, 64, 28, 28)),
    ),
    "one-channel shortcut": (
        lambda: nn.Residual(down(8), nn.Conv2d(8, 1, 1, stride=2))(x(4, 8, 28, 28)),
        ("Residual: branch (4, 128, 14, 14), shortcut (4, 1, 14, 14): the shortcut needs "
         "Conv2d(8, 128, 1, stride=2)"),
        lambda: nn.Residual(down(8), nn.Conv2d(8, 128, 1, stride=2))(x(4, 8, 28, 28)),
    ),
    "batch norm's width": (
        lambda: Net(width=16)(IMAGES),
        ["bn1 BatchNorm2d(16): input has 8 channels", "BatchNorm2d(16) expects 16",
         "conv1 produced it. BatchNorm2d(8) fits"],
        lambda: Net(width=8)(IMAGES),
    ),
    "label out of range": (
        lambda: F.cross_entropy(LOGITS, LABELS),
        "cross_entropy: target[37] is 10, but the logits have 10 classes (0..9)",
        lambda: F.cross_entropy(x(64, 11), LABELS),
    ),
    # --- images
    "height first, channels last": (
        lambda: Net(3)(x(28, 28, 3)),
        "Axis 2 is 3, so this looks like HWC: x.permute(2, 0, 1)[None]",
        lambda: Net(3)(x(28, 28, 3).permute(2, 0, 1)[None]),
    ),
    "one grey image": (
        lambda: Net()(x(28, 28)),
        ("conv1 Conv2d(1->8, k3): input (28, 28) is 2-D, need (N,C,H,W). "
         "One grey image: x[None, None]"),
        lambda: Net()(x(28, 28)[None, None]),
    ),
    "one colour image": (
        lambda: Net(3)(x(3, 28, 28)),
        "input (3, 28, 28) is 3-D, need (N,C,H,W). A batch of one: x[None]",
        lambda: Net(3)(x(3, 28, 28)[None]),
    ),
    "bytes": (
        lambda: Net()(BYTES),
        ("conv1 Conv2d(1->8, k3): input is uint8, the weight float32: x.float(); grey levels "
         "0..255 become 0..1 with x.float() / 255"),
        lambda: Net()(BYTES.float() / 255),
    ),
    "float64 images": (
        lambda: Net()(DOUBLES),
        "conv1 Conv2d(1->8, k3): input is float64, the weight float32: x.float()",
        lambda: Net()(DOUBLES.float()),
    ),
    "float64 rows": (
        lambda: nn.Linear(3, 2)(tc.tensor(np.zeros((4, 3)))),
        "Linear(3->2): input is float64, the weight float32: x.float()",
        lambda: nn.Linear(3, 2)(tc.tensor(np.zeros((4, 3))).float()),
    ),
    "float32 images into a float64 network": (
        lambda: Net().double()(IMAGES),
        "conv1 Conv2d(1->8, k3): input is float32, the weight float64: x.double()",
        lambda: Net().double()(IMAGES.double()),
    ),
    # --- convolutions
    "wrong channel count": (
        lambda: stem(3)(IMAGES),
        ("1 Conv2d(3->8, k3): input (4, 16, 26, 26): axis 1 has 16 channels but the weight wants "
         "3; 0 produced it. in_channels=16 fits"),
        lambda: stem(16)(IMAGES),
    ),
    "wrong groups": (
        lambda: F.conv2d(MAPS, x(6, 3, 3, 3), groups=2),
        "conv2d: input (2, 4, 8, 8): axis 1 has 4 channels but the weight wants 6 = 3*2 groups",
        lambda: F.conv2d(MAPS, x(6, 2, 3, 3), groups=2),
    ),
    "groups that do not divide": (
        lambda: F.conv2d(MAPS, x(5, 2, 3, 3), groups=2),
        "conv2d: 5 output channels in 2 groups: 5/2 is not whole. groups=1 fits",
        lambda: F.conv2d(MAPS, x(5, 4, 3, 3), groups=1),
    ),
    "a layer's groups": (
        lambda: nn.Conv2d(6, 8, 3, groups=4),
        ["4 groups do not divide in_channels=6: 6 = 4*1 + 2", "What fits: 1, 2"],
        lambda: nn.Conv2d(6, 8, 3, groups=2),
    ),
    "kernel too big": (
        lambda: nn.Conv2d(4, 4, 5)(x(2, 4, 3, 8)),
        "Conv2d(4->4, k5): k5 spans 5 > 3 (H = 3). Smallest padding that fits: 1",
        lambda: nn.Conv2d(4, 4, 5, padding=1)(x(2, 4, 3, 8)),
    ),
    "kernel too big in spite of padding": (
        lambda: F.conv2d(x(1, 4, 9, 2), x(4, 4, 9, 9), padding=(0, 2)),
        "conv2d: k9 spans 9 > 6 (W = 2 + 4 of padding). Smallest padding that fits: 4",
        lambda: F.conv2d(x(1, 4, 9, 2), x(4, 4, 9, 9), padding=4),
    ),
    "kernel longer than the signal": (
        lambda: nn.Conv1d(4, 4, 5)(x(2, 4, 3)),
        "Conv1d(4->4, k5): k5 spans 5 > 3 (L = 3). Smallest padding that fits: 1",
        lambda: nn.Conv1d(4, 4, 5, padding=1)(x(2, 4, 3)),
    ),
    "same with a stride": (
        lambda: F.conv2d(MAPS, K, stride=2, padding="same"),
        "conv2d: padding='same' keeps the size, stride (2, 2) divides it; use padding=(2, 2)",
        lambda: F.conv2d(MAPS, K, stride=2, padding=(2, 2)),
    ),
    "an unknown padding": (
        lambda: F.conv2d(MAPS, K, padding="full"),
        "padding='full' is neither 'same', 'valid' nor numbers",
        lambda: F.conv2d(MAPS, K, padding="same"),
    ),
    "stride 0": (
        lambda: F.conv2d(MAPS, K, stride=0),
        "conv2d: stride (0, 0) and dilation (1, 1) must be at least 1",
        lambda: F.conv2d(MAPS, K, stride=1),
    ),
    "three strides": (
        lambda: F.conv2d(MAPS, K, stride=(1, 2, 3)),
        "(1, 2, 3) must be one number, or (height, width)",
        lambda: F.conv2d(MAPS, K, stride=(2, 3)),
    ),
    "a bias that would broadcast": (
        lambda: F.conv2d(MAPS, K, x(1)),
        "conv2d: bias (1,) must be (4,)",
        lambda: F.conv2d(MAPS, K, x(4)),
    ),
    "a weight with an axis less": (
        lambda: F.conv2d(MAPS, x(4, 3, 3)),
        "conv2d: weight (4, 3, 3) is 3-D, need (O, C/groups, KH, KW)",
        lambda: F.conv2d(MAPS, x(4, 3, 3)[:, None], groups=4),
    ),
    "output_padding": (
        lambda: F.conv_transpose2d(MAPS, K, stride=2, output_padding=2),
        ("conv_transpose2d: output_padding 2 picks among the 2 sizes that stride 2 merges; it must "
         "be below stride or dilation: 0..1"),
        lambda: F.conv_transpose2d(MAPS, K, stride=2, output_padding=1),
    ),
    "nothing left of a transposed convolution": (
        lambda: nn.ConvTranspose2d(4, 2, 3, padding=2)(x(1, 4, 1, 1)),
        ("ConvTranspose2d(4->2, k3, p2): (1-1)*1 - 2*2 + 3 + 0 = -1 rows of output. "
         "Largest padding that leaves one: 1"),
        lambda: nn.ConvTranspose2d(4, 2, 3, padding=1)(x(1, 4, 1, 1)),
    ),
    "signals, channels last": (
        lambda: nn.Conv1d(4, 2, 3)(x(2, 9, 4)),
        ("axis 1 has 9 channels but the weight wants 4; axis 2 is 4, so this looks like NLC: "
         "x.transpose(1, 2)"),
        lambda: nn.Conv1d(4, 2, 3)(x(2, 9, 4).transpose(1, 2)),
    ),
    "signals without channels": (
        lambda: nn.Conv1d(1, 2, 3)(x(5, 9)),
        ("Conv1d(1->2, k3): input (5, 9) is 2-D, need (N,C,L). "
         "If the first axis is the batch: x[:, None]"),
        lambda: nn.Conv1d(1, 2, 3)(x(5, 9)[:, None]),
    ),
    "columns that are no windows": (
        lambda: F.fold(x(1, 8, 4), (4, 4), 2),
        "fold: input (1, 8, 4): need (N, C*2*2, L) with L = 3*3 = 9 windows for an output of",
        lambda: F.fold(x(1, 8, 9), (4, 4), 2),
    ),
    # --- linear layers
    "not flattened": (
        lambda: nn.Linear(256, 10)(MAPS),
        "got 8 (from (2, 4, 8, 8)), expects 256. Flatten first: x.flatten(1)",
        lambda: nn.Linear(256, 10)(MAPS.flatten(1)),
    ),
    "wrong width": (
        lambda: nn.Sequential(nn.Linear(5, 7), nn.Linear(8, 2))(x(3, 5)),
        "1 Linear(8->2): got 7 (from 0, (3, 7)), expects 8. Linear(7, 2)",
        lambda: nn.Sequential(nn.Linear(5, 7), nn.Linear(7, 2))(x(3, 5)),
    ),
    "two convolutions to pad": (
        lambda: Deep(6 * 8 * 8)(x(2, 1, 16, 16)),
        ("fc Linear(384->2): got 54 = 6*3*3 (from (2, 6, 3, 3)), expects 384. Linear(54, 2), "
         "or padding=2 in conv2, padding=1 in conv1"),
        lambda: (Deep(54)(x(2, 1, 16, 16)), Deep(384, 1, 2)(x(2, 1, 16, 16))),
    ),
    "the earlier convolution to pad": (
        lambda: Deep(6 * 4 * 4)(x(2, 1, 16, 16)),
        "Linear(54, 2), or padding=1 in conv1",
        lambda: Deep(6 * 4 * 4, 1)(x(2, 1, 16, 16)),
    ),
    "after average pooling": (
        lambda: Net(features=1568, pool=lambda: nn.AvgPool2d(2))(IMAGES),
        "Linear(1352, 10), or padding=1 in conv1",
        lambda: Net(features=1568, padding=1, pool=lambda: nn.AvgPool2d(2))(IMAGES),
    ),
    "a transposed operand": (
        lambda: x(3, 4) @ x(5, 4),
        ("matmul: (3, 4) @ (5, 4): 4 columns on the left meet 5 rows on the right; did you mean "
         "a @ b.transpose(-1, -2)?"),
        lambda: x(3, 4) @ x(5, 4).transpose(-1, -2),
    ),
    # --- norms
    "one value per channel": (
        lambda: nn.BatchNorm1d(3)(x(1, 3)),
        ("BatchNorm1d(3): input (1, 3) has 1 value per channel, whose variance is 0: every output "
         "would be the bias. Use a larger batch, or model.eval()"),
        lambda: (nn.BatchNorm1d(3)(x(2, 3)), nn.BatchNorm1d(3).eval()(x(1, 3))),
    ),
    "evaluation without statistics": (
        lambda: F.batch_norm(x(4, 3), None, None),
        "batch_norm: evaluation needs running statistics; pass training=True",
        lambda: F.batch_norm(x(4, 3), None, None, training=True),
    ),
    "a norm's vectors": (
        lambda: F.group_norm(x(2, 4, 3), 2, x(1)),
        "group_norm: weight (1,) must be (4,)",
        lambda: F.group_norm(x(2, 4, 3), 2, x(4)),
    ),
    "layer norm's shape": (
        lambda: F.layer_norm(x(2, 4, 3), (4,)),
        "layer_norm: input (2, 4, 3) ends in (3,), expected (4,)",
        lambda: F.layer_norm(x(2, 4, 3), (3,)),
    ),
    # --- losses
    "float labels": (
        lambda: F.cross_entropy(LOGITS, i(64).float()),
        ("target is float32 and so holds probabilities, but it is (64,) and the logits are (64, 10)"
         "; for classes: target.long()"),
        lambda: F.cross_entropy(LOGITS, i(64).float().long()),
    ),
    "labels in a column": (
        lambda: F.cross_entropy(LOGITS, i(64, 1)),
        "logits (64, 10) want one class each, target (64,), got (64, 1); target.reshape((64,))",
        lambda: F.cross_entropy(LOGITS, i(64, 1).reshape((64,))),
    ),
    "unknown labels": (
        lambda: F.cross_entropy(x(3, 2), tc.tensor([0, -1, 1])),
        ("target[1] is -1, but the logits have 2 classes (0..1). If that marks what to leave out: "
         "ignore_index=-1"),
        lambda: F.cross_entropy(x(3, 2), tc.tensor([0, -1, 1]), ignore_index=-1),
    ),
    "class weights": (
        lambda: F.cross_entropy(LOGITS, i(64), x(1)),
        "cross_entropy: weight (1,) must be (10,)",
        lambda: F.cross_entropy(LOGITS, i(64), x(10)),
    ),
    "a column against a row": (
        lambda: F.mse_loss(x(5, 1), x(5)),
        ("mse_loss: input (5, 1) and target (5,) differ; broadcasting would compare each with "
         "many. The same numbers: target.reshape((5, 1))"),
        lambda: F.mse_loss(x(5, 1), x(5).reshape((5, 1))),
    ),
    "float64 targets": (
        lambda: F.mse_loss(x(5), x(5).double()),
        "mse_loss: input is float32, target float64: target.float()",
        lambda: F.mse_loss(x(5), x(5).double().float()),
    ),
    "logits as probabilities": (
        lambda: F.binary_cross_entropy(tc.tensor([-3.0, 2.0]), tc.ones(2)),
        ("input holds -3..2, probabilities lie in 0..1; for logits: "
         "F.binary_cross_entropy_with_logits(input, target)"),
        lambda: F.binary_cross_entropy_with_logits(tc.tensor([-3.0, 2.0]), tc.ones(2)),
    ),
    "integer targets": (
        lambda: F.binary_cross_entropy_with_logits(x(4), i(4, high=2)),
        "binary_cross_entropy_with_logits: target is int64; target.float()",
        lambda: F.binary_cross_entropy_with_logits(x(4), i(4, high=2).float()),
    ),
    # --- pooling, padding, resizing
    "pool padding": (
        lambda: nn.MaxPool2d(2, padding=2)(MAPS),
        ("padding 2 is more than half of the kernel 2: a window would see nothing but padding. "
         "At most 1"),
        lambda: nn.MaxPool2d(2, padding=1)(MAPS),
    ),
    "pool too big": (
        lambda: F.avg_pool2d(MAPS, 9),
        "avg_pool2d: the window spans 1*(9-1)+1 = 9 > 8 + 2*0 = 8; use a kernel of at most 8",
        lambda: F.avg_pool2d(MAPS, 8),
    ),
    "unpool's size": (
        lambda: F.max_unpool2d(x(1, 1, 2, 2), PLACES, 2),
        "an index is 24, the places of 4 x 4 are 0..15; say which size was pooled: output_size=",
        lambda: F.max_unpool2d(x(1, 1, 2, 2), PLACES, 2, output_size=(5, 5)),
    ),
    "too much reflection": (
        lambda: F.pad(MAPS, (8, 0), "reflect"),
        ("pad: (8, 0) along axis 3 of (2, 4, 8, 8): reflect of 8 entries takes 0..7 on each side; "
         "mode='replicate' takes any number"),
        lambda: (F.pad(MAPS, (7, 0), "reflect"), F.pad(MAPS, (8, 0), mode="replicate")),
    ),
    "resized to nothing": (
        lambda: F.interpolate(x(1, 1, 2, 2), scale_factor=0.3),
        "interpolate: (2, 2) cannot become (0, 0): 2 sizes of at least 1",
        lambda: F.interpolate(x(1, 1, 2, 2), (1, 1)),
    ),
    "shuffled channels": (
        lambda: F.pixel_shuffle(x(1, 3, 2, 2), 2),
        "pixel_shuffle: 3 channels are not a multiple of 2^2 = 4",
        lambda: F.pixel_shuffle(x(1, 4, 2, 2), 2),
    ),
    # --- tables and chances
    "a word too many": (
        lambda: F.embedding(tc.tensor([[1, 7]]), x(5, 2)),
        "embedding: input[0, 1] is 7, but the table has 5 rows (0..4)",
        lambda: F.embedding(tc.tensor([[1, 7]]), x(8, 2)),
    ),
    "float words": (
        lambda: nn.Embedding(5, 2)(tc.tensor([1.0])),
        "input is float32, it must hold integers; input.long()",
        lambda: nn.Embedding(5, 2)(tc.tensor([1.0]).long()),
    ),
    "a class too many": (
        lambda: F.one_hot(tc.tensor([1, 5]), 5),
        "one_hot: tensor[1] is 5, but num_classes is 5 (0..4)",
        lambda: F.one_hot(tc.tensor([1, 5]), 6),
    ),
    "a chance of 50": (
        lambda: F.dropout(MAPS, 50),
        "dropout: p is 50, a probability lies in 0..1",
        lambda: F.dropout(MAPS, 50 / 100),
    ),
    # --- the graph
    "backward twice": (
        lambda: twice(False),
        ("this graph of fc was already walked and freed. Run the forward pass again, or keep the "
         "graph with backward(retain_graph=True) the first time"),
        lambda: twice(True),
    ),
    "overwritten": (
        lambda: overwritten(False),
        ["mul: the backward pass needs its input 0, which was overwritten in place",
         "compute with a copy: x.clone()"],
        lambda: overwritten(True),
    ),
    "backward from a vector": (
        lambda: (x(3).requires_grad_() * 2).backward(),
        ("the output has shape (3,); only a scalar has a gradient without being told in which "
         "direction. Reduce it, y.sum().backward()"),
        lambda: (x(3).requires_grad_() * 2).sum().backward(),
    ),
    "nothing requires grad": (
        lambda: x(3).sum().backward(),
        "the output () does not require grad",
        lambda: x(3).requires_grad_().sum().backward(),
    ),
}  # fmt: skip


@pytest.mark.parametrize("mistake", TABLE)
def test_the_message_and_its_fix(mistake: str) -> None:
    fail, said, fix = TABLE[mistake]
    with pytest.raises((tc.TinyconvError, ValueError)) as error:
        fail()
    text = str(error.value)
    for part in [said] if isinstance(said, str) else said:
        assert part in text
    fix()


@pytest.mark.parametrize(
    "mistake", ["no channel axis", "channels last", "flatten size", "batch norm's width", "bytes"]
)
def test_the_message_starts_with_the_path(mistake: str) -> None:
    fail, said, _ = TABLE[mistake]
    with pytest.raises(tc.TinyconvError) as error:
        fail()
    assert str(error.value).startswith(said if isinstance(said, str) else said[0])


def test_the_kind_of_error_says_what_is_wrong() -> None:
    for mistake, kind in [
        ("kernel too big", tc.ShapeError), ("bytes", tc.DTypeError), ("bytes", TypeError),
        ("backward twice", tc.GraphError), ("flatten size", ValueError),
    ]:  # fmt: skip
        with pytest.raises(kind):
            TABLE[mistake][0]()


def test_no_padding_is_suggested_that_would_not_help() -> None:
    for features in (1000, 8 * 15 * 15):
        with pytest.raises(tc.ShapeError, match=r"Linear\(1352, 10\)$"):
            Net(features=features)(IMAGES)
    with tc.no_grad(), pytest.raises(tc.ShapeError, match=r"expects 1568\. Linear\(1352, 10\)$"):
        Net(features=1568)(IMAGES)  # no graph to look into


@pytest.mark.parametrize("kernel", [3, 5])
@pytest.mark.parametrize("dilation", [1, 2])
@pytest.mark.parametrize("pool", [2, 3])
def test_the_padding_suggested_is_the_one_that_works(kernel: int, dilation: int, pool: int) -> None:
    padding = dilation * (kernel - 1) // 2
    features = 8 * (28 // pool) ** 2
    options: dict[str, Any] = {"kernel": kernel, "dilation": dilation}
    options |= {"features": features, "pool": lambda: nn.MaxPool2d(pool)}
    Net(padding=padding, **options)(IMAGES)
    with pytest.raises(tc.ShapeError) as error:
        Net(**options)(IMAGES)
    suggested = str(error.value).partition(", or ")[2]
    assert suggested in ("", f"padding={padding} in conv1")
    assert suggested or (2 * padding) % pool  # silent where the pool rounds rows away


# --- names of PyTorch


@pytest.mark.parametrize(
    ("module", "name", "said"),
    [
        (tc, "compile", "tc.set_num_threads"),
        (tc, "utils", "tc.data.DataLoader"),
        (tc.autograd, "Function", r"@tc.op and its .defvjp"),
        (tc.optim, "lr_scheduler", "tc.optim.StepLR"),
        (nn, "utils", "tc.optim.clip_grad_norm_"),
        (tc, "nonsense", "has no attribute 'nonsense'$"),
    ],
)
def test_a_name_of_pytorch_says_what_takes_its_place(module: Any, name: str, said: str) -> None:
    with pytest.raises(AttributeError, match=f"module '{module.__name__}' .*{said}"):
        getattr(module, name)


@pytest.mark.parametrize("module", INSTEAD)
def test_what_is_named_instead_is_there(module: str) -> None:
    for name, hint in INSTEAD[module].items():
        assert name not in vars(sys.modules[module])
        for path in re.findall(r"\b(?:tc|nn|optim)\.[\w.]*\w", hint):
            found: Any = {"tc": tc, "nn": nn, "optim": tc.optim}[path.partition(".")[0]]
            for part in path.split(".")[1:]:
                found = getattr(found, part)
