"use strict";
/* What the page knows: the runs, their sets of scored rows, and which of them is looked at. */

const RUN_COLORS = 8;
const SURE_COLUMNS = ["probability", "mean_logprob"];
const REFERENCE_NAMES = ["reference", "text", "label", "answer"];
const PREDICTION_NAMES = ["prediction", "model_output"];
/* Columns that say how a row was scored; all others came with the row. */
const SCORED_COLUMNS = new Set([
  "row", "score", "correct", "error", "finish_reason", "mean_logprob", "min_logprob", "probability", "runner_up",
  "runner_up_probability", "n_best", "wanted", "given", "normalized_reference", "normalized_prediction", "substitutions",
  "deletions", "insertions", "reference_words",
]);

/** The rows of one set as one run answered them. Rows are known by their place in the table. */
class RowSet {
  constructor(given, run, report) {
    Object.assign(this, given);
    this.run = run;
    this.clips = report.audio;
    this.columns = given.table?.columns ?? [];
    this.cells = given.table?.rows ?? [];
    this.places = new Map(this.columns.map((name, place) => [name, place]));
    const known = (names) => names.find((name) => this.places.has(name)) ?? null;
    // That there is no truth is said by `null`.
    this.reference = given.reference === undefined ? known(REFERENCE_NAMES) : given.reference;
    this.prediction = given.prediction ?? known(PREDICTION_NAMES);
    this.sureColumn = known(SURE_COLUMNS);
    this.lowerIsBetter = report.isLowerBetter(given.main_score ?? "");
    this.inputColumns = given.input_columns?.length
      ? given.input_columns
      : (report.correctionColumns ?? this.columns.filter((name) => !SCORED_COLUMNS.has(name)));
    this.haystacks = [];
  }

  get length() {
    return this.cells.length;
  }

  /** Every place, in the order of the file. */
  all() {
    return this.cells.map((_, row) => row);
  }

  value(row, column) {
    const place = this.places.get(column);
    return place === undefined ? null : (this.cells[row][place] ?? null);
  }

  /** Whether a column holds nothing but numbers and empty cells. */
  isNumeric(column) {
    this.numeric ??= new Map();
    if (!this.numeric.has(column)) {
      const fits = (row) => this.value(row, column) === null || this.number(row, column) !== null;
      this.numeric.set(column, this.length > 0 && this.all().every(fits));
    }
    return this.numeric.get(column);
  }

  text(row, column) {
    const value = this.value(row, column);
    return typeof value === "number" ? String(value) : cellText(value);
  }

  number(row, column) {
    const value = this.value(row, column);
    if (typeof value === "number") return value;
    const read = typeof value === "string" && value.trim() !== "" ? Number(value) : NaN;
    return Number.isFinite(read) ? read : null;
  }

  /** The right answer as a text. Of several that are all right it is the first; of tags it is all of them. */
  truth(row) {
    const text = this.rawTruth(row);
    const list = readList(text);
    if (!list.length) return text;
    return this.task === "tagging" ? list.map(cellText).join("; ") : cellText(list[0]);
  }

  /** The right answer as it stands in the table, which may be a list written as JSON. */
  rawTruth(row) {
    return this.reference ? this.text(row, this.reference) : "";
  }

  answer(row) {
    return this.prediction ? this.text(row, this.prediction) : "";
  }

  score(row) {
    return this.number(row, "score");
  }

  /** @returns {?boolean} Whether a row is right; `null` where that isn't known. */
  isRight(row) {
    const correct = this.value(row, "correct");
    if (correct === true || correct === "true") return true;
    if (correct === false || correct === "false") return false;
    // Of error rates 0 is right; what a good CIDEr is, nobody knows.
    const score = this.lowerIsBetter ? this.score(row) : null;
    return score === null ? null : score <= 0;
  }

  /** Whether there are rows of which it is known if they are right. */
  get knowsRight() {
    this.judged ??= this.all().some((row) => this.isRight(row) !== null);
    return this.judged;
  }

  has(column) {
    return this.places.has(column);
  }

  failure(row) {
    return this.text(row, "error");
  }

  /** How sure the model was of its answer, in the measure of `sureColumn`; `null` where that isn't known. */
  sureness(row) {
    return this.sureColumn ? this.number(row, this.sureColumn) : null;
  }

  /** A number that is higher the worse a row's answer is. A row that failed is worst of all. */
  badness(row) {
    if (this.failure(row)) return Infinity;
    const score = this.score(row);
    if (score !== null) return this.lowerIsBetter ? score : -score;
    const right = this.isRight(row);
    return right === null ? 0 : right ? -1 : 1;
  }

  /** The sureness below which the least sure quarter of the rows lies. */
  get unsureBelow() {
    if (this.quarter === undefined) {
      const found = this.all().map((row) => this.sureness(row)).filter((value) => value !== null);
      found.sort((one, other) => one - other);
      this.quarter = found.length ? found[Math.floor((found.length - 1) / 4)] : null;
    }
    return this.quarter;
  }

  clip(row) {
    const place = this.audio?.[row];
    return place === null || place === undefined ? null : (this.clips[place] ?? null);
  }

  clipName(row) {
    const path = this.text(row, "audio") || this.clip(row)?.path || "";
    return path.split(/[\\/]/).pop() || `row ${this.rowNumber(row)}`;
  }

  rowNumber(row) {
    return this.number(row, "row") ?? row + 1;
  }

  /** All that is written in a row, in lower case, to be searched. */
  haystack(row) {
    this.haystacks[row] ??= this.cells[row].filter((cell) => typeof cell === "string").join("\n").toLowerCase();
    return this.haystacks[row];
  }

  /** What a row is, whatever was answered: its recording, part, question, and which of several equal ones. */
  get identities() {
    if (!this.known) {
      const seen = new Map();
      this.known = this.all().map((row) => {
        const path = this.text(row, "audio") || this.clip(row)?.path || "";
        const parts = ["start", "end", "system_prompt", "user_prompt"].map((name) => this.text(row, name));
        const base = JSON.stringify([path, ...parts]);
        const before = seen.get(base) ?? 0;
        seen.set(base, before + 1);
        return `${base}${before}`;
      });
    }
    return this.known;
  }

  /** The place in this set of what is a row in another run's set of the same name; `undefined` without one. */
  placeOf(other, row) {
    if (other === this) return row;
    const keys = (set) => set.keys ?? set.identities;
    this.byKey ??= new Map(keys(this).map((key, place) => [key, place]));
    return this.byKey.get(keys(other)[row]);
  }
}

/** A list, or a list that is written as JSON; anything else is an empty one. */
function readList(value) {
  if (typeof value === "string" && !value.trim().startsWith("[")) return [];
  try {
    const list = typeof value === "string" ? JSON.parse(value) : value;
    return Array.isArray(list) ? list : [];
  } catch {
    return [];
  }
}

/** Everything that the page was given. */
class Report {
  constructor(given) {
    this.title = given.title ?? "Report";
    this.version = given.version ?? "";
    this.generated = given.generated ?? "";
    this.notes = given.notes ?? [];
    this.audio = given.audio ?? [];
    this.comparisons = given.comparisons ?? [];
    this.lower = new Set(given.lower_is_better ?? ["loss", "wer", "cer", "ece"]);
    this.correctionColumns = given.options?.correction?.columns;
    this.runs = (given.runs ?? []).map((run, index) => {
      const own = { ...run, index, color: `var(--run-${index % RUN_COLORS})` };
      own.sets = new Map((run.sets ?? []).map((set) => [set.name, new RowSet(set, own, this)]));
      return own;
    });
    this.setNames = [...new Set(this.runs.flatMap((run) => [...run.sets.keys()]))];
  }

  isLowerBetter(name) {
    const bare = name.split("/")[0];
    return this.lower.has(name) || this.lower.has(bare) || this.lower.has(bare.replace(/^eval_/, ""));
  }

  /** Runs that have answers to a set. */
  runsOf(setName) {
    return this.runs.filter((run) => run.sets.has(setName));
  }
}

/** What is looked at now, and who wants to know of a change. */
class View {
  constructor(report) {
    this.report = report;
    this.listeners = [];
    this.setName = report.setNames[0] ?? null;
    this.run = this.runs[0] ?? report.runs[0] ?? null;
  }

  /** Runs that answered the set that is looked at. */
  get runs() {
    return this.setName === null ? [] : this.report.runsOf(this.setName);
  }

  /** The set that is looked at, as the chosen run answered it; `null` where nothing was scored. */
  get set() {
    return this.run?.sets.get(this.setName) ?? null;
  }

  choose(setName, run) {
    this.setName = setName;
    this.run = this.runs.includes(run) ? run : (this.runs[0] ?? null);
    for (const listener of this.listeners) listener();
  }

  onChange(listener) {
    this.listeners.push(listener);
  }
}
