"""Trellis2 with two objects of different numbers of voxels: the shorter one is padded, which changes neither."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from lab.testing.families.building import voxels
from lab.testing.families.family import draw
from lab.testing.families.rows import HOSTED
from lab.testing.families.runs import in_this_host
from lab.testing.recorder import distance
from lab.testing.run_nodes import probe, skew

COUNTS = (20, 13)


@pytest.fixture
def row():
    if not in_this_host(["Trellis2"]):
        pytest.skip("this ComfyUI has no Trellis2")
    row = HOSTED["Trellis2"]
    yield row
    row.forget()


def with_objects(row, *counts):
    """The same model with the voxels of several objects."""
    coordinates = [voxels(count) + torch.tensor([[index, 0, 0, 0]]) for index, count in enumerate(counts)]
    more = {"trellis2_coords": torch.cat(coordinates), "trellis2_coord_counts": torch.tensor(counts)}
    objects = dataclasses.replace(row, extra=lambda name: {**row.extra(name), **more})
    objects.__dict__["model"] = row.model
    return objects


def test_an_object_is_the_same_by_itself_and_beside_a_larger_one(row):
    patched, _ = skew(row.model, beta=3.0, adaptive="gamma and beta")
    noise = draw("voxels", (2, 8, COUNTS[0], 1))
    together = with_objects(row, *COUNTS)
    ours, hosts = (together.sample(model, noise=noise) for model in (patched, row.model))
    for index, count in enumerate(COUNTS):
        alone = with_objects(row, count)
        own = noise[index : index + 1, :, :count]
        got, plain = (alone.sample(model, noise=own)[0] for model in (patched, row.model))
        rounding = distance(plain, hosts[index, :, :count])
        assert distance(got, plain) > 0.01 * plain.norm()
        assert distance(got, ours[index, :, :count]) <= 1e-3 * distance(got, plain) + 3 * rounding


def test_the_probe_measures_no_padding(row):
    noise = draw("voxels", (2, 8, COUNTS[0], 1))
    model, trace = probe(row.model)
    with_objects(row, *COUNTS).sample(model, noise=noise)
    assert trace.is_empty
    assert any("different numbers of tokens" in note for note in trace.runs[-1].notes)
    with_objects(row, COUNTS[0]).sample(model, noise=noise[:1])
    assert {address.partition("#")[0] for address in trace.runs[-1].addresses} >= set(row.paths)
    assert trace.runs[-1].steps
