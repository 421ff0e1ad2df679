"""The networks whose arms are drawn: the file of each, its guidance and its arms."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lab.folders import expand_path
from lab.testbed.arms import GUIDANCE, Arm, all_arms, twin_arms
from lab.testbed.dit_arms import DIT_GUIDANCE, dit_arms
from lab.testbed.model import holds_dit
from lab.testbed.second_pass import with_second_pass
from lab.testbed.shape import DIT_FILE, MODEL_FILE, TWIN_FILE
from lab.testbed.twin_file import restore


@dataclass(frozen=True)
class Network:
    """A trained network of the test bed.

    Attributes:
        file: of its weights.
        guidance: of the arms that do not turn it.
        arms: all of them, in the order of drawing; those of the second pass come last.
        numbers: the file of what `lab.testbed.results` finds.
    """

    file: Path
    guidance: float
    arms: tuple[Arm, ...]
    numbers: Path


def _network(name: str, file: Path, guidance: float, arms: tuple[Arm, ...]) -> Network:
    numbers = "numbers.json" if name == "unet" else f"numbers-{name}.json"
    return Network(file, guidance, with_second_pass(name, arms), MODEL_FILE.with_name(numbers))


NETWORKS = {
    "unet": _network("unet", MODEL_FILE, GUIDANCE, all_arms()),
    "dit": _network("dit", DIT_FILE, DIT_GUIDANCE, dit_arms()),
    "twin": _network("twin", TWIN_FILE, 1.0, twin_arms()),
}


def named(names: Sequence[str]) -> list[Arm]:
    """Arms of the UNet by name."""
    by_name = {arm.name: arm for arm in NETWORKS["unet"].arms}
    return [by_name[name] for name in names]


def weights_of(network: Network) -> Path:
    """The file of a network's weights. The twin's is made from its difference where it is missing."""
    return restore() if network.file == TWIN_FILE else network.file


def parse_with_network(parser: ArgumentParser) -> Namespace:
    """The options of a command with `--network`, the name of one of NETWORKS, and `--model`, the file of its weights.

    A file that is not there or holds the other architecture ends the command with a sentence.
    """
    parser.add_argument("--network", choices=list(NETWORKS), default="unet", help="whose arms (default unet)")
    parser.add_argument("--model", type=expand_path, help="file of its weights (default: that of the network)")
    options = parser.parse_args()
    options.model = options.model or NETWORKS[options.network].file
    if options.model == NETWORKS[options.network].file:
        weights_of(NETWORKS[options.network])
    if not options.model.is_file():
        parser.error(f"{options.model} is not there. Train the network first, or name its file with --model.")
    if holds_dit(options.model) != (options.network == "dit"):
        held = "the DiT" if holds_dit(options.model) else "a UNet"
        parser.error(f"{options.model} holds {held}, whose arms are not those of --network {options.network}.")
    return options
