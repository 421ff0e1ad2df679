/** What the stability chart knows of a run, however the messages of the server arrive. */

import assert from "node:assert/strict";
import { test } from "node:test";

import { GONE, LOST, asEarlier, merged } from "../../web/lib/run.js";
import { TEXTS } from "../../web/lib/texts.js";

const message = (run, status, ...steps) => ({
  node: "3",
  workflow: "w",
  run,
  status,
  measures: ["energy"],
  points: steps.map((step) => ({ step, progress: step / 4, sigma: 1, means: { all: [step] } })),
});
const steps = (run) => [...run.points.keys()];

test("messages add up, and one that comes twice counts once", () => {
  const run = [message(1, "running", 1), message(1, "running", 2), message(1, "running", 2)].reduce(merged, null);
  assert.deepEqual(steps(run), [1, 2]);
  assert.equal(run.status, "running");
});

test("a newer run takes the place of an older one, whose late messages are dropped", () => {
  const newer = merged(merged(null, message(1, "running", 1)), message(2, "running", 7));
  assert.deepEqual(steps(newer), [7]);
  assert.equal(merged(newer, message(1, "finished", 2)), newer);
});

test("a run that has ended stays ended, whatever comes late", () => {
  const ended = merged(merged(null, message(1, "finished")), message(1, "running", 4));
  assert.equal(ended.status, "finished");
  assert.deepEqual(steps(ended), [4]);
});

test("after a lost connection the end of the run is still heard", () => {
  for (const status of [LOST, GONE]) {
    const lost = { ...merged(null, message(1, "running", 1)), status };
    assert.equal(merged(lost, message(1, "finished", 2)).status, "finished");
  }
});

test("a message changes no run that was handed out before", () => {
  const first = merged(null, message(1, "running", 1));
  merged(first, message(1, "running", 2));
  assert.deepEqual(steps(first), [1]);
});

test("the text of a run turns earlier once, other texts stay", () => {
  const told = "γ 2 acted in the whole run, at 7 of 7 sites.\nSD15, finished: 7 of 7 chosen sites reached\nSD15, finished: twice";
  for (const mark of Object.values(TEXTS).map(({ earlierRun }) => earlierRun)) {
    assert.equal(asEarlier(told, mark), `${mark}\n${told}`);
    assert.equal(asEarlier(asEarlier(told, mark), mark), asEarlier(told, mark));
    assert.ok(asEarlier("SD15, failed (OutOfMemoryError): 3 of 7", mark).startsWith(mark));
  }
  const plan = "γ is 1 throughout or β is 0, so the model is passed on unchanged.";
  assert.equal(asEarlier(plan, "Earlier run."), plan);
});
