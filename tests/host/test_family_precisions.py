"""Every family in half precision: finite, unpatched at γ = 1, near what the definition says of the same q, k, v.

Half precision rounds the plain attention too. What a site may be off by is given as a share of the change that γ makes
there, which the tiny models make at least a twentieth of the result: about five times the host's own rounding.
"""

from __future__ import annotations

import pytest
import torch

from lab.testing.recorder import distance, effect, stated, watch_attention
from lab.testing.run_nodes import skew

CLOSE = {torch.float16: 0.02, torch.bfloat16: 0.15}
# 136 million weights take a minute here; its blocks are those of Cosmos Predict 2.
TOO_LARGE = ("Anima",)


@pytest.mark.rows(lambda row: row.name not in TOO_LARGE)
@pytest.mark.parametrize(
    "dtype",
    [pytest.param(torch.float16, marks=pytest.mark.newest, id="float16"), pytest.param(torch.bfloat16, id="bfloat16")],
)
def test_half_precision_is_near_the_definition_and_neutral_unpatched(runs, dtype):
    row = runs.row
    model = row.build(dtype)
    neutral, _ = skew(model, 1.0, 3.0)
    assert not neutral.object_patches
    assert not any(neutral.wrappers.values())
    assert neutral.model_options == model.model_options
    patched, report = skew(model, 1.5, 3.0)
    with watch_attention(patched) as calls:
        picture = row.sample(patched)
    assert picture.isfinite().all()
    assert not report.runs[-1].fallbacks
    acting = runs.acting(calls)
    assert {runs.site(seen) for seen in acting} == set(row.paths)
    assert dtype in {seen.q.dtype for seen in acting}
    for seen in acting:
        assert seen.out.dtype == seen.v.dtype, seen.path
        assert distance(seen.out, stated(row, seen, 1.5, 3.0)) <= CLOSE[dtype] * effect(row, seen, 1.5), seen.path
    runs.row.forget()
