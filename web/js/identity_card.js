// Load Identity: what is in the file, once it has been loaded.

import { app } from "../../../scripts/app.js";
import { COLOURS, box, element } from "./lib/element.mjs";
import { recall } from "./lib/live.mjs";
import { after, place } from "./lib/nodes.mjs";

const HINT = "Run the workflow to see what is in the file.";

app.registerExtension({
  name: "my3dgen.identity_card",
  nodeCreated(node) {
    if (node.comfyClass !== "My3DGenLoadIdentity") return;
    const hint = element("div", { color: COLOURS.faint, textAlign: "center" }, {}, [HINT]);
    const root = box({ role: "region", "aria-label": "Identity card" }, [hint]);
    Object.assign(root.style, { overflowY: "auto", userSelect: "text" });
    const life = new AbortController();
    recall(node, life.signal);
    place(node, "identity_card", root, 150, life);

    after(node, "onExecuted", (output) => {
      /** @type {[string, string][] | undefined} */
      const rows = output?.my3dgen_card;
      if (!rows) return;
      const style = { display: "grid", gridTemplateColumns: "auto 1fr", gap: "2px 12px", margin: "0", padding: "4px" };
      const cells = rows.flatMap(([name, value]) => [
        element("dt", { color: COLOURS.faint }, {}, [name]),
        element("dd", { margin: "0", overflowWrap: "anywhere" }, {}, [value]),
      ]);
      root.replaceChildren(element("dl", style, {}, cells));
    });
  },
});
