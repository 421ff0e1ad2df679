"""Saying things to the log and to the browser (server.py of ComfyUI); without a server only the log is told."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

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
        server = _server()
        server.send_progress_text(text, node_id, sid=server.client_id)
    except Exception:
        log.debug("the text could not be shown in a browser", exc_info=True)


@contextmanager
def only_logged(what: str) -> Iterator[None]:
    """Errors of the block stay in the log, after the words `what`: for telling of a run in a `finally`.

    A finished picture must not get lost over its description, and the sampler's own error must not hide behind ours.
    """
    try:
        yield
    except Exception:
        log.exception("Symmetric Attention (SAD): %s", what)


def send(event: str, message: Mapping[str, Any], to_all: bool = False) -> None:
    """Send an event to browsers; what goes wrong on the way stays in the log, as in `show`.

    Args:
        event: its name, for `api.addEventListener` in web/.
        message: what JSON can hold: no NaN, which browsers refuse.
        to_all: to every open page, and not the one alone that queued the prompt.
    """
    try:
        server = _server()
        server.send_sync(event, message, None if to_all else server.client_id)
    except Exception:
        log.debug("the event %s could not be sent to a browser", event, exc_info=True)


def running_workflow() -> str | None:
    """The id of the graph in the editor that the running prompt was queued from; None where a script queued it."""
    try:
        running, _ = _server().prompt_queue.get_current_queue_volatile()
        workflow = running[0][3].get("extra_pnginfo", {}).get("workflow", {}).get("id")
        return None if workflow is None else str(workflow)
    except Exception:
        log.debug("the graph of the running prompt could not be found", exc_info=True)
        return None


def _server() -> Any:
    from server import PromptServer

    return PromptServer.instance
