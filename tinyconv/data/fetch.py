"""Where data files come from: a folder of yours, the user's cache, mirrors on the network.

A set of files is looked for in one folder after the other and downloaded when none has it.  What
is verified is the SHA-256 of the *uncompressed* bytes, so raw files and any gzip wrapper will do.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from threading import Thread
from typing import Any

from numpy.typing import NDArray

from tinyconv.data.idx import DataError, parse_idx, read_content

VARIABLE = "TINYCONV_DATA"
ANSWER_SECONDS, READ_SECONDS = 5, 10  # for a mirror's first answer, and for each later read


class DataNotFound(DataError):
    """No folder has the files and no mirror gave them; the message names each place tried."""


@dataclass(frozen=True)
class FileSet:
    """The IDX files of one data set.

    name:       for messages
    subfolders: where in ``$TINYCONV_DATA`` they may lie ("" is that folder itself); the last one
                also names their folder in the cache
    mirrors:    addresses to which ``<file>.gz`` is appended
    sha256:     file name -> SHA-256 of the uncompressed bytes
    """

    name: str
    subfolders: tuple[str, ...]
    mirrors: tuple[str, ...]
    sha256: dict[str, str]


def locate(files: FileSet, root: str | Path | None = None, download: bool = True) -> Path:
    """The folder that has all of the files, downloaded if no folder had them.

    root: look here, and download to here, instead of ``$TINYCONV_DATA`` and the user's cache.

    DataNotFound says of each place why it was no use, and where to put the files by hand.
    """
    folders = places(files, root)
    for folder in folders:
        if not _lack(files, folder):
            return folder
    tried = [f"{folder}: {_lack(files, folder)}" for folder in folders]
    if root is None and not os.environ.get(VARIABLE):
        tried.insert(0, f"${VARIABLE}: not set")
    target = folders[-1]
    failures = _download(files, target) if download else ["mirrors: not asked, download=False"]
    if not failures:
        return target
    raise DataNotFound(
        files.name,
        "\n  ".join(["the data files are not here. Places tried:", *tried, *failures])
        + f"\nTo put them there by hand: copy {', '.join(files.sha256)} (raw or .gz) into "
        f"{target}, or into a folder of yours and set {VARIABLE} to it",
    )


def places(files: FileSet, root: str | Path | None = None) -> list[Path]:
    """The folders to look in, one after the other; downloads go to the last."""
    if root is not None:
        return [Path(root).expanduser() / sub for sub in dict.fromkeys(("", *files.subfolders))]
    chosen = os.environ.get(VARIABLE)
    folders = [Path(chosen).expanduser() / sub for sub in files.subfolders] if chosen else []
    try:
        return [*folders, Path(_pooch().os_cache("tinyconv")) / files.subfolders[-1]]
    except RuntimeError as error:  # a user without a home, as in containers
        if folders:
            return folders
        raise DataNotFound(
            files.name, f"{error}; or set {VARIABLE} to a folder for the data"
        ) from error


def read_verified(files: FileSet, folder: Path, file: str) -> NDArray[Any]:
    """The array in one file of the set; DataError if it is not the published file."""
    path = find(folder, file)
    if path is None:
        raise DataNotFound(files.name, f"{folder} lacks {file}")
    content = read_content(path)
    _verify(files, file, content, path)
    return parse_idx(content, path)


def find(folder: Path, file: str) -> Path | None:
    """The file in the folder, raw or compressed."""
    paths = (folder / (file + suffix) for suffix in ("", ".gz", ".xz"))
    return next((path for path in paths if path.is_file()), None)


def _lack(files: FileSet, folder: Path) -> str:
    """Why the folder is no use; empty if it has all of the files."""
    if not folder.is_dir():
        return "no such folder"
    missing = [file for file in files.sha256 if find(folder, file) is None]
    return f"lacks {', '.join(missing)}" if missing else ""


def _verify(files: FileSet, file: str, content: bytes, place: Path | str) -> None:
    found, expected = sha256(content).hexdigest(), files.sha256[file]
    if found != expected:
        raise DataError(
            files.name,
            f"{place} is not the published {file}: its contents ({len(content):,} bytes) have "
            f"SHA-256 {found}, expected {expected}. It is damaged, or of another data set (MNIST "
            "and Fashion-MNIST use the same file names); replace or delete it",
        )


# --- downloading


def _download(files: FileSet, target: Path) -> list[str]:
    """Ask the mirrors in turn; what one does not give the next may.  Returns why each failed."""
    failures = []
    for mirror in files.mirrors:
        try:
            for file in files.sha256:
                if find(target, file) is None:
                    _download_file(files, mirror, file, target)
        except (OSError, DataError) as error:  # requests' errors are OSErrors
            failures.append(f"{mirror}: {_reason(error)}")
        else:
            return []
    return failures


def _download_file(files: FileSet, mirror: str, file: str, target: Path) -> None:
    """One file, verified before it appears in the target folder under its name.

    The rename is atomic: of several processes that download at once, each leaves a whole file.
    """
    url = f"{mirror}{file}.gz"
    if not _within(ANSWER_SECONDS, lambda: _downloader()(url, "", None, check_only=True)):
        raise OSError(f"does not offer {file}.gz")
    print(f"{files.name}: downloading {url}", file=sys.stderr)
    target.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".download-", dir=target) as scratch:
        path = Path(scratch) / f"{file}.gz"
        _downloader(progressbar=True)(url, str(path), None)
        _verify(files, file, read_content(path), url)
        path.replace(target / path.name)


def _pooch() -> Any:
    """Imported when data are asked for: it would be a fifth of `import tinyconv`."""
    import pooch

    return pooch


def _downloader(progressbar: bool = False) -> Any:
    return _pooch().HTTPDownloader(progressbar, timeout=(ANSWER_SECONDS, READ_SECONDS))


def _within(seconds: float, call: Callable[[], Any]) -> Any:
    """call(), or TimeoutError when it takes longer.

    A name server that stays silent, or a host with many dead addresses, would otherwise hold us up
    for minutes: the timeouts of sockets count per address, and not at all for names.
    """
    answer: Future[Any] = Future()

    def run() -> None:
        try:
            answer.set_result(call())
        except Exception as error:
            answer.set_exception(error)

    Thread(target=run, daemon=True, name="tinyconv-probe").start()
    try:
        return answer.result(timeout=seconds)
    except TimeoutError:
        raise TimeoutError(f"no answer within {seconds} s") from None


def _reason(error: BaseException) -> str:
    """What lay at the bottom of it, without the library's wrappings."""
    inner = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    if inner is None or isinstance(error, DataError):
        return str(error) or type(error).__name__
    return _reason(inner)
