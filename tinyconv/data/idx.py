"""IDX, the file format of MNIST: a four-byte magic number, the shape, the elements.

    byte 0, 1    zero
    byte 2       element type, see TYPES
    byte 3       number of dimensions
    then         one 32-bit integer per dimension, then the elements row by row, all big-endian

So 00 00 08 03 opens a file of images (N, 28, 28) uint8 and 00 00 08 01 one of labels (N,) uint8.
The format is described at http://yann.lecun.com/exdb/mnist/.
"""

from __future__ import annotations

import gzip
import lzma
import struct
import zlib
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tinyconv.errors import TinyconvError

TYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}

# compressed files are known by how they begin, whatever they are called
_COMPRESSED = {b"\x1f\x8b": gzip, b"\xfd7zXZ\0": lzma}
_SUFFIXES = {".gz": lambda content: gzip.compress(content, mtime=0), ".xz": lzma.compress}


class DataError(TinyconvError, RuntimeError):
    """A data file that is truncated, foreign or not the published one."""


def read_idx(path: str | Path) -> NDArray[Any]:
    """The array in an IDX file, raw or compressed with gzip or xz, in native byte order.

    DataError for a file that is not IDX, too short or too long, with the bytes found and expected.
    """
    return parse_idx(read_content(path), path)


def write_idx(path: str | Path, array: NDArray[Any]) -> None:
    """Write an array as IDX; a name that ends in .gz or .xz is compressed."""
    codes = {np.dtype(name): code for code, name in TYPES.items()}
    kind = codes.get(array.dtype.newbyteorder(">"))
    if kind is None:
        names = ", ".join(dtype.name for dtype in codes)
        raise DataError("write_idx", f"IDX has no element type for {array.dtype}; it has {names}")
    header = struct.pack(f">HBB{array.ndim}I", 0, kind, array.ndim, *array.shape)
    content = header + array.astype(TYPES[kind]).tobytes()
    path = Path(path)
    compress = _SUFFIXES.get(path.suffix)
    path.write_bytes(compress(content) if compress else content)


def read_content(path: str | Path) -> bytes:
    """A file's bytes, uncompressed."""
    raw = Path(path).read_bytes()
    for start, module in _COMPRESSED.items():
        if raw.startswith(start):
            try:
                return bytes(module.decompress(raw))
            except (EOFError, OSError, zlib.error, lzma.LZMAError) as error:
                fault = f"is a truncated or damaged {module.__name__} file: {error}"
                raise DataError("read_idx", f"{path} ({len(raw):,} bytes) {fault}") from error
    return raw


def parse_idx(content: bytes, path: str | Path) -> NDArray[Any]:
    """The array that the bytes of an IDX file stand for; ``path`` is named in errors."""
    magic = content[:4].hex(" ")
    zero, kind, ndim = struct.unpack(">HBB", content[:4].ljust(4, b"\xff"))
    if zero != 0 or kind not in TYPES:
        types = " ".join(f"{code:02x}" for code in TYPES)
        raise DataError(
            "read_idx",
            f"{path} ({len(content):,} bytes) is not an IDX file: it begins with [{magic}], "
            f"expected 00 00, a type ({types}) and the number of dimensions, "
            "so 00 00 08 03 for images and 00 00 08 01 for labels",
        )
    start = 4 + 4 * ndim
    if len(content) < start:
        raise DataError(
            "read_idx",
            f"{path} is truncated: magic {magic} announces {ndim} dimensions, so a header of "
            f"{start} bytes is expected, found {len(content)}",
        )
    shape = struct.unpack(f">{ndim}I", content[4:start])
    dtype = np.dtype(TYPES[kind])
    expected = start + dtype.itemsize * prod(shape)
    if len(content) != expected:
        raise DataError(
            "read_idx",
            f"{path} is {'truncated' if len(content) < expected else 'too long'}: magic {magic} "
            f"and shape {shape} of {dtype.name} make {expected:,} bytes, found {len(content):,}",
        )
    array = np.frombuffer(content, dtype, offset=start).reshape(shape)
    return array.astype(dtype.newbyteorder("="))
