// Align Faces: which photos were kept, why the others were dropped, and the user's decisions.

import { app } from "../../../scripts/app.js";
import { api } from "../../../scripts/api.js";
import { COLORS, box, button, element, surface, themed } from "./lib/element.mjs";
import { recall } from "./lib/live.mjs";
import { after, input, place, runsAs, setValue } from "./lib/nodes.mjs";
import { middle, parseDecisions, placeAt, usualPoints, writeDecisions } from "./lib/photos.mjs";

/** @typedef {import("./lib/photos.mjs").Photo} Photo */
/** @typedef {import("./lib/photos.mjs").Place} Place */

const EVENT = "my3dgen.photos";
const HINT = "Run the workflow to see the result for each photo.";
const REACH = 14; // pixels around a point
const STEP = 0.005;
const [KEPT, DROPPED, DECIDED] = ["#3fa45b", "#c2504a", "#e0a030"];
const NAMES = ["eye on the left", "eye on the right", "nose", "left mouth corner", "right mouth corner"];
/** @type {[number, number, number, number]} */
const MIDDLE = [0.3, 0.25, 0.7, 0.75];

app.registerExtension({
  name: "my3dgen.photo_report",
  nodeCreated(node) {
    if (node.comfyClass !== "My3DGenAlignFaces") return;
    const life = new AbortController();
    const { signal } = life;
    recall(node, signal);
    /** @type {Photo[]} */
    let photos = [];
    /** @type {HTMLImageElement[]} */
    let pictures = [];
    let at = 0;
    let grabbed = 0; // which of the five points the arrow keys move

    const decisions = () => parseDecisions(input(node, "by_hand")?.value ?? "");
    const decision = () => decisions()[photos[at]?.name] ?? {};
    /** @param {import("./lib/photos.mjs").Decision} given */
    const decide = (given) => {
      setValue(node, "by_hand", writeDecisions({ ...decisions(), [photos[at].name]: given }));
      refresh();
    };
    /** @returns {Place[] | null} the five points, as set or as found */
    const points = () => decision().points ?? (decision().face ? null : photos[at]?.points) ?? null;

    /** The photo's rectangle on the canvas. @param {number} width @param {number} height */
    const lies = (width, height) => {
      const picture = pictures[at];
      const [w, h] = [picture?.naturalWidth || 1, picture?.naturalHeight || 1];
      const scale = Math.min(width / w, height / h);
      return { left: (width - w * scale) / 2, top: (height - h * scale) / 2, wide: w * scale, high: h * scale };
    };

    const { canvas, redraw } = surface((context, width, height) => {
      const photo = photos[at];
      const picture = pictures[at];
      if (!photo || !picture?.naturalWidth) return;
      const { left, top, wide, high } = lies(width, height);
      context.drawImage(picture, left, top, wide, high);
      const accent = themed(canvas, "--p-primary-color", "#3b82f6");
      const { face, points: set } = decision();
      for (const [x, y, u, v] of set ? [] : photo.boxes) {
        const taken = face ? x <= face[0] && face[0] <= u && y <= face[1] && face[1] <= v : photo.boxes.length === 1;
        context.lineWidth = taken ? 2.5 : 1.5;
        context.strokeStyle = taken ? accent : "#fff";
        context.strokeRect(left + x * wide, top + y * high, (u - x) * wide, (v - y) * high);
      }
      points()?.forEach(([x, y], i) => {
        context.beginPath();
        context.arc(left + x * wide, top + y * high, i === grabbed && set ? 5 : 4, 0, 2 * Math.PI);
        context.fillStyle = set ? DECIDED : accent;
        context.strokeStyle = "#fff";
        context.lineWidth = 1.5;
        context.fill();
        context.stroke();
      });
    }, signal);
    const figure = box({ tabindex: "0", role: "application", "aria-roledescription": "photo" }, [canvas]);
    Object.assign(figure.style, { cursor: "crosshair", touchAction: "none", flex: "2 1 0", minHeight: "130px" });

    const grid = element("div", {
      display: "flex",
      flexWrap: "wrap",
      gap: "3px",
      flex: "0 0 auto",
      maxHeight: "118px",
      padding: "2px",
      overflowY: "auto",
      alignContent: "flex-start",
    }, { role: "group", "aria-label": "Photos" });
    grid.addEventListener("focusin", () => (grid.dataset.captureWheel = "true"), { signal });
    grid.addEventListener("focusout", () => delete grid.dataset.captureWheel, { signal });
    const summary = element("div", { color: COLORS.faint, textAlign: "center" }, { role: "status" }, [HINT]);
    const text = element("div", { minHeight: "28px", overflowWrap: "anywhere", userSelect: "text" });

    /** @param {"keep" | "leave"} wanted */
    const keep = (wanted) => {
      const value = wanted === "keep";
      decide({ ...decision(), keep: decision().keep === value ? undefined : value });
    };
    const anyway = button("keep anyway", "Keep this photo whatever the checks say", () => keep("keep"), signal);
    const leave = button("leave out", "Leave this photo out", () => keep("leave"), signal);
    const five = button("set points", "Set the eyes, nose and mouth of this photo by hand", () => {
      const start = photos[at].points ?? usualPoints(photos[at].boxes[0] ?? MIDDLE);
      decide({ ...decision(), face: undefined, points: start.map(([x, y]) => placeAt(x, y)) });
    }, signal);
    const reset = button("as found", "Forget what was decided about this photo", () => decide({}), signal);
    const row = element("div", { display: "flex", gap: "4px", flexWrap: "wrap" }, {}, [anyway, leave, five, reset]);

    /** @param {HTMLElement} pressed @param {boolean} on */
    const press = (pressed, on) => {
      pressed.setAttribute("aria-pressed", String(on));
      pressed.style.borderColor = on ? COLORS.accent : COLORS.line;
    };
    const refresh = () => {
      const all = decisions();
      for (const [i, child] of [...grid.children].entries()) {
        const one = /** @type {HTMLElement} */ (child);
        const { name, kept, by_hand } = photos[i];
        const color = all[name] || by_hand ? DECIDED : kept ? KEPT : DROPPED;
        Object.assign(one.style, { border: `2px solid ${color}`, opacity: i === at ? "1" : "0.75" });
        one.style.outline = i === at ? `2px solid ${COLORS.accent}` : "none";
        one.setAttribute("aria-pressed", String(i === at));
      }
      const photo = photos[at];
      for (const one of [anyway, leave, five, reset]) one.disabled = !photo;
      figure.setAttribute("aria-label", HINT);
      if (!photo) return redraw();
      const now = decision();
      press(anyway, now.keep === true);
      press(leave, now.keep === false);
      press(five, Boolean(now.points));
      const said = [photo.reason, ...photo.warnings].filter(Boolean).join(" ");
      const parts = Object.keys(now).length ? "Changed by hand: queue again to apply it." : "";
      text.textContent = `${photo.name}: ${photo.kept ? "kept" : "dropped"}. ${said} ${photo.by_hand ? `(${photo.by_hand})` : parts}`;
      const help = now.points ? `Point: ${NAMES[grabbed]}. Drag it or use the arrow keys; Tab selects the next.` : "Click a face to select it.";
      figure.setAttribute("aria-label", `${photo.name}. ${help}`);
      figure.title = help;
      redraw();
    };

    /** @param {Photo[]} given */
    const load = (given) => {
      photos = given;
      at = Math.min(at, Math.max(0, photos.length - 1));
      pictures = photos.map(({ file }) => {
        const picture = new Image();
        picture.onload = () => signal.aborted || redraw();
        picture.src = api.apiURL(`/view?${new URLSearchParams(file)}`);
        return picture;
      });
      const made = photos.map(({ name, kept, reason }, i) => {
        const one = button("", `${name}: ${kept ? "kept" : `dropped. ${reason}`}`, () => ((at = i), refresh()), signal);
        Object.assign(one.style, { width: "54px", height: "54px", padding: "0", overflow: "hidden" });
        const shown = element("img", { width: "100%", height: "100%", objectFit: "cover" }, { alt: "" });
        shown.src = pictures[i].src;
        one.replaceChildren(shown);
        return one;
      });
      grid.replaceChildren(...made);
      const count = photos.filter(({ kept }) => kept).length;
      summary.textContent = `${count} of ${photos.length} photos kept`;
      refresh();
    };

    /** The pointer as fractions of the photo, and the index of the point near it. @param {PointerEvent} event */
    const under = (event) => {
      const { left, top, width } = canvas.getBoundingClientRect();
      const zoom = width / (canvas.clientWidth || 1); // the page's canvas may be zoomed
      const on = lies(canvas.clientWidth, canvas.clientHeight);
      const x = ((event.clientX - left) / zoom - on.left) / on.wide;
      const y = ((event.clientY - top) / zoom - on.top) / on.high;
      const far = (points() ?? []).map(([u, v]) => Math.hypot((u - x) * on.wide, (v - y) * on.high));
      return { x, y, point: far.findIndex((distance) => distance === Math.min(...far) && distance < REACH) };
    };
    let dragging = false;
    /** @param {number} x @param {number} y */
    const movePoint = (x, y) => {
      const moved = [...(points() ?? [])];
      moved[grabbed] = placeAt(x, y);
      decide({ ...decision(), face: undefined, points: moved });
    };
    /** @type {Record<string, (event: any) => void>} */
    const events = {
      pointerdown(event) {
        if (event.button !== 0 || !photos[at]) return;
        event.stopPropagation();
        figure.focus({ preventScroll: true });
        figure.setPointerCapture(event.pointerId);
        const { x, y, point } = under(event);
        if (point >= 0) {
          [grabbed, dragging] = [point, true];
          return redraw();
        }
        const hit = photos[at].boxes.find(([l, t, r, b]) => l <= x && x <= r && t <= y && y <= b);
        if (hit && photos[at].boxes.length > 1) {
          decide({ ...decision(), points: undefined, face: middle(hit) });
        }
      },
      pointermove(event) {
        if (!dragging) return;
        const { x, y } = under(event);
        movePoint(x, y);
      },
      pointerup: () => (dragging = false),
      pointercancel: () => (dragging = false),
      keydown(event) {
        const moves = { ArrowLeft: [-STEP, 0], ArrowRight: [STEP, 0], ArrowUp: [0, -STEP], ArrowDown: [0, STEP] };
        const move = moves[/** @type {keyof typeof moves} */ (event.key)];
        const now = decision().points;
        if (!now || event.ctrlKey || event.metaKey || event.altKey) return;
        if (event.key === "Tab" && !event.shiftKey && grabbed < 4) grabbed += 1;
        else if (move) movePoint(now[grabbed][0] + move[0], now[grabbed][1] + move[1]);
        else return;
        event.preventDefault();
        event.stopPropagation();
        refresh();
      },
      blur: () => (grabbed = 0),
    };
    for (const [name, listener] of Object.entries(events)) figure.addEventListener(name, listener, { signal });

    place(node, "photo_report", box({}, [summary, grid, figure, text, row]), 360, life, 380);
    after(node, "onExecuted", (output) => output?.my3dgen_photos && load(output.my3dgen_photos));
    /** @param {Event} event */
    const failed = (event) => {
      const { node: id, my3dgen_photos } = /** @type {CustomEvent} */ (event).detail;
      if (runsAs(node, id)) load(my3dgen_photos);
    };
    api.addEventListener(EVENT, failed);
    signal.addEventListener("abort", () => api.removeEventListener(EVENT, failed));
    after(node, "onConfigure", refresh);
    const widget = input(node, "by_hand");
    if (widget) after(widget, "callback", refresh);
    refresh();
  },
});
