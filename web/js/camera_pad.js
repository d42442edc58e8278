// Camera: a pad that sets the node's own numbers.

import { app } from "../../../scripts/app.js";
import { head, listen } from "./lib/live.mjs";
import { after, input, place, setNumber, source } from "./lib/nodes.mjs";
import { FRONT, pad } from "./lib/pad.mjs";

const NAMES = /** @type {(keyof typeof FRONT)[]} */ (Object.keys(FRONT));

app.registerExtension({
  name: "my3dgen.camera_pad",
  nodeCreated(node) {
    if (node.comfyClass === "My3DGenRender") listen(node); // the pad shows its head
    if (node.comfyClass !== "My3DGenCamera") return;
    const life = new AbortController();
    const camera = () => {
      const now = { ...FRONT };
      for (const name of NAMES) now[name] = Number(input(node, name)?.value ?? FRONT[name]);
      return now;
    };
    let ours = false;
    const { root, show } = pad({
      camera,
      move(change) {
        ours = true; // the pad shows its own changes itself
        for (const [name, value] of Object.entries(change)) setNumber(node, name, value);
        ours = false;
      },
      request() {
        const found = head(node);
        return found ? { head: found, aim: source(node, "model") ? "model" : "origin" } : undefined;
      },
      label: "Camera",
      signal: life.signal,
    });
    place(node, "camera_pad", root, 220, life);
    after(node, "onConfigure", () => show());
    for (const name of NAMES) {
      const widget = input(node, name);
      if (widget) after(widget, "callback", () => ours || show());
    }
  },
});
