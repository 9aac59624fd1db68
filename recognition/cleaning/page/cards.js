// The list of cards: only those near the window exist, and they are filled anew as it scrolls.
"use strict";

// Fills one card with what is known and decided about a row.
Review.Card = class {
  constructor(template, thumbs) {
    this.root = template.content.firstElementChild.cloneNode(true);
    this.thumbs = thumbs;
    const part = (selector) => this.root.querySelector(selector);
    this.candidate = part(".candidate");
    this.own = Review.groupParts(part(".own"));
    this.target = Review.groupParts(part(".target"));
    this.parts = {
      doubt: part(".doubt .value"), gauge: part(".gauge span"), score: part(".score b"), reason: part(".reason"),
      picture: part(".picture"), verdict: part(".verdict"), ownSize: part(".own-size"),
    };
    this.buttons = [...this.root.querySelectorAll("button")];
    this.index = -1; // of the row it shows
    this.position = -1; // of that row among the items
  }

  fill(row, model, faces) {
    this.index = row.index;
    const { parts } = this;
    parts.ownSize.textContent = row.twin ? row.twin.ownSize : "";
    for (const button of this.buttons) {
      if (button.dataset.do === "swap") button.hidden = !row.twin;
      if (button.dataset.do === "photo") button.hidden = !row.photo;
    }
    parts.doubt.textContent = row.doubt.toFixed(2);
    parts.gauge.style.width = `${row.doubt * 100}%`;
    parts.score.textContent = row.score === null ? "–" : row.score.toFixed(3);
    parts.reason.textContent = Review.visible(row.reason.replaceAll("_", " "));
    parts.reason.title = `step: ${Review.visible(row.step)}`;
    parts.picture.textContent = parts.picture.title = Review.visible(row.picture);
    this.update(row, model, faces);
  }

  // Shows the decision that holds.
  update(row, model, faces) {
    const { decision, to, new: isNew, face } = model.current(row.index);
    const [reviewed, changed] = [model.isReviewed(row.index), model.isChanged(row.index)];
    Object.assign(this.root.dataset, { decision, reviewed, changed, groups: to !== null || row.twin ? "two" : "one" });
    if (face === undefined) this.thumbs.show(this.candidate, row.tile);
    else this.thumbs.showPart(this.candidate, row.photo?.file, row.photo?.boxes[face] ?? [0, 0, 1, 1]);
    this.#group(this.own, to === null ? "center of" : "now in", row.identity, row.own);
    this.target.root.hidden = to === null && !row.twin;
    if (to !== null) {
      this.#group(this.target, isNew ? "new person" : "move to", to, to === row.to ? row.target : faces.get(to) ?? []);
    } else if (row.twin) {
      this.#group(this.target, `its twin, ${row.twin.size}:`, row.twin.picture, [row.twin.tile]);
    }
    for (const button of this.buttons) {
      button.setAttribute("aria-pressed", String(button.dataset.do === decision));
    }
    const suggested = row.to === null ? row.decision : `move to ${Review.visible(row.to)}`;
    const shows = face === undefined ? "" : `, face ${face + 1} of the photo`;
    this.parts.verdict.textContent = changed ? `changed, was ${suggested}${shows}` : reviewed ? "confirmed" : "suggested";
    this.parts.verdict.title = this.parts.verdict.textContent;
  }

  #group(group, role, name, tiles) {
    group.role.textContent = tiles.length || role === "new person" ? role : `${role} (no faces here)`;
    group.name.textContent = group.name.title = Review.visible(name);
    this.thumbs.showAll(group.thumbs, tiles);
  }
};

Review.groupParts = (root) => ({
  root,
  thumbs: [...root.querySelectorAll(".thumb")],
  role: root.querySelector("small"),
  name: root.querySelector(".name"),
});

// Places cards in columns inside a scrolling element. `items` are row indexes in the order shown.
Review.List = class {
  constructor(scroller, holder, { makeCard, fillCard, onCurrent }) {
    Object.assign(this, { scroller, holder, makeCard, fillCard, onCurrent });
    this.items = [];
    this.pool = [];
    this.scale = 1;
    this.position = 0; // of the current card among the items
    this.probe = makeCard().root; // measured, never seen
    this.probe.classList.add("probe");
    holder.append(this.probe);
    this.scheduled = false;
    this.scroller.addEventListener("scroll", () => this.#schedule(), { passive: true });
    new ResizeObserver(() => this.layout()).observe(this.scroller);
  }

  show(items, position = 0) {
    this.items = items;
    for (const card of this.pool) card.index = -1;
    this.layout();
    this.select(Math.min(position, items.length - 1));
  }

  // The row index of the current card, or undefined when nothing is shown.
  get current() {
    return this.items[this.position];
  }

  // Makes an item the current one and scrolls just as far as it takes to see it whole.
  select(position) {
    if (!this.items.length) return this.onCurrent();
    this.position = Math.max(0, Math.min(position, this.items.length - 1));
    const top = Math.floor(this.position / this.columns) * this.height;
    const view = this.scroller.clientHeight;
    const room = view >= this.height ? this.gap : 0;
    if (top < this.scroller.scrollTop) this.scroller.scrollTop = top;
    else if (top + this.height + room > this.scroller.scrollTop + view) {
      this.scroller.scrollTop = top + this.height + room - view;
    }
    this.draw();
    this.onCurrent();
  }

  // Whether at least half of the current card is in the window.
  get seesCurrent() {
    const middle = (Math.floor(this.position / this.columns) + 0.5) * this.height - this.scroller.scrollTop;
    return middle >= 0 && middle <= this.scroller.clientHeight;
  }

  // Makes the first card that begins in the window the current one.
  selectSeen() {
    this.select(Math.ceil(this.scroller.scrollTop / this.height) * this.columns);
  }

  // Measures a card as the style sheet makes it, and keeps the topmost item where it was.
  layout() {
    const before = this.columns ? Math.floor(this.scroller.scrollTop / this.height) * this.columns : 0;
    const style = getComputedStyle(this.scroller);
    this.gap = parseFloat(style.getPropertyValue("--gap"));
    const width = this.scroller.clientWidth - this.gap;
    const least = parseFloat(style.getPropertyValue("--card")) * this.scale + this.gap;
    this.columns = Math.max(1, Math.floor(width / least));
    this.width = width / this.columns;
    this.probe.style.width = `${this.width - this.gap}px`;
    this.height = this.probe.offsetHeight + this.gap;
    this.holder.style.height = `${Math.ceil(this.items.length / this.columns) * this.height + this.gap}px`;
    if (before) this.scroller.scrollTop = Math.floor(before / this.columns) * this.height;
    this.draw();
  }

  // Fills the cards within a window's height of the window; item p always lies on card p modulo their number.
  draw() {
    this.scheduled = false;
    const view = this.scroller.clientHeight;
    const first = Math.max(0, Math.floor((this.scroller.scrollTop - view) / this.height)) * this.columns;
    const number = (Math.ceil((3 * view) / this.height) + 1) * this.columns;
    const end = Math.min(first + number, this.items.length);
    for (let position = first; position < end; position++) this.#place(this.#card(position % number), position);
    this.pool.forEach((card, place) => {
      card.root.hidden = place >= number || card.position < first || card.position >= end;
    });
  }

  // Fills again the card of a row whose decision changed, where it is shown.
  refresh() {
    for (const card of this.pool) card.index = -1;
    this.draw();
  }

  #schedule() {
    if (this.scheduled) return;
    this.scheduled = true;
    requestAnimationFrame(() => this.draw());
  }

  #place(card, position) {
    const index = this.items[position];
    if (card.index !== index) this.fillCard(card, index);
    card.position = position;
    const [x, y] = [position % this.columns, Math.floor(position / this.columns)];
    const { style } = card.root;
    style.width = `${this.width - this.gap}px`;
    style.transform = `translate(${x * this.width + this.gap}px, ${y * this.height + this.gap}px)`;
    card.root.setAttribute("aria-posinset", String(position + 1));
    card.root.setAttribute("aria-setsize", String(this.items.length));
    card.root.setAttribute("aria-current", String(position === this.position));
  }

  #card(place) {
    while (this.pool.length <= place) {
      const card = this.makeCard();
      this.pool.push(card);
      this.holder.append(card.root);
    }
    return this.pool[place];
  }
};
