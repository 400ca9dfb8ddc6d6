"""The tape: every contribution, in an order that is topological, with the norms of gradients."""

import threading

import numpy as np
import pytest

import tinyconv as tc
from tinyconv import nn
from tinyconv.context import context
from tinyconv.see.tape import Tape, record


def norm(tensor):
    return float(np.linalg.norm(tensor.array))


def diamond():
    x = tc.tensor([1.0, 2.0, 3.0], requires_grad=True)
    y = x * x
    return x, y, (y + y * x).sum()


def test_contributions_in_order():
    x, _, loss = diamond()
    with tc.record({"x": x}) as tape:
        loss.backward()
    sent = [(one.kind, one.source, one.target, one.order) for one in tape]
    assert sent == [
        ("start", "", "sum %1", 1),
        ("send", "sum %1", "add %2", 1),
        ("send", "add %2", "mul %3", 1),
        ("send", "add %2", "mul %4", 1),
        ("send", "mul %4", "mul %3", 2),
        ("send", "mul %4", "x", 1),
        ("send", "mul %3", "x", 2),
        ("send", "mul %3", "x", 3),
        ("store", "", "x.grad", 1),
    ]
    # d/dx of x^2 + x^3, and its parts: y dx, then twice x (1 + x) dx
    parts = [np.array([1.0, 4, 9]), np.array([2.0, 6, 12]), np.array([2.0, 6, 12])]
    assert [one.norm for one in tape.to("x")] == pytest.approx(list(map(np.linalg.norm, parts)))
    assert tape[-1].norm == pytest.approx(norm(x.grad)) == pytest.approx(np.linalg.norm(sum(parts)))
    assert tape.to("x")[-1].total == tape[-1].norm


def test_a_node_sends_only_when_all_has_come():
    model = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.Residual(nn.Conv2d(4, 4, 3, padding=1)))
    y = model(tc.randn(2, 1, 6, 6))
    with tc.record(model) as tape:
        (y * y).sum().backward()
    for i, one in enumerate(tape):
        later = {later.target for later in tape.contributions[i:]}
        assert one.source == "" or one.source not in later


def test_that_check_finds_a_wrong_order():
    x, _, loss = diamond()
    with tc.record({"x": x}) as tape:
        loss.backward()
    tape.contributions.insert(0, tape.contributions.pop(6))  # mul %3 before its second share
    late = [one for i, one in enumerate(tape)
            if one.source and one.source in {o.target for o in tape.contributions[i:]}]  # fmt: skip
    assert late


def test_names_are_paths():
    model = nn.resnet.resnet8()
    loss = model(tc.randn(2, 1, 28, 28)).sum()
    with tc.record(model) as tape:
        loss.backward()
    grads = {name: norm(p.grad) for name, p in model.named_parameters()}
    stored = {one.target.removesuffix(".grad"): one.norm for one in tape if one.kind == "store"}
    assert stored == pytest.approx(grads)
    assert any(one.target.startswith("layer1.0.conv1: conv2d") for one in tape)


def test_text_answers_the_two_questions():
    x, _, loss = diamond()
    with tc.record({"x": x}) as tape:
        loss.backward()
        (x * 2).sum().backward()
    text = str(tape)
    assert "mul %3: its gradient is complete, 2 contributions came" in text
    assert "x  (3,)  norm 13.56, added as number 3" in text
    assert "x.grad  (3,)  norm 3.464, added to the .grad that was there: norm 39.97" in text
    assert text.count("backward pass") == 2
    assert tape[-1].accumulated
    assert tape[-1].total == pytest.approx(norm(x.grad))
    assert "-&gt;" in tape._repr_html_()


def test_leaves_without_names():
    with tc.record() as tape:
        nn.Residual(nn.Conv2d(1, 1, 3, padding=1, bias=False))(
            tc.randn(1, 1, 4, 4, requires_grad=True)
        ).sum().backward()
    assert {one.target for one in tape if one.kind == "store"} == {
        "leaf 1.grad", "parameter 1 of branch.grad",
    }  # fmt: skip


def test_grad_and_double_backward():
    x, _, loss = diamond()
    with tc.record({"x": x}) as tape:
        (dx,) = tc.grad(loss, x, create_graph=True)
        tc.grad(dx.sum(), x)
    assert not any(one.kind == "store" for one in tape)
    assert sum(one.kind == "start" for one in tape) == 2
    assert tape.to("x")[2].total == pytest.approx(norm(dx))


def test_recording_changes_nothing():
    grads = []
    for recorded in (False, True):
        tc.manual_seed(0)
        model = nn.resnet.resnet8()
        loss = model(tc.randn(2, 1, 28, 28)).sum()
        if recorded:
            with tc.record():
                loss.backward()
        else:
            loss.backward()
        grads.append([p.grad.array.copy() for p in model.parameters()])
    for a, b in zip(*grads, strict=True):
        np.testing.assert_array_equal(a, b)
        assert a.dtype == np.float32


def test_only_inside_the_block():
    x, _, loss = diamond()
    with tc.record() as tape:
        pass
    loss.backward()
    assert len(tape) == 0
    assert "nothing was recorded" in str(tape)
    assert context.tape is None
    with pytest.raises(ZeroDivisionError), tc.record():
        raise ZeroDivisionError
    assert context.tape is None
    assert x.grad is not None


def test_nested_and_other_threads():
    with tc.record() as outer:
        diamond()[2].backward()
        before = len(outer)
        with tc.record() as inner:
            diamond()[2].backward()
        thread = threading.Thread(target=lambda: diamond()[2].backward())
        thread.start()
        thread.join()
        assert (len(outer), len(inner)) == (before, before)
        assert context.tape is outer


def test_the_tape_holds_no_graph():
    x, _, loss = diamond()
    with tc.record({"x": x}) as tape:
        loss.backward()
    assert isinstance(tape, Tape)
    assert not tape._leaves
    assert not tape._numbers


def test_bad_names():
    with pytest.raises(TypeError, match="'x'"):
        record({"x": 3})
