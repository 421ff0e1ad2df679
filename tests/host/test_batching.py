"""A picture does not depend on the pictures beside it, nor on whether cond and uncond share a batch."""

from __future__ import annotations

import pytest
import torch
from symmetric_attention.nodes.host.patches.skew_override import SkewOverride

from lab.testing.recorder import distance, effect, plainly, stated, watch_attention
from lab.testing.run_nodes import little_memory, skew

NAMES = ["SD15", "SD3 with image-only attention", "Flux"]
SETTINGS = {
    "plain knob": {"beta": 1.0},
    "adaptive gamma": {"beta": 1.0, "adaptive": "gamma"},
    "adaptive gamma and beta": {"beta": 3.0, "adaptive": "gamma and beta"},
}
COND, UNCOND = 0, 1


@pytest.fixture(params=NAMES)
def family(request, families):
    return families[request.param]


@pytest.mark.parametrize("setting", SETTINGS)
def test_each_picture_of_a_batch_is_the_one_it_is_by_itself(family, setting):
    patched, _ = skew(family.model, **SETTINGS[setting])
    noise = family.noise(4)
    plain, together = family.sample(noise=noise), family.sample(patched, noise=noise)
    for row in range(4):
        alone = family.sample(patched, noise=noise[row : row + 1])[0]
        assert distance(together[row], alone) <= 1e-3 * distance(alone, plain[row])


def test_symmetricity_is_that_of_each_picture(family):
    patched, report = skew(family.model, adaptive="gamma")
    noise = family.noise(3)
    family.sample(patched, noise=noise, steps=1)
    together = report.last_call.symmetricity
    for row in range(3):
        family.sample(patched, noise=noise[row : row + 1], steps=1)
        for (address, beside), (alone_address, alone) in zip(together, report.last_call.symmetricity, strict=True):
            assert address == alone_address
            assert (beside[row], beside[3 + row]) == pytest.approx(alone, abs=1e-5)
    assert len({round(beside[row], 4) for _, beside in together for row in range(3)}) > 3


@pytest.mark.parametrize(
    ("setting", "apply_to"),
    [*((setting, "both") for setting in SETTINGS), ("plain knob", "cond"), ("adaptive gamma and beta", "uncond")],
)
def test_cond_and_uncond_give_the_same_picture_joined_and_split(family, setting, apply_to):
    patched, report = skew(family.model, **SETTINGS[setting], apply_to=apply_to)
    joined = family.sample(patched)
    assert {call.cond_or_uncond for call in report.runs[-1].calls} == {(UNCOND, COND)}
    with little_memory(patched):
        split = family.sample(patched)
    assert {call.cond_or_uncond for call in report.runs[-1].calls} == {(UNCOND,), (COND,)}
    assert distance(joined, split) <= 1e-3 * distance(joined, family.picture)


@pytest.mark.parametrize("is_split", [False, True], ids=["joined", "split"])
@pytest.mark.parametrize(("apply_to", "wanted"), [("cond", {COND}), ("uncond", {UNCOND}), ("both", {COND, UNCOND})])
def test_only_the_chosen_chunks_are_changed(family, apply_to, wanted, is_split):
    patched, _ = skew(family.model, apply_to=apply_to)
    noise = family.noise(2)
    with watch_attention(patched) as calls:
        if is_split:
            with little_memory(patched):
                family.sample(patched, noise=noise, steps=1)
        else:
            family.sample(patched, noise=noise, steps=1)
    for seen in (seen for seen in calls if not seen.is_cross):
        skewed, plain = stated(family, seen, 1.5), plainly(seen)
        size = seen.q.shape[0] // len(seen.marks)
        assert size == 2
        for index, mark in enumerate(seen.marks):
            rows = slice(index * size, (index + 1) * size)
            want = skewed if mark in wanted else plain
            assert distance(seen.out[rows], want[rows]) <= 1e-3 * effect(family, seen, 1.5), (seen.path, mark)


@pytest.mark.parametrize("norm", ["input", "projected"])
def test_a_single_chunk_keeps_the_length_of_its_own_input(families, norm):
    unet = families["SD15"]
    patched, _ = skew(unet.model, 1.3, 3.0, apply_to="cond", norm=norm)
    with watch_attention(patched) as calls:
        unet.sample(patched, steps=1)
    for seen in (seen for seen in calls if not seen.is_cross):
        assert seen.marks == (UNCOND, COND)
        want = torch.cat([plainly(seen)[:1], stated(unet, seen, 1.3, 3.0, "input")[1:]])
        assert distance(seen.out, want) <= 1e-3 * effect(unet, seen, 1.3), seen.path


@pytest.mark.parametrize("cfg", [1.0, 3.0])
def test_apply_to_cond_and_to_uncond_differ_from_each_other_and_from_both(sd15, cfg):
    choices = ("both", "cond", "uncond")
    pictures = {chosen: sd15.sample(skew(sd15.model, apply_to=chosen)[0], cfg=cfg) for chosen in choices}
    plain = sd15.sample(cfg=cfg)
    if cfg == 1.0:  # ComfyUI leaves the unconditional pass out
        assert pictures["both"].equal(pictures["cond"])
        assert pictures["uncond"].equal(plain)
        assert distance(pictures["cond"], plain) > 1e-3 * plain.norm()
    else:
        all_of_them = [*pictures.values(), plain]
        for index, one in enumerate(all_of_them):
            for other in all_of_them[index + 1 :]:
                assert distance(one, other) > 1e-3 * plain.norm()


def test_guidance_of_one_calls_the_model_only_for_cond(family):
    patched, report = skew(family.model, adaptive="gamma")
    picture = family.sample(patched, cfg=1.0)
    assert {call.cond_or_uncond for call in report.runs[-1].calls} == {(COND,)}
    assert distance(picture, family.sample(cfg=1.0)) > 1e-3 * picture.norm()


def test_only_uncond_without_guidance_is_said_to_have_done_nothing(sd15, monkeypatch):
    patched, report = skew(sd15.model, apply_to="uncond")
    monkeypatch.setattr(SkewOverride, "__call__", lambda *_, **__: pytest.fail("a site was asked for nothing"))
    assert sd15.sample(patched, cfg=1.0).equal(sd15.sample(cfg=1.0))
    assert report.runs[-1].warning is not None
    assert "uncond" in report.runs[-1].warning
    assert "γ" not in report.describe()  # no word of a γ that was applied


@pytest.mark.parametrize("is_split", [False, True], ids=["joined", "split"])
def test_one_node_for_cond_and_one_for_uncond_both_act(sd15, is_split):
    for_cond, _ = skew(sd15.model, gamma=1.5, apply_to="cond")
    patched, _ = skew(for_cond, gamma=0.4, apply_to="uncond")
    with watch_attention(patched) as calls:
        if is_split:
            with little_memory(patched):
                sd15.sample(patched, steps=1)
        else:
            sd15.sample(patched, steps=1)
    for seen in (seen for seen in calls if not seen.is_cross):
        for index, mark in enumerate(seen.marks):
            gamma = {COND: 1.5, UNCOND: 0.4}[mark]
            want = stated(sd15, seen, gamma)[index : index + 1]
            assert distance(seen.out[index : index + 1], want) <= 1e-3 * effect(sd15, seen, gamma), (seen.path, mark)
