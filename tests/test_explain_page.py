"""The explainer's page in a real browser: keys, highlighted cells, numbers, phone, no network."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from browser import PROGRAM, Browser, chromium
from explain_pages import cells_in, numbers_of

import tinyconv as tc
from tinyconv import nn

pytestmark = pytest.mark.skipif(
    PROGRAM is None, reason="there is no Chromium: apt-get install chromium"
)

SCREENSHOTS = Path(__file__).parents[1] / "build" / "screenshots"

CASES: dict[str, tuple[Any, tuple[int, ...]]] = {
    "conv": (lambda: nn.Conv2d(1, 1, 3, 2, 1), (1, 1, 6, 6)),
    "channels and groups": (lambda: nn.Conv2d(4, 2, (2, 3), 1, 1, 2, groups=2), (1, 4, 5, 6)),
    "same": (lambda: nn.Conv2d(1, 2, 4, padding="same"), (1, 1, 5, 5)),
    "reflected": (lambda: nn.Conv2d(1, 1, 3, padding=2, padding_mode="reflect"), (2, 1, 4, 4)),
    "transposed": (lambda: nn.ConvTranspose2d(2, 1, 3, 2, 1, 1), (1, 2, 3, 3)),
    "max pool": (lambda: nn.MaxPool2d(3, 2, 1), (1, 2, 6, 5)),
    "average pool": (lambda: nn.AvgPool2d(3, 2, 1), (1, 1, 6, 6)),
    "adaptive pool": (lambda: nn.AdaptiveAvgPool2d((3, 2)), (1, 1, 7, 5)),
}


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with chromium(tmp_path_factory.mktemp("chromium") / "profile") as opened:
        yield opened


def made(case: str, show: str = "forward", **options: Any) -> Any:
    build, shape = CASES[case]
    rng = np.random.default_rng(0)
    layer, x = build(), rng.standard_normal(shape).astype(np.float32)
    grad = rng.standard_normal(layer(tc.tensor(x)).shape).astype(np.float32)
    return tc.explain(layer, x, show=show, grad=grad, **options)


def opened(browser: Browser, folder: Path, explanation: Any, **screen: Any) -> None:
    path = explanation.save(folder / "page.html")
    browser.open(path, **screen)
    assert browser.requests == [path.as_uri()]


def highlighted(browser: Browser) -> set[str]:
    """The cells of the step, as the page labels them."""
    return set(
        browser.run("""[...document.querySelectorAll("#panels .cell.on")].map(
        made => made.getAttribute("aria-label").split(" ")[0])""")
    )


def written(browser: Browser) -> dict[str, str]:
    """The cells of the array that is written, and what they hold."""
    return dict(
        browser.run("""[...document.querySelectorAll("#panels .badge")][0]
        .closest(".panel").querySelectorAll(".cell").values().map(
        made => made.getAttribute("aria-label").split(" ", 2)).toArray()""")
    )


def holds_in(text: str) -> dict[str, float]:
    """What the step's text says that the written cells hold now."""
    now = dict(re.findall(r"^  (?:\S+ -> )?(\S+) \+= .*   now (\S+)$", text, re.M))
    now |= dict(re.findall(r"^  (\S+) = (\S+)$", text, re.M))
    return {cell: float(value) for cell, value in now.items()}


def check_step(browser: Browser, explanation: Any, number: int) -> None:
    """What the page shows is what the text says."""
    words = explanation.step(number)
    count = browser.run('document.getElementById("count").textContent')
    assert count == f"step {number + 1} of {len(explanation)}"
    assert highlighted(browser) == {c for c in cells_in(words) if not c.startswith("b[")}
    shown, said = written(browser), holds_in(words)
    assert said
    for cell, value in said.items():
        assert float(shown[cell]) == pytest.approx(value, rel=2e-3, abs=1e-6), cell


@pytest.mark.parametrize("case", CASES)
def test_every_pass_shows_what_its_text_says(browser: Browser, case: str, tmp_path: Path) -> None:
    first = made(case)
    opened(browser, tmp_path, first)
    for key, name in enumerate(first.passes, start=1):
        browser.press("Home")
        browser.press(str(key))
        explanation = tc.explain(first.layer, _input(first), show=name, grad=_grad(first))
        check_step(browser, explanation, 0)
        browser.press("ArrowRight")
        check_step(browser, explanation, 1)
        browser.press("End")
        check_step(browser, explanation, len(explanation) - 1)
        browser.press("ArrowLeft")
        browser.press("ArrowLeft")
        check_step(browser, explanation, len(explanation) - 3)
    assert browser.complaints == []
    assert len(browser.requests) == 1


def _input(explanation: Any) -> Any:
    """The input that the case was made with."""
    return np.random.default_rng(0).standard_normal(explanation.x_shape).astype(np.float32)


def _grad(explanation: Any) -> Any:
    rng = np.random.default_rng(0)
    rng.standard_normal(explanation.x_shape)
    return rng.standard_normal(explanation.y_shape).astype(np.float32)


def test_an_index_error_in_the_page_is_caught(browser: Browser, tmp_path: Path) -> None:
    explanation = made("conv")
    page = explanation.html()
    data = numbers_of(page)
    data["scenes"][0]["places"]["starts"][1] += 1
    wrong = re.sub(r'(?<=id="numbers">).*?(?=</script>)', lambda _: json.dumps(data), page)
    (tmp_path / "wrong.html").write_text(wrong)
    browser.open(tmp_path / "wrong.html")
    check_step(browser, explanation, 0)
    browser.press("ArrowRight")
    with pytest.raises(AssertionError):
        check_step(browser, explanation, 1)


@pytest.mark.parametrize("name", ["forward", "dx", "dw", "db"])
def test_the_last_step_shows_the_whole_result(browser: Browser, name: str, tmp_path: Path) -> None:
    explanation = made("channels and groups", name)
    layer, x = explanation.layer, tc.tensor(_input(explanation), requires_grad=True)
    y = layer(x)
    y.backward(tc.tensor(_grad(explanation)))
    right = {"forward": y, "dx": x.grad, "dw": layer.weight.grad, "db": layer.bias.grad}[name]
    opened(browser, tmp_path, explanation)
    browser.press("End")
    shown = written(browser)
    letter = {"forward": "y"}.get(name, name)
    for index, value in np.ndenumerate(right.detach().numpy()):
        cell = f"{letter}[{','.join(map(str, index))}]"
        assert float(shown[cell]) == pytest.approx(float(value), rel=2e-3, abs=1e-5)


def test_a_large_page_opens_within_a_second(browser: Browser, tmp_path: Path) -> None:
    explanation = tc.explain(nn.Conv2d(1, 1, 3, padding=1), tc.randn(1, 1, 16, 16))
    opened(browser, tmp_path, explanation)
    milliseconds = browser.run(
        "performance.timing.loadEventEnd - performance.timing.navigationStart"
    )
    assert 0 < milliseconds < 1000
    assert browser.run('document.querySelectorAll("#panels .cell").length') == 18**2 + 9 + 16**2
    browser.press("End")
    check_step(browser, explanation, 255)
    assert browser.complaints == []


# --- pointing, focus, buttons


def center(browser: Browser, label: str) -> tuple[float, float]:
    return tuple(
        browser.run(f"""(() => {{
        const made = document.querySelector('#panels [aria-label^="{label} "]');
        made.scrollIntoView({{block: "center"}});
        const box = made.getBoundingClientRect();
        return [box.left + box.width / 2, box.top + box.height / 2]; }})()""")
    )


def linked(browser: Browser) -> set[str]:
    return set(
        browser.run("""[...document.querySelectorAll("#panels .cell.link")].map(
        made => made.getAttribute("aria-label").split(" ")[0])""")
    )


@pytest.mark.parametrize(("name", "label"), [
    ("forward", "x[0,0,2,3]"), ("forward", "y[0,0,1,1]"), ("forward", "w[0,0,0,2]"),
    ("dx", "dx[0,0,1,1]"), ("dx", "dy[0,0,2,0]"), ("dw", "dw[0,0,1,1]"), ("dw", "x[0,0,5,5]"),
])  # fmt: skip
def test_pointing_at_a_cell_shows_what_meets_it(
    browser: Browser, name: str, label: str, tmp_path: Path
) -> None:
    explanation = made("conv", name)
    opened(browser, tmp_path, explanation)
    browser.point(*center(browser, label))
    # One line of a step's text names the cells that meet in one product.
    lines = [line for i in range(len(explanation)) for line in explanation.step(i).splitlines()]
    meets = {cell for line in lines if label in cells_in(line) for cell in cells_in(line)}
    if name == "forward" and label.startswith("y"):
        meets = cells_in(explanation.step(4))
    elif name == "forward":
        meets |= {explanation.walk.drive.label(step.driver)
                  for i, step in enumerate(explanation.walk.steps)
                  if label in cells_in(explanation.step(i))}  # fmt: skip
    assert linked(browser) == {c for c in meets if c[: c.index("[")] != label[: label.index("[")]
                               and not c.startswith("b[")}  # fmt: skip
    assert browser.run('document.querySelector("#readout b").textContent') == label
    browser.point(1, 1)
    assert linked(browser) == set()


def test_the_readout_says_what_feeds_a_cell(browser: Browser, tmp_path: Path) -> None:
    opened(browser, tmp_path, made("conv", "dx"))
    browser.point(*center(browser, "dx[0,0,0,0]"))
    words = browser.run('document.getElementById("readout").textContent')
    assert words.endswith("in the end, fed by dy[0,0,0,0]·w[0,0,1,1]")
    browser.point(*center(browser, "dy[0,0,0,0]"))
    words = browser.run('document.getElementById("readout").textContent')
    assert words.endswith("feeds dx[0,0,0,0], dx[0,0,0,1], dx[0,0,1,0], dx[0,0,1,1]")


def test_a_click_and_enter_go_to_the_cells_step(browser: Browser, tmp_path: Path) -> None:
    explanation = made("conv")
    opened(browser, tmp_path, explanation)
    browser.click(*center(browser, "y[0,0,1,2]"))
    check_step(browser, explanation, 5)
    browser.press("ArrowRight")  # a click does not take the arrows away from the steps
    check_step(browser, explanation, 6)
    browser.run(
        'document.querySelector("#panels [data-role=drive]").querySelector(".cell").focus()'
    )
    for key in ("ArrowDown", "ArrowRight"):
        browser.press(key)
    assert browser.run("document.activeElement.dataset.index") == "0,0,1,1"
    assert "x[0,0,2,2]" in linked(browser)
    browser.press("Enter")
    check_step(browser, explanation, 4)


def test_the_keyboard_reaches_everything(browser: Browser, tmp_path: Path) -> None:
    opened(browser, tmp_path, made("conv"))
    reached = []
    for _ in range(16):
        browser.press("Tab")
        reached.append(browser.run("document.activeElement.id || document.activeElement.className "
                                   "|| document.activeElement.dataset.pass"))  # fmt: skip
    for part in ("forward", "db", "cell window", "first", "back", "play", "on", "last", "slider"):
        assert any(part in where for where in reached), (part, reached)


def test_space_plays_and_pauses(browser: Browser, tmp_path: Path) -> None:
    opened(browser, tmp_path, made("conv"))
    browser.run('document.getElementById("speed").value = 250')
    browser.press(" ")
    assert browser.run('document.getElementById("play").getAttribute("aria-label")') == "Pause"
    third = browser.run("""new Promise(done => { const look = () =>
        document.getElementById("count").textContent === "step 3 of 9" ? done(true)
        : setTimeout(look, 20); look(); })""")
    assert third
    browser.press(" ")
    at = browser.run('document.getElementById("count").textContent')
    assert at in ("step 3 of 9", "step 4 of 9")
    browser.run("new Promise(done => setTimeout(done, 400))")
    assert browser.run('document.getElementById("count").textContent') == at


def test_the_slider_moves_the_steps(browser: Browser, tmp_path: Path) -> None:
    explanation = made("conv", "dw")
    opened(browser, tmp_path, explanation)
    browser.run("""(() => { const slider = document.getElementById("slider");
        slider.value = 4; slider.dispatchEvent(new Event("input")); slider.focus(); })()""")
    check_step(browser, explanation, 4)
    browser.press("ArrowRight")
    check_step(browser, explanation, 5)


# --- how it looks


@pytest.mark.parametrize("case", CASES)
def test_a_phone_shows_it_all(browser: Browser, case: str, tmp_path: Path) -> None:
    opened(browser, tmp_path, made(case), width=360, height=740)
    assert browser.run("document.documentElement.scrollWidth") <= 360
    small = browser.run("""[...document.querySelectorAll("button, #slider")].filter(made =>
        made.offsetParent && made.getBoundingClientRect().height < 38).map(made => made.id)""")
    assert small == []
    cut = browser.run("""[...document.querySelectorAll("#panels .cell")].filter(made => {
        const box = made.getBoundingClientRect();
        return box.left < 0 || box.right > 360; }).length""")
    assert cut == 0
    browser.screenshot(SCREENSHOTS / f"phone {case}.png")


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_screenshots(browser: Browser, case: str, dark: bool, tmp_path: Path) -> None:
    explanation = made(case)
    opened(browser, tmp_path, explanation, dark=dark, still=True)
    for _ in range(len(explanation) // 2):
        browser.press("ArrowRight")
    path = SCREENSHOTS / f"{case} {'dark' if dark else 'light'}.png"
    browser.screenshot(path)
    assert path.read_bytes().startswith(b"\x89PNG")
    contrast = browser.run(CONTRAST)
    assert contrast["least"] >= 3, contrast


# The least contrast between a cell's number and its ground, as WCAG computes it.
CONTRAST = """(() => {
  const paper = document.createElement("canvas").getContext("2d", {willReadFrequently: true});
  const light = (color, ground) => {
    for (const fill of [ground, color]) { paper.fillStyle = fill; paper.fillRect(0, 0, 1, 1); }
    const [r, g, b] = [...paper.getImageData(0, 0, 1, 1).data].slice(0, 3).map(v => v / 255)
      .map(v => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const card = getComputedStyle(document.getElementById("stage")).backgroundColor;
  let least = [Infinity, ""];
  for (const made of document.querySelectorAll("#panels .cell")) {
    if (!made.textContent) continue;
    const style = getComputedStyle(made);
    const [a, b] = [light(style.color, card), light(style.backgroundColor, card)];
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    if (ratio < least[0]) least = [ratio, made.getAttribute("aria-label")];
  }
  return {least: least[0], where: least[1]};
})()"""


def test_nothing_moves_for_those_who_asked_for_stillness(browser: Browser, tmp_path: Path) -> None:
    moves = """(() => {
        document.dispatchEvent(new KeyboardEvent("keydown", {key: "ArrowRight"}));
        return document.getAnimations().length; })()"""
    for still in (False, True):
        opened(browser, tmp_path, made("conv"), still=still)
        assert (browser.run(moves) == 0) == still


def test_a_notebooks_frame_works(browser: Browser, tmp_path: Path) -> None:
    explanation = made("conv")
    (tmp_path / "notebook.html").write_text(explanation._repr_html_())
    browser.open(tmp_path / "notebook.html")
    inside = browser.run(
        'document.querySelector("iframe").contentDocument.getElementById("count").textContent'
    )
    assert inside == f"step 1 of {len(explanation)}"
    assert browser.complaints == []
