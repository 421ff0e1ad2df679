"""Calling the host's own attention with our queries, keys and values (contract: comfy/ldm/modules/attention.py)."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any, NamedTuple, cast

import comfy.ldm.modules.attention
import torch
from comfy.cli_args import args
from comfy.ldm.modules.attention import get_attention_function, optimized_attention
from torch import Tensor

from ....sad_core.inner_attention import additive_mask, pytorch_attend, softmax_scale
from ..memory import is_out_of_memory

Backend = Callable[..., Tensor]

# Beyond these head dims a backend gives up inside, some with an error in the log for every call.
LARGEST_HEAD_DIM = {"attention_sage": 128, "attention3_sage": 255, "attention_flash": 256}
# Those that compute softmax(q kᵀ) v in the precision of q; a quantised one and one of another pack are not among them.
EXACT = {"attention_basic", "attention_split", "attention_sub_quad", "attention_pytorch"}
LAYOUT_FLAGS = ("skip_reshape", "skip_output_reshape", "scale", "enable_gqa")
INSTEAD = "PyTorch attention takes over for the rest of the run"
REFUSALS = (RuntimeError, ValueError, NotImplementedError, AssertionError)


@dataclass
class AttentionCall:
    """One call of the host's attention, taken apart.

    Attributes:
        q, k, v: `(B, H, L, d)`, grouped keys and values already repeated; of q fewer or more tokens in some calls.
        mask: additive, broadcasting to the logits of q and k, or None.
        scale: the softmax scale of the call.
    """

    q: Tensor
    k: Tensor
    v: Tensor
    heads: int
    mask: Tensor | None
    scale: float
    keyword: Mapping[str, Any] = field(repr=False)

    @classmethod
    def read(
        cls, q: Tensor, k: Tensor, v: Tensor, heads: int, mask: Tensor | None, keyword: Mapping[str, Any]
    ) -> AttentionCall:
        """Take the arguments of an attention call apart, in any of the host's layouts.

        With `skip_reshape` q, k and v are `(B, H, L, d)`; without they are `(B, L, H·d)`, and SD3 then hands over v
        as `(B, L, H, d)`.
        """
        if not keyword.get("skip_reshape", False):
            head_dim = q.shape[-1] // heads
            q = q.reshape(q.shape[0], q.shape[1], -1, head_dim).transpose(1, 2)
            k = k.reshape(k.shape[0], k.shape[1], -1, head_dim).transpose(1, 2)
            v = v.reshape(v.shape[0], v.shape[1], -1, head_dim).transpose(1, 2)
        if k.shape[1] != heads:
            k, v = [x.repeat_interleave(heads // x.shape[1], dim=1) for x in (k, v)]
        if mask is not None:
            mask = cast(Tensor, additive_mask(mask, q.dtype))
            mask = mask[None, None] if mask.dim() == 2 else mask[:, None] if mask.dim() == 3 else mask
        return cls(q, k, v, heads, mask, softmax_scale(q.shape[-1], keyword.get("scale")), keyword)

    def rows(self, start: int, stop: int) -> AttentionCall:
        """Return the call for only the samples `start … stop`."""
        q, k, v = self.q[start:stop], self.k[start:stop], self.v[start:stop]
        mask = self.mask if self.mask is None or self.mask.shape[0] == 1 else self.mask[start:stop]
        return AttentionCall(q, k, v, self.heads, mask, self.scale, self.keyword)

    def write(self, out: Tensor) -> Tensor:
        """`out` of `(B, H, L, d)` in the layout the caller asked for."""
        if self.keyword.get("skip_output_reshape", False):
            return out
        return out.transpose(1, 2).flatten(2)


def may_be_last_queries(q: Tensor, k: Tensor) -> bool:
    """Return whether q may belong to the last tokens of k: fewer tokens, same samples, heads and channels."""
    return q.shape[:2] == k.shape[:2] and q.shape[2] < k.shape[2] and q.shape[3] == k.shape[3]


class BackendChoice(NamedTuple):
    """The inner attention of all calls with the same backend and head dim.

    Attributes:
        function: the backend of the host that was called.
        is_exact: whether it computes softmax(q kᵀ) v in the precision of q, so that another exact way may replace it.
        backend: what computes the retrievals, which is another one where `function` takes no such head dim.
        name: of `backend`.
        uses_scale: whether `backend` uses the keyword `scale=`.
    """

    function: Backend
    is_exact: bool
    backend: Backend
    name: str
    uses_scale: bool


class HostAttention:
    """`attend(q, k, v, mask, scale)` for sad_core, computed by the host's backend or by another pack's override.

    The softmax scale is folded into q, except for a backend that uses `scale=`: older hosts and several backends ignore
    it. A backend that does not support a head dim is not called again. PyTorch's own attention runs, and `on_fallback`
    is called once.
    """

    def __init__(self, on_fallback: Callable[[str], None]):
        self.using_scale = backends_using_scale()
        self.refused: set[tuple[str, int]] = set()
        self.choices: dict[int, BackendChoice] = {}  # the latest one of every head dim
        self.on_fallback = on_fallback

    def forget_refusals(self) -> None:
        """Ask every backend again, as at the start of a run."""
        self.refused.clear()
        self.choices.clear()

    def unlogged(self) -> HostAttention:
        """Return the same attention, with the head dims that it does not support. Its fallbacks are not reported."""
        result = HostAttention(lambda _: None)
        result.refused.update(self.refused)
        return result

    def choose(self, function: Backend, doubled: int, compiling: bool) -> BackendChoice:
        """Return what computes the retrievals of calls to `function` with queries of head dim `doubled` at most.

        A graph that is compiled chooses for itself, because what it read here would be one of its conditions.
        """
        known = None if compiling else self.choices.get(doubled)
        if known is not None and known.function is function:
            return known
        backend, name = function, name_of(function)
        if doubled > LARGEST_HEAD_DIM.get(name, doubled):
            backend = self.pytorch_instead_of(name, doubled)
        uses_scale = False
        for each in self.using_scale:
            uses_scale = uses_scale or backend is each
        choice = BackendChoice(function, name in EXACT, backend, name_of(backend), uses_scale)
        if not compiling:
            self.choices[doubled] = choice
        return choice

    def bind(
        self, choice: BackendChoice, previous: Backend | None, call: AttentionCall, used: set[str]
    ) -> Callable[..., Tensor]:
        """Return the inner attention for one call; `previous` is another pack's override.

        Every retrieval of the call goes to the same backend, the doubled head dim included, because their difference
        is what β enlarges. The names of what did the work are added to `used`.
        """
        backend = choice.backend
        key = (choice.name if previous is None else name_of(previous), 2 * call.q.shape[-1])
        uses_scale = previous is None and choice.uses_scale
        keyword = dict(call.keyword)
        for flag in LAYOUT_FLAGS:
            keyword.pop(flag, None)

        def instead(*arguments: Any) -> Tensor:
            used.add("PyTorch")
            return pytorch_attend(*arguments)

        def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, scale: float) -> Tensor:
            head_dim = q.shape[-1]
            if key in self.refused:
                return instead(q, k, v, mask, scale)
            factor = scale * math.sqrt(head_dim)
            options: dict[str, Any] = {"mask": mask, "skip_reshape": True, **keyword}
            if math.isclose(factor, 1.0, rel_tol=1e-12):
                scaled = q
            elif uses_scale:
                scaled, options["scale"] = q, scale
            else:
                scaled = q * factor
            arguments = (scaled, k, v, call.heads)
            try:
                if previous is not None:
                    out = previous(backend, *arguments, **options)
                else:
                    out = backend(*arguments, skip_output_reshape=True, **options)
            except REFUSALS as reason:
                if is_out_of_memory(reason):
                    raise
                self.refused.add(key)
                self.on_fallback(f"{key[0]} does not support head dim {head_dim} ({reason}), so {INSTEAD}")
                return instead(q, k, v, mask, scale)
            used.add(key[0])
            if out.dim() == 3:  # another pack's, or a backend that has no such layout for this call
                out = out.reshape(out.shape[0], out.shape[1], call.heads, -1).transpose(1, 2)
            by_heads: Tensor = out
            return by_heads

        return attend

    def pytorch_instead_of(self, name: str, head_dim: int) -> Backend:
        """The host's PyTorch attention, for a head dim beyond what the backend called `name` can take."""
        if (name, head_dim) not in self.refused:
            self.refused.add((name, head_dim))
            self.on_fallback(f"{name} does not support head dim {head_dim}, so {INSTEAD}")
        pytorch: Backend = get_attention_function("pytorch")
        return pytorch


@cache
def backends_using_scale() -> tuple[Backend, ...]:
    """The host's exact attentions that use the keyword `scale=`, found by trying it, with and without their wrapper."""
    q = torch.tensor([1.0, -1.0]).reshape(1, 1, 2, 1)
    found = []
    for name in sorted(EXACT):
        function = getattr(comfy.ldm.modules.attention, name, None)
        if function is not None and _uses_scale(function, q):
            found += [function, inspect.unwrap(function)]
    return tuple(found)


def _uses_scale(function: Backend, q: Tensor) -> bool:
    """Return whether `function` computes softmax(2·q kᵀ) v for `scale=2`, k = v = q. The default is 1 at head dim 1."""
    try:
        out = function(q, q, q, 1, skip_reshape=True, skip_output_reshape=True, scale=2.0)
    except REFUSALS:
        return False
    return torch.allclose(out, pytorch_attend(q, q, q, None, 2.0))


def name_of(function: Backend) -> str:
    """A name for messages, such as `attention_pytorch`."""
    return getattr(function, "__name__", type(function).__name__)


def allows_triton() -> bool:
    """Return whether the user allows Triton kernels. ComfyUI's --disable-triton-backend forbids them."""
    return not getattr(args, "disable_triton_backend", False)  # older hosts know no such argument


def compiles_whole() -> bool:
    """Return whether the host's attention compiles into one graph. Only its PyTorch backend does."""
    return name_of(optimized_attention) == "attention_pytorch"
