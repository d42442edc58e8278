// Render Head: scrub through the rendered frames, or look around the head live.

import { app } from "../../../scripts/app.js";
import { api } from "../../../scripts/api.js";
import { box, button, contain, element, range, rest, surface, themed } from "./lib/element.mjs";
import { head, recall } from "./lib/live.mjs";
import { after, place } from "./lib/nodes.mjs";
import { FRONT, pad } from "./lib/pad.mjs";

const FRAMES_A_SECOND = 24;
const PIXELS_A_FRAME = 6;

/** @typedef {{filename: string, subfolder: string, type: string, count: number, columns: number, size: number}} Sheet */

/**
 * The frames of one sheet: a canvas to drag over, a slider, play.
 * @param {AbortSignal} signal
 */
function frames(signal) {
  /** @type {Sheet | null} */
  let sheet = null;
  /** @type {HTMLImageElement | null} */
  let image = null;
  let at = 0;
  let playing = 0;

  const { canvas, redraw } = surface((context, width, height) => {
    if (!sheet || !image?.complete || !image.naturalWidth) {
      context.fillStyle = themed(canvas, "--descrip-text", "#999");
      context.font = "11px Inter, system-ui, sans-serif";
      context.textAlign = "center";
      return context.fillText("The frames appear here after a run.", width / 2, height / 2);
    }
    const { columns, size } = sheet;
    const corner = /** @type {const} */ ([(at % columns) * size, Math.floor(at / columns) * size]);
    contain(context, image, [...corner, size, size], [0, 0, width, height]);
  }, signal);
  Object.assign(canvas.style, { cursor: "ew-resize", touchAction: "none" });

  /** @param {number} frame */
  const go = (frame) => {
    const count = sheet?.count ?? 1;
    at = ((Math.round(frame) % count) + count) % count;
    slider.value = String(at);
    slider.setAttribute("aria-valuetext", `frame ${at + 1} of ${count}`);
    redraw();
  };

  const stop = () => {
    clearInterval(playing);
    playing = 0;
    play.textContent = "▶";
  };
  const play = button(
    "▶",
    "Play the frames in a loop",
    () => {
      if (playing) return stop();
      playing = window.setInterval(() => go(at + 1), 1000 / FRAMES_A_SECOND);
      play.textContent = "❚❚";
    },
    signal,
  );
  const slider = range("Frame", signal);
  slider.addEventListener("input", () => (stop(), go(Number(slider.value))), { signal });

  let [from, start] = [0, 0];
  let dragging = false;
  /** @type {Record<string, (event: any) => void>} */
  const events = {
    pointerdown(event) {
      if (event.button !== 0) return;
      event.stopPropagation();
      stop();
      canvas.setPointerCapture(event.pointerId);
      [dragging, from, start] = [true, event.clientX, at];
    },
    pointermove(event) {
      if (dragging) go(start + (event.clientX - from) / PIXELS_A_FRAME);
    },
    pointerup: () => (dragging = false),
    pointercancel: () => (dragging = false),
  };
  for (const [name, listener] of Object.entries(events)) canvas.addEventListener(name, listener, { signal });
  signal.addEventListener("abort", stop);

  const style = { display: "flex", gap: "6px", alignItems: "center" };
  const root = box({ role: "group", "aria-label": "Rendered frames" }, [
    canvas,
    element("div", style, {}, [play, slider]),
  ]);
  /** @param {Sheet} given */
  const load = (given) => {
    const { filename, subfolder, type } = given;
    const fresh = new Image();
    fresh.onload = () => {
      if (signal.aborted) return;
      [sheet, image] = [given, fresh];
      slider.max = String(given.count - 1);
      go(Math.min(at, given.count - 1));
    };
    fresh.src = api.apiURL(`/view?${new URLSearchParams({ filename, subfolder, type })}`);
  };
  return { root, load, stop };
}

app.registerExtension({
  name: "my3dgen.orbit_viewer",
  nodeCreated(node) {
    if (node.comfyClass !== "My3DGenRender") return;
    const life = new AbortController();
    const { signal } = life;
    recall(node, signal);
    const rendered = frames(signal);
    const look = { ...FRONT }; // the current view; it changes no input
    const around = pad({
      camera: () => look,
      move: (change) => Object.assign(look, change),
      request() {
        const found = head(node);
        return found ? { head: found } : undefined;
      },
      label: "Look around the head",
      signal,
    });

    const frame = rest([rendered.root]);
    const choice = button(
      "look around",
      "Look around the head live, or back to the rendered frames",
      () => {
        const turning = frame.contains(rendered.root);
        rendered.stop();
        frame.replaceChildren(turning ? around.root : rendered.root);
        choice.textContent = turning ? "rendered frames" : "look around";
        if (turning) around.show();
      },
      signal,
    );
    place(node, "orbit_viewer", box({}, [frame, choice]), 260, life);
    after(node, "onExecuted", (output) => {
      const sheet = output?.my3dgen_frames?.[0];
      if (sheet) rendered.load(sheet);
    });
  },
});
