// Choices of auto, on and off: workflows saved when they were switches hold true and false.

import { app } from "../../../scripts/app.js";
import { after, input } from "./lib/nodes.mjs";

/** @type {Record<string, string>} node and its input */
const CHOICES = { My3DGenInvert: "refine_cameras", My3DGenTrainIdentity: "refine" };

app.registerExtension({
  name: "my3dgen.auto_choices",
  nodeCreated(node) {
    const widget = input(node, CHOICES[node.comfyClass ?? ""] ?? "");
    if (!widget) return;
    const translate = () => {
      if (typeof widget.value === "boolean") widget.value = widget.value ? "on" : "off";
    };
    after(node, "onConfigure", translate); // of a saved workflow
    after(widget, "callback", translate); // of an API prompt opened in the page
  },
});
