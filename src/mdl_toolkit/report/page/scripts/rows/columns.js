"use strict";
/* The columns of the rows' table: how each is shown and sorted. */

/* How narrow and how wide the columns of texts may get. */
const TEXT_WIDTH = "minmax(150px, 1fr)";
const HIDDEN_AT_FIRST = new Set(["seconds"]);
const LONG_NAMES = {
  probability: "Probability", mean_logprob: "Mean log-probability", min_logprob: "Lowest log-probability",
  finish_reason: "Ended by", runner_up: "Runner-up", runner_up_probability: "Runner-up's probability", given: "Read as", wanted: "Reference as label",
};
const SHORT_NAMES = { probability: "Sure", mean_logprob: "Sure" };

/**
 * All columns of the set that is looked at, each `{id, title, head?, card?, width, kind, render, sort, down?, shown}`;
 * head is what the table has for a title, card what a card has.
 *
 * @param {View} view - What is looked at.
 * @param {Player} player - Plays the clips.
 * @param {function(): boolean} lenient - Whether case and punctuation are no difference.
 */
function rowColumns(view, player, lenient) {
  const { set, runs } = view;
  const own = [
    clipColumn(set, player),
    { id: "row", title: "Row", width: "52px", kind: "number", shown: true, render: (row) => number(set.rowNumber(row)), sort: (row) => set.rowNumber(row) },
    set.reference && truthColumn(set, lenient),
    ...runs.map((run) => answerColumn(view, run, lenient)),
    scoreColumn(set),
    set.sureColumn && numberColumn(set, set.sureColumn, true),
  ].filter(Boolean);
  const taken = new Set(["row", set.reference, set.prediction, "score", "correct", "audio", set.sureColumn]);
  const slices = new Set(Object.keys(set.slices ?? {}));
  const rest = set.columns.filter((name) => !taken.has(name))
    .map((name) => (set.isNumeric(name) ? numberColumn : plainColumn)(set, name, slices.has(name)));
  const path = set.has("audio") ? [{ ...plainColumn(set, "audio", false), title: "Path" }] : [];
  const length = set.clips.length
    ? [{ id: "seconds", title: "Length", width: "84px", kind: "number", shown: !HIDDEN_AT_FIRST.has("seconds"), render: (row) => seconds(set.clip(row)?.seconds), sort: (row) => set.clip(row)?.seconds ?? null }]
    : [];
  return [...own, ...length, ...rest, ...path];
}

function clipColumn(set, player) {
  return {
    id: "clip", title: "Clip", width: "156px", kind: "clip", shown: set.all().some((row) => set.clip(row)?.src || set.clip(row)?.picture),
    sort: (row) => set.text(row, "audio"),
    render: (row) => [
      playButton(player, set.clip(row), set.clipName(row), { tabindex: -1 }),
      spectrogram(player, set.clip(row), set.clipName(row)),
    ],
  };
}

function truthColumn(set, lenient) {
  return {
    id: "truth", title: "Reference", width: TEXT_WIDTH, kind: "text truth", shown: true, sort: (row) => set.truth(row),
    render: (row) => el("p", {}, markedText(compared(set, set.truth(row), set.answer(row), lenient()), "truth")),
  };
}

/** A run's answers to the rows of the set that is looked at. */
function answerColumn(view, run, lenient) {
  const { set, runs } = view;
  const other = run.sets.get(view.setName);
  const place = (row) => other.placeOf(set, row);
  const several = runs.length > 1;
  const render = (row) => {
    const at = place(row);
    if (at === undefined) return el("p", { class: "nothing" }, "not in this run");
    if (other.failure(at)) return el("p", { class: "failure" }, `failed: ${other.failure(at)}`);
    const answer = other.answer(at);
    const mark = several ? resultMark(other, at) : null;
    if (!answer) return el("p", {}, mark, el("span", { class: "nothing" }, "(nothing)"));
    return el("p", {}, mark, set.reference ? markedText(compared(set, set.truth(row), answer, lenient()), "answer") : answer);
  };
  return {
    id: several ? `answer ${run.index}` : "answer", title: several ? `Answer of ${run.name}` : "Answer",
    head: several ? [runMark(run), run.name] : null, card: several ? run.name : null, width: TEXT_WIDTH, kind: "text answer", shown: true,
    sort: (row) => (place(row) === undefined ? "" : other.answer(place(row))), render,
  };
}

/** A sign for right, wrong or failed; `null` where that isn't known. */
function resultMark(set, row) {
  const right = set.failure(row) ? false : set.isRight(row);
  if (right === null) return null;
  const text = set.failure(row) ? "failed" : right ? "right" : "wrong";
  return el("span", { class: `result ${right ? "right" : "wrong"}`, role: "img", "aria-label": text, title: text }, right ? "✓" : "✗");
}

function scoreColumn(set) {
  const name = set.main_score ?? "score";
  return {
    id: "score", title: set.main_score ? scoreName(name) : "Score", width: "86px", kind: "number score", shown: true, down: set.lowerIsBetter,
    sort: (row) => set.score(row) ?? (set.isRight(row) === null ? null : Number(set.isRight(row))),
    render: (row) => {
      const score = set.score(row);
      const mark = resultMark(set, row);
      // A row that can only be right or wrong says so; a figure adds nothing.
      const figure = score === null || (mark && !set.lowerIsBetter && Number.isInteger(score)) ? null : scoreValue(name, score);
      return [mark, figure === null ? null : el("span", {}, figure)];
    },
  };
}

function numberColumn(set, name, shown) {
  return {
    id: `column ${name}`, title: LONG_NAMES[name] ?? name, head: SHORT_NAMES[name] ?? null, width: "78px", kind: "number", shown,
    sort: (row) => set.number(row, name),
    render: (row) => {
      const value = set.number(row, name);
      return value === null ? "" : /probability$/.test(name) ? share(value, 1) : number(value);
    },
  };
}

function plainColumn(set, name, shown) {
  return {
    id: `column ${name}`, title: LONG_NAMES[name] ?? name, width: "minmax(84px, 0.45fr)", kind: "text", shown,
    sort: (row) => set.text(row, name), render: (row) => el("p", {}, set.text(row, name)),
  };
}

const COLLATOR = new Intl.Collator(undefined, { numeric: true });

/** Rows sorted by a column; rows that have nothing in it come last, and equal ones stay as they were. */
function sortedRows(rows, column, down) {
  const known = rows.map((row) => [row, column.sort(row)]);
  const isNothing = (value) => value === null || value === undefined || value === "";
  const sign = down ? -1 : 1;
  const compare = ([, one], [, other]) => {
    if (isNothing(one) || isNothing(other)) return isNothing(one) - isNothing(other);
    return sign * (typeof one === "number" && typeof other === "number" ? one - other : COLLATOR.compare(one, other));
  };
  return known.sort(compare).map(([row]) => row);
}

/** The worst rows first; of equally bad ones those of which the model was least sure. */
function worstFirst(set, rows) {
  const known = rows.map((row) => ({ row, bad: set.badness(row), sure: set.sureness(row) ?? 0 }));
  const order = (one, other) => (one === other ? 0 : one < other ? -1 : 1);
  return known.sort((one, other) => order(other.bad, one.bad) || order(one.sure, other.sure)).map(({ row }) => row);
}
