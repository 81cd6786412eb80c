# SPDX-License-Identifier: Apache-2.0
"""The Attention operator (opset 23): ``softmax(Q K^T * scale + mask) V`` per head.

Queries may have more heads than keys and values, which are then shared by groups. A query that the
mask leaves no key gives 0.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - the field's usual name
from torch import Tensor

from patcher.errors import UnsupportedGraphError
from patcher.graph.operators.registry import operator


@operator("Attention", host=("lengths",))
def attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None = None,
    past_key: Tensor | None = None,
    past_value: Tensor | None = None,
    lengths: Any = None,
    *,
    is_causal: int = 0,
    kv_num_heads: int | None = None,
    q_num_heads: int | None = None,
    left_window_size: int = -1,
    right_window_size: int = -1,
    qk_matmul_output_mode: int = 0,
    scale: float | None = None,
    softcap: float = 0.0,
    softmax_precision: int = 0,
    outputs: tuple[bool, ...],
) -> tuple[Tensor, ...]:
    """Attention over (N, heads, L, D), or (N, L, heads * D) with the numbers of heads as attributes."""
    flat = query.dim() == 3
    if flat:
        query, key, value = _heads(query, q_num_heads), _heads(key, kv_num_heads), _heads(value, kv_num_heads)
    past = 0 if past_key is None else past_key.shape[2]
    key = key if past_key is None else torch.cat((past_key, key), 2)
    value = value if past_value is None else torch.cat((past_value, value), 2)
    present = (key, value)
    groups = query.shape[1] // key.shape[1]
    if groups > 1:
        key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
    scale = 1 / math.sqrt(query.shape[-1]) if scale is None else scale
    allowed = _allowed(query, key, bool(is_causal), (left_window_size, right_window_size), past, lengths)
    scores: Tensor | None = None
    if mask is None and allowed is None and not softcap and len(outputs) < 4:
        result = F.scaled_dot_product_attention(query, key, value, scale=scale)
    else:
        bias = _bias(mask, allowed, query, key)
        result, scores = _weighted(query, key, value, bias, scale, softcap, qk_matmul_output_mode)
    if flat:
        result = result.transpose(1, 2).reshape(result.shape[0], result.shape[2], -1)
    return (result, *present) if scores is None else (result, *present, scores)


def _heads(x: Tensor, heads: int | None) -> Tensor:
    """(N, L, heads * D) to (N, heads, L, D)."""
    if not heads:
        raise UnsupportedGraphError("q_num_heads and kv_num_heads expected for inputs of rank 3")
    return x.reshape(x.shape[0], x.shape[1], heads, -1).transpose(1, 2)


def _allowed(
    query: Tensor, key: Tensor, causal: bool, window: tuple[int, int], past: int, lengths: Any
) -> Tensor | None:
    """Which keys each query may see by position, as a boolean that broadcasts; ``None`` for all."""
    left, right = window
    if not causal and left < 0 and right < 0 and lengths is None:
        return None
    columns = torch.arange(key.shape[2], device=query.device)
    allowed = torch.ones((1, 1, query.shape[2], key.shape[2]), dtype=torch.bool, device=query.device)
    offset = torch.tensor(past, device=query.device)
    if lengths is not None:
        count = torch.tensor(lengths, device=query.device).reshape(-1, 1, 1, 1)
        allowed = allowed & (columns < count)
        offset = count - query.shape[2] if not past else offset
    places = torch.arange(query.shape[2], device=query.device).unsqueeze(1) + offset
    if causal:
        allowed = allowed & (columns <= places)
    if left >= 0:
        allowed = allowed & (columns >= places - left)
    return allowed & (columns <= places + right) if right >= 0 else allowed


def _bias(mask: Tensor | None, allowed: Tensor | None, query: Tensor, key: Tensor) -> Tensor:
    """What is added to the scores: the mask, and minus infinity where a key may not be seen."""
    bias = torch.zeros((1, 1, 1, 1), dtype=query.dtype, device=query.device)
    if mask is not None:
        if mask.dtype == torch.bool:
            mask = torch.zeros_like(mask, dtype=query.dtype).masked_fill(~mask, -math.inf)
        short = key.shape[2] - mask.shape[-1]
        bias = F.pad(mask, [0, short], value=-math.inf) if short > 0 else mask
    return bias if allowed is None else torch.where(allowed, bias, torch.full_like(bias, -math.inf))


def _weighted(
    query: Tensor, key: Tensor, value: Tensor, bias: Tensor, scale: float, softcap: float, mode: int
) -> tuple[Tensor, Tensor]:
    """The weighted values, and the scores at the stage that ``mode`` names."""
    scores = torch.matmul(query * math.sqrt(scale), key.transpose(-1, -2) * math.sqrt(scale))
    capped = torch.tanh(scores / softcap) * softcap if softcap else scores
    biased = capped + bias
    blind = torch.isneginf(bias).expand(biased.shape).all(-1, keepdim=True)
    # Softmax over nothing but minus infinity is not a number, and so would be its gradient.
    weights = torch.softmax(biased.masked_fill(blind, 0.0), -1).masked_fill(blind, 0.0)
    return torch.matmul(weights, value), (scores, capped, biased, weights)[mode]
