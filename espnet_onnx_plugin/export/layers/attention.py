"""Attention of other packages under the names of ESPnet's ``MultiHeadedAttention``.

What is written for ESPnet's layers (``steps``, the cross-attention memory of a
transformer decoder) then serves theirs.
"""

from __future__ import annotations

import torch


class Attention(torch.nn.Module):
    """The four projections of multi-head attention.

    Args:
        heads: how many.
        q, k, v, out: linear layers.
    """

    def __init__(
        self,
        heads: int,
        q: torch.nn.Module,
        k: torch.nn.Module,
        v: torch.nn.Module,
        out: torch.nn.Module,
    ):
        super().__init__()
        self.h = heads
        self.linear_q, self.linear_k, self.linear_v = q, k, v
        self.linear_out = out
        self.d_k = q.out_features // heads


def hub_attention(module: torch.nn.Module) -> Attention:
    """An attention of transformers' BART, mBART or OPT under ESPnet's names."""
    return Attention(
        module.num_heads, module.q_proj, module.k_proj, module.v_proj, module.out_proj
    )


def attend_valid(
    attention: torch.nn.Module, x: torch.Tensor, valid: torch.Tensor
) -> torch.Tensor:
    """Self-attention of an encoder, written as ESPnet's, which the optimizer knows.

    Args:
        attention: with ESPnet's names.
        x: (B, T, size).
        valid: (B, 1, 1, T) bool, False at padding.

    Returns:
        (B, T, size).
    """
    q, k, v = (
        layer(x).unflatten(-1, (attention.h, attention.d_k)).transpose(1, 2)
        for layer in (attention.linear_q, attention.linear_k, attention.linear_v)
    )
    scores = torch.matmul(q, k.transpose(-2, -1)) / attention.d_k**0.5
    scores = scores.masked_fill(~valid, torch.finfo(torch.float32).min)
    context = torch.matmul(torch.softmax(scores, dim=-1), v)
    return attention.linear_out(context.transpose(1, 2).flatten(2))
