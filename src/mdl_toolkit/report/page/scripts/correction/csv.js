"use strict";
/* A CSV that `mdl-toolkit train` takes as it is. */

/* What a cell without quotes would not be read as: blanks at an end, the word null (nothing), and what ends a cell. */
const NEEDS_QUOTES = /^null$|^[\s\u0085]|[\s\u0085]$|[",\u0000-\u001f]/;

/** A text as a cell. Nothing is an empty cell. */
function csvCell(text) {
  return NEEDS_QUOTES.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
}

/** Rows of texts as a CSV; every line ends in one line feed. */
function csvText(rows) {
  return rows.map((row) => `${row.map(csvCell).join(",")}\n`).join("");
}

/**
 * The rows of a set with corrected answers.
 *
 * @param {RowSet} set - The rows.
 * @param {Edits} edits - What was done with them.
 * @param {boolean} all - Whether rows that nobody looked at are in it too, with their reference, or without one with the
 *   model's answer.
 * @returns {{text: string, rows: number, empty: number}} The file, how many rows it has, and how many were left out
 *   because they have no answer, which `train` refuses.
 */
function correctedCsv(set, edits, all) {
  const columns = [...set.inputColumns];
  if (!columns.includes("audio")) columns.unshift("audio");
  if (!columns.includes("prediction")) columns.splice(columns.indexOf("audio") + 1, 0, "prediction");
  const lines = [columns];
  let empty = 0;
  for (const row of set.all()) {
    const edit = edits.of(row);
    if (edit?.leftOut || (!edit && !all)) continue;
    const answer = edit ? edit.text : usualAnswer(set, row);
    if (!answer.trim()) {
      empty += 1;
      continue;
    }
    lines.push(columns.map((name) => {
      if (name === "prediction") return answer;
      if (name === "audio") return set.text(row, "audio") || set.clip(row)?.path || "";
      return rawText(set.value(row, name));
    }));
  }
  return { text: csvText(lines), rows: lines.length - 1, empty };
}

/** A cell of the input as it stood there. */
function rawText(value) {
  if (value === null || value === undefined) return "";
  return typeof value === "string" ? value : JSON.stringify(value);
}

/** What a row is answered by as long as nobody corrects it: the truth where it is known. */
function usualAnswer(set, row) {
  return set.truth(row) || set.answer(row);
}

/** Give a text to the person as a file. */
function download(name, text) {
  const address = URL.createObjectURL(new Blob([text], { type: "text/csv;charset=utf-8" }));
  const link = el("a", { href: address, download: name });
  document.body.append(link);
  link.click();
  link.remove();
  setTimeout(() => URL.revokeObjectURL(address), 60_000);
}
