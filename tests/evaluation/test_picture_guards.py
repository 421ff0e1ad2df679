"""The guards of a picture against plain statements, pixel by pixel."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sad_core.evaluation.guards import clipped_share, high_frequency_energy, is_whole, saturation

SIZES = st.tuples(st.integers(2, 9), st.integers(2, 9))


def drawn(height: int, width: int) -> torch.Tensor:
    return torch.rand(height, width, 3, generator=torch.Generator().manual_seed(height * 100 + width))


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_one_bad_number_breaks_a_picture(bad):
    picture = drawn(4, 4)
    assert is_whole(picture)
    picture[2, 1, 0] = bad
    assert not is_whole(picture)


def test_clipped_values_are_those_that_8_bits_show_as_black_or_white():
    for value, is_clipped in ((0.0, 1), (0.4 / 255, 1), (0.6 / 255, 0), (0.5, 0), (254.4 / 255, 0), (1.0, 1), (1.2, 1)):
        picture = torch.full((2, 5, 3), 0.3)
        picture[0, :, 1] = value
        assert clipped_share(picture) == pytest.approx(is_clipped * 5 / 30), value


@settings(max_examples=30)
@given(SIZES)
def test_saturation_is_that_of_the_plain_statement(size):
    picture = drawn(*size)
    pixels = [float(max(pixel) - min(pixel)) for pixel in picture.flatten(0, 1)]
    assert saturation(picture) == pytest.approx(sum(pixels) / len(pixels), rel=1e-5)
    grey = picture[..., :1].expand(-1, -1, 3)
    assert saturation(grey) == 0.0


@settings(max_examples=30)
@given(SIZES)
def test_high_frequency_energy_is_that_of_the_plain_statement(size):
    picture = drawn(*size).double()
    found = []
    for row in range(size[0] // 2):
        for column in range(size[1] // 2):
            for channel in range(3):
                block = picture[2 * row : 2 * row + 2, 2 * column : 2 * column + 2, channel].flatten().tolist()
                mean = sum(block) / 4
                found.append(sum((value - mean) ** 2 for value in block) / 4)
    assert high_frequency_energy(picture.float()) == pytest.approx(sum(found) / len(found), rel=1e-5)


def test_high_frequencies_are_those_that_a_blur_takes_away():
    flat, noise = torch.full((8, 8, 3), 0.4), drawn(8, 8)
    blurred = torch.nn.functional.avg_pool2d(noise.movedim(-1, 0), 3, 1, 1).movedim(0, -1)
    assert high_frequency_energy(flat) == 0.0
    assert high_frequency_energy(blurred) < 0.3 * high_frequency_energy(noise)
    assert high_frequency_energy(noise.repeat_interleave(2, 0).repeat_interleave(2, 1)) == 0.0  # every block even


@pytest.mark.parametrize("size", [(1, 5), (5, 1)])
def test_a_picture_of_one_row_has_no_block(size):
    assert math.isnan(high_frequency_energy(drawn(*size)))
