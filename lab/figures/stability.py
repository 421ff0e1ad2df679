"""The stability pictures of the docs: the demo model at three values of γ, measured and drawn by a real ComfyUI.

python -m lab.figures.stability        # writes docs/images/stability_*.png; needs a ComfyUI (see lab/testing/hosts.py)
"""

from __future__ import annotations

import argparse
import sys
from typing import Any

from lab.demo.comfyui_server import ComfyUIServer, interpreter_of
from lab.demo.gamma_sweep import enlarged, workflow
from lab.folders import IMAGES, expand_path
from lab.testing.hosts import find_host

GAMMAS = (0.5, 1.0, 1.5)
CATEGORY, SEED, STEPS = "animals", 4, 20
MAPPED = "output.5.0"  # the last site, on the finest grid


def probed(gamma: float) -> dict[str, dict[str, Any]]:
    """A workflow in API format that samples with `gamma`, measures every site and keeps the trace of `gamma`."""
    nodes = workflow(gamma, CATEGORY, SEED, steps=STEPS)
    del nodes["numbers"]
    nodes["large"] = enlarged(["decode", 0], 8)
    nodes["sampler"]["inputs"]["model"] = ["probe", 0]
    nodes["probe"] = {
        "class_type": "SADStabilityProbe",
        "inputs": {"model": ["skew", 0], "blocks": "", "every_nth_step": 1, "depth_and_curvature": True}
        | {"patterns": "value", "map_site": MAPPED},
    }
    return nodes


def plotted(nodes: dict[str, dict[str, Any]], name: str, layout: str = "heat map", **inputs: object) -> None:
    """Add a plot to `nodes` that is saved under `name`."""
    nodes[f"plot {name}"] = {
        "class_type": "SADStabilityPlot",
        "inputs": {"trace": ["probe", 1], "after": ["large", 0], "layout": layout, "passes": "both", "site": ""}
        | inputs,
    }
    nodes[name] = {
        "class_type": "SaveImage",
        "inputs": {"images": [f"plot {name}", 0], "filename_prefix": name},
    }


def workflows() -> list[dict[str, dict[str, Any]]]:
    """One workflow for each γ; the last also draws the difference from γ = 1 and the map over its picture."""
    found = []
    for gamma in GAMMAS:
        nodes = probed(gamma)
        plotted(nodes, f"stability_gamma_{gamma:g}")
        found.append(nodes)
    plain = {f"plain {name}": node for name, node in probed(1.0).items()}
    for node in plain.values():
        for name, value in node["inputs"].items():
            if isinstance(value, list):
                node["inputs"][name] = [f"plain {value[0]}", value[1]]
    last = found[-1] | plain
    # The difference must not be drawn before the second run is done, so its trace takes the way through a file.
    last["plain file"] = {
        "class_type": "SADSaveStabilityTrace",
        "inputs": {"trace": ["plain probe", 1], "after": ["plain sampler", 0]}
        | {"filename_prefix": "plain", "format": "trace"},
    }
    last["plain trace"] = {"class_type": "SADLoadStabilityTrace", "inputs": {"file": ["plain file", 0]}}
    plotted(last, "stability_difference", "difference", compare_with=["plain trace", 0])
    plotted(last, "stability_map", "map", site=MAPPED)
    found[-1] = last
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--comfyui", type=expand_path, help="a ComfyUI folder (default: the host of the tests)")
    parser.add_argument("--folder", type=expand_path, default=IMAGES, help="where to write them (default docs/images)")
    options = parser.parse_args()
    comfyui = options.comfyui or find_host()
    if comfyui is None:
        sys.exit("No ComfyUI on this machine; set COMFYUI_PATH.")
    with ComfyUIServer(comfyui, interpreter_of(comfyui)) as server:
        for nodes in workflows():
            for name, shown in server.run(nodes).items():
                if name.startswith("stability_"):
                    path = options.folder / f"{name}.png"
                    path.write_bytes(server.download(shown["images"][0]["filename"]))
                    print(path, flush=True)


if __name__ == "__main__":
    main()
