// Weights of a point in a polygon, and the point for given weights.

import { plainSigns, splitList } from "./typed_lists.mjs";

/** @typedef {[number, number]} Point */

/**
 * The corners of a regular polygon, the first at the top; for two, the ends of a line from left to right.
 * @param {number} count
 * @returns {Point[]} within the unit circle
 */
export function corners(count) {
  if (count === 2) return [[-1, 0], [1, 0]];
  return Array.from({ length: count }, (_, i) => {
    const angle = (2 * Math.PI * i) / count - Math.PI / 2;
    return [Math.cos(angle), Math.sin(angle)];
  });
}

/**
 * Mean value coordinates (Floater, 2003): they sum to 1, reproduce the point, and go below 0 outside.
 * @param {Point[]} shape corners in order
 * @param {Point} point
 * @returns {number[]}
 */
export function weightsAt(shape, [x, y]) {
  if (shape.length === 1) return [1];
  if (shape.length === 2) {
    const [[ax, ay], [bx, by]] = shape;
    const t = ((x - ax) * (bx - ax) + (y - ay) * (by - ay)) / ((bx - ax) ** 2 + (by - ay) ** 2);
    return [1 - t, t];
  }
  const arms = shape.map(([cx, cy]) => [cx - x, cy - y]);
  const far = arms.map(([dx, dy]) => Math.hypot(dx, dy));
  const at = far.findIndex((distance) => distance < 1e-9);
  if (at >= 0) return shape.map((_, i) => (i === at ? 1 : 0));
  // Half the angle under which each side is seen; infinite on the side itself.
  const half = arms.map(([ax, ay], i) => {
    const [bx, by] = arms[(i + 1) % arms.length];
    const cross = ax * by - ay * bx;
    const dot = ax * bx + ay * by;
    return Math.tan(Math.atan2(cross, dot) / 2);
  });
  const side = half.findIndex((tangent) => Math.abs(tangent) > 1e9);
  if (side >= 0) {
    const next = (side + 1) % shape.length;
    const t = far[side] / (far[side] + far[next]);
    return shape.map((_, i) => (i === side ? 1 - t : i === next ? t : 0));
  }
  const raw = far.map((distance, i) => (half[(i + half.length - 1) % half.length] + half[i]) / distance);
  const sum = raw.reduce((a, b) => a + b, 0);
  return raw.map((weight) => weight / sum);
}

/**
 * Projects weights to the nearest ones that sum to 1 and are at least -beta.
 * @param {number[]} weights
 * @param {number} beta
 */
export function allowed(weights, beta) {
  // The same as AlphaSpace._allowed (Duchi et al., ICML 2008).
  const free = 1 + weights.length * beta;
  const falling = weights.map((weight) => weight + beta).sort((a, b) => b - a);
  let total = 0;
  let excess = 0;
  falling.forEach((value, i) => {
    total += value;
    const candidate = (total - free) / (i + 1);
    if (value > candidate) excess = candidate;
  });
  return weights.map((weight) => Math.max(0, weight + beta - excess) - beta);
}

const [RAYS, FARTHEST, HALVINGS] = [96, 2.5, 12];

/**
 * The boundary of the zone in which no weight is below -beta.
 * @param {Point[]} shape
 * @param {number} beta
 * @returns {Point[]}
 */
export function zone(shape, beta) {
  if (shape.length === 2) return shape.map(([x]) => [x * (1 + 2 * beta), 0]);
  /** @param {Point} point */
  const outside = (point) => Math.min(...weightsAt(shape, point)) < -beta;
  return Array.from({ length: RAYS }, (_, ray) => {
    const angle = (2 * Math.PI * ray) / RAYS - Math.PI / 2;
    const [x, y] = [Math.cos(angle), Math.sin(angle)];
    let [inside, beyond] = [Math.cos(Math.PI / shape.length) * 0.99, FARTHEST];
    for (let i = 0; i < HALVINGS; i++) {
      const middle = (inside + beyond) / 2;
      if (outside([x * middle, y * middle])) beyond = middle;
      else inside = middle;
    }
    return [x * inside, y * inside];
  });
}

/**
 * @param {Point[]} shape
 * @param {number[]} weights
 * @returns {Point}
 */
export function pointOf(shape, weights) {
  /** @param {0 | 1} axis */
  const along = (axis) => shape.reduce((sum, corner, i) => sum + weights[i] * corner[axis], 0);
  return [along(0), along(1)];
}

/**
 * Parses "0: 0.5, 3: 0.5" into pairs; invalid parts are skipped, the node itself reports them.
 * @param {string} text
 * @returns {[number, number][]} anchor and weight; the weights sum to 1
 */
export function parseWeights(text) {
  const pairs = splitList(text)
    .map((part) => plainSigns(part).match(/^\s*(\d+)\s*:\s*(-?[\d.]+(?:e-?\d+)?)\s*$/i))
    .filter((match) => match !== null)
    .map((match) => /** @type {[number, number]} */ ([Number(match[1]), Number(match[2])]));
  const sum = pairs.reduce((total, [, weight]) => total + weight, 0);
  return pairs.map(([anchor, weight]) => [anchor, sum > 1e-6 ? weight / sum : 1 / pairs.length]);
}

/** @param {[number, number][]} pairs */
export function writeWeights(pairs) {
  return pairs.map(([anchor, weight]) => `${anchor}: ${Number(weight.toFixed(4))}`).join(", ");
}
