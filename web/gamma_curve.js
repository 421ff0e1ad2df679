/** Gamma Schedule (SAD): the curve its widgets make, as they change. The server computes it; here it is only drawn. */

import { app } from "../../scripts/app.js";
import { api } from "../../scripts/api.js";
import { addChart, ask, chain } from "./lib/node.js";
import { short, valueAt } from "./lib/numbers.js";
import { languageOf } from "./lib/texts.js";

const HEIGHT = 130;
const PAUSE = 120; // milliseconds without a change before the server is asked
const PLACES = 20; // that the arrow keys visit
const { text } = languageOf(app);

app.registerExtension({
  name: "symmetric_attention.gamma_curve",
  nodeCreated(node) {
    if (node.comfyClass !== "SADGammaSchedule") return;
    const widgets = [...node.widgets];
    const chart = addChart(node, text("gammaChart"), HEIGHT);
    let newest = 0;
    let waiting = 0;

    async function refresh() {
      const asked = ++newest;
      const question = {
        widgets: Object.fromEntries(widgets.map((widget) => [widget.name, widget.value])),
        wired: node.inputs.filter((input) => input.link != null).map((input) => input.name),
      };
      let answer;
      try {
        answer = await ask(api, "/symmetric_attention/gamma_curve", question);
      } catch {
        answer = { note: text("noPreview") };
      }
      if (asked === newest) draw(chart, answer); // else a later change is on its way
    }

    function refreshSoon() {
      clearTimeout(waiting);
      waiting = setTimeout(refresh, PAUSE);
    }

    for (const widget of widgets) chain(widget, "callback", refreshSoon);
    chain(node, "onConfigure", refreshSoon);
    chain(node, "onConnectionsChange", refreshSoon);
    refreshSoon();
  },
});

function draw(chart, { points, note, problem, warning }) {
  if (!points) {
    chart.say(problem ?? note, problem !== undefined);
    return;
  }
  const gammas = points.map(([, gamma]) => gamma);
  const low = gammas.reduce((one, other) => Math.min(one, other));
  const high = gammas.reduce((one, other) => Math.max(one, other));
  const places = Array.from({ length: PLACES + 1 }, (_, place) => place / PLACES);
  const at = (place) => 
    text("gammaAt", { gamma: short(valueAt(points, places[place])), percent: Math.round(100 * places[place]) });
  const span = low === high ? text("gammaAllAlong", { gamma: short(low) }) : `γ ${short(low)} … ${short(high)}`;
  chart.show({
    note: [span, warning ?? []].flat().join("\n"),
    panels: [{ title: text("gammaPanel"), lines: [{ name: "γ", points }], neutral: 1 }],
    places,
    value: at,
    words: (place) => text("gammaWords", { first: short(gammas[0]), last: short(gammas.at(-1)), at: at(place) }),
  });
}
