// @ts-check
/**
 * The texts of last runs, by the graph and the node. The editor makes all nodes of a graph anew when a user switches
 * tabs, undoes a step or reloads the page, and the widgets that show these texts are not saved with the workflow.
 */

const KEY = "symmetric_attention.texts";
const MOST_GRAPHS = 32;

export class KeptTexts {
  /** @param {Pick<Storage, "getItem" | "setItem">} storage that lasts as long as the page, reloads included. */
  constructor(storage) {
    this.storage = storage;
    /** @type {Map<string, Map<string, string>>} */
    this.graphs = new Map();
    try {
      const saved = Object.entries(JSON.parse(storage.getItem(KEY) ?? "{}"));
      this.graphs = new Map(saved.map(([graph, texts]) => [graph, new Map(Object.entries(texts))]));
    } catch (error) {
      console.debug("Symmetric Attention (SAD): the texts of earlier runs cannot be read", error);
    }
  }

  /**
   * The texts of a graph, by the ids of its nodes in prompts.
   * @param {string} graph the id.
   * @returns {[string, string][]}
   */
  of(graph) {
    return [...(this.graphs.get(graph) ?? [])];
  }

  /**
   * @param {string} graph the id.
   * @param {string} node the id, as prompts have it.
   * @param {string} text
   */
  keep(graph, node, text) {
    const texts = this.graphs.get(graph) ?? new Map();
    this.graphs.delete(graph); // and set again, so that the graph that ran last is the last one
    this.graphs.set(graph, texts.set(node, text));
    for (const oldest of [...this.graphs.keys()].slice(0, -MOST_GRAPHS)) this.graphs.delete(oldest);
    try {
      const saved = Object.fromEntries([...this.graphs].map(([id, each]) => [id, Object.fromEntries(each)]));
      this.storage.setItem(KEY, JSON.stringify(saved));
    } catch (error) {
      console.debug("Symmetric Attention (SAD): the texts of this run do not survive a reload", error);
    }
  }
}
