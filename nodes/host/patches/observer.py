"""An attention override that changes nothing: it lets a call through and then looks at what came back."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from ..shared import Shared
from .attention_backend import AttentionCall, Backend


@dataclass(frozen=True)
class ObservedCall:
    """One attention call and its result.

    Attributes:
        q, k, v, out: `(B, H, L, d)`: queries, keys and values as the model gave them, and what came back.
        function: the host's backend.
        previous: the override that did the attention, or None.
    """

    q: Tensor
    k: Tensor
    v: Tensor
    out: Tensor
    function: Backend
    previous: Backend | None
    mask: Tensor | None = field(repr=False)
    keyword: Mapping[str, Any] = field(repr=False)

    def retrieve(self, override: Backend | None, values: Tensor) -> Tensor:
        """Return the result of `override` or of the backend for the same q and k and other `(B, H, L, d)` values."""
        layout = {"skip_reshape": True, "skip_output_reshape": False}
        keyword = {name: value for name, value in self.keyword.items() if name not in (*layout, "enable_gqa")} | layout
        first = (self.function,) if override is not None else ()
        attention = override or self.function
        heads = self.q.shape[1]
        out: Tensor = attention(*first, self.q, self.k, values, heads, mask=self.mask, **keyword)
        by_heads: Tensor = out.unflatten(-1, (heads, -1)).transpose(1, 2)
        return by_heads


class Observer(Shared):
    """The override of a probe for one call of one site.

    It sees the queries and keys of the model and the final result only while every override that changes the result is
    below it; see `innermost`.

    Attributes:
        look: is called with the call after it is done.
        failed: is called with an error of `look`, which must not cost the image.
        previous: the override that does the attention, or None for only the host's backend.
    """

    def __init__(
        self,
        look: Callable[[ObservedCall], None],
        failed: Callable[[Exception], None],
        previous: Backend | None,
    ):
        self.look = look
        self.failed = failed
        self.previous = previous

    def __call__(
        self, function: Backend, q: Tensor, k: Tensor, v: Tensor, heads: int, mask: Tensor | None = None, **keyword: Any
    ) -> Tensor:
        """The host's attention call, passed on as it is; its result goes back as it is."""
        if self.previous is not None:
            out = self.previous(function, q, k, v, heads, mask=mask, **keyword)
        else:
            out = function(q, k, v, heads, mask=mask, **keyword)
        try:
            self.look(self._observed(function, q, k, v, heads, mask, keyword, out))
        except Exception as error:
            self.failed(error)
        return out

    def _observed(
        self,
        function: Backend,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        heads: int,
        mask: Tensor | None,
        keyword: Mapping[str, Any],
        out: Tensor,
    ) -> ObservedCall:
        call = AttentionCall.read(q, k, v, heads, None, keyword)
        by_heads = out if keyword.get("skip_output_reshape", False) else out.unflatten(-1, (heads, -1)).transpose(1, 2)
        return ObservedCall(call.q, call.k, call.v, by_heads, function, self._acting, mask, keyword)

    @property
    def innermost(self) -> Observer:
        """The innermost of nested observers. Overrides that act go below it."""
        return self.previous.innermost if isinstance(self.previous, Observer) else self

    @property
    def _acting(self) -> Backend | None:
        return self.innermost.previous
