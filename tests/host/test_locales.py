"""The texts of the nodes in every language: English is the schema, the others have all of its keys."""

from __future__ import annotations

import asyncio
import re

import pytest
import symmetric_attention

from lab.generate.node_schemas import ENGLISH, LOCALES, english, read

TRANSLATED = ("fr", "ja", "ko", "zh")
SCRIPT = {"ja": r"[\u3040-\u30ff]", "ko": r"[\uac00-\ud7af]", "zh": r"[\u4e00-\u9fff]"}  # only of that language


def keys(content: dict, before: str = "") -> dict[str, str]:
    """The texts by the path that leads to them."""
    found: dict[str, str] = {}
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
    assert read(ENGLISH) == english(nodes), "run: python -m lab.generate.node_schemas"


def test_there_are_exactly_these_languages():
    assert {path.name for path in LOCALES.iterdir()} == {"en", *TRANSLATED}


@pytest.mark.parametrize("language", TRANSLATED)
def test_a_translation_has_every_name_and_every_tooltip(language):
    want, got = keys(read(ENGLISH)), translation(language)
    assert sorted(want.keys() - got.keys()) == []
    assert all(text.strip() for text in got.values())
    assert [path for path, text in sentences(got).items() if text == want.get(path)] == [], "not translated"
    for path, text in sentences(got).items():
        if language in SCRIPT:
            assert re.search(SCRIPT[language], text), path


@pytest.mark.parametrize("language", TRANSLATED)
def test_what_is_typed_into_a_widget_is_not_translated(language):
    """Choices and addresses that a tooltip quotes have to be typed or picked as they are."""
    translated = translation(language)
    quoted = re.compile(r"input\.4\.1|output\.5|double\.0-9|middle\.0\.0|keyframes|heat map|projected|safetensors")
    for path, text in sentences(keys(read(ENGLISH))).items():
        for word in set(quoted.findall(text)):
            assert word in translated[path], path


@pytest.mark.parametrize("language", TRANSLATED)
def test_a_translation_gives_the_same_numbers(language):
    translated = translation(language)
    number = re.compile(r"-?\d+(?:\.\d+)*")
    for path, text in sentences(keys(read(ENGLISH))).items():
        assert set(number.findall(translated[path])) == set(number.findall(text)), path


@pytest.mark.parametrize("language", TRANSLATED)
def test_a_translation_calls_nodes_and_widgets_as_the_editor_shows_them(language):
    """A node that the English names has its own name in that language, and no other node has."""
    english_nodes, nodes = read(ENGLISH), read(LOCALES / language / "nodeDefs.json")
    shown = {english_nodes[each]["display_name"]: nodes[each]["display_name"] for each in english_nodes}
    labels = {
        widget: texts["name"] for node in nodes.values() for widget, texts in node["inputs"].items() if "_" in widget
    }
    translated = translation(language)
    for path, text in sentences(keys(english_nodes)).items():
        for name, here in shown.items():
            if base(name) in text:
                assert base(here) in translated[path], path
            else:
                assert here not in translated[path], path
        for widget, label in labels.items():
            if re.search(rf"\b{widget}\b", text):
                assert label in translated[path], path


def translation(language: str) -> dict[str, str]:
    return keys(read(LOCALES / language / "nodeDefs.json"))


def sentences(texts: dict[str, str]) -> dict[str, str]:
    """Tooltips and descriptions; plain names are left out."""
    return {path: text for path, text in texts.items() if path.endswith(("tooltip", "description"))}


def base(name: str) -> str:
    return name.removesuffix(" (SAD)")
