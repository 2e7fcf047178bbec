"use strict";
/* The section on training: a chart for each thing that was measured, all runs in it. */

const SERIES_ORDER = ["loss", "learning_rate", "grad_norm", "clips_per_second", "padding_share", "memory"];
/* What an evaluation's score without the name of a set is of. */
const UNNAMED_SET = "main";
const SMOOTHINGS = [["1", "None"], ["5", "5 steps"], ["25", "25 steps"], ["100", "100 steps"]];

/** Fill the section on training; it stays hidden where nothing was measured. */
function showTraining(section, report) {
  const measured = report.runs.map((run) => ({
    run,
    series: pointsByName(run.series),
    evaluations: pointsByName(run.evaluations),
  }));
  const steps = measured.flatMap(({ series, evaluations }) =>
    [...series.values(), ...evaluations.values()].flatMap((points) => [points[0][0], points[points.length - 1][0]]));
  if (!steps.length) return;
  section.hidden = false;
  const range = new StepRange(Math.min(...steps), Math.max(...steps));
  const several = report.runs.length > 1;
  const charts = [...lossChart(measured, range, several), ...seriesCharts(measured, range, several),
    ...evaluationCharts(measured, range, several)];
  refill(
    byId("training-charts"),
    charts.map((chart) => chart.element),
  );
  refill(byId("training-tools"), legend(measured, charts, several), tools(charts, range, measured));
}

/** The curves of a run that have a point, by name. The first set's scores may be there twice, once by its name. */
function pointsByName(given) {
  const found = Object.entries(given ?? {}).map(([name, points]) => [name, finitePoints(points)]).filter(([, points]) => points.length);
  const same = (points, others) => points.length === others.length && points.every(([x, y], place) => x === others[place][0] && y === others[place][1]);
  const isTwice = ([name, points]) => found.some(([other, others]) => other.startsWith(`${name}/`) && same(points, others));
  return new Map(found.filter((one) => !isTwice(one)));
}

function lineLabel(run, what, several) {
  return several ? `${run.name}, ${what}` : what;
}

/* How the lines of several evaluated sets are told apart; the colour says which run it is. */
const DASHES = [null, "5 4", "1.5 4", "9 4 2 4", "12 5"];

/** Loss while training and at evaluations, of all sets, in one chart. */
function lossChart(measured, range, several) {
  const training = measured.filter(({ series }) => series.has("loss"))
    .map(({ run, series }) => ({ run, label: lineLabel(run, "training", several), points: series.get("loss") }));
  const evaluated = evaluationLines(measured, "eval_loss", several, "evaluation", 1);
  const lines = [...training, ...evaluated.lines];
  if (!lines.length) return [];
  const key = evaluated.key.length ? [{ text: "training", dash: null }, ...evaluated.key] : [];
  const log = lines.every((line) => line.points.some(([, y]) => y > 0));
  return [new LineChart({ title: "Loss", lines, format: number, range, log, key })];
}

/** The lines of a score at evaluations, each set with dashes of its own, and the key to them. */
function evaluationLines(measured, score, several, what, firstDash) {
  const found = measured.flatMap(({ run, evaluations }) => [...evaluations]
    .filter(([name]) => name.split("/")[0] === score)
    .map(([name, points]) => ({ run, points, set: name.split("/")[1] ?? "" })));
  const sets = [...new Set(found.map(({ set }) => set))];
  const text = (set) => [what, set].filter(Boolean).join(" ");
  const dash = (set) => DASHES[(sets.indexOf(set) + firstDash) % DASHES.length];
  return {
    lines: found.map(({ run, points, set }) => ({ run, points, dots: true, dash: dash(set), label: lineLabel(run, text(set) || scoreName(score), several) })),
    key: sets.length > 1 || sets[0] || firstDash ? sets.map((set) => ({ text: text(set) || UNNAMED_SET, dots: true, dash: dash(set) })) : [],
  };
}

function seriesCharts(measured, range, several) {
  const found = [...new Set(measured.flatMap(({ series }) => [...series.keys()]))].filter((name) => name !== "loss");
  const place = (name) => (SERIES_ORDER.includes(name) ? SERIES_ORDER.indexOf(name) : SERIES_ORDER.length);
  found.sort((one, other) => place(one) - place(other) || one.localeCompare(other));
  const stops = measured.flatMap(({ run, evaluations }) => {
    const steps = new Set([...evaluations.values()].flatMap((points) => points.map(([step]) => step)));
    return [...steps].map((step) => ({ run, step }));
  });
  return found.map((name) => {
    const lines = measured.filter(({ series }) => series.has(name))
      .map(({ run, series }) => ({ run, label: several ? run.name : scoreName(name), points: series.get(name) }));
    // The round numbers of an axis are round in the unit that they are read in.
    const unit = name === "memory" ? byteUnit(Math.max(...lines.flatMap(({ points }) => points.map(([, y]) => y)))) : null;
    if (unit) for (const line of lines) line.points = line.points.map(([x, y]) => [x, y / unit.size]);
    const format = unit ? (value) => `${number(value)} ${unit.name}` : seriesFormat(name);
    return new LineChart({ title: scoreName(name), lines, format, range, stops });
  });
}

/** A chart for each score that evaluations had, all sets in it. */
function evaluationCharts(measured, range, several) {
  const scores = [...new Set(measured.flatMap(({ evaluations }) => [...evaluations.keys()].map((name) => name.split("/")[0])))];
  return scores.filter((score) => score !== "eval_loss").map((score) => {
    const { lines, key } = evaluationLines(measured, score, several, "", 0);
    return new LineChart({ title: `${scoreName(score)} at evaluations`, lines, format: seriesFormat(score), range, key });
  });
}

/** The runs with their colours; each can be taken out of the charts. */
function legend(measured, charts, several) {
  if (!several) return null;
  const boxes = measured.map(({ run }) => {
    const change = (ticked) => {
      for (const chart of charts) {
        chart.hidden[ticked ? "delete" : "add"](run.index);
        chart.redraw();
      }
    };
    const box = tickBox(run.name, true, change, { class: "tick run-tick" });
    box.insertBefore(runMark(run), box.lastChild);
    return box;
  });
  return el("div", { class: "legend", role: "group", "aria-label": "Runs in the charts" }, boxes);
}

function tools(charts, range, measured) {
  const reset = el("button", { type: "button", id: "reset-zoom", disabled: true, on: { click: () => range.reset() } }, "Reset zoom");
  range.onChange(() => {
    reset.disabled = range.isWhole;
  });
  const zoom = (name, label, factor) =>
    el("button", { type: "button", class: "square", "aria-label": label, title: label, on: { click: () => range.zoom(factor) } }, name);
  const loss = charts[0]?.title === "Loss" ? charts[0] : null;
  const redraw = (change) => {
    for (const chart of charts) {
      change(chart);
      chart.redraw();
    }
  };
  const steps = Math.max(0, ...measured.map(({ series }) => series.get("loss")?.length ?? 0));
  const smoothing = steps > 400 ? "25" : "1";
  redraw((chart) => {
    chart.smoothing = Number(smoothing);
  });
  return el(
    "div",
    { class: "tools" },
    loss && tickBox("Logarithmic loss", loss.log, (ticked) => {
      loss.log = ticked;
      loss.redraw();
    }),
    selectBox("Smoothing", SMOOTHINGS, smoothing, (value) => redraw((chart) => {
      chart.smoothing = Number(value);
    })),
    zoom("+", "Zoom in", 0.5),
    zoom("−", "Zoom out", 2),
    reset,
  );
}
