"""Other packs' patches keep working beside ours, whichever node comes first."""

from __future__ import annotations

import comfy.ldm.modules.attention
import pytest
import torch
from comfy.model_patcher import ModelPatcher
from comfy_extras.nodes_hypertile import HyperTile
from comfy_extras.nodes_pag import PerturbedAttentionGuidance
from comfy_extras.nodes_sag import SelfAttentionGuidance
from comfy_extras.nodes_tomesd import TomePatchModel

from lab.testing.families.rows import STEPS
from lab.testing.neighbours import ORDERS, in_order, louder, with_override
from lab.testing.recorder import distance, effect, plainly, stated, watch_attention
from lab.testing.run_nodes import execute, skew

NAMES = ["SD15", "SD3 with image-only attention", "Flux"]


def assert_differ(*pictures: torch.Tensor) -> None:
    for index, one in enumerate(pictures):
        for other in pictures[index + 1 :]:
            assert distance(one, other) > 1e-3 * one.norm()


@pytest.mark.parametrize("beta", [1.0, 3.0])
@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("name", NAMES)
def test_an_override_in_the_slot_attends_and_we_skew(families, name, order, beta):
    family = families[name]
    patched, _ = in_order(order, family.model, lambda model: with_override(model, louder), beta=beta)
    with watch_attention(patched) as calls:
        family.sample(patched, steps=1)
    assert len(calls) > 1
    for seen in calls:
        want = plainly(seen) if seen.is_cross else stated(family, seen, 1.5, beta)
        close = 1e-5 * want.norm() if seen.is_cross else 1e-3 * effect(family, seen, 1.5)
        assert distance(seen.out, 1.1 * want) <= close, seen.path


@pytest.mark.parametrize("name", NAMES)
def test_the_order_of_an_override_and_ours_makes_no_bit_of_difference(families, name):
    family = families[name]
    one, other = (in_order(order, family.model, lambda model: with_override(model, louder))[0] for order in ORDERS)
    assert family.sample(one).equal(family.sample(other))


def test_a_neutral_node_does_not_change_an_override(sd15):
    loud = with_override(sd15.model, louder)
    patched, _ = skew(loud, gamma=1.0)
    assert patched.model_options["transformer_options"]["optimized_attention_override"] is louder
    assert sd15.sample(patched).equal(sd15.sample(loud))


def test_an_override_is_called_by_the_hosts_rules(sd15, flux):
    """With the raw backend first and the marker against calling the wrapper again; layouts as the flags say."""
    seen = []

    def careful(function, q, k, v, heads, mask=None, **keyword):
        assert function in {
            getattr(wrapped, "__wrapped__", None)
            for wrapped in comfy.ldm.modules.attention.REGISTERED_ATTENTION_FUNCTIONS.values()
        }
        assert keyword["_inside_attn_wrapper"] is True
        assert "sigmas" in keyword["transformer_options"]
        assert q.shape[-1] == k.shape[-1] == v.shape[-1]
        assert q.dim() == (4 if keyword.get("skip_reshape") else 3)
        seen.append(keyword)
        return function(q, k, v, heads, mask=mask, **keyword)

    for family in (sd15, flux):
        patched, _ = skew(with_override(family.model, careful), beta=3.0)
        alone = family.sample(skew(family.model, beta=3.0)[0])  # without an override tiles may do the work
        assert distance(family.sample(patched), alone) < 3e-5 * float(alone.norm())
    assert seen


@pytest.mark.parametrize("order", ORDERS)
def test_a_chosen_backend_does_the_inner_attention(sd15, order):
    """ComfyUI's own Model Attention Backend node writes the slot with a function that knows of no other."""
    if not hasattr(ModelPatcher, "set_model_optimized_attention"):
        pytest.skip("this host has no per-model attention backend")

    def split(model):
        model = model.clone()
        model.set_model_optimized_attention(comfy.ldm.modules.attention.attention_split)
        return model

    patched, report = in_order(order, sd15.model, split, beta=3.0)
    wanted = sd15.sample(skew(sd15.model, beta=3.0)[0])
    assert distance(sd15.sample(patched), wanted) < 1e-3 * distance(wanted, sd15.picture)
    assert report.runs[-1].site_calls


def test_the_later_of_two_nodes_wins_where_both_want_a_site(family):
    first, first_report = skew(family.model, gamma=0.3)
    both, _ = skew(first, gamma=1.5, beta=3.0)
    assert family.sample(both).equal(family.sample(skew(family.model, gamma=1.5, beta=3.0)[0]))
    assert not first_report.runs[-1].site_calls


@pytest.mark.parametrize(
    ("name", "halves"),
    [
        ("SD15", ("input, middle", "output")),
        ("SD3", ("joint.0", "joint.1")),
        ("Flux", ("single", "double")),
    ],
)
def test_two_nodes_on_different_blocks_both_act(families, name, halves):
    family = families[name]
    first, report = skew(family.model, gamma=1.5, blocks=halves[0])
    both, second_report = skew(first, gamma=0.4, blocks=halves[1])
    with watch_attention(both) as calls:
        family.sample(both, steps=1)
    reached = [set(each.runs[-1].site_calls) for each in (report, second_report)]
    assert reached[0] | reached[1] == set(family.sites)
    assert not reached[0] & reached[1]
    for seen in (seen for seen in calls if not seen.is_cross):
        fits = [
            distance(seen.out, stated(family, seen, gamma)) <= 1e-3 * effect(family, seen, gamma)
            for gamma in (1.5, 0.4)
        ]
        assert sorted(fits) == [False, True], seen.path


def test_two_windows_of_two_nodes_follow_each_other(sd15):
    early, early_report = skew(sd15.model, gamma=1.5, end_percent=0.5)
    both, late_report = skew(early, gamma=0.4, start_percent=0.5)
    sd15.sample(both, steps=6)
    calls = list(zip(early_report.runs[-1].calls, late_report.runs[-1].calls, strict=True))
    assert {(one.gamma, other.gamma) for one, other in calls} == {(1.5, 1.0), (1.0, 0.4)}
    assert {(one.attention_calls, other.attention_calls) for one, other in calls} == {(7, 0), (0, 7)}


def test_perturbed_attention_guidance_works_in_both_orders(sd15):
    def guided(model):
        return execute(PerturbedAttentionGuidance, model=model, scale=3.0)[0]

    one, other = (sd15.sample(in_order(order, sd15.model, guided)[0]) for order in ORDERS)
    assert one.equal(other)
    assert_differ(one, sd15.sample(guided(sd15.model)), sd15.sample(skew(sd15.model)[0]), sd15.picture)


def test_self_attention_guidance_works_in_both_orders_and_keeps_its_block(sd15):
    def guided(model):
        return execute(SelfAttentionGuidance, model=model, scale=0.5, blur_sigma=2.0)[0]

    pictures = []
    for order in ORDERS:
        patched, report = in_order(order, sd15.model, guided)
        pictures.append(sd15.sample(patched))
        assert "Not reached: middle.0.0." in report.describe()
    assert pictures[0].equal(pictures[1])
    assert_differ(pictures[0], sd15.sample(guided(sd15.model)), sd15.sample(skew(sd15.model)[0]))


@pytest.mark.parametrize("kind", ["replace", "patch", "output patch"])
def test_cross_attention_patches_are_untouched_in_both_orders(sd15, kind):
    received = []

    def replacement(q, k, v, extra):
        received.append((extra["block"], q.shape))
        heads = extra["n_heads"]
        text = comfy.ldm.modules.attention.optimized_attention(q, k, v, heads)
        return text + 0.5 * comfy.ldm.modules.attention.optimized_attention(q, k[:, :4].flip(1), v[:, :4], heads)

    def keys_and_values(n, context, value, extra):
        received.append((extra["block"], n.shape))
        return n, context * 1.5, context * 0.5

    def output(out, extra):
        received.append((extra["block"], out.shape))
        return out * 1.5

    def image_prompt(model):
        model = model.clone()
        if kind == "replace":
            for block in (("input", 1), ("middle", 0), ("output", 2)):
                model.set_model_attn2_replace(replacement, *block)
        elif kind == "patch":
            model.set_model_attn2_patch(keys_and_values)
        else:
            model.set_model_attn2_output_patch(output)
        return model

    pictures = []
    sd15.sample(image_prompt(sd15.model))
    expected = list(received)
    assert expected
    for order in ORDERS:
        received.clear()
        patched, report = in_order(order, sd15.model, image_prompt)
        pictures.append(sd15.sample(patched))
        assert received == expected
        assert set(report.runs[-1].site_calls) == set(sd15.sites)
    assert pictures[0].equal(pictures[1])
    assert_differ(pictures[0], sd15.sample(image_prompt(sd15.model)), sd15.sample(skew(sd15.model)[0]))


@pytest.mark.parametrize("order", ORDERS)
def test_a_replaced_self_attention_is_theirs_and_the_report_says_so(sd15, order):
    def replacement(q, k, v, extra):
        return v * 0.5

    def theirs(model):
        model = model.clone()
        model.set_model_attn1_replace(replacement, "output", 2)
        return model

    patched, report = in_order(order, sd15.model, theirs)
    with watch_attention(patched) as calls:
        sd15.sample(patched, steps=1)
    assert not [seen for seen in calls if seen.path.startswith("output_blocks.2.") and not seen.is_cross]
    assert report.describe().count("Not reached: output.2.0.") == 1
    assert set(report.runs[-1].site_calls) == set(sd15.sites) - {"output.2.0"}
    for seen in (seen for seen in calls if not seen.is_cross):
        assert distance(seen.out, stated(sd15, seen, 1.5)) <= 1e-3 * effect(sd15, seen, 1.5), seen.path


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize(
    ("node", "settings"),
    [
        (HyperTile, {"tile_size": 32, "swap_size": 2, "max_depth": 0, "scale_depth": False}),
        (TomePatchModel, {"ratio": 0.5}),
    ],
    ids=["HyperTile", "ToMe"],
)
def test_attention_that_is_not_square_is_skipped_and_reported(sd15, node, settings, order):
    def theirs(model):
        return execute(node, model=model, **settings)[0]

    def sample(model):
        torch.manual_seed(0)  # both nodes draw from torch's own generator
        return sd15.sample(model)

    patched, report = in_order(order, sd15.model, theirs)
    assert_differ(sample(patched), sample(theirs(sd15.model)), sample(skew(sd15.model)[0]))
    assert "queries and keys are not the same tokens" in report.describe()
    record = report.runs[-1]
    # Only the blocks of the first level are tiled or merged; the others are skewed.
    outer = {"input.1.0", "output.2.0", "output.3.0"}
    assert set(record.site_calls) == set(sd15.sites) - outer
    assert sum(record.untouched.values()) == STEPS * len(outer)


def test_what_is_skipped_keeps_its_bits(sd15):
    """With every square call out of reach, a patched model is the other pack's model."""

    def theirs(model):
        return execute(TomePatchModel, model=model, ratio=0.5)[0]

    torch.manual_seed(0)
    alone = sd15.sample(theirs(sd15.model))
    torch.manual_seed(0)
    patched, report = skew(theirs(sd15.model), blocks="input.1, output.2-3")
    assert sd15.sample(patched).equal(alone)
    words = f"No attention call of SD15 was changed. All were skipped: {3 * STEPS} × queries and keys are not the same"
    assert report.runs[-1].warning.startswith(words)
