"""The arms of the test bed's DiT: each does what its paper or ComfyUI's node says, whatever else is in the batch."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from lab.demo.model import NO_CATEGORY, save_model
from lab.demo.sampling import guide, seed_noise
from lab.testbed import flow, in_comfyui
from lab.testbed.arms import Arm, Use, skew, use
from lab.testbed.dit_arms import DIT_GUIDANCE, MIDDLE, PARTS, dit_arms
from lab.testbed.flow import FlowModel
from lab.testbed.in_comfyui import METHODS, draw_latents, load_bed, node_classes
from lab.testbed.model import classes_of, load_model
from lab.testbed.seeded_noise import SeededNoise
from lab.testbed.shape import COMFYUI_DIT_CONFIG
from lab.testing.testbed_statements import (
    PIXELS,
    annealed,
    attending,
    disturbed,
    each_part_without_guidance,
    of_pixels,
    passes_by_step,
)

pytestmark = pytest.mark.newest

NARROW = {**COMFYUI_DIT_CONFIG, "dim": 64, "n_heads": 2, "n_kv_heads": 2}
STEPS, SEEDS = 4, (3, 4, 11)
CLOSE = 2e-4


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A narrow untrained model whose blocks answer: in ComfyUI, with another as its early checkpoint, and without."""
    folder = tmp_path_factory.mktemp("testbed")
    torch.manual_seed(1)
    with pytest.MonkeyPatch.context() as patch:
        for module in (flow, in_comfyui):
            patch.setattr(module, "COMFYUI_DIT_CONFIG", NARROW)
        for name in ("model", "early"):
            model = FlowModel()
            for weight in model.parameters():
                if not weight.any():
                    torch.nn.init.normal_(weight, std=0.1)
            save_model(model, folder / f"{name}.safetensors", {})
        files = folder / "model.safetensors", folder / "early.safetensors"
        yield load_bed(*files), load_model(files[0]), load_model(files[1])


@pytest.fixture(scope="module")
def bed(models):
    return models[0]


@pytest.fixture(scope="module")
def model(models):
    return models[1]


def arm(*uses: Use, **numbers) -> Arm:
    return Arm("tried", "tried", 1.0, uses, **{"guidance": DIT_GUIDANCE, "steps": STEPS, **numbers})


def assert_draws(bed, tried: Arm, expected: torch.Tensor) -> None:
    """The arm draws what is expected, which is far from what the plain model draws."""
    torch.testing.assert_close(draw_latents(bed, tried, SEEDS), expected, rtol=0, atol=CLOSE)
    assert (expected - draw_latents(bed, arm(), SEEDS)).abs().max() > 10 * CLOSE


def first_latents(model) -> torch.Tensor:
    return torch.cat([seed_noise(seed, model.latent_shape) for seed in SEEDS])


@torch.no_grad()
def by_euler(x: torch.Tensor, velocity: Callable[..., torch.Tensor]) -> torch.Tensor:
    """Euler steps from noise along `velocity(x, σ, number of the step)`."""
    for number, (sigma, next_sigma) in enumerate(itertools.pairwise(torch.linspace(1, 0, STEPS + 1))):
        x = x + (next_sigma - sigma) * velocity(x, sigma, number)
    return x


def passes(model, x, sigma, context=None):
    """The velocities with the seeds' classes, or the tokens given in their place, and without any class."""
    classes = classes_of(SEEDS)
    given = model.context[classes] if context is None else context
    none = model.context[torch.full_like(classes, NO_CATEGORY)]
    return (model.dit(x, sigma.expand(len(x)), tokens) for tokens in (given, none))


def guided(model, x, sigma, number=0, scale=DIT_GUIDANCE):
    return guide(*passes(model, x, sigma), scale)


@pytest.mark.parametrize("among_pixels", [False, True])
def test_temperature_scales_scores_wherever_pixels_attend(bed, model, among_pixels):
    hotter = of_pixels(lambda scores: 1.5 * scores) if among_pixels else lambda scores: 1.5 * scores
    with attending((*model.dit.noise_refiner, *model.dit.layers), scores=hotter):
        expected = by_euler(first_latents(model), lambda *at: guided(model, *at))
    assert_draws(bed, arm(use("temperature of a stream", factor=1.5, among_pixels=among_pixels)), expected)


@pytest.mark.parametrize("part", PARTS)
def test_gamma_in_a_part_changes_the_pixels_scores_there(bed, model, part):
    layers = model.dit.layers
    blocks = {"noise refiner": model.dit.noise_refiner, "first half": layers[:2], "second half": layers[2:]}[part]
    with attending(blocks, scores=of_pixels(lambda scores: scores + 0.5 * (2.0 - 1) * (scores - scores.mT))):
        expected = by_euler(first_latents(model), lambda *at: guided(model, *at))
    assert_draws(bed, arm(skew(gamma=2.0, blocks=PARTS[part])), expected)


def alone(scores):
    """No pixel sees another."""
    return scores.where(torch.eye(scores.shape[-1], dtype=torch.bool), -torch.inf)


def mean_of_pixels(queries):
    """(B, heads, L, d)"""
    out = queries.clone()
    out[..., PIXELS, :] = queries[..., PIXELS, :].mean(dim=-2, keepdim=True)
    return out


@pytest.mark.parametrize(
    ("kind", "worse"),
    [
        ("perturbed attention guidance of a stream", {"scores": of_pixels(alone)}),
        ("smoothed energy guidance of a stream", {"queries": mean_of_pixels}),
    ],
)
def test_guidance_away_from_worse_attention_of_some_layers(bed, model, kind, worse):
    def velocity(x, sigma, number):
        conditional, unconditional = passes(model, x, sigma)
        with attending([model.dit.layers[layer] for layer in MIDDLE], **worse):
            from_worse, _ = passes(model, x, sigma)
        return guide(conditional, unconditional, DIT_GUIDANCE) + 1.5 * (conditional - from_worse)

    assert_draws(bed, arm(use(kind, scale=1.5, layers=MIDDLE)), by_euler(first_latents(model), velocity))


def test_rescaled_guidance_is_that_of_its_paper(bed, model):
    def velocity(x, sigma, number):
        conditional, unconditional = passes(model, x, sigma)
        full = guide(conditional, unconditional, 6.0)
        rescaled = full * (conditional.flatten(1).std(dim=1) / full.flatten(1).std(dim=1))[:, None, None, None]
        return 0.7 * rescaled + 0.3 * full

    tried = arm(use("rescaled guidance of the velocity", multiplier=0.7), guidance=6.0)
    assert_draws(bed, tried, by_euler(first_latents(model), velocity))


@pytest.mark.parametrize("k", [0.8, 1.1])
def test_temporal_score_rescaling_of_a_flow_is_that_of_comfyuis_node(bed, k):
    """The node takes one sample at a time."""
    core = arm(use("TemporalScoreRescaling", tsr_k=k, tsr_sigma=1.0))
    one_by_one = torch.cat([draw_latents(bed, core, (seed,)) for seed in SEEDS])
    assert_draws(bed, arm(use("temporal score rescaling", k=k)), one_by_one)


def conditioned(model, change):
    """Pictures of the formula `change(context of one sample, time left, step, seed)` for the pass with a class."""

    def velocity(x, sigma, number):
        rows = zip(model.context[classes_of(SEEDS)], SEEDS, strict=True)
        context = torch.stack([change(row, float(sigma), number, seed) for row, seed in rows])
        return guide(*passes(model, x, sigma, context), DIT_GUIDANCE)

    return by_euler(first_latents(model), velocity)


def test_cads_takes_the_time_left_of_a_flow(bed, model):
    assert_draws(bed, arm(use("CADS", start=0.3)), conditioned(model, annealed))


def test_noise_on_the_condition_of_a_flow_ends_where_it_is_told_to(bed, model):
    """The second of four steps begins when a quarter of the run is over."""

    tried = arm(use("noise on the condition", strength=3.0, until=0.3))
    assert_draws(bed, tried, conditioned(model, disturbed))


def test_the_first_noise_of_a_flow_is_scaled(bed, model):
    expected = by_euler(1.1 * first_latents(model), lambda *at: guided(model, *at))
    assert_draws(bed, arm(noise=1.1), expected)


def test_guidance_is_off_in_the_steps_that_begin_before_the_end(bed, model):
    """Of the arm with a share of 0.3 the first three of ten, of four steps the first two."""
    (off,) = (each for each in dit_arms() if each.name == "CFG off at first 0.3")
    for steps, without in ((10, 3), (STEPS, 2)):
        before = bed.rows
        draw_latents(bed, replace(off, steps=steps), SEEDS[:1])
        assert bed.rows - before == 2 * steps - without


def test_autoguidance_leads_away_from_the_early_dit(models):
    bed, model, early = models
    classes = classes_of(SEEDS)

    def velocity(x, sigma, number):
        return guide(*(each.dit(x, sigma.expand(3), each.context[classes]) for each in (model, early)), 1.5)

    assert_draws(bed, arm(guidance=1.5, away_from_early=True), by_euler(first_latents(model), velocity))


@pytest.mark.parametrize(
    "tried",
    [
        arm(use("CADS", start=0.3)),
        arm(use("noise on the condition", strength=3.0, until=0.3)),
        arm(sampler="euler_ancestral"),
    ],
    ids=["CADS", "noise on the condition", "ancestral"],
)
def test_noise_takes_the_precision_and_the_device_of_what_it_meets(bed, monkeypatch, tried):
    """Doubles replace numbers that lie elsewhere: what was not moved would carry the result along."""
    expected = draw_latents(bed, tried, SEEDS)
    for name in ("draw", "draw_uniform"):
        plain = getattr(SeededNoise, name)
        monkeypatch.setattr(SeededNoise, name, lambda *given, plain=plain: plain(*given).double())
    assert torch.equal(draw_latents(bed, tried, SEEDS), expected)


@torch.no_grad()
def test_the_ancestral_sampler_of_a_flow_adds_the_seeds_own_noise(bed, model):
    """It steps down to σ′²/σ and adds noise up to σ′."""
    noise, x = SeededNoise(SEEDS), first_latents(model)
    for number, (sigma, after) in enumerate(itertools.pairwise(torch.linspace(1, 0, STEPS + 1))):
        denoised, down = x - sigma * guided(model, x, sigma), after**2 / sigma
        x = down / sigma * x + (1 - down / sigma) * denoised
        if after > 0:
            kept = (1 - after) / (1 - down)
            fresh = noise.draw("euler_ancestral", number, model.latent_shape)
            x = kept * x + (after**2 - (kept * down) ** 2).sqrt() * fresh
    assert_draws(bed, arm(sampler="euler_ancestral"), x)


def test_gamma_1_draws_the_plain_dit_bit_for_bit(bed):
    assert torch.equal(draw_latents(bed, arm(skew(gamma=1.0, beta=3.0)), SEEDS), draw_latents(bed, arm(), SEEDS))


@pytest.mark.long
def test_every_arm_of_the_dit_draws_what_no_other_does(bed):
    """Four steps, so that each third of the run has one."""
    drawn = {each.name: draw_latents(bed, replace(each, steps=STEPS), SEEDS[:1]) for each in dit_arms()}
    assert all(latents.isfinite().all() for latents in drawn.values())
    alike = [
        (one, other)
        for one, other in itertools.combinations(drawn, 2)
        if (drawn[one] - drawn[other]).abs().max() < CLOSE
    ]
    # Steps that ten have and four have not.
    assert alike == [("CFG off at first 0.1", "CFG off at first 0.2")]


def marked(each: Arm):
    """Methods that others made are asked about in long tests only."""
    ours = each.sampler != "euler" or any(node.node in METHODS for node in each.uses)
    return pytest.param(each, id=each.knob, marks=() if ours else pytest.mark.long)


@pytest.mark.parametrize("each", [marked(each) for each in {each.knob: each for each in dit_arms()}.values()])
def test_no_sample_of_the_dit_depends_on_its_batch_mates(bed, each):
    quick = replace(each, steps=2)
    together, single = draw_latents(bed, quick, SEEDS), draw_latents(bed, quick, SEEDS[1:2])
    torch.testing.assert_close(together[1:2], single, rtol=0, atol=CLOSE)


def test_every_arm_follows_from_the_guidance_and_has_a_name_of_its_own():
    for guidance in (2.0, 3.0, 4.0):
        arms = dit_arms(guidance)
        assert len(arms) == len({each.name for each in arms}) == len({each.fingerprint for each in arms})
        turns = ("CFG", "CFG in an interval", "APG", "RescaleCFG", "autoguidance")
        kept = {each.guidance for each in arms if each.knob.removesuffix(", ancestral") not in turns}
        assert kept == {guidance}
    assert {node.node for each in dit_arms() for node in each.uses} <= {*METHODS, *node_classes()}


@each_part_without_guidance
def test_guidance_is_off_in_the_steps_that_the_arm_names(bed, name, passes):
    assert passes_by_step(bed, dit_arms(), name) == passes
