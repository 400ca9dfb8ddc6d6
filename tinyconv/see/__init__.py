"""Everything that people look at."""

from tinyconv.see.curves import Curves, curves
from tinyconv.see.explain import Explanation, explain
from tinyconv.see.shapes import Shapes, shapes
from tinyconv.see.summary import Summary, summary
from tinyconv.see.tape import Tape, record
from tinyconv.see.trace import Trace, trace

__all__ = [
    "Curves",
    "Explanation",
    "Shapes",
    "Summary",
    "Tape",
    "Trace",
    "curves",
    "explain",
    "record",
    "shapes",
    "summary",
    "trace",
]
