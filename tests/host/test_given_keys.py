"""γ acts where the keys are those of the tokens of the queries, and other nodes may hand over others (attn1_patch)."""

from __future__ import annotations

import importlib.util
import inspect
from collections.abc import Callable
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import comfy
import comfy_extras.nodes_attention_multiply
import comfy_extras.nodes_wan
import pytest
import torch
from comfy.ldm.wan.model_multitalk import MultiTalkGetAttnMapPatch
from comfy_extras.nodes_flux import FluxKVCache
from comfy_extras.nodes_hypertile import HyperTile
from comfy_extras.nodes_tomesd import TomePatchModel
from symmetric_attention.nodes.host.models.families import RULES
from symmetric_attention.nodes.host.models.site_rules import TEXT_REFINER
from symmetric_attention.nodes.host.patches.given_keys import KNOWN, GivenKeys

from lab.testing.families.family import draw
from lab.testing.families.rows import FAMILIES, HOSTED, STEPS
from lab.testing.neighbours import ORDERS, in_order
from lab.testing.recorder import distance, effect, stated, watch_attention
from lab.testing.run_nodes import execute, probe, skew

HOST = Path(comfy.__path__[0]).parent


def of_the_frame_before(q, k, v, *rest: Any, pe=None, attn_mask=None, extra_options=None) -> Any:
    """Cross-frame attention: as many keys and values as before, of another sample. Flux wants a dict."""
    if rest:
        return q, k.roll(1, 0), v.roll(1, 0)
    return {"q": q, "k": k.roll(1, 0), "v": v.roll(1, 0)}


class Mutual:
    """The same as an object, as packs write it."""

    def __call__(self, *given: Any, **named: Any) -> Any:
        return of_the_frame_before(*given, **named)


def patched_by(patch: Callable[..., Any]) -> Callable[[Any], Any]:
    def theirs(model):
        model = model.clone()
        model.set_model_attn1_patch(patch)
        return model

    return theirs


def frames_of(family, model=None) -> torch.Tensor:
    return family.sample(model, noise=draw("three frames", (3, *family.latent)), steps=1)


def assert_stated(family, model, **options) -> None:
    """Every site gives what the definition says of the keys that reached it, and for no other γ."""
    with watch_attention(model) as calls:
        family.sample(model, steps=1, **options)
    sites = [seen for seen in calls if not seen.is_cross]
    assert len(sites) >= len(family.sites)
    for seen in sites:
        scale = effect(family, seen, 1.5)
        assert distance(seen.out, stated(family, seen, 1.5)) <= 1e-3 * scale, seen.path
        assert distance(seen.out, stated(family, seen, 1.0)) > 1e-2 * scale, seen.path


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("patch", [of_the_frame_before, Mutual(), partial(of_the_frame_before)], ids=["f", "o", "p"])
@pytest.mark.parametrize("name", ["SD15", "Flux"])
def test_keys_of_another_frame_skip_every_call(families, name, patch, order):
    family = families[name]
    theirs = patched_by(patch)
    patched, report = in_order(order, family.model, theirs)
    assert frames_of(family, patched).equal(frames_of(family, theirs(family.model)))
    (run,) = report.runs
    assert not run.site_calls
    (reason,) = run.untouched
    written = "Mutual" if isinstance(patch, Mutual) else "of_the_frame_before"
    assert (
        reason
        == f"the attn1_patch of {written} (test_given_keys) may have replaced the keys with those of other tokens"
    )
    assert run.untouched[reason] % len(family.sites) == 0
    assert f"All were skipped: {run.untouched[reason]} × the attn1_patch of {written}" in report.describe()


def test_a_family_that_asks_no_such_function_is_skewed(sd3):
    patched, report = skew(patched_by(of_the_frame_before)(sd3.model))
    assert sd3.sample(patched).equal(sd3.sample(skew(sd3.model)[0]))
    assert set(report.runs[-1].site_calls) == set(sd3.sites)


@pytest.mark.parametrize("name", ["SD15", "Flux"])
def test_the_switch_overrides_and_acts_on_what_is_there(families, name):
    family = families[name]
    patched, report = skew(patched_by(of_the_frame_before)(family.model), act_where_unverified=True)
    assert_stated(family, patched, noise=draw("three frames", (3, *family.latent)))
    assert set(report.runs[-1].site_calls) == set(family.sites)
    assert not report.runs[-1].untouched


def test_of_two_nodes_the_one_with_the_switch_acts(sd15):
    theirs = patched_by(of_the_frame_before)(sd15.model)
    alone = frames_of(sd15, skew(theirs, act_where_unverified=True)[0])
    for first, later in ((True, False), (False, True)):
        one, _ = skew(theirs, gamma=1.5 if first else 0.3, act_where_unverified=first)
        both, _ = skew(one, gamma=1.5 if later else 0.3, act_where_unverified=later)
        assert frames_of(sd15, both).equal(alone)


def loaded_by_path(file: str) -> Any:
    """A file of the host's nodes as the host loads it: by its path, which is the name of the module."""
    path = HOST / "comfy_extras" / file
    spec = importlib.util.spec_from_file_location(str(path.with_suffix("")), path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def hypernetwork(tmp_path: Path, width: int) -> Callable[..., Any]:
    """A hypernetwork for one width of the model, through the host's loader."""
    layers = [
        {
            "0.weight": draw(f"h {index}", (2 * width, width)) / width**0.5,
            "0.bias": draw(f"hb {index}", (2 * width,)) * 0.1,
            "1.weight": draw(f"h2 {index}", (width, 2 * width)) / width**0.5,
            "1.bias": draw(f"hb2 {index}", (width,)) * 0.1,
        }
        for index in range(2)
    ]
    torch.save({"activation_func": "relu", width: layers}, tmp_path / "one.pt")
    return loaded_by_path("nodes_hypernetwork.py").load_hypernetwork_patch(str(tmp_path / "one.pt"), 1.0)


@pytest.mark.parametrize("order", ORDERS)
def test_a_hypernetwork_changes_each_token_by_itself_so_gamma_acts(sd15, tmp_path, order):
    width = sd15.model.model.diffusion_model.input_blocks[1][1].transformer_blocks[0].attn1.to_q.in_features
    theirs = patched_by(hypernetwork(tmp_path, width))
    patched, report = in_order(order, sd15.model, theirs)
    assert distance(sd15.sample(theirs(sd15.model)), sd15.picture) > 1e-3 * sd15.picture.norm()
    assert_stated(sd15, patched)
    assert set(report.runs[-1].site_calls) == set(sd15.sites)
    assert not report.runs[-1].untouched


def test_the_functions_of_the_hosts_own_nodes_are_known(families, tmp_path):
    """The patches have the form that these nodes leave in a model, or that the host builds from weights."""
    sd15, flux = families["SD15"].model, families["Flux"].model
    models = {
        "hypernetwork": patched_by(hypernetwork(tmp_path, 32))(sd15),
        "ToMe": execute(TomePatchModel, model=sd15, ratio=0.5)[0],
        "HyperTile": execute(HyperTile, model=sd15, tile_size=32, swap_size=2, max_depth=0, scale_depth=False)[0],
        "Flux KV Cache": execute(FluxKVCache, model=flux)[0],
        "MultiTalk": patched_by(MultiTalkGetAttnMapPatch())(sd15),
    }
    try:
        lllite = import_module("comfy.ldm.anima.lllite")
    except ModuleNotFoundError:
        pass  # newer than this host
    else:
        models["Anima LLLite"] = patched_by(lllite.AnimaLLLiteAttentionPatch(None, {}))(sd15)
    for name, model in models.items():
        assert GivenKeys.read(model.model_options["transformer_options"], False) == GivenKeys(stand=True), name


def test_one_unknown_function_beside_a_known_one_is_enough(sd15, tmp_path):
    both = patched_by(of_the_frame_before)(patched_by(hypernetwork(tmp_path, 32))(sd15.model))
    patched, report = skew(both)
    assert frames_of(sd15, patched).equal(frames_of(sd15, both))
    (reason,) = report.runs[-1].untouched
    assert "hypernetwork" not in reason


def negative_prompts(n, context, value, extra):
    """Patch keys and values of cross-attention, as NegPip does."""
    return n, context * 1.5, context * 0.5


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("neighbour", ["weights", "cross-attention", "output"])
def test_neighbours_that_hand_over_no_keys_of_self_attention(sd15, neighbour, order):
    def theirs(model):
        if neighbour == "weights":
            node = comfy_extras.nodes_attention_multiply.UNetSelfAttentionMultiply
            return execute(node, model=model, q=1.2, k=0.9, v=1.1, out=1.0)[0]
        model = model.clone()
        if neighbour == "output":
            model.set_model_attn1_output_patch(lambda out, extra: out * 1.1)
        else:
            model.set_model_attn2_patch(negative_prompts)
        return model

    patched, report = in_order(order, sd15.model, theirs)
    assert_stated(sd15, patched)
    assert not report.runs[-1].untouched


def test_a_function_of_wan_gets_the_result_and_hands_over_nothing():
    row = HOSTED["WAN21_T2V"]
    patched, report = skew(patched_by(lambda given: given["x"] * 1.1)(row.model))
    with watch_attention(patched) as calls:
        row.sample(patched)
    for seen in (seen for seen in calls if row.site_of(seen.path)):
        assert distance(seen.out, stated(row, seen, 1.5)) <= 1e-3 * effect(row, seen, 1.5), seen.path
    assert set(report.runs[-1].site_calls) == set(row.paths)
    assert not report.runs[-1].untouched
    row.forget()


def test_the_table_says_which_families_ask_such_functions():
    """By the host's own files; those of Wan are asked once the attention is done."""
    for rule in RULES:
        file = rule.module.rpartition(".")[0]
        try:
            source = inspect.getsource(import_module(f"comfy.ldm.{file}"))
        except ModuleNotFoundError:
            continue  # newer than this host
        if "attn1_patch" in source and rule.kind != TEXT_REFINER and not file.startswith("wan."):
            assert rule.takes_patches, rule
        if rule.takes_patches and not file.startswith("cosmos."):  # the oldest host asks none there
            assert "attn1_patch" in source, rule


def test_every_known_function_of_the_host_is_there_under_its_name():
    """A function that the host renames would count as unknown, and γ would be gone without a need."""
    files = {
        path.stem: path
        for folder in ("comfy_extras", "comfy/ldm")
        for path in sorted((HOST / folder).rglob("*.py"))
        if path.stem in {file for file, _ in KNOWN}
    }
    missing = []
    for file, name in sorted(KNOWN):
        if file == "node_control_net_lllite":
            continue  # another pack's
        if file not in files:
            missing.append(file)
            continue
        source = files[file].read_text(encoding="utf-8")
        for part in name.split("."):
            if part != "<locals>":
                assert f"class {part}" in source or f"def {part}(" in source, (file, name)
    assert set(missing) <= {"lllite"}, missing  # newer than the oldest host


@pytest.mark.parametrize("patterns", ["value", "input"])
def test_the_probe_measures_none_of_these_calls_and_says_so(sd15, patterns):
    theirs = patched_by(of_the_frame_before)(sd15.model)
    model, trace = probe(theirs, patterns=patterns)
    assert frames_of(sd15, model).equal(frames_of(sd15, theirs))
    assert trace.is_empty
    told = trace.runs[-1].notes
    sentence = "input.1.0 was not measured at some steps: the attn1_patch of of_the_frame_before (test_given_keys)"
    assert any(note.startswith(sentence) for note in told), told


def test_the_probe_measures_them_where_the_switch_says_so(sd15):
    model, trace = probe(patched_by(of_the_frame_before)(sd15.model), act_where_unverified=True)
    sd15.sample(model)
    assert set(trace.runs[-1].addresses) == set(sd15.sites)
    assert len(trace.runs[-1].steps) == STEPS


def test_the_decision_is_made_once_for_a_model_call(sd15, monkeypatch):
    asked = []
    read = GivenKeys.read
    monkeypatch.setattr(GivenKeys, "read", lambda options, trusts: asked.append(options) or read(options, trusts))
    patched, report = skew(sd15.model)
    sd15.sample(patched)
    assert len(asked) == report.runs[-1].model_calls


def test_a_block_that_hands_over_keys_of_its_own_is_skipped(sd15):
    """Another pack runs the site with keys of the frame before, without any attn1_patch."""
    path = "diffusion_model.output_blocks.2.1.transformer_blocks.0.attn1.forward"

    def theirs(model):
        model = model.clone()
        inner = model.get_model_object(path)
        other = lambda x, context=None, **named: inner(x, context=x.roll(1, 0), **named)  # noqa: E731
        model.add_object_patch(path, other)
        return model

    patched, report = in_order("ours first", sd15.model, theirs)
    frames_of(sd15, patched)
    (run,) = report.runs
    assert run.untouched == {"the block supplies other keys": run.model_calls}
    assert "Not reached: output.2.0. Reason: the block supplies other keys." in run.describe().splitlines()
    assert set(run.site_calls) == set(sd15.sites) - {"output.2.0"}


@pytest.mark.parametrize(
    "patches", [None, {}, {"attn1_patch": []}, {"attn1_patch": None}, {"attn2_patch": [print]}, "patches", 3]
)
def test_options_without_such_a_function_say_nothing(patches):
    assert GivenKeys.read({"patches": patches} if patches != 3 else {}, False) == GivenKeys()


@pytest.mark.parametrize("function", [print, 3, None, "text", partial(partial(print)), FAMILIES, Mutual().__call__])
def test_anything_may_be_there_and_nothing_is_raised(function):
    read = GivenKeys.read({"patches": {"attn1_patch": [function]}}, False)
    assert read.reason.startswith("the attn1_patch of ")
    assert not read.stand
    assert GivenKeys.read({"patches": {"attn1_patch": [function]}}, True) == GivenKeys(stand=True)
