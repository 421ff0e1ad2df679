"""Saying things to the log and to the browser (server.py of ComfyUI); without a server only the log is told."""

from __future__ import annotations

import logging

log = logging.getLogger("symmetric_attention")


def tell(text: str, node_id: str | None, warning: bool = False) -> None:
    """Write `text` to the log and show it on the node `node_id`."""
    log.log(logging.WARNING if warning else logging.INFO, "Skew Attention (SAD): %s", text)
    show(text, node_id)


def show(text: str, node_id: str | None) -> None:
    """Show `text` on the node `node_id`, in the browser that queued the prompt."""
    if node_id is None:
        return
    try:
        from server import PromptServer

        server = PromptServer.instance
        server.send_progress_text(text, node_id, sid=server.client_id)
    except (ImportError, AttributeError):
        log.debug("no ComfyUI server to show a text in")
