/** Which nodes of a graph take no part in a run. */

import assert from "node:assert/strict";
import { test } from "node:test";

import { askForPrompt, inactiveNodes, nodesInPrompt } from "../../web/lib/node.js";

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

const server = (answer) => ({ fetchApi: async () => ({ ok: true, json: async () => answer }) });
const inside = { id: 3 };
const graph = {
  id: "this",
  getNodeById: (id) => ({ 7: { id: 7 }, 12: { id: 12, subgraph: { getNodeById: () => inside } } })[id],
};

const included = async (api) => nodesInPrompt(graph, await askForPrompt(api, "one"));

test("the nodes of a prompt are those it was queued with, in subgraphs too", async () => {
  const found = await included(server({ nodes: ["7", "12:3"], workflow: "this" }));
  assert.deepEqual([...found].map((node) => node.id), [7, 3]);
  assert.ok(found.has(inside));
  assert.equal((await included(server({ nodes: ["7"], workflow: null }))).size, 1);
});

test("a prompt of another graph, or one that is not known, says nothing of this one", async () => {
  assert.equal(await included(server({ nodes: ["7"], workflow: "other" })), null);
  assert.equal(await included(server({ nodes: [], workflow: null })), null);
  assert.equal(await included({ fetchApi: async () => ({ ok: false, status: 500 }) }), null);
});
