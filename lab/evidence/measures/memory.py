"""The distance of a sample from the training pictures, and the degree to which it mixes several of them.

The model knows M = 42 pictures by heart, so a "metastable mixture" can be counted. Nearness by itself rewards
memorising. Compare with the same numbers of pictures that the model never saw, which are the null of both indices.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from lab.evidence.measures.features import squared_distances

PATCH = 4  # pixels a side
BACKGROUND = 0.05  # a patch abstains when no value in it is further than this from white
TIE = 0.02  # root mean square; a memory this close behind the nearest one explains a patch as well


def nearest(samples: Tensor, memories: Tensor) -> Tensor:
    """Distance of each sample (N, d) to the nearest of the memories (M, d): (N,)."""
    distances: Tensor = torch.cdist(samples, memories)
    return distances.amin(dim=1)


def nearest_own(samples: Tensor, labels: Tensor, memories: Tensor, memory_labels: Tensor) -> Tensor:
    """The same to the nearest memory of the category (N,) that was asked for: (N,)."""
    foreign = labels[:, None] != memory_labels
    distances: Tensor = torch.cdist(samples, memories)
    return distances.masked_fill(foreign, torch.inf).amin(dim=1)


def mixture_index(samples: Tensor, memories: Tensor) -> Tensor:
    """The share of the best memory's residual that a second memory explains: (N, d), (M, d) -> (N,) in [0, 1].

    d₁ = min_i ‖y − m_i‖²,   d₂ = min over i ≠ j and w in [0, 1] of ‖y − (w m_i + (1 − w) m_j)‖²,   index = 1 − d₂ / d₁.

    0 for a memory itself (d₁ = 0) and where no second memory helps, 1 for an exact blend of two. All M (M − 1) / 2
    pairs are tried; with a = ‖y − m_i‖², b = ‖y − m_j‖², u = ‖m_i − m_j‖² the best weight is (b − a + u) / 2u, clamped.
    Any picture lies a little closer to some line between two memories than to their ends: only the difference to the
    null means anything. It sees blends; see `patchwork_index` for patchworks.
    """
    to_memory = squared_distances(samples, memories)
    first, second = torch.triu_indices(len(memories), len(memories), offset=1)
    apart = squared_distances(memories, memories)[first, second]
    lean = (to_memory[:, second] - to_memory[:, first] + apart) / 2
    weight = torch.where(apart > 0, lean / apart, 0).clamp(0, 1)
    blended = to_memory[:, second] + weight * (weight * apart - 2 * lean)
    best, best_blend = to_memory.amin(dim=1), blended.amin(dim=1)
    return torch.where(best > 0, 1 - best_blend / best, 0).clamp(0, 1)


def patchwork_index(pictures: Tensor, memories: Tensor) -> Tensor:
    """The share of patches that the memory explaining most of them does not explain: pictures -> (N,) in [0, 1].

    Pictures (N, 3, H, W) and memories (M, 3, H, W) are cut into patches of 4x4 pixels. Each patch votes for the memory
    whose patch in the same place is nearest, and for any other that is as near up to `TIE`, as two yellow smileys are
    on the cheek. White background abstains; a picture with only background has index 0, and so has a memory itself.
    A left half of one memory beside a right half of another scores ½ and is no blend anywhere.
    """
    patches, memory_patches = cut(pictures), cut(memories)
    distances = squared_distances(patches, memory_patches).sqrt()
    votes = distances <= distances.amin(dim=-1, keepdim=True) + TIE
    drawn = (1 - by_place(pictures)).abs().amax(dim=-1) > BACKGROUND
    winner = (votes & drawn[..., None]).sum(dim=0).amax(dim=-1)
    voters = drawn.sum(dim=0)
    return torch.where(voters > 0, 1 - winner / voters, 0).double()


def by_place(pictures: Tensor) -> Tensor:
    """(N, 3, H, W) -> (places, N, 48), the values of each patch."""
    return F.unfold(pictures.double(), PATCH, stride=PATCH).permute(2, 0, 1)


def cut(pictures: Tensor) -> Tensor:
    """The same, scaled so that distances are root mean squares."""
    patches = by_place(pictures)
    scaled: Tensor = patches / patches.shape[-1] ** 0.5
    return scaled
