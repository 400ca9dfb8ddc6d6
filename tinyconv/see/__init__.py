"""Everything that people look at."""

from tinyconv.see.shapes import Shapes, shapes
from tinyconv.see.summary import Summary, summary
from tinyconv.see.tape import Tape, record
from tinyconv.see.trace import Trace, trace

__all__ = ["Shapes", "Summary", "Tape", "Trace", "record", "shapes", "summary", "trace"]
