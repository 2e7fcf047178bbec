"use strict";
/* The section of rows: the table, what is asked of it, and the row that is chosen. */

const NARROW = "(max-width: 719px)";
const ROW_HEIGHT = 68;
const PRINTED_ROWS = 100;

class RowsTable {
  constructor(view, player, startCorrection) {
    Object.assign(this, { view, player, startCorrection });
    this.filter = new RowFilter();
    this.hidden = new Map();
    this.lenient = false;
    this.sorting = { id: null, down: false };
    this.narrow = matchMedia(NARROW);
    this.grid = new Grid({
      label: "Rows",
      onChoose: (row) => this.detail.show(row),
      onOpen: (row, byKey) => this.detail.open(byKey),
      onSort: (id, down) => this.sort(id, down),
    });
    this.detail = new Detail(byId("detail"), view, player, {
      lenient: () => this.lenient,
      correct: (row) => startCorrection(this.order, row),
      close: () => this.grid.element.focus(),
    });
    byId("rows-holder").append(this.grid.element);
    this.narrow.addEventListener("change", () => this.fit());
    addEventListener("beforeprint", () => this.print());
    document.addEventListener("keydown", (event) => this.key(event));
  }

  /** The rows that pass the filter, as they are sorted. */
  get order() {
    return this.grid.order;
  }

  /** Begin anew with the set that is looked at. */
  show() {
    const { set } = this.view;
    byId("rows").hidden = !set?.length;
    if (!set?.length) return;
    this.lenient = set.task === "asr";
    this.filter.clear();
    this.sorting = { id: null, down: false };
    byId("audio-note").textContent = set.audio_note ?? "";
    this.makeTools();
    this.fit();
    this.refresh();
  }

  makeTools() {
    const search = el("input", {
      type: "search", id: "search", placeholder: "Words in any column", autocomplete: "off", spellcheck: "false",
      on: { input: oncePerFrame(() => this.ask({ text: search.value })) },
    });
    this.search = search;
    this.statusBox = selectBox("Show", statusChoices(this.view), "all", (status) => this.ask({ status }));
    this.statusBox.id = "status-filter";
    const columns = el("details", { class: "menu" }, el("summary", {}, "Columns"), (this.columnBoxes = el("div", { class: "menu-list" })));
    columns.addEventListener("keydown", (event) => {
      if (event.key !== "Escape") return;
      columns.open = false;
      columns.firstChild.focus();
    });
    document.addEventListener("pointerdown", (event) => {
      if (!columns.contains(event.target)) columns.open = false;
    });
    refill(
      byId("rows-tools"),
      el("span", { class: "field grow" }, el("label", { for: "search" }, "Search"), search),
      this.statusBox,
      (this.sortBox = el("div", { class: "narrow-only" })),
      columns,
      this.view.set.reference && tickBox("Ignore case and punctuation", this.lenient, (ticked) => {
        this.lenient = ticked;
        this.refresh(true);
      }),
      el("button", { type: "button", class: "primary", id: "correct-rows", on: { click: () => this.startCorrection(this.order) } }, "Correct answers"),
    );
  }

  /** Ask other things of the rows than now. */
  ask(changes) {
    Object.assign(this.filter, changes);
    this.refresh();
  }

  /** Show what was asked for elsewhere in the page, and go there. */
  showOnly(changes) {
    this.filter.clear();
    this.search.value = "";
    this.statusBox.querySelector("select").value = "all";
    this.ask(changes);
    byId("rows").scrollIntoView({ block: "start" });
    this.grid.element.focus({ preventScroll: true });
  }

  get columns() {
    const all = rowColumns(this.view, this.player, () => this.lenient);
    return all.map((column) => ({ ...column, shown: this.hidden.get(column.id) ?? column.shown }));
  }

  /** Show the columns and rows anew; `keep`: the chosen row stays chosen. */
  refresh(keep = false) {
    const { set } = this.view;
    const all = this.columns;
    this.grid.setColumns(all.filter(({ shown }) => shown), this.sorting);
    this.fillColumnBoxes(all);
    this.fillSortBox(all);
    const passing = this.filter.passing(this.view);
    const column = all.find(({ id }) => id === this.sorting.id);
    const worst = worstFirst(set, passing);
    this.grid.setOrder(column ? sortedRows(worst, column, this.sorting.down) : worst, keep ? (this.grid.row ?? null) : null);
    this.tell(passing.length);
  }

  tell(count) {
    const { set } = this.view;
    const text = count === set.length ? counted(count, "row") : `${number(count)} of ${counted(set.length, "row")}`;
    const column = this.columns.find(({ id }) => id === this.sorting.id);
    const order = column ? `by ${column.title.toLowerCase()}` : "worst first";
    byId("rows-count").textContent = `${text}, ${order}`;
    const chips = this.filter.chips.map(({ text: chip, remove }) => el("button", {
      type: "button", class: "chip", "aria-label": `Take away the filter ${chip}`,
      on: {
        click: () => {
          remove();
          this.refresh();
        },
      },
    }, chip, el("span", { "aria-hidden": "true" }, "×")));
    const all = this.filter.isEmpty ? null : el("button", {
      type: "button", class: "link", on: { click: () => this.showOnly({}) },
    }, "Show all rows");
    const worst = this.sorting.id === null ? null : el("button", {
      type: "button", class: "link", on: { click: () => this.sort(null, false) },
    }, "Worst first");
    refill(byId("rows-chips"), chips, all, worst);
  }

  sort(id, down) {
    const focused = document.activeElement?.dataset?.sort;
    this.sorting = { id, down };
    this.refresh(false);
    if (focused) this.grid.head.querySelector(`[data-sort="${CSS.escape(focused)}"]`)?.focus();
    const column = this.columns.find((one) => one.id === id);
    announce(column ? `Sorted by ${column.title}, ${down ? "falling" : "rising"}` : "Worst first");
  }

  fillColumnBoxes(all) {
    refill(this.columnBoxes, all.map((column) => {
      const change = (ticked) => {
        this.hidden.set(column.id, ticked);
        const shown = this.columns;
        this.grid.setColumns(shown.filter((one) => one.shown), this.sorting);
        this.fit();
      };
      return tickBox(column.title, column.shown, change);
    }));
  }

  /** On a narrow screen there is no head to click. */
  fillSortBox(all) {
    const choices = [["", "Worst first"], ...all.filter(({ sort }) => sort).flatMap(({ id, title }) => [[`+${id}`, `${title}, rising`], [`-${id}`, `${title}, falling`]])];
    const chosen = this.sorting.id === null ? "" : `${this.sorting.down ? "-" : "+"}${this.sorting.id}`;
    refill(this.sortBox, selectBox("Sort", choices, chosen, (value) => this.sort(value ? value.slice(1) : null, value.startsWith("-"))));
  }

  /** Rows are lines of a table on a wide screen and cards on a narrow one; each has one height for all of them. */
  fit() {
    const texts = this.columns.filter(({ shown, kind }) => shown && /truth|answer/.test(kind ?? "")).length;
    this.grid.element.classList.toggle("cards", this.narrow.matches);
    this.grid.setHeight(this.narrow.matches ? 74 + 46 * Math.max(1, texts) : ROW_HEIGHT);
    this.grid.element.style.setProperty("--row-height", `${this.grid.height}px`);
  }

  /** Space plays the chosen row wherever no other thing wants that key. */
  key(event) {
    if (event.key !== " " || event.ctrlKey || event.altKey || event.metaKey || byId("rows").closest("[hidden]")) return;
    const { target } = event;
    const wanted = isTyping(target) || target.closest?.("button, summary, a");
    if (wanted || this.grid.row === undefined) return;
    const clip = this.view.set.clip(this.grid.row);
    const seen = this.grid.element.contains(target) || byId("detail").contains(target);
    if (!clip?.src || !(seen || this.player.clip)) return;
    event.preventDefault();
    this.player.toggle(seen ? clip : this.player.clip);
  }

  /** On paper there is no scrolling: the first rows are printed as a plain table. */
  print() {
    const { set } = this.view;
    if (!set?.length) return;
    const columns = this.columns.filter(({ shown, id }) => shown && id !== "clip");
    const rows = this.order.slice(0, PRINTED_ROWS);
    refill(
      byId("printed-rows"),
      el("p", {}, `The first ${counted(rows.length, "row")} of ${number(this.order.length)}.`),
      el("table", {}, el("thead", {}, el("tr", {}, columns.map(({ title, kind }) => el("th", { class: kind }, title)))),
        el("tbody", {}, rows.map((row) => el("tr", {}, columns.map((column) => el("td", { class: column.kind }, column.render(row))))))),
    );
  }
}
