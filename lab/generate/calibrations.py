"""Writes calibrations/*.calibration.json: the sliders of the models that the project has measured itself.

    python -m lab.generate.calibrations         # the demo model; some minutes on one core

For every γ and every category, as a prompt of its own, the same seeds are drawn in a ComfyUI of this process, and
measured as *Measure Your Checkpoint* measures several prompts: pairs of images within each prompt. No other number of
the project comes from these seeds. *Creativity (SAD)* finds the file by the weights of the MODEL.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from lab.folders import ROOT
from lab.testing.hosts import find_host
from lab.testing.in_process_host import pack_in_host

FILE = ROOT / "calibrations" / "sad_demo_emoji.calibration.json"
GAMMAS = (0.5, 0.8, 1.0, 1.2, 1.5, 2.0)
FIRST_SEED, SEEDS = 4_000_000, 24  # of each category
LARGEST_DRIFT = 0.3
STEPS, GUIDANCE = 25, 2.0  # as in the template of the demo model


@torch.no_grad()
def write(path: Path, host: Path, seeds: int = SEEDS, steps: int = STEPS) -> None:
    """Write the calibration of the demo model."""
    pack_in_host(host)
    import comfy.samplers
    from symmetric_attention.nodes.demo_model import DemoModelNode
    from symmetric_attention.nodes.host.apply import install_skew_attention
    from symmetric_attention.nodes.host.checkpoint import numbers_of
    from symmetric_attention.nodes.host.patches.site_patch import model_name
    from symmetric_attention.nodes.host.settings import SkewSettings
    from symmetric_attention.sad_core import GammaSchedule
    from symmetric_attention.sad_core.evaluation.calibration import Calibration
    from symmetric_attention.sad_core.evaluation.calibration_file import save_calibration
    from symmetric_attention.sad_core.evaluation.measures import PIXELS, DiversityReport, LookedAt, measure_set

    from demo_model.shape import CATEGORIES
    from lab.demo.sampling import seed_noise

    def images_of(gamma: float, category: str) -> list[Any]:
        """ComfyUI's images of all seeds, (32, 32, 3) each."""
        model, positive, negative, vae, _ = DemoModelNode.execute(category).args
        settings = SkewSettings(GammaSchedule.from_preset("constant", gamma))
        guider = comfy.samplers.CFGGuider(install_skew_attention(model, settings)[0])
        guider.set_conds(positive, negative)
        guider.set_cfg(GUIDANCE)
        noise = torch.cat([seed_noise(seed) for seed in range(FIRST_SEED, FIRST_SEED + seeds)])
        sigmas = comfy.samplers.calculate_sigmas(model.get_model_object("model_sampling"), "simple", steps)
        sampler = comfy.samplers.ksampler("euler")
        latents = guider.sample(noise, torch.zeros_like(noise), sampler, sigmas, disable_pbar=True, seed=0)
        print(f"γ {gamma:g}, {category}: {len(latents)} images", flush=True)
        return list(vae.decode(latents).unbind())

    prompts = [place for place in range(len(CATEGORIES)) for _ in range(seeds)]
    looked = {}
    for gamma in GAMMAS:
        images = [image for category in CATEGORIES for image in images_of(gamma, category)]
        looked[gamma] = LookedAt.of(images, prompts, PIXELS)
    rows = tuple(measure_set(gamma, found, looked[1.0], PIXELS) for gamma, found in looked.items())
    model = DemoModelNode.execute().args[0]
    known = {"model": model_name(model.model), "weights": numbers_of(model)}
    save_calibration(Calibration.of(DiversityReport(rows, PIXELS), LARGEST_DRIFT, **known), path)


def main() -> None:
    host = find_host()
    if host is None:
        raise SystemExit("The pictures are drawn in a ComfyUI, and none was found. Name its folder in COMFYUI_PATH.")
    torch.set_num_threads(1)
    write(FILE, host)
    print(f"Written: {FILE}")


if __name__ == "__main__":
    main()
