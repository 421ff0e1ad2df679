"""Measures from the sums of many sites at once, against the plain statement, the authors' numbers, dense spectra."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from lab.testing import definition
from lab.testing.definition import relative_error
from lab.testing.memory import Memory
from lab.testing.reference_cases import cases, load
from lab.testing.strategies import retrievals, tokens
from sad_core import hopfield_stability, skew_attention, symmetricity
from sad_core.stability.batch import StabilityBatch
from sad_core.stability.extremes import BASIS, extremes, project
from sad_core.stability.measures import TRACE_MEASURES
from sad_core.stability.site_sums import (
    SiteSums,
    empty_table,
    measures_of_sums,
    take_sums,
    take_sums_in_graph,
)


def sums_of(q, k, patterns) -> SiteSums:
    """The sums of one retrieval."""
    table = empty_table(q, patterns)
    take_sums(q, k, patterns, table)
    return SiteSums.read([table], [q.shape[2]], q.shape[-1])


def batched(calls, measures=TRACE_MEASURES, **limit) -> list:
    """Return the measures of a batch at each `(q, k, patterns)` in turn."""
    batch = StabilityBatch(measures, **limit)
    for call in calls:
        batch.take(*call)
    return batch.results()


def stated(q, k, patterns) -> torch.Tensor:
    """`TRACE_MEASURES` of one retrieval by the plain statement, `(B, measures, H)`."""
    found = definition.hopfield_stability(q, k, patterns)
    spread = found["spread"]
    found["relative curvature"] = torch.where(spread > 0, found["curvature"] / spread.clamp_min(1e-300), 0.0)
    means = {name: value.mean(-1) for name, value in found.items()} | {"symmetricity": definition.symmetricity(q, k)}
    return torch.stack([means[name] for name in TRACE_MEASURES], dim=1)


@settings(max_examples=30, deadline=None)
@given(drawn=retrievals())
def test_every_measure_of_a_batch_is_the_plain_statement(drawn):
    (found,) = batched([drawn])
    close = torch.tensor([1e-9, 1.01 / drawn[0].shape[2], 1e-9, 1e-9, 1e-6, 1e-4])[:, None]
    want = stated(*drawn)
    close = close * want.abs().amax(dim=(0, 2))[:, None].clamp_min(1.0)
    assert ((found.values - want).abs() <= close).all()


@pytest.mark.parametrize(("path", "index"), cases("static"))
def test_the_authors_numbers_follow_from_the_sums(path, index):
    data, spec = load(path)
    case = spec["static"][index]
    x = data["x"][:, None].expand(-1, data["q"].shape[1], -1, -1)
    patterns = skew_attention(data["q"], data["k"], x, case["gamma"], case["beta"], norm="value")
    found = measures_of_sums(sums_of(data["q"], data["k"], patterns))
    heads = data["q"].shape[:2]
    energy, alignment = (found[name].unflatten(0, heads) for name in ("energy", "alignment"))
    assert relative_error(energy, data[f"static.{index}.energy_per_head"]) < 1e-5
    assert relative_error(alignment.mean(1), data[f"static.{index}.alignment_map"]) < 1e-5
    today = hopfield_stability(data["q"], data["k"], patterns, ("instability",)).instability
    assert (found["instability"].unflatten(0, heads) - today).abs().max() <= 2.01 / patterns.shape[2]


@pytest.mark.parametrize("deviations", [1.0, 30.0, 100.0])
def test_means_a_hundred_deviations_away_lose_nothing(deviations):
    call = tokens(length=500, head_dim=16)
    generator = torch.Generator().manual_seed(3)
    shifts = deviations * torch.randn(3, 2, 3, 1, 16, generator=generator, dtype=torch.float64)
    q, k, patterns = (x.float() + s.float() for x, s in zip((call.q, call.k, call.v), shifts, strict=True))
    found = measures_of_sums(sums_of(q, k, patterns))
    want = definition.hopfield_stability(q, k, patterns, eigenvalues=False)
    for name in ("energy", "alignment"):
        assert relative_error(found[name].unflatten(0, (2, 3)), want[name]) < 1e-4, name
    eta = found["symmetricity"].unflatten(0, (2, 3))[..., 0]
    torch.testing.assert_close(eta.double(), definition.symmetricity(q, k), rtol=0, atol=1e-5)


def spectra(kind: str, length: int, head_dim: int):
    """Queries, keys and patterns whose landscapes are known to be hard or easy."""
    generator = torch.Generator().manual_seed(length + head_dim)
    q, k, v = torch.randn(3, 1, 4, length, head_dim, generator=generator)
    sizes = 10 ** torch.linspace(0, -3, head_dim)
    if kind == "leaning":
        k = k + q
    elif kind == "decaying":
        q, k = q * sizes, k * sizes[torch.randperm(head_dim, generator=generator)]
    return q, k, skew_attention(q, k, v[..., :8], 1.0)


@pytest.mark.parametrize("kind", ["random", "leaning", "decaying"])
@pytest.mark.parametrize(("length", "head_dim"), [(64, 16), (256, 40), (100, 128), (300, 64)])
def test_depth_and_curvature_are_those_of_the_dense_spectrum(kind, length, head_dim):
    q, k, patterns = spectra(kind, length, head_dim)
    found = extremes(project(sums_of(q, k, patterns)))
    want = hopfield_stability(q.double(), k.double(), patterns.double())
    spread, certain = want.spread.flatten(0, 1), ~found.is_uncertain[:, 0]
    depth = (found.depth - want.depth.flatten(0, 1)).abs()
    curvature = ((found.curvature - want.curvature.flatten(0, 1)) / spread).abs()
    assert depth[certain].max() < 1e-3 if certain.any() else kind != "decaying"
    assert curvature[certain].max() < 1e-2 if certain.any() else kind != "decaying"
    assert depth.max() < 1e-2
    assert curvature.max() < 3e-2
    if kind == "decaying":
        assert certain.sum() > len(certain) / 2  # the flag is not set everywhere


def errors_of(q, k, patterns):
    """The largest errors of depth and curvature for each head as shares of the landscape's width, and the flags."""
    found = extremes(project(sums_of(q, k, patterns)))
    want = hopfield_stability(q.double(), k.double(), patterns.double())
    depth, curvature, spread = (each.flatten(0, 1) for each in (want.depth, want.curvature, want.spread))
    return (
        (found.depth - depth).abs().amax(dim=1),
        ((found.curvature - curvature) / spread).abs().amax(dim=1),
        found.is_uncertain[:, 0],
    )


@pytest.mark.parametrize("decay", [0.0, 3.0, 5.0])
@pytest.mark.parametrize("head_dim", [1, 2, 3, 5, 8, 13, 16, 17, 20, 34])
def test_no_small_end_of_the_spectrum_is_lost_beside_a_large_one(head_dim, decay):
    """Keys that lean on their queries make one end of the spectrum up to a hundred times as long as the other."""
    generator = torch.Generator().manual_seed(head_dim)
    q, k, patterns = torch.randn(3, 60, 1, 40, head_dim, generator=generator)
    k = k + torch.linspace(-4, 4, 60)[:, None, None, None] * q
    sizes = 10 ** torch.linspace(0, -decay, head_dim)
    depth, curvature, is_uncertain = errors_of(q * sizes, k * sizes.roll(1), patterns)
    assert depth[~is_uncertain].max() < 1e-3
    assert curvature.max() < 1e-2
    assert depth.max() < 1e-2
    if 2 * head_dim <= BASIS:
        assert depth.max() < 1e-4
        assert not is_uncertain.any()


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("head_dim", [1, 2, 5, 16])
def test_keys_that_are_nearly_their_queries_lose_nothing(head_dim, sign):
    generator = torch.Generator().manual_seed(head_dim)
    q, noise, patterns = torch.randn(3, 60, 1, 40, head_dim, generator=generator)
    depth, curvature, is_uncertain = errors_of(q, sign * q + 0.01 * noise, patterns)
    assert depth.max() < 5e-6
    assert curvature.max() < 1e-3
    assert not is_uncertain.any()


@pytest.mark.parametrize("head_dim", [2, 8, 16, 32])
def test_a_landscape_as_small_as_rounding_is_flagged_or_right(head_dim):
    """If k is q, turned, S is nothing but the noise that was added."""
    generator = torch.Generator().manual_seed(head_dim)
    q, noise, patterns = torch.randn(3, 40, 1, 64, head_dim, generator=generator)
    skew = torch.randn(head_dim, head_dim, generator=generator)
    skew = (skew - skew.mT) / torch.linalg.matrix_norm(skew - skew.mT, ord=2)
    flagged = 0
    for size in (1e-2, 3e-3, 1e-3, 1e-4):
        depth, curvature, is_uncertain = errors_of(q, q @ skew + size * noise, patterns)
        assert ((depth < 1e-3) | is_uncertain).all()
        assert ((curvature < 1e-2) | is_uncertain).all()
        flagged += int(is_uncertain.sum())
    assert flagged >= 40


def test_the_steps_begin_near_the_ends_of_the_spectrum():
    generator = torch.Generator().manual_seed(0)
    q, k, patterns = torch.randn(3, 30, 1, 256, 32, generator=generator)
    depth, _, _ = errors_of(q, k, patterns)
    assert depth.max() < 1e-5  # 2e-6 as it is, 3e-5 from the block that was not turned


@pytest.mark.parametrize("size", [1e-12, 1e9, 1e15])
def test_the_unit_of_queries_and_keys_does_not_matter(size):
    generator = torch.Generator().manual_seed(1)
    for head_dim in (5, 20):
        q, k, patterns = torch.randn(3, 1, 4, 60, head_dim, generator=generator)
        depth, curvature, _ = errors_of(size * q, size * k, patterns)
        assert depth.max() < 1e-5
        assert curvature.max() < 1e-2


def test_eigenvalues_in_pairs_are_both_found():
    """λ₁ = λ₂ exactly: a single vector would see only one of them, and the curvature would be that of λ₃."""
    call = tokens(batch=1, heads=1, length=200, head_dim=40)
    basis = torch.linalg.qr(torch.cat([torch.ones(200, 1, dtype=torch.float64), call.q[0, 0]], dim=-1)).Q[:, 1:]
    sizes = torch.linspace(1.0, 0.1, 20, dtype=torch.float64).repeat_interleave(2).sqrt()
    q = k = (basis * sizes)[None, None]
    patterns = call.v + 3 * q
    found, want = extremes(project(sums_of(q, k, patterns))), hopfield_stability(q, k, patterns)
    torch.testing.assert_close(found.curvature[None], want.curvature, rtol=0, atol=1e-3)


def test_heads_too_close_to_tell_are_flagged_and_clear_ones_are_not():
    generator = torch.Generator().manual_seed(0)
    q = torch.randn(1, 1, 2048, 128, generator=generator)
    assert extremes(project(sums_of(q, q + 0.3 * torch.randn(q.shape, generator=generator), q))).is_uncertain.all()
    sizes, k = 10 ** torch.linspace(0, -2, 128), torch.randn(q.shape, generator=generator)
    assert not extremes(project(sums_of(sizes * q, sizes * k, q))).is_uncertain.any()


def test_other_retrievals_of_a_batch_change_nothing_but_rounding():
    calls = []
    for length, heads, head_dim, seed in ((12, 3, 8, 0), (50, 2, 8, 1), (30, 3, 12, 2), (12, 3, 8, 3)):
        call = tokens(heads=heads, length=length, head_dim=head_dim, seed=seed)
        calls.append((call.q, call.k, call.v))
    alone = [batched([call])[0] for call in calls]
    for limit in (2**30, 1):  # all together, and each read as soon as it is taken
        for found, want in zip(batched(calls, limit=limit), alone, strict=True):
            torch.testing.assert_close(found.values, want.values, rtol=1e-7, atol=1e-7)


def test_tables_beyond_the_limit_are_let_go_of():
    call = tokens(length=40, head_dim=16)
    size = empty_table(call.q, call.v).nbytes
    batch = StabilityBatch(TRACE_MEASURES, limit=3 * size)
    for _ in range(20):
        batch.take(call.q, call.k, call.v)
        assert sum(each.table is not None for each in batch._retrievals) <= 3
    assert len(batch.results()) == 20


def test_a_broken_head_is_undefined_and_its_neighbours_are_not():
    call = tokens(heads=2)
    q = call.q.clone()
    q[0, 0, 3, 2], q[1, 1, 0, 0] = float("nan"), float("inf")
    (found,), (want,) = batched([(q, call.k, call.v)]), batched([(call.q, call.k, call.v)])
    broken = torch.eye(2, dtype=torch.bool)
    rows = [index for index, name in enumerate(TRACE_MEASURES) if name != "symmetricity"]
    assert not found.values.mT[broken][:, rows].isfinite().any()
    torch.testing.assert_close(found.values.mT[~broken], want.values.mT[~broken])


def test_constant_patterns_and_flat_landscapes_give_zeros():
    call = tokens(length=12, value_dim=2)
    constant = torch.full_like(call.v, 0.1)
    rows = [index for index, name in enumerate(TRACE_MEASURES) if name != "symmetricity"]
    for dtype in (torch.float32, torch.float64):
        q, k, v = (x.to(dtype) for x in (call.q, call.k, call.v))
        for given_call in ((q, k, constant.to(dtype)), (q, torch.ones_like(k), v), (0 * q, k, v)):
            assert not batched([given_call])[0].values[:, rows].any()
    alone = tokens(length=1)
    assert not batched([(alone.q, alone.k, alone.v)])[0].values[:, rows].any()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_summed_in_float32_also_under_autocast(dtype):
    call = tokens(length=60, head_dim=16).to(dtype)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        (found,) = batched([(call.q, call.k, call.v)])
    want = stated(call.q, call.k, call.v)
    assert found.values.dtype == torch.float32
    for row in (0, 2, 3):
        assert relative_error(found.values[:, row], want[:, row]) < 1e-5


def test_the_operation_of_compiled_graphs_is_sound():
    call = tokens(length=20).to(torch.float32)
    table = empty_table(call.q, call.v)
    torch.library.opcheck(take_sums_in_graph, (call.q, call.k, call.v, table))


def test_a_graph_takes_the_same_sums_in_one_piece():
    call = tokens(length=20).to(torch.float32)

    def taken(q, k, patterns):
        batch = StabilityBatch(TRACE_MEASURES)
        batch.take(2 * q, k, patterns)
        return batch._retrievals[0].table

    torch._dynamo.reset()
    found = torch.compile(taken, backend="eager", fullgraph=True)(call.q, call.k, call.v)
    want = taken(call.q, call.k, call.v)
    width = 2 * call.q.shape[-1]
    assert torch.equal(found[:, : width + 2], want[:, : width + 2])
    assert torch.equal(found[..., width:], want[..., width:])


def test_the_sums_of_a_site_need_ten_times_the_memory_of_q():
    call = tokens(batch=1, heads=2, length=4096, head_dim=32).to(torch.bfloat16)
    table = empty_table(call.q, call.v)
    with Memory() as memory:
        take_sums(call.q, call.k, call.v, table)
    assert 6 * call.q.nbytes <= memory.peak <= 10 * call.q.nbytes


def test_symmetricity_follows_from_centred_sums():
    call = tokens(length=30)
    found = measures_of_sums(sums_of(call.q + 2, call.k - 1, call.v), ["symmetricity"])["symmetricity"]
    torch.testing.assert_close(found[:, 0].unflatten(0, (2, 3)), symmetricity(call.q + 2, call.k - 1))


def test_a_measure_that_is_none_is_refused():
    with pytest.raises(ValueError, match='measure is "entropy", but it must be one of energy, instability'):
        StabilityBatch(("entropy",))


class Operations(TorchDispatchMode):
    """The number of operations that are no views."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        old = {x.untyped_storage()._cdata for x in tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor)}
        made = [x for x in tree_leaves(result) if isinstance(x, torch.Tensor)]
        is_new = function._schema.is_mutable or any(x.untyped_storage()._cdata not in old for x in made)
        self.count += is_new and not function.__name__.startswith(("empty", "new_empty"))
        return result


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("measures", "budget"), [(TRACE_MEASURES[:4], 13.0), (TRACE_MEASURES, 20.0)])
def test_seventy_sites_need_few_operations_each(dtype, measures, budget):
    call = tokens(batch=1, heads=2, length=40, head_dim=32).to(dtype)
    batch = StabilityBatch(measures)
    with Operations() as operations:
        for _ in range(70):
            batch.take(call.q, call.k, call.v)
        assert operations.count == 70 * 11
        batch.results()
    assert operations.count / 70 <= budget
