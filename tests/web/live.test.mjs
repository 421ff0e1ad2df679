/** Which widgets have no say. */

import assert from "node:assert/strict";
import { test } from "node:test";

import { withoutSay } from "../../web/lib/live.js";

const silent = (comfyClass, values, ...wired) =>
  [...withoutSay(comfyClass, (name) => values[name], (name) => wired.includes(name))].sort();

test("a schedule takes gamma's place, and lengths need no care where beta is 1", () => {
  assert.deepEqual(silent("SADSkewAttention", { beta: 3, adaptive: "off" }), []);
  assert.deepEqual(silent("SADSkewAttention", { beta: 3, adaptive: "off" }, "schedule"), ["gamma"]);
  assert.deepEqual(silent("SADSkewAttention", { beta: 1, adaptive: "gamma" }), ["norm"]);
  assert.deepEqual(silent("SADSkewAttention", { beta: 1, adaptive: "gamma and beta" }), []);
  assert.deepEqual(silent("SADSkewAttention", { beta: undefined, adaptive: "off" }), []);
});

test("a shape has the say of its own fields only, and all have one where the shape comes by a wire", () => {
  assert.deepEqual(silent("SADGammaSchedule", { shape: "values" }).includes("values"), false);
  assert.equal(silent("SADGammaSchedule", { shape: "values" }).length, 8);
  assert.deepEqual(silent("SADGammaSchedule", { shape: undefined }), []);
});

test("a site counts for the layouts that show one", () => {
  assert.deepEqual(silent("SADStabilityPlot", { layout: "curves" }), ["site"]);
  assert.deepEqual(silent("SADStabilityPlot", { layout: "map" }), []);
});

test("a node that is not known keeps all its widgets", () => {
  assert.deepEqual(silent("KSampler", {}), []);
});
