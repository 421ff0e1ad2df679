"""Stand-ins for networks of newer ComfyUI versions than the ones at hand, and for what those do with older networks.

They have the class names, the arguments and the attention calls of the real ones, as their code was described, and none
of that code. `optimized_attention` here is the host's, called by the contract of ComfyUI 0.40.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import comfy.ldm.modules.attention
import comfy.supported_models
import torch
from comfy.ldm.common_dit import rms_norm
from comfy.ldm.flux.layers import EmbedND
from comfy.ldm.kandinsky5 import model as kandinsky5
from comfy.model_patcher import ModelPatcher
from torch import Tensor, nn

from lab.testing.families.building import assert_finite, fill, on_cpu
from lab.testing.families.configs import SD15
from lab.testing.newer_contract import LayerAttention, TensorContainer, by_contract

optimized_attention = by_contract(inspect.unwrap(comfy.ldm.modules.attention.optimized_attention))

HEADS, WIDTH = 2, 64
FIRST_TEXT, REFERENCE = 6, 8  # tokens of the text before a reference image, and of that image
Attend = Callable[..., Tensor]
# What Kandinsky's blocks are made with: widths of tokens, time and hidden layer, channels of a head, and plain layers.
SIZES, PLAIN = (WIDTH, 16, WIDTH, 32), {"operation_settings": {"operations": nn}}


class Attention(nn.Module):
    """Self-attention by a function that the block is given, which knows what looks at what."""

    def __init__(self) -> None:
        super().__init__()
        self.comfy_attention = LayerAttention()
        self.to_q, self.to_k, self.to_v, self.to_out = (nn.Linear(WIDTH, WIDTH, bias=False) for _ in range(4))

    def forward(
        self, x: Tensor, pe: None, attn_fn: Attend, prefix_len: int, transformer_options: dict[str, Any]
    ) -> Tensor:
        """`(B, N, C)` tokens, of which the first `prefix_len` are no image."""
        q, k, v = (project(x).unflatten(2, (HEADS, -1)) for project in (self.to_q, self.to_k, self.to_v))
        result: Tensor = self.to_out(attn_fn(q, k, v, HEADS, preferred_attention=self.comfy_attention))
        return result


class Block(nn.Module):
    """Attention and a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.attn, self.mlp = Attention(), nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor, attn_fn: Attend, prefix_len: int, transformer_options: dict[str, Any]) -> Tensor:
        """`(B, N, C)` tokens."""
        x = x + self.attn(rms_norm(x), None, attn_fn, prefix_len, transformer_options)
        result: Tensor = x + 0.5 * self.mlp(rms_norm(x))
        return result


class QwenImage21Transformer2DModel(nn.Module):
    """[text, reference image, text, image]: text looks back, an image at itself and at all before it.

    With `keeps_keys` the keys and values of all before the image are kept from call to call, and later calls have
    only the image for their tokens.
    """

    def __init__(self, dtype: torch.dtype, channels: int, text: int) -> None:
        super().__init__()
        self.dtype, self.keeps_keys = dtype, False
        self.kept: list[tuple[Tensor, list[tuple[Tensor, Tensor]]]] = []
        self.img_in, self.txt_in = nn.Linear(channels, WIDTH), nn.Linear(text, WIDTH)
        self.transformer_blocks = nn.ModuleList([Block() for _ in range(2)])
        self.proj_out = nn.Linear(WIDTH, channels)

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
        image, before = self.img_in(x.flatten(2).mT), self.txt_in(context)
        prefix = before.shape[1]
        pieces = [
            (0, FIRST_TEXT, True),
            (FIRST_TEXT, FIRST_TEXT + REFERENCE, False),
            (FIRST_TEXT + REFERENCE, prefix, True),
            (prefix, prefix + image.shape[1], False),
        ]
        kept = next((keys for given, keys in self.kept if given.shape == context.shape and given.equal(context)), None)
        if kept is None and not self.keeps_keys:
            attend = by_pieces(pieces, transformer_options)
            tokens = torch.cat([before, image], dim=1)
            for block in self.transformer_blocks:
                tokens = block(tokens, attend, prefix, transformer_options)
            image = tokens[:, prefix:]
        else:
            if kept is None:
                kept = []
                self.kept.append((context, kept))
            for index, block in enumerate(self.transformer_blocks):
                if len(kept) == index:
                    keeping = by_pieces(pieces[:-1], transformer_options, kept)
                    before = block(before, keeping, prefix, transformer_options)
                image = block(image, after_kept(*kept[index], transformer_options), 0, transformer_options)
        result: Tensor = self.proj_out(rms_norm(image)).mT.reshape(x.shape)
        return result


def by_pieces(pieces: list[tuple[int, int, bool]], options: dict[str, Any], kept: Any = None) -> Attend:
    """Attention of every piece to itself and all before it, in text to no later token; keys are added to `kept`."""

    def attend(q: Tensor, k: Tensor, v: Tensor, heads: int, preferred_attention: LayerAttention) -> Tensor:
        if kept is not None:
            kept.append((k, v))
        parts = []
        for start, stop, is_text in pieces:
            mask = None
            if is_text:
                mask = torch.full((stop - start, stop), float("-inf"), dtype=q.dtype).triu(start + 1)
            tensors = (q[:, start:stop], k[:, :stop], v[:, :stop])
            packed = (each.flatten(2) for each in tensors)
            named = {"transformer_options": options, "preferred_attention": preferred_attention}
            parts.append(optimized_attention(*packed, heads, mask=mask, **named))
        return torch.cat(parts, dim=1)

    return attend


def after_kept(kept_k: Tensor, kept_v: Tensor, options: dict[str, Any]) -> Attend:
    """Attention of the image to itself and to kept keys before it."""

    def attend(q: Tensor, k: Tensor, v: Tensor, heads: int, preferred_attention: LayerAttention) -> Tensor:
        keys, values = torch.cat([kept_k, k], dim=1), torch.cat([kept_v, v], dim=1)
        packed = (each.flatten(2) for each in (q, keys, values))
        named = {"transformer_options": options, "preferred_attention": preferred_attention}
        return optimized_attention(*packed, heads, **named)

    return attend


class TwoStreams(nn.Module):
    """A block of Kandinsky 6: video and sound attend to themselves, then each is moved by the mean of the other."""

    def __init__(self) -> None:
        super().__init__()
        self.videoT, self.audioT = (kandinsky5.TransformerDecoderBlock(*SIZES, **PLAIN) for _ in range(2))
        self.to_video, self.to_audio = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(
        self, streams: list[Tensor], texts: list[Tensor], ropes: list[Tensor], transformer_options: dict[str, Any]
    ) -> list[Tensor]:
        """`(B, N, C)` of each stream and of its text."""
        after = []
        for part, x, text, rope in zip((self.videoT, self.audioT), streams, texts, ropes, strict=True):
            x = x + part.self_attention(rms_norm(x), rope, transformer_options=transformer_options)
            after.append(x + part.cross_attention(rms_norm(x), text, transformer_options=transformer_options))
        video, audio = after
        moved = video + self.to_video(audio.mean(1, True)), audio + self.to_audio(video.mean(1, True))
        return list(moved)


class Kandinsky6NativeAVDiT(nn.Module):
    """Two streams of Kandinsky 5's blocks; the sound is a part of the latent here."""

    def __init__(self, dtype: torch.dtype, channels: int, text: int) -> None:
        super().__init__()
        self.dtype = dtype
        self.embeddings, self.audio_embeddings = nn.Linear(channels, WIDTH), nn.Linear(channels, WIDTH)
        self.text_embeddings = nn.Linear(text, WIDTH)
        self.video_text_transformer_blocks, self.audio_text_transformer_blocks = (
            nn.ModuleList([kandinsky5.TransformerEncoderBlock(*SIZES, **PLAIN)]) for _ in range(2)
        )
        self.visual_blocks = nn.ModuleList([TwoStreams() for _ in range(2)])
        self.rope = EmbedND(dim=32, theta=10000.0, axes_dim=[32])
        self.out_layer, self.audio_outLayer = nn.Linear(WIDTH, channels), nn.Linear(WIDTH, channels)

    def positions(self, x: Tensor) -> Tensor:
        """The rotations of `(B, N, C)` tokens."""
        ids = torch.arange(x.shape[1], dtype=torch.float32).reshape(1, -1, 1)
        result: Tensor = self.rope(ids).movedim(1, 2)
        return result

    def forward(
        self,
        x: Tensor,
        timesteps: Tensor | None = None,
        context: Tensor | None = None,
        control: Any = None,
        transformer_options: dict[str, Any] = {},  # noqa: B006
        **others: Any,
    ) -> Tensor:
        """A latent `(B, C, h, w)` for a latent, whose last row of pixels is the sound."""
        assert context is not None
        video, audio = x[:, :, :-1].flatten(2).mT, x[:, :, -1].mT
        texts = []
        for blocks in (self.video_text_transformer_blocks, self.audio_text_transformer_blocks):
            text = self.text_embeddings(context)
            for block in blocks:
                attend: Any = block.self_attention
                text = text + attend(rms_norm(text), self.positions(text), transformer_options=transformer_options)
            texts.append(text)
        streams = [self.embeddings(video), self.audio_embeddings(audio)]
        ropes = [self.positions(stream) for stream in streams]
        for block in self.visual_blocks:
            streams = block(streams, texts, ropes, transformer_options)
        drawn, sound = self.out_layer(rms_norm(streams[0])), self.audio_outLayer(rms_norm(streams[1]))
        result: Tensor = torch.cat([drawn.mT.unflatten(2, (-1, x.shape[3])), sound.mT[:, :, None]], dim=2)
        return result


for stand_in in (Attention, QwenImage21Transformer2DModel):
    stand_in.__module__ = "comfy.ldm.qwen_image21.model"
Kandinsky6NativeAVDiT.__module__ = "comfy.ldm.kandinsky6.model"


def in_sd15(network: nn.Module, name: str, sharpen: tuple[str, ...], dtype: torch.dtype) -> ModelPatcher:
    """A MODEL of a network, in the place of that of a tiny SD1.5; weights with these names are scaled."""
    settings = comfy.supported_models.SD15(dict(SD15))
    settings.set_inference_dtype(dtype, None)
    model = settings.get_model({}, "")
    model.diffusion_model = network.to(dtype).eval()
    fill(model.diffusion_model, lambda path: f"{name} {path}")
    with torch.no_grad():
        for path, weight in model.diffusion_model.named_parameters():
            if any(part in path for part in sharpen):
                weight.mul_(1.7)
    assert_finite(model.diffusion_model)
    return on_cpu(model)


def qwen_image_21(dtype: torch.dtype = torch.float32) -> ModelPatcher:
    """A MODEL of it."""
    return in_sd15(QwenImage21Transformer2DModel(dtype, 4, 48), "Qwen-Image 2.1", ("to_q", "to_k"), dtype)


def kandinsky_6(dtype: torch.dtype = torch.float32) -> ModelPatcher:
    """A MODEL of it."""
    return in_sd15(Kandinsky6NativeAVDiT(dtype, 4, 48), "Kandinsky 6", ("query_norm", "key_norm"), dtype)


def by_layer(build: Callable[..., ModelPatcher], attention: str) -> Callable[..., ModelPatcher]:
    """The models of `build`, whose modules of the class called `attention` call it as ComfyUI 0.40 does."""

    def built(dtype: torch.dtype = torch.float32) -> ModelPatcher:
        model = build(dtype)
        for module in list(model.model.diffusion_model.modules()):
            if type(module).__name__ == attention:
                module.__class__ = newer(type(module))
                module.comfy_attention = LayerAttention()
        return model

    return built


def newer(older: type[nn.Module]) -> type[nn.Module]:
    """A class like `older` whose attention call is handed the child of the module that names the layer's attention."""
    file = inspect.getmodule(older)

    def attending(module: nn.Module, args: Any, kwargs: Any, preferred_attention: LayerAttention) -> Any:
        def attend(q: Tensor, k: Tensor, v: Tensor, *rest: Any, **named: Any) -> Tensor:
            containers = map(TensorContainer, (q, k, v))
            return optimized_attention(*containers, *rest, preferred_attention=preferred_attention, **named)

        before = file.optimized_attention  # type: ignore[union-attr]
        file.optimized_attention = attend  # type: ignore[union-attr]
        try:
            return older.forward(module, *args, **kwargs)
        finally:
            file.optimized_attention = before  # type: ignore[union-attr]

    class Newer(older):  # type: ignore[valid-type, misc]
        def forward(self, *args: Any, **kwargs: Any) -> Any:
            return attending(self, args, kwargs, preferred_attention=self.comfy_attention)

    Newer.__name__, Newer.__qualname__, Newer.__module__ = older.__name__, older.__qualname__, older.__module__
    return Newer
