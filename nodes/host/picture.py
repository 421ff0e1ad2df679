"""The positions of a site's tokens in the image."""

from __future__ import annotations

from torch import Tensor

PATCHES = (1, 2, 4, 8, 16, 32)  # what a token covers of the latent, by height and by width


def image_size(latent: Tensor) -> tuple[int, int]:
    """Return height and width of a latent `(B, C, H, W)` or `(B, C, 1, H, W)`; 0 and 0 where it is no image."""
    is_image = latent.dim() == 4 or (latent.dim() == 5 and latent.shape[2] == 1)
    return (latent.shape[-2], latent.shape[-1]) if is_image else (0, 0)


def token_grid(tokens: int, height: int, width: int) -> tuple[int, int] | None:
    """Rows and columns of the tokens of one site: the latent's, divided by a patch or a downsampling of 1, 2, 4 …"""
    for patch in PATCHES:
        rows, columns = -(-height // patch), -(-width // patch)
        if rows * columns == tokens:
            return rows, columns
    return None
