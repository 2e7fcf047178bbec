"use strict";
/* Scores with their intervals, as numbers and as dots with bars, and differences between runs. */

const FEW_ROWS = "fewer than 30 rows: may well be chance";

/** Fill the section on scores for the set that is looked at. */
function showScores(view) {
  const { runs, report, setName } = view;
  const names = [...new Set(runs.flatMap((run) => Object.keys(run.sets.get(setName).scores ?? {})))];
  byId("scores").hidden = !names.length;
  if (!names.length) return;
  const rows = names.map((name) => scoreRow(name, runs, setName, report));
  const head = el("tr", {}, el("th", { scope: "col" }, "Score"),
    runs.map((run) => el("th", { scope: "col", class: "number" }, runs.length > 1 ? [runMark(run), run.name] : "Value and 95 % interval")),
    el("th", { scope: "col", class: "plot-column" }, "95 % interval"));
  const table = el("table", { class: "scores" }, el("caption", { class: "unseen" }, `Scores on ${setName}`), el("thead", {}, head), el("tbody", {}, rows));
  refill(byId("score-table"), table);
  const set = view.set;
  const said = [
    `${set.task ? `Task ${set.task}, ` : ""}${counted(set.rows ?? set.length, "row")}`,
    set.normalizer ? `texts normalised (${set.normalizer})` : null,
    set.source ? `from ${set.source}` : null,
  ];
  byId("score-note").textContent = said.filter(Boolean).join(", ");
  showComparisons(report, setName);
  showSlices(view);
}

function scoreRow(name, runs, setName, report) {
  const found = runs.map((run) => ({ run, ...(run.sets.get(setName).scores?.[name] ?? {}) }));
  const arrow = report.isLowerBetter(name) ? "lower is better" : "higher is better";
  const cells = found.map(({ value, low, high }) => el("td", { class: "number" }, el("b", {}, scoreValue(name, value)), el("small", {}, interval(name, low, high))));
  const isMain = runs.some((run) => run.sets.get(setName).main_score === name);
  return el("tr", { class: isMain ? "main-score" : null }, el("th", { scope: "row" }, scoreName(name), el("small", {}, arrow)), cells,
    el("td", { class: "plot-column" }, intervalPlot(name, found)));
}

/**
 * Dots with bars over one scale. It says nothing to a screen reader: the numbers beside it do.
 *
 * @param {string} name - The score.
 * @param {Object[]} found - `{run, value, low, high}` each.
 * @param {?number[]} bounds - The scale; by default what is found, with some room.
 */
function intervalPlot(name, found, bounds = null) {
  const there = found.filter(({ value }) => typeof value === "number");
  if (!there.length) return null;
  const [low, high] = bounds ?? plotBounds(name, there);
  const height = 10 + 16 * found.length;
  const across = (value) => `${(100 * Math.min(1, Math.max(0, (value - low) / (high - low || 1)))).toFixed(2)}%`;
  const marks = there.map((one) => {
    const y = 5 + 16 * found.indexOf(one) + 8;
    const style = { "--run": one.run.color };
    return [
      typeof one.low === "number" ? svg("line", { class: "reach", style, x1: across(one.low), x2: across(one.high), y1: y, y2: y }) : null,
      svg("circle", { class: "dot", style, cx: across(one.value), cy: y, r: 4.5 }),
    ];
  });
  return el(
    "div",
    { class: "interval-plot", "aria-hidden": "true" },
    svg("svg", { height, width: "100%" }, svg("line", { class: "rule", x1: 0, x2: "100%", y1: height - 1, y2: height - 1 }), marks),
    el("div", { class: "plot-ends" }, el("span", {}, scoreValue(name, low)), el("span", {}, scoreValue(name, high))),
  );
}

/** A scale around all values and intervals; shares end at 0 and 1. */
function plotBounds(name, found) {
  const values = found.flatMap(({ value, low, high }) => [value, low, high]).filter((value) => typeof value === "number");
  const [least, most] = [Math.min(...values), Math.max(...values)];
  const room = (most - least) * 0.35 || Math.abs(most) * 0.1 || 0.05;
  const low = least >= 0 ? Math.max(0, least - room) : least - room;
  const high = isShare(name, most) && most <= 1 ? Math.min(1, most + room) : most + room;
  return [low, high > low ? high : low + 1];
}

/** Differences between two runs on the rows that both have. */
function showComparisons(report, setName) {
  const found = report.comparisons.filter((one) => one.set === setName);
  byId("comparisons").hidden = !found.length;
  if (!found.length) return;
  const run = (name) => report.runs.find((one) => one.name === name);
  const named = (name) => [run(name) ? runMark(run(name)) : null, name];
  const verdict = (one) => {
    if (one.better === true) return el("span", { class: "verdict good" }, `${one.run} is better`);
    if (one.better === false) return el("span", { class: "verdict bad" }, `${one.run} is worse`);
    return el("span", { class: "verdict" }, "no clear difference");
  };
  const rows = found.map((one) =>
    el(
      "tr",
      {},
      el("th", { scope: "row" }, scoreName(one.score)),
      el("td", { class: "pair" }, named(one.run), " against ", named(one.other)),
      el("td", { class: "number" }, scoreValue(one.score, one.value), el("small", {}, `against ${scoreValue(one.score, one.other_value)}`)),
      el("td", { class: "number" }, el("b", {}, scoreDifference(one.score, one.difference)), el("small", {}, interval(one.score, one.low, one.high, scoreDifference))),
      el("td", { class: "number" }, pValue(one.p)),
      el("td", { class: "number" }, one.rows ? number(one.rows) : MISSING),
      el("td", {}, verdict(one)),
    ),
  );
  const heads = ["Score", "Runs", "Values", "Difference, 95 % interval", "p", "Rows", ""];
  const numbers = new Set(["Values", "Difference, 95 % interval", "p", "Rows"]);
  refill(
    byId("comparison-table"),
    el(
      "table",
      {},
      el("caption", { class: "unseen" }, `Paired differences on ${setName}`),
      el("thead", {}, el("tr", {}, heads.map((head) => el("th", { scope: "col", class: numbers.has(head) ? "number" : null }, head || el("span", { class: "unseen" }, "Verdict"))))),
      el("tbody", {}, rows),
    ),
  );
}
