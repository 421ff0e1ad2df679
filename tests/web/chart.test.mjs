import assert from "node:assert/strict";
import { test } from "node:test";

import { styleOf } from "../../web/lib/chart.js";

test("nine lines, four parts of a model and four images among them, are drawn in nine ways", () => {
  const styles = [...Array(9).keys()].map(styleOf);
  assert.equal(new Set(styles.map(({ colour, dashes }) => `${colour} ${dashes}`)).size, 9);
  assert.deepEqual(new Set(styles.slice(5).map(({ colour }) => colour)), new Set(styles.slice(1, 5).map(({ colour }) => colour)));
  assert.ok(styles.every(({ dashes, border }) => (dashes === "") === (border === "solid")));
});
