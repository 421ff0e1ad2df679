"""The numbers of the test bed: of every arm, of every knob's curve, and of the strengths that other seeds chose.

    python -m lab.testbed.results                   # after lab.testbed.draw; writes numbers.json
    python -m lab.testbed.results --processes 16    # as many arms at a time; each takes about ten seconds of a core
    python -m lab.testbed.results --add             # keep the numbers of the arms that are not drawn here

Seeds 0, 1, 2 ... are reported. The strength of a knob is chosen on the seeds from `FIRST_CHOICE_SEED` on, against the
validation part, by the rule that is written down here before anything is drawn: of the arms whose fidelity is no worse
than the plain model's, the one with the largest gain in diversity. Only its two numbers on the reported seeds are said.
The best rival by the same rule is written to best_rivals.json. γ on top of it is drawn and measured in a second pass.
"""

from __future__ import annotations

import argparse
import json
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from lab.evidence.bootstrap import Estimate
from lab.folders import expand_path
from lab.testbed.arms import PLAIN, Arm, plain_of
from lab.testbed.comparisons import ON_TOP, Pair, best_of, is_rival, pairs
from lab.testbed.data import add_data_option, download
from lab.testbed.draw import COUNT, FOLDER, Source
from lab.testbed.features import Eyes
from lab.testbed.frontier import curve_of, dominated_area, gain_at_equal, neutral_of
from lab.testbed.gates import CHOICE_COUNT, FIRST_CHOICE_SEED
from lab.testbed.measured import Reference, everything_of, measure_arms, some_of
from lab.testbed.networks import NETWORKS, parse_with_network
from lab.testbed.scores import DIVERSITY, FIDELITY, as_changes, as_numbers, better, imagenet_score, scores
from lab.testbed.second_pass import best_rivals, write_best_rival
from lab.testbed.shape import MODEL_FILE
from lab.testbed.slices import SLICED, slice_of
from sad_core.whole_file import whole_file

AXES = (FIDELITY, DIVERSITY)
IMAGENET = ("none", "headline", "all")
OF_THE_BEST = (4, 9)  # the questions about the best of ours


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


def of_knobs(
    planes: Mapping[str, Tensor], arms: Sequence[Arm], guidance: float, corner: Tensor | None = None
) -> dict[str, dict[str, list[float]]]:
    """The three numbers of each knob's curve, by name; see `frontier`.

    Args:
        planes: of the arms.
        arms: every arm of the network.
        guidance: of the plain model.
        corner: (2,), what areas are measured from; None takes the worst of all changes.
    """
    by_knob: dict[str, list[Arm]] = defaultdict(list)
    for arm in arms:
        if arm.name in planes:
            by_knob[arm.knob].append(arm)
    if corner is None:
        corner = torch.stack([plane[0] for plane in planes.values()]).amin(dim=0).clamp(max=0)
    found = {}
    for knob, members in by_knob.items():
        changes = torch.stack([planes[arm.name] for arm in members], dim=-2)
        curve = curve_of([arm.strength for arm in members], changes, neutral_of(knob, guidance))
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
    found: Mapping[str, Mapping[str, Estimate]], arms: Sequence[Arm], many: int
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Every arm's measures and changes from its plain model as JSON, and the planes of the arms that are not plain.

    The correction of Bonferroni is that for `many` arms: all that a network has, drawn or not.
    """
    rows: dict[str, Any] = {}
    planes: dict[str, Tensor] = {}
    for arm in arms:
        rows[arm.name] = {"knob": arm.knob, "strength": arm.strength, "measures": as_numbers(found[arm.name])}
        plain = plain_of(arm, arms)
        if arm != plain:
            changes = changes_of(found[arm.name], found[plain.name])
            rows[arm.name]["changes"] = as_changes(changes, many)
            planes[arm.name] = plane_of(changes)
    return rows, planes


def of_pairs(pairs: Iterable[Pair], found: Mapping[str, Mapping[str, Estimate]], many: int) -> list[dict[str, Any]]:
    """The change from one arm of a pair to the other, as JSON; pairs of arms that were not measured are left out."""
    return [
        {"question": pair.question, "arm": pair.arm, "against": pair.against}
        | {"changes": as_changes(changes_of(found[pair.arm], found[pair.against]), many)}
        for pair in pairs
        if pair.arm in found and pair.against in found
    ]


def for_imagenet(which: str, arms: Iterable[Arm], picked: Iterable[str]) -> frozenset[str]:
    """The names of the arms that the ImageNet network looks at: of the headline, the plain model, γ and the chosen."""
    if which == "none":
        return frozenset()
    headline = {PLAIN.knob, "γ"}
    names = {
        arm.name for arm in arms if which == "all" or (arm.knob.partition(",")[0] in headline and "," not in arm.knob)
    }
    return frozenset(names | set(picked))


def of_floor(floor: Reference, reference: Reference, imagenet: bool) -> dict[str, Estimate]:
    """The measures of real images that no model drew, by the ImageNet network too where that is wanted."""
    found = scores(some_of(floor), some_of(reference), everything_of(reference))
    if imagenet:
        found["imagenet"] = imagenet_score(some_of(floor, imagenet=True), some_of(reference, imagenet=True))
    return found


def corner_of(numbers: Mapping[str, Any]) -> Tensor:
    """(2,): what the areas of these numbers are measured from, the worst of all changes."""
    rows = [row["changes"] for row in numbers["arms"].values() if "changes" in row]
    values = [[float(better(name, row[name][0])) for name in AXES] for row in rows]
    return torch.tensor([[0.0, 0.0], *values], dtype=torch.float64).amin(dim=0)


def added(kept: Mapping[str, Any], new: Mapping[str, Any], everything: Sequence[Arm]) -> dict[str, Any]:
    """The numbers of a network with those of arms that were drawn later; the later ones count where both are there.

    What is said of a knob as a whole stays as it was unless all its known arms are among the new ones.

    Raises:
        ValueError: another number of seeds, or another guidance.
    """
    for what in ("count", "choice count", "guidance"):
        if kept[what] != new[what]:
            raise ValueError(
                f"{what}: {new[what]} was given, and the numbers that are added to have {kept[what]}. Take the same."
            )
    rows = {**kept["arms"], **new["arms"]}
    whole = {
        arm.knob for arm in everything
        if all(each.name in new["arms"] or each.name not in rows for each in everything if each.knob == arm.knob)
    }  # fmt: skip
    # The best of ours, which questions 4 and 9 are about, was chosen among all arms that were drawn first.
    asked = [pair for pair in new["pairs"] if pair["question"] not in OF_THE_BEST or not kept["pairs"]]
    of_pair = {(pair["question"], pair["arm"], pair["against"]): pair for pair in (*kept["pairs"], *asked)}
    later = {name: {knob: row for knob, row in new[name].items() if knob in whole} for name in ("knobs", "chosen")}
    return {
        **new,
        "floor": {**new["floor"], **kept["floor"]},
        "arms": {arm.name: rows[arm.name] for arm in everything if arm.name in rows},
        "knobs": kept["knobs"] | later["knobs"],
        "chosen": {knob: row for knob, row in kept["chosen"].items() if knob not in whole} | later["chosen"],
        "pairs": sorted(of_pair.values(), key=lambda pair: pair["question"]),
        "slice": {**kept["slice"], **new["slice"]},
    }


def write_numbers(path: Path, numbers: Mapping[str, Any]) -> None:
    """Write JSON with one measure a line, so that a diff can be read."""
    text = json.dumps(numbers, indent=1, ensure_ascii=False)
    lists = re.compile(r"\[\s+([^\[\]{}\"]+?)\s+\]")
    text = lists.sub(lambda found: f"[{', '.join(found[1].replace(',', ' ').split())}]", text)
    with whole_file(path) as unfinished:
        unfinished.write_text(text + "\n", encoding="utf-8")


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
    parser.add_argument("--add", action="store_true", help="keep the numbers of arms that are not drawn here")
    options = parse_with_network(parser)
    network = NETWORKS[options.network]
    output, everything = options.output or network.numbers, network.arms
    kept = json.loads(output.read_text(encoding="utf-8")) if options.add and output.exists() else None
    data = options.data or download()
    eyes = Eyes(options.judges)
    parts = {FIRST_CHOICE_SEED: ("validation", options.choice_count), 0: ("test", options.count)}
    planes: dict[int, dict[str, Tensor]] = {}
    rows: dict[str, Any] = {}
    asked: tuple[Pair, ...] = ()
    photographed: frozenset[str] = frozenset()
    for first, (part, count) in parts.items():
        source = Source(options.model, options.early, options.folder, first)
        arms = [arm for arm in everything if source.file(arm).exists()]
        reference = Reference(data, part, count, options.folder, eyes)
        found = measure_arms(source, arms, reference, options.processes, photographed)
        rows, planes[first] = numbers_of(found, arms, len(everything))
        if first == FIRST_CHOICE_SEED:
            picked = chosen(planes[first], everything)
            drifts = {name: each["drift"].value for name, each in found.items() if "drift" in each}
            rival = best_rivals().get(options.network) if kept else None
            asked = tuple(pairs(planes[first], drifts, picked, everything, rival))
            first_pass = [arm for arm in everything if not arm.knob.startswith(ON_TOP)]
            if all(arm in arms or arm.away_from_early for arm in first_pass):
                write_best_rival(options.network, best_of(planes[first], picked, is_rival))
            photographed = for_imagenet(options.imagenet, everything, picked.values())
    floor = replace(reference, part="validation")
    sliced = [arm for arm in arms if arm.name in SLICED]
    reported = {
        knob: dict(zip(AXES, map(summary, planes[0][name].mT), strict=True)) | {"arm": name}
        for knob, name in picked.items()
        if name in planes[0]
    }
    numbers = {
        "count": options.count,
        "choice count": options.choice_count,
        "guidance": network.guidance,
        "floor": as_numbers(of_floor(floor, reference, bool(photographed))),
        "arms": rows,
        "knobs": of_knobs(planes[0], everything, network.guidance, corner_of(kept) if kept else None),
        "chosen": reported,
        "pairs": of_pairs(asked, found, len(everything)),
        "slice": slice_of({arm.name: load_file(source.file(arm))["pixels"] for arm in sliced}, eyes),
    }
    write_numbers(output, added(kept, numbers, everything) if kept else numbers)
    print(f"Written: {output}")


if __name__ == "__main__":
    main()
