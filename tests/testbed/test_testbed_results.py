"""From samples to numbers: signs, pairing with the right plain model, the rule of choice, and the knobs' curves."""

from __future__ import annotations

from argparse import ArgumentParser

import pytest
import torch
from safetensors.torch import save_file

from lab.evidence.bootstrap import Estimate
from lab.evidence.measures import manifold
from lab.testbed import scores as scoring
from lab.testbed.arms import GUIDANCE, PLAIN, Arm, all_arms, plain_of, twin_arms, with_ancestral_noise
from lab.testbed.dit_arms import dit_arms
from lab.testbed.draw import Source
from lab.testbed.frechet import frechet_distance
from lab.testbed.judges import DESIGNS
from lab.testbed.model import classes_of
from lab.testbed.networks import parse_with_network
from lab.testbed.results import chosen, numbers_of, of_knobs, plane_of
from lab.testbed.scores import look_at, scores


def estimate(value: float) -> Estimate:
    return Estimate(value, torch.tensor([value - 0.1, value, value + 0.1], dtype=torch.float64), 10, ("halves", 5, 5))


def found(frechet: float, coverage: float) -> dict[str, Estimate]:
    return {"frechet": estimate(frechet), "coverage": estimate(coverage)}


WEAK, STRONG, BAD = (Arm(f"γ {gamma}", "γ", gamma) for gamma in (1.2, 1.5, 3.0))
OTHER_PLAIN, OTHER = with_ancestral_noise(PLAIN), with_ancestral_noise(WEAK)
ARMS = (PLAIN, WEAK, STRONG, BAD, OTHER_PLAIN, OTHER)
FOUND = {
    PLAIN.name: found(2.0, 0.5),
    WEAK.name: found(1.8, 0.6),  # better in both
    STRONG.name: found(2.0, 0.7),  # as near, more diverse
    BAD.name: found(3.0, 0.9),
    OTHER_PLAIN.name: found(1.0, 0.8),
    OTHER.name: found(1.5, 0.8),
}


def test_each_arm_is_held_against_the_plain_model_of_its_sampler():
    rows, planes = numbers_of(FOUND, ARMS)
    assert rows[WEAK.name]["changes"]["frechet"][0] == pytest.approx(-0.2)
    assert rows[OTHER.name]["changes"]["frechet"][0] == pytest.approx(0.5)
    assert "changes" not in rows[PLAIN.name]
    assert set(planes) == {arm.name for arm in ARMS} - {PLAIN.name, OTHER_PLAIN.name}


def test_the_twin_is_held_against_its_own_plain_model():
    """Four steps without guidance on both sides; nothing of the teacher's arms is drawn twice under another name."""
    arms = twin_arms()
    assert {(each.steps, each.guidance) for each in arms} == {(4, 1.0)}
    assert {plain_of(each, arms) for each in arms} == {arms[0]}
    assert not arms[0].uses
    assert len({each.fingerprint for each in arms}) == len({each.name for each in arms}) == len(arms)
    assert {plain_of(each, all_arms()).sampler for each in all_arms()} == {"euler", "euler_ancestral"}


def test_samples_that_were_drawn_are_found_again():
    """Their files are named by the fingerprints."""
    fingerprints = {each.name: each.fingerprint for each in all_arms()}
    drawn = {
        "plain model": "9beb640184fea6f3",
        "γ 1.5": "5b44b507880e5f30",
        "γ falling to 1 2": "9dd66960e205aa31",
        "CFG off at first 0.2": "ad20474f63c52b6e",
        "PAG 1": "a5b24ef0c5385eef",
        "first noise 0.9": "f1dca22c90529cd8",
    }
    assert fingerprints.items() >= drawn.items()


@pytest.mark.parametrize(
    ("network", "said"),
    [("unet", "holds the DiT, whose arms are not those of --network unet"), ("twin", "is not there")],
)
def test_arms_of_another_network_are_refused(network, said, tmp_path, monkeypatch, capsys):
    files = {"unet": tmp_path / "dit.safetensors", "twin": tmp_path / "missing.safetensors"}
    save_file({"dit.weight": torch.zeros(1)}, files["unet"])
    monkeypatch.setattr("sys.argv", ["draw", "--network", network, "--model", str(files[network])])
    with pytest.raises(SystemExit):
        parse_with_network(ArgumentParser())
    assert said in " ".join(capsys.readouterr().err.split())


def test_the_plain_dit_has_its_own_guidance_under_both_samplers():
    arms = dit_arms(2.0)
    assert {(plain_of(each, arms).sampler, plain_of(each, arms).guidance) for each in arms} == {
        ("euler", 2.0),
        ("euler_ancestral", 2.0),
    }


def test_the_curve_of_guidance_passes_through_the_plain_model():
    """A line from guidance 1 to guidance 4 would gain what no guidance on the way to the plain model's 2 does."""
    arms = [PLAIN, *(Arm(f"CFG {scale:g}", "CFG", scale) for scale in (1.0, 4.0))]
    _, planes = numbers_of({PLAIN.name: found(2.0, 0.5), "CFG 1": found(3.0, 0.9), "CFG 4": found(1.0, 0.5)}, arms)
    gains = [of_knobs(planes, arms, guidance)["CFG"]["diversity at equal fidelity"][0] for guidance in (2.0, 8.0)]
    assert gains == pytest.approx([0.0, 0.2])


def test_less_distance_is_more_fidelity():
    _, planes = numbers_of(FOUND, ARMS)
    torch.testing.assert_close(planes[WEAK.name][0], torch.tensor([0.2, 0.1], dtype=torch.float64))
    assert plane_of(FOUND[WEAK.name]).shape == (1 + 3, 2)


def test_the_rule_takes_the_most_diverse_arm_that_loses_no_fidelity():
    _, planes = numbers_of(FOUND, ARMS)
    assert chosen(planes, ARMS) == {"γ": STRONG.name}


def test_the_numbers_of_a_knob_are_read_off_its_curve():
    """Fidelity falls from 0 at γ 1.5 to −1 at γ 3, so the most that is gained without losing any is 0.2."""
    _, planes = numbers_of(FOUND, ARMS)
    knob = of_knobs(planes, ARMS, GUIDANCE)["γ"]
    assert knob["diversity at equal fidelity"][0] == pytest.approx(0.2)
    assert knob["fidelity at equal diversity"][0] == pytest.approx(0.2)
    # The corner is (−1, 0): 1.2 wide to a height of 0.1, 1 wide from there to 0.2, and the lines beyond and between.
    assert 1.2 * 0.1 + 1 * 0.1 < knob["dominated area"][0] < 1.2 * 0.4


def test_samples_of_other_seeds_lie_elsewhere(tmp_path):
    (tmp_path / "model").write_bytes(b"weights")
    first, other = (Source(tmp_path / "model", None, tmp_path, seed) for seed in (0, 1000))
    assert first.file(PLAIN) != other.file(PLAIN)
    assert other.seeds(2) == range(1000, 1002)


def test_every_measure_is_that_of_its_own_file(monkeypatch):
    """500 pictures of noise, so that half of them hold a block of 25 a class."""
    monkeypatch.setattr(scoring, "imagenet", lambda images: images[:, :, ::7, ::7].flatten(1).double())
    guide, judge = (DESIGNS[name].build().eval().requires_grad_(False) for name in ("guide", "judge"))
    labels = classes_of(range(500))
    samples, test = (look_at(torch.rand(500, 1, 28, 28), labels, guide, judge) for _ in range(2))
    monkeypatch.setattr("lab.evidence.bootstrap.RESAMPLES", 4)
    numbers = scores(samples, test, test.guide, plain=test)
    rows = torch.arange(500)
    assert numbers["drift"].value == pytest.approx(
        float((samples.images - test.images).square().mean(dim=(1, 2, 3)).sqrt().mean())
    )
    assert numbers["precision"].value == pytest.approx(float(manifold.precision(samples.guide, test.guide).mean()))
    assert numbers["judge"].value == pytest.approx(
        float(judge(samples.images).double().softmax(-1)[rows, labels].mean()), rel=1e-5
    )
    low, _ = numbers["frechet"].interval
    assert low > frechet_distance(samples.guide, test.guide)(rows) > 0  # half as many pictures, so further away
    assert set(numbers) >= {
        "kernel",
        "imagenet",
        "coverage",
        "recall",
        "vendi",
        "apart",
        "saturation",
        "high frequency",
    }
