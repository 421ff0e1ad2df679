/** The text of a node's last run, when a prompt starts: it goes from a node that has no part in it, or turns earlier. */

import { app } from "../../scripts/app.js";
import { api } from "../../scripts/api.js";
import { allNodes, inactiveNodes } from "./lib/node.js";
import { NO_PART, asEarlier } from "./lib/run.js";

const TEXT = "$$node-text-preview"; // the widget in which the editor shows a node's progress text
const SAMPLED = ["SADSkewAttention", "SADStabilityProbe"]; // the nodes that tell of the last run through them

api.addEventListener("execution_start", () => {
  const graph = app.isGraphReady === false ? undefined : (app.rootGraph ?? app.graph);
  const inactive = inactiveNodes(graph);
  for (const node of new Set(allNodes(graph))) {
    if (!node.comfyClass?.startsWith("SAD")) continue;
    const shown = node.widgets?.find((widget) => widget.name === TEXT);
    if (!shown?.value) continue;
    if (inactive.has(node)) shown.value = NO_PART;
    else if (SAMPLED.includes(node.comfyClass)) shown.value = asEarlier(shown.value);
  }
});
