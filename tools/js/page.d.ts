// ComfyUI serves these two beside its extensions.

declare module "*/scripts/app.js" {
  export const app: import("../../web/js/lib/comfy.mjs").App;
}

declare module "*/scripts/api.js" {
  export const api: import("../../web/js/lib/comfy.mjs").Api;
}
