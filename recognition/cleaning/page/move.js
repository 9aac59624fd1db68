// The question to which identity a picture moves, with completion from those that exist.
"use strict";

Review.MoveDialog = class {
  constructor({ thumbs, faces }) {
    this.thumbs = thumbs;
    this.faces = faces;
    this.dialog = document.getElementById("move");
    this.input = document.getElementById("target");
    this.list = document.getElementById("choices");
    this.recent = []; // where the last pictures were moved
    this.names = null; // every identity: [name, as it is compared]; loaded when first asked
    this.isLoaded = false; // before, nobody knows whether a name is new
    this.input.addEventListener("input", () => this.#offer());
    this.input.addEventListener("keydown", (event) => this.#key(event));
    this.list.addEventListener("click", (event) => {
      const choice = event.target.closest("li");
      if (choice) this.#choose(Number(choice.dataset.number));
    });
    this.dialog.addEventListener("click", (event) => {
      if (event.target === this.dialog) this.dialog.close(); // the backdrop
    });
  }

  // Opens for a row; `made` are the new people so far. `onChoice` is called with a name and whether it is new, or never.
  ask(row, made, onChoice) {
    Object.assign(this, { row, made, onChoice });
    this.thumbs.show(document.getElementById("moving"), row.tile);
    this.input.value = "";
    this.#load();
    this.#offer();
    this.dialog.showModal();
    this.input.focus();
  }

  #load() {
    if (this.names) return;
    this.names = [];
    const script = document.createElement("script"); // a page opened as a file cannot fetch
    script.src = "identities.js";
    script.onload = () => {
      this.isLoaded = true;
      this.names = window.REVIEW_IDENTITIES.map((name) => [name, Review.folded(name)]);
      if (this.dialog.open) this.#offer();
    };
    document.head.append(script);
  }

  // Lists the names that begin with what was typed, then those that hold it; before any typing, the likely ones.
  #offer() {
    const written = this.input.value.trim();
    const typed = Review.folded(written);
    const found = typed ? this.#matching(typed) : this.#likely();
    this.options = found.slice(0, Review.MAX_CHOICES);
    const more = found.length - this.options.length;
    const isNew = !this.made.has(written) && !this.names.some(([name]) => name === written);
    const offersNew = this.isLoaded && written !== "" && isNew && Review.nameProblem(written) === null;
    if (offersNew) this.options.push(written);
    this.list.replaceChildren(...this.options.map((name, number) => this.#option(name, number)));
    document.getElementById("matches").textContent =
      typed && !found.length ? "No identity has this in its name" : more > 0 ? `and ${more.toLocaleString("en")} more` : "";
    // A new person is never made by a slip of the keys: it has to be gone to, or clicked.
    this.#mark(offersNew && this.options.length === 1 ? -1 : 0);
  }

  // Whether no identity of the set has the name: to move there makes a new person.
  #isNew(name) {
    return !this.names.some(([known]) => known === name) && name !== this.row.to && !this.row.near.includes(name);
  }

  #likely() {
    const likely = new Set([this.row.to, ...this.row.near, ...this.recent, ...this.made]);
    return [...likely].filter((name) => name !== null && name !== this.row.identity);
  }

  #matching(typed) {
    const [exact, first, later] = [[], [], []];
    const made = [...this.made].map((name) => [name, Review.folded(name)]);
    for (const [name, folded] of [...this.names, ...made]) {
      const at = name === this.row.identity ? -1 : folded.indexOf(typed);
      if (at >= 0) (at > 0 ? later : folded.length === typed.length ? exact : first).push(name);
    }
    return [...exact, ...first, ...later];
  }

  #option(name, number) {
    const option = document.createElement("li");
    option.setAttribute("role", "option");
    option.id = `choice-${number}`;
    option.dataset.number = String(number);
    const label = document.createElement("bdi");
    label.textContent = label.title = Review.visible(name);
    option.append(label);
    const notes = [name === this.row.to && "suggested", this.#isNew(name) && "new person"].filter(Boolean);
    if (notes.length) {
      const note = document.createElement("small");
      note.textContent = notes.join(", ");
      option.append(note);
    }
    const tiles = this.faces.get(name) ?? [];
    for (const tile of tiles) {
      const thumb = document.createElement("span");
      thumb.className = "thumb";
      this.thumbs.show(thumb, tile);
      option.append(thumb);
    }
    return option;
  }

  #mark(number) {
    this.marked = Math.max(-1, Math.min(number, this.options.length - 1));
    [...this.list.children].forEach((option, place) => {
      option.setAttribute("aria-selected", String(place === this.marked));
      if (place === this.marked) option.scrollIntoView({ block: "nearest" });
    });
    this.input.setAttribute("aria-activedescendant", this.marked >= 0 && this.options.length ? `choice-${this.marked}` : "");
  }

  #key(event) {
    const moves = { ArrowDown: 1, ArrowUp: -1 };
    if (event.key in moves) this.#mark(Math.max(0, this.marked + moves[event.key]));
    else if (event.key === "Enter") this.#choose(this.marked);
    else return;
    event.preventDefault();
  }

  #choose(number) {
    const name = this.options[number];
    if (name === undefined) return;
    const isNew = this.#isNew(name);
    this.recent = [name, ...this.recent.filter((other) => other !== name)].slice(0, 4);
    this.dialog.close();
    this.onChoice(name, isNew);
  }
};

Review.MAX_CHOICES = 12;
