"""Modules: what they own, how they print, where they are, and that layers equal PyTorch's."""

import copy
import inspect
import math
import pickle
import weakref
from typing import Any

import numpy as np
import pytest

import tinyconv as tc
from tinyconv import nn
from tinyconv.context import context
from tinyconv.nn import functional as F, init

try:
    import torch
except ImportError:
    torch = None

needs_torch = pytest.mark.skipif(torch is None, reason="PyTorch is not installed")


class Net(nn.Module):
    """A small network by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 4, 3, padding=1)
        self.bn1 = nn.BatchNorm2d(4)
        self.body = nn.Sequential(nn.ReLU(), nn.Sequential(nn.Conv2d(4, 2, 3), nn.ReLU()))
        self.fc = nn.Linear(2 * 4 * 4, 3)

    def forward(self, x: Any) -> Any:
        return self.fc(self.body(self.bn1(self.conv1(x))).flatten(1))


@pytest.fixture
def net() -> Net:
    tc.manual_seed(0)
    return Net()


# ------------------------------------------------------------------------------------ registering


def test_parameters_buffers_and_modules_by_name(net: Net) -> None:
    assert [name for name, _ in net.named_parameters()] == [
        "conv1.weight", "conv1.bias", "bn1.weight", "bn1.bias", "body.1.0.weight", "body.1.0.bias",
        "fc.weight", "fc.bias",
    ]
    assert [name for name, _ in net.named_buffers()] == [
        "bn1.running_mean", "bn1.running_var", "bn1.num_batches_tracked",
    ]
    assert [name for name, _ in net.named_modules()] == [
        "", "conv1", "bn1", "body", "body.0", "body.1", "body.1.0", "body.1.1", "fc",
    ]
    assert [name for name, _ in net.named_children()] == ["conv1", "bn1", "body", "fc"]
    assert net.get_submodule("body.1.0") is net.body[1][0]
    assert [name for name, _ in net.named_parameters("net", recurse=False)] == []
    assert all(p.requires_grad and p.is_leaf for p in net.parameters())


def test_assigning_before_init_says_what_to_do() -> None:
    class Early(nn.Module):
        def __init__(self) -> None:
            self.fc = nn.Linear(2, 2)

    class Never(nn.Module):
        def __init__(self) -> None:
            self.width = 3

    with pytest.raises(AttributeError, match=r"'fc' before super\(\).__init__\(\)"):
        Early()
    with pytest.raises(AttributeError, match=r"Never.__init__ has not called super"):
        list(Never().parameters())


def test_assignment_moves_a_name_between_tables() -> None:
    m = nn.Module()
    m.x = 1
    m.x = nn.Parameter(tc.zeros(2))
    assert dict(m.named_parameters()) == {"x": m.x}
    m.x = nn.ReLU()
    assert not list(m.parameters())
    assert dict(m.named_children()).keys() == {"x"}
    del m.x
    assert not hasattr(m, "x")
    with pytest.raises(AttributeError):
        del m.x


def test_reassigning_keeps_the_order() -> None:
    m = nn.Linear(2, 2)
    m.weight = nn.Parameter(tc.ones(2, 2))
    assert list(m.state_dict()) == ["weight", "bias"]


def test_a_registered_name_takes_only_its_kind(net: Net) -> None:
    with pytest.raises(TypeError, match=r"Linear.weight is .* a Parameter.*not a Tensor"):
        net.fc.weight = tc.zeros(3, 32)
    with pytest.raises(TypeError, match=r"Net.fc is registered as a Module.*not a int"):
        net.fc = 3
    with pytest.raises(TypeError, match="a Tensor"):
        net.bn1.running_mean = 0.0
    net.bn1.running_mean = tc.ones(4)
    assert net.bn1.state_dict()["running_mean"].tolist() == [1.0] * 4
    net.fc.bias = None
    assert "fc.bias" not in net.state_dict()


def test_names_are_checked() -> None:
    m = nn.Module()
    with pytest.raises(ValueError, match="no dot"):
        m.register_buffer("a.b", tc.zeros(1))
    with pytest.raises(ValueError, match="already has an attribute 'forward'"):
        m.register_module("forward", nn.ReLU())
    m.x = 1
    with pytest.raises(ValueError, match="already has an attribute 'x'"):
        m.register_parameter("x", None)
    with pytest.raises(TypeError, match="must be a Module or None, got the class ReLU; call it"):
        nn.Sequential(nn.ReLU)
    with pytest.raises(TypeError, match="must be a Parameter or None, got a Tensor"):
        m.register_parameter("y", tc.zeros(1))  # type: ignore[arg-type]


def test_unknown_attribute_suggests_the_nearest(net: Net) -> None:
    with pytest.raises(AttributeError, match="Net has no attribute 'conv2'; did you mean 'conv1'"):
        _ = net.conv2
    with pytest.raises(AttributeError, match="did you mean 'weight'"):
        _ = net.fc.wieght


def test_buffers_that_are_not_saved() -> None:
    m = nn.Module()
    m.register_buffer("kept", tc.zeros(1))
    m.register_buffer("scratch", tc.zeros(1), persistent=False)
    m.register_buffer("none", None)
    assert [name for name, _ in m.named_buffers()] == ["kept", "scratch"]
    assert list(m.state_dict()) == ["kept"]


def test_shared_modules_and_parameters_count_once() -> None:
    layer = nn.Linear(3, 3)
    m = nn.Sequential(layer, nn.ReLU(), layer)
    tied = nn.Linear(3, 3, bias=False)
    tied.weight = layer.weight
    m.append(tied)
    assert [name for name, _ in m.named_parameters()] == ["0.weight", "0.bias"]
    assert len(list(m.modules())) == 4
    assert list(m.state_dict()) == ["0.weight", "0.bias", "2.weight", "2.bias", "3.weight"]
    m(tc.ones(1, 3)).sum().backward()
    assert layer.weight.grad is not None
    assert tied.weight is layer.weight
    assert m(tc.ones(1, 3)).scope == "3"


def test_parameter_shares_the_tensors_memory() -> None:
    x = tc.zeros(2)
    p = nn.Parameter(x)
    x.fill_(3)
    assert p.tolist() == [3.0, 3.0]
    assert p.requires_grad
    assert repr(p).startswith("Parameter containing:\ntensor([3., 3.]")
    assert nn.Parameter([1.0, 2.0], requires_grad=False).dtype == tc.float32


# ------------------------------------------------------------------------------------ all at once


def test_train_and_eval_reach_every_module(net: Net) -> None:
    assert net.eval() is net
    assert not any(m.training for m in net.modules())
    assert all(m.training for m in net.train().modules())


def test_apply_visits_children_first(net: Net) -> None:
    seen: list[str] = []
    net.apply(lambda m: seen.append(type(m).__name__))
    assert seen[:2] == ["Conv2d", "BatchNorm2d"]
    assert seen[-1] == "Net"
    assert len(seen) == 9


def test_freezing_and_zero_grad(net: Net) -> None:
    net(tc.randn(2, 1, 6, 6)).sum().backward()
    assert all(p.grad is not None for p in net.parameters())
    net.zero_grad(set_to_none=False)
    assert all(not p.grad.numpy().any() for p in net.parameters())
    net.zero_grad()
    assert all(p.grad is None for p in net.parameters())
    net.requires_grad_(False)
    assert not net(tc.randn(2, 1, 6, 6)).requires_grad


def test_to_keeps_the_parameter_objects(net: Net) -> None:
    before = list(net.parameters())
    net(tc.randn(2, 1, 6, 6)).sum().backward()
    assert net.double() is net
    assert all(a is b for a, b in zip(before, net.parameters(), strict=True))
    assert {p.dtype for p in before} == {tc.float64}
    assert {p.grad.dtype for p in before} == {tc.float64}
    assert net.bn1.running_mean.dtype == tc.float64
    assert net.bn1.num_batches_tracked.dtype == tc.int64
    assert net(tc.randn(2, 1, 6, 6, dtype=tc.float64)).dtype == tc.float64
    assert net.to("cpu").float().fc.weight.dtype == tc.float32
    assert net.to(tc.zeros(1, dtype=tc.float16)).fc.weight.dtype == tc.float16
    with pytest.raises(tc.DTypeError, match="parameters are floats; int64"):
        net.to(tc.int64)


def test_deepcopy_is_independent(net: Net) -> None:
    twin = copy.deepcopy(net)
    assert list(twin.state_dict()) == list(net.state_dict())
    with tc.no_grad():
        twin.fc.weight.zero_()
    assert net.fc.weight.detach().numpy().any()
    assert isinstance(twin.fc.weight, nn.Parameter)
    tied = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    tied[1].weight = tied[0].weight
    twin = copy.deepcopy(tied)
    assert twin[0].weight is twin[1].weight


def test_hooks_see_and_replace() -> None:
    layer = nn.Linear(2, 2)
    seen = []
    handle = layer.register_forward_hook(lambda m, args, out: seen.append(out.shape))
    layer.register_forward_pre_hook(lambda m, args: args[0] * 0)
    assert np.allclose(layer(tc.ones(3, 2)).detach(), layer.bias.detach())
    handle.remove()
    layer.register_forward_hook(lambda m, args, out: out + 1)
    assert np.allclose(layer(tc.ones(3, 2)).detach(), layer.bias.detach() + 1)
    assert seen == [(3, 2)]


def test_forward_is_needed() -> None:
    with pytest.raises(NotImplementedError, match="define: def forward"):
        nn.Module()(1)


# -------------------------------------------------------------------------------------- the state


def test_state_dict_round_trip(net: Net) -> None:
    other = Net()
    other.load_state_dict(net.state_dict())
    for name, value in net.state_dict().items():
        assert not value.requires_grad
        assert np.array_equal(value.numpy(), other.state_dict()[name].numpy())
    assert other.fc.weight.array is not net.fc.weight.array


def test_state_dict_accepts_arrays_and_casts(net: Net) -> None:
    arrays = {k: v.numpy().astype(np.float64) for k, v in net.state_dict().items()}
    net.load_state_dict(arrays)
    assert net.fc.weight.dtype == tc.float32


def test_load_lists_everything_and_changes_nothing(net: Net) -> None:
    state = {k: v + 1 for k, v in net.state_dict().items()}
    before = {k: v.clone() for k, v in net.state_dict().items()}
    del state["conv1.bias"]
    state["head.weight"] = tc.zeros(5, 2)
    state["fc.weight"] = tc.zeros(10, 32)
    with pytest.raises(nn.StateDictError) as error:
        net.load_state_dict(state)
    text = str(error.value)
    for part in (
        "11 entries do not fit Net, which has 11", "missing (1): conv1.bias (4,)",
        "unexpected (1): head.weight (5, 2)", "fc.weight is (10, 32), wanted (3, 32)",
    ):
        assert part in text
    for name, value in before.items():
        assert np.array_equal(value.numpy(), net.state_dict()[name].numpy())
    with pytest.raises(nn.StateDictError, match=r"fc.weight is \(10, 32\)"):
        net.load_state_dict(state, strict=False)
    del state["fc.weight"]
    missing, unexpected = net.load_state_dict(state, strict=False)
    assert (missing, unexpected) == (["conv1.bias", "fc.weight"], ["head.weight"])
    assert np.allclose(net.fc.bias.detach(), before["fc.bias"] + 1)


def test_load_explains_a_common_prefix(net: Net) -> None:
    state = {f"module.{k}": v for k, v in net.state_dict().items()}
    with pytest.raises(nn.StateDictError, match=r"removeprefix\('module.'\)"):
        net.load_state_dict(state)
    net.load_state_dict({k.removeprefix("module."): v for k, v in state.items()})


# ------------------------------------------------------------------------------- where it happens


def test_operations_record_their_module(net: Net) -> None:
    y = net(tc.randn(2, 1, 6, 6))
    scopes = set()
    stack = [y.node]
    while stack:
        node = stack.pop()
        if node is not None and hasattr(node, "op"):
            scopes.add(node.scope)
            stack += node.inputs
    assert scopes == {"conv1", "bn1", "body.0", "body.1.0", "body.1.1", "", "fc"}


def test_errors_carry_the_path_and_leave_no_trace(net: Net) -> None:
    with pytest.raises(tc.ShapeError, match=r"^conv1 Conv2d\(1->4, k3, p1\): input \(2, 6, 6\)"):
        net(tc.randn(2, 6, 6))
    assert context.module is None
    assert context.scope == ""
    with pytest.raises(tc.ShapeError, match=r"^fc Linear\(32->3\): "):
        net(tc.randn(2, 1, 8, 8))
    assert (tc.ones(2, requires_grad=True) * 2).scope == ""


def test_a_layer_of_its_own_is_named_without_a_path() -> None:
    with pytest.raises(tc.ShapeError, match=r"^Linear\(3->2\): "):
        nn.Linear(3, 2)(tc.ones(2, 4))


def test_hand_written_forward_names_module_and_operation() -> None:
    class Add(nn.Module):
        def forward(self, x: Any) -> Any:
            return x + tc.ones(3)

    with pytest.raises(tc.ShapeError, match=r"^0 Add: add: operands \(2,\) and \(3,\)"):
        nn.Sequential(Add())(tc.ones(2))


def test_a_module_that_is_not_registered_is_named_after_its_caller() -> None:
    class Outer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.hidden = [nn.Linear(2, 2)]  # a plain list: not found

        def forward(self, x: Any) -> Any:
            return self.hidden[0](x)

    assert nn.Sequential(Outer())(tc.ones(1, 2)).scope == "0.Linear"


@pytest.mark.parametrize("wrong", [1, 2, 3, 4])
@pytest.mark.parametrize("training", [False, True])
def test_batch_norm_of_vectors_of_another_length(wrong: int, training: bool) -> None:
    vectors = [tc.ones(4) for _ in range(4)]
    vectors[wrong - 1] = tc.ones(5)
    with pytest.raises(tc.ShapeError, match="5"), tc.no_grad():
        F.batch_norm(tc.ones(2, 4, 3, 3), *vectors, training)


@pytest.mark.parametrize("training", [False, True])
def test_batch_norm_of_a_number_for_a_vector(training: bool) -> None:
    for wrong in (0, 1, 2, 3):
        vectors: list[Any] = [tc.ones(4) for _ in range(4)]
        vectors[wrong] = 1.0
        with pytest.raises(tc.ShapeError, match=r" 1\.0 must be \(4,\)"):
            F.batch_norm(tc.ones(2, 4, 3, 3), *vectors, training)


@pytest.mark.parametrize("momentum", [0.1, None])
def test_running_statistics_that_require_grad(momentum: float | None) -> None:
    vectors = tc.zeros(4), tc.ones(4, requires_grad=True)
    with pytest.raises(tc.GraphError, match="batch_norm: in-place writes are not recorded"):
        F.batch_norm(tc.ones(2, 4, 3, 3), *vectors, training=True, momentum=momentum)


def test_batch_norm_names_the_layer_that_made_the_channels() -> None:
    block = nn.Sequential(nn.Conv2d(1, 16, 3), nn.BatchNorm2d(8))
    with pytest.raises(tc.ShapeError, match=r"^1 BatchNorm2d\(8\):.* 16 channels .* 0 produced it"):
        block(tc.randn(2, 1, 6, 6))
    with pytest.raises(tc.ShapeError, match=r"NHWC: x.permute\(0, 3, 1, 2\)"):
        nn.BatchNorm2d(8)(tc.randn(2, 6, 6, 8))
    with pytest.raises(tc.ShapeError, match=r"2-D, need \(N,C,H,W\)"):
        nn.BatchNorm2d(8)(tc.randn(2, 8))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: nn.Conv2d(8, 16, 3, groups=3), r"8 = 3\*2 \+ 2. What fits: 1, 2, 4, 8"),
        (lambda: nn.Conv2d(8, 6, 3, groups=4), r"out_channels=6: 6 = 4\*1 \+ 2. What fits: 1, 2"),
        (lambda: nn.Conv2d(0, 6, 3), "at least 1"),
        (lambda: nn.Conv2d(1, 6, (3, 3, 3)), "has 3 numbers, one or 2 are needed"),
        (lambda: nn.Conv2d(1, 6, 3, stride=2, padding="same"), "keeps the size.*use padding="),
        (lambda: nn.Conv2d(1, 6, 3, padding="full"), "'same' or 'valid'"),
        (lambda: nn.Conv2d(1, 6, 3, padding_mode="mirror"), "there is 'zeros', 'reflect'"),
        (lambda: nn.ConvTranspose2d(1, 6, 3, padding_mode="reflect"), "there is 'zeros'"),
        (lambda: nn.GroupNorm(3, 8), r"8 = 3\*2 \+ 2"),
        (lambda: nn.Linear(0, 3), "at least 1"),
        (lambda: nn.Dropout(1.5), "0 <= p <= 1"),
        (lambda: nn.Embedding(3, 2, padding_idx=3), r"none of the rows 0\.\.2"),
        (lambda: nn.Hardtanh(1, 0), "must be greater"),
        (lambda: nn.MSELoss(reduction="avg"), "reduction='avg'"),
        (lambda: nn.Unflatten(1, (2, 5))(tc.ones(3, 8)), r"is 8, which is not 2\*5 = 10"),
        (lambda: nn.Unflatten(1, (3, -1))(tc.ones(3, 8)), "not a multiple of 3 = 3"),
    ],
)
def test_arguments_that_cannot_work_say_why(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


X = tc.zeros(2, 1, 8, 8)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: nn.Conv2d(1, 8 / 2, 3), "Conv2d: out_channels is 4.0.*; use 4, and // instead"),
        (lambda: nn.Linear(10 / 2, 3), "Linear: in_features is 5.0.*; use 5, and //"),
        (lambda: nn.Conv2d(1, 1, 3.0), "Conv2d: kernel_size is 3.0, it must be an integer; use 3"),
        (lambda: nn.Conv2d(1, 8, 3.5), "kernel_size is 3.5, it must be an integer$"),
        (lambda: nn.Conv2d(1, 8, (4 / 2, 2)), "kernel_size is 2.0.*; use 2, and //"),
        (lambda: nn.ReLU(X), r"nn.ReLU\(\)\(x\), or without a layer F.relu\(x\)"),
        (lambda: nn.LeakyReLU(X), r"F.leaky_relu\(x\)"),
        (lambda: nn.Sequential(nn.Conv2d(1, 2, 3), F.relu), r"relu; use nn.ReLU\(\)"),
        (lambda: nn.Sequential(F.max_pool2d), r"max_pool2d; use nn.MaxPool2d\(\)"),
        (lambda: nn.Sequential(lambda x: x), "write a Module whose forward calls it"),
        (lambda: nn.Linear(2, 2).load_state_dict("x.pt"), r"pass tc.load\('x.pt'\)"),
        (lambda: nn.Sequential(nn.Conv2d(1, 2, 3))((X, X)), r"^0 Conv2d.*tuple.*unpack the batch"),
        (lambda: nn.ReLU()([X, X]), r"^ReLU: the input is a list \(Tensor, Tensor\).*unpack"),
        (lambda: nn.Linear(8, 2)(None), "the forward before it returned None"),
        (lambda: nn.Flatten()(np.zeros((2, 3))), r"ndarray.*tc.from_numpy\(x\)"),
        (lambda: F.cross_entropy(X, [1, 2]), r"target is a list.*tc.tensor\(target\)"),
        (lambda: nn.CrossEntropyLoss()(None, X), "input is None.*forward before it returned None"),
        (
            lambda: F.cross_entropy(tc.tensor([1, 2]), tc.zeros(2, 3)),
            r"swapped\? cross_entropy\(logits, target\)",
        ),
    ],
)
def test_habits_and_slips_are_answered(make: Any, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        make()


def modules() -> list[type]:
    everything = [getattr(nn, name) for name in nn.__all__]
    return [m for m in everything if isinstance(m, type) and issubclass(m, nn.Module)]


@pytest.mark.parametrize("layer", modules())
def test_every_layer_and_method_is_documented(layer: type) -> None:
    assert layer.__doc__
    methods = {n: f for n, f in inspect.getmembers(layer, callable) if not n.startswith("_")}
    assert [n for n, f in methods.items() if not inspect.getdoc(f)] == []


def test_sizes_and_targets_may_be_numpys() -> None:
    layer = nn.Conv2d(1, np.int64(4), np.int64(3))
    assert (layer.out_channels, layer.kernel_size) == (4, (3, 3))
    logits, target = tc.randn(3, 4), np.array([0, 3, 1])
    assert F.cross_entropy(logits, target) == F.cross_entropy(logits, tc.from_numpy(target))
    assert F.nll_loss(logits, target) == F.nll_loss(logits, tc.from_numpy(target))


def test_errors_of_ones_own_forward_stay_as_they_are() -> None:
    class Broken(nn.Module):
        def forward(self, x: Any) -> Any:
            return x.no_such_thing

    with pytest.raises(AttributeError, match="no_such_thing"):
        nn.Sequential(Broken())(None)


# ------------------------------------------------------------------------------------- containers


def test_sequential_as_a_list() -> None:
    a, b, c = nn.ReLU(), nn.Tanh(), nn.Sigmoid()
    seq = nn.Sequential(a).append(b).extend([c])
    assert list(seq) == [a, b, c]
    assert seq[-1] is c
    assert list(seq[1:]) == [b, c]
    assert list(seq[1:]._modules) == ["1", "2"]
    seq.insert(0, c)
    assert list(seq) == [c, a, b, c]
    del seq[0]
    seq[0] = b
    assert list(seq) == [b, b, c]
    assert list(seq._modules) == ["0", "1", "2"]
    with pytest.raises(IndexError, match="index 3 is out of range: there are 3"):
        _ = seq[3]
    named = nn.Sequential({"conv": nn.Conv2d(1, 2, 3), "act": a})
    assert named.act is named[1]
    assert list(named.state_dict()) == ["conv.weight", "conv.bias"]


def test_what_is_written_into_a_table_is_the_attribute_too() -> None:
    """PyTorch's users replace layers like this."""
    net = nn.Sequential(nn.Linear(2, 2))
    net._modules["0"] = relu = nn.ReLU()
    assert getattr(net, "0") is net[0] is relu
    assert [path for path, _ in net.named_modules()] == ["", "0"]
    m = nn.Linear(2, 2)
    weight = m._parameters.pop("weight")
    assert not hasattr(m, "weight")
    m.register_parameter("weight", weight)
    assert m.weight is weight
    m._parameters |= {"extra": weight}
    m._parameters.update(other=weight)
    assert m.extra is m.other is weight
    m._parameters.clear()
    assert not hasattr(m, "bias")
    assert not list(m.parameters())


@pytest.mark.parametrize(
    "copied", [copy.copy, copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))]
)
def test_copies_have_tables_of_their_own(copied: Any) -> None:
    m = nn.BatchNorm2d(2)
    twin = copied(m)
    assert twin.weight is twin._parameters["weight"]
    assert twin.running_mean is twin._buffers["running_mean"]
    twin.weight = nn.Parameter(tc.zeros(2))
    assert twin.weight is twin._parameters["weight"]
    assert m.weight is m._parameters["weight"] is not twin.weight
    gone = weakref.ref(twin)
    del twin
    assert gone() is None, "a cycle keeps a module alive"


def test_module_list_and_dict() -> None:
    layers = nn.ModuleList(nn.Linear(2, 2) for _ in range(3))
    assert len(layers) == 3
    assert len(list(layers.parameters())) == 6
    assert isinstance(layers[:2], nn.ModuleList)
    heads = nn.ModuleDict({"a": nn.Linear(2, 1)})
    heads["b"] = layers[0]
    assert heads.b is layers[0]
    assert list(heads) == list(heads.keys()) == ["a", "b"]
    assert "b" in heads
    assert heads.pop("b") is layers[0]
    assert not hasattr(heads, "b")
    del heads["a"]
    assert len(heads) == 0
    assert not list(heads.items())
    assert not list(heads.values())


# ----------------------------------------------------------------- like PyTorch: text, init, values

LAYERS = """
Conv2d(1, 8, 3) | Conv2d(4, 8, (3, 5), stride=2, padding=(1, 2), dilation=2, groups=2, bias=False)
Conv2d(3, 6, 4, padding="same") | Conv2d(2, 4, 3, padding="valid", padding_mode="circular")
Conv2d(2, 4, 3, padding=1, padding_mode="reflect")
Conv2d(2, 4, 4, padding="same", padding_mode="replicate") | Conv1d(2, 4, 3, padding=1)
Conv1d(2, 4, 4, padding="same", padding_mode="circular") | ConvTranspose2d(4, 2, 4, 2, 1)
ConvTranspose2d(4, 6, 3, stride=2, output_padding=1, groups=2, dilation=2)
ConvTranspose1d(4, 2, 3, stride=2, output_padding=1, bias=False) | MaxPool2d(2)
MaxPool2d(3, 2, 1, ceil_mode=True) | MaxPool2d((3, 2), stride=(2, 1), dilation=2) | AvgPool2d(2)
AvgPool2d(3, 2, 1, count_include_pad=False) | LPPool2d(2, 3) | LPPool2d(3, 2, stride=1)
AdaptiveAvgPool2d(1) | AdaptiveAvgPool2d((3, None)) | AdaptiveMaxPool2d((3, 2)) | BatchNorm2d(4)
BatchNorm2d(4, eps=1e-3, momentum=None, affine=False) | BatchNorm2d(4, track_running_stats=False)
BatchNorm1d(4) | LayerNorm((4, 6, 7)) | LayerNorm(7, elementwise_affine=False)
LayerNorm(7, bias=False) | GroupNorm(2, 4) | GroupNorm(1, 4, affine=False)
InstanceNorm2d(4, affine=True) | InstanceNorm1d(4, track_running_stats=True) | ReLU()
ReLU(inplace=True) | ReLU6() | SiLU() | LeakyReLU(0.2) | LeakyReLU(0.2, True) | ELU(0.5) | GELU()
GELU("tanh") | Softplus(2.0, 10.0) | Hardtanh(-2.0, 0.5) | Sigmoid() | Tanh() | Softmax(1)
LogSoftmax(dim=-1) | Linear(7, 5) | Linear(7, 5, bias=False) | Identity(3, x=1) | Dropout(0.2)
Dropout2d() | Flatten() | Flatten(2, 3) | Unflatten(1, (2, 2)) | Upsample(scale_factor=2)
Upsample(size=(5, 9), mode="bilinear") | PixelShuffle(2) | Unfold(3, padding=1)
Unfold((2, 3), dilation=2, stride=2) | ZeroPad2d(1) | ReflectionPad2d((1, 2, 0, 1))
ReplicationPad2d(2) | ConstantPad2d(1, 3.5) | CircularPad2d(1) | ZeroPad1d(1) | ReflectionPad1d(2)
ReplicationPad1d((1, 2)) | ConstantPad1d(1, 2.0) | CircularPad1d(1)
"""
PRINTED_ONLY = """
Embedding(10, 3) | Embedding(10, 3, padding_idx=-1) | MaxUnpool2d(2) | Fold((4, 5), 2) | MSELoss()
CrossEntropyLoss(label_smoothing=0.1) | BCEWithLogitsLoss() | HuberLoss() | ModuleList()
Sequential() | ModuleDict({"a": nn.ReLU(), "b": nn.Linear(2, 2)})
Sequential(nn.Linear(2, 2), nn.Sequential(nn.Tanh()))
ModuleList([nn.GELU(), nn.GELU(), nn.Sequential(nn.ReLU()), nn.Sequential(nn.ReLU()), nn.Tanh()])
"""


def calls(text: str) -> list[str]:
    return [call.strip() for line in text.strip().splitlines() for call in line.split(" | ")]


def both(call: str) -> tuple[Any, Any]:
    """The same expression in tinyconv and in PyTorch."""
    ours, theirs = (eval(f"nn.{call}", {"nn": lib}) for lib in (nn, torch.nn))
    return ours, theirs


def copy_weights(ours: Any, theirs: Any) -> None:
    state = {k: torch.from_numpy(v.numpy().copy()) for k, v in ours.state_dict().items()}
    theirs.load_state_dict(state)


@needs_torch
@pytest.mark.parametrize("call", calls(LAYERS) + calls(PRINTED_ONLY))
def test_repr_is_pytorchs(call: str) -> None:
    ours, theirs = both(call)
    assert repr(ours) == repr(theirs)
    assert list(ours.state_dict()) == list(theirs.state_dict())


def input_of(layer: Any) -> np.ndarray:
    """An input that fits the layer, in float64."""
    one = "1d" in type(layer).__name__
    channels = getattr(layer, "in_channels", 4)
    shape = (3, channels, 7) if one else (3, channels, 6, 7)
    return np.random.default_rng(1).standard_normal(shape)


@pytest.mark.filterwarnings("ignore:invalid value encountered in power")  # both give NaN
@needs_torch
@pytest.mark.parametrize(
    ("call", "training"),
    [(c, t) for c in calls(LAYERS) for t in (True, False) if not (t and "Dropout" in c)],  # random
)
@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")  # PyTorch's copy
def test_layers_compute_what_pytorchs_compute(call: str, training: bool) -> None:
    ours, theirs = both(call)
    ours.double().train(training)
    theirs.double().train(training)
    copy_weights(ours, theirs)
    value = input_of(ours)
    x = tc.tensor(value, requires_grad=True)
    tx = torch.tensor(value, requires_grad=True)
    for _ in range(2):  # the second call sees the running statistics of the first
        y, ty = ours(x * 1), theirs(tx * 1)  # not the leaf itself: some write in place
    weights = np.random.default_rng(2).standard_normal(y.shape)
    (y * tc.tensor(weights)).sum().backward()
    (ty * torch.tensor(weights)).sum().backward()
    np.testing.assert_allclose(y.detach(), ty.detach(), rtol=1e-10, atol=1e-10)
    np.testing.assert_allclose(x.grad, tx.grad, rtol=1e-10, atol=1e-10)
    for (name, p), q in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        np.testing.assert_allclose(p.grad, q.grad, rtol=1e-10, atol=1e-10, err_msg=name)
    for name, buffer in ours.named_buffers():
        np.testing.assert_allclose(buffer, theirs.get_buffer(name), rtol=1e-10, err_msg=name)


@needs_torch
@pytest.mark.parametrize("call", [
    "MSELoss()", "L1Loss(reduction='sum')", "SmoothL1Loss(beta=0.5)", "HuberLoss(delta=0.5)",
    "BCELoss()", "BCEWithLogitsLoss(reduction='none')",
])
def test_losses_of_two_tensors(call: str) -> None:
    ours, theirs = both(call)
    x, t = np.random.default_rng(0).uniform(0.05, 0.95, (2, 3, 4))
    expected = theirs(torch.tensor(x), torch.tensor(t))
    np.testing.assert_allclose(ours(tc.tensor(x), tc.tensor(t)), expected, rtol=1e-10)


@needs_torch
@pytest.mark.parametrize("kind", ["CrossEntropyLoss", "NLLLoss"])
def test_losses_of_classes(kind: str) -> None:
    x = np.random.default_rng(0).standard_normal((5, 3))
    weight, target = np.array([1.0, 2.0, 0.5]), np.array([0, 2, 1, 1, 0])
    ours = getattr(nn, kind)(tc.tensor(weight), ignore_index=1, reduction="sum")
    theirs = getattr(torch.nn, kind)(torch.tensor(weight), ignore_index=1, reduction="sum")
    assert list(ours.state_dict()) == ["weight"]
    expected = theirs(torch.tensor(x), torch.tensor(target))
    np.testing.assert_allclose(ours(tc.tensor(x), tc.tensor(target)), expected)


@needs_torch
def test_pool_and_unpool_and_fold() -> None:
    x = np.random.default_rng(0).standard_normal((2, 3, 6, 8))
    y, indices = nn.MaxPool2d(2, return_indices=True)(tc.tensor(x))
    ty, tindices = torch.nn.MaxPool2d(2, return_indices=True)(torch.tensor(x))
    np.testing.assert_array_equal(indices, tindices)
    np.testing.assert_allclose(nn.MaxUnpool2d(2)(y, indices), torch.nn.MaxUnpool2d(2)(ty, tindices))
    columns = nn.Unfold(2, stride=2)(tc.tensor(x))
    np.testing.assert_allclose(nn.Fold((6, 8), 2, stride=2)(columns), x)


def test_embedding_with_a_padding_row() -> None:
    layer = nn.Embedding(4, 3, padding_idx=-1)
    assert not layer.weight.detach().numpy()[3].any()
    y = layer(tc.tensor([[0, 3], [1, 0]]))
    assert y.shape == (2, 2, 3)
    y.sum().backward()
    assert layer.weight.grad.numpy()[:, 0].tolist() == [2.0, 1.0, 0.0, 0.0]


def test_dropout_drops_in_training_only() -> None:
    tc.manual_seed(0)
    x = tc.ones(200, 10, 3, 3)
    y = nn.Dropout(0.25)(x).numpy()
    assert set(np.unique(y)) == {np.float32(0), np.float32(4 / 3)}
    assert abs((y == 0).mean() - 0.25) < 0.02
    planes = nn.Dropout2d(0.25)(x).numpy().reshape(2000, 9)
    assert (planes == planes[:, :1]).all()
    assert nn.Dropout(0.25).eval()(x) is x or np.array_equal(nn.Dropout(0.25).eval()(x), x)


@needs_torch
@pytest.mark.parametrize("size", [None, (13, 13), (15, 14), (2, 4, 14, 15)])
def test_transposed_convolution_to_an_output_size(size: Any) -> None:
    ours, theirs = both("ConvTranspose2d(3, 4, 5, stride=3, padding=2)")
    copy_weights(ours, theirs)
    x = np.random.default_rng(0).standard_normal((2, 3, 5, 5)).astype(np.float32)
    y = ours(tc.tensor(x), output_size=size)
    ty = theirs(torch.tensor(x), output_size=size)
    np.testing.assert_allclose(y.detach(), ty.detach(), rtol=1e-4, atol=1e-5)


def test_output_size_out_of_reach_shows_the_range() -> None:
    layer = nn.ConvTranspose2d(3, 4, 5, stride=3, padding=2)
    with pytest.raises(tc.ShapeError, match=r"\(18, 18\) .* = \(13, 13\).* up to \(15, 15\)"):
        layer(tc.zeros(2, 3, 5, 5), output_size=(18, 18))


# ------------------------------------------------------------------------------------------- init


@needs_torch
@pytest.mark.parametrize("call", [
    "Conv2d(16, 32, 3, groups=2)", "ConvTranspose2d(16, 32, 3)", "Conv1d(64, 32, 5)",
    "Linear(100, 80)", "Embedding(100, 80)", "BatchNorm2d(3)", "LayerNorm(4)",
])
def test_layers_start_from_pytorchs_distributions(call: str) -> None:
    tc.manual_seed(0)
    torch.manual_seed(0)
    ours, theirs = both(call)
    for (name, p), q in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        a, b = p.detach().numpy(), q.detach().numpy()
        assert a.shape == b.shape
        assert a.dtype == np.float32
        assert abs(a.std() - b.std()) <= 0.35 * b.std() / math.sqrt(min(a.size, 400) / 10), name
        assert abs(np.abs(a).max() - np.abs(b).max()) <= 0.2 * np.abs(b).max(), name


@needs_torch
@pytest.mark.parametrize(("name", "options"), [
    ("uniform_", {"a": -1.0, "b": 3.0}), ("normal_", {"mean": 1.0, "std": 2.0}),
    ("trunc_normal_", {"std": 0.02}), ("trunc_normal_", {"mean": 0.5, "a": 0.0, "b": 1.0}),
    ("trunc_normal_", {"a": 2.0, "b": 4.0}), ("constant_", {"val": 3.0}), ("ones_", {}),
    ("zeros_", {}), ("xavier_uniform_", {"gain": 2.0}), ("xavier_normal_", {}),
    ("kaiming_uniform_", {"a": math.sqrt(5)}),
    ("kaiming_normal_", {"mode": "fan_out", "nonlinearity": "relu"}),
])
def test_init_draws_from_pytorchs_distributions(name: str, options: dict[str, Any]) -> None:
    tc.manual_seed(1)
    torch.manual_seed(1)
    a = getattr(init, name)(tc.zeros(40, 60, 3, 3), **options).numpy()
    b = getattr(torch.nn.init, name)(torch.zeros(40, 60, 3, 3), **options).numpy()
    quantiles = np.linspace(0.02, 0.98, 25)
    spread = max(b.std(), 1e-9)
    gap = np.abs(np.quantile(a, quantiles) - np.quantile(b, quantiles)).max()
    assert gap < 0.1 * spread  # 21,600 draws each
    assert abs(a.min() - b.min()) < 0.6 * spread
    assert abs(a.max() - b.max()) < 0.6 * spread


@needs_torch
@pytest.mark.parametrize("name", ["linear", "conv2d", "tanh", "relu", "leaky_relu", "selu"])
def test_gains(name: str) -> None:
    assert init.calculate_gain(name) == pytest.approx(torch.nn.init.calculate_gain(name))
    assert init.calculate_gain("leaky_relu", 0.3) == torch.nn.init.calculate_gain("leaky_relu", 0.3)


def test_init_errors_and_seed() -> None:
    with pytest.raises(ValueError, match="'swish' is none of linear"):
        init.calculate_gain("swish")
    with pytest.raises(tc.ShapeError, match=r"\(out, in, ...\), got \(3,\)"):
        init.kaiming_normal_(tc.zeros(3))
    with pytest.raises(ValueError, match="neither 'fan_in' nor 'fan_out'"):
        init.kaiming_normal_(tc.zeros(3, 3), mode="fan")
    with pytest.raises(ValueError, match="trunc_normal_"):
        init.trunc_normal_(tc.zeros(3), a=20.0, b=30.0)
    tc.manual_seed(3)
    first = nn.Conv2d(2, 2, 3).weight.detach().numpy()
    tc.manual_seed(3)
    np.testing.assert_array_equal(first, nn.Conv2d(2, 2, 3).weight.detach().numpy())
