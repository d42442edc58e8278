// Search field of Load Identity: asks the server for names, and moves the node's own list to the one chosen.

import { api } from "../../../../scripts/api.js";
import { COLORS, box, element } from "./element.mjs";
import { after, input, place, setValue } from "./nodes.mjs";

/** @typedef {import("./comfy.mjs").Node} Node */
/** @typedef {{ name: string, bytes: number, tags: string[] }} Found */

const MOST = 50;
const PAUSE = 120; // milliseconds after a key until the server is asked
let count = 0;

/**
 * Adds the field to a node. The results are a list over the page, so that the node keeps its size.
 * @param {Node} node
 * @param {AbortController} life
 */
export function addSearch(node, life) {
  const { signal } = life;
  const id = `my3dgen-identities-${++count}`;
  const style = { background: COLORS.ground, color: COLORS.text, border: `1px solid ${COLORS.line}` };
  const field = element(
    "input",
    { ...style, width: "100%", boxSizing: "border-box", borderRadius: "4px", padding: "4px 8px", font: "inherit" },
    {
      type: "text",
      role: "combobox",
      placeholder: "Search by name or tag",
      "aria-label": "Search identities",
      "aria-autocomplete": "list",
      "aria-expanded": "false",
      "aria-controls": id,
      autocomplete: "off",
      spellcheck: "false",
      maxlength: "200",
    },
  );
  const list = element(
    "div",
    {
      ...style,
      position: "fixed",
      zIndex: "10000",
      display: "none",
      maxHeight: "260px",
      overflowY: "auto",
      borderRadius: "4px",
      font: "12px Inter, system-ui, sans-serif",
      boxShadow: "0 4px 16px rgb(0 0 0 / 40%)",
    },
    { role: "listbox", id, "aria-label": "Identities found" },
  );
  /** @type {AbortController | undefined} */
  let asked;
  let timer = 0;
  let active = -1;

  const options = () => /** @type {HTMLElement[]} */ ([...list.querySelectorAll("[role=option]")]);
  const close = () => {
    clearTimeout(timer);
    asked?.abort();
    list.style.display = "none";
    field.setAttribute("aria-expanded", "false");
    field.removeAttribute("aria-activedescendant");
  };
  const open = () => {
    const { left, bottom, top, width } = field.getBoundingClientRect();
    if (!list.isConnected) document.body.append(list);
    Object.assign(list.style, { display: "block", left: `${left}px`, minWidth: `${Math.max(width, 220)}px` });
    const above = bottom + list.offsetHeight > window.innerHeight && top > list.offsetHeight;
    list.style.top = `${above ? top - list.offsetHeight : bottom}px`;
    field.setAttribute("aria-expanded", "true");
  };
  /** @param {number} to */
  const point = (to) => {
    const all = options();
    active = all.length ? (to + all.length) % all.length : -1;
    for (const [at, one] of all.entries()) {
      one.setAttribute("aria-selected", String(at === active));
      one.style.background = at === active ? COLORS.line : "transparent";
    }
    if (active < 0) return field.removeAttribute("aria-activedescendant");
    all[active].scrollIntoView({ block: "nearest" });
    field.setAttribute("aria-activedescendant", all[active].id);
  };
  /** @param {string} name */
  const choose = (name) => {
    offer(node, name);
    setValue(node, "file", name);
    field.value = "";
    close();
  };

  /** @param {Found} found @param {number} at */
  const row = ({ name, tags }, at) => {
    const children = [element("span", {}, {}, [name])];
    if (tags.length) children.push(element("span", { color: COLORS.faint }, {}, [`  ${tags.join(", ")}`]));
    const look = { padding: "4px 8px", cursor: "pointer", whiteSpace: "pre", overflow: "hidden", textOverflow: "ellipsis" };
    const made = element("div", look, { role: "option", id: `${id}-${at}`, "aria-selected": "false" }, children);
    made.dataset.name = name;
    made.addEventListener("pointerdown", (event) => {
      event.preventDefault(); // the field keeps the focus
      event.stopPropagation();
      choose(name);
    });
    return made;
  };
  /** @param {string} text */
  const note = (text) => element("div", { padding: "4px 8px", color: COLORS.faint }, { role: "note" }, [text]);

  const ask = async () => {
    asked?.abort();
    asked = new AbortController();
    const { signal: current } = asked;
    try {
      const words = new URLSearchParams({ query: field.value, limit: String(MOST) });
      const answer = await api.fetchApi(`/my3dgen/identities?${words}`, { signal: current });
      if (!answer.ok) throw new Error(String(answer.status));
      /** @type {{ identities: Found[], total: number }} */
      const { identities, total } = await answer.json();
      if (current.aborted) return;
      list.replaceChildren(...identities.map(row));
      const more = total - identities.length;
      if (!identities.length) list.append(note("No identity has these words in its name or tags."));
      else if (more > 0) list.append(note(`and ${more} more: type another word`));
      open();
      point(identities.length && field.value.trim() ? 0 : -1);
    } catch {
      if (current.aborted) return;
      list.replaceChildren(note("The server cannot be asked at the moment."));
      open();
    }
  };

  field.addEventListener("focus", ask, { signal });
  field.addEventListener("blur", close, { signal });
  const later = () => {
    clearTimeout(timer);
    timer = window.setTimeout(ask, PAUSE);
  };
  field.addEventListener("input", later, { signal });
  /** @param {KeyboardEvent} event */
  const press = (event) => {
    event.stopPropagation(); // keys are shortcuts of the page
    const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (step) point(active < 0 && step < 0 ? -1 : active + step);
    else if (event.key === "Enter") choose(options()[active]?.dataset.name ?? input(node, "file")?.value);
    else if (event.key === "Escape") close();
    else return;
    event.preventDefault();
  };
  field.addEventListener("keydown", press, { signal });
  for (const name of ["pointerdown", "wheel"]) {
    field.addEventListener(name, (event) => event.stopPropagation(), { signal });
    list.addEventListener(name, (event) => event.stopPropagation(), { signal });
  }
  list.addEventListener("pointerdown", (event) => event.preventDefault(), { signal }); // a drag of its scroll bar
  signal.addEventListener("abort", () => {
    close();
    list.remove();
  });
  place(node, "identity_search", box({}, [field]), 40, life);
  const shown = () => offer(node, input(node, "file")?.value);
  after(node, "onConfigure", shown); // a workflow may name one that is not among the newest
}

/**
 * Puts a name into the node's own list, which holds only the newest, so that it is shown as one of its values.
 * @param {Node} node
 * @param {unknown} name
 */
function offer(node, name) {
  const values = input(node, "file")?.options?.values;
  if (Array.isArray(values) && typeof name === "string" && !values.includes(name)) values.push(name);
}
