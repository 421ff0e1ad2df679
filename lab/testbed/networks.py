"""The networks whose arms are drawn: the file of each, the guidance it was given on the validation part, its arms."""

from __future__ import annotations

from argparse import ArgumentParser
from dataclasses import dataclass
from pathlib import Path

from lab.testbed.arms import GUIDANCE, Arm, all_arms, twin_arms
from lab.testbed.dit_arms import DIT_GUIDANCE, dit_arms
from lab.testbed.shape import DIT_FILE, MODEL_FILE, TWIN_FILE


@dataclass(frozen=True)
class Network:
    """A trained network of the test bed.

    Attributes:
        file: of its weights.
        guidance: of the arms that do not turn it.
        arms: all of them, in the order of drawing.
        numbers: the file of what `lab.testbed.results` finds.
    """

    file: Path
    guidance: float
    arms: tuple[Arm, ...]
    numbers: Path


NETWORKS = {
    "unet": Network(MODEL_FILE, GUIDANCE, all_arms(), MODEL_FILE.with_name("numbers.json")),
    "dit": Network(DIT_FILE, DIT_GUIDANCE, dit_arms(), MODEL_FILE.with_name("numbers-dit.json")),
    "twin": Network(TWIN_FILE, 1.0, twin_arms(), MODEL_FILE.with_name("numbers-twin.json")),
}


def add_network_option(parser: ArgumentParser) -> None:
    """Add `--network`, the name of one of NETWORKS."""
    parser.add_argument("--network", choices=list(NETWORKS), default="unet", help="whose arms (default unet)")
