/** The text of a node's last run, when a prompt starts: it goes from a node that has no part in it, or turns earlier. */

import { app } from "../../scripts/app.js";
import { api } from "../../scripts/api.js";
import { allNodes, nodesInPrompt } from "./lib/node.js";
import { NO_PART, asEarlier } from "./lib/run.js";

const TEXT = "$$node-text-preview"; // the widget in which the editor shows a node's progress text
const SAMPLED = ["SADSkewAttention", "SADStabilityProbe"]; // the nodes that tell of the last run through them

api.addEventListener("execution_start", async ({ detail }) => {
  const graph = app.isGraphReady === false ? undefined : (app.rootGraph ?? app.graph);
  const shown = [...new Set(allNodes(graph))].map((node) => ({ node, widget: textOf(node), text: textOf(node)?.value }));
  const included = await nodesInPrompt(api, graph, detail.prompt_id);
  if (!included) return;
  for (const { node, widget, text } of shown) {
    if (!text || widget.value !== text) continue; // the prompt has told of itself by now
    if (!included.has(node)) widget.value = NO_PART;
    else if (SAMPLED.includes(node.comfyClass)) widget.value = asEarlier(text);
  }
});

function textOf(node) {
  return node.comfyClass?.startsWith("SAD") ? node.widgets?.find((widget) => widget.name === TEXT) : undefined;
}
