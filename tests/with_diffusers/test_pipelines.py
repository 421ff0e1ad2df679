"""γ through pipelines of diffusers with random weights: Stable Diffusion, DeepFloyd IF, AudioLDM and AudioLDM 2."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import diffusers
import pytest
import torch
import transformers
from torch import Tensor

from lab.testing.definition import relative_error
from lab.testing.diffusers_definition import by_definition
from lab.testing.diffusers_models import ROWS, TEXT, deepfloyd, normal, unet
from sad_core import set_skew_attention

BY_NAME = {row.name: row for row in ROWS}
STEPS = {"num_inference_steps": 2, "output_type": "pt"}


def autoencoder(channels: int) -> Any:
    torch.manual_seed(2)
    blocks = {"down_block_types": ("DownEncoderBlock2D",) * 2, "up_block_types": ("UpDecoderBlock2D",) * 2}
    shape = {
        "latent_channels": 4,
        "block_out_channels": (8, 16),
        "norm_num_groups": 4,
        "mid_block_add_attention": False,
    }
    return diffusers.AutoencoderKL(in_channels=channels, out_channels=channels, **blocks, **shape)


def scheduler() -> Any:
    return diffusers.DDIMScheduler(steps_offset=1, clip_sample=False)


def vocoder() -> Any:
    torch.manual_seed(3)
    shape: dict[str, Any] = {"upsample_rates": [2, 2], "upsample_kernel_sizes": [4, 4], "resblock_kernel_sizes": [3, 7]}
    config = transformers.SpeechT5HifiGanConfig(
        model_in_dim=16,
        upsample_initial_channel=16,
        resblock_dilation_sizes=[[1, 3, 5], [1, 3, 5]],
        normalize_before=False,
        **shape,
    )
    return transformers.SpeechT5HifiGan(config)


def prompts(*shape: int) -> dict[str, Tensor]:
    positive, negative = (normal(1, *shape, seed=seed).double() for seed in (5, 6))
    return {"prompt_embeds": positive, "negative_prompt_embeds": negative}


def stable_diffusion(kind: str = "StableDiffusionPipeline", **options: Any) -> tuple[Any, Callable[[], Tensor]]:
    parts = dict.fromkeys(("text_encoder", "tokenizer", "safety_checker", "feature_extractor", "image_encoder"))
    pipeline = getattr(diffusers, kind)(
        vae=autoencoder(3), unet=unet(), scheduler=scheduler(), requires_safety_checker=False, **parts, **options
    )
    pipeline.set_progress_bar_config(disable=True)
    pipeline.to(torch.float64)  # two steps with random weights enlarge the rounding of float32

    def picture(**more: Any) -> Tensor:
        seed = torch.Generator().manual_seed(0)
        return pipeline(**prompts(TEXT, 16), height=16, width=16, generator=seed, **STEPS, **more).images

    return pipeline, picture


def deepfloyd_if() -> tuple[Any, Callable[[], Tensor]]:
    parts = dict.fromkeys(("text_encoder", "tokenizer", "safety_checker", "feature_extractor", "watermarker"))
    steps = diffusers.DDPMScheduler(variance_type="learned_range")
    pipeline = diffusers.IFPipeline(unet=deepfloyd(), scheduler=steps, requires_safety_checker=False, **parts)
    pipeline.set_progress_bar_config(disable=True)
    pipeline.to(torch.float64)  # two steps with random weights enlarge the rounding of float32
    seed = torch.Generator()
    return (
        pipeline,
        lambda: pipeline(**prompts(TEXT, 16), height=8, width=8, generator=seed.manual_seed(0), **STEPS).images,
    )


def audioldm() -> tuple[Any, Callable[[], Tensor]]:
    torch.manual_seed(4)
    text: dict[str, Any] = {
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_attention_heads": 2,
        "num_hidden_layers": 1,
    }
    encoder = transformers.ClapTextModelWithProjection(
        transformers.ClapTextConfig(vocab_size=64, projection_dim=12, **text)
    )
    model = BY_NAME["UNet2DConditionModel of AudioLDM"].build()
    parts = {"vae": autoencoder(1), "text_encoder": encoder, "tokenizer": None, "vocoder": vocoder()}
    pipeline = diffusers.AudioLDMPipeline(unet=model, scheduler=scheduler(), **parts)
    pipeline.set_progress_bar_config(disable=True)
    pipeline.to(torch.float64)  # two steps with random weights enlarge the rounding of float32
    seed = torch.Generator()
    return (
        pipeline,
        lambda: pipeline(**prompts(12), audio_length_in_s=0.004, generator=seed.manual_seed(0), **STEPS).audios,
    )


def audioldm2() -> tuple[Any, Callable[[], Tensor]]:
    torch.manual_seed(4)
    config = transformers.T5Config(vocab_size=64, d_model=24, d_kv=8, d_ff=16, num_layers=1, num_heads=2)
    names = ("text_encoder", "projection_model", "tokenizer", "tokenizer_2", "feature_extractor")
    sizes: dict[str, Any] = {"n_embd": 16, "n_head": 2, "n_layer": 1, "vocab_size": 64, "n_ctx": 99}
    language = transformers.GPT2Config(**sizes)
    pipeline = diffusers.AudioLDM2Pipeline(
        vae=autoencoder(1),
        text_encoder_2=transformers.T5EncoderModel(config),
        language_model=transformers.GPT2LMHeadModel(language),
        unet=BY_NAME["AudioLDM2UNet2DConditionModel"].build(),
        scheduler=scheduler(),
        vocoder=vocoder(),
        **dict.fromkeys(names),
    )
    pipeline.set_progress_bar_config(disable=True)
    pipeline.to(torch.float64)  # two steps with random weights enlarge the rounding of float32
    given = {
        **prompts(TEXT, 24),
        "generated_prompt_embeds": normal(1, 5, 16, seed=7).double(),
        "negative_generated_prompt_embeds": normal(1, 5, 16, seed=8).double(),
        "attention_mask": torch.ones(1, TEXT, dtype=torch.long),
        "negative_attention_mask": torch.ones(1, TEXT, dtype=torch.long),
    }
    seed = torch.Generator()
    return pipeline, lambda: pipeline(**given, audio_length_in_s=0.004, generator=seed.manual_seed(0), **STEPS).audios


PIPELINES = {
    "UNet2DConditionModel": stable_diffusion,
    "UNet2DConditionModel of DeepFloyd IF": deepfloyd_if,
    "UNet2DConditionModel of AudioLDM": audioldm,
    "AudioLDM2UNet2DConditionModel": audioldm2,
}


@pytest.mark.parametrize("name", PIPELINES)
def test_a_pipeline_gives_what_the_definition_gives(name):
    pipeline, result = PIPELINES[name]()
    plain = torch.as_tensor(result())
    with by_definition(BY_NAME[name], 1.5, 2.0) as counts:
        wanted = torch.as_tensor(result())
    assert counts["skewed"] == 2 * BY_NAME[name].layers
    set_skew_attention(pipeline.unet, 1.5, 2.0)
    assert relative_error(wanted, plain) > 1e-4
    assert relative_error(torch.as_tensor(result()) - plain, wanted - plain) < 1e-6
    set_skew_attention(pipeline.unet, 1.0)
    assert torch.equal(torch.as_tensor(result()), plain)


def test_gamma_stays_in_a_pipeline_with_perturbed_attention_guidance():
    """The pipeline replaces processors in each run, and puts back what it found."""
    pipeline, picture = stable_diffusion("StableDiffusionPAGPipeline", pag_applied_layers=["mid"])
    plain = picture(pag_scale=2.0)
    with by_definition(BY_NAME["UNet2DConditionModel"], 1.5, 2.0):
        wanted = picture(pag_scale=2.0)
    set_skew_attention(pipeline.unet, 1.5, 2.0)
    assert relative_error(picture(pag_scale=2.0) - plain, wanted - plain) < 1e-6
    set_skew_attention(pipeline.unet, 1.0)
    assert torch.equal(picture(pag_scale=2.0), plain)
