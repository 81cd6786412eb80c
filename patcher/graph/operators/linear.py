# SPDX-License-Identifier: Apache-2.0
"""Matrix products."""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812 - the field's usual name
from torch import Tensor

from patcher.graph.operators.registry import operator


@operator("MatMul")
def matrix_product(a: Tensor, b: Tensor) -> Tensor:
    """Matrix product with NumPy's rules for vectors and batches."""
    return torch.matmul(a, b)


@operator("Einsum")
def einstein_sum(*inputs: Tensor, equation: str) -> Tensor:
    """Sum of products over the letters that the result lacks."""
    result: Tensor = torch.einsum(equation.replace(" ", ""), *inputs)
    return result


@operator("Det")
def determinant(x: Tensor) -> Tensor:
    """Determinant of the last two axes."""
    result: Tensor = torch.linalg.det(x)
    return result


@operator("Gemm")
def general_matrix_product(
    a: Tensor,
    b: Tensor,
    c: Tensor | None = None,
    *,
    alpha: float = 1.0,
    beta: float = 1.0,
    transA: int = 0,  # noqa: N803 - the standard's name
    transB: int = 0,  # noqa: N803 - the standard's name
) -> Tensor:
    """``alpha * A' B' + beta * C`` with ``A'``, ``B'`` transposed where asked."""
    if transB and not transA and alpha == beta == 1.0 and c is not None and c.dim() == 1:
        return F.linear(a, b, c)
    a, b = a.t() if transA else a, b.t() if transB else b
    product = torch.matmul(a, b)
    product = product if alpha == 1.0 else alpha * product
    if c is None or beta == 0.0:
        return product
    return product + (c if beta == 1.0 else beta * c)
