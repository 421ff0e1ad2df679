"""The model families that ComfyUI hosts: their attention sites, their token orders, and the unsupported models.

Data only; the words it is written in are those of `site_rules` and `token_orders`. lab/testing/families has a tiny
model of each.
"""

from __future__ import annotations

import re

from .later_families import FOUND_IN_CODE, KANDINSKY_6, LAST_QUERIES, PRISM, TRELLIS
from .site_rules import JOINT, SELF, TEXT_REFINER, LengthSensor, Rule, numbered
from .token_orders import (
    after_seen,
    after_text,
    before_text,
    first_argument,
    first_tokens,
    image_slice,
    last_tokens,
    last_video_segment,
    without_cache,
)

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
        takes_patches=True,
        keys="context",
    ),
    Rule(
        "modules.attention.CrossAttention",
        re.compile(UNET_PLACE + r"\.time_stack\.(?P<index>\d+)\.attn1"),
        "{side}.{number}.{index}.time",
        SELF,
        block_input=first_argument,
        takes_patches=True,
        keys="context",
        is_in_picture=False,
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
        takes_patches=True,
    ),
    Rule(
        "flux.layers.SingleStreamBlock",
        numbered("single_blocks.#"),
        "single.{index}",
        JOINT,
        # Hunyuan3D 2.0 does not write `img_slice`; its single blocks see the text of the double ones before the image.
        after_seen("text"),
        sensors=(LengthSensor("text", "double_blocks.0", ("txt", 1)),),
        network="hunyuan3d.model.Hunyuan3Dv2",
        takes_patches=True,
    ),
    Rule(
        "flux.layers.SingleStreamBlock",
        numbered("single_blocks.#"),
        "single.{index}",
        JOINT,
        image_slice,
        takes_patches=True,
    ),
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
        after_seen("text"),  # the text and the register tokens before it
        sensors=(LengthSensor("text", "double_layers.0", ("c", 0)),),
    ),
)
LUMINA = (
    Rule(
        "lumina.model.JointAttention",
        numbered("layers.#.attention"),
        "layers.{index}",
        JOINT,
        last_tokens("image"),  # with the reference images; before them the text and its image features
        sensors=(LengthSensor("image", "noise_refiner.0", ("x", 0)),),
    ),
    Rule("lumina.model.JointAttention", numbered("noise_refiner.#.attention"), "image_refiner.{index}", SELF),
    Rule("lumina.model.JointAttention", numbered("context_refiner.#.attention"), "text_refiner.{index}", TEXT_REFINER),
)
OMNIGEN2_TEXT = (LengthSensor("text", "context_refiner.0", ("hidden_states", 0)),)
OMNIGEN2 = (
    Rule(
        "omnigen.omnigen2.Attention",
        numbered("layers.#.attn"),
        "layers.{index}",
        JOINT,
        after_seen("text"),
        sensors=OMNIGEN2_TEXT,
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
        after_seen("text"),
        sensors=OMNIGEN2_TEXT,
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
        sensors=(LengthSensor("image", "double_stream_blocks.0", ("image_tokens", 0)),),
    ),
)
TWO_STREAMS = (
    # Qwen-Image, Qwen-Image-Edit and MageFlow
    Rule(
        "qwen_image.model.Attention",
        numbered("transformer_blocks.#.attn"),
        "blocks.{index}",
        JOINT,
        TEXT_AND_IMAGE,
        takes_patches=True,
    ),
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
    Rule("krea2.model.Attention", numbered("blocks.#.attn"), "blocks.{index}", JOINT, image_slice, takes_patches=True),
    Rule("krea2.model.Attention", numbered("txtfusion.refiner_blocks.#.attn"), "text_refiner.{index}", TEXT_REFINER),
    Rule(
        "ideogram4.model.Ideogram4Attention",
        numbered("layers.#.attention"),
        "layers.{index}",
        JOINT,
        after_seen("text", whole="whole"),  # the unconditional pass has no text
        sensors=(
            LengthSensor("whole", "input_proj", ("x", 0), is_first=True),
            LengthSensor("text", "llm_cond_proj", ("x", 0)),
        ),
    ),
    Rule(
        "triposplat.model.RopeMultiHeadAttention",
        numbered("blocks.#.attn"),
        "blocks.{index}",
        JOINT,
        first_tokens("latent"),
        sensors=(LengthSensor("latent", "noise_refiner.0", ("x", 0)),),
    ),
    Rule("triposplat.model.RopeMultiHeadAttention", numbered("noise_refiner.#.attn"), "latent_refiner.{index}", SELF),
    Rule("minimax.model.DiTBlock", numbered("blocks.#"), "blocks.{index}", JOINT, last_video_segment),
    Rule(
        "audio.dit.Attention",
        numbered("transformer.layers.#.self_attn"),
        "layers.{index}",
        JOINT,
        last_tokens("audio"),  # before it the token of the global conditions
        sensors=(LengthSensor("audio", "transformer.project_in", ("x", 0)),),
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
        skip_reason="the keys include those of earlier frames",
    ),
    Rule(
        "cosmos.predict2.Attention",
        numbered("blocks.#.self_attn"),
        "blocks.{index}",
        SELF,
        flag="is_selfattn",
        takes_patches=True,
        keys="context",
    ),
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
        is_in_picture=False,
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
    *TRELLIS,
    *KANDINSKY_6,
    *PRISM,
    *LAST_QUERIES,
    *FOUND_IN_CODE,
)

OUT_OF_REACH = "ComfyUI does not let other nodes change its attention"
REACHED_LATER = "ComfyUI versions before 0.40 do not let other nodes change its attention"
ADVICE = {REACHED_LATER: "Update ComfyUI."}  # what to do about a reason, where something helps
# Diffusion models that raise an error where they have no site, by class, with the end of the sentence "… because".
REFUSALS = {
    "ace.model.ACEStepTransformer2DModel": (
        "its self-attention is linear and has no softmax, so there are no logits to split"
    ),
    "cascade.stage_b.StageB": "its queries are image tokens but its keys are image and text tokens together",
    "cascade.stage_c.StageC": "its queries are image tokens but its keys are image and text tokens together",
    "wan.model_animate2.WanAnimate2Model": "it calls the attention of each frame with the queries of only that "
    "frame, and the keys of all",
    "seedvr.model.NaDiT": "it cuts the tokens into windows, and " + OUT_OF_REACH,
    "minimax_music.dit.MiniMaxMusic3DiT": OUT_OF_REACH,
    "hydit.models.HunYuanDiT": REACHED_LATER,
    "pixart.pixartms.PixArtMS": REACHED_LATER,
    "hunyuan3dv2_1.hunyuandit.HunYuanDiTPlain": REACHED_LATER,
    "ernie.model.ErnieImageModel": REACHED_LATER,
    "ace.ace_step15.AceStepConditionGenerationModel": REACHED_LATER,
}
