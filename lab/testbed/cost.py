"""The cost of an arm: how often it runs the model for one sample, and how long it takes beside the unpatched model.

    python -m lab.testbed.cost                      # of the arms that cost.json lacks. All take half an hour
    python -m lab.testbed.cost --network twin

Both are measured in ComfyUI. Two passes of classifier-free guidance are two calls. The calls follow from the arm, not
from the weights or the seed. The time is that of one CPU core, as a share of the unpatched model's under the same
sampler. The two are timed in turns, and of each the fastest turn counts. Take an idle machine.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping, Sequence
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
LEAST_TURNS, LEAST_SECONDS = 3, 2.0  # of the unpatched model, beside each arm
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
    calls, _ = spent(bed, arm, [0])
    if arm == plain:
        return Cost(calls, 1.0)
    of_plain: list[float] = []
    of_arm: list[float] = []
    while len(of_plain) < LEAST_TURNS or sum(of_plain) < LEAST_SECONDS:
        of_plain.append(spent(bed, plain, SEEDS)[1])
        of_arm.append(spent(bed, arm, SEEDS)[1])
    return Cost(calls, round(min(of_arm) / min(of_plain), 1))


def spent(bed: Bed, arm: Arm, seeds: Sequence[int]) -> tuple[int, float]:
    """The rows that the networks see and the seconds of sampling, for a batch of these seeds."""
    from lab.testbed.in_comfyui import draw_latents

    rows, seconds = bed.rows, bed.seconds
    draw_latents(bed, arm, seeds)
    return bed.rows - rows, bed.seconds - seconds


def measure_costs(
    arms: Sequence[Arm], model: Path, known: Mapping[str, Cost], keep: Callable[[dict[str, Cost]], None]
) -> None:
    """The cost of each arm by name, measured where it is not known. ComfyUI and the pack are loaded already.

    `keep` gets what is known after each arm, so that the command may be stopped.
    """
    from lab.testbed.in_comfyui import load_bed

    bed, found = load_bed(model, model), {}
    for arm in arms:
        found[arm.name] = known.get(arm.name) or measure_cost(bed, arm, plain_of(arm, arms))
        print(f"{arm.name}: {found[arm.name].calls} calls, {found[arm.name].time:.1f} of the time", flush=True)
        keep(found)


def write_costs(costs: Mapping[str, Mapping[str, Cost]], path: Path = COST) -> None:
    """Write the costs with one arm a line."""
    write_numbers(path, {name: {arm: list(astuple(each)) for arm, each in costs[name].items()} for name in costs})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options = parse_with_network(parser)
    begin_worker(host_folder(), on_cpu=True)
    own = kept_costs().get(options.network, {})
    measure_costs(
        NETWORKS[options.network].arms,
        options.model,
        own,
        lambda found: write_costs(kept_costs() | {options.network: own | found}),
    )


if __name__ == "__main__":
    main()
