"""Draw the pictures of the README anew: docs/images/graph.svg and curves.png.

    python scripts/make_pictures.py

Trains on the embedded sample (a minute or two); needs graphviz's dot program and matplotlib.
"""

import shutil
import tempfile
from pathlib import Path

import tinyconv as tc
from tinyconv import nn
from tinyconv.nn import functional as F
from tinyconv.train import Config, Run, Trainer

IMAGES = Path(__file__).parent.parent / "docs" / "images"


def graph() -> None:
    """A residual block between its neighbours, small enough to read."""
    tc.manual_seed(0)
    branch = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8))
    model = nn.Sequential(
        nn.Conv2d(1, 8, 3, stride=2, padding=1, bias=False),
        nn.Residual(branch),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
    )
    loss = F.cross_entropy(model(tc.randn(32, 1, 28, 28)), tc.randint(8, (32,)))
    tc.trace(loss, model).save(IMAGES / "graph.svg")


def curves() -> None:
    """Of the run that ``tinyconv train mnist --data sample`` makes."""
    with tempfile.TemporaryDirectory() as folder:
        Trainer(Config(data="sample"), Run(Path(folder))).fit()
        shutil.copy(Path(folder) / "curves.png", IMAGES)


if __name__ == "__main__":
    IMAGES.mkdir(parents=True, exist_ok=True)
    graph()
    curves()
