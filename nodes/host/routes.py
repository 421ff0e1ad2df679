"""Questions that the scripts in web/ ask the server."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from .browser import log

Answer = Callable[[Mapping[str, Any]], Any]


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
