"""A training run as one HTML page: curves, filters, confusions, the worst mistakes, gradients.

The page holds all that it shows: no network, no scripts.  `tinyconv.train` collects a `Record`
from a run's folder; this file turns it into the page.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tinyconv.see.charts import BLUE, VERMILION, Line, line_chart, magnitudes, png, signed

WORST = 18  # pictures of mistakes


@dataclass(frozen=True)
class Record:
    """What a run left.

    facts:         what to say about the run, (name, value)
    epochs:        a row per epoch: "epoch", "train_loss", "test_loss", "train_accuracy", ...
    steps:         rows during the training: "epoch" (with its fraction), "loss", and "norms", the
                   norm of each layer's gradient by its path
    filters:       the first convolution's weight (C_out, C_in, KH, KW), and its path
    images:        (N, H, W) uint8, the test images;  labels: (N,) int
    probabilities: (N, K) what the network says of them
    """

    title: str
    facts: Sequence[tuple[str, str]]
    epochs: Sequence[dict[str, Any]]
    steps: Sequence[dict[str, Any]]
    filters: NDArray[Any]
    filters_path: str
    classes: Sequence[str]
    images: NDArray[np.uint8]
    labels: NDArray[Any]
    probabilities: NDArray[Any]


def to_html(record: Record) -> str:
    """The page."""
    confusion = confusion_matrix(record)
    parts = [
        _headline(record, confusion),
        _section("curves", "Loss and accuracy", _curves(record)),
        _section("worst", "The worst mistakes", _worst(record)),
        _section("confusion", "What is taken for what", _confusion(record, confusion)),
        _section("filters", "The first layer's filters", _filters(record)),
        _section("gradients", "How large the gradients were", _gradients(record)),
        _section("facts", "The run", _facts(record)),
    ]
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(record.title)}</title><style>{_STYLE}</style></head>\n"
        f"<body><main>{''.join(parts)}</main></body></html>\n"
    )


def confusion_matrix(record: Record) -> NDArray[np.int64]:
    """(K, K): how many images of the row's class were taken for the column's."""
    count = len(record.classes)
    said = record.probabilities.argmax(1)
    pairs = np.bincount(record.labels * count + said, minlength=count * count)
    return pairs.reshape(count, count)


def worst_mistakes(record: Record) -> list[int]:
    """The misclassified images in whose true class the network believed least, worst first."""
    rows = np.arange(len(record.labels))
    believed = record.probabilities[rows, record.labels]
    wrong = record.probabilities.argmax(1) != record.labels
    order = np.argsort(believed, kind="stable")
    return [int(i) for i in order if wrong[i]][:WORST]


def _section(name: str, title: str, body: str) -> str:
    return f'<section id="{name}"><h2>{escape(title)}</h2>{body}</section>\n'


def _headline(record: Record, confusion: NDArray[np.int64]) -> str:
    total, right = int(confusion.sum()), int(confusion.trace())
    accuracy = 100 * right / total if total else 0.0
    finished = len(record.epochs)
    figures = [
        (f"{accuracy:.2f} %", f"of {total:,} test images right"),
        (f"{total - right:,}", "mistakes"),
        (str(finished), "epoch" if finished == 1 else "epochs"),
    ]
    if record.epochs:
        figures.append((f"{record.epochs[-1]['images_per_second']:,.0f}", "training images/s"))
    shown = "".join(
        f"<div><b>{escape(value)}</b><span>{escape(what)}</span></div>" for value, what in figures
    )
    return f'<header><h1>{escape(record.title)}</h1><div class="figures">{shown}</div></header>\n'


# --- curves


def _curves(record: Record) -> str:
    epochs = [row["epoch"] for row in record.epochs]
    loss = line_chart(
        [
            Line(
                "training",
                [row["epoch"] for row in record.steps],
                [row["loss"] for row in record.steps],
            ),
            Line(
                "test",
                epochs,
                [row["test_loss"] for row in record.epochs],
                VERMILION,
                dashed=True,
                dots=True,
            ),
        ],
        "epoch",
        "cross-entropy",
        "Cross-entropy over the epochs, training and test",
    )
    wrong = line_chart(
        [
            Line(
                "training",
                epochs,
                [100 - row["train_accuracy"] for row in record.epochs],
                BLUE,
                dots=True,
            ),
            Line(
                "test",
                epochs,
                [100 - row["test_accuracy"] for row in record.epochs],
                VERMILION,
                dashed=True,
                dots=True,
            ),
        ],
        "epoch",
        "wrong answers in %",
        "Wrong answers in percent over the epochs",
    )
    note = (
        "<p>The training's figures are means over what the network saw while it learned: "
        "shifted images, and weights that were still changing. So they can be worse than the "
        "test's.</p>"
    )
    return f'<div class="pair"><figure>{loss}</figure><figure>{wrong}</figure></div>{note}'


# --- mistakes


def _worst(record: Record) -> str:
    worst = worst_mistakes(record)
    if not worst:
        return "<p>There are none: every test image is classified right.</p>"
    cards = "".join(_card(record, i) for i in worst)
    return (
        f"<p>Test images in whose true class the network believed least. Bars: its "
        f"probabilities for {escape(record.classes[0])} … {escape(record.classes[-1])}; "
        f'<b class="true">blue</b> is the truth, <b class="said">orange</b> its answer.</p>'
        f'<ol class="cards">{cards}</ol>'
    )


def _card(record: Record, i: int) -> str:
    p, truth = record.probabilities[i], int(record.labels[i])
    said = int(p.argmax())
    names = record.classes
    kinds = {truth: ' class="true"', said: ' class="said"'}
    bars = "".join(
        f'<i{kinds.get(k, "")} style="height:{max(100 * float(p[k]), 1):.0f}%"></i>'
        for k in range(len(names))
    )
    picture = png(record.images[i], f"test image {i}, a {names[truth]}", "digit")
    words = (
        f'<b class="true">{escape(names[truth])}</b>, {_percent(p[truth])}<br>'
        f'said <b class="said">{escape(names[said])}</b>, {_percent(p[said])}'
    )
    return (
        f'<li>{picture}<div class="bars" aria-hidden="true">{bars}</div>'
        f"<p>{words}<br><small>test image {i}</small></p></li>"
    )


def _percent(p: float) -> str:
    percent = 100 * float(p)
    if percent < 0.1:
        return "under 0.1 %"
    if percent > 99.5:
        return "over 99 %"
    return f"{percent:.0f} %" if percent >= 10 else f"{percent:.1f} %"


def _confusion(record: Record, confusion: NDArray[np.int64]) -> str:
    names = [escape(name) for name in record.classes]
    mistakes = confusion - np.diag(confusion.diagonal())
    most = max(int(mistakes.max()), 1)
    head = "".join(f'<th scope="col">{name}</th>' for name in names)
    rows = []
    for i, name in enumerate(names):
        cells = "".join(_cell(int(confusion[i, j]), i == j, most) for j in range(len(names)))
        total = int(confusion[i].sum())
        right = f"{100 * confusion[i, i] / total:.1f} %" if total else ""
        rows.append(f'<tr><th scope="row">{name}</th>{cells}<td class="recall">{right}</td></tr>')
    return (
        f"<p>Row: what the image shows. Column: what the network said. On the right: the share "
        f'of the row that is right.{_pairs(record, mistakes)}</p><div class="scroll">'
        f'<table class="confusion"><thead><tr><td></td>{head}<td class="recall">right</td></tr>'
        f"</thead><tbody>{''.join(rows)}</tbody></table></div>"
    )


def _cell(n: int, right: bool, most: int) -> str:
    if right:
        return f'<td class="right">{n}</td>'
    if not n:
        return "<td></td>"
    strength = 0.12 + 0.88 * n / most
    ink = "#fff" if strength > 0.6 else "#1a1a1a"
    return f'<td style="background:rgba(213,94,0,{strength:.2f});color:{ink}">{n}</td>'


def _pairs(record: Record, mistakes: NDArray[np.int64]) -> str:
    """The most frequent mistakes in words, three of them if there are more."""
    most = int(mistakes.max())
    if not most:
        return ""
    names = [escape(name) for name in record.classes]
    pairs = [f"{names[i]} for {names[j]}" for i, j in np.argwhere(mistakes == most)[:3]]
    return f" Most often ({'once' if most == 1 else f'{most} times'}): {', '.join(pairs)}."


# --- filters and gradients


def _filters(record: Record) -> str:
    weight = record.filters
    limit = float(np.abs(weight).max())
    tiles = "".join(
        f"<figure>{png(signed(kernel, limit), f'filter {i}', 'filter')}"
        f"<figcaption>{i}</figcaption></figure>"
        for i, kernels in enumerate(weight)
        for kernel in kernels
    )
    bar = png(signed(np.linspace(-1, 1, 65)[None], 1.0), "from blue over white to orange", "bar")
    outs, ins, height, width = weight.shape
    return (
        f"<p><code>{escape(record.filters_path)}</code>: {outs} filters of {height} x {width}"
        f"{f' on {ins} channels' if ins > 1 else ''}. Orange weighs a bright pixel up, blue "
        f"down; orange beside blue looks for an edge between the two.</p>"
        f'<div class="tiles">{tiles}</div>'
        f'<p class="scale">-{limit:.2g} {bar} +{limit:.2g}</p>'
    )


def _gradients(record: Record) -> str:
    if not record.steps:
        return '<p class="none">No step was noted yet.</p>'
    layers = list(record.steps[0]["norms"])
    norms = np.array([[row["norms"][layer] for row in record.steps] for layer in layers], float)
    logs = np.log10(np.maximum(norms, np.finfo(float).tiny))
    low, high = float(np.quantile(logs, 0.01)), float(np.quantile(logs, 0.99))
    shades = magnitudes(np.clip((logs - low) / (high - low or 1.0), 0, 1))
    rows = "".join(
        f'<tr><th scope="row">{escape(layer)}</th><td>{png(shade[None], layer, "strip")}</td>'
        f"<td>{first:.2g}</td><td>{last:.2g}</td></tr>"
        for layer, shade, first, last in zip(layers, shades, norms[:, 0], norms[:, -1], strict=True)
    )
    bar = png(magnitudes(np.linspace(0, 1, 65)[None]), "from dark blue to yellow", "bar")
    return (
        f"<p>The norm of each layer's gradient during the training, from left to right, at "
        f"{len(record.steps)} of its steps: large where the loss still asks a layer to change, "
        f"small where it hardly does.</p>"
        f'<table class="strips"><thead><tr><th>layer</th><th>start … end</th><th>first</th>'
        f"<th>last</th></tr></thead><tbody>{rows}</tbody></table>"
        f'<p class="scale">{10**low:.2g} {bar} {10**high:.2g}, logarithmic</p>'
    )


def _facts(record: Record) -> str:
    rows = "".join(
        f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in record.facts
    )
    return f"<dl>{rows}</dl>"


_STYLE = """
:root{--ink:#1a1a1a;--quiet:#5f6368;--rule:#e3e3e3;--page:#fff;--card:#f7f8fa;
--true:#0072b2;--said:#c25400}
*{box-sizing:border-box}
body{margin:0;background:var(--page);color:var(--ink);
font:16px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,Helvetica,Arial,sans-serif}
main{max-width:1040px;margin:0 auto;padding:32px 24px 64px}
h1{font-size:30px;line-height:1.2;margin:0 0 20px}
h2{font-size:21px;margin:0 0 8px}
section{padding:28px 0 8px;border-top:1px solid var(--rule);margin-top:28px}
p{max-width:68ch;margin:0 0 14px;color:var(--quiet)}
b.true{color:var(--true)} b.said{color:var(--said)}
code{font:0.92em ui-monospace,Menlo,Consolas,monospace;color:var(--ink)}
.figures{display:grid;grid-template-columns:repeat(auto-fit,minmax(140px,1fr));gap:12px}
.figures div{background:var(--card);border-radius:10px;padding:14px 16px}
.figures b{display:block;font-size:26px;line-height:1.2;font-variant-numeric:tabular-nums}
.figures span{color:var(--quiet);font-size:14px}
.pair{display:grid;grid-template-columns:repeat(auto-fit,minmax(300px,1fr));gap:12px 32px;
margin-bottom:10px}
figure{margin:0}
.chart{display:block;width:100%;height:auto}
.chart text{font-size:13.5px;fill:var(--quiet);font-variant-numeric:tabular-nums}
.chart .label{fill:var(--ink)}
.chart .grid{stroke:var(--rule)}
polyline{fill:none;stroke-width:2.2;stroke-linejoin:round}
.legend{display:flex;gap:20px;margin:2px 0 10px 12%;font-size:14px}
.key{width:34px;height:10px;margin-right:7px}
.cards{list-style:none;margin:0;padding:0;display:grid;gap:12px;
grid-template-columns:repeat(auto-fill,minmax(150px,1fr))}
.cards li{background:var(--card);border-radius:10px;padding:12px}
.cards p{margin:8px 0 0;font-size:14px;line-height:1.4}
.digit{display:block;width:100%;height:auto;image-rendering:pixelated;border-radius:6px}
.bars{display:flex;align-items:flex-end;gap:2px;height:34px;margin-top:10px;
border-bottom:1px solid #c9ccd1}
.bars i{flex:1;background:#b9bec6}
.bars .true{background:var(--true)} .bars .said{background:#d55e00}
.scroll{overflow-x:auto}
.confusion{border-collapse:separate;border-spacing:2px;font-variant-numeric:tabular-nums}
.confusion th{font-weight:600;padding:2px 6px}
.confusion td{min-width:46px;height:38px;text-align:center;border-radius:4px;
background:var(--card);font-size:15px}
.confusion thead td,.confusion .recall{background:none;color:var(--quiet);font-size:14px}
.confusion .recall{padding-left:10px;white-space:nowrap;text-align:right}
.confusion .right{background:#e4eff7;color:#0a4f79}
.tiles{display:grid;grid-template-columns:repeat(auto-fill,minmax(84px,1fr));gap:12px;
max-width:800px}
.tiles figcaption{font-size:13px;color:var(--quiet);text-align:center}
.filter{display:block;width:100%;height:auto;image-rendering:pixelated;
border:1px solid var(--rule);border-radius:4px}
.scale{display:flex;align-items:center;gap:10px;margin-top:14px;font-size:14px;
font-variant-numeric:tabular-nums}
.bar{width:180px;height:12px;border-radius:3px}
.strips{width:100%;border-collapse:collapse;font-size:14px;font-variant-numeric:tabular-nums}
.strips th{text-align:left;font-weight:500;padding:2px 12px 2px 0;white-space:nowrap}
.strips thead th{color:var(--quiet)}
.strips td{padding:2px 0}
.strips td:nth-child(2){width:100%}
.strips td:nth-child(n+3),.strips th:nth-child(n+3){text-align:right;padding-left:12px}
.strip{display:block;width:100%;height:18px;image-rendering:pixelated}
dl{display:grid;grid-template-columns:max-content 1fr;gap:4px 20px;margin:0}
dt{color:var(--quiet)} dd{margin:0;overflow-wrap:anywhere}
@media (max-width:560px){
main{padding:20px 14px 48px} h1{font-size:25px}
.figures{grid-template-columns:1fr 1fr} .figures b{font-size:22px}
.cards{grid-template-columns:1fr 1fr}
.confusion{border-spacing:1px} .confusion th{padding:1px 2px}
.confusion td{min-width:22px;height:28px;font-size:12px;padding:0}
.confusion .recall{padding-left:3px;font-size:10.5px}
.tiles{grid-template-columns:repeat(4,1fr)}
.strips{font-size:12px} .strips th{padding-right:8px}
.strips td:nth-child(2){width:auto} .strip{min-width:90px}
.strips td:nth-child(n+3),.strips th:nth-child(n+3){padding-left:7px}
dl{grid-template-columns:1fr;gap:0} dd{margin-bottom:8px}
}
@media print{section{break-inside:avoid}}
"""
