"""Tensor, by what it does.

    tensor.py       what it is, and its place in the graph
    operators.py    x + y, x[i]          methods.py      x.sum(0)
    writes.py       x += y, x[i] = y     conversions.py  x.double(), x.cuda()
    exchange.py     NumPy, DLPack        values.py       what people pass
"""

from tinyconv.tensor.tensor import Tensor as Tensor
from tinyconv.tensor.values import as_array as as_array, sizes_of as sizes_of
