"""The run behind a report and a plot, and their texts for bypassed nodes, in a running ComfyUI."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from lab.demo.gamma_sweep import pictures_of, workflow

fresh = itertools.count(50_000)
STEPS = 3
NO_RUN = 'The input "after" did not come from a run through this Skew Attention (SAD).'
NO_TRACE = 'The input "after" did not come from a run through this Stability Probe (SAD).'


def prompt(steps: int = STEPS, seed: int = 4) -> dict[str, Any]:
    """The demo model through Skew Attention and a probe, both read; never seen before by the server."""
    nodes = workflow(1.5, "animals", seed, steps=steps, nonce=next(fresh))
    nodes["probe"] = {
        "class_type": "SADStabilityProbe",
        "inputs": {"model": ["skew", 0], "blocks": "", "every_nth_step": 1, "depth_and_curvature": False}
        | {"patterns": "value", "map_site": ""},
    }
    nodes["sampler"]["inputs"]["model"] = ["probe", 0]
    read(nodes)
    return nodes


def read(nodes: dict[str, Any], after: tuple[str, int] = ("decode", 0), name: str = "") -> None:
    """Add a report and a plot that wait for `after`, and nodes that show their texts."""
    wired = {"after": list(after)}
    nodes[f"report{name}"] = {"class_type": "SADReport", "inputs": {"report": ["skew", 2], **wired}}
    nodes[f"plot{name}"] = {"class_type": "SADStabilityPlot", "inputs": {"trace": ["probe", 1], **wired}}
    for kind, output in (("report", 0), ("plot", 1)):
        shown = {"class_type": "PreviewAny", "inputs": {"source": [f"{kind}{name}", output]}}
        nodes[f"{kind}{name} text"] = shown


def texts(outputs: dict[str, Any], name: str = "") -> tuple[str, str]:
    """Return the report and the summary of the plot."""
    return outputs[f"report{name} text"]["text"][0], outputs[f"plot{name} text"]["text"][0]


def tells_of(told: tuple[str, str], steps: int) -> bool:
    report, summary = told
    return f"10 of 10 chosen sites reached, {10 * steps} attention calls" in report and f"× {steps} steps" in summary


def picture(server, outputs: dict[str, Any]):
    return pictures_of(server, outputs)[0]


def test_the_run_of_a_plain_model_is_not_reported_as_a_patched_one(server):
    nodes = prompt()
    assert tells_of(texts(server.run(nodes)), STEPS)
    nodes["sampler"]["inputs"]["model"] = ["model", 0]
    report, summary = texts(server.run(nodes))
    assert NO_RUN in report
    assert summary.startswith(NO_TRACE)
    assert "finished" not in report + summary
    nodes["sampler"]["inputs"]["model"] = ["probe", 0]
    assert tells_of(texts(server.run(nodes)), STEPS)


def test_a_merge_that_drops_the_patches_is_seen(server):
    nodes = prompt()
    assert tells_of(texts(server.run(nodes)), STEPS)
    nodes["merge"] = {
        "class_type": "ModelMergeSimple",
        "inputs": {"model1": ["model", 0], "model2": ["probe", 0], "ratio": 1.0},
    }
    nodes["sampler"]["inputs"]["model"] = ["merge", 0]
    report, summary = texts(server.run(nodes))
    assert NO_RUN in report
    assert summary.startswith(NO_TRACE)


def test_what_no_sampler_made_is_seen(server):
    nodes = prompt()
    server.run(nodes)
    nodes["report"]["inputs"]["after"] = nodes["plot"]["inputs"]["after"] = ["model", 4]
    report, summary = texts(server.run(nodes))
    assert NO_RUN in report
    assert summary.startswith(NO_TRACE)


def test_a_run_from_the_cache_and_one_of_a_changed_seed_are_reported(server):
    nodes = prompt(steps=2)
    assert tells_of(texts(server.run(nodes)), 2)
    read(nodes, ("sampler", 0), name=" again")  # nothing is sampled for them
    outputs = server.run(nodes)
    assert tells_of(texts(outputs, " again"), 2)
    before = len(server.log)
    nodes["sampler"]["inputs"] |= {"seed": 5, "steps": 4}
    assert tells_of(texts(server.run(nodes)), 4)
    assert "40 attention calls changed" in server.log[before:]
    nodes["sampler"]["inputs"] |= {"seed": 4, "steps": 2}
    assert tells_of(texts(server.run(nodes)), 2)


def test_a_copy_of_the_sampler_that_the_cache_serves_is_reported(server):
    nodes = prompt(steps=2)
    server.run(nodes)
    nodes["10:3"] = nodes.pop("sampler")
    nodes["decode"]["inputs"]["samples"] = ["10:3", 0]
    before = len(server.log)
    read(nodes, ("10:3", 0), name=" again")
    assert tells_of(texts(server.run(nodes), " again"), 2)
    assert "attention calls changed" not in server.log[before:]


def test_each_of_two_reports_describes_its_own_sampler(server):
    nodes = prompt(steps=2)
    nodes["second"] = {**nodes["sampler"], "inputs": {**nodes["sampler"]["inputs"], "steps": 4}}
    read(nodes, ("second", 0), name=" second")
    outputs = server.run(nodes)
    assert tells_of(texts(outputs), 2)
    assert tells_of(texts(outputs, " second"), 4)
    for report in (texts(outputs)[0], texts(outputs, " second")[0]):
        assert "through this node" in report
    for reader in ("report second", "plot second"):  # in one prompt, in the other order
        nodes[reader]["inputs"]["after"] = ["sampler", 0]
    assert tells_of(texts(server.run(nodes), " second"), 2)


def test_the_ids_of_a_subgraph_are_known(server):
    nodes = prompt(steps=2)
    for name in ("skew", "probe", "sampler", "report", "plot"):
        nodes[f"10:{name}"] = nodes.pop(name)
    for node in nodes.values():
        for key, value in node["inputs"].items():
            if isinstance(value, list) and f"10:{value[0]}" in nodes:
                node["inputs"][key] = [f"10:{value[0]}", value[1]]
    assert tells_of(texts(server.run(nodes)), 2)
    nodes["10:sampler"]["inputs"]["model"] = ["model", 0]
    report, summary = texts(server.run(nodes))
    assert NO_RUN in report
    assert summary.startswith(NO_TRACE)


def test_of_a_list_of_latents_each_report_describes_its_own_run(server):
    nodes = prompt()
    nodes["skew"]["inputs"]["gamma"] = 1.7  # as in no other test, so that no run of another is behind these nodes
    nodes["sweep"] = {"class_type": "SADGammaSweep", "inputs": {"values": "1, 2", "seeds": 1, "first_seed": 0}}
    nodes["sampler"]["inputs"]["cfg"] = ["sweep", 0]  # without guidance there is one pass, and half the numbers
    outputs = server.run(nodes)
    summaries = outputs["plot text"]["text"]
    assert len(summaries) == 2
    assert "Run 1 of 2" not in summaries[0]
    assert [len(summary.partition("\n")[0].split("negative")) for summary in summaries] == [1, 2]


def test_the_run_of_a_sampler_made_at_run_time_is_reported(server):
    nodes = prompt(steps=2)
    wired = {name: nodes["sampler"]["inputs"][name] for name in ("model", "positive", "negative", "latent_image")}
    nodes["made"] = {"class_type": "SADExpandedSampler", "inputs": {**wired, "steps": 4}}
    read(nodes, ("made", 0), name=" made")
    outputs = server.run(nodes)
    assert tells_of(texts(outputs), 2)
    assert tells_of(texts(outputs, " made"), 4)
    nodes["image"] = {"class_type": "VAEDecode", "inputs": {"samples": ["made", 0], "vae": ["model", 3]}}
    read(nodes, ("image", 0), name=" again")  # its latent comes from the cache: nothing is made at run time
    assert tells_of(texts(server.run(nodes), " again"), 4)
    nodes["made"]["inputs"]["model"] = ["model", 0]
    report, summary = texts(server.run(nodes), " made")
    assert NO_RUN in report
    assert summary.startswith(NO_TRACE)


@pytest.mark.parametrize("gone", ["skew", "probe"])
def test_with_a_bypassed_node_the_graph_runs_and_says_so(server, gone):
    """The editor then queues a prompt without the node and without the links that only it provides."""
    nodes = prompt(steps=2)
    nodes["kept"] = {
        "class_type": "SADSaveStabilityTrace",
        "inputs": {"trace": ["probe", 1], "after": ["sampler", 0], "filename_prefix": f"bypass/{gone}"},
    }
    nodes["loaded"] = {"class_type": "SADLoadStabilityTrace", "inputs": {"file": ["kept", 0]}}
    nodes["loaded text"] = {"class_type": "PreviewAny", "inputs": {"source": ["loaded", 1]}}
    assert tells_of(texts(server.run(nodes)), 2)
    files = list(server.output.rglob(f"{gone}_*.safetensors"))
    assert len(files) == 1
    before = {"skew": ["model", 0], "probe": ["skew", 0]}[gone]
    del nodes[gone]
    for node in nodes.values():
        for name, value in list(node["inputs"].items()):
            if value == [gone, 0]:
                node["inputs"][name] = before
            elif isinstance(value, list) and value[0] == gone:
                del node["inputs"][name]
    outputs = server.run(nodes)
    report, summary = texts(outputs)
    if gone == "skew":
        assert report.startswith(
            'Nothing is patched here: no Skew Attention (SAD) or Creativity (SAD) is wired to "report", or it is '
        )
        assert "× 2 steps" in summary
    else:
        assert "20 attention calls changed" in report
        assert summary.startswith("Nothing is measured here: no node that gives a trace, such as Stability Probe (SAD)")
        assert "loaded text" not in outputs
        assert "Nothing was saved." in server.log
        assert list(server.output.rglob(f"{gone}_*.safetensors")) == files


def test_with_both_bypassed_the_picture_is_the_plain_one(server):
    nodes = prompt(steps=2)
    plain = picture(server, server.run(workflow(None, "animals", 4, steps=2, nonce=next(fresh))))
    del nodes["skew"], nodes["probe"], nodes["report"]["inputs"]["report"], nodes["plot"]["inputs"]["trace"]
    nodes["sampler"]["inputs"]["model"] = ["model", 0]
    outputs = server.run(nodes)
    assert picture(server, outputs).equal(plain)
    report, summary = texts(outputs)
    assert report.startswith("Nothing is patched here")
    assert summary.startswith("Nothing is measured here")
