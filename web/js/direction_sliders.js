// Apply Direction: a slider for every direction in the chain, with a mark at the boundary of the alpha space.

import { app } from "../../../scripts/app.js";
import { COLORS, box, element, range, rest } from "./lib/element.mjs";
import { head, listen, live, recall } from "./lib/live.mjs";
import { after, downstream, input, place, setNumber, source } from "./lib/nodes.mjs";
import { FRONT, pad } from "./lib/pad.mjs";

/** @typedef {import("./lib/comfy.mjs").Node} Node */

const KIND = "My3DGenApplyDirection";
const USUAL = 5;
const MOST = 50;
const ROOM = 3; // number of sliders that fit into the widget

/** @param {Node} node */
const strength = (node) => Number(input(node, "strength")?.value ?? 0);

/**
 * The Apply Direction nodes of one chain, in the order of the links.
 * @param {Node} node one of them
 */
function chain(node) {
  const found = [node];
  for (let at = source(node, "latents"); at?.comfyClass === KIND && !found.includes(at); at = source(at, "latents")) {
    found.unshift(at);
  }
  for (const after of downstream(node)) {
    if (after.comfyClass === KIND && source(after, "latents") === found[found.length - 1]) found.push(after);
  }
  return found;
}

/** The name of a direction. @param {Node} node */
function called(node) {
  const from = source(node, "direction");
  const name = from && (input(from, "attribute")?.value || input(from, "file")?.value);
  return String(name || node.title).replace(/^starter: |\.\w+$/g, "");
}

/**
 * One direction's slider, with a mark at the boundary of the alpha space.
 * @param {Node} node
 * @param {(change: () => void, quality: "drag" | "still") => void} moved makes a change and shows it
 * @param {AbortSignal} signal
 */
function row(node, moved, signal) {
  const slider = range("Strength of the direction", signal);
  slider.step = "0.1";
  const person = element("div", { height: "3px", borderRadius: "2px", background: COLORS.line, margin: "0 8px" });
  const name = element("span", { overflow: "hidden", textOverflow: "ellipsis", whiteSpace: "nowrap" });
  const value = element("span", { color: COLORS.faint, whiteSpace: "nowrap" });
  const line = element("div", { display: "flex", justifyContent: "space-between", gap: "8px" }, {}, [name, value]);

  const refresh = () => {
    const now = strength(node);
    const { low, high } = live(node) ?? {};
    const edge = Math.max(USUAL, Math.abs(now), 1.5 * Math.max(-(low ?? 0), high ?? 0));
    const most = Math.min(MOST, Math.ceil(edge));
    Object.assign(slider, { min: String(-most), max: String(most), value: String(now) });
    const known = low !== undefined || high !== undefined;
    const [from, to] = [low ?? -most, high ?? most].map((at) => (100 * (at + most)) / (2 * most));
    const inside = `transparent ${from}%, ${COLORS.accent} ${from}%, ${COLORS.accent} ${to}%, transparent ${to}%`;
    person.style.backgroundImage = known ? `linear-gradient(to right, ${inside})` : "none";
    const limits = [low, high].map((at) => (at === undefined ? "…" : at.toFixed(1))).join(" to ");
    const leaves = known && (now < (low ?? -MOST) || now > (high ?? MOST));
    value.style.color = leaves ? "#e0a030" : COLORS.faint;
    value.textContent = `${now.toFixed(1)}${known ? `  (the person: ${limits})` : ""}`;
    name.textContent = called(node);
    slider.setAttribute("aria-valuetext", `${name.textContent} ${value.textContent}`);
    root.setAttribute("aria-label", `Direction ${name.textContent}`);
  };
  /** @param {"drag" | "still"} quality */
  const set = (quality) => moved(() => setNumber(node, "strength", Number(slider.value)), quality);
  slider.addEventListener("input", () => set("drag"), { signal });
  slider.addEventListener("change", () => set("still"), { signal });
  const style = { display: "flex", flexDirection: "column", gap: "2px" };
  const root = element("div", style, { role: "group" }, [line, slider, person]);
  return { root, refresh };
}

app.registerExtension({
  name: "my3dgen.direction_sliders",
  nodeCreated(node) {
    if (node.comfyClass !== KIND) return;
    const life = new AbortController();
    const { signal } = life;
    recall(node, signal);
    const look = { ...FRONT };
    const view = pad({
      camera: () => look,
      move: (change) => Object.assign(look, change),
      request() {
        const edits = chain(node).map((one) => ({ handle: live(one)?.handle, strength: strength(one) }));
        if (!edits.every((edit) => edit.handle)) return undefined; // one has not run: its effect is unknown
        return { head: head(node), edits };
      },
      label: "The edited head",
      signal,
    });

    const list = element("div", { display: "flex", flexDirection: "column", gap: "6px" });
    /** @type {Node[]} */
    let shown = [];
    /** @type {ReturnType<typeof row>[]} */
    let rows = [];
    /** @type {(() => void)[]} */
    let offs = [];
    let ours = false;
    const refresh = () => {
      const now = chain(node);
      if (now.length !== shown.length || now.some((one, i) => one !== shown[i])) {
        for (const off of offs) off();
        shown = now;
        rows = now.map((one) => row(one, moved, signal));
        offs = now.flatMap((one) => {
          const widget = input(one, "strength");
          return widget ? [after(widget, "callback", () => ours || all())] : [];
        });
        list.replaceChildren(...rows.map(({ root }) => root));
      }
      for (const one of rows) one.refresh();
    };
    /** @param {() => void} change @param {"drag" | "still"} quality */
    const moved = (change, quality) => {
      ours = true; // these sliders show their own changes themselves
      change();
      ours = false;
      refresh();
      view.show(quality);
    };
    const all = () => {
      refresh();
      view.show();
    };
    signal.addEventListener("abort", () => offs.forEach((off) => off()));

    place(node, "direction_slider", box({ dir: "ltr" }, [rest([view.root]), list]), 230 + 40 * ROOM, life);
    listen(node, refresh); // the preview follows when the run is done
    after(node, "onConfigure", all);
    after(node, "onConnectionsChange", () => setTimeout(() => signal.aborted || refresh()));
    refresh();
  },
});
