"""What the ranks of test_dist.py do: ``mpiexec -n 2 python dist_ranks.py NAME[+NAME...]
[ARGUMENT ...]``.

A failed assertion on any rank ends all of them with its traceback.
"""

import itertools
import os
import signal
import sys
import time

import numpy as np
import pytest

import tinyconv as tc
from tinyconv import cli, data, dist, nn, optim, train
from tinyconv.dist.world import world
from tinyconv.nn import functional as F

RANK, SIZE = dist.shard()
CASES = {}


def case(function):
    CASES[function.__name__] = function
    return function


def batch(n=8, dtype=np.float64, mean=0.0):
    """The same on every rank, and this rank's part of it."""
    rng = np.random.default_rng(0)
    images = tc.tensor((mean + rng.standard_normal((n, 2, 8, 8))).astype(dtype))
    labels = tc.tensor(rng.integers(0, 10, n))
    part = slice(RANK * n // SIZE, (RANK + 1) * n // SIZE)
    return images, labels, part


class Block(nn.Module):
    """A network with a norm alone, a norm before a ReLU, and one before a sum and a ReLU."""

    def __init__(self, norm=True):
        super().__init__()
        make = nn.BatchNorm2d if norm else nn.Identity
        self.conv0, self.bn0 = nn.Conv2d(2, 4, 3, padding=1), make(4)
        self.conv1, self.bn1 = nn.Conv2d(4, 4, 3, padding=1), make(4)
        self.conv2, self.bn2 = nn.Conv2d(4, 4, 3, padding=1), make(4)
        self.relu, self.last = nn.ReLU(), nn.Linear(4 * 64, 10)

    def forward(self, x):
        x = self.bn0(self.conv0(x)).tanh()
        y = nn.norm.norm_relu(self.bn1, self.relu, self.conv1(x))
        y = nn.norm.norm_relu(self.bn2, self.relu, self.conv2(y), x)
        return self.last(y.flatten(1))


def twins(norm=True, dtype=tc.float64, sync=True):
    """A network as the ranks have it, and the same for a whole batch on one machine."""
    tc.manual_seed(RANK)
    ours = Block(norm).to(dtype)
    dist.broadcast_state(ours, src=SIZE - 1)
    whole = Block(norm).to(dtype)
    whole.load_state_dict(ours.state_dict())
    return (dist.SyncBatchNorm.convert_sync_batchnorm(ours) if sync else ours), whole


def worst(ours, whole):
    """The largest difference, relative to the largest number."""
    pairs = list(zip(ours, whole, strict=True))
    top = max(np.abs(w.numpy()).max() for _, w in pairs)
    return max(np.abs(o.numpy() - w.numpy()).max() for o, w in pairs) / top


def grads(model):
    return [p.grad for p in model.parameters()]


@case
def half_batches():
    for dtype, bucket_mb in itertools.product((np.float32, np.float64), (1e-6, 1e-3, 4.0)):
        ours, whole = twins(norm=False, dtype=np.dtype(dtype))
        images, labels, part = batch(dtype=dtype)
        F.cross_entropy(ours(images[part]), labels[part]).backward()
        F.cross_entropy(whole(images), labels).backward()
        assert worst(grads(ours), grads(whole)) > 1e-2, "half a batch must not do by itself"
        dist.average_gradients(ours.parameters(), bucket_mb)
        assert worst(grads(ours), grads(whole)) < 1e-6
        assert all(g.dtype == dtype for g in grads(ours))
        # clipped after averaging, they are the whole batch's clipped gradients
        norm = optim.clip_grad_norm_(ours.parameters(), 0.01)
        assert np.isclose(norm.item(), optim.clip_grad_norm_(whole.parameters(), 0.01).item())
        assert worst(grads(ours), grads(whole)) < 1e-6


@case
def norms():
    for dtype, mean, within in (
        (tc.float64, 0.0, 1e-12),
        (tc.float64, 1e4, 1e-9),
        (tc.float32, 0.0, 1e-5),
    ):
        images, labels, part = batch(dtype=dtype, mean=mean)
        errors = []
        for sync in (True, False):
            ours, whole = twins(dtype=dtype, sync=sync)
            F.cross_entropy(ours(images[part]), labels[part]).backward()
            dist.average_gradients(ours.parameters())
            F.cross_entropy(whole(images), labels).backward()
            errors.append(
                max(worst(grads(ours), grads(whole)), worst([*ours.buffers()], [*whole.buffers()]))
            )
        assert errors[0] < within < errors[1], (dtype, mean, errors)
        ours, whole = twins(dtype=dtype)
        with tc.no_grad():
            assert worst([ours.eval()(images)], [whole.eval()(images)]) == 0


def penalty(model, images, labels):
    """The squared norm of the images' gradient, by double backward."""
    loss = F.cross_entropy(model(images), labels, reduction="sum")
    (g,) = tc.grad(loss, images, create_graph=True)
    return (g * g).sum()


@case
def second_order():
    images, labels, part = batch()
    errors = []
    for sync in (True, False):
        ours, whole = twins(sync=sync)
        half = tc.tensor(images.numpy()[part], requires_grad=True)
        full = tc.tensor(images.numpy(), requires_grad=True)
        own, all_of_it = penalty(ours, half, labels[part]), penalty(whole, full, labels)
        assert not sync or np.isclose(dist.total(own.item())[0], all_of_it.item(), rtol=1e-10)
        own.backward()
        all_of_it.backward()
        for p in ours.parameters():
            dist.all_reduce(p.grad)
        errors.append(max(worst(grads(ours), grads(whole)), worst([half.grad], [full.grad[part]])))
    assert errors[0] < 1e-10 < 1e-3 < errors[1], errors


@case
def all_reduce_derivatives():
    """Of the sum of all ranks' (rank + 1) * y^3, where y is the sum of all x."""
    x = tc.tensor(np.arange(6.0).reshape(2, 3) + RANK, requires_grad=True)
    y = dist.functional.all_reduce(x)
    expected = sum(np.arange(6.0).reshape(2, 3) + rank for rank in range(SIZE))
    np.testing.assert_allclose(y.detach().numpy(), expected)
    weights = SIZE * (SIZE + 1) / 2
    (first,) = tc.grad(((RANK + 1) * y**3).sum(), x, create_graph=True)
    np.testing.assert_allclose(first.detach().numpy(), weights * 3 * expected**2)
    (second,) = tc.grad(first.sum(), x, create_graph=True)
    np.testing.assert_allclose(second.detach().numpy(), weights * SIZE * 6 * expected)
    (third,) = tc.grad(second.sum(), x)
    np.testing.assert_allclose(third.numpy(), np.full((2, 3), weights * SIZE**2 * 6))


@case
def in_place():
    ranks = np.arange(SIZE)
    for dtype in (np.float16, np.float32, np.float64, np.int64, np.uint8):
        for op, expected in (("sum", ranks.sum()), ("min", 0), ("max", SIZE - 1)):
            x = tc.tensor(np.full((2, 3), RANK, dtype))
            assert dist.all_reduce(x, op) is x
            assert x.dtype == dtype
            assert (x.numpy() == expected).all()
    x = tc.tensor(float(RANK))
    assert dist.all_reduce(x, "mean").item() == ranks.mean()
    assert x.shape == ()
    x = tc.tensor(np.arange(24.0).reshape(2, 3, 2, 2).transpose(0, 2, 3, 1) * (RANK + 1))
    expected = x.numpy() / (RANK + 1) * (ranks + 1).sum()
    np.testing.assert_array_equal(dist.all_reduce(x).numpy(), expected)
    for dtype in (np.float16, np.bool_, np.int64):
        x = tc.tensor(np.array([RANK, 1], dtype))
        assert (dist.broadcast(x, SIZE - 1).numpy() == np.array([SIZE - 1, 1], dtype)).all()
    assert dist.broadcast_object({"rank": RANK}, src=1) == {"rank": 1}
    assert dist.total(RANK, 0.5) == [ranks.sum(), SIZE / 2]


@case
def many_steps():
    ours, _ = twins(dtype=tc.float32)
    images, labels, _ = batch(32, np.float32)
    loader = data.DataLoader(
        data.TensorDataset(images, labels), 8, shuffle=True, seed=1, shard=dist.shard()
    )
    optimizer = optim.SGD(ours.parameters(), 0.1, momentum=0.9, weight_decay=1e-3)
    for _ in range(15):
        for x, y in loader:
            optimizer.zero_grad()
            F.cross_entropy(ours(x), y).backward()
            dist.average_gradients(ours.parameters(), 1e-3)
            optim.clip_grad_norm_(ours.parameters(), 1.0)
            optimizer.step()
    dist.check_identical(ours)
    with tc.no_grad():
        bits = ours.conv1.weight.array.view(np.uint32)
        bits.flat[5] ^= RANK  # the last bit of one number, on one rank
    with pytest.raises(dist.DistError, match=r"conv1.weight \(and 0 more"):
        dist.check_identical(ours)


@case
def evaluation():
    """A test set that the ranks cannot share out evenly."""
    images, labels, _ = batch(17)
    model = twins()[0]
    loss, accuracy = train.evaluate(model, data.TensorDataset(images, labels), 4)
    logits = model.eval()(images)
    assert np.isclose(loss, F.cross_entropy(logits, labels).item())
    assert np.isclose(accuracy, 100 * (logits.argmax(1) == labels).float().mean().item())


@case
def thread_count():
    found = world().gather_objects(tc.get_num_threads())
    if RANK == 0:
        print(*found, flush=True)


# --- what must fail, on every rank and at once


@case
def uneven_batches():
    model = dist.SyncBatchNorm(2)
    model(tc.zeros(2 + RANK, 2, 3, 3) + 1.0)


@case
def missing_gradient():
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    model(tc.ones(1, 2)).sum().backward()
    if RANK == 1:
        model[1].bias.grad = None
    dist.average_gradients(model.parameters())


@case
def one_fails(how):
    dist.barrier()
    if RANK == 1:
        if how == "raise":
            raise ValueError("here is the fault")
        if how == "exit":
            sys.exit(3)
        if how == "end":
            return
        if how == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if how == "interrupt":
            raise KeyboardInterrupt
    dist.total(1)


@case
def all_fail():
    raise ValueError("the same everywhere")


@case
def one_is_late():
    """No failure: a rank that has done its part may end before the others."""
    dist.barrier()
    if RANK == 0:
        time.sleep(1.5)
        print("late", flush=True)


# --- the command line


class Few(data.MNIST):
    def __init__(self, train=True, source="sample"):
        super().__init__(train=train, source="sample")
        self.images, self.labels = self.images[:96], self.labels[:96]


class Exact(Few):
    def __getitems__(self, indices):
        images, labels = super().__getitems__(indices)
        return images.astype(np.float64), labels


def without_rounding():
    """float64, for in float32 rounding soon opens or shuts a ReLU somewhere; and no random shifts,

    which are drawn for each rank.
    """
    plain = train.MODELS["resnet8"]
    train.DATASETS["mnist"] = Exact
    train.MODELS["resnet8"] = lambda **options: plain(**options).to(tc.float64)
    train.Trainer._shift = lambda self, images, rng: images
    train.Trainer.draw_graph = lambda self: None  # on float32 zeros


@case
def command(*arguments):
    train.DATASETS["mnist"] = Few
    arguments = list(arguments)
    if arguments[0].startswith("stop="):  # the second rank is told to end, in the given step
        last = int(arguments.pop(0).removeprefix("stop="))
        plain, taken = train.Trainer.step, itertools.count(1)

        def step(self, images, labels):
            if next(taken) == last and RANK == 1:
                os.kill(os.getpid(), signal.SIGTERM)
            return plain(self, images, labels)

        train.Trainer.step = step
    if arguments[0] == "exact":
        arguments.pop(0)
        without_rounding()
    sys.exit(cli.main(["train", "mnist", "--epochs", "2", *arguments]))


if __name__ == "__main__":
    assert SIZE == 1 or world().size == SIZE
    for name in sys.argv[1].split("+"):
        CASES[name](*sys.argv[2:])
