"""Text and image in one sequence have a γ for each pair of them. In LTX-AV, sound and image do.

Γ is γ among the image tokens, gamma_text among all others and gamma_cross between the two. What every site gives is
held against that statement, with queries, keys and values of the host; no other Γ comes near.
"""

from __future__ import annotations

import pytest
import torch

from lab.testing.families.rows import HOSTED
from lab.testing.recorder import distance, effect, plainly, stated, watch_attention
from lab.testing.run_nodes import execute, skew

JOINT = [name for name, row in HOSTED.items() if row.is_joint]
FACTORS = {"gamma": 1.5, "text": -0.8, "cross": 2.2}
# Every Γ that could be taken for the right one: a factor left out, a little weak, or in the place of another.
MISTAKEN = [
    *({**FACTORS, name: value} for name in FACTORS for value in (1.0, 0.9 * FACTORS[name])),
    {**FACTORS, "text": FACTORS["cross"], "cross": FACTORS["text"]},
    {**FACTORS, "gamma": FACTORS["cross"], "cross": FACTORS["gamma"]},
    {**FACTORS, "gamma": FACTORS["text"], "text": FACTORS["gamma"]},
]
WIDGETS = {"gamma": 1.5, "gamma_text": -0.8, "gamma_cross": 2.2}


def others(family, seen) -> int:
    """Return the number of tokens of a call that are not image tokens."""
    image = family.image(seen.q.shape[2])
    return seen.q.shape[2] - (image.stop - image.start)


def assert_modal(family, calls, beta: float) -> None:
    """Every joint call is that of `FACTORS` and of nothing like it; every other call is that of only γ."""
    assert any(others(family, seen) for seen in calls)
    for seen in calls:
        got = distance(seen.out, stated(family, seen, 1.5, beta, text=-0.8, cross=2.2))
        whole = distance(stated(family, seen, 1.5, text=-0.8, cross=2.2), plainly(seen))
        if not others(family, seen):
            assert distance(seen.out, stated(family, seen, 1.5, beta)) <= 1e-3 * effect(family, seen, 1.5), seen.path
            continue
        for wrong in MISTAKEN:
            if others(family, seen) == 1 and wrong == {**FACTORS, "text": wrong["text"]}:
                continue  # a single token has no skew part
            others_say = stated(family, seen, wrong["gamma"], beta, text=wrong["text"], cross=wrong["cross"])
            assert got < 0.02 * distance(seen.out, others_say), (seen.path, wrong)
        assert got <= 1e-3 * whole, seen.path


# Where the image is among the tokens is asked of the oldest host too, by test_families.py.
@pytest.mark.newest
@pytest.mark.rows(lambda row: row.name in JOINT)
def test_joint_sites_give_the_definition_of_only_these_factors(runs):
    assert_modal(runs.row, runs.acting(runs.skewed(beta=3.0, **WIDGETS)), 3.0)


@pytest.mark.newest
@pytest.mark.rows(lambda row: row.name in JOINT and row.image_first)
def test_joint_sites_with_the_image_first_do_so_without_beta_too(runs):
    assert_modal(runs.row, runs.acting(runs.skewed(beta=1.0, **WIDGETS)), 1.0)


@pytest.mark.parametrize("beta", [1.0, 3.0])
@pytest.mark.parametrize("name", ["SD3", "SD3 with image-only attention", "Flux"])
def test_the_families_of_the_other_tests_too(families, name, beta):
    family = families[name]
    patched, _ = skew(family.model, beta=beta, **WIDGETS)
    with watch_attention(patched) as calls:
        family.sample(patched, steps=1)
    assert_modal(family, calls, beta)


@pytest.mark.rows(lambda row: row.name in ["Lumina2", "PixelDiTT2I", "Boogu"])
def test_with_gamma_one_only_joint_sites_are_patched(runs):
    row = runs.row
    patched, report = skew(row.model, 1.0, gamma_text=0.4)
    calls = runs.watched(patched)
    joint = {runs.site(seen) for seen in runs.acting(calls) if others(row, seen)}
    assert set(report.runs[-1].site_calls) == joint
    alone = ", ".join(address for address in row.paths if address not in joint)
    assert f"γ is 1 throughout and these sites have no joint attention: {alone}." in report.plan
    assert not report.runs[-1].untouched
    assert not [path for path in patched.object_patches for address in alone.split(", ") if row.paths[address] in path]
    for seen in calls:
        if runs.site(seen) in joint:
            assert distance(seen.out, stated(row, seen, 1.0, text=0.4)) <= 1e-5 * plainly(seen).norm(), seen.path
            assert seen.out[:, :, row.image(seen.q.shape[2])].isfinite().all()
        else:
            assert distance(seen.out, plainly(seen)) < 1e-5 * plainly(seen).norm(), seen.path


def test_an_image_by_itself_has_no_other_tokens_and_the_report_says_so(families):
    """The second call of an SD3.5 medium block sees no text."""
    family = families["SD3 with image-only attention"]
    patched, report = skew(family.model, 1.0, gamma_cross=0.4)
    family.sample(patched, steps=1)
    assert sum(report.runs[-1].site_calls.values()) == 2
    assert report.runs[-1].untouched == {"γ is 1 among the image tokens, and there are no other tokens": 2}


@pytest.mark.parametrize("beta", [1.0, 3.0])
@pytest.mark.parametrize("name", ["SD3", "Flux"])
def test_factors_of_one_change_no_bit(families, name, beta):
    family = families[name]
    with_factors, _ = skew(family.model, beta=beta, gamma_text=1.0, gamma_cross=1.0)
    assert family.sample(with_factors).equal(family.sample(skew(family.model, beta=beta)[0]))
    neutral, report = skew(family.model, 1.0, beta, gamma_text=1.0, gamma_cross=1.0)
    assert report.neutral
    assert not neutral.object_patches


@pytest.mark.parametrize("factors", [{"gamma_text": 0.4}, {"gamma_cross": 0.4}])
def test_a_model_without_joint_attention_says_that_they_change_nothing(sd15, factors):
    patched, report = skew(sd15.model, **factors)
    assert "None of the chosen sites of SD15 is of that kind, so both change nothing here." in report.plan
    assert "gamma_text 0.4" not in report.plan.splitlines()[1]
    assert sd15.sample(patched).equal(sd15.sample(skew(sd15.model)[0]))
    neutral, report = skew(sd15.model, 1.0, **factors)
    assert not neutral.object_patches
    assert report.plan.splitlines()[0] == "γ is 1 throughout or β is 0, so the model is passed on unchanged."
    assert "None of the chosen sites of SD15 is of that kind" in report.plan


def test_a_schedule_moves_only_gamma_and_the_percents_hold_for_all_three(flux):
    from symmetric_attention.nodes.gamma_schedule import GammaScheduleNode

    given = {"shape": "keyframes", "start_gamma": 1.0, "end_gamma": 1.0, "start": 0.0, "end": 1.0}
    curve, _ = execute(GammaScheduleNode, **given, keyframes="0:2, 1:0.4")
    patched, report = skew(flux.model, schedule=curve, gamma_text=0.4, gamma_cross=1.3, end_percent=0.5)
    with watch_attention(patched) as calls:
        flux.sample(patched, steps=4)
    told = {round(call.sigma, 5): call for call in report.runs[-1].calls}
    inside = [call for call in told.values() if call.progress < 0.5]
    assert 0 < len(inside) < len(told)
    assert len({call.gamma for call in inside}) == len(inside)
    for seen in calls:
        call = told[round(seen.sigma, 5)]
        assert call.gammas == ((call.gamma, 0.4, 1.3) if call in inside else (1.0, 1.0, 1.0))
        gamma, text, cross = call.gammas
        want = stated(flux, seen, gamma, text=text, cross=cross)
        assert distance(seen.out, want) <= 1e-3 * distance(stated(flux, seen, 1.0, text=0.4, cross=1.3), plainly(seen))
    text = report.describe()
    assert "In joint attention gamma_text was 0.4 and gamma_cross 1.3." in text
    assert "gamma_text 0.4, gamma_cross 1.3 from 0% to 50% of the run" in report.plan


def test_a_schedule_at_one_leaves_the_other_factors_at_work(flux):
    from symmetric_attention.nodes.gamma_schedule import GammaScheduleNode

    curve, _ = execute(GammaScheduleNode, shape="window", start_gamma=1.5, end_gamma=1.0, start=0.0, end=0.5)
    patched, report = skew(flux.model, schedule=curve, gamma_text=0.4)
    flux.sample(patched, steps=4)
    assert {call.gammas for call in report.runs[-1].calls} == {(1.5, 0.4, 1.0), (1.0, 0.4, 1.0)}
    assert {call.attention_calls for call in report.runs[-1].calls} == {len(flux.sites)}
    assert report.runs[-1].warning is None


@pytest.mark.parametrize("name", ["SD3", "Flux"])
def test_they_act_only_in_the_chosen_chunks(families, name):
    family = families[name]
    patched, _ = skew(family.model, **WIDGETS, apply_to="cond")
    with watch_attention(patched) as calls:
        family.sample(patched, steps=1)
    for seen in calls:
        assert seen.marks == (1, 0)
        want = stated(family, seen, 1.5, text=-0.8, cross=2.2)
        scale = distance(want, plainly(seen))
        assert distance(seen.out, torch.cat([plainly(seen)[:1], want[1:]])) <= 1e-3 * scale, seen.path


def test_a_later_node_takes_a_call_only_where_it_does_something(families):
    family = families["SD3 with image-only attention"]
    first, _ = skew(family.model, 1.5)
    both, _ = skew(first, 1.0, gamma_text=0.4)
    with watch_attention(both) as calls:
        family.sample(both, steps=1)
    assert {others(family, seen) > 0 for seen in calls} == {True, False}
    for seen in calls:
        want = stated(family, seen, 1.0, text=0.4) if others(family, seen) else stated(family, seen, 1.5)
        assert distance(seen.out, want) <= 1e-3 * effect(family, seen, 1.5), seen.path


def test_adaptive_gamma_changes_only_gamma(flux):
    """At γ = 1 the rule leaves γ at 1, whatever the other factors are."""
    adaptive, _ = skew(flux.model, 1.0, gamma_text=0.4, gamma_cross=1.6, adaptive="gamma")
    fixed, _ = skew(flux.model, 1.0, gamma_text=0.4, gamma_cross=1.6)
    one, other = flux.sample(adaptive), flux.sample(fixed)
    assert distance(one, other) <= 1e-3 * distance(one, flux.picture)


@pytest.mark.parametrize("order", [("video", "audio"), ("audio", "video")])
@pytest.mark.rows(lambda row: row.name in ["LTXAV"])
def test_two_nodes_give_video_and_audio_a_gamma_each(runs, order):
    gammas = {"video": 1.5, "audio": 0.4}
    model, reports = runs.row.model, {}
    for stream in order:
        model, reports[stream] = skew(model, gammas[stream], blocks=stream)
    seen_streams = set()
    for seen in runs.acting(runs.watched(model)):
        stream = {"blocks": "video", "audio": "audio"}[runs.site(seen).partition(".")[0]]
        seen_streams.add(stream)
        assert runs.site(seen) in reports[stream].runs[-1].site_calls
        gamma = gammas[stream]
        assert distance(seen.out, stated(runs.row, seen, gamma)) <= 1e-3 * effect(runs.row, seen, gamma), seen.path
    assert seen_streams == set(gammas)


@pytest.mark.rows(lambda row: row.name in ["LTXAV"])
def test_video_and_audio_are_among_the_groups_a_typo_is_answered_with(runs):
    with pytest.raises(ValueError, match="the groups audio, self, video"):
        skew(runs.row.model, blocks="vidio")
