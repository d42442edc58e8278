// Access to a node for all widgets: its inputs, its links, its id on the server, its lifetime.

/** @typedef {import("./comfy.mjs").Node} Node */
/** @typedef {import("./comfy.mjs").Widget} Widget */
/** @typedef {import("./comfy.mjs").Graph} Graph */

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

/**
 * Whether this is the node that the server executes under this id: "5", or "12:5" for node 5 inside the
 * subgraph of node 12. All instances of a subgraph share its nodes.
 * @param {Node} node
 * @param {string | number} id
 */
export function runsAs(node, id) {
  const path = String(id).split(":");
  /** @type {Graph | null | undefined} */
  let graph = node.graph?.rootGraph ?? node.graph;
  for (const part of path.slice(0, -1)) graph = graph?.getNodeById(part)?.subgraph;
  return graph?.getNodeById(path[path.length - 1]) === node;
}

/**
 * The entry of this node in an object whose keys are ids of executed nodes; the last one if there are several.
 * @template T
 * @param {Node} node
 * @param {Record<string, T>} byId
 * @returns {T | undefined}
 */
export function entryOf(node, byId) {
  const id = Object.keys(byId).filter((one) => runsAs(node, one)).pop();
  return id === undefined ? undefined : byId[id];
}

/** @param {Graph | null | undefined} graph @param {number | null | undefined} id */
function wire(graph, id) {
  const links = graph?.links;
  if (id === null || id === undefined || !links) return undefined;
  return links instanceof Map ? links.get(id) : links[id];
}

/**
 * The nodes that show this graph as their subgraph.
 * @param {Graph} graph
 */
function hosts(graph) {
  const graphs = new Set([graph.rootGraph ?? graph]);
  for (const one of graphs) for (const node of one.nodes ?? []) if (node.subgraph) graphs.add(node.subgraph);
  return [...graphs].flatMap((one) => one.nodes ?? []).filter((node) => node.subgraph === graph);
}

/**
 * The node where a link begins, followed into subgraphs and out of them.
 * @param {Graph | null | undefined} graph
 * @param {number | null | undefined} id of the link
 * @returns {Node | undefined}
 */
function origin(graph, id) {
  const link = wire(graph, id);
  if (!graph || !link) return undefined;
  if (graph.inputNode && link.origin_id === graph.inputNode.id) {
    const [host] = hosts(graph);
    return origin(host?.graph, host?.inputs?.[link.origin_slot]?.link);
  }
  const node = graph.getNodeById(link.origin_id) ?? undefined;
  return node?.subgraph ? origin(node.subgraph, node.subgraph.outputs?.[link.origin_slot]?.linkIds?.[0]) : node;
}

/**
 * The nodes where a link ends, followed into subgraphs and out of them.
 * @param {Graph | null | undefined} graph
 * @param {number} id of the link
 * @returns {Node[]}
 */
function targets(graph, id) {
  const link = wire(graph, id);
  if (!graph || !link) return [];
  if (graph.outputNode && link.target_id === graph.outputNode.id) {
    return hosts(graph).flatMap((host) =>
      (host.outputs?.[link.target_slot]?.links ?? []).flatMap((one) => targets(host.graph, one)),
    );
  }
  const node = graph.getNodeById(link.target_id);
  if (!node?.subgraph) return node ? [node] : [];
  const { subgraph } = node;
  return (subgraph.inputs?.[link.target_slot]?.linkIds ?? []).flatMap((one) => targets(subgraph, one));
}

/**
 * The node that an input comes from.
 * @param {Node} node
 * @param {string} name
 * @returns {Node | undefined}
 */
export function source(node, name) {
  return origin(node.graph, node.inputs?.find((one) => one.name === name)?.link);
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
    const { graph } = at;
    const links = (at.outputs ?? []).flatMap((output) => output.links ?? []);
    for (const target of links.flatMap((id) => targets(graph, id))) {
      if (seen.has(target)) continue;
      seen.add(target);
      waiting.push(target);
      yield target;
    }
  }
}
