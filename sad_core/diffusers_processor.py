"""Skew attention for diffusers models, without ComfyUI and without importing diffusers here.

    from sad_core import set_skew_attention
    set_skew_attention(pipeline.unet, gamma=1.05, beta=3.0)
    image = pipeline(prompt).images[0]

`set_skew_attention(unet, gamma=1.0)` gives the plain model back, bit for bit. `sad_core/diffusers` has the parts.
"""

from __future__ import annotations

import warnings
from typing import Any

from torch import Tensor

from .diffusers.families import Family, Layer, family_of
from .diffusers.interception import SkewSettings, numbers_in_graphs
from .diffusers.layouts import LengthSensor, ReadLength, without_text
from .diffusers.site import SkewSite, is_known, own_site, site_of, unknown
from .joint_attention import JOINT_NORMS
from .norm_guard import NORMS
from .parameters import FloatOrTensor, check_choice, is_exactly
from .symmetricity import AVERAGES

KEPT_SITE = "_skew_attention_site"
KEPT_SENSOR = "_skew_attention_sensor"


def set_skew_attention(
    model: Any,
    gamma: FloatOrTensor = 1.05,
    beta: FloatOrTensor = 3.0,
    *,
    norm: str = "value",
    adaptive: bool = False,
    average_over: str = "sample",
    layers: str = "",
) -> list[str]:
    """Put γ and β on every self-attention of a diffusers model; calling it again replaces the settings.

    γ stays when the model's processors are replaced (fused projections, slices, IP-Adapters, PAG), and it is copied and
    saved whole with the model. A compiled model is not compiled again for another γ or β, but once more for β = 1.
    Blocks that are compiled by themselves share their graphs as they do without γ. Call it after the model is on its
    device: compiled graphs read γ and β from where the model was.

    Args:
        model: a model of diffusers, such as `pipeline.unet` or `pipeline.transformer`; `sad_core/diffusers/families.py`
            lists the classes.
        gamma, beta, norm: as for `skew_attention`. "input" and "projected" work where a layer sees no text and has no
            norm of its own.
        adaptive: weigh γ and β by the symmetricity of each call, the paper's rule.
        average_over: "sample", "head" or "batch", see `symmetricity.average`; "batch" is the authors' own.
        layers: how the names of the wanted layers begin, such as "down_blocks", "mid_block" or "up_blocks.1"; all
            others become plain. By default every layer is wanted.

    Returns:
        Names of the attention layers that were set, as in `model.attn_processors`.

    Raises:
        ValueError: a class or a processor that is not known or that γ cannot act in; no layer whose name begins with
            `layers`; an unknown norm or average; a norm that the layers cannot have.
    """
    check_choice("norm", norm, NORMS)
    check_choice("average_over", average_over, AVERAGES)
    model = getattr(model, "_orig_mod", model)  # what torch.compile wraps
    family = family_of(model)
    found = list(family.layers(model))
    if not found:
        raise ValueError(f"{type(model).__name__} has no self-attention layer, so there is nothing to set.")
    begins = f"{layers.rstrip('.')}."
    chosen = [layer for layer in found if not layers or f"{layer.name}.processor.".startswith(begins)]
    if not chosen:
        parts = ", ".join(dict.fromkeys(layer.name.partition(".")[0] for layer in found))
        raise ValueError(
            f'layers: no self-attention layer has a name that begins with "{layers}". The names begin with {parts}.'
        )
    if is_exactly(gamma, 1.0) or is_exactly(beta, 0.0):
        _clear(found)
    else:
        _check(chosen, family, norm)
        _clear(found)
        in_graphs = numbers_in_graphs(gamma, beta, next(model.parameters()).device)
        neutral_bits = not adaptive and any(isinstance(each, Tensor) for each in (gamma, beta))
        _put(chosen, family, SkewSettings(gamma, beta, norm, adaptive, average_over, in_graphs, neutral_bits))
    return [f"{layer.name}.processor" for layer in chosen]


def _check(layers: list[Layer], family: Family, norm: str) -> None:
    """Refuse what would fail in the first call.

    Raises:
        ValueError: a processor that is not known, or a norm that these layers cannot have.
    """
    if norm not in JOINT_NORMS and not family.shows_input:
        raise ValueError(
            f'norm is "{norm}", but in this model it must be one of {", ".join(JOINT_NORMS)}, '
            "because the input of its attention is not the tokens of one image."
        )
    for layer in layers:
        is_sometimes_cross = layer.rule is without_text and layer.name.endswith("attn2")
        processor = layer.attention.processor
        if not is_sometimes_cross and not is_known(processor, family.processors):
            raise unknown(layer.name, processor, family.processors)


def _clear(layers: list[Layer]) -> None:
    """Take γ from layers: the site goes, or stays without effect where another package put something around it.

    It is kept for the next γ.
    """
    for layer in layers:
        attention = layer.attention
        for site in (attention.__dict__.get(KEPT_SITE), site_of(attention)):
            if site is not None:
                site.settings = None
        site = own_site(attention.__dict__.get("forward"))
        if site is not None:
            del attention.__dict__["forward"]
            if site.inner is not None:
                attention.forward = site.inner
        if layer.sensed is not None:
            for key, hook in list(layer.sensed._forward_pre_hooks.items()):
                if isinstance(hook, LengthSensor):
                    del layer.sensed._forward_pre_hooks[key]
                    layer.sensed._forward_pre_hooks_with_kwargs.pop(key, None)


def _put(layers: list[Layer], family: Family, settings: SkewSettings) -> None:
    """Put γ on layers that have none; a site that another package put something around is used again."""
    sensors: dict[int, LengthSensor] = {}
    wrapped = []
    for layer in layers:
        sensor = None
        if layer.sensed is not None and layer.read is not None:
            sensor = sensors.get(id(layer.sensed))
            if sensor is None:
                sensor = sensors[id(layer.sensed)] = _sensor_of(layer.sensed, layer.read)
        attention = layer.attention
        site = site_of(attention)
        if site is None:
            # The site of before, if it can be: a compiled graph is of one site, whatever its settings.
            site, forward = attention.__dict__.get(KEPT_SITE), attention.__dict__.get("forward")
            if site is None or site.attention is not attention or site.inner is not forward:
                site = SkewSite(layer, family)
            attention.forward = site.forward
        site.settings, site.sensor = settings, sensor
        attention.__dict__[KEPT_SITE] = site
        if site.inner is not None:
            wrapped.append(layer.name)
    if wrapped:
        warnings.warn(
            f"Another package has replaced the forward of {len(wrapped)} attention layers ({wrapped[0]} is the "
            "first). When that package restores them, they lose γ. Call set_skew_attention again afterwards.",
            stacklevel=3,
        )


def _sensor_of(module: Any, read: ReadLength) -> LengthSensor:
    """Put a sensor on a module: that of before under the key of before, because a compiled graph is of one key."""
    sensor: LengthSensor | None = module.__dict__.get(KEPT_SENSOR)
    hooks = module._forward_pre_hooks
    if sensor is None or sensor.read is not read or sensor.key is None or sensor.key in hooks:
        sensor = module.__dict__[KEPT_SENSOR] = LengthSensor(read)
        sensor.key = module.register_forward_pre_hook(sensor, with_kwargs=True).id
        return sensor
    sensor.forget()
    hooks[sensor.key] = sensor
    module._forward_pre_hooks_with_kwargs[sensor.key] = True
    return sensor
