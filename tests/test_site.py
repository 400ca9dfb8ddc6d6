"""The site builds without a warning, its links lead somewhere, its pages complain of nothing.

Builds it where Sphinx is installed (pip install '.[docs]'); or looks at one that is there:

    make docs
    TINYCONV_SITE=build/docs python -m pytest -m slow tests/test_site.py
"""

import importlib.util
import os
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from browser import PROGRAM, chromium

ROOT = Path(__file__).parent.parent
NEEDED = ("sphinx", "furo", "myst_parser", "sphinx_gallery")
pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


class Page(HTMLParser):
    """The addresses that a page points to, and the places in it that can be pointed to."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.links: list[str] = []
        self.places: set[str] = set()
        self.frames: list[str] = []
        self.feed(path.read_text())

    def handle_starttag(self, tag, attrs):
        named = dict(attrs)
        self.places.add(named.get("id") or "")
        self.links += [named[key] for key in ("href", "src") if named.get(key)]
        self.frames += [named["src"]] if tag == "iframe" else []


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """$TINYCONV_SITE, built before, or one that is built now."""
    built = os.environ.get("TINYCONV_SITE")
    if built:
        return Path(built)
    folder = tmp_path_factory.mktemp("site")
    done = build(ROOT / "docs", folder / "html", "-d", str(folder / "doctrees"))
    assert done.returncode == 0, done.stderr
    return folder / "html"


def build(source, target, *options, **environment):
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        pytest.skip(f"{', '.join(missing)} not installed: pip install '.[docs]'")
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", *options, source, target]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=300, env={**os.environ, **environment}
    )


@pytest.fixture(scope="module")
def pages(site):
    """Every page by its path, the explainers' own left out."""
    paths = [path for path in site.rglob("*.html") if path.parent.name != "live"]
    return {path.resolve(): Page(path) for path in paths if "_static" not in path.parts}


def broken(pages):
    """The links within the site that lead nowhere."""
    found = []
    for path, page in pages.items():
        for link in page.links:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            there = target.exists()
            if there and parts.fragment and target in pages:
                there = unquote(parts.fragment) in pages[target].places
            if not there:
                found.append(f"{path.name}: {link}")
    return found


def test_links(pages):
    assert len(pages) > 30
    assert broken(pages) == []


def test_a_broken_link_is_noticed(tmp_path):
    page = tmp_path / "page.html"
    links = '<a href="page.html#here" id="here"></a><a href="#there"></a><img src="no.png">'
    page.write_text(links)
    assert broken({page: Page(page)}) == ["page.html: #there", "page.html: no.png"]


@pytest.mark.parametrize(
    ("block", "complaint"),
    [
        (">>> 1 + 1\n2\n", None),
        (">>> 1 + 1\n3\n", "Expected:\n    3\nGot:\n    2"),
        ("print(1 + 1)\n", None),
        ("print(one)\n", "NameError: name 'one' is not defined"),
    ],
)
def test_a_block_that_fails_ends_the_build(block, complaint, tmp_path):
    (tmp_path / "index.md").write_text(f"# Page\n\n```python\n{block}```\n")
    done = build(
        tmp_path, tmp_path / "out", "-C", "-D", "extensions=myst_parser,live",
        PYTHONPATH=os.pathsep.join([str(ROOT), str(ROOT / "docs" / "_ext")]),
    )  # fmt: skip
    assert (done.returncode != 0) == bool(complaint)
    if complaint:
        assert complaint in done.stderr
    else:
        assert "<pre>" in (tmp_path / "out" / "index.html").read_text()


def test_what_is_on_the_pages(pages):
    """Explainers on the pages of the course, outputs of the examples, every operation."""
    by_name = {path.name: (path, page) for path, page in pages.items()}
    for name in ("stride", "padding", "dilation", "channels", "gradients", "transposed", "pooling"):
        path, page = by_name[f"{name}.html"]
        assert page.frames
        for frame in page.frames:
            assert 'id="numbers"' in (path.parent / frame).read_text()
    import tinyconv as tc

    operations = by_name["operations.html"][0].read_text()
    assert all(f">{name}</span>" in operations for name in tc.OPS)
    assert "test accuracy" in by_name["mnist_resnet.html"][0].read_text()
    assert "tinyconv.nn.Conv2d" in by_name["nn.html"][1].places
    assert "tinyconv.explain" in by_name["see.html"][1].places


@pytest.mark.skipif(PROGRAM is None, reason="no Chromium: apt-get install chromium")
@pytest.mark.parametrize("width", [1280, 380])
def test_in_a_browser(pages, site, width, tmp_path):
    """No complaints, nothing from the network, nothing wider than the screen; frames fit."""
    with chromium(tmp_path / "profile") as browser:
        for path in pages:
            browser.open(path, width=width)
            assert browser.complaints == [], path.name
            assert all(url.startswith(("file:", "data:", "blob:")) for url in browser.requests)
            assert browser.run("document.documentElement.scrollWidth") <= width, path.name
        browser.open(site.resolve() / "course" / "channels.html", width=width)
        inside, outside, address = browser.run(
            "(async () => {"
            " const frame = document.querySelector('iframe');"
            " frame.scrollIntoView();"
            " await new Promise(go => setTimeout(go, 1000));"
            " return [+frame.dataset.width, frame.clientHeight, frame.src];"
            "})()"
        )
        browser.open(Path(unquote(urlsplit(address).path)), width=inside)
        alone = browser.run("[innerWidth, document.body.offsetHeight]")
        assert alone[0] == inside
        assert abs(alone[1] - outside) < 10
