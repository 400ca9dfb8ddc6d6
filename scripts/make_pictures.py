"""Draw the pictures of the README anew, in docs/images/.

    python scripts/make_pictures.py [explainer.gif model.svg graph.svg costs.png curves.png]

Without names all of them. curves.png trains on the embedded sample (a minute or two), costs.png
measures for some seconds. Needs graphviz's dot program, matplotlib and Pillow.
"""

import shutil
import sys
import tempfile
from pathlib import Path

import tinyconv as tc
from tinyconv import nn
from tinyconv.nn import functional as F, resnet
from tinyconv.train import Config, Run, Trainer

IMAGES = Path(__file__).parent.parent / "docs" / "images"


def explainer(target: Path) -> None:
    """The gradient of a convolution's input, a stamp at a time."""
    tc.manual_seed(0)
    layer = nn.Conv2d(1, 1, 3, stride=2, padding=1)
    x, grad = tc.randint(5, (1, 1, 5, 5)).float(), tc.randint(-2, 3, (1, 1, 3, 3)).float()
    tc.explain(layer, x, show="dx", grad=grad).save(target, fps=1)


def model(target: Path) -> None:
    """A ResNet, a box for each child."""
    tc.manual_seed(0)
    tc.trace(resnet.resnet8(), tc.randn(1, 1, 28, 28), zoom="model").save(target)


def graph(target: Path) -> None:
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
    tc.trace(loss, model).save(target)


def costs(target: Path) -> None:
    """What two of Conv2d's arguments cost."""
    found = tc.see.curves(["stride", "kernel"], (8, 16, 48, 48), rounds=15)
    with tempfile.TemporaryDirectory() as folder:  # the numbers are saved beside the figure
        found.save(Path(folder) / target.name)
        shutil.copy(Path(folder) / target.name, target)


def curves(target: Path) -> None:
    """Of the run that ``tinyconv train mnist --data sample`` makes."""
    with tempfile.TemporaryDirectory() as folder:
        Trainer(Config(data="sample"), Run(Path(folder))).fit()
        shutil.copy(Path(folder) / "curves.png", target)


PICTURES = {
    "explainer.gif": explainer,
    "model.svg": model,
    "graph.svg": graph,
    "costs.png": costs,
    "curves.png": curves,
}


def main(names: list[str]) -> None:
    unknown = set(names) - set(PICTURES)
    if unknown:
        sys.exit(f"{', '.join(sorted(unknown))}: there is {', '.join(PICTURES)}")
    IMAGES.mkdir(parents=True, exist_ok=True)
    for name in names or PICTURES:
        PICTURES[name](IMAGES / name)
        print("drawn:", IMAGES / name)


if __name__ == "__main__":
    main(sys.argv[1:])
