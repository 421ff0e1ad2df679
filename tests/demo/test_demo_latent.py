"""The latents of the demo model against the definition of the Haar transform, and their exact inverse."""

from __future__ import annotations

import pytest
import torch

from demo_model.bands import decode, encode, haar, inverse_haar
from lab.demo.whitening import LATENT_DEVIATION, measure_whitening


def test_haar_is_the_definition():
    """Each 2x2 block by hand, in float64, with numbers that no symmetry could hide a mistake in."""
    picture = torch.randn(2, 3, 4, 6, dtype=torch.float64)
    bands = haar(picture)
    signs = {"mean": (1, 1, 1, 1), "left-right": (1, -1, 1, -1), "top-bottom": (1, 1, -1, -1), "cross": (1, -1, -1, 1)}
    for band, (top_left, top_right, bottom_left, bottom_right) in enumerate(signs.values()):
        for row in range(2):
            for column in range(3):
                block = picture[:, :, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2]
                want = block[..., 0, 0] * top_left + block[..., 0, 1] * top_right
                want = (want + block[..., 1, 0] * bottom_left + block[..., 1, 1] * bottom_right) / 2
                torch.testing.assert_close(bands[:, 3 * band : 3 * band + 3, row, column], want, rtol=0, atol=1e-14)


def test_haar_keeps_lengths():
    picture = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    torch.testing.assert_close(haar(picture).norm(), picture.norm(), rtol=1e-14, atol=0)


def test_inverse_haar_undoes_haar_both_ways():
    picture, bands = torch.randn(2, 3, 32, 32, dtype=torch.float64), torch.randn(2, 12, 16, 16, dtype=torch.float64)
    torch.testing.assert_close(inverse_haar(haar(picture)), picture, rtol=0, atol=1e-14)
    torch.testing.assert_close(haar(inverse_haar(bands)), bands, rtol=0, atol=1e-14)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-14), (torch.float32, 1e-6)])
def test_decode_undoes_encode(dtype, tolerance):
    pictures = torch.rand(5, 3, 32, 32, dtype=dtype)
    whitening = measure_whitening(pictures)
    latents = encode(pictures, *whitening)
    assert latents.shape == (5, 12, 16, 16)
    torch.testing.assert_close(decode(latents, *whitening), pictures, rtol=0, atol=tolerance)


def test_whitened_latents_have_mean_zero_and_the_stated_deviation():
    pictures = torch.rand(5, 3, 32, 32, dtype=torch.float64)
    std, mean = torch.std_mean(encode(pictures, *measure_whitening(pictures)), dim=(0, 2, 3))
    torch.testing.assert_close(mean, torch.zeros_like(mean), rtol=0, atol=1e-12)
    torch.testing.assert_close(std, torch.full_like(std, LATENT_DEVIATION), rtol=0, atol=1e-12)
