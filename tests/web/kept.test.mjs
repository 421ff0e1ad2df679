/** The texts of last runs: kept by graph and node, over a reload of the page, and without a place to keep them. */

import assert from "node:assert/strict";
import { test } from "node:test";

import { KeptTexts } from "../../web/lib/kept.js";

/** What a browser keeps for a page. */
function aStorage() {
  const values = new Map();
  return { getItem: (key) => values.get(key) ?? null, setItem: (key, value) => values.set(key, value) };
}

test("the newest text of a node is kept, for its graph only, and outlives a reload", () => {
  const storage = aStorage();
  const texts = new KeptTexts(storage);
  texts.keep("one", "7", "first");
  texts.keep("one", "12:3", "in a subgraph");
  texts.keep("one", "7", "second");
  for (const each of [texts, new KeptTexts(storage)]) {
    assert.deepEqual(each.of("one"), [["7", "second"], ["12:3", "in a subgraph"]]);
    assert.deepEqual(each.of("two"), []);
    assert.deepEqual(each.of(undefined), []);
  }
});

test("the graphs that ran last are kept", () => {
  const texts = new KeptTexts(aStorage());
  texts.keep("oldest", "1", "gone");
  texts.keep("old", "1", "ran again");
  for (let graph = 0; graph < 30; graph++) texts.keep(String(graph), "1", "text");
  texts.keep("old", "1", "ran again");
  texts.keep("new", "1", "text");
  assert.equal(texts.of("oldest").length, 0);
  assert.equal(texts.of("old").length, 1);
  assert.equal(texts.of("0").length, 1);
});

test("a storage that is full or holds something else loses no text of this page", () => {
  const full = {
    getItem: () => "no JSON",
    setItem() {
      throw new Error("full");
    },
  };
  const texts = new KeptTexts(full);
  texts.keep("one", "7", "text");
  assert.deepEqual(texts.of("one"), [["7", "text"]]);
});
