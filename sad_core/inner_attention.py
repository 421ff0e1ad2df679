"""The parts that every form of skew attention shares: the checks of a call, and the kernel of its retrievals.

`attend(q, k, v, mask, scale)` is the kernel, softmax(scale·q kᵀ + mask)·v. It is PyTorch's by default; in
ComfyUI the host's own backend takes its place.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from .parameters import FloatOrTensor, writes_in_place

Attend = Callable[[Tensor, Tensor, Tensor, Tensor | None, float], Tensor]


class PreparedCall(NamedTuple):
    """The settings that all retrievals of one call have in common.

    Attributes:
        mask: additive, in the dtype of the queries, broadcasting to `(B, H, L, L)`; or None.
        scale: the softmax scale.
        attend: the kernel.
        in_place: whether results may be written into parts of empty tensors, see `parameters.writes_in_place`.
    """

    mask: Tensor | None
    scale: float
    attend: Attend
    in_place: bool

    def retrieve(self, q: Tensor, k: Tensor, v: Tensor, *rows: slice) -> Tensor:
        """softmax(scale·q kᵀ + mask)·v.

        Every fused kernel takes one head dim for all three tensors. A narrower v is padded with zeros, a wider one goes
        through in pieces.

        Args:
            q: `(B, H, M, d)`, with any d, such as the doubled one.
            k, v: `(B, H, L, d)` and `(B, H, L, dv)`.
            rows: the tokens that q belongs to, one run after the other; all tokens where none are named.

        Returns:
            `(B, H, M, dv)`.
        """
        mask = mask_of_rows(self.mask, *rows) if rows else self.mask
        head_dim, value_dim = q.shape[-1], v.shape[-1]
        if value_dim == head_dim:
            return self.attend(q, k, v, mask, self.scale)
        if value_dim < head_dim:
            padded = torch.constant_pad_nd(v, (0, head_dim - value_dim))
            return self.attend(q, k, padded, mask, self.scale)[..., :value_dim]
        return torch.cat([self.retrieve(q, k, piece, *rows) for piece in v.split(head_dim, dim=-1)], dim=-1)


def prepare(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    scale: float | None,
    mask: Tensor | None,
    attend: Attend | None,
    *others: FloatOrTensor | None,
) -> PreparedCall:
    """Check the arguments of one self-attention call, or of its last queries, and fill in its defaults.

    Args:
        q, k, v, scale, mask, attend: as for `attention.skew_attention`.
        others: whatever else the result depends on, which may need a gradient.

    Raises:
        ValueError: shapes that do not belong together, a mask of whole numbers.
    """
    if q.dim() == k.dim() == 4 and q.shape[2] < k.shape[2]:
        check_last_tokens(q, k, v)
    else:
        check_tokens(q, k, v)
    # Not `attend or …`: the truth of a function breaks a compiled graph on PyTorch 2.11.
    attend = pytorch_attend if attend is None else attend
    in_place = writes_in_place(q, k, v, mask, *others)
    return PreparedCall(additive_mask(mask, q.dtype), softmax_scale(q.shape[-1], scale), attend, in_place)


def pytorch_attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, scale: float) -> Tensor:
    """softmax(scale·q kᵀ + mask)·v by PyTorch's fused kernel: q `(B, H, M, d)`, k and v `(B, H, L, d)`, out like q."""
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=scale)


def softmax_scale(head_dim: int, scale: float | None) -> float:
    """`scale`, or 1/√d where none is given: PyTorch's own default to the last bit, which d**-0.5 is not."""
    return 1 / math.sqrt(head_dim) if scale is None else scale


def additive_mask(mask: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    """A bool mask (True attends) as 0 and −∞ in `dtype`; a float mask as it is, cast to `dtype`.

    Raises:
        ValueError: a mask of whole numbers, which could mean either.
    """
    if mask is None:
        return None
    if mask.is_floating_point():
        return mask.to(dtype)
    if mask.dtype != torch.bool:
        raise ValueError(f"mask is {mask.dtype}, but it must be bool (True attends) or float (added to the logits).")
    return torch.zeros_like(mask, dtype=dtype).masked_fill(~mask, float("-inf"))


def mask_of_rows(mask: Tensor | None, *rows: slice) -> Tensor | None:
    """The mask of the queries `rows`, one run after the other; one that is the same for every query stays as it is."""
    if mask is None or mask.dim() < 2 or mask.shape[-2] == 1:
        return mask
    parts = [mask[..., part, :] for part in rows]
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=-2)


def check_last_tokens(q: Tensor, k: Tensor, v: Tensor) -> None:
    """Refuse tensors that are not the last queries of one self-attention call, with fewer queries than keys.

    Raises:
        ValueError: naming the shapes.
    """
    batch, heads, _, head_dim = q.shape
    if k.shape != (batch, heads, k.shape[2], head_dim) or v.dim() != 4 or v.shape[:3] != k.shape[:3]:
        raise ValueError(
            f"q has shape {tuple(q.shape)}, k {tuple(k.shape)} and v {tuple(v.shape)}, but self-attention of the last "
            "M tokens needs q (B, H, M, d), k (B, H, L, d) and v (B, H, L, dv)."
        )


def check_tokens(q: Tensor, k: Tensor, v: Tensor) -> None:
    """Refuse tensors that are not one self-attention call: q and k `(B, H, L, d)`, v `(B, H, L, dv)`.

    Raises:
        ValueError: naming the shapes.
    """
    if q.dim() != 4 or q.shape != k.shape:
        raise ValueError(
            f"q has shape {tuple(q.shape)} and k {tuple(k.shape)}, but skew attention needs both (B, H, L, d): "
            "the same tokens on both sides, as in self-attention."
        )
    if v.dim() != 4 or v.shape[:3] != q.shape[:3]:
        raise ValueError(f"v has shape {tuple(v.shape)}, but with q {tuple(q.shape)} it must be (B, H, L, dv).")
