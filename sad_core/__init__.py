"""Skew attention in plain PyTorch: the method of arXiv 2605.27476, one concept a file.

>>> import torch
>>> from sad_core import skew_attention
>>> q, k, v = torch.randn(3, 2, 8, 64, 32)
>>> skew_attention(q, k, v, gamma=1.05, beta=3.0).shape
torch.Size([2, 8, 64, 32])
"""

from .attention import skew_attention
from .decomposition import decompose
from .diffusers_processor import set_skew_attention
from .joint_attention import joint_skew_attention, modal_skew_attention
from .norm_guard import NORMS
from .schedule import GammaSchedule
from .stability.baseline import StabilityBaseline
from .stability.comparison import difference
from .stability.measures import HopfieldStability, hopfield_stability, token_alignment
from .stability.trace import StabilityTrace
from .symmetricity import adapt, average, symmetricity

__all__ = [
    "NORMS",
    "GammaSchedule",
    "HopfieldStability",
    "StabilityBaseline",
    "StabilityTrace",
    "adapt",
    "average",
    "decompose",
    "difference",
    "hopfield_stability",
    "joint_skew_attention",
    "modal_skew_attention",
    "set_skew_attention",
    "skew_attention",
    "symmetricity",
    "token_alignment",
]
