"""Threads that share a kernel's blocks without the interpreter: no lock of its is ever waited for.

A Python thread that is handed work has to take the interpreter's lock first, from a thread that
is about to give it up: both sleep and wake for it, which takes longer than many a kernel runs.
Here a worker stays inside a compiled loop and takes its work from shared memory.

The caller posts a task: a compiled function, the packet of its arguments, and how many pieces the
blocks are cut into.  Whoever is free takes the next piece, the caller too; a worker that comes late
finds nothing left and nobody has waited for it.  Which blocks are summed together depends on the
number of pieces alone, hence on the thread count: bit-identical from run to run.
"""

from __future__ import annotations

import _thread
import ctypes
import itertools
import os
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, TypeAlias

import llvmlite.binding as llvm
import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from tinyconv.backend.compiled.jit import kernel
from tinyconv.backend.memory import LINE, aligned
from tinyconv.backend.threads import get_num_threads

WORTH = 2**16  # numbers below which another thread does not pay
MOMENT = 1e-3  # seconds that a worker watches for more, longer than Python takes between kernels
PER_THREAD = 4  # pieces: a core that is slow or busy takes fewer of them

# Where things are in the shared memory, in bytes; what is often written has its own cache line.
BUSY, TASK, DONE, FUNCTION, PACKET, BLOCKS, THREADS = 0, 64, 128, 192, 200, 208, 216
PIECE, PIECES, NUMBER = 1, 16, 32  # a task is one number: (number of the task, pieces, next piece)
MOST_PIECES = 2**15

POINTER, INT = ir.PointerType(), ir.IntType(64)


# ------------------------------------------------------------------- what Numba has no words for


def _job(context: Any) -> Any:
    """Numba's own type of a function of (packet, thread, piece, start, stop)."""
    return context.call_conv.get_function_type(types.none, (types.intp,) * 5)


@intrinsic
def load(typing, address):
    """The int64 at an address, which another thread may write."""

    def generate(context, builder, signature, args):
        return builder.load_atomic(builder.inttoptr(args[0], POINTER), "seq_cst", 8, typ=INT)

    return types.int64(types.intp), generate


@intrinsic
def store(typing, address, value):
    """Write an int64 that another thread may read."""

    def generate(context, builder, signature, args):
        builder.store_atomic(args[1], builder.inttoptr(args[0], INT.as_pointer()), "seq_cst", 8)
        return context.get_dummy_value()

    return types.void(types.intp, types.int64), generate


@intrinsic
def swap(typing, address, before, after):
    """Write `after` if the int64 at an address is `before`, at one go; was it?"""

    def generate(context, builder, signature, args):
        pointer = builder.inttoptr(args[0], INT.as_pointer())
        found = builder.cmpxchg(pointer, args[1], args[2], "seq_cst", "seq_cst")
        return builder.extract_value(found, 1)

    return types.boolean(types.intp, types.int64, types.int64), generate


@intrinsic
def count_up(typing, address):
    """Add 1 to the int64 at an address, at one go."""

    def generate(context, builder, signature, args):
        pointer = builder.inttoptr(args[0], INT.as_pointer())
        builder.atomic_rmw("add", pointer, INT(1), "seq_cst")
        return context.get_dummy_value()

    return types.void(types.intp), generate


@intrinsic
def pause(typing):
    """A moment's rest for the core while it watches for another thread."""

    def generate(context, builder, signature, args):
        if llvm.get_process_triple().partition("-")[0] == "x86_64":
            kind = ir.FunctionType(ir.VoidType(), [])
            function = cgutils.get_or_insert_function(builder.module, kind, "llvm.x86.sse2.pause")
            builder.call(function, [])
        return context.get_dummy_value()

    return types.void(), generate


@intrinsic
def call(typing, function, packet, thread, piece, start, stop):
    """Call what `bind` has bound."""

    def generate(context, builder, signature, args):
        function, *rest = args
        kind = _job(context)
        result, error = (cgutils.alloca_once(builder, kind.args[i].pointee) for i in (0, 1))
        builder.call(builder.inttoptr(function, kind.as_pointer()), [result, error, *rest])
        return context.get_dummy_value()

    return types.void(*[types.intp] * 6), generate


@intrinsic
def bind(typing, job, arguments):
    """Addresses of `job` as a function of plain numbers, and of the packet of its `arguments`.

    The packet lives as long as the function that calls `bind`.
    """
    places = (types.intp,) * 4
    wanted = typing.resolve_function_type(job, (*arguments.types, *places), {})

    def generate(context, builder, signature, args):
        packet = cgutils.alloca_once_value(builder, args[1])
        name = builder.module.get_unique_name(f"{builder.function.name}.job")
        function = ir.Function(builder.module, _job(context), name)
        function.linkage = "internal"
        b = ir.IRBuilder(function.append_basic_block())
        values = b.load(b.inttoptr(function.args[2], args[1].type.as_pointer()))
        compiled = context.get_function(job, wanted)
        context.add_linking_libs(getattr(compiled, "libs", ()))
        compiled(b, [*cgutils.unpack_tuple(b, values), *function.args[3:]])
        b.ret(ir.IntType(32)(0))
        pair = [builder.ptrtoint(pointer, INT) for pointer in (function, packet)]
        return context.make_tuple(builder, signature.return_type, pair)

    return types.UniTuple(types.intp, 2)(job, arguments), generate


# ---------------------------------------------------------------------------- the compiled side


# How a kernel's blocks are shared out: range(blocks) in so many pieces of equal length.
# (address of the shared memory, threads, blocks, pieces): Numba knows a bare tuple's type at once.
Share: TypeAlias = tuple[int, int, int, int]


@kernel
def _take_pieces(team, thread):
    """Compute pieces of the present task until none is left; was there any?"""
    any_taken = False
    task: int = load(team + TASK)
    while (task & (MOST_PIECES - 1)) < ((task >> PIECES) & (MOST_PIECES - 1)):
        function, packet = load(team + FUNCTION), load(team + PACKET)
        blocks, threads = load(team + BLOCKS), load(team + THREADS)
        if thread >= threads:
            break
        # If this succeeds then what was just read belongs to this task, which now waits for us.
        if swap(team + TASK, task, task + PIECE):
            piece, pieces = task & (MOST_PIECES - 1), (task >> PIECES) & (MOST_PIECES - 1)
            start, stop = blocks * piece // pieces, blocks * (piece + 1) // pieces
            call(function, packet, thread, piece, start, stop)
            count_up(team + DONE)
            any_taken = True
        task = load(team + TASK)
    return any_taken


@kernel
def _work(team, thread, rounds):
    """What a worker does until nothing has come for a moment."""
    idle = 0
    while idle < rounds:
        if _take_pieces(team, thread):
            idle = 0
        pause()
        idle += 1


@kernel
def lead(share, bound):
    """Have all pieces of a task computed; `bound` is what `bind` returned."""
    function, packet = bound
    team, threads, blocks, pieces = share
    # Somebody else's task is under way: alone.
    if threads == 1 or pieces == 1 or not swap(team + BUSY, 0, 1):
        for piece in range(pieces):
            start, stop = blocks * piece // pieces, blocks * (piece + 1) // pieces
            call(function, packet, 0, piece, start, stop)
        return
    store(team + FUNCTION, function)
    store(team + PACKET, packet)
    store(team + BLOCKS, blocks)
    store(team + THREADS, threads)
    store(team + DONE, 0)
    number = (load(team + TASK) >> NUMBER) + 1
    store(team + TASK, (number << NUMBER) | (pieces << PIECES))
    _take_pieces(team, 0)
    while load(team + DONE) < pieces:
        pause()
    store(team + BUSY, 0)


@kernel
def divide(share, blocks, work):
    """The share of another part of the same call, `blocks` that touch `work` numbers in all."""
    team, threads, _, _ = share
    threads = min(threads, blocks) if work >= WORTH else 1
    return team, threads, blocks, threads


def parallel(function: Callable[..., Any]) -> Any:
    """A kernel of one piece, ``f(*arguments, thread, piece, start, stop)``, as one of all:

    ``f(share, *arguments)``. Blocks start:stop are the piece's; thread, below the share's threads,
    tells whose scratch memory it may use.
    """
    job = kernel(function)

    def run(share, *arguments):
        lead(share, bind(job, arguments))

    run.__name__, run.__qualname__ = function.__name__, f"{function.__qualname__}.run"
    run.__code__ = run.__code__.replace(
        co_filename=function.__code__.co_filename, co_firstlineno=function.__code__.co_firstlineno
    )
    return kernel(run)


# -------------------------------------------------------------------------- the interpreted side


class _Worker:
    """A thread in `_work`; it sleeps when nothing comes.

    The bell is a bare lock, which one call locks or unlocks: a signal handler that raises on the
    caller's thread finds it done or not done.  A `threading.Event` it may leave locked for good.
    """

    def __init__(self, team: _Team, index: int) -> None:
        self.team, self.index = team, index
        self.asleep = False
        self.bell = _thread.allocate_lock()  # locked: nobody has rung
        self.bell.acquire()
        self.native_id = threading.get_native_id()

    def run(self) -> None:
        team = self.team
        while True:
            _work(team.address, self.index, team.rounds)
            self.asleep = True
            self.bell.acquire()
            self.asleep = False

    def ring(self) -> None:
        with suppress(RuntimeError):  # it was rung before, and the worker has not got up yet
            self.bell.release()


class _Team:
    """The workers, and the memory that they share with their callers."""

    def __init__(self) -> None:
        self.memory = aligned(4 * LINE).view(np.int64)
        self.memory[:] = 0
        self.address = self.memory.ctypes.data
        self.workers: list[_Worker] = []  # each comes by itself when its thread has started
        self.hired = 0  # threads that were started, perhaps more
        self.index = itertools.count(1).__next__
        self.rounds = 0
        self.core = -1  # the caller's, which the workers are kept off
        self.current_core = None
        if hasattr(os, "sched_setaffinity"):
            self.current_core = getattr(ctypes.CDLL(None), "sched_getcpu", None)

    def share_out(
        self, blocks: int, work: int, per_thread: int = PER_THREAD, threads: int | None = None
    ) -> Share:
        """For `blocks` that touch `work` numbers in all."""
        if threads is None:
            threads = get_num_threads()
        threads = min(threads, blocks) if work >= WORTH else 1
        if threads <= 1:
            return self.address, 1, blocks, 1
        self._gather(threads - 1)
        return self.address, threads, blocks, min(blocks, per_thread * threads, MOST_PIECES - 1)

    def _gather(self, size: int) -> None:
        """Have so many workers, awake, and not on the caller's core."""
        if self.hired < size:
            self._hire(size)
        for worker in self.workers[:size]:
            if worker.asleep:
                worker.ring()
        if self.current_core is not None and (core := self.current_core()) != self.core:
            self._keep_off(core)

    def _hire(self, size: int) -> None:
        """Start threads.  Ctrl-C between the two lines of the loop: one too many, no two alike."""
        self.rounds = self.rounds or self._rounds()
        with suppress(RuntimeError):  # Python is shutting down, no thread starts any more
            while self.hired < size:
                _thread.start_new_thread(self._join, ())
                self.hired += 1

    def _join(self) -> None:
        """What a new thread does."""
        worker = _Worker(self, self.index())
        self.workers.append(worker)
        self.core = -1
        worker.run()

    def _rounds(self) -> int:
        """Of the watching loop in a moment."""
        _work(self.address, sys.maxsize, 1)
        start = time.perf_counter()
        _work(self.address, sys.maxsize, 1000)
        return int(1000 * MOMENT / (time.perf_counter() - start))

    def _keep_off(self, core: int) -> None:
        """Left alone, the system may wake a worker on the caller's core while another one idles.

        On virtual machines a core that was halted counts as taken. Linux only.
        """
        self.core = core
        usable = os.sched_getaffinity(0) - {core}
        for worker in self.workers if usable else []:
            with suppress(OSError):  # the thread has ended
                os.sched_setaffinity(worker.native_id, usable)

    def after_fork(self) -> None:
        """In the child: other threads do not survive a fork, and what they held, nobody frees.

        In the same memory: whoever forked, in a signal handler say, may be about to use it.
        """
        self.memory[:] = 0
        self.workers, self.hired, self.core = [], 0, -1
        self.index = itertools.count(1).__next__


_team = _Team()


def share_out(
    blocks: int, work: int, per_thread: int = PER_THREAD, threads: int | None = None
) -> Share:
    """Share range(blocks) among the threads; `work` in numbers touched.

    threads: how many a plan was made for; None where the share is all that depends on it.  A
    kernel takes the number from its share and asks nobody again: it may have changed meanwhile.
    """
    return _team.share_out(blocks, work, per_thread, threads)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_team.after_fork)
