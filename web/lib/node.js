// @ts-check
/** What the charts need of ComfyUI's editor. */

import { Chart } from "./chart.js";

const LEAST_WIDTH = 300; // of a node that shows texts
const TITLE_ROOM = 60; // beside a title
const LETTER = 8; // of a title, in pixels
const LEFT_OUT = [2, 4]; // the modes of a muted and of a bypassed node
export const MARGIN = 10; // that the classic rendering leaves around a widget

/**
 * Run `after` behind whatever `target[method]` was, and keep what that returns.
 * @param {any} target
 * @param {string} method
 * @param {(...args: any[]) => void} after
 */
export function chain(target, method, after) {
  const before = target[method];
  target[method] = function (/** @type {any[]} */ ...args) {
    const result = before?.apply(this, args);
    after.apply(this, args);
    return result;
  };
}

/**
 * A chart below the widgets of a node; nothing of it is saved with the workflow or queued with the prompt.
 * @param {any} node
 * @param {string} name
 * @param {number} height in pixels.
 */
export function addChart(node, name, height) {
  const chart = new Chart(name);
  chart.element.style.setProperty("--sad-chart-height", `${height}px`);
  addElement(node, "chart", chart.element, () => height);
  return chart;
}

/**
 * An element below the widgets of a node; nothing of it is saved with the workflow or queued with the prompt.
 * @param {any} node
 * @param {string} name
 * @param {HTMLElement} element
 * @param {() => number} getHeight that it needs, in pixels.
 * @param {object} more options of the widget.
 */
export function addElement(node, name, element, getHeight, more = {}) {
  useStyles();
  const getMinHeight = () => getHeight() + 2 * MARGIN;
  const options = { serialize: false, hideOnZoom: false, margin: MARGIN, getMinHeight, ...more };
  const widget = node.addDOMWidget(name, "sad_element", element, options);
  widget.serialize = false; // the option above keeps it out of prompts, this out of workflows
  // It is as wide as the node. The editor's preview of a node in its search leaves the width of the preview here.
  Object.defineProperty(widget, "width", { get: () => undefined, set: () => {}, configurable: true });
  return widget;
}

/** Whether the nodes are elements of the page, as in Nodes 2.0, and not drawn on a canvas. */
export function isDrawnByThePage() {
  // @ts-ignore: LiteGraph is a global of the editor
  return Boolean(globalThis.LiteGraph?.vueNodesMode);
}

/**
 * Make a node in the classic rendering higher by what one of its widgets needs more, so that no other widget takes or gives
 * that room; Nodes 2.0 does so by itself.
 * @param {any} node
 * @param {number} more pixels; less than 0 makes it lower.
 */
export function heighten(node, more) {
  if (!isDrawnByThePage()) node.setSize([node.size[0], Math.max(node.size[1] + more, node.computeSize()[1])]);
  node.setDirtyCanvas?.(true, true);
}

/**
 * Let a new node be as wide as its title and the texts it shows need; a saved graph has a size of its own.
 * @param {any} node
 */
export function widen(node) {
  const width = Math.max(LEAST_WIDTH, TITLE_ROOM + LETTER * (node.title?.length ?? 0));
  if (node.size[0] < width) node.setSize([width, node.size[1]]);
}

/**
 * The node an id of a prompt means: "12:3" is the node 3 in the subgraph of node 12.
 * @param {any} graph
 * @param {string} executionId
 */
export function nodeOf(graph, executionId) {
  const ids = executionId.split(":");
  const last = ids.pop() ?? "";
  const inner = ids.reduce((outer, id) => outer?.getNodeById(toId(id))?.subgraph, graph);
  return inner?.getNodeById(toId(last)) ?? null;
}

/**
 * Every node of a graph and of the subgraphs in it; none of no graph.
 * @param {any} graph
 * @returns {Generator<any>}
 */
export function* allNodes(graph) {
  for (const node of graph?.nodes ?? []) {
    yield node;
    yield* allNodes(node.subgraph);
  }
}

/**
 * The nodes that are bypassed or muted, themselves or with a subgraph around them. A subgraph that is used twice has its
 * nodes once; they are here if they are in no use of it active.
 * @param {any} graph
 */
export function inactiveNodes(graph) {
  const states = [...nodesWithState(graph, true)];
  const active = new Set(states.filter(([, isActive]) => isActive).map(([node]) => node));
  return new Set(states.map(([node]) => node).filter((node) => !active.has(node)));
}

/**
 * Whether what is wired to an input reaches the prompt. A node that is muted or bypassed gives no schedule, and none of them
 * passes one on.
 * @param {any} node
 * @param {any} input
 */
export function isGiven(node, input) {
  const link = node.graph?.getLink?.(input.link) ?? node.graph?.links?.[input.link];
  const source = node.graph?.getNodeById?.(link?.origin_id);
  return link != null && !LEFT_OUT.includes(source?.mode);
}

/**
 * @param {any} graph
 * @param {boolean} isActive whether what is around the graph is.
 * @returns {Generator<[any, boolean]>}
 */
function* nodesWithState(graph, isActive) {
  for (const node of graph?.nodes ?? []) {
    const isOn = isActive && !LEFT_OUT.includes(node.mode);
    yield [node, isOn];
    yield* nodesWithState(node.subgraph, isOn);
  }
}

/**
 * Ids are numbers in graphs that people make; API prompts may have words.
 * @param {string} id
 */
function toId(id) {
  return /^\d+$/.test(id) ? Number(id) : id;
}

/**
 * The server's answer to a question; throws where there is none.
 * @param {any} api
 * @param {string} path
 * @param {object} question what JSON can hold.
 */
export async function ask(api, path, question) {
  const answer = await api.fetchApi(path, {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify(question),
  });
  if (!answer.ok) throw new Error(`${path} answered ${answer.status}`);
  return answer.json();
}

/**
 * What the server knows of a prompt: the ids of its nodes, and the graph it was queued from, null where a script queued it.
 * Null where the prompt is not known.
 * @param {any} api
 * @param {string} prompt the id.
 * @returns {Promise<{ nodes: string[], workflow: string | null } | null>}
 */
export async function askForPrompt(api, prompt) {
  try {
    const known = await ask(api, "/symmetric_attention/prompt", { prompt });
    return known.nodes.length ? known : null;
  } catch (error) {
    console.debug("Symmetric Attention (SAD): the nodes of a prompt are not known", error);
    return null;
  }
}

/**
 * The nodes of a graph that are in a prompt; null where the prompt is that of another graph, or not known.
 * The graph may have changed since the prompt was queued, so its own modes do not tell.
 * @param {any} graph
 * @param {{ nodes: string[], workflow: string | null } | null} prompt
 */
export function nodesInPrompt(graph, prompt) {
  if (!prompt || (prompt.workflow && prompt.workflow !== graph?.id)) return null;
  return new Set(prompt.nodes.map((id) => nodeOf(graph, id)));
}

function useStyles() {
  const address = new URL("./chart.css", import.meta.url).href;
  if (document.querySelector(`link[href="${address}"]`)) return;
  const link = document.createElement("link");
  Object.assign(link, { rel: "stylesheet", href: address });
  document.head.append(link);
}
