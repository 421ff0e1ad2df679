"""One attention layer of a diffusers model with γ in it.

The method `forward` of a `SkewSite` replaces that of a layer and calls the layer's own. The processor of the
layer stays where it is, so whatever diffusers does to processors (fused projections, slices, IP-Adapters, PAG,
resetting them) goes on as before, and γ acts in whichever is there. A site holds its layer and no function, so it is
copied and saved with the layer, and the copy acts on the copy's weights.

It is a method and no object that can be called, because a compiled block is made anew for every other object there. Of
methods only the code has to be the same, so the graph of one block serves all that are alike.
"""

from __future__ import annotations

import sys
from typing import Any

from torch import Tensor, nn

from .families import SAME_WITH_PYTORCH, Family, Layer, is_of_diffusers
from .interception import Interception, SkewSettings
from .layouts import LayerCall, LengthSensor


class SkewSite:
    """γ in an attention layer.

    Attributes:
        attention: the layer.
        settings: γ, β and the rest; None leaves the layer as it is.
        sensor: of a module before the layer, if the rule of the layer needs one.
    """

    def __init__(self, layer: Layer, family: Family) -> None:
        self.name = layer.name
        self.attention = layer.attention
        self.rule = layer.rule
        self.processors = family.processors
        self.sensor: LengthSensor | None = None
        self.settings: SkewSettings | None = None
        # What another package put there before. Where there is nothing, the function of the class and not a bound
        # method: a copy by name would look up `forward`, and find this site.
        self.inner = layer.attention.__dict__.get("forward")
        self.own = type(layer.attention).forward

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Return what the layer returns, with γ in its self-attention."""
        settings = self.settings
        if settings is None:
            return self._plain(*args, **kwargs)
        layout = self.rule(LayerCall(self.attention, args, kwargs, self.sensor))
        if layout is None:
            return self._plain(*args, **kwargs)
        processor = self.attention.processor
        if not is_known(processor, self.processors):
            raise unknown(self.name, processor, self.processors)
        x = None if settings.norm in ("value", "none") else self._input(args, kwargs)
        equal = SAME_WITH_PYTORCH.get(type(processor).__name__)
        interception = Interception(settings, layout, x, None if equal is None else self.attention.scale)
        with interception:  # without "as", which is None in a compiled graph
            if equal is None or self.inner is not None:
                out = self._plain(*args, **kwargs)
            else:
                out = getattr(sys.modules[type(processor).__module__], equal)()(self.attention, *args, **kwargs)
        may_be_left_out = self.inner is not None and equal is None  # by another package's hook, as a cache of steps
        if interception.skewed == 0 and not may_be_left_out:
            raise RuntimeError(
                f"γ cannot act in {self.name}, because {type(processor).__name__} did not call PyTorch's attention "
                'there. Call set_attention_backend("native") on the model, or remove γ with '
                "set_skew_attention(model, gamma=1.0)."
            )
        return out

    def _plain(self, *args: Any, **kwargs: Any) -> Any:
        """Return the output of the layer without γ."""
        return self.own(self.attention, *args, **kwargs) if self.inner is None else self.inner(*args, **kwargs)

    def _input(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
        """The tokens that queries and keys are made of, `(B, L, C)`.

        Raises:
            ValueError: the layer has a norm of its own, so its input is not what they are made of.
        """
        hidden_states = LayerCall(self.attention, args, kwargs).hidden_states
        own_norms = (getattr(self.attention, name, None) for name in ("spatial_norm", "group_norm"))
        if hidden_states.dim() != 3 or any(norm is not None for norm in own_norms):
            raise ValueError(
                f'norm: {self.name} already contains a normalisation layer, so norm must be "value" or "none".'
            )
        return hidden_states


def is_known(processor: Any, known: tuple[str, ...]) -> bool:
    """Return True if a processor is of a class of diffusers whose attention is known."""
    kind = type(processor)
    return kind.__name__ in known and is_of_diffusers(kind)


def unknown(name: str, processor: Any, known: tuple[str, ...]) -> ValueError:
    """The error for a processor whose attention is not known, which names it and those that are known.

    Args:
        name: of the layer. A graph that reads it is of one layer only, so it is asked for where there is an error.
        processor: of the layer.
        known: the processors that are known.
    """
    return ValueError(
        f"γ cannot act in {name}, because its processor {type(processor).__name__} is not supported. Set one of these "
        f"processors of diffusers: {', '.join(known)}. Or remove γ with set_skew_attention(model, gamma=1.0)."
    )


def own_site(forward: Any) -> SkewSite | None:
    """The site whose method a `forward` is; None where it is another function."""
    site = getattr(forward, "__self__", None)
    return site if isinstance(site, SkewSite) else None


def site_of(attention: nn.Module) -> SkewSite | None:
    """The site that replaces a layer's `forward`, or is below what other packages put around it."""
    forward = attention.__dict__.get("forward")
    while forward is not None and own_site(forward) is None:
        forward = getattr(forward, "__wrapped__", None)
    return own_site(forward)
