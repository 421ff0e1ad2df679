"""A stand-in for SenseNova, in which text and image have projections of their own, as ComfyUI's code was read.

It has the class names, the arguments and the attention calls of the real one, and none of its code.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from comfy.ldm.common_dit import rms_norm
from comfy.ldm.modules.attention import optimized_attention
from comfy.model_patcher import ModelPatcher
from torch import Tensor, nn

from lab.testing.families.stand_ins import in_sd15

HEADS, KEY_HEADS, WIDTH = 2, 1, 64
Kept = list[tuple[Tensor, Tensor]]


def seen_as_forward(method: Callable[..., Any]) -> Callable[..., Any]:
    """Have the hooks on a module's `forward` run around another of its methods, so that tests can watch it."""

    @functools.wraps(method)
    def watched(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        for before in list(self._forward_pre_hooks.values()):
            before(self, args)
        result = None
        try:
            result = method(self, *args, **kwargs)
        finally:
            for after in list(self._forward_hooks.values()):
                after(self, args, result)
        return result

    return watched


class Attention(nn.Module):
    """Attention of text by one method, of the image by another, and no `forward`; the options come by place."""

    def __init__(self) -> None:
        super().__init__()
        shared = WIDTH * KEY_HEADS // HEADS
        for name, width in (("q_proj", WIDTH), ("k_proj", shared), ("v_proj", shared), ("o_proj", WIDTH)):
            for of in ("", "_mot_gen"):
                self.add_module(name + of, nn.Linear(WIDTH, width, bias=False))

    def _project(self, x: Tensor, of: str) -> list[Tensor]:
        projections = (self.get_submodule(f"{name}_proj{of}") for name in "qkv")
        return [each(x).unflatten(2, (-1, WIDTH // HEADS)).transpose(1, 2) for each in projections]

    @seen_as_forward
    def forward_prefix(
        self, hidden_states: Tensor, rope: None, attention_mask: Tensor, transformer_options: dict[str, Any]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """`(B, N, C)` text; gives its keys and values too."""
        q, k, v = self._project(hidden_states, "")
        named = {"skip_reshape": True, "transformer_options": transformer_options, "enable_gqa": True}
        attended = optimized_attention(q, k, v, HEADS, mask=attention_mask, **named)
        return self.get_submodule("o_proj")(attended), k, v

    @seen_as_forward
    def forward_generation(
        self,
        hidden_states: Tensor,
        rope: None,
        prefix_key: Tensor,
        prefix_value: Tensor,
        transformer_options: dict[str, Any],
    ) -> Tensor:
        """`(B, N, C)` image tokens, with the keys and values of all before them."""
        q, k, v = self._project(hidden_states, "_mot_gen")
        k, v = torch.cat([prefix_key, k], dim=2), torch.cat([prefix_value, v], dim=2)
        named = {"skip_reshape": True, "transformer_options": transformer_options, "enable_gqa": True}
        result: Tensor = self.get_submodule("o_proj_mot_gen")(optimized_attention(q, k, v, HEADS, mask=None, **named))
        return result


class DecoderLayer(nn.Module):
    """Only the attention, of text and of the image."""

    def __init__(self) -> None:
        super().__init__()
        self.self_attn = Attention()

    def forward_prefix(self, prefix: Tensor, mask: Tensor, options: dict[str, Any]) -> tuple[Tensor, Tensor, Tensor]:
        """`(B, N, C)` text."""
        attended, key, value = self.self_attn.forward_prefix(rms_norm(prefix), None, mask, options)
        return prefix + attended, key, value

    def forward_generation(self, image: Tensor, key: Tensor, value: Tensor, options: dict[str, Any]) -> Tensor:
        """`(B, N, C)` image tokens."""
        result: Tensor = image + self.self_attn.forward_generation(rms_norm(image), None, key, value, options)
        return result


class SenseNovaU15(nn.Module):
    """Text that looks back, and an image that looks at itself and at all of the text.

    With `keeps_keys` the keys and values of the text are kept from call to call.
    """

    def __init__(self, dtype: torch.dtype, channels: int, text: int) -> None:
        super().__init__()
        self.dtype, self.keeps_keys = dtype, False
        self.kept: list[tuple[Tensor, Kept]] = []
        self.image_in, self.text_in = nn.Linear(channels, WIDTH), nn.Linear(text, WIDTH)
        self.language_model = nn.Module()
        self.language_model.model = nn.Module()
        self.language_model.model.layers = nn.ModuleList([DecoderLayer() for _ in range(2)])
        self.head = nn.Linear(WIDTH, channels)

    def forward(
        self,
        x: Tensor,
        timesteps: Tensor | None = None,
        context: Tensor | None = None,
        control: Any = None,
        transformer_options: dict[str, Any] = {},  # noqa: B006
        **others: Any,
    ) -> Tensor:
        """A latent `(B, C, h, w)` for a latent."""
        assert context is not None
        image, prefix = self.image_in(x.flatten(2).mT), self.text_in(context)
        mask = torch.full((prefix.shape[1],) * 2, float("-inf"), dtype=prefix.dtype).triu(1)
        kept = next((keys for given, keys in self.kept if given.shape == context.shape and given.equal(context)), None)
        fresh: Kept = []
        layers: Any = self.language_model.get_submodule("model.layers")
        for index, layer in enumerate(layers):
            if kept is None:
                prefix, key, value = layer.forward_prefix(prefix, mask, transformer_options)
                fresh.append((key, value))
            else:
                key, value = kept[index]
            image = layer.forward_generation(image, key, value, transformer_options)
        if kept is None and self.keeps_keys:
            self.kept.append((context, fresh))
        result: Tensor = self.head(rms_norm(image)).mT.reshape(x.shape)
        return result


for stand_in in (Attention, SenseNovaU15):
    stand_in.__module__ = "comfy.ldm.sensenova.model"


def sensenova(dtype: torch.dtype = torch.float32) -> ModelPatcher:
    """A MODEL of it."""
    return in_sd15(SenseNovaU15(dtype, 4, 48), "SenseNova", ("q_proj", "k_proj"), dtype)
