"use strict";
/* Scores of each class or tag, and whether the model knows how sure it may be. */

const CLASS_SCORES = ["precision", "recall", "f1", "ap"];

/** Fill the part on classes and tags; it is hidden where there are none. */
function showClasses(view) {
  const given = view.set?.per_class ?? view.set?.per_label;
  const labels = Object.keys(given ?? {});
  byId("classes").hidden = !labels.length;
  if (!labels.length) return;
  const columns = CLASS_SCORES.filter((name) => labels.some((label) => name in given[label]));
  let sorting = { by: columns.includes("f1") ? "f1" : (columns[0] ?? "support"), down: false };

  const draw = () => {
    const value = (label) => (sorting.by === "label" ? label : (given[label][sorting.by] ?? -Infinity));
    const order = [...labels].sort((one, other) => {
      const [a, b] = [value(one), value(other)];
      return (typeof a === "string" ? a.localeCompare(b, undefined, { numeric: true }) : a - b) * (sorting.down ? -1 : 1);
    });
    const head = (name, text) => {
      const sorted = sorting.by === name;
      const sort = () => {
        sorting = { by: name, down: sorted ? !sorting.down : name === "support" };
        draw();
        byId("class-table").querySelector(`[data-sort="${name}"]`).focus();
      };
      return el("th", { scope: "col", class: name === "label" ? null : "number", "aria-sort": sorted ? (sorting.down ? "descending" : "ascending") : "none" },
        el("button", { type: "button", class: "sort", "data-sort": name, on: { click: sort } }, text));
    };
    const body = order.map((label) => el(
      "tr",
      {},
      el("th", { scope: "row" }, el("button", { type: "button", class: "link", title: "Show these rows", on: { click: () => view.rowsTable.showOnly({ truth: label }) } }, label)),
      columns.map((name) => el("td", { class: "number metered", style: { "--part": (given[label][name] ?? 0).toFixed(3) } }, share(given[label][name], 1))),
      el("td", { class: "number" }, number(given[label].support)),
    ));
    refill(byId("class-table"), el(
      "table",
      { class: "classes" },
      el("caption", { class: "unseen" }, "Scores of each label"),
      el("thead", {}, el("tr", {}, head("label", "Label"), columns.map((name) => head(name, scoreName(name))), head("support", "Rows"))),
      el("tbody", {}, body),
    ));
  };
  draw();
}

/** Fill the part on calibration: how often answers of some probability are right. All runs in one drawing. */
function showCalibration(view) {
  const found = view.runs.map((run) => ({ run, ...(run.sets.get(view.setName).calibration ?? {}) })).filter(({ bins }) => bins?.length);
  byId("calibration").hidden = !found.length;
  if (!found.length) return;
  refill(byId("calibration-holder"), el("div", { class: "beside" }, reliabilityDrawing(found), reliabilityTable(found.find(({ run }) => run === view.run) ?? found[0])));
  byId("calibration-note").textContent = found.map(({ run, ece }) =>
    `${found.length > 1 ? `${run.name}: e` : "E"}xpected calibration error ${share(ece)}`).join(". ");
}

function reliabilityDrawing(found) {
  const [size, edge] = [260, 38];
  const x = (value) => edge + value * size;
  const y = (value) => 8 + (1 - value) * size;
  const ticks = [0, 0.25, 0.5, 0.75, 1];
  const most = Math.max(...found.flatMap(({ bins }) => bins.map(({ rows }) => rows)));
  const frame = ticks.map((tick) => [
    svg("line", { class: "rule", x1: x(0), x2: x(1), y1: y(tick), y2: y(tick) }),
    svg("text", { class: "tick-y", x: edge - 7, y: y(tick) + 4 }, Math.round(100 * tick)),
    svg("text", { class: "tick-x", x: x(tick), y: y(0) + 17 }, Math.round(100 * tick)),
  ]);
  const marks = found.map(({ run, bins }) => {
    const there = bins.filter(({ rows }) => rows);
    const style = { "--run": run.color };
    return [
      svg("path", { class: "curve dotted", style, "stroke-dasharray": "4 4", d: `M${there.map((bin) => `${x(bin.confidence)} ${y(bin.accuracy)}`).join("L")}` }),
      there.map((bin) => svg("circle", { class: "dot", style, cx: x(bin.confidence), cy: y(bin.accuracy), r: 3 + 7 * Math.sqrt(bin.rows / most) })),
    ];
  });
  const first = found[0].bins.filter(({ rows }) => rows);
  const label = `Reliability: ${first.map((bin) => `of answers with ${share(bin.confidence, 0)} probability ${share(bin.accuracy, 0)} were right`).join("; ")}`;
  return el(
    "figure",
    { class: "reliability" },
    svg("svg", { viewBox: `0 0 ${size + edge + 14} ${size + 48}`, role: "img", "aria-label": label },
      frame, svg("line", { class: "diagonal", x1: x(0), y1: y(0), x2: x(1), y2: y(1) }), marks,
      svg("text", { class: "tick-x", x: x(0.5), y: y(0) + 36 }, "probability that the model gave, in %")),
    el("figcaption", {}, "Up: share of right answers, in %. On the dashed line both are the same; below it the model is surer than it may be. Larger dots hold more rows."),
  );
}

function reliabilityTable({ bins }) {
  const rows = bins.filter((bin) => bin.rows).map((bin) => el(
    "tr",
    {},
    el("th", { scope: "row" }, `${share(bin.low, 0)} to ${share(bin.high, 0)}`),
    el("td", { class: "number" }, number(bin.rows)),
    el("td", { class: "number" }, share(bin.confidence, 1)),
    el("td", { class: "number" }, share(bin.accuracy, 1)),
  ));
  const heads = ["Probability", "Rows", "Mean probability", "Right"];
  return el("div", { class: "scroll" }, el(
    "table",
    {},
    el("caption", { class: "unseen" }, "Reliability by probability"),
    el("thead", {}, el("tr", {}, heads.map((head, place) => el("th", { scope: "col", class: place ? "number" : null }, head)))),
    el("tbody", {}, rows),
  ));
}
