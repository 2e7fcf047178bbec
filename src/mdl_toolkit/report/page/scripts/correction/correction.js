"use strict";
/* The correction mode: listen, fix the answer, next, by keyboard alone. */

const ALT = /Mac|iPhone|iPad/.test(navigator.platform) ? "⌥" : "Alt";
const CTRL = ALT === "Alt" ? "Ctrl" : "⌘";
const SKIP_SECONDS = 2;
const KEYS = [
  [["Enter"], "accept the answer, next clip"],
  [["Shift", "Enter"], "new line in the answer"],
  [[ALT, "K"], "play or pause (also Space outside of the field)"],
  [[ALT, "J"], `${SKIP_SECONDS} s back`],
  [[ALT, "L"], `${SKIP_SECONDS} s forward`],
  [[ALT, "1…9"], "take a suggestion"],
  [[ALT, "X"], "leave this clip out of the file"],
  [[ALT, "↓"], "next clip, without accepting"],
  [[ALT, "↑"], "previous clip"],
  [[ALT, "Z"], "undo the last decision"],
  [[CTRL, "S"], "save"],
  [["Esc"], "leave the field, then the correction mode"],
];

class Correction {
  constructor(view, player) {
    Object.assign(this, { view, player });
    this.edits = new Map();
    this.settings = { order: null, from: "reference", listen: true, ...storage.read("correction settings") };
    this.holder = byId("correction");
    this.holder.addEventListener("keydown", (event) => this.key(event));
    addEventListener("beforeunload", (event) => {
      const lost = [...this.edits.values()].some((edits) => !edits.isKept && edits.unsaved);
      if (lost) event.preventDefault();
    });
    this.build();
  }

  get isOpen() {
    return !this.holder.hidden;
  }

  get row() {
    return this.queue[this.at];
  }

  build() {
    this.title = el("h2", { tabindex: -1 });
    this.bar = el("progress", { "aria-label": "Rows done" });
    this.count = el("p", { class: "count", role: "status" });
    this.tools = el("div", { class: "tools" });
    this.sound = el("div", { class: "sound" });
    this.facts = el("p", { class: "note row-facts" });
    this.list = el("ol", { class: "suggestions" });
    this.field = el("textarea", {
      id: "answer-field", rows: 2, spellcheck: "false", autocomplete: "off", "aria-describedby": "answer-problem",
      on: { input: () => this.showDifferences() },
    });
    this.problem = el("p", { id: "answer-problem", class: "problem", role: "alert" });
    this.saving = el("div", { class: "saving panel" });
    const button = (text, keys, call, kind = "") =>
      el("button", { type: "button", class: kind, on: { click: call } }, text, el("span", { class: "keys", "aria-hidden": "true" }, keys.map((key) => el("kbd", {}, key))));
    refill(
      this.holder,
      el("div", { class: "correction-head" }, el("div", {}, this.title, this.count), button("Close", ["Esc"], () => this.close())),
      this.bar,
      this.tools,
      el("div", { class: "correction-card panel" }, this.sound, this.facts,
        el("label", { for: "answer-field" }, "Answer"), this.field, this.problem,
        el("div", { class: "tools decide" },
          button("Accept and next", ["Enter"], () => this.accept(), "primary"),
          button("Leave out", [ALT, "X"], () => this.leaveOut()),
          button("Previous", [ALT, "↑"], () => this.go(this.at - 1)),
          button("Skip", [ALT, "↓"], () => this.go(this.at + 1)),
          button("Undo", [ALT, "Z"], () => this.undo())),
        el("h3", {}, "Suggestions"), this.list),
      this.saving,
      el("details", { class: "panel keys-table", open: matchMedia("(min-width: 720px)").matches }, el("summary", {}, "Keys"),
        el("dl", {}, KEYS.map(([keys, what]) => [el("dt", {}, keys.map((key) => el("kbd", {}, key))), el("dd", {}, what)]))),
    );
  }

  /** Correct these rows of the set that is looked at; begin with one of them, or the first that isn't done. */
  start(rows, row = null) {
    const { set } = this.view;
    this.set = set;
    const name = Edits.nameFor(set);
    if (!this.edits.has(name)) this.edits.set(name, new Edits(set));
    this.done = this.edits.get(name);
    // Another run may have the same rows in another order.
    this.done.set = set;
    this.rows = rows.length ? rows : set.all();
    this.showTools();
    this.arrange();
    this.player.stop();
    byId("report").hidden = true;
    this.holder.hidden = false;
    document.body.classList.add("correcting");
    this.before = document.activeElement;
    const first = row === null ? this.queue.findIndex((one) => !this.done.of(one)) : this.queue.indexOf(row);
    this.go(Math.max(0, first));
    scrollTo(0, 0);
  }

  arrange() {
    const orders = queueOrders(this.set).map(([order]) => order);
    this.order = orders.includes(this.settings.order) ? this.settings.order : orders[0];
    this.queue = queued(this.set, this.rows, this.order);
  }

  showTools() {
    const orders = queueOrders(this.set);
    const keep = (changes) => {
      Object.assign(this.settings, changes);
      storage.write("correction settings", this.settings);
    };
    const chosen = orders.some(([order]) => order === this.settings.order) ? this.settings.order : orders[0][0];
    refill(
      this.tools,
      selectBox("Order", orders, chosen, (order) => {
        keep({ order });
        const { row } = this;
        this.arrange();
        this.go(this.queue.indexOf(row));
      }),
      this.set.reference && selectBox("Begin with", [["reference", "the reference"], ["answer", "the model's answer"]], this.settings.from, (from) => {
        keep({ from });
        this.go(this.at);
      }),
      tickBox("Play each clip by itself", this.settings.listen, (listen) => keep({ listen })),
    );
    const part = this.rows.length < this.set.length ? `the ${counted(this.rows.length, "row")} of the filter` : "all rows";
    this.title.textContent = `Correct answers of ${this.set.name}, ${part}`;
  }

  close() {
    this.player.stop();
    this.holder.hidden = true;
    byId("report").hidden = false;
    document.body.classList.remove("correcting");
    this.before?.isConnected && this.before.focus();
    this.before?.scrollIntoView?.({ block: "center" });
  }

  /** Go to a place of the queue. */
  go(at) {
    if (at < 0 || at >= this.queue.length) {
      announce(at < 0 ? "This is the first clip" : "This is the last clip");
      this.progress();
      return;
    }
    this.at = at;
    const { row, set } = this;
    const edit = this.done.of(row);
    const own = this.settings.from === "answer" ? set.answer(row) || set.truth(row) : usualAnswer(set, row);
    this.field.value = edit && !edit.leftOut ? edit.text : own;
    this.problem.textContent = "";
    this.showSound(row);
    this.showFacts(row, edit);
    this.found = suggestions(this.view, set, row);
    this.showDifferences();
    this.progress();
    this.field.focus({ preventScroll: true });
    this.field.setSelectionRange(this.field.value.length, this.field.value.length);
    const clip = set.clip(row);
    if (this.settings.listen && clip?.src) this.player.play(clip, 0);
    else this.player.stop();
    announce(`Clip ${at + 1} of ${this.queue.length}, ${set.clipName(row)}${edit ? ", done before" : ""}`);
  }

  showSound(row) {
    const clip = this.set.clip(row);
    const name = this.set.clipName(row);
    if (!clip) {
      refill(this.sound, el("p", { class: "note" }, "This page has no clip of this row."));
      return;
    }
    const clock = el("span", { class: "clock" }, clip.seconds === null ? "" : seconds(clip.seconds));
    clock.clip = clip;
    refill(this.sound, spectrogram(this.player, clip, name), el("div", { class: "sound-tools" }, playButton(this.player, clip, name), clock,
      el("span", { class: "clip-name" }, name)));
  }

  showFacts(row, edit) {
    const { set } = this;
    const prompts = ["system_prompt", "user_prompt"].map((name) => set.text(row, name)).filter(Boolean);
    const parts = [
      `Clip ${this.at + 1} of ${this.queue.length}`,
      `row ${number(set.rowNumber(row))}`,
surenessInWords(set, row),
      set.failure(row) ? `failed: ${set.failure(row)}` : null,
      prompts.length ? `asked: ${prompts.join(" · ")}` : null,
    ];
    const state = edit ? el("span", { class: `state${edit.leftOut ? " out" : ""}` }, edit.leftOut ? "left out" : "done") : null;
    refill(this.facts, state, parts.filter(Boolean).join(" · "));
  }

  /** The suggestions, with where each differs from what stands in the field. */
  showDifferences() {
    const now = this.field.value;
    this.problem.textContent = "";
    refill(this.list, this.found.map(({ source, text, isLabel }, place) => el(
      "li",
      { class: isLabel ? "label" : null },
      el("button", { type: "button", "aria-pressed": String(text === now), on: { click: () => this.take(place) } },
        place < SUGGESTION_KEYS ? el("kbd", { "aria-hidden": "true" }, place + 1) : null,
        isLabel ? null : el("small", {}, source),
        el("span", {}, text === now || isLabel ? text : markedText(compared(this.set, now, text, false), "answer")),
        isLabel && source ? el("small", { class: "source" }, source) : null),
    )));
  }

  take(place) {
    const taken = this.found[place];
    if (!taken) return;
    this.field.value = taken.text;
    this.showDifferences();
    this.field.focus();
    announce(`Taken: ${taken.text}`);
  }

  accept() {
    if (!this.field.value.trim()) {
      this.problem.textContent = `An empty answer can't be learned: write one, or leave the clip out (${ALT} X).`;
      this.field.focus();
      return;
    }
    this.done.note(this.row, this.field.value);
    this.advance();
  }

  leaveOut() {
    this.done.note(this.row, this.field.value, true);
    this.advance();
  }

  /** Go to the next row that isn't done, from here to the end, then from the beginning. */
  advance() {
    const order = [...this.queue.keys()].map((_, step) => (this.at + 1 + step) % this.queue.length);
    const next = order.find((at) => !this.done.of(this.queue[at]));
    if (next === undefined) {
      this.progress();
      this.showFacts(this.row, this.done.of(this.row));
      this.player.stop();
      announce("All clips are done");
      this.saving.querySelector("button").focus();
    } else {
      this.go(next);
    }
  }

  undo() {
    const row = this.done.undo();
    if (row === null) {
      announce("Nothing to undo");
      return;
    }
    const at = this.queue.indexOf(row);
    this.go(at < 0 ? this.at : at);
    announce(`Undone: ${this.set.clipName(row)}`);
  }

  progress() {
    const { done, changed, leftOut } = this.done.counts(this.queue);
    this.bar.max = this.queue.length;
    this.bar.value = done;
    const parts = [`${number(done)} of ${number(this.queue.length)} done`, `${number(changed)} changed`, leftOut ? `${number(leftOut)} left out` : null];
    this.count.textContent = parts.filter(Boolean).join(" · ");
    this.showSaving();
  }

  showSaving() {
    const { set, done } = this;
    const whole = done.counts(set.all());
    const kept = whole.done - whole.leftOut;
    const rest = set.reference ? "the others with their reference" : "the others with the model's answer";
    const choice = (value, text) => el("label", { class: "tick" },
      el("input", { type: "radio", name: "saved-rows", value, checked: (this.savedRows ?? "done") === value, on: { change: () => { this.savedRows = value; } } }), el("span", {}, text));
    const wasFocused = this.saving.contains(document.activeElement);
    refill(
      this.saving,
      el("fieldset", {}, el("legend", {}, "Save as a CSV for ", el("code", {}, "mdl-toolkit train")),
        choice("done", `The ${counted(kept, "row")} that you accepted`),
        choice("all", `All ${number(set.length - whole.leftOut)} rows, ${rest}`)),
      el("div", { class: "tools" },
        el("button", { type: "button", class: "primary", id: "save", on: { click: () => this.save() } }, "Save", el("span", { class: "keys", "aria-hidden": "true" }, el("kbd", {}, CTRL), el("kbd", {}, "S"))),
        whole.done ? el("button", { type: "button", on: { click: () => this.forget() } }, "Forget all corrections") : null),
      (this.saved = el("p", { class: "note", role: "status" }, done.isKept ? this.savedText(whole.done) : "This browser keeps nothing for the page: save before you close it.")),
    );
    if (wasFocused) byId("save").focus();
  }

  savedText(count) {
    if (!count) return "Corrections are kept in this browser until you forget them. Paths in the file are those of the input.";
    const { unsaved } = this.done;
    return unsaved ? `${counted(unsaved, "correction")} not saved yet; kept in this browser.` : "All corrections are saved.";
  }

  save() {
    const { text, rows, empty } = correctedCsv(this.set, this.done, this.savedRows === "all");
    if (!rows) {
      this.saved.textContent = "Nothing to save yet: no row was accepted.";
      return;
    }
    const name = `${this.set.name.replace(/[^\p{L}\p{N}._-]+/gu, "-")}-corrected.csv`;
    download(name, text);
    this.done.markSaved();
    this.showSaving();
    const without = empty ? ` ${counted(empty, "row")} without an answer ${empty === 1 ? "is" : "are"} not in it.` : "";
    this.saved.textContent = `Saved ${counted(rows, "row")} as ${name}.${without}`;
  }

  forget() {
    if (!confirm("Forget all corrections of this set? They can't be brought back.")) return;
    this.done.forget();
    this.go(0);
  }

  key(event) {
    if (event.isComposing || event.keyCode === 229) return;
    const action = this.actionOf(event);
    if (!action) return;
    event.preventDefault();
    event.stopPropagation();
    action();
  }

  /** What a key does; `undefined`: nothing of ours. Letters by their place on the keyboard: Alt changes what they are. */
  actionOf(event) {
    const inField = event.target === this.field;
    const onControl = event.target.closest("button, summary, input, select");
    const clip = this.set.clip(this.row);
    if (event.altKey && !event.ctrlKey && !event.metaKey) {
      if (/^(Digit|Numpad)[1-9]$/.test(event.code)) return () => this.take(Number(event.code.slice(-1)) - 1);
      return {
        KeyK: () => clip && this.player.toggle(clip), KeyJ: () => this.player.skip(-SKIP_SECONDS), KeyL: () => this.player.skip(SKIP_SECONDS),
        KeyX: () => this.leaveOut(), KeyZ: () => this.undo(), ArrowDown: () => this.go(this.at + 1), ArrowUp: () => this.go(this.at - 1),
      }[event.code];
    }
    if ((event.ctrlKey || event.metaKey) && event.code === "KeyS") return () => this.save();
    if (event.ctrlKey || event.metaKey) return undefined;
    if (event.key === "Escape") return () => (inField ? this.title.focus() : this.close());
    if (event.key === "Enter" && !event.shiftKey && (inField || !onControl)) return () => this.accept();
    if (event.key === " " && !inField && !onControl) return () => clip && this.player.toggle(clip);
    return undefined;
  }
}
