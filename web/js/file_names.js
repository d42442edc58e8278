// File names: %date:yyyy-MM-dd% and %Node.widget% in filename_prefix, as on ComfyUI's own nodes that save.

import { app } from "../../../scripts/app.js";
import { input } from "./lib/nodes.mjs";

app.registerExtension({
  name: "my3dgen.file_names",
  nodeCreated(node) {
    const prefix = node.comfyClass?.startsWith("My3DGen") && input(node, "filename_prefix");
    if (!prefix) return;
    prefix.serializeValue = () => {
      // ComfyUI's page does this for a fixed list of its own nodes; the server resolves %year%, %width% and so on.
      const replace = window.comfyAPI?.utils?.applyTextReplacements;
      return typeof prefix.value === "string" && replace ? replace(app, prefix.value) : prefix.value;
    };
  },
});
