// @ts-check
/** A sampling run as the messages of the server tell it; they may come twice, late, or out of order. */

export const LOST = "connection lost"; // the run may go on unseen
export const GONE = "server restarted"; // and it knows nothing of the run
const TELLS_OF_A_RUN = /^.*, (running|finished|interrupted|failed \()/m; // a line of a report or of a summary
const OPEN = ["running", LOST, GONE]; // how the run ended may still be heard

/**
 * @typedef {object} Step
 * @property {number} step
 * @property {number} progress
 * @property {number} sigma
 * @property {Record<string, (number | null)[]>} means by part of the run's samples, one for each measure.
 *
 * @typedef {object} Message
 * @property {string} node
 * @property {string} workflow
 * @property {number} run when it started; later is newer.
 * @property {string} status
 * @property {string[]} measures
 * @property {[number, number, number][][]} [bands] what is normal for each measure: progress, lowest and highest value.
 * @property {Step[]} points
 *
 * @typedef {Omit<Message, "points"> & { points: Map<number, Step> }} Run
 */

/**
 * What is known of the newest run after one more message.
 * @param {Run | null} run
 * @param {Message} message
 * @returns {Run}
 */
export function merged(run, message) {
  if (run && message.run < run.run) return run;
  const before = run?.run === message.run ? run : { points: new Map(), status: "running" };
  const points = new Map(before.points);
  for (const point of message.points) points.set(point.step, point);
  const status = OPEN.includes(before.status) ? message.status : before.status;
  return { ...message, points, status };
}

/**
 * The text of a run when another prompt has started; other texts, and one that says so already, stay as they are.
 * @param {string} text
 * @param {string} mark the line that says so.
 */
export function asEarlier(text, mark) {
  return TELLS_OF_A_RUN.test(text) && !text.startsWith(mark) ? `${mark}\n${text}` : text;
}
