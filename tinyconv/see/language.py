"""The little language of layers: ``conv(8,k3,s2,p1) relu pool(2) res(conv(8,k3,p1)) linear(10)``.

Channels and features that come in are not written: they follow from the input's shape.

    conv(O, k3, s2, p1, d1, g1, nobias)   p may be psame; k3x5 is 3 high and 5 wide
    convT(O, k3, s2, p1, op1, d1, g1)     transposed
    pool(2, s2, p0, d1, ceil)  avgpool(2, s2, p0, ceil)
    adaptive(7)  adaptivemax(3x2)  gap    up(2)  up(2, bilinear)  pad(1)
    relu  sigmoid  tanh  bn  dropout  flatten  linear(10, nobias)
    res(LAYERS)                           LAYERS plus their input
    res(LAYERS | LAYERS)                  with layers on the shortcut
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Any

from tinyconv import nn
from tinyconv.autograd import no_grad
from tinyconv.creation import zeros
from tinyconv.errors import TinyconvError

Shape = tuple[int, ...]


class LanguageError(ValueError):
    """Text that is no network: says where, what stands there, and what was expected."""

    def __init__(self, text: str, at: int, said: str) -> None:
        start = text.rfind("\n", 0, at) + 1
        line = text[start:].partition("\n")[0]
        super().__init__(f"{said}\n    {line}\n    {' ' * (at - start)}^ position {at + 1}")


@dataclass
class _Arguments:
    """What stands between a layer's parentheses, taken one by one."""

    text: str
    at: int
    name: str
    numbers: list[Any] = field(default_factory=list)
    named: dict[str, Any] = field(default_factory=dict)
    words: set[str] = field(default_factory=set)

    def build(self, made: Callable[..., nn.Module], *args: Any, **given: Any) -> nn.Module:
        """The layer, once every argument is used; its own complaints get a position."""
        left = [
            *map(str, self.numbers),
            *(k + _shown(v) for k, v in self.named.items()),
            *self.words,
        ]
        if left:
            raise LanguageError(
                self.text,
                self.at,
                f"{self.name} does not take {', '.join(left)}: it is {USAGE[self.name]}",
            )
        try:
            return made(*args, **{k: v for k, v in given.items() if v is not None})
        except (TinyconvError, ValueError, TypeError) as error:
            raise LanguageError(self.text, self.at, str(error)) from None

    def number(self, meaning: str) -> Any:
        if not self.numbers:
            raise LanguageError(
                self.text, self.at, f"{self.name} needs {meaning}: it is {USAGE[self.name]}"
            )
        return self.numbers.pop(0)

    def key(self, *names: str, default: Any = None) -> Any:
        for name in names:
            if name in self.named:
                return self.named.pop(name)
        return default

    def word(self, name: str) -> bool:
        found = name in self.words
        self.words.discard(name)
        return found


def _shown(value: Any) -> str:
    return "x".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _kernel(a: _Arguments) -> Any:
    kernel = a.key("k")
    if kernel is None:
        kernel = a.number("a kernel size such as k3")
    return kernel


def _conv(a: _Arguments, shape: Shape) -> nn.Module:
    kind = nn.Conv1d if len(shape) == 3 else nn.Conv2d
    return a.build(
        kind, shape[1], a.number("the number of output channels"), _kernel(a), stride=a.key("s"),
        padding=a.key("p"), dilation=a.key("d"), groups=a.key("g"), bias=not a.word("nobias"),
    )  # fmt: skip


def _conv_transposed(a: _Arguments, shape: Shape) -> nn.Module:
    kind = nn.ConvTranspose1d if len(shape) == 3 else nn.ConvTranspose2d
    return a.build(
        kind, shape[1], a.number("the number of output channels"), _kernel(a), stride=a.key("s"),
        padding=a.key("p"), output_padding=a.key("op"), dilation=a.key("d"), groups=a.key("g"),
        bias=not a.word("nobias"),
    )  # fmt: skip


def _max_pool(a: _Arguments, shape: Shape) -> nn.Module:
    return a.build(nn.MaxPool2d, _kernel(a), stride=a.key("s"), padding=a.key("p"),
                   dilation=a.key("d"), ceil_mode=a.word("ceil"))  # fmt: skip


def _avg_pool(a: _Arguments, shape: Shape) -> nn.Module:
    return a.build(nn.AvgPool2d, _kernel(a), stride=a.key("s"), padding=a.key("p"),
                   ceil_mode=a.word("ceil"))  # fmt: skip


def _up(a: _Arguments, shape: Shape) -> nn.Module:
    factor = a.number("a factor")
    mode = "bilinear" if a.word("bilinear") else "nearest"
    return a.build(nn.Upsample, scale_factor=factor, mode=mode)


def _pad(a: _Arguments, shape: Shape) -> nn.Module:
    kind = nn.ZeroPad1d if len(shape) == 3 else nn.ZeroPad2d
    return a.build(kind, a.number("how much"))


def _norm(a: _Arguments, shape: Shape) -> nn.Module:
    return a.build(nn.BatchNorm2d if len(shape) == 4 else nn.BatchNorm1d, shape[1])


def _linear(a: _Arguments, shape: Shape) -> nn.Module:
    features = a.number("the number of output features")
    return a.build(nn.Linear, shape[-1], features, bias=not a.word("nobias"))


def _plain(kind: type[nn.Module], *args: Any) -> Callable[[_Arguments, Shape], nn.Module]:
    return lambda a, shape: a.build(kind, *args)


def _sized(kind: type[nn.Module]) -> Callable[[_Arguments, Shape], nn.Module]:
    return lambda a, shape: a.build(kind, a.number("the output size"))


_LAYERS: dict[str, tuple[Callable[[_Arguments, Shape], nn.Module], str]] = {
    "conv": (_conv, "conv(CHANNELS,k3[,s1,p0|psame,d1,g1,nobias])"),
    "convT": (_conv_transposed, "convT(CHANNELS,k3[,s1,p0,op0,d1,g1,nobias])"),
    "pool": (_max_pool, "pool(2[,s2,p0,d1,ceil])"),
    "avgpool": (_avg_pool, "avgpool(2[,s2,p0,ceil])"),
    "adaptive": (_sized(nn.AdaptiveAvgPool2d), "adaptive(7)"),
    "adaptivemax": (_sized(nn.AdaptiveMaxPool2d), "adaptivemax(7)"),
    "gap": (_plain(nn.AdaptiveAvgPool2d, 1), "gap"),
    "up": (_up, "up(2[,bilinear])"),
    "pad": (_pad, "pad(1)"),
    "relu": (_plain(nn.ReLU), "relu"),
    "sigmoid": (_plain(nn.Sigmoid), "sigmoid"),
    "tanh": (_plain(nn.Tanh), "tanh"),
    "bn": (_norm, "bn"),
    "dropout": (_plain(nn.Dropout), "dropout"),
    "flatten": (_plain(nn.Flatten), "flatten"),
    "linear": (_linear, "linear(FEATURES[,nobias])"),
}
USAGE = {**{name: usage for name, (_, usage) in _LAYERS.items()}, "res": "res(LAYERS[|LAYERS])"}
_WORDS = ("nobias", "ceil", "bilinear")
_NAME = re.compile(r"[A-Za-z]+")
_VALUE = re.compile(
    r"(?P<key>op|[kspdg])?(?P<number>\d+(?:x\d+)?)(?![A-Za-z0-9])|(?P<word>[A-Za-z]\w*)"
)


def parse_shape(text: str) -> Shape:
    """``1x28x28`` as (1, 28, 28)."""
    if not re.fullmatch(r"[1-9]\d*(x[1-9]\d*)*", text):
        raise ValueError(f"{text!r} is no shape; write sizes with x between, such as 1x28x28")
    return tuple(map(int, text.split("x")))


def with_batch(shape: Shape) -> Shape:
    """One image (C, H, W), or one signal (C, L), as a batch."""
    if not 2 <= len(shape) <= 4:
        raise ValueError(f"the shape {shape} has {len(shape)} sizes; it is CxHxW, NxCxHxW or CxL")
    return shape if len(shape) == 4 else (1, *shape)


def parse_network(text: str, shape: Shape) -> nn.Sequential:
    """The network that ``text`` describes, for an input (N, C, H, W), (C, H, W) or (C, L).

    A layer that does not fit the shape before it is the last one of the network: running it, or
    `tc.shapes`, says why.  LanguageError for text that is not understood.
    """
    reader = _Reader(text)
    network, _ = reader.layers(with_batch(shape), "")
    return network


class _Reader:
    """A recursive-descent parser; ``at`` is where it stands."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0

    def fail(self, expected: str) -> LanguageError:
        found = repr(self.text[self.at]) if self.at < len(self.text) else "the end"
        return LanguageError(self.text, self.at, f"found {found}, expected {expected}")

    def blank(self) -> None:
        while self.at < len(self.text) and self.text[self.at] in " \t\n;":
            self.at += 1

    def accept(self, token: str) -> bool:
        self.blank()
        found = self.text.startswith(token, self.at)
        self.at += len(token) * found
        return found

    def layers(self, shape: Shape | None, end: str) -> tuple[nn.Sequential, Shape | None]:
        """Layers up to one of the characters ``end``, or the text's end; what comes out of them."""
        made: list[nn.Module] = []
        while True:
            self.blank()
            if self.at == len(self.text) or self.text[self.at] in end:
                break
            layer, after = self.layer(shape)
            if shape is not None:
                made.append(layer)
            shape = after
        if not made and shape is not None and "|" not in end:
            raise self.fail("a layer: " + ", ".join(USAGE))
        return nn.Sequential(*made), shape

    def layer(self, shape: Shape | None) -> tuple[nn.Module, Shape | None]:
        start = self.at
        found = _NAME.match(self.text, start)
        if found is None:
            raise self.fail("a layer: " + ", ".join(USAGE))
        name = found[0]
        if name not in USAGE:
            close = get_close_matches(name, USAGE, 1)
            hint = f"did you mean {close[0]}?" if close else "there is " + ", ".join(USAGE)
            raise LanguageError(self.text, start, f"{name!r} is no layer; {hint}")
        self.at = found.end()
        if name == "res":
            layer = self.residual(shape)
        else:
            arguments = _Arguments(self.text, start, name)
            if self.accept("("):
                self.arguments(arguments)
            # after a layer that failed the shape is unknown: read on for errors of the language
            layer = _LAYERS[name][0](arguments, shape or (1, 1, 1, 1))
        return layer, None if shape is None else _after(layer, shape)

    def arguments(self, into: _Arguments) -> None:
        while True:
            self.blank()
            found = _VALUE.match(self.text, self.at)
            if found is None:
                raise self.fail(f"an argument of {USAGE[into.name]}")
            key, number, word = found["key"], found["number"], found["word"]
            if word == "psame":
                key, number, word = "p", "same", None
            if number:
                sizes = tuple(map(int, number.split("x"))) if number != "same" else ("same",)
                value: Any = sizes[0] if len(sizes) == 1 else sizes
            if word:
                if word not in _WORDS:
                    raise LanguageError(
                        self.text, self.at, f"{word!r} is no argument of {USAGE[into.name]}"
                    )
                into.words.add(word)
            elif key:
                if key in into.named:
                    raise LanguageError(self.text, self.at, f"{key} is given twice")
                into.named[key] = value
            else:
                into.numbers.append(value)
            self.at = found.end()
            if self.accept(")"):
                return
            if not self.accept(","):
                raise self.fail("',' or ')'")

    def residual(self, shape: Shape | None) -> nn.Module:
        if not self.accept("("):
            raise self.fail("'(', as in res(conv(8,k3,p1) relu)")
        branch, _ = self.layers(shape, "|)")
        shortcut = self.layers(shape, ")")[0] if self.accept("|") else None
        if not self.accept(")"):
            raise self.fail("')'")
        return nn.Residual(branch, shortcut)


def _after(layer: nn.Module, shape: Shape) -> Shape | None:
    """The shape that comes out; None where the layer does not fit."""
    layer.eval()
    try:
        with no_grad():
            return tuple(layer(zeros(shape)).shape)
    except (TinyconvError, ValueError):
        return None
    finally:
        layer.train()
