"""The arms of the test bed: each does what its paper or ComfyUI's node says, whatever else is in the batch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from lab.demo.model import NO_CATEGORY, save_model
from lab.demo.sampling import denoise, first_latents, guide, make_scheduler
from lab.evidence.baselines import identity_attention
from lab.evidence.watching import self_attentions
from lab.testbed import cost, in_comfyui
from lab.testbed.arms import BUSY, GUIDANCE, Arm, Use, all_arms, skew, use
from lab.testbed.in_comfyui import draw_latents, load_bed, node_classes, output_of
from lab.testbed.model import build_model, classes_of, load_model
from lab.testbed.rivals import RIVALS
from lab.testing.testbed_statements import annealed, disturbed, each_part_without_guidance, passes_by_step
from sad_core import set_skew_attention

pytestmark = pytest.mark.newest

STEPS = 4  # at most; a divisor of 1000
SEEDS = (3, 4, 11)
CLOSE = 2e-4
BUSY_SITES = ("up.2.0", "up.2.1")  # BUSY in diffusers' words


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """An untrained model and an earlier one."""
    folder = tmp_path_factory.mktemp("testbed")
    torch.manual_seed(1)
    for name in ("model", "early"):
        save_model(build_model(), folder / f"{name}.safetensors", {})
    return folder


@pytest.fixture(scope="module")
def bed(files):
    return load_bed(files / "model.safetensors", files / "early.safetensors")


@pytest.fixture(scope="module")
def model(files):
    return load_model(files / "model.safetensors")


@pytest.fixture(scope="module")
def early(files):
    return load_model(files / "early.safetensors")


def arm(*uses: Use, **numbers) -> Arm:
    return Arm("tried", "tried", 1.0, uses, steps=STEPS, **numbers)


def assert_draws(bed, tried: Arm, expected: torch.Tensor) -> None:
    """The arm draws what is expected, which is far from what the plain model draws."""
    torch.testing.assert_close(draw_latents(bed, tried, SEEDS), expected, rtol=0, atol=CLOSE)
    assert (expected - draw_latents(bed, arm(), SEEDS)).abs().max() > 10 * CLOSE


def in_diffusers(model, velocity: Callable[..., torch.Tensor]) -> torch.Tensor:
    """Euler steps along `velocity(scaled, timestep, number of the step)`."""
    scheduler, number = make_scheduler(STEPS), iter(range(STEPS))
    first = first_latents(scheduler, SEEDS, model.latent_shape)
    return denoise(scheduler, first, lambda scaled, timestep: velocity(scaled, timestep, next(number)))


def answer(model, scaled, timestep, classes, context=None):
    """The velocity of one pass; `context` in place of that of the classes."""
    tokens = model.context[classes] if context is None else context
    return model.unet(scaled, timestep, tokens, return_dict=False)[0]


def passes(model, scaled, timestep):
    """The velocities with the seeds' classes and without any."""
    classes = classes_of(SEEDS)
    return (answer(model, scaled, timestep, each) for each in (classes, torch.full_like(classes, NO_CATEGORY)))


def test_the_plain_model_draws_what_it_draws_without_comfyui(bed, model):
    expected = in_diffusers(model, lambda scaled, at, _: guide(*passes(model, scaled, at), GUIDANCE))
    torch.testing.assert_close(draw_latents(bed, arm(), SEEDS), expected, rtol=0, atol=CLOSE)


def test_gamma_through_the_node_is_gamma_without_comfyui(bed, model):
    set_skew_attention(model.unet, gamma=1.5, beta=3.0)
    try:
        expected = in_diffusers(model, lambda scaled, at, _: guide(*passes(model, scaled, at), GUIDANCE))
    finally:
        set_skew_attention(model.unet, gamma=1.0)
    assert_draws(bed, arm(skew(gamma=1.5, beta=3.0)), expected)


def test_guidance_off_at_first_skips_the_pass_without_a_class(bed, model):
    """Of four steps the first two start before 40 % of the run."""
    expected = in_diffusers(
        model, lambda scaled, at, number: guide(*passes(model, scaled, at), 1.0 if number < 2 else GUIDANCE)
    )
    tried = arm(use("CFGOverride", cfg=1.0, end_percent=0.4))
    assert_draws(bed, tried, expected)
    before = bed.rows
    draw_latents(bed, tried, SEEDS)
    assert bed.rows - before == len(SEEDS) * (2 * 1 + 2 * 2)


def test_autoguidance_leads_away_from_the_early_checkpoint(bed, model, early):
    classes = classes_of(SEEDS)

    def velocity(scaled, at, _):
        return guide(answer(model, scaled, at, classes), answer(early, scaled, at, classes), 1.5)

    assert_draws(bed, arm(guidance=1.5, away_from_early=True), in_diffusers(model, velocity))


def test_autoguidance_without_an_early_checkpoint_is_refused(files):
    with pytest.raises(ValueError, match="needs an early checkpoint"):
        draw_latents(load_bed(files / "model.safetensors"), arm(away_from_early=True), SEEDS)


def worse_attention(layer, kind):
    """`with`: a layer whose attention is that of PAG or SEG."""
    if kind == "perturbed attention guidance":
        return identity_attention(layer)

    def mean_query(module, given, queries):
        return queries.mean(dim=1, keepdim=True).expand_as(queries)

    return layer.to_q.register_forward_hook(mean_query)


@pytest.mark.parametrize("kind", ["perturbed attention guidance", "smoothed energy guidance"])
def test_guidance_away_from_worse_attention(bed, model, kind):
    layers = [self_attentions(model.unet)[site] for site in BUSY_SITES]

    def velocity(scaled, at, _):
        conditional, unconditional = passes(model, scaled, at)
        with worse_attention(layers[0], kind), worse_attention(layers[1], kind):
            worse = answer(model, scaled, at, classes_of(SEEDS))
        return guide(conditional, unconditional, GUIDANCE) + 1.5 * (conditional - worse)

    assert_draws(bed, arm(use(kind, scale=1.5, blocks=BUSY)), in_diffusers(model, velocity))


def test_freeu_by_resolution_is_that_of_diffusers(bed, model):
    model.unet.enable_freeu(s1=0.9, s2=0.8, b1=1.2, b2=1.1)
    try:
        expected = in_diffusers(model, lambda scaled, at, _: guide(*passes(model, scaled, at), GUIDANCE))
    finally:
        model.unet.disable_freeu()
    assert_draws(bed, arm(use("FreeU by resolution", s1=0.9, s2=0.8, b1=1.2, b2=1.1)), expected)


@pytest.mark.parametrize("k", [0.8, 1.1])
def test_temporal_score_rescaling_is_that_of_comfyuis_node(bed, k):
    """The node takes one sample at a time."""
    core = arm(use("TemporalScoreRescaling", tsr_k=k, tsr_sigma=1.0))
    alone = torch.cat([draw_latents(bed, core, (seed,)) for seed in SEEDS])
    assert_draws(bed, arm(use("temporal score rescaling", k=k)), alone)


def conditioned(model, change):
    """Pictures of the formula `change(context of one sample, time left, step, seed)` for the pass with a class."""

    def velocity(scaled, at, number):
        left = float(at) / 999
        rows = zip(model.context[classes_of(SEEDS)], SEEDS, strict=True)
        context = torch.stack([change(row, left, number, seed) for row, seed in rows])
        _, unconditional = passes(model, scaled, at)
        return guide(answer(model, scaled, at, None, context), unconditional, GUIDANCE)

    return in_diffusers(model, velocity)


def test_cads_anneals_the_condition_as_its_paper_says(bed, model):
    assert_draws(bed, arm(use("CADS", start=0.3)), conditioned(model, annealed))


def test_noise_on_the_condition_ends_where_it_is_told_to(bed, model):
    tried = arm(use("noise on the condition", strength=3.0, until=0.4))
    assert_draws(bed, tried, conditioned(model, disturbed))


def test_the_first_noise_is_scaled(bed, model):
    scheduler = make_scheduler(STEPS)
    first = 1.1 * first_latents(scheduler, SEEDS, model.latent_shape)
    expected = denoise(scheduler, first, lambda scaled, at: guide(*passes(model, scaled, at), GUIDANCE))
    assert_draws(bed, arm(noise=1.1), expected)


ONE_A_KNOB = list({each.knob: each for each in all_arms()}.values())


@pytest.mark.long
@pytest.mark.parametrize("each", ONE_A_KNOB, ids=lambda each: each.knob)
def test_no_sample_depends_on_its_batch_mates(bed, each):
    quick = replace(each, steps=STEPS // 2)
    together, alone = draw_latents(bed, quick, SEEDS), draw_latents(bed, quick, SEEDS[1:2])
    torch.testing.assert_close(together[1:2], alone, rtol=0, atol=1e-3)


def test_every_arm_has_a_name_and_a_fingerprint_of_its_own():
    arms = all_arms()
    assert len(arms) == len({each.name for each in arms}) == len({each.fingerprint for each in arms})


def test_every_arm_names_nodes_and_inputs_that_there_are():
    def check(node: Use):
        if node.node in RIVALS:
            return
        kind = node_classes()[node.node]
        names = (
            {each.id for each in kind.GET_SCHEMA().inputs}
            if hasattr(kind, "GET_SCHEMA")
            else set(kind.INPUT_TYPES()["required"])
        )
        assert names >= {name for name, _ in node.inputs}, node
        for _, value in node.inputs:
            if isinstance(value, Use):
                check(value)

    for each in all_arms():
        for node in each.uses:
            check(node)


def test_a_node_without_a_widget_gets_its_default(bed):
    """γ 1.05 and β 3."""
    given = output_of(use("SADSkewAttention"), model=bed.model)
    assert {patch.patched_forward.patch.settings.beta for patch in given.object_patches.values()} == {3.0}


@each_part_without_guidance
def test_guidance_is_off_in_the_steps_that_the_arm_names(bed, name, passes):
    assert passes_by_step(bed, all_arms(), name) == passes


def test_the_cost_counts_every_row_and_the_time_over_the_plain_model(bed, monkeypatch):
    clock = iter([0.0, 1.0, 0.0, 4.0, 10.0, 19.0, 20.0, 26.0, 30.0, 36.0, 40.0, 45.0, 50.0, 58.0])  # 4 9, 6 6, 5 8
    monkeypatch.setattr(in_comfyui.time, "process_time", clock.__next__)
    monkeypatch.setattr(cost, "SEEDS", range(1))
    guided, plain = arm(use("APG", eta=0.0, norm_threshold=0.0, momentum=0.0), guidance=2.0), arm(guidance=1.0)
    assert cost.measure_cost(bed, guided, plain) == cost.Cost(2 * STEPS, 1.5)
    monkeypatch.undo()
    assert cost.measure_cost(bed, plain, plain) == cost.Cost(STEPS, 1.0)


def test_what_is_known_of_costs_is_not_measured_again(files, monkeypatch):
    kept = []
    monkeypatch.setattr(cost, "measure_cost", lambda bed, arm, plain: cost.Cost(7, 1.3))
    arms = [arm(), Arm("other", "tried", 2.0, (use("APG", eta=0.0, norm_threshold=0.0, momentum=0.0),))]
    monkeypatch.setattr(cost, "plain_of", lambda arm, arms: arms[0])
    known = {"tried": cost.Cost(20, 1.0)}
    cost.measure_costs(arms, files / "model.safetensors", known, lambda found: kept.append(dict(found)))
    assert kept == [known, known | {"other": cost.Cost(7, 1.3)}]


def test_costs_are_read_as_they_were_written(tmp_path):
    kept = {"unet": {"γ 2": cost.Cost(20, 1.1), "CFG 1": cost.Cost(10, 0.5)}, "twin": {}}
    cost.write_costs(kept, tmp_path / "cost.json")
    assert cost.kept_costs(tmp_path / "cost.json") == kept
    assert '"γ 2": [20, 1.1]' in (tmp_path / "cost.json").read_text(encoding="utf-8")
