"""One tiny model of every family ComfyUI hosts, with random weights, and the classes of those that are refused.

Every row says by itself, from the model's papers and code and not from the pack, which modules make the calls that are
to be skewed, and where the image is among their tokens. docs/support.md is written from these rows.
"""

from __future__ import annotations

import gc
import importlib
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields, replace

import comfy.model_management
import comfy.supported_models
import torch
from comfy.model_patcher import ModelPatcher
from torch import Tensor

from lab.testing.families.tiny import SHARPNESS, Family, draw

QK_NORM = re.compile(
    r"(^|\.)(norm_(added_)?[qk]|[qk]_?norm(_[xyt1-9])?|[qk]_rms_norm(_t)?|(query|key)_norm|knorm|qnorm|ln_[qk]"
    r"|(img|txt)_attn_[qk]_norm|to_[qk]\.1)(\.|$)"
)


@dataclass(frozen=True)
class Hosted(Family):
    """A row of the support table.

    Attributes:
        config_class: in `comfy.supported_models`.
        paths: by address, the module whose attention calls are the site's.
        asked: addresses of sites that act only when they are named, and their modules.
        calls: skewed attention calls of one model call.
        extra: more of the conditioning, made from the name of the text.
        latents: shapes of the parts of a nested latent, without the batch.
        cfg: 1 where the family has no unconditional pass.
        edge: how many tokens that do not depend on the text stand between it and the image at the first joint site;
            None where no site sees both.
        text_modulates: whether the text moves the image tokens before any attention, as a mean over its tokens.
        with_input: whether the sites show their input, so that every norm works.
        from_picture: whether sampling starts from the latent instead of from noise.
        frames: samples of a latent that are the frames of one video.
        least_deviation: of the logits; 1 wherever the weights can bring them there.
        textless_uncond: whether the unconditional pass gets no text at all.
    """

    config_class: str = ""
    paths: Mapping[str, str] = field(default_factory=dict)
    asked: Mapping[str, str] = field(default_factory=dict)
    calls: int = 0
    extra: Callable[[str], dict] = lambda name: {}
    latents: tuple[tuple[int, ...], ...] = ()
    cfg: float = 3.0
    edge: int | None = None
    text_modulates: bool = False
    with_input: bool = False
    frames: int = 1
    from_picture: bool = False
    least_deviation: float = 1.0
    textless_uncond: bool = False

    @property
    def has_reference(self) -> bool:
        """Whether a part of the image tokens is a picture that is given."""
        return "reference_latents" in self.extra("cond")

    def site_of(self, path: str) -> str | None:
        """The address of the site to which a module belongs, if it does to one."""
        for address, site in {**self.paths, **self.asked}.items():
            if path == site or path.startswith(f"{site}."):
                return address
        return None

    def forget(self) -> None:
        """Let go of the model, in the host as well, which warns of models that vanish while they are loaded."""
        comfy.model_management.unload_all_models()
        self.__dict__.pop("model", None)
        gc.collect()

    def with_text(self, tokens: int) -> Hosted:
        """The same family with so many tokens of text, and a model of its own."""
        return replace(self, text=(tokens, self.text[1]))

    def noise(self, batch: int = 1) -> Tensor:
        if not self.latents:
            return super().noise(max(batch, self.frames))
        from comfy.nested_tensor import NestedTensor

        return NestedTensor([draw(f"noise {shape} of {self.name}", (batch, *shape)) for shape in self.latents])

    def start(self, rows: Iterable[int]) -> dict:
        """Noise, and where it is needed the latent, to sample these rows of a batch."""
        rows = list(rows)
        noise = self.noise(max(rows) + 1)
        if self.latents:
            return {"noise": type(noise)([part[rows] for part in noise.unbind()])}
        picture = {"latent": self.picture_to_start_from().repeat(len(rows), 1, 1, 1, 1)} if self.from_picture else {}
        return {"noise": noise[rows], **picture}

    def picture_to_start_from(self) -> Tensor:
        return draw(f"picture of {self.name}", (1, *self.latent))

    def conditioning(self, name: str, **extra) -> list:
        (text, options), *_ = super().conditioning(name, **{**self.extra(name), **extra})
        return [[None if self.textless_uncond and name == "uncond" else text, options]]

    def sample(self, model: ModelPatcher | None = None, **options) -> Tensor:
        if self.from_picture:
            options.setdefault("latent", self.picture_to_start_from())
        if self.latents and "latent" not in options:
            from comfy.nested_tensor import NestedTensor

            noise = options.setdefault("noise", self.noise())
            options["latent"] = NestedTensor([torch.zeros_like(part) for part in noise.unbind()])
        result = super().sample(model, **{"cfg": self.cfg, "steps": 1, **options})
        return torch.cat([part.flatten(1) for part in result.unbind()], dim=1) if self.latents else result


def fill(name: str, model: torch.nn.Module, sharp: float) -> None:
    """Weights that keep the size of what flows through them, norms near 1, queries and keys that tell tokens apart."""
    persistent = set(model.state_dict())
    with torch.no_grad():
        for path, weight in model.named_parameters():
            drawn = draw(f"{name} {path}", weight.shape)
            if weight.dim() > 1:
                weight.copy_(drawn / weight[0].numel() ** 0.5)
            else:
                weight.copy_(drawn * 0.02 + (not path.endswith("bias")))
            if QK_NORM.search(path.rpartition(".")[0]) and path.endswith(("weight", "gamma")):
                weight.copy_((1 + drawn * 0.02) * SHARPNESS * sharp)
        for path, buffer in model.named_buffers():
            if path in persistent and buffer.is_floating_point() and path.startswith("diffusion_model"):
                buffer.copy_(draw(f"{name} {path}", buffer.shape))
    tensors = [*model.named_parameters(), *model.named_buffers()]
    for path, tensor in tensors:
        assert not tensor.is_floating_point() or tensor.isfinite().all(), path


def hosted(
    config_class: str,
    config: dict,
    *,
    paths: Mapping[str, str],
    name: str | None = None,
    weights: Callable[[], dict] = dict,
    sharp: float = 1.0,
    fields_of: str = "",
    sharpen: str = "",
    soften: str = "",
    text: tuple[int, int] = (10, 48),
    latent: tuple[int, ...] = (16, 8, 8),
    pooled: int | None = None,
    image_tokens: int | None = None,
    **row,
) -> Hosted:
    """A row for the family `config_class` of `comfy.supported_models`.

    Args:
        fields_of: a dataclass below `comfy.ldm`; what it has no field for is left out of `config`, for older hosts.
        sharp: factor on the weights of the norms of queries and keys.
        sharpen: names of query and key weights to scale by 1.7 where there are no such norms.
        soften: names of weights to scale by 0.3, where so many blocks follow each other that all tokens become one.
        weights: of modules outside of the network, which its constructor reads.
    """
    name = name or config_class

    def build(dtype: torch.dtype = torch.float32) -> ModelPatcher:
        supported = getattr(comfy.supported_models, config_class)
        known = {each.name for each in fields(host_class(fields_of))} | {"image_model"} if fields_of else set(config)
        options = {key: value for key, value in config.items() if key in known}
        settings = type(config_class, (supported,), {"unet_extra_config": {}})(options)
        settings.set_inference_dtype(dtype, None)
        model = settings.get_model(weights(), "")
        fill(name, model, sharp)
        with torch.no_grad():
            for path, weight in model.named_parameters():
                if sharpen and re.search(sharpen, path):
                    weight.mul_(1.7)
                if soften and re.search(soften, path):
                    weight.mul_(0.3)
        cpu = torch.device("cpu")
        return ModelPatcher(model, load_device=cpu, offload_device=cpu)

    row = {"calls": len(paths), "edge": None if image_tokens is None else 0, **row}
    return Hosted(
        name, build, latent, text, pooled, image_tokens, tuple(paths), config_class=config_class, paths=paths, **row
    )


def each(stem: str, path: str, count: int) -> dict[str, str]:
    """Addresses `stem.0 …` and the modules `path` with the number in the place of `#`."""
    return {f"{stem}.{index}": path.replace("#", str(index)) for index in range(count)}


def mask_of_ones(length: int) -> Callable[[str], dict]:
    return lambda name: {"attention_mask": torch.ones(1, length, dtype=torch.long)}


def a_reference(shape: tuple[int, ...]) -> Callable[[str], dict]:
    return lambda name: {"reference_latents": [draw("reference", (1, *shape))]}


def padded(length: int, kept: int) -> dict:
    mask = torch.zeros(1, length, dtype=torch.long)
    mask[:, :kept] = 1
    return {"attention_mask": mask}


FLUX = {
    "image_model": "flux",
    "in_channels": 16,
    "out_channels": 16,
    "hidden_size": 64,
    "num_heads": 2,
    "mlp_ratio": 4.0,
    "depth": 1,
    "depth_single_blocks": 2,
    "axes_dim": [8, 12, 12],
    "theta": 10000,
    "vec_in_dim": 32,
    "context_in_dim": 48,
    "guidance_embed": False,
    "qkv_bias": True,
    "patch_size": 2,
    "txt_ids_dims": [],
}
FLUX2 = {
    **FLUX,
    "image_model": "flux2",
    "in_channels": 128,
    "out_channels": 128,
    "patch_size": 1,
    "axes_dim": [8, 8, 8, 8],
    "vec_in_dim": None,
    "qkv_bias": False,
    "global_modulation": True,
    "mlp_silu_act": True,
    "ops_bias": False,
    "txt_ids_dims": [3],
    "theta": 2000,
}
LONGCAT = {**FLUX, "vec_in_dim": None, "context_in_dim": 3584, "txt_ids_dims": [1, 2], "depth_single_blocks": 1}
CHROMA = {
    "image_model": "chroma",
    "in_channels": 64,
    "out_channels": 64,
    "hidden_size": 64,
    "hidden_dim": 64,
    "n_layers": 2,
    "num_heads": 2,
    "mlp_ratio": 4.0,
    "in_dim": 64,
    "out_dim": 64,
    "depth": 19,
    "depth_single_blocks": 38,
    "axes_dim": [8, 12, 12],
    "theta": 10000,
    "context_in_dim": 48,
    "vec_in_dim": None,
    "txt_ids_dims": [],
    "qkv_bias": True,
    "patch_size": 2,
}
RADIANCE = {
    **CHROMA,
    "image_model": "chroma_radiance",
    "in_channels": 3,
    "out_channels": 3,
    "patch_size": 4,
    "nerf_hidden_size": 16,
    "nerf_mlp_ratio": 2,
    "nerf_depth": 1,
    "nerf_max_freqs": 4,
    "nerf_tile_size": 0,
    "nerf_final_head_type": "conv",
    "nerf_embedder_dtype": torch.float32,
    "use_x0": False,
    "use_sequential_txt_ids": False,
}
HUNYUAN_VIDEO = {
    "image_model": "hunyuan_video",
    "in_channels": 16,
    "out_channels": 16,
    "hidden_size": 128,
    "num_heads": 1,
    "mlp_ratio": 4.0,
    "depth": 1,
    "depth_single_blocks": 2,
    "axes_dim": [16, 56, 56],
    "theta": 256,
    "vec_in_dim": 768,
    "context_in_dim": 48,
    "qkv_bias": True,
    "guidance_embed": True,
    "patch_size": [1, 2, 2],
    "byt5": False,
    "meanflow": False,
    "use_cond_type_embedding": False,
    "vision_in_dim": None,
    "meanflow_sum": False,
}
HUNYUAN_VIDEO_15 = {
    **HUNYUAN_VIDEO,
    "in_channels": 65,
    "out_channels": 32,
    "patch_size": [1, 1, 1],
    "depth": 2,
    "depth_single_blocks": 0,
    "vec_in_dim": None,
    "guidance_embed": False,
    "byt5": True,
    "use_cond_type_embedding": True,
    "vision_in_dim": 1152,
}
HUNYUAN_IMAGE = {**HUNYUAN_VIDEO, "in_channels": 64, "out_channels": 64, "patch_size": [1, 1], "byt5": True}
HUNYUAN_IMAGE = {**HUNYUAN_IMAGE, "axes_dim": [64, 64], "vec_in_dim": None, "guidance_embed": False}
HUNYUAN_3D = {
    "image_model": "hunyuan3d2",
    "in_channels": 64,
    "context_in_dim": 48,
    "hidden_size": 128,
    "mlp_ratio": 4.0,
    "num_heads": 16,
    "depth": 1,
    "depth_single_blocks": 2,
    "qkv_bias": True,
    "guidance_embed": False,
}
LUMINA = {
    "image_model": "lumina2",
    "patch_size": 2,
    "in_channels": 16,
    "dim": 96,
    "n_heads": 4,
    "n_kv_heads": 2,
    "n_layers": 2,
    "n_refiner_layers": 1,
    "axes_dims": [8, 8, 8],
    "axes_lens": [300, 512, 512],
    "cap_feat_dim": 48,
    "qk_norm": True,
    "rope_theta": 10000.0,
    "ffn_dim_multiplier": 4.0,
}
Z_IMAGE = {
    **LUMINA,
    "dim": 256,
    "n_heads": 4,
    "n_kv_heads": 4,
    "axes_dims": [16, 24, 24],
    "z_image_modulation": True,
    "time_scale": 1000.0,
    "pad_tokens_multiple": 32,
}
OMNIGEN2 = {
    "image_model": "omnigen2",
    "patch_size": 2,
    "in_channels": 16,
    "hidden_size": 96,
    "num_layers": 2,
    "num_refiner_layers": 1,
    "num_attention_heads": 4,
    "num_kv_heads": 2,
    "axes_dim_rope": [8, 8, 8],
    "text_feat_dim": 48,
    "multiple_of": 32,
    "timestep_scale": 1000.0,
}
BOOGU = {key: value for key, value in OMNIGEN2.items() if key != "text_feat_dim"}
BOOGU |= {"image_model": "boogu", "num_double_stream_layers": 1, "num_layers": 1, "instruction_feat_dim": 48}
HIDREAM = {
    "image_model": "hidream",
    "patch_size": 2,
    "in_channels": 16,
    "out_channels": 16,
    "attention_head_dim": 32,
    "num_attention_heads": 2,
    "axes_dims_rope": (16, 8, 8),
    "caption_channels": [48, 48],
    "llama_layers": [0, 1, 1],
    "num_layers": 1,
    "num_single_layers": 2,
    "text_emb_dim": 40,
    "num_routed_experts": 2,
    "num_activated_experts": 1,
    "max_resolution": (128, 128),
}
QWEN = {
    "image_model": "qwen_image",
    "attention_head_dim": 32,
    "num_attention_heads": 2,
    "num_layers": 2,
    "joint_attention_dim": 48,
    "axes_dims_rope": (8, 12, 12),
    "in_channels": 64,
}
COSMOS = {
    "in_channels": 16,
    "out_channels": 16,
    "patch_spatial": 2,
    "patch_temporal": 1,
    "model_channels": 96,
    "num_heads": 4,
    "num_blocks": 2,
    "crossattn_emb_channels": 48,
    "adaln_lora_dim": 16,
    "use_adaln_lora": True,
    "pos_emb_cls": "rope3d",
    "pos_emb_learnable": False,
    "pos_emb_interpolation": "crop",
    "max_img_h": 64,
    "max_img_w": 64,
    "max_frames": 16,
    "concat_padding_mask": True,
}
COSMOS_1 = {
    "block_x_format": "THWBD",
    "affline_emb_norm": True,
    "extra_per_block_abs_pos_emb": True,
    "extra_per_block_abs_pos_emb_type": "learnable",
}
WAN = {
    "image_model": "wan2.1",
    "model_type": "t2v",
    "dim": 128,
    "ffn_dim": 128,
    "num_heads": 1,
    "num_layers": 2,
    "in_dim": 16,
    "out_dim": 16,
    "patch_size": (1, 2, 2),
    "text_dim": 4096,
    "freq_dim": 256,
    "cross_attn_norm": True,
    "eps": 1e-6,
    "qk_norm": True,
    "window_size": (-1, -1),
    "text_len": 512,
}
LTXV = {
    "image_model": "ltxv",
    "in_channels": 128,
    "cross_attention_dim": 64,
    "attention_head_dim": 16,
    "num_attention_heads": 4,
    "caption_channels": 48,
    "num_layers": 2,
}
LTXAV = {
    **LTXV,
    "image_model": "ltxav",
    "caption_channels": 32,
    "audio_num_attention_heads": 4,
    "audio_attention_head_dim": 8,
    "audio_in_channels": 128,
    "audio_cross_attention_dim": 32,
    "connector_attention_head_dim": 16,
    "connector_num_attention_heads": 2,
    "connector_num_layers": 1,
}
KANDINSKY = {
    "image_model": "kandinsky5",
    "in_visual_dim": 16,
    "out_visual_dim": 16,
    "in_text_dim": 3584,
    "in_text_dim2": 768,
    "time_dim": 64,
    "model_dim": 128,
    "ff_dim": 128,
    "num_text_blocks": 1,
    "num_visual_blocks": 2,
    "axes_dims": (16, 24, 24),
    "visual_embed_dim": 132,
}
LENS = {
    "image_model": "lens",
    "attention_head_dim": 32,
    "num_attention_heads": 2,
    "num_layers": 2,
    "enc_hidden_dim": 48,
    "axes_dims_rope": (8, 12, 12),
    "in_channels": 128,
    "out_channels": 32,
}
KREA2 = {
    "image_model": "krea2",
    "features": 128,
    "tdim": 32,
    "txtdim": 48,
    "heads": 4,
    "kvheads": 2,
    "multiplier": 2,
    "layers": 2,
    "txtlayers": 3,
    "txtheads": 4,
    "txtkvheads": 4,
}
IDEOGRAM4 = {
    "image_model": "ideogram4",
    "attention_head_dim": 32,
    "num_attention_heads": 2,
    "num_layers": 2,
    "intermediate_size": 64,
    "adaln_dim": 32,
    "llm_features_dim": 48,
    "mrope_section": [6, 5, 5],
    "in_channels": 128,
}
COGVIDEO = {
    "image_model": "cogvideox",
    "num_attention_heads": 2,
    "attention_head_dim": 64,
    "num_layers": 2,
    "in_channels": 16,
    "out_channels": 16,
    "time_embed_dim": 32,
    "text_embed_dim": 48,
    "sample_height": 8,
    "sample_width": 8,
    "sample_frames": 5,
    "use_rotary_positional_embeddings": True,
    "max_text_seq_length": 12,
    "patch_size": 2,
}
JOYIMAGE = {"image_model": "joyimage", "hidden_size": 128, "num_attention_heads": 1, "num_layers": 2, "text_dim": 48}
PIXELDIT = {
    "image_model": "pixeldit_t2i",
    "num_groups": 2,
    "hidden_size": 64,
    "pixel_hidden_size": 8,
    "pixel_attn_hidden_size": 32,
    "pixel_num_groups": 2,
    "patch_depth": 2,
    "pixel_depth": 1,
    "txt_embed_dim": 48,
    "txt_max_length": 12,
}
TRIPOSPLAT = {
    "image_model": "triposplat",
    "q_token_length": 16,
    "model_channels": 128,
    "cond_channels": 48,
    "num_blocks": 2,
    "num_refiner_blocks": 1,
}
MINIMAX = {
    "image_model": "minimax_h3",
    "hidden_size": 128,
    "num_attention_heads": 1,
    "attention_head_dim": 128,
    "num_layers": 2,
    "token_refiner_num_layers": 1,
    "ffn_hidden_size": 64,
    "text_dim": 48,
    "time_embed_hidden_size": 64,
    "time_embed_dim": 32,
}
AURA = {"dim": 64, "n_heads": 2, "n_double_layers": 1, "n_layers": 3, "cond_seq_dim": 48, "max_seq": 1024}
MOCHI = {
    "image_model": "mochi_preview",
    "depth": 2,
    "num_heads": 2,
    "hidden_size_x": 96,
    "hidden_size_y": 48,
    "mlp_ratio_x": 128.0,
    "mlp_ratio_y": 4.0,
    "learn_sigma": False,
    "in_channels": 12,
    "qk_norm": True,
    "qkv_bias": False,
    "out_bias": True,
    "patch_embed_bias": True,
    "posenc_preserve_area": True,
    "timestep_mlp_bias": True,
    "attend_to_padding": False,
    "timestep_scale": 1000.0,
    "use_t5": True,
    "t5_feat_dim": 64,
    "t5_token_length": 256,
    "rope_theta": 10000.0,
    "patch_size": 2,
}
STABLE_AUDIO = {
    "audio_model": "dit1.0",
    "embed_dim": 64,
    "num_heads": 2,
    "depth": 2,
    "io_channels": 8,
    "cond_token_dim": 768,
    "project_cond_tokens": True,
    "global_cond_dim": 1536,
}


STABLE_AUDIO_3 = {
    **STABLE_AUDIO,
    "global_cond_dim": 768,
    "num_memory_tokens": 3,
    "attn_kwargs": {"qk_norm": "rms", "differential": True},
    "norm_type": "rms_norm",
    "timestep_features_type": "expo",
    "local_add_cond_dim": 9,
    "global_cond_shared_embed": True,
    "global_cond_type": "adaLN",
}


def number_conditioner(**features) -> dict:
    """Weights of Stable Audio's embedding of seconds, which its constructor wants."""
    from comfy.ldm.audio.embedders import NumberConditioner

    state = NumberConditioner(768, min_val=0, max_val=512, **features).state_dict()
    filled = {key: draw(f"seconds {key}", value.shape) * 0.05 for key, value in state.items()}
    return {
        f"conditioner.conditioners.{name}.{key}": value
        for name in ("seconds_start", "seconds_total")
        for key, value in filled.items()
    }


def vision(name: str):
    """What a CLIP vision model gives for a picture."""
    from types import SimpleNamespace

    return SimpleNamespace(penultimate_hidden_states=draw(f"picture {name}", (1, 257, 1280)), all_hidden_states=None)


TEXT = "the image tokens, text aside"
VIDEO = "the video tokens, text aside"
DOUBLE_SINGLE = {**each("double", "double_blocks.#", 1), **each("single", "single_blocks.#", 2)}
UNET_SVD = {
    "image_size": 32,
    "in_channels": 8,
    "out_channels": 4,
    "use_spatial_transformer": True,
    "legacy": False,
    "model_channels": 64,
    "num_res_blocks": [1, 1],
    "channel_mult": [1, 2],
    "transformer_depth": [1, 1],
    "transformer_depth_output": [1, 1, 1, 1],
    "transformer_depth_middle": 1,
    "context_dim": 64,
    "use_linear_in_transformer": True,
    "num_classes": "sequential",
    "adm_in_channels": 768,
    "num_head_channels": 32,
    "num_heads": -1,
    "use_temporal_resblock": True,
    "use_temporal_attention": True,
    "use_spatial_context": True,
    "extra_ff_mix_layer": True,
    "merge_strategy": "learned_with_images",
    "merge_factor": 0.0,
    "video_kernel_size": [3, 1, 1],
}
UNET_SD2 = {
    "image_size": 32,
    "in_channels": 4,
    "out_channels": 4,
    "use_spatial_transformer": True,
    "legacy": False,
    "model_channels": 64,
    "num_res_blocks": [1, 1],
    "channel_mult": [1, 2],
    "transformer_depth": [1, 1],
    "transformer_depth_output": [1, 1, 1, 1],
    "transformer_depth_middle": 1,
    "context_dim": 64,
    "use_linear_in_transformer": True,
    "adm_in_channels": None,
    "use_temporal_attention": False,
    "num_head_channels": 32,
    "num_heads": -1,
}
SVD_PLACES = {
    "input.1": "input_blocks.1.1",
    "input.3": "input_blocks.3.1",
    "middle.0": "middle_block.1",
    **{f"output.{index}": f"output_blocks.{index}.1" for index in range(4)},
}

ROWS = (
    hosted(
        "SD20",
        UNET_SD2,
        paths={f"{address}.0": f"{path}.transformer_blocks.0.attn1" for address, path in SVD_PLACES.items()},
        latent=(4, 8, 8),
        text=(77, 64),
        sharpen=r"attn1\.to_[qk]\.",
        covers=("LotusD", "SD21UnclipL", "SD21UnclipH", "SD_X4Upscaler"),
        with_input=True,
    ),
    hosted(
        "SVD_img2vid",
        UNET_SVD,
        paths={
            f"{address}.0{suffix}": f"{path}.{inner}.0.attn1"
            for address, path in SVD_PLACES.items()
            for suffix, inner in (("", "transformer_blocks"), (".time", "time_stack"))
        },
        latent=(4, 8, 8),
        text=(1, 64),
        pooled=1280,
        sharpen=r"attn1\.to_[qk]\.",
        extra=lambda name: {"concat_latent_image": draw(f"first frame {name}", (1, 4, 8, 8))},
        acts_on="the pixels of a frame; the frames of a pixel at the sites called `time`",
        covers=("SV3D_u", "SV3D_p"),
        with_input=True,
        frames=4,
    ),
    hosted(
        "Flux2",
        FLUX2,
        paths=DOUBLE_SINGLE,
        latent=(128, 4, 4),
        image_tokens=16,
        sharp=2.0,
        acts_on=TEXT,
        notes="reference images count as image",
    ),
    hosted(
        "LongCatImage",
        LONGCAT,
        paths={"double.0": "double_blocks.0", "single.0": "single_blocks.0"},
        text=(10, 3584),
        image_tokens=16,
        acts_on=TEXT,
    ),
    hosted(
        "Chroma",
        CHROMA,
        soften=r"(_attn\.proj|linear2|mlp\.2|distilled_guidance_layer\.out_proj)\.",
        paths={**each("double", "double_blocks.#", 19), **each("single", "single_blocks.#", 38)},
        image_tokens=16,
        acts_on=TEXT,
    ),
    hosted(
        "ChromaRadiance",
        RADIANCE,
        fields_of="chroma_radiance.model.ChromaRadianceParams",
        soften=r"(_attn\.proj|linear2|mlp\.2|distilled_guidance_layer\.out_proj)\.",
        paths={**each("double", "double_blocks.#", 19), **each("single", "single_blocks.#", 38)},
        latent=(3, 16, 16),
        image_tokens=16,
        acts_on=TEXT,
    ),
    hosted(
        "AuraFlow",
        AURA,
        paths={**each("double", "double_layers.#.attn", 1), **each("single", "single_layers.#.attn", 2)},
        latent=(4, 16, 16),
        image_tokens=64,
        acts_on=TEXT,
        notes="register tokens count as text",
        least_deviation=0.9,  # its norms of queries and keys have no weights
    ),
    hosted(
        "Lumina2",
        LUMINA,
        paths={
            **each("image_refiner", "noise_refiner.#.attention", 1),
            **each("layers", "layers.#.attention", 2),
        },
        asked=each("text_refiner", "context_refiner.#.attention", 1),
        image_tokens=16,
        extra=mask_of_ones(10),
        acts_on=TEXT,
    ),
    hosted(
        "ZImage",
        Z_IMAGE,
        paths={
            **each("image_refiner", "noise_refiner.#.attention", 1),
            **each("layers", "layers.#.attention", 2),
        },
        asked=each("text_refiner", "context_refiner.#.attention", 1),
        image_tokens=32,
        acts_on=TEXT,
        notes="the tokens that pad the image to a multiple of 32 take part",
    ),
    hosted(
        "ZImagePixelSpace",
        {**Z_IMAGE, "image_model": "zimage_pixel", "in_channels": 3, "patch_size": 4, "decoder_hidden_size": 32},
        paths={
            **each("image_refiner", "noise_refiner.#.attention", 1),
            **each("layers", "layers.#.attention", 2),
        },
        asked=each("text_refiner", "context_refiner.#.attention", 1),
        latent=(3, 16, 16),
        image_tokens=32,
        acts_on=TEXT,
        notes="the tokens that pad the image to a multiple of 32 take part",
    ),
    hosted(
        "HiDream",
        HIDREAM,
        paths={
            **each("double", "double_stream_blocks.#.block.attn1", 1),
            **each("single", "single_stream_blocks.#.block.attn1", 2),
        },
        latent=(16, 16, 16),
        text=(12, 48),
        pooled=40,
        image_tokens=64,
        image_first=True,
        extra=lambda name: {"conditioning_llama3": draw(f"llama {name}", (1, 2, 12, 48))},
        acts_on=TEXT,
    ),
    hosted(
        "QwenImage",
        QWEN,
        paths=each("blocks", "transformer_blocks.#.attn", 2),
        latent=(16, 1, 8, 8),
        image_tokens=16,
        acts_on=TEXT,
        notes="reference images count as image",
    ),
    hosted(
        "QwenImage",
        QWEN,
        name="QwenImage with a reference",
        paths=each("blocks", "transformer_blocks.#.attn", 2),
        latent=(16, 1, 8, 8),
        image_tokens=32,
        extra=a_reference((16, 1, 8, 8)),
        acts_on=TEXT,
        notes="reference images count as image",
    ),
    hosted(
        "MageFlow",
        {**QWEN, "image_model": "mage_flow", "in_channels": 128, "out_channels": 128},
        paths=each("blocks", "transformer_blocks.#.attn", 2),
        latent=(128, 4, 4),
        image_tokens=16,
        acts_on=TEXT,
        notes="reference images count as image",
    ),
    hosted(
        "Omnigen2",
        OMNIGEN2,
        paths={
            **each("image_refiner", "noise_refiner.#.attn", 1),
            **each("reference_refiner", "ref_image_refiner.#.attn", 1),
            **each("layers", "layers.#.attn", 2),
        },
        asked=each("text_refiner", "context_refiner.#.attn", 1),
        image_tokens=32,
        extra=lambda name: {**mask_of_ones(10)(name), **a_reference((16, 8, 8))(name)},
        acts_on=TEXT,
        notes="reference images count as image; their refiner is reached when there are some",
    ),
    hosted(
        "Boogu",
        BOOGU,
        paths={
            **each("image_refiner", "noise_refiner.#.attn", 1),
            **each("reference_refiner", "ref_image_refiner.#.attn", 1),
            **each("double", "double_stream_layers.#.img_instruct_attn", 1),
            **each("image", "double_stream_layers.#.img_self_attn", 1),
            **each("single", "single_stream_layers.#.attn", 1),
        },
        asked=each("text_refiner", "context_refiner.#.attn", 1),
        image_tokens=32,
        extra=lambda name: {**mask_of_ones(10)(name), **a_reference((16, 8, 8))(name)},
        acts_on=TEXT,
        notes="reference images count as image; their refiner is reached when there are some",
    ),
    hosted(
        "CosmosT2V",
        {**COSMOS, "image_model": "cosmos", **COSMOS_1},
        paths={f"blocks.{index}.0": f"blocks.block{index}.blocks.0.block.attn" for index in range(2)},
        latent=(16, 1, 8, 8),
        text=(12, 48),
        covers=("CosmosI2V",),
    ),
    hosted(
        "CosmosT2IPredict2",
        {**COSMOS, "image_model": "cosmos_predict2"},
        paths=each("blocks", "blocks.#.self_attn", 2),
        latent=(16, 1, 8, 8),
        text=(12, 48),
        covers=("CosmosI2VPredict2",),
    ),
    hosted(
        "Anima",
        {
            **COSMOS,
            "image_model": "anima",
            "model_channels": 128,
            "num_heads": 1,
            "num_blocks": 1,
            "crossattn_emb_channels": 1024,
        },
        paths=each("blocks", "blocks.#.self_attn", 1),
        latent=(16, 1, 8, 8),
        text=(12, 1024),
        extra=lambda name: {"t5xxl_ids": torch.arange(12) + len(name), "t5xxl_weights": torch.ones(12)},
    ),
    hosted(
        "HunyuanVideo",
        HUNYUAN_VIDEO,
        paths=DOUBLE_SINGLE,
        asked=each("text_refiner", "txt_in.individual_token_refiner.blocks.#", 2),
        latent=(16, 2, 8, 8),
        text=(12, 48),
        pooled=768,
        image_tokens=32,
        extra=lambda name: padded(12, 9),
        cfg=1.0,
        acts_on=VIDEO,
        covers=("HunyuanVideoI2V", "HunyuanVideoSkyreelsI2V"),
    ),
    hosted(
        "HunyuanVideo15",
        HUNYUAN_VIDEO_15,
        paths=each("double", "double_blocks.#", 2),
        asked=each("text_refiner", "txt_in.individual_token_refiner.blocks.#", 2),
        latent=(32, 2, 4, 4),
        text=(12, 48),
        image_tokens=32,
        extra=lambda name: {"conditioning_byt5small": draw(f"letters {name}", (1, 5, 1472)), "pooled_output": None},
        acts_on="the video tokens, text, letters and vision aside",
        covers=("HunyuanVideo15_SR_Distilled",),
    ),
    hosted(
        "HunyuanImage21",
        HUNYUAN_IMAGE,
        paths=DOUBLE_SINGLE,
        asked=each("text_refiner", "txt_in.individual_token_refiner.blocks.#", 2),
        latent=(64, 4, 4),
        text=(12, 48),
        image_tokens=16,
        extra=lambda name: {"conditioning_byt5small": draw(f"letters {name}", (1, 5, 1472))},
        acts_on="the image tokens, text and letters aside",
        covers=("HunyuanImage21Refiner",),
    ),
    hosted(
        "Hunyuan3Dv2",
        HUNYUAN_3D,
        paths=DOUBLE_SINGLE,
        latent=(64, 32),
        text=(12, 48),
        image_tokens=32,
        acts_on="the shape's latent tokens, the picture aside",
        covers=("Hunyuan3Dv2mini",),
    ),
    hosted(
        "LTXV",
        LTXV,
        paths=each("blocks", "transformer_blocks.#.attn1", 2),
        latent=(128, 2, 4, 4),
        text=(12, 48),
        extra=lambda name: {"frame_rate": 25, **padded(12, 9)},
        notes="in 0.33.0 a guide of a strength other than 1 splits the queries; those calls are left as they are",
        with_input=True,
    ),
    hosted(
        "LTXAV",
        LTXAV,
        paths={
            **each("blocks", "transformer_blocks.#.attn1", 2),
            **each("audio", "transformer_blocks.#.audio_attn1", 2),
        },
        latents=((128, 2, 4, 4), (8, 6, 16)),
        text=(12, 64),
        extra=lambda name: {"frame_rate": 25},
        acts_on="the video tokens at `blocks`, the audio tokens at `audio`",
        notes="the groups `video` and `audio` choose one of the two; two nodes give each a gamma of its own",
        with_input=True,
    ),
    hosted(
        "GenmoMochi",
        MOCHI,
        paths=each("blocks", "blocks.#.attn", 2),
        latent=(12, 2, 8, 8),
        text=(16, 64),
        image_tokens=32,
        image_first=True,
        extra=lambda name: padded(16, 11),
        text_modulates=True,
        acts_on=VIDEO,
    ),
    hosted(
        "WAN21_T2V",
        WAN,
        paths=each("blocks", "blocks.#.self_attn", 2),
        latent=(16, 2, 8, 8),
        text=(12, 4096),
        with_input=True,
    ),
    *(
        hosted(
            name,
            {**WAN, **config},
            paths=each("blocks", "blocks.#.self_attn", 2),
            text=(12, 4096),
            with_input=True,
            **{"latent": (16, 2, 8, 8), **row},
        )
        for name, config, row in (
            ("WAN22_T2V", {"in_dim": 48, "out_dim": 48}, {"latent": (48, 2, 8, 8)}),
            ("WAN21_FunControl2V", {"in_dim": 48, "in_dim_ref_conv": 16}, {}),
            ("WAN21_FlowRVS", {}, {"from_picture": True}),
            ("WAN21_Camera", {"model_type": "camera", "in_dim": 32}, {}),
            ("WAN22_Camera", {"model_type": "camera_2.2", "in_dim": 36}, {}),
            ("WAN21_HuMo", {"model_type": "humo", "in_dim": 36}, {}),
            ("WAN22_S2V", {"model_type": "s2v", "audio_inject_layers": [0]}, {}),
            ("WAN22_Animate", {"model_type": "animate", "in_dim": 36}, {}),
            ("WAN21_SCAIL", {"model_type": "scail", "in_dim": 20}, {}),
            ("WAN21_SCAIL2", {"model_type": "scail2", "in_dim": 20}, {}),
            (
                "WAN22_WanDancer",
                {"model_type": "wandancer", "in_dim": 36},
                {"extra": lambda name: {"clip_vision_output": vision(name)}},
            ),
        )
    ),
    hosted(
        "WAN21_I2V",
        {**WAN, "model_type": "i2v", "in_dim": 36},
        paths=each("blocks", "blocks.#.self_attn", 2),
        latent=(16, 2, 8, 8),
        text=(12, 4096),
        extra=lambda name: {"clip_vision_output": vision(name)},
        with_input=True,
    ),
    hosted(
        "WAN21_Vace",
        {**WAN, "model_type": "vace", "vace_layers": 1, "vace_in_dim": 96},
        paths={**each("blocks", "blocks.#.self_attn", 2), **each("vace", "vace_blocks.#.self_attn", 1)},
        latent=(16, 2, 8, 8),
        text=(12, 4096),
        extra=lambda name: {
            "vace_frames": [draw(f"frames {name}", (1, 32, 2, 8, 8))],
            "vace_mask": [torch.ones(1, 64, 2, 8, 8)],
            "vace_strength": [1.0],
        },
        with_input=True,
    ),
    hosted(
        "WAN21_CausalAR_T2V",
        {**WAN, "causal_ar": True},
        paths=each("blocks", "blocks.#.self_attn", 2),
        latent=(16, 2, 8, 8),
        text=(12, 4096),
        notes="sampling frame by frame with a cache is left as it is: there the keys are those of earlier frames too",
    ),
    hosted(
        "Kandinsky5",
        KANDINSKY,
        paths=each("blocks", "visual_transformer_blocks.#.self_attention", 2),
        asked=each("text_refiner", "text_transformer_blocks.#.self_attention", 1),
        latent=(16, 2, 8, 8),
        text=(12, 3584),
        pooled=768,
        covers=("Kandinsky5Image",),
        with_input=True,
    ),
    hosted(
        "StableAudio",
        STABLE_AUDIO,
        paths=each("layers", "transformer.layers.#.self_attn", 2),
        latent=(8, 16),
        text=(10, 768),
        image_tokens=16,
        weights=number_conditioner,
        sharpen=r"self_attn\.to_qkv\.",
        extra=lambda name: {"seconds_start": len(name), "seconds_total": 30},
        acts_on="the audio tokens, the token of the global conditions aside",
        notes="that token is alone, so `gamma_text` does nothing",
    ),
    hosted(
        "StableAudio3",
        STABLE_AUDIO_3,
        paths=each("layers", "transformer.layers.#.self_attn", 2),
        calls=4,
        latent=(8, 16),
        text=(10, 768),
        image_tokens=16,
        weights=lambda: number_conditioner(fourier_features_type="expo"),
        extra=lambda name: {"seconds_total": 20 + len(name)},
        acts_on="the audio tokens, memory tokens aside",
        notes="each layer subtracts a second attention from the first, and γ acts in both",
        edge=None,
    ),
    hosted(
        "Lens",
        LENS,
        paths=each("blocks", "transformer_blocks.#.attn", 2),
        latent=(128, 4, 4),
        text=(10, 4 * 48),
        image_tokens=16,
        image_first=True,
        extra=lambda name: padded(10, 8),
        acts_on=TEXT,
    ),
    hosted(
        "Krea2",
        KREA2,
        paths=each("blocks", "blocks.#.attn", 2),
        asked=each("text_refiner", "txtfusion.refiner_blocks.#.attn", 2),
        latent=(16, 1, 8, 8),
        text=(10, 3 * 48),
        image_tokens=16,
        acts_on=TEXT,
        notes="reference images count as image",
    ),
    hosted(
        "Ideogram4",
        IDEOGRAM4,
        paths=each("layers", "layers.#.attention", 2),
        latent=(128, 4, 4),
        image_tokens=16,
        extra=lambda name: padded(10, 8),
        textless_uncond=True,
        edge=2,  # padding, masked
        acts_on=TEXT,
        notes="without text every token",
    ),
    hosted(
        "CogVideoX_T2V",
        COGVIDEO,
        paths=each("blocks", "blocks.#", 2),
        latent=(16, 2, 8, 8),
        text=(12, 48),
        image_tokens=32,
        acts_on=VIDEO,
        covers=("CogVideoX_I2V", "CogVideoX_Inpaint"),
    ),
    hosted(
        "JoyImage",
        JOYIMAGE,
        paths=each("double", "double_blocks.#.attn", 2),
        latent=(16, 1, 8, 8),
        image_tokens=16,
        image_first=True,
        acts_on=TEXT,
    ),
    hosted(
        "PixelDiTT2I",
        PIXELDIT,
        paths={**each("patches", "patch_blocks.#.attn", 2), **each("pixels", "pixel_blocks.#.attn", 1)},
        latent=(3, 64, 64),
        text=(12, 48),
        image_tokens=16,
        extra=mask_of_ones(12),
        acts_on=TEXT,
    ),
    hosted(
        "PiD",
        {**PIXELDIT, "image_model": "pid", "lq_hidden_dim": 16, "lq_num_res_blocks": 1},
        paths={**each("patches", "patch_blocks.#.attn", 2), **each("pixels", "pixel_blocks.#.attn", 1)},
        latent=(3, 64, 64),
        text=(12, 48),
        image_tokens=16,
        extra=lambda name: {
            **mask_of_ones(12)(name),
            "lq_latent": draw("small picture", (1, 16, 2, 2)),
            "degrade_sigma": torch.tensor([0.1]),
        },
        acts_on=TEXT,
    ),
    hosted(
        "TripoSplat",
        TRIPOSPLAT,
        paths={**each("latent_refiner", "noise_refiner.#.attn", 1), **each("blocks", "blocks.#.attn", 2)},
        latents=((16, 16), (1, 5)),
        image_tokens=16,
        image_first=True,
        extra=lambda name: {"reference_latents": [draw(f"picture {name}", (1, 128, 3, 3))]},
        acts_on="the latent tokens, the picture and the camera aside",
    ),
    hosted(
        "MiniMaxH3",
        MINIMAX,
        paths=each("blocks", "blocks.#", 2),
        latents=((24, 2, 8, 8), (32, 2, 6)),
        image_tokens=32,
        extra=lambda name: {"minimax_token_tags": torch.ones(1, 10, dtype=torch.long)},
        cfg=1.0,
        acts_on="the video tokens, text, references and audio aside",
        edge=12,
    ),
)
HOSTED = {row.name: row for row in ROWS}

# Not in the oldest host that is tested.
NEWER = frozenset(
    (
        *(
            "Boogu",
            "CogVideoX_I2V",
            "CogVideoX_Inpaint",
            "CogVideoX_T2V",
            "HiDreamO1",
            "Ideogram4",
            "JoyImage",
            "Krea2",
        ),
        *("Lens", "MageFlow", "MiniMaxH3", "MiniMaxMusic3", "PiD", "PixelDiTT2I", "SeedVR2", "StableAudio3"),
        *("TripoSplat", "WAN21_CausalAR_T2V", "WAN21_SCAIL2", "WAN22_WanDancer", "WAN_Animate2"),
    )
)
# Refused, with the diffusion model that is the reason.
REFUSED = {
    "ACEStep": "ace.model.ACEStepTransformer2DModel",
    "ACEStep15": "ace.ace_step15.AceStepConditionGenerationModel",
    "Stable_Cascade_B": "cascade.stage_b.StageB",
    "Stable_Cascade_C": "cascade.stage_c.StageC",
    "ErnieImage": "ernie.model.ErnieImageModel",
    "HiDreamO1": "hidream_o1.model.HiDreamO1Transformer",
    "Hunyuan3Dv2_1": "hunyuan3dv2_1.hunyuandit.HunYuanDiTPlain",
    "HunyuanDiT": "hydit.models.HunYuanDiT",
    "HunyuanDiT1": "hydit.models.HunYuanDiT",
    "MiniMaxMusic3": "minimax_music.dit.MiniMaxMusic3DiT",
    "PixArtAlpha": "pixart.pixartms.PixArtMS",
    "PixArtSigma": "pixart.pixartms.PixArtMS",
    "SeedVR2": "seedvr.model.NaDiT",
    "WAN_Animate2": "wan.model_animate2.WanAnimate2Model",
}
# Loaded like diffusion models, but they draw nothing.
NO_DIFFUSION = ("RT_DETR_v4", "DepthAnything3", "SAM3", "SAM31")


def host_class(name: str) -> type:
    """The class `file.Class` below `comfy.ldm`."""
    module, _, attribute = name.rpartition(".")
    return getattr(importlib.import_module(f"comfy.ldm.{module}"), attribute)


def names_of_the_host() -> list[str]:
    """All diffusion models of this host's `supported_models`, in its order."""
    names = [each.__name__ for each in comfy.supported_models.models]
    return [name for name in dict.fromkeys(names) if name not in NO_DIFFUSION]
