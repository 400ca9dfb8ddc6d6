"""Linear, Embedding, dropout and Identity."""

from typing import Any

from tinyconv.autograd import no_grad
from tinyconv.errors import ShapeError
from tinyconv.nn import functional as F, init
from tinyconv.nn.functional.checks import whole
from tinyconv.nn.module import Layer, new_parameter
from tinyconv.tensor import Tensor


class Identity(Layer):
    """Its input; arguments are accepted and ignored, so that it can stand in for any layer."""

    def __init__(self, *_args: Any, **_kwargs: Any) -> None:
        super().__init__()

    def forward(self, input: Tensor) -> Tensor:
        return input


class Linear(Layer):
    """(..., in_features) -> (..., out_features): x @ weight.T + bias; weight (out, in)."""

    def __init__(
        self, in_features: int, out_features: int, bias: bool = True,
        device: str | None = None, dtype: Any = None,
    ) -> None:
        super().__init__()
        in_features = whole("Linear", "in_features", in_features)
        out_features = whole("Linear", "out_features", out_features)
        if min(in_features, out_features) < 1:
            raise ShapeError("Linear", f"in_features={in_features} and out_features={out_features} "
                                       "must be at least 1")
        self.in_features = in_features
        self.out_features = out_features
        self.weight = new_parameter((out_features, in_features), device, dtype)
        made = new_parameter((out_features,), device, dtype) if bias else None
        self.register_parameter("bias", made)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Uniform in +-1 / sqrt(in_features), as PyTorch."""
        init.default_(self.weight, self.bias)

    def forward(self, input: Tensor) -> Tensor:
        return F.linear(input, self.weight, self.bias)

    def brief(self) -> str:
        return f"Linear({self.in_features}->{self.out_features})"

    def extra_repr(self) -> str:
        return (f"in_features={self.in_features}, out_features={self.out_features}, "
                f"bias={self.bias is not None}")


class Embedding(Layer):
    """Integers (...) -> vectors (..., embedding_dim): rows of the weight.

    padding_idx: a row that starts as zeros and is not trained.
    """

    def __init__(
        self, num_embeddings: int, embedding_dim: int, padding_idx: int | None = None, *,
        device: str | None = None, dtype: Any = None,
    ) -> None:
        super().__init__()
        num_embeddings = whole("Embedding", "num_embeddings", num_embeddings)
        embedding_dim = whole("Embedding", "embedding_dim", embedding_dim)
        if padding_idx is not None and not -num_embeddings <= padding_idx < num_embeddings:
            raise ShapeError("Embedding", f"padding_idx={padding_idx} is none of the rows "
                                          f"0..{num_embeddings - 1}")
        self.num_embeddings = num_embeddings
        self.embedding_dim = embedding_dim
        self.padding_idx = None if padding_idx is None else padding_idx % num_embeddings
        self.weight = new_parameter((num_embeddings, embedding_dim), device, dtype)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Normal with mean 0 and variance 1; zeros at padding_idx."""
        init.normal_(self.weight)
        if self.padding_idx is not None:
            with no_grad():
                self.weight[self.padding_idx] = 0.0

    def forward(self, input: Tensor) -> Tensor:
        return F.embedding(input, self.weight, self.padding_idx)

    def extra_repr(self) -> str:
        padding = f", padding_idx={self.padding_idx}" if self.padding_idx is not None else ""
        return f"{self.num_embeddings}, {self.embedding_dim}{padding}"


class Dropout(Layer):
    """In training, each entry is zero with probability p and the rest is scaled by 1 / (1 - p)."""

    def __init__(self, p: float = 0.5, inplace: bool = False) -> None:
        super().__init__()
        if not 0 <= p <= 1:
            raise ValueError(f"{type(self).__name__}: p={p} is a probability, 0 <= p <= 1")
        self.p = p
        self.inplace = inplace

    def forward(self, input: Tensor) -> Tensor:
        return F.dropout(input, self.p, self.training, self.inplace)

    def extra_repr(self) -> str:
        return f"p={self.p}, inplace={self.inplace}"


class Dropout2d(Dropout):
    """As Dropout, but whole channels (n, c) at a time."""

    def forward(self, input: Tensor) -> Tensor:
        return F.dropout2d(input, self.p, self.training, self.inplace)
