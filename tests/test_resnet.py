"""Residual blocks and networks: torchvision's names, PyTorch's numbers, errors that teach."""

from typing import Any

import numpy as np
import pytest

import tinyconv as tc
from tinyconv import nn
from tinyconv.nn import resnet

try:
    import torch
except ImportError:
    torch = None

needs_torch = pytest.mark.skipif(torch is None, reason="PyTorch is not installed")


def torch_resnet(
    expansion: int, layers: tuple[int, ...], num_classes: int, in_channels: int, width: int,
    small: bool,
) -> Any:
    """torchvision's ResNet in short, written independently of tinyconv's."""
    t = torch.nn

    class Block(t.Module):
        def __init__(self, inplanes: int, planes: int, stride: int) -> None:
            super().__init__()
            wide = planes * expansion
            shapes = [(inplanes, planes, 3, stride), (planes, planes, 3, 1)]
            if expansion == 4:
                middle = (planes, planes, 3, stride)
                shapes = [(inplanes, planes, 1, 1), middle, (planes, wide, 1, 1)]
            self.depth = len(shapes)
            for i, (c, o, k, s) in enumerate(shapes, 1):
                setattr(self, f"conv{i}", t.Conv2d(c, o, k, s, k // 2, bias=False))
                setattr(self, f"bn{i}", t.BatchNorm2d(o))
            self.downsample = None
            if stride != 1 or inplanes != wide:
                projection = t.Conv2d(inplanes, wide, 1, stride, bias=False)
                self.downsample = t.Sequential(projection, t.BatchNorm2d(wide))

        def forward(self, x: Any) -> Any:
            out = x
            for i in range(1, self.depth + 1):
                out = getattr(self, f"bn{i}")(getattr(self, f"conv{i}")(out))
                if i < self.depth:
                    out = torch.relu(out)
            out = out + (x if self.downsample is None else self.downsample(x))
            return torch.relu(out)

    class Net(t.Module):
        def __init__(self) -> None:
            super().__init__()
            kernel, stride = (3, 1) if small else (7, 2)
            self.conv1 = t.Conv2d(in_channels, width, kernel, stride, kernel // 2, bias=False)
            self.bn1 = t.BatchNorm2d(width)
            inplanes = width
            for i, blocks in enumerate(layers):
                planes, stage = width * 2**i, t.Sequential()
                for j in range(blocks):
                    stage.append(Block(inplanes, planes, 2 if i and not j else 1))
                    inplanes = planes * expansion
                setattr(self, f"layer{i + 1}", stage)
            self.fc = t.Linear(inplanes, num_classes)

        def forward(self, x: Any) -> Any:
            x = torch.relu(self.bn1(self.conv1(x)))
            x = x if small else torch.nn.functional.max_pool2d(x, 3, 2, 1)
            for i in range(len(layers)):
                x = getattr(self, f"layer{i + 1}")(x)
            return self.fc(x.mean((2, 3)))

    return Net()


TWINS = {
    "resnet8": (1, (1, 1, 1), 10, 1, 16, True),
    "resnet20": (1, (3, 3, 3), 10, 3, 16, True),
    "resnet18": (1, (2, 2, 2, 2), 1000, 3, 64, False),
    "resnet34": (1, (3, 4, 6, 3), 1000, 3, 64, False),
    "resnet50": (4, (3, 4, 6, 3), 1000, 3, 64, False),
}


def twins(name: str) -> tuple[Any, Any]:
    """Our network and PyTorch's, in float64, with one set of weights and running statistics."""
    ours, theirs = getattr(resnet, name)().double(), torch_resnet(*TWINS[name]).double()
    for module in ours.modules():
        if isinstance(module, nn.BatchNorm2d):  # anything but 0 and 1, which hide mistakes
            for tensor in (module.weight, module.running_var):
                nn.init.uniform_(tensor, 0.5, 1.5)
            for tensor in (module.bias, module.running_mean):
                nn.init.uniform_(tensor, -0.5, 0.5)
    state = {k: torch.from_numpy(v.numpy().copy()) for k, v in ours.state_dict().items()}
    theirs.load_state_dict(state)
    return ours, theirs


# --------------------------------------------------------------------------------- names and counts


@pytest.mark.parametrize(("name", "parameters", "entries"), [
    ("resnet8", 77_754, 56), ("resnet20", 272_474, 128), ("resnet18", 11_689_512, 122),
    ("resnet34", 21_797_672, 218), ("resnet50", 25_557_032, 320),
])
def test_counts(name: str, parameters: int, entries: int) -> None:
    net = getattr(resnet, name)()
    assert sum(p.numel() for p in net.parameters()) == parameters
    assert len(net.state_dict()) == entries


@needs_torch
@pytest.mark.parametrize("name", TWINS)
def test_names_shapes_and_order_of_the_state(name: str) -> None:
    ours = getattr(resnet, name)().state_dict()
    theirs = torch_resnet(*TWINS[name]).state_dict()
    assert list(ours) == list(theirs)
    assert [v.shape for v in ours.values()] == [tuple(v.shape) for v in theirs.values()]


def test_torchvisions_names() -> None:
    net = resnet.resnet18()
    names = list(net.state_dict())
    assert names[:2] == ["conv1.weight", "bn1.weight"]
    assert names[5] == "bn1.num_batches_tracked"
    assert {"layer1.0.conv2.weight", "layer2.0.downsample.0.weight",
            "layer2.0.downsample.1.running_var", "layer4.1.bn2.bias"} < set(names)
    assert names[-2:] == ["fc.weight", "fc.bias"]
    assert " ".join(name for name, _ in net.named_children()) == (
        "conv1 bn1 relu maxpool layer1 layer2 layer3 layer4 avgpool fc"
    )


def test_options() -> None:
    net = resnet.resnet8(num_classes=7, in_channels=2, zero_init_residual=True)
    assert net(tc.zeros(2, 2, 8, 8)).shape == (2, 7)
    assert not net.layer2[0].bn2.weight.detach().numpy().any()
    assert net.layer2[0].bn1.weight.detach().numpy().all()
    wide = resnet.resnet18(10, in_channels=1, width=8)
    assert wide.fc.weight.shape == (10, 64)


def test_first_weights_are_he_normal_over_fan_out() -> None:
    weight = resnet.resnet18().layer3[0].conv1.weight.detach().numpy()
    assert weight.std() == pytest.approx(np.sqrt(2 / (256 * 9)), rel=0.01)


# ------------------------------------------------------------------------------ the same as PyTorch


@needs_torch
@pytest.mark.parametrize("training", [True, False])
def test_resnet8_equals_pytorch(training: bool) -> None:
    ours, theirs = twins("resnet8")
    ours.train(training)
    theirs.train(training)
    value = np.random.default_rng(0).standard_normal((4, 1, 14, 14))
    x, tx = tc.tensor(value, requires_grad=True), torch.tensor(value, requires_grad=True)
    target = np.array([3, 1, 0, 9])
    logits, tlogits = ours(x), theirs(tx)
    nn.functional.cross_entropy(logits, tc.tensor(target)).backward()
    torch.nn.functional.cross_entropy(tlogits, torch.tensor(target)).backward()
    np.testing.assert_allclose(logits.detach(), tlogits.detach(), rtol=1e-10, atol=1e-10)
    np.testing.assert_allclose(x.grad, tx.grad, rtol=1e-10, atol=1e-10)
    for (name, p), q in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        np.testing.assert_allclose(p.grad, q.grad, rtol=1e-10, atol=1e-10, err_msg=name)
    for name, value in theirs.state_dict().items():
        np.testing.assert_allclose(ours.state_dict()[name], value, rtol=1e-10, err_msg=name)


@needs_torch
@pytest.mark.parametrize(("name", "size"), [("resnet20", 16), ("resnet18", 33), ("resnet50", 33)])
def test_forward_equals_pytorch(name: str, size: int) -> None:
    ours, theirs = twins(name)
    value = np.random.default_rng(0).standard_normal((1, 3, size, size))
    with tc.no_grad(), torch.no_grad():
        y, ty = ours.eval()(tc.tensor(value)), theirs.eval()(torch.tensor(value))
    np.testing.assert_allclose(y, ty, rtol=1e-9, atol=1e-9)


@needs_torch
def test_weights_travel_back() -> None:
    ours, theirs = resnet.resnet8(), torch_resnet(*TWINS["resnet8"])
    ours.load_state_dict(theirs.state_dict())
    x = np.random.default_rng(0).standard_normal((2, 1, 8, 8)).astype(np.float32)
    with tc.no_grad(), torch.no_grad():
        y, ty = ours(tc.tensor(x)), theirs(torch.tensor(x))
    np.testing.assert_allclose(y, ty, rtol=1e-4, atol=1e-4)


# ------------------------------------------------------------------------------------ the residual


def test_residual_adds_branch_and_shortcut() -> None:
    x = tc.randn(2, 3)
    np.testing.assert_array_equal(nn.Residual(nn.Identity())(x), 2 * x)
    projection = nn.Linear(3, 5)
    y = nn.Residual(nn.Linear(3, 5), projection)(x)
    assert y.shape == (2, 5)
    assert y.requires_grad


def inside(branch: Any, shortcut: Any = None) -> nn.Module:
    """A network with the residual at layer2.0."""
    return nn.Sequential({"layer2": nn.Sequential(nn.Residual(branch, shortcut))})


CASES = [
    (lambda: nn.Conv2d(64, 128, 3, stride=2, padding=1), lambda: None, (4, 64, 28, 28),
     ("branch (4, 128, 14, 14), shortcut (4, 64, 28, 28): "
      "the shortcut needs Conv2d(64, 128, 1, stride=2)")),
    (lambda: nn.Conv2d(3, 8, 3, padding=1), lambda: None, (2, 3, 7, 7),
     "branch (2, 8, 7, 7), shortcut (2, 3, 7, 7): the shortcut needs Conv2d(3, 8, 1)"),
    (lambda: nn.Conv2d(1, 8, 3, padding=1), lambda: nn.Identity(), (2, 1, 14, 14),
     "branch (2, 8, 14, 14), shortcut (2, 1, 14, 14): the shortcut needs Conv2d(1, 8, 1)"),
    (lambda: nn.Conv2d(3, 8, 3, (2, 1), padding=1), lambda: nn.Conv2d(3, 8, 1, 2), (2, 3, 9, 8),
     ("branch (2, 8, 5, 8), shortcut (2, 8, 5, 4): "
      "the shortcut needs Conv2d(3, 8, 1, stride=(2, 1))")),
    (lambda: nn.Linear(3, 4), lambda: None, (2, 3),
     "branch (2, 4), shortcut (2, 3): the shortcut needs Linear(3, 4)"),
]


@pytest.mark.parametrize(("branch", "shortcut", "shape", "message"), CASES)
def test_the_error_names_the_shortcut_that_works(
    branch: Any, shortcut: Any, shape: Any, message: str
) -> None:
    net = inside(branch(), shortcut())
    with pytest.raises(tc.ShapeError) as error:
        net(tc.zeros(*shape))
    assert str(error.value) == f"layer2.0 Residual: {message}"
    fix = eval(message.partition("needs ")[2], {"Conv2d": nn.Conv2d, "Linear": nn.Linear})
    assert inside(branch(), fix)(tc.zeros(*shape)).shape[0] == shape[0]


def test_a_branch_that_crops_is_told_to_pad() -> None:
    with pytest.raises(tc.ShapeError, match=r"convolution takes 28x28 to 26x26. Pad the branch"):
        nn.Residual(nn.Conv2d(3, 3, 3))(tc.zeros(1, 3, 28, 28))
    with pytest.raises(tc.ShapeError, match="the identity fits: shortcut=None"):
        nn.Residual(nn.Identity(), nn.Conv2d(3, 1, 1))(tc.zeros(1, 3, 8, 8))


@pytest.mark.parametrize("block", [nn.BasicBlock, nn.Bottleneck])
def test_blocks_choose_identity_or_projection(block: Any) -> None:
    same = block(8 * block.expansion, 8)
    assert same.downsample is None
    assert same(tc.randn(2, 8 * block.expansion, 6, 6)).shape == (2, 8 * block.expansion, 6, 6)
    halved = block(8, 16, stride=2)
    assert [type(m).__name__ for m in halved.downsample] == ["Conv2d", "BatchNorm2d"]
    assert halved(tc.randn(2, 8, 7, 7)).shape == (2, 16 * block.expansion, 4, 4)
    given = block(8, 16, downsample=nn.Identity())
    with pytest.raises(tc.ShapeError, match=rf"^{block.__name__}\(8->.*needs Conv2d\(8, "):
        given(tc.randn(2, 8, 6, 6))


def test_zero_init_starts_as_the_shortcut() -> None:
    net = resnet.resnet8(zero_init_residual=True)
    x = tc.randn(2, 16, 5, 5)
    np.testing.assert_allclose(net.layer1[0](x).detach(), tc.relu(x))


def test_paths_of_a_network() -> None:
    net = resnet.resnet8()
    with pytest.raises(tc.ShapeError, match=r"^conv1 Conv2d\(1->16, k3, p1\): "):
        net(tc.zeros(2, 28, 28))
    net.layer2[0].bn2 = nn.BatchNorm2d(8)
    message = r"^layer2.0.bn2 BatchNorm2d\(8\): .* layer2.0.conv2 produced it"
    with pytest.raises(tc.ShapeError, match=message):
        net(tc.zeros(2, 1, 8, 8))
