"""Names of devices: ``tc.device("cuda")``, equal to the string "cuda"."""

from __future__ import annotations

from tinyconv.errors import DeviceError

TYPES = ("cpu", "cuda")


class device(str):
    """Where an array lives: "cpu", "cuda" or "cuda:0".  To name one does not touch it.

    A string with two attributes, as in PyTorch:

    type:   "cpu" or "cuda"
    index:  which GPU, None for the present one

    DeviceError for any other name.
    """

    type: str
    index: int | None  # type: ignore[assignment]  # str has a method of this name

    def __new__(cls, type: str, index: int | None = None) -> device:
        name, colon, number = str(type).partition(":")
        if name not in TYPES or (colon and (not number.isdecimal() or index is not None)):
            known = ", ".join(map(repr, TYPES))
            raise DeviceError("device", f"no backend for {str(type)!r}; there is {known}")
        index = int(number) if colon else index
        made = super().__new__(cls, name if index is None else f"{name}:{index}")
        made.type, made.index = name, index
        return made

    def __repr__(self) -> str:
        index = "" if self.index is None else f", index={self.index}"
        return f"device(type={self.type!r}{index})"

    def __reduce__(self) -> tuple[object, ...]:
        return device, (str(self),)
