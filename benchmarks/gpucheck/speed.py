"""How fast, with how much memory: steps and convolutions beside PyTorch's, an epoch."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable
from functools import partial

from geometry import Geometry
from networks import tinyconv_training

import tinyconv as tc
from gpucheck import ours, peers
from gpucheck.device import PRECISIONS, Makers, Side, paths, precision, race, using
from gpucheck.parts import Context, Row, Rows, part
from tinyconv import data, train

EAGER, LAST, GRAPH = "torch", "torch channels_last", "torch graph"


# ---------------------------------------------------------------------------------------- steps


@part(share=70)
def steps(context: Context) -> Rows:
    """ResNet-8, a train step: each path beside PyTorch eager, channels_last and in a CUDA graph"""
    return step_rows(ours.steps, context)


@part(share=35)
def graphs(context: Context) -> Rows:
    """ResNet-8, a train step in a CUDA graph beside the same; apart, as a capture may break all"""
    return step_rows(ours.graphs, context)


def step_rows(make: Callable[[int], Makers], context: Context) -> Rows:
    return {
        f"batch {n}, {name}": partial(step_row, make, n, name, context)
        for name in context.sizes.precisions
        for n in context.sizes.batches
    }


def step_row(make: Callable[[int], Makers], n: int, name: str, context: Context) -> Row:
    theirs: Makers = {
        EAGER: lambda: Side(peers.training(n)),
        LAST: lambda: Side(peers.training(n, channels_last=True)),
        GRAPH: lambda: Side(peers.graphed(peers.training(n))),
    }
    with precision(name):
        measured = race(make(n), theirs, context.sizes.rounds, context.sizes.turn)
    clear()
    return {"batch": n, "precision": name, **measured}


def clear() -> None:
    """Give the memory of one row's sides back before the next row."""
    gc.collect()
    tc.cuda.empty_cache()
    if peers.missing() is None and peers.DEVICE == "cuda":
        peers.forget_memory()


# --------------------------------------------------------------------------------- convolutions


@part(share=90)
def convolutions(context: Context) -> Rows:
    """Single convolutions, forward and both gradients: each path beside PyTorch eager and graph"""
    return {
        f"{geometry}, {name}": partial(convolution_row, geometry, name, context)
        for name in PRECISIONS
        for geometry in context.sizes.convolutions
    }


def convolution_row(geometry: Geometry, name: str, context: Context) -> Row:
    """All three kernels together against PyTorch's, and each of ours alone."""
    dtype = PRECISIONS[name]
    theirs: Makers = {
        EAGER: lambda: Side(peers.convolution(geometry, dtype)["all"]),
        GRAPH: lambda: Side(peers.graphed(peers.convolution(geometry, dtype)["all"])),
    }
    length = (context.sizes.rounds, context.sizes.short_turn)
    with precision(name):
        measured = race(ours.convolution(geometry, dtype, "all"), theirs, *length)
        kernels = {
            kernel: race(
                ours.convolution(geometry, dtype, kernel),
                {EAGER: lambda k=kernel: Side(peers.convolution(geometry, dtype)[k])},
                *length,
            )["seconds"]
            for kernel in ("forward", "dX", "dW")
        }
    clear()
    about = {"geometry": str(geometry), "c": geometry.c, "k": geometry.k, "precision": name}
    return {**about, **measured, "kernels": kernels}


# --------------------------------------------------------------------------------------- memory


@part(share=33)
def memory(context: Context) -> Rows:
    """ResNet-8, a train step: memory at its peak, taken from the driver by each library

    PyTorch's holds cuBLAS's workspace, too, which is not in CuPy's pool.
    """
    rows: Rows = {}
    for n in context.sizes.batches:
        rows |= {f"batch {n}, {path}": partial(our_memory, n, path) for path in paths()}
        rows |= {
            f"batch {n}, {EAGER}": partial(their_memory, n, False),
            f"batch {n}, {LAST}": partial(their_memory, n, True),
        }
    return rows


def our_memory(n: int, path: str) -> Row:
    clear()
    before = tc.cuda.memory_reserved()
    with using(path):
        step = tinyconv_training(n, device="cuda")
        for _ in range(3):
            step()
        tc.cuda.synchronize()
    return {"batch": n, "side": path, "taken": tc.cuda.memory_reserved() - before}


def their_memory(n: int, last: bool) -> Row:
    if why := peers.missing():
        return {"batch": n, "side": LAST if last else EAGER, "missing": why}
    clear()
    step = peers.training(n, last)
    for _ in range(3):
        step()
    return {"batch": n, "side": LAST if last else EAGER, **peers.memory(step)}


# ----------------------------------------------------------------------------------------- MNIST


@part(share=35)
def epoch(context: Context) -> Rows:
    """MNIST: one epoch of `tinyconv train` on the device, and the accuracy after it"""
    return {
        "MNIST": partial(mnist, context, False),
        "MNIST, CUDA graph": partial(mnist, context, True),
    }


def mnist(context: Context, cuda_graph: bool) -> Row:
    settings = train.Config(
        epochs=1,
        batch_size=context.sizes.batches[0],
        data=present(),
        device="cuda",
        cuda_graph=cuda_graph,
    )
    trainer = train.Trainer(settings, train.Run(context.folder))
    images = context.sizes.images
    if images is not None:
        for dataset in (trainer.loader.dataset, trainer.tested):
            dataset.images, dataset.labels = dataset.images[:images], dataset.labels[:images]
    trainer.run.write_config(trainer.config)
    with train.StopRequest() as stop:
        began = time.perf_counter()
        trainer.train_epoch(stop, show=False)
        tc.cuda.synchronize()
        seconds = time.perf_counter() - began
    row = trainer.finish_epoch()
    accuracy = row["test_accuracy"]
    return {
        "data": trainer.config.data,
        "images": len(trainer.loader.dataset),
        "batch": trainer.config.batch_size,
        "seconds": seconds,
        "train_loss": row["train_loss"],
        "test_accuracy": accuracy,
        "ok": accuracy >= context.sizes.accuracy,
        "why": f"{accuracy:.2f} % of the test images, expected {context.sizes.accuracy:g} or more",
    }


def present() -> str:
    """The full set where it lies on this machine; nothing is downloaded in a timed check."""
    try:
        data.locate(data.MNIST.files, None, download=False)
    except data.DataNotFound:
        return "sample"
    return "full"
