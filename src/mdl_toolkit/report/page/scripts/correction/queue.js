"use strict";
/* In which order rows are corrected: first those that teach most; and what their answers may be taken from. */

/* How many suggestions have a key. */
const SUGGESTION_KEYS = 9;

/** The orders that a set allows: value and text each, the best first. */
function queueOrders(set) {
  return [
    set.sureColumn && ["unsure", "Least sure first"],
    ["worst", "Worst first"],
    ["file", "As in the file"],
  ].filter(Boolean);
}

/**
 * Rows in an order. Where it isn't known how sure the model was, the worst come first: failed rows, then wrong ones.
 * Rows without that number are ordered so among themselves, and stand first: nothing vouches for them.
 */
function queued(set, rows, order) {
  if (order === "file") return [...rows].sort((one, other) => one - other);
  const worst = worstFirst(set, rows);
  if (order !== "unsure" || !set.sureColumn) return worst;
  const sure = new Map(rows.map((row) => [row, set.sureness(row) ?? -Infinity]));
  return worst.sort((one, other) => (sure.get(one) === sure.get(other) ? 0 : sure.get(one) - sure.get(other)));
}

/** The labels that a row's answer is one of, where there are few enough to choose from. */
function knownLabels(set, most = 30) {
  const labels = (set.confusion?.labels ?? Object.keys(set.per_class ?? {})).filter((label) => label !== NO_LABEL);
  return labels.length <= most ? labels : [];
}

/** What a row's answer may be taken from: `{source, text}` each; equal texts once, with all their sources. */
function suggestions(view, set, row) {
  const labels = knownLabels(set).map((text) => ({ text, source: "", isLabel: true }));
  // Labels that all have a key come first, and always in the same order: a label's key is learned once.
  const haveKeys = labels.length <= SUGGESTION_KEYS;
  const found = haveKeys ? labels : [];
  const add = (source, text) => {
    if (!text) return;
    const known = found.find((one) => one.text === text);
    if (known) known.source = [known.source, source].filter(Boolean).join(", ");
    else found.push({ source, text });
  };
  add("reference", set.truth(row));
  for (const run of view.runs) {
    const other = run.sets.get(set.name);
    const at = other.placeOf(set, row);
    if (at !== undefined) add(view.runs.length > 1 ? run.name : "model", other.answer(at));
  }
  for (const { text, probability } of alternativeAnswers(set, row)) {
    add(typeof probability === "number" ? `also likely, ${share(probability, 0)}` : "also likely", text);
  }
  if (!haveKeys) found.push(...labels.filter((label) => !found.some(({ text }) => text === label.text)));
  return found;
}
