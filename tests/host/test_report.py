"""The report of a run: during the run, afterwards, and after a run that differs from the request."""

from __future__ import annotations

import contextlib
import logging
import re
import sys
import types

import comfy.ldm.modules.attention
import comfy.model_management
import pytest
import symmetric_attention
import torch
from symmetric_attention.nodes.host.run_report import NEVER_CALLED
from symmetric_attention.nodes.report import ReportNode
from symmetric_attention.sad_core import GammaSchedule

from lab.testing.families.building import build
from lab.testing.families.configs import SD15
from lab.testing.families.rows import STEPS
from lab.testing.recorder import FussyAttention, backend, distance, effect, stated, watch_attention
from lab.testing.run_nodes import NODE_ID, execute, skew, stop_at, with_override_of_another_pack


def read(report, after=None) -> str:
    return execute(ReportNode, report=report, after={"samples": after})[0]


def test_a_finished_run_is_reported_in_numbers(family):
    patched, report = skew(family.model)
    with watch_attention(patched) as calls:
        family.sample(patched)
    skewed = len([seen for seen in calls if not seen.is_cross])
    record = report.runs[-1]
    assert (record.status, record.model_calls) == ("finished", STEPS)
    assert sum(record.site_calls.values()) == skewed
    assert set(record.site_calls) == set(family.sites)
    name = type(family.model.model.model_config).__name__
    sites = len(family.sites)
    assert record.describe().splitlines()[0] == f"γ 1.5 acted in the whole run, at {sites} of {sites} sites."
    assert (
        record.describe()
        .splitlines()[1]
        .startswith(
            f"{name}, finished: {sites} of {sites} chosen sites reached, "
            f"{skewed} attention calls changed in {STEPS} model calls."
        )
    )
    assert record.warning is None


def test_a_site_that_was_not_reached_is_named_and_not_counted(sd15):
    model = sd15.model.clone()
    model.set_model_attn1_replace(lambda q, k, v, extra: v, "output", 2)
    patched, report = skew(model)
    sd15.sample(patched)
    told = report.describe()
    assert told.startswith(
        "γ 1.5 acted in the whole run, at 6 of 7 sites.\nSD15, finished: 6 of 7 chosen sites reached, "
    )
    assert f"Not reached: output.2.0. Reason: {NEVER_CALLED}." in told.splitlines()


@pytest.mark.newest
@pytest.mark.parametrize("door", ["schedule", "gamma", "gamma_text"])
def test_a_gamma_beyond_the_widgets_is_warned_of_by_every_door(sd15, sd3, door):
    """A wire and a text carry any number; a widget ends at 3."""
    far, near = (
        {"schedule": GammaSchedule.from_keyframes(f"0:1, 1:{gamma}")} if door == "schedule" else {door: gamma}
        for gamma in (9.0, 3.0)
    )
    family = sd3 if door == "gamma_text" else sd15
    patched, report = skew(family.model, **far)
    family.sample(patched, steps=1)
    warning = "Warning: γ 9 is outside the range of the widgets, -2 to 3, and has not been tested."
    assert warning in report.plan.splitlines()
    assert warning in report.runs[-1].describe().splitlines()
    assert "Warning" not in skew(family.model, **near)[1].plan


def test_the_report_node_gives_plan_and_report(sd15):
    patched, report = skew(sd15.model)
    text = read(report, sd15.sample(patched))
    assert text == f"{report.plan}\n\n{report.describe()}"
    assert "7 of 7 attention sites" in text
    assert "7 of 7 chosen sites reached" in text


def test_the_plan_output_is_the_plan_of_the_report(sd15):
    _, report = skew(sd15.model, gamma=1.5, beta=2.0, end_percent=0.5, apply_to="cond", adaptive="gamma", norm="input")
    assert report.plan.splitlines() == [
        "SD15: 7 of 7 attention sites (7 self): input.1.0, input.3.0, middle.0.0, output.0.0, output.1.0, output.2.0, "
        "output.3.0.",
        "γ 1.5 from 0% to 50% of the run, β 2, norm input, adaptive gamma, cond only.",
    ]


def test_an_empty_handle_is_said_in_words(sd15):
    _, report = skew(sd15.model)
    assert "No sampling run has gone through this model yet" in read(report)
    assert "cache" in read(report)


def test_a_neutral_node_says_that_nothing_was_patched(sd15):
    patched, report = skew(sd15.model, gamma=1.0)
    sd15.sample(patched)
    text = read(report)
    assert text.count("γ is 1 throughout") == text.lower().count("nothing was patched") == 1


def test_a_second_run_behind_one_handle_is_said_in_words(sd15):
    patched, report = skew(sd15.model)
    sd15.sample(patched)
    assert "Run " not in read(report)
    sd15.sample(patched, steps=5)
    assert "Run 2 of 2 through this node, the newest one." in read(report)
    assert "in 5 model calls" in read(report)
    assert [run.model_calls for run in report.runs] == [STEPS, 5]


def test_runs_are_counted_beyond_those_that_are_kept(sd15):
    patched, report = skew(sd15.model)
    for _ in range(10):
        sd15.sample(patched, steps=1)
    assert "Run 10 of 10 through this node" in report.describe()
    assert len(report.runs) == 8


def test_a_cancelled_run_says_so(sd15):
    patched, report = skew(sd15.model)
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        sd15.sample(patched, steps=4, callback=stop_at(1))
    assert report.runs[-1].status == "interrupted"
    assert "SD15, interrupted" in read(report)
    assert "in 2 model calls" in read(report)


def test_the_last_call_can_be_read_while_the_run_goes_on(sd15):
    patched, report = skew(sd15.model, gamma=1.5, beta=3.0, adaptive="gamma")
    seen = []

    def callback(step, denoised, x, steps):
        seen.append((step, report.runs[-1].status, report.last_call))

    sd15.sample(patched, callback=callback)
    assert [step for step, _, _ in seen] == list(range(STEPS))
    assert {status for _, status, _ in seen} == {"running"}
    assert [last for _, _, last in seen] == list(report.runs[-1].calls)
    assert len({last.sigma for _, _, last in seen}) == STEPS
    for _, _, last in seen:
        assert last.gamma == 1.5
        assert [address for address, _ in last.symmetricity] == list(sd15.sites)
        assert all(len(eta) == 2 for _, eta in last.symmetricity)
    assert report.last_call is seen[-1][2]


def test_the_gammas_of_an_adaptive_run_are_reported_as_a_range(sd15):
    patched, report = skew(sd15.model, gamma=2.0, adaptive="gamma")
    sd15.sample(patched)
    for call in report.runs[-1].calls:
        etas = [value for _, eta in call.symmetricity for value in eta]
        assert call.gamma_range == pytest.approx((1 + min(etas), 1 + max(etas)), abs=1e-5)
    low, high = map(float, re.search(r"γ ([\d.]+) … ([\d.]+) acted from progress", report.describe()).groups())
    assert low == pytest.approx(min(call.gamma_range[0] for call in report.runs[-1].calls), rel=1e-3)
    assert high == pytest.approx(max(call.gamma_range[1] for call in report.runs[-1].calls), rel=1e-3)


def test_one_gamma_is_reported_as_one_number_with_its_part_of_the_run(sd15):
    patched, report = skew(sd15.model, gamma=1.5)
    sd15.sample(patched)
    assert "γ 1.5 acted from progress 0.000 (sigma 14.61) to progress 1.000 (sigma 0.02917)." in report.describe()


@pytest.mark.parametrize("side", ["cond", "uncond"])
def test_a_report_begins_with_where_gamma_acted(sd15, side):
    whole, on_one_side = skew(sd15.model, gamma=1.5, apply_to=side)
    sd15.sample(whole)
    assert on_one_side.describe().startswith("γ 1.5 acted in the whole run, at 7 of 7 sites.\n")
    part, in_part = skew(sd15.model, gamma=1.5, end_percent=0.5)
    sd15.sample(part)
    calls = in_part.runs[-1].calls
    last = max(call.progress for call in calls if call.gammas.image != 1)
    assert last < calls[-1].progress
    assert in_part.describe().startswith(f"γ 1.5 acted from 0 % to {100 * last:.0f} % of the run, at 7 of 7 sites.\n")


def test_the_backend_is_named(flux):
    patched, report = skew(flux.model)
    flux.sample(patched)
    name = comfy.ldm.modules.attention.optimized_attention.__name__
    assert name in ("attention_pytorch", "attention_sub_quad")
    assert f"Attention was computed by {name}." in report.describe()


@pytest.mark.parametrize("widgets", [{}, {"beta": 3.0, "norm": "input"}, {"adaptive": "gamma"}, {"apply_to": "cond"}])
def test_tiles_of_our_own_are_named_and_give_the_same_picture(sd15, monkeypatch, widgets):
    patched, report = skew(sd15.model, **widgets)
    wanted = sd15.sample(patched)
    assert "this pack's own attention for the CPU" not in report.describe()  # too few tokens here to be worth it
    monkeypatch.setattr(symmetric_attention.sad_core.tiled_attention, "FEWEST_TOKENS", 1)
    got = sd15.sample(patched)
    assert "this pack's own attention for the CPU" in report.describe()
    assert float((got - wanted).norm()) < 3e-5 * float(wanted.norm())


def test_an_override_that_does_the_inner_attention_is_named(sd15):
    patched, report = skew(with_override_of_another_pack(sd15.model))
    sd15.sample(patched)
    assert "attention_of_another_pack" in report.describe()


@pytest.mark.parametrize("name", ["SD3", "Flux"])
def test_a_backend_without_the_head_dim_falls_back_once_and_rightly(families, name):
    family = families[name]
    patched, report = skew(family.model, beta=3.0)
    fussy = FussyAttention({"SD3": 64, "Flux": 32}[name], RuntimeError("head dim too large"))
    with backend(fussy), watch_attention(patched) as calls:
        family.sample(patched)
    assert fussy.refusals == 1
    for seen in calls:
        assert distance(seen.out, stated(family, seen, 1.5, 3.0)) <= 1e-3 * effect(family, seen, 1.5), seen.path
    assert report.describe().count("Fallback") == 1
    largest = fussy.largest
    assert (
        f"Fallback: attention_fussy does not support head dim {2 * largest} (head dim too large), so PyTorch attention "
        "takes over for the rest of the run." in report.describe()
    )


def test_every_run_describes_its_fallback(flux):
    patched, report = skew(flux.model)
    with backend(FussyAttention(32, RuntimeError("head dim too large"))):
        flux.sample(patched)
        flux.sample(patched)
    assert [len(run.fallbacks) for run in report.runs] == [1, 1]


def test_what_two_devices_fell_back_to_is_reported_once(sd15):
    _, report = skew(sd15.model)
    run = report.begin("SD15", ["middle.0.0"])
    for sentence in ("a refused", "b refused", "a refused"):
        run.fell_back(sentence)
    assert run.fallbacks == ["a refused", "b refused"]


def test_the_plain_run_needs_no_fallback(flux):
    fussy = FussyAttention(32, RuntimeError("head dim too large"))
    with backend(fussy):
        flux.sample(skew(flux.model, gamma=1.0)[0])
    assert fussy.refusals == 0


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("no memory"), KeyError("a bug of theirs")], ids=type)
def test_any_other_error_goes_on_to_the_host(flux, error):
    patched, report = skew(flux.model)
    with backend(FussyAttention(32, error)), pytest.raises(type(error)):
        flux.sample(patched)
    assert report.runs[-1].status == f"failed ({type(error).__name__})"
    assert not report.runs[-1].fallbacks


class BrokenServer:
    """A ComfyUI server whose browser connection is broken."""

    client_id = "browser"

    def send_progress_text(self, *_, **__):
        raise ConnectionResetError("the browser is gone")


@pytest.mark.parametrize("error", [None, ArithmeticError("the sampler's own")])
def test_a_broken_browser_costs_no_picture_and_hides_no_error(sd15, monkeypatch, error):
    server = types.SimpleNamespace(PromptServer=types.SimpleNamespace(instance=BrokenServer()))
    monkeypatch.setitem(sys.modules, "server", server)
    patched, _ = skew(sd15.model)

    def callback(*_):
        if error is not None:
            raise error

    with pytest.raises(type(error)) if error else contextlib.nullcontext():
        assert sd15.sample(patched, callback=callback).isfinite().all()


def test_a_run_that_reached_no_site_warns_in_report_and_log(sd15, caplog):
    model = sd15.model.clone()
    for address in sd15.sites:
        side, number, _ = address.split(".")
        model.set_model_attn1_replace(lambda q, k, v, extra: v, side, int(number))
    patched, report = skew(model)
    with caplog.at_level(logging.INFO, logger="symmetric_attention"):
        assert sd15.sample(patched).equal(sd15.sample(model))
    told = [record for record in caplog.records if record.name == "symmetric_attention"]
    warnings = [record for record in told if record.levelno == logging.WARNING]
    assert len(warnings) == 1
    for text in (warnings[0].getMessage(), report.describe()):
        assert "No attention site of SD15 was reached, so nothing changed." in text


def test_every_run_is_told_to_the_log(sd15, caplog):
    patched, report = skew(sd15.model)
    with caplog.at_level(logging.INFO, logger="symmetric_attention"):
        sd15.sample(patched)
    told = [record for record in caplog.records if record.name == "symmetric_attention"]
    assert [record.levelno for record in told] == [logging.INFO]
    assert report.runs[-1].describe() in told[0].getMessage()


def test_a_plain_model_says_nothing_in_the_log(sd15, caplog):
    with caplog.at_level(logging.INFO, logger="symmetric_attention"):
        sd15.sample(skew(sd15.model, gamma=1.0)[0])
    assert not [record for record in caplog.records if record.name.startswith("symmetric_attention")]


class Browser:
    """ComfyUI's PromptServer, as far as texts go (server.py)."""

    client_id = "the browser that queued the prompt"

    def __init__(self):
        self.told = []

    def send_progress_text(self, text, node_id, sid=None):
        self.told.append((text, node_id, sid))


def test_every_run_and_every_report_node_is_told_to_the_browser(sd15, monkeypatch):
    browser = Browser()
    server = types.SimpleNamespace(PromptServer=types.SimpleNamespace(instance=browser))
    monkeypatch.setitem(sys.modules, "server", server)
    patched, report = skew(sd15.model)
    sd15.sample(patched)
    text = read(report)
    assert browser.told == [
        (report.runs[-1].describe(), NODE_ID, Browser.client_id),
        (text, NODE_ID, Browser.client_id),
    ]


def test_symmetricity_is_not_measured_where_nobody_asked(sd15):
    patched, report = skew(sd15.model)
    sd15.sample(patched)
    assert all(call.symmetricity == () for call in report.runs[-1].calls)
    assert all(call.gamma_range == (1.5, 1.5) for call in report.runs[-1].calls)


def test_the_model_is_named_by_its_class_not_by_a_fixed_text(sd15):
    other = build("SD20", {**SD15, "model_channels": 64, "use_linear_in_transformer": True})
    _, report = skew(other)
    assert report.plan.startswith("SD20: 7 of 7")
    assert skew(sd15.model)[1].plan.startswith("SD15: 7 of 7")
