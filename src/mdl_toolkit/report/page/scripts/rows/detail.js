"use strict";
/* All that is known of one row: beside the table, or over it on a narrow screen. */

class Detail {
  /**
   * @param {HTMLElement} holder - Where it is shown.
   * @param {View} view - What is looked at.
   * @param {Player} player - Plays the clip.
   * @param {Object} asked - `lenient()`, whether case and punctuation are no difference; `correct(row)`, correct this
   *   row; `close()`, called after it was closed.
   */
  constructor(holder, view, player, asked) {
    Object.assign(this, { holder, view, player, asked });
    holder.addEventListener("keydown", (event) => {
      if (event.key === "Escape") this.close();
    });
  }

  get isOver() {
    return this.holder.classList.contains("open");
  }

  /** Show it over the rows where there is no room beside them; who came by a key is taken there. */
  open(byKey) {
    this.holder.classList.add("open");
    if (byKey) this.holder.focus();
  }

  close() {
    if (!this.isOver) return;
    this.holder.classList.remove("open");
    this.asked.close();
  }

  show(row) {
    const { set } = this.view;
    if (row === undefined || !set) {
      refill(this.holder, el("p", { class: "note" }, "No row passes the filter."));
      return;
    }
    const name = set.clipName(row);
    refill(
      this.holder,
      el("div", { class: "detail-head" }, el("h3", {}, name, el("small", {}, `row ${number(set.rowNumber(row))}`)),
        el("button", { type: "button", class: "square close", "aria-label": "Close", on: { click: () => this.close() } }, "×")),
      this.sound(set, row, name),
      this.answers(set, row),
      this.alternatives(set, row),
      el("div", { class: "tools" }, el("button", { type: "button", on: { click: () => this.asked.correct(row) } }, "Correct this answer")),
      this.cells(set, row),
    );
  }

  sound(set, row, name) {
    const clip = set.clip(row);
    if (!clip) return el("p", { class: "note" }, "This page has no clip of this row.");
    const clock = el("span", { class: "clock" }, clip.seconds === null ? "" : seconds(clip.seconds));
    clock.clip = clip;
    return el("div", { class: "sound" }, spectrogram(this.player, clip, name), el("div", { class: "sound-tools" }, playButton(this.player, clip, name), clock,
      clip.missing ? el("span", {}, clip.missing) : null));
  }

  /** The truth and what each run answered, aligned. */
  answers(set, row) {
    const { runs, setName } = this.view;
    const several = runs.length > 1;
    return runs.map((run) => {
      const other = run.sets.get(setName);
      const at = other.placeOf(set, row);
      const title = several ? [runMark(run), run.name] : ["Answer"];
      if (at === undefined) return el("section", { class: "answered" }, el("h4", {}, title), el("p", { class: "note" }, "This run has no such row."));
      const failure = other.failure(at);
      const [truth, answer, lenient] = this.texts(other, at);
      const pairs = other.reference ? compared(other, truth, answer, lenient) : [];
      const score = other.score(at);
      // Where an answer is right or wrong as a whole, the mark says all.
      const isWhole = WHOLE_ANSWERS.has(other.task);
      const figures = [
        isWhole || score === null || other.main_score === null ? null : `${scoreName(other.main_score)} ${scoreValue(other.main_score, score)}`,
        !isWhole && other.reference ? changesInWords(pairs) : null,
        surenessInWords(other, at),
      ];
      return el(
        "section",
        { class: "answered" },
        el("h4", {}, resultMark(other, at), title, el("small", {}, figures.filter(Boolean).join(" · "))),
        failure ? el("p", { class: "failure" }, `failed: ${failure}`) : null,
        other.reference ? alignmentView(pairs) : el("p", { class: "whole" }, answer),
      );
    });
  }

  /** The two texts that are aligned: as they were scored where that is known. */
  texts(set, row) {
    if (set.has("normalized_reference")) return [set.text(row, "normalized_reference"), set.text(row, "normalized_prediction"), false];
    return [set.truth(row), set.answer(row), this.asked.lenient()];
  }

  /** Other answers that the model thought of. */
  alternatives(set, row) {
    const found = alternativeAnswers(set, row);
    if (!found.length) return null;
    return el("section", { class: "answered" }, el("h4", {}, "Other answers"), el("ol", { class: "alternatives" }, found.map(({ text, probability }) =>
      el("li", {}, el("span", {}, text || "(nothing)"), el("small", {}, typeof probability === "number" ? share(probability, 1) : "")))));
  }

  cells(set, row) {
    const hidden = new Set(["n_best"]);
    const names = set.columns.filter((name) => !hidden.has(name) && cellText(set.value(row, name)) !== "");
    return el("details", { class: "cells", open: true }, el("summary", {}, "All columns"), el("dl", {}, names.map((name) => [
      el("dt", {}, name), el("dd", {}, cellText(set.value(row, name))),
    ])));
  }
}

/** `probability 31.8 %`, where the model said how sure it was. */
function surenessInWords(set, row) {
  const sure = set.sureness(row);
  if (sure === null) return null;
  return `${LONG_NAMES[set.sureColumn].toLowerCase()} ${set.sureColumn === "probability" ? share(sure, 1) : number(sure)}`;
}

/** What else the model might have answered to a row: `{text, probability}` each, the likeliest first. */
function alternativeAnswers(set, row) {
  const answer = set.answer(row);
  const found = [];
  const add = (text, probability) => {
    if (text !== answer && !found.some((one) => one.text === text)) found.push({ text, probability });
  };
  const runnerUp = set.text(row, "runner_up");
  if (runnerUp) add(runnerUp, set.number(row, "runner_up_probability"));
  for (const one of readList(set.value(row, "n_best"))) if (typeof one?.text === "string") add(one.text, one.probability);
  return found;
}
