"""`tinyconv train` to 99 % on the full MNIST, beside the same recipe in PyTorch: wall time.

    python benchmarks/train.py [--epochs 2] [--rounds 1] [--json FILE]

Each side is a process of its own, from its start to its end: imports, data, training, a test after
every epoch.  PyTorch keeps all images in memory as bytes, shuffles and shifts them by tensor
operations and trains in its default layout.  tinyconv's kernels have been compiled before.  Goal:
at most half of PyTorch's time, both at 99 % or above.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from timing import format_time, machine

ACCURACY, GOAL = 99.0, 0.5


def train_in_pytorch(epochs: int) -> None:
    """The trainer's recipe; prints the test accuracy."""
    import numpy as np
    import torch
    from networks import torch_model
    from torch.nn import functional as F

    from tinyconv.data import MNIST
    from tinyconv.train import Config

    config = Config()
    torch.manual_seed(config.seed)
    model = torch_model()
    sets = [MNIST(train=train, source="full") for train in (True, False)]
    (x, t), (x_test, t_test) = (
        (torch.from_numpy(np.ascontiguousarray(s.images)), torch.from_numpy(s.labels.astype("l")))
        for s in sets
    )
    mean, deviation = MNIST.mean, MNIST.std
    optimizer = torch.optim.SGD(
        model.parameters(), config.lr, momentum=config.momentum, nesterov=True,
        weight_decay=config.weight_decay,
    )  # fmt: skip
    per_epoch = -(-len(x) // config.batch_size)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, config.lr, total_steps=epochs * per_epoch, pct_start=0.2, cycle_momentum=False
    )

    def prepared(images):
        return (images.float().reshape(-1, 1, 28, 28) / 255 - mean) / deviation

    def shifted(images, by=2):
        n = len(images)
        padded = F.pad(images, (by,) * 4, value=-mean / deviation)
        rows = torch.arange(28) + torch.randint(0, 2 * by + 1, (n, 1))
        columns = torch.arange(28) + torch.randint(0, 2 * by + 1, (n, 1))
        picked = padded[torch.arange(n)[:, None, None], 0, rows[:, :, None], columns[:, None]]
        return picked[:, None]

    for _ in range(epochs):
        for batch in torch.randperm(len(x)).split(config.batch_size):
            loss = F.cross_entropy(model(shifted(prepared(x[batch]))), t[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        model.eval()
        with torch.no_grad():
            right = sum(
                int((model(prepared(images)).argmax(1) == labels).sum())
                for images, labels in zip(x_test.split(500), t_test.split(500), strict=True)
            )
        model.train()
    print(100 * right / len(x_test))


def run(command: list[str]) -> tuple[float, str]:
    """Wall seconds of a process and what it printed."""
    start = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return time.perf_counter() - start, done.stdout


def ours(epochs: int) -> tuple[float, float]:
    folder = Path(tempfile.mkdtemp()) / "run"
    command = [sys.executable, "-m", "tinyconv", "train", "mnist", "--data", "full"]
    spent, _ = run([*command, "--epochs", str(epochs), "--out", str(folder)])
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return spent, max(line.get("test_accuracy", 0.0) for line in lines)


def theirs(epochs: int) -> tuple[float, float]:
    spent, printed = run([sys.executable, __file__, "--pytorch", "--epochs", str(epochs)])
    return spent, float(printed)


def main() -> None:
    parser = argparse.ArgumentParser(description="The full MNIST to 99 %, beside PyTorch.")
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--json")
    parser.add_argument("--pytorch", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.pytorch:
        train_in_pytorch(options.epochs)
        return
    print(f"machine: {machine()}")
    rounds = []
    for _ in range(options.rounds):
        (a, accuracy), (b, peer_accuracy) = ours(options.epochs), theirs(options.epochs)
        rounds.append({"tinyconv": a, "PyTorch": b, "accuracy": [accuracy, peer_accuracy]})
        print(
            f"tinyconv {format_time(a)}, {accuracy:.2f} %; PyTorch {format_time(b)}, "
            f"{peer_accuracy:.2f} %; ratio {a / b:.2f}",
            flush=True,
        )
    ratio = statistics.median(r["tinyconv"] / r["PyTorch"] for r in rounds)
    right = all(min(r["accuracy"]) >= ACCURACY for r in rounds)
    verdict = "met" if right and ratio <= GOAL else "NOT met"
    print(f"median ratio {ratio:.2f}, goal <= {GOAL} at {ACCURACY} %: {verdict}")
    if options.json:
        Path(options.json).write_text(json.dumps({"machine": machine(), "rounds": rounds}) + "\n")


if __name__ == "__main__":
    main()
