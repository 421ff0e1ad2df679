"""The table of `lab.testing.site_cost`: operations and Python calls at a site, counted in the newest ComfyUI at hand.

python -m lab.benchmarks.operations
"""

from __future__ import annotations

from lab.testing.hosts import find_host
from lab.testing.in_process_host import pack_in_host


def main() -> None:
    host = find_host()
    if host is None:
        raise SystemExit("There is no ComfyUI to count in. Set COMFYUI_PATH to the folder of one.")
    pack_in_host(host)
    from lab.testing.site_cost import table

    print(table())


if __name__ == "__main__":
    main()
