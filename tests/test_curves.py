"""Cost curves: the counts are right, the files hold them, the figure is labelled."""

import csv
import json
import sys

import pytest

from tinyconv import cli
from tinyconv.errors import TinyconvError
from tinyconv.see.curves import ARGUMENTS, Curves, curves, draw

SMALL = (1, 4, 12, 12)


@pytest.fixture(scope="module")
def found() -> Curves:
    return curves(tuple(ARGUMENTS), SMALL, rounds=2)


def test_counts_follow_the_laws(found):
    stride = {p.value: p for p in found.of("stride")}
    assert stride[1].multiply_adds == 4 * 12 * 12 * 4 * 9
    assert stride[1].multiply_adds == 4 * stride[2].multiply_adds  # SH * SW, not the stride
    assert len({p.parameters for p in found.of("stride")}) == 1
    for p in found.of("kernel"):
        assert p.parameters == 4 * (4 * p.value**2 + 1)
        assert p.output == (1, 4, 12, 12)
    for p in found.of("channels"):
        assert p.parameters == p.value * (p.value * 9 + 1)
        assert p.input[1] == p.value
    groups = found.of("groups")
    assert [p.value for p in groups] == [1, 2, 4]  # more do not divide 4 channels
    assert [p.multiply_adds * p.value for p in groups] == [groups[0].multiply_adds] * 3
    assert len({p.multiply_adds for p in found.of("dilation")}) == 1
    padded = {p.value: p.multiply_adds for p in found.of("padding")}
    assert padded[8] * 10 * 10 == padded[0] * 26 * 26


def test_times_are_quartiles_of_positive_seconds(found):
    for p in found.points:
        for name in ("forward", "backward"):
            low, high = getattr(p, f"{name}_quartiles")
            assert 0 < low <= getattr(p, name) <= high < 5


def test_figure(found):
    pytest.importorskip("matplotlib")
    figure = draw(found)
    axes = figure.axes
    assert len(axes) == 3 * len(ARGUMENTS)
    labels = {a.get_ylabel() for a in axes} - {""}
    assert labels == {"parameters", "multiply-adds, forward", "time per call"}
    assert all(a.get_xlabel() for a in axes[-len(ARGUMENTS) :])
    for column, name in enumerate(ARGUMENTS):
        drawn = [axes[row * len(ARGUMENTS) + column].lines[0].get_ydata() for row in range(3)]
        points = found.of(name)
        assert list(drawn[0]) == [p.parameters for p in points]
        assert list(drawn[1]) == [p.multiply_adds for p in points]
        assert list(drawn[2]) == [p.forward for p in points]
        assert axes[2 * len(ARGUMENTS) + column].get_ylim()[0] == 0


def test_files(found, tmp_path):
    pytest.importorskip("matplotlib")
    written = found.save(tmp_path / "c.png")
    assert [p.name for p in written] == ["c.png", "c.json", "c.csv"]
    assert written[0].read_bytes().startswith(b"\x89PNG")
    data = json.loads(written[1].read_text())
    assert len(data["points"]) == len(found.points)
    assert data["points"][0]["multiply_adds"] == found.points[0].multiply_adds
    with written[2].open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert rows[0]["input"] == "1x4x12x12"
    assert float(rows[-1]["backward_q3"]) == found.points[-1].backward_quartiles[1]
    assert [p.name for p in found.save(tmp_path / "d.csv")] == ["d.csv"]


def test_notebook(found, monkeypatch):
    pytest.importorskip("matplotlib")
    assert found._repr_png_().startswith(b"\x89PNG")
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    assert found._repr_png_() is None


def test_without_matplotlib(monkeypatch, tmp_path, capsys):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(TinyconvError, match="pip install matplotlib"):
        draw(Curves((), 1, 1, "fast"))
    out = tmp_path / "c.csv"
    command = ["curves", "--vary", "stride", "--input", "1x2x8x8", "--rounds", "1", "-o"]
    assert cli.main([*command, str(out)]) == 0
    assert out.exists()
    assert cli.main([*command, str(tmp_path / "c.png")]) == 2
    assert "needs matplotlib" in capsys.readouterr().err


def test_command(tmp_path, capsys):
    pytest.importorskip("matplotlib")
    out = tmp_path / "curves.svg"
    command = ["curves", "--vary", "stride,groups", "--input", "1x4x8x8", "--rounds", "1"]
    assert cli.main([*command, "-o", str(out)]) == 0
    assert "<svg" in out.read_text()
    assert "stride" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--vary", "strid"], "vary: strid; there is stride, kernel"),
        (["--input", "8x8"], r"must be (N, C, H, W)"),
        (["-o", "curves.bmp"], "the suffix must be"),
        (["-o", "nowhere/curves.csv"], "there is no folder"),
    ],
)
def test_errors(options, said, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["curves", "-o", "c.csv", *options]) == 2
    assert said in capsys.readouterr().err
