"""One retrieval as the fused kernel takes it: γ and β as numbers or by row, and which tokens are image tokens."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ..inner_attention import softmax_scale
from ..parameters import FloatOrTensor, is_exactly

NORMS = ("value", "none")  # of norm_guard.NORMS, those that need no patterns beside the values


class FusedCall(NamedTuple):
    """The arguments of one retrieval.

    Attributes:
        q: `(B, H, M, d)`, the last M of the L tokens.
        k, v: `(B, H, L, d)`.
        mask: None, bool (True attends) or added to the logits; broadcasts to `(B, H, M, L)`.
        gamma, gamma_text, gamma_cross, beta: floats, or float32 tensors that broadcast to `(B, H, M, 1)`.
        start, stop: the image tokens within 0 … L. All of them: γ acts everywhere.
        norm: as for `skew_attention`; with β = 1 it does not matter.
        scale: of the logits.
    """

    q: Tensor
    k: Tensor
    v: Tensor
    mask: Tensor | None
    gamma: FloatOrTensor
    gamma_text: FloatOrTensor
    gamma_cross: FloatOrTensor
    beta: FloatOrTensor
    start: int
    stop: int
    norm: str
    scale: float

    @classmethod
    def of(
        cls,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        gamma: FloatOrTensor,
        beta: FloatOrTensor = 1.0,
        *,
        image_tokens: slice | None = None,
        gamma_text: FloatOrTensor = 1.0,
        gamma_cross: FloatOrTensor = 1.0,
        norm: str = "value",
        scale: float | None = None,
        mask: Tensor | None = None,
    ) -> FusedCall:
        """Return the call of these arguments, with defaults filled in.

        Args:
            q, k, v, norm, scale, mask: as for `skew_attention`, but q may be only the last M of the L tokens. A
                transposed logit exists where the column has a query. All other columns keep their plain logits.
            gamma, beta, gamma_text, gamma_cross: a float, a 0-d tensor, `(B,)` per sample, `(B, H)` per head,
                `(B, H, M)` per query row, or a tensor that broadcasts to `(B, H, M, 1)`.
            image_tokens: where γ acts among a part of the tokens, as `inner` of `modal_skew_attention`.

        Raises:
            ValueError: a γ or β of any other shape.
        """
        tokens = k.shape[2]
        part = slice(0, tokens) if image_tokens is None else image_tokens
        gamma, gamma_text, gamma_cross, beta = (
            per_row(value, name, q)
            for value, name in (
                (gamma, "gamma"),
                (gamma_text, "gamma_text"),
                (gamma_cross, "gamma_cross"),
                (beta, "beta"),
            )
        )
        scale = softmax_scale(q.shape[-1], scale)
        return cls(q, k, v, mask, gamma, gamma_text, gamma_cross, beta, part.start, part.stop, norm, scale)

    @property
    def blends(self) -> bool:
        """True if the plain retrieval is needed beside the skewed one."""
        return not is_exactly(self.beta, 1.0)

    @property
    def guards(self) -> bool:
        """True if the norm of the blend is held near that of the skewed retrieval."""
        return self.blends and self.norm == "value"

    @property
    def has_groups(self) -> bool:
        """True if some tokens are not image tokens."""
        return (self.start, self.stop) != (0, self.k.shape[2])

    @property
    def text_is_plain(self) -> bool:
        """True if only the logits among image tokens change."""
        return is_exactly(self.gamma_text, 1.0) and is_exactly(self.gamma_cross, 1.0)

    @property
    def prefix(self) -> int:
        """The number of keys before the first query."""
        return self.k.shape[2] - self.q.shape[2]


def per_row(value: FloatOrTensor, name: str, q: Tensor) -> FloatOrTensor:
    """A γ or β as a float, or as a float32 tensor that broadcasts to `(B, H, M, 1)`; q is `(B, H, M, d)`.

    Raises:
        ValueError: a tensor of another shape.
    """
    if not isinstance(value, Tensor):
        return float(value)
    batch, heads, queries, _ = q.shape
    value = value.to(device=q.device, dtype=torch.float32)
    shape = tuple(value.shape)
    if shape == ():
        return value.reshape(1, 1, 1, 1)
    if shape == (batch,):
        return value.reshape(batch, 1, 1, 1)
    if shape == (batch, heads):
        return value[:, :, None, None]
    if shape == (batch, heads, queries):
        return value[..., None]
    if len(shape) == 4 and all(size in (1, full) for size, full in zip(shape, (batch, heads, queries, 1), strict=True)):
        return value
    raise ValueError(
        f"{name} has shape {shape}, but for {batch} samples, {heads} heads and {queries} queries it must be one "
        f"number, ({batch},) per sample, ({batch}, {heads}) per head or ({batch}, {heads}, {queries}) per query row."
    )
