"""Everything that people look at."""

from tinyconv.see.shapes import Shapes, shapes
from tinyconv.see.trace import Trace, trace

__all__ = ["Shapes", "Trace", "shapes", "trace"]
