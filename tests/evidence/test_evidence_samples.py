"""The samples behind the evidence: drawn as said, the same for everybody, kept whole, and never drawn twice."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from safetensors import safe_open

from lab.demo.model import MODEL_FILE, NO_CATEGORY, load_model, save_model
from lab.demo.sampling import make_scheduler, sample, seed_noise
from lab.evidence import draw as drawing
from lab.evidence.baselines import perturbed_attention_guidance, self_attention_guidance
from lab.evidence.sampling import Samples, categories_of, draw_latents, draw_samples, is_active
from lab.evidence.settings import SETTINGS, SWEEPS, Setting, named, slug
from lab.evidence.stability import MEASURES
from lab.evidence.store import Store
from lab.evidence.watching import self_attentions
from lab.folders import ROOT
from sad_core import hopfield_stability, set_skew_attention, skew_attention

SEEDS = range(3)


@pytest.fixture(scope="module")
def model():
    """The committed model: in one with random weights γ moves nothing that could be seen."""
    return load_model(MODEL_FILE)


def setting(**changes) -> Setting:
    """A setting with so few steps that it suits a test."""
    return Setting("tried", "tests", **{"steps": 4, **changes})


@torch.no_grad()
def latents_of(model, seeds=SEEDS, **changes) -> torch.Tensor:
    """Finished latents of a setting."""
    return draw_latents(model, setting(**changes), seeds)[0]


# --- which settings there are


def test_every_setting_pairs_with_the_plain_model():
    (plain,) = named(["plain"])
    assert plain == Setting("plain", "main", count=plain.count, measured=plain.measured)
    assert plain.count == max(each.count for each in SETTINGS)
    assert all(each.count <= plain.count for each in SETTINGS)
    assert sum(each.count > drawing.FIRST_GOAL for each in SETTINGS if not each.measured) <= 8, "the main points"


def test_every_question_has_settings_and_some_are_measured():
    questions = {"main", "grid", "schedule", "adaptive", "sites", "guidance", "steps", "baselines", "stability"}
    assert set(SWEEPS) == questions
    assert {1.0, 0.5, 2.0} <= {each.gamma for each in SETTINGS if each.measured}


def test_no_name_and_no_pictures_are_there_twice(tmp_path):
    assert len({each.name for each in SETTINGS}) == len(SETTINGS)
    store = Store(tmp_path)
    assert len({store.fingerprint(each) for each in SETTINGS}) == len(SETTINGS)


def test_a_name_says_what_differs_from_the_plain_model():
    assert slug() == "plain"
    assert slug(gamma=1.05, beta=3.0, adaptive=True) == "gamma_1.05_beta_3_adaptive"
    assert slug(gamma=-1.0, sites="down", measured=True, count=7) == "gamma_-1_down"
    assert slug(freeu=(0.9, 0.2, 1.2, 1.4)) == "freeu_0.9_0.2_1.2_1.4"


def test_an_unknown_name_is_answered_with_the_known_ones():
    assert [each.name for each in named(["steps_25", "plain"])] == ["plain", "steps_25"]
    with pytest.raises(ValueError, match=r"no setting plane.*plain, gamma_0,"):
        named(["plain", "plane"])


@pytest.mark.parametrize(
    "changes", [{"sites": "left"}, {"pag": 1.0, "sag": 1.0}, {"measured": True, "pag": 1.0}], ids=str
)
def test_settings_that_mean_nothing_are_refused(changes):
    with pytest.raises(ValueError, match=next(iter(changes))):
        setting(**changes)


# --- sampling


def test_the_plain_setting_is_plain_sampling_bit_for_bit(model):
    seeds = range(3, 8)
    wanted = sample(model, [0, 1, 2, 0, 1], seeds, steps=4, guidance=2.0)
    samples = draw_samples(model, setting(), seeds)
    assert torch.equal(samples.pictures, (wanted * 255).round().to(torch.uint8))
    assert torch.equal(model.decode(latents_of(model, seeds)).clamp(0, 1), wanted)


def test_a_constant_gamma_is_that_of_the_diffusers_processor(model):
    set_skew_attention(model.unet, gamma=2.0, beta=3.0)
    wanted = sample(model, [0, 1, 2], SEEDS, steps=4, guidance=2.0)
    set_skew_attention(model.unet, gamma=1.0)
    found = latents_of(model, gamma=2.0, beta=3.0)
    assert torch.equal(model.decode(found).clamp(0, 1), wanted)
    assert (found - latents_of(model)).abs().max() > 0.01


def test_gamma_one_in_a_window_is_the_plain_model(model):
    assert torch.equal(latents_of(model, gamma=1.0, start=0.3, end=0.6), latents_of(model))


def test_gamma_acts_only_inside_its_window(model):
    """Four steps are at percent 0.001, 0.251, 0.501, 0.751."""
    constant, plain = latents_of(model, gamma=2.0), latents_of(model)
    assert torch.equal(latents_of(model, gamma=2.0, start=0.0, end=0.9), constant)
    assert torch.equal(latents_of(model, gamma=2.0, start=0.76, end=1.0), plain)
    early, late = latents_of(model, gamma=2.0, end=0.5), latents_of(model, gamma=2.0, start=0.5)
    assert all((one - other).abs().max() > 1e-3 for one, other in [(early, late), (early, constant), (late, plain)])


@pytest.mark.parametrize("steps", [10, 20, 25])
def test_the_thirds_share_out_the_steps(steps):
    windows = [setting(start=start, end=end) for start, end in ((0, 1 / 3), (1 / 3, 2 / 3), (2 / 3, 1))]
    for timestep in [*make_scheduler(steps).timesteps.tolist(), 0]:
        assert sum(is_active(window, timestep) for window in windows) == 1


def test_gamma_acts_only_at_its_sites(model):
    """In the first step, everything before the first site with γ is unpatched."""

    def stability(**changes):
        return draw_samples(model, setting(steps=1, measured=True, **changes), SEEDS).stability[:, 0]

    plain, sites = stability(), list(self_attentions(model.unet))
    for part in ("down", "middle", "up"):
        is_changed = (stability(gamma=0.0, sites=part) != plain).any(dim=2).any(dim=0).tolist()
        first = next(number for number, site in enumerate(sites) if site.startswith(part))
        assert is_changed == [number >= first for number in range(len(sites))]


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"gamma": 2.0, "beta": 3.0},
        {"gamma": 1.5, "beta": 3.0, "adaptive": True},
        {"pag": 1.0},
        {"sag": 0.5},
        {"freeu": (0.9, 0.2, 1.2, 1.4)},
        {"guidance": 1.0},
    ],
    ids=str,
)
def test_a_sample_does_not_depend_on_its_chunk_mates(model, changes):
    together = latents_of(model, seeds=range(4, 9), **changes)
    alone = latents_of(model, seeds=range(6, 7), **changes)
    # Rounding differs with the size of a batch, the number of threads and the processor; a batch mate's η does not.
    torch.testing.assert_close(together[2:3], alone, rtol=0, atol=1e-4 * float(alone.abs().max()))


def test_temperature_scales_the_first_noise(model):
    noise, latents = seed_noise(0), []
    handle = model.unet.register_forward_pre_hook(lambda module, given: latents.append(given[0][:1]))
    latents_of(model, seeds=range(1), temperature=0.9, steps=1)
    handle.remove()
    torch.testing.assert_close(latents[0], 0.9 * noise)


def test_freeu_changes_pictures_and_is_taken_off_again(model):
    plain = latents_of(model)
    assert (latents_of(model, freeu=(0.9, 0.2, 1.2, 1.4)) - plain).abs().max() > 0.01
    assert torch.equal(latents_of(model), plain)


def test_the_model_is_plain_again_after_a_failure(model):
    with pytest.raises(ValueError, match="does not divide 1000"):
        draw_samples(model, setting(steps=3), SEEDS)
    middle, calls = self_attentions(model.unet)["middle.0"], []

    def fail_in_the_second_call(*_):
        calls.append(middle.__dict__["forward"])
        if len(calls) == 2:
            raise RuntimeError("out of memory")

    handle = model.unet.conv_out.register_forward_hook(fail_in_the_second_call)
    with pytest.raises(RuntimeError, match="out of memory"):
        draw_samples(model, setting(gamma=2.0, pag=1.0, freeu=(0.9, 0.2, 1.2, 1.4)), SEEDS)
    handle.remove()
    assert [type(each).__name__ for each in calls] == ["method", "partial"], "γ or the identity was not there"
    assert not any("forward" in layer.__dict__ for layer in self_attentions(model.unet).values())
    assert model.unet.up_blocks[0].b1 is None


def test_what_is_outside_and_what_is_not_finite_is_reported(model, monkeypatch):
    raw = torch.full((3, 3, 32, 32), 0.5)
    raw[1, 0, :16] = 1.5
    raw[1, 1, 0, 0] = -0.1
    raw[2, 2, 5, 5] = float("nan")
    monkeypatch.setattr(type(model), "decode", lambda self, latents: raw)
    samples = draw_samples(model, setting(steps=1), SEEDS)
    assert samples.outside.tolist() == pytest.approx([0.0, 513 / 3072, 1 / 3072], abs=1e-6)
    assert samples.finite.tolist() == [True, True, False]
    assert [int(samples.pictures[1, 0, 0, 0]), int(samples.pictures[2, 2, 5, 5])] == [255, 0]


# --- baselines


def arguments_of(model, seeds=SEEDS):
    noise = torch.cat([seed_noise(seed) for seed in seeds])
    return model, noise, torch.tensor(599.0), categories_of(seeds)


@torch.no_grad()
def test_guidance_of_scale_zero_is_the_plain_guided_velocity(model):
    arguments = (*arguments_of(model), 2.0)
    conditional = model(arguments[1], torch.full((3,), 599), categories_of(SEEDS))
    without = model(arguments[1], torch.full((3,), 599), torch.full((3,), NO_CATEGORY))
    plain = without + 2.0 * (conditional - without)
    for found in (
        perturbed_attention_guidance(*arguments, 0.0),
        self_attention_guidance(*arguments, 0.0, torch.tensor(0.3)),
    ):
        torch.testing.assert_close(found, plain, rtol=0, atol=1e-5 * float(plain.abs().max()))
    assert torch.equal(latents_of(model, pag=0.0, sag=0.0), latents_of(model))


def test_scales_that_hardly_differ_from_zero_hardly_change_a_sample(model):
    plain = latents_of(model)
    for kind in ("pag", "sag"):
        torch.testing.assert_close(latents_of(model, **{kind: 1e-9}), plain, rtol=0, atol=1e-4)
        assert (latents_of(model, **{kind: 1.0}) - plain).abs().max() > 0.05


def noise_of(model, noisy, time, alpha, category):
    """ε of one noisy latent in float64, from the velocity v: ε = √(1 − a)·z + √a·v."""
    velocity = model(noisy.float(), time[None], torch.tensor([category])).double()
    return (1 - alpha).sqrt() * noisy + alpha.sqrt() * velocity


def slow_sampling(model, seed, noise_at):
    """Four steps of DDIM without noise, in float64: predict x₀ and ε, and mix them again at the next a."""
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    alphas = torch.cumprod(1 - betas, dim=0)
    times = torch.tensor([999, 749, 499, 249])
    noisy = seed_noise(seed).double()
    for time, following in zip(times, [*times[1:], None], strict=True):
        alpha = alphas[time]
        noise = noise_at(noisy, time, alpha)
        picture = (noisy - (1 - alpha).sqrt() * noise) / alpha.sqrt()
        if following is None:
            return picture
        noisy = alphas[following].sqrt() * picture + (1 - alphas[following]).sqrt() * noise


@torch.no_grad()
def test_perturbed_attention_guidance_is_the_papers(model):
    """ε̃ = ε_cfg + s (ε_c − ε̂), ε̂ with the identity for the middle block's attention, one sample, in noises."""
    middle = model.unet.mid_block.attentions[0].transformer_blocks[0].attn1

    def values_as_they_are(module, given, output):
        return module.to_out[0](module.to_v(given[0]))

    def noise_at(noisy, time, alpha):
        conditional = noise_of(model, noisy, time, alpha, 1)
        without = noise_of(model, noisy, time, alpha, NO_CATEGORY)
        handle = middle.register_forward_hook(values_as_they_are)
        perturbed = noise_of(model, noisy, time, alpha, 1)
        handle.remove()
        return without + 2.0 * (conditional - without) + 1.5 * (conditional - perturbed)

    found = latents_of(model, seeds=range(4, 5), pag=1.5)
    torch.testing.assert_close(found.double(), slow_sampling(model, 4, noise_at), rtol=0, atol=2e-3)


@torch.no_grad()
def test_self_attention_guidance_is_the_papers(model):
    """ε̃ = ε_cfg + s (ε_u − ε_u(x̃)), x̃ blurred by hand where the 16 tokens of the middle block are attended to."""
    middle = model.unet.mid_block.attentions[0].transformer_blocks[0].attn1
    weights = torch.tensor([2.718281828459045 ** (-(step**2) / 2) for step in range(-4, 5)], dtype=torch.float64)
    weights = weights / weights.sum()

    def blurred(picture):
        padded = F.pad(picture, (4, 4, 4, 4), mode="reflect")
        return sum(
            weights[row] * weights[column] * padded[..., row : row + 16, column : column + 16]
            for row in range(9)
            for column in range(9)
        )

    def is_salient(tokens):
        received = torch.zeros(16, dtype=torch.float64)
        queries, keys = (layer(tokens)[0].double().unflatten(-1, (4, 32)) for layer in (middle.to_q, middle.to_k))
        for head in range(4):
            for token in range(16):
                received += torch.softmax(keys[:, head] @ queries[token, head] / 32**0.5, dim=0) / 4
        return torch.stack([received[4 * (row // 4) + column // 4] > 1 for row in range(16) for column in range(16)])

    shares = []

    def noise_at(noisy, time, alpha):
        conditional = noise_of(model, noisy, time, alpha, 1)
        tokens = []
        handle = middle.register_forward_pre_hook(lambda module, given: tokens.append(given[0]))
        without = noise_of(model, noisy, time, alpha, NO_CATEGORY)
        handle.remove()
        picture = (noisy - (1 - alpha).sqrt() * without) / alpha.sqrt()
        mask = is_salient(tokens[0]).reshape(1, 1, 16, 16)
        shares.append(float(mask.double().mean()))
        degraded = torch.where(mask, blurred(picture), picture)
        again = noise_of(model, alpha.sqrt() * degraded + (1 - alpha).sqrt() * without, time, alpha, NO_CATEGORY)
        return without + 2.0 * (conditional - without) + 0.75 * (without - again)

    found = latents_of(model, seeds=range(4, 5), sag=0.75)
    torch.testing.assert_close(found.double(), slow_sampling(model, 4, noise_at), rtol=0, atol=2e-3)
    assert all(0.05 < share < 0.95 for share in shares), "a mask of all or nothing would test nothing"


# --- stability


@pytest.mark.parametrize("gamma", [1.0, 2.0])
def test_stability_is_that_of_what_was_retrieved(model, gamma):
    """At the first step, of only the conditional pass, once for each sample."""
    sites = list(self_attentions(model.unet))
    samples = draw_samples(model, setting(gamma=gamma, beta=3.0, measured=True, steps=2), SEEDS)
    assert samples.stability.shape == (3, 2, 10, len(MEASURES))
    assert samples.stability.dtype == torch.float32
    assert samples.sites == tuple(sites)
    assert (sites[0], sites[3], sites[-1]) == ("down.0.0", "middle.0", "up.2.1")

    given = {}
    handles = [
        layer.register_forward_pre_hook(lambda module, given_now, site=site: given.update({site: given_now[0]}))
        for site, layer in self_attentions(model.unet).items()
    ]
    set_skew_attention(model.unet, gamma=gamma, beta=3.0)
    with torch.no_grad():
        model(seed_noise(2), torch.tensor([999]), torch.tensor([2]))
    set_skew_attention(model.unet, gamma=1.0)
    for handle in handles:
        handle.remove()
    for number, (site, layer) in enumerate(self_attentions(model.unet).items()):
        q, k, v = (
            projection(given[site]).unflatten(-1, (layer.heads, -1)).transpose(1, 2)
            for projection in (layer.to_q, layer.to_k, layer.to_v)
        )
        found = hopfield_stability(q, k, skew_attention(q, k, v, gamma, 3.0))
        wanted = torch.tensor([getattr(found, measure).mean() for measure in MEASURES])
        torch.testing.assert_close(samples.stability[2, 0, number], wanted, rtol=1e-3, atol=1e-4)


def test_measuring_changes_no_bit(model):
    measured, plain = (latents_of(model, gamma=2.0, steps=2, measured=each) for each in (True, False))
    assert torch.equal(measured, plain)


# --- the store


def made_up(seeds, stability=False) -> Samples:
    """Samples that know their seed, without a model."""
    numbers = torch.tensor(list(seeds))
    return Samples(
        pictures=(numbers % 256).to(torch.uint8)[:, None, None, None].expand(-1, 3, 32, 32),
        outside=numbers / 1000,
        finite=numbers % 7 != 0,
        stability=numbers[:, None, None, None].expand(-1, 2, 3, 5).float() if stability else None,
        sites=("a", "b", "c") if stability else (),
    )


def assert_same(found: Samples, wanted: Samples):
    assert found.sites == wanted.sites
    for name in ("pictures", "outside", "finite", "stability"):
        one, other = getattr(found, name), getattr(wanted, name)
        assert (one is None) == (other is None)
        assert one is None or (one.dtype == other.dtype and torch.equal(one, other))


@pytest.mark.parametrize("stability", [False, True])
def test_what_is_kept_comes_back(tmp_path, stability):
    store, tried = Store(tmp_path / "new"), setting(count=70, measured=stability)
    assert store.count(tried) == 0
    store.append(tried, 0, made_up(range(40), stability))
    store.append(tried, 40, made_up(range(40, 70), stability))
    assert store.count(tried) == 70
    assert_same(store.load(tried), made_up(range(70), stability))
    assert_same(store.load(tried, 12), made_up(range(12), stability))
    assert [path.name for path in store.folder.iterdir()] == ["tried.safetensors"]
    with safe_open(store.path(tried), framework="pt") as file:
        assert json.loads(file.metadata()["setting"])["count"] == 70


def test_too_few_samples_are_refused_with_the_command_that_draws_them(tmp_path):
    store, tried = Store(tmp_path), setting()
    store.append(tried, 0, made_up(range(40)))
    with pytest.raises(ValueError, match=r"tried has 40 samples of 200.*--only tried"):
        store.load(tried)


def test_samples_that_do_not_follow_are_refused(tmp_path):
    store, tried = Store(tmp_path), setting()
    store.append(tried, 0, made_up(range(40)))
    with pytest.raises(ValueError, match="40 samples, so those from 0"):
        store.append(tried, 0, made_up(range(40)))


@pytest.mark.parametrize(
    "changes", [{"gamma": 1.01}, {"guidance": 3.0}, {"measured": True}, {"freeu": (1.0, 1.0, 1.0, 1.1)}], ids=str
)
def test_another_setting_of_the_same_name_starts_anew(tmp_path, changes):
    store, tried = Store(tmp_path), setting()
    store.append(tried, 0, made_up(range(40)))
    assert store.count(setting(**changes)) == 0
    store.append(setting(**changes), 0, made_up(range(5, 9)))
    assert store.count(tried) == 0
    assert_same(store.load(setting(**changes), 4), made_up(range(5, 9)))


def test_the_count_and_the_sweep_do_not_start_anew(tmp_path):
    store, tried = Store(tmp_path), setting()
    store.append(tried, 0, made_up(range(40)))
    assert store.count(replace(tried, count=1000, sweep="other")) == 40


def test_another_model_starts_anew(tmp_path, model):
    Store(tmp_path).append(setting(), 0, made_up(range(40)))
    save_model(model, tmp_path / "other.safetensors", {"steps": "1"})
    assert Store(tmp_path, tmp_path / "other.safetensors").count(setting()) == 0


def test_a_write_that_fails_leaves_the_old_file(tmp_path, monkeypatch):
    store, tried = Store(tmp_path), setting()
    store.append(tried, 0, made_up(range(40)))

    def fail(*_):
        raise OSError("the disk is full")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="full"):
        store.append(tried, 40, made_up(range(40, 80)))
    assert_same(store.load(tried, 40), made_up(range(40)))


# --- drawing


def test_every_setting_gets_200_before_one_gets_more(tmp_path):
    first, second = setting(count=290), replace(setting(), name="second", count=200)
    jobs = drawing.missing(Store(tmp_path), [first, second])
    assert [(job.setting.name, job.seeds.start, job.seeds.stop) for job in jobs] == [
        *(("tried", start, start + 40) for start in range(0, 200, 40)),
        *(("second", start, start + 40) for start in range(0, 200, 40)),
        ("tried", 200, 240),
        ("tried", 240, 280),
        ("tried", 280, 290),
    ]


def test_a_limit_cuts_a_chunk_and_the_next_command_fills_it_up(tmp_path):
    store = Store(tmp_path)
    (job,) = drawing.missing(store, [setting()], limit=25)
    assert job.seeds == range(25)
    store.append(job.setting, 0, made_up(job.seeds))
    assert [job.seeds for job in drawing.missing(store, [setting()], limit=100)] == [
        range(25, 40),
        range(40, 80),
        range(80, 100),
    ]
    assert drawing.missing(store, [setting()], limit=25) == []


@pytest.fixture
def drawn(monkeypatch):
    """The seeds that were drawn, one entry a chunk; the samples are made up."""
    chunks = []

    def draw_samples(model, tried, seeds):
        chunks.append((tried.name, seeds))
        return made_up(seeds)

    monkeypatch.setattr(drawing, "draw_samples", draw_samples)
    monkeypatch.setattr(drawing, "shared_model", lambda: None)
    return chunks


def test_an_interrupted_run_goes_on_where_it_was(tmp_path, drawn, monkeypatch, capsys):
    store, tried = Store(tmp_path), setting(count=100)
    pretended = drawing.draw_samples

    def break_down(model, tried, seeds):
        if seeds.start == 80:
            raise KeyboardInterrupt
        return pretended(model, tried, seeds)

    monkeypatch.setattr(drawing, "draw_samples", break_down)
    with pytest.raises(KeyboardInterrupt):
        drawing.draw(store, [tried])
    assert store.count(tried) == 80
    monkeypatch.setattr(drawing, "draw_samples", pretended)
    drawing.draw(store, [tried])
    drawing.draw(store, [tried])
    assert [seeds.start for _, seeds in drawn] == [0, 40, 80]
    assert_same(store.load(tried), made_up(range(100)))
    lines = capsys.readouterr().out.splitlines()
    assert [line.partition(";")[0] for line in lines] == [f"tried: {count} samples" for count in (40, 80, 100)]


def test_a_polite_stop_keeps_the_chunk_under_way(tmp_path, drawn, monkeypatch):
    store, tried = Store(tmp_path), setting(count=100)
    stops = []

    class StopAtOnce(drawing.Stop):
        def __enter__(self):
            stops.append(self)
            self.ask()
            return self

        def __exit__(self, *_):
            pass

    monkeypatch.setattr(drawing, "Stop", StopAtOnce)
    drawing.draw(store, [tried])
    assert len(stops) == 1
    assert store.count(tried) == 40


def test_the_command_draws_with_two_processes(tmp_path, model):
    """The samples of a small run through the real command are those of `draw_samples`."""
    names = ["guidance_1", "gamma_0.5_guidance_1"]
    command = [
        sys.executable,
        "-m",
        "lab.evidence.draw",
        "--processes",
        "2",
        "--limit",
        "2",
        "--folder",
        str(tmp_path),
    ]
    done = subprocess.run([*command, "--only", *names], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, len(done.stdout.splitlines())) == (0, 2), done.stdout + done.stderr
    for each in named(names):
        found, wanted = Store(tmp_path).load(each, 2), draw_samples(model, each, range(2))
        assert (found.pictures.int() - wanted.pictures.int()).abs().max() <= 1


@pytest.mark.parametrize(
    ("options", "told"), [(["--only", "plane"], "no setting plane"), (["--processes", "0"], "at least 1")]
)
def test_the_command_ends_with_a_sentence_on_what_it_cannot_do(monkeypatch, capsys, options, told):
    monkeypatch.setattr("sys.argv", ["draw", *options])
    with pytest.raises(SystemExit) as stopped:
        drawing.main()
    assert stopped.value.code == 2
    assert told in capsys.readouterr().err
