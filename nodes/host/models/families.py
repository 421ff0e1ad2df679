"""What is known about the model families ComfyUI hosts: their attention sites, their token orders, and who is refused.

A site is the innermost module whose `forward` makes the attention calls. Whether it is self-attention is read from the
module's class and place, never from shapes: cross-attention has square logits too whenever the text is as long as the
image (an SD1.5 middle block at 448×704 has 77 tokens).

Where text and image share one sequence, the split comes from what the model itself passes on: the two arguments of a
block, ComfyUI's `img_slice`, or, where a block gets one joined sequence, from a witness: a module that saw one part of
it alone earlier in the same forward.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

SELF, JOINT, TEXT_REFINER = "self", "joint", "text refiner"
# γ acts among the image tokens. Refiners of the text see none of them, so they are left alone until they are named.
UNASKED = (TEXT_REFINER,)


@dataclass(frozen=True)
class SiteCall:
    """The arguments of one call of a module's `forward`.

    Attributes:
        witnessed: lengths the witnesses of this forward have seen, by name.
    """

    args: tuple
    kwargs: Mapping[str, Any]
    witnessed: Mapping[str, int] = field(default_factory=dict)

    def argument(self, name: str, position: int) -> Any:
        """The argument called `name`, or the positional one at `position`; None where it was not given."""
        if name in self.kwargs:
            return self.kwargs[name]
        return self.args[position] if position < len(self.args) else None

    def length(self, name: str, position: int) -> int | None:
        """Number of tokens of the `(B, L, C)` argument called `name`; None where it was not given."""
        argument = self.argument(name, position)
        return None if argument is None else argument.shape[1]

    @property
    def options(self) -> Mapping[str, Any]:
        """The `transformer_options` of the call, empty where it got none."""
        return self.kwargs.get("transformer_options") or {}


Argument = tuple[str, int]  # name and position
# From a call and its number of tokens to those γ acts among, or None where the two do not fit together.
InnerTokens = Callable[[SiteCall, int], "slice | None"]
BlockInput = Callable[[SiteCall], "Tensor | None"]


def all_tokens(call: SiteCall, tokens: int) -> slice | None:
    """One modality: every token."""
    return slice(0, tokens)


def after_text(text: Argument, image: Argument) -> InnerTokens:
    """[text, image], with the two lengths read from arguments of the block; an image-only call is all inner."""

    def inner(call: SiteCall, tokens: int) -> slice | None:
        text_tokens, image_tokens = call.length(*text), call.length(*image)
        if text_tokens is None or image_tokens is None:
            return None
        if tokens == text_tokens + image_tokens:
            return slice(text_tokens, tokens)
        return slice(0, tokens) if tokens == image_tokens else None

    return inner


def before_text(image: Argument, text: Argument) -> InnerTokens:
    """[image, text], with the two lengths read from arguments of the block; of the text a part may be cut off."""

    def inner(call: SiteCall, tokens: int) -> slice | None:
        text_tokens, image_tokens = call.length(*text), call.length(*image)
        if text_tokens is None or image_tokens is None:
            return None
        return slice(0, image_tokens) if image_tokens <= tokens <= image_tokens + text_tokens else None

    return inner


def image_slice(call: SiteCall, tokens: int) -> slice | None:
    """[text, image] in one stream; the model itself says where the image is (`img_slice`)."""
    start, stop = call.options.get("img_slice") or (None, None)
    return slice(start, stop) if stop is not None and start < stop <= tokens else None


def first_tokens(witness: str) -> InnerTokens:
    """[image, rest] in one stream; the image is as long as the witness saw it."""

    def inner(call: SiteCall, tokens: int) -> slice | None:
        image = call.witnessed.get(witness)
        return slice(0, image) if image is not None and image <= tokens else None

    return inner


def last_tokens(witness: str) -> InnerTokens:
    """[rest, image] in one stream; the image is as long as the witness saw it."""

    def inner(call: SiteCall, tokens: int) -> slice | None:
        image = call.witnessed.get(witness)
        return slice(tokens - image, tokens) if image is not None and image <= tokens else None

    return inner


def after_witnessed(witness: str, whole: str | None = None) -> InnerTokens:
    """[text, image] in one stream; the text is as long as the witness saw it.

    Args:
        whole: the witness of the joined sequence in models that also run without text: seen, and of this length, it
            says that a text that was not seen is not there.
    """

    def inner(call: SiteCall, tokens: int) -> slice | None:
        text = call.witnessed.get(witness)
        if text is None and whole is not None and call.witnessed.get(whole) == tokens:
            text = 0
        return slice(text, tokens) if text is not None and text < tokens else None

    return inner


def without_cache(call: SiteCall, tokens: int) -> slice | None:
    """Every token, unless the keys are those of earlier chunks too: then the first chunk alone would be square."""
    return slice(0, tokens) if call.argument("kv_cache", 2) is None else None


def last_video_segment(call: SiteCall, tokens: int) -> slice | None:
    """[text, conditions, audio, video] in one stream: the model's segments are `(start, stop, row)` in that order.

    The row is three times the row of the timestep plus the modality, of which video is 0 (comfy/ldm/minimax/model.py).
    """
    start, stop, row = (call.argument("mod_segments", 2) or ((0, 0, 1),))[-1]
    return slice(start, stop) if row % 3 == 0 and start < stop == tokens else None


def no_input(call: SiteCall) -> Tensor | None:
    """Whole blocks normalise inside, so their attention input cannot be seen from the call."""
    return None


def first_argument(call: SiteCall) -> Tensor | None:
    """Attention modules get the normalised block input as their first argument, `(B, L, C)`."""
    return call.argument("x", 0)


@dataclass(frozen=True)
class Witness:
    """A module that sees one part of a joined sequence alone, before the sites that see all of it.

    Attributes:
        name: what its length is called in `SiteCall.witnessed`.
        path: of the module below the diffusion model.
        argument: its `(B, L, C)` argument.
        is_first: whether it is called before all others in a forward, so that what they saw before is forgotten.
    """

    name: str
    path: str
    argument: Argument
    is_first: bool = False

    def observe(self, call: SiteCall, witnessed: dict[str, int]) -> None:
        """Note the length of the argument in `witnessed`."""
        length = call.length(*self.argument)
        if self.is_first:
            witnessed.clear()
        if length is not None:
            witnessed[self.name] = length


@dataclass(frozen=True)
class Rule:
    """How one kind of site is recognised and named.

    Attributes:
        module: the class, as `file.Class` below `comfy.ldm`.
        path: matched against the module's path in the diffusion model.
        address: what users call the site, a template filled from the groups of `path`.
        kind: "self", "joint" or "text refiner".
        inner: which tokens γ acts among.
        block_input: the `(B, L, C)` input that the "input" and "projected" norms need.
        witnesses: what `inner` has to be told of.
        network: the class of the diffusion model, where blocks of one class are used in several ways.
        otherwise: what the report says of calls that `inner` leaves alone.
        flag: attribute of the module that must be true, where one class serves self- and cross-attention.
        stream: "video" or "audio" in models that have sites of both.
    """

    module: str
    path: re.Pattern[str]
    address: str
    kind: str
    inner: InnerTokens = all_tokens
    block_input: BlockInput = no_input
    witnesses: tuple[Witness, ...] = ()
    network: str | None = None
    otherwise: str = "the image tokens could not be told from the text tokens"
    flag: str | None = None
    stream: str | None = None


def class_name(module: nn.Module) -> str:
    """`file.Class` of a module, below `comfy.ldm` where it comes from there."""
    return f"{type(module).__module__.removeprefix('comfy.ldm.')}.{type(module).__name__}"


def numbered(pattern: str) -> re.Pattern[str]:
    """A path with `#` in the place of the block's number; the rest is taken as it stands."""
    return re.compile(re.escape(pattern).replace(r"\#", r"(?P<index>\d+)"))


UNET_PLACE = r"(?P<side>input|middle|output)_blocks?\.(?:(?P<number>\d+)\.)?\d+"
TEXT_AND_IMAGE = after_text(text=("encoder_hidden_states", 1), image=("hidden_states", 0))
IMAGE_AND_TEXT = before_text(image=("hidden_states", 0), text=("encoder_hidden_states", 1))

UNET = (
    Rule(
        "modules.attention.CrossAttention",
        re.compile(UNET_PLACE + r"\.transformer_blocks\.(?P<index>\d+)\.attn1"),
        "{side}.{number}.{index}",
        SELF,
        block_input=first_argument,
    ),
    Rule(
        "modules.attention.CrossAttention",
        re.compile(UNET_PLACE + r"\.time_stack\.(?P<index>\d+)\.attn1"),
        "{side}.{number}.{index}.time",
        SELF,
        block_input=first_argument,
    ),
)
SD3 = (
    Rule(
        "modules.diffusionmodules.mmdit.JointBlock",
        numbered("joint_blocks.#"),
        "joint.{index}",
        JOINT,
        after_text(text=("context", 0), image=("x", 1)),
    ),
)
# Flux, LongCat, Chroma and the HunyuanVideo models are built from the same two blocks.
FLUX = (
    Rule(
        "flux.layers.DoubleStreamBlock",
        numbered("double_blocks.#"),
        "double.{index}",
        JOINT,
        after_text(text=("txt", 1), image=("img", 0)),
    ),
    Rule(
        "flux.layers.SingleStreamBlock",
        numbered("single_blocks.#"),
        "single.{index}",
        JOINT,
        # Hunyuan3D 2.0 does not write `img_slice`; its single blocks see the text of the double ones before the image.
        after_witnessed("text"),
        witnesses=(Witness("text", "double_blocks.0", ("txt", 1)),),
        network="hunyuan3d.model.Hunyuan3Dv2",
    ),
    Rule("flux.layers.SingleStreamBlock", numbered("single_blocks.#"), "single.{index}", JOINT, image_slice),
    Rule(
        "hunyuan_video.model.TokenRefinerBlock",
        numbered("txt_in.individual_token_refiner.blocks.#"),
        "text_refiner.{index}",
        TEXT_REFINER,
    ),
)
AURA = (
    Rule(
        "aura.mmdit.DoubleAttention",
        numbered("double_layers.#.attn"),
        "double.{index}",
        JOINT,
        after_text(text=("c", 0), image=("x", 1)),
    ),
    Rule(
        "aura.mmdit.SingleAttention",
        numbered("single_layers.#.attn"),
        "single.{index}",
        JOINT,
        after_witnessed("text"),  # the text and the register tokens before it
        witnesses=(Witness("text", "double_layers.0", ("c", 0)),),
    ),
)
LUMINA = (
    Rule(
        "lumina.model.JointAttention",
        numbered("layers.#.attention"),
        "layers.{index}",
        JOINT,
        last_tokens("image"),  # with the reference images; before them the text and its image features
        witnesses=(Witness("image", "noise_refiner.0", ("x", 0)),),
    ),
    Rule("lumina.model.JointAttention", numbered("noise_refiner.#.attention"), "image_refiner.{index}", SELF),
    Rule("lumina.model.JointAttention", numbered("context_refiner.#.attention"), "text_refiner.{index}", TEXT_REFINER),
)
OMNIGEN2_TEXT = (Witness("text", "context_refiner.0", ("hidden_states", 0)),)
OMNIGEN2 = (
    Rule(
        "omnigen.omnigen2.Attention",
        numbered("layers.#.attn"),
        "layers.{index}",
        JOINT,
        after_witnessed("text"),
        witnesses=OMNIGEN2_TEXT,
    ),
    Rule("omnigen.omnigen2.Attention", numbered("noise_refiner.#.attn"), "image_refiner.{index}", SELF),
    Rule("omnigen.omnigen2.Attention", numbered("ref_image_refiner.#.attn"), "reference_refiner.{index}", SELF),
    Rule("omnigen.omnigen2.Attention", numbered("context_refiner.#.attn"), "text_refiner.{index}", TEXT_REFINER),
    # Boogu: OmniGen2 with double blocks before the single ones
    Rule(
        "boogu.model.BooguJointAttention",
        numbered("double_stream_layers.#.img_instruct_attn"),
        "double.{index}",
        JOINT,
        after_text(text=("instruct_hidden_states", 1), image=("img_hidden_states", 0)),
    ),
    Rule("omnigen.omnigen2.Attention", numbered("double_stream_layers.#.img_self_attn"), "image.{index}", SELF),
    Rule(
        "omnigen.omnigen2.Attention",
        numbered("single_stream_layers.#.attn"),
        "single.{index}",
        JOINT,
        after_witnessed("text"),
        witnesses=OMNIGEN2_TEXT,
    ),
)
HIDREAM = (
    Rule(
        "hidream.model.HiDreamAttention",
        numbered("double_stream_blocks.#.block.attn1"),
        "double.{index}",
        JOINT,
        before_text(image=("norm_image_tokens", 0), text=("norm_text_tokens", 2)),
    ),
    Rule(
        "hidream.model.HiDreamAttention",
        numbered("single_stream_blocks.#.block.attn1"),
        "single.{index}",
        JOINT,
        first_tokens("image"),
        witnesses=(Witness("image", "double_stream_blocks.0", ("image_tokens", 0)),),
    ),
)
TWO_STREAMS = (
    # Qwen-Image, Qwen-Image-Edit and MageFlow
    Rule("qwen_image.model.Attention", numbered("transformer_blocks.#.attn"), "blocks.{index}", JOINT, TEXT_AND_IMAGE),
    Rule("cogvideo.model.CogVideoXBlock", numbered("blocks.#"), "blocks.{index}", JOINT, TEXT_AND_IMAGE),
    Rule(
        "lens.model.LensJointAttention", numbered("transformer_blocks.#.attn"), "blocks.{index}", JOINT, IMAGE_AND_TEXT
    ),
    Rule(
        "joyimage.model.JoyImageAttention",
        numbered("double_blocks.#.attn"),
        "double.{index}",
        JOINT,
        before_text(image=("img", 0), text=("txt", 1)),
    ),
    Rule(
        "genmo.joint_model.asymm_models_joint.AsymmetricAttention",
        numbered("blocks.#.attn"),
        "blocks.{index}",
        JOINT,
        before_text(image=("x", 0), text=("y", 1)),
    ),
    Rule(
        "pixeldit.model.MMDiTJointAttention",
        numbered("patch_blocks.#.attn"),
        "patches.{index}",
        JOINT,
        after_text(text=("y", 1), image=("x", 0)),
    ),
    Rule("pixeldit.modules.RotaryAttention", numbered("pixel_blocks.#.attn"), "pixels.{index}", SELF),
)
ONE_STREAM = (
    Rule("krea2.model.Attention", numbered("blocks.#.attn"), "blocks.{index}", JOINT, image_slice),
    Rule("krea2.model.Attention", numbered("txtfusion.refiner_blocks.#.attn"), "text_refiner.{index}", TEXT_REFINER),
    Rule(
        "ideogram4.model.Ideogram4Attention",
        numbered("layers.#.attention"),
        "layers.{index}",
        JOINT,
        after_witnessed("text", whole="whole"),  # the unconditional pass has no text
        witnesses=(
            Witness("whole", "input_proj", ("x", 0), is_first=True),
            Witness("text", "llm_cond_proj", ("x", 0)),
        ),
    ),
    Rule(
        "triposplat.model.RopeMultiHeadAttention",
        numbered("blocks.#.attn"),
        "blocks.{index}",
        JOINT,
        first_tokens("latent"),
        witnesses=(Witness("latent", "noise_refiner.0", ("x", 0)),),
    ),
    Rule("triposplat.model.RopeMultiHeadAttention", numbered("noise_refiner.#.attn"), "latent_refiner.{index}", SELF),
    Rule("minimax.model.DiTBlock", numbered("blocks.#"), "blocks.{index}", JOINT, last_video_segment),
    Rule(
        "audio.dit.Attention",
        numbered("transformer.layers.#.self_attn"),
        "layers.{index}",
        JOINT,
        last_tokens("audio"),  # before it the token of the global conditions
        witnesses=(Witness("audio", "transformer.project_in", ("x", 0)),),
    ),
)
SELF_AND_CROSS = (
    Rule(
        "wan.model.WanSelfAttention", numbered("blocks.#.self_attn"), "blocks.{index}", SELF, block_input=first_argument
    ),
    Rule(
        "wan.model.WanSelfAttention",
        numbered("vace_blocks.#.self_attn"),
        "vace.{index}",
        SELF,
        block_input=first_argument,
    ),
    Rule(
        "wan.ar_model.CausalWanSelfAttention",
        numbered("blocks.#.self_attn"),
        "blocks.{index}",
        SELF,
        without_cache,
        otherwise="the keys are those of earlier frames too",
    ),
    Rule("cosmos.predict2.Attention", numbered("blocks.#.self_attn"), "blocks.{index}", SELF, flag="is_selfattn"),
    Rule(
        "cosmos.blocks.Attention",
        re.compile(r"blocks\.block(?P<number>\d+)\.blocks\.(?P<index>\d+)\.block\.attn"),
        "blocks.{number}.{index}",
        SELF,
        flag="is_selfattn",
    ),
    Rule(
        "lightricks.model.CrossAttention",
        numbered("transformer_blocks.#.attn1"),
        "blocks.{index}",
        SELF,
        block_input=first_argument,
        network="lightricks.av_model.LTXAVModel",
        stream="video",
    ),
    Rule(
        "lightricks.model.CrossAttention",
        numbered("transformer_blocks.#.attn1"),
        "blocks.{index}",
        SELF,
        block_input=first_argument,
    ),
    Rule(
        "lightricks.model.CrossAttention",
        numbered("transformer_blocks.#.audio_attn1"),
        "audio.{index}",
        SELF,
        block_input=first_argument,
        stream="audio",
    ),
    Rule(
        "kandinsky5.model.SelfAttention",
        numbered("visual_transformer_blocks.#.self_attention"),
        "blocks.{index}",
        SELF,
        block_input=first_argument,
    ),
    Rule(
        "kandinsky5.model.SelfAttention",
        numbered("text_transformer_blocks.#.self_attention"),
        "text_refiner.{index}",
        TEXT_REFINER,
    ),
)
RULES = (
    *UNET,
    *SD3,
    *FLUX,
    *AURA,
    *LUMINA,
    *OMNIGEN2,
    *HIDREAM,
    *TWO_STREAMS,
    *ONE_STREAM,
    *SELF_AND_CROSS,
)

OUT_OF_REACH = "its attention is called without the options through which ComfyUI lets other nodes take part"
# Diffusion models that are refused, by class, with the end of the sentence "… because".
REFUSALS = {
    "ace.model.ACEStepTransformer2DModel": "its self-attention is linear: it has no softmax, so no logits to split",
    "cascade.stage_b.StageB": "its queries are image tokens but its keys are image and text tokens together",
    "cascade.stage_c.StageC": "its queries are image tokens but its keys are image and text tokens together",
    "hidream_o1.model.HiDreamO1Transformer": "its image tokens also look at tokens that do not look back at them",
    "wan.model_animate2.WanAnimate2Model": "each of its frames also looks at tokens that do not look back at it",
    "seedvr.model.NaDiT": "it cuts the tokens into windows and " + OUT_OF_REACH,
    "minimax_music.dit.MiniMaxMusic3DiT": OUT_OF_REACH,
    "hydit.models.HunYuanDiT": OUT_OF_REACH,
    "pixart.pixartms.PixArtMS": OUT_OF_REACH,
    "hunyuan3dv2_1.hunyuandit.HunYuanDiTPlain": OUT_OF_REACH,
    "ernie.model.ErnieImageModel": OUT_OF_REACH,
    "ace.ace_step15.AceStepConditionGenerationModel": OUT_OF_REACH,
}
