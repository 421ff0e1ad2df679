"""Every model family ComfyUI hosts: γ reaches the sites of its row and does what the definition says, no more."""

from __future__ import annotations

from types import SimpleNamespace

import comfy.ldm.modules.attention
import comfy.sd
import comfy.supported_models
import pytest
import torch
from symmetric_attention.nodes.host.models.families import REACHED_LATER, REFUSALS
from symmetric_attention.nodes.host.models.sites import find_sites

from lab.testing import definition
from lab.testing.families.building import host_class
from lab.testing.families.rows import FAMILIES, HOSTED, LATEST, NEWER, REFUSED, names_of_the_host
from lab.testing.families.runs import Runs, in_this_host
from lab.testing.recorder import distance, effect, plainly, stated
from lab.testing.run_nodes import skew

SETTINGS = [(1.5, 1.0), (0.4, 3.0)]
TOLERANCE = 1e-3


def test_the_sites_of_a_model_are_those_of_its_row(runs):
    found = find_sites(runs.row.model.model.diffusion_model)
    told = {**runs.row.paths, **runs.row.other_stages, **runs.row.asked}
    assert {site.address: site.path for site in found} == told
    assert {site.address for site in found if site.kind == "text refiner"} == set(runs.row.asked)
    _, report = skew(runs.row.model)
    assert f"{len(runs.row.sites)} of {len(found)} attention sites" in report.plan


def test_every_site_makes_its_calls_and_the_report_counts_them(runs):
    patched, report = skew(runs.row.model)
    runs.row.sample(patched)
    record = report.runs[-1]
    assert set(record.site_calls) == set(runs.row.paths)
    assert {call.attention_calls for call in record.calls} == {runs.row.calls}
    assert not record.untouched
    assert not record.fallbacks
    assert sum(record.site_calls.values()) == len(runs.acting(runs.plain))


def test_the_attention_of_the_tiny_model_is_worth_testing(runs):
    for seen in runs.acting(runs.plain):
        assert distance(seen.out, plainly(seen)) < 1e-5 * plainly(seen).norm(), seen.path
        assert definition.skewed_logits(seen.q, seen.k, 1.0).std(dim=-1).mean() >= runs.row.least_deviation, seen.path
        for gamma, _ in SETTINGS:
            assert effect(runs.row, seen, gamma) >= 0.05 * plainly(seen).norm(), seen.path


def test_gamma_one_gives_the_same_bits(runs):
    patched, _ = skew(runs.row.model, gamma=1.0, beta=3.0)
    assert not patched.object_patches
    assert runs.row.sample(patched).equal(runs.picture)


@pytest.mark.parametrize(("gamma", "beta"), SETTINGS)
def test_every_site_gives_what_the_definition_says_and_for_no_other_gamma(runs, gamma, beta):
    acting = runs.acting(runs.skewed(gamma, beta))
    assert {runs.site(seen) for seen in acting} == set(runs.row.paths)
    for seen in acting:
        scale = effect(runs.row, seen, gamma)
        assert distance(seen.out, stated(runs.row, seen, gamma, beta)) <= TOLERANCE * scale, seen.path
        for other in (1.0, 0.9 * gamma, -gamma):
            assert distance(seen.out, stated(runs.row, seen, other, beta)) > 10 * TOLERANCE * scale, seen.path


def test_all_other_attention_stays_plain(runs):
    for seen in runs.skewed(1.5):
        if not runs.acts_in(seen):
            assert distance(seen.out, plainly(seen)) < 1e-5 * plainly(seen).norm(), seen.path


def test_the_unpatched_model_gives_the_same_bits_afterwards(runs):
    before = runs.picture
    patched, _ = skew(runs.row.model)
    assert not runs.row.sample(patched).equal(before)
    assert runs.row.sample().equal(before)


def first_joint_keys(runs, **options) -> torch.Tensor:
    calls = runs.acting(runs.watched(runs.row.model, cfg=1.0, **options))
    return next(seen.k for seen in calls if seen.k.shape[2] > runs.row.image_tokens)


def moved(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """Return a mask of the tokens whose keys differ."""
    return (one != other).any(dim=3).any(dim=1).any(dim=0)


# Where a site sees text and image together, and the text does not reach the image before it.
@pytest.mark.rows(lambda row: row.edge is not None and not row.text_modulates)
def test_another_text_moves_the_keys_up_to_the_image_and_none_of_it(runs):
    """The keys of the first joint site, with the pooled text held, for two texts."""
    texts = [runs.row.conditioning(name) for name in ("cond", "another text")]
    if runs.row.pooled is not None:
        texts[1][0][1]["pooled_output"] = texts[0][0][1]["pooled_output"]
    moves = moved(*(first_joint_keys(runs, texts=(text, text)) for text in texts))
    image = runs.row.image(len(moves))
    assert not moves[image].any()
    assert moves[image.stop + runs.row.edge if runs.row.image_first else image.start - 1 - runs.row.edge]


# Where a site sees text and image together, and the latent is the image and nothing else.
@pytest.mark.rows(lambda row: row.image_tokens is not None and not row.latents)
def test_another_latent_moves_the_keys_of_the_image_and_none_of_the_text(runs):
    runs.need_one_row()
    again = runs.row.noise().flip(-1)
    moves = moved(first_joint_keys(runs), first_joint_keys(runs, noise=again))
    image = runs.row.image(len(moves))
    assert moves[image].any() if runs.row.has_reference else moves[image].all()
    assert not moves[: image.start].any()
    assert not moves[image.stop :].any()


@pytest.mark.rows(lambda row: row.asked)
def test_refiners_of_the_text_act_when_they_are_named(runs):
    for blocks in ("text refiner", "text_refiner"):
        calls = runs.skewed(1.5, blocks=blocks)
        acting = [seen for seen in calls if runs.site(seen) in runs.row.asked]
        assert {runs.site(seen) for seen in acting} == set(runs.row.asked)
        for seen in acting:
            want = definition.skew_attention(seen.q, seen.k, seen.v, 1.5, mask=seen.mask)
            assert distance(seen.out, want) <= TOLERANCE * distance(want, plainly(seen)), seen.path
        for seen in runs.acting(calls):
            assert distance(seen.out, plainly(seen)) < 1e-5 * plainly(seen).norm(), seen.path


@pytest.mark.rows(lambda row: row.with_input)
@pytest.mark.parametrize("norm", ["input", "projected"])
def test_the_norm_of_the_input_is_taken_where_it_is_seen(runs, norm):
    assert 'use "value" instead' not in skew(runs.row.model, 1.3, 3.0, norm=norm)[1].plan
    for seen in runs.acting(runs.skewed(1.3, 3.0, norm=norm)):
        want = stated(runs.row, seen, 1.3, 3.0, "input")
        assert distance(seen.out, want) <= TOLERANCE * effect(runs.row, seen, 1.3), seen.path


@pytest.mark.rows(lambda row: not row.with_input)
def test_the_norm_of_the_input_is_that_of_the_values_where_unseen(runs):
    for norm in ("input", "projected"):
        assert 'use "value" instead' in skew(runs.row.model, 1.3, 3.0, norm=norm)[1].plan
    for seen in runs.acting(runs.skewed(1.3, 3.0, norm="projected")):
        want = stated(runs.row, seen, 1.3, 3.0, "value")
        assert distance(seen.out, want) <= TOLERANCE * effect(runs.row, seen, 1.3), seen.path


# Small as they are, ComfyUI's own loader recognises these by the names and shapes of their weights.
LOADED = (
    *("HunyuanVideo", "HunyuanVideo15", "HunyuanImage21", "Hunyuan3Dv2", "Kandinsky5", "CogVideoX_T2V", "MiniMaxH3"),
    *("WAN21_T2V", "WAN22_T2V", "WAN21_I2V", "WAN21_Vace", "WAN21_Camera", "WAN22_Camera", "WAN22_S2V", "WAN21_SCAIL"),
    *("WAN21_SCAIL2", "WAN22_WanDancer"),
)


@pytest.mark.parametrize("name", in_this_host(LOADED))
def test_a_model_from_the_hosts_own_loader_has_the_same_sites(name):
    row = HOSTED[name]
    model = comfy.sd.load_diffusion_model_state_dict(row.model.model.diffusion_model.state_dict())
    row.forget()
    assert type(model.model.model_config).__name__ == name
    found = find_sites(model.model.diffusion_model)
    assert {site.address: site.path for site in found} == {**row.paths, **row.asked}
    patched, report = skew(model)
    changed = row.sample(patched)
    assert set(report.runs[-1].site_calls) == set(row.paths)
    assert not report.runs[-1].untouched
    assert not changed.equal(row.sample(model))


# As many tokens of text as of the image, so that cross-attention is square: sizes that real prompts and pictures reach.
COINCIDENCES = {
    "WAN21_T2V": 32,
    "WAN21_CausalAR_T2V": 32,
    "CosmosT2IPredict2": 16,
    "CosmosT2V": 16,
    "Kandinsky5": 32,
    "StableAudio": 15,
}


@pytest.mark.parametrize("name", in_this_host(COINCIDENCES))
def test_a_text_as_long_as_the_image_is_not_mistaken_for_it(name):
    row = HOSTED[name].with_text(COINCIDENCES[name])
    runs = Runs(row)
    patched, report = skew(row.model, 1.5)
    calls = runs.watched(patched)
    square = [seen for seen in calls if seen.q.shape == seen.k.shape and runs.site(seen) is None]
    assert square
    for seen in square:
        alone = comfy.ldm.modules.attention.optimized_attention(
            seen.q, seen.k, seen.v, seen.q.shape[1], mask=seen.mask, skip_reshape=True, skip_output_reshape=True
        )
        assert seen.out.equal(alone), seen.path
        would_be = definition.skew_attention(seen.q, seen.k, seen.v, 1.5, mask=seen.mask)
        assert distance(would_be, plainly(seen)) > 1e-4 * plainly(seen).norm(), seen.path
    assert set(report.runs[-1].site_calls) == set(row.paths)
    row.forget()


@pytest.mark.parametrize("name", in_this_host(REFUSED))
def test_a_model_without_meaning_or_way_in_is_refused_with_the_reason(name):
    network = torch.nn.Module.__new__(host_class(REFUSED[name]))
    torch.nn.Module.__init__(network)
    settings = getattr(comfy.supported_models, name).__new__(getattr(comfy.supported_models, name))
    model = SimpleNamespace(
        model=SimpleNamespace(diffusion_model=network, model_config=settings),
        object_patches={},
        object_patches_backup={},
    )
    with pytest.raises(ValueError, match="cannot work on") as caught:
        skew(model)
    reason = REFUSALS[REFUSED[name]]
    advice = " Update ComfyUI." if reason == REACHED_LATER else ""
    assert str(caught.value) == f"Skew Attention (SAD) cannot work on {name}, because {reason}.{advice}"


def test_every_class_the_host_lists_is_in_the_table_and_no_other():
    told = {name for row in HOSTED.values() for name in (row.config_class, *row.covers)}
    told |= {*REFUSED, *(name for family in FAMILIES.values() for name in (family.name.split()[0], *family.covers))}
    listed = set(names_of_the_host())
    assert listed <= told
    assert told - listed in (set(), set(LATEST), {*NEWER, *LATEST})


def test_every_reason_of_an_unsupported_model_is_tried():
    assert set(REFUSALS) == set(REFUSED.values())
