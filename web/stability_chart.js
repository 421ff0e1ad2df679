/** Stability Probe (SAD): its measures, step by step, while the model samples. */

import { app } from "../../scripts/app.js";
import { api } from "../../scripts/api.js";
import { addChart, allNodes, ask, nodeOf } from "./lib/node.js";
import { short } from "./lib/numbers.js";
import { GONE, LOST, merged } from "./lib/run.js";

const EVENT = "symmetric_attention.stability";
const HEIGHT = 210;
const NO_ID = "00000000-0000-0000-0000-000000000000"; // of every graph without an id of its own, as in nodes/host/live_chart.py
const charts = new WeakMap(); // by node: { chart, run, isDue }

// At once and not in setup(): where the editor starts slowly, a run may be over before that is called.
api.addEventListener(EVENT, ({ detail }) => receive(detail));
api.addEventListener("reconnecting", () => mark("running", LOST));
api.addEventListener("reconnected", catchUp);

app.registerExtension({
  name: "symmetric_attention.stability_chart",
  nodeCreated(node) {
    if (node.comfyClass !== "SADStabilityProbe") return;
    const chart = addChart(node, "Stability while sampling", HEIGHT);
    chart.say("The measures of every step appear here while the model samples.");
    charts.set(node, { chart, run: null, isDue: false });
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
    runs.forEach(receive);
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
  state.run = merged(state.run, message);
  drawSoon(state);
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

function draw({ chart, run }) {
  const points = [...run.points.values()].sort((one, other) => one.step - other.step);
  if (!points.length) {
    chart.say(run.status === "running" ? "Sampling; nothing is measured yet." : `${run.status}; nothing was measured.`);
    return;
  }
  const parts = Object.keys(points[0].means);
  const at = (point, part, measure) => point.means[part]?.[measure] ?? null;
  const where = ({ step, progress, sigma }) =>
    `step ${step} at ${Math.round(100 * progress)} %, σ ${short(sigma)}`;
  chart.show({
    note: `${run.status} · ${where(points.at(-1))}`,
    panels: run.measures.map((title, measure) => ({
      title,
      lines: parts.map((part) => ({
        name: part,
        points: points.map((point) => [point.progress, at(point, part, measure)]),
      })),
    })),
    places: points.map((point) => point.progress),
    value: (place, measure) => short(at(points[place], "all", measure)),
    words: (place) => {
      const values = run.measures.map((name, measure) => `${name} ${short(at(points[place], "all", measure))}`);
      return `${run.status}, ${where(points[place])}: ${values.join(", ")}.`;
    },
  });
}
