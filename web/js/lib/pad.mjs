// The pad: turn a head by dragging, with a live preview if there is one, otherwise a wireframe.

import { COLORS, box, contain, element, surface, themed } from "./element.mjs";
import { drawHead } from "./head.mjs";
import { LiveView, whenIdle } from "./live.mjs";

/** @typedef {import("./head.mjs").Camera} Camera */

export const FRONT = { yaw: 0, pitch: 0, roll: 0, distance: 2.7, field_of_view: 13.3738 };
const DEGREES_ACROSS = 150;
const STEP = 5;
const HELP =
  "Drag or use the arrow keys to turn; once the pad is selected, the wheel changes the distance (with Shift or " +
  "Alt the field of view); double-click or Home returns to the front.";

/**
 * @param {object} given
 * @param {() => Camera} given.camera the current camera
 * @param {(change: Partial<Camera>) => void} given.move applies a change
 * @param {() => object | undefined} given.request the live request; undefined: no preview
 * @param {string} given.label
 * @param {AbortSignal} given.signal
 */
export function pad({ camera, move, request, label, signal }) {
  /** @type {ImageBitmap | null} */
  let picture = null;
  let dragging = false;
  let message = "";

  const view = new LiveView(
    (shown) => {
      picture?.close();
      picture = shown;
      stale = false;
      redraw();
    },
    (text) => {
      message = text;
      caption();
    },
    signal,
  );
  let stale = true;

  let missed = false; // something changed while the pad was not visible
  const { canvas, redraw } = surface((context, width, height) => {
    if (missed) setTimeout(() => show());
    const now = camera();
    const lines = !picture || (stale && view.slow);
    if (picture) {
      context.globalAlpha = lines ? 0.25 : 1;
      contain(context, picture, [0, 0, picture.width, picture.height], [0, 0, width, height]);
      context.globalAlpha = 1;
    }
    if (lines) {
      const line = themed(canvas, "--descrip-text", "#999");
      drawHead(context, width, height, now, { line, face: themed(canvas, "--input-text", "#ddd") });
    }
  }, signal);

  const text = element("div", { color: COLORS.faint, textAlign: "center", minHeight: "14px" });
  const root = box({ tabindex: "0", role: "application", "aria-roledescription": "camera pad", title: HELP }, [
    canvas,
    text,
  ]);
  Object.assign(root.style, { cursor: "grab", touchAction: "none", outline: "none" });
  Object.assign(canvas.style, { border: `1px solid ${COLORS.line}`, boxSizing: "border-box" });

  const caption = () => {
    const { yaw, pitch, distance } = camera();
    const numbers = `yaw ${Math.round(yaw)}°  pitch ${Math.round(pitch)}°  distance ${distance.toFixed(2)}`;
    text.textContent = message || numbers;
    text.title = message;
    root.setAttribute("aria-label", `${label}: ${numbers}. ${HELP}`);
  };

  /**
   * Shows the current state.
   * @param {"drag" | "still"} [quality]
   */
  const show = (quality = dragging ? "drag" : "still") => {
    stale = true;
    missed = !canvas.clientWidth;
    caption();
    redraw();
    const wanted = missed ? undefined : request();
    if (wanted) view.ask({ ...wanted, ...camera(), quality });
  };

  /** @param {Partial<Camera>} change */
  const apply = (change) => {
    move(change);
    show();
  };

  /** @param {number} yaw @param {number} pitch */
  const turn = (yaw, pitch) => {
    const now = camera();
    const around = ((((now.yaw + yaw + 180) % 360) + 360) % 360) - 180;
    apply({ yaw: Math.round(around), pitch: Math.round(Math.min(89, Math.max(-89, now.pitch + pitch))) });
  };

  /** @param {string} color */
  const frame = (color) => (canvas.style.borderColor = color);

  let [startX, startY, startYaw, startPitch] = [0, 0, 0, 0];
  /** @type {Record<string, (event: any) => void>} */
  const events = {
    focus() {
      frame(COLORS.accent);
      root.dataset.captureWheel = "true"; // otherwise Nodes 2.0 uses the wheel for its canvas
    },
    blur() {
      frame(COLORS.line);
      delete root.dataset.captureWheel;
    },
    pointerdown(event) {
      if (event.button !== 0) return;
      event.stopPropagation();
      root.focus({ preventScroll: true });
      root.setPointerCapture(event.pointerId);
      root.style.cursor = "grabbing";
      dragging = true;
      ({ yaw: startYaw, pitch: startPitch } = camera());
      [startX, startY] = [event.clientX, event.clientY];
    },
    pointermove(event) {
      if (!dragging) return;
      event.stopPropagation();
      const degrees = DEGREES_ACROSS / (canvas.getBoundingClientRect().width || 1);
      const now = camera();
      // The head follows the pointer, so the camera moves the other way.
      turn(
        startYaw - (event.clientX - startX) * degrees - now.yaw,
        startPitch + (event.clientY - startY) * degrees - now.pitch,
      );
    },
    pointerup() {
      if (!dragging) return;
      dragging = false;
      root.style.cursor = "grab";
      show();
    },
    dblclick(event) {
      event.stopPropagation();
      apply({ yaw: 0, pitch: 0 });
    },
    wheel(event) {
      if (document.activeElement !== root) return; // the wheel zooms the canvas until the pad is selected
      event.preventDefault();
      event.stopPropagation();
      const factor = Math.exp(Math.sign(event.deltaY || event.deltaX) * 0.05);
      const name = event.shiftKey || event.altKey ? "field_of_view" : "distance";
      const digits = name === "distance" ? 100 : 10000;
      apply({ [name]: Math.round(camera()[name] * factor * digits) / digits });
    },
    keydown(event) {
      const moves = {
        ArrowLeft: () => turn(-STEP, 0),
        ArrowRight: () => turn(STEP, 0),
        ArrowUp: () => turn(0, STEP),
        ArrowDown: () => turn(0, -STEP),
        Home: () => apply({ yaw: 0, pitch: 0 }),
      };
      if (event.ctrlKey || event.metaKey || event.altKey || !(event.key in moves)) return;
      event.preventDefault();
      event.stopPropagation();
      moves[/** @type {keyof typeof moves} */ (event.key)]();
    },
  };
  events.pointercancel = events.pointerup;
  for (const [name, listener] of Object.entries(events)) {
    root.addEventListener(name, listener, { signal, passive: false });
  }
  whenIdle(() => show(), signal); // the head may have changed after a run
  signal.addEventListener("abort", () => picture?.close());
  caption();
  return { root, show };
}
