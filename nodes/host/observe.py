"""An attention override that changes nothing: it lets a call through and then looks at what came back."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from .backend import AttentionCall, Backend

Look = Callable[[AttentionCall, Tensor], None]


class Observer:
    """The override of a probe for one call of one site.

    It sees the queries and keys of the model and the final result only while every override that changes the result is
    below it; see `innermost`.

    Attributes:
        look: told of the call and of its result, `(B, H, L, d)`.
        previous: the override that does the attention, or None for the host's backend alone.
    """

    def __init__(self, look: Look, previous: Backend | None):
        self.look = look
        self.previous = previous

    def __call__(
        self, function: Backend, q: Tensor, k: Tensor, v: Tensor, heads: int, mask: Tensor | None = None, **keyword: Any
    ) -> Tensor:
        """The host's attention call, passed on as it is; its result goes back as it is."""
        if self.previous is not None:
            out = self.previous(function, q, k, v, heads, mask=mask, **keyword)
        else:
            out = function(q, k, v, heads, mask=mask, **keyword)
        is_split = keyword.get("skip_output_reshape", False)
        self.look(
            AttentionCall.read(q, k, v, heads, None, keyword),
            out if is_split else out.unflatten(-1, (heads, -1)).transpose(1, 2),
        )
        return out

    @property
    def innermost(self) -> Observer:
        """The last of the observers that stand one in another; overrides that act go below it."""
        return self.previous.innermost if isinstance(self.previous, Observer) else self
