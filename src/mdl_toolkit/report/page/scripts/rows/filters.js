"use strict";
/* Which rows are shown. */

/** The choices of the filter by result, for a set: value and text each. */
function statusChoices(view) {
  const { set, runs } = view;
  const choices = [["all", "All rows"]];
  if (set.knowsRight) choices.push(["wrong", "Wrong"], ["right", "Right"]);
  if (set.has("error")) choices.push(["failed", "Failed (no answer)"]);
  if (set.sureColumn) choices.push(["unsure", "Uncertain (least sure quarter)"]);
  if (runs.length > 1 && set.knowsRight) {
    choices.push(["differ", "Right in some runs only"]);
    for (const run of runs) choices.push([`only ${run.index}`, `Right in ${run.name} only`]);
  } else if (runs.length > 1) {
    choices.push(["differ", "Answers differ"]);
  }
  return choices;
}

/** What is asked of rows. */
class RowFilter {
  constructor() {
    this.clear();
  }

  clear() {
    Object.assign(this, { text: "", status: "all", slice: null, pair: null, truth: null });
  }

  get isEmpty() {
    return !this.text && this.status === "all" && !this.slice && this.pair === null && this.truth === null;
  }

  /** The parts that came from a click elsewhere in the page, as texts, each with how to take it away. */
  get chips() {
    const chip = (name, text) => ({ text, remove: () => { this[name] = null; } });
    return [
      this.pair && chip("pair", `truth ${this.pair.truth}, answer ${this.pair.given}`),
      this.truth !== null && chip("truth", `truth ${this.truth}`),
      this.slice && chip("slice", `${this.slice.column}: ${this.slice.value || "(empty)"}`),
    ].filter(Boolean);
  }

  /** The rows of the set that is looked at that pass, in the order of the file. */
  passing(view) {
    const { set } = view;
    const tests = [
      this.text && textTest(set, this.text),
      statusTest(view, this.status),
      this.slice && ((row) => (set.text(row, this.slice.column) || "") === this.slice.value),
      this.pair && pairTest(set, this.pair),
      this.truth !== null && ((row) => isLabel(set, row, this.truth)),
    ].filter(Boolean);
    return set.all().filter((row) => tests.every((test) => test(row)));
  }
}

function textTest(set, text) {
  const words = text.toLowerCase().split(/\s+/).filter(Boolean);
  return (row) => words.every((word) => set.haystack(row).includes(word));
}

function statusTest(view, status) {
  const { set, runs } = view;
  const rightIn = (run, row) => {
    const other = run.sets.get(view.setName);
    const place = other.placeOf(set, row);
    return place === undefined ? null : other.isRight(place);
  };
  const answersIn = (row) => new Set(runs.map((run) => {
    const other = run.sets.get(view.setName);
    const place = other.placeOf(set, row);
    return place === undefined ? null : other.answer(place);
  }));
  if (status.startsWith("only ")) {
    const index = Number(status.slice(5));
    return (row) => runs.every((run) => rightIn(run, row) === (run.index === index));
  }
  return {
    wrong: (row) => set.isRight(row) === false || Boolean(set.failure(row)),
    right: (row) => set.isRight(row) === true,
    failed: (row) => Boolean(set.failure(row)),
    unsure: (row) => set.sureness(row) !== null && set.sureness(row) <= set.unsureBelow,
    differ: set.knowsRight
      ? (row) => new Set(runs.map((run) => rightIn(run, row)).filter((right) => right !== null)).size > 1
      : (row) => answersIn(row).size > 1,
  }[status] ?? null;
}

/** Whether a row's truth is a label, or one of several. In another case, or with blanks around it, it is the same label. */
function isLabel(set, row, label) {
  if (set.has("wanted")) return set.text(row, "wanted") === label;
  const plain = (text) => text.trim().toLowerCase();
  const truth = set.rawTruth(row);
  return [truth, ...tagsOf(truth)].some((one) => plain(one) === plain(label));
}

/** The tags or alternatives of a truth that is a list, or separated by semicolons. */
function tagsOf(truth) {
  const list = readList(truth);
  return list.length ? list.map(cellText) : truth.split(";");
}

function pairTest(set, { truth, given }) {
  const wanted = given === NO_LABEL ? "" : given.trim().toLowerCase();
  const answer = set.has("given") ? (row) => set.text(row, "given") : (row) => set.answer(row);
  return (row) => answer(row).trim().toLowerCase() === wanted && isLabel(set, row, truth);
}
