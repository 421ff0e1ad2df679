"""The texts of the nodes in every language: English is the schema, the others have all of its keys."""

from __future__ import annotations

import asyncio
import re

import pytest
import symmetric_attention

from tools.node_schemas import ENGLISH, LOCALES, english, read

LANGUAGES = ("en", "fr", "ja", "ko", "zh")
SCRIPT = {"ja": r"[\u3040-\u30ff]", "ko": r"[\uac00-\ud7af]", "zh": r"[\u4e00-\u9fff]"}  # of that language alone


def keys(content: dict, before: str = "") -> dict[str, str]:
    """The texts by the path that leads to them."""
    found = {}
    for key, value in content.items():
        path = f"{before}{key}"
        found |= keys(value, f"{path}/") if isinstance(value, dict) else {path: value}
    return found


@pytest.fixture(scope="module")
def nodes() -> list:
    async def listed():
        return await (await symmetric_attention.comfy_entrypoint()).get_node_list()

    return asyncio.run(listed())


def test_english_is_what_the_schemas_say(nodes):
    assert read(ENGLISH) == english(nodes), "run: python tools/node_schemas.py"


def test_there_are_exactly_these_languages():
    assert {path.name for path in LOCALES.iterdir()} == set(LANGUAGES)


@pytest.mark.parametrize("language", [language for language in LANGUAGES if language != "en"])
def test_a_translation_has_every_name_and_every_tooltip(language):
    want = keys(read(ENGLISH))
    got = keys(read(LOCALES / language / "nodeDefs.json"))
    assert sorted(want.keys() - got.keys()) == []
    assert all(text.strip() for text in got.values())
    same = [path for path, text in got.items() if path.endswith("tooltip") and text == want.get(path)]
    assert same == [], "not translated"
    for path, text in got.items():
        if language in SCRIPT and path.endswith(("tooltip", "description")):
            assert re.search(SCRIPT[language], text), path


@pytest.mark.parametrize("language", [language for language in LANGUAGES if language != "en"])
def test_what_is_typed_into_a_widget_is_not_translated(language):
    """Choices, addresses and numbers that a tooltip quotes have to be typed or picked as they are."""
    translated = keys(read(LOCALES / language / "nodeDefs.json"))
    quoted = re.compile(r"input\.4\.1|output\.5|double\.0-9|middle\.0\.0|keyframes|heat map|projected|safetensors")
    for path, text in keys(read(ENGLISH)).items():
        if path.endswith("tooltip"):
            for word in set(quoted.findall(text)):
                assert word in translated[path], path
