/** A widget that has no say as the others are set is grey; its value is kept, and counts again when it has a say. */

import { app } from "../../scripts/app.js";
import { api } from "../../scripts/api.js";
import { allNodes, chain, isGiven } from "./lib/node.js";
import { CLASSES, withoutSay } from "./lib/live.js";

const graph = () => (app.isGraphReady === false ? undefined : (app.rootGraph ?? app.graph));

app.registerExtension({
  name: "symmetric_attention.live_widgets",
  nodeCreated(node) {
    if (!CLASSES.includes(node.comfyClass)) return;
    const soon = () => requestAnimationFrame(() => update(node)); // when the values of a graph are all there
    for (const widget of node.widgets) chain(widget, "callback", soon);
    chain(node, "onConfigure", soon);
    chain(node, "onConnectionsChange", soon);
    soon();
  },
  afterConfigureGraph: updateAll,
});
api.addEventListener("graphChanged", updateAll); // as when the node behind a wire is bypassed

function updateAll() {
  for (const node of allNodes(graph())) if (CLASSES.includes(node.comfyClass)) update(node);
}

function update(node) {
  const input = (name) => node.inputs?.find((each) => each.name === name);
  const isWired = (name) => input(name)?.link != null && isGiven(node, input(name));
  const value = (name) => (input(name)?.link != null ? undefined : node.widgets.find((each) => each.name === name)?.value);
  const silent = withoutSay(node.comfyClass, value, isWired);
  for (const widget of node.widgets) {
    const isSilent = silent.has(widget.name);
    if (Boolean(widget.disabled) !== isSilent) widget.disabled = isSilent;
  }
  node.setDirtyCanvas?.(true, true);
}
