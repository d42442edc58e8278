// A sphere around a head with a path on it: maps angles to the canvas and back.

import { drawHead } from "./head.mjs";

/** @typedef {import("./path.mjs").Angles} Angles */
/** @typedef {{x: number, y: number, near: number}} Spot on the canvas; near > 0: on the near half */

const RADIANS = Math.PI / 180;
const FILLED = 0.9; // of the canvas
const NEAREST = 2.7; // camera distance for the head in the center, which only shows the viewing direction
const HEAD_VIEW = 30;

/**
 * @param {number} width
 * @param {number} height
 * @param {Angles} view the direction from which the sphere is seen
 */
export function sphere(width, height, [yaw, pitch]) {
  const radius = (FILLED * Math.min(width, height)) / 2;
  const [sy, cy] = [Math.sin(yaw * RADIANS), Math.cos(yaw * RADIANS)];
  const [sp, cp] = [Math.sin(pitch * RADIANS), Math.cos(pitch * RADIANS)];

  /** @param {Angles} angles @returns {Spot} */
  const spot = ([across, up]) => {
    const flat = Math.cos(up * RADIANS);
    const [x, y, z] = [Math.sin(across * RADIANS) * flat, Math.sin(up * RADIANS), Math.cos(across * RADIANS) * flat];
    const ahead = x * sy + z * cy;
    return {
      x: width / 2 + (x * cy - z * sy) * radius,
      y: height / 2 - (y * cp - ahead * sp) * radius,
      near: y * sp + ahead * cp,
    };
  };

  /**
   * The angles under a point of the canvas; outside the sphere, the nearest on its edge.
   * @param {number} x @param {number} y @param {boolean} behind on the far half
   * @returns {Angles}
   */
  const place = (x, y, behind) => {
    let [right, up] = [(x - width / 2) / radius, (height / 2 - y) / radius];
    const far = Math.max(1, Math.hypot(right, up));
    [right, up] = [right / far, up / far];
    const depth = Math.sqrt(Math.max(0, 1 - right * right - up * up)) * (behind ? -1 : 1);
    const ahead = depth * cp - up * sp;
    const height3 = up * cp + depth * sp;
    const [east, north] = [right * cy + ahead * sy, ahead * cy - right * sy];
    return [Math.atan2(east, north) / RADIANS, Math.asin(Math.max(-1, Math.min(1, height3))) / RADIANS];
  };

  /**
   * A line through places, faint on the far half.
   * @param {CanvasRenderingContext2D} context @param {Angles[]} places @param {number} thick
   */
  const line = (context, places, thick) => {
    const spots = places.map(spot);
    context.lineWidth = thick;
    for (let i = 1; i < spots.length; i++) {
      const [from, to] = [spots[i - 1], spots[i]];
      context.globalAlpha = from.near + to.near > 0 ? 1 : 0.3;
      context.beginPath();
      context.moveTo(from.x, from.y);
      context.lineTo(to.x, to.y);
      context.stroke();
    }
    context.globalAlpha = 1;
  };

  /**
   * The sphere's grid lines, and the head in its center.
   * @param {CanvasRenderingContext2D} context @param {{line: string, face: string}} colors
   */
  const draw = (context, colors) => {
    const steps = Array.from({ length: 37 }, (_, i) => i * 10 - 180);
    context.save();
    context.strokeStyle = colors.line;
    context.globalAlpha = 0.5;
    context.beginPath();
    context.arc(width / 2, height / 2, radius, 0, 2 * Math.PI);
    context.stroke();
    context.restore();
    context.save();
    context.strokeStyle = colors.line;
    for (const up of [-60, -30, 0, 30, 60]) line(context, steps.map((at) => [at, up]), up ? 0.4 : 0.8);
    for (const at of [-150, -120, -90, -60, -30, 0, 30, 60, 90, 120, 150, 180]) {
      line(context, steps.filter((up) => Math.abs(up) <= 90).map((up) => [at, up]), at ? 0.4 : 0.8);
    }
    context.restore();
    const camera = { yaw, pitch, roll: 0, distance: NEAREST, field_of_view: HEAD_VIEW };
    drawHead(context, width, height, camera, colors);
  };

  return { spot, place, line, draw, radius };
}
