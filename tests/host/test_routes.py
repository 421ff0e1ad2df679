"""The server answers the requests of the scripts in web/. A server that cannot answer costs nothing."""

from __future__ import annotations

import asyncio
import json
import sys
import types

import pytest
from aiohttp import web
from symmetric_attention.nodes import SymmetricAttentionExtension
from symmetric_attention.nodes.host.browser import nodes_of_prompt, serve


@pytest.fixture
def routes(monkeypatch) -> web.RouteTableDef:
    """The routes of a ComfyUI server that is about to start."""
    found = web.RouteTableDef()
    instance = types.SimpleNamespace(routes=found)
    monkeypatch.setitem(
        sys.modules, "server", types.SimpleNamespace(PromptServer=types.SimpleNamespace(instance=instance))
    )
    return found


def ask(route, text: str) -> tuple[int, object]:
    """Status and content of the answer to a request with this body."""

    async def body() -> str:
        return text

    answer = asyncio.run(route.handler(types.SimpleNamespace(text=body)))
    return answer.status, json.loads(answer.text)


def test_a_json_object_is_answered_and_anything_else_refused(routes):
    serve("/here", lambda asked: {"got": asked["what"]})
    (route,) = routes
    assert (route.method, route.path) == ("POST", "/here")
    assert ask(route, '{"what": "γ"}') == (200, {"got": "γ"})
    for wrong in ("", "{", "[1]", "7"):
        assert ask(route, wrong) == (400, {"error": "Send a JSON object."})


def test_the_pack_opens_its_doors_when_it_is_loaded(routes):
    asyncio.run(SymmetricAttentionExtension().on_load())
    stability, curve, prompt = routes
    assert (stability.path, curve.path) == ("/symmetric_attention/stability", "/symmetric_attention/gamma_curve")
    assert prompt.path == "/symmetric_attention/prompt"
    assert ask(prompt, '{"prompt": "of nobody"}') == (200, {"nodes": [], "workflow": None})
    assert ask(stability, '{"workflow": "of nobody"}') == (200, [])
    widgets = '{"widgets": {"shape": "constant", "start_gamma": 1.5}, "wired": []}'
    assert ask(curve, widgets) == (200, {"points": [[0.0, 1.5], [1.0, 1.5]]})


def test_the_nodes_of_a_prompt_are_found_while_it_runs_and_afterwards(routes):
    more = {"extra_pnginfo": {"workflow": {"id": "of a page"}}}
    running, ended = (1, "runs", {"3": {}, "5:2": {}}, more, []), (0, "ended", {"4": {}}, {}, [])
    sys.modules["server"].PromptServer.instance.prompt_queue = types.SimpleNamespace(
        get_current_queue_volatile=lambda: ([running], []),
        get_history=lambda prompt_id: {"ended": {"prompt": ended}} if prompt_id == "ended" else {},
    )
    assert nodes_of_prompt({"prompt": "runs"}) == {"nodes": ["3", "5:2"], "workflow": "of a page"}
    assert nodes_of_prompt({"prompt": "ended"}) == {"nodes": ["4"], "workflow": None}
    for unknown in ({"prompt": "none"}, {}):
        assert nodes_of_prompt(unknown) == {"nodes": [], "workflow": None}


@pytest.mark.parametrize("server", [None, types.SimpleNamespace(PromptServer=types.SimpleNamespace())])
def test_without_a_server_the_pack_loads_all_the_same(monkeypatch, server):
    monkeypatch.setitem(sys.modules, "server", server)
    asyncio.run(SymmetricAttentionExtension().on_load())
