"""Every site returns the definition's result for this γ and β, and for no other."""

from __future__ import annotations

import pytest
import torch
from comfy.ldm.modules.attention import optimized_attention

from lab.testing import definition
from lab.testing.families.family import Family, draw
from lab.testing.recorder import Seen, distance, effect, plainly, stated, watch_attention
from lab.testing.run_nodes import skew

SETTINGS = [(1.05, 3.0, "value"), (1.5, 1.0, "value"), (0.4, 1.0, "none"), (-1.0, 1.0, "value"), (1.3, 3.0, "value")]
TOLERANCE = 1e-3


def run(family: Family, gamma: float, beta: float = 1.0, steps: int = 2, **widgets) -> list[Seen]:
    """The self- and joint-attention calls of a patched run."""
    patched, _ = skew(family.model, gamma, beta, **widgets)
    with watch_attention(patched) as calls:
        family.sample(patched, steps=steps)
    calls = [seen for seen in calls if not seen.is_cross]
    assert calls
    return calls


def assert_is(family: Family, seen: Seen, want: torch.Tensor, gamma: float) -> None:
    """`want` reached the site, to a thousandth of the smallest change γ makes there."""
    assert distance(seen.out, want) <= TOLERANCE * effect(family, seen, gamma), seen.path


def assert_is_not(family: Family, seen: Seen, other: torch.Tensor, gamma: float) -> None:
    assert distance(seen.out, other) > 10 * TOLERANCE * effect(family, seen, gamma), seen.path


@pytest.mark.parametrize(("gamma", "beta", "norm"), SETTINGS)
def test_every_site_gives_the_definition_and_that_of_no_other_gamma(family, gamma, beta, norm):
    for seen in run(family, gamma, beta, steps=1, norm=norm):
        assert_is(family, seen, stated(family, seen, gamma, beta, norm), gamma)
        for other in (1.0, 0.9 * gamma, -gamma):
            assert_is_not(family, seen, stated(family, seen, other, beta, norm), gamma)


def test_no_other_beta_or_norm_would_pass_for_it(family):
    for seen in run(family, 1.3, 3.0, steps=1):
        for beta, norm in ((1.0, "value"), (2.7, "value"), (3.0, "none")):
            assert_is_not(family, seen, stated(family, seen, 1.3, beta, norm), 1.3)


@pytest.mark.parametrize("norm", ["input", "projected"])
@pytest.mark.parametrize("name", ["SD15", "SDXL"])
def test_unets_can_keep_the_length_of_the_block_input(families, name, norm):
    family = families[name]
    for seen in run(family, 1.3, 3.0, steps=1, norm=norm):
        # At these sizes "projected" keeps every direction of the input.
        assert_is(family, seen, stated(family, seen, 1.3, 3.0, "input"), 1.3)
        assert_is_not(family, seen, stated(family, seen, 1.3, 3.0, "value"), 1.3)


@pytest.mark.parametrize("norm", ["input", "projected"])
@pytest.mark.parametrize("name", ["SD3", "Flux"])
def test_joint_sites_use_the_values_where_the_input_was_asked_for(families, name, norm):
    family = families[name]
    patched, report = skew(family.model, 1.3, 3.0, norm=norm)
    assert (
        f'norm "{norm}" needs the input of the attention, which cannot be seen at joint sites. They use "value" '
        "instead."
    ) in report.plan
    assert family.sample(patched).equal(family.sample(skew(family.model, 1.3, 3.0)[0]))


@pytest.mark.parametrize("beta", [1.0, 3.0])
@pytest.mark.parametrize("name", ["SD3", "SD3 with image-only attention", "Flux"])
def test_text_rows_of_joint_sites_stay_plain(families, name, beta):
    family = families[name]
    joint = [seen for seen in run(family, 1.5, beta, steps=1) if seen.q.shape[2] > family.image_tokens]
    assert joint
    for seen in joint:
        text = seen.q.shape[2] - family.image_tokens
        assert text == family.text[0]
        want = plainly(seen)
        assert distance(seen.out[:, :, :text], want[:, :, :text]) < 1e-5 * want.norm(), seen.path
        assert distance(seen.out[:, :, text:], want[:, :, text:]) > 0.05 * want.norm(), seen.path


@pytest.mark.parametrize("adaptive", ["gamma", "gamma and beta"])
def test_adaptive_weighs_gamma_and_beta_by_each_samples_symmetricity(family, adaptive):
    gamma, beta = 2.0, 2.0
    for seen in run(family, gamma, beta, steps=1, adaptive=adaptive):
        image = slice(seen.q.shape[2] - (family.image_tokens or seen.q.shape[2]), None)
        eta = definition.symmetricity(seen.q[:, :, image], seen.k[:, :, image]).mean(dim=1)[:, None, None, None]
        weighed = beta * (1 - eta) if adaptive == "gamma and beta" else beta
        assert_is(family, seen, stated(family, seen, 1 + (gamma - 1) * eta, weighed), gamma)
        assert_is_not(family, seen, stated(family, seen, gamma, beta), gamma)


@pytest.mark.parametrize("apply_to", ["both", "cond"])
def test_a_mask_is_added_after_the_mixing(flux, apply_to):
    """The core node for image prompts sets different values for cond and uncond in Flux."""
    tokens = flux.text[0] + flux.image_tokens
    texts = tuple(
        flux.conditioning(
            name, attention_mask=2 * draw(f"mask {name}", (1, tokens, tokens)), attention_mask_img_shape=(8, 8)
        )
        for name in ("cond", "uncond")
    )
    patched, _ = skew(flux.model, 1.5, 3.0, apply_to=apply_to)
    with watch_attention(patched) as calls:
        flux.sample(patched, steps=1, texts=texts)
    for seen in calls:
        assert seen.mask.shape == (2, 1, tokens, tokens)
        assert seen.marks == (1, 0)
        want = stated(flux, seen, 1.5, 3.0)
        if apply_to == "cond":
            want[:1] = plainly(seen)[:1]
        assert_is(flux, seen, want, 1.5)


def test_cross_attention_stays_plain(sd15):
    patched, _ = skew(sd15.model)
    with watch_attention(patched) as calls:
        sd15.sample(patched, steps=1)
    crossing = [seen for seen in calls if seen.is_cross]
    assert len(crossing) == 7
    for seen in crossing:
        assert distance(seen.out, plainly(seen)) < 1e-5 * plainly(seen).norm()


def test_a_text_as_long_as_the_image_is_not_mistaken_for_it(sd15):
    """448×704 on SD1.5: the middle block has 7·11 = 77 tokens, as many as the text: square cross-attention."""
    patched, report = skew(sd15.model)
    with watch_attention(patched) as calls:
        sd15.sample(patched, noise=draw("448×704", (1, 4, 14, 22)), steps=1)
    square = [seen for seen in calls if seen.is_cross and seen.q.shape == seen.k.shape]
    assert square
    for seen in square:
        heads = seen.q.shape[1]
        alone = optimized_attention(seen.q, seen.k, seen.v, heads, skip_reshape=True, skip_output_reshape=True)
        assert seen.out.equal(alone)
        assert effect(sd15, seen, 1.5) > 0.01 * alone.norm()
    assert set(report.runs[-1].site_calls) == set(sd15.sites)
