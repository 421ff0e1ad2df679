/** Nodes that are bypassed or muted: the text of an earlier run goes when a run starts without them. */

import { app } from "../../scripts/app.js";
import { api } from "../../scripts/api.js";
import { inactiveNodes } from "./lib/node.js";
import { NO_PART } from "./lib/run.js";

const TEXT = "$$node-text-preview"; // the widget in which the editor shows a node's progress text

api.addEventListener("execution_start", () => {
  for (const node of inactiveNodes(app.rootGraph ?? app.graph)) {
    if (!node.comfyClass?.startsWith("SAD")) continue;
    const shown = node.widgets?.find((widget) => widget.name === TEXT);
    if (shown?.value) shown.value = NO_PART;
  }
});
