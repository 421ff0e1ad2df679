"""The log, texts on nodes, events and routes of the browser (server.py of ComfyUI); without a server only the log."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

log = logging.getLogger("symmetric_attention")
Answer = Callable[[Mapping[str, Any]], Any]


def log_and_show(text: str, node_id: str | None, warning: bool = False) -> None:
    """Write `text` to the log and show it on the node `node_id`."""
    log.log(logging.WARNING if warning else logging.INFO, "Skew Attention (SAD): %s", text)
    show_on_node(text, node_id)


def show_on_node(text: str, node_id: str | None) -> None:
    """Show `text` on the node `node_id`, in the browser that queued the prompt.

    Whatever goes wrong on the way to a browser stays in the log. A run is described after its image is made, or while
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
def log_exceptions(what: str) -> Iterator[None]:
    """Log errors of the block after the words `what` and go on: for the description of a run in a `finally`.

    A finished image must not get lost over its description, and the sampler's own error must not hide behind ours.
    """
    try:
        yield
    except Exception:
        log.exception("Symmetric Attention (SAD): %s", what)


def send_event(event: str, message: Mapping[str, Any], to_all: bool = False) -> None:
    """Send an event to browsers; what goes wrong on the way stays in the log, as in `show_on_node`.

    Args:
        event: its name, for `api.addEventListener` in web/.
        message: what JSON can hold. Browsers do not accept NaN.
        to_all: to every open page, not only the one that queued the prompt.
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


def nodes_of_prompt(asked: Mapping[str, Any]) -> dict[str, Any]:
    """Return which nodes are in a prompt that runs or has ended, and the graph in the editor that it was queued from.

    Args:
        asked: the id of the prompt, as `prompt`.

    Returns:
        `nodes`, the ids, empty where the prompt is not known; and `workflow`, None where a script queued it.
    """
    try:
        queue, prompt_id = _server().prompt_queue, str(asked.get("prompt"))
        items = [*queue.get_current_queue_volatile()[0], *(e["prompt"] for e in queue.get_history(prompt_id).values())]
        nodes, more = next((item[2], item[3]) for item in items if item[1] == prompt_id)
        workflow = more.get("extra_pnginfo", {}).get("workflow", {}).get("id")
        return {"nodes": list(nodes), "workflow": workflow}
    except Exception:
        log.debug("the nodes of a prompt could not be found", exc_info=True)
        return {"nodes": [], "workflow": None}


def serve(path: str, answer: Answer) -> None:
    """Answer POST requests at `path`: a JSON object in, what `answer` makes of it out, as JSON.

    Without a server, or where it cannot be had, the nodes work and their charts stay empty.
    """
    try:
        from aiohttp import web
        from server import PromptServer

        routes = PromptServer.instance.routes
    except Exception:
        log.debug("%s is not served", path, exc_info=True)
        return

    async def handle(request: Any) -> Any:
        try:
            asked = json.loads(await request.text())
        except (ValueError, RecursionError):
            asked = None
        if not isinstance(asked, dict):
            return web.json_response({"error": "Send a JSON object."}, status=400)
        return web.json_response(answer(asked))

    routes.post(path)(handle)


def _server() -> Any:
    from server import PromptServer

    return PromptServer.instance
