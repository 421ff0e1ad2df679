/** The calculations behind the charts. */

import assert from "node:assert/strict";
import { test } from "node:test";

import { EDGE, SIZE, area, heightOf, outline, range, short, valueAt } from "../../web/lib/numbers.js";

test("numbers are short and keep their sign", () => {
  const cases = [
    [0, "0"],
    [1.23456, "1.235"],
    [-0.5, "−0.5"],
    [123456, "1.2e+5"],
    [0.00012, "1.2e−4"],
    [null, "–"],
    [undefined, "–"],
  ];
  for (const [number, text] of cases) assert.equal(short(number), text);
});

test("the range spans all lines and the neutral value", () => {
  const lines = [{ points: [[0, 2], [1, null]] }, { points: [[0, -1]] }];
  assert.deepEqual(range(lines), [-1, 2]);
  assert.deepEqual(range(lines, 5), [-1, 5]);
});

test("a range of one value has air around it, and one of none is 0 to 1", () => {
  assert.deepEqual(range([{ points: [[0, 2], [1, 2]] }]), [1.8, 2.2]);
  assert.deepEqual(range([{ points: [[0, 0]] }]), [-0.1, 0.1]);
  assert.deepEqual(range([{ points: [[0, null]] }]), [0, 1]);
});

test("the highest value is drawn near the top and the lowest near the bottom", () => {
  assert.equal(heightOf(3, [1, 3]), EDGE);
  assert.equal(heightOf(1, [1, 3]), SIZE - EDGE);
  assert.equal(heightOf(2, [1, 3]), SIZE / 2);
});

test("a line is lifted over a gap, and a single point is a dot", () => {
  const y = (value) => value;
  assert.equal(outline([[0, 1], [0.5, 2], [0.75, null], [1, 4]], y), "M0 1h0L50 2M100 4h0");
});

test("an area goes along its lower edge and back along its upper one", () => {
  const y = (value) => 10 - value;
  assert.equal(area([[0, 1, 3], [0.5, 2, 5], [1, 2, 4]], y), "M0 9L50 8L100 8L100 6L50 5L0 7Z");
  assert.equal(area([[0, 1, 3]], y), "");
});

test("a value between two points lies on the line between them", () => {
  const points = [[0.2, 1], [0.6, 3]];
  for (const [progress, value] of [[0, 1], [0.2, 1], [0.3, 1.5], [0.6, 3], [1, 3]]) {
    assert.ok(Math.abs(valueAt(points, progress) - value) < 1e-12);
  }
});

test("where a curve jumps, the later value counts", () => {
  assert.equal(valueAt([[0, 1], [0.5, 1], [0.5, 2], [1, 2]], 0.5), 2);
});
