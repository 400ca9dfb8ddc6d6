"""Optimizers, schedules and clipping follow PyTorch's step for step, where it is installed."""

import itertools
import math
from typing import Any

import numpy as np
import pytest

import tinyconv as tc
from tinyconv import io, nn, optim

try:
    import torch
except ImportError:
    torch = None

needs_torch = pytest.mark.skipif(torch is None, reason="PyTorch is not installed")

SHAPES = [(3, 4), (5,), (), (2, 1, 3, 3)]

# every option alone, and the combinations in which two act on the same line of the rule
SGD = [
    {},
    {"momentum": 0.9},
    {"weight_decay": 0.1},
    {"maximize": True},
    {"momentum": 0.9, "dampening": 0.3},
    {"momentum": 0.9, "nesterov": True},
    {"momentum": 0.9, "nesterov": True, "weight_decay": 0.01},
    {"momentum": 0.9, "dampening": 0.5, "weight_decay": 0.1, "maximize": True},
]
ADAM = [
    {},
    {"betas": (0.5, 0.9)},
    {"eps": 0.1},
    {"weight_decay": 0.1},
    {"weight_decay": 0.0},
    {"amsgrad": True},
    {"maximize": True},
    {"amsgrad": True, "weight_decay": 0.2, "maximize": True, "betas": (0.8, 0.5)},
]
RMSPROP = [
    {
        "alpha": a,
        "eps": e,
        "weight_decay": w,
        "momentum": m,
        "centered": c,
        "maximize": c and bool(m),
    }
    for a, e, w, m, c in itertools.product(
        [0.99, 0.5], [1e-8, 0.1], [0, 0.1], [0, 0.9], [False, True]
    )
]
CASES = [("SGD", o) for o in SGD] + [(n, o) for n in ("Adam", "AdamW") for o in ADAM]
CASES += [("RMSprop", {})] + [("RMSprop", o) for o in RMSPROP]


def parameters(dtype: str = "float64", shapes: Any = SHAPES) -> list[tc.Tensor]:
    rng = np.random.default_rng(0)
    return [tc.tensor(rng.standard_normal(s).astype(dtype), requires_grad=True) for s in shapes]


def set_grads(params: list[tc.Tensor], seed: int) -> None:
    """Gradients of changing size; every third step one parameter has none."""
    rng = np.random.default_rng([1, seed])
    for i, p in enumerate(params):
        skip = seed % 3 == 2 and i == 1
        g = rng.standard_normal(p.shape) * 10.0 ** rng.integers(-2, 2)
        p.grad = None if skip else tc.tensor(np.asarray(g, p.dtype))


def twins(params: list[tc.Tensor]) -> list[Any]:
    return [torch.nn.Parameter(torch.from_numpy(p.array.copy())) for p in params]


def copy_grads(params: list[tc.Tensor], others: list[Any]) -> None:
    for p, q in zip(params, others, strict=True):
        q.grad = None if p.grad is None else torch.from_numpy(p.grad.array.copy())


def assert_equal(params: list[tc.Tensor], others: list[Any], tolerance: float) -> None:
    for p, q in zip(params, others, strict=True):
        expected = q.detach().numpy()
        assert p.array.dtype == expected.dtype
        np.testing.assert_allclose(p.array, expected, rtol=tolerance, atol=tolerance)


def torch_of(optimizer: str, params: Any, options: dict[str, Any]) -> Any:
    return getattr(torch.optim, optimizer)(params, lr=0.05, foreach=False, **options)


# ------------------------------------------------------------------------------ trajectories


@needs_torch
@pytest.mark.parametrize(("dtype", "tolerance"), [("float64", 1e-12), ("float32", 1e-5)])
@pytest.mark.parametrize(("name", "options"), CASES, ids=lambda v: str(v))
def test_trajectory_is_pytorchs(
    name: str, options: dict[str, Any], dtype: str, tolerance: float
) -> None:
    params = parameters(dtype)
    others = twins(params)
    ours, theirs = getattr(optim, name)(params, lr=0.05, **options), torch_of(name, others, options)
    for step in range(50):
        set_grads(params, step)
        copy_grads(params, others)
        ours.step()
        theirs.step()
        assert_equal(params, others, tolerance)
    for entries in ours.state_dict()["state"].values():
        assert all(v.dtype == dtype for k, v in entries.items() if k != "step")


@needs_torch
@pytest.mark.parametrize("name", ["SGD", "Adam", "AdamW", "RMSprop"])
def test_defaults_are_pytorchs(name: str) -> None:
    ours = getattr(optim, name)(parameters())
    theirs = getattr(torch.optim, name)(twins(parameters()))
    assert {k: theirs.defaults[k] for k in ours.defaults} == ours.defaults


@needs_torch
def test_groups_with_their_own_options() -> None:
    params = parameters()
    others = twins(params)

    def groups(p: list[Any]) -> list[dict[str, Any]]:
        return [{"params": p[:2], "lr": 0.1}, {"params": p[2], "momentum": 0.5}]

    ours = optim.SGD(groups(params), lr=0.01, momentum=0.9)
    theirs = torch.optim.SGD(groups(others), lr=0.01, momentum=0.9)
    ours.add_param_group({"params": params[3:], "weight_decay": 0.1})
    theirs.add_param_group({"params": others[3:], "weight_decay": 0.1})
    for step in range(10):
        set_grads(params, step)
        copy_grads(params, others)
        ours.step()
        theirs.step()
    assert_equal(params, others, 1e-12)
    assert [g["lr"] for g in ours.param_groups] == [0.1, 0.01, 0.01]


@pytest.mark.parametrize(("name", "options"), CASES[::3], ids=lambda v: str(v))
def test_numpy_numbers_as_options_do_not_widen(name: str, options: dict[str, Any]) -> None:
    plain, numpy = parameters("float32"), parameters("float32")
    options = {"lr": 0.1, **options}
    wide = {k: np.float64(v) if type(v) is float else v for k, v in options.items()}
    for params, chosen in ((plain, options), (numpy, wide)):
        optimizer = getattr(optim, name)(params, **chosen)
        for step in range(3):
            set_grads(params, step)
            optimizer.step()
    for p, q in zip(plain, numpy, strict=True):
        assert q.dtype == tc.float32
        np.testing.assert_array_equal(p.array, q.array)


# ------------------------------------------------------------------------------ what step does


def test_step_calls_the_closure_with_the_graph_on() -> None:
    x = tc.tensor([1.0, 2.0], requires_grad=True)
    optimizer = optim.SGD([x], lr=0.1)

    def closure() -> tc.Tensor:
        optimizer.zero_grad()
        loss = (x * x).sum()
        loss.backward()
        return loss

    with tc.no_grad():
        loss = optimizer.step(closure)
    assert loss.item() == 5.0
    np.testing.assert_allclose(x.array, [0.8, 1.6], rtol=1e-6)
    assert optimizer.step() is None


@pytest.mark.parametrize("name", ["SGD", "Adam", "AdamW", "RMSprop"])
def test_a_backward_through_an_overwritten_parameter_is_an_error(name: str) -> None:
    w = tc.tensor([1.0, 2.0], requires_grad=True)
    optimizer = getattr(optim, name)([w], lr=0.1)
    late = (w * w).sum()
    (w * 3).sum().backward()
    array = w.array
    optimizer.step()
    assert w.array is array  # in place: whoever shares the memory sees it
    with pytest.raises(tc.GraphError, match="overwritten in place"):
        late.backward()


def test_zero_grad() -> None:
    params = parameters()
    optimizer = optim.SGD(params, lr=0.1)
    set_grads(params, 0)
    optimizer.zero_grad(set_to_none=False)
    assert all(not p.grad.array.any() for p in params)
    optimizer.zero_grad()
    assert all(p.grad is None for p in params)


def test_gradients_are_only_read() -> None:
    for name, options in CASES:
        params = parameters()
        set_grads(params, 0)
        before = [p.grad.array.copy() for p in params]
        optimizer = getattr(optim, name)(params, **options)
        optimizer.step()
        optimizer.step()
        for p, g in zip(params, before, strict=True):
            np.testing.assert_array_equal(p.grad.array, g)


def test_parameters_keep_their_layout() -> None:
    w = tc.from_numpy(np.zeros((2, 3, 4, 5), np.float32).transpose(0, 3, 1, 2)).requires_grad_()
    strides = w.array.strides
    w.grad = tc.ones(w.shape)
    optimizer = optim.Adam([w])
    optimizer.step()
    assert w.array.strides == strides == optimizer.state[w]["exp_avg"].array.strides


def test_repr_lists_the_options() -> None:
    assert repr(optim.SGD(parameters(), lr=0.5)).startswith(
        "SGD (\nParameter Group 0\n    dampening: 0\n    lr: 0.5"
    )


# ------------------------------------------------------------------------------ errors


class HidesItsLayers(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = [nn.Linear(2, 2)]


ONE = [tc.tensor([1.0], requires_grad=True)]
WRONG: list[tuple[Any, type[Exception], str]] = [
    (lambda: optim.SGD(ONE, lr=-1), ValueError, "SGD: lr must be a number at least 0, got -1"),
    (lambda: optim.SGD(ONE, lr=math.nan), ValueError, "lr must be"),
    (lambda: optim.SGD(ONE, lr="0.1"), ValueError, "lr must be a number at least 0, got '0.1'"),
    (lambda: optim.SGD([{"params": ONE, "lr": -2}]), ValueError, "lr must be .* got -2"),
    (lambda: optim.SGD(ONE, momentum=-0.1), ValueError, "momentum must be"),
    (lambda: optim.SGD(ONE, weight_decay=-0.1), ValueError, "weight_decay must be"),
    (lambda: optim.SGD(ONE, nesterov=True), ValueError, "nesterov .* needs momentum > 0"),
    (
        lambda: optim.SGD(ONE, nesterov=True, momentum=0.9, dampening=0.1),
        ValueError,
        "dampening=0.1",
    ),
    (lambda: optim.Adam(ONE, betas=(0.9, 1.0)), ValueError, r"betas\[1\] must be .* got 1.0"),
    (lambda: optim.AdamW(ONE, eps=-1), ValueError, "AdamW: eps must be"),
    (
        lambda: optim.RMSprop(ONE, alpha=1.5),
        ValueError,
        "alpha must be a number from 0 to 1, got 1.5",
    ),
    (lambda: optim.SGD([]), ValueError, "no parameters"),
    (
        lambda: optim.SGD(HidesItsLayers().parameters()),
        ValueError,
        "Layers in a Python list are not seen: use nn.ModuleList",
    ),
    (
        lambda: optim.SGD(nn.Linear(2, 2)),
        TypeError,
        r"params is a Linear.* pass model.parameters\(\)",
    ),
    (
        lambda: optim.SGD(nn.Linear(2, 2).parameters),
        TypeError,
        r"params is a method.* pass model.parameters\(\)",
    ),
    (
        lambda: optim.SGD(nn.Sequential(nn.Linear(2, 2))),
        TypeError,
        r"parameter 0 is a Linear.* pass model.parameters\(\)",
    ),
    (lambda: optim.SGD(ONE[0]), TypeError, "put it in a list"),
    (lambda: optim.SGD([1.0]), TypeError, "parameter 0 is a float"),
    (lambda: optim.SGD([("w", ONE[0])]), TypeError, "pass model.parameters"),
    (lambda: optim.SGD([{"params": set(ONE)}]), TypeError, "no fixed order"),
    (lambda: optim.SGD([{"params": ONE}, ONE]), TypeError, "a group is a dict"),
    (lambda: optim.SGD(ONE + ONE), ValueError, r"parameter 1 \(1,\) appears twice"),
    (lambda: optim.SGD([{"params": ONE}, {"params": ONE}]), ValueError, "appears twice"),
    (lambda: optim.SGD([ONE[0] * 2]), tc.GraphError, r"was computed \(<op mul>\)"),
    (lambda: optim.OneCycleLR(ONE, 0.1, 3), TypeError, "OneCycleLR: expected an optimizer"),
    (lambda: optim.StepLR(ONE, 3), TypeError, "StepLR: expected an optimizer first, got a list"),
    (
        lambda: optim.StepLR(optim.SGD(ONE), 0),
        ValueError,
        "step_size must be a positive integer, got 0",
    ),
    (lambda: optim.LinearLR(optim.SGD(ONE), 0.0), ValueError, "start_factor"),
    (lambda: optim.LinearLR(optim.SGD(ONE), end_factor=2.0), ValueError, "end_factor"),
    (lambda: optim.OneCycleLR(optim.SGD(ONE), 0.1), ValueError, "how long is the cycle"),
    (
        lambda: optim.OneCycleLR(optim.SGD(ONE), 0.1, 10, pct_start=2),
        ValueError,
        "pct_start is a share",
    ),
    (lambda: optim.OneCycleLR(optim.SGD(ONE), 0.1, 10, anneal_strategy="exp"), ValueError, "'exp'"),
    (lambda: optim.OneCycleLR(optim.SGD(ONE), [0.1, 0.2], 10), ValueError, "max_lr has 2 values"),
]


@pytest.mark.parametrize(("make", "error", "message"), WRONG, ids=[w[2] for w in WRONG])
def test_wrong_arguments(make: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        make()


def test_a_rejected_group_leaves_the_optimizer_as_it_was() -> None:
    optimizer = optim.SGD(ONE)
    with pytest.raises(ValueError, match="twice"):
        optimizer.add_param_group({"params": ONE})
    assert len(optimizer.param_groups) == 1


def test_a_gradient_that_does_not_fit_is_an_error() -> None:
    w = tc.tensor([1.0, 2.0], requires_grad=True)
    optimizer = optim.SGD([w])
    with pytest.raises(tc.ShapeError, match=r"the value has shape \(1,\), x \(2,\)"):
        w.grad = tc.tensor([1.0])  # would broadcast
    with pytest.raises(tc.DTypeError, match="the value is float64, x float32"):
        w.grad = tc.zeros(2, dtype=tc.float64)
    w.grad = tc.zeros(2)
    w.data = tc.zeros(1)
    with pytest.raises(tc.ShapeError, match=r"parameter \(1,\) has a .grad \(2,\)"):
        optimizer.step()
    w.data = tc.zeros(2, dtype=tc.float64)
    with pytest.raises(tc.DTypeError, match="float64 parameter has a float32"):
        optimizer.step()


# ------------------------------------------------------------------------------ state_dict


@pytest.mark.parametrize(("name", "options"), CASES[1::4], ids=lambda v: str(v))
def test_a_loaded_optimizer_continues_bit_for_bit(
    name: str, options: dict[str, Any], tmp_path: Any
) -> None:
    make = getattr(optim, name)
    straight = parameters("float32")
    first = make(straight, lr=0.1, **options)
    for step in range(5):
        set_grads(straight, step)
        first.step()
    resumed = [tc.tensor(p.array, requires_grad=True) for p in straight]
    second = make(resumed, lr=7.0)
    io.save(first.state_dict(), tmp_path / "optimizer")
    second.load_state_dict(io.load(tmp_path / "optimizer"))
    assert second.param_groups[0]["lr"] == 0.1
    for step in range(5, 10):
        for params, optimizer in ((straight, first), (resumed, second)):
            set_grads(params, step)
            optimizer.step()
    for p, q in zip(straight, resumed, strict=True):
        np.testing.assert_array_equal(p.array, q.array)


@needs_torch
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("SGD", {"momentum": 0.9}),
        ("SGD", {"momentum": 0.9, "nesterov": True, "maximize": True}),
        ("SGD", {"momentum": 0.9, "dampening": 0.5, "weight_decay": 0.1}),
        *[(name, options) for name in ("Adam", "AdamW") for options in ADAM],
        *[("RMSprop", options) for options in RMSPROP],
    ],
)
def test_state_moves_to_pytorch_and_back(name: str, options: dict[str, Any]) -> None:
    params = parameters()
    others = twins(params)
    ours, theirs = getattr(optim, name)(params, **options), torch_of(name, others, options)
    for step in range(3):
        set_grads(params, step)
        copy_grads(params, others)
        theirs.step()
    saved = theirs.state_dict()
    state = {
        i: {k: tc.tensor(np.asarray(v)) for k, v in s.items()} for i, s in saved["state"].items()
    }
    ours.load_state_dict({"state": state, "param_groups": saved["param_groups"]})
    for p, q in zip(params, others, strict=True):
        p.array[...] = q.detach().numpy()
    ours_saved = ours.state_dict()
    assert ours_saved["param_groups"][0]["params"] == saved["param_groups"][0]["params"]
    assert {i: set(s) for i, s in ours_saved["state"].items()} == {
        i: set(s) for i, s in saved["state"].items()
    }
    back = {
        i: {k: torch.from_numpy(v.array.copy()) if hasattr(v, "array") else v for k, v in s.items()}
        for i, s in ours_saved["state"].items()
    }
    theirs.load_state_dict({"state": back, "param_groups": ours_saved["param_groups"]})
    for step in range(3, 6):
        set_grads(params, step)
        copy_grads(params, others)
        ours.step()
        theirs.step()
    assert_equal(params, others, 1e-12)


@needs_torch
@pytest.mark.parametrize("name", ["SGD", "Adam", "AdamW", "RMSprop"])
def test_a_fresh_state_moves_to_pytorch(name: str) -> None:
    """Made here, with the step as the number that it is here; PyTorch goes on."""
    params = parameters()
    options = {} if name.startswith("Adam") else {"momentum": 0.9}
    ours = getattr(optim, name)(params, lr=0.05, **options)
    for step in range(2):
        set_grads(params, step)
        ours.step()
    others = twins(params)
    theirs = torch_of(name, others, options)
    saved = ours.state_dict()
    saved["state"] = {
        i: {k: torch.from_numpy(v.array.copy()) if hasattr(v, "array") else v for k, v in s.items()}
        for i, s in saved["state"].items()
    }
    theirs.load_state_dict(saved)
    for step in range(2, 5):
        set_grads(params, step)
        copy_grads(params, others)
        ours.step()
        theirs.step()
    assert_equal(params, others, 1e-12)


def test_loading_copies_and_casts() -> None:
    params = parameters("float64")
    first = optim.Adam(params)
    set_grads(params, 0)
    first.step()
    single = parameters("float32")
    second = optim.Adam(single)
    second.load_state_dict(first.state_dict())
    loaded, own = second.state[single[0]]["exp_avg"], first.state[params[0]]["exp_avg"]
    assert loaded.dtype == tc.float32
    np.testing.assert_array_equal(loaded.array, own.array.astype("float32"))
    third = optim.Adam(params)
    third.load_state_dict(first.state_dict())
    assert not np.shares_memory(third.state[params[0]]["exp_avg"].array, own.array)
    assert optim.SGD(params).state_dict()["state"] == {}


def test_a_state_that_does_not_fit_is_an_error_and_changes_nothing() -> None:
    params = parameters()
    optimizer = optim.SGD(params, momentum=0.9)
    set_grads(params, 0)
    optimizer.step()
    saved = optimizer.state_dict()
    fewer = optim.SGD(params[:2], lr=0.5)
    with pytest.raises(
        ValueError, match=r"saved groups hold \[4\] parameters, this optimizer's \[2\]"
    ):
        fewer.load_state_dict(saved)
    turned = optim.SGD(params[::-1], lr=0.5)
    with pytest.raises(tc.ShapeError, match=r"momentum_buffer of parameter 0 has shape \(3, 4\)"):
        turned.load_state_dict(saved)
    assert turned.param_groups[0]["lr"] == 0.5


# ------------------------------------------------------------------------------ schedules


SCHEDULES: list[tuple[str, dict[str, Any]]] = [
    ("StepLR", {"step_size": 7}),
    ("StepLR", {"step_size": 1, "gamma": 0.95}),
    ("MultiStepLR", {"milestones": [3, 10, 10, 40], "gamma": 0.5}),
    ("MultiStepLR", {"milestones": [5]}),
    ("CosineAnnealingLR", {"T_max": 100}),
    ("CosineAnnealingLR", {"T_max": 13, "eta_min": 0.01}),
    ("CosineAnnealingLR", {"T_max": 1}),
    ("LinearLR", {}),
    ("LinearLR", {"start_factor": 0.01, "end_factor": 0.5, "total_iters": 30}),
    ("LinearLR", {"start_factor": 1.0, "end_factor": 0.0, "total_iters": 10}),
    *[
        (
            "OneCycleLR",
            {
                "max_lr": 0.4,
                "total_steps": 100,
                "anneal_strategy": a,
                "three_phase": t,
                "pct_start": p,
            },
        )
        for a in ("cos", "linear")
        for t in (False, True)
        for p in (0.3, 0.45, 0.0)
    ],
    (
        "OneCycleLR",
        {
            "max_lr": [0.4, 0.2],
            "epochs": 10,
            "steps_per_epoch": 11,
            "base_momentum": [0.8, 0.7],
            "max_momentum": 0.9,
            "div_factor": 10,
            "final_div_factor": 100,
        },
    ),
    ("OneCycleLR", {"max_lr": 0.4, "total_steps": 100, "cycle_momentum": False}),
]


def history(
    package: Any, params: list[Any], optimizer: str, name: str, options: dict[str, Any]
) -> list[Any]:
    groups = [{"params": params[:2]}, {"params": params[2:], "lr": 0.03}]
    made = getattr(package, optimizer)(groups, lr=0.1)
    schedule = getattr(getattr(package, "lr_scheduler", package), name)(made, **options)
    rows = []
    for _ in range(100):
        rows.append(
            [*schedule.get_last_lr()]
            + [g.get("momentum", g.get("betas", [0])) for g in made.param_groups]
        )
        made.step()
        schedule.step()
    return [np.hstack(row) for row in rows]


@needs_torch
@pytest.mark.parametrize("optimizer", ["SGD", "Adam"])
@pytest.mark.parametrize(("name", "options"), SCHEDULES, ids=lambda v: str(v))
def test_schedule_is_pytorchs(optimizer: str, name: str, options: dict[str, Any]) -> None:
    ours = history(optim, parameters(), optimizer, name, options)
    theirs = history(torch.optim, twins(parameters()), optimizer, name, options)
    np.testing.assert_allclose(ours, theirs, rtol=1e-12, atol=1e-15)


@needs_torch
def test_schedules_multiply_as_in_pytorch() -> None:
    def run(package: Any, schedules: Any, params: list[Any]) -> list[float]:
        optimizer = package.SGD(params, lr=0.1)
        chain = [
            schedules.LinearLR(optimizer, 0.1, total_iters=10),
            schedules.CosineAnnealingLR(optimizer, 60),
            schedules.StepLR(optimizer, 25),
        ]
        rates = []
        for _ in range(100):
            rates.append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            for schedule in chain:
                schedule.step()
        return rates

    expected = run(torch.optim, torch.optim.lr_scheduler, twins(parameters()))
    np.testing.assert_allclose(run(optim, optim, parameters()), expected, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize(("name", "options"), SCHEDULES[::2], ids=lambda v: str(v))
def test_a_loaded_schedule_continues(name: str, options: dict[str, Any], tmp_path: Any) -> None:
    def make() -> tuple[Any, Any]:
        params = parameters()
        optimizer = optim.SGD([{"params": params[:2]}, {"params": params[2:]}], lr=0.1)
        return optimizer, getattr(optim, name)(optimizer, **options)

    optimizer, schedule = make()
    for _ in range(17):
        schedule.step()
    io.save([optimizer.state_dict(), schedule.state_dict()], tmp_path / "state")
    other, resumed = make()
    for part, state in zip((other, resumed), io.load(tmp_path / "state"), strict=True):
        part.load_state_dict(state)
    for _ in range(40):
        assert resumed.get_last_lr() == schedule.get_last_lr()
        assert other.param_groups[0]["momentum"] == optimizer.param_groups[0]["momentum"]
        schedule.step()
        resumed.step()


def test_one_cycle_ends() -> None:
    schedule = optim.OneCycleLR(optim.SGD(ONE), 0.1, total_steps=5)
    for _ in range(5):
        schedule.step()
    with pytest.raises(ValueError, match="step 6 of a cycle of 5 steps"):
        schedule.step()


def test_one_cycle_with_a_warm_up_of_one_step() -> None:
    optimizer = optim.SGD(ONE)
    optim.OneCycleLR(optimizer, 0.4, total_steps=10, pct_start=0.1)
    assert optimizer.param_groups[0]["lr"] == 0.4


def test_a_group_added_later_follows_the_schedule() -> None:
    optimizer = optim.SGD(parameters()[:1], lr=0.1)
    schedule = optim.StepLR(optimizer, 1, gamma=0.5)
    optimizer.add_param_group({"params": parameters()[1:], "lr": 0.8})
    schedule.step()
    assert schedule.get_last_lr() == [0.05, 0.4]


def test_the_state_of_another_schedule_is_refused() -> None:
    optimizer = optim.SGD(ONE)
    with pytest.raises(
        ValueError, match="only one of the two has T_max, eta_min, gamma, step_size"
    ):
        optim.StepLR(optimizer, 3).load_state_dict(
            optim.CosineAnnealingLR(optimizer, 3).state_dict()
        )


# ------------------------------------------------------------------------------ clipping


@needs_torch
@pytest.mark.parametrize("norm_type", [2.0, 1.0, 3.0, math.inf])
@pytest.mark.parametrize("max_norm", [0.5, 1e6])
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_clip_grad_norm_is_pytorchs(norm_type: float, max_norm: float, dtype: str) -> None:
    params = parameters(dtype)
    others = twins(params)
    set_grads(params, 2)
    copy_grads(params, others)
    ours = optim.clip_grad_norm_(iter(params), max_norm, norm_type)
    theirs = torch.nn.utils.clip_grad_norm_(others, max_norm, norm_type)
    tolerance = 1e-12 if dtype == "float64" else 1e-6
    assert ours.shape == ()
    assert ours.dtype == dtype
    np.testing.assert_allclose(ours.item(), theirs.item(), rtol=tolerance)
    for p, q in zip(params, others, strict=True):
        assert (p.grad is None) == (q.grad is None)
        if p.grad is not None:
            assert p.grad.dtype == dtype
            np.testing.assert_allclose(p.grad.array, q.grad.numpy(), rtol=tolerance)


def test_clip_grad_norm_of_half_precision_does_not_overflow() -> None:
    w = tc.zeros(2, dtype=tc.float16, requires_grad=True)
    w.grad = tc.tensor([3000.0, 4000.0], dtype=tc.float16)
    assert optim.clip_grad_norm_(w, 5.0).item() == 5000.0
    assert w.grad.dtype == tc.float16
    np.testing.assert_allclose(w.grad.array, [3.0, 4.0], rtol=1e-3)


def test_clip_grad_norm_of_nothing_and_of_nan() -> None:
    params = parameters()
    assert optim.clip_grad_norm_(params, 1.0).item() == 0.0
    set_grads(params, 0)
    params[1].grad[0] = math.nan
    before = params[0].grad.array.copy()
    with pytest.raises(RuntimeError, match=r"norm of the gradients is nan: gradients \[1\] of 4"):
        optim.clip_grad_norm_(params, 1.0, error_if_nonfinite=True)
    np.testing.assert_array_equal(params[0].grad.array, before)
    assert math.isnan(optim.clip_grad_norm_(params, 1.0).item())


def test_clip_grad_value() -> None:
    params = parameters("float32")
    set_grads(params, 2)
    expected = [None if p.grad is None else p.grad.array.clip(-0.3, 0.3) for p in params]
    optim.clip_grad_value_(params, 0.3)
    for p, g in zip(params, expected, strict=True):
        assert (p.grad is None) == (g is None)
        if g is not None:
            assert p.grad.dtype == tc.float32
            np.testing.assert_array_equal(p.grad.array, g)


def test_parameters_whose_memory_is_exchanged_between_steps() -> None:
    """Addresses are remembered from step to step: for the arrays that they belong to."""
    p = tc.tensor([1.0, 2.0], requires_grad=True)
    optimizer = optim.SGD([p], lr=0.5, momentum=0.5)
    for _ in range(2):
        before = p.array
        p.array = before.copy()
        p.grad = tc.tensor([1.0, 1.0])
        optimizer.step()
        assert (p.array < before).all()
    np.testing.assert_allclose(p.array, [1 - 0.5 - 0.75, 2 - 0.5 - 0.75])
    optimizer.state[p]["momentum_buffer"] = tc.zeros(2)
    p.grad = tc.tensor([1.0, 1.0])
    optimizer.step()
    np.testing.assert_allclose(p.array, [-0.75, 0.25])


@pytest.mark.parametrize("saved", [optim.SGD, optim.Adam, optim.RMSprop])
@pytest.mark.parametrize("loaded", [optim.SGD, optim.Adam, optim.RMSprop])
def test_state_of_another_kind_is_refused(saved: Any, loaded: Any) -> None:
    m = nn.Linear(2, 2)
    first, second = saved(m.parameters(), lr=0.1), loaded(m.parameters(), lr=0.2)
    if saved is loaded:
        second.load_state_dict(first.state_dict())
        assert second.param_groups[0]["lr"] == 0.1
    else:
        with pytest.raises(ValueError, match="another kind of optimizer"):
            second.load_state_dict(first.state_dict())
        assert second.param_groups[0]["lr"] == 0.2
