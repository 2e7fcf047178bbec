"use strict";
/* How the main score differs between parts of the rows. */

let sliceColumn = null;

/** Fill the part on slices; it is hidden where there are none. */
function showSlices(view) {
  const { set, runs, setName } = view;
  const columns = Object.keys(set.slices ?? {});
  byId("slices").hidden = !columns.length;
  if (!columns.length) return;
  if (!columns.includes(sliceColumn)) sliceColumn = columns[0];
  const tools = columns.length > 1
    ? selectBox("Slice by", columns.map((name) => [name, name]), sliceColumn, (column) => {
      sliceColumn = column;
      fillSlices();
    })
    : el("p", {}, "By ", el("b", {}, sliceColumn));
  refill(byId("slice-tools"), tools);
  fillSlices();

  function fillSlices() {
    const name = mainScore(set);
    const values = [...new Set(runs.flatMap((run) => Object.keys(run.sets.get(setName).slices?.[sliceColumn] ?? {})))];
    const found = values.map((value) => ({
      value,
      each: runs.map((run) => {
        const slice = run.sets.get(setName).slices?.[sliceColumn]?.[value];
        return { run, slice, ...(slice?.scores?.[name] ?? {}) };
      }),
    }));
    const own = (one) => one.each.find(({ run }) => run === view.run);
    const worst = (one) => own(one)?.value ?? (set.lowerIsBetter ? -Infinity : Infinity);
    found.sort((one, other) => (set.lowerIsBetter ? worst(other) - worst(one) : worst(one) - worst(other)));
    const bounds = plotBounds(name, found.flatMap(({ each }) => each.filter(({ value }) => typeof value === "number")));
    const head = el("tr", {}, el("th", { scope: "col" }, sliceColumn), el("th", { scope: "col", class: "number" }, "Rows"),
      runs.map((run) => el("th", { scope: "col", class: "number" }, runs.length > 1 ? [runMark(run), run.name] : scoreName(name))),
      el("th", { scope: "col", class: "plot-column" }, "95 % interval"));
    const table = el("table", { class: "scores slices" }, el("caption", { class: "unseen" }, `${scoreName(name)} by ${sliceColumn}, worst first`),
      el("thead", {}, head), el("tbody", {}, found.map((one) => sliceRow(one, bounds))));
    refill(byId("slice-table"), table);
  }

  function sliceRow({ value, each }, bounds) {
    const slice = each.find((one) => one.slice)?.slice ?? {};
    const show = () => view.rowsTable.showOnly({ slice: { column: sliceColumn, value } });
    const cells = each.map(({ value: score, low, high }) => el("td", { class: "number" }, el("b", {}, scoreValue(mainScore(set), score)),
      el("small", {}, interval(mainScore(set), low, high))));
    return el(
      "tr",
      { class: slice.small ? "small" : null },
      el("th", { scope: "row" }, el("button", { type: "button", class: "link", title: "Show these rows", on: { click: show } }, value === "" ? "(empty)" : value),
        slice.small ? el("small", { class: "few" }, FEW_ROWS) : null),
      el("td", { class: "number" }, number(slice.rows)),
      cells,
      el("td", { class: "plot-column" }, intervalPlot(mainScore(set), each, bounds)),
    );
  }
}

/** The score by which slices are compared: the set's main one, or the first that there is. */
function mainScore(set) {
  return set.main_score ?? Object.keys(set.scores ?? {})[0] ?? "score";
}
