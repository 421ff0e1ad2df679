"""The command that makes each committed picture, and its requirements. Needs only the standard library.

docs/figures.md is written from this table by `python -m lab.generate.figures_page`.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

NODES = (
    *("SADSkewAttention", "SADGammaSchedule", "SADReport", "SADGammaSweep", "SADGammaGrid"),
    *("SADStabilityProbe", "SADStabilityPlot", "SADSaveStabilityTrace", "SADLoadStabilityTrace", "SADDiversityReport"),
    *("SADStabilityBaseline", "SADSaveStabilityBaseline", "SADLoadStabilityBaseline", "SADStabilityFeedback"),
    *("SADBestOfSampler", "SADDemoModel", "SADCalibrate", "SADCreativity"),
    "SADMeasureCheckpoint",
)
WORKFLOWS = (
    *("01_start_here_without_a_checkpoint", "02_compare_gamma_with_the_plain_model", "03_turn_gamma_with_a_schedule"),
    *("04_five_gammas_in_one_picture", "05_measure_diversity_over_gammas", "06_see_the_schedule_and_the_stability"),
    *("07_let_gamma_follow_stability", "08_finish_the_best_of_eight_seeds", "09_try_seeds_until_one_is_stable"),
    *("10_compare_adaptive_with_static_gamma", "11_image_to_image_in_two_passes", "12_z_image_turbo_four_seeds"),
    *("13_stable_audio", "14_calibrate_a_slider", "15_do_the_seeds_of_a_turbo_model_differ"),
    *("16_measure_your_checkpoint", "17_measure_your_z_image_or_flux"),
)
TEST_BED = Path(__file__).parents[1] / "testbed"
NUMBERS = {"unet": "numbers.json", "dit": "numbers-dit.json", "twin": "numbers-twin.json"}
LEAST_SETTINGS = 60  # of a network that has pictures; fewer leave out whole methods


def pictured() -> tuple[str, ...]:
    """The networks of the test bed of which enough settings were measured for a picture."""
    found = {name: TEST_BED / file for name, file in NUMBERS.items() if (TEST_BED / file).exists()}
    count = {name: len(json.loads(path.read_text(encoding="utf-8"))["arms"]) for name, path in found.items()}
    return tuple(name for name in found if count[name] >= LEAST_SETTINGS)


HOST, BROWSER = "a ComfyUI", "chromium"


@dataclass(frozen=True)
class Maker:
    """A command and the pictures it writes.

    Attributes:
        name: what `python -m lab.figures` calls it.
        command: what comes after `python -m`, to be run from the root.
        pictures: paths below the root.
        needs: what has to be on the machine besides the Python packages of the tests.
        minutes: about how long it takes on two cores.
    """

    name: str
    command: str
    pictures: tuple[str, ...]
    needs: tuple[str, ...] = ()
    minutes: int = 1

    @property
    def module(self) -> str:
        """The module that is run."""
        return self.command.partition(" ")[0]


MAKERS = (
    Maker("emblem", "lab.figures.emblem", ("docs/images/banner.png", "docs/images/icon.png")),
    Maker(
        "sweep",
        "lab.demo.gamma_sweep --output docs/images/gamma_sweep.png",
        ("docs/images/gamma_sweep.png",),
        minutes=3,
    ),
    Maker("samples", "lab.demo.contact_sheet", ("lab/demo/samples.png",), minutes=3),
    Maker(
        "evidence",
        "lab.figures.evidence",
        tuple(f"docs/images/evidence_{name}.png" for name in ("gamma", "pictures", "plane")),
        minutes=5,
    ),
    Maker(
        "frontier",
        "lab.testbed.pages",
        tuple(f"docs/images/evidence_{name}_{network}.png" for network in pictured() for name in ("frontier", "seeds")),
        (HOST,),
    ),
    Maker(
        "stability",
        "lab.figures.stability",
        tuple(
            f"docs/images/stability_{name}.png" for name in ("difference", "gamma_0.5", "gamma_1", "gamma_1.5", "map")
        ),
        (HOST,),
        minutes=2,
    ),
    Maker(
        "tour",
        "lab.figures.tour",
        (
            *(f"docs/images/tour_{name}.jpg" for name in ("help", "search", "sweep")),
            *(f"web/docs/images/{node}.jpg" for node in NODES),
            "web/docs/images/diversity_report.png",
        ),
        (HOST, BROWSER),
        minutes=5,
    ),
    Maker(
        "workflows",
        "lab.generate.template_cards",
        (*(f"workflows/{name}.jpg" for name in WORKFLOWS), "docs/images/tour_templates.jpg"),
        (HOST,),
        minutes=2,
    ),
)
