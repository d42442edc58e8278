// Camera paths: the camera's angles at each frame, as Camera Path computes them.

import { plainSigns, splitList } from "./typed_lists.mjs";

/** @typedef {[number, number]} Angles yaw and pitch in degrees */
/** @typedef {{path: string, frames: number, yaw: number, pitch: number, center_pitch: number, keyframes: string}} Setting */

export const OPEN = "keyframes";
export const CLOSED = "closed keyframes";
/** Paths that are not closed. */
export const ONCE = ["sweep", "spiral", OPEN];
const HIGHEST = 89;

/** @param {number} yaw any degrees @returns {number} the same within [-180, 180) */
export const around = (yaw) => ((((yaw + 180) % 360) + 360) % 360) - 180;

/** @param {number} pitch */
export const level = (pitch) => Math.min(HIGHEST, Math.max(-HIGHEST, pitch));

/**
 * Parses "-30 0, 0 12" into pairs; invalid parts are skipped, the node itself reports them.
 * @param {string} text
 * @returns {Angles[]}
 */
export function parseKeys(text) {
  const pairs = splitList(text).map((part) => plainSigns(part).split(/\s+/).map(Number));
  const right = pairs.filter((pair) => pair.length === 2 && pair.every(Number.isFinite));
  return /** @type {Angles[]} */ (right);
}

/** @param {Angles[]} keys */
export function writeKeys(keys) {
  return keys.map(([yaw, pitch]) => `${Math.round(around(yaw))} ${Math.round(level(pitch))}`).join(", ");
}

/**
 * A Catmull-Rom spline through keyframes, the same as `keyframe_path` in the core.
 * @param {Angles[]} keys at least one
 * @param {boolean} closed
 * @param {number} frames
 * @returns {Angles[]}
 */
export function spline(keys, closed, frames) {
  const count = keys.length;
  const steps = keys.map(([yaw], i) => around(keys[(i + 1) % count][0] - yaw)); // the shorter way around
  const turn = steps.reduce((sum, step) => sum + step, 0);
  /** @type {Angles[]} */
  const unrolled = [keys[0]];
  for (let i = 1; i < count; i++) unrolled.push([unrolled[i - 1][0] + steps[i - 1], keys[i][1]]);
  /** @param {number} i @returns {Angles} */
  const key = (i) => {
    if (!closed) return unrolled[Math.min(count - 1, Math.max(0, i))];
    const rounds = Math.floor(i / count);
    const [yaw, pitch] = unrolled[i - rounds * count];
    return [yaw + rounds * turn, pitch];
  };
  return Array.from({ length: frames }, (_, frame) => {
    const t = closed ? (frame / frames) * count : frames > 1 ? (frame / (frames - 1)) * (count - 1) : 0;
    const whole = Math.floor(t);
    const s = t - whole;
    const [a, b, c, d] = [-1, 0, 1, 2].map((offset) => key(whole + offset));
    /** @param {0 | 1} axis */
    const along = (axis) => {
      const [p, q, r, u] = [a[axis], b[axis], c[axis], d[axis]];
      return q + (s / 2) * (r - p + s * (2 * p - 5 * q + 4 * r - u + s * (3 * (q - r) + u - p)));
    };
    return [around(along(0)), level(along(1))];
  });
}

/**
 * The camera's angles at each frame.
 * @param {Setting} setting the node's inputs
 * @returns {Angles[]}
 */
export function cameras({ path, frames, yaw, pitch, center_pitch: middle, keyframes }) {
  if (path === OPEN || path === CLOSED) {
    const keys = parseKeys(keyframes);
    return keys.length ? spline(keys, path === CLOSED, frames) : [];
  }
  return Array.from({ length: frames }, (_, frame) => {
    const turn = (2 * Math.PI * frame) / frames;
    const [sine, cosine, twice] = [Math.sin(turn), Math.cos(turn), Math.sin(2 * turn)];
    if (path === "spiral") {
      const left = frames > 1 ? 1 - frame / (frames - 1) : 0;
      const angle = 4 * Math.PI * left;
      return [yaw * left * Math.cos(angle), middle + pitch * left * Math.sin(angle)];
    }
    if (path === "sweep") return [frames > 1 ? yaw * ((2 * frame) / (frames - 1) - 1) : 0, middle];
    const up = path === "ellipse" ? cosine : path === "figure8" ? twice : 0;
    return [yaw * sine, middle + pitch * up];
  });
}

/**
 * The frame at which the path passes a keyframe.
 * @param {number} key number of the keyframe
 * @param {number} count number of keyframes
 * @param {boolean} closed
 * @param {number} frames
 */
export const frameOf = (key, count, closed, frames) =>
  Math.round(closed ? (key / count) * frames : count > 1 ? (key / (count - 1)) * (frames - 1) : 0);
