// Live pictures: handles that executed nodes gave out, and small frames asked for with them.

import { api } from "../../../../scripts/api.js";
import { after, downstream } from "./nodes.mjs";

/** @typedef {import("./comfy.mjs").Node} Node */
/** @typedef {{handle: string, low?: number, high?: number, count?: number}} Live */

/** @type {WeakMap<Node, Live>} */
const known = new WeakMap();

/**
 * Remembers what the server hands out whenever the node has been executed.
 * @param {Node} node
 * @param {() => void} [then]
 */
export function listen(node, then) {
  after(node, "onExecuted", (output) => {
    const given = output?.my3dgen_live?.[0];
    if (given) known.set(node, given);
    then?.();
  });
}

/**
 * @param {Node} node
 * @returns {Live | undefined}
 */
export function live(node) {
  return known.get(node);
}

/**
 * The Render Head that this node leads to and that has run: the node itself, or the first one after it.
 * @param {Node} node
 * @returns {Node | undefined}
 */
export function render(node) {
  for (const one of [node, ...downstream(node)]) {
    if (one.comfyClass === "My3DGenRender" && known.has(one)) return one;
  }
  return undefined;
}

/**
 * The handle of the head that this node leads to.
 * @param {Node} node
 * @returns {string | undefined}
 */
export function head(node) {
  const found = render(node);
  return found && known.get(found)?.handle;
}

/** Slower than this while dragging, and pictures come on release only. */
const TOO_SLOW = 600;

/**
 * Frames for one widget: one request at a time, and of those that wait only the newest.
 */
export class LiveView {
  /**
   * @param {(picture: ImageBitmap) => void} show
   * @param {(sentence: string) => void} say why there is no picture; "" when there is one
   * @param {AbortSignal} signal no traffic after it
   */
  constructor(show, say, signal) {
    this.show = show;
    this.say = say;
    this.signal = signal;
    this.asking = false;
    /** @type {object | null} */
    this.next = null;
    this.slow = false;
  }

  /**
   * @param {object & {head?: string, quality: "drag" | "still"}} request
   */
  async ask(request) {
    if (!request.head || this.signal.aborted || (request.quality === "drag" && this.slow)) return;
    this.next = request;
    if (this.asking) return;
    this.asking = true;
    while (this.next && !this.signal.aborted) {
      const now = this.next;
      this.next = null;
      await this.fetch(now);
    }
    this.asking = false;
  }

  /** @param {object} request */
  async fetch(request) {
    const started = performance.now();
    try {
      const answer = await api.fetchApi("/my3dgen/live", {
        method: "POST",
        headers: { "Content-Type": "application/json" },
        body: JSON.stringify(request),
        signal: this.signal,
      });
      if (!answer.ok) {
        if (answer.status !== 409) this.say((await answer.json()).error);
        return;
      }
      const picture = await createImageBitmap(await answer.blob());
      if (this.signal.aborted) return;
      if ("quality" in request && request.quality === "drag") this.slow = performance.now() - started > TOO_SLOW;
      this.say("");
      this.show(picture);
    } catch {
      if (!this.signal.aborted) this.say("ComfyUI does not answer.");
    }
  }
}
