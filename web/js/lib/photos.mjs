// Manual decisions about photos: to and from the text that Align Faces reads.

/** @typedef {[number, number]} Place fractions of the photo's width and height */
/** @typedef {{keep?: boolean, face?: Place, points?: Place[]}} Decision */
/**
 * @typedef {{name: string, kept: boolean, reason: string, warnings: string[], by_hand: string,
 *   boxes: [number, number, number, number][], points: Place[] | null,
 *   file: {filename: string, subfolder: string, type: string}}} Photo
 */

/**
 * Parses the decisions; invalid text gives none, the node itself reports it.
 * @param {string} text
 * @returns {Record<string, Decision>}
 */
export function parseDecisions(text) {
  try {
    const found = JSON.parse(text);
    return found && typeof found === "object" && !Array.isArray(found) ? found : {};
  } catch {
    return {};
  }
}

/**
 * @param {Record<string, Decision>} decisions
 * @returns {string} "" if there are no decisions
 */
export function writeDecisions(decisions) {
  const kept = Object.entries(decisions).filter(([, { keep, face, points }]) => face || points || keep !== undefined);
  return kept.length ? JSON.stringify(Object.fromEntries(kept)) : "";
}

/** @param {number} value */
const part = (value) => Number(Math.min(1, Math.max(0, value)).toFixed(4));

/** @param {number} x @param {number} y @returns {Place} */
export const placeAt = (x, y) => [part(x), part(y)];

/** The center of a box. @param {[number, number, number, number]} box */
export const middle = ([left, top, right, bottom]) => placeAt((left + right) / 2, (top + bottom) / 2);

/** Five points at their usual places in a face's box. @param {[number, number, number, number]} box @returns {Place[]} */
export function usualPoints([left, top, right, bottom]) {
  /** @param {number} x @param {number} y */
  const at = (x, y) => placeAt(left + x * (right - left), top + y * (bottom - top));
  return [at(0.3, 0.4), at(0.7, 0.4), at(0.5, 0.58), at(0.35, 0.75), at(0.65, 0.75)];
}
