"""Which command makes which committed picture, and what it needs. Needs only the standard library.

docs/figures.md is written from this table by `python -m lab.generate.figures_page`.
"""

from __future__ import annotations

from dataclasses import dataclass

NODES = (
    *("SADSkewAttention", "SADGammaSchedule", "SADReport", "SADGammaSweep", "SADGammaGrid"),
    *("SADStabilityProbe", "SADStabilityPlot", "SADSaveStabilityTrace", "SADLoadStabilityTrace", "SADDiversityReport"),
    *("SADStabilityBaseline", "SADSaveStabilityBaseline", "SADLoadStabilityBaseline", "SADStabilityFeedback"),
    "SADBestOfSampler",
    "SADCalibrate",
    "SADCreativity",
)
WORKFLOWS = (
    *("sd15_img2img_two_pass", "sdxl_adaptive_against_static", "sdxl_diversity_report", "sdxl_gamma_sweep"),
    *(
        "sdxl_best_of_n",
        "sdxl_gate",
        "sdxl_schedule_and_stability",
        "sdxl_skew_attention",
        "sdxl_stability_feedback",
        "stable_audio_skew_attention",
        "z_image_turbo_skew_attention",
    ),
)
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
            *(f"docs/images/tour_{name}.jpg" for name in ("help", "search", "sweep", "templates")),
            *(f"web/docs/images/{node}.jpg" for node in NODES),
            "web/docs/images/diversity_report.png",
        ),
        (HOST, BROWSER),
        minutes=5,
    ),
    Maker(
        "workflows",
        "lab.generate.workflows",
        tuple(f"workflows/{name}.jpg" for name in WORKFLOWS),
        (HOST, BROWSER),
        minutes=2,
    ),
)
