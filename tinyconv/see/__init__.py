"""Everything that people look at."""

from tinyconv.see.trace import Trace, trace

__all__ = ["Trace", "trace"]
