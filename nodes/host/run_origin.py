"""Find the sampling run that made the input of a node.

The handle of a node keeps its last runs, and what is wired to the reader of that handle may come from any of them, or
from none: the sampler can be wired to another model later, and ComfyUI takes unchanged results from its cache. So a run
keeps where it began, its origin: a digest of the node that ran and of everything upstream of it. That says the same as
ComfyUI's own key of a cached result. A run made what is wired to an input if its origin is among the nodes upstream.
"""

from __future__ import annotations

import hashlib
import json
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from ...sad_core import StabilityTrace
from .browser import log

# Nodes that give out a handle. Two of them may be alike in all but their id, and are still two.
HANDLE_GIVERS = frozenset({"SADSkewAttention", "SADStabilityProbe"})


class Prompt(Protocol):
    """The used part of ComfyUI's `DynamicPrompt`: the queued nodes and those created during the run."""

    def has_node(self, node_id: str) -> bool: ...

    def get_node(self, node_id: str) -> Mapping[str, Any]: ...

    def get_parent_node_id(self, node_id: str) -> str | None: ...


@dataclass(frozen=True)
class Origin:
    """The origin of a sampling run.

    Attributes:
        digests: of the node that ran, and of the nodes that made this node while the prompt ran.
        index: which item of a list the node worked on.
    """

    digests: tuple[str, ...]
    index: int | None = None


@dataclass(frozen=True)
class Upstream:
    """The nodes upstream of an input.

    Attributes:
        distances: how many links away each is, by its digest; the nearest where several are alike.
        index: which item of a list the node with the input works on.
    """

    distances: Mapping[str, int]
    index: int | None = None


def not_made_by(node: str) -> str:
    """Return what is said where no run of `node` made what is wired to `after`."""
    return (
        f'The input "after" did not come from a run through {node}. Its sampler used another model, a node in between '
        f"dropped the patch, as merging models does, or the run is no longer kept. Put {node} after any merge of "
        "models, wire its MODEL into that sampler, and change the seed once."
    )


def current_origin() -> Origin | None:
    """Return the origin of a run that begins now; None where ComfyUI runs no node, as in a script."""
    executing = _executing()
    try:
        return None if executing is None else origin_of(*executing)
    except Exception:  # of a value that cannot be written down; a sentence of the report is not worth a run
        log.debug("the place of a run could not be read", exc_info=True)
        return None


def upstream_of_input(name: str) -> Upstream | None:
    """Return what is upstream of the input `name` of the node that runs now; None where that cannot be known."""
    executing = _executing()
    return None if executing is None else upstream_of(*executing, name)


def digest_of_input(name: str) -> str:
    """Return the digest of what is wired to the input `name` of the node that runs now; empty where nothing is known.

    It is the same while nothing upstream changes, in another session too.
    """
    executing = _executing()
    if executing is None:
        return ""
    prompt, node_id, _ = executing
    wired: Any = prompt.get_node(node_id)["inputs"].get(name) if prompt.has_node(node_id) else None
    return f"{_digest(prompt, wired[0], {})} {wired[1]}" if _is_link(wired) else ""


def texts_upstream(name: str) -> set[str]:
    """Return the texts of all widgets upstream of the input `name` of the node that runs now.

    Names of files are among them. Empty where nothing is known.
    """
    executing = _executing()
    if executing is None:
        return set()
    prompt, node_id, _ = executing
    wired: Any = prompt.get_node(node_id)["inputs"].get(name) if prompt.has_node(node_id) else None
    waiting: list[Any] = [wired[0]] if _is_link(wired) else []
    seen = set(waiting)
    found: set[str] = set()
    while waiting:
        node = waiting.pop()
        inputs = prompt.get_node(node)["inputs"] if prompt.has_node(node) else {}
        found.update(text for value in inputs.values() if not _is_link(value) for text in _texts(value))
        fresh = set(_sources(prompt, node)) - seen
        seen |= fresh
        waiting += fresh
    return found


def origin_of(prompt: Prompt, node_id: str, index: int | None = None) -> Origin | None:
    """Return the origin of a run inside the node `node_id` of `prompt`."""
    family = []
    parent: str | None = node_id
    while parent is not None and parent not in family:
        family.append(parent)
        parent = prompt.get_parent_node_id(parent)
    known: dict[str, str] = {}
    digests = tuple(_digest(prompt, each, known) for each in family if prompt.has_node(each))
    return Origin(digests, index) if digests else None


def upstream_of(prompt: Prompt, node_id: str, index: int | None, name: str) -> Upstream | None:
    """Return what is upstream of the input `name` of the node `node_id`; None where nothing is wired to it."""
    wired: Any = prompt.get_node(node_id)["inputs"].get(name) if prompt.has_node(node_id) else None
    if not _is_link(wired):
        return None
    known: dict[str, str] = {}
    distances: dict[str, int] = {}
    seen, waiting = {wired[0]}, deque([(wired[0], 1)])
    while waiting:
        source, distance = waiting.popleft()
        distances.setdefault(_digest(prompt, source, known), distance)
        fresh = [each for each in _sources(prompt, source) if each not in seen]
        seen.update(fresh)
        waiting.extend((each, distance + 1) for each in fresh)
    return Upstream(distances, index)


def index_of_maker(origins: Sequence[Origin | None], upstream: Upstream | None) -> int | None:
    """Return the index of the run that made what is wired, None where no run did.

    Of several it is the nearest one upstream, then that of the same item of a list, then the newest. Where nothing is
    known of the wire, or of the runs, the newest counts.

    Args:
        origins: of the runs, newest last; None where ComfyUI ran no node.
        upstream: of the input.
    """
    if upstream is None:
        return len(origins) - 1 if origins else None
    unknown = [index for index, origin in enumerate(origins) if origin is None]
    found = []
    for index, origin in enumerate(origins):
        away = [upstream.distances[each] for each in (origin.digests if origin else ()) if each in upstream.distances]
        if origin is not None and away:
            found.append((-min(away), origin.index == upstream.index, index))
    if found:
        return max(found)[-1]
    return unknown[-1] if unknown else None


def trace_of_maker(trace: StabilityTrace, upstream: Upstream | None) -> StabilityTrace | None:
    """Return `trace` up to the run that made what is wired, so that this run is its newest.

    None where no run did, though it is known what is wired.
    """
    runs = trace.runs
    index = index_of_maker([run.origin for run in runs], upstream)
    if index is None:
        return trace if upstream is None else None
    return trace if index == len(runs) - 1 else StabilityTrace(runs[: index + 1])


def _executing() -> tuple[Prompt, str, int | None] | None:
    """Return the prompt that runs, the node in it that runs, and the item of a list it works on."""
    try:
        from comfy_execution.progress import get_progress_state
        from comfy_execution.utils import get_executing_context

        context, progress = get_executing_context(), get_progress_state()
        if context is None or context.prompt_id != progress.prompt_id:
            return None
        return progress.dynprompt, context.node_id, context.list_index
    except Exception:  # of a host that keeps it elsewhere: then the newest run counts
        log.debug("the node that runs could not be found", exc_info=True)
        return None


def _is_link(value: Any) -> bool:
    is_pair = isinstance(value, list) and len(value) == 2
    return is_pair and isinstance(value[0], str) and isinstance(value[1], (int, float))


def _sources(prompt: Prompt, node_id: str) -> list[str]:
    """Return the nodes that are wired to a node."""
    inputs = prompt.get_node(node_id)["inputs"] if prompt.has_node(node_id) else {}
    return [value[0] for value in inputs.values() if _is_link(value)]


def _digest(prompt: Prompt, node_id: str, known: dict[str, str]) -> str:
    """Return the digest of a node: of its class, its inputs and the digests of the nodes that are wired to it.

    The id of a node is no part of it, as with ComfyUI's cache: a copy of a sampler gets the same latent.

    Args:
        known: digests of this prompt by node id; those that were needed are added.
    """
    waiting = [node_id]
    begun: set[str] = set()
    while waiting:  # no recursion: graphs may be deeper than Python's stack
        newest = waiting[-1]
        missing = [each for each in _sources(prompt, newest) if each not in known and each not in begun]
        begun.add(newest)
        if missing:
            waiting.extend(missing)
        else:
            waiting.pop()
            if newest not in known:
                known[newest] = _digest_of_node(prompt, newest, known)
    return known[node_id]


def _digest_of_node(prompt: Prompt, node_id: str, known: Mapping[str, str]) -> str:
    if not prompt.has_node(node_id):
        return f"no node {node_id}"
    node = prompt.get_node(node_id)
    inputs = {
        name: {"from": known.get(value[0], "circle"), "output": int(value[1])} if _is_link(value) else [_same(value)]
        for name, value in node["inputs"].items()
    }
    own = node_id if node["class_type"] in HANDLE_GIVERS else ""
    text = json.dumps([node["class_type"], own, inputs], sort_keys=True, default=repr)
    return hashlib.sha256(text.encode()).hexdigest()


def _texts(value: Any) -> Iterator[str]:
    """Yield the texts in the value of a widget, which may hold several, as loaders of many LoRAs do."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for each in value.values():
            yield from _texts(each)
    elif isinstance(value, (list, tuple)):
        for each in value:
            yield from _texts(each)


def _same(value: Any) -> Any:
    """Return the value of a widget, equal numbers as one: ComfyUI's cache does not tell 2 from 2.0, or 1 from True."""
    if isinstance(value, Mapping):
        return {str(name): _same(each) for name, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_same(each) for each in value]
    is_whole = isinstance(value, bool) or (isinstance(value, float) and value.is_integer())
    return int(value) if is_whole else value
