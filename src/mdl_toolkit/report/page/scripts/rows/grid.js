"use strict";
/*
 * A table of any number of rows of which only those that are seen exist as elements.
 *
 * It is one stop of the Tab key: the arrow keys move the chosen row, which a screen reader is told of by
 * aria-activedescendant, and how many rows there are by aria-rowcount.
 */

const OVERSCAN = 6;

class Grid {
  /**
   * @param {Object} given
   * @param {string} given.label - What it holds.
   * @param {function(number)} given.onChoose - Called when a row is chosen.
   * @param {function(number, boolean)} given.onOpen - Called when a row is clicked, or Enter is pressed on it; the
   *   latter is told.
   * @param {function(string, boolean)} given.onSort - Called with a column's id and whether it falls.
   */
  constructor({ label, onChoose, onOpen, onSort }) {
    Object.assign(this, { onChoose, onOpen, onSort });
    this.order = [];
    this.columns = [];
    this.sorting = { id: null, down: false };
    this.chosen = -1;
    this.height = 68;
    this.shown = new Map();
    this.head = el("div", { class: "grid-head", role: "rowgroup" });
    this.body = el("div", { class: "grid-body", role: "rowgroup" });
    this.element = el("div", {
      class: "grid", role: "grid", tabindex: 0, "aria-label": label, "aria-describedby": "grid-keys", "aria-readonly": "true",
      on: { keydown: (event) => this.key(event), scroll: oncePerFrame(() => this.draw()) },
    }, this.head, this.body);
    new ResizeObserver(oncePerFrame(() => this.draw())).observe(this.element);
  }

  /** Show these columns, each `{id, title, width, render, sort?, kind}`. */
  setColumns(columns, sorting) {
    this.columns = columns;
    this.sorting = sorting;
    this.element.setAttribute("aria-colcount", columns.length);
    this.element.style.setProperty("--columns", columns.map(({ width }) => width).join(" "));
    refill(this.head, el("div", { class: "grid-row", role: "row", "aria-rowindex": 1 }, columns.map((column, place) => this.header(column, place))));
    this.forget();
    this.draw();
  }

  header(column, place) {
    const { id, down } = this.sorting;
    const sorted = column.id === id;
    const button = column.sort
      ? el("button", { type: "button", class: "sort", "data-sort": column.id, on: { click: () => this.onSort(column.id, sorted ? !down : Boolean(column.down)) } }, column.head ?? column.title)
      : el("span", {}, column.title);
    return el("div", {
      class: `cell ${column.kind ?? ""}`, role: "columnheader", "aria-colindex": place + 1,
      "aria-sort": column.sort ? (sorted ? (down ? "descending" : "ascending") : "none") : null,
    }, button);
  }

  /** Show these rows in this order; the chosen one stays so if it is among them. */
  setOrder(order, keep = null) {
    this.order = order;
    this.forget();
    this.element.setAttribute("aria-rowcount", order.length + 1);
    this.body.style.setProperty("height", `${order.length * this.height}px`);
    const at = keep === null ? -1 : order.indexOf(keep);
    this.chosen = at >= 0 ? at : Math.min(0, order.length - 1);
    this.element.scrollTop = at > 0 ? Math.max(0, at * this.height - this.room / 2) : 0;
    this.draw();
    this.onChoose(this.row);
  }

  setHeight(height) {
    if (height === this.height) return;
    this.height = height;
    this.body.style.setProperty("height", `${this.order.length * height}px`);
    this.forget();
    this.draw();
  }

  /** The chosen row; `undefined` where there is none. */
  get row() {
    return this.order[this.chosen];
  }

  /** The height that is left to rows. */
  get room() {
    return Math.max(this.height, this.element.clientHeight - this.head.offsetHeight);
  }

  forget() {
    for (const element of this.shown.values()) element.remove();
    this.shown.clear();
  }

  draw() {
    const first = Math.max(0, Math.floor(this.element.scrollTop / this.height) - OVERSCAN);
    const last = Math.min(this.order.length, Math.ceil((this.element.scrollTop + this.room) / this.height) + OVERSCAN);
    for (const [at, element] of this.shown) {
      if (at < first || at >= last) {
        element.remove();
        this.shown.delete(at);
      }
    }
    for (let at = first; at < last; at += 1) if (!this.shown.has(at)) this.add(at);
    this.tellActive();
  }

  add(at) {
    const row = this.order[at];
    const element = el(
      "div",
      {
        class: "grid-row", role: "row", id: `grid-row-${at}`, "aria-rowindex": at + 2, "aria-selected": String(at === this.chosen),
        style: { transform: `translateY(${at * this.height}px)`, height: `${this.height}px` },
        on: { click: () => this.choose(at, true) },
      },
      this.columns.map((column, place) =>
        el("div", { class: `cell ${column.kind ?? ""}`, role: "gridcell", "aria-colindex": place + 1, "data-title": column.card ?? column.title }, column.render(row))),
    );
    // In the order of the table, whichever was scrolled to first: that is the order in which it is read.
    let next = at + 1;
    while (next <= at + 2 * OVERSCAN + 60 && !this.shown.has(next)) next += 1;
    this.body.insertBefore(element, this.shown.get(next) ?? null);
    this.shown.set(at, element);
  }

  tellActive() {
    if (this.shown.has(this.chosen)) this.element.setAttribute("aria-activedescendant", `grid-row-${this.chosen}`);
    else this.element.removeAttribute("aria-activedescendant");
  }

  /** Choose the row at a place of the order. */
  choose(at, open = false) {
    if (!this.order.length) return;
    const place = Math.min(this.order.length - 1, Math.max(0, at));
    this.shown.get(this.chosen)?.setAttribute("aria-selected", "false");
    this.chosen = place;
    this.reveal(place);
    this.draw();
    this.shown.get(place)?.setAttribute("aria-selected", "true");
    this.onChoose(this.row);
    if (open) this.onOpen(this.row, false);
  }

  /** Scroll just so far that a row is seen whole. */
  reveal(at) {
    const top = at * this.height;
    if (top < this.element.scrollTop) this.element.scrollTop = top;
    else if (top + this.height > this.element.scrollTop + this.room) this.element.scrollTop = top + this.height - this.room;
  }

  key(event) {
    if (event.target !== this.element || event.ctrlKey || event.metaKey || event.altKey) return;
    const page = Math.max(1, Math.floor(this.room / this.height) - 1);
    const goals = {
      ArrowDown: this.chosen + 1, ArrowUp: this.chosen - 1, PageDown: this.chosen + page, PageUp: this.chosen - page,
      Home: 0, End: this.order.length - 1,
    };
    if (event.key in goals) this.choose(goals[event.key]);
    else if (event.key === "Enter" && this.row !== undefined) this.onOpen(this.row, true);
    else return;
    event.preventDefault();
  }
}
