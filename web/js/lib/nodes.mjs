// Access to a node for all widgets: its inputs, its links, its lifetime.

/** @typedef {import("./comfy.mjs").Node} Node */
/** @typedef {import("./comfy.mjs").Widget} Widget */

/**
 * The widget of the input with this name, if there is one.
 * @param {Node} node
 * @param {string} name
 * @returns {Widget | undefined}
 */
export function input(node, name) {
  return node.widgets?.find((widget) => widget.name === name);
}

/**
 * Sets a number as if it had been typed, within the input's own range.
 * @param {Node} node
 * @param {string} name
 * @param {number} value
 */
export function setNumber(node, name, value) {
  const widget = input(node, name);
  if (!widget || !Number.isFinite(value)) return;
  const { min = -Infinity, max = Infinity } = widget.options ?? {};
  setValue(node, name, Math.min(max, Math.max(min, value)));
}

/**
 * Sets a value as if it had been typed or chosen.
 * @param {Node} node
 * @param {string} name
 * @param {unknown} value
 */
export function setValue(node, name, value) {
  const widget = input(node, name);
  if (!widget || widget.value === value) return;
  widget.value = value;
  widget.callback?.(value);
  node.graph?.setDirtyCanvas?.(true, true);
}

/**
 * Calls `then` after the object's own method, until the returned function is called.
 * @param {any} owner
 * @param {string} method
 * @param {(...given: any[]) => void} then
 */
export function after(owner, method, then) {
  const before = owner[method];
  let on = true;
  /** @this {unknown} @param {any[]} given */
  owner[method] = function (...given) {
    const result = before?.apply(this, given);
    if (on) then.apply(this, given);
    return result;
  };
  return () => {
    on = false;
  };
}

/**
 * Adds an element to the node that stores nothing in the workflow or the prompt.
 * @param {Node} node
 * @param {string} name
 * @param {HTMLElement} element
 * @param {number} height minimum height in pixels
 * @param {AbortController} life aborted when the node is removed
 * @param {number} [width] minimum width of the node in pixels
 */
export function place(node, name, element, height, life, width = 280) {
  element.style.minHeight = `${height - 10}px`; // Nodes 2.0 gives a widget the height of its content
  const widget = node.addDOMWidget(name, "my3dgen", element, {
    serialize: false,
    hideOnZoom: false,
    getMinHeight: () => height,
    getValue: () => "",
    setValue: () => {},
  });
  widget.serialize = false;
  after(node, "onRemoved", () => life.abort());
  const grow = () => {
    const size = node.computeSize();
    node.setSize([Math.max(node.size[0], width, size[0]), Math.max(node.size[1], size[1])]);
  };
  grow();
  after(node, "onConfigure", grow); // a workflow saved before this widget existed has a smaller node
}

/** @param {Node} node @param {number | null | undefined} id */
function wire(node, id) {
  const links = node.graph?.links;
  if (id === null || id === undefined || !links) return undefined;
  return links instanceof Map ? links.get(id) : links[id];
}

/**
 * The node that an input comes from.
 * @param {Node} node
 * @param {string} name
 * @returns {Node | undefined}
 */
export function source(node, name) {
  const link = wire(node, node.inputs?.find((one) => one.name === name)?.link);
  return (link && node.graph?.getNodeById(link.origin_id)) ?? undefined;
}

/**
 * All nodes downstream of the outputs, nearest first.
 * @param {Node} node
 * @returns {Generator<Node>}
 */
export function* downstream(node) {
  const waiting = [node];
  const seen = new Set(waiting);
  for (let at = waiting.shift(); at; at = waiting.shift()) {
    for (const id of (at.outputs ?? []).flatMap((output) => output.links ?? [])) {
      const link = wire(at, id);
      const target = link && at.graph?.getNodeById(link.target_id);
      if (target && !seen.has(target)) {
        seen.add(target);
        waiting.push(target);
        yield target;
      }
    }
  }
}
