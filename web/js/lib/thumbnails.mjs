// Thumbnails of an identity's anchors, rendered once per handle and kept as long as the node.

import { after } from "./nodes.mjs";
import { head, live, thumbnails, whenIdle } from "./live.mjs";

/** @typedef {import("./comfy.mjs").Node} Node */

/**
 * @param {Node} node that has a handle of anchors
 * @param {number} most
 * @param {() => void} then called after each new picture
 * @param {AbortSignal} signal
 */
export function anchorPictures(node, most, then, signal) {
  /** @type {Map<number, ImageBitmap>} */
  const pictures = new Map();
  let [of, busy] = ["", false];
  const clear = () => {
    for (const picture of pictures.values()) picture.close();
    pictures.clear();
  };

  const make = async () => {
    const { handle, count = 0 } = live(node) ?? {};
    const shown = head(node);
    if (!handle || !shown || busy || signal.aborted || of === handle + shown) return;
    busy = true;
    of = handle + shown;
    clear();
    const requests = Array.from({ length: Math.min(count, most) }, (_, anchor) => {
      const values = new Array(count).fill(0);
      values[anchor] = 1;
      return { head: shown, weights: { handle, values }, aim: "anchors" };
    });
    await thumbnails(requests, (picture, anchor) => (pictures.set(anchor, picture), then()), signal);
    busy = false;
    if (pictures.size < requests.length) of = ""; // a prompt interrupted it: retry when it is done
  };
  whenIdle(make, signal);
  after(node, "onExecuted", () => setTimeout(make, 1500)); // in case no event says that the queue is empty
  signal.addEventListener("abort", clear);
  return pictures;
}
