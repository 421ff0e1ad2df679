"""A row of the table of tiny models: what is known of a family, and how to sample from its model."""

from __future__ import annotations

import gc
import zlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import comfy.model_management
import comfy.sample
import torch
from comfy.model_patcher import ModelPatcher
from torch import Tensor


@dataclass(frozen=True)
class Family:
    """A tiny model with what is needed to sample from it, and its row of docs/support.md.

    Attributes:
        build: makes the model; `model` does so once.
        latent: shape of one latent, without the batch.
        text: tokens and channels of the text.
        pooled: channels of the pooled text, or None.
        image_tokens: tokens of the image at a joint site, None if sites see only the image.
        config_class: in `comfy.supported_models`.
        paths: by address, the module whose attention calls are the site's.
        asked: addresses of sites that act only when they are named, and their modules.
        other_stages: addresses of sites that the run does not reach, and their modules.
        calls: skewed attention calls of one model call.
        image_first: whether the image comes before the text in the sequence of a joint site.
        acts_on: what γ acts among, for docs/support.md.
        notes: what a user should know.
        covers: other classes of `comfy.supported_models` built from the same blocks.
        extra: more of the conditioning, made from the name of the text.
        latents: shapes of the parts of a nested latent, without the batch.
        steps: of a run, by default.
        cfg: 1 where the family has no unconditional pass.
        edge: how many tokens that do not depend on the text are between it and the image at the first joint site;
            None where no site sees both.
        image_alone: whether calls of the sites without the image among their queries stay plain.
        has_queries_of_text: whether the text is among the queries of the sites, so that γ of text and across can act.
        text_modulates: whether the text moves the image tokens before any attention, as a mean over its tokens.
        with_input: whether the sites show their input, so that every norm works.
        frames: samples of a latent that are the frames of one video.
        from_picture: whether sampling starts from the latent instead of from noise.
        least_deviation: of the logits; 1 wherever the weights can bring them there.
        stands_in_for: the version of ComfyUI whose network is not at hand, where `build` gives a stand-in.
        textless_uncond: whether the unconditional pass gets no text at all.
    """

    name: str
    build: Callable[..., ModelPatcher]
    latent: tuple[int, ...]
    text: tuple[int, int]
    pooled: int | None = None
    image_tokens: int | None = None
    config_class: str = ""
    paths: Mapping[str, str] = field(default_factory=dict)
    asked: Mapping[str, str] = field(default_factory=dict)
    other_stages: Mapping[str, str] = field(default_factory=dict)
    calls: int = 0
    image_first: bool = False
    acts_on: str = "every token"
    notes: str = ""
    covers: tuple[str, ...] = ()
    extra: Callable[[str], dict[str, Any]] = lambda name: {}
    latents: tuple[tuple[int, ...], ...] = ()
    steps: int = 1
    cfg: float = 3.0
    edge: int | None = None
    image_alone: bool = False
    has_queries_of_text: bool = True
    text_modulates: bool = False
    with_input: bool = False
    frames: int = 1
    from_picture: bool = False
    least_deviation: float = 1.0
    textless_uncond: bool = False
    stands_in_for: str = ""

    @property
    def sites(self) -> tuple[str, ...]:
        """Addresses of the sites that act unasked."""
        return (*self.paths, *self.other_stages)

    @property
    def is_joint(self) -> bool:
        """Return whether γ of the text tokens and γ across act at a site."""
        return self.image_tokens is not None and self.has_queries_of_text

    @property
    def has_reference(self) -> bool:
        """Return whether some of the image tokens belong to a given picture."""
        return "reference_latents" in self.extra("cond")

    def image(self, tokens: int) -> slice:
        """The image's place among the tokens of a site."""
        image = min(self.image_tokens or tokens, tokens)
        return slice(0, image) if self.image_first else slice(tokens - image, tokens)

    def site_of(self, path: str) -> str | None:
        """The address of the site to which a module belongs, if it does to one."""
        for address, site in {**self.paths, **self.asked}.items():
            if path == site or path.startswith(f"{site}."):
                return address
        return None

    def with_text(self, tokens: int) -> Family:
        """The same family with so many tokens of text, and a model of its own."""
        return replace(self, text=(tokens, self.text[1]))

    @cached_property
    def model(self) -> ModelPatcher:
        """The model, built once."""
        return self.build()

    def forget(self) -> None:
        """Let go of the model, in the host as well, which warns of models that vanish while they are loaded."""
        comfy.model_management.unload_all_models()
        self.__dict__.pop("model", None)
        gc.collect()

    @cached_property
    def picture(self) -> Tensor:
        """The output of the unpatched model for the defaults of `sample`, taken before the first patch."""
        return self.sample()

    def noise(self, batch: int = 1) -> Any:
        """`batch` rows of noise, each another; nested where the latent is."""
        if not self.latents:
            return draw(f"noise of {self.name}", (max(batch, self.frames), *self.latent))
        from comfy.nested_tensor import NestedTensor

        return NestedTensor([draw(f"noise {shape} of {self.name}", (batch, *shape)) for shape in self.latents])

    def start(self, rows: Iterable[int]) -> dict[str, Any]:
        """Noise, and where it is needed the latent, to sample these rows of a batch."""
        rows = list(rows)
        noise = self.noise(max(rows) + 1)
        if self.latents:
            return {"noise": type(noise)([part[rows] for part in noise.unbind()])}
        picture = {"latent": self.picture_to_start_from().repeat(len(rows), 1, 1, 1, 1)} if self.from_picture else {}
        return {"noise": noise[rows], **picture}

    def picture_to_start_from(self) -> Tensor:
        """The latent that sampling starts from where it does not start from noise."""
        return draw(f"picture of {self.name}", (1, *self.latent))

    def empty(self, noise: Any) -> Any:
        """The latent a run starts from when it is given none; nested where `noise` is."""
        if self.from_picture:
            return self.picture_to_start_from()
        if not self.latents:
            return torch.zeros_like(noise)
        return type(noise)([torch.zeros_like(part) for part in noise.unbind()])

    def conditioning(self, name: str, **extra: Any) -> list[Any]:
        """A text as CONDITIONING, another one for every `name`."""
        options = {"guidance": 3.5, **self.extra(name), **extra}
        if self.pooled is not None:
            options["pooled_output"] = draw(f"pooled {name}", (1, self.pooled))
        is_left_out = self.textless_uncond and name == "uncond"
        return [[None if is_left_out else draw(name, (1, *self.text)), options]]

    def sample(
        self,
        model: ModelPatcher | None = None,
        *,
        steps: int | None = None,
        cfg: float | None = None,
        sampler: str = "euler",
        scheduler: str = "normal",
        noise: Any = None,
        latent: Any = None,
        seed: int = 0,
        texts: tuple[list[Any], list[Any]] | None = None,
        **options: Any,
    ) -> Tensor:
        """The latent a KSampler gives for `model`, or for the plain model; the parts of a nested one side by side."""
        noise = self.noise() if noise is None else noise
        latent = self.empty(noise) if latent is None else latent
        texts = texts or (self.conditioning("cond"), self.conditioning("uncond"))
        steps, cfg = self.steps if steps is None else steps, self.cfg if cfg is None else cfg
        options = {"seed": seed, "disable_pbar": True, **options}
        result = comfy.sample.sample(
            model or self.model, noise, steps, cfg, sampler, scheduler, *texts, latent, **options
        )
        return torch.cat([part.flatten(1) for part in result.unbind()], dim=1) if self.latents else result


def draw(name: str, shape: tuple[int, ...]) -> Tensor:
    """Return normal numbers that depend only on `name`."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(zlib.crc32(name.encode())))


def by_name(*rows: Family) -> dict[str, Family]:
    """A table of families."""
    return {row.name: row for row in rows}
