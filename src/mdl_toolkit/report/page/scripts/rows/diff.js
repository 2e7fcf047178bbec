"use strict";
/* Where two texts differ: word by word, and character by character in writing without spaces between words. */

const UNSPACED = "\\p{Script=Han}\\p{Script=Hiragana}\\p{Script=Katakana}\\p{Script=Thai}\\p{Script=Lao}\\p{Script=Khmer}\\p{Script=Myanmar}";
const PIECE = new RegExp(`(\\s*)([${UNSPACED}]\\p{M}*|[^\\s${UNSPACED}]+)`, "gu");
/* Tasks whose answers are one thing each. */
const WHOLE_ANSWERS = new Set(["classification", "choice"]);
/* Longer texts than this, multiplied, are compared by their ends alone: the rest of a page must not wait for them. */
const MOST_WORK = 4e6;

/** A text's pieces: each `{text, gap}`, where gap is the white space before it. */
function pieces(text) {
  return [...text.matchAll(PIECE)].map(([, gap, word]) => ({ text: word, gap }));
}

/** A piece without case, punctuation and forms of letters that look alike. */
function plainPiece(text) {
  return text.normalize("NFKC").toLowerCase().replace(/[\p{P}\p{S}]/gu, "");
}

const KEPT_ALIGNMENTS = 500;
const alignments = new Map();

/** As `aligned`; what was asked for lately is kept, for the same rows come by again and again. */
function alignedOnce(truth, answer, lenient) {
  const key = JSON.stringify([truth, answer, lenient]);
  const found = alignments.get(key) ?? aligned(truth, answer, lenient);
  alignments.delete(key);
  alignments.set(key, found);
  if (alignments.size > KEPT_ALIGNMENTS) alignments.delete(alignments.keys().next().value);
  return found;
}

/**
 * Align two texts by the fewest changes.
 *
 * @param {string} truth - One text.
 * @param {string} answer - The other.
 * @param {boolean} lenient - Whether case and punctuation are no difference.
 * @returns {Object[]} In order, `{truth, answer, kind}`: a piece each, or `null`; kind is `same`, `changed`, `missing`
 *   (of the truth) or `added` (by the answer).
 */
function aligned(truth, answer, lenient) {
  const prepare = (text) => pieces(text).map((piece) => ({ ...piece, key: lenient ? plainPiece(piece.text) : piece.text }));
  const [one, other] = [prepare(truth), prepare(answer)];
  // Punctuation that stands alone is nothing to a lenient eye, so it isn't aligned but stays with what is before it.
  const [left, right] = [one, other].map((list) => list.filter(({ key }) => key !== ""));
  return withQuiet(alignedPieces(left, right), one, other);
}

/** The alignment of a row's truth with an answer, in the manner of the set's task: a label is right or wrong as a whole. */
function compared(set, truth, answer, lenient) {
  if (!WHOLE_ANSWERS.has(set.task)) return alignedOnce(truth, answer, lenient);
  const plain = (text) => (lenient ? plainPiece(text) : text.trim());
  const kind = plain(truth) === plain(answer) ? "same" : "changed";
  return [{ truth: { text: truth, gap: "" }, answer: { text: answer, gap: "" }, kind }];
}

function alignedPieces(left, right) {
  let start = 0;
  while (start < left.length && start < right.length && left[start].key === right[start].key) start += 1;
  let end = 0;
  while (end < left.length - start && end < right.length - start && left[left.length - 1 - end].key === right[right.length - 1 - end].key) end += 1;
  const same = (count, from, to) =>
    left.slice(from, from + count).map((piece, k) => ({ truth: piece, answer: right[to + k], kind: "same" }));
  const [n, m] = [left.length - end, right.length - end];
  return [...same(start, 0, 0), ...fewestChanges(left.slice(start, n), right.slice(start, m)), ...same(end, n, m)];
}

/** Levenshtein's table, and the way back through it. */
function fewestChanges(left, right) {
  const [n, m] = [left.length, right.length];
  if (!n || !m || n * m > MOST_WORK) {
    return [
      ...left.map((piece) => ({ truth: piece, answer: null, kind: "missing" })),
      ...right.map((piece) => ({ truth: null, answer: piece, kind: "added" })),
    ];
  }
  const width = m + 1;
  const costs = new Uint32Array((n + 1) * width);
  for (let j = 1; j <= m; j += 1) costs[j] = j;
  for (let i = 1; i <= n; i += 1) {
    costs[i * width] = i;
    for (let j = 1; j <= m; j += 1) {
      const changed = costs[(i - 1) * width + j - 1] + (left[i - 1].key === right[j - 1].key ? 0 : 1);
      costs[i * width + j] = Math.min(changed, costs[(i - 1) * width + j] + 1, costs[i * width + j - 1] + 1);
    }
  }
  const found = [];
  let [i, j] = [n, m];
  while (i || j) {
    const cost = costs[i * width + j];
    const equal = i && j && left[i - 1].key === right[j - 1].key;
    if (i && j && cost === costs[(i - 1) * width + j - 1] + (equal ? 0 : 1)) {
      found.push({ truth: left[--i], answer: right[--j], kind: equal ? "same" : "changed" });
    } else if (i && cost === costs[(i - 1) * width + j] + 1) {
      found.push({ truth: left[--i], answer: null, kind: "missing" });
    } else {
      found.push({ truth: null, answer: right[--j], kind: "added" });
    }
  }
  return found.reverse();
}

/** Put the pieces that were left out of the alignment back behind those that they follow. */
function withQuiet(pairs, one, other) {
  const rest = { truth: [...one], answer: [...other] };
  const upTo = (side, piece) => {
    const before = [];
    while (rest[side].length && rest[side][0] !== piece) before.push({ [side]: rest[side].shift(), kind: "quiet" });
    rest[side].shift();
    return before;
  };
  const found = pairs.flatMap((pair) => [
    ...(pair.truth ? upTo("truth", pair.truth) : []),
    ...(pair.answer ? upTo("answer", pair.answer) : []),
    pair,
  ]);
  return [...found, ...upTo("truth", null), ...upTo("answer", null)];
}

/** One side of an alignment as nodes, with what is different marked; neighbours share a mark. */
function markedText(pairs, side) {
  const tag = side === "truth" ? "del" : "ins";
  const nodes = [];
  let [mark, kind] = [null, null];
  for (const pair of pairs) {
    const piece = pair[side];
    if (!piece) continue;
    const plain = pair.kind === "same" || pair.kind === "quiet";
    if (plain) {
      mark = null;
      nodes.push(piece.gap + piece.text);
    } else if (mark && kind === pair.kind) {
      mark.append(piece.gap + piece.text);
    } else {
      mark = el(tag, { class: pair.kind }, piece.text);
      kind = pair.kind;
      nodes.push(piece.gap, mark);
    }
  }
  return nodes;
}

/** Both sides above each other, piece by piece: what became of what. */
function alignmentView(pairs) {
  const said = { changed: "changed to", missing: "missing", added: "added" };
  const columns = pairs.filter(({ kind }) => kind !== "quiet").map(({ truth, answer, kind }) => el(
    "li",
    { class: kind },
    el("span", {}, truth?.text ?? "∅"),
    kind === "same" ? null : el("span", { class: "unseen" }, ` ${said[kind]} `),
    el("span", { "aria-hidden": kind === "same" ? "true" : null }, answer?.text ?? "∅"),
  ));
  return el("ol", { class: "alignment", "aria-label": "Truth above, answer below" }, columns);
}

/** `2 changed, 1 missing`, of an alignment. */
function changesInWords(pairs) {
  const counts = ["changed", "missing", "added"].map((kind) => [kind, pairs.filter((pair) => pair.kind === kind).length]);
  return counts.filter(([, count]) => count).map(([kind, count]) => `${count} ${kind}`).join(", ") || "no difference";
}
