"""γ in a tiny model of each class of diffusers: the definition, the plain bits, and copies."""

from __future__ import annotations

import copy
import pickle

import diffusers
import pytest
import torch

from lab.testing.definition import relative_error
from lab.testing.diffusers_definition import by_definition, predict
from lab.testing.diffusers_models import ROWS, made
from sad_core import set_skew_attention
from sad_core.diffusers.families import FAMILIES, REFUSALS

each_row = pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
BY_NAME = {row.name: row for row in ROWS}


@each_row
def test_gamma_is_the_definition_in_the_calls_of_the_row(row):
    model = row.build()
    plain = predict(row, model)
    with by_definition(row, 1.5, 2.0) as counts:
        wanted = predict(row, model)
    assert counts["skewed"] == row.layers
    assert relative_error(wanted, plain) > 1e-3
    assert len(set_skew_attention(model, 1.5, 2.0)) == row.layers
    assert relative_error(predict(row, model) - plain, wanted - plain) < 1e-3
    set_skew_attention(model, 1.0)
    assert torch.equal(predict(row, model), plain)


@each_row
def test_copies_and_pickles_act_on_their_own_weights(row):
    model = row.build()
    plain = predict(row, model)
    set_skew_attention(model, 1.5, 2.0)
    wanted = predict(row, model)
    copied, pickled = copy.deepcopy(model), pickle.loads(pickle.dumps(model))
    with torch.no_grad():
        for weight in model.parameters():
            weight.zero_()
    for each in (copied, pickled):
        assert torch.equal(predict(row, each), wanted)
    set_skew_attention(copied, 1.0)
    assert torch.equal(predict(row, copied), plain)
    assert torch.equal(predict(row, pickled), wanted), "taking γ from a copy took it from another one"


# The plain Z-Image pads a sample to its longest batch mate.
@pytest.mark.parametrize(
    "row", [row for row in ROWS if row.name != "ZImageTransformer2DModel"], ids=lambda row: row.name
)
def test_a_sample_does_not_depend_on_its_batch_mates(row):
    model = row.build()
    alone, together = predict(row, model, 1), predict(row, model, 2)[:1]
    set_skew_attention(model, 1.5, 2.0)
    plain_difference = (alone - together).abs().max()
    assert (predict(row, model, 1) - predict(row, model, 2)[:1]).abs().max() <= 20 * plain_difference + 1e-4


@pytest.mark.parametrize("row", [row for row in ROWS if row.norms == ("value", "none")], ids=lambda row: row.name)
@pytest.mark.parametrize("norm", ["projected", "input"])
def test_a_norm_that_needs_an_unseen_input_is_refused(row, norm):
    model = row.build()
    plain = predict(row, model)

    def put_and_predict() -> None:
        set_skew_attention(model, 1.5, norm=norm)
        predict(row, model)

    with pytest.raises(ValueError, match="norm"):
        put_and_predict()
    set_skew_attention(model, 1.0)
    assert torch.equal(predict(row, model), plain)


@pytest.mark.parametrize("width", [10, 18], ids=["another padding", "the same padding"])
def test_images_of_several_sizes_in_one_call_are_refused(width):
    row = BY_NAME["ZImageTransformer2DModel"]
    model, inputs = row.build(), row.inputs(2)
    inputs["x"][1] = inputs["x"][1][..., :width]
    set_skew_attention(model, 1.5)
    with torch.no_grad(), pytest.raises(ValueError, match="images differ in size"):
        model(**inputs)
    set_skew_attention(model, 1.0)
    with torch.no_grad():
        model(**inputs)


def test_every_class_that_is_known_is_tried():
    assert {row.name.partition(" ")[0] for row in ROWS} == set(FAMILIES)


def test_linear_attention_is_refused_with_the_reason():
    model = made(
        "SanaTransformer2DModel",
        in_channels=4,
        out_channels=4,
        num_layers=1,
        num_attention_heads=2,
        attention_head_dim=4,
        num_cross_attention_heads=2,
        cross_attention_head_dim=4,
        cross_attention_dim=8,
        caption_channels=8,
        sample_size=8,
    )
    with pytest.raises(
        ValueError, match="γ cannot act in SanaTransformer2DModel, because its self-attention is linear"
    ):
        set_skew_attention(model, 1.5)
    assert "SanaTransformer2DModel" in REFUSALS


def test_a_class_that_is_not_known_is_refused_with_those_that_are():
    model = made("DiTTransformer2DModel", num_attention_heads=2, attention_head_dim=4, in_channels=4, num_layers=1)
    with pytest.raises(
        ValueError, match=r"class is not supported\. Pass one of these classes of diffusers: UNet2DConditionModel, "
    ) as refusal:
        set_skew_attention(model, 1.5)
    assert all(name in str(refusal.value) for name in FAMILIES)


def test_a_subclass_in_diffusers_is_not_taken_for_its_base():
    """DreamLite is a UNet by its class, and has no self-attention in most of its blocks."""
    kind = diffusers.DreamLiteUNetModel
    with pytest.raises(ValueError, match="γ cannot act in DreamLiteUNetModel, because its class is not supported"):
        set_skew_attention(kind.__new__(kind), 1.5)


def test_a_subclass_of_somebody_else_is_taken_for_its_base():
    class Own(diffusers.UNet2DConditionModel):
        pass

    row = BY_NAME["UNet2DConditionModel"]
    model = row.build()
    model.__class__ = Own
    assert len(set_skew_attention(model, 1.5, 2.0)) == row.layers
