"use strict";
/* The confusion matrix. A cell leads to its rows. */

/* What the column of answers that are no label is called; such an answer's row has nothing in its column `given`. */
const NO_LABEL = "(no label)";
const MOST_LABELS = 24;
/* Of more labels than this a matrix is of no use to anybody, and slow. */
const MOST_SHOWN = 120;
const MOST_PAIRS = 8;

/** Fill the part on confusions; it is hidden where there are none. */
function showConfusion(view) {
  const confusion = view.set?.confusion;
  byId("confusion").hidden = !confusion?.labels?.length;
  if (!confusion?.labels?.length) return;
  const whole = new Confusion(confusion, view);
  refill(byId("confusion-holder"), whole.element);
}

class Confusion {
  constructor({ labels, counts }, view) {
    Object.assign(this, { labels, counts, view });
    // The last column may be for the answers that are no label; there is no such truth.
    this.columns = counts[0]?.length > labels.length ? [...labels, NO_LABEL] : labels;
    this.all = this.rowLabels.length <= MOST_LABELS;
    this.element = el("div", {});
    this.draw();
  }

  /** The labels that are a truth. */
  get rowLabels() {
    const labels = this.labels.slice(0, this.counts.length);
    return labels[labels.length - 1] === NO_LABEL ? labels.slice(0, -1) : labels;
  }

  draw() {
    const count = this.rowLabels.length;
    const more = count > MOST_LABELS && count <= MOST_SHOWN
      ? tickBox(`All ${count} labels`, this.all, (ticked) => {
        this.all = ticked;
        this.draw();
      })
      : null;
    refill(
      this.element,
      more && el("div", { class: "tools" }, more),
      !this.all && el("p", { class: "note few-labels" }, `The ${MOST_LABELS} labels with the most mistakes, of ${count}.`),
      el("div", { class: "beside" }, el("div", { class: "scroll matrix-holder" }, this.table()), this.pairs()),
    );
  }

  /** The places of the labels that are shown: all, or those with the most mistakes. */
  chosen() {
    const places = this.rowLabels.map((_, place) => place);
    if (this.all) return places;
    const mistakes = (place) =>
      sum(this.counts[place]) - this.counts[place][place] + sum(this.counts.map((row, other) => (other === place ? 0 : row[place])));
    return places.sort((one, other) => mistakes(other) - mistakes(one)).slice(0, MOST_LABELS).sort((one, other) => one - other);
  }

  table() {
    const rows = this.chosen();
    const columns = [...rows, ...this.columns.map((_, place) => place).slice(this.rowLabels.length)];
    this.buttons = [];
    const head = el("tr", {}, el("th", { scope: "col", class: "corner" }, el("span", {}, "truth ↓ answer →")),
      columns.map((place) => el("th", { scope: "col" }, el("span", { class: "slanted" }, this.columns[place]))));
    const body = rows.map((row) => {
      const total = sum(this.counts[row]);
      return el("tr", {}, el("th", { scope: "row" }, this.rowLabels[row]), columns.map((column) => this.cell(row, column, total)));
    });
    const move = (event) => this.key(event, columns.length);
    const table = el("table", { class: "matrix", on: { keydown: move } },
      el("caption", { class: "unseen" }, "Confusion matrix: a line is a truth, a column an answer. Arrow keys move between the cells, Enter shows a cell's rows."),
      el("thead", {}, head), el("tbody", {}, body));
    const first = this.buttons.find((button) => button.dataset.count !== "0") ?? this.buttons[0];
    if (first) first.tabIndex = 0;
    return table;
  }

  cell(row, column, total) {
    const count = this.counts[row][column] ?? 0;
    const part = total ? count / total : 0;
    const [truth, given] = [this.rowLabels[row], this.columns[column]];
    const button = el(
      "button",
      {
        type: "button", tabindex: -1, "data-count": count,
        "aria-label": `truth ${truth}, answer ${given}: ${counted(count, "row")}`,
        title: `${truth} → ${given}: ${counted(count, "row")}, ${share(part)} of ${truth}`,
        on: { click: () => count && this.show(truth, given) },
      },
      count ? number(count) : "·",
    );
    this.buttons.push(button);
    const kind = !count ? "none" : row === column ? "hit" : "miss";
    return el("td", { class: `${kind}${part > 0.55 ? " strong" : ""}`, style: { "--part": part.toFixed(3) } }, button);
  }

  /** The arrow keys go from cell to cell; only one of them is a stop of the Tab key. */
  key(event, width) {
    const steps = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -width, ArrowDown: width };
    const at = this.buttons.indexOf(event.target);
    if (at < 0 || !(event.key in steps)) return;
    const sideways = Math.abs(steps[event.key]) === 1;
    const next = at + steps[event.key];
    if (next < 0 || next >= this.buttons.length) return;
    if (sideways && width > 1 && Math.floor(next / width) !== Math.floor(at / width)) return;
    event.preventDefault();
    this.buttons[at].tabIndex = -1;
    this.buttons[next].tabIndex = 0;
    this.buttons[next].focus();
  }

  /** The commonest mistakes, as a list. */
  pairs() {
    const found = this.rowLabels.flatMap((truth, row) =>
      this.columns.map((given, column) => ({ truth, given, count: row === column ? 0 : (this.counts[row][column] ?? 0) })));
    const most = found.filter(({ count }) => count).sort((one, other) => other.count - one.count).slice(0, MOST_PAIRS);
    if (!most.length) return el("p", { class: "note" }, "No row was mistaken for another label.");
    return el(
      "div",
      { class: "pairs" },
      el("h4", {}, "Most often mistaken"),
      el("ol", {}, most.map(({ truth, given, count }) =>
        el("li", {}, el("button", { type: "button", class: "link", on: { click: () => this.show(truth, given) } }, `${truth} → ${given}`), el("span", {}, counted(count, "row"))))),
    );
  }

  show(truth, given) {
    this.view.rowsTable.showOnly({ pair: { truth, given } });
  }
}

function sum(values) {
  return values.reduce((total, value) => total + value, 0);
}
