"""The table of a trial beside the code of the evidence and of the test bed, on the same pictures."""

from __future__ import annotations

import pytest
import torch

from lab.evidence.measures.pairwise import apart, distances_among, drift
from lab.evidence.measures.vendi import vendi
from lab.testing.made_up_trials import pictures_of
from sad_core.evaluation.measures import PIXELS, FeatureSpace, LookedAt, cosine_distances, measure_set, thumbnails
from sad_core.evaluation.trial.pictures import Images, Picture
from sad_core.evaluation.trial.ways import LADDER, PLAIN

SEEDS, LABELS = range(12), [seed // 4 for seed in range(12)]


def projected(images):
    """Features that are not pixels, as those of a vision model."""
    drawn = torch.randn(3072, 40, generator=torch.Generator().manual_seed(0))
    return (thumbnails(images) @ drawn).relu()


COSINE = FeatureSpace("projections", "1 − cosine", projected, cosine_distances)


@pytest.mark.parametrize("space", [PIXELS, COSINE], ids=["pixels", "cosine"])
def test_distance_drift_and_vendi_are_those_of_the_evidence(space):
    images = [Images([Picture.of(each, 1.0) for each in pictures_of(way, SEEDS, 0.1)]) for way in (PLAIN, LADDER[2])]
    plain, found = (LookedAt.of(each, LABELS, space) for each in images)
    row = measure_set(1.5, found, plain, space)
    is_cosine, labels, everyone = space is COSINE, torch.tensor(LABELS), torch.arange(len(SEEDS))
    features, before = (space.embed(each).double() for each in (images[1], images[0]))
    unit = 1.0 if is_cosine else features.shape[1] ** 0.5  # the trial takes the mean square, not the sum
    distance, neutral = (
        apart(distances_among(each, is_cosine), labels)(everyone) / unit for each in (features, before)
    )
    assert row["distance"].value == pytest.approx(distance, rel=1e-6)
    assert row["distance_change"].value == pytest.approx(distance - neutral, abs=1e-7)
    assert row["drift"].value == pytest.approx(float(drift(features, before, is_cosine).mean()) / unit, rel=1e-6)
    assert row["vendi"].value == pytest.approx(vendi(features, labels, 4)(everyone), rel=1e-6)
    pixels, unturned = (torch.stack(list(each)).flatten(1).double() for each in (images[1], images[0]))
    moved = drift(pixels, unturned, False) / pixels.shape[1] ** 0.5
    assert row["pixel_drift"].value == pytest.approx(float(moved.mean()), rel=1e-6)
