"""The symmetricity of a head's logits (the paper's η), and the adaptive rule built on it."""

from __future__ import annotations

import torch
from torch import Tensor

from .parameters import FloatOrTensor, accumulation_dtype, autocast_disabled, check_choice

RULES = ("deviation", "scale")
AVERAGES = ("sample", "head", "batch")
CHEAP_OPERATIONS = ("cpu",)  # devices on which arithmetic costs more than the operations that do it


def symmetricity(q: Tensor, k: Tensor) -> Tensor:
    """η = (‖S‖² − ‖C‖²) / (‖S‖² + ‖C‖²) of the logits q kᵀ: 1 symmetric, −1 skew, 0 when either part is as large.

        η = Σᵢⱼ (kᵀq)ᵢⱼ (kᵀq)ⱼᵢ / Σᵢⱼ (qᵀq)ᵢⱼ (kᵀk)ᵢⱼ

    Frobenius norms, no softmax; the scale of the logits cancels. Only d×d matrices are formed: O(L·d²).

    Args:
        q, k: `(B, H, L, d)`.

    Returns:
        `(B, H)` in [−1, 1], float32 or wider. An all-zero q or k has η = 0.
    """
    precise = accumulation_dtype(q.dtype)
    with autocast_disabled(q.device):
        if q.device.type in CHEAP_OPERATIONS:
            total, aligned = _by_three_products(q, k, precise)
        else:  # the fewest operations: all three matrices are parts of the Gram matrix of [q, k]
            head_dim = q.shape[-1]
            both = torch.cat([q, k], dim=-1).to(precise)
            gram = (both.mT @ both).unflatten(-1, (2, head_dim))
            of_q, of_k = gram[..., :head_dim, :, :], gram[..., head_dim:, :, :]  # [qᵀq, qᵀk] and [kᵀq, kᵀk]
            total, aligned = (of_q * of_k.flip(-2)).sum(dim=(-3, -1)).unbind(-1)
    eta: Tensor = (aligned / total.clamp_min(torch.finfo(precise).tiny)).clamp(-1.0, 1.0)
    return eta


def _by_three_products(q: Tensor, k: Tensor, precise: torch.dtype) -> tuple[Tensor, Tensor]:
    """Return both sums of η, `(B, H)` each, with the least arithmetic.

    Flattened first, q and k are copied once each where ComfyUI's layout asks for it, and not once for every product.
    """
    heads = q.shape[:2]
    q, k = q.to(precise).flatten(0, 1), k.to(precise).flatten(0, 1)
    cross = k.mT @ q
    total = ((q.mT @ q) * (k.mT @ k)).sum(dim=(-2, -1))
    aligned = (cross * cross.mT).sum(dim=(-2, -1))
    return total.view(heads), aligned.view(heads)


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
    gamma, beta = _shaped_like(eta, gamma, "gamma"), _shaped_like(eta, beta, "beta")
    if not adapt_gamma:
        new_gamma = _spread_over(eta, gamma)
    elif rule == "scale":
        new_gamma = gamma * eta
    elif isinstance(gamma, Tensor):
        new_gamma = 1 + (gamma - 1) * eta
    else:
        new_gamma = torch.rsub(eta, 1.0, alpha=1 - gamma)  # the same in one operation
    if not adapt_beta:
        return new_gamma, _spread_over(eta, beta)
    return new_gamma, beta * (1 - eta) if isinstance(beta, Tensor) else torch.rsub(eta, beta, alpha=beta)


def _spread_over(eta: Tensor, value: FloatOrTensor) -> Tensor:
    """`value` in the shape of η."""
    return value.expand(eta.shape) if isinstance(value, Tensor) else torch.full_like(eta, value)


def _shaped_like(eta: Tensor, value: FloatOrTensor, name: str) -> FloatOrTensor:
    """`value` so that it multiplies η sample by sample, never by luck."""
    if not isinstance(value, Tensor) or value.shape in ((), eta.shape):
        return value
    if eta.dim() == 2 and value.shape == eta.shape[:1]:
        return value[:, None]
    raise ValueError(f"{name} has shape {tuple(value.shape)}, which does not match η of shape {tuple(eta.shape)}.")


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
