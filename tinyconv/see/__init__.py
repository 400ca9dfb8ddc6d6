"""Everything that people look at."""

from tinyconv.see.explain import Explanation, explain
from tinyconv.see.trace import Trace, trace

__all__ = ["Explanation", "Trace", "explain", "trace"]
