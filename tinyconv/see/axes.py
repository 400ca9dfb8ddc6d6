"""One spatial axis of a layer: its size formula, and which input positions each output reads.

Height and width are independent in every layer here, so a layer is a pair of these.  A position
may lie outside of 0..n-1: there the layer reads padding.

Formulas: Dumoulin and Visin, A guide to convolution arithmetic for deep learning, 2016.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from math import gcd
from typing import Any, TypeAlias

import numpy as np

from tinyconv.nn.functional.shape import POSITIONS as REFLECTED

Positions: TypeAlias = np.ndarray[Any, np.dtype[np.int64]]


@dataclass(frozen=True)
class Axis:
    """n positions in, ``out`` positions out."""

    n: int

    @property
    def out(self) -> int:
        """How many positions come out."""
        return self.n

    def reads(self, o: int) -> Positions:
        """The input positions that output position ``o`` is computed from, in order."""
        return np.array([o])

    def source(self, place: int) -> int | None:
        """The input position whose value stands at a place that may be padding; None for zeros."""
        return place if 0 <= place < self.n else None

    def formula(self) -> str:
        """The size's arithmetic with this axis' numbers."""
        return f"{self.out} as before"

    def notes(self, one: str, many: str) -> list[str]:
        """What goes unread and the like; the words are ("row", "rows"), say."""
        return []

    def inverse(self) -> str:
        """Which input sizes give this output size; "" where every other size gives another."""
        return ""

    @cached_property
    def matrix(self) -> np.ndarray[Any, np.dtype[np.bool_]]:
        """(out, n): does output i read input j?  Padding left out."""
        table = np.zeros((self.out, self.n), bool)
        for o in range(self.out):
            at = self.reads(o)
            table[o, at[(at >= 0) & (at < self.n)]] = True
        return table

    @property
    def unread(self) -> list[int]:
        """The input positions that no output reads."""
        return [int(i) for i in np.flatnonzero(~self.matrix.any(0))]


@dataclass(frozen=True)
class Window(Axis):
    """Windows of k taps, d apart, every s positions: a convolution or a pool.

    before, after: padding.  mode: what stands there, "zeros" or one of `F.pad`'s.  ceil: as the
    pools' ceil_mode.
    """

    k: int
    s: int = 1
    before: int = 0
    after: int = 0
    d: int = 1
    ceil: bool = False
    mode: str = "zeros"

    @property
    def span(self) -> int:
        """How far a window reaches."""
        return self.d * (self.k - 1) + 1

    @property
    def free(self) -> int:
        """How far the first window can move."""
        return self.n + self.before + self.after - self.span

    @property
    def out(self) -> int:
        if not self.ceil:
            return self.free // self.s + 1
        count = -(-self.free // self.s) + 1
        return count - ((count - 1) * self.s >= self.n + self.before)

    def places(self, o: int) -> Positions:
        """Where the taps of window ``o`` lie: below 0 and from n on is padding."""
        return o * self.s - self.before + self.d * np.arange(self.k)

    def reads(self, o: int) -> Positions:
        at = self.places(o)
        return at if self.mode == "zeros" else REFLECTED[self.mode](at, self.n)

    def source(self, place: int) -> int | None:
        inside = 0 <= place < self.n or self.mode == "zeros"
        return super().source(place) if inside else int(REFLECTED[self.mode](place, self.n))

    def formula(self) -> str:
        around = (
            f"2*{self.before}" if self.before == self.after else f"{self.before} + {self.after}"
        )
        inner = f"({self.n} + {around} - {self.d}*({self.k}-1) - 1)/{self.s}"
        plain = replace(self, ceil=False).out
        if not self.ceil:
            return f"floor({inner}) + 1 = {plain}"
        whole = -(-self.free // self.s) + 1
        less = f", less 1 that would start in the padding = {self.out}"
        return f"ceil({inner}) + 1 = {whole}{less if whole > self.out else ''}"

    def notes(self, one: str, many: str) -> list[str]:
        said = []
        if self.before != self.after:
            said.append(f"padded {self.before} before and {self.after} after")
        rest = self.free - (self.out - 1) * self.s
        unread = self.unread
        tail = [i for i in unread if i + self.before > (self.out - 1) * self.s + self.span - 1]
        gaps = unread[: len(unread) - len(tail)]
        if rest > 0:
            said.append(f"remainder {rest}: {_tail(tail, rest - len(tail), one, many)}")
        elif rest < 0:
            said.append(f"the last window reaches {_count(-rest, one, many)} beyond the end")
        if gaps:
            said.append(f"{_never_read(gaps, one, many)}: {self._why_gaps()}")
        return said

    def _why_gaps(self) -> str:
        common = gcd(self.s, self.d)
        if common > 1 and self.k > 1:
            return f"stride {self.s} and dilation {self.d} share the factor {common}"
        if self.s > self.span:
            return f"the stride {self.s} is greater than the window's {self.span}"
        return f"they lie between the taps (kernel {self.k}, dilation {self.d}, stride {self.s})"

    def sizes(self) -> list[int]:
        """All input sizes with this output size."""
        near = (replace(self, n=m) for m in range(max(1, self.n - self.s), self.n + self.s + 1))
        return [axis.n for axis in near if axis.free >= 0 and axis.out == self.out]

    def inverse(self) -> str:
        sizes = self.sizes()
        return (
            f"{listed(sizes, 'and')} all give {self.out}"
            if len(sizes) > 2
            else (f"{sizes[0]} and {sizes[1]} both give {self.out}" if len(sizes) == 2 else "")
        )


def _tail(unread: list[int], padding: int, one: str, many: str) -> str:
    if not unread:
        return "only padding goes unread"
    end = f" (nor {_count(padding, one, many)} of padding)" if padding > 0 else ""
    return _never_read(unread, one, many) + end


@dataclass(frozen=True)
class Stamp(Axis):
    """A transposed convolution: every input position stamps k taps, d apart, s further on."""

    k: int
    s: int = 1
    p: int = 0
    extra: int = 0  # output_padding
    d: int = 1

    @property
    def out(self) -> int:
        return (self.n - 1) * self.s - 2 * self.p + self.d * (self.k - 1) + self.extra + 1

    def reads(self, o: int) -> Positions:
        at = o + self.p - self.d * np.arange(self.k)[::-1]
        at = at[at % self.s == 0] // self.s
        return at[(at >= 0) & (at < self.n)]  # beyond the input there is nothing to stamp

    def formula(self) -> str:
        return (
            f"({self.n}-1)*{self.s} - 2*{self.p} + {self.d}*({self.k}-1) + {self.extra} + 1"
            f" = {self.out}"
        )

    def notes(self, one: str, many: str) -> list[str]:
        said = []
        if self.unread:
            said.append(f"{_never_read(self.unread, one, many)}: the padding crops what they stamp")
        bare = [o for o in range(self.out) if not len(self.reads(o))]
        if bare:
            gets = "gets" if len(bare) == 1 else "get"
            said.append(f"output {positions(bare, one, many)} {gets} no stamp, only the bias")
        return said

    def inverse(self) -> str:
        """Which output_padding goes back to which size."""
        if max(self.s, self.d) == 1:
            return ""
        least = self.out - self.extra
        options = [f"{e} gives {least + e}" for e in range(max(self.s, self.d))]
        return f"output_padding {', '.join(options)}"


@dataclass(frozen=True)
class Adaptive(Axis):
    """``size`` windows that tile the axis: window i is floor(i n/size) .. ceil((i+1) n/size)."""

    size: int

    @property
    def out(self) -> int:
        return self.size

    def reads(self, o: int) -> Positions:
        return np.arange(o * self.n // self.size, -(-(o + 1) * self.n // self.size))

    def formula(self) -> str:
        spans = [
            f"{at[0]}-{at[-1]}" if len(at) > 1 else f"{at[0]}"
            for at in map(self.reads, range(self.out))
        ]
        shown = spans if len(spans) <= 8 else [*spans[:4], "...", *spans[-2:]]
        return (
            f"{self.size} as asked; window i reads floor(i*{self.n}/{self.size}) up to "
            f"ceil((i+1)*{self.n}/{self.size}) - 1: {', '.join(shown)}"
        )

    def notes(self, one: str, many: str) -> list[str]:
        lengths = sorted({len(self.reads(o)) for o in range(self.out)})
        shared = [int(i) for i in np.flatnonzero(self.matrix.sum(0) > 1)]
        said = []
        if len(lengths) > 1:
            said.append(f"windows of {listed(lengths, 'and')} {many}")
        if shared:
            lie = "lies" if len(shared) == 1 else "lie"
            said.append(f"{positions(shared, one, many)} {lie} in more than one window")
        return said

    def inverse(self) -> str:
        return f"every size gives {self.size}"


@dataclass(frozen=True)
class Shift(Axis):
    """Output o is input o - before: padding that stands alone, or a slice (negative padding)."""

    before: int = 0
    after: int = 0

    @property
    def out(self) -> int:
        return self.n + self.before + self.after

    def reads(self, o: int) -> Positions:
        return np.array([o - self.before])

    def formula(self) -> str:
        return f"{self.n} + {self.before} + {self.after} = {self.out}"

    def notes(self, one: str, many: str) -> list[str]:
        return [_never_read(self.unread, one, many) + ": cut off"] if self.unread else []


@dataclass(frozen=True)
class Table(Axis):
    """Each output's input positions, listed: resizing, reflected borders, picked rows."""

    rows: tuple[tuple[int, ...], ...]
    said: str = ""

    @property
    def out(self) -> int:
        return len(self.rows)

    def reads(self, o: int) -> Positions:
        row = self.rows[min(max(o, 0), self.out - 1)]
        return np.array(row, np.int64)

    def formula(self) -> str:
        return f"{self.said or self.n} = {self.out}"

    def notes(self, one: str, many: str) -> list[str]:
        return [_never_read(self.unread, one, many)] if self.unread else []


@dataclass(frozen=True)
class Everything(Axis):
    """Every output reads the whole axis: a linear layer, a mean."""

    size: int = 1

    @property
    def out(self) -> int:
        return self.size

    def reads(self, o: int) -> Positions:
        return np.arange(self.n)


# --- words


def listed(numbers: Sequence[Any], word: str) -> str:
    """``1, 2 and 3``"""
    texts = [str(n) for n in numbers]
    return f" {word} ".join([", ".join(texts[:-1]), texts[-1]]) if len(texts) > 1 else texts[0]


def positions(which: Sequence[int], one: str, many: str) -> str:
    """``row 63``, ``rows 60-63``, ``rows 1, 3, 5, ..., 61 (31 of them)``"""
    if len(which) == 1:
        return f"{one} {which[0]}"
    if len(which) > 2 and which[-1] - which[0] == len(which) - 1:
        return f"{many} {which[0]}-{which[-1]}"
    if len(which) <= 6:
        return f"{many} {listed(which, 'and')}"
    first = ", ".join(map(str, which[:3]))
    return f"{many} {first}, ..., {which[-1]} ({len(which)} of them)"


def _never_read(which: Sequence[int], one: str, many: str) -> str:
    return f"input {positions(which, one, many)} {'is' if len(which) == 1 else 'are'} never read"


def _count(n: int, one: str, many: str) -> str:
    return f"{n} {one if n == 1 else many}"


def union(arrays: Iterable[Positions]) -> Positions:
    """All positions that occur, in order."""
    found = list(arrays)
    return np.unique(np.concatenate(found)) if found else np.zeros(0, np.int64)
