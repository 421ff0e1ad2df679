"""From samples to numbers: signs, pairing with the right plain model, the rule of choice, and the knobs' curves."""

from __future__ import annotations

from argparse import ArgumentParser
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file

from lab.demo.classifier import save_classifier
from lab.evidence.bootstrap import Estimate, drawn, halves
from lab.evidence.measures import guards, manifold
from lab.evidence.measures.kernel_distance import kernel_distance
from lab.evidence.measures.pairwise import apart, distances_among
from lab.evidence.measures.vendi import vendi
from lab.testbed import measured, resampled
from lab.testbed.arms import GUIDANCE, PLAIN, Arm, all_arms, plain_of, twin_arms, with_ancestral_noise
from lab.testbed.data import Garments
from lab.testbed.dit_arms import dit_arms
from lab.testbed.draw import Source
from lab.testbed.features import Eyes, features, features_file
from lab.testbed.frechet import frechet_distance
from lab.testbed.judges import DESIGNS, judge_file
from lab.testbed.measured import Reference, measures_file
from lab.testbed.model import classes_of
from lab.testbed.networks import parse_with_network
from lab.testbed.results import added, changes_of, chosen, corner_of, for_imagenet, numbers_of, of_knobs, plane_of
from lab.testbed.scores import Measured, imagenet_score, scores


def estimate(value: float) -> Estimate:
    return Estimate(value, torch.tensor([value - 0.1, value, value + 0.1], dtype=torch.float64), 10, ("halves", 5, 5))


def found(frechet: float, coverage: float) -> dict[str, Estimate]:
    return {"frechet": estimate(frechet), "coverage": estimate(coverage)}


WEAK, STRONG, BAD = (Arm(f"γ {gamma}", "γ", gamma) for gamma in (1.2, 1.5, 3.0))
MOVED = Arm("more noise", "first noise", 1.1, noise=1.1)
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
    rows, planes = numbers_of(FOUND, ARMS, len(ARMS))
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
    known = {PLAIN.name: found(2.0, 0.5), "CFG 1": found(3.0, 0.9), "CFG 4": found(1.0, 0.5)}
    _, planes = numbers_of(known, arms, len(arms))
    gains = [of_knobs(planes, arms, guidance)["CFG"]["diversity at equal fidelity"][0] for guidance in (2.0, 8.0)]
    assert gains == pytest.approx([0.0, 0.2])


def test_less_distance_is_more_fidelity():
    _, planes = numbers_of(FOUND, ARMS, len(ARMS))
    torch.testing.assert_close(planes[WEAK.name][0], torch.tensor([0.2, 0.1], dtype=torch.float64))
    assert plane_of(FOUND[WEAK.name]).shape == (1 + 3, 2)


def test_the_rule_takes_the_most_diverse_arm_that_loses_no_fidelity():
    _, planes = numbers_of(FOUND, ARMS, len(ARMS))
    assert chosen(planes, ARMS) == {"γ": STRONG.name}


def test_the_numbers_of_a_knob_are_read_off_its_curve():
    """Fidelity falls from 0 at γ 1.5 to −1 at γ 3, so the most that is gained without losing any is 0.2."""
    _, planes = numbers_of(FOUND, ARMS, len(ARMS))
    knob = of_knobs(planes, ARMS, GUIDANCE)["γ"]
    assert knob["diversity at equal fidelity"][0] == pytest.approx(0.2)
    assert knob["fidelity at equal diversity"][0] == pytest.approx(0.2)
    # The corner is (−1, 0): 1.2 wide to a height of 0.1, 1 wide from there to 0.2, and the lines beyond and between.
    assert 1.2 * 0.1 + 1 * 0.1 < knob["dominated area"][0] < 1.2 * 0.4


def as_numbers_file(arms: tuple[Arm, ...]) -> dict:
    """The numbers that `results` writes of some arms of ARMS, as far as `added` reads it."""
    rows, planes = numbers_of(FOUND, arms, len(arms))
    return {
        **{"count": 10, "choice count": 10, "guidance": GUIDANCE, "floor": {}, "arms": rows},
        "knobs": of_knobs(planes, arms, GUIDANCE),
        "chosen": {knob: {"arm": name} for knob, name in chosen(planes, arms).items()},
        "pairs": [
            {"question": number, "arm": arms[-1].name, "against": PLAIN.name, "changes": {}} for number in (3, 4)
        ],
        "slice": {arm.name: [len(arms)] for arm in arms},
    }


def test_what_is_drawn_later_is_added():
    part, rest = as_numbers_file((PLAIN, WEAK, STRONG, BAD)), as_numbers_file((PLAIN, OTHER_PLAIN, OTHER))
    both = added(part, rest, ARMS)
    assert list(both["arms"]) == [arm.name for arm in ARMS]
    assert both["arms"][WEAK.name] == part["arms"][WEAK.name]
    assert both["knobs"] == {**part["knobs"], **rest["knobs"]}
    assert [pair["arm"] for pair in both["pairs"]] == [BAD.name, OTHER.name, BAD.name]
    assert both["slice"][PLAIN.name] == [3]


def test_a_knob_of_which_a_part_is_drawn_later_keeps_its_numbers():
    whole, part = as_numbers_file(ARMS), as_numbers_file((PLAIN, WEAK))
    assert added(whole, part, ARMS)["knobs"] == whole["knobs"]
    assert added(whole, part, ARMS)["chosen"] == whole["chosen"]
    assert added(part, whole, ARMS)["knobs"] == whole["knobs"]


def test_a_measure_of_the_floor_is_added_and_the_known_ones_stay():
    kept, later = (
        {**as_numbers_file(ARMS), "floor": floor} for floor in ({"judge": [1]}, {"judge": [2], "imagenet": [3]})
    )
    assert added(kept, later, ARMS)["floor"] == {"judge": [1], "imagenet": [3]}


def test_the_corner_is_the_worst_change_of_all_rows():
    assert corner_of(as_numbers_file(ARMS)).tolist() == pytest.approx([-1.0, 0.0])


def test_the_best_of_ours_stays_the_one_that_all_arms_chose():
    whole, part = as_numbers_file(ARMS), as_numbers_file((PLAIN, WEAK))
    assert [pair["arm"] for pair in added(whole, part, ARMS)["pairs"] if pair["question"] == 4] == [OTHER.name]


def test_numbers_of_other_seeds_are_not_added():
    with pytest.raises(ValueError, match="count: 20 was given"):
        added(as_numbers_file(ARMS), as_numbers_file(ARMS) | {"count": 20}, ARMS)


def test_samples_of_other_seeds_lie_elsewhere(tmp_path):
    (tmp_path / "model").write_bytes(b"weights")
    first, other = (Source(tmp_path / "model", None, tmp_path, seed) for seed in (0, 1000))
    assert first.file(PLAIN) != other.file(PLAIN)
    assert other.seeds(2) == range(1000, 1002)


def test_every_measure_is_that_of_its_own_file(monkeypatch):
    """500 pictures of noise, so that half of them hold a block of 25 a class; slow and plain against all at once."""
    monkeypatch.setattr("lab.evidence.bootstrap.RESAMPLES", 4)
    drawn.cache_clear()
    labels = classes_of(range(500))
    samples, test = (
        Measured(torch.rand(500, 1, 28, 28), labels, *noise, torch.rand(500).double(), noise[0])
        for noise in [[torch.rand(500, 6).double()], [torch.rand(500, 6).double()]]
    )
    found = scores(samples, test, test.guide, plain=test.images) | {"imagenet": imagenet_score(samples, test)}
    guide, real, rows = samples.guide, test.guide, halves(labels)
    slow = {
        "frechet": frechet_distance(guide, real),
        "kernel": kernel_distance(guide, real),
        "imagenet": kernel_distance(guide, real),
        "coverage": manifold.coverage(guide, labels, real),
        "recall": manifold.recall(guide, labels, real),
        "vendi": vendi(guide, labels),
        "apart": apart(distances_among(guide, cosine=True), labels),
    }
    for name, measure in slow.items():
        wanted = torch.tensor([measure(row) for row in rows], dtype=torch.float64)
        wanted *= 1000 if name in ("kernel", "imagenet") else 1
        torch.testing.assert_close(found[name].resampled, wanted, rtol=1e-7, atol=1e-9)
    negatives = 1 - samples.images
    each = {
        "precision": manifold.precision(guide, real),
        "density": manifold.density(guide, real),
        "judge": samples.probability,
        "saturation": guards.saturation(negatives),
        "high frequency": guards.high_frequency(negatives),
        "drift": (samples.images - test.images).square().mean(dim=(1, 2, 3)).sqrt(),
    }
    for name, numbers in each.items():
        assert found[name].value == pytest.approx(float(numbers.double().mean()))
    drawn.cache_clear()


@pytest.mark.parametrize("sizes", [(50, 50), (70, 53), (130, 55)])
def test_blocks_of_any_size_are_dealt_as_the_plain_measure_deals_them(sizes):
    """Blocks that are full, that deal some places again, and classes of unequal size."""
    labels = torch.cat([torch.full((size,), label) for label, size in enumerate(sizes)])[torch.randperm(sum(sizes))]
    samples, real = torch.rand(len(labels), 3).double(), torch.rand(60, 3).double()
    rows = halves(labels)[:5]
    slow = manifold.recall(samples, labels, real)
    fast = resampled.recall(torch.cdist(samples, samples), torch.cdist(samples, real), labels, rows)
    torch.testing.assert_close(fast, torch.tensor([slow(row) for row in rows], dtype=torch.float64), rtol=0, atol=1e-12)


def test_each_real_picture_has_a_bit():
    flags = torch.rand(7, 70) < 0.3
    together = resampled.shares_of_unions(resampled.as_bits(flags), torch.arange(7).view(1, 1, 7), 70)
    assert float(together) == pytest.approx(float(flags.any(dim=0).double().mean()))


def test_too_few_samples_for_a_block_are_refused():
    labels = classes_of(range(400))
    with pytest.raises(ValueError, match="Draw at least 50 samples of each class"):
        resampled.blocks(labels, halves(labels))


@pytest.fixture
def bed(tmp_path, monkeypatch):
    """A source with the samples of two arms, and what to hold them against; every network a toy."""
    monkeypatch.setattr("lab.evidence.bootstrap.RESAMPLES", 4)
    drawn.cache_clear()
    for name, design in DESIGNS.items():
        save_classifier(design.build(), judge_file(tmp_path, name))
    (tmp_path / "model").write_bytes(b"weights")
    real = Garments(torch.randint(256, (600, 28, 28), dtype=torch.uint8), classes_of(range(600)))
    monkeypatch.setattr(measured, "load_split", lambda *_: real)
    source = Source(tmp_path / "model", None, tmp_path)
    source.place.mkdir()
    for arm in (PLAIN, MOVED):
        save_file({"pixels": torch.randint(256, (500, 1, 28, 28), dtype=torch.uint8)}, source.file(arm))
    yield source, Reference(tmp_path, "test", 500, tmp_path, Eyes(tmp_path))
    drawn.cache_clear()


def test_what_is_measured_is_not_measured_again(bed, monkeypatch):
    found = measured.measure_arms(bed[0], (PLAIN, MOVED), bed[1])
    assert list(found) == [PLAIN.name, MOVED.name]
    assert found[MOVED.name].keys() - found[PLAIN.name].keys() == {"drift"}
    monkeypatch.setattr(measured, "scores", lambda *_: pytest.fail("measured again"))
    again = measured.measure_arms(bed[0], (PLAIN, MOVED), bed[1])
    for name, estimate in found[MOVED.name].items():
        assert again[MOVED.name][name].drawn == estimate.drawn
        assert torch.equal(again[MOVED.name][name].resampled, estimate.resampled)
    assert len(changes_of(again[MOVED.name], again[PLAIN.name])) == len(found[PLAIN.name])  # still paired


def test_other_samples_are_measured_anew(bed):
    before = measured.measure_arms(bed[0], (PLAIN, MOVED), bed[1])
    save_file({"pixels": torch.randint(256, (500, 1, 28, 28), dtype=torch.uint8)}, bed[0].file(PLAIN))
    after = measured.measure_arms(bed[0], (PLAIN, MOVED), bed[1])
    assert after[PLAIN.name]["frechet"].value != before[PLAIN.name]["frechet"].value
    assert after[MOVED.name]["drift"].value != before[MOVED.name]["drift"].value  # from the new plain pictures
    assert after[MOVED.name]["frechet"].value == before[MOVED.name]["frechet"].value


def test_the_imagenet_network_looks_at_the_arms_it_is_given(bed, monkeypatch):
    monkeypatch.setattr("lab.evidence.measures.features.imagenet", lambda images, *_: images[:, 0, ::7, ::7].flatten(1))
    found = measured.measure_arms(*bed[:1], (PLAIN, MOVED), bed[1], imagenet=frozenset([MOVED.name]))
    assert found[MOVED.name].keys() - found[PLAIN.name].keys() == {"drift", "imagenet"}
    features(load_file(bed[0].file(PLAIN))["pixels"], bed[1].eyes, True, features_file(bed[0].file(PLAIN)))
    measures_file(bed[0].file(PLAIN), 500).unlink()
    assert "imagenet" in measured.measure_arms(*bed[:1], (PLAIN,), bed[1])[PLAIN.name]


def test_too_few_samples_are_refused(bed):
    with pytest.raises(ValueError, match="has 500 samples of 1000"):
        measured.measure_arms(bed[0], (PLAIN,), replace(bed[1], count=1000))


def test_the_headline_is_the_plain_model_gamma_and_what_was_chosen():
    names = for_imagenet("headline", ARMS, [OTHER.name])
    assert names == {PLAIN.name, WEAK.name, STRONG.name, BAD.name, OTHER.name}
    assert for_imagenet("all", ARMS, []) == {arm.name for arm in ARMS}
    assert not for_imagenet("none", ARMS, [OTHER.name])
