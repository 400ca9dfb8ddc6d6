"""Errors that teach: each names the place, shows the arithmetic, and its fix works as it stands.

A row of the table is code with a mistake in it and the message that it gets; the fix is cut out of
the message, pasted into the code, and run.
"""

import inspect
import re
import subprocess
import sys
from typing import Any

import numpy as np
import pytest

import tinyconv as tc
from tinyconv import nn
from tinyconv.autograd import OPS
from tinyconv.errors import TinyconvError
from tinyconv.hints import INSTEAD
from tinyconv.nn import functional as F
from tinyconv.samples import FUNCTIONS, Draw, Sample

# --- what is run: names that the code of a row may use


class Net(nn.Module):
    """conv1, bn1, relu, pool, fc on 28x28 images; any of the layers may be another."""

    def __init__(self, **layers: nn.Module) -> None:
        super().__init__()
        self.conv1 = layers.get("conv1", nn.Conv2d(1, 8, 3))
        self.bn1 = layers.get("bn1", nn.BatchNorm2d(8))
        self.pool = layers.get("pool", nn.MaxPool2d(2))
        self.fc = layers.get("fc", nn.Linear(1352, 10))

    def forward(self, x: Any) -> Any:
        x = self.pool(F.relu(self.bn1(self.conv1(x))))
        return self.fc(x.flatten(1))


class Deep(nn.Module):
    """Two convolutions, both without padding."""

    def __init__(self, conv1: nn.Module, conv2: nn.Module, fc: nn.Module) -> None:
        super().__init__()
        self.conv1, self.conv2, self.fc = conv1, conv2, fc

    def forward(self, x: Any) -> Any:
        return self.fc(F.gelu(self.conv2(F.relu(self.conv1(x)))).flatten(1))


def stage(*layers: nn.Module) -> nn.Module:
    """The layers as stage.0, stage.1, ... of a network."""
    return nn.Sequential({"stage": nn.Sequential(*layers)})


def names() -> dict[str, Any]:
    """Everything of tc and nn, new images, new layers: one row cannot disturb another."""
    return {
        **{name: getattr(tc, name) for name in dir(tc)},
        **vars(nn), "tc": tc, "nn": nn, "F": F, "np": np,
        "Net": Net, "Deep": Deep, "stage": stage,
        "images": tc.ones(4, 1, 28, 28), "maps": tc.ones(2, 4, 8, 8), "logits": tc.zeros(64, 10),
        "labels": tc.arange(64) % 10, "kernels": tc.ones(4, 4, 5, 5),
    }  # fmt: skip


# Name: the code of the mistake, and the whole message.  What stands in the message between the
# n-th pair of marks « » is the n-th fix: pasted into the code's n-th place « » (or its only one),
# it alone makes the code run.  Fixes between ⟦ ⟧ are for all the places ⟦ ⟧ together.
TABLE: dict[str, tuple[str, str]] = {
    # --- the eight of the design
    "no channel axis": (
        "x = randn(64, 28, 28); Net()(«x»)",
        ("conv1 Conv2d(1->8, k3): input (64, 28, 28) is 3-D, need (N,C,H,W). "
         "If 64 is the batch: «x[:, None]»"),
    ),
    "channels last": (
        "x = randn(4, 28, 28, 3); Net(conv1=Conv2d(3, 8, 3))(«x»)",
        ("conv1 Conv2d(3->8, k3): input (4, 28, 28, 3): axis 1 has 28 channels but the weight "
         "wants 3; axis 3 is 3, so this looks like NHWC: «x.permute(0, 3, 1, 2)»"),
    ),
    "flatten size": (
        "Net(fc=«Linear(1568, 10)», conv1=Conv2d(1, 8, 3, «»))(images)",
        ("fc Linear(1568->10): got 1352 = 8*13*13 (from (4, 8, 13, 13)), expects 1568. "
         "«Linear(1352, 10)», or «padding=1» in conv1"),
    ),
    "dilated kernel too big": (
        "stage(Conv2d(4, 4, 5, dilation=3, padding=«0»))(maps)",
        ("stage.0 Conv2d(4->4, k5, d3): k5 with dilation 3 spans 3*(5-1)+1 = 13 > 8 (H = 8). "
         "Smallest padding that fits: «3»"),
    ),
    "an identity for another shape": (
        "k = 3; stage(Residual(Conv2d(4, 4, k, «padding=0»)))(maps)",
        ("stage.0 Residual: branch (2, 4, 6, 6), shortcut (2, 4, 8, 8): no 1x1 convolution takes "
         "8x8 to 6x6. Pad the branch: a kernel of size k keeps the image's size with "
         "«padding=k // 2»"),
    ),
    "a projection where the identity fits": (
        "stage(Residual(Conv2d(4, 4, 3, padding=1), «shortcut=Conv2d(4, 8, 1)»))(maps)",
        ("stage.0 Residual: branch (2, 4, 8, 8), shortcut (2, 8, 8, 8): the branch keeps its "
         "input's shape, so the identity fits: «shortcut=None»"),
    ),
    "a downsample without stride": (
        "stage(BasicBlock(4, 8, 2, «Conv2d(4, 8, 1)»))(maps)",
        ("stage.0 BasicBlock(4->8, s2): branch (2, 8, 4, 4), shortcut (2, 8, 8, 8): the shortcut "
         "needs «Conv2d(4, 8, 1, stride=2)»"),
    ),
    "residual mismatch": (
        ("x = randn(4, 64, 28, 28); branch = Conv2d(64, 128, 3, stride=2, padding=1)\n"
         "stage(Residual(branch, «Identity()»))(x)"),
        ("stage.0 Residual: branch (4, 128, 14, 14), shortcut (4, 64, 28, 28): the shortcut needs "
         "«Conv2d(64, 128, 1, stride=2)»"),
    ),
    "one-channel shortcut": (
        ("x = randn(4, 8, 28, 28); branch = Conv2d(8, 128, 3, stride=2, padding=1)\n"
         "stage(Residual(branch, «Conv2d(8, 1, 1, stride=2)»))(x)"),
        ("stage.0 Residual: branch (4, 128, 14, 14), shortcut (4, 1, 14, 14): the shortcut needs "
         "«Conv2d(8, 128, 1, stride=2)»"),
    ),
    "batch norm's width": (
        "Net(bn1=«BatchNorm2d(16)»)(images)",
        ("bn1 BatchNorm2d(16): input has 8 channels on axis 1 of (4, 8, 26, 26), BatchNorm2d(16) "
         "expects 16; conv1 produced it. «BatchNorm2d(8)» fits"),
    ),
    "label out of range": (
        ("labels[37] = 10; x = randn(64, 5)\n"
         "F.cross_entropy(Linear(in_features=5, «out_features=10»)(x), labels)"),
        ("cross_entropy: target[37] is 10, but the logits have 10 classes (0..9). Labels up to 10 "
         "need a last layer with «out_features=11»"),
    ),
    # --- images
    "height first, channels last": (
        "x = randn(28, 28, 3); Net(conv1=Conv2d(3, 8, 3))(«x»)",
        ("conv1 Conv2d(3->8, k3): input (28, 28, 3) is 3-D, need (N,C,H,W). Axis 2 is 3, so this "
         "looks like HWC: «x.permute(2, 0, 1)[None]»"),
    ),
    "one grey image": (
        "x = randn(28, 28); Net()(«x»)",
        ("conv1 Conv2d(1->8, k3): input (28, 28) is 2-D, need (N,C,H,W). "
         "One grey image: «x[None, None]»"),
    ),
    "flattened images": (
        "x = randn(64, 784); Net()(«x»)",
        ("conv1 Conv2d(1->8, k3): input (64, 784) is 2-D, need (N,C,H,W). Flattened images: "
         "«x.reshape(-1, 1, 28, 28)»"),
    ),
    "bytes": (
        "x = images.to(tc.uint8); Net()(«x»)",
        ("conv1 Conv2d(1->8, k3): input is uint8, the weight float32: «x.float()»; grey levels "
         "0..255 become 0..1 with «x.float() / 255»"),
    ),
    "float64 images": (
        "x = tc.tensor(np.zeros((4, 1, 28, 28))); Net()(«x»)",
        "conv1 Conv2d(1->8, k3): input is float64, the weight float32: «x.float()»",
    ),
    "float64 rows": (
        "x = tc.tensor(np.zeros((4, 3))); stage(Linear(3, 2))(«x»)",
        "stage.0 Linear(3->2): input is float64, the weight float32: «x.float()»",
    ),
    "integer rows": (
        "x = tc.tensor([[1, 2, 3]]); stage(Linear(3, 2))(«x»)",
        "stage.0 Linear(3->2): input is int64, the weight float32: «x.float()»",
    ),
    "float32 images into a float64 network": (
        "x = images; Net().double()(«x»)",
        "conv1 Conv2d(1->8, k3): input is float32, the weight float64: «x.double()»",
    ),
    "a list": (
        "x = [[[[1.0, 2.0], [3.0, 4.0]]]]; stage(Conv2d(1, 2, 2))(«x»)",
        ("stage.0 Conv2d(1->2, k2): the input is a list (list), not a Tensor; make it one: "
         "«tc.tensor(x)»"),
    ),
    "the whole batch": (
        ("model = stage(Flatten(), Linear(784, 2)); loader = [(images, labels)]\n"
         "«for batch in loader: model(batch)»"),
        ("stage.0 Flatten: the input is a tuple (Tensor, Tensor), not a Tensor; unpack the batch: "
         "«for images, labels in loader: model(images)»"),
    ),
    # --- convolutions
    "wrong channel count": (
        "stage(Conv2d(1, 16, 3), Conv2d(out_channels=8, kernel_size=3, «in_channels=3»))(images)",
        ("stage.1 Conv2d(3->8, k3): input (4, 16, 26, 26): axis 1 has 16 channels but the weight "
         "wants 3; stage.0 produced it. «in_channels=16» fits"),
    ),
    "wrong channels of a transposed convolution": (
        "stage(ConvTranspose2d(out_channels=2, kernel_size=3, stride=2, «in_channels=8»))(maps)",
        ("stage.0 ConvTranspose2d(8->2, k3, s2): input (2, 4, 8, 8): axis 1 has 4 channels but "
         "the weight wants 8. «in_channels=4» fits"),
    ),
    "a layer's groups": (
        "stage(Conv2d(6, 8, 3, groups=«4»))(randn(1, 6, 5, 5))",
        "Conv2d: 4 groups do not divide in_channels=6: 6 = 4*1 + 2. What fits: «1», «2»",
    ),
    "wrong groups": (
        "F.conv2d(maps, randn«(6, 3, 3, 3)», groups=2)",
        ("conv2d: input (2, 4, 8, 8): axis 1 has 4 channels but the weight wants 6 = 3*2 groups. A"
         " weight «(6, 2, 3, 3)» fits"),
    ),
    "an unknown padding": (
        "F.conv2d(maps, kernels, padding=«'full'»)",
        "conv2d: padding='full' is neither «'same'», «'valid'» nor numbers",
    ),
    "a kernel of nothing": (
        "stage(Conv2d(4, 4, kernel_size=«0»))(maps)",
        "Conv2d: kernel_size=0 must be at least «1»",
    ),
    "a stride of nothing": (
        "stage(MaxPool2d(2, stride=«0»))(maps)",
        "MaxPool2d: stride=0 must be at least «1»",
    ),
    "kernel too big": (
        "x = randn(2, 4, 3, 8); stage(Conv2d(4, 4, 5, padding=«0»))(x)",
        "stage.0 Conv2d(4->4, k5): k5 spans 5 > 3 (H = 3). Smallest padding that fits: «1»",
    ),
    "kernel too big in spite of padding": (
        "F.conv2d(randn(1, 4, 9, 2), randn(4, 4, 9, 9), padding=«(0, 2)»)",
        "conv2d: k9 spans 9 > 6 (W = 2 + 4 of padding). Smallest padding that fits: «4»",
    ),
    "kernel longer than the signal": (
        "stage(Conv1d(4, 4, 5, padding=«0»))(randn(2, 4, 3))",
        "stage.0 Conv1d(4->4, k5): k5 spans 5 > 3 (L = 3). Smallest padding that fits: «1»",
    ),
    "same with a stride": (
        "stage(Conv2d(4, 4, 3, stride=2, dilation=2, «padding='same'»))(maps)",
        "Conv2d: padding='same' keeps the size, stride=(2, 2) divides it: use «padding=2»",
    ),
    "same with a stride, as a function": (
        "F.conv2d(maps, kernels, stride=2, «padding='same'»)",
        "conv2d: padding='same' keeps the size, stride=(2, 2) divides it: use «padding=2»",
    ),
    "padding as a word, transposed": (
        "ConvTranspose2d(4, 2, 3, «padding='same'»)(maps)",
        ("ConvTranspose2d: padding='same' is for a convolution; what a transposed one cuts off is "
         "a number: «padding=1»"),
    ),
    "reflection beyond the image": (
        "stage(Conv2d(4, 4, 3, padding=9, padding_«mode='reflect'»))(maps)",
        ("stage.0 Conv2d(4->4, k3, p9): (9, 9) along axis 2 of (2, 4, 8, 8): reflect of 8 entries "
         "takes 0..7 on each side; «mode='replicate'» takes any number"),
    ),
    "a bias that would broadcast": (
        "F.conv2d(maps, kernels, randn(«(1,)»))",
        "conv2d: bias (1,) must be «(4,)»",
    ),
    "output_padding": (
        "stage(ConvTranspose2d(4, 2, 3, stride=2, «output_padding=2»))(maps)",
        ("stage.0 ConvTranspose2d(4->2, k3, s2): output_padding 2 picks among the 2 sizes that "
         "stride 2 merges; it must be below stride or dilation, 0..1: «output_padding=1»"),
    ),
    "output_size": (
        "ConvTranspose2d(4, 2, 3, stride=2)(maps, output_size=«(30, 30)»)",
        ("ConvTranspose2d(4->2, k3, s2): output_size=(30, 30) cannot come from the input (2, 4, 8,"
         " 8): (n - 1)*stride - 2*padding + dilation*(kernel_size - 1) + 1 = «(17, 17)», and the "
         "stride (2, 2) leaves room up to «(18, 18)»"),
    ),
    "nothing left of a transposed convolution": (
        "stage(ConvTranspose2d(4, 2, 3, padding=«2»))(randn(1, 4, 1, 1))",
        ("stage.0 ConvTranspose2d(4->2, k3, p2): (1-1)*1 - 2*2 + 3 + 0 = -1 rows of output. "
         "Largest padding that leaves one: «1»"),
    ),
    "signals, channels last": (
        "x = randn(2, 9, 4); stage(Conv1d(4, 2, 3))(«x»)",
        ("stage.0 Conv1d(4->2, k3): input (2, 9, 4): axis 1 has 9 channels but the weight wants 4; "
         "axis 2 is 4, so this looks like NLC: «x.transpose(1, 2)»"),
    ),
    "signals without channels": (
        "x = randn(5, 9); stage(Conv1d(1, 2, 3))(«x»)",
        ("stage.0 Conv1d(1->2, k3): input (5, 9) is 2-D, need (N,C,L). If the first axis is the "
         "batch: «x[:, None]»"),
    ),
    # --- the order of layers, flattening, linear layers
    "convolution after flatten": (
        "x = randn(4, 1, 8, 8); x = x.flatten(1); stage(Conv2d(1, 2, 3))(«x»)",
        ("stage.0 Conv2d(1->2, k3): input (4, 64) is 2-D, need (N,C,H,W). Flattened images: "
         "«x.reshape(-1, 1, 8, 8)»"),
    ),
    "linear before flatten": (
        "x = maps; stage(Linear(256, 10))(«x»)",
        ("stage.0 Linear(256->10): got 8 (from (2, 4, 8, 8)), expects 256. Flatten first: "
         "«x.flatten(1)»"),
    ),
    "linear before flatten, and too narrow": (
        "x = maps; x = ⟦x⟧; stage(⟦Linear(4, 10)⟧)(x)",
        ("stage.0 Linear(4->10): got 8 (from (2, 4, 8, 8)), expects 4. Flatten first: "
         "⟦x.flatten(1)⟧, and ⟦Linear(256, 10)⟧"),
    ),
    "wrong width": (
        "stage(Linear(5, 7), «Linear(8, 2)»)(randn(3, 5))",
        "stage.1 Linear(8->2): got 7 (from stage.0, (3, 7)), expects 8. «Linear(7, 2)»",
    ),
    "two convolutions to pad": (
        ("Deep(fc=«Linear(384, 2)», conv2=Conv2d(4, 6, 5, ⟦⟧), "
         "conv1=Conv2d(1, 4, 3, stride=2, ⟦⟧))(randn(2, 1, 16, 16))"),
        ("fc Linear(384->2): got 54 = 6*3*3 (from (2, 6, 3, 3)), expects 384. «Linear(54, 2)», "
         "or ⟦padding=2⟧ in conv2, ⟦padding=1⟧ in conv1"),
    ),
    "the earlier convolution to pad": (
        ("Deep(fc=«Linear(96, 2)», conv2=Conv2d(4, 6, 5), conv1=Conv2d(1, 4, 3, stride=2, «»))"
         "(randn(2, 1, 16, 16))"),
        ("fc Linear(96->2): got 54 = 6*3*3 (from (2, 6, 3, 3)), expects 96. «Linear(54, 2)», "
         "or «padding=1» in conv1"),
    ),
    "after average pooling": (
        "Net(pool=AvgPool2d(2), fc=«Linear(1568, 10)», conv1=Conv2d(1, 8, 3, «»))(images)",
        ("fc Linear(1568->10): got 1352 = 8*13*13 (from (4, 8, 13, 13)), expects 1568. "
         "«Linear(1352, 10)», or «padding=1» in conv1"),
    ),
    "all flattened, the batch too": (
        "stage(«Flatten(0)», Linear(784, 2))(images)",
        ("stage.1 Linear(784->2): got 3136 (from (3136,)), expects 784. 3136 = 4*784: was the "
         "batch flattened, too? «Flatten(1)», or x.reshape(-1, 784)"),
    ),
    "a view of another size": (
        "x = maps; «x.view(2, 100)»",
        ("reshape: (2, 4, 8, 8) holds 2*4*8*8 = 512, (2, 100) wants 2*100 = 200; «x.reshape(2, "
         "-1)» fits"),
    ),
    "a view of permuted axes": (
        "x = maps.permute(0, 2, 3, 1); «x.view(2, -1)»",
        ("view: (2, 8, 8, 4) with strides (1024, 32, 4, 256) cannot be seen as (2, 256) without a "
         "copy; «x.reshape(2, 256)» makes one"),
    ),
    "axes named twice": (
        "maps.permute(«(0, 1, 1, 2)»)",
        "permute: (0, 1, 1, 2) names an axis of (2, 4, 8, 8) twice; each once: «(0, 1, 3, 2)»",
    ),
    "an axis that is not there": (
        "maps.flatten(«4»)",
        "flatten: dim 4 is not an axis of (2, 4, 8, 8); the axes are «-4»..«3»",
    ),
    "a transposed operand": (
        "a, b = randn(3, 4), randn(5, 4); «a @ b»",
        ("matmul: (3, 4) @ (5, 4): 4 columns on the left meet 5 rows on the right; did you mean "
         "«a @ b.transpose(-1, -2)»?"),
    ),
    "cat without a list": (
        "a, b = maps, maps; «tc.cat(a, b)»",
        "cat: the first argument is a Tensor, need a list: «tc.cat([a, b])»",
    ),
    # --- norms
    "batch norm, channels last": (
        "x = randn(2, 8, 8, 4); stage(BatchNorm2d(4))(«x»)",
        ("stage.0 BatchNorm2d(4): input has 8 channels on axis 1 of (2, 8, 8, 4), BatchNorm2d(4) "
         "expects 4. Axis 3 is 4, so this looks like NHWC: «x.permute(0, 3, 1, 2)»"),
    ),
    "batch norm 1d on images": (
        "stage(«BatchNorm1d(4)»)(maps)",
        ("stage.0 BatchNorm1d(4): input (2, 4, 8, 8) is 4-D, need (N,C) or (N,C,L). For images: "
         "«BatchNorm2d(4)»"),
    ),
    "batch norm 2d after flatten": (
        "stage(Conv2d(4, 2, 3), Flatten(), «Identity()», BatchNorm2d(2))(maps)",
        ("stage.3 BatchNorm2d(2): input (2, 72) is 2-D, need (N,C,H,W). It was (2, 2, 6, 6): "
         "flatten after this layer, or «Unflatten(1, (2, 6, 6))» before it"),
    ),
    "one value per channel": (
        ("model = stage(Linear(3, 4), BatchNorm1d(4)); «pass»\n"
         "model(randn(1, 3))"),
        ("stage.1 BatchNorm1d(4): input (1, 4) has 1 value per channel, whose variance is 0: every"
         " output would be the bias. Use a larger batch, or «model.eval()»"),
    ),
    "evaluation without statistics": (
        "F.batch_norm(maps, None, None, «»)",
        "batch_norm: evaluation needs running statistics; pass «training=True»",
    ),
    "a norm's vectors": (
        "F.group_norm(randn(2, 4, 3), 2, ones(«(1,)»))",
        "group_norm: weight (1,) must be «(4,)»",
    ),
    "group norm's width": (
        "stage(«GroupNorm(2, 8)»)(maps)",
        ("stage.0 GroupNorm(2, 8): input (2, 4, 8, 8) must have 8 channels on axis 1. "
         "«GroupNorm(2, 4)» fits"),
    ),
    "layer norm's shape": (
        "stage(LayerNorm(«normalized_shape=8»))(randn(2, 3))",
        "stage.0 LayerNorm: input (2, 3) ends in (3,), expected (8,). «normalized_shape=(3,)» fits",
    ),
    # --- losses
    "float labels": (
        "target = labels.float(); F.cross_entropy(logits, «target»)",
        ("cross_entropy: target is float32 and so holds probabilities, but it is (64,) and the "
         "logits are (64, 10); for classes: «target.long()»"),
    ),
    "labels from 1": (
        "target = labels + 1; F.cross_entropy(logits, «target»)",
        ("cross_entropy: target[9] is 10, but the logits have 10 classes (0..9). The labels count "
         "from 1: «target - 1»"),
    ),
    "a loss made of tensors": (
        "input, target = logits, labels; «nn.CrossEntropyLoss(input, target)»",
        ("CrossEntropyLoss: the arguments are options, not the input; "
         "«nn.CrossEntropyLoss()(input, target)», or without a layer «F.cross_entropy(input, "
         "target)»"),
    ),
    "labels in a column": (
        "target = labels[:, None]; F.cross_entropy(logits, «target»)",
        ("cross_entropy: logits (64, 10) want one class each, target (64,), got (64, 1); "
         "«target.reshape((64,))»"),
    ),
    "one-hot labels": (
        "target = F.one_hot(labels, 10); F.cross_entropy(logits, «target»)",
        ("cross_entropy: logits (64, 10) want one class each, target (64,), got (64, 10); that "
         "looks one-hot: «target.argmax(1)»"),
    ),
    "float64 one-hot labels": (
        "target = F.one_hot(labels, 10).double(); F.cross_entropy(logits, «target»)",
        "cross_entropy: input is float32, target float64: «target.float()»",
    ),
    "labels in a list": (
        "target = [1] * 64; F.cross_entropy(logits, «target»)",
        ("cross_entropy: target is a list (int, int, int, int), not a Tensor; make it one: "
         "«tc.tensor(target)»"),
    ),
    "labels of bool": (
        "target = labels > 4; F.cross_entropy(logits, «target»)",
        "cross_entropy: target is bool, it must hold integers; «target.long()»",
    ),
    "logits and labels swapped": (
        "target = labels; F.«cross_entropy(target, logits)»",
        ("cross_entropy: input is int64 and target float32: are they swapped? "
         "«cross_entropy(logits, target)»"),
    ),
    "a batch cut into pieces": (
        ("x = maps; rows = «x.view(-1, 128)»\n"
         "F.cross_entropy(Linear(rows.shape[1], 10)(rows), labels[:2])"),
        ("cross_entropy: logits (4, 10) want one class each, target (4,), got (2,): 2 rows for "
         "each label, as after a view(-1, ...) that cuts images into pieces; «x.flatten(1)» keeps "
         "the batch"),
    ),
    "unknown labels": (
        "F.cross_entropy(randn(3, 2), tc.tensor([0, -1, 1]), «»)",
        ("cross_entropy: target[1] is -1, but the logits have 2 classes (0..1). If that marks what "
         "to leave out: «ignore_index=-1»"),
    ),
    "class weights": (
        "F.cross_entropy(logits, labels, ones(«(1,)»))",
        "cross_entropy: weight (1,) must be «(10,)»",
    ),
    "a column against a row": (
        "input, target = randn(5, 1), randn(5); F.mse_loss(input, «target»)",
        ("mse_loss: input (5, 1) and target (5,) differ; broadcasting would compare each with "
         "many. The same numbers: «target.reshape((5, 1))»"),
    ),
    "a list against a tensor": (
        "target = [1.0, 2.0]; F.mse_loss(randn(2), «target»)",
        "mse_loss: target is a list (float, float), not a Tensor; make it one: «tc.tensor(target)»",
    ),
    "float64 targets": (
        "target = randn(5).double(); F.mse_loss(randn(5), «target»)",
        "mse_loss: input is float32, target float64: «target.float()»",
    ),
    "logits as probabilities": (
        "input, target = tc.tensor([-3.0, 2.0]), ones(2); «F.binary_cross_entropy(input, target)»",
        ("binary_cross_entropy: input holds -3..2, probabilities lie in 0..1; for logits: "
         "«F.binary_cross_entropy_with_logits(input, target)»"),
    ),
    "integer targets": (
        "target = tc.tensor([0, 1]); F.binary_cross_entropy_with_logits(randn(2), «target»)",
        "binary_cross_entropy_with_logits: target is int64; «target.float()»",
    ),
    # --- pooling, padding, resizing
    "pool padding": (
        "stage(MaxPool2d(2, padding=«2»))(maps)",
        ("stage.0 MaxPool2d(k2, s2, p2): padding 2 is more than half of the kernel 2: a window "
         "would see nothing but padding. At most «1»"),
    ),
    "pool too big": (
        "stage(MaxPool2d(3), MaxPool2d(«3»))(maps)",
        ("stage.1 MaxPool2d(k3, s3): the window spans 1*(3-1)+1 = 3 > 2 + 2*0 = 2; use a kernel of"
         " at most «2»"),
    ),
    "pool of one grey image": (
        "x = randn(8, 8); stage(MaxPool2d(2))(«x»)",
        ("stage.0 MaxPool2d(k2, s2): input (8, 8) is 2-D, need (N,C,H,W). One grey image: "
         "«x[None, None]»"),
    ),
    "adaptive pool of nothing": (
        "stage(AdaptiveAvgPool2d(«0»))(maps)",
        ("stage.0 AdaptiveAvgPool2d: output_size=0 must be at least «1», the global mean or "
         "maximum"),
    ),
    "unpool's size": (
        ("places = tc.tensor([[[[0, 2], [8, 24]]]])\n"
         "F.max_unpool2d(randn(1, 1, 2, 2), places, 2, «output_size=None»)"),
        ("max_unpool2d: an index is 24, the places of 4 x 4 are 0..15; say which size was pooled, "
         "at least «output_size=(5, 5)»"),
    ),
    "too much reflection": (
        "F.pad(maps, (8, 0), «mode='reflect'»)",
        ("pad: (8, 0) along axis 3 of (2, 4, 8, 8): reflect of 8 entries takes 0..7 on each side; "
         "«mode='replicate'» takes any number"),
    ),
    # --- tables
    "a word too many": (
        "stage(Embedding(embedding_dim=2, «num_embeddings=5»))(tc.tensor([[1, 7]]))",
        ("stage.0 Embedding: input[0, 1] is 7, but the table has 5 rows (0..4). «num_embeddings=8»"
         " fits"),
    ),
    "a class too many": (
        "F.one_hot(tc.tensor([1, 5]), «num_classes=5»)",
        "one_hot: tensor[1] is 5, but num_classes is 5 (0..4). «num_classes=6» fits",
    ),
    "float words": (
        "input = tc.tensor([1.0]); stage(Embedding(5, 2))(«input»)",
        "stage.0 Embedding: input is float32, it must hold integers; «input.long()»",
    ),
    # --- modules
    "a row in a list": (
        "layers = [ReLU(), Flatten()]; «nn.Sequential(layers)»(images)",
        "Sequential takes modules, not one list of them: «nn.Sequential(*layers)»",
    ),
    "a function among the layers": (
        "nn.Sequential(«F.relu»)(images)",
        "Sequential: '0' must be a Module or None, got the function relu; use «nn.ReLU()»",
    ),
    "a call of a list": (
        "layers = [ReLU(), Flatten()]; x = images; «nn.ModuleList(layers)»(x)",
        ("ModuleList only holds modules: for layer in self.layers: x = layer(x), or use "
         "«nn.Sequential(*layers)»"),
    ),
    "a state of other shapes": (
        ("state = stage(Linear(2, 3), Linear(3, 4)).state_dict(); net = stage(Linear(2, 3), "
         "Linear(3, 5))\n"
         "net.«load_state_dict(state)»"),
        ("load_state_dict: 4 entries do not fit Sequential, which has 4\n"
         "  of another shape (2): stage.1.weight is (4, 3), wanted (5, 3), stage.1.bias is (4,), "
         "wanted (5,)\n"
         "  to load the rest: «load_state_dict({k: v for k, v in state.items() if k not in "
         "['stage.1.weight', 'stage.1.bias']}, strict=False)»"),
    ),
    "a typing error": (
        "net = Net(); net.«conv2»",
        "Net has no attribute 'conv2'; did you mean '«conv1»'?",
    ),
    "no return": (
        ("class Silent(nn.Module):\n"
         "    def forward(self, x): «_ =» F.relu(x)\n"
         "stage(Silent(), Flatten())(images)"),
        ("stage.1 Flatten: the input is None: the forward before it returned None; does it lack a "
         "«return»?"),
    ),
    "another network's state": (
        ("state = Net().state_dict() | {'fc2.bias': ones(3)}; net = Net()\n"
         "net.«load_state_dict(state)»"),
        ("load_state_dict: 10 entries do not fit Net, which has 9\n"
         "  unexpected (1): fc2.bias (3,)\n"
         "  to load what fits: «load_state_dict(state, strict=False)»"),
    ),
    "the state of a wrapped network": (
        ("state = {'module.' + k: v for k, v in Linear(2, 3).state_dict().items()}\n"
         "Linear(2, 3).load_state_dict(«state»)"),
        ("load_state_dict: 2 entries do not fit Linear, which has 2\n"
         "  missing (2): weight (3, 2), bias (3,)\n"
         "  unexpected (2): module.weight (3, 2), module.bias (3,)\n"
         "  the names only differ by 'module.': load «{k.removeprefix('module.'): v for k, v in "
         "state.items()}»"),
    ),
    "a whole checkpoint as the state": (
        ("state = {'model': Net().state_dict(), 'epoch': 3}; net = Net()\n"
         "net.«load_state_dict(state)»"),
        ("load_state_dict: 'model' is a dict, not a tensor; this is a whole checkpoint: "
         "«load_state_dict(state['model'])»"),
    ),
    "a module as the state": (
        "Net().load_state_dict(Net()«»)",
        "load_state_dict: expected a dict of tensors, got a Net; pass its «.state_dict()»",
    ),
    # --- the graph and the optimizer
    "backward twice": (
        "net = Net(); y = net(images).sum(); y.«backward()»; y.backward()",
        ("matmul: this graph of fc was already walked and freed. Run the forward pass again, or "
         "keep the graph with «backward(retain_graph=True)» the first time"),
    ),
    "overwritten": (
        ("w = randn(3, requires_grad=True); x = w * 2; y = (x * x).sum()\n"
         "with tc.no_grad():\n"
         "    «x».zero_()\n"
         "y.backward()"),
        ("mul: the backward pass needs its input 0, which was overwritten in place after the "
         "forward pass. Write it after backward(), or compute with a copy: «x.clone()»"),
    ),
    "backward from a vector": (
        "y = Net()(images); «y.backward()»",
        ("backward: the output has shape (4, 10); only a scalar has a gradient without being told "
         "in which direction. Reduce it, «y.sum().backward()», or pass a gradient of "
         "shape (4, 10)"),
    ),
    "nothing requires grad": (
        ("x = randn(3); «pass»\n"
         "x.sum().backward()"),
        ("backward: the output () does not require grad: nothing that it was computed from does, "
         "or it was computed under no_grad(). Call «x.requires_grad_()» before the forward"),
    ),
    "a weight changed in place": (
        "x = y = randn(3, requires_grad=True); «x += y»",
        ("add_: in-place writes are not recorded, and a leaf that requires grad takes part. "
         "Compute a new tensor («x = x + y»), or write inside `with tc.no_grad():`"),
    ),
    "an optimizer of a module": (
        "model = Net(); optim.SGD(«model», lr=0.1)",
        "SGD: params is a Net, not a list of Tensors; pass «model.parameters()»",
    ),
    "an optimizer of nothing": (
        ("model = Net(); parameters = model.parameters(); count = len(list(parameters))\n"
         "optim.SGD(«parameters», lr=0.1)"),
        ("SGD: no parameters. Layers in a Python list are not seen: use nn.ModuleList. Or was "
         "model.parameters() read before? An iterator gives its items once: "
         "«list(model.parameters())»"),
    ),
    "clipping a module": (
        "model = Net(); optim.clip_grad_norm_(«model», 1.0)",
        "clip_grad: parameters is a Net, not a list of Tensors; pass «model.parameters()»",
    ),
    "integers that want gradients": (
        "x = tc.tensor([1, 2]); «x».requires_grad_()",
        "requires_grad_: only floats have gradients, this tensor is int64; use «x.float()»",
    ),
    "a graph to NumPy": (
        "x = randn(3, requires_grad=True); «x.numpy()»",
        ("numpy: this tensor requires grad and NumPy would lose the graph; use "
         "«x.detach().numpy()»"),
    ),
    "a number of many": (
        "x = maps; «x.item()»",
        ("item: the tensor has shape (2, 4, 8, 8); only one element makes a number. Reduce it, "
         "«x.mean().item()», or «x.tolist()»"),
    ),
    "the mean of bools": (
        "x = labels == 3; «x.mean()»",
        "mean: the input is bool, a mean needs floats: «x.float().mean()»",
    ),
    "a device that is not there": (
        "maps.to(«'tpu'»)",
        "device: no backend for 'tpu'; there is «'cpu'», 'cuda'",
    ),
    "two float types": (
        "x = maps.double(); maps + «x»",
        "add: operand 0 is float32 and operand 1 is float64; convert one: «x.to(tc.float32)»",
    ),
}  # fmt: skip


ONE, TOGETHER = re.compile("«(.*?)»"), re.compile("⟦(.*?)⟧")


def plain(text: str) -> str:
    return re.sub("[«»⟦⟧]", "", text)


def filled(places: re.Pattern[str], code: str, texts: list[str]) -> str:
    """The code with the texts in its places, in order."""
    found = iter(texts)
    return places.sub(lambda _: next(found), code)


def mended(code: str, said: str) -> list[str]:
    """The code with each fix of the message in its place."""
    wrong, tries = ONE.findall(code), []
    for i, fix in enumerate(ONE.findall(said)):
        place = i if len(wrong) > 1 else 0
        tries.append(filled(ONE, code, [*wrong[:place], fix, *wrong[place + 1 :]]))
    if together := TOGETHER.findall(said):
        tries.append(filled(TOGETHER, code, together))
    return [plain(code) for code in tries]


def check(code: str, said: str) -> None:
    """The mistake gets this message, and each of the message's fixes makes the code run."""
    with pytest.raises(Exception) as error:
        exec(plain(code), names())
    assert str(error.value) == plain(said)
    assert mended(code, said)
    for better in mended(code, said):
        exec(better, names())


@pytest.mark.parametrize("mistake", TABLE)
def test_the_message_and_its_fix(mistake: str) -> None:
    check(*TABLE[mistake])


def test_a_fix_that_does_not_work_is_found() -> None:
    code, said = TABLE["flatten size"]
    check(code, said)
    with pytest.raises(NameError):
        check(code, said.replace("«padding=1» in conv1", "«padding=1 in conv1»"))
    with pytest.raises(tc.ShapeError):  # pasted where it does not help
        check("Net(«»); " + plain(code), "«»" + plain(said))
    for wrong in (said.replace("1352", "1353"), plain(said)):
        with pytest.raises(AssertionError):
            check(code, wrong)


# --- what is wrong is said, where no text could be pasted

SAID: dict[str, str] = {
    "F.conv2d(maps, randn(5, 2, 3, 3), groups=2)":
        "conv2d: 5 output channels in 2 groups: 5/2 is not whole. groups=1 fits",
    "F.conv2d(maps, kernels, stride=(1, 2, 3))":
        "sizes: stride=(1, 2, 3) must be one number, or (height, width)",
    "F.conv2d(maps, kernels, stride=0)":
        "conv2d: stride (0, 0) and dilation (1, 1) must be at least 1, padding ((0, 0), (0, 0)) at "
        "least 0",
    "F.conv2d(maps, randn(4, 3, 3))":
        "conv2d: weight (4, 3, 3) is 3-D, need (O, C/groups, KH, KW)",
    "F.fold(randn(1, 8, 4), (4, 4), 2)":
        "fold: input (1, 8, 4): need (N, C*2*2, L) with L = 3*3 = 9 windows for an output of "
        "(4, 4)",
    "F.interpolate(randn(1, 1, 2, 2), scale_factor=0.3)":
        "interpolate: (2, 2) cannot become (0, 0): 2 sizes of at least 1",
    "F.pixel_shuffle(randn(1, 3, 2, 2), 2)":
        "pixel_shuffle: 3 channels are not a multiple of 2^2 = 4",
    "F.dropout(maps, 50)":
        "dropout: p is 50, a probability lies in 0..1",
    "F.cross_entropy(logits, labels[:60])":
        "cross_entropy: logits (64, 10) want one class each, target (64,), got (60,)",
    "tc.tensor([[1, 2], [3]])":
        "tensor: the lists differ in length, 2, 1: pad or cut them to one length",
    "maps + randn(2, 4, 8, 7)":
        "add: operands (2, 4, 8, 8) and (2, 4, 8, 7): axis 3 has sizes 7 and 8; only 1 is "
        "broadcast",
    "Net().load_state_dict(Linear(2, 2).state_dict())":
        "  no name fits: is this the state of another model?",
    "net = Net(); y = net(images).sum(); y.backward(retain_graph=True)\n"
    "optim.SGD(net.parameters(), lr=0.1).step(); y.backward()":
        "matmul: the backward pass of fc needs its input 1, which was overwritten in place after "
        "the forward pass. Write it after backward(), or compute with a copy: x.clone()",
}  # fmt: skip


@pytest.mark.parametrize("code", SAID)
def test_what_is_wrong_is_said(code: str) -> None:
    with pytest.raises(Exception) as error:
        exec(code, names())
    assert str(error.value).endswith(SAID[code])


# --- lists in the place of Tensors


def draws(samples: list[Sample]) -> list[tuple[Sample, int]]:
    """For each place of a Tensor among the arguments, one sample that has a Tensor there."""
    found = {i: s for s in samples for i, arg in enumerate(s.args)
             if isinstance(arg, (Draw, np.ndarray)) and np.shape(arg) != () and arg.shape}
    return [(s, i) for i, s in sorted(found.items())]


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_list_is_no_tensor(name: str) -> None:
    f, samples = FUNCTIONS[name]
    for sample, i in draws(samples):
        args, params = sample.make(np.random.default_rng(0), np.float32, tc.tensor)
        args[i] = args[i].tolist()
        with pytest.raises(tc.DTypeError, match=r"is a list.*tc\.tensor\("):
            f(*args, **params)


WITH_AXES = {
    name: (f, key) for key in ("dim", "dims")
    for name, f in {**OPS, **{name: f for name, (f, _) in FUNCTIONS.items()}}.items()
    if key in inspect.signature(f).parameters and name != "tile"  # there they are counts
}


@pytest.mark.parametrize("axis", [0.5, 1.0, "a", True, (0.5,)], ids=str)
@pytest.mark.parametrize("name", WITH_AXES)
def test_what_is_no_integer_is_no_axis(name: str, axis: Any) -> None:
    f, key = WITH_AXES[name]
    if axis is True and (key == "dims" or name in ("std", "var")):
        return  # a number to NumPy; unbiased=True
    sample = FUNCTIONS[name][1][0] if name in FUNCTIONS else OPS[name].samples[0]
    args, params = sample.make(np.random.default_rng(0), np.float32, tc.tensor)
    place = list(inspect.signature(f).parameters).index(key)
    if len(args) > place:
        args[place] = axis
    else:
        params[key] = axis
    with pytest.raises(TinyconvError):
        f(*args, **params)


def test_an_error_of_another_cause_stays_what_it_is() -> None:
    with pytest.raises(TypeError, match="positional argument"):
        F.linear()
    with pytest.raises(tc.DTypeError, match="hardtanh: operand 1 is a str"):
        F.hardtanh(tc.ones(2), "low")
    with pytest.raises(tc.DTypeError, match="input is None: the forward before it returned None"):
        F.conv2d(None, tc.ones(1, 1, 2, 2))


# --- more about the eight


def test_the_kind_of_error_says_what_is_wrong() -> None:
    for mistake, kind in [
        ("kernel too big", tc.ShapeError), ("bytes", tc.DTypeError), ("bytes", TypeError),
        ("backward twice", tc.GraphError), ("flatten size", ValueError),
    ]:  # fmt: skip
        with pytest.raises(kind):
            exec(plain(TABLE[mistake][0]), names())


def test_no_padding_is_suggested_that_would_not_help() -> None:
    images = tc.ones(4, 1, 28, 28)
    for features in (1000, 8 * 15 * 15):
        with pytest.raises(tc.ShapeError, match=r"Linear\(1352, 10\)$"):
            Net(fc=nn.Linear(features, 10))(images)
    with tc.no_grad(), pytest.raises(tc.ShapeError, match=r"expects 1568\. Linear\(1352, 10\)$"):
        Net(fc=nn.Linear(1568, 10))(images)  # no graph to look into


@pytest.mark.parametrize("kernel", [3, 5])
@pytest.mark.parametrize("dilation", [1, 2])
@pytest.mark.parametrize("pool", [2, 3])
def test_the_padding_suggested_is_the_one_that_works(kernel: int, dilation: int, pool: int) -> None:
    padding = dilation * (kernel - 1) // 2

    def net(padding: int) -> nn.Module:
        conv1 = nn.Conv2d(1, 8, kernel, padding=padding, dilation=dilation)
        fc = nn.Linear(8 * (28 // pool) ** 2, 10)
        return Net(conv1=conv1, pool=nn.MaxPool2d(pool), fc=fc)

    images = tc.ones(4, 1, 28, 28)
    net(padding)(images)
    with pytest.raises(tc.ShapeError) as error:
        net(0)(images)
    suggested = str(error.value).partition(", or ")[2]
    assert suggested in ("", f"padding={padding} in conv1")
    assert suggested or (2 * padding) % pool  # silent where the pool rounds rows away


# --- names of PyTorch


def test_what_draws_is_imported_when_it_is_first_asked_for() -> None:
    code = """
import sys, tinyconv as tc
assert "tinyconv.see" not in sys.modules
assert not hasattr(tc, "__wrapped__")
assert "tinyconv.see" not in sys.modules
trace = tc.trace
assert trace is tc.see.trace is tc.trace and callable(trace)
assert {"see", "curves", "Summary", "Tensor"} <= set(dir(tc))
for name in tc.see.__all__:
    assert getattr(tc, name) is getattr(tc.see, name), name
from tinyconv import Explanation, explain, see
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


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
