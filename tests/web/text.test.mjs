/** The text of a run on a node, beside the preview that the editor makes of it and, since front end 1.58, takes away. */

import assert from "node:assert/strict";
import { test } from "node:test";

import { heightWithoutText, showText, textOf } from "../../web/lib/text.js";

const PREVIEW = "$$node-text-preview";
const element = () => ({ append() {}, addEventListener() {}, setAttribute() {}, style: {}, offsetHeight: 0 });
globalThis.document = { createElement: element, querySelector: () => true };
globalThis.ResizeObserver = class {
  observe() {}
};

/** A node of the editor, with what it does to its widgets. */
function aNode() {
  const node = {
    size: [300, 0],
    widgets: [],
    computeSize: () => [300, 20 * node.widgets.length],
    setSize(size) {
      node.size = size;
    },
    addDOMWidget(name, type, shown, options) {
      const widget = { name, type, element: shown, options };
      Object.defineProperty(widget, "value", { get: options.getValue, set: options.setValue, configurable: true });
      node.widgets.push(widget);
      return widget;
    },
    removeWidget(widget) {
      node.widgets.splice(node.widgets.indexOf(widget), 1);
    },
  };
  return node;
}

/** What the editor's listener does with a text, and what it does at the end of a run. */
function preview(node, text) {
  const found = node.widgets.find((widget) => widget.name === PREVIEW);
  if (found) found.value = text;
  else node.widgets.push({ name: PREVIEW, value: text });
}
function end(node) {
  const place = node.widgets.findIndex((widget) => widget.name === PREVIEW);
  if (place >= 0) node.widgets.splice(place, 1);
}

for (const isFirst of [true, false]) {
  test(`the text is shown once and stays, the editor's listener ${isFirst ? "first" : "last"}`, async () => {
    const node = aNode();
    for (const text of ["one", "two"]) {
      if (isFirst) preview(node, text);
      showText(node, text, "last run");
      if (!isFirst) preview(node, text);
      await null;
      end(node);
      assert.deepEqual(node.widgets.map((widget) => widget.label), ["last run"]);
      assert.equal(textOf(node).value, text);
      assert.equal(node.size[1], textOf(node).options.getMinHeight(), "room for one text");
    }
  });
}

test("a node is saved without the room of its text, and gets it back with the text", () => {
  const node = aNode();
  node.size = [300, 200];
  showText(node, "one", "last run");
  assert.equal(heightWithoutText(node), 200);
  textOf(node).computedHeight = textOf(node).options.getMinHeight() + 90; // as in a node that a user made higher
  const saved = heightWithoutText(node);
  assert.equal(saved, 110);

  const again = aNode();
  again.size = [300, saved];
  assert.equal(heightWithoutText(again), 110, "as long as it shows none");
  showText(again, "one", "last run");
  assert.equal(textOf(again).value, "one");
  assert.equal(again.size[1], 110 + textOf(again).options.getMinHeight());
});

test("a node is never saved too small for its other widgets", () => {
  const node = aNode();
  node.computeSize = () => [300, 150];
  node.size = [300, 100];
  showText(node, "one", "last run");
  node.size = [300, 100];
  assert.equal(heightWithoutText(node), 150 - textOf(node).options.getMinHeight());
});
