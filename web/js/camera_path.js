// Camera Path: the path on a sphere around the head, a scrubber, and keyframes to drag.

import { app } from "../../../scripts/app.js";
import { COLORS, box, button, element, range, rest, surface, themed } from "./lib/element.mjs";
import { head } from "./lib/live.mjs";
import { after, input, place, setValue, source } from "./lib/nodes.mjs";
import { FRONT, pad } from "./lib/pad.mjs";
import { CLOSED, ONCE, OPEN, cameras, frameOf, level, parseKeys, spline, writeKeys } from "./lib/path.mjs";
import { sphere } from "./lib/sphere.mjs";

/** @typedef {import("./lib/path.mjs").Angles} Angles */

const INPUTS = ["path", "frames", "yaw", "pitch", "center_pitch", "keyframes"];
const FRAMES_A_SECOND = 24;
const REACH = 11; // pixels around a keyframe
const STEP = 5;
const FROM_READY = 8; // keyframes made from a preset path
const MOST = 100;
const HELP =
  "Drag a keyframe to move it; double-click to add one; Delete removes the selected one; arrow keys move it; " +
  "Page Up and Page Down select another. Drag elsewhere to turn the sphere.";

app.registerExtension({
  name: "my3dgen.camera_path",
  nodeCreated(node) {
    if (node.comfyClass !== "My3DGenCameraPath") return;
    const life = new AbortController();
    const { signal } = life;
    /** @type {Angles} */
    let view = [-20, 18];
    let frame = 0;
    let chosen = -1;
    let playing = 0;
    let ours = false;

    const setting = () => {
      /** @type {any} */
      const values = {};
      for (const name of INPUTS) values[name] = input(node, name)?.value;
      return /** @type {import("./lib/path.mjs").Setting} */ (values);
    };
    const byHand = () => [OPEN, CLOSED].includes(setting().path);
    const closed = () => setting().path === CLOSED;
    const keys = () => (byHand() ? parseKeys(setting().keyframes) : []);
    /** @returns {Angles} */
    const now = () => {
      const all = cameras(setting());
      return all[Math.min(frame, all.length - 1)] ?? [0, 0];
    };

    /** @param {Angles[]} given @param {number} [key] to select @param {"drag" | "still"} [quality] */
    const set = (given, key = chosen, quality = "still") => {
      ours = true; // the sphere shows its own changes itself
      if (!byHand()) setValue(node, "path", ONCE.includes(setting().path) ? OPEN : CLOSED);
      setValue(node, "keyframes", writeKeys(given));
      ours = false;
      choose(key);
      show(quality);
    };
    /** @param {number} key */
    const choose = (key) => {
      const count = keys().length;
      chosen = key < count ? key : count - 1;
      if (chosen >= 0) frame = Math.min(setting().frames - 1, frameOf(chosen, count, closed(), setting().frames));
    };
    /** The keyframes; a preset path is converted to some. */
    const editable = () => {
      if (byHand()) return keys();
      return cameras({ ...setting(), frames: setting().path === "sweep" ? 2 : FROM_READY });
    };
    /** Index of the keyframe after which one at this frame is inserted. @param {number} at @param {number} count */
    const segment = (at, count) => {
      const { frames } = setting();
      const isClosed = !ONCE.includes(setting().path);
      return Math.floor(isClosed ? (at / frames) * count : (at / Math.max(1, frames - 1)) * (count - 1) + 1e-9);
    };
    /** @param {Angles} angles @param {number} [at] its frame */
    const add = (angles, at = frame) => {
      const found = editable();
      if (found.length >= MOST) return;
      const before = Math.min(found.length - 1, segment(at, found.length));
      found.splice(before + 1, 0, angles);
      set(found, before + 1);
    };
    const remove = () => {
      const found = keys();
      if (chosen < 0 || found.length < 2) return;
      found.splice(chosen, 1);
      set(found, Math.min(chosen, found.length - 1));
    };
    /** @param {number} key @param {Angles} angles @param {"drag" | "still"} [quality] */
    const move = (key, [yaw, pitch], quality) => {
      const found = keys();
      if (!found[key]) return;
      found[key] = [yaw, level(pitch)];
      set(found, key, quality);
    };

    const { canvas, redraw } = surface((context, width, height) => {
      const globe = sphere(width, height, view);
      const [line, face] = [themed(canvas, "--descrip-text", "#999"), themed(canvas, "--input-text", "#ddd")];
      const accent = themed(canvas, "--p-primary-color", "#3b82f6");
      globe.draw(context, { line, face });
      const { frames, path } = setting();
      const many = Math.max(frames, 120); // a smooth line even with few frames
      const found = keys();
      const way = byHand() ? (found.length ? spline(found, closed(), many) : []) : cameras({ ...setting(), frames: many });
      if (way.length && !ONCE.includes(path)) way.push(way[0]);
      context.strokeStyle = accent;
      globe.line(context, way, 2);
      /** @param {Angles} at @param {number} size @param {string} fill @param {string} rim */
      const dot = (at, size, fill, rim) => {
        const { x, y, near } = globe.spot(at);
        context.globalAlpha = near > 0 ? 1 : 0.5;
        context.fillStyle = fill;
        context.strokeStyle = rim;
        context.lineWidth = 2;
        context.beginPath();
        context.arc(x, y, size, 0, 2 * Math.PI);
        context.fill();
        context.stroke();
        context.globalAlpha = 1;
      };
      const ground = themed(canvas, "--comfy-input-bg", "#222");
      found.forEach((at, key) => dot(at, key === chosen ? 7 : 5, key === chosen ? accent : ground, accent));
      if (way.length) dot(now(), 3, face, face);
    }, signal);
    Object.assign(canvas.style, { border: `1px solid ${COLORS.line}`, boxSizing: "border-box" });

    const figure = box({ tabindex: "0", role: "application", "aria-roledescription": "camera path", title: HELP }, [
      canvas,
    ]);
    Object.assign(figure.style, { cursor: "grab", touchAction: "none", outline: "none" });

    const seen = pad({
      camera: () => ({ ...FRONT, yaw: now()[0], pitch: now()[1] }),
      move(change) {
        const { yaw, pitch } = { yaw: now()[0], pitch: now()[1], ...change };
        if (chosen >= 0) move(chosen, [yaw, pitch], "drag");
      },
      request() {
        const found = head(node);
        return found ? { head: found, aim: source(node, "model") ? "model" : "origin" } : undefined;
      },
      label: "The head from the path",
      signal,
    });

    const slider = range("Frame of the path", signal);
    slider.addEventListener("input", () => go(Number(slider.value), "drag"), { signal });
    slider.addEventListener("change", () => go(Number(slider.value), "still"), { signal });
    /** @param {number} to @param {"drag" | "still"} quality */
    const go = (to, quality) => {
      const found = keys();
      const { frames } = setting();
      frame = to;
      chosen = found.findIndex((_, key) => frameOf(key, found.length, closed(), frames) === frame);
      show(quality);
    };
    const stop = () => {
      clearInterval(playing);
      playing = 0;
      play.textContent = "▶";
    };
    const play = button("▶", "Play the camera path", () => {
      if (playing) return stop();
      playing = window.setInterval(() => go((frame + 1) % setting().frames, "drag"), 1000 / FRAMES_A_SECOND);
      play.textContent = "❚❚";
    }, signal);
    const plus = button("+", "Add a keyframe at this frame", () => add(now()), signal);
    const minus = button("−", "Remove the selected keyframe", remove, signal);

    /** @param {"drag" | "still"} quality */
    const show = (quality) => {
      const { frames } = setting();
      frame = Math.max(0, Math.min(frame, frames - 1));
      Object.assign(slider, { min: "0", max: String(frames - 1), value: String(frame) });
      slider.setAttribute("aria-valuetext", `frame ${frame + 1} of ${frames}`);
      const count = keys().length;
      minus.disabled = chosen < 0 || count < 2;
      minus.style.opacity = minus.disabled ? "0.4" : "1";
      const said = count ? `${count} keyframes, ${chosen < 0 ? "none" : chosen + 1} selected` : `path ${setting().path}`;
      figure.setAttribute("aria-label", `Camera path: ${said}. ${HELP}`);
      redraw();
      seen.show(quality);
    };

    /** The keyframe or the sphere under the pointer. @param {PointerEvent | MouseEvent} event */
    const under = (event) => {
      const { left, top, width } = canvas.getBoundingClientRect();
      const zoom = width / (canvas.clientWidth || 1); // the page's canvas may be zoomed
      const [x, y] = [(event.clientX - left) / zoom, (event.clientY - top) / zoom];
      const globe = sphere(canvas.clientWidth, canvas.clientHeight, view);
      /** @param {Angles} at */
      const off = (at) => {
        const { x: u, y: v, near } = globe.spot(at);
        return Math.hypot(u - x, v - y) + (near > 0 ? 0 : REACH / 2); // keyframes on the near side take precedence
      };
      const offs = keys().map(off);
      const key = offs.findIndex((far) => far === Math.min(...offs) && far < REACH);
      return { x, y, globe, off, key };
    };
    /** @type {((event: PointerEvent, quality: "drag" | "still") => void) | null} */
    let drag = null;
    /** @type {Record<string, (event: any) => void>} */
    const events = {
      focus: () => (canvas.style.borderColor = COLORS.accent),
      blur: () => (canvas.style.borderColor = COLORS.line),
      pointerdown(event) {
        if (event.button !== 0) return;
        event.stopPropagation();
        stop();
        figure.focus({ preventScroll: true });
        figure.setPointerCapture(event.pointerId);
        const { x, y, globe, key } = under(event);
        const [from, start] = [view, { x, y }];
        if (key < 0) {
          drag = (moved) => {
            const at = under(moved);
            const degrees = 90 / globe.radius;
            view = [from[0] - (at.x - start.x) * degrees, level(from[1] + (at.y - start.y) * degrees)];
            redraw();
          };
          return;
        }
        choose(key);
        show("still");
        const behind = globe.spot(keys()[key]).near <= 0;
        drag = (moved, quality) => {
          const at = under(moved);
          if (quality === "drag" || Math.hypot(at.x - start.x, at.y - start.y) > 1) {
            move(key, at.globe.place(at.x, at.y, behind), quality);
          }
        };
      },
      pointermove: (event) => drag?.(event, "drag"),
      pointerup(event) {
        drag?.(event, "still");
        drag = null;
      },
      pointercancel: () => (drag = null),
      dblclick(event) {
        event.stopPropagation();
        const { x, y, globe, off, key } = under(event);
        if (key >= 0) return;
        const offs = cameras(setting()).map(off); // insert it where the path comes nearest
        add(globe.place(x, y, false), Math.max(0, offs.indexOf(Math.min(...offs))));
      },
      keydown(event) {
        const found = keys();
        const [yaw, pitch] = found[chosen] ?? [0, 0];
        /** @param {number} by */
        const step = (by) => (choose((chosen + by + found.length) % Math.max(1, found.length)), show("still"));
        const moves = {
          ArrowLeft: () => move(chosen, [yaw - STEP, pitch]),
          ArrowRight: () => move(chosen, [yaw + STEP, pitch]),
          ArrowUp: () => move(chosen, [yaw, pitch + STEP]),
          ArrowDown: () => move(chosen, [yaw, pitch - STEP]),
          PageUp: () => step(-1),
          PageDown: () => step(1),
          Delete: remove,
          Backspace: remove,
        };
        if (event.ctrlKey || event.metaKey || event.altKey || !(event.key in moves)) return;
        event.preventDefault();
        event.stopPropagation(); // Delete would remove the node
        moves[/** @type {keyof typeof moves} */ (event.key)]();
      },
    };
    for (const [name, listener] of Object.entries(events)) figure.addEventListener(name, listener, { signal });
    signal.addEventListener("abort", stop);

    const row = element("div", { display: "flex", gap: "6px", alignItems: "center" }, {}, [play, slider, plus, minus]);
    const both = element("div", { display: "flex", gap: "6px", flex: "1 1 0", minHeight: "0" }, {}, [
      figure,
      rest([seen.root]),
    ]);
    place(node, "camera_path", box({ dir: "ltr" }, [both, row]), 240, life, 380);
    const all = () => {
      chosen = Math.min(chosen, keys().length - 1);
      show("still");
    };
    after(node, "onConfigure", all);
    for (const name of INPUTS) {
      const widget = input(node, name);
      if (widget) after(widget, "callback", () => ours || all());
    }
    all();
  },
});
