"use strict";
/* What was corrected. It is kept in the browser, so that a closed page loses nothing. */

class Edits {
  constructor(set) {
    this.set = set;
    this.name = `correction ${set.name} ${fingerprint(set.identities.join("\n"))}`;
    const kept = storage.read(this.name);
    this.byIdentity = new Map(Object.entries(kept && typeof kept === "object" ? kept : {}).filter(([, edit]) => typeof edit?.text === "string"));
    this.history = [];
    this.isKept = true;
  }

  /** What was done with a row: `{text, leftOut, saved}`; `undefined` where nothing was. */
  of(row) {
    return this.byIdentity.get(this.set.identities[row]);
  }

  /** Note what was done with a row. */
  note(row, text, leftOut = false) {
    this.history.push({ row, before: this.of(row) });
    this.put(row, { text, leftOut, saved: false });
  }

  /** Take back what was done last. @returns {?number} The row, or `null` where nothing was done yet. */
  undo() {
    const last = this.history.pop();
    if (!last) return null;
    this.put(last.row, last.before);
    return last.row;
  }

  put(row, edit) {
    const identity = this.set.identities[row];
    if (edit) this.byIdentity.set(identity, edit);
    else this.byIdentity.delete(identity);
    this.keep();
  }

  keep() {
    this.isKept = storage.write(this.name, Object.fromEntries(this.byIdentity));
  }

  /** All of it is in a file now. */
  markSaved() {
    for (const [identity, edit] of this.byIdentity) this.byIdentity.set(identity, { ...edit, saved: true });
    this.keep();
  }

  /** Begin anew. */
  forget() {
    this.byIdentity.clear();
    this.history = [];
    storage.remove(this.name);
  }

  get unsaved() {
    return [...this.byIdentity.values()].filter(({ saved }) => !saved).length;
  }

  /** How many of some rows are done, and of those changed and left out. */
  counts(rows) {
    const found = { done: 0, changed: 0, leftOut: 0 };
    for (const row of rows) {
      const edit = this.of(row);
      if (!edit) continue;
      found.done += 1;
      if (edit.leftOut) found.leftOut += 1;
      else if (edit.text !== usualAnswer(this.set, row)) found.changed += 1;
    }
    return found;
  }
}

/** A short name for a long text (FNV-1a, 32 bits): equal texts have equal ones. */
function fingerprint(text) {
  let hash = 0x811c9dc5;
  for (let place = 0; place < text.length; place += 1) hash = Math.imul(hash ^ text.charCodeAt(place), 0x01000193);
  return (hash >>> 0).toString(16).padStart(8, "0");
}
