"""The symmetricity of a head's logits (the paper's η), and the adaptive rule built on it."""

from __future__ import annotations

import torch
from torch import Tensor

from .parameters import FloatOrTensor, accumulation_dtype, autocast_disabled, check_choice

RULES = ("deviation", "scale")
AVERAGES = ("sample", "head", "batch")


def symmetricity(q: Tensor, k: Tensor) -> Tensor:
    """η = (‖S‖² − ‖C‖²) / (‖S‖² + ‖C‖²) of the logits q kᵀ: 1 symmetric, −1 skew, 0 when either part is as large.

        η = Σᵢⱼ (kᵀq)ᵢⱼ (kᵀq)ⱼᵢ / Σᵢⱼ (qᵀq)ᵢⱼ (kᵀk)ᵢⱼ

    Frobenius norms, no softmax; the scale of the logits cancels. Only d×d Gram matrices are formed: O(L·d²).

    Args:
        q, k: `(B, H, L, d)`.

    Returns:
        `(B, H)` in [−1, 1], float32 or wider. An all-zero q or k has η = 0.
    """
    precise = accumulation_dtype(q.dtype)
    q, k = q.to(precise), k.to(precise)
    with autocast_disabled(q.device):
        cross = k.mT @ q
        aligned = (cross * cross.mT).sum(dim=(-2, -1))
        total = ((q.mT @ q) * (k.mT @ k)).sum(dim=(-2, -1))
    return torch.where(total > 0, aligned / total.clamp_min(torch.finfo(precise).tiny), 0.0).clamp(-1.0, 1.0)


def adapt(
    gamma: FloatOrTensor,
    beta: FloatOrTensor,
    eta: Tensor,
    *,
    rule: str = "deviation",
    adapt_gamma: bool = True,
    adapt_beta: bool = True,
) -> tuple[Tensor, Tensor]:
    """γ and β weighed by how symmetric the logits are.

        γ_eff = 1 + (γ − 1)·η   ("deviation", the paper's)   or   γ·η   ("scale")
        β_eff = β·(1 − η)

    Args:
        gamma, beta: floats, 0-d tensors, or tensors shaped like `eta`; `(B,)` per sample also goes with `(B, H)`.
        eta: any shape, from `symmetricity` or an `average` of it.
        rule: "deviation" or "scale". With "scale" γ = 1 is not neutral.
        adapt_gamma, adapt_beta: which of the two to weigh; the other comes back as given.

    Returns:
        `(gamma, beta)`, both shaped like `eta`.

    Raises:
        ValueError: an unknown rule, or a tensor of another shape.
    """
    check_choice("rule", rule, RULES)
    ones = torch.ones_like(eta)
    gamma, beta = (_shaped_like(eta, value, name) for value, name in ((gamma, "gamma"), (beta, "beta")))
    if not adapt_gamma:
        gamma = gamma * ones
    elif rule == "deviation":
        gamma = 1 + (gamma - 1) * eta
    else:
        gamma = gamma * eta
    return gamma, beta * (1 - eta) if adapt_beta else beta * ones


def _shaped_like(eta: Tensor, value: FloatOrTensor, name: str) -> FloatOrTensor:
    """`value` so that it multiplies η sample by sample, never by luck."""
    if not isinstance(value, Tensor) or value.shape in ((), eta.shape):
        return value
    if eta.dim() == 2 and value.shape == eta.shape[:1]:
        return value[:, None]
    raise ValueError(f"{name} has shape {tuple(value.shape)}, which does not go with η of shape {tuple(eta.shape)}.")


def average(eta: Tensor, over: str = "sample") -> Tensor:
    """η from `(B, H)` to one value per sample, per head, or for the whole batch.

    Args:
        eta: `(B, H)`.
        over: "sample" gives `(B,)`, "head" leaves `(B, H)`, "batch" gives a 0-d tensor: the authors' own averaging,
            in which the other pictures of a batch change a result.

    Raises:
        ValueError: an unknown choice.
    """
    check_choice("over", over, AVERAGES)
    return eta.mean(dim=1) if over == "sample" else eta.mean() if over == "batch" else eta
