"""The help pages: one for every node in every language of locales/, which say the same.

ComfyUI asks for web/docs/<node>/<locale>.md, and for web/docs/<node>.md where that is not there.
"""

from __future__ import annotations

import json
import re
from collections import Counter

import pytest

from lab.folders import ROOT

PAGES = ROOT / "web" / "docs"
LANGUAGES = sorted(path.name for path in (ROOT / "locales").iterdir())
TEXTS = {
    language: json.loads((ROOT / "locales" / language / "nodeDefs.json").read_text(encoding="utf-8"))
    for language in LANGUAGES
}
TRANSLATED = [
    pytest.param(node, language, id=f"{node} {language}")
    for node in TEXTS["en"]
    for language in LANGUAGES
    if language != "en"
]
SCRIPT = {"ja": r"[\u3040-\u30ff]", "ko": r"[\uac00-\ud7af]", "zh": r"[\u4e00-\u9fff]", "fr": r"[éèàêç]"}
WORDS = {"one": 1, "two": 2, "three": 3, "four": 4, "five": 5, "six": 6, "eight": 8, "twenty": 20, "tenth": 10}
# What an editor in another language calls otherwise: nodes and buttons of ComfyUI, and what our charts say.
OTHERWISE = {
    *("SamplerCustomAdvanced", "Load CLIP Vision", "CLIP Vision Encode", "Preview as Text", "Dual CFG Guider"),
    *("KSampler (Advanced)", "Run", "earlier run"),
}


def page(node: str, language: str) -> str:
    path = PAGES / f"{node}.md" if language == "en" else PAGES / node / f"{language}.md"
    return path.read_text(encoding="utf-8")


def without(text: str, pattern: str) -> str:
    return re.sub(pattern, " ", text)


def test_there_is_a_page_for_every_node_and_language_and_no_other():
    wanted = {PAGES / f"{node}.md" for node in TEXTS["en"]}
    wanted |= {PAGES / node / f"{language}.md" for node in TEXTS["en"] for language in LANGUAGES if language != "en"}
    assert set(PAGES.rglob("*.md")) == wanted


@pytest.mark.parametrize(("node", "language"), TRANSLATED)
def test_a_page_has_the_parts_of_the_english_one(node, language):
    english, here = page(node, "en"), page(node, language)
    for what, pattern in {
        "headings": r"^(#+) ",
        "links and pictures": r"\]\(([^)]*)\)",
        "code": r"`([^`\n]+)`",
        "entries of lists": r"^(- |\d\. )",
        "cells of tables": r"^\||\|",
    }.items():
        assert re.findall(pattern, here, re.M) == re.findall(pattern, english, re.M), what
    assert here.splitlines()[0] == f"# {TEXTS[language][node]['display_name']}"
    assert re.search(SCRIPT[language], here)
    copied = set(sentences(here)) & set(sentences(english))
    assert not copied


@pytest.mark.parametrize(("node", "language"), TRANSLATED)
def test_emphasis_ends_where_it_should(node, language):
    """Markdown sees no mark between a letter and a bracket or a dot, which scripts without spaces put side by side."""
    text = f" {page(node, language)} "
    for found in re.finditer(r"(\*{1,2})(?=\S)(.+?)(?<=\S)\1", text, re.S):
        before, first, last, after = text[found.start() - 1], found[2][0], found[2][-1], text[found.end()]
        assert not (re.match(r"[^\w\s]", first) and re.match(r"\w", before)), found[0]
        assert not (re.match(r"[^\w\s]", last) and re.match(r"\w", after)), found[0]


@pytest.mark.parametrize(("node", "language"), TRANSLATED)
def test_a_page_gives_the_numbers_of_the_english_one(node, language):
    english, here = (without(page(node, each), r"\]\([^)]*\)").replace("−", "-") for each in ("en", language))
    given, found = (Counter(re.findall(r"-?\d+(?:\.\d+)*", text)) for text in (english, here))
    in_words = {str(WORDS[word]) for word in re.findall(r"\w+", english.lower()) if word in WORDS}
    assert given - found == Counter()
    assert {*found} <= {*given} | in_words


@pytest.mark.parametrize(("node", "language"), TRANSLATED)
def test_a_page_calls_things_as_the_editor_shows_them(node, language):
    english, here = (re.sub(r"\s*\n\s*", " ", page(node, each)) for each in ("en", language))
    names, english_names = TEXTS[language], TEXTS["en"]
    for each, texts in english_names.items():
        if base(texts["display_name"]) in english:
            assert base(names[each]["display_name"]) in here, each
    shown = {english_names[node][kind][key]["name"]: names[node][kind][key]["name"] for kind, key in parts(node)}
    bold_here = re.findall(r"\*\*(.+?)\*\*", here)
    for bold in re.findall(r"\*\*(.+?)\*\*", english):
        for name in bold.split(", "):
            if name in shown:
                assert any(shown[name] in each for each in bold_here), name
    known = {base(texts["display_name"]) for texts in english_names.values()}
    for choice in re.findall(r"(?<!\*)\*([^*]+)\*(?!\*)", english):
        if base(choice) not in known | OTHERWISE:
            assert f"*{choice}*" in here, choice


def parts(node: str) -> list[tuple[str, str]]:
    texts = TEXTS["en"][node]
    return [(kind, key) for kind in ("inputs", "outputs") for key in texts.get(kind, {}) if key != "model"]


def sentences(text: str) -> list[str]:
    """The lines of a page that are more than a name, a picture or a row of marks."""
    return [line for line in text.splitlines() if len(re.findall(r"[A-Za-z]{2,} ", line)) > 4]


def base(name: str) -> str:
    return name.removesuffix(" (SAD)")
