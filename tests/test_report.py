"""The report of a run: its numbers, read back from the page, are the run's."""

import base64
import json
import math
import re
import signal
import struct
import xml.etree.ElementTree as ET
import zlib
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from test_train import BATCH, Few, run, small, stop_after  # noqa: F401  (small is a fixture)

import tinyconv as tc
from tinyconv import cli, io, nn, train
from tinyconv.nn import functional as F
from tinyconv.see import charts, report
from tinyconv.see.charts import Line, line_chart
from tinyconv.see.report import Record, confusion_matrix, to_html, worst_mistakes
from tinyconv.train import Config, Run, Trainer


class Page(HTMLParser):
    """The tables by class, the pictures by alternative text, and every tag that stays open."""

    VOID = frozenset({"meta", "img", "br"})

    def __init__(self, source: str) -> None:
        super().__init__()
        self.tables: dict[str, list[list[str]]] = {}
        self.pictures: dict[str, str] = {}
        self.addresses: list[str] = []
        self.open: list[str] = []
        self.table, self.cell = "", False
        self.feed(source)

    def handle_starttag(self, tag, attributes):
        given = dict(attributes)
        if tag not in self.VOID:
            self.open.append(tag)
        self.addresses += [given[name] for name in ("src", "href") if name in given]
        if tag == "img":
            self.pictures[given["alt"]] = given["src"]
        if tag == "table":
            self.table = given["class"]
            self.tables[self.table] = []
        elif tag == "tr":
            self.tables[self.table].append([])
        elif tag in ("td", "th"):
            self.tables[self.table][-1].append("")
            self.cell = True

    def handle_startendtag(self, tag, attributes):
        pass  # inside SVG

    def handle_endtag(self, tag):
        assert self.open.pop() == tag
        if tag in ("td", "th"):
            self.cell = False

    def handle_data(self, data):
        if self.cell:
            self.tables[self.table][-1][-1] += data


def pixels(source: str) -> np.ndarray:
    """A PNG of one chunk of lines without filters, as an array."""
    data = base64.b64decode(source.removeprefix("data:image/png;base64,"))
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    chunks, at = {}, 8
    while at < len(data):
        (size,) = struct.unpack(">I", data[at : at + 4])
        name, body = data[at + 4 : at + 8], data[at + 8 : at + 8 + size]
        (check,) = struct.unpack(">I", data[at + 8 + size : at + 12 + size])
        assert check == zlib.crc32(name + body)
        chunks[name] = body
        at += 12 + size
    width, height, _, kind = struct.unpack(">IIBB", chunks[b"IHDR"][:10])
    rows = np.frombuffer(zlib.decompress(chunks[b"IDAT"]), np.uint8).reshape(height, -1)
    assert not rows[:, 0].any()
    return rows[:, 1:].reshape((height, width, 3) if kind == 2 else (height, width))


@pytest.fixture(scope="module")
def record() -> Record:
    rng = np.random.default_rng(0)
    probabilities = rng.dirichlet(np.full(3, 0.3), 40).astype(np.float32)
    norms = [{"a.conv": 10.0**-i, "b<c>": 2.0} for i in range(4)]
    return Record(
        title="a <run>",
        facts=[("lr", "0.3 & more")],
        epochs=[
            {
                "epoch": i,
                "train_loss": 1 / i,
                "test_loss": 0.5 / i,
                "train_accuracy": 90 + i,
                "test_accuracy": 91 + i,
                "images_per_second": 1234.5,
            }
            for i in (1, 2)
        ],
        steps=[
            {"epoch": 0.5 * (i + 1), "loss": 2.0 / (i + 1), "norms": n} for i, n in enumerate(norms)
        ],
        filters=np.array([[[[-2.0, 0.0, 1.0]]], [[[2.0, 0.5, 0.0]]]]),
        filters_path="conv1",
        classes=["zero", "one", "two"],
        images=rng.integers(0, 256, (40, 5, 4)).astype(np.uint8),
        labels=rng.integers(0, 3, 40),
        probabilities=probabilities,
    )


@pytest.fixture(scope="module")
def page(record) -> Page:
    return Page(to_html(record))


def test_the_page_is_whole_and_holds_all_that_it_shows(record, page):
    source = to_html(record)
    assert page.open == []
    assert page.addresses
    assert all(address.startswith("data:image/png") for address in page.addresses)
    assert "<script" not in source
    assert "http" not in source
    assert "a &lt;run&gt;" in source
    assert "0.3 &amp; more" in source
    assert source == to_html(record)


def test_the_confusion_matrix_counts(record, page):
    head, *rows = page.tables["confusion"]
    assert head[1:4] == ["zero", "one", "two"]
    for truth, row in enumerate(rows):
        counts = [0, 0, 0]
        for label, p in zip(record.labels, record.probabilities, strict=True):
            if label == truth:
                counts[max(range(3), key=lambda k: p[k])] += 1
        assert row[0] == record.classes[truth]
        assert [int(cell or 0) for cell in row[1:4]] == counts
        assert row[4] == f"{100 * counts[truth] / sum(counts):.1f} %"
    assert confusion_matrix(record).sum() == 40


def test_the_worst_mistakes_are_mistakes_and_the_worst(record, page):
    worst = worst_mistakes(record)
    loss = -np.log(record.probabilities[np.arange(40), record.labels])
    wrong = {i for i in range(40) if record.probabilities[i].argmax() != record.labels[i]}
    assert set(worst) <= wrong
    assert len(worst) == min(len(wrong), report.WORST)
    assert list(loss[worst]) == sorted(loss[worst], reverse=True)
    assert min(loss[worst]) >= max((loss[i] for i in wrong - set(worst)), default=0)
    for i in worst:
        name = f"test image {i}, a {record.classes[record.labels[i]]}"
        np.testing.assert_array_equal(pixels(page.pictures[name]), record.images[i])


def test_no_mistake_is_said_so(record):
    certain = np.eye(3, dtype=np.float32)[record.labels]
    perfect = Record(**{**vars(record), "probabilities": certain})
    source = to_html(perfect)
    assert "100.00 %" in source
    assert "every test image is classified right" in source
    assert "Most often" not in source


def test_filters_are_white_at_zero_and_share_a_scale(page):
    first, second = (pixels(page.pictures[f"filter {i}"])[0] for i in (0, 1))
    assert first[0].tolist() == [0x00, 0x72, 0xB2]
    assert second[0].tolist() == [0xD5, 0x5E, 0x00]
    assert first[1].tolist() == second[2].tolist() == [0xF7] * 3
    assert first[2].tolist() == [0xEA, 0xAE, 0x7F]  # half of the greatest


def test_gradient_norms_are_shaded_by_their_logarithm(page):
    head, *rows = page.tables["strips"]
    assert head == ["layer", "start … end", "first", "last"]
    assert [row[0] for row in rows] == ["a.conv", "b<c>"]
    assert [row[2:] for row in rows] == [["1", "0.001"], ["2", "2"]]
    falling, constant = (pixels(page.pictures[name])[0].astype(int) for name in ("a.conv", "b<c>"))
    assert falling.shape == (4, 3)
    assert (np.diff(falling[:, 0]) < 0).all()  # from yellow to blue
    assert (np.diff(constant, axis=0) == 0).all()


def test_a_run_without_an_epoch_has_a_page(record):
    source = to_html(Record(**{**vars(record), "epochs": [], "steps": []}))
    assert "Nothing to draw yet" in source
    assert "No step was noted yet" in source
    assert Page(source).open == []


# --- charts


def test_a_chart_draws_its_numbers():
    xs, ys = [1, 2, 4], [1.0, 0.1, 0.01]
    source = line_chart([Line("a < b", xs, ys), Line("c", [1], [1.0])], "x", "y", "about")
    svg = ET.fromstring(source.partition("<p class")[0])
    line, single = svg.findall("polyline")
    points = [tuple(map(float, p.split(","))) for p in line.get("points").split()]
    width = points[2][0] - points[0][0]
    height = points[2][1] - points[0][1]
    assert points[1][0] - points[0][0] == pytest.approx(width / 3, abs=0.1)
    assert points[1][1] - points[0][1] == pytest.approx(height / 2, abs=0.1)
    assert single.get("points") == line.get("points").split()[0]
    texts = [t.text for t in svg.findall("text")]
    assert {"1", "0.1", "0.01", "2", "3", "4", "x", "y"} <= set(texts)
    ticks = {
        t.text: float(t.get("y")) - 4.5
        for t in svg.findall("text")
        if t.get("text-anchor") == "end"
    }
    assert ticks["0.1"] == pytest.approx(points[1][1], abs=0.1)
    assert svg.get("aria-label") == "about"
    assert "a &lt; b" in source


@pytest.mark.parametrize(("low", "high"), [(0.013, 2.3), (3.0, 3.1), (1e-9, 1e9), (1.0, 1.0)])
def test_ticks_are_few_and_inside(low, high):
    ticks = charts._log_ticks(low, high)
    assert 1 <= len(ticks) <= 20
    assert ticks == sorted(set(ticks))
    assert ticks[0] <= low * (1 + 1e-12)
    assert all(tick <= high for tick in ticks)


def test_what_has_no_logarithm_is_left_out():
    source = line_chart([Line("a", [1, 2, 3, 4], [0.5, 0.0, math.nan, 0.25])], "x", "y", "about")
    points = re.findall(r'polyline points="([^"]+)"', source)[0]
    assert len(points.split()) == 2


def test_magnitudes_grow_lighter():
    shades = charts.magnitudes(np.linspace(0, 1, 30)).astype(float) @ [0.2126, 0.7152, 0.0722]
    assert (np.diff(shades) > 0).all()


# --- a run


def test_gradient_norms_are_the_layers():
    tc.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Sequential(nn.Flatten(), nn.Linear(32, 3)))
    F.cross_entropy(model(tc.randn(2, 1, 6, 6)), tc.tensor([0, 2])).backward()
    norms = train.gradient_norms(model)
    assert norms.keys() == {"0", "1.1"}
    layer = model[0]
    every = np.concatenate([layer.weight.grad.numpy().ravel(), layer.bias.grad.numpy()])
    assert norms["0"] == pytest.approx(np.linalg.norm(every), rel=1e-5)


def notes(folder):
    return io.load(folder / "checkpoint.safetensors")["notes"]


def test_a_run_leaves_a_report(tmp_path, monkeypatch):
    monkeypatch.setattr(train, "NOTE_EVERY", 5)
    assert run("--out", "one") == 0
    folder = tmp_path / "one"
    row = json.loads((folder / "metrics.jsonl").read_text().splitlines()[-1])
    page = Page((folder / "report.html").read_text(encoding="utf-8"))
    counts = np.array([[int(c or 0) for c in r[1:11]] for r in page.tables["confusion"][1:]])
    assert counts.sum() == len(Few(train=False))
    assert 100 * counts.trace() / counts.sum() == pytest.approx(row["test_accuracy"])
    assert [n["epoch"] for n in notes(folder)] == pytest.approx([1 / 6, 1, 11 / 6])
    model = nn.resnet.resnet8()
    owners = [path for path, module in model.named_modules() if list(module.parameters(False))]
    assert [r[0] for r in page.tables["strips"][1:]] == owners
    weight = io.load(folder / "model.safetensors")["conv1.weight"].numpy()
    expected = charts.signed(weight[0, 0], np.abs(weight).max())
    np.testing.assert_array_equal(pixels(page.pictures["filter 0"]), expected)


@pytest.mark.parametrize("step", [1, 3, 9])
def test_a_stopped_run_has_a_report_and_its_notes_go_on(tmp_path, monkeypatch, capsys, step):
    monkeypatch.setattr(train, "NOTE_EVERY", 4)
    run("--out", "whole")
    plain = stop_after(monkeypatch, step, lambda: signal.raise_signal(signal.SIGINT))
    assert run("--out", "stopped") == 130
    monkeypatch.setattr(Trainer, "step", plain)
    at_stop = tmp_path / "stopped" / "report.html"
    assert str(at_stop.relative_to(tmp_path)) in capsys.readouterr().out
    before = at_stop.read_text(encoding="utf-8")
    assert cli.main(["report", "stopped"]) == 0
    assert at_stop.read_text(encoding="utf-8") == before  # the same from the checkpoint
    assert cli.main(["train", "mnist", "--resume", "--out", "stopped"]) == 0
    assert notes(tmp_path / "stopped") == notes(tmp_path / "whole")
    assert len(notes(tmp_path / "whole")) == 3


def test_a_report_needs_a_run(capsys, tmp_path):
    assert cli.main(["report", "nowhere"]) == 2
    assert "there is no run in nowhere" in capsys.readouterr().err


def test_answers_are_in_order_and_leave_the_mode():
    trainer = Trainer(Config(batch_size=BATCH, epochs=1), Run(Path("x")))
    trainer.model.train()
    logits, labels = train.answers(trainer.model, trainer.test_set, batch_size=7)
    assert trainer.model.training
    assert not logits.requires_grad
    np.testing.assert_array_equal(labels.numpy(), trainer.test_set.labels)
    _, accuracy = train.evaluate(trainer.model, trainer.test_set)
    found = logits.numpy().argmax(1)
    assert 100 * (found == trainer.test_set.labels).mean() == pytest.approx(accuracy)


def test_a_report_shows_what_the_weights_say_now(tmp_path):
    """The last epoch's answers, or new ones where nothing was tested since the weights came."""
    trainer = Trainer(Config(batch_size=BATCH, epochs=2), Run(tmp_path / "run"))
    trainer.run.write_config(trainer.config)
    assert trainer.logits is None
    trainer.train_epoch(train.StopRequest(), show=False)
    trainer.finish_epoch()
    assert trainer.logits is not None
    fresh, _ = train.answers(trainer.model, trainer.tested)
    np.testing.assert_array_equal(trainer.logits.numpy(), fresh.numpy())
    trainer.train_epoch(train.StopRequest(), show=False)
    assert trainer.logits is None


def test_the_most_frequent_mistakes_are_named(record):
    said = np.array([0, 0, 0, 1, 1, 2, 2])
    some = Record(
        **{
            **vars(record),
            "labels": np.array([1, 1, 0, 2, 2, 2, 0]),
            "images": record.images[:7],
            "probabilities": np.eye(3, dtype=np.float32)[said],
        }
    )
    assert "Most often (2 times): one for zero, two for one." in to_html(some)
