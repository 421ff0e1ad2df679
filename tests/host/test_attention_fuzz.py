"""Drawn attention calls in every combination of layout, type, mask, grouping, head dim, γ and β."""

from __future__ import annotations

import hypothesis
import pytest
import torch
from comfy.ldm.modules.attention import optimized_attention
from hypothesis import given
from hypothesis import strategies as st
from symmetric_attention.nodes.host.models.site_call import SiteCall
from symmetric_attention.nodes.host.models.sites import find_sites
from symmetric_attention.nodes.host.patches.attention_backend import HostAttention
from symmetric_attention.nodes.host.patches.override_context import OverrideContext
from symmetric_attention.nodes.host.patches.skew_override import SkewOverride
from symmetric_attention.nodes.host.patches.slots import OVERRIDE
from symmetric_attention.nodes.host.settings import Gammas, SkewSettings
from symmetric_attention.sad_core import GammaSchedule

from lab.testing import definition
from lab.testing.families.rows import FAMILIES

MASKS = {
    "none": None,
    "(L, L)": lambda b, h, n: (n, n),
    "(B, L, L)": lambda b, h, n: (b, n, n),
    "(1, 1, L)": lambda b, h, n: (1, 1, n),
    "(B, 1, L, L)": lambda b, h, n: (b, 1, n, n),
    "(1, 1, 1, L)": lambda b, h, n: (1, 1, 1, n),
    "(B, H, L, L)": lambda b, h, n: (b, h, n, n),
}
# How far half precision may lie from the float64 statement, as a share of the result; β up to 4 enlarges it.
CLOSE = {torch.float32: 2e-5, torch.float16: 0.03, torch.bfloat16: 0.15}


def attention_of_ours(gamma: float, beta: float, norm: str):
    """The host's attention as a site of ours calls it."""
    site = find_sites(FAMILIES["SD15"].model.model.diffusion_model)[0]
    settings = SkewSettings(GammaSchedule.from_preset("constant", gamma), beta, norm=norm)
    context = OverrideContext(settings, HostAttention(lambda _: None), Gammas(gamma))
    override = SkewOverride(context, site, SiteCall((), {}), None)
    return lambda *arguments, **keyword: optimized_attention(
        *arguments, transformer_options={OVERRIDE: override}, **keyword
    )


def pack(x: torch.Tensor) -> torch.Tensor:
    return x.transpose(1, 2).flatten(2)


# That the oldest host's attention reads every layout and mask is asked by test_attention_calls.py.
@pytest.mark.newest
@hypothesis.settings(max_examples=300, derandomize=True, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    batch=st.integers(1, 3),
    groups=st.integers(1, 3),
    group_size=st.sampled_from([1, 1, 2]),
    tokens=st.integers(1, 40),
    head_dim=st.sampled_from([1, 4, 8, 40, 64, 88, 128, 160]),
    dtype=st.sampled_from(list(CLOSE)),
    mask=st.sampled_from(list(MASKS)),
    is_bool=st.booleans(),
    is_split=st.booleans(),
    stays_split=st.booleans(),
    gamma=st.floats(-2, 3),
    beta=st.floats(0.1, 4),
    norm=st.sampled_from(["value", "none"]),
)
def test_every_drawn_call_is_what_the_definition_says(
    seed, batch, groups, group_size, tokens, head_dim, dtype, mask, is_bool, is_split, stays_split, gamma, beta, norm
):
    hypothesis.assume(is_split or group_size == 1)  # packed keys do not say how many heads they have
    generator = torch.Generator().manual_seed(seed)
    heads = groups * group_size

    def drawn(count: int) -> torch.Tensor:
        return torch.randn((batch, count, tokens, head_dim), generator=generator).to(dtype)

    q, k, v = drawn(heads), drawn(groups), drawn(groups)
    added = over_heads = None
    if MASKS[mask] is not None:
        added = torch.randn(MASKS[mask](batch, heads, tokens), generator=generator).to(dtype)
        if is_bool:
            added = added > -1
            added[..., 0] = True  # every token sees one at least
        over_heads = added[:, None] if added.dim() == 3 else added
    given_tensors = (q, k, v) if is_split else map(pack, (q, k, v))
    layout = {"skip_reshape": is_split, "skip_output_reshape": stays_split}
    grouped = {"enable_gqa": True} if group_size > 1 else {}
    got = attention_of_ours(gamma, beta, norm)(*given_tensors, heads, mask=added, **layout, **grouped)

    keys, values = (x.repeat_interleave(group_size, dim=1) for x in (k, v))
    want = definition.skew_attention(q, keys, values, gamma, beta, norm=norm, mask=over_heads)
    want = want if stays_split else pack(want)
    assert got.dtype == dtype
    assert got.shape == want.shape
    assert got.isfinite().all()
    # Where ρ is far from 1 or β·γ large, the result is the small difference of large numbers.
    largest = max(1.0, abs(gamma)) * max(1.0, beta)
    assert definition.relative_error(got, want) < CLOSE[dtype] * largest
