// Train Identity and Pivotal Tuning: how the training goes.

import { app } from "../../../scripts/app.js";
import { api } from "../../../scripts/api.js";
import { COLOURS, box, contain, element, surface, themed } from "./lib/element.mjs";
import { after, input, place } from "./lib/nodes.mjs";

/**
 * @typedef {{node: string, state: "running" | "done" | "stopped", step?: number, total?: number, left?: number,
 *   curve?: [number, number][], target: string, now: string | null}} Training
 */

const NODES = ["My3DGenTrainIdentity", "My3DGenPivotalTuning"];
const EVENT = "my3dgen.training";
const HEIGHT = 240;

/** @param {number} seconds */
const duration = (seconds) => {
  if (seconds < 60) return `${Math.ceil(seconds)} s`;
  const minutes = Math.ceil(seconds / 60);
  return minutes < 60 ? `${minutes} min` : `${Math.floor(minutes / 60)} h ${minutes % 60} min`;
};

/** @param {Training} training */
const sentence = ({ state, step, total, left, curve }) => {
  if (!step || !total) return "starting";
  const loss = curve?.length ? `  loss ${curve[curve.length - 1][1].toPrecision(3)}` : "";
  const rest = state === "running" ? `  ${duration(left ?? 0)} left` : `  ${state}`;
  return `step ${step} of ${total}${loss}${rest}`;
};

/** @param {AbortSignal} signal */
function monitor(signal) {
  /** @type {Training | null} */
  let training = null;
  const pictures = { target: new Image(), now: new Image() };
  for (const picture of Object.values(pictures)) picture.onload = () => redraw();

  const { canvas, redraw } = surface((context, width, height) => {
    const text = themed(canvas, "--input-text", "#ddd");
    const faint = themed(canvas, "--descrip-text", "#999");
    const side = Math.min((width - 8) / 3, height * 0.55);
    const gap = (width - 3 * side) / 4;
    context.font = "10px Inter, system-ui, sans-serif";
    context.textAlign = "center";
    for (const [place, title] of ["target", "now", "difference"].entries()) {
      /** @type {[number, number, number, number]} */
      const into = [gap + place * (side + gap), 16, side, side];
      context.fillStyle = faint;
      context.fillText(title, into[0] + side / 2, 11);
      for (const name of title === "difference" ? /** @type {const} */ (["target", "now"]) : [title]) {
        const picture = pictures[/** @type {"target" | "now"} */ (name)];
        if (!picture.naturalWidth || (title === "difference" && !pictures.now.naturalWidth)) continue;
        context.globalCompositeOperation = title === "difference" && name === "now" ? "difference" : "source-over";
        contain(context, picture, [0, 0, picture.naturalWidth, picture.naturalHeight], into);
      }
      context.globalCompositeOperation = "source-over";
    }
    const top = side + 24;
    curve(context, [6, top, width - 12, height - top - 6], { text, faint });
  }, signal);

  /**
   * @param {CanvasRenderingContext2D} context
   * @param {[number, number, number, number]} into
   * @param {{text: string, faint: string}} colours
   */
  const curve = (context, [left, top, width, height], colours) => {
    const points = training?.curve ?? [];
    if (points.length < 2 || height < 10) return;
    // Losses fall by powers of ten, so the scale is logarithmic.
    const logs = points.map(([, loss]) => Math.log(Math.max(loss, 1e-9)));
    const [low, high] = [Math.min(...logs), Math.max(...logs)];
    const across = training?.total ?? points[points.length - 1][0];
    context.strokeStyle = colours.faint;
    context.lineWidth = 1;
    context.strokeRect(left, top, width, height);
    context.strokeStyle = themed(canvas, "--p-primary-color", "#3b82f6");
    context.lineWidth = 1.5;
    context.beginPath();
    points.forEach(([step], i) => {
      const x = left + (step / across) * width;
      const y = top + 4 + ((high - logs[i]) / (high - low || 1)) * (height - 8);
      context[i ? "lineTo" : "moveTo"](x, y);
    });
    context.stroke();
    context.fillStyle = colours.text;
    context.textAlign = "right";
    context.fillText(Math.exp(high).toPrecision(2), left + width - 4, top + 12);
    context.fillText(Math.exp(low).toPrecision(2), left + width - 4, top + height - 5);
  };

  const caption = element(
    "div",
    { color: COLOURS.faint, textAlign: "center", minHeight: "14px" },
    { role: "status" },
    ["no training yet"],
  );
  const root = box({ role: "group", "aria-label": "Training monitor" }, [canvas, caption]);

  /** @param {Training} given */
  const show = (given) => {
    training = given;
    caption.textContent = sentence(given);
    for (const name of /** @type {const} */ (["target", "now"])) {
      const url = given[name] ?? "";
      if (url.startsWith("data:image/") && pictures[name].src !== url) pictures[name].src = url;
    }
    redraw();
  };
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
    const told = (event) => {
      const training = /** @type {CustomEvent<Training>} */ (event).detail;
      if (training.node === String(node.id)) show(training);
    };
    api.addEventListener(EVENT, told, /** @type {any} */ ({ signal }));
    signal.addEventListener("abort", () => api.removeEventListener(EVENT, told));

    // A page that was reloaded asks what it has missed. Numbers of nodes repeat from workflow to workflow; a
    // training of another length is another one.
    after(node, "onConfigure", async () => {
      try {
        const answer = await api.fetchApi("/my3dgen/training", { signal });
        const training = (await answer.json()).trainings[String(node.id)];
        if (training && training.total === input(node, "steps")?.value) show(training);
      } catch {
        // The node is gone, or the server: nothing to show.
      }
    });
  },
});
