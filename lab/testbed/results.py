"""The numbers of the test bed: of every arm, of every knob's curve, and of the strengths that other seeds chose.

    python -m lab.testbed.results --model M --judges J      # after lab.testbed.draw; writes numbers.json

Seeds 0, 1, 2 ... are reported. The strength of a knob is chosen on the seeds from `FIRST_CHOICE_SEED` on, against the
validation part, by the rule that is written down here before anything is drawn: of the arms whose fidelity is no worse
than the plain model's, the one with the largest gain in diversity. Only its two numbers on the reported seeds are said.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from lab.evidence.bootstrap import Estimate
from lab.evidence.results import write_json
from lab.folders import expand_path
from lab.testbed.arms import PLAIN, Arm, plain_of
from lab.testbed.data import add_data_option, download
from lab.testbed.draw import COUNT, FOLDER, Source
from lab.testbed.features import Eyes
from lab.testbed.frontier import curve_of, dominated_area, gain_at_equal
from lab.testbed.gates import CHOICE_COUNT, FIRST_CHOICE_SEED
from lab.testbed.measured import Reference, measure_arms
from lab.testbed.networks import NETWORKS, parse_with_network
from lab.testbed.scores import DIVERSITY, FIDELITY, as_numbers, better
from lab.testbed.shape import MODEL_FILE

NEUTRAL: dict[str, float | None] = {
    **{"CFG off at first": 0.0, "Epsilon Scaling": 1.0, "CADS": 0.9, "noise on the class": 0.0},
    **dict.fromkeys(("PAG", "PAG, middle", "SEG", "SAG"), 0.0),
    **dict.fromkeys(("CFG in an interval", "APG", "RescaleCFG", "autoguidance"), None),
}  # of knobs that do nothing at another strength than 1, or at none; CFG does nothing at the guidance of the model
AXES = (FIDELITY, DIVERSITY)
IMAGENET = ("none", "headline", "all")


def changes_of(found: Mapping[str, Estimate], plain: Mapping[str, Estimate]) -> dict[str, Estimate]:
    """The arm less the plain model, paired by seed."""
    return {name: estimate - plain[name] for name, estimate in found.items() if name in plain}


def plane_of(changes: Mapping[str, Estimate]) -> Tensor:
    """(1 + R, 2): the changes of fidelity and diversity, more is better: the value, then what it is on R resamples."""
    columns = []
    for name in AXES:
        whole = torch.cat([torch.tensor([changes[name].value], dtype=torch.float64), changes[name].resampled])
        columns.append(better(name, whole))
    return torch.stack([torch.as_tensor(column) for column in columns], dim=-1)


def summary(numbers: Tensor) -> list[float]:
    """(1 + R,) -> [value, low, high]."""
    low, high = numbers[1:].quantile(torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    return [float(f"{number:.5g}") for number in (float(numbers[0]), low, high)]


def of_knobs(planes: Mapping[str, Tensor], arms: Sequence[Arm], guidance: float) -> dict[str, dict[str, list[float]]]:
    """The three numbers of each knob's curve, by name; see `frontier`. The corner is the worst of all changes.

    `guidance` is that of the plain model.
    """
    by_knob: dict[str, list[Arm]] = defaultdict(list)
    for arm in arms:
        if arm.name in planes:
            by_knob[arm.knob].append(arm)
    corner = torch.stack([plane[0] for plane in planes.values()]).amin(dim=0).clamp(max=0)
    found = {}
    for knob, members in by_knob.items():
        changes = torch.stack([planes[arm.name] for arm in members], dim=-2)
        neutral = (NEUTRAL | {"CFG": guidance}).get(knob.removesuffix(", ancestral"), 1.0)
        curve = curve_of([arm.strength for arm in members], changes, neutral)
        found[knob] = {
            "diversity at equal fidelity": summary(gain_at_equal(curve, kept=0)),
            "fidelity at equal diversity": summary(gain_at_equal(curve, kept=1)),
            "dominated area": summary(dominated_area(curve, corner)),
        }
    return found


def chosen(planes: Mapping[str, Tensor], arms: Iterable[Arm]) -> dict[str, str]:
    """The arm of each knob that the rule above chooses by these planes; a knob whose every arm loses has none."""
    best: dict[str, tuple[float, str]] = {}
    for arm in arms:
        if arm.name not in planes:
            continue
        fidelity, diversity = planes[arm.name][0].tolist()
        if fidelity >= 0 and diversity > best.get(arm.knob, (0.0, ""))[0]:
            best[arm.knob] = (diversity, arm.name)
    return {knob: name for knob, (_, name) in best.items()}


def numbers_of(
    found: Mapping[str, Mapping[str, Estimate]], arms: Sequence[Arm]
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Every arm's measures and changes from its plain model as JSON, and the planes of the arms that are not plain."""
    rows, planes = {}, {}
    for arm in arms:
        rows[arm.name] = {"knob": arm.knob, "strength": arm.strength, "measures": as_numbers(found[arm.name])}
        plain = plain_of(arm, arms)
        if arm != plain:
            changes = changes_of(found[arm.name], found[plain.name])
            rows[arm.name]["changes"] = as_numbers(changes)
            planes[arm.name] = plane_of(changes)
    return rows, planes


def for_imagenet(which: str, arms: Iterable[Arm], picked: Iterable[str]) -> frozenset[str]:
    """The names of the arms that the ImageNet network looks at: of the headline, the plain model, γ and the chosen."""
    if which == "none":
        return frozenset()
    headline = {PLAIN.knob, "γ"}
    names = {
        arm.name for arm in arms if which == "all" or (arm.knob.partition(",")[0] in headline and "," not in arm.knob)
    }
    return frozenset(names | set(picked))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_data_option(parser)
    parser.add_argument("--early", type=expand_path, help="the early checkpoint that lab.testbed.draw had")
    parser.add_argument("--judges", type=expand_path, default=MODEL_FILE.parent, help="folder of the classifiers")
    parser.add_argument("--folder", type=expand_path, default=FOLDER, help="where samples are kept")
    parser.add_argument("--count", type=int, default=COUNT, help=f"samples of each arm (default {COUNT})")
    parser.add_argument("--choice-count", type=int, default=CHOICE_COUNT, help="the same for the choice of strengths")
    parser.add_argument("--processes", type=int, default=2, help="of one thread each (default 2)")
    parser.add_argument("--imagenet", choices=IMAGENET, default="headline", help="arms that the ImageNet network sees")
    parser.add_argument("--output", type=expand_path, help="default: numbers.json, or numbers-dit.json and so on")
    options = parse_with_network(parser)
    network = NETWORKS[options.network]
    output, everything = options.output or network.numbers, network.arms
    data = options.data or download()
    eyes = Eyes(options.judges)
    parts = {FIRST_CHOICE_SEED: ("validation", options.choice_count), 0: ("test", options.count)}
    planes: dict[int, dict[str, Tensor]] = {}
    rows: dict[str, Any] = {}
    photographed: frozenset[str] = frozenset()
    for first, (part, count) in parts.items():
        source = Source(options.model, options.early, options.folder, first)
        arms = [arm for arm in everything if source.file(arm).exists()]
        reference = Reference(data, part, count, options.folder, eyes)
        found = measure_arms(source, arms, reference, options.processes, photographed)
        rows, planes[first] = numbers_of(found, arms)
        photographed = for_imagenet(options.imagenet, everything, chosen(planes[first], everything).values())
    picked = chosen(planes[FIRST_CHOICE_SEED], everything)
    reported = {
        knob: dict(zip(AXES, map(summary, planes[0][name].mT), strict=True)) | {"arm": name}
        for knob, name in picked.items()
    }
    numbers = {
        "count": options.count,
        "arms": rows,
        "knobs": of_knobs(planes[0], everything, network.guidance),
        "chosen": reported,
    }
    write_json(output, numbers)
    print(f"Written: {output}")


if __name__ == "__main__":
    main()
