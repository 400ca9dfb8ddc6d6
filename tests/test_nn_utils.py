"""`nn.utils` beside PyTorch's."""

import copy
from typing import Any

import numpy as np
import pytest

import tinyconv as tc
from tinyconv import nn
from tinyconv.nn.utils import parametrizations, parametrize

torch = pytest.importorskip("torch")

LAYERS = {
    "Linear": ((4, 3), (2, 4)),
    "Conv2d": ((2, 3, 3), (1, 2, 5, 5)),
    "Conv1d": ((2, 3, 3), (1, 2, 5)),
    "ConvTranspose2d": ((2, 3, 3), (1, 2, 5, 5)),
}
NORMS = {
    "weight_norm": {},
    "weight_norm of dim 1": {"dim": 1},
    "weight_norm of all": {"dim": None},
    "spectral_norm": {},
    "spectral_norm of dim 1": {"dim": 1, "n_power_iterations": 3},
}


def pair(layer: str) -> Any:
    arguments, shape = LAYERS[layer]
    mine, theirs = getattr(nn, layer)(*arguments), getattr(torch.nn, layer)(*arguments)
    theirs.load_state_dict({k: torch.tensor(v.numpy()) for k, v in mine.state_dict().items()})
    x = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    return mine, theirs, x


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("layer", LAYERS)
def test_norms_as_in_pytorch(layer: str, norm: str) -> None:
    mine, theirs, x = pair(layer)
    name, how = norm.split()[0], NORMS[norm]
    plain = type(mine)
    with np.errstate(all="ignore"):
        assert getattr(parametrizations, name)(mine, **how) is mine
    theirs = getattr(torch.nn.utils.parametrizations, name)(theirs, **how)
    assert {k: tuple(v.shape) for k, v in mine.state_dict().items()} == {
        k: tuple(v.shape) for k, v in theirs.state_dict().items()
    }
    assert [n for n, _ in mine.named_parameters()] == [n for n, _ in theirs.named_parameters()]
    # power iteration starts at random
    mine.load_state_dict({k: tc.tensor(v.numpy()) for k, v in theirs.state_dict().items()})
    for _ in range(2):
        y, z = mine(tc.tensor(x)), theirs(torch.tensor(x))
        np.testing.assert_allclose(y.detach().numpy(), z.detach().numpy(), rtol=1e-4, atol=1e-5)
        (y * y).sum().backward()
        (z * z).sum().backward()
    for (k, p), q in zip(mine.named_parameters(), theirs.parameters(), strict=True):
        np.testing.assert_allclose(p.grad.numpy(), q.grad.numpy(), rtol=1e-3, atol=1e-3, err_msg=k)
    for module in (mine.eval(), theirs.eval()):
        tensor = tc.tensor if module is mine else torch.tensor
        before = module(tensor(x)).detach().numpy()
        remove = (parametrize if module is mine
                  else torch.nn.utils.parametrize).remove_parametrizations  # fmt: skip
        remove(module, "weight")
        np.testing.assert_allclose(module(tensor(x)).detach().numpy(), before, rtol=1e-4, atol=1e-5)
    assert type(mine) is plain
    assert [n for n, _ in mine.named_parameters()] == [n for n, _ in theirs.named_parameters()]


def test_the_largest_singular_value_is_one() -> None:
    layer = parametrizations.spectral_norm(nn.Linear(6, 5), n_power_iterations=20)
    layer(tc.zeros(1, 6))
    assert np.linalg.norm(layer.weight.detach().numpy(), 2) == pytest.approx(1, rel=1e-4)


class Symmetric(nn.Module):
    def forward(self, x: tc.Tensor) -> tc.Tensor:
        upper = x.triu()
        return upper + upper.T - upper * tc.eye(x.shape[0])


class Scaled(nn.Module):
    def forward(self, x: tc.Tensor) -> tc.Tensor:
        return x * 2.0

    def right_inverse(self, y: tc.Tensor) -> tc.Tensor:
        return y / 2.0


def test_one_after_another() -> None:
    layer = nn.Linear(3, 3)
    original = layer.weight.detach().clone()
    parametrize.register_parametrization(layer, "weight", Symmetric())
    parametrize.register_parametrization(layer, "weight", Scaled())
    assert parametrize.is_parametrized(layer)
    assert parametrize.is_parametrized(layer, "weight")
    assert not parametrize.is_parametrized(layer, "bias")
    w = layer.weight.detach().numpy()
    np.testing.assert_array_equal(w, w.T)
    np.testing.assert_allclose(np.triu(w), np.triu(original.numpy()), rtol=1e-6)
    layer(tc.ones(2, 3)).sum().backward()
    assert layer.parametrizations.weight.original.grad is not None
    parametrize.remove_parametrizations(layer, "weight")
    np.testing.assert_array_equal(layer.weight.detach().numpy(), w)
    assert type(layer) is nn.Linear
    assert isinstance(layer.weight, nn.Parameter)


def test_assigning_sets_the_original() -> None:
    layer = parametrize.register_parametrization(nn.Linear(2, 2), "weight", Scaled())
    layer.weight = tc.ones(2, 2)
    assert layer.parametrizations.weight.original.tolist() == [[0.5, 0.5], [0.5, 0.5]]
    assert layer.weight.tolist() == [[1.0, 1.0], [1.0, 1.0]]
    parametrize.remove_parametrizations(layer, "weight", leave_parametrized=False)
    assert layer.weight.tolist() == [[0.5, 0.5], [0.5, 0.5]]


def test_buffers_copies_and_the_cache() -> None:
    norm = nn.BatchNorm2d(2)
    parametrize.register_parametrization(norm, "running_mean", Scaled())
    assert "parametrizations.running_mean.original" in norm.state_dict()
    layer = parametrize.register_parametrization(nn.Linear(2, 2), "weight", Scaled())
    twin = copy.deepcopy(layer)
    parametrize.remove_parametrizations(layer, "weight")
    assert parametrize.is_parametrized(twin)
    assert twin.weight.shape == (2, 2)
    with parametrize.cached():
        assert twin.weight is twin.weight
    assert twin.weight is not twin.weight


def test_training_finds_the_originals() -> None:
    tc.manual_seed(0)
    layer = parametrizations.weight_norm(nn.Linear(2, 1))
    optimizer = tc.optim.SGD(layer.parameters(), lr=0.1)
    x = tc.randn(64, 2)
    target = x @ tc.tensor([[1.0], [-2.0]])
    for _ in range(200):
        loss = ((layer(x) - target) ** 2).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    np.testing.assert_allclose(layer.weight.detach().numpy(), [[1.0, -2.0]], atol=1e-2)


class Longer(nn.Module):
    def forward(self, x: tc.Tensor) -> tc.Tensor:
        return tc.cat([x, x])


@pytest.mark.parametrize(
    ("call", "error", "said"),
    [
        (lambda m: parametrize.register_parametrization(m, "weight", Longer()), tc.ShapeError,
         r"Linear.weight has shape \(2, 3\), parametrized \(4, 3\)"),
        (lambda m: parametrize.register_parametrization(m, "wait", Scaled()), AttributeError,
         "no parameter or buffer 'wait'"),
        (lambda m: parametrize.register_parametrization(m, "weight", lambda x: x), tc.DTypeError,
         "function is no Module"),
        (lambda m: parametrize.remove_parametrizations(m, "weight"), ValueError,
         "no parametrization of 'weight'"),
        (lambda m: parametrizations.spectral_norm(m, n_power_iterations=0), ValueError, "positive"),
        (lambda m: parametrizations.spectral_norm(m, "wait"), AttributeError, "no tensor 'wait'"),
    ],
)  # fmt: skip
def test_errors(call: Any, error: Any, said: str) -> None:
    layer = nn.Linear(3, 2)
    names = [name for name, _ in layer.named_parameters()]
    with pytest.raises(error, match=said):
        call(layer)
    assert [name for name, _ in layer.named_parameters()] == names
    assert type(layer) is nn.Linear


def test_vectors() -> None:
    model = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1))
    vector = nn.utils.parameters_to_vector(model.parameters())
    assert vector.shape == (13,)
    assert vector.requires_grad
    nn.utils.vector_to_parameters(tc.arange(13.0), model.parameters())
    assert nn.utils.parameters_to_vector(model.parameters()).tolist() == list(range(13))
    assert model[0].weight.tolist() == [[0.0, 1.0], [2.0, 3.0], [4.0, 5.0]]
    with pytest.raises(tc.ShapeError, match="have 13 numbers together"):
        nn.utils.vector_to_parameters(tc.zeros(12), model.parameters())
    with pytest.raises(tc.ShapeError, match="no parameters"):
        nn.utils.parameters_to_vector([])
