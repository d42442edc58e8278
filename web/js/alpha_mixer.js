// Mix Anchors: a point in a polygon of anchors sets their weights.

import { app } from "../../../scripts/app.js";
import { COLORS, box, button, element, rest, surface, themed, within } from "./lib/element.mjs";
import { head, listen, live, recall } from "./lib/live.mjs";
import { after, input, place } from "./lib/nodes.mjs";
import { FRONT, pad } from "./lib/pad.mjs";
import { allowed, corners, parseWeights, pointOf, weightsAt, writeWeights, zone } from "./lib/polygon.mjs";
import { anchorPictures } from "./lib/thumbnails.mjs";

/** @typedef {import("./lib/comfy.mjs").Node} Node */

const MARGIN = 40;
const [DISC, BUTTON] = [22, 36]; // radius at a corner, side of a button
const MOST = 8;
const STEP = 0.05;
const CHOICES = 24;

app.registerExtension({
  name: "my3dgen.alpha_mixer",
  nodeCreated(node) {
    if (node.comfyClass !== "My3DGenMixAnchors") return;
    const life = new AbortController();
    const { signal } = life;
    recall(node, signal);
    const pairs = () => parseWeights(input(node, "weights")?.value ?? "");
    const beta = () => Number(input(node, "beta")?.value ?? 0);
    const look = { ...FRONT };
    let along = true; // rendered from the anchors' mixed camera, as the node outputs it

    const view = pad({
      camera: () => look,
      move(change) {
        Object.assign(look, change);
        follow(false);
      },
      request() {
        const { handle, count = 0 } = live(node) ?? {};
        const found = pairs();
        if (!handle || !found.length || found.some(([anchor]) => anchor >= count)) return undefined;
        const values = new Array(count).fill(0);
        for (const [anchor, weight] of found) values[anchor] += weight;
        return { head: head(node), weights: { handle, values }, aim: along ? "anchors" : "model" };
      },
      label: "The mixed head",
      signal,
    });

    /** Maps the unit circle to the canvas. @param {number} width @param {number} height */
    const scaled = (width, height) => {
      const radius = Math.min(width, height) / 2 - MARGIN;
      /** @param {import("./lib/polygon.mjs").Point} point */
      return ([x, y]) => /** @type {const} */ ([width / 2 + x * radius, height / 2 + y * radius]);
    };

    const pictures = anchorPictures(node, CHOICES, () => offer(), signal);
    const { canvas, redraw } = surface((context, width, height) => {
      const found = pairs();
      const shape = corners(found.length);
      const onCanvas = scaled(width, height);
      const [text, faint] = [themed(canvas, "--input-text", "#ddd"), themed(canvas, "--descrip-text", "#999")];
      const accent = themed(canvas, "--p-primary-color", "#3b82f6");
      /** @param {import("./lib/polygon.mjs").Point[]} points @param {number[]} dash */
      const outline = (points, dash) => {
        context.setLineDash(dash);
        context.strokeStyle = faint;
        context.lineWidth = 1;
        context.beginPath();
        for (const point of points) context.lineTo(...onCanvas(point));
        context.closePath();
        context.stroke();
        context.setLineDash([]);
      };
      if (beta() > 0 && found.length > 1) {
        outline(zone(shape, beta()), [2, 3]); // where a weight reaches -beta
        context.globalAlpha = 0.12;
        context.fillStyle = accent;
        context.fill();
        context.globalAlpha = 1;
      }
      outline(shape, []);
      context.font = "11px Inter, system-ui, sans-serif";
      context.textAlign = "center";
      context.textBaseline = "middle";
      found.forEach(([anchor, weight], i) => {
        const [x, y] = onCanvas(shape[i]);
        const picture = pictures.get(anchor);
        context.save();
        context.beginPath();
        context.arc(x, y, DISC, 0, 2 * Math.PI);
        context.fillStyle = themed(canvas, "--comfy-menu-bg", "#353535");
        context.fill();
        context.lineWidth = 2;
        context.strokeStyle = weight < 0 ? "#e0a030" : faint;
        context.stroke();
        context.clip();
        if (picture) context.drawImage(picture, x - DISC, y - DISC, 2 * DISC, 2 * DISC);
        context.restore();
        context.fillStyle = text;
        if (!picture) context.fillText(String(anchor), x, y);
        context.fillText(`${Math.round(100 * weight)} %`, x, y + (y < height / 2 - 1 ? -1 : 1) * (DISC + 9));
      });
      if (!found.length) return;
      const [x, y] = onCanvas(pointOf(shape, found.map(([, weight]) => weight)));
      context.fillStyle = accent;
      context.strokeStyle = text;
      context.beginPath();
      context.arc(x, y, 6, 0, 2 * Math.PI);
      context.fill();
      context.stroke();
    }, signal);

    const figure = box({ tabindex: "0", role: "application", "aria-roledescription": "weights of anchors" }, [canvas]);
    Object.assign(figure.style, { flex: "1 1 0", minHeight: "0", cursor: "crosshair", touchAction: "none", outline: "none" });
    Object.assign(canvas.style, { border: `1px solid ${COLORS.line}`, boxSizing: "border-box" });
    const choices = element("div", { display: "flex", flexWrap: "wrap", gap: "3px" }, { role: "group", "aria-label": "Anchors" });
    const turned = button("poses too", "Also mix the camera, as the node outputs it", () => follow(!along), signal);
    /** @param {boolean} on */
    const follow = (on) => {
      along = on;
      turned.setAttribute("aria-pressed", String(on));
      turned.style.borderColor = on ? COLORS.accent : COLORS.line;
      view.show();
    };

    let ours = false;
    /** @param {[number, number][]} given @param {"drag" | "still"} quality */
    const set = (given, quality) => {
      const widget = input(node, "weights");
      if (!widget) return;
      widget.value = writeWeights(given);
      ours = true;
      widget.callback?.(widget.value);
      ours = false;
      refresh(quality);
    };
    /** @param {import("./lib/polygon.mjs").Point} point @param {"drag" | "still"} quality */
    const go = (point, quality) => {
      const found = pairs();
      const weights = allowed(weightsAt(corners(found.length), point), beta());
      set(found.map(([anchor], i) => [anchor, weights[i]]), quality);
    };
    /** @param {number} anchor */
    const toggle = (anchor) => {
      const names = pairs().map(([name]) => name);
      const chosen = names.includes(anchor) ? names.filter((name) => name !== anchor) : [...names, anchor];
      if (chosen.length && chosen.length <= MOST) set(chosen.map((name) => [name, 1 / chosen.length]), "still");
    };

    let shown = -1;
    const offer = () => {
      const count = Math.min(live(node)?.count ?? 0, CHOICES);
      if (count !== shown) {
        shown = count;
        const made = Array.from({ length: count }, (_, i) => {
          const one = button("", `Anchor ${i} in the mixture or not`, () => toggle(i), signal);
          Object.assign(one.style, { width: `${BUTTON}px`, height: `${BUTTON}px`, padding: "0", overflow: "hidden" });
          one.textContent = String(i);
          return one;
        });
        choices.replaceChildren(...made);
      }
      const names = pairs().map(([name]) => name);
      for (const [i, child] of [...choices.children].entries()) {
        const one = /** @type {HTMLElement} */ (child);
        const on = names.includes(i);
        const picture = pictures.get(i);
        if (picture) within(one, picture, BUTTON);
        one.setAttribute("aria-pressed", String(on));
        Object.assign(one.style, { border: `2px solid ${on ? COLORS.accent : COLORS.line}`, opacity: on ? "1" : "0.7" });
      }
      redraw();
    };

    /** @param {"drag" | "still"} quality */
    const refresh = (quality) => {
      const spoken = pairs().map(([anchor, weight]) => `anchor ${anchor} ${Math.round(100 * weight)} %`);
      figure.setAttribute("aria-label", `Weights: ${spoken.join(", ")}. Arrow keys move the point.`);
      offer();
      view.show(quality);
    };

    let dragging = false;
    /** @param {PointerEvent} event @param {"drag" | "still"} quality */
    const point = (event, quality) => {
      const { left, top, width, height } = canvas.getBoundingClientRect();
      const zoom = width / (canvas.clientWidth || 1); // the page's canvas may be zoomed
      const radius = Math.min(width, height) / 2 - MARGIN * zoom;
      go([(event.clientX - left - width / 2) / radius, (event.clientY - top - height / 2) / radius], quality);
    };
    /** @type {Record<string, (event: any) => void>} */
    const events = {
      focus: () => (canvas.style.borderColor = COLORS.accent),
      blur: () => (canvas.style.borderColor = COLORS.line),
      pointerdown(event) {
        if (event.button !== 0) return;
        event.stopPropagation();
        figure.focus({ preventScroll: true });
        figure.setPointerCapture(event.pointerId);
        dragging = true;
        point(event, "drag");
      },
      pointermove: (event) => dragging && point(event, "drag"),
      pointerup(event) {
        if (dragging) point(event, "still");
        dragging = false;
      },
      pointercancel: () => (dragging = false),
      keydown(event) {
        const moves = { ArrowLeft: [-STEP, 0], ArrowRight: [STEP, 0], ArrowUp: [0, -STEP], ArrowDown: [0, STEP] };
        const move = moves[/** @type {keyof typeof moves} */ (event.key)];
        if (!move || event.ctrlKey || event.metaKey || event.altKey) return;
        event.preventDefault();
        event.stopPropagation();
        const found = pairs();
        const [x, y] = pointOf(corners(found.length), found.map(([, weight]) => weight));
        go([x + move[0], y + move[1]], "still");
      },
    };
    for (const [name, listener] of Object.entries(events)) figure.addEventListener(name, listener, { signal });

    const style = { display: "flex", gap: "6px", flex: "1 1 0", minHeight: "0" };
    const both = element("div", style, {}, [figure, rest([view.root, turned])]);
    place(node, "alpha_mixer", box({}, [both, choices]), 290, life, 400);
    const all = () => refresh("still");
    listen(node, offer); // the preview follows when the run is done
    after(node, "onConfigure", all);
    for (const name of ["weights", "beta"]) {
      const widget = input(node, name);
      if (widget) after(widget, "callback", () => ours || all());
    }
    follow(true);
    all();
  },
});
