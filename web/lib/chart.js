// @ts-check
/** A small chart for a node: panels of lines over the progress of a run, read with the eyes, the arrow keys or a screen reader. */

import { SIZE, area, heightOf, outline, range, round, short } from "./numbers.js";

const SVG = "http://www.w3.org/2000/svg";

// Told apart by colour-blind readers, with 3:1 contrast or more on dark and on light nodes, and by their dashes too.
const STYLES = [
  { colour: "currentColor", width: 2, dashes: "", border: "solid" },
  { colour: "#d55e00", width: 1.2, dashes: "5 3", border: "dashed" },
  { colour: "#009e73", width: 1.2, dashes: "1 3", border: "dotted" },
  { colour: "#c2699b", width: 1.2, dashes: "8 3 1 3", border: "dashed" },
  { colour: "#0072b2", width: 1.2, dashes: "12 4", border: "dashed" },
];

/**
 * @typedef {object} Line
 * @property {string} name for the legend.
 * @property {import("./numbers.js").Point[]} points
 *
 * @typedef {object} Panel
 * @property {string} title
 * @property {Line[]} lines the first one is the main one.
 * @property {number} [neutral] a value with a dashed line of its own, always in view.
 * @property {[number, number, number][]} [band] what is normal: progress, lowest and highest value.
 *
 * @typedef {object} Picture
 * @property {string} note a few words above the panels.
 * @property {Panel[]} panels
 * @property {number[]} places progress of the points the cursor visits, rising.
 * @property {(place: number) => string} words what there is at a place, for those who listen.
 * @property {(place: number, panel: number) => string} value what there is at a place of one panel.
 */

export class Chart {
  /** @param {string} name what the chart is, for those who cannot see it. */
  constructor(name) {
    this.name = name;
    /** @type {Picture | null} */
    this.picture = null;
    /** @type {number | null} number of a place; null follows the last one */
    this.cursor = null;
    this.note = make("div", "sad-chart-note");
    this.legend = make("div", "sad-chart-legend");
    this.panels = make("div", "sad-chart-panels");
    this.heard = make("div", "sad-chart-heard");
    this.heard.setAttribute("aria-live", "polite");
    const head = make("div", "sad-chart-head", this.note, this.legend);
    this.element = make("div", "sad-chart", head, this.panels, this.heard);
    this.element.tabIndex = 0;
    this.element.setAttribute("role", "group");
    this.element.addEventListener("keydown", (event) => this.#onKey(event));
    this.element.addEventListener("blur", () => this.#moveTo(null));
    this.say("");
  }

  /**
   * Show words and no panels.
   * @param {string} note
   */
  say(note, isProblem = false) {
    this.picture = null;
    this.cursor = null;
    this.#write(note, isProblem);
    this.legend.replaceChildren();
    this.panels.replaceChildren();
    this.element.setAttribute("aria-label", `${this.name}: ${note}`);
  }

  /** @param {Picture} picture */
  show(picture) {
    this.picture = picture;
    if (this.cursor !== null && this.cursor >= picture.places.length) this.cursor = null;
    this.#write(picture.note, false);
    const names = picture.panels[0].lines.map((line) => line.name);
    this.legend.replaceChildren(...(names.length > 1 ? names.map(legendEntry) : []));
    this.element.style.setProperty("--sad-chart-columns", picture.panels.length > 1 ? "2" : "1");
    this.#draw(picture);
  }

  /**
   * @param {string} note
   * @param {boolean} isProblem
   */
  #write(note, isProblem) {
    this.note.textContent = note;
    this.element.classList.toggle("sad-chart-problem", isProblem);
  }

  /** @param {Picture} picture */
  #draw({ note, panels, places, words, value }) {
    const place = this.cursor ?? places.length - 1;
    const cursor = this.cursor === null ? null : places[place];
    this.panels.replaceChildren(
      ...panels.map((panel, number) => drawPanel(panel, place < 0 ? "" : value(place, number), cursor)),
    );
    this.element.setAttribute("aria-label", `${this.name}: ${place < 0 ? note : words(place)}`);
  }

  /** @param {KeyboardEvent} event */
  #onKey(event) {
    const last = (this.picture?.places.length ?? 0) - 1;
    const at = this.cursor ?? last;
    /** @type {Record<string, number | null>} */
    const targets = { ArrowLeft: at - 1, ArrowRight: at + 1, Home: 0, End: last, Escape: null };
    const target = targets[event.key];
    if (last < 0 || target === undefined || event.altKey || event.ctrlKey || event.metaKey) return;
    event.preventDefault();
    event.stopPropagation(); // the editor moves nodes with the same keys
    this.#moveTo(target === null ? null : Math.min(Math.max(target, 0), last));
  }

  /** @param {number | null} cursor */
  #moveTo(cursor) {
    if (cursor === this.cursor || this.picture === null) return;
    this.cursor = cursor;
    this.#draw(this.picture);
    this.heard.textContent = cursor === null ? "" : this.picture.words(cursor);
  }
}

/**
 * @param {Panel} panel
 * @param {string} value what is said beside the title.
 * @param {number | null} cursor progress of the cursor.
 */
function drawPanel({ title, lines, neutral, band = [] }, value, cursor) {
  /** @type {Line[]} */
  const edges = [1, 2].map((edge) => ({ name: "", points: band.map((point) => [point[0], point[edge]]) }));
  const [low, high] = range([...lines, ...edges], neutral);
  /** @param {number} number */
  const y = (number) => heightOf(number, [low, high]);
  const drawing = document.createElementNS(SVG, "svg");
  drawing.setAttribute("viewBox", `0 0 ${SIZE} ${SIZE}`);
  drawing.setAttribute("preserveAspectRatio", "none");
  drawing.setAttribute("aria-hidden", "true");
  if (band.length) drawing.append(path(area(band, y), "sad-chart-band"));
  drawing.append(path(`M0 0V${SIZE}H${SIZE}`, "sad-chart-axes"));
  if (neutral !== undefined) drawing.append(path(`M0 ${y(neutral)}H${SIZE}`, "sad-chart-neutral"));
  for (const [number, { points }] of [...lines.entries()].reverse()) {
    const line = path(outline(points, y), "sad-chart-line");
    const { colour, width, dashes } = styleOf(number);
    Object.assign(line.style, { stroke: colour, strokeWidth: width, strokeDasharray: dashes });
    drawing.append(line);
  }
  if (cursor !== null) drawing.append(path(`M${round(SIZE * cursor)} 0V${SIZE}`, "sad-chart-cursor"));
  const head = make("div", "sad-chart-title", make("span", "", title), make("output", "", value));
  const percent = make("div", "sad-chart-percent", make("span", "", "0 %"), make("span", "", "100 %"));
  return make("div", "sad-chart-panel", head, scale([low, high], neutral, y), drawing, percent);
}

/**
 * Numbers beside a panel, each at its height; a neutral one wins over an end it would lie upon.
 * @param {[number, number]} ends
 * @param {number | undefined} neutral
 * @param {(value: number) => number} y
 */
function scale([low, high], neutral, y) {
  /** @param {number} number */
  const isApart = (number) => neutral === undefined || Math.abs(y(number) - y(neutral)) > SIZE / 5;
  const shown = [low, high].filter(isApart).concat(neutral ?? []);
  const texts = shown.map(short);
  const widest = texts.reduce((one, other) => (other.length > one.length ? other : one));
  const labels = shown.map((number, place) => {
    const label = make("span", "", texts[place]);
    label.style.top = `${y(number)}%`;
    return label;
  });
  return make("div", "sad-chart-scale", make("span", "sad-chart-room", widest), ...labels);
}

/**
 * How a line is drawn. Beyond the last style the colours come again without dashes, but never that of the first line.
 * @param {number} number of the line.
 */
export function styleOf(number) {
  if (number < STYLES.length) return STYLES[number];
  return { ...STYLES[1 + ((number - 1) % (STYLES.length - 1))], dashes: "", border: "solid" };
}

/**
 * @param {string} name
 * @param {number} number of the line.
 */
function legendEntry(name, number) {
  const entry = make("span", "", name);
  const { colour, border } = styleOf(number);
  entry.style.setProperty("--sad-line-colour", colour);
  entry.style.setProperty("--sad-line-style", border);
  return entry;
}

/**
 * @param {string} outline the `d` of the path.
 * @param {string} className
 */
function path(outline, className) {
  const element = document.createElementNS(SVG, "path");
  element.setAttribute("d", outline);
  element.setAttribute("class", className);
  return element;
}

/**
 * @param {string} tag
 * @param {string} className
 * @param {...(string | Node)} children
 */
function make(tag, className, ...children) {
  const element = document.createElement(tag);
  if (className) element.className = className;
  element.append(...children);
  return element;
}
