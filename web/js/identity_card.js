// Load Identity: a search field, and a card with the file's contents after loading, and the face after its head has been rendered.

import { app } from "../../../scripts/app.js";
import { COLORS, box, element, within } from "./lib/element.mjs";
import { addSearch } from "./lib/identity_search.mjs";
import { LiveView, head, listen, live, recall, whenIdle } from "./lib/live.mjs";
import { after, place } from "./lib/nodes.mjs";

const HINT = "Run the workflow to see what is in the file.";
const NO_FACE = "The face appears once a Render Head after this node has run.";
const SIDE = 96;

app.registerExtension({
  name: "my3dgen.identity_card",
  nodeCreated(node) {
    if (node.comfyClass !== "My3DGenLoadIdentity") return;
    const life = new AbortController();
    const { signal } = life;
    recall(node, signal);
    const hint = element("div", { color: COLORS.faint, textAlign: "center" }, {}, [HINT]);
    const root = box({ role: "region", "aria-label": "Identity card" }, [hint]);
    Object.assign(root.style, { overflowY: "auto", userSelect: "text" });
    const size = { width: `${SIDE}px`, height: `${SIDE}px`, flex: `0 0 ${SIDE}px`, alignSelf: "center" };
    const face = element("div", { ...size, borderRadius: "6px", overflow: "hidden", color: COLORS.faint });
    /** @param {string} said */
    const say = (said) => face.firstElementChild || (face.textContent = said || NO_FACE);
    /** @type {ImageBitmap | null} */
    let shown = null;
    const view = new LiveView((picture) => {
      within(face, picture, SIDE);
      face.setAttribute("role", "img");
      face.setAttribute("aria-label", "The mean of the anchors");
      shown?.close();
      shown = picture;
    }, say, signal);

    const draw = () => {
      const { handle, count = 0 } = live(node) ?? {};
      if (!handle) return;
      const mean = { head: head(node), weights: { handle, values: new Array(count).fill(1 / count) } };
      view.ask({ ...mean, quality: "still" });
    };

    addSearch(node, life);
    place(node, "identity_card", root, 190, life);
    whenIdle(draw, signal);
    listen(node, () => setTimeout(draw, 1500)); // in case no event says that the queue is empty
    after(node, "onExecuted", (output) => {
      /** @type {[string, string][] | undefined} */
      const rows = output?.my3dgen_card;
      if (!rows) return;
      const style = { display: "grid", gridTemplateColumns: "auto 1fr", gap: "2px 12px", margin: "0", padding: "4px" };
      const cells = rows.flatMap(([name, value]) => [
        element("dt", { color: COLORS.faint }, {}, [name]),
        element("dd", { margin: "0", overflowWrap: "anywhere" }, {}, [value]),
      ]);
      face.replaceChildren(NO_FACE);
      root.replaceChildren(face, element("dl", style, {}, cells));
    });
    signal.addEventListener("abort", () => shown?.close());
  },
});
