"""Threads, signals, forks, planted folders: nothing hangs, crashes or changes a number."""

import asyncio
import os
import random
import signal
import stat
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tinyconv as tc
from tinyconv import io, nn, optim
from tinyconv.backend import CPU, WRITTEN, memory, threads
from tinyconv.backend.compiled import AVAILABLE
from tinyconv.train import Run

KINDS = ["numpy", "fast"]


def python(code: str, *arguments: str, timeout: float = 300, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        capture_output=True,
        text=True,
        timeout=timeout,
        env={**os.environ, **environment},
    )
    assert done.returncode == 0, (done.returncode, done.stderr[-3000:])
    return done.stdout


# ------------------------------------------------------------------------- one call, one count

RACE = """
import faulthandler, random, sys, threading, time
faulthandler.enable()
faulthandler.dump_traceback_later(280, exit=True)  # the first kernels are compiled
import numpy as np, tinyconv as tc
from tinyconv.nn import functional as F
tc.kernels(sys.argv[1])
tc.manual_seed(0)
cases = [
    (tc.randn(16, 16, 6, 6), tc.randn(256, 16, 3, 3), dict(stride=2, padding=1)),
    (tc.randn(32, 32, 5, 5), tc.randn(64, 32, 3, 3), dict(padding=1)),
    (tc.randn(5, 8, 40, 40), tc.randn(8, 1, 3, 3), dict(padding=1, groups=8)),
    (tc.randn(3, 4, 60, 60), tc.randn(8, 4, 5, 5), dict()),
]
def run(x, w, given):
    x, w = x.detach().requires_grad_(), w.detach().requires_grad_()
    y = F.conv2d(x, w, **given)
    z = F.batch_norm(F.max_pool2d(F.relu(y), 2), None, None, training=True)
    (y * y).sum().backward()  # not z's: where a maximum or ReLU decides, a rounding decides
    return [y.detach().numpy(), z.detach().numpy(), x.grad.numpy(), w.grad.numpy()]
tc.set_num_threads(1)
good = [run(*case) for case in cases]
faulthandler.dump_traceback_later(60, exit=True)
stop = False
def flip():
    rng = random.Random(0)
    while not stop:
        tc.set_num_threads(rng.choice((1, 2, 3, 16, 10**6)))
thread = threading.Thread(target=flip, daemon=True)
thread.start()
sys.setswitchinterval(1e-5)
end = time.time() + 2
n = 0
while time.time() < end:
    for case, right in zip(cases, good):
        for actual, expected in zip(run(*case), right):
            scale = np.abs(expected).max()
            assert np.abs(actual - expected).max() <= 2e-4 * scale
        n += 1
stop = True
thread.join()
print("calls", n)
"""


@pytest.mark.parametrize("kind", KINDS)
def test_the_thread_count_changes_while_kernels_run(kind: str) -> None:
    assert "calls" in python(RACE, kind)


@pytest.mark.parametrize("n", [10**6, 2**70])
def test_thread_counts_are_capped(n: int) -> None:
    before = tc.get_num_threads()
    try:
        tc.set_num_threads(n)
        assert tc.get_num_threads() == threads.most_threads()
    finally:
        tc.set_num_threads(before)


@pytest.mark.parametrize("n", ["4", 2.5, None, True])
def test_thread_counts_are_integers(n: Any) -> None:
    with pytest.raises(TypeError, match="set_num_threads"):
        tc.set_num_threads(n)


@pytest.mark.parametrize(
    ("given", "wanted"),
    [("100000", threads.most_threads()), ("3", 3), ("4,2", 4), *((bad, 0) for bad in
     ("abc", "-3", "0", "", "\u00b2", ","))],
)
def test_thread_counts_of_the_environment(given: str, wanted: int, monkeypatch: Any) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", given)
    assert threads._default_threads() == (wanted or len(threads.usable_cores()))


# ---------------------------------------------------------------------------- modes per call

MODES = [
    (tc.no_grad, False), (tc.inference_mode, False), (lambda: tc.set_grad_enabled(False), False),
    (tc.enable_grad, True), (lambda: tc.set_grad_enabled(True), True),
]


@pytest.mark.parametrize(("make", "inside"), MODES)
@pytest.mark.parametrize("how", ["decorated", "with"])
def test_two_threads_share_a_mode(make: Any, inside: bool, how: str) -> None:
    shared, seen = make(), {}
    first_is_in, second_is_in, first_is_out = (threading.Event() for _ in range(3))

    def body(first: bool) -> None:
        assert tc.is_grad_enabled() is inside
        (first_is_in if first else second_is_in).set()
        (second_is_in if first else first_is_out).wait(20)
        assert tc.is_grad_enabled() is inside

    decorated = shared(body) if how == "decorated" else None
    tc.set_grad_enabled(True)

    def call(first: bool, mode: bool) -> None:
        tc.set_grad_enabled(mode)
        if not first:
            first_is_in.wait(20)
        if decorated:
            decorated(first)
        else:
            with shared:
                body(first)
        seen[first] = tc.is_grad_enabled()
        first_is_out.set()

    workers = [threading.Thread(target=call, args=pair) for pair in ((True, False), (False, True))]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert seen == {True: False, False: True}
    assert tc.is_grad_enabled()


def test_recursion_and_reentry_of_one_mode() -> None:
    mode = tc.no_grad()

    @mode
    def count(n: int) -> int:
        assert not tc.is_grad_enabled()
        with tc.enable_grad():
            return 0 if n == 0 else 1 + count(n - 1)

    assert count(5) == 5
    with mode, tc.enable_grad(), mode:
        assert not tc.is_grad_enabled()
    assert tc.is_grad_enabled()


@pytest.mark.parametrize("bare", [tc.no_grad, tc.inference_mode])
def test_modes_decorate_without_parentheses(bare: Any) -> None:
    @bare
    def f() -> bool:
        return tc.is_grad_enabled()

    assert f() is False
    assert f.__name__ == "f"
    assert tc.is_grad_enabled()


def test_a_decorated_generator_has_the_mode_only_while_it_runs() -> None:
    inside = []

    @tc.no_grad()
    def numbers() -> Any:
        try:
            got = yield 1
            inside.append((tc.is_grad_enabled(), got))
            yield 2
        except ValueError:
            inside.append((tc.is_grad_enabled(), "thrown"))
            yield 3
        finally:
            inside.append((tc.is_grad_enabled(), "closed"))

    run = numbers()
    assert next(run) == 1
    assert tc.is_grad_enabled()
    assert run.send("sent") == 2
    assert run.throw(ValueError()) == 3
    assert tc.is_grad_enabled()
    run.close()
    assert inside == [(False, "sent"), (False, "thrown"), (False, "closed")]
    assert tc.is_grad_enabled()


def test_decorated_coroutines_and_async_generators() -> None:
    @tc.no_grad()
    async def evaluate() -> bool:
        await asyncio.sleep(0.01)
        return tc.is_grad_enabled()

    @tc.no_grad()
    async def batches() -> Any:
        for _ in range(3):
            await asyncio.sleep(0.001)
            yield tc.is_grad_enabled()

    async def train() -> list[bool]:
        seen = []
        for _ in range(20):
            await asyncio.sleep(0.001)
            seen.append(tc.is_grad_enabled())
        return seen

    async def all_of_it() -> list[Any]:
        async def collect() -> list[bool]:
            return [found async for found in batches()]

        return await asyncio.gather(evaluate(), train(), collect(), evaluate())

    first, trained, found, last = asyncio.run(all_of_it())
    assert not first
    assert not last
    assert all(trained)
    assert found == [False] * 3


def test_kernels_as_a_decorator_acts_during_the_call_only() -> None:
    before = CPU.choice

    @tc.kernels("naive")
    def f() -> str:
        return CPU.choice

    assert CPU.choice == before
    assert f() == "naive"
    assert CPU.choice == before


def test_kernels_of_functions_that_two_threads_call() -> None:
    before, choices = CPU.choice, []
    first_is_in, second_is_in, first_is_out = (threading.Event() for _ in range(3))

    @tc.kernels("naive")
    def first() -> None:
        first_is_in.set()
        second_is_in.wait(20)

    @tc.kernels("reference")
    def second() -> None:
        second_is_in.set()
        first_is_out.wait(20)
        choices.append(CPU.choice)

    def later() -> None:
        first_is_in.wait(20)
        second()

    worker = threading.Thread(target=later)
    worker.start()
    first()
    choices.append(CPU.choice)
    first_is_out.set()
    worker.join()
    assert choices == ["reference", "reference"]
    assert CPU.choice == before


def test_kernels_refuse_what_runs_in_steps() -> None:
    def generator() -> Any:
        yield 1

    async def coroutine() -> None: ...

    async def async_generator() -> Any:
        yield 1

    before = CPU.choice
    for function in (generator, coroutine, async_generator):
        with pytest.raises(TypeError, match="cannot come and go"):
            tc.kernels("naive")(function)
    assert CPU.choice == before


# ----------------------------------------------------------------------------- signals, forks

STORM = """
import faulthandler, os, random, signal, sys, time
import numpy as np, tinyconv as tc
from tinyconv import nn, optim
from tinyconv.nn import functional as F
faulthandler.enable()
kind, most, seconds, handles = sys.argv[1], int(sys.argv[2]), float(sys.argv[3]), sys.argv[4]
tc.kernels(kind)
tc.set_num_threads(2)
tc.manual_seed(0)
m = nn.Sequential(
    nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 16, 3, padding=1),
    nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(16 * 8 * 8, 10),
)
x, y = tc.randn(32, 1, 16, 16), tc.from_numpy(np.arange(32) % 10)
o = optim.SGD(m.parameters(), lr=0.0, momentum=0.9)
def step():
    tc.set_grad_enabled(True)
    o.zero_grad()
    l = F.cross_entropy(m(x), y)
    l.backward()
    o.step()
    return [l.item(), *(p.grad.numpy().copy() for p in m.parameters())]
def check(found):
    for a, b in zip(found, good):
        assert np.allclose(a, b, rtol=1e-4, atol=1e-6), "wrong number"
good = [step() for _ in range(4)][-1]
start = time.perf_counter()
[step() for _ in range(10)]
takes = (time.perf_counter() - start) / 10
cores = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else None
class Stop(KeyboardInterrupt): pass
small, w = tc.randn(32, 16, 14, 14), tc.randn(16, 16, 3, 3)
right = F.conv2d(small, w, padding=1).numpy().copy()
busy, wrong = [False], [0]
def handler(*_):
    if handles == "raise":
        raise Stop
    if not busy[0]:
        busy[0] = True
        with tc.no_grad():
            wrong[0] += not np.array_equal(F.conv2d(small, w, padding=1).numpy(), right)
        busy[0] = False
signal.signal(signal.SIGALRM, handler)
rng, end, n = random.Random(1), time.time() + seconds, 0
while n < most and time.time() < end:
    faulthandler.dump_traceback_later(60, exit=True)
    n += 1
    try:
        signal.setitimer(signal.ITIMER_REAL, rng.uniform(1e-5, 1.2 * takes))
        found = step()
        signal.setitimer(signal.ITIMER_REAL, 0)
        if handles != "raise":
            check(found)
    except Stop:
        pass
    signal.setitimer(signal.ITIMER_REAL, 0)
    if n % 10 == 0:
        check(step())
    if cores is not None:
        assert os.sched_getaffinity(0) == cores, "pinned"
for _ in range(20):
    check(step())
assert wrong[0] == 0
print("signals", n)
"""
needs_timer = pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="no timers here")


@needs_timer
@pytest.mark.parametrize("handles", ["raise", "compute"])
@pytest.mark.parametrize("kind", KINDS)
def test_signals_at_random_moments(kind: str, handles: str) -> None:
    assert "signals" in python(STORM, kind, "100000", "1.5", handles)


@needs_timer
@pytest.mark.slow
@pytest.mark.parametrize("handles", ["raise", "compute"])
@pytest.mark.parametrize("kind", KINDS)
def test_ten_thousand_signals(kind: str, handles: str) -> None:
    code = STORM.replace("(60,", "(200,")
    assert "signals 10000" in python(code, kind, "10000", "2000", handles, timeout=2100)


LINES = """
import faulthandler, sys
faulthandler.dump_traceback_later(60, exit=True)
import numpy as np, tinyconv as tc
from tinyconv.nn import functional as F
tc.kernels(sys.argv[1])
tc.set_num_threads(2)
x, w = tc.randn(32, 16, 28, 28), tc.randn(16, 16, 3, 3)
good = F.conv2d(x, w, padding=1).numpy().copy()
def stopped_at(line):
    count = 0
    def look(frame, event, arg):
        nonlocal count
        if "backend" not in frame.f_code.co_filename:
            return None
        count += event == "line"
        if event == "line" and count == line:
            sys.settrace(None)
            assert np.array_equal(F.conv2d(x, w, padding=1).numpy(), good), frame
        return look
    sys.settrace(look)
    try:
        found = F.conv2d(x, w, padding=1).numpy()
    finally:
        sys.settrace(None)
    assert np.array_equal(found, good), line
    return count >= line
line = 1
while stopped_at(line):
    line += 1
print("lines", line)
"""


@pytest.mark.parametrize("kind", KINDS)
def test_a_handler_computes_at_every_line_of_a_kernel(kind: str) -> None:
    assert int(python(LINES, kind).split()[-1]) > 100


def test_memory_survives_an_exception_at_every_step() -> None:
    """As a signal handler raises it: at each line of the code, one after the other."""
    for stop_at in range(1, 80):
        lender, count = memory.Memory(), [0]
        kept = [lender.empty((2**18,), np.uint8) for _ in range(3)]
        kept[1] = None

        def look(frame: Any, event: str, arg: Any, count: Any = count, at: int = stop_at) -> Any:
            if frame.f_code.co_filename != memory.__file__:
                return None
            if event == "line" and frame.f_code.co_name != "empty":  # there, only calls let one in
                count[0] += 1
                if count[0] == at:
                    raise KeyboardInterrupt
            return look

        before = sys.gettrace()
        sys.settrace(look)
        try:
            lender.empty((2**18,), np.uint8)
        except KeyboardInterrupt:
            pass
        finally:
            sys.settrace(before)
        again = [lender.empty((2**18,), np.uint8) for _ in range(4)]
        arrays = [kept[0], kept[2], *again]
        for i, a in enumerate(arrays):
            assert not any(np.shares_memory(a, b) for b in arrays[:i])
        del arrays, again, a
        kept.clear()
        last = lender.empty((2**18,), np.uint8)
        assert [loan() is last.base for loan in lender.loans.values()] == [True], stop_at


FORK = """
import os, sys, threading, warnings
warnings.simplefilter("ignore")
import numpy as np, tinyconv as tc
from tinyconv import data
from tinyconv.nn import functional as F
tc.kernels(sys.argv[1])
tc.set_num_threads(2)
x, w = tc.randn(16, 16, 14, 14), tc.randn(16, 16, 3, 3)
good = F.conv2d(x, w, padding=1).numpy().copy()
stop = False
def busy():
    while not stop:
        F.conv2d(x, w, padding=1)
thread = threading.Thread(target=busy)
thread.start()
batches = iter(data.DataLoader(np.arange(100), 10))
next(batches)
def child():
    import signal
    signal.alarm(30)
    for _ in range(3):
        if not np.array_equal(F.conv2d(x, w, padding=1).numpy(), good):
            return 1
    rest = [b.numpy() for b in batches]
    return int(not np.array_equal(np.concatenate(rest), np.arange(10, 100)))
for _ in range(10):
    pid = os.fork()
    if pid == 0:
        os._exit(child())
    assert os.waitpid(pid, 0)[1] == 0
stop = True
thread.join()
assert len(list(batches)) == 9
print("done")
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
@pytest.mark.parametrize("kind", KINDS)
def test_forks_while_a_thread_computes(kind: str) -> None:
    assert "done" in python(FORK, kind)


FORK_IN_HANDLER = """
import os, random, signal, sys, time, warnings
warnings.simplefilter("ignore")
import numpy as np, tinyconv as tc
from tinyconv.nn import functional as F
tc.kernels(sys.argv[1])
tc.set_num_threads(2)
x, w = tc.randn(32, 16, 28, 28), tc.randn(16, 16, 3, 3)
def compute():
    return F.conv2d(x, w, padding=1).numpy()
good, child = compute().copy(), False
def handler(*_):
    global child
    if pid := os.fork():
        assert os.waitpid(pid, 0)[1] == 0
    else:
        child = True
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(20)  # where it hangs
signal.signal(signal.SIGALRM, handler)
start = time.time()
compute()
rng, takes = random.Random(0), time.time() - start
while time.time() < start + 1.5:
    try:
        signal.setitimer(signal.ITIMER_REAL, rng.uniform(1e-5, 1.2 * takes))
        right = np.array_equal(compute(), good)
        if not child:
            signal.setitimer(signal.ITIMER_REAL, 0)
    except RuntimeError as error:
        right = child and "forked" in str(error)
    if child:
        os._exit(not (right and np.array_equal(compute(), good)))
    assert right
print("done")
"""


@needs_timer
@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
@pytest.mark.parametrize("kind", KINDS)
def test_forks_in_a_handler_amid_a_kernel(kind: str) -> None:
    """In the child the kernel's other threads are missing: it says so, or nothing was theirs."""
    assert "done" in python(FORK_IN_HANDLER, kind)


# -------------------------------------------------------------------------- read-only memory


def read_only(x: tc.Tensor, folder: Path) -> tc.Tensor:
    path = folder / f"{random.getrandbits(64)}.npy"
    np.save(path, x.detach().numpy())
    return tc.from_numpy(np.load(path, mmap_mode="r"))


@pytest.mark.parametrize("kind", [optim.SGD, optim.Adam, optim.RMSprop])
def test_a_step_on_a_memory_map_is_an_error(kind: Any, tmp_path: Path) -> None:
    m = nn.Linear(64, 64)
    m.weight = nn.Parameter(read_only(m.weight, tmp_path))
    optimizer = kind(m.parameters(), lr=0.1)
    m(tc.randn(8, 64)).sum().backward()
    with pytest.raises(tc.GraphError, match="read-only"):
        optimizer.step()
    with pytest.raises(tc.GraphError, match="read-only"):
        m.load_state_dict(nn.Linear(64, 64).state_dict())


@pytest.mark.parametrize(
    ("kind", "options", "name"),
    [(optim.SGD, {"momentum": 0.9}, "momentum_buffer"), (optim.Adam, {}, "exp_avg"),
     (optim.Adam, {}, "exp_avg_sq"), (optim.RMSprop, {}, "square_avg"),
     (optim.RMSprop, {"momentum": 0.9}, "momentum_buffer")],
)
def test_an_optimizers_state_in_a_memory_map_is_an_error(
    kind: Any, options: Any, name: str, tmp_path: Path
) -> None:
    m = nn.Linear(64, 64, bias=False)
    optimizer = kind(m.parameters(), lr=0.1, **options)
    m(tc.randn(8, 64)).sum().backward()
    optimizer.step()
    state = optimizer.state[m.weight]
    state[name] = read_only(state[name], tmp_path)
    before = m.weight.detach().clone()
    with pytest.raises(tc.GraphError, match="read-only"):
        optimizer.step()
    assert (m.weight == before).all()


def test_statistics_in_a_memory_map_can_be_traced(tmp_path: Path) -> None:
    m = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4)).eval()
    m[1].running_mean = read_only(m[1].running_mean, tmp_path)
    assert "BatchNorm2d" in tc.trace(m, tc.randn(2, 1, 8, 8)).text()


@pytest.mark.parametrize("name", ["running_mean", "running_var", "num_batches_tracked"])
def test_statistics_in_a_memory_map_are_not_moved(name: str, tmp_path: Path) -> None:
    m = nn.BatchNorm2d(8)
    setattr(m, name, read_only(getattr(m, name), tmp_path))
    with pytest.raises(tc.GraphError, match="read-only"):
        m(tc.randn(16, 8, 12, 12))


@pytest.mark.parametrize("kernel", WRITTEN)
@pytest.mark.parametrize("kind", [*KINDS, "reference"])
def test_every_kernel_that_writes_refuses_read_only_memory(kernel: str, kind: str) -> None:
    listed = kernel in ("adam", "sgd")

    def argument(frozen: bool) -> Any:
        x = np.ones(2**16, np.float32)
        x.flags.writeable = not frozen
        return [x] if listed else x

    for place in WRITTEN[kernel]:
        with tc.kernels(kind), pytest.raises(tc.GraphError, match="read-only"):
            getattr(CPU, kernel)(*(argument(i == place) for i in range(5)))


# ------------------------------------------------------------------------- the kernels' cache

CACHE = """
import sys, warnings
warnings.simplefilter("always")
import numpy as np
from tinyconv.backend.compiled import elementwise, jit
from numba.core import event
x = np.ones(2**17, np.float32)
compiled = [0]
class Count(event.Listener):
    def on_start(self, event): compiled[0] += 1
    def on_end(self, event): pass
event.register("numba:compile", Count())
assert (elementwise.add(x, x) == 2).all()
print(compiled[0], jit.refusal())
"""
compiled = pytest.mark.skipif(not AVAILABLE, reason="Numba is not installed")


@compiled
def test_a_damaged_cache_is_compiled_anew(tmp_path: Path) -> None:
    cache = {"NUMBA_CACHE_DIR": str(tmp_path / "cache")}
    python(CACHE, **cache)
    (folder,) = (tmp_path / "cache").iterdir()
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    files = sorted(folder.iterdir())
    rng = random.Random(0)
    for i, file in enumerate(files):
        content = bytearray(file.read_bytes())
        place = rng.randrange(len(content))
        content[place] ^= 1 + rng.randrange(255)
        other = files[(i + 2) % len(files)].read_bytes()
        damaged = (bytes(content), content[:place], b"", other, b"cos\nsystem\n(S'exit'\ntR.")
        file.write_bytes(damaged[i % len(damaged)])
    if hasattr(os, "mkfifo"):
        files[0].unlink()
        os.mkfifo(files[0])
    assert int(python(CACHE, **cache).split()[0]) > 0
    assert int(python(CACHE, **cache).split()[0]) == 0


@compiled
@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="POSIX")
def test_a_cache_that_others_may_write_to_is_refused(tmp_path: Path) -> None:
    from tinyconv.backend.compiled import jit

    shared, inner = tmp_path / "shared", tmp_path / "shared" / "mine"
    inner.mkdir(parents=True)
    for place, mode in ((inner, 0o777), (shared, 0o777), (inner, 0o1777), (shared, 0o700)):
        shared.chmod(0o755)
        inner.chmod(0o755)
        place.chmod(mode)
        jit.cache_folder.cache_clear()
        jit.refusal.cache_clear()
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("NUMBA_CACHE_DIR", str(inner))
            refused = jit.refusal()
            folder = jit.cache_folder()
            assert (refused is None) == (mode != 0o777), (place, oct(mode), refused)
            if refused is None:
                folder.chmod(0o770)
                jit.refusal.cache_clear()
                assert "other users may write" in (jit.refusal() or "")
                folder.chmod(0o700)
    jit.cache_folder.cache_clear()
    jit.refusal.cache_clear()


# --------------------------------------------------------------------------------- run folders


def test_planted_links_are_not_followed(tmp_path: Path) -> None:
    victim, folder = tmp_path / "victim", tmp_path / "run"
    victim.write_text("precious")
    folder.mkdir()
    names = ["config.json", "config.json.tmp", "metrics.jsonl", "metrics.jsonl.tmp", "report.html",
             "report.html.tmp", "model.safetensors", "checkpoint.safetensors", "graph.svg",
             "graph.dot", "graph.txt", "curves.png"]
    for name in names:
        (folder / name).symlink_to(victim)
    run, model = Run(folder), nn.Linear(2, 2)
    run.write_metrics([])
    run.write_report("<html>")
    run.write_weights(model)
    run.write_checkpoint(io.checkpoint(model=model))
    run.write_graph(tc.trace(model, tc.zeros(1, 2)))
    run._write("config.json", "{}")
    assert victim.read_text() == "precious"
    assert not (folder / "report.html").is_symlink()


def test_two_runs_never_share_a_folder(tmp_path: Path) -> None:
    numbers = [tmp_path / f"run-{n}" for n in range(20)]
    runs = [Run(numbers[0]) for _ in range(8)]
    barrier = threading.Barrier(len(runs))

    def claim(run: Run) -> None:
        barrier.wait()
        run.claim(False, numbers)

    workers = [threading.Thread(target=claim, args=(run,)) for run in runs]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert len({run.folder for run in runs}) == len(runs)
    for run in runs:
        run.release()


@pytest.mark.skipif(io.fcntl is None, reason="no locks here")
def test_a_folder_that_was_named_has_one_writer(tmp_path: Path) -> None:
    first, second = Run(tmp_path), Run(tmp_path)
    first.claim(False)
    for resume in (False, True):
        with pytest.raises(FileExistsError, match="another process is writing into"):
            second.claim(resume)
    first.release()
    second.claim(False)
    second.release()


@pytest.mark.skipif(io.fcntl is None, reason="no locks here")
def test_orphans_of_killed_saves_are_removed_and_those_of_living_ones_not(tmp_path: Path) -> None:
    code = f"""
import os, pathlib, signal
from tinyconv import io
os.fsync = lambda _: os.kill(os.getpid(), signal.SIGKILL)
io.write(pathlib.Path({str(tmp_path / "x")!r}), b"half")
"""
    killed = subprocess.run([sys.executable, "-c", code], timeout=100)
    assert killed.returncode == -signal.SIGKILL
    (orphan,) = tmp_path.iterdir()
    living, file = io._temporary(tmp_path / "x")
    io.write(tmp_path / "other", b"")
    assert orphan.exists()
    io.write(tmp_path / "x", b"whole")
    assert not orphan.exists()
    assert living.exists()
    file.close()
    io.remove_orphans(tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["other", "x"]


@pytest.mark.skipif(not hasattr(os, "fchmod"), reason="POSIX")
def test_modes_of_files_are_kept(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        path = tmp_path / "x"
        io.save({"w": tc.zeros(2)}, path)
        assert stat.S_IMODE(path.stat().st_mode) == 0o640
        path.chmod(0o600)
        io.save({"w": tc.zeros(2)}, path)
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    finally:
        os.umask(before)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="POSIX")
def test_a_pipe_is_written_to_and_not_replaced(tmp_path: Path) -> None:
    pipe, received = tmp_path / "pipe", tmp_path / "received"
    os.mkfifo(pipe)
    reader = threading.Thread(target=lambda: received.write_bytes(pipe.read_bytes()))
    reader.start()
    io.save({"w": tc.ones(2)}, pipe)
    assert pipe.is_fifo()
    reader.join()
    assert (io.load(received)["w"] == 1).all()


def test_what_contains_itself_is_not_saved(tmp_path: Path) -> None:
    cyclic: dict[str, Any] = {}
    cyclic["inner"] = [cyclic]
    with pytest.raises(ValueError, match="contains itself"):
        io.save(cyclic, tmp_path / "x")
    assert not list(tmp_path.iterdir())


@compiled
@pytest.mark.parametrize("height", [5, 31, 40, 56])
@pytest.mark.parametrize("groups", [1, 8])
def test_rows_behind_the_last_one_are_nobodys_gradient(height: int, groups: int) -> None:
    """Rows are added up in portions, and the last portion is a short one."""
    x, w = tc.randn(3, 8, height, 48), tc.randn(8, 8 // groups, 3, 3)
    found = []
    for kind, cast in (("reference", tc.float64), ("fast", tc.float32)):
        weight = w.to(cast).requires_grad_()
        with tc.kernels(kind):
            y = nn.functional.conv2d(x.to(cast), weight, padding=(1, 0), groups=groups)
            (y * y).sum().backward()
        found.append(weight.grad.numpy())
    np.testing.assert_allclose(found[1], found[0], rtol=0, atol=1e-5 * np.abs(found[0]).max())
