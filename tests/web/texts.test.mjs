/** The texts of the charts, in every language of locales/. */

import assert from "node:assert/strict";
import { readFileSync, readdirSync } from "node:fs";
import { test } from "node:test";

import { GONE, LOST } from "../../web/lib/run.js";
import { NAMES, TEXTS, languageOf, nameIn, textIn } from "../../web/lib/texts.js";

const root = (path) => new URL(`../../${path}`, import.meta.url);
const LANGUAGES = readdirSync(root("locales"));
const slots = (text) => text.match(/\{\w+\}/g)?.sort() ?? [];
const source = (name) => readFileSync(root(`web/${name}`), "utf-8");

test("every language has every text, with what is filled in, and every name", () => {
  assert.deepEqual(Object.keys(TEXTS).sort(), LANGUAGES);
  assert.deepEqual(Object.keys(NAMES).sort(), LANGUAGES.filter((language) => language !== "en"));
  for (const language of LANGUAGES.filter((each) => each !== "en")) {
    for (const [key, english] of Object.entries(TEXTS.en)) {
      const text = TEXTS[language][key];
      assert.deepEqual(slots(text ?? ""), slots(english), `${language} ${key}`);
      const isWordless = !/\p{L}/u.test(english.replace(/\{\w+\}/g, ""));
      assert.ok(text.trim() && (text !== english || isWordless || text === "image {number}"), `${language} ${key}`);
    }
    assert.deepEqual(Object.keys(TEXTS[language]), Object.keys(TEXTS.en), language);
    assert.deepEqual(Object.keys(NAMES[language]), Object.keys(NAMES.fr), language);
    assert.ok(Object.values(NAMES[language]).every((name) => name.trim()), language);
  }
});

test("every text is used, and texts of the browser are nowhere else", () => {
  const scripts = readdirSync(root("web")).filter((name) => name.endsWith(".js")).map(source).join("\n");
  for (const key of Object.keys(TEXTS.en)) {
    const isUsed = scripts.includes(`"${key}"`) || source("lib/texts.js").includes(`textIn(locale, "${key}"`);
    assert.ok(isUsed, key);
  }
  for (const text of Object.values(TEXTS.en)) assert.ok(!scripts.includes(`"${text}"`), text);
});

test("values are filled in, and what only looks like a pattern is kept", () => {
  assert.equal(textIn("en", "where", { step: 3, percent: 20, sigma: "$& {step}" }), "step 3 at 20 %, σ $& {step}");
  assert.equal(textIn("zh", "gammaAllAlong", { gamma: "1.05" }), "γ 始终为 1.05");
});

test("a language that is not ours is English", () => {
  for (const locale of ["xx", "zh-TW", "constructor", "__proto__", ""]) {
    assert.equal(textIn(locale, "waiting"), TEXTS.en.waiting, locale);
    assert.equal(nameIn(locale, "finished"), "finished", locale);
  }
});

test("the names that come from the server are translated, other names are kept", () => {
  const known = ["running", "finished", "interrupted", LOST, GONE, "all", "energy", "instability", "alignment"];
  for (const name of [...known, "symmetricity", "depth", "relative curvature"]) {
    assert.equal(nameIn("en", name), name);
    assert.notEqual(nameIn("ja", name), name);
  }
  assert.equal(nameIn("fr", "failed (OutOfMemoryError)"), "échec (OutOfMemoryError)");
  assert.equal(nameIn("ko", "image 2"), "이미지 2");
  for (const name of ["input", "double", "gamma", "constructor", "image", "failed"]) assert.equal(nameIn("fr", name), name);
});

test("the language is the editor's at the time of asking, and English where that cannot be asked", () => {
  let locale = "fr";
  const { text, name } = languageOf({ extensionManager: { setting: { get: (id) => id === "Comfy.Locale" && locale } } });
  assert.equal(text("lastRun"), TEXTS.fr.lastRun);
  locale = "ja";
  assert.equal(name("finished"), "完了");
  assert.equal(languageOf({}).text("lastRun"), TEXTS.en.lastRun);
});
