"""Errors that teach: where, what came in, what was expected, the arithmetic, a fix that works."""

from typing import Any

from tinyconv.context import context

READ_ONLY = (
    "the memory is read-only, that of an expanded tensor or of np.load(..., mmap_mode='r'), say; "
    "use x.clone()"
)


class TinyconvError(Exception):
    """Base of every error raised on purpose; the message starts with the module's path."""

    def __init__(self, name: str, message: str) -> None:
        super().__init__(f"{where(name)}: {message}")


class ShapeError(TinyconvError, ValueError):
    """Shapes that do not fit, with the numbers."""


class DimError(ShapeError, IndexError):
    """An axis or a position that is not there: what PyTorch raises an IndexError for."""


class DTypeError(TinyconvError, TypeError):
    """Element types that must not be mixed, or that an operation cannot use."""


class DeviceError(TinyconvError, RuntimeError):
    """Arrays of two devices, or a device that is not there."""


class GraphError(TinyconvError, RuntimeError):
    """A graph that is freed, overwritten, or that does not reach what was asked for."""


def where(name: str) -> str:
    """``layer1.0 Conv2d(1->8, k3)`` inside that layer; ``block: add`` in a hand-written forward.

    The layer's own short form replaces the operation's name when the layer *is* the operation.
    """
    module = context.module
    if module is None:
        return name
    brief = module.brief()
    layer = " ".join(part for part in (context.scope, brief) if part)
    return layer if module.is_layer else f"{layer}: {name}"


def not_a_tensor(what: str, value: Any, name: str) -> str:
    """What was given in the place of a Tensor, and how to come by one; ``name`` is its variable."""
    if value is None:
        return f"{what} is None: the forward before it returned None; does it lack a return?"
    kind, fix = type(value).__name__, f"make it one: tc.tensor({name})"
    article = "an" if kind[0] in "aeiou" else "a"
    if isinstance(value, (tuple, list)):
        kind += f" ({', '.join(type(item).__name__ for item in value[:4])})"
        if any(hasattr(item, "requires_grad") for item in value):
            fix = "unpack the batch: for images, labels in loader: model(images)"
    elif hasattr(value, "strides"):
        fix = f"make it one: tc.from_numpy({name})"
    return f"{what} is {article} {kind}, not a Tensor; {fix}"


def no_axis(name: str, shape: tuple[int, ...], dim: int) -> DimError:
    """The error for an axis that ``shape`` does not have."""
    n = len(shape)
    known = f"{-n}..{n - 1}" if n else "none"
    return DimError(name, f"dim {dim} is not an axis of {shape}; the axes are {known}")


def no_integer(name: str, key: str, value: object) -> DTypeError:
    """The error for an axis or a number of entries that is none."""
    return DTypeError(name, f"{key} is {value!r}, it must be an integer")


def not_taken(name: str, what: int | str, dtype: Any) -> DTypeError:
    """The error for integers or booleans where an operation has no meaning for them."""
    which = f"operand {what}" if isinstance(what, int) else what
    fix = "x.float()" if isinstance(what, int) else f"{what}.float()"
    kind = "numbers, not booleans" if dtype.kind == "b" else "floats"
    return DTypeError(name, f"{which} is {dtype}, it must hold {kind}; convert: {fix}")
