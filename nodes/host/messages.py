"""Saying things to the log and to the browser (server.py of ComfyUI); without a server only the log is told."""

from __future__ import annotations

import logging

log = logging.getLogger("symmetric_attention")


def tell(text: str, node_id: str | None, warning: bool = False) -> None:
    """Write `text` to the log and show it on the node `node_id`."""
    log.log(logging.WARNING if warning else logging.INFO, "Skew Attention (SAD): %s", text)
    show(text, node_id)


def show(text: str, node_id: str | None) -> None:
    """Show `text` on the node `node_id`, in the browser that queued the prompt.

    Whatever goes wrong on the way to a browser stays in the log: a run is told of after its picture is made, or while
    the sampler's own error is on its way up, and neither may get lost.
    """
    if node_id is None:
        return
    try:
        from server import PromptServer

        server = PromptServer.instance
        server.send_progress_text(text, node_id, sid=server.client_id)
    except Exception:
        log.debug("the text could not be shown in a browser", exc_info=True)
