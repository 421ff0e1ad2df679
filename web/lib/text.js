// @ts-check
/** The text of a node's last run, as large as it needs up to a limit, and scrolled beyond that. */

import { MARGIN, addElement, heighten, isDrawnByThePage } from "./node.js";

const TEXT = "last_run"; // the name of our widget
const EDITORS = "$$node-text-preview"; // that of the editor's, which takes it away when the run ends since front end 1.58
const HIGHEST = 260; // pixels of a text
const PADDING = 8; // above and below it
const LINE = 15; // pixels, and CHARACTER the width of a letter: for a text that no page has laid out yet
const CHARACTER = 6;

/**
 * Show a text on a node, in the graph that is looked at or in any other.
 * @param {any} node
 * @param {string} text
 * @param {string} label for lists of widgets.
 */
export function showText(node, text, label) {
  dropPreview(node); // first, as the node would grow by it
  (textOf(node) ?? addText(node, label)).value = text;
  queueMicrotask(() => dropPreview(node)); // the editor's own listener may come after ours
}

/**
 * Take away the editor's preview of a text that we show.
 * @param {any} node
 */
function dropPreview(node) {
  const preview = node.widgets?.find((/** @type {any} */ each) => each.name === EDITORS);
  if (preview) node.removeWidget(preview);
}

/**
 * The widget that shows the text of a node; undefined where there is none yet.
 * @param {any} node
 */
export function textOf(node) {
  return node.widgets?.find((/** @type {any} */ each) => each.name === TEXT);
}

/**
 * The height that a graph saves for a node. The text of the last run is not saved, and would leave a hole if its room were.
 * @param {any} node
 */
export function heightWithoutText(node) {
  const widget = textOf(node);
  if (!widget) return node.size[1];
  const least = widget.options.getMinHeight();
  const taken = isDrawnByThePage() ? widget.element.offsetHeight + 2 * MARGIN : (widget.computedHeight ?? least);
  return Math.max(node.size[1] - taken, node.computeSize()[1] - least); // what the other widgets need
}

/**
 * @param {any} node
 * @param {string} label
 */
function addText(node, label) {
  const text = document.createElement("div");
  const element = document.createElement("div");
  element.className = "sad-text";
  element.tabIndex = 0; // so that the arrow keys scroll it
  element.append(text);
  // The editor would zoom the graph.
  element.addEventListener("wheel", (event) => {
    if (element.scrollHeight > element.clientHeight) event.stopPropagation();
  });
  let room = 0;
  let isMeasured = false;
  const reserve = (/** @type {number} */ height) => {
    const before = room;
    room = Math.min(height, HIGHEST) + PADDING + 2 * MARGIN;
    heighten(node, room - before);
  };
  const measure = () => {
    if (!text.offsetHeight) return; // not on the page
    // A node that shrank and grew with every text would be restless.
    if (!isMeasured || text.offsetHeight + PADDING + 2 * MARGIN > room) reserve(text.offsetHeight);
    isMeasured = true;
  };
  const widget = addElement(node, TEXT, element, () => room - 2 * MARGIN, {
    getValue: () => text.textContent,
    setValue: (/** @type {any} */ value) => {
      if (text.textContent === String(value)) return;
      text.textContent = String(value);
      if (!isMeasured) reserve(roughHeight(text.textContent, node.size[0]));
      measure();
    },
  });
  new ResizeObserver(measure).observe(text);
  widget.label = label;
  return widget;
}

/**
 * @param {string} text
 * @param {number} width of the node.
 */
function roughHeight(text, width) {
  const letters = Math.max(10, (width - 2 * MARGIN - 16) / CHARACTER);
  return LINE * text.split("\n").reduce((lines, line) => lines + Math.max(1, Math.ceil(line.length / letters)), 0);
}
