// What the reviewer decided: set, undone, remembered over a reload, saved and loaded. Knows no element of the page.
"use strict";

const Review = {};

Review.KINDS = ["keep", "drop", "move"];

// Rows come as arrays, in the order in which review_page.py writes them.
Review.parseRow = (fields, index) => {
  const [picture, identity, decision, to, reason, score, doubt, step, tile, own, target, near, risk] = fields;
  const [twin, photo] = fields.slice(13).map((part) => part ?? null);
  const [twinPicture, twinTile, size, twinSize] = twin ?? [];
  const [file, face, boxes] = photo ?? [];
  return {
    index, picture, identity, decision, to, reason, score, doubt, step, tile, own, target, near, risk: risk ?? null,
    twin: twin && { picture: twinPicture, tile: twinTile, size: twinSize, ownSize: size },
    photo: photo && { file, face, boxes },
  };
};

Review.Model = class {
  constructor(data, storage) {
    this.rows = data.rows.map(Review.parseRow);
    this.numDoubtful = data.num_doubtful ?? this.rows.length; // after these: dropped without doubt
    this.risk = data.risk ?? null; // the errors to be expected among all decisions
    this.key = `arcshard-review-${data.key}`;
    this.storage = storage;
    // Row index -> {decision, to, new: true for an identity that is to be made, face: another one of the photo}, without
    // what does not apply: only what the reviewer set.
    this.choices = new Map();
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
    const { decision, to, face } = this.current(index);
    return decision !== this.rows[index].decision || to !== this.rows[index].to || face !== undefined;
  }

  isDoubtful(index) {
    return index < this.numDoubtful;
  }

  counts() {
    let [changed, reviewed, judged] = [0, 0, 0];
    for (const index of this.choices.keys()) {
      changed += this.isChanged(index);
      reviewed += this.isDoubtful(index);
      judged += this.rows[index].risk ?? 0;
    }
    const expected = this.risk === null ? null : Math.max(0, this.risk - judged);
    const total = this.numDoubtful;
    return { total, reviewed, changed, carried: this.carried.size, set: this.choices.size, expected };
  }

  decide(index, decision, to = null, isNew = false) {
    const face = decision === "drop" ? undefined : this.choices.get(index)?.face;
    this.#step([[index, Review.choice(decision, to, isNew, face)]]);
  }

  // Lets a picture show another face of its photo. One that was to be dropped stays then; a suggested move was about
  // the face before.
  chooseFace(index, face) {
    const before = this.choices.get(index);
    const { decision, to, new: isNew } = before && before.decision !== "drop" ? before : { decision: "keep", to: null };
    const other = face === this.rows[index].photo.face ? undefined : face;
    this.#step([[index, Review.choice(decision, to, isNew, other)]]);
  }

  // Keeps a near-duplicate in place of the picture that was to stay.
  swap(index) {
    const { twin } = this.rows[index];
    const there = this.rows.find((row) => row.picture === twin.picture);
    const rows = [[index, Review.choice("keep", null)]];
    const carried = new Map(this.carried);
    if (there) rows.push([there.index, Review.choice("drop", null)]);
    else carried.set(twin.picture, Review.choice("drop", null));
    this.#step(rows, carried);
  }

  // The identities that are made by decisions so far.
  get made() {
    const all = [...this.choices.values(), ...this.carried.values()];
    return new Set(all.filter((choice) => choice.new).map((choice) => choice.to));
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
      this.#assign(stored.rows.map(([index, ...parts]) => [index, Review.choice(...parts)]));
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
    const rows = [...this.choices].map(([index, choice]) => [index, choice.decision, choice.to, choice.new, choice.face]);
    try {
      this.storage.setItem(this.key, JSON.stringify({ rows, carried: [...this.carried], unsaved: this.unsaved }));
      this.remembers = true;
    } catch {
      this.remembers = false; // storage is blocked or full: the page says so
    }
  }
};

// A choice as it is kept and saved, without what does not apply.
Review.choice = (decision, to, isNew, face) => ({
  decision,
  to,
  ...(isNew ? { new: true } : {}),
  ...(Number.isInteger(face) ? { face } : {}),
});

// Why a name cannot be that of a new identity, in the words of clean_faces.py; null when it can.
Review.nameProblem = (name) => {
  if (!name || name !== name.trim() || name.startsWith(".")) return "is empty or begins with a dot";
  if (/[\/\p{Cc}\p{Cs}]/u.test(name)) return "has a slash or a control character";
  return new TextEncoder().encode(name).length > 240 ? "is too long" : null;
};

// Returns picture -> choice of a decisions.json, or throws an Error that says what is wrong with it.
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
    const { decision, to = null, new: isNew = false, face } = choice ?? {};
    const moves = decision === "move";
    const fits = (moves ? typeof to === "string" : to === null) && (moves ? typeof isNew === "boolean" : isNew === false) &&
      (!isNew || Review.nameProblem(to) === null) &&
      (face === undefined || face === null || (Number.isInteger(face) && face >= 0 && decision !== "drop"));
    if (!Review.KINDS.includes(decision) || !fits) {
      throw new Error(`the decision about ${Review.visible(picture)} is not one of keep, drop, move with an identity`);
    }
    read.set(picture, Review.choice(decision, to, isNew, face));
  }
  return read;
};

// A name with its control characters and the marks that turn the direction of text spelled out.
Review.visible = (text) =>
  text.replace(/[\p{Cc}\p{Cs}\u2028\u2029\u200b-\u200f\u202a-\u202e\u2060-\u2069\ufeff]/gu, (mark) =>
    `\\u${mark.codePointAt(0).toString(16).padStart(4, "0")}`);

// Text as it is compared: without case and accents.
Review.folded = (text) => text.normalize("NFKD").replace(/\p{M}/gu, "").toLowerCase();
