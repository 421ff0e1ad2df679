"""The servers of the campaign: the pack, and nodes that look and that fail."""

from __future__ import annotations

import sys
from pathlib import Path

from lab.demo.comfyui_server import PACKS, ComfyUIServer
from lab.testing.hosts import find_host

NODES = {"symmetric-attention-campaign": Path(__file__).parent / "server_nodes"}


def start(patience: float = 900.0) -> ComfyUIServer:
    """A server that was not started yet, for a `with`.

    Raises:
        SystemExit: there is no ComfyUI.
    """
    host = find_host()
    if host is None:
        sys.exit("This part needs a ComfyUI: set COMFYUI_PATH to its folder.")
    return ComfyUIServer(host, sys.executable, packs={**PACKS, **NODES}, patience=patience)
