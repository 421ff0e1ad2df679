"""The rules of families of which the image looks at text that does not look back, or that are reached by other ways.

Data only, as in `families`, which puts all rules together.
"""

from __future__ import annotations

from .site_rules import FOUND, JOINT, NETWORK, SELF, TEXT_REFINER, LengthSensor, Rule, numbered
from .token_orders import (
    after_what_is_kept,
    all_of_the_block,
    before_seen,
    first_argument,
    last_tokens,
    no_input,
    queries_of_the_image,
)

# Trellis2 and Pixal3D: one network for each stage
TRELLIS = tuple(
    Rule(
        f"trellis2.model.{attention}",
        numbered(f"{network}.blocks.#.self_attn"),
        f"{stage}.{{index}}",
        SELF,
        block_input=first_argument if attention == "MultiHeadAttention" else no_input,
        pads_samples=attention == "SparseMultiHeadAttention",
    )
    for stage, network, attention in (
        ("structure", "structure_model", "MultiHeadAttention"),
        ("shape_512", "img2shape_512", "SparseMultiHeadAttention"),
        ("shape", "img2shape", "SparseMultiHeadAttention"),
        ("texture", "shape2txt", "SparseMultiHeadAttention"),
    )
)
# Kandinsky 6: the attention of Kandinsky 5 in a stream of video and one of sound, each with its own text
KANDINSKY_6 = tuple(
    Rule(
        "kandinsky5.model.SelfAttention",
        numbered(f"{blocks}.self_attention"),
        f"{stem}.{{index}}",
        kind,
        block_input=first_argument,
        stream=stream,
        is_in_picture=stream != "audio",
    )
    for blocks, stem, kind, stream in (
        ("visual_blocks.#.videoT", "blocks", SELF, "video"),
        ("visual_blocks.#.audioT", "audio", SELF, "audio"),
        ("video_text_transformer_blocks.#", "text_refiner.video", TEXT_REFINER, None),
        ("audio_text_transformer_blocks.#", "text_refiner.audio", TEXT_REFINER, None),
    )
)
# Prism: two networks of video, for the high and the low noise, and one of sound beside either
PRISM = tuple(
    Rule(
        "prism.model.AttentionModule",
        numbered(f"{block}.self_attn.attn"),
        f"{stem}.{{index}}",
        SELF,
        stream=stream,
        arguments=("q", "k", "v", "transformer_options"),
        is_in_picture=stream != "audio",
    )
    for block, stem, stream in (
        ("fusion_blocks.#.video_block", "blocks", "video"),
        ("fusion_blocks.#.audio_block", "audio", "audio"),
        ("remaining_video_blocks.#", "last", "video"),
        ("video_dit_2.blocks.#", "low_noise", "video"),
    )
)
# The image looks at itself and at text that does not look back; its queries are the last of the keys' tokens.
LAST_QUERIES = (
    Rule(
        "qwen_image21.model.Attention",
        numbered("transformer_blocks.#.attn"),
        "blocks.{index}",
        SELF,
        takes_patches=True,
        last_queries=queries_of_the_image,
        reach=NETWORK,
    ),
    Rule(
        "sensenova.model.Attention",
        numbered("language_model.model.layers.#.self_attn"),
        "layers.{index}",
        SELF,
        last_queries=all_of_the_block(("hidden_states", 0)),
        arguments=("hidden_states", "rope", "prefix_key", "prefix_value", "transformer_options"),
        method="forward_generation",  # text and reference images go through another one
    ),
    Rule(
        "comfy.text_encoders.llama.TransformerBlock",
        numbered("language_model.layers.#"),
        "layers.{index}",
        SELF,
        last_tokens("image"),  # with the reference images; before them the token of the timestep
        sensors=(LengthSensor("image", "x_embedder", ("x", 0)),),
        network="hidream_o1.model.HiDreamO1Transformer",
        last_queries=after_what_is_kept("image"),
        reach=NETWORK,
    ),
)
# ComfyUI calls the attention of these without options; from 0.40 on it can be reached at each layer.
FOUND_IN_CODE = (
    Rule(
        "pixart.blocks.AttentionKVCompress",
        numbered("blocks.#.attn"),
        "blocks.{index}",
        SELF,
        block_input=first_argument,
        reach=FOUND,
    ),
    Rule(
        "hydit.attn_layers.Attention",
        numbered("blocks.#.attn1"),
        "blocks.{index}",
        SELF,
        block_input=first_argument,
        reach=FOUND,
    ),
    Rule(
        "hunyuan3dv2_1.hunyuandit.Attention",
        numbered("blocks.#.attn1"),
        "blocks.{index}",
        JOINT,
        last_tokens("latent"),  # before it the token of the timestep
        sensors=(LengthSensor("latent", "x_embedder", ("input", 0)),),
        reach=FOUND,
    ),
    Rule(
        "ernie.model.ErnieImageAttention",
        numbered("layers.#.self_attention"),
        "layers.{index}",
        JOINT,
        before_seen("text"),
        sensors=(LengthSensor("text", "text_proj", ("input", 0)),),
        reach=FOUND,
    ),
    Rule(
        "ace.ace_step15.AceStepAttention",
        numbered("decoder.layers.#.self_attn"),
        "layers.{index}",
        SELF,
        block_input=first_argument,
        reach=FOUND,
    ),
)
