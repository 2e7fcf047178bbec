"use strict";
/* The top of the page: what was trained on what, and how good it is. */

/** Fill the head line, the tiles of numbers and the facts. */
function showHead(report) {
  const [first] = report.runs;
  const single = report.runs.length === 1;
  document.title = report.title;
  const headline = single && first.headline ? begun(first.headline) : report.title;
  // A title that says the same says it once.
  const isSaid = single && first.headline && report.title.includes(first.headline);
  byId("kicker").textContent = single ? (isSaid ? first.name : report.title) : counted(report.runs.length, "run");
  byId("headline").textContent = headline;
  const lines = single ? [] : report.runs.map((run) =>
    el("li", {}, runMark(run), el("b", {}, run.name), el("span", {}, run.headline)));
  refill(byId("run-lines"), lines);
  byId("run-lines").hidden = single;
  refill(byId("tiles"), report.setNames.map((name) => tile(report, name, single)));
  byId("tiles").classList.toggle("wide", !single);
  refill(byId("notes"), report.notes.map((note) => el("p", { class: "note" }, note)));
  showFacts(byId("facts"), report);
  byId("made").textContent = ["MDL-Toolkit", report.version, report.generated && `· ${report.generated}`].filter(Boolean).join(" ");
}

/** A head line that begins as sentences do, unless it begins with a name. */
function begun(headline) {
  return /^[a-z]+ /.test(headline) ? sentence(headline) : headline;
}

/** The main score of a set in large figures, of every run that has it. */
function tile(report, name, single) {
  const runs = report.runsOf(name).filter((run) => run.sets.get(name).main_score);
  if (!runs.length) return null;
  const set = runs[0].sets.get(name);
  const figures = runs.map((run) => {
    const { main_score: main, scores } = run.sets.get(name);
    const { value, low, high } = scores?.[main] ?? {};
    return el(
      "div",
      { class: "figure" },
      el("b", {}, scoreValue(main, value)),
      el("span", {}, interval(main, low, high)),
      single ? null : el("span", { class: "figure-run" }, runMark(run), run.name),
    );
  });
  const better = set.lowerIsBetter ? "lower is better" : "higher is better";
  return el(
    "div",
    { class: "tile" },
    el("p", {}, `${scoreName(set.main_score)} on ${name}`),
    el("div", { class: "figures" }, figures),
    el("small", {}, `${counted(set.rows ?? set.length, "row")} · ${better}`),
  );
}

/** Facts on the runs, a column each; where runs differ the row is marked. */
function showFacts(holder, report) {
  const names = [...new Set(report.runs.flatMap((run) => (run.facts ?? []).map(([name]) => name)))];
  holder.hidden = !names.length;
  if (!names.length) return;
  const known = report.runs.map((run) => new Map(run.facts ?? []));
  const rows = names.map((name) => {
    const values = known.map((facts) => cellText(facts.get(name) ?? null) || MISSING);
    const differ = new Set(values).size > 1;
    return el(
      "tr",
      { class: differ ? "differs" : null },
      el("th", { scope: "row" }, name, differ ? el("span", { class: "unseen" }, " (differs)") : null),
      values.map((value) => el("td", {}, value)),
    );
  });
  const head = report.runs.length > 1
    ? el("thead", {}, el("tr", {}, el("th", { scope: "col" }, "Fact"), report.runs.map((run) => el("th", { scope: "col" }, runMark(run), run.name))))
    : null;
  const table = el("table", { class: "facts" }, el("caption", { class: "unseen" }, "Facts on the runs"), head, el("tbody", {}, rows));
  refill(holder, el("summary", {}, report.runs.length > 1 ? "What the runs are, and where they differ" : "What this run is"), el("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "Facts" }, table));
}
