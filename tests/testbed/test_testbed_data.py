"""The data set's files and parts, on tiny files."""

from __future__ import annotations

import numpy
import pytest
import torch

from demo_model.bands import bands_of, decode, encode
from lab.demo.whitening import measure_whitening
from lab.testbed.data import Garments, crop, divide, hash_order, load_split, pad, parse_idx
from lab.testbed.shape import LATENT_CHANNELS
from lab.testing.made_up_pictures import write_data, write_idx


@pytest.fixture
def garments():
    generator = torch.Generator().manual_seed(1)
    pixels = torch.randint(256, (50, 28, 28), generator=generator, dtype=torch.uint8)
    return Garments(pixels, torch.arange(50))


def test_an_idx_file_gives_back_its_numbers(tmp_path):
    numbers = numpy.arange(24).reshape(2, 3, 4)
    write_idx(tmp_path / "some", numbers, packed=False)
    assert parse_idx((tmp_path / "some").read_bytes(), "some").tolist() == numbers.tolist()


@pytest.mark.parametrize("packed", [True, False])
def test_files_are_read_packed_or_not(tmp_path, packed):
    pixels, labels = numpy.full((3, 28, 28), 7), numpy.array([4, 0, 9])
    known = {
        "train-images-idx3-ubyte": write_idx(tmp_path / "train-images-idx3-ubyte", pixels, packed),
        "train-labels-idx1-ubyte": write_idx(tmp_path / "train-labels-idx1-ubyte", labels, packed),
    }
    found = load_split(tmp_path, "training", known)
    assert found.pixels.tolist() == pixels.tolist()
    assert found.labels.tolist() == [4, 0, 9]
    assert found.images().unique().tolist() == pytest.approx([7 / 255])


def test_other_contents_raise(tmp_path):
    known = write_data(tmp_path)
    with pytest.raises(ValueError, match="other contents"):
        load_split(tmp_path, "test", known | {"t10k-labels-idx1-ubyte": "0" * 64})
    with pytest.raises(ValueError, match="other contents"):
        load_split(tmp_path, "training")  # the real data set's hashes


def test_a_missing_file_raises(tmp_path):
    with pytest.raises(FileNotFoundError, match="train-images-idx3-ubyte"):
        load_split(tmp_path, "training")


@pytest.mark.parametrize("contents", [b"", b"PK\3\4", b"\0\0\x0d\1\0\0\0\1abcd", b"\0\0\x08\1\0\0\0\5abcd"])
def test_what_is_no_idx_file_raises(contents):
    with pytest.raises(ValueError, match="name"):
        parse_idx(contents, "name")


def test_the_parts_share_no_picture_and_lose_none(garments):
    parts = divide(garments, held_out=20)
    training, validation = set(parts.training.labels.tolist()), set(parts.validation.labels.tolist())
    assert (len(training), len(validation)) == (30, 20)
    assert training | validation == set(range(50))
    assert torch.equal(parts.training.pixels, garments.pixels[parts.training.labels])


def test_subsets_are_nested_and_without_the_validation_part(garments):
    small, large, whole = (divide(garments, subset, held_out=20) for subset in (5, 12, None))
    assert small.training.labels.tolist() == large.training.labels.tolist()[:5]
    assert large.training.labels.tolist() == whole.training.labels.tolist()[:12]
    assert torch.equal(small.validation.labels, whole.validation.labels)
    with pytest.raises(ValueError, match="Choose 1 to 30"):
        divide(garments, 31, held_out=20)


def test_the_order_follows_from_the_pictures_and_not_from_their_places(garments):
    shuffled = garments.only(torch.randperm(50))
    assert torch.equal(shuffled.labels[hash_order(shuffled)], garments.labels[hash_order(garments)])
    assert hash_order(garments).tolist() != list(range(50))


def test_copies_of_one_picture_stay_together(garments):
    twice = Garments(torch.cat([garments.pixels] * 2), torch.cat([garments.labels] * 2))
    parts = divide(twice, held_out=20)
    assert not set(parts.training.labels.tolist()) & set(parts.validation.labels.tolist())


def test_pictures_survive_padding_and_the_haar_steps():
    pictures = torch.rand(6, 1, 28, 28, dtype=torch.float64)
    whitening = measure_whitening(pad(pictures), LATENT_CHANNELS)
    latents = encode(pad(pictures), *whitening)
    assert latents.shape == (6, 16, 8, 8)
    torch.testing.assert_close(crop(decode(latents, *whitening)), pictures, rtol=0, atol=1e-13)
    torch.testing.assert_close(bands_of(pad(pictures), LATENT_CHANNELS).norm(), pictures.norm(), rtol=1e-13, atol=0)
