"""Training a ResNet on MNIST: what ``tinyconv train mnist`` does.

A run lives in a folder: config.json, metrics.jsonl (one line per epoch), report.html (what there is
to see), curves.png, the graph of the network, model.safetensors (the weights),
checkpoint.safetensors (everything that is needed to go on).  A run that was killed and resumed ends
with the same weights, bit for bit, as one that was not: what the data loader draws depends on seed,
epoch and batch only, and the rest of the state is in the checkpoint.

Under ``mpiexec`` every rank runs all of this on its part of each batch, with the batch norm and the
gradients of the whole batch; the first rank alone writes and prints.
"""

from __future__ import annotations

import json
import math
import os
import signal
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

import tinyconv as tc
from tinyconv import data, dist, io, nn, optim, see
from tinyconv.backend import backend_named
from tinyconv.nn import functional as F
from tinyconv.see import report

MODELS = {"resnet8": nn.resnet.resnet8, "resnet20": nn.resnet.resnet20}
DATASETS = {"mnist": data.MNIST, "fashion": data.FashionMNIST}
EPOCHS = {"full": 3, "sample": 5}
SAVE_EVERY = 100  # steps between checkpoints: what a kill can cost at most
NOTES = 60  # how often a run notes its loss and its gradients' norms,
NOTE_EVERY = 8  # but no more often than each so many steps: it must cost no time
READ_EVERY = 20  # steps between looks at the loss on a GPU: each waits for all that was begun


@dataclass(frozen=True)
class Config:
    """What decides a run; two runs with equal configs end with equal weights."""

    model: str = "resnet8"
    epochs: int = 0  # 0: 3 on the full set, 5 on the sample
    batch_size: int = 128
    lr: float = 0.3  # the peak of the one-cycle schedule
    momentum: float = 0.9
    weight_decay: float = 5e-4
    max_shift: int = 2  # pixels by which training images are moved at random
    dataset: str = "mnist"
    data: str = "auto"
    device: str = "auto"  # "cuda" where there is a GPU, else "cpu"
    cuda_graph: bool = False  # capture the step on a GPU: tc.cuda.graph
    seed: int = 0


class Run:
    """The folder of one run.  Of several ranks only the first writes into it."""

    def __init__(self, folder: Path) -> None:
        self.at(folder)
        self.writes = dist.get_rank() == 0
        self.claimed: int | None = None  # the folder's descriptor, while it is locked

    def at(self, folder: Path) -> None:
        self.folder, self.checkpoint = folder, folder / "checkpoint.safetensors"

    def claim(self, resume: bool, others: Iterable[Path] = ()) -> None:
        """Make this process the folder's only writer, until `release` or its end.

        resume: it holds a run already.  others: folders to take instead where it exists.
        FileExistsError where another process writes into it, or an earlier run is in it.
        """
        if not self.writes:
            return
        folders = iter(others)
        while not self._make(exclusive=not resume) and (other := next(folders, None)) is not None:
            self.at(other)
        self._lock()
        if not resume and self.checkpoint.exists():
            self.release()
            raise FileExistsError(f"{self.folder} holds a run already: go on with it (--resume), "
                                  "or choose another --out")
        io.remove_orphans(self.folder)

    def _make(self, exclusive: bool) -> bool:
        """Make the folder; False if it was there and that matters."""
        try:
            with suppress(FileExistsError):  # a file: the next line says so
                self.folder.parent.mkdir(parents=True, exist_ok=True)
            self.folder.mkdir()
        except FileExistsError as error:
            if not self.folder.is_dir():
                raise self._cannot_create(error) from error
            return not exclusive
        except OSError as error:
            raise self._cannot_create(error) from error
        return True

    def _cannot_create(self, error: OSError) -> OSError:
        text = f"cannot create {self.folder}: {error.strerror}; choose another --out"
        return OSError(text)

    def _lock(self) -> None:
        """The folder's own lock: it leaves no file, and ends with the process."""
        if io.fcntl is None:
            return
        descriptor = os.open(self.folder, os.O_RDONLY)
        try:
            io.fcntl.flock(descriptor, io.fcntl.LOCK_EX | io.fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(descriptor)
            raise FileExistsError(f"another process is writing into {self.folder} now: wait for "
                                  "it, or choose another --out") from error
        except OSError:  # a file system that has no locks
            os.close(descriptor)
        else:
            self.claimed = descriptor

    def release(self) -> None:
        """Let others write into the folder."""
        if self.claimed is not None:
            os.close(self.claimed)
            self.claimed = None

    def write_config(self, config: Config) -> None:
        if not self.writes:
            return
        self._make(exclusive=False)
        self._write("config.json", json.dumps(asdict(config), indent=1) + "\n")

    def read_config(self) -> Config:
        return Config(**json.loads((self.folder / "config.json").read_text()))

    def write_metrics(self, history: list[dict[str, Any]]) -> None:
        self._write("metrics.jsonl", "".join(json.dumps(row) + "\n" for row in history))

    def write_report(self, page: str) -> Path:
        self._write("report.html", page)
        return self.folder / "report.html"

    def _write(self, name: str, text: str) -> None:
        if self.writes:
            io.write(self.folder / name, text.encode())

    def write_checkpoint(self, state: dict[str, Any]) -> None:
        """Everything that is needed to go on."""
        io.write(self.checkpoint, io.encoded(state))

    def write_weights(self, model: nn.Module) -> None:
        io.write(self.folder / "model.safetensors", io.encoded(model.state_dict()))

    def write_graph(self, graph: see.Trace) -> None:
        """As SVG, or what `Trace.save` writes instead; links that were planted are not followed."""
        for suffix in (".svg", ".dot", ".txt"):
            if (target := self.folder / f"graph{suffix}").is_symlink():
                target.unlink()
        graph.save(self.folder / "graph.svg")

    def write_curves(self, history: list[dict[str, Any]]) -> None:
        """Loss and accuracy over the epochs, where matplotlib is installed."""
        try:
            from matplotlib.figure import Figure
            from matplotlib.ticker import LogLocator, NullFormatter
        except ImportError:
            tqdm.write("no curves: matplotlib is not installed (pip install matplotlib)")
            return
        epochs = [row["epoch"] for row in history]
        figure = Figure(figsize=(9, 3.6), layout="constrained")
        left, right = figure.subplots(1, 2)
        left.plot(epochs, [row["train_loss"] for row in history], "o-", label="training")
        left.plot(epochs, [row["test_loss"] for row in history], "s--", label="test")
        left.set(xlabel="epoch", ylabel="cross-entropy", yscale="log", title="Loss")
        right.plot(epochs, [100 - row["train_accuracy"] for row in history], "o-", label="training")
        right.plot(epochs, [100 - row["test_accuracy"] for row in history], "s--", label="test")
        right.set(xlabel="epoch", ylabel="errors in %", yscale="log", title="Wrong answers")
        for axes in (left, right):
            axes.set_xticks(epochs)
            axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))  # and plain numbers there
            axes.yaxis.set_major_formatter("{x:g}")
            axes.yaxis.set_minor_formatter(NullFormatter())
            axes.grid(alpha=0.3, which="both")
            axes.legend(frameon=False)
        picture = BytesIO()
        figure.savefig(picture, format="png", dpi=120)
        io.write(self.folder / "curves.png", picture.getvalue())


class Interrupted(Exception):
    """Ctrl-C was pressed, and the run was saved."""


class Trainer:
    """One run: the model, what trains it, and how far it has come."""

    def __init__(self, config: Config, run: Run) -> None:
        self.run = run
        self.train_set = _load(DATASETS[config.dataset], config.data)
        self.test_set = DATASETS[config.dataset](train=False, source=self.train_set.source)
        epochs = config.epochs or EPOCHS[self.train_set.source]
        device = config.device
        if device == "auto":
            device = "cuda" if tc.cuda.is_available() else "cpu"
        self.config = config = replace(
            config, epochs=epochs, data=self.train_set.source, device=str(device)
        )
        waits = backend_named(device).waits
        self.read_every = READ_EVERY if waits else 1
        tc.manual_seed(config.seed)
        self.model = MODELS[config.model](in_channels=1).to(config.device)
        self.ranks = dist.get_world_size()
        if config.cuda_graph and (self.ranks > 1 or not waits):
            raise ValueError("train: --cuda-graph captures the step of one GPU; here the device is "
                             f"{config.device}, the ranks {self.ranks}. Leave it out")
        if self.ranks > 1:
            dist.SyncBatchNorm.convert_sync_batchnorm(self.model)
            dist.broadcast_state(self.model)
        self.tested = self.test_set.to(device)
        self.loader = data.DataLoader(
            self.train_set.to(device),
            config.batch_size,
            shuffle=True,
            drop_last=True,
            seed=config.seed,
            transform=self._shift if config.max_shift else None,
            shard=dist.shard(),
            prefetch=0 if waits else 2,
        )
        if not len(self.loader):
            raise ValueError(
                f"train: a batch of {config.batch_size} is more than the {len(self.train_set)} "
                "training images; use a smaller --batch-size"
            )
        self.optimizer = optim.SGD(
            self.model.parameters(),
            config.lr,
            momentum=config.momentum,
            nesterov=config.momentum > 0,
            weight_decay=config.weight_decay,
        )
        steps = config.epochs * len(self.loader)
        self.schedule = optim.OneCycleLR(
            self.optimizer, config.lr, total_steps=steps, pct_start=0.2, cycle_momentum=False
        )
        self.captured: Callable[..., Any] | None = None  # the step as CUDA graphs
        self.epoch = 0  # finished epochs
        self.batch = 0  # finished batches of the next one
        self.sums = {"loss": 0.0, "correct": 0, "seconds": 0.0}
        self.history: list[dict[str, Any]] = []
        self.note_every = max(NOTE_EVERY, steps // NOTES)
        self.logits: tc.Tensor | None = None  # of the whole test set, with the present weights
        self.unread: list[tuple[int, tc.Tensor, tc.Tensor]] = []  # step, loss, how many were right
        self.loss = math.nan  # the last one that was read
        self.losses: list[float] = []  # since the last note
        self.notes: list[dict[str, Any]] = []  # rows of `report.Record.steps`

    def _shift(self, images: Any, rng: Any) -> Any:
        return data.random_shift(images, self.config.max_shift, rng, fill=self.train_set.black)

    # --- saving and continuing

    def save(self) -> None:
        """Everything that decides how the run goes on, written atomically."""
        self.read()
        if not self.run.writes:
            return
        names = ("epoch", "batch", "sums", "history", "losses", "notes")
        progress = {name: getattr(self, name) for name in names}
        self.run.write_checkpoint(io.checkpoint(**self._parts(), **progress))

    def restore(self) -> None:
        for name, value in io.load_checkpoint(self.run.checkpoint, **self._parts()).items():
            setattr(self, name, value)

    def _parts(self) -> dict[str, Any]:
        return {"model": self.model, "optimizer": self.optimizer, "schedule": self.schedule}

    # --- the work

    def step(self, images: tc.Tensor, labels: tc.Tensor) -> None:
        """One step of stochastic gradient descent, of all ranks together."""
        if self.config.cuda_graph and self.captured is None:
            self.captured = tc.cuda.graph(self._learn, (images, labels))
        loss, correct = (self.captured or self._learn)(images, labels)
        self.unread.append((self.batch + 1, loss, correct))
        if (self.epoch * len(self.loader) + self.batch) % self.note_every == 0:
            self.read()
            self._note()

    def _learn(self, images: tc.Tensor, labels: tc.Tensor) -> tuple[tc.Tensor, tc.Tensor]:
        """What a step computes: the loss, and how many it had right; the gradients stay."""
        self.optimizer.zero_grad()
        logits = self.model(images)
        loss = F.cross_entropy(logits, labels)
        loss.backward()
        dist.average_gradients(self.model.parameters())
        self.optimizer.step()
        self.schedule.step()
        return loss.detach(), (logits.detach().argmax(1) == labels).sum()

    def read(self) -> None:
        """Look at what the last steps found, in one go: a GPU has to finish first."""
        if not self.unread:
            return
        steps, losses, correct = zip(*self.unread, strict=True)
        self.unread = []
        for step, own_loss, own_right in zip(
            steps, tc.stack(losses).tolist(), tc.stack(correct).tolist(), strict=True
        ):
            total_loss, right = dist.total(own_loss, own_right)
            loss = total_loss / self.ranks
            if not math.isfinite(loss):
                raise FloatingPointError(
                    f"the loss is {loss} at step {step} of epoch {self.epoch + 1}: "
                    f"the learning rate {self.config.lr:g} is too high; "
                    f"try --lr {self.config.lr / 10:g}"
                )
            self.loss = loss
            self.losses.append(loss)
            self.sums["loss"] += loss
            self.sums["correct"] += right

    def _note(self) -> None:
        """The mean loss since the last note, and the norm of each layer's gradient."""
        self.notes.append({
            "epoch": self.epoch + (self.batch + 1) / len(self.loader),
            "loss": sum(self.losses) / len(self.losses),
            "norms": gradient_norms(self.model),
        })
        self.losses = []

    def train_epoch(self, stop: StopRequest, show: bool) -> None:
        self.model.train()
        self.logits = None  # they are about to be out of date
        self.loader.set_epoch(self.epoch)
        bar = tqdm(
            total=len(self.loader),
            initial=self.batch,
            desc=f"epoch {self.epoch + 1}/{self.config.epochs}",
            unit="step",
            leave=False,
            disable=None if show and self.run.writes else True,
        )
        with bar:
            started = time.perf_counter()
            for images, labels in self.loader.batches(self.batch):
                self.step(images, labels)
                self.batch += 1
                if len(self.unread) >= self.read_every or self.batch == len(self.loader):
                    self.read()
                bar.update()
                bar.set_postfix(loss=f"{self.loss:.3f}", refresh=False)
                now = time.perf_counter()
                self.sums["seconds"] += now - started
                started = now
                if dist.total(stop.requested) != [0]:  # all ranks stop after the same step
                    self.save()
                    raise Interrupted
                if self.batch % SAVE_EVERY == 0:
                    self.save()

    def finish_epoch(self) -> dict[str, Any]:
        """Evaluate, note the epoch's figures, save."""
        dist.check_identical(self.model)
        self.read()
        logits, labels = answers(self.model, own_part(self.tested))
        test_loss, test_accuracy = score(logits, labels)
        self.logits = logits if self.ranks == 1 else None
        seen = self.batch * self.config.batch_size
        row = {
            "epoch": self.epoch + 1,
            "train_loss": self.sums["loss"] / self.batch,
            "train_accuracy": 100 * self.sums["correct"] / seen,
            "test_loss": test_loss,
            "test_accuracy": test_accuracy,
            "images_per_second": seen / self.sums["seconds"],
            "lr": self.schedule.get_last_lr()[0],
        }
        self.history.append(row)
        self.epoch += 1
        self.batch = 0
        self.sums = {"loss": 0.0, "correct": 0, "seconds": 0.0}
        self.run.write_metrics(self.history)
        self.save()
        return row

    def draw_graph(self) -> None:
        """The network's graph as SVG (as text without the ``dot`` program)."""
        size = self.train_set.images.shape[1:]
        labels = tc.tensor([0, 1], device=self.config.device)

        def loss(images: tc.Tensor) -> tc.Tensor:
            return F.cross_entropy(self.model(images), labels)

        images = tc.zeros(2, 1, *size, device=self.config.device)
        graph = see.trace(loss, images, params=self.model)
        if self.run.writes:
            self.run.write_graph(graph)

    def write_report(self) -> Path:
        """report.html: what the run has come to, with the weights as they are now."""
        path, first = next((path, module) for path, module in self.model.named_modules()
                           if isinstance(module, nn.Conv2d))
        settings = {name: str(value) for name, value in asdict(self.config).items()}
        settings["data"] = (f"{self.train_set.source}: {len(self.train_set):,} training and "
                            f"{len(self.test_set):,} test images")
        total = sum(p.numel() for p in self.model.parameters())
        logits = self.logits
        if logits is None:  # nothing was tested since the last step, or by several ranks
            logits = answers(self.model, self.tested)[0]
        return self.run.write_report(report.to_html(report.Record(
            title=f"{self.config.model} on {self.config.dataset}",
            facts=[("parameters", f"{total:,}"), *settings.items(),
                   ("tinyconv", tc.__version__)],
            epochs=self.history,
            steps=self.notes,
            filters=first.weight.detach().cpu().numpy(),
            filters_path=path,
            classes=self.test_set.classes,
            images=self.test_set.images,
            labels=self.test_set.labels,
            probabilities=F.softmax(logits, 1).cpu().numpy(),
        )))

    def fit(self, show: bool = True) -> list[dict[str, Any]]:
        """Train to the last epoch; returns one row of figures per epoch.

        Raises Interrupted after Ctrl-C, when the checkpoint is written.
        """
        self.run.write_config(self.config)
        if not self.history and not self.batch:
            self.draw_graph()
            self.save()  # a kill in the first steps, too, leaves something to resume
        self.run.write_metrics(self.history)
        with StopRequest() as stop:
            while self.epoch < self.config.epochs:
                self.train_epoch(stop, show)
                row = self.finish_epoch()
                self.say(
                    f"epoch {row['epoch']}/{self.config.epochs}  "
                    f"train loss {row['train_loss']:.4f}  "
                    f"test accuracy {row['test_accuracy']:.2f} %  "
                    f"({row['images_per_second']:.0f} images/s)"
                )
        if self.run.writes:
            self.run.write_weights(self.model)
            self.run.write_curves(self.history)
            self.write_report()
        return self.history

    def say(self, line: str) -> None:
        """Print it, once."""
        if self.run.writes:
            print(line, flush=True)


class StopRequest:
    """Was Ctrl-C pressed, or the process asked to end?  A second request ends it at once."""

    def __init__(self) -> None:
        self.requested = False
        self.before: dict[int, Any] = {}

    def __enter__(self) -> StopRequest:
        try:
            for number in (signal.SIGINT, signal.SIGTERM):
                self.before[number] = signal.signal(number, self._note)
        except ValueError:  # not in the main thread: there is nobody to press Ctrl-C
            self.before = {}
        return self

    def _note(self, number: int, frame: object) -> None:
        self.requested = True
        self._put_back()

    def _put_back(self) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def __exit__(self, *_: object) -> None:
        self._put_back()


def _load(kind: Any, source: str) -> Any:
    """The training set, which the first rank finds or downloads before the others look."""
    first = kind(train=True, source=source) if dist.get_rank() == 0 else None
    found = dist.broadcast_object(first.source if first else None)
    return first or kind(train=True, source=found)


@tc.no_grad()
def answers(model: nn.Module, dataset: Any, batch_size: int = 100) -> tuple[tc.Tensor, tc.Tensor]:
    """The logits (N, K) and labels (N,) of a dataset; the model is left in the mode it was in."""
    training = model.training
    model.eval()
    batches = data.DataLoader(dataset, batch_size)
    logits, labels = zip(*((model(x), wanted) for x, wanted in batches), strict=True)
    model.train(training)
    return tc.cat(logits), tc.cat(labels)


@tc.no_grad()
def score(logits: tc.Tensor, labels: tc.Tensor) -> tuple[float, float]:
    """Mean cross-entropy and accuracy in percent, of all ranks' answers together."""
    loss = F.cross_entropy(logits, labels, reduction="sum")
    correct = (logits.argmax(1) == labels).sum()
    loss, right, count = dist.total(loss.item(), correct.item(), len(labels))
    return loss / count, 100 * right / count


def evaluate(model: nn.Module, dataset: Any, batch_size: int = 100) -> tuple[float, float]:
    """`score` of a model's `answers`.  Each rank takes its part of the dataset."""
    return score(*answers(model, own_part(dataset), batch_size))


def own_part(dataset: Any) -> Any:
    """What this rank tests: all of it if there is one."""
    rank, ranks = dist.shard()
    return data.Subset(dataset, np.arange(rank, len(dataset), ranks)) if ranks > 1 else dataset


@tc.no_grad()
def gradient_norms(model: nn.Module) -> dict[str, float]:
    """The Euclidean norm of all gradients of a layer, by the layer's path."""
    trained = [(path, p.grad) for path, p in model.named_parameters() if p.grad is not None]
    found = tc.stack([(grad * grad).sum() for _, grad in trained]).tolist() if trained else []
    squares: dict[str, float] = {}
    for (path, _), square in zip(trained, found, strict=True):
        layer = path.rpartition(".")[0]
        squares[layer] = squares.get(layer, 0.0) + square
    return {layer: math.sqrt(square) for layer, square in squares.items()}
