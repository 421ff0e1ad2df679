"""Many prompts of all sorts through one server: what stays behind, in pictures, in memory and in live objects.

Every fifth prompt is the plain model's, and its picture has the bits of the first.
"""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from lab.campaign.ledger import Budget, Ledger
from lab.campaign.prompts import Prompt, measured, node, patched, plain, shown
from lab.campaign.servers import start
from lab.demo.comfyui_server import ComfyUIServer, ServerError
from lab.demo.gamma_sweep import pictures_of

STEPS = 3
LONG = 300  # steps of a run that is cancelled
SETTLED = 25  # rounds after which everything was used once
GROWTH = 60e6  # bytes; of 6 MB a run that was kept would show after ten
PLAIN_EVERY = 5


def run(budget: Budget) -> Ledger:
    """Queue a round for every seed of the budget."""
    ledger = Ledger()
    with start() as server:
        watch = Watch(server, ledger)
        for number, seed in enumerate(budget.seeds()):
            draw = random.Random(seed)
            kind = plain_run if number % PLAIN_EVERY == 0 else draw.choice(KINDS)
            ledger.counts[kind.__name__] += 1
            try:
                kind(watch, draw)
            except ServerError as error:
                ledger.fault(f"seed {seed}, {kind.__name__}: {str(error)[:400]}")
        watch.judge()
    return ledger


class Watch:
    """One server, and what was seen of it.

    Attributes:
        pictures: the first of every setting that was asked for again.
        looks: objects of the pack and bytes of the process after each plain run.
    """

    def __init__(self, server: ComfyUIServer, ledger: Ledger):
        self.server = server
        self.ledger = ledger
        self.pictures: dict[str, Tensor] = {}
        self.looks: list[tuple[dict[str, int], int]] = []

    def same_picture(self, name: str, outputs: dict[str, Any]) -> None:
        """Compare a picture with the first of its name, bit by bit."""
        (picture,) = pictures_of(self.server, outputs)
        if not torch.equal(self.pictures.setdefault(name, picture), picture):
            self.ledger.fault(f"the picture of {name} is another one after {self.ledger.counts.total()} rounds")

    def judge(self) -> None:
        """Compare what was alive after the first rounds with what was alive at the end."""
        settled = self.looks[min(SETTLED // PLAIN_EVERY, len(self.looks) // 2) :]
        (first, least), (last, most) = settled[0], settled[-1]
        grown = {name: (first.get(name, 0), count) for name, count in last.items() if count > first.get(name, 0)}
        # What each look has more than the one before is a leak; what comes and goes with the last prompt is not.
        seen = {name: [objects.get(name, 0) for objects, _ in settled] for name in grown}
        steady = {name: grown[name] for name, counts in seen.items() if counts == sorted(counts)}
        if steady and len(settled) > 3:
            self.ledger.fault(f"objects that only grow: {steady}")
        if most - least > GROWTH:
            self.ledger.fault(f"the process has grown by {(most - least) / 1e6:.0f} MB")
        counts = sum(first.values()), sum(last.values())
        self.ledger.figures["live objects of the pack"] = f"{counts[0]} settled, {counts[1]} at the end"
        self.ledger.figures["memory"] = f"{least / 1e6:.0f} MB settled, {most / 1e6:.0f} MB at the end"
        self.ledger.figures["pictures compared"] = ", ".join(sorted(self.pictures))


def plain_run(watch: Watch, draw: random.Random) -> None:
    """The plain model, its picture, and a look into the process."""
    nodes = plain(STEPS)
    nodes["look"] = node("SADCampaignLook", {"after": ["decode", 0]})
    outputs = watch.server.run(shown(nodes, ["look", 0]))
    watch.same_picture("plain", outputs)
    seen = json.loads(outputs["shown"]["text"][0])
    watch.looks.append((seen["objects"], seen["bytes"]))


def patched_run(watch: Watch, draw: random.Random) -> None:
    """γ by one of a few settings."""
    name, widgets = draw.choice(list(SETTINGS.items()))
    watch.same_picture(name, watch.server.run(patched(STEPS, **widgets)))


def measured_run(watch: Watch, draw: random.Random) -> None:
    """γ and a probe, whose trace is plotted and saved; the picture is that of γ."""
    nodes = measured(STEPS, depth_and_curvature=draw.random() < 0.3)
    nodes["plot"] = node("SADStabilityPlot", {"trace": ["probe", 1], "after": ["sampler", 0]})
    nodes["report"] = node("SADReport", {"report": ["skew", 2], "after": ["sampler", 0]})
    outputs = watch.server.run(shown(nodes, ["plot", 1]))
    watch.same_picture("value", outputs)
    if f"{STEPS} steps" not in outputs["shown"]["text"][0]:
        watch.ledger.fault(f"a summary of another run: {outputs['shown']['text'][0][:200]}")


def cancelled_run(watch: Watch, draw: random.Random) -> None:
    """A long run that is cancelled at one of its first steps."""
    nodes = draw.choice([patched, measured])(LONG)
    before = len(watch.server.log)
    running = watch.server.queue(nodes)
    wait_for_step(watch.server, before, LONG)
    watch.server.post("/interrupt")
    fails(watch, running, "interrupted")


def failing_run(watch: Watch, draw: random.Random) -> None:
    """A run that fails in a model call, by an error or for want of memory."""
    nodes = draw.choice([patched, measured])(STEPS)
    widgets = {"call": draw.randint(1, STEPS), "how": draw.choice(["error", "out of memory"])}
    nodes["fail"] = node("SADCampaignFail", {"model": nodes["sampler"]["inputs"]["model"], **widgets})
    nodes["sampler"]["inputs"]["model"] = ["fail", 0]
    fails(watch, watch.server.queue(nodes), "on purpose")


def unloaded_run(watch: Watch, draw: random.Random) -> None:
    """All models are unloaded and the caches emptied, then γ again."""
    watch.server.post("/free", {"unload_models": True, "free_memory": draw.random() < 0.5})
    patched_run(watch, draw)


def two_clients_run(watch: Watch, draw: random.Random) -> None:
    """Four prompts queued at once by two clients, one taken out of the queue while it waits."""
    settings = draw.sample(list(SETTINGS.items()), 2)
    prompts = [("plain", plain(STEPS)), *[(name, patched(STEPS, **widgets)) for name, widgets in settings]]
    draw.shuffle(prompts)
    queued = [(name, queue(watch.server, nodes, f"client {index % 2}")) for index, (name, nodes) in enumerate(prompts)]
    dropped = queue(watch.server, patched(LONG), "client 1")
    watch.server.post("/queue", {"delete": [dropped]})
    for name, prompt_id in queued:
        watch.same_picture(name, watch.server.wait(prompt_id)["outputs"])


def list_run(watch: Watch, draw: random.Random) -> None:
    """A sweep: one node runs for a list of γ."""
    nodes = patched(STEPS, gamma=["sweep", 0])
    nodes["sweep"] = node("SADGammaSweep", {"values": "1, 1.5, 0.5"})
    outputs = watch.server.run(nodes)
    for name, file in zip(("plain", "value", "half"), outputs["numbers"]["latents"], strict=True):
        watch.same_picture(name, {"numbers": {"latents": [file]}})


SETTINGS: dict[str, dict[str, Any]] = {
    "value": {},
    "half": {"gamma": 0.5},
    "adaptive": {"adaptive": "gamma and beta"},
    "cond": {"apply_to": "cond"},
    "some blocks": {"blocks": "input, middle", "norm": "projected"},
}
KINDS: tuple[Callable[[Watch, random.Random], None], ...] = (
    *(patched_run, measured_run, cancelled_run, failing_run, unloaded_run, two_clients_run, list_run),
)


def queue(server: ComfyUIServer, nodes: Prompt, client: str) -> str:
    """Queue a prompt as a client of this name."""
    prompt_id: str = server.post("/prompt", {"prompt": nodes, "client_id": client})["prompt_id"]
    return prompt_id


def wait_for_step(server: ComfyUIServer, start: int, steps: int) -> None:
    """Wait until the log has a first step of a run of so many steps, from the place `start`."""
    end = time.monotonic() + server.patience
    while not any(f" {step}/{steps} " in server.log[start:] for step in range(1, 10)):
        if time.monotonic() > end:
            raise ServerError("the run never reached its first step")
        time.sleep(0.05)


def fails(watch: Watch, prompt_id: str, words: str) -> None:
    """Assert that a prompt ends with these words."""
    try:
        watch.server.wait(prompt_id)
    except ServerError as error:
        if words not in str(error):
            raise
    else:
        watch.ledger.fault(f"a prompt that was to end with {words!r} finished")
