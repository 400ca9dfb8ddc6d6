"""The processes that train together: one alone, or the ranks that ``mpiexec`` started.

A process that no launcher started is alone, and nothing is imported for it.  Otherwise mpi4py
carries the arrays of the CPU, and NCCL (through cupyx.distributed) those of CuPy.
"""

from __future__ import annotations

import atexit
import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from tinyconv.backend import Array, threads
from tinyconv.errors import DTypeError, TinyconvError

SIZES = ("PMI_SIZE", "OMPI_COMM_WORLD_SIZE")  # how MPICH and Open MPI tell a process their number
LEFT = 1  # tag of the message "I have ended"
LOOK_EVERY = 0.5  # seconds between two looks for it
HEAD_START = 0.3  # seconds: all ranks may have found the same fault, let one of them say it
FAREWELL = 0.1  # seconds that mpiexec has to pass on what was printed


class DistError(TinyconvError, RuntimeError):
    """Ranks that cannot be started, or that do not do the same."""


class World:
    """One process alone; `MpiWorld` overrides what is different with more."""

    rank = 0
    size = 1

    def all_reduce(self, array: Array, op: str = "sum") -> None:
        """Replace the C-contiguous array by the sum, min or max over all ranks."""

    def broadcast(self, array: Array, root: int = 0) -> None:
        """Replace the C-contiguous array by that of rank ``root``."""

    def broadcast_object(self, value: Any, root: int = 0) -> Any:
        """What rank ``root`` passed."""
        return value

    def gather_objects(self, value: Any) -> list[Any]:
        """What each rank passed, in the order of the ranks."""
        return [value]

    def barrier(self) -> None:
        """Wait until all ranks are here."""

    def abort(self, status: int) -> None:
        """End all the other processes at once, and this one; alone, nothing is done."""


class MpiWorld(World):
    """The ranks of MPI.  Every collective call is counted: see `_Watch`."""

    def __init__(self, mpi: Any) -> None:
        self.mpi = mpi
        self.comm = mpi.COMM_WORLD.Dup()  # the user's own messages do not meet ours
        self.rank, self.size = self.comm.rank, self.comm.size
        self.nccl: Nccl | None = None
        self.calls = 0  # collective calls that were entered
        self.inside = False
        self.local = self.comm.Split_type(mpi.COMM_TYPE_SHARED)  # the ranks of this machine
        _share_cores(self.local)
        _choose_gpu(self.local.rank)
        _abort_on_error(self)
        _Watch(self).start()

    @contextmanager
    def _collective(self) -> Iterator[None]:
        self.calls += 1
        self.inside = True
        try:
            yield
        finally:
            self.inside = False

    def all_reduce(self, array: Array, op: str = "sum") -> None:
        if array.dtype.kind not in "fiu":
            raise DTypeError("all_reduce", f"{array.dtype} cannot be summed; x.to(tc.int64)")
        if not isinstance(array, np.ndarray):
            self._nccl().all_reduce(array, op)
        elif array.dtype == np.float16:  # MPI has no such number
            wide = array.astype(np.float32)
            self.all_reduce(wide, op)
            array[...] = wide
        else:
            with self._collective():
                self.comm.Allreduce(self.mpi.IN_PLACE, array, getattr(self.mpi, op.upper()))

    def broadcast(self, array: Array, root: int = 0) -> None:
        raw = array.reshape(-1).view(np.uint8)  # whatever the dtype
        if not isinstance(raw, np.ndarray):
            self._nccl().broadcast(raw, root)
            return
        with self._collective():
            self.comm.Bcast(raw, root)

    def broadcast_object(self, value: Any, root: int = 0) -> Any:
        with self._collective():
            return self.comm.bcast(value, root)

    def gather_objects(self, value: Any) -> list[Any]:
        with self._collective():
            return self.comm.allgather(value)

    def barrier(self) -> None:
        with self._collective():
            self.comm.Barrier()

    def abort(self, status: int) -> None:
        sys.stdout.flush()
        sys.stderr.flush()
        time.sleep(FAREWELL)
        self.mpi.COMM_WORLD.Abort(status)

    def _nccl(self) -> Nccl:
        if self.nccl is None:
            self.nccl = Nccl(self.rank, self.size, self.local.rank)
        return self.nccl


class Nccl:
    """The same two calls for arrays on GPUs, one GPU per rank.  Not run on hardware so far."""

    def __init__(self, rank: int, size: int, local_rank: int) -> None:
        import cupy
        from cupyx.distributed import NCCLBackend

        devices = cupy.cuda.runtime.getDeviceCount()
        if local_rank >= devices:
            raise DistError(
                "dist",
                f"rank {rank} is number {local_rank} on its machine, which has {devices} GPU(s); "
                "start one rank per GPU",
            )
        self.backend = NCCLBackend(size, rank, use_mpi=True)  # MPI carries NCCL's identifier

    def all_reduce(self, array: Array, op: str) -> None:
        self.backend.all_reduce(array, array, op)

    def broadcast(self, array: Array, root: int) -> None:
        self.backend.broadcast(array, root)


# --------------------------------------------------------------------------- which world is it?

_world: World | None = None


def world() -> World:
    """The processes of this run; found out at the first call."""
    global _world
    if _world is None:
        _world = _find()
    return _world


def _find() -> World:
    started = max(int(os.environ.get(name, "1")) for name in SIZES)
    if started == 1 and "mpi4py.MPI" not in sys.modules:
        return World()
    try:
        from mpi4py import MPI
    except (ImportError, RuntimeError) as error:  # RuntimeError: mpi4py found no MPI library
        raise DistError(
            "dist",
            f"{started} processes were started together, but mpi4py does not load ({error}): "
            "pip install mpi4py mpich",
        ) from None
    size = MPI.COMM_WORLD.size
    if started not in (1, size):
        raise DistError(
            "dist",
            f"{started} processes were started, but mpi4py ({MPI.get_vendor()[0]}) sees {size}: "
            f"the mpiexec belongs to another MPI. Use {os.path.join(sys.prefix, 'bin', 'mpiexec')}",
        )
    return MpiWorld(MPI) if size > 1 else World()


def _say(message: str) -> None:
    sys.stderr.write(f"{message}\n")  # in one piece: other ranks write, too
    sys.stderr.flush()


def abort(message: str, status: int = 1) -> int:
    """Say why on standard error and end all ranks with this status; alone, return it."""
    if _world is not None and _world.size > 1:
        time.sleep(HEAD_START if _world.rank else 0)
        message = message and f"rank {_world.rank}: {message}"
    if message:
        _say(message)
    if _world is not None:
        _world.abort(status)
    return status


# ---------------------------------------------------------------- what more than one rank needs


def _share_cores(local: Any) -> None:
    """Each rank of a machine gets as many threads as there are cores for it."""
    if os.environ.get("OMP_NUM_THREADS"):
        return
    usable = local.allgather(threads.usable_cores())
    count = max(1, min(len(usable[local.rank]), len(set().union(*usable)) // local.size))
    threads.set_num_threads(count)
    threadpool_limits(count, "blas")


def _choose_gpu(local_rank: int) -> None:
    """Each rank of a machine computes on a GPU of its own; before anything is put on one."""
    try:
        import cupy

        if local_rank < cupy.cuda.runtime.getDeviceCount():
            cupy.cuda.Device(local_rank).use()
    except (ImportError, RuntimeError):  # no CuPy; no driver: CUDARuntimeError is a RuntimeError
        return


def _abort_on_error(world: World) -> None:
    """An exception that ends one rank ends all: the others would wait for it for ever."""
    say = sys.excepthook

    def excepthook(kind: type[BaseException], error: BaseException, traceback: Any) -> None:
        time.sleep(HEAD_START if world.rank else 0)
        _say(f"rank {world.rank} of {world.size} fails:")
        say(kind, error, traceback)
        world.abort(130 if issubclass(kind, KeyboardInterrupt) else 1)

    sys.excepthook = excepthook


class _Watch(threading.Thread):
    """Finds out that a rank has ended for which this one waits, and ends all of them.

    A rank that ends, by sys.exit or because its loop was shorter, tells the others how many
    collective calls it has made.  One that waits in a later call waits in vain.
    """

    def __init__(self, world: MpiWorld) -> None:
        super().__init__(name="tinyconv-ranks", daemon=True)
        self.world = world
        self.comm = world.comm.Dup()
        self.left: dict[int, int] = {}  # rank -> its calls
        self.over = threading.Event()
        self.messages: list[Any] = []  # kept alive until MPI is finalised
        if world.mpi.Query_thread() == world.mpi.THREAD_MULTIPLE:
            atexit.register(self.leave)
        else:
            self.over.set()

    def run(self) -> None:
        while not self.over.wait(LOOK_EVERY):
            self.look()

    def look(self) -> None:
        while self.comm.iprobe(tag=LEFT):
            rank, calls = self.comm.recv(tag=LEFT)
            self.left[rank] = calls
        calls = self.world.calls
        gone = [rank for rank, made in self.left.items() if made < calls]
        if gone and self.world.inside:
            listed = ", ".join(map(str, sorted(gone)))
            _say(
                f"rank {self.world.rank} of {self.world.size} waits for rank {listed}, which has "
                "ended. Do all ranks take the same number of steps?"
            )
            self.world.abort(1)

    def leave(self) -> None:
        self.over.set()
        self.join()
        note = self.world.rank, self.world.calls
        others = [rank for rank in range(self.world.size) if rank != self.world.rank]
        self.messages = [self.comm.isend(note, rank, LEFT) for rank in others]
