"""The output of a diffusers model under γ by the definition in float64, without any code of the pack."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from unittest import mock

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from . import definition
from .diffusers_models import DiffusersRow


def predict(row: DiffusersRow, model: nn.Module, batch: int = 2) -> Tensor:
    """Return the output of the model for the row's inputs."""
    with torch.no_grad():
        return row.result(model(**row.inputs(batch)))


@contextmanager
def by_definition(row: DiffusersRow, gamma: float, beta: float) -> Iterator[Counter[str]]:
    """Inside the `with` block PyTorch's attention is the definition where the row says so; counts those calls.

    The queries of a call are the last of its keys. γ acts among the image tokens, which `row.image` names by the
    numbers of queries and keys.
    """
    plain, counts = F.scaled_dot_product_attention, Counter[str]()

    def attention(
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attn_mask: Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        scale: float | None = None,
        enable_gqa: bool = False,
    ) -> Tensor:
        lengths = (query.shape[2], key.shape[2])
        if lengths not in row.image:
            return plain(query, key, value, attn_mask, dropout_p, is_causal, scale=scale, enable_gqa=enable_gqa)
        counts["skewed"] += 1
        return _skewed(query, key, value, attn_mask, scale, row.image[lengths], gamma, beta)

    with mock.patch.object(F, "scaled_dot_product_attention", attention):
        yield counts


def _skewed(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    scale: float | None,
    image: tuple[int, int],
    gamma: float,
    beta: float,
) -> Tensor:
    """One call: γ in the block of the image tokens, rows and columns; all other rows plain."""
    added = key.shape[2] - query.shape[2]
    rows = torch.cat([torch.zeros_like(key[:, :, :added]), query], dim=2)
    block = slice(image[0] + added, image[1] + added)
    matrix = definition.gamma_matrix(gamma, block, key.shape[2])
    out = definition.skew_attention(rows, key, value, 1.0, norm="none", scale=scale, mask=mask)
    skewed = definition.skew_attention(rows, key, value, matrix, beta, scale=scale, mask=mask)
    out[:, :, block] = skewed[:, :, block]
    return out[:, :, added:].to(query.dtype)
