// HTML elements in ComfyUI's theme colors, light and dark.

export const COLORS = {
  text: "var(--input-text, #ddd)",
  faint: "var(--descrip-text, #999)",
  line: "var(--border-color, #4e4e4e)",
  ground: "var(--comfy-input-bg, #222)",
  accent: "var(--p-primary-color, #3b82f6)",
};

/**
 * @template {keyof HTMLElementTagNameMap} Tag
 * @param {Tag} tag
 * @param {Partial<CSSStyleDeclaration>} style
 * @param {Record<string, string>} [attributes]
 * @param {(Node | string)[]} [children]
 * @returns {HTMLElementTagNameMap[Tag]}
 */
export function element(tag, style, attributes = {}, children = []) {
  const made = document.createElement(tag);
  Object.assign(made.style, style);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

/**
 * A button that does not start dragging the node.
 * @param {string} text
 * @param {string} label for screen readers and as a tooltip
 * @param {() => void} press
 * @param {AbortSignal} signal
 */
export function button(text, label, press, signal) {
  const style = {
    background: COLORS.ground,
    color: COLORS.text,
    border: `1px solid ${COLORS.line}`,
    borderRadius: "4px",
    padding: "2px 8px",
    font: "inherit",
    cursor: "pointer",
  };
  const made = element("button", style, { type: "button", "aria-label": label, title: label }, [text]);
  made.addEventListener("click", press, { signal });
  made.addEventListener("pointerdown", (event) => event.stopPropagation(), { signal });
  return made;
}

/** Which picture an element shows. @type {WeakMap<HTMLElement, ImageBitmap>} */
const shown = new WeakMap();

/**
 * Replaces an element's text with a picture, drawn once.
 * @param {HTMLElement} element
 * @param {ImageBitmap} picture
 * @param {number} side pixels
 */
export function within(element, picture, side) {
  if (shown.get(element) === picture) return;
  shown.set(element, picture);
  const canvas = document.createElement("canvas");
  const sharp = Math.round(side * (window.devicePixelRatio || 1));
  [canvas.width, canvas.height] = [sharp, sharp];
  Object.assign(canvas.style, { width: "100%", height: "100%", display: "block" });
  canvas.getContext("2d")?.drawImage(picture, 0, 0, sharp, sharp);
  element.replaceChildren(canvas);
}

/**
 * A slider that does not start dragging the node.
 * @param {string} label
 * @param {AbortSignal} signal
 */
export function range(label, signal) {
  const style = { flex: "1", minWidth: "0", width: "100%", margin: "0", accentColor: COLORS.accent };
  const made = element("input", style, { type: "range", min: "0", max: "0", value: "0", "aria-label": label });
  for (const name of ["pointerdown", "keydown"]) {
    made.addEventListener(name, (event) => event.stopPropagation(), { signal });
  }
  return made;
}

/**
 * A box as wide as the node that stacks its children vertically.
 * @param {Record<string, string>} attributes
 * @param {Node[]} children
 */
export function box(attributes, children) {
  const style = {
    display: "flex",
    flexDirection: "column",
    gap: "4px",
    flex: "1 1 0",
    minWidth: "0",
    minHeight: "0",
    width: "100%",
    height: "100%",
    boxSizing: "border-box",
    overflow: "hidden",
    color: COLORS.text,
    font: "11px Inter, system-ui, sans-serif",
    userSelect: "none",
  };
  return element("div", style, attributes, children);
}

/**
 * Fills the remaining space of its box.
 * @param {Node[]} children
 */
export function rest(children) {
  // A nested flex box: the node's height may be indefinite, and percentages would resolve to zero.
  const style = { display: "flex", flexDirection: "column", flex: "1 1 0", minWidth: "0", minHeight: "0" };
  return element("div", style, {}, children);
}

/**
 * A canvas that fills the remaining space of its box and is redrawn whenever its size changes.
 * @param {(context: CanvasRenderingContext2D, width: number, height: number) => void} paint
 * @param {AbortSignal} signal
 */
export function surface(paint, signal) {
  const style = { display: "block", width: "100%", flex: "1 1 0", minHeight: "0", borderRadius: "6px" };
  const canvas = element("canvas", { ...style, background: COLORS.ground }, { "aria-hidden": "true" });
  const draw = () => {
    const scale = window.devicePixelRatio || 1;
    const width = canvas.clientWidth;
    const height = canvas.clientHeight;
    const context = canvas.getContext("2d");
    if (!context || !width || !height) return;
    canvas.width = Math.round(width * scale);
    canvas.height = Math.round(height * scale);
    context.scale(scale, scale);
    paint(context, width, height);
  };
  let frame = 0;
  const redraw = () => {
    cancelAnimationFrame(frame);
    frame = requestAnimationFrame(draw);
  };
  const watch = new ResizeObserver(redraw);
  watch.observe(canvas);
  signal.addEventListener("abort", () => {
    watch.disconnect();
    cancelAnimationFrame(frame);
  });
  return { canvas, redraw };
}

/**
 * A theme color of the page as a value for a canvas.
 * @param {Element} where
 * @param {string} variable
 * @param {string} otherwise
 */
export function themed(where, variable, otherwise) {
  return getComputedStyle(where).getPropertyValue(variable).trim() || otherwise;
}

/**
 * Draws a picture centered and as large as it fits.
 * @param {CanvasRenderingContext2D} context
 * @param {CanvasImageSource} image
 * @param {[number, number, number, number]} part x, y, width and height in the image
 * @param {[number, number, number, number]} into
 */
export function contain(context, image, [x, y, width, height], [left, top, wide, high]) {
  const scale = Math.min(wide / width, high / height);
  const [w, h] = [width * scale, height * scale];
  context.drawImage(image, x, y, width, height, left + (wide - w) / 2, top + (high - h) / 2, w, h);
}
