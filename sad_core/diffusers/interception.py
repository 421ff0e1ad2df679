"""γ in a call of PyTorch's attention that is made by code of somebody else.

A processor of diffusers projects, normalises and rotates in its own way, and then calls PyTorch's attention with what
came out. γ acts there, so nothing of a processor is repeated here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from ..attention import skew_attention
from ..inner_attention import Attend, pytorch_attend
from ..joint_attention import modal_skew_attention
from ..parameters import FloatOrTensor, is_exactly
from ..symmetricity import adapt, average, symmetricity
from .layouts import Layout


@dataclass
class SkewSettings:
    """The arguments of one `set_skew_attention` call. They never change afterwards.

    It is not frozen, because PyTorch 2.8 makes a graph anew where any field of a frozen dataclass or of a tuple has
    another value, even one that the graph does not read.

    Attributes:
        in_graphs: γ and β for compiled graphs, by `numbers_in_graphs`; None reads the others there too.
        neutral_bits: whether samples and heads at γ = 1 or β = 0 keep the bits of plain attention. Without tensors
            there are none.
    """

    gamma: FloatOrTensor
    beta: FloatOrTensor
    norm: str = "value"
    adaptive: bool = False
    average_over: str = "sample"
    in_graphs: tuple[FloatOrTensor, FloatOrTensor] | None = None
    neutral_bits: bool = True


def numbers_in_graphs(
    gamma: FloatOrTensor, beta: FloatOrTensor, device: torch.device
) -> tuple[FloatOrTensor, FloatOrTensor]:
    """γ and β as compiled graphs read them: as tensors, because a graph is made anew for every value of a number.

    β = 1 stays a number: the plain retrieval is not needed there, so it is a graph of its own.

    Args:
        device: of the model, or the CPU where its weights are not loaded.
    """
    place = torch.device("cpu") if device.type == "meta" else device
    numbers = [
        each if isinstance(each, Tensor) or is_one else torch.tensor(float(each), dtype=torch.float32, device=place)
        for each, is_one in ((gamma, False), (beta, is_exactly(beta, 1.0)))
    ]
    return numbers[0], numbers[1]


class Interception(TorchFunctionMode):
    """Inside its `with` block the attention calls that fit a layout are skewed. All others stay as they are.

    Args:
        settings: γ, β and the rest.
        layout: the tokens of the calls to skew.
        x: the input of the layer, `(B, L, C)`, for the norms that need it.
        scale: the softmax scale to use in place of the one that the call names.

    Attributes:
        skewed: how many calls were skewed.
    """

    def __init__(self, settings: SkewSettings, layout: Layout, x: Tensor | None, scale: float | None) -> None:
        super().__init__()
        self.settings = settings
        self.layout = layout
        self.x = x
        self.scale = scale
        self.skewed = 0

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = {} if kwargs is None else kwargs
        if func is F.scaled_dot_product_attention:
            out = self._attention(*args, **kwargs)
            if out is not None:
                self.skewed += 1
                return out
        if func is Tensor.unflatten:  # a method in Python, which PyTorch 2.8 cannot compile from here
            return torch.unflatten(*args, **kwargs)
        return func(*args, **kwargs)

    def _attention(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attn_mask: Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        scale: float | None = None,
        enable_gqa: bool = False,
    ) -> Tensor | None:
        """The skewed attention; None for a call that does not fit the layout."""
        fits = query.dim() == 4 and (query.shape[2], key.shape[2]) == (self.layout.queries, self.layout.keys)
        if not fits or is_causal or dropout_p > 0:
            return None
        if enable_gqa and key.shape[1] != query.shape[1]:
            key, value = (each.repeat_interleave(query.shape[1] // each.shape[1], dim=1) for each in (key, value))
        scale = scale if self.scale is None else self.scale
        return skewed_call(query, key, value, attn_mask, scale, self.layout, self.settings, self.x)


def skewed_call(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Tensor | None,
    scale: float | None,
    layout: Layout,
    settings: SkewSettings,
    x: Tensor | None = None,
) -> Tensor:
    """Skew attention of one call.

    Args:
        q: `(B, H, M, d)`.
        k, v: `(B, H, L, d)` and `(B, H, L, dv)`, with L ≥ M.
        mask: bool or additive, broadcasts to `(B, H, M, L)`.
        scale: the softmax scale; None is 1/√d.
        layout: which tokens there are.
        settings: γ, β and the rest.
        x: `(B, M, C)` or more samples, of which the first B belong to q; needed by the norms "projected" and "input".

    Returns:
        `(B, H, M, dv)`.
    """
    added = layout.keys - layout.queries
    image = slice(added + layout.start, added + layout.stop)
    in_graphs = settings.in_graphs if torch.compiler.is_compiling() else None
    gamma, beta = (settings.gamma, settings.beta) if in_graphs is None else in_graphs
    if settings.adaptive:
        eta = symmetricity(q[:, :, layout.start : layout.stop], k[:, :, image])
        gamma, beta = adapt(gamma, beta, average(eta, settings.average_over))
    options: dict[str, Any] = {"norm": settings.norm, "scale": scale, "mask": mask, "attend": _attend()}
    options["neutral_bits"] = settings.neutral_bits
    if layout.is_square:
        return skew_attention(q, k, v, gamma, beta, x=None if x is None else x[: q.shape[0]], **options)
    return modal_skew_attention(q, k, v, gamma, beta, inner=image, **options)


def _attend() -> Attend | None:
    """The inner attention: PyTorch's function itself where others intercept it too, so that they see the call."""
    if torch.compiler.is_compiling() or torch._C._len_torch_function_stack() == 0:
        return None
    return pytorch_attend
