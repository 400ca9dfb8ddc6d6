"""Full backward hooks of modules, beside PyTorch's."""

import itertools
from typing import Any

import numpy as np
import pytest

import tinyconv as tc
from tinyconv import nn

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.filterwarnings("ignore:Full backward hook is firing:UserWarning")


def numbers(grads: Any) -> Any:
    return [None if g is None else g.detach().numpy().copy() for g in grads]


def pair(make: Any) -> list[tuple[Any, Any]]:
    made = [(tc, make(nn)), (torch, make(torch.nn))]
    state = {k: v.numpy() for k, v in made[0][1].state_dict().items()}
    made[1][1].load_state_dict({k: torch.tensor(v) for k, v in state.items()})
    return made


def run(hooked: Any, make: Any, shape: Any, grad: bool = True) -> list[Any]:
    """Everything that `hooked(lib, model, seen)` notes, and the gradients, in both libraries."""
    results = []
    for lib, model in pair(make):
        seen: list[Any] = []
        hooked(lib, model, seen)
        x = lib.tensor(np.random.default_rng(0).normal(size=shape).astype(np.float32),
                       requires_grad=grad)  # fmt: skip
        y = model(x)
        (y * y).sum().backward()
        results.append((seen, numbers([x.grad, *(p.grad for p in model.parameters())])))
    return results


def agree(results: list[Any]) -> None:
    (seen, grads), (expected, theirs) = results
    assert len(seen) == len(expected) > 0
    mine = [*itertools.chain(*seen), *grads]
    for a, b in zip(mine, [*itertools.chain(*expected), *theirs], strict=True):
        assert (a is None) == (b is None)
        if a is not None:
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def two_layers(n: Any) -> Any:
    return n.Sequential(n.Linear(3, 4), n.Tanh(), n.Linear(4, 2))


def image(n: Any) -> Any:
    return n.Sequential(n.Conv2d(1, 2, 3), n.BatchNorm2d(2), n.ReLU(), n.MaxPool2d(2))


@pytest.mark.parametrize("grad", [True, False])
@pytest.mark.parametrize(("make", "shape"), [(two_layers, (5, 3)), (image, (2, 1, 6, 6))])
def test_what_hooks_see(make: Any, shape: Any, grad: bool) -> None:
    def hooked(lib: Any, model: Any, seen: list[Any]) -> None:
        for module in model.modules():
            module.register_full_backward_hook(
                lambda m, gi, go: seen.append(numbers(gi) + numbers(go))
            )
            module.register_full_backward_pre_hook(lambda m, go: seen.append(numbers(go)))

    agree(run(hooked, make, shape, grad))


def test_hooks_that_replace() -> None:
    def hooked(lib: Any, model: Any, seen: list[Any]) -> None:
        seen.append([])
        model[2].register_full_backward_hook(lambda m, gi, go: (gi[0] * 2,))
        model[1].register_full_backward_pre_hook(lambda m, go: (go[0] + 1,))
        model[0].register_full_backward_hook(lambda m, gi, go: (go[0].sum() * gi[0],))

    agree(run(hooked, two_layers, (5, 3)))


def test_a_removed_hook_is_gone() -> None:
    model, seen = nn.Linear(2, 2), []
    handle = model.register_full_backward_hook(lambda m, gi, go: seen.append(1))
    model(tc.ones(1, 2)).sum().backward()
    handle.remove()
    model(tc.ones(1, 2)).sum().backward()
    assert seen == [1]
    assert not model._hooks


def test_guided_backprop_ends_the_fusion() -> None:
    """A hook on a ReLU that batch norm would otherwise have taken in."""
    model = image(nn)
    model[2].register_full_backward_hook(lambda m, gi, go: (gi[0].clamp(min=0),))
    x = tc.randn(2, 1, 6, 6).requires_grad_()
    model(x).sum().backward()
    plain = x.grad.clone()
    x.grad = None
    model[2]._hooks.clear()
    model[2].register_full_backward_hook(lambda m, gi, go: (gi[0] * 0,))
    model(x).sum().backward()
    assert not x.grad.array.any()
    assert plain.array.any()


class Several(nn.Module):
    def forward(self, x: tc.Tensor, k: float, y: tc.Tensor) -> Any:
        return x * k, y, x + y


def test_several_inputs_and_outputs() -> None:
    seen: list[Any] = []
    model = Several()
    model.register_full_backward_hook(lambda m, gi, go: seen.append((numbers(gi), numbers(go))))
    x = tc.ones(2, requires_grad=True)
    a, _b, c = model(x, 3.0, tc.ones(2))
    (a * 2 + c).sum().backward()
    ((gi, go),) = seen
    assert gi[1:] == [None, None]
    assert gi[0].tolist() == [7.0, 7.0]
    assert go[1] is None
    assert [g.tolist() for g in (go[0], go[2])] == [[2.0, 2.0], [1.0, 1.0]]


def test_second_order_through_a_hook() -> None:
    """It acts once: the second walk does not come past the module's output."""
    found = []
    for lib, n in ((tc, nn), (torch, torch.nn)):
        grad = tc.grad if lib is tc else torch.autograd.grad
        x = lib.tensor([0.3, 0.7], dtype=lib.float64, requires_grad=True)
        model = n.Tanh()
        model.register_full_backward_hook(lambda m, gi, go: (gi[0] * 2,))
        (g,) = grad(model(x).sum(), x, create_graph=True)
        found.append(numbers([g, *grad(g.sum(), x)]))
    np.testing.assert_allclose(*found)


def test_a_wrong_number_of_gradients() -> None:
    model = nn.Tanh()
    model.register_full_backward_hook(lambda m, gi, go: (gi[0], gi[0]))
    with pytest.raises(tc.DTypeError, match="full backward hook: it returned 2 gradients, got 1"):
        model(tc.ones(2, requires_grad=True)).sum().backward()
