"""tinyconv against PyTorch's own databases, and the checker against wrong answers."""

import re
from typing import Any

import numpy as np
import pytest

import tinyconv as tc

torch = pytest.importorskip("torch")

import torch_db as db  # noqa: E402
from torch.testing._internal.opinfo.core import ErrorInput, SampleInput  # noqa: E402

OPERATIONS = {db.entry_name(info): info for info in db.entries()}
MODULES = {info.name: info for info in db.modules()}
OPTIMIZERS = {info.name: info for info in db.optimizers()}

# The quick selection: float32 and float64 as they lie in memory, one other layout, few samples.
QUICK = {"layouts": ("plain", "negative"), "most": 3}


def complain(outcomes: Any) -> None:
    failures = [outcome.line() for outcome in outcomes if outcome.kind in db.FAILURES]
    assert not failures, f"{len(failures)} failures:\n" + "\n".join(failures[:20])


@pytest.mark.parametrize("name", OPERATIONS)
def test_operation(name: str) -> None:
    complain(db.check_operation(OPERATIONS[name], (*db.FLOATS, torch.int64), **QUICK))


@pytest.mark.parametrize("name", MODULES)
def test_module(name: str) -> None:
    complain(db.check_module(MODULES[name], **QUICK))


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_optimizer(name: str) -> None:
    complain(db.check_optimizer(OPTIMIZERS[name]))


@pytest.mark.slow
@pytest.mark.parametrize("name", OPERATIONS)
def test_operation_in_every_dtype_and_layout(name: str) -> None:
    complain(db.check_operation(OPERATIONS[name]))


@pytest.mark.slow
@pytest.mark.parametrize("name", OPERATIONS)
def test_operation_on_reference_inputs(name: str) -> None:
    complain(db.check_operation(OPERATIONS[name], db.DTYPES, ("plain",), reference=True))


@pytest.mark.slow
@pytest.mark.parametrize("name", MODULES)
def test_module_in_every_layout(name: str) -> None:
    complain(db.check_module(MODULES[name]))


# --- the lists


def test_the_databases_are_not_empty() -> None:
    assert len(OPERATIONS) > 150
    assert len(MODULES) > 30
    assert {"SGD", "Adam", "AdamW", "RMSprop"} <= set(OPTIMIZERS)


def test_entries_are_mapped_by_rule() -> None:
    assert {"add", "conv2d", "max.binary", "std.unbiased", "T", "einsum", "where"} <= {
        name.removeprefix("nn.functional.") for name in OPERATIONS
    }
    forms = db.forms(OPERATIONS["add"])
    assert set(forms) == {"function", "method", "in place", "operator"}


@pytest.mark.parametrize("table", [db.REFUSALS, db.COMPUTED], ids=["refusals", "computed"])
def test_every_line_of_the_lists_has_a_reason(table: Any) -> None:
    for entry, message, reason in table:
        assert re.compile(entry)
        assert message
        assert len(reason) > 10


# --- the checker, on wrong answers

x = torch.tensor([[0.1, -0.4, 0.9], [1.5, -2.0, 0.3]], dtype=torch.float64)


def kind_of(ours: Any, theirs: Any = torch.tanh, sample: Any = None, layout: str = "plain") -> str:
    sample = SampleInput(x.clone()) if sample is None else sample
    return db.check_call("tanh", (theirs, ours), sample, layout).kind


@pytest.mark.parametrize("layout", db.LAYOUTS)
def test_a_right_answer_passes(layout: str) -> None:
    assert kind_of(tc.tanh, layout=layout) == "same"


@pytest.mark.parametrize(
    "wrong",
    [
        lambda x: tc.tanh(x) + 1e-3,
        lambda x: tc.tanh(x).float(),
        lambda x: tc.tanh(x)[:1],
        lambda x: (tc.tanh(x), tc.tanh(x)),
        lambda x: tc.tanh(x).array,
        lambda x: tc.tanh(x) * tc.tensor([[1.0, 1, float("nan")]] * 2).double(),
        lambda x: tc.from_numpy(np.ascontiguousarray(x.array).ravel("K").reshape(3, 2)),
    ],
    ids=["1e-3", "dtype", "shape", "two results", "an array", "nan", "layout"],
)
def test_a_wrong_answer_is_seen(wrong: Any) -> None:
    assert kind_of(wrong) == "wrong"


def test_a_wrong_answer_in_one_layout_is_seen() -> None:
    def reads_memory(x: Any) -> Any:
        return tc.tanh(tc.from_numpy(np.lib.stride_tricks.as_strided(x.array, x.shape, (24, 8))))

    assert kind_of(reads_memory) == "same"
    assert kind_of(reads_memory, layout="transposed") == "wrong"


def test_an_exception_of_numpy_is_a_crash() -> None:
    for function in (
        lambda x: x.array.sum(axis=5),
        lambda x: np.ones(2) + np.ones(3),
        lambda x: x.array.no_such_thing,
        lambda x: [][1],
        lambda x: tc.ops.reduce.np.concatenate([]),
    ):
        assert kind_of(function) == "crash"


def test_an_error_of_our_own_must_be_listed(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(x: Any) -> Any:
        return tc.zeros(2, 3).sum(7)

    assert kind_of(refuse) == "unlisted"
    monkeypatch.setattr(db, "REFUSALS", (("tanh", "dim 7", "because this test says so"),))
    assert kind_of(refuse) == "refused"


def test_no_error_where_one_is_due_is_seen() -> None:
    case = ErrorInput(SampleInput(x, args=(9,)), error_regex="")
    pair = (lambda x, dim: torch.sum(x, dim), lambda x, dim: tc.sum(x, 0))
    assert db.check_error("sum", pair, case).kind == "no error"
    assert db.check_error("sum", (pair[0], tc.sum), case).kind == "same"
    numpy = (pair[0], lambda x, dim: tc.from_numpy(x.array.sum(dim)))
    assert db.check_error("sum", numpy, case).kind == "crash"


def gradients_of(vjp: Any) -> str:
    """The kind of an operation whose forward is tanh's and whose derivative is ``vjp``."""

    @tc.op(name="planted")
    def planted(x: Any) -> Any:
        return np.tanh(x)

    planted.defvjp(vjp)
    info = OPERATIONS["tanh"]
    sample = SampleInput(x.clone().requires_grad_())
    found = db.check_gradients(info, "tanh", (torch.tanh, planted), sample, "plain")
    return f"{found.kind} {found.detail}"


def test_wrong_gradients_are_seen() -> None:
    assert gradients_of(lambda g, y, _x: g * (1 - y * y)) == "same "
    assert gradients_of(lambda g, y, _x: g * (1.001 - y * y)).startswith("wrong gradient 0")
    assert gradients_of(lambda g, y, _x: 0 * g).startswith("wrong gradient 0")


def test_wrong_second_gradients_are_seen() -> None:
    def constant(y: Any) -> Any:
        return y.detach() if isinstance(y, tc.Tensor) else y

    wrong = gradients_of(lambda g, y, _x: g * (1 - constant(y) * y))
    assert wrong.startswith("wrong second gradient 0")
    wrong = gradients_of(lambda g, y, _x: constant(g) * (1 - y * y))
    assert wrong.startswith("wrong second gradient 1")


def test_an_error_only_where_a_gradient_is_wanted_is_seen() -> None:
    def refuses(x: Any) -> Any:
        return tc.tanh(x) if not x.requires_grad else x.array[9]

    sample = SampleInput(x.clone().requires_grad_())
    pair = (torch.tanh, refuses)
    found = db.check_gradients(OPERATIONS["tanh"], "tanh", pair, sample, "plain")
    assert found.kind == "crash"


def test_an_output_without_a_graph_is_seen() -> None:
    sample = SampleInput(x.clone().requires_grad_())
    pair = (torch.tanh, lambda x: tc.tanh(x.detach()))
    found = db.check_gradients(OPERATIONS["tanh"], "tanh", pair, sample, "plain")
    assert found.kind == "wrong"


def test_a_wrong_module_and_a_wrong_optimizer_are_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    class ReLU(tc.nn.ReLU):
        def forward(self, x: Any) -> Any:
            return super().forward(x) * 1.001

    monkeypatch.setattr(tc.nn, "ReLU", ReLU)
    kinds = {o.kind for o in db.check_module(MODULES["nn.ReLU"], layouts=("plain",))}
    assert "wrong" in kinds

    class SGD(tc.optim.SGD):
        def step(self, closure: Any = None) -> Any:
            for group in self.param_groups:
                group["lr"] *= 1.001
            return super().step(closure)

    monkeypatch.setattr(tc.optim, "SGD", SGD)
    assert "wrong" in {o.kind for o in db.check_optimizer(OPTIMIZERS["SGD"])}
