"""What Winograd's algorithm costs in digits, and what the choice of its points decides.

    python benchmarks/rounding.py [--channels 16 64 256]

The largest error of 3x3 convolutions in float32, against float64, divided by the largest output:
tinyconv's direct kernel, its Winograd kernel, and F(4x4, 3x3) written out in NumPy with two sets of
points: the usual 0, -+1, -+2, and the kernel's 0, -+1/sqrt(2), -+sqrt(2).
"""

import argparse

import numpy as np
from timing import machine

from tinyconv.backend import reference
from tinyconv.backend.compiled import direct, winograd

SIZE, IMAGES = 16, 4
POINTS = {"0, -+1, -+2": (0, 1, -1, 2, -2), "0, -+1/sqrt(2), -+sqrt(2)": (0, *[
    s * p for p in (0.5**0.5, 2**0.5) for s in (1, -1)
])}  # fmt: skip


def matrices(points) -> tuple[np.ndarray, ...]:
    """A^T (4,6), G (6,3), B^T (6,6) of F(4, 3) at five points and infinity (Toom and Cook)."""
    p = np.array(points, float)
    gaps = np.array([np.prod([a - b for b in p if b != a]) for a in p])
    infinity = np.zeros((1, 4)), np.zeros((1, 3))
    infinity[0][0, 3] = infinity[1][0, 2] = 1
    A = np.concatenate([p[:, None] ** np.arange(4), infinity[0]])
    G = np.concatenate([p[:, None] ** np.arange(3) / gaps[:, None], infinity[1]])
    B = np.zeros((6, 6))
    for i in range(5):
        B[i, :5] = np.poly(np.delete(p, i))[::-1]
    B[5] = np.poly(p)[::-1]
    return A.T, G, B


def in_numpy(x, w, points) -> np.ndarray:
    """x (N,C,H,W), w (O,C,3,3), padding 1, in float32; only the weights' transform in float64."""
    A, G, B = matrices(points)
    u = (G @ w.astype(float) @ G.T).astype(np.float32)
    A, B = A.astype(np.float32), B.astype(np.float32)
    padded = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (6, 6), (2, 3))[:, :, ::4, ::4]
    v = B @ windows @ B.T
    y = A @ np.einsum("nchwij,ocij->nohwij", v, u) @ A.T
    N, O, H, W = y.shape[:4]
    return y.transpose(0, 1, 2, 4, 3, 5).reshape(N, O, 4 * H, 4 * W)


def main() -> None:
    parser = argparse.ArgumentParser(description="Rounding errors of Winograd's algorithm.")
    parser.add_argument("--channels", type=int, nargs="+", default=[16, 64, 256])
    options = parser.parse_args()
    print(f"machine: {machine()}")
    how = {"stride": (1, 1), "padding": ((1, 1), (1, 1)), "dilation": (1, 1), "groups": 1}
    for channels in options.channels:
        rng = np.random.default_rng(0)
        x = rng.standard_normal((IMAGES, channels, SIZE, SIZE), np.float32)
        w = rng.standard_normal((channels, channels, 3, 3), np.float32)
        exact = reference.conv2d(x.astype(float), w.astype(float), **how)
        found = {
            "direct": direct.conv2d(x, w, (SIZE, SIZE), **how),
            "Winograd": winograd.correlate(x, w, (SIZE, SIZE), (1, 1), backward=False),
            **{name: in_numpy(x, w, points) for name, points in POINTS.items()},
        }
        errors = {name: np.abs(y - exact).max() / np.abs(exact).max() for name, y in found.items()}
        listed = ", ".join(
            f"{name} {error:.1e} ({error / errors['direct']:.1f} x direct)"
            for name, error in errors.items()
        )
        print(f"{channels} channels: {listed}")


if __name__ == "__main__":
    main()
