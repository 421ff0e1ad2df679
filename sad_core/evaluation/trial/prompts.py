"""Twelve short prompts over people, places, things and styles, for a trial of a checkpoint."""

from __future__ import annotations

# Neighbours differ in kind, because a short trial uses the first ones only.
PROMPTS = (
    "portrait of an old fisherman, soft window light",
    "a mountain village in winter at dusk",
    "a bowl of fruit on a wooden table, oil painting",
    "a red fox in a forest clearing",
    "a busy night market in the rain",
    "a young woman reading on a train",
    "a lighthouse on a cliff, watercolor",
    "an astronaut riding a bicycle, comic style",
    "a steam locomotive crossing a stone bridge",
    "two children building a sandcastle",
    "a cosy kitchen with copper pots",
    "a city of the future, concept art",
)


def read_prompts(text: str) -> tuple[str, ...]:
    """Return the prompts that a user typed, one a line; those of the pack where there are none."""
    lines = tuple(dict.fromkeys(line.strip() for line in text.splitlines() if line.strip()))
    return lines or PROMPTS
