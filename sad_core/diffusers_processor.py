"""Skew attention for diffusers models, without ComfyUI and without importing diffusers here.

    from sad_core import set_skew_attention
    set_skew_attention(pipeline.unet, gamma=1.05, beta=3.0)
    image = pipeline(prompt).images[0]

`set_skew_attention(unet, gamma=1.0)` gives the plain model back, bit for bit.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from .attention import skew_attention
from .norm_guard import NORMS
from .parameters import FloatOrTensor, check_choice, is_exactly
from .symmetricity import AVERAGES, adapt, average, symmetricity


def set_skew_attention(
    unet: Any,
    gamma: FloatOrTensor = 1.05,
    beta: FloatOrTensor = 3.0,
    *,
    norm: str = "value",
    adaptive: bool = False,
    average_over: str = "sample",
    layers: str = "",
) -> list[str]:
    """Put γ and β on every self-attention (`attn1`) of a diffusers model; calling it again replaces the settings.

    Args:
        unet: a model with `attn_processors` and `set_attn_processor`, such as UNet2DConditionModel.
        gamma, beta, norm: as for `skew_attention`; "input" and "projected" work, the processor sees the input.
        adaptive: weigh γ and β by the symmetricity of each call, the paper's rule.
        average_over: "sample", "head" or "batch", see `symmetricity.average`; "batch" is the authors' own.
        layers: how the names of the wanted layers begin, such as "down_blocks", "mid_block" or "up_blocks.1"; all
            others become plain. By default every layer is wanted.

    Returns:
        Names of the attention layers that were set.

    Raises:
        ValueError: the model has no self-attention layer called `attn1`, or none whose name begins with `layers`; an
            unknown norm or average.
    """
    check_choice("norm", norm, NORMS)
    check_choice("average_over", average_over, AVERAGES)
    processors = dict(unet.attn_processors)
    names = [name for name in processors if name.endswith("attn1.processor")]
    if not names:
        raise ValueError(f"{type(unet).__name__} has no self-attention layer named attn1, so there is nothing to set.")
    chosen = [name for name in names if not layers or name.startswith(f"{layers}.")]
    if not chosen:
        parts = ", ".join(dict.fromkeys(name.partition(".")[0] for name in names))
        raise ValueError(f'layers: the name of no self-attention begins with "{layers}"; here they begin with {parts}.')
    is_neutral = is_exactly(gamma, 1.0) or is_exactly(beta, 0.0)
    for name in names:
        original = processors[name]
        original = original.original if isinstance(original, SkewAttentionProcessor) else original
        skewed = SkewAttentionProcessor(original, gamma, beta, norm=norm, adaptive=adaptive, average_over=average_over)
        processors[name] = original if is_neutral or name not in chosen else skewed
    unet.set_attn_processor(processors)
    return chosen


class SkewAttentionProcessor:
    """A diffusers attention processor: `skew_attention` for self-attention, the original processor for all else.

    Args:
        original: the processor to fall back to for cross-attention, masks and layers with norms of their own inside.
        gamma, beta, norm, adaptive, average_over: see `set_skew_attention`.
    """

    def __init__(
        self,
        original: Callable[..., Tensor],
        gamma: FloatOrTensor,
        beta: FloatOrTensor,
        *,
        norm: str = "value",
        adaptive: bool = False,
        average_over: str = "sample",
    ):
        self.original = original
        self.gamma = gamma
        self.beta = beta
        self.norm = norm
        self.adaptive = adaptive
        self.average_over = average_over

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        *args: Any,
        **kwargs: Any,
    ) -> Tensor:
        """The attention of one layer, `(B, L, C)` in and out (diffusers/models/attention_processor.py)."""
        inside = (attn.spatial_norm, attn.group_norm, attn.norm_q, attn.norm_k)
        is_simple = hidden_states.dim() == 3 and all(part is None for part in inside) and not attn.residual_connection
        if encoder_hidden_states is not None or attention_mask is not None or not is_simple:
            return self.original(attn, hidden_states, encoder_hidden_states, attention_mask, *args, **kwargs)
        q, k, v = (
            project(hidden_states).unflatten(-1, (attn.heads, -1)).transpose(1, 2)
            for project in (attn.to_q, attn.to_k, attn.to_v)
        )
        gamma, beta = self.gamma, self.beta
        if self.adaptive:
            gamma, beta = adapt(gamma, beta, average(symmetricity(q, k), self.average_over))
        x = hidden_states if self.norm in ("projected", "input") else None
        options: dict[str, Any] = {"norm": self.norm, "x": x, "scale": attn.scale, "neutral_bits": not self.adaptive}
        out = skew_attention(q, k, v, gamma, beta, **options)
        out = out.transpose(1, 2).flatten(2)
        for layer in attn.to_out:
            out = layer(out)
        rescaled: Tensor = out / attn.rescale_output_factor
        return rescaled
