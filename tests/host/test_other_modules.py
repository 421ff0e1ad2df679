"""Models that are not one eager module on one device: compiled, on several devices, with modules swapped by others."""

from __future__ import annotations

import shutil

import pytest
import torch
import torch.nn.functional as F
from comfy.ldm.modules.attention import optimized_attention

from lab.testing.devices import on_two_devices
from lab.testing.recorder import FussyAttention, backend
from lab.testing.run_nodes import compiled, skew


@pytest.mark.newest
def test_compiled_runs_in_a_row_give_the_same_pictures_and_report_it(small_flux):
    torch._dynamo.reset()
    plain = small_flux.sample(steps=2)
    settings = {0.2: skew(small_flux.model, 0.2), 1.8: skew(small_flux.model, 1.8, beta=2.0)}
    wanted = {gamma: small_flux.sample(patched, steps=2) for gamma, (patched, _) in settings.items()}
    close = {"rtol": 1e-4, "atol": 1e-3 * float((wanted[0.2] - plain).norm() / plain.numel() ** 0.5)}
    for gamma in (0.2, None, 1.8):  # a patched model first, a plain one after it and before the next
        if gamma is None:
            got, want = small_flux.sample(compiled(small_flux.model, fullgraph=False), steps=2), plain
        else:
            patched, report = settings[gamma]
            got, want = small_flux.sample(compiled(patched, fullgraph=False), steps=2), wanted[gamma]
            assert "2 of 2 chosen sites reached" in report.describe()
            assert report.runs[-1].warning is None
        torch.testing.assert_close(got, want, **close)
    assert small_flux.sample(steps=2).equal(plain)


@pytest.mark.newest
@pytest.mark.skipif(shutil.which("g++") is None, reason="inductor needs a C++ compiler")
def test_inductor_gives_the_pictures_of_eager_runs(small_flux):
    if optimized_attention.__name__ != "attention_pytorch":
        pytest.skip("only PyTorch's attention is compiled with the sites")
    torch._dynamo.reset()
    plain = small_flux.sample(steps=2)
    patched, _ = skew(small_flux.model, 0.2)
    wanted = small_flux.sample(patched, steps=2)
    close = {"rtol": 1e-4, "atol": 1e-3 * float((wanted - plain).norm() / plain.numel() ** 0.5)}
    got = small_flux.sample(compiled(patched, fullgraph=False, backend="inductor"), steps=2)
    torch.testing.assert_close(got, wanted, **close)
    assert small_flux.sample(steps=2).equal(plain)


@pytest.mark.newest
def test_a_site_compiles_without_a_graph_break(small_flux):
    if optimized_attention.__name__ != "attention_pytorch":
        pytest.skip("the host's sub-quadratic attention breaks graphs by itself")
    broken = torch._dynamo.utils.counters["graph_break"]
    broken.clear()
    patched, report = skew(small_flux.model, 0.2)
    queries: list[int] = []

    def count(graph, _):
        calls = [node for node in graph.graph.nodes if node.target is F.scaled_dot_product_attention]
        queries.append(sum(node.args[0].meta["example_value"].shape[2] for node in calls))
        return graph.forward

    for model in (small_flux.model, patched):
        torch._dynamo.reset()
        small_flux.sample(compiled(model, fullgraph=True, backend=count), steps=2)
    assert not broken
    assert report.runs[-1].status == "finished"
    of_plain, of_patched = queries
    assert of_patched == of_plain > 0, "γ without β computes an attention that nobody needs"


def test_a_swapped_module_is_left_out_and_the_plain_model_comes_back(sd15):
    plain, wanted = sd15.sample(), sd15.sample(skew(sd15.model)[0])
    model = sd15.model.clone()
    path = "diffusion_model.middle_block.1.transformer_blocks.0.attn1"
    own = model.get_model_object(path)

    class Doubled(torch.nn.Module):
        def forward(self, *args, **kwargs):
            return 2 * type(own).forward(own, *args, **kwargs)

    model.add_object_patch(path, Doubled())
    swapped = sd15.sample(model)
    assert not swapped.equal(plain)
    patched, report = skew(model)
    assert "Left out, because another node has replaced these modules: middle.0.0." in report.plan
    assert not sd15.sample(patched).equal(swapped)
    assert f"{len(sd15.sites) - 1} of {len(sd15.sites) - 1} chosen sites reached" in report.describe()
    assert sd15.sample().equal(plain)
    sd15.sample(model)  # the other node's module is now in the network until the next run
    patched, report = skew(sd15.model)
    assert "7 of 7 attention sites" in report.plan
    assert sd15.sample(patched).equal(wanted)
    with pytest.raises(ValueError, match=r"replaced the modules of middle\.0\.0 as a whole, so nothing"):
        skew(model, blocks="middle")
    assert sd15.sample().equal(plain)


@pytest.mark.parametrize("apply_to", ["both", "cond", "uncond"])
def test_a_model_spread_over_two_devices_gives_the_picture_of_one(sd15, apply_to):
    plain, wanted = sd15.sample(), sd15.sample(skew(sd15.model, apply_to=apply_to)[0])
    patched, report = skew(on_two_devices(sd15), apply_to=apply_to)
    assert (sd15.sample(patched) - wanted).norm() < 1e-3 * (wanted - plain).norm()
    sites = len(sd15.sites)
    acting = {0: apply_to in ("both", "cond"), 1: apply_to in ("both", "uncond")}
    for call in report.runs[-1].calls:
        assert call.attention_calls == sites * any(acting[mark] for mark in call.cond_or_uncond)


def test_every_run_asks_the_backend_of_every_device_again(sd15):
    largest = 8  # of the head dims here, before they are doubled
    patched, report = skew(on_two_devices(sd15))
    fussy = FussyAttention(largest, RuntimeError("head dim too large"))
    refusals = []
    with backend(fussy):
        for _ in range(2):
            sd15.sample(patched)
            refusals.append(fussy.refusals)
            fussy.refusals = 0
    assert refusals[0] == refusals[1] > 0
    assert all(run.fallbacks for run in report.runs)
