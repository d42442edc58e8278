// A wireframe head, shown while there is no picture (yet).

/** @typedef {{yaw: number, pitch: number, roll: number, distance: number, field_of_view: number}} Camera */

const RADIANS = Math.PI / 180;
// An ellipsoid: half width, half height and half depth of a head in EG3D's units.
const [WIDE, HIGH, DEEP] = [0.15, 0.2, 0.18];

/** @param {number} across @param {number} up */
const onHead = (across, up) => [
  WIDE * Math.sin(across) * Math.cos(up),
  HIGH * Math.sin(up),
  DEEP * Math.cos(across) * Math.cos(up),
];

/** @param {number} count @param {(t: number) => number[]} point t from 0 to 1 */
const curve = (count, point) => Array.from({ length: count + 1 }, (_, i) => point(i / count));

/** @param {number} x @param {number} y */
const eye = (x, y) =>
  curve(10, (t) => onHead(x + 0.16 * Math.cos(2 * Math.PI * t), y + 0.07 * Math.sin(2 * Math.PI * t)));

const LINES = [
  ...[-60, -30, 0, 30, 60].map((up) => curve(36, (t) => onHead(2 * Math.PI * t, up * RADIANS))),
  ...[0, 45, 90, 135].map((across) => curve(36, (t) => onHead(across * RADIANS, 2 * Math.PI * t))),
];
const FACE = [
  eye(-0.42, 0.12),
  eye(0.42, 0.12),
  [onHead(0, 0.1), [0, -0.03, DEEP + 0.05], onHead(0, -0.22)],
  curve(8, (t) => onHead(0.3 * (2 * t - 1), -0.5 - 0.06 * Math.sin(Math.PI * t))),
];

/**
 * @param {CanvasRenderingContext2D} context
 * @param {number} width
 * @param {number} height
 * @param {Camera} camera degrees
 * @param {{line: string, face: string}} colors
 */
export function drawHead(context, width, height, camera, colors) {
  const [yaw, pitch, roll] = [camera.yaw, camera.pitch, camera.roll].map((angle) => angle * RADIANS);
  const [sy, cy, sp, cp, sr, cr] = [yaw, pitch, roll].flatMap((angle) => [Math.sin(angle), Math.cos(angle)]);
  const size = (Math.min(width, height) / 2) * (1 / Math.tan((camera.field_of_view / 2) * RADIANS));

  /** Projects a point to the canvas, with its distance in front of the head's center. @param {number[]} point */
  const seen = ([x, y, z]) => {
    const right = x * cy - z * sy;
    const ahead = x * sy + z * cy;
    const up = y * cp - ahead * sp;
    const near = y * sp + ahead * cp;
    const scale = size / Math.max(0.05, camera.distance - near);
    return [width / 2 + (right * cr - up * sr) * scale, height / 2 - (right * sr + up * cr) * scale, near];
  };

  /** @param {number[][]} line @param {string} color @param {number} thick */
  const stroke = (line, color, thick) => {
    const points = line.map(seen);
    for (let i = 1; i < points.length; i++) {
      context.globalAlpha = points[i][2] + points[i - 1][2] > 0 ? 1 : 0.15;
      context.strokeStyle = color;
      context.lineWidth = thick;
      context.beginPath();
      context.moveTo(points[i - 1][0], points[i - 1][1]);
      context.lineTo(points[i][0], points[i][1]);
      context.stroke();
    }
  };
  context.save();
  context.lineCap = "round";
  for (const line of LINES) stroke(line, colors.line, 1);
  for (const line of FACE) stroke(line, colors.face, 2);
  context.restore();
}
