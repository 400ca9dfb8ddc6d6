"""The examples run when the site is built: with small settings; the files they write are shown."""

from __future__ import annotations

from pathlib import Path
from typing import Any

SMALL = {
    "autoencoder.py": ["--steps", "300", "--data", "sample"],
    "gradient_penalty.py": ["--steps", "100"],
    "mnist_resnet.py": ["--data", "sample", "--epochs", "1", "--batches", "60"],
}
PICTURES = (".png", ".svg")


def small(_conf: dict[str, Any], script: dict[str, Any]) -> list[str]:
    """The arguments with which an example runs here (sphinx-gallery's reset_argv)."""
    return SMALL.get(Path(script["src_file"]).name, [])


def files(_block: Any, variables: dict[str, Any], conf: dict[str, Any], **_: Any) -> str:
    """Move the pictures that a script left in its folder to the site (an image scraper)."""
    from sphinx_gallery.scrapers import figure_rst

    folder = Path(variables["src_file"]).parent
    shown = []
    for found in sorted(path for path in folder.iterdir() if path.suffix in PICTURES):
        target = Path(next(variables["image_path_iterator"])).with_suffix(found.suffix)
        target.parent.mkdir(parents=True, exist_ok=True)
        found.replace(target)
        shown.append(str(target))
    return figure_rst(shown, conf["src_dir"])


def setup(_app: Any) -> dict[str, bool]:
    return {"parallel_read_safe": True, "parallel_write_safe": True}
