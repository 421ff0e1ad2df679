/** The text of a node's last run: shown in whatever graph the node is, and dropped or marked when a prompt starts. */

import { app } from "../../scripts/app.js";
import { api } from "../../scripts/api.js";
import { allNodes, nodeOf, nodesInPrompt, widen } from "./lib/node.js";
import { asEarlier } from "./lib/run.js";
import { showText, textOf } from "./lib/text.js";
import { languageOf } from "./lib/texts.js";

const SAMPLED = ["SADSkewAttention", "SADStabilityProbe"]; // the nodes that describe the last run through them
const language = languageOf(app);
const isOurs = (node) => node?.comfyClass?.startsWith("SAD");
const wholeGraph = () => (app.isGraphReady === false ? undefined : (app.rootGraph ?? app.graph));

api.addEventListener("progress_text", ({ detail }) => {
  const node = nodeOf(wholeGraph(), String(detail?.nodeId));
  if (isOurs(node) && detail.text) showText(node, detail.text, language.text("lastRun"));
});

api.addEventListener("execution_start", async ({ detail }) => {
  const graph = wholeGraph();
  const ours = [...new Set(allNodes(graph))].filter(isOurs);
  const shown = ours.map((node) => ({ node, widget: textOf(node), text: textOf(node)?.value }));
  const included = await nodesInPrompt(api, graph, detail.prompt_id);
  if (!included) return;
  for (const { node, widget, text } of shown) {
    if (!text || widget.value !== text) continue; // the prompt has reported by now
    if (!included.has(node)) widget.value = language.text("noPart");
    else if (SAMPLED.includes(node.comfyClass)) widget.value = asEarlier(text, language.text("earlierRun"));
  }
});

app.registerExtension({
  name: "symmetric_attention.shown_text",
  nodeCreated(node) {
    if (isOurs(node)) widen(node);
  },
});
