"""A server that is killed (kill -9) while it samples or saves, and started again in the same folder.

Every file that is there under its name is whole, and the next run works. A round kills at another moment.
"""

from __future__ import annotations

import csv
import io
import json
import random
import time
from pathlib import Path

import torch

from lab.campaign.ledger import Budget, Ledger
from lab.campaign.prompts import Prompt, measured, node, patched, plain
from lab.campaign.servers import start
from lab.demo.comfyui_server import ComfyUIServer
from lab.demo.gamma_sweep import pictures_of
from sad_core import StabilityTrace

STEPS = 2
SAVES = 12  # of one prompt, so that a kill is likely to meet one
USERS = {"mine.txt": b"a file of the user", "stability/old.csv": b"a,b\n1,2\n"}


def run(budget: Budget) -> Ledger:
    """Kill a server for every seed of the budget, always the same one."""
    ledger = Ledger()
    server = start()
    with server:
        for name, content in USERS.items():
            (server.output / name).parent.mkdir(exist_ok=True)
            (server.output / name).write_bytes(content)
        wanted = {"plain": picture(server, plain(STEPS)), "patched": picture(server, patched(STEPS))}
        for seed in budget.seeds():
            draw = random.Random(seed)
            wait_for_moment(server, server.queue(saving_prompt()), draw)
            server.process.kill()
            server.process.wait()
            for problem in broken_files(server.output):
                ledger.fault(f"seed {seed}: {problem}")
            ledger.counts["kills"] += 1
            server.start()
            got = {"plain": picture(server, plain(STEPS)), "patched": picture(server, patched(STEPS))}
            if not all(torch.equal(got[name], wanted[name]) for name in wanted):
                ledger.fault(f"seed {seed}: after the restart a picture is another one")
        files = [path for path in server.output.rglob("*") if path.suffix in (".csv", ".json", ".safetensors")]
        ledger.figures["files that were whole"] = str(len(files))
        ledger.figures["files left unfinished"] = str(len(list(server.output.rglob("*.unfinished"))))
    return ledger


def saving_prompt() -> Prompt:
    """A measured run whose trace is saved many times, in all formats."""
    nodes = measured(STEPS)
    del nodes["kept"]
    for number in range(SAVES):
        wired = {"trace": ["probe", 1], "after": ["sampler", 0], "filename_prefix": "stability/trace"}
        form = ("trace", "CSV", "JSON")[number % 3]
        nodes[f"kept {number}"] = node("SADSaveStabilityTrace", wired, format=form)
    return nodes


def wait_for_moment(server: ComfyUIServer, prompt_id: str, draw: random.Random) -> None:
    """Wait until the prompt is at a drawn place: a little after it began, or with so many files saved."""
    wanted = draw.randint(0, SAVES - 1)
    before = saved(server)
    if wanted == 0:
        time.sleep(draw.uniform(0.0, 1.0))
        return
    end = time.monotonic() + server.patience
    while saved(server) < before + wanted:
        if time.monotonic() > end:
            raise TimeoutError(f"{prompt_id} saved nothing")
        time.sleep(0.001)
    time.sleep(draw.uniform(0.0, 0.02))


def saved(server: ComfyUIServer) -> int:
    """Return how many files were saved, unfinished ones among them."""
    return len(list((server.output / "stability").iterdir()))


def broken_files(folder: Path) -> list[str]:
    """Return a sentence for each file that is not whole."""
    problems = [f"{name} has changed" for name, content in USERS.items() if (folder / name).read_bytes() != content]
    for path in sorted((folder / "stability").iterdir()):
        if path.name == "old.csv" or path.suffix == ".unfinished":
            continue
        try:
            if path.suffix == ".safetensors":
                rows = len(StabilityTrace.load(path).to_table())
            elif path.suffix == ".json":
                rows = len(json.loads(path.read_text(encoding="utf-8"))["table"])
            else:
                text = path.read_text(encoding="utf-8")
                rows = len(list(csv.DictReader(io.StringIO(text)))) if text.endswith("\n") else -1
            if rows != ROWS:
                problems.append(f"{path.name} has {rows} rows, not {ROWS}")
        except ValueError as error:
            problems.append(f"{path.name}: {error}")
    return problems


ROWS = STEPS * 2 * 10  # passes and sites


def picture(server: ComfyUIServer, nodes: Prompt) -> torch.Tensor:
    """Run a prompt and return its picture."""
    return pictures_of(server, server.run(nodes))[0]
