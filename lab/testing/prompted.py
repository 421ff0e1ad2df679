"""Sampling by the host's guiders, and seeing from outside which text each row of an attention call was made from."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import comfy.samplers
import comfy_extras.nodes_custom_sampler as custom_sampler
import torch
from comfy.model_patcher import ModelPatcher
from torch import Tensor

from lab.testing.families.family import Family, draw
from lab.testing.recorder import Seen, distance, effect, plainly, stated, watch_attention
from lab.testing.run_nodes import execute

TEXTS = ("cond", "middle", "uncond")
AREA = {"area": (4, 6, 0, 0)}  # of a conditioning, the left half of an SD1.5 here


def cfg_guider(model: ModelPatcher, positive: list[Any], negative: list[Any]) -> Any:
    """Return the guider of ComfyUI's node CFGGuider."""
    return execute(custom_sampler.CFGGuider, model=model, positive=positive, negative=negative, cfg=3.0)[0]


def dual_cfg(family: Family, model: ModelPatcher, names: Sequence[str] = TEXTS, style: str = "regular") -> Any:
    """Return the guider of ComfyUI's node DualCFGGuider, with three texts."""
    cond, middle, negative = (family.conditioning(name) for name in names)
    inputs = {"cond1": cond, "cond2": middle, "negative": negative, "cfg_conds": 3.0, "cfg_cond2_negative": 2.0}
    return execute(custom_sampler.DualCFGGuider, model=model, style=style, **inputs)[0]


def sample_by(family: Family, guider: Any, *, steps: int = 1, batch: int = 1, noise: Tensor | None = None) -> Tensor:
    """Return what a guider gives for the noise of a family, by Euler's method."""
    noise = family.noise(batch) if noise is None else noise
    sampling = guider.model_patcher.get_model_object("model_sampling")
    sigmas = comfy.samplers.calculate_sigmas(sampling, "normal", steps)
    sampler = comfy.samplers.sampler_object("euler")
    latent = torch.zeros_like(noise)
    result: Tensor = guider.sample(noise, latent, sampler, sigmas, disable_pbar=True, seed=0)
    return result


@contextmanager
def watch_texts(model: ModelPatcher, family: Family, names: Sequence[str]) -> Iterator[list[tuple[Seen, list[str]]]]:
    """Every attention call of `model` inside the block, with the name of the text that each row was made from.

    Args:
        model: the model, of a family whose network gets the text as `context`.
        family: its family.
        names: of the texts, as `Family.conditioning` takes them.
    """
    texts = {name: draw(name, (1, *family.text))[0] for name in names}
    starts: list[tuple[int, list[str]]] = []
    found: list[tuple[Seen, list[str]]] = []
    with watch_attention(model) as calls:

        def enter(_: Any, given: tuple[Any, ...], keyword: dict[str, Any]) -> None:
            context = keyword["context"]
            starts.append((len(calls), [_name_of(row, texts) for row in context]))

        handle = model.model.diffusion_model.register_forward_pre_hook(enter, with_kwargs=True)
        try:
            yield found
        finally:
            handle.remove()
            for index, seen in enumerate(calls):
                rows = [names for start, names in starts if start <= index][-1]
                found.append((seen, rows))


def _name_of(row: Tensor, texts: dict[str, Tensor]) -> str:
    return next(name for name, text in texts.items() if row.shape == text.shape and torch.equal(row, text))


def assert_acts_on(
    family: Family,
    seen_calls: Sequence[tuple[Seen, list[str]]],
    wanted: Callable[[str], bool],
    gamma: float = 1.5,
    without: Sequence[str] = (),
) -> None:
    """Assert that γ acted on the rows of the wanted texts and no others, as the definition says, at every site.

    Args:
        family: the family.
        seen_calls: from `watch_texts`.
        wanted: whether γ is to act on the rows of a text.
        gamma: γ of these rows.
        without: paths of sites that another node serves.
    """
    acted = set()
    for seen, names in seen_calls:
        if seen.is_cross or seen.path in without:
            continue
        skewed, plain, much = stated(family, seen, gamma), plainly(seen), effect(family, seen, gamma)
        assert len(seen.out) == len(names)
        for row, name in enumerate(names):
            want = skewed if wanted(name) else plain
            assert distance(seen.out[row], want[row]) <= 1e-3 * much, (seen.path, row, name)
            acted.add(name)
    assert acted
