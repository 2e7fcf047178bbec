"use strict";
/* Building of elements. Every text becomes a text node: nothing in this page is ever parsed as HTML. */

/**
 * Make an element.
 *
 * @param {string} tag - Its name.
 * @param {Object} given - Its attributes. `class`, `style` (an object; custom properties too), `on` (an object of
 *   listeners) and `key` (data-key) are special; `true` is an attribute without a value; `false`, `null` and
 *   `undefined` leave one out.
 * @param {...(Node|string|number|null|Array)} children - Texts and nodes; lists are flattened, `null` and `false` are passed over.
 */
function el(tag, given = {}, ...children) {
  return filled(document.createElement(tag), given, children);
}

/** Make an element of a drawing; see `el`. */
function svg(tag, given = {}, ...children) {
  return filled(document.createElementNS("http://www.w3.org/2000/svg", tag), given, children);
}

function filled(node, given, children) {
  for (const [name, value] of Object.entries(given)) {
    if (value === null || value === undefined || value === false) continue;
    if (name === "style") {
      for (const [property, text] of Object.entries(value)) node.style.setProperty(property, text);
    } else if (name === "on") {
      for (const [event, listener] of Object.entries(value)) node.addEventListener(event, listener);
    } else {
      node.setAttribute(name, value === true ? "" : String(value));
    }
  }
  node.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false).map(asNode));
  return node;
}

function asNode(child) {
  return child instanceof Node ? child : document.createTextNode(String(child));
}

/** Put new children in the place of an element's old ones. */
function refill(node, ...children) {
  node.replaceChildren();
  return filled(node, {}, children);
}

/** The element of an id that the page's frame has. */
function byId(id) {
  return document.getElementById(id);
}

let lastId = 0;

/** An id that nothing else in the page has. */
function newId(prefix) {
  lastId += 1;
  return `${prefix}-${lastId}`;
}

/** Have a screen reader say something, politely. The same text twice is said twice. */
function announce(text) {
  const region = byId("announcements");
  region.textContent = region.textContent === text ? `${text}\u00a0` : text;
}

/** Call a function once in the next frame, however often it is asked for until then. */
function oncePerFrame(call) {
  let waiting = false;
  return () => {
    if (waiting) return;
    waiting = true;
    requestAnimationFrame(() => {
      waiting = false;
      call();
    });
  };
}

/** A labelled choice of one of several values. */
function selectBox(label, choices, chosen, onChange) {
  const id = newId("choice");
  const box = el(
    "select",
    { id, on: { change: () => onChange(box.value) } },
    choices.map(([value, text]) => el("option", { value, selected: value === chosen }, text)),
  );
  return el("span", { class: "field" }, el("label", { for: id }, label), box);
}

/** A labelled tick box. */
function tickBox(label, ticked, onChange, given = {}) {
  const box = el("input", { type: "checkbox", checked: ticked, on: { change: () => onChange(box.checked) } });
  return el("label", { class: "tick", ...given }, box, el("span", {}, label));
}

/** The coloured mark of a run. */
function runMark(run) {
  return el("span", { class: "run-mark", style: { "--run": run.color }, "aria-hidden": "true" });
}

/** Whether keys that are typed go into a field. */
function isTyping(target) {
  return target instanceof HTMLElement && (target.isContentEditable || /^(INPUT|TEXTAREA|SELECT)$/.test(target.tagName));
}

/** What this browser keeps for the page; a browser that keeps nothing (or is full) is no error. */
const storage = {
  read(name) {
    try {
      return JSON.parse(localStorage.getItem(`mdl-toolkit ${name}`));
    } catch {
      return null;
    }
  },
  /** @returns {boolean} Whether it was kept. */
  write(name, value) {
    try {
      localStorage.setItem(`mdl-toolkit ${name}`, JSON.stringify(value));
      return true;
    } catch {
      return false;
    }
  },
  remove(name) {
    try {
      localStorage.removeItem(`mdl-toolkit ${name}`);
    } catch {
      // Nothing is kept, so nothing has to go.
    }
  },
};
