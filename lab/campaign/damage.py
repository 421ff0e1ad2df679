"""Damaging files, by a seed: bytes anywhere, and the parts of a safetensors file that a reader trusts."""

from __future__ import annotations

import json
import random
import struct
from collections.abc import Callable
from typing import Any

# What replaces a value of a JSON header.
HOSTILE: tuple[Any, ...] = (
    *(None, True, -1, 0, 1, 7, 2**31, 2**63, 2**64, 10**400, 0.5, 1e308, float("nan"), float("inf"), -float("inf")),
    *("", " ", "0", "nan", "\0", "\ud800", "\udcff", "\u202e\u2066", "😀" * 20, "a\nb\r\nc", "x" * 100_000, "=1+1"),
    *([], {}, [[]], [None], {"": None}, [0] * 1000, ["positive", 0], [["input.1.0", 10**9]]),
)
DTYPES = ("F64", "F32", "F16", "BF16", "I64", "U8", "BOOL", "F8_E4M3", "C64", "X", "")
DEEP = 20_000


def split(content: bytes) -> tuple[dict[str, Any], bytes]:
    """Return the header of a safetensors file and what comes after it."""
    (size,) = struct.unpack("<Q", content[:8])
    return json.loads(content[8 : 8 + size]), content[8 + size :]


def join(header: Any, data: bytes) -> bytes:
    """Return a safetensors file with this header; a text is written as it is."""
    text = header.encode() if isinstance(header, str) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def damaged(content: bytes, draw: random.Random, key: str) -> bytes:
    """Return one of the ways to damage a safetensors file.

    Args:
        content: the file.
        draw: what chooses.
        key: of its metadata, where a JSON text is.
    """
    ways: list[Callable[[bytes, str, random.Random], bytes]] = [
        *(flipped, cut, repeated, with_length, with_entry, with_hostile_metadata),
        *[with_hostile_values] * 6,  # what the checks of the format itself let pass
    ]
    return draw.choice(ways)(content, key, draw)


def damaged_json(content: bytes, draw: random.Random) -> bytes:
    """Return one of the ways to damage a JSON file."""
    what = draw.choice(["bytes", "piece", "piece", *["values"] * 6])
    if what == "values":
        return json.dumps(hostile(json.loads(content), draw)).encode()
    if what == "piece":
        return draw.choice([cut, repeated])(content, "", draw)
    changed = bytearray(content)
    for _each in range(draw.choice([1, 1, 2, 8, 64])):
        changed[draw.randrange(len(changed))] = draw.randrange(256)
    return bytes(changed)


def flipped(content: bytes, _: str, draw: random.Random) -> bytes:
    """Return the file with a few other bytes, all of them in the header half of the time."""
    changed = bytearray(content)
    end = len(changed) if draw.random() < 0.5 else 8 + struct.unpack("<Q", content[:8])[0]
    for _each in range(draw.choice([1, 1, 2, 8, 64])):
        changed[draw.randrange(end)] = draw.randrange(256)
    return bytes(changed)


def cut(content: bytes, _: str, draw: random.Random) -> bytes:
    """Return the beginning of the file, or the file without a piece, or with more behind it."""
    first, last = sorted(draw.randrange(len(content) + 1) for _each in range(2))
    return draw.choice([content[:first], content[:first] + content[last:], content + content[first:last], b""])


def repeated(content: bytes, _: str, draw: random.Random) -> bytes:
    """Return the file with a piece twice, or zeros in its place."""
    first, last = sorted(draw.randrange(len(content) + 1) for _each in range(2))
    piece = content[first:last]
    return content[:first] + draw.choice([piece + piece, bytes(len(piece)), piece[::-1]]) + content[last:]


def with_length(content: bytes, _: str, draw: random.Random) -> bytes:
    """Return the file with another length of its header."""
    (size,) = struct.unpack("<Q", content[:8])
    sizes = [0, 1, size - 1, size + 1, len(content), 100_000_000, 2**31, 2**40, 2**63, 2**64 - 1]
    return struct.pack("<Q", draw.choice(sizes)) + content[8:]


def with_entry(content: bytes, _: str, draw: random.Random) -> bytes:
    """Return the file with another type, shape or place of a tensor, a tensor less or one more."""
    header, data = split(content)
    name = draw.choice([each for each in header if each != "__metadata__"])
    entry = header[name]
    shapes: list[Any] = [[], [0], [2**40, 0], [0, 2**40], [1], [-1], [2**62, 4], entry["shape"][::-1], [0] * 70]
    what = draw.choice(["dtype", "shape", "data_offsets", "gone", "more", "renamed", "transposed"])
    if what == "dtype":
        entry["dtype"] = draw.choice(DTYPES)
    elif what == "shape":
        entry["shape"] = draw.choice(shapes)
    elif what == "data_offsets":
        entry["data_offsets"] = draw.choice([[0, 0], [0, 2**63], [4, 0], [-4, 0], [0, len(data) + 4], None, [0]])
    elif what == "gone":
        del header[name]
    elif what == "more":
        end = len(data)
        header[draw.choice(["", "\0", "extra", "9.9"])] = {"dtype": "F32", "shape": [0], "data_offsets": [end, end]}
    elif what == "renamed":
        header[draw.choice(["", "0.0.0", "x" * 10_000])] = header.pop(name)
    else:
        entry["shape"] = draw.sample(entry["shape"], len(entry["shape"]))
    return join(header, data)


def with_hostile_metadata(content: bytes, key: str, draw: random.Random) -> bytes:
    """Return the file with something else in place of its JSON text, or of all metadata."""
    header, data = split(content)
    text = header["__metadata__"][key]
    texts = ["", "{", "null", "[]", '"' + "x" * 1000, "[" * DEEP, '{"a":' * DEEP, text[: draw.randrange(len(text))]]
    texts += ["1" * 5000, text + text, "\ufeff" + text, text.replace('"', "'"), '{"version": 1, "runs": []}']
    choice = draw.choice(["text", "text", "no text", "no metadata", "numbers"])
    if choice == "text":
        header["__metadata__"][key] = draw.choice(texts)
    elif choice == "no text":
        header["__metadata__"] = {draw.choice(["", key.upper(), key + " "]): text}
    elif choice == "no metadata":
        del header["__metadata__"]
    else:
        header["__metadata__"] = draw.choice([7, [], {key: 7}, {key: None}, {key: {}}])
    return join(header, data)


def with_hostile_values(content: bytes, key: str, draw: random.Random) -> bytes:
    """Return the file with a few values of its JSON text replaced, repeated, moved or taken away."""
    header, data = split(content)
    header["__metadata__"][key] = json.dumps(hostile(json.loads(header["__metadata__"][key]), draw))
    return join(header, data)


def hostile(whole: Any, draw: random.Random) -> Any:
    """Return a JSON value with a few of its values replaced, repeated, moved or taken away."""
    value = json.loads(json.dumps(whole))
    for _each in range(draw.choice([1, 1, 1, 2, 3])):
        places = list(_places(value))
        holder, at = draw.choice(places)
        what = draw.choice(["replace", "replace", "replace", "take away", "repeat", "swap"])
        if what == "replace":
            holder[at] = draw.choice(HOSTILE)
        elif what == "take away":
            del holder[at]
        elif what == "repeat" and isinstance(holder, list):
            holder.insert(at, holder[at])
        else:
            other, there = draw.choice(places)
            holder[at], other[there] = other[there], holder[at]
        if not value:
            break
        try:
            json.dumps(value)
        except (ValueError, RecursionError):  # swapped into itself
            return hostile(whole, draw)
    return value


def _places(value: Any) -> list[tuple[Any, Any]]:
    """Return every place of a JSON value: what holds it, and its key or index."""
    found: list[tuple[Any, Any]] = []
    keys = list(value) if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    for key in keys:
        found.append((value, key))
        found += _places(value[key])
    return found
