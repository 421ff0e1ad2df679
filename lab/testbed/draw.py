"""Draw the samples of the test bed's arms that are missing, in a ComfyUI of each process.

    python -m lab.testbed.draw                              # every arm, 2,000 seeds each, in some seven hours
    python -m lab.testbed.draw --only "γ" CFG --count 200   # the arms of some knobs
    python -m lab.testbed.draw --network dit                # the arms of the second architecture; twin: of the twin
    python -m lab.testbed.draw --device cuda --batch 1000 --processes 1     # on a graphics card

It may be stopped at any moment and goes on from there: what is drawn is kept after each batch.
"""

from __future__ import annotations

import argparse
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, partial
from multiprocessing import get_context
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from demo_model.bands import decode
from lab.folders import cache_folder, expand_path
from lab.testbed.arms import Arm
from lab.testbed.data import crop
from lab.testbed.kept_samples import DRAWN_AT_A_TIME, kept_samples
from lab.testbed.networks import NETWORKS, parse_with_network
from lab.testbed.shape import MODEL_FILE
from lab.testing.hosts import find_host
from lab.testing.in_process_host import pack_in_host

COUNT = 2000
FOLDER = cache_folder() / "testbed-samples"


@dataclass(frozen=True)
class Source:
    """The files that samples come from, the folder that keeps them, and the first of the seeds.

    Samples of other weights or of other seeds lie elsewhere.
    """

    model: Path = MODEL_FILE
    early: Path | None = None
    folder: Path = FOLDER
    first_seed: int = 0

    @property
    def place(self) -> Path:
        """The folder of the samples of this model."""
        return self.folder / f"{hashlib.sha256(self.model.read_bytes()).hexdigest()[:16]}-{self.first_seed}"

    def seeds(self, count: int) -> range:
        """The first `count` seeds."""
        return range(self.first_seed, self.first_seed + count)

    def file(self, arm: Arm) -> Path:
        """The file of the samples of an arm, there or not."""
        weights = hashlib.sha256(self.early.read_bytes()).hexdigest()[:8] if arm.away_from_early and self.early else ""
        return self.place / f"{arm.fingerprint}{weights}.safetensors"


def pictures(source: Source, arm: Arm, seeds: Sequence[int]) -> Tensor:
    """Samples (N, 1, 28, 28) in [0, 1] of an arm, drawn now."""
    from lab.testbed.in_comfyui import draw_latents  # ComfyUI has to be started first

    weights = load_file(source.model)
    latents = draw_latents(_bed(source), arm, seeds)
    return crop(decode(latents, weights["latent_mean"], weights["latent_std"])).clamp(0, 1)


@cache
def _bed(source: Source):  # type: ignore[no-untyped-def]  # its module cannot be imported before ComfyUI is started
    from lab.testbed.in_comfyui import load_bed

    return load_bed(source.model, source.early)


def host_folder() -> Path:
    """The ComfyUI that samples are drawn in; ends the command where there is none."""
    host = find_host()
    if host is None:
        raise SystemExit("Samples are drawn in a ComfyUI, and none was found. Name its folder in COMFYUI_PATH.")
    return host


def draw_arm(arm: Arm, source: Source, count: int, batch: int) -> str:
    """Draw what is missing of an arm's first `count` seeds, `batch` at a time; the name of the arm."""
    kept_samples(source.file(arm), source.seeds(count), partial(pictures, source, arm), arm.name, batch)
    return arm.name


def begin_worker(host: Path, on_cpu: bool) -> None:
    """Start ComfyUI with the pack in this process, which computes with one thread or on a graphics card."""
    torch.set_num_threads(1)
    pack_in_host(host, on_cpu=on_cpu)


def draw(
    source: Source,
    arms: Sequence[Arm],
    count: int,
    host: Path,
    processes: int,
    batch: int = DRAWN_AT_A_TIME,
    on_cpu: bool = True,
) -> None:
    """Draw what is missing of the arms, `processes` of them at a time, in their order."""
    source.place.mkdir(parents=True, exist_ok=True)
    with get_context("spawn").Pool(processes, begin_worker, (host, on_cpu)) as pool:
        drawn = pool.imap_unordered(partial(draw_arm, source=source, count=count, batch=batch), arms)
        for done, name in enumerate(drawn, start=1):
            print(f"{name}: {count} samples; {done} of {len(arms)} arms", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--early", type=expand_path, help="an early checkpoint of it, for autoguidance")
    parser.add_argument("--folder", type=expand_path, default=FOLDER, help="where samples are kept")
    parser.add_argument("--only", nargs="+", metavar="KNOB", help="the arms of these knobs")
    parser.add_argument("--first-seed", type=int, default=0, help="1000000 for the seeds that strengths are chosen on")
    parser.add_argument("--count", type=int, default=COUNT, help=f"samples of each arm (default {COUNT})")
    parser.add_argument("--processes", type=int, default=2, help="of one thread each (default 2)")
    parser.add_argument("--batch", type=int, default=DRAWN_AT_A_TIME, help="samples at a time (default 100)")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    options = parse_with_network(parser)
    network = NETWORKS[options.network]
    arms = [arm for arm in network.arms if not options.only or arm.knob in options.only]
    if not arms:
        knobs = ", ".join(sorted({arm.knob for arm in network.arms}))
        parser.error(f"--only: no arm has the knob {', '.join(options.only)}. The knobs are: {knobs}.")
    host = host_folder()
    source = Source(options.model, options.early, options.folder, options.first_seed)
    if source.early is None:
        arms = [arm for arm in arms if not arm.away_from_early]
    draw(source, arms, options.count, host, options.processes, options.batch, options.device == "cpu")


if __name__ == "__main__":
    main()
