// @ts-check
/** Which widgets have no say as the other widgets of their node are set; a value that comes by a wire is not known. */

/**
 * @typedef {(name: string) => any} Value the value of a widget, and undefined where a wire gives it.
 * @typedef {(name: string) => boolean} IsWired
 */

const PRESETS = ["linear", "cosine", "ease in", "ease out", "ease in and out"];
/**
 * What counts for each shape, as in nodes/schedule_shapes.py.
 * @type {Record<string, string[]>}
 */
export const FIELDS = {
  constant: ["start_gamma"],
  window: ["start_gamma", "start", "end"],
  keyframes: ["keyframes"],
  curve: ["curve", "curve_min", "curve_max"],
  values: ["values"],
  ...Object.fromEntries(PRESETS.map((shape) => [shape, ["start_gamma", "end_gamma", "start", "end"]])),
};

/** @type {Record<string, (value: Value, isWired: IsWired) => string[]>} */
const WITHOUT_SAY = {
  SADSkewAttention(value, isWired) {
    const isPure = value("beta") === 1 && ["off", "gamma"].includes(value("adaptive"));
    return [...(isWired("schedule") ? ["gamma"] : []), ...(isPure ? ["norm"] : [])];
  },
  SADGammaSchedule(value) {
    const counts = FIELDS[value("shape")];
    return counts ? Object.values(FIELDS).flat().filter((name) => !counts.includes(name)) : [];
  },
  SADStabilityPlot(value) {
    const layout = value("layout");
    return [undefined, "heads", "map"].includes(layout) ? [] : ["site"];
  },
};

/** The classes of the nodes with widgets that may have no say. */
export const CLASSES = Object.keys(WITHOUT_SAY);

/**
 * The names of the widgets that change nothing as things are.
 * @param {string} comfyClass
 * @param {Value} value
 * @param {IsWired} isWired
 * @returns {Set<string>}
 */
export function withoutSay(comfyClass, value, isWired) {
  return new Set(WITHOUT_SAY[comfyClass]?.(value, isWired) ?? []);
}
