// Apply Direction: a slider for its strength, the head while it moves, and where the person ends.

import { app } from "../../../scripts/app.js";
import { COLOURS, box, element, rest } from "./lib/element.mjs";
import { head, listen, live, recall, render } from "./lib/live.mjs";
import { after, input, place, setNumber, source } from "./lib/nodes.mjs";
import { FRONT, pad } from "./lib/pad.mjs";

/** @typedef {import("./lib/comfy.mjs").Node} Node */

const KIND = "My3DGenApplyDirection";
const USUAL = 5;

/** @param {Node} node */
const strength = (node) => Number(input(node, "strength")?.value ?? 0);

/**
 * All edits on the way to the head, in the order of the wires, each as strong as it is set now.
 * @param {Node} node
 */
function edits(node) {
  const found = [];
  const end = render(node);
  for (let at = end && source(end, "latents"); at?.comfyClass === KIND; at = source(at, "latents")) {
    const given = live(at);
    if (!given) return undefined; // it has not run yet, so nobody knows what it does
    found.unshift({ handle: given.handle, strength: strength(at) });
  }
  return found;
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
        const chain = edits(node);
        return chain?.length ? { head: head(node), edits: chain } : undefined;
      },
      label: "The edited head",
      signal,
    });

    const slider = element(
      "input",
      { width: "100%", margin: "0", accentColor: COLOURS.accent },
      { type: "range", step: "0.1", "aria-label": "Strength of the direction" },
    );
    const person = element("div", { height: "3px", borderRadius: "2px", background: COLOURS.line });
    const text = element("div", { color: COLOURS.faint, textAlign: "center" });

    const refresh = () => {
      const value = strength(node);
      const { low, high } = live(node) ?? {};
      const edge = Math.max(USUAL, Math.abs(value), 1.5 * Math.max(-(low ?? 0), high ?? 0));
      const most = Math.min(50, Math.ceil(edge));
      Object.assign(slider, { min: String(-most), max: String(most), value: String(value) });
      const [from, to] = [low ?? -most, high ?? most].map((at) => (100 * (at + most)) / (2 * most));
      const inside = `transparent ${from}%, ${COLOURS.accent} ${from}%, ${COLOURS.accent} ${to}%, transparent ${to}%`;
      person.style.backgroundImage = low === undefined && high === undefined ? "none" : `linear-gradient(to right, ${inside})`;
      const limits = [low, high].map((at) => (at === undefined ? "…" : at.toFixed(1))).join(" to ");
      const known = low === undefined && high === undefined ? "" : `  the person: ${limits}`;
      text.textContent = `strength ${value.toFixed(1)}${known}`;
      slider.setAttribute("aria-valuetext", text.textContent);
    };

    let ours = false;
    /** @param {"drag" | "still"} quality */
    const moved = (quality) => {
      ours = true; // the slider shows its own changes itself
      setNumber(node, "strength", Number(slider.value));
      ours = false;
      refresh();
      view.show(quality);
    };
    slider.addEventListener("input", () => moved("drag"), { signal });
    slider.addEventListener("change", () => moved("still"), { signal });
    for (const name of ["pointerdown", "keydown"]) {
      slider.addEventListener(name, (event) => event.stopPropagation(), { signal });
    }

    place(node, "direction_slider", box({ dir: "ltr" }, [rest([view.root]), slider, person, text]), 260, life);
    const all = () => {
      refresh();
      view.show();
    };
    listen(node, refresh); // the picture follows when the run is over
    after(node, "onConfigure", all);
    const widget = input(node, "strength");
    if (widget) after(widget, "callback", () => ours || all());
    refresh();
  },
});
