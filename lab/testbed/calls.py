"""The number of times that an arm runs the model for one sample, counted in ComfyUI: what an arm costs anywhere.

    python -m lab.testbed.calls                     # of every arm; writes calls.json. Three minutes on a core
    python -m lab.testbed.calls --network twin

Two passes of classifier-free guidance are two calls. The numbers follow from the arm, not from the weights or the seed.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from lab.testbed.networks import NETWORKS, parse_with_network
from lab.testing.hosts import find_host
from lab.testing.in_process_host import pack_in_host
from sad_core.whole_file import whole_file

CALLS = Path(__file__).with_name("calls.json")


def kept_calls(path: Path = CALLS) -> dict[str, dict[str, int]]:
    """The calls by network and by the name of the arm, as far as they were counted."""
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def count_calls(network: str, model: Path) -> dict[str, int]:
    """The calls of each arm of a network by name. ComfyUI and the pack are loaded already."""
    from lab.testbed.in_comfyui import draw_latents, load_bed

    bed = load_bed(model, model)
    found = {}
    for arm in NETWORKS[network].arms:
        bed.rows = 0
        draw_latents(bed, arm, [0])
        found[arm.name] = bed.rows
        print(f"{arm.name}: {bed.rows} calls", flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options = parse_with_network(parser)
    host = find_host()
    if host is None:
        parser.error("The arms are run in a ComfyUI, and none was found. Name its folder in COMFYUI_PATH.")
    pack_in_host(host)
    found = kept_calls() | {options.network: count_calls(options.network, options.model)}
    with whole_file(CALLS) as unfinished:
        unfinished.write_text(json.dumps(found, indent=1, ensure_ascii=False, sort_keys=True) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
