// Live previews: handles issued by executed nodes, and small frames requested with them.

import { api } from "../../../../scripts/api.js";
import { after, downstream, entryOf, runsAs } from "./nodes.mjs";

/** @typedef {import("./comfy.mjs").Node} Node */
/** @typedef {{handle: string, low?: number, high?: number, count?: number}} Live */

/** @type {WeakMap<Node, Live>} */
const known = new WeakMap();
/** Nodes that have received the result of their latest run. @type {WeakSet<Node>} */
const updated = new WeakSet();

/**
 * Stores the handle that the server sends whenever the node has been executed.
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
 * Fetches the `ui` of an earlier run if the node's result comes from ComfyUI's cache: ComfyUI does not send it
 * again, and a page opened later never received it.
 * @param {Node} node
 * @param {AbortSignal} signal
 */
export function recall(node, signal) {
  /** @param {Event} event */
  const cached = async (event) => {
    const { nodes } = /** @type {CustomEvent<{nodes: string[]}>} */ (event).detail;
    if (updated.has(node) || !nodes.some((id) => runsAs(node, id))) return;
    try {
      const answer = await api.fetchApi("/my3dgen/nodes", { signal });
      const output = entryOf(node, (await answer.json()).nodes);
      if (output && !signal.aborted) /** @type {any} */ (node).onExecuted?.(output);
    } catch {
      // The node or the server is gone: nothing to show.
    }
  };
  after(node, "onExecuted", () => updated.add(node));
  api.addEventListener("execution_cached", cached);
  signal.addEventListener("abort", () => api.removeEventListener("execution_cached", cached));
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

/**
 * Calls `then` whenever the server's queue becomes empty.
 * @param {() => void} then
 * @param {AbortSignal} signal
 */
export function whenIdle(then, signal) {
  let busy = false;
  /** @param {Event} event */
  const status = (event) => {
    const was = busy;
    busy = /** @type {CustomEvent} */ (event).detail?.exec_info?.queue_remaining > 0;
    if (was && !busy) then();
  };
  api.addEventListener("status", status);
  signal.addEventListener("abort", () => api.removeEventListener("status", status));
}

/** Status of a request replaced by a newer one, and the pause before retrying, in milliseconds. */
const STALE = 409;
const PAUSE = 60;

/** If a frame takes longer than this while dragging, render on release only. In milliseconds. */
const TOO_SLOW = 600;

/**
 * Frames for one widget: one request at a time; only the newest waiting request is kept.
 */
export class LiveView {
  /**
   * @param {(picture: ImageBitmap) => void} show
   * @param {(message: string) => void} say reports why there is no picture; "" when there is one
   * @param {AbortSignal} signal ends all requests
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
        const { error } = await answer.json(); // always read: an unread response keeps its connection open
        return void (answer.status === STALE ? await this.again(request) : this.say(error));
      }
      const picture = await createImageBitmap(await answer.blob());
      if (this.signal.aborted) return;
      const slow = performance.now() - started > TOO_SLOW;
      if ("quality" in request && request.quality === "drag") this.slow = slow;
      else if (!slow) this.slow = false; // a full-quality picture was fast enough: drag again
      this.say("");
      this.show(picture);
    } catch {
      if (!this.signal.aborted) this.say("ComfyUI is not responding.");
    }
  }

  /**
   * Retries after another widget's request for the same head replaced this one.
   * @param {object} request
   */
  async again(request) {
    await new Promise((done) => setTimeout(done, PAUSE * (1 + Math.random())));
    this.next ??= request;
  }
}

/**
 * Renders thumbnails one after the other; requests from user input take precedence.
 * @param {object[]} requests
 * @param {(picture: ImageBitmap, place: number) => void} show
 * @param {AbortSignal} signal stops it
 */
export async function thumbnails(requests, show, signal) {
  for (const [place, request] of requests.entries()) {
    const one = new LiveView((picture) => show(picture, place), () => {}, signal);
    await one.ask({ ...request, quality: "drag" });
    if (signal.aborted) return;
  }
}
