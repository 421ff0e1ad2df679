"""What an arm costs: how often it runs the model for one sample, and how long it takes beside the unpatched model.

    python -m lab.testbed.cost                      # of the arms that cost.json lacks. All take half an hour
    python -m lab.testbed.cost --network twin

Both are measured in ComfyUI. Two passes of classifier-free guidance are two calls. The calls follow from the arm, not
from the weights or the seed. The time is that of one CPU core, as a share of the unpatched model's under the same
sampler. The two are timed in turns, and of each the fastest turn counts.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from lab.testbed.arms import Arm, plain_of
from lab.testbed.draw import begin_worker, host_folder
from lab.testbed.networks import NETWORKS, parse_with_network
from lab.testbed.results import write_numbers

if TYPE_CHECKING:
    from lab.testbed.in_comfyui import Bed

COST = Path(__file__).with_name("cost.json")
TURNS = 3
SEEDS = range(8)  # of a turn, in one batch


@dataclass(frozen=True)
class Cost:
    """The calls of the model for one sample, and the time over that of the unpatched model."""

    calls: int
    time: float


def kept_costs(path: Path = COST) -> dict[str, dict[str, Cost]]:
    """The costs by network and by the name of the arm, as far as they were measured."""
    kept = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    return {network: {name: Cost(*cost) for name, cost in arms.items()} for network, arms in kept.items()}


def measure_cost(bed: Bed, arm: Arm, plain: Arm) -> Cost:
    """The cost of an arm beside its plain model, which costs 1 by definition."""
    calls = calls_of(bed, arm)
    if arm == plain:
        return Cost(calls, 1.0)
    turns = [(seconds_of(bed, plain), seconds_of(bed, arm)) for _ in range(TURNS)]
    of_plain, of_arm = map(min, zip(*turns, strict=True))
    return Cost(calls, round(of_arm / of_plain, 2))


def calls_of(bed: Bed, arm: Arm) -> int:
    """How many rows the networks see for one sample."""
    from lab.testbed.in_comfyui import draw_latents

    bed.rows = 0
    draw_latents(bed, arm, [0])
    return bed.rows


def seconds_of(bed: Bed, arm: Arm) -> float:
    """The seconds that this process computes for a batch; what else the machine does is not counted."""
    from lab.testbed.in_comfyui import draw_latents

    began = time.process_time()
    draw_latents(bed, arm, SEEDS)
    return time.process_time() - began


def measure_costs(arms: Sequence[Arm], model: Path, known: Mapping[str, Cost]) -> dict[str, Cost]:
    """The cost of each arm by name, measured where it is not known. ComfyUI and the pack are loaded already."""
    from lab.testbed.in_comfyui import load_bed

    bed, found = load_bed(model, model), {}
    for arm in arms:
        found[arm.name] = known.get(arm.name) or measure_cost(bed, arm, plain_of(arm, arms))
        print(f"{arm.name}: {found[arm.name].calls} calls, {found[arm.name].time:.2f} of the time", flush=True)
    return found


def write_costs(costs: Mapping[str, Mapping[str, Cost]], path: Path = COST) -> None:
    """Write the costs with one arm a line."""
    write_numbers(path, {name: {arm: list(astuple(each)) for arm, each in costs[name].items()} for name in costs})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options = parse_with_network(parser)
    begin_worker(host_folder(), on_cpu=True)
    known = kept_costs()
    found = measure_costs(NETWORKS[options.network].arms, options.model, known.get(options.network, {}))
    write_costs(known | {options.network: found})


if __name__ == "__main__":
    main()
