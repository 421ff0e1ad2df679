/** Stability Probe (SAD) and Stability Feedback (SAD): their measures, step by step, while the model samples. */

import { app } from "../../scripts/app.js";
import { api } from "../../scripts/api.js";
import { addChart, allNodes, ask, askForPrompt, inactiveNodes, nodeOf, nodesInPrompt } from "./lib/node.js";
import { short } from "./lib/numbers.js";
import { GONE, LOST, merged } from "./lib/run.js";
import { languageOf } from "./lib/texts.js";

const EVENT = "symmetric_attention.stability";
const HEIGHT = 210;
const NODES = ["SADStabilityProbe", "SADStabilityFeedback"];
const NO_ID = "00000000-0000-0000-0000-000000000000"; // of every graph without an id of its own, as in nodes/host/live_chart.py
const { text, name } = languageOf(app);
const charts = new WeakMap(); // by node: { chart, run, isEarlier, isDue }

// At once and not in setup(): where the editor starts slowly, a run may be over before that is called.
api.addEventListener(EVENT, ({ detail }) => receive(detail));
api.addEventListener("execution_start", begin);
api.addEventListener("reconnecting", () => mark("running", LOST));
api.addEventListener("reconnected", catchUp);

app.registerExtension({
  name: "symmetric_attention.stability_chart",
  nodeCreated(node) {
    if (!NODES.includes(node.comfyClass)) return;
    const chart = addChart(node, text("stabilityChart"), HEIGHT);
    chart.say(text("waiting"));
    charts.set(node, { chart, run: null, isEarlier: false, isDue: false });
  },
  afterConfigureGraph() {
    catchUp(); // not waited for: the editor need not
  },
});

/** Ask for what was measured before this page, or this graph in it, was there to listen. */
async function catchUp() {
  const workflow = graph()?.id;
  if (!workflow || workflow === NO_ID) return; // every graph without an id has the same
  try {
    const runs = await ask(api, "/symmetric_attention/stability", { workflow });
    const inactive = inactiveNodes(graph());
    const isShown = ({ node, status }) => status === "running" || !inactive.has(nodeOf(graph(), node));
    runs.filter(isShown).forEach(receive);
    mark(LOST, GONE); // what the server knew of is told by now
  } catch (error) {
    console.debug("Symmetric Attention (SAD): no earlier steps to be had", error);
  }
}

/** The whole graph, whichever of its subgraphs is looked at; undefined while the editor starts. */
function graph() {
  return app.isGraphReady === false ? undefined : (app.rootGraph ?? app.graph);
}

function receive(message) {
  if (message.workflow !== graph()?.id) return;
  const state = charts.get(nodeOf(graph(), message.node));
  if (!state) return;
  const before = state.run;
  state.run = merged(before, message);
  if (state.run.run !== before?.run) state.isEarlier = false;
  drawSoon(state);
}

/** A prompt of this graph starts: its charts are of an earlier run, until a run comes; nodes it leaves out show none. */
async function begin({ detail }) {
  const shown = [...allNodes(graph())].map((node) => ({ node, state: charts.get(node), run: charts.get(node)?.run?.run }));
  const included = nodesInPrompt(graph(), await askForPrompt(api, detail.prompt_id));
  if (!included) return;
  for (const { node, state, run } of shown) {
    if (run === undefined || state.run?.run !== run) continue; // the prompt samples through it already
    if (!included.has(node)) state.run = null;
    state.isEarlier = true;
    drawSoon(state);
  }
}

/** Change the status of all runs in this graph that have it. */
function mark(status, other) {
  for (const node of allNodes(graph())) {
    const state = charts.get(node);
    if (state?.run?.status !== status) continue;
    state.run = { ...state.run, status: other };
    drawSoon(state);
  }
}

function drawSoon(state) {
  if (state.isDue) return;
  state.isDue = true; // once a frame, however fast the steps come
  requestAnimationFrame(() => {
    state.isDue = false;
    draw(state);
  });
}

function draw({ chart, run, isEarlier }) {
  if (!run) {
    chart.say(text("noPart"));
    return;
  }
  const ending = name(run.status);
  const status = isEarlier ? text("earlierStatus", { status: ending }) : ending;
  const points = [...run.points.values()].sort((one, other) => one.step - other.step);
  if (!points.length) {
    const isBeginning = run.status === "running" && !isEarlier;
    chart.say(isBeginning ? text("unmeasured") : text("nothing", { status }));
    return;
  }
  const parts = Object.keys(points[0].means);
  const at = (point, part, measure) => point.means[part]?.[measure] ?? null;
  const where = ({ step, progress, sigma }) =>
    text("where", { step, percent: Math.round(100 * progress), sigma: short(sigma) });
  chart.show({
    note: `${status} · ${where(points.at(-1))}`,
    panels: run.measures.map((title, measure) => ({
      title: name(title),
      band: run.bands?.[measure],
      lines: parts.map((part) => ({
        name: name(part),
        points: points.map((point) => [point.progress, at(point, part, measure)]),
      })),
    })),
    places: points.map((point) => point.progress),
    value: (place, measure) => short(at(points[place], "all", measure)),
    words: (place) => {
      const values = run.measures.map((title, measure) => `${name(title)} ${short(at(points[place], "all", measure))}`);
      return text("words", { status, where: where(points[place]), values: values.join(", ") });
    },
  });
}
