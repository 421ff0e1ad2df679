"""The model classes of diffusers that γ can act in, and the layers in which it does.

The class and the place of a layer decide, never a shape. A class that is in neither table is not supported.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

from torch import nn

from .layouts import (
    ReadLength,
    Rule,
    after_added_keys,
    after_sensed,
    every_token,
    image_first,
    image_last,
    length_of_images,
    length_of_input,
    length_of_text,
    length_of_x,
    sensed_first,
    without_text,
)


class Layer(NamedTuple):
    """An attention layer that γ can act in.

    Attributes:
        name: its name in the model, `transformer_blocks.0.attn1`.
        attention: the module.
        rule: where the image tokens of a call are.
        sensed: the module whose arguments say it, for rules that need one.
        read: how they say it.
    """

    name: str
    attention: Any
    rule: Rule
    sensed: Any = None
    read: ReadLength | None = None


@dataclass(frozen=True)
class Family:
    """Model classes whose layers are alike.

    Attributes:
        layers: finds the layers of a model.
        processors: the classes of diffusers' processors whose attention is known.
        shows_input: whether the input of a layer is what its queries, keys and values are made of, as the norms
            "projected" and "input" need.
    """

    layers: Callable[[nn.Module], Iterator[Layer]]
    processors: tuple[str, ...]
    shows_input: bool = True


def named(
    pattern: str,
    rule: Rule,
    sensed: Callable[[nn.Module, str], Any] | None = None,
    read: ReadLength | None = None,
) -> Any:
    """Return a finder of all modules whose whole name fits `pattern`."""

    def layers(model: nn.Module) -> Iterator[Layer]:
        for name, module in model.named_modules():
            if re.fullmatch(pattern, name):
                yield Layer(name, module, rule, None if sensed is None else sensed(model, name), read)

    return layers


def unet_layers(model: nn.Module) -> Iterator[Layer]:
    """The self-attention of a UNet.

    It is attn1, attn2 of layers that may get no text, attention with added keys, that of blocks without text
    (AttnDownBlock2D), and that of GLIGEN, where the image comes first and grounding tokens after it.
    """
    for name, module in model.named_modules():
        last = name.rpartition(".")[2]
        if last == "attn1" or (last == "attn2" and module.to_k.in_features == module.to_q.in_features):
            yield Layer(name, module, without_text)
        elif name.endswith(".fuser.attn"):
            yield Layer(name, module, sensed_first, parent(model, name), length_of_x)
        elif getattr(module, "added_kv_proj_dim", None) is not None:
            if not module.only_cross_attention:
                yield Layer(name, module, after_added_keys)
        elif re.search(r"\.attentions\.\d+$", name) and type(module).__name__ == "Attention":
            yield Layer(name, module, without_text)


def each(*finders: Any) -> Any:
    """Return a finder of the layers of several finders."""

    def layers(model: nn.Module) -> Iterator[Layer]:
        for finder in finders:
            yield from finder(model)

    return layers


def parent(model: nn.Module, name: str) -> Any:
    """The module that a layer is a part of."""
    return model.get_submodule(name.rpartition(".")[0])


PLAIN = (
    "AttnProcessor",
    "AttnProcessor2_0",
    "FusedAttnProcessor2_0",
    "SlicedAttnProcessor",
    "XFormersAttnProcessor",
    "PAGIdentitySelfAttnProcessor2_0",
    "PAGCFGIdentitySelfAttnProcessor2_0",
)
ADDED_KEYS = (
    "AttnAddedKVProcessor",
    "AttnAddedKVProcessor2_0",
    "SlicedAttnAddedKVProcessor",
    "XFormersAttnAddedKVProcessor",
)
SD3 = (
    "JointAttnProcessor2_0",
    "FusedJointAttnProcessor2_0",
    "PAGJointAttnProcessor2_0",
    "PAGCFGJointAttnProcessor2_0",
    "SD3IPAdapterJointAttnProcessor2_0",
)
HUNYUAN = (
    "HunyuanAttnProcessor2_0",
    "FusedHunyuanAttnProcessor2_0",
    "PAGHunyuanAttnProcessor2_0",
    "PAGCFGHunyuanAttnProcessor2_0",
)

# Processors that do not call PyTorch's attention, and the one that computes the same with it.
SAME_WITH_PYTORCH = {
    "AttnProcessor": "AttnProcessor2_0",
    "SlicedAttnProcessor": "AttnProcessor2_0",
    "XFormersAttnProcessor": "AttnProcessor2_0",
    "AttnAddedKVProcessor": "AttnAddedKVProcessor2_0",
    "SlicedAttnAddedKVProcessor": "AttnAddedKVProcessor2_0",
    "XFormersAttnAddedKVProcessor": "AttnAddedKVProcessor2_0",
}

UNET = Family(unet_layers, PLAIN + ADDED_KEYS)
PIXART = Family(named(r"transformer_blocks\.\d+\.attn1", every_token), PLAIN)
FLUX = Family(
    each(
        named(r"transformer_blocks\.\d+\.attn", image_last),
        named(r"single_transformer_blocks\.\d+\.attn", after_sensed, parent, length_of_text),
    ),
    ("FluxAttnProcessor", "FluxIPAdapterAttnProcessor"),
    shows_input=False,
)
Z_IMAGE = Family(
    named(r"(noise_refiner|layers)\.\d+\.attention", sensed_first, lambda model, name: model, length_of_images),
    ("ZSingleStreamAttnProcessor",),
    shows_input=False,
)
STABLE_AUDIO = Family(
    named(
        r"transformer_blocks\.\d+\.attn1",
        after_sensed,
        lambda model, name: model.get_submodule("global_proj"),
        length_of_input,
    ),
    ("StableAudioAttnProcessor2_0",),
    shows_input=False,
)

FAMILIES = {
    "UNet2DConditionModel": UNET,
    "UNetMotionModel": UNET,
    "UNet3DConditionModel": UNET,
    "UNetSpatioTemporalConditionModel": UNET,
    "AudioLDM2UNet2DConditionModel": UNET,
    "PixArtTransformer2DModel": PIXART,
    "HunyuanDiT2DModel": Family(named(r"blocks\.\d+\.attn1", every_token), HUNYUAN),
    "LuminaNextDiT2DModel": Family(named(r"layers\.\d+\.attn1", every_token), ("LuminaAttnProcessor2_0",)),
    "WanTransformer3DModel": Family(named(r"blocks\.\d+\.attn1", every_token), ("WanAttnProcessor",)),
    "SD3Transformer2DModel": Family(named(r"transformer_blocks\.\d+\.attn2?", image_first), SD3, shows_input=False),
    "FluxTransformer2DModel": FLUX,
    "QwenImageTransformer2DModel": Family(
        named(r"transformer_blocks\.\d+\.attn", image_last), ("QwenDoubleStreamAttnProcessor2_0",), shows_input=False
    ),
    "ZImageTransformer2DModel": Z_IMAGE,
    "StableAudioDiTModel": STABLE_AUDIO,
}

IS_LINEAR = "its self-attention is linear and has no softmax, so there are no logits to split"
REFUSALS = {
    "SanaTransformer2DModel": IS_LINEAR,
    "SanaVideoTransformer3DModel": IS_LINEAR,
    "StableCascadeUNet": "its queries are image tokens but its keys are image and text tokens together",
}


def family_of(model: nn.Module) -> Family:
    """The family of a model of diffusers.

    Raises:
        ValueError: the class is not known, or γ cannot act in it.
    """
    # The nearest class that is diffusers' own: it has subclasses of its classes whose attention is another.
    name = next((each.__name__ for each in type(model).__mro__ if is_of_diffusers(each)), "")
    if name in REFUSALS:
        raise ValueError(f"γ cannot act in {name}, because {REFUSALS[name]}.")
    if name in FAMILIES:
        return FAMILIES[name]
    raise ValueError(
        f"γ cannot act in {name or type(model).__name__}, because its class is not supported. Pass one of these "
        f"classes of diffusers: {', '.join(FAMILIES)}."
    )


def is_of_diffusers(kind: type) -> bool:
    """Return True if a class is defined by diffusers."""
    return kind.__module__.partition(".")[0] == "diffusers"
