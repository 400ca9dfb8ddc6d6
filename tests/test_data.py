"""tinyconv.data: files, finding and fetching them, the sample, datasets, the loader, shifts."""

import gzip
import hashlib
import http.server
import importlib.util
import json
import lzma
import subprocess
import sys
import threading
import time
import traceback
from collections import Counter
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from types import ModuleType

import numpy as np
import pooch
import pytest
from hypothesis import given, settings, strategies as st

import tinyconv as tc
from tinyconv import data
from tinyconv.data import fetch, mnist
from tinyconv.data.idx import TYPES

ROOT = Path(__file__).parents[1]
SAMPLE = mnist.SAMPLE
FILES = tuple(mnist.MNIST_SHA256)


def full_set() -> Path:
    """The folder of the real MNIST, or skip."""
    try:
        return data.locate(data.MNIST.files, download=False)
    except data.DataNotFound:
        pytest.skip("the full MNIST is not here; set TINYCONV_DATA to its folder")


@pytest.fixture
def nowhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """No data anywhere: the cache is an empty temporary folder, the mirrors answer nothing."""
    monkeypatch.delenv(fetch.VARIABLE, raising=False)
    monkeypatch.setattr(pooch, "os_cache", lambda name: tmp_path / "cache" / name)

    def downloader(*args: object, **kwargs: object) -> object:
        raise ConnectionError("no network in this test")

    monkeypatch.setattr(pooch, "HTTPDownloader", downloader)
    return tmp_path / "cache" / "tinyconv" / "mnist"


# --- IDX files


@pytest.mark.parametrize("suffix", ["", ".gz", ".xz"])
@pytest.mark.parametrize("dtype", TYPES.values())
def test_idx_round_trip(tmp_path: Path, dtype: str, suffix: str, rng: np.random.Generator) -> None:
    array = rng.integers(0, 100, size=(3, 4, 5)).astype(np.dtype(dtype).newbyteorder("="))
    path = tmp_path / f"x{suffix}"
    data.write_idx(path, array)
    back = data.read_idx(path)
    assert back.dtype == array.dtype
    assert back.dtype.isnative
    assert back.flags.writeable
    np.testing.assert_array_equal(back, array)


def test_idx_bytes(tmp_path: Path) -> None:
    path = tmp_path / "labels"
    path.write_bytes(bytes([0, 0, 8, 1, 0, 0, 0, 3, 7, 2, 1]))
    assert data.read_idx(str(path)).tolist() == [7, 2, 1]
    path.write_bytes(bytes([0, 0, 0x0B, 2, 0, 0, 0, 1, 0, 0, 0, 2, 0, 1, 0xFF, 0xFE]))
    assert data.read_idx(path).tolist() == [[1, -2]]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", r"\(0 bytes\) is not an IDX file: it begins with \[\]"),
        (b"\0\0", r"\(2 bytes\) is not an IDX file"),
        (b"PK\3\4 a zip", r"begins with \[50 4b 03 04\], expected 00 00, a type \(08 09 0b"),
        (bytes([0, 0, 7, 1]), "not an IDX file"),
        (bytes([0, 0, 8, 3, 0, 0, 0, 1]), "a header of 16 bytes is expected, found 8"),
        (bytes([0, 0, 8, 1, 0, 0, 0, 9, 1, 2]), r"truncated: magic 00 00 08 01 .*17 .*found 10"),
        (bytes([0, 0, 8, 1, 0, 0, 0, 1, 1, 2]), "too long: .* make 9 bytes, found 10"),
        (bytes([0, 0, 8, 3] + [255] * 12), "truncated.*found 16"),  # its product overflows int64
    ],
)  # fmt: skip
def test_foreign_files(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "some-file"
    path.write_bytes(content)
    with pytest.raises(data.DataError, match=message) as caught:
        data.read_idx(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("compress", [gzip.compress, lzma.compress])
def test_damaged_compression(tmp_path: Path, compress, rng: np.random.Generator) -> None:
    message = r"bytes\) is a truncated or damaged (gzip|lzma) file"
    whole = compress(rng.bytes(1000))
    path = tmp_path / "x.gz"
    for content in (whole[:-20], whole[:500], whole[:300] + b"\0\1\2" + whole[303:]):
        path.write_bytes(content)
        with pytest.raises(data.DataError, match=message):
            data.read_idx(path)


def test_write_idx_names_the_types_there_are(tmp_path: Path) -> None:
    with pytest.raises(data.DataError, match="no element type for int64; it has uint8, int8, "):
        data.write_idx(tmp_path / "x", np.arange(3))


# --- a small data set in MNIST's form, to be found, fetched, and spoiled


class Tiny(data.MNIST):
    """Twenty training and ten test images, drawn from the sample."""


def first(file: str, count: int) -> bytes:
    """The first entries of a file of the sample, as an IDX file."""
    array = data.read_idx(SAMPLE / f"{file}.xz")[:count]
    shape = b"".join(n.to_bytes(4, "big") for n in array.shape)
    return bytes([0, 0, 8, array.ndim]) + shape + array.tobytes()


CONTENTS = {file: first(file, 20 if "train" in file else 10) for file in FILES}


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> type[Tiny]:
    files = fetch.FileSet(
        name="Tiny",
        subfolders=data.MNIST.files.subfolders,
        mirrors=("https://first.example/", "https://second.example/"),
        sha256={file: hashlib.sha256(content).hexdigest() for file, content in CONTENTS.items()},
    )
    monkeypatch.setattr(Tiny, "files", files)
    return Tiny


def fill(folder: Path, compress: bool = False) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for file, content in CONTENTS.items():
        if compress:
            (folder / f"{file}.gz").write_bytes(gzip.compress(content, 1))
        else:
            (folder / file).write_bytes(content)
    return folder


def check(dataset: data.MNIST, count: int = 20) -> None:
    assert len(dataset) == count
    kind = "train" if count == 20 else "t10k"
    assert dataset.images.tobytes() == CONTENTS[f"{kind}-images-idx3-ubyte"][16:]
    assert dataset.labels.astype(np.uint8).tobytes() == CONTENTS[f"{kind}-labels-idx1-ubyte"][8:]


@pytest.mark.parametrize("subfolder", ["", "mnist", "MNIST/raw"])
@pytest.mark.parametrize("compress", [False, True])
def test_found_in_the_variables_folder(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    nowhere: Path,
    tiny,
    subfolder: str,
    compress: bool,
) -> None:
    folder = fill(tmp_path / "mine" / subfolder, compress)
    monkeypatch.setenv(fetch.VARIABLE, str(tmp_path / "mine"))
    dataset = tiny(source="full")
    check(dataset)
    check(tiny(train=False), 10)
    assert dataset.folder == folder
    assert dataset.source == "full"


def test_found_in_root_and_in_the_cache(tmp_path: Path, nowhere: Path, tiny) -> None:
    fill(tmp_path / "mine" / "mnist")
    check(tiny(root=tmp_path / "mine"))
    fill(nowhere)
    check(tiny())


def test_variable_comes_before_the_cache(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, nowhere: Path, tiny
) -> None:
    fill(nowhere)
    monkeypatch.setenv(fetch.VARIABLE, str(fill(tmp_path / "mine")))
    assert tiny().folder == tmp_path / "mine"
    monkeypatch.setenv(fetch.VARIABLE, str(tmp_path / "not-there"))
    assert tiny().folder == nowhere


@pytest.mark.parametrize("source", ["auto", "full"])
@pytest.mark.parametrize("spoil", ["other bytes", "truncated gzip"])
def test_spoiled_file_is_named_and_not_passed_over(
    tmp_path: Path, nowhere: Path, tiny, source: str, spoil: str
) -> None:
    folder = fill(tmp_path / "mine", compress=spoil == "truncated gzip")
    if spoil == "other bytes":
        path, message = folder / FILES[0], "have SHA-256 [0-9a-f]{64}, expected [0-9a-f]{64}"
        path.write_bytes(path.read_bytes()[:-1] + b"x")
    else:
        path, message = folder / f"{FILES[0]}.gz", "truncated or damaged gzip"
        path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(data.DataError, match=message) as caught:
        tiny(root=folder, source=source)
    assert str(path) in str(caught.value)


def test_fashion_does_not_take_mnists_files(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, nowhere: Path
) -> None:
    monkeypatch.setenv(fetch.VARIABLE, str(fill(tmp_path)))
    with pytest.raises(data.DataNotFound, match="Fashion-MNIST: the data files are not here"):
        data.FashionMNIST()
    with pytest.raises(data.DataError, match=r"is not the published .*use the same file names"):
        data.FashionMNIST(root=tmp_path)


def test_the_error_names_each_place_and_the_way_out(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, nowhere: Path
) -> None:
    mine = fill(tmp_path / "mine")
    (mine / FILES[1]).unlink()
    monkeypatch.setenv(fetch.VARIABLE, str(mine))
    with pytest.raises(data.DataNotFound) as caught:
        data.MNIST(source="full")
    text = str(caught.value)
    assert f"{mine}: lacks {FILES[1]}\n" in text
    assert f"{mine / 'mnist'}: no such folder" in text
    assert f"{nowhere}: no such folder" in text
    for mirror in data.MNIST.files.mirrors:
        assert f"{mirror}: no network in this test" in text
    assert f"into {nowhere}, or into a folder of yours and set {fetch.VARIABLE}" in text
    assert all(file in text for file in FILES)

    monkeypatch.delenv(fetch.VARIABLE)
    with pytest.raises(data.DataNotFound, match=r"\$TINYCONV_DATA: not set") as caught:
        data.MNIST(source="full", download=False)
    assert "mirrors: not asked, download=False" in str(caught.value)


def test_auto_falls_back_to_the_sample_with_one_warning(nowhere: Path) -> None:
    with pytest.warns(UserWarning, match=r"MNIST: the full set is not here .* sample") as caught:
        dataset = data.MNIST(train=False)
    assert len(caught) == 1
    assert caught[0].filename == __file__
    assert dataset.source == "sample"
    assert len(dataset) == 2000


def test_source_is_checked(nowhere: Path) -> None:
    with pytest.raises(ValueError, match="source is 'web'; use 'auto', 'full' or 'sample'"):
        data.MNIST(source="web")
    with pytest.raises(data.DataError, match="Fashion-MNIST: there is no embedded sample"):
        data.FashionMNIST(source="sample")


# --- mirrors


class FakeDownloader:
    """pooch.HTTPDownloader's stand-in: ``sites`` maps addresses to contents."""

    sites: dict[str, bytes]
    asked: list[str]

    def __init__(self, progressbar: bool = False, timeout: object = None) -> None:
        assert timeout == (fetch.ANSWER_SECONDS, fetch.READ_SECONDS)

    def __call__(self, url: str, output: str, owner: None, check_only: bool = False) -> bool:
        if check_only:
            return url in self.sites
        self.asked.append(url)
        Path(output).write_bytes(self.sites[url])
        return True


@pytest.fixture
def web(monkeypatch: pytest.MonkeyPatch, nowhere: Path) -> type[FakeDownloader]:
    FakeDownloader.sites, FakeDownloader.asked = {}, []
    monkeypatch.setattr(pooch, "HTTPDownloader", FakeDownloader)
    return FakeDownloader


def serve(web: type[FakeDownloader], mirror: str, *files: str) -> None:
    for file in files or FILES:
        web.sites[f"{mirror}{file}.gz"] = gzip.compress(CONTENTS[file], 1)


def test_download_into_the_cache_once(web, nowhere: Path, tiny, capsys) -> None:
    serve(web, "https://first.example/")
    check(tiny())
    notice = "Tiny: downloading https://first.example/train-images-idx3-ubyte.gz"
    assert notice in capsys.readouterr().err
    assert sorted(path.name for path in nowhere.iterdir()) == sorted(f"{f}.gz" for f in FILES)
    check(tiny(train=False), 10)
    assert len(web.asked) == 4


def test_download_into_root(web, nowhere: Path, tiny, tmp_path: Path) -> None:
    serve(web, "https://first.example/")
    assert tiny(root=tmp_path / "mine").folder == tmp_path / "mine" / "mnist"
    assert not nowhere.exists()


def test_the_next_mirror_gives_what_the_first_does_not(web, nowhere: Path, tiny) -> None:
    serve(web, "https://first.example/", FILES[0])
    serve(web, "https://second.example/")
    check(tiny())
    assert [url.split("/")[2] for url in web.asked] == ["first.example"] + 3 * ["second.example"]


@pytest.mark.parametrize("spoil", ["other bytes", "truncated", "a web page"])
def test_a_mirror_with_bad_content_is_passed_over(web, nowhere: Path, tiny, spoil: str) -> None:
    bad = {
        "other bytes": gzip.compress(b"x" + CONTENTS[FILES[0]]),
        "truncated": gzip.compress(CONTENTS[FILES[0]])[:-50],
        "a web page": b"<html>please log in</html>",
    }[spoil]
    serve(web, "https://first.example/")
    web.sites[f"https://first.example/{FILES[0]}.gz"] = bad
    with pytest.raises(data.DataNotFound) as caught:
        tiny(source="full")
    assert "https://first.example/: " in str(caught.value)
    gzip_is_damaged = spoil == "truncated"
    reason = "truncated or damaged gzip" if gzip_is_damaged else "is not the published train-images"
    assert reason in str(caught.value)
    assert "https://second.example/: does not offer train-images-idx3-ubyte.gz" in str(caught.value)
    assert list(nowhere.iterdir()) == []  # nothing unverified, nothing temporary
    serve(web, "https://second.example/")
    check(tiny())


def test_unwritable_cache_is_a_reason(web, nowhere: Path, tiny) -> None:
    serve(web, "https://first.example/")
    nowhere.parent.parent.mkdir()
    nowhere.parent.write_text("a file where the folder should be")
    with pytest.raises(data.DataNotFound, match=r"https://first.example/: .*Not a directory"):
        tiny(source="full")


def test_a_silent_network_fails_fast(monkeypatch: pytest.MonkeyPatch, nowhere: Path, tiny) -> None:
    silence = threading.Event()

    def silent(*args: object, **kwargs: object) -> bool:
        return silence.wait(30)

    monkeypatch.setattr(pooch, "HTTPDownloader", lambda *args, **kwargs: silent)
    monkeypatch.setattr(fetch, "ANSWER_SECONDS", 0.05)
    start = time.monotonic()
    with pytest.raises(data.DataNotFound, match=r"second.example/: no answer within 0.05 s"):
        tiny(source="full")
    assert time.monotonic() - start < 5
    silence.set()


class Site(http.server.BaseHTTPRequestHandler):
    pages: dict[str, bytes]

    def do_HEAD(self) -> None:
        self._answer(False)

    def do_GET(self) -> None:
        self._answer(True)

    def _answer(self, body: bool) -> None:
        page = self.pages.get(self.path)
        self.send_response(200 if page else 404)
        self.send_header("Content-Length", str(len(page or b"")))
        self.end_headers()
        if body and page:
            self.wfile.write(page[: 50 if "/cut/" in self.path else None])

    def log_message(self, *args: object) -> None:
        """Quiet."""


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[str]:
    """A real web server with good content in /good/, bad in /bad/, broken connections in /cut/."""
    monkeypatch.delenv(fetch.VARIABLE, raising=False)
    monkeypatch.setattr(pooch, "os_cache", lambda name: tmp_path / "cache" / name)
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    good = {f"{file}.gz": gzip.compress(content, 1) for file, content in CONTENTS.items()}
    bad = {name: gzip.compress(b"\0\0\x08\x01\0\0\0\0") for name in good}
    folders = {"good": good, "cut": good, "bad": bad}
    Site.pages = {f"/{kind}/{name}": folders[kind][name] for kind in folders for name in good}
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Site)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def with_mirrors(monkeypatch: pytest.MonkeyPatch, kind: type[Tiny], *mirrors: str) -> None:
    files = kind.files
    monkeypatch.setattr(
        kind, "files", fetch.FileSet(files.name, files.subfolders, mirrors, files.sha256)
    )


def test_over_http(monkeypatch: pytest.MonkeyPatch, site: str, tiny) -> None:
    with_mirrors(monkeypatch, tiny, *(f"{site}/{kind}/" for kind in ("none", "bad", "cut", "good")))
    check(tiny())
    check(tiny(train=False), 10)


def test_over_http_all_reasons(monkeypatch: pytest.MonkeyPatch, site: str, tiny) -> None:
    refused = "http://127.0.0.1:9/"  # nobody listens on the discard port
    with_mirrors(monkeypatch, tiny, refused, f"{site}/none/", f"{site}/bad/", f"{site}/cut/")
    with pytest.raises(data.DataNotFound) as caught:
        tiny(source="full")
    text = str(caught.value)
    assert f"{refused}: [Errno" in text
    assert "refused" in text
    assert f"{site}/none/: does not offer train-images-idx3-ubyte.gz" in text
    assert f"{site}/bad/: Tiny: {site}/bad/train-images-idx3-ubyte.gz is not the published" in text
    assert f"{site}/cut/: " in text


DOWNLOAD = """
import json, sys
from tinyconv.data import FileSet, locate
from tinyconv.data.fetch import read_verified
mirror, root, sha256 = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
files = FileSet("Tiny", ("tiny",), (mirror,), sha256)
folder = locate(files, root)
print([len(read_verified(files, folder, file)) for file in sha256])
"""


def test_processes_that_download_at_once(site: str, tiny, tmp_path: Path) -> None:
    arguments = [f"{site}/good/", str(tmp_path / "shared"), json.dumps(tiny.files.sha256)]
    runs = [
        subprocess.Popen(
            [sys.executable, "-c", DOWNLOAD, *arguments], cwd=ROOT, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )
        for _ in range(3)
    ]  # fmt: skip
    for run in runs:
        out, err = run.communicate(timeout=60)
        assert out == "[20, 20, 10, 10]\n", err
    left = sorted(path.name for path in (tmp_path / "shared" / "tiny").iterdir())
    assert left == sorted(f"{file}.gz" for file in FILES)


# --- MNIST, the sample and the full set


@pytest.fixture(scope="module")
def sample() -> data.MNIST:
    return data.MNIST(source="sample")


def test_sample(sample: data.MNIST) -> None:
    test = data.MNIST(train=False, source="sample")
    assert sample.images.shape == (10_000, 28, 28)
    assert sample.images.dtype == np.uint8
    assert sample.labels.dtype == np.int64
    assert test.images.shape == (2_000, 28, 28)
    assert sum(path.stat().st_size for path in SAMPLE.iterdir()) < 2_500_000
    assert "LeCun" in (SAMPLE / "README.md").read_text()
    assert "by-sa/3.0" in (SAMPLE / "README.md").read_text()


def test_items_and_batches(sample: data.MNIST) -> None:
    images, labels = sample.__getitems__(np.array([5, 0, 9_999]))
    assert images.shape == (3, 1, 28, 28)
    assert images.dtype == np.float32
    assert labels.dtype == np.int64
    image, label = sample[9_999]
    assert isinstance(image, tc.Tensor)
    assert image.shape == (1, 28, 28)
    assert isinstance(label, int)
    np.testing.assert_array_equal(image.numpy(), images[2])
    assert label == labels[2]
    np.testing.assert_array_equal(sample[-1][0].numpy(), images[2])
    with pytest.raises(IndexError):
        sample[10_000]


def test_normalisation_is_torchvisions(sample: data.MNIST) -> None:
    torch = pytest.importorskip("torch")
    raw = torch.from_numpy(sample.images[:50])[:, None]
    mean, std = torch.tensor(0.1307), torch.tensor(0.3081)  # as ToTensor and Normalize compute
    expected = raw.to(torch.float32).div(255).sub_(mean).div_(std)
    images, _ = sample.__getitems__(np.arange(50))
    np.testing.assert_array_equal(images, expected.numpy())
    assert images.min() == np.float32(sample.black)


def test_fixed_transform_on_items_and_batches() -> None:
    pad = data.MNIST(
        train=False, source="sample",
        transform=lambda x: np.pad(x, [(0, 0), (0, 0), (2, 2), (2, 2)]),
    )  # fmt: skip
    assert pad[3][0].shape == (1, 32, 32)
    images, labels = next(iter(data.DataLoader(pad, 4)))
    assert images.shape == (4, 1, 32, 32)
    np.testing.assert_array_equal(images.numpy()[3], pad[3][0].numpy())
    assert labels.tolist() == [pad[i][1] for i in range(4)]


def test_the_full_set(sample: data.MNIST) -> None:
    full = data.MNIST(root=full_set(), source="full")
    assert full.source == "full"
    assert len(full) == 60_000
    assert round(full.images.mean() / 255, 4) == data.MNIST.mean
    assert round(full.images.std() / 255, 4) == data.MNIST.std
    # the sample is part of it, in its order, and keeps each digit's share
    positions = {image.tobytes(): i for i, image in enumerate(full.images)}
    found = np.array([positions[image.tobytes()] for image in sample.images])
    assert (np.diff(found) > 0).all()
    np.testing.assert_array_equal(full.labels[found], sample.labels)
    shares = np.bincount(full.labels) / 6 - np.bincount(sample.labels)
    assert np.abs(shares).max() < 1


def script() -> ModuleType:
    path = ROOT / "scripts" / "make_mnist_sample.py"
    spec = importlib.util.spec_from_file_location("make_mnist_sample", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_sample_can_be_made_again(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv(fetch.VARIABLE, str(full_set()))
    script().make(tmp_path)
    for file in FILES:
        again, committed = ((folder / f"{file}.xz").read_bytes() for folder in (tmp_path, SAMPLE))
        assert hashlib.sha256(again).digest() == hashlib.sha256(committed).digest(), file


# --- datasets


def numbers(count: int = 10) -> data.TensorDataset:
    x = tc.arange(count).float()
    return data.TensorDataset(x, tc.arange(count))


def test_tensor_dataset() -> None:
    dataset = data.TensorDataset(tc.ones(3, 2), tc.tensor([4, 5, 6]))
    assert len(dataset) == 3
    x, y = dataset[1]
    assert (x.shape, y.item()) == ((2,), 5)
    assert [array.shape for array in dataset.__getitems__(np.array([2, 0]))] == [(2, 2), (2,)]
    with pytest.raises(tc.ShapeError, match=r"the tensors have \[3, 4\] entries"):
        data.TensorDataset(tc.ones(3), tc.ones(4))


def test_subset_of_a_subset() -> None:
    inner = data.Subset(numbers(), [9, 8, 7, 6])
    outer = data.Subset(inner, range(1, 3))
    assert [int(y) for _, y in (outer[i] for i in range(2))] == [8, 7]
    assert outer.__getitems__(np.array([1, 0]))[1].tolist() == [7, 8]


def test_random_split() -> None:
    first, second = data.random_split(numbers(), [7, 3], seed=1)
    assert (len(first), len(second)) == (7, 3)
    assert sorted([*first.indices, *second.indices]) == list(range(10))
    again, _ = data.random_split(numbers(), [7, 3], seed=1)
    assert again.indices.tolist() == first.indices.tolist()
    tc.manual_seed(3)
    other, _ = data.random_split(numbers(), [7, 3])
    tc.manual_seed(3)
    same, _ = data.random_split(numbers(), [7, 3])
    assert other.indices.tolist() == same.indices.tolist() != first.indices.tolist()
    fractions = data.random_split(numbers(), [0.25, 0.25, 0.5], seed=0)
    assert [len(part) for part in fractions] == [3, 2, 5]
    assert [len(part) for part in data.random_split([0], [1, 0])] == [1, 0]
    with pytest.raises(tc.ShapeError, match=r"7 \+ 4 = 11, but there are 10 samples"):
        data.random_split(numbers(), [7, 4])
    with pytest.raises(tc.ShapeError, match=r"12 \+ -2 = 10"):
        data.random_split(numbers(), [12, -2])


def test_collate() -> None:
    one = {"x": (1, 2.0), "name": "a", "t": tc.ones(2)}
    two = {"x": (3, 4.0), "name": "b", "t": tc.zeros(2)}
    batch = data.default_collate([one, two])
    assert batch["x"][0].tolist() == [1, 3]
    assert batch["x"][0].dtype == np.int64
    assert batch["x"][1].dtype == np.float32
    assert batch["name"] == ["a", "b"]
    assert batch["t"].shape == (2, 2)


# --- the loader


def ids(loader: data.DataLoader) -> list[list[int]]:
    return [labels.tolist() for _, labels in loader]


def loader_threads() -> list[threading.Thread]:
    return [t for t in threading.enumerate() if t.name.startswith("tinyconv-loader")]


@pytest.fixture(autouse=True)
def no_thread_left() -> Iterator[None]:
    yield
    assert loader_threads() == []


@pytest.mark.parametrize("prefetch", [0, 1, 2, 7])
@pytest.mark.parametrize(("drop_last", "sizes"), [(False, [4, 4, 2]), (True, [4, 4])])
def test_batches(prefetch: int, drop_last: bool, sizes: list[int]) -> None:
    loader = data.DataLoader(numbers(), 4, drop_last=drop_last, prefetch=prefetch)
    batches = list(loader)
    assert len(loader) == len(sizes)
    assert [len(x) for x, _ in batches] == sizes
    assert all(isinstance(x, tc.Tensor) and x.dtype == tc.float32 for x, _ in batches)
    assert [i for _, y in batches for i in y.tolist()] == list(range(sum(sizes)))


def test_empty_dataset() -> None:
    assert list(data.DataLoader([], 4, shuffle=True)) == []


def test_a_list_is_a_dataset_and_a_pytorch_getitems_too() -> None:
    pairs = [(np.full(2, i, np.float32), i) for i in range(5)]
    x, y = next(iter(data.DataLoader(pairs, 3)))
    assert (x.shape, x.dtype, y.dtype) == ((3, 2), tc.float32, tc.int64)

    class Torchlike(list):
        def __getitems__(self, indices):
            return [self[i] for i in indices]

    x, y = next(iter(data.DataLoader(Torchlike(pairs), 3)))
    assert (x.shape, y.tolist()) == ((3, 2), [0, 1, 2])


def test_collate_fn() -> None:
    words = ["a", "bb", "ccc"]
    assert list(data.DataLoader(words, 2, collate_fn=len)) == [2, 1]
    lengths = data.DataLoader(words, 3, collate_fn=lambda batch: np.array(list(map(len, batch))))
    assert next(iter(lengths)).tolist() == [1, 2, 3]


@pytest.mark.parametrize("argument", [{"batch_size": 0}, {"prefetch": -1}])
def test_loader_arguments(argument: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=next(iter(argument))):
        data.DataLoader(numbers(), **argument)


def test_batches_are_copies() -> None:
    dataset = numbers()
    x, _ = next(iter(data.DataLoader(dataset, 4)))
    x.zero_()
    assert dataset.tensors[0].tolist() == list(range(10))


@pytest.mark.parametrize("prefetch", [0, 2])
def test_shuffle_follows_seed_and_epoch(prefetch: int) -> None:
    def loader(seed: int | None) -> data.DataLoader:
        return data.DataLoader(numbers(), 3, shuffle=True, seed=seed, prefetch=prefetch)

    one = loader(5)
    epochs = [ids(one) for _ in range(3)]
    assert all(sorted(chain(*epoch)) == list(range(10)) for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2]
    two = loader(5)
    two.set_epoch(2)
    assert ids(two) == epochs[2]
    two.set_epoch(0)
    assert ids(two) == epochs[0]
    assert ids(two) == epochs[1]
    assert ids(loader(6)) != epochs[0]
    tc.manual_seed(1)
    drawn = ids(loader(None))
    tc.manual_seed(1)
    assert ids(loader(None)) == drawn


def noise(images: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return images + rng.random(images.shape, dtype=np.float32)


def values(batches: Iterator) -> list[list[float]]:
    return [x.tolist() for x, _ in batches]


@pytest.mark.parametrize("prefetch", [0, 3])
def test_augmentation_follows_seed_epoch_and_batch(prefetch: int) -> None:
    def loader() -> data.DataLoader:
        return data.DataLoader(numbers(), 3, True, seed=5, transform=noise, prefetch=prefetch)

    one = loader()
    epochs = [values(one), values(one)]
    fresh = loader()
    for start in range(5):
        fresh.set_epoch(1)
        assert values(fresh.batches(start)) == epochs[1][start:]
    rest = [x - round(x) for batch in epochs[0] for x in batch]
    assert len(set(rest)) == len(rest)  # no two batches share a stream
    with pytest.raises(ValueError, match="start is 5, the epoch has 4 batches"):
        fresh.batches(5)


def test_skipped_batches_are_not_loaded() -> None:
    asked = []

    class Recorder(list):
        def __getitem__(self, i):
            asked.append(i)
            return i

    loader = data.DataLoader(Recorder(range(10)), 2)
    assert [b.tolist() for b in loader.batches(start=3)] == [[6, 7], [8, 9]]
    assert asked == [6, 7, 8, 9]


def test_state_in_the_middle_of_an_epoch() -> None:
    def make() -> data.DataLoader:
        return data.DataLoader(numbers(), 3, shuffle=True, transform=noise, seed=9)

    loader = make()
    assert loader.state_dict() == {"seed": 9, "epoch": 0, "batch": 0}
    whole = values(loader) + values(loader) + values(loader)
    assert loader.state_dict() == {"seed": 9, "epoch": 3, "batch": 0}

    stopped, got = make(), []
    got += values(stopped)
    for x, _ in stopped:
        got.append(x.tolist())
        if len(got) == 6:
            break
    state = json.loads(json.dumps(stopped.state_dict()))
    assert state == {"seed": 9, "epoch": 1, "batch": 2}
    resumed = data.DataLoader(numbers(), 3, shuffle=True, transform=noise)
    resumed.load_state_dict(state)
    assert resumed.state_dict() == state
    assert got + values(resumed) + values(resumed) == whole


def test_a_new_loop_after_a_break_is_the_next_epoch() -> None:
    loader = data.DataLoader(numbers(), 3, shuffle=True, seed=9)
    epochs = [ids(loader), ids(loader)]
    loader.set_epoch(0)
    for _, labels in loader:
        assert labels.tolist() == epochs[0][0]
        break
    assert ids(loader) == epochs[1]


class Slow(list):
    """A dataset whose loading takes time, counts, and fails at ``bad``."""

    def __init__(self, count: int = 100, bad: int | None = None) -> None:
        super().__init__(range(count))
        self.bad, self.loaded = bad, 0

    def __getitem__(self, i):
        if i == self.bad:
            raise KeyError(f"sample {i} is broken")
        self.loaded += 1
        return i


def test_batches_are_loaded_ahead_but_not_too_far() -> None:
    dataset = Slow()
    loader = data.DataLoader(dataset, 1, prefetch=3)
    batches = iter(loader)
    assert loader_threads() == []  # nothing runs before the first batch is asked for
    next(batches)
    deadline = time.monotonic() + 5
    while dataset.loaded < 4 and time.monotonic() < deadline:
        time.sleep(0.005)
    time.sleep(0.02)
    assert dataset.loaded == 4
    assert len(loader_threads()) == 1
    del batches
    assert loader_threads() == []


def test_early_break_stops_the_thread() -> None:
    for _ in range(20):
        for batch in data.DataLoader(Slow(), 1):
            if batch.item() == 2:
                break
        assert loader_threads() == []


LATE_READER = """
import threading
import numpy as np
from tinyconv import data

def late():
    threading.main_thread().join()
    print([batch.tolist() for batch in data.DataLoader(np.arange(4), 2)])

threading.Thread(target=late).start()
"""


def test_batches_are_read_while_python_shuts_down() -> None:
    done = subprocess.run(
        [sys.executable, "-c", LATE_READER], cwd=ROOT, text=True, capture_output=True, timeout=120
    )
    assert done.stdout == "[[0, 1], [2, 3]]\n", done.stderr


def test_exception_in_the_loop_body_stops_the_thread() -> None:
    def divide() -> None:
        for batch in data.DataLoader(Slow(), 1):
            1 / batch.item()

    with pytest.raises(ZeroDivisionError):
        divide()
    assert loader_threads() == []


@pytest.mark.parametrize("prefetch", [0, 2])
def test_exception_while_loading_arrives_with_its_traceback(prefetch: int) -> None:
    seen: list[int] = []
    batches = (batch.tolist() for batch in data.DataLoader(Slow(bad=7), 2, prefetch=prefetch))
    with pytest.raises(KeyError, match="sample 7 is broken") as caught:
        seen.extend(chain.from_iterable(batches))
    assert seen == list(range(6))
    names = [frame.name for frame in traceback.extract_tb(caught.tb)]
    assert names[-1] == "__getitem__"
    assert "take" in names


def test_exception_in_the_transform() -> None:
    def wrong(images, rng):
        raise RuntimeError("no such augmentation")

    with pytest.raises(RuntimeError, match="no such augmentation"):
        next(iter(data.DataLoader(numbers(), 2, transform=wrong)))


def test_two_loops_over_one_loader() -> None:
    loader = data.DataLoader(numbers(4), 2, shuffle=True, seed=0)
    expected = [ids(loader), ids(loader)]
    loader.set_epoch(0)
    pairs = list(zip(loader, loader, strict=True))
    assert [[y.tolist() for _, y in side] for side in zip(*pairs, strict=True)] == expected


def test_loader_over_mnist(sample: data.MNIST) -> None:
    part, _ = data.random_split(sample, [500, 9_500], seed=0)
    loader = data.DataLoader(
        part, 128, shuffle=True, seed=0,
        transform=lambda images, rng: data.random_shift(images, 2, rng, fill=sample.black),
    )  # fmt: skip
    batches = list(loader)
    assert [x.shape for x, _ in batches] == 3 * [(128, 1, 28, 28)] + [(116, 1, 28, 28)]
    assert all(x.dtype == tc.float32 and y.dtype == tc.int64 for x, y in batches)
    counted = Counter(i for _, y in batches for i in y.tolist())
    assert counted == Counter(sample.labels[part.indices].tolist())


# --- augmentation


def shift_by_loops(images: np.ndarray, m: int, rng: np.random.Generator, fill: float) -> np.ndarray:
    down, right = rng.integers(-m, m + 1, size=(2, len(images)))
    out = np.full_like(images, fill)
    height, width = images.shape[-2:]
    for b in range(len(images)):
        for y in range(height):
            for x in range(width):
                if 0 <= y - down[b] < height and 0 <= x - right[b] < width:
                    out[b, ..., y, x] = images[b, ..., y - down[b], x - right[b]]
    return out


@settings(deadline=None, max_examples=60)
@given(
    shape=st.tuples(st.integers(0, 4), st.integers(1, 3), st.integers(1, 6), st.integers(1, 6)),
    channels=st.booleans(),
    max_shift=st.integers(0, 7),
    dtype=st.sampled_from([np.uint8, np.float32, np.float64]),
    seed=st.integers(0, 2**32 - 1),
)
def test_shift_against_loops(shape, channels: bool, max_shift: int, dtype, seed: int) -> None:
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 255, size=shape if channels else shape[:1] + shape[2:]).astype(dtype)
    before = images.copy()
    expected = shift_by_loops(images, max_shift, np.random.default_rng(seed), 9)
    shifted = data.random_shift(images, max_shift, np.random.default_rng(seed), fill=9)
    assert shifted.dtype == images.dtype
    np.testing.assert_array_equal(shifted, expected)
    np.testing.assert_array_equal(images, before)


def test_shifts_are_all_there(rng: np.random.Generator) -> None:
    image = np.zeros((1, 7, 7), np.float32)
    image[0, 3, 3] = 1
    shifted = data.random_shift(np.repeat(image[None], 2000, 0), 2, rng, fill=0)
    spots = Counter(map(tuple, np.argwhere(shifted[:, 0])[:, 1:].tolist()))
    assert set(spots) == {(y, x) for y in range(1, 6) for x in range(1, 6)}
    assert min(spots.values()) > 40  # 80 expected


def test_flip(rng: np.random.Generator) -> None:
    images = np.arange(24, dtype=np.float32).reshape(2, 1, 3, 4)
    np.testing.assert_array_equal(data.random_horizontal_flip(images, rng, p=1), images[..., ::-1])
    np.testing.assert_array_equal(data.random_horizontal_flip(images, rng, p=0), images)
    many = np.broadcast_to(images[:1], (1000, 1, 3, 4))
    flipped = data.random_horizontal_flip(many, rng)
    assert flipped.dtype == np.float32
    assert 400 < (flipped[:, 0, 0, 0] == 3).sum() < 600


# -------------------------------------------------------------------------- habits from elsewhere


@pytest.mark.parametrize(
    "transform", [lambda x, *_: x[0], lambda x, *_: x.mean(), lambda x, *_: None]
)
def test_a_transform_must_leave_a_batch_a_batch(transform) -> None:
    images, labels = np.zeros((6, 3, 2), np.float32), np.arange(6)
    pairs = data.TensorDataset(tc.from_numpy(images), tc.from_numpy(labels))
    for dataset in (pairs, pairs.tensors[0]):
        with pytest.raises(tc.ShapeError, match=r"whole batch \(2, 3, 2\).*the batch's 2 images"):
            list(data.DataLoader(dataset, 2, transform=transform))
    digits = data.MNIST(source="sample", train=False, transform=transform)
    with pytest.raises(tc.ShapeError, match=r"MNIST: .*\(2, 1, 28, 28\)"):
        next(iter(data.DataLoader(digits, 2)))


def test_pytorchs_loader_arguments_are_accepted() -> None:
    plain = [batch.tolist() for batch in data.DataLoader(np.arange(5), 2)]
    loader = data.DataLoader(np.arange(5), 2, num_workers=4, pin_memory=True)
    assert [batch.tolist() for batch in loader] == plain
    with pytest.raises(ValueError, match="num_workers is -1, it must be 0 or more"):
        data.DataLoader(np.arange(5), 2, num_workers=-1)
