"""A convolutional autoencoder on MNIST
====================================

Draws digits beside their reconstructions.

::

    python examples/autoencoder.py [--steps 600] [--out reconstructions.png]

The encoder halves the image twice with strided convolutions; the decoder is the same shapes
backwards with ConvTranspose2d.  output_padding=1 says which of the two sizes that a stride-2
convolution maps to the same one (7 from 13 or 14) is meant.
"""

import argparse

import tinyconv as tc
from tinyconv import data, nn, optim
from tinyconv.nn import functional as F


def autoencoder(code: int = 16) -> nn.Sequential:
    """(N, 1, 28, 28) -> a code of ``code`` numbers -> logits (N, 1, 28, 28)."""
    encoder = nn.Sequential(
        nn.Conv2d(1, 16, 3, stride=2, padding=1), nn.ReLU(),  # 28 -> 14
        nn.Conv2d(16, 32, 3, stride=2, padding=1), nn.ReLU(),  # 14 -> 7
        nn.Flatten(), nn.Linear(32 * 7 * 7, code),
    )  # fmt: skip
    decoder = nn.Sequential(
        nn.Linear(code, 32 * 7 * 7), nn.ReLU(), nn.Unflatten(1, (32, 7, 7)),
        nn.ConvTranspose2d(32, 16, 3, stride=2, padding=1, output_padding=1), nn.ReLU(),  # 7 -> 14
        nn.ConvTranspose2d(16, 1, 3, stride=2, padding=1, output_padding=1),  # 14 -> 28
    )  # fmt: skip
    return nn.Sequential(encoder, decoder)


def pixels(dataset: data.MNIST, positions: tc.Tensor) -> tc.Tensor:
    """Grey levels in [0, 1], (N, 1, 28, 28)."""
    return tc.from_numpy(dataset.images[positions.numpy()]).float()[:, None] / 255


def draw(originals: tc.Tensor, copies: tc.Tensor, path: str) -> None:
    """Two rows: what went in, what came out."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(len(originals), 2.4), layout="constrained")
    axes = figure.subplots(2, len(originals))
    for row, images, title in zip(axes, (originals, copies), ("in", "out"), strict=True):
        for ax, image in zip(row, images.numpy(), strict=True):
            ax.imshow(image[0], cmap="gray_r", vmin=0, vmax=1)
            ax.set_axis_off()
        row[0].set_title(title, loc="left")
    figure.savefig(path, dpi=100)


def main() -> None:
    options = argparse.ArgumentParser(description="A convolutional autoencoder on MNIST.")
    options.add_argument("--steps", type=int, default=600)
    options.add_argument("--data", default="auto", choices=("full", "sample", "auto"))
    options.add_argument("--out", default="reconstructions.png")
    options = options.parse_args()

    tc.manual_seed(0)
    train_set = data.MNIST(train=True, source=options.data)
    test_set = data.MNIST(train=False, source=train_set.source)
    model = autoencoder()
    optimizer = optim.Adam(model.parameters(), lr=2e-3)
    for step in range(1, options.steps + 1):
        x = pixels(train_set, tc.randint(0, len(train_set), (64,)))
        loss = F.binary_cross_entropy_with_logits(model(x), x)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step == 1 or step % 100 == 0:
            print(f"step {step:3d}  cross-entropy per pixel {loss.item():.4f}")

    one_of_each = [int((test_set.labels == digit).argmax()) for digit in range(10)]
    shown = pixels(test_set, tc.tensor(one_of_each))
    with tc.no_grad():
        copies = model(shown).sigmoid()
    draw(shown, copies, options.out)
    print(
        f"mean error per pixel {(shown - copies).abs().mean().item():.4f}, drawn in {options.out}"
    )


if __name__ == "__main__":
    main()
