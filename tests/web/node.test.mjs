/** Which nodes of a graph take no part in a run. */

import assert from "node:assert/strict";
import { test } from "node:test";

import { inactiveNodes } from "../../web/lib/node.js";

const [ALWAYS, MUTED, BYPASSED] = [0, 2, 4];
const names = (graph) => [...inactiveNodes(graph)].map((node) => node.name);

test("bypassed and muted nodes take no part, with all in them", () => {
  const inner = { nodes: [{ name: "inner", mode: ALWAYS }] };
  const nodes = [
    { name: "on", mode: ALWAYS },
    { name: "muted", mode: MUTED },
    { name: "bypassed", mode: BYPASSED, subgraph: inner },
    { name: "around", mode: ALWAYS, subgraph: { nodes: [{ name: "deep", mode: MUTED }] } },
  ];
  assert.deepEqual(names({ nodes }), ["muted", "bypassed", "inner", "deep"]);
});

test("a subgraph that is used twice takes part where one of its uses does", () => {
  const inner = { nodes: [{ name: "inner", mode: ALWAYS }] };
  const use = (mode) => ({ name: "use", mode, subgraph: inner });
  assert.deepEqual(names({ nodes: [use(BYPASSED), use(ALWAYS)] }), ["use"]);
  assert.deepEqual(names({ nodes: [use(BYPASSED), use(MUTED)] }), ["use", "inner", "use"]);
});

test("no graph has no nodes", () => {
  assert.deepEqual(names(undefined), []);
});
