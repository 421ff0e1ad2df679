// @ts-check
/** The calculations behind a chart, without a page: numbers as text, their range, and the outline of a line. */

export const SIZE = 100; // of the drawing, stretched to whatever room there is
export const EDGE = 8; // left free above the highest and below the lowest value

/** @typedef {[number, number | null]} Point progress 0 … 1 and value; null leaves a gap. */

/**
 * A number in as few characters as say something.
 * @param {number | null | undefined} number
 */
export function short(number) {
  if (number === null || number === undefined) return "–";
  const size = Math.abs(number);
  const text = size !== 0 && (size >= 1e5 || size < 1e-3) ? number.toExponential(1) : String(+number.toPrecision(4));
  return text.replace("-", "−");
}

/** @param {number} number to three decimals. */
export function round(number) {
  return Math.round(number * 1000) / 1000;
}

/**
 * The lowest and the highest value, the neutral one among them, with a little air where all are the same.
 * @param {{ points: Point[] }[]} lines
 * @param {number} [neutral]
 * @returns {[number, number]}
 */
export function range(lines, neutral) {
  const values = lines.flatMap(({ points }) => points.map(([, value]) => value)).filter((value) => value !== null);
  if (neutral !== undefined) values.push(neutral);
  if (!values.length) return [0, 1];
  const low = values.reduce((one, other) => Math.min(one, other));
  const high = values.reduce((one, other) => Math.max(one, other));
  const air = low === high ? Math.abs(low) * 0.1 || 0.1 : 0;
  return [low - air, high + air];
}

/**
 * The height of a value in the drawing, 0 at the top.
 * @param {number} number
 * @param {[number, number]} range
 */
export function heightOf(number, [low, high]) {
  return round(SIZE - EDGE - ((SIZE - 2 * EDGE) * (number - low)) / (high - low));
}

/**
 * The `d` of a path through points, lifted over gaps; a single point becomes a dot.
 * @param {Point[]} points
 * @param {(value: number) => number} y the height of a value.
 */
export function outline(points, y) {
  let isDown = false;
  return points
    .map(([progress, value]) => {
      if (value === null) return (isDown = false), "";
      const command = isDown ? "L" : "M";
      const dot = isDown ? "" : "h0";
      isDown = true;
      return `${command}${round(SIZE * progress)} ${y(value)}${dot}`;
    })
    .join("");
}

/**
 * The `d` of an area between two lines; empty for fewer than two points.
 * @param {[number, number, number][]} points progress, lowest and highest value.
 * @param {(value: number) => number} y the height of a value.
 */
export function area(points, y) {
  if (points.length < 2) return "";
  const low = points.map(([progress, value]) => `${round(SIZE * progress)} ${y(value)}`);
  const high = points.map(([progress, , value]) => `${round(SIZE * progress)} ${y(value)}`).reverse();
  return `M${[...low, ...high].join("L")}Z`;
}

/**
 * The value at a progress, on the straight lines between the points.
 * @param {[number, number][]} points with progress rising.
 * @param {number} progress
 */
export function valueAt(points, progress) {
  const after = points.findIndex(([start]) => start > progress);
  if (after <= 0) return points[after < 0 ? points.length - 1 : 0][1];
  const [[start, value], [stop, target]] = [points[after - 1], points[after]];
  return value + ((target - value) * (progress - start)) / (stop - start);
}
