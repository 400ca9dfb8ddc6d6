"""MNIST to the end, the same recipe on both sides: test accuracy and wall time.

    python benchmarks/accuracy.py [--data full|sample] [--epochs N] [--seed 0] [--json FILE]

ResNet-8, batch 128, one-cycle to 0.3, Nesterov 0.9, weight decay 5e-4, random shifts by up to two
pixels.  Both sides start from the same weights and take each step in turn on the same batch.
Goals for tinyconv: 99.3 % on the full set after three epochs, 98.0 % on the sample's test images
after five.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path

import torch
from networks import torch_model
from timing import machine
from torch.nn import functional as TF

import tinyconv as tc
from tinyconv import data
from tinyconv.train import Config, Run, Trainer, evaluate

GOALS = {"full": 99.3, "sample": 98.0}


class Peer:
    """The trainer's twin in PyTorch."""

    def __init__(self, trainer: Trainer) -> None:
        self.model = torch_model()
        ours = list(trainer.model.parameters())
        with torch.no_grad():
            for theirs, mine in zip(self.model.parameters(), ours, strict=True):
                theirs.copy_(torch.from_numpy(mine.detach().numpy()))
        config, steps = trainer.config, trainer.config.epochs * len(trainer.loader)
        self.optimizer = torch.optim.SGD(
            self.model.parameters(),
            config.lr,
            momentum=config.momentum,
            nesterov=True,
            weight_decay=config.weight_decay,
        )
        self.schedule = torch.optim.lr_scheduler.OneCycleLR(
            self.optimizer, config.lr, total_steps=steps, pct_start=0.2, cycle_momentum=False
        )

    def step(self, images, labels) -> None:
        loss = TF.cross_entropy(self.model(images), labels)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        self.schedule.step()

    @torch.no_grad()
    def accuracy(self, dataset) -> float:
        self.model.eval()
        right = 0
        for images, labels in data.DataLoader(dataset, 500):
            logits = self.model(torch.from_numpy(images.numpy()))
            right += int((logits.argmax(1) == torch.from_numpy(labels.numpy())).sum())
        self.model.train()
        return 100 * right / len(dataset)


def main() -> None:
    parser = argparse.ArgumentParser(description="MNIST to the end, beside PyTorch.")
    parser.add_argument("--data", choices=GOALS, default="full")
    parser.add_argument("--epochs", type=int, default=0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json")
    options = parser.parse_args()
    torch.set_num_threads(tc.get_num_threads())
    config = Config(data=options.array, epochs=options.epochs, seed=options.seed)
    trainer = Trainer(config, Run(Path(tempfile.mkdtemp())))
    peer = Peer(trainer)
    spent = {"tinyconv": 0.0, "PyTorch": 0.0}
    for epoch in range(trainer.config.epochs):
        trainer.model.train()
        trainer.loader.set_epoch(epoch)
        for images, labels in trainer.loader:
            start = time.perf_counter()
            trainer.step(images, labels)
            middle = time.perf_counter()
            peer.step(torch.from_numpy(images.numpy()), torch.from_numpy(labels.numpy()))
            spent["tinyconv"] += middle - start
            spent["PyTorch"] += time.perf_counter() - middle
        ours = evaluate(trainer.model, trainer.test_set)[1]
        theirs = peer.accuracy(trainer.test_set)
        print(f"epoch {epoch + 1}: tinyconv {ours:.2f} %, PyTorch {theirs:.2f} %", flush=True)
    goal = GOALS[options.array]
    ratio = spent["tinyconv"] / spent["PyTorch"]
    print(f"machine: {machine()}")
    print(
        f"MNIST ({options.array}), {trainer.config.epochs} epochs: tinyconv {ours:.2f} %, PyTorch "
        f"{theirs:.2f} %, goal >= {goal}: {'met' if ours >= goal else 'NOT met'}; training steps "
        f"{spent['tinyconv']:.0f} s against {spent['PyTorch']:.0f} s, ratio {ratio:.2f}"
    )
    if options.json:
        row = {"data": options.array, "ours": ours, "peer": theirs, "goal": goal, **spent}
        Path(options.json).write_text(json.dumps(row) + "\n")


if __name__ == "__main__":
    main()
