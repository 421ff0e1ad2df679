"""API prompts in the form the editor opens."""

from __future__ import annotations


def numbered(prompt: dict) -> dict:
    """An API prompt with numbers for node ids, as the editor wants them."""
    number = {name: str(index + 1) for index, name in enumerate(prompt)}

    def renamed(value):
        return [number[value[0]], value[1]] if isinstance(value, list) else value

    return {
        number[name]: {**node, "inputs": {key: renamed(value) for key, value in node["inputs"].items()}}
        for name, node in prompt.items()
    }
