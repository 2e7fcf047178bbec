"use strict";
/*
 * What was corrected. It is kept in the browser, so that a closed page loses nothing, and belongs to the rows, whichever run
 * answered them and in whatever order they stand.
 */

class Edits {
  /** The name under which the corrections of a set's rows are kept. */
  static nameFor(set) {
    return `correction ${set.name} ${fingerprint([...set.identities].sort().join("\n"))}`;
  }

  constructor(set) {
    this.set = set;
    this.name = Edits.nameFor(set);
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
    const identity = this.set.identities[row];
    this.history.push({ identity, before: this.byIdentity.get(identity) });
    this.put(identity, { text, leftOut, saved: false });
  }

  /** Take back what was done last. @returns {?number} The row, or `null` where nothing was done yet. */
  undo() {
    const last = this.history.pop();
    if (!last) return null;
    this.put(last.identity, last.before);
    return this.set.identities.indexOf(last.identity);
  }

  put(identity, edit) {
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
