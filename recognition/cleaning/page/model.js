// What the reviewer decided: set, undone, remembered over a reload, saved and loaded. Knows no element of the page.
"use strict";

const Review = {};

Review.KINDS = ["keep", "drop", "move"];

// Rows come as arrays, in the order in which review_page.py writes them.
Review.parseRow = (fields, index) => {
  const [picture, identity, decision, to, reason, score, doubt, step, tile, own, target, near] = fields;
  return { index, picture, identity, decision, to, reason, score, doubt, step, tile, own, target, near };
};

Review.Model = class {
  constructor(data, storage) {
    this.rows = data.rows.map(Review.parseRow);
    this.key = `arcshard-review-${data.key}`;
    this.storage = storage;
    this.choices = new Map(); // row index -> {decision, to}: only what the reviewer set
    this.carried = new Map(); // picture -> the same, from a loaded file, about pictures that are not on this page
    this.history = []; // steps that can be undone: {rows: [[index, choice before]], carried: before}
    this.unsaved = false;
    this.remembers = true;
  }

  // The decision that holds: the reviewer's, or else the suggested one.
  current(index) {
    return this.choices.get(index) ?? { decision: this.rows[index].decision, to: this.rows[index].to };
  }

  isReviewed(index) {
    return this.choices.has(index);
  }

  isChanged(index) {
    const { decision, to } = this.current(index);
    return decision !== this.rows[index].decision || to !== this.rows[index].to;
  }

  counts() {
    let changed = 0;
    for (const index of this.choices.keys()) changed += this.isChanged(index);
    return { total: this.rows.length, reviewed: this.choices.size, changed, carried: this.carried.size };
  }

  decide(index, decision, to = null) {
    this.#step([[index, { decision, to }]]);
  }

  clear(index) {
    if (this.choices.has(index)) this.#step([[index, undefined]]);
  }

  // Takes back the last step and returns the row it was about, or null when there is none.
  undo() {
    const step = this.history.pop();
    if (!step) return null;
    this.#assign(step.rows);
    this.carried = step.carried;
    this.#remember();
    return step.rows.length ? step.rows[0][0] : null;
  }

  // The text of decisions.json, pictures in the order of the page. A null prototype: a picture may be called __proto__.
  toFile() {
    const decisions = Object.create(null);
    for (const [picture, choice] of this.carried) decisions[picture] = choice;
    for (const index of [...this.choices.keys()].sort((a, b) => a - b)) {
      decisions[this.rows[index].picture] = this.choices.get(index);
    }
    return JSON.stringify({ version: 1, decisions }, null, 1) + "\n";
  }

  // Adds the decisions of a saved file; those about pictures elsewhere are carried into the next save. Throws an Error
  // that says what is wrong with the file, and then nothing has changed.
  fromFile(text) {
    const read = Review.parseFile(text);
    const places = new Map(this.rows.map((row) => [row.picture, row.index]));
    const here = [...read].filter(([picture]) => places.has(picture));
    const carried = new Map(this.carried);
    for (const [picture, choice] of read) if (!places.has(picture)) carried.set(picture, choice);
    this.#step(here.map(([picture, choice]) => [places.get(picture), choice]), carried);
    return { here: here.length, elsewhere: read.size - here.length };
  }

  // Brings back what this browser remembers about exactly this page.
  recall() {
    try {
      const stored = JSON.parse(this.storage.getItem(this.key) ?? "null");
      if (!stored) return;
      this.#assign(stored.rows.map(([index, decision, to]) => [index, { decision, to }]));
      this.carried = new Map(stored.carried);
      this.unsaved = stored.unsaved;
    } catch {
      this.remembers = false;
    }
  }

  saved() {
    this.unsaved = false;
    this.#store();
  }

  #step(rows, carried = this.carried) {
    this.history.push({ rows: rows.map(([index]) => [index, this.choices.get(index)]), carried: this.carried });
    this.#assign(rows);
    this.carried = carried;
    this.#remember();
  }

  #assign(rows) {
    for (const [index, choice] of rows) {
      if (choice) this.choices.set(index, choice);
      else this.choices.delete(index);
    }
  }

  #remember() {
    this.unsaved = true;
    this.#store();
  }

  #store() {
    const rows = [...this.choices].map(([index, { decision, to }]) => [index, decision, to]);
    try {
      this.storage.setItem(this.key, JSON.stringify({ rows, carried: [...this.carried], unsaved: this.unsaved }));
      this.remembers = true;
    } catch {
      this.remembers = false; // storage is blocked or full: the page says so
    }
  }
};

// Returns picture -> {decision, to} of a decisions.json, or throws an Error that says what is wrong with it.
Review.parseFile = (text) => {
  let content;
  try {
    content = JSON.parse(text);
  } catch {
    throw new Error("the file is not JSON; expected a saved decisions.json");
  }
  const decisions = content?.decisions;
  if (content?.version !== 1 || typeof decisions !== "object" || decisions === null) {
    throw new Error("the file holds no decisions of version 1; expected a saved decisions.json");
  }
  const read = new Map();
  for (const [picture, choice] of Object.entries(decisions)) {
    const { decision, to = null } = choice ?? {};
    const fits = decision === "move" ? typeof to === "string" : to === null;
    if (!Review.KINDS.includes(decision) || !fits) {
      throw new Error(`the decision about ${Review.visible(picture)} is not one of keep, drop, move with an identity`);
    }
    read.set(picture, { decision, to });
  }
  return read;
};

// A name with its control characters and the marks that turn the direction of text spelled out.
Review.visible = (text) =>
  text.replace(/[\p{Cc}\p{Cs}\u2028\u2029\u200b-\u200f\u202a-\u202e\u2060-\u2069\ufeff]/gu, (mark) =>
    `\\u${mark.codePointAt(0).toString(16).padStart(4, "0")}`);

// Text as it is compared: without case and accents.
Review.folded = (text) => text.normalize("NFKD").replace(/\p{M}/gu, "").toLowerCase();
