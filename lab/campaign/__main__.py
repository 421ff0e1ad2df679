"""One part of the campaign: `python -m lab.campaign PART [--runs N] [--seconds S] [--seed FIRST]`.

A round with the same seed does the same again, so `--runs 1 --seed N` repeats one. Ends with 1 where there is a fault.
"""

from __future__ import annotations

import argparse
import gc
import importlib
import sys

from lab.campaign.ledger import Budget
from lab.testing.hosts import find_host
from lab.testing.in_process_host import pack_in_host

# The module of each part, how many rounds docs/develop.md reports, and what a round is.
PARTS = {
    "queue": ("queue_runs", 100, "a prompt through one server: patched, plain, cancelled, failing, unloaded"),
    "graphs": ("random_graphs", 500, "a random pile of neighbour nodes, held to the definition"),
    "memory": ("out_of_memory", 20, "a graph in which each allocation of ours fails once"),
    "kill": ("killed_server", 10, "a server that is killed while it samples and saves, and started again"),
    "files": ("hostile_files", 2000, "a damaged or hostile file for each kind that the pack reads"),
    "inputs": ("bad_inputs", 1, "all bad inputs of the nodes, and texts of any characters, over POST /prompt"),
}
IN_PROCESS = ("graphs", "memory")  # parts that load ComfyUI and the pack themselves


def main() -> int:
    parts = "\n".join(f"  {name:8}{count:6} × {what}" for name, (_, count, what) in PARTS.items())
    parser = argparse.ArgumentParser(
        description=f"{__doc__}\n\nParts, with the rounds of a whole campaign:\n{parts}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("part", choices=PARTS)
    parser.add_argument("--runs", type=int, help="rounds; by default those of a whole campaign")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="begin no round after so many seconds")
    parser.add_argument("--seed", type=int, default=0, help="of the first round")
    options = parser.parse_args()
    module, runs, _ = PARTS[options.part]
    budget = Budget(runs if options.runs is None else options.runs, options.seconds, options.seed)
    if options.part in IN_PROCESS:
        host = find_host()
        if host is None:
            sys.exit("This part needs a ComfyUI: set COMFYUI_PATH to its folder.")
        pack_in_host(host)
    run = importlib.import_module(f"lab.campaign.{module}").run
    # The host collects garbage before a run; a million objects of what is imported would cost more than the run.
    gc.collect()
    gc.freeze()
    ledger = run(budget)
    print(ledger.describe())
    return 1 if ledger.faults else 0


if __name__ == "__main__":
    sys.exit(main())
