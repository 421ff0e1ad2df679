/**
 * The text of a node's last run: shown in whatever graph the node is, and dropped or marked when a prompt starts. It is shown
 * again when the editor makes the node anew, as when the user comes back from another tab.
 */

import { app } from "../../scripts/app.js";
import { api } from "../../scripts/api.js";
import { KeptTexts } from "./lib/kept.js";
import { askForPrompt, chain, nodeOf, nodesInPrompt, widen } from "./lib/node.js";
import { asEarlier } from "./lib/run.js";
import { heightWithoutText, showText } from "./lib/text.js";
import { languageOf } from "./lib/texts.js";

const SAMPLED = ["SADSkewAttention", "SADStabilityProbe"]; // the nodes that describe the last run through them
const language = languageOf(app);
const texts = new KeptTexts(sessionStorage);
/** The id of the graph that runs, once the server has said it; null where nothing runs or the graph is not known. */
let graphOfRun = Promise.resolve(null);
const isOurs = (node) => node?.comfyClass?.startsWith("SAD");
const wholeGraph = () => (app.isGraphReady === false ? undefined : (app.rootGraph ?? app.graph));

api.addEventListener("progress_text", async ({ detail }) => {
  if (!detail?.text) return;
  const known = await graphOfRun; // a text may come before the server has said whose it is
  const graph = wholeGraph();
  if (!graph) return;
  const of = known ?? graph.id;
  if (of !== graph.id) texts.keep(of, String(detail.nodeId), detail.text); // it is in another tab
  else show(graph, String(detail.nodeId), detail.text);
});

api.addEventListener("execution_start", async ({ detail }) => {
  const graph = wholeGraph();
  if (!graph) return;
  const shown = texts.of(graph.id);
  const asked = askForPrompt(api, detail.prompt_id);
  graphOfRun = asked.then((prompt) => prompt?.workflow ?? null);
  const prompt = await asked;
  const included = nodesInPrompt(graph, prompt);
  if (!included) return;
  const now = new Map(texts.of(graph.id));
  for (const [id, text] of shown) {
    const node = nodeOf(graph, id);
    if (now.get(id) !== text) continue; // the prompt has reported by now
    if (!included.has(node)) show(graph, id, language.text("noPart"));
    else if (SAMPLED.includes(node.comfyClass)) show(graph, id, asEarlier(text, language.text("earlierRun")));
  }
});

for (const ending of ["execution_success", "execution_error", "execution_interrupted"])
  api.addEventListener(ending, () => (graphOfRun = Promise.resolve(null)));

app.registerExtension({
  name: "symmetric_attention.shown_text",
  nodeCreated(node) {
    if (!isOurs(node)) return;
    widen(node);
    chain(node, "onSerialize", (saved) => {
      saved.size = [node.size[0], heightWithoutText(node)];
    });
  },
  afterConfigureGraph() {
    const graph = wholeGraph();
    for (const [id, text] of texts.of(graph?.id)) {
      const node = nodeOf(graph, id);
      if (isOurs(node)) showText(node, text, language.text("lastRun"));
    }
  },
});

/** Show a text on a node of the graph that is looked at, if the node is ours, and keep it. */
function show(graph, id, text) {
  const node = nodeOf(graph, id);
  if (!isOurs(node)) return;
  showText(node, text, language.text("lastRun"));
  texts.keep(graph.id, id, text);
}
