"""Data parallel: what two and three ranks compute is what one computes, and nobody hangs.

The ranks run the cases of dist_ranks.py.
"""

import importlib.util
import itertools
import json
import os
import re
import shutil
import subprocess
import sys
import time
import types
from pathlib import Path

import numpy as np
import pytest

import tinyconv as tc
from tinyconv import data, dist, io
from tinyconv.dist import gradients, world

RANKS = Path(__file__).with_name("dist_ranks.py")
beside_python = Path(sys.executable).with_name("mpiexec")
MPIEXEC = str(beside_python) if beside_python.exists() else shutil.which("mpiexec")
needs_mpi = pytest.mark.skipif(
    importlib.util.find_spec("mpi4py") is None or MPIEXEC is None,
    reason="mpi4py or mpiexec is missing: pip install mpi4py mpich",
)
LIMIT = 50  # seconds: a rank that hangs fails its test


def ranks(n, *arguments, folder=None, **environment):
    """Run a case on n ranks; environment: variables to set, None to unset."""
    variables = {**os.environ, "OMP_NUM_THREADS": "1", **environment}
    return subprocess.run(
        [MPIEXEC, "-n", str(n), sys.executable, str(RANKS), *map(str, arguments)],
        env={name: value for name, value in variables.items() if value is not None},
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=LIMIT,
    )


@needs_mpi
@pytest.mark.parametrize(
    ("n", "cases"),
    [
        (2, "half_batches+many_steps+norms+second_order"),
        (3, "all_reduce_derivatives+in_place+evaluation"),
    ],
)
def test_ranks_compute_what_one_computes(n, cases):
    done = ranks(n, cases)
    assert done.returncode == 0, done.stderr


@needs_mpi
@pytest.mark.parametrize(
    ("how", "said", "status"),
    [
        ("raise", "rank 1 of 3 fails:\nTraceback.*ValueError: here is the fault", 1),
        ("exit", "waits for rank 1, which has ended. Do all ranks take the same number of", 1),
        ("end", "waits for rank 1, which has ended. Do all ranks take the same number of", 1),
        ("kill", "", 9),
        ("interrupt", "KeyboardInterrupt", 130),
    ],
)
def test_a_rank_that_ends_ends_all(how, said, status):
    start = time.monotonic()
    done = ranks(3, "one_fails", how)
    assert done.returncode == status, done.stderr
    assert re.search(said, done.stderr, re.S), done.stderr
    assert time.monotonic() - start < LIMIT / 2


@needs_mpi
def test_a_fault_of_all_ranks_is_said_once():
    done = ranks(3, "all_fail")
    assert done.returncode == 1
    assert done.stderr.count("ValueError: the same everywhere") == 1


@needs_mpi
def test_a_rank_may_take_longer_at_the_end():
    done = ranks(3, "one_is_late")
    assert (done.returncode, done.stdout) == (0, "late\n"), done.stderr


@needs_mpi
@pytest.mark.parametrize(
    ("case", "said"),
    [
        ("uneven_batches", "deal batches out evenly: DataLoader(..., shard=dist.shard())"),
        (
            "missing_gradient",
            "of parameter 3 differ between the ranks (rank 0: ((2,), 'float32'); rank 1: no",
        ),
    ],
)
def test_ranks_that_do_not_do_the_same_are_told(case, said):
    done = ranks(2, case)
    assert done.returncode == 1
    assert said in done.stderr


@needs_mpi
def test_the_cores_are_shared_out():
    cores = len(os.sched_getaffinity(0))
    own = ranks(2, "thread_count", OMP_NUM_THREADS=None)
    assert own.stdout.split() == [str(max(1, cores // 2))] * 2
    assert ranks(2, "thread_count", OMP_NUM_THREADS="3").stdout.split() == ["3", "3"]


# --- the command line


def weights(folder):
    return {k: v.numpy() for k, v in io.load(folder / "model.safetensors").items()}


def rows(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


@needs_mpi
def test_a_stopped_run_goes_on_bit_for_bit(tmp_path):
    size = ("--batch-size", 16)
    whole = ranks(2, "command", *size, "--out", "whole", folder=tmp_path)
    assert whole.returncode == 0, whole.stderr
    assert whole.stdout.count("run folder whole") == 1, "one rank prints"
    assert whole.stdout.count("epoch 2/2") == 1
    files = {path.name for path in (tmp_path / "whole").iterdir()}
    assert files >= {"config.json", "metrics.jsonl", "report.html", "model.safetensors"}
    stopped = ranks(2, "command", "stop=4", *size, "--out", "parts", folder=tmp_path)
    assert stopped.returncode == 130, stopped.stderr
    assert "stopped after step 4 of epoch 1 and saved" in stopped.stdout
    resumed = ranks(2, "command", "--out", "parts", "--resume", folder=tmp_path)
    assert "resuming at step 5 of epoch 1" in resumed.stdout, resumed.stderr
    a, b = weights(tmp_path / "whole"), weights(tmp_path / "parts")
    for name in a:
        np.testing.assert_array_equal(a[name], b[name], err_msg=name)
    for one, other in zip(rows(tmp_path / "whole"), rows(tmp_path / "parts"), strict=True):
        assert one["train_loss"] == other["train_loss"]
        assert one["test_loss"] == other["test_loss"]


@needs_mpi
def test_two_ranks_train_as_one_does(tmp_path):
    for n in (1, 2):
        done = ranks(n, "command", "exact", "--batch-size", 48, "--out", n, folder=tmp_path)
        assert done.returncode == 0, done.stderr
    one, two = weights(tmp_path / "1"), weights(tmp_path / "2")
    for name in one:
        np.testing.assert_allclose(two[name], one[name], 1e-6, 1e-8, err_msg=name)
    for a, b in zip(rows(tmp_path / "1"), rows(tmp_path / "2"), strict=True):
        for figure in ("train_loss", "train_accuracy", "test_loss", "test_accuracy", "lr"):
            assert a[figure] == pytest.approx(b[figure], rel=1e-6)


@needs_mpi
def test_the_command_line_ends_all_ranks_with_one_line(tmp_path):
    uneven = ranks(2, "command", "--batch-size", 15, "--out", "a", folder=tmp_path)
    assert uneven.returncode == 2
    assert "a batch of 15 cannot be dealt out evenly to 2 processes" in uneven.stderr
    assert uneven.stderr.count("tinyconv: DataLoader") == 1
    missing = ranks(2, "command", "--resume", "--out", "nowhere", folder=tmp_path)
    assert missing.returncode == 2
    assert missing.stderr.count("there is no checkpoint in nowhere") == 1


# --- without MPI


def test_one_process_is_a_world_of_one():
    program = (
        "import sys, tinyconv as tc\n"
        "from tinyconv import dist\n"
        "assert dist.shard() == (0, 1)\n"
        "x = tc.ones(3, requires_grad=True)\n"
        "(dist.functional.all_reduce(x) ** 2).sum().backward()\n"
        "dist.average_gradients([x]); dist.all_reduce(x.detach()); dist.barrier()\n"
        "assert x.grad.tolist() == [2, 2, 2] and dist.total(1, 2.5) == [1, 2.5]\n"
        "dist.check_identical(dist.SyncBatchNorm(3))\n"
        "assert not {'mpi4py', 'cupy', 'cupyx'} & set(sys.modules)\n"
    )
    variables = {k: v for k, v in os.environ.items() if k not in world.SIZES}
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=variables,
        capture_output=True,
        text=True,
        timeout=LIMIT,
    )
    assert done.returncode == 0, done.stderr


@pytest.fixture
def unknown_world(monkeypatch):
    monkeypatch.setattr(world, "_world", None)


def test_ranks_without_mpi4py_do_not_train_each_for_itself(monkeypatch, unknown_world):
    monkeypatch.setenv("PMI_SIZE", "4")
    monkeypatch.setitem(sys.modules, "mpi4py", None)
    with pytest.raises(dist.DistError, match=r"4 processes were .* pip install mpi4py mpich"):
        dist.get_rank()


def test_the_mpiexec_of_another_mpi_is_found_out(monkeypatch, unknown_world):
    comm = types.SimpleNamespace(size=1)
    other = types.SimpleNamespace(COMM_WORLD=comm, get_vendor=lambda: ("Open MPI", (5, 0, 0)))
    monkeypatch.setitem(sys.modules, "mpi4py", types.SimpleNamespace(MPI=other))
    monkeypatch.setitem(sys.modules, "mpi4py.MPI", other)
    monkeypatch.setenv("PMI_SIZE", "4")
    with pytest.raises(dist.DistError, match=r"4 processes were started, .*Open MPI.* sees 1: "):
        dist.get_world_size()


class FakeNccl:
    """cupyx.distributed.NCCLBackend as far as it is called."""

    made: tuple = ()

    def __init__(self, size, rank, use_mpi):
        FakeNccl.made = (size, rank, use_mpi)
        self.calls = []

    def all_reduce(self, source, target, op):
        self.calls.append(("all_reduce", source is target, op))

    def broadcast(self, array, root):
        self.calls.append(("broadcast", root))


def test_nccl_takes_one_gpu_per_rank(monkeypatch):
    used = []
    cuda = types.SimpleNamespace(
        runtime=types.SimpleNamespace(getDeviceCount=lambda: 2),
        Device=lambda i: types.SimpleNamespace(use=lambda: used.append(i)),
    )
    monkeypatch.setitem(sys.modules, "cupy", types.SimpleNamespace(cuda=cuda))
    monkeypatch.setitem(sys.modules, "cupyx", types.ModuleType("cupyx"))
    monkeypatch.setitem(
        sys.modules, "cupyx.distributed", types.SimpleNamespace(NCCLBackend=FakeNccl)
    )
    world._choose_gpu(1)
    world._choose_gpu(2)  # is not there, and not needed if the arrays are NumPy's
    assert used == [1]
    nccl = world.Nccl(rank=5, size=8, local_rank=1)
    assert FakeNccl.made == (8, 5, True)
    nccl.all_reduce(object(), "sum")
    nccl.broadcast(object(), 3)
    assert nccl.backend.calls == [("all_reduce", True, "sum"), ("broadcast", 3)]
    with pytest.raises(dist.DistError, match=r"2 GPU.* start one rank per GPU"):
        world.Nccl(rank=5, size=8, local_rank=2)


def test_wrong_calls():
    x = tc.ones(2, requires_grad=True)
    with pytest.raises(ValueError, match="it is one of sum, mean, min, max"):
        dist.all_reduce(tc.ones(2), "product")
    with pytest.raises(tc.GraphError, match=r"dist.functional.all_reduce\(x\)"):
        dist.all_reduce(x * 2)
    with pytest.raises(ValueError, match=r"src is 1, the ranks are 0\.\.0"):
        dist.broadcast(tc.ones(2), 1)


def test_buckets_keep_the_order_and_the_size():
    grads = [tc.zeros(n) for n in (10, 20, 400, 5, 5, 30)]
    grads.insert(4, tc.zeros(5, dtype=tc.float64))
    buckets = list(gradients._buckets(grads, 4 * 40))
    assert [g for bucket in buckets for g in bucket] == grads
    assert [[g.numel() for g in b] for b in buckets] == [[10, 20], [400], [5], [5], [5, 30]]


def test_conversion_keeps_parameters_and_statistics():
    model = tc.nn.resnet.resnet8()
    before = {name: id(t) for name, t in [*model.named_parameters(), *model.named_buffers()]}
    names = list(model.state_dict())
    dist.SyncBatchNorm.convert_sync_batchnorm(model)
    after = {name: id(t) for name, t in [*model.named_parameters(), *model.named_buffers()]}
    assert after == before
    assert list(model.state_dict()) == names
    kinds = {type(m).__name__ for m in model.modules() if "Norm" in type(m).__name__}
    assert kinds == {"SyncBatchNorm"}


# --- the figures


def test_the_figures_of_the_page_are_the_scripts():
    root = Path(__file__).parent.parent
    printed = set()
    for norm in ("sync", "local"):
        for network in ((), ("--latency-us", "20", "--gbit", "10")):
            command = ["benchmarks/scaling.py", "--read", f"docs/scaling_{norm}.json", *network]
            done = subprocess.run(
                [sys.executable, *command], cwd=root, capture_output=True, text=True, timeout=LIMIT
            )
            assert done.returncode == 0, done.stderr
            printed.update(done.stdout.splitlines())
    page = (root / "docs" / "scaling.md").read_text().partition("## How far it pays")[2]
    quoted = {line for block in page.split("```")[1::2] for line in block.strip().splitlines()}
    quoted |= {line for line in page.splitlines() if line.startswith("|")}
    assert len(quoted) > 40
    assert quoted <= printed


# --- shards of batches


NUMBERS = data.TensorDataset(tc.arange(24))


def read(part, parts, **options):
    options = {"shuffle": True, "seed": 5, "batch_size": 6, **options}
    return data.DataLoader(NUMBERS, shard=(part, parts), **options)


@pytest.mark.parametrize("parts", [2, 3, 6])
def test_shards_make_up_the_batches_of_one(parts):
    loaders = [read(part, parts) for part in range(parts)]
    whole = read(0, 1)
    for _ in range(2):
        for together, *shards in zip(whole, *loaders, strict=True):
            assert {len(x) for (x,) in shards} == {6 // parts}
            joined = [int(n) for (x,) in shards for n in x.numpy()]
            assert joined == together[0].tolist()


def test_a_shard_goes_on_where_it_stopped():
    first = read(1, 2)
    batches = [x.tolist() for (x,) in itertools.chain(first, first)]
    again = read(1, 2)
    taken = [x.tolist() for (x,) in itertools.islice(iter(again), 3)]
    fresh = read(1, 2)
    fresh.load_state_dict({"seed": 5, "epoch": 0, "batch": 3})
    taken += [x.tolist() for (x,) in itertools.chain(fresh, fresh)]
    assert taken == batches


def test_each_shard_has_its_own_random_stream():
    def noisy(numbers, rng):
        return numbers * 0 + rng.integers(10**9, size=len(numbers))

    def drawn(part, parts):
        return next(iter(read(part, parts, transform=noisy)))[0].tolist()

    assert drawn(0, 2) == drawn(0, 2)
    assert not set(drawn(0, 2)) & set(drawn(1, 2))
    assert drawn(0, 1)[:3] == drawn(0, 2)  # the first draws what a process alone draws


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"parts": 4}, r"batch of 6 .* 4 processes: 6 = 4 \* 1 \+ 2; use batch_size=4 or 8$"),
        ({"parts": 8}, r"6 = 8 \* 0 \+ 6; use batch_size=8$"),
        (
            {"parts": 5, "batch_size": 10},
            r"last batch of 4 \(24 = 2 \* 10 \+ 4\) cannot .* pass drop_last=True$",
        ),
        ({"parts": 2, "seed": None}, r"pass the same seed= to every part"),
        ({"part": 2, "parts": 2}, r"shard is \(2, 2\); of n parts the first is \(0, n\)"),
    ],
)
def test_uneven_shards_are_refused(options, said):
    with pytest.raises(ValueError, match=said):
        read(**{"part": 0, **options})
    if "batch_size" in options:
        assert len(read(**{"part": 0, **options, "drop_last": True})) == 2
