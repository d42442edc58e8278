// Train Identity and Pivotal Tuning: training progress.

import { app } from "../../../scripts/app.js";
import { api } from "../../../scripts/api.js";
import { COLORS, box, contain, element, range, surface, themed } from "./lib/element.mjs";
import { after, entryOf, input, place, runsAs } from "./lib/nodes.mjs";

/**
 * @typedef {[number, number][]} Points step and value
 * @typedef {{node: string, state: "running" | "done" | "stopped", step?: number, total?: number, left?: number,
 *   steps?: number, curve?: Points, similarity?: Points, note?: string, target: string, now: string | null,
 *   seen?: [number, string][]}} Training
 */

const NODES = ["My3DGenTrainIdentity", "My3DGenPivotalTuning"];
const EVENT = "my3dgen.training";
const HEIGHT = 270;
const SIMILAR = "#4caf7a"; // color of the identity similarity curve

/** @param {number} seconds */
const duration = (seconds) => {
  if (seconds < 60) return `${Math.ceil(seconds)} s`;
  const minutes = Math.ceil(seconds / 60);
  return minutes < 60 ? `${minutes} min` : `${Math.floor(minutes / 60)} h ${minutes % 60} min`;
};

/** @param {Training} training */
const describe = ({ state, step, total, left, curve, similarity }) => {
  if (!step || !total) return state === "running" ? "starting" : state;
  const loss = curve?.length ? `  loss ${curve[curve.length - 1][1].toPrecision(3)}` : "";
  const like = similarity?.length ? `  identity ${similarity[similarity.length - 1][1].toFixed(2)}` : "";
  const rest = state === "running" ? `  ${duration(left ?? 0)} left` : `  ${state}`;
  return `step ${step} of ${total}${loss}${like}${rest}`;
};

/** @param {AbortSignal} signal */
function monitor(signal) {
  /** @type {Training | null} */
  let training = null;
  /** @type {[number, string][]} */
  let seen = []; // pictures of earlier steps
  const pictures = { target: new Image(), now: new Image() };
  for (const picture of Object.values(pictures)) picture.onload = () => redraw();

  const { canvas, redraw } = surface((context, width, height) => {
    const side = Math.min((width - 8) / 3, height * 0.55);
    const gap = (width - 3 * side) / 4;
    context.font = "10px Inter, system-ui, sans-serif";
    context.textAlign = "center";
    const titles = ["target", at() < seen.length ? `step ${seen[at()][0]}` : "now", "difference"];
    for (const [place, name] of /** @type {const} */ (["target", "now", "difference"]).entries()) {
      /** @type {[number, number, number, number]} */
      const into = [gap + place * (side + gap), 16, side, side];
      context.fillStyle = themed(canvas, "--descrip-text", "#999");
      context.fillText(titles[place], into[0] + side / 2, 11);
      for (const part of name === "difference" ? /** @type {const} */ (["target", "now"]) : [name]) {
        const picture = pictures[part];
        if (!picture.naturalWidth || (name === "difference" && !pictures.now.naturalWidth)) continue;
        context.globalCompositeOperation = name === "difference" && part === "now" ? "difference" : "source-over";
        contain(context, picture, [0, 0, picture.naturalWidth, picture.naturalHeight], into);
      }
      context.globalCompositeOperation = "source-over";
    }
    const top = side + 24;
    curves(context, [6, top, width - 12, height - top - 6]);
  }, signal);

  /** @param {CanvasRenderingContext2D} context @param {[number, number, number, number]} into */
  const curves = (context, [left, top, width, height]) => {
    const { curve: losses = [], similarity = [], total = 0 } = training ?? {};
    if (losses.length < 2 || height < 10) return;
    const [accent, text] = [themed(canvas, "--p-primary-color", "#3b82f6"), themed(canvas, "--input-text", "#ddd")];
    context.strokeStyle = themed(canvas, "--descrip-text", "#999");
    context.lineWidth = 1;
    context.strokeRect(left, top, width, height);
    /** @param {Points} points @param {string} color @param {number} low @param {number} high */
    const line = (points, color, low, high) => {
      context.strokeStyle = context.fillStyle = color;
      context.lineWidth = 1.5;
      context.beginPath();
      points.forEach(([step, value], i) => {
        const x = left + (step / (total || 1)) * width;
        const y = top + 4 + ((high - value) / (high - low || 1)) * (height - 8);
        context[i ? "lineTo" : "moveTo"](x, y);
        if (points.length === 1) context.fillRect(x - 2, y - 2, 4, 4);
      });
      context.stroke();
    };
    // Losses fall by powers of ten, so their scale is logarithmic; the cosine's scale is 0 to 1.
    const logs = losses.map(([step, loss]) => /** @type {[number, number]} */ ([step, Math.log(Math.max(loss, 1e-9))]));
    const [low, high] = [Math.min(...logs.map(([, log]) => log)), Math.max(...logs.map(([, log]) => log))];
    line(logs, accent, low, high);
    line(similarity.map(([step, cosine]) => [step, Math.max(0, cosine)]), SIMILAR, 0, 1);
    context.fillStyle = text;
    context.textAlign = "right";
    context.fillText(`loss ${Math.exp(high).toPrecision(2)}`, left + width - 4, top + 12);
    context.fillText(Math.exp(low).toPrecision(2), left + width - 4, top + height - 5);
    if (!similarity.length) return;
    context.fillStyle = SIMILAR;
    context.textAlign = "left";
    context.fillText("identity similarity, 0 to 1", left + 4, top + height - 5);
  };

  const plain = { color: COLORS.faint, textAlign: "center" };
  const caption = element("div", { ...plain, minHeight: "14px" }, { role: "status" }, ["no training yet"]);
  const note = element("div", { ...plain, display: "none", overflowWrap: "anywhere" });
  const slider = range("Step of the picture", signal);
  slider.addEventListener("input", () => look(), { signal });
  const back = element("div", { display: "none", padding: "0 6px" }, { dir: "ltr" }, [slider]);
  const root = box({ role: "group", "aria-label": "Training monitor" }, [canvas, back, caption, note]);

  /** Index of the displayed picture; past the earlier ones: the newest. */
  const at = () => Number(slider.value);
  const look = () => {
    const picture = at() < seen.length ? seen[at()][1] : training?.now;
    slider.setAttribute("aria-valuetext", at() < seen.length ? `step ${seen[at()][0]}` : "now");
    for (const [name, url] of /** @type {const} */ ([["target", training?.target], ["now", picture]])) {
      if (url?.startsWith("data:image/") && pictures[name].src !== url) pictures[name].src = url;
    }
    redraw();
  };

  /** @param {Training} given */
  const show = (given) => {
    const newest = at() >= seen.length;
    if (given.step === 0 || (given.step ?? 0) < (training?.step ?? 0)) [seen, pictures.now] = [[], fresh()];
    training = given;
    if (given.seen) seen = given.seen.filter(([, picture]) => picture !== given.now);
    caption.textContent = describe(given);
    note.textContent = given.note ?? "";
    note.style.display = given.note ? "" : "none";
    slider.max = String(seen.length);
    if (newest) slider.value = slider.max;
    back.style.display = seen.length ? "flex" : "none";
    look();
  };
  const fresh = () => Object.assign(new Image(), { onload: () => redraw() });
  return { root, show };
}

app.registerExtension({
  name: "my3dgen.training_monitor",
  nodeCreated(node) {
    if (!NODES.includes(node.comfyClass ?? "")) return;
    const life = new AbortController();
    const { signal } = life;
    const { root, show } = monitor(signal);
    place(node, "training_monitor", root, HEIGHT, life);

    /** @param {Event} event */
    const onProgress = (event) => {
      const training = /** @type {CustomEvent<Training>} */ (event).detail;
      if (runsAs(node, training.node)) show(training);
    };
    api.addEventListener(EVENT, onProgress, /** @type {any} */ ({ signal }));
    signal.addEventListener("abort", () => api.removeEventListener(EVENT, onProgress));

    // After a reload, fetch the state of the training. Node ids repeat across workflows; another value of the
    // input means another training.
    after(node, "onConfigure", async () => {
      try {
        const answer = await api.fetchApi("/my3dgen/training", { signal });
        const training = entryOf(node, /** @type {Record<string, Training>} */ ((await answer.json()).trainings));
        if (training && training.steps === input(node, "steps")?.value) show(training);
      } catch {
        // The node or the server is gone: nothing to show.
      }
    });
  },
});
