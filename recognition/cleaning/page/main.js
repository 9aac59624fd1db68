// Joins the model, the list and the keys.
"use strict";

(() => {
  const byId = (id) => document.getElementById(id);
  const data = window.REVIEW_DATA;
  if (!data) {
    byId("message").textContent = "data.js is missing: copy the whole folder of the page, not index.html alone.";
    return;
  }
  const model = new Review.Model(data, safeStorage());
  const thumbs = new Review.Thumbs(data);
  const faces = Review.facesOf(model.rows);
  const moveDialog = new Review.MoveDialog({ thumbs, faces });
  const photoDialog = new Review.PhotoDialog();
  const list = new Review.List(byId("list"), byId("cards"), {
    makeCard: () => new Review.Card(byId("card"), thumbs),
    fillCard: (card, index) => card.fill(model.rows[index], model, faces),
    onCurrent: showPosition,
  });
  const filters = ["search", "kind", "reason", "state", "order"];
  const searched = model.rows.map((row) => Review.folded(`${row.picture}\n${row.identity}\n${row.to ?? ""}`));

  function safeStorage() {
    try {
      return window.localStorage; // the access itself throws where it is blocked
    } catch {
      return null;
    }
  }

  function say(text) {
    byId("message").textContent = text;
    clearTimeout(say.timer);
    say.timer = setTimeout(() => (byId("message").textContent = ""), 6000);
  }

  const number = (value) => value.toLocaleString("en");
  const errors = (value) => (value < 9.95 ? `${value.toFixed(1)} errors` : `${number(Math.round(value))} errors`);

  function showCounts() {
    const { total, reviewed, changed, carried, expected } = model.counts();
    byId("meter").value = total ? reviewed / total : 1;
    byId("expected").hidden = expected === null;
    byId("expected").textContent = expected === null ? "" : `about ${errors(expected)} expected in the rest`;
    byId("count").textContent =
      `${number(reviewed)} of ${number(total)} reviewed, ${number(changed)} changed` +
      (carried ? `, ${number(carried)} from the file` : "");
    byId("undo").disabled = !model.history.length;
    byId("save").toggleAttribute("data-unsaved", model.unsaved);
    if (!model.remembers) say("This browser remembers nothing for this page: save before you leave it.");
  }

  function showPosition() {
    const shown = list.items.length;
    byId("nothing").hidden = shown > 0;
    byId("position").textContent = shown ? `${number(list.position + 1)} / ${number(shown)}` : "";
  }

  const states = {
    open: (index) => !model.isReviewed(index) && model.isDoubtful(index),
    reviewed: (index) => model.isReviewed(index),
    changed: (index) => model.isChanged(index),
    undoubted: (index) => !model.isDoubtful(index),
  };

  function applyFilters() {
    const [search, kind, reason, state, order] = filters.map((id) => byId(id).value);
    const typed = Review.folded(search.trim());
    const fits = (row) =>
      (!typed || searched[row.index].includes(typed)) &&
      (!kind || model.current(row.index).decision === kind) &&
      (!reason || row.reason === reason) &&
      (!state || states[state](row.index));
    const rows = model.rows.filter(fits);
    if (order === "identity") rows.sort((a, b) => (a.identity < b.identity ? -1 : a.identity > b.identity ? 1 : a.index - b.index));
    byId("list").scrollTop = 0;
    list.show(rows.map((row) => row.index));
  }

  function changed() {
    list.refresh();
    showCounts();
  }

  // Where the keyboard decides, the next picture follows; under the mouse nothing moves.
  function decide(index, decision, { advance }) {
    const done = (to, isNew) => {
      model.decide(index, decision, to, isNew);
      changed();
      if (advance) list.select(list.position + 1);
    };
    if (decision === "move") moveDialog.ask(model.rows[index], model.made, done);
    else done(null);
  }

  // What is not one of the three decisions: another face of the photo, or the twin dropped instead.
  const further = {
    photo: (index) => {
      const row = model.rows[index];
      if (!row.photo) return say("The original photo of this picture is not on this page.");
      photoDialog.ask(row, model.current(index).face ?? row.photo.face, (face) => {
        model.chooseFace(index, face);
        changed();
      });
    },
    swap: (index) => {
      if (!model.rows[index].twin) return say("This picture has no twin.");
      model.swap(index);
      changed();
      say(`Kept, and its twin ${Review.visible(model.rows[index].twin.picture)} dropped.`);
    },
  };

  function undo() {
    if (!model.history.length) return say("Nothing to undo.");
    const index = model.undo();
    changed();
    const position = list.items.indexOf(index);
    if (position >= 0) list.select(position);
    else if (index !== null) say(`Undone: ${Review.visible(model.rows[index].picture)}, which the filter hides.`);
  }

  function save() {
    const { set, carried } = model.counts();
    if (!set && !carried) return say("Nothing to save yet: no picture is reviewed.");
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([model.toFile()], { type: "application/json" }));
    link.download = "decisions.json";
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
    model.saved();
    showCounts();
    say(`Saved ${number(set + carried)} decisions; clean_faces.py applies them with --review decisions.json.`);
  }

  async function load(file) {
    try {
      const { here, elsewhere } = model.fromFile(await file.text());
      changed();
      say(`Loaded ${number(here)} decisions` +
        (elsewhere ? ` and ${number(elsewhere)} about pictures that are not on this page; saving keeps them.` : "."));
    } catch (error) {
      say(`Not loaded: ${error.message}.`);
    }
  }

  function resize(factor) {
    const scale = list.scale * factor;
    if (scale < 0.6 || scale > 2.5) return;
    list.scale = scale;
    document.documentElement.style.setProperty("--scale", String(scale));
    list.layout();
    list.select(list.position);
  }

  const page = () => Math.max(1, Math.floor(byId("list").clientHeight / list.height)) * list.columns;
  const clear = () => {
    model.clear(list.current);
    changed();
  };
  // What acts on the current card. One that was scrolled away is not decided about unseen: the keys come to the window.
  const cardKeys = {
    ArrowLeft: () => list.select(list.position - 1),
    ArrowRight: () => list.select(list.position + 1),
    ArrowUp: () => list.position >= list.columns && list.select(list.position - list.columns),
    ArrowDown: () => list.select(list.position + list.columns),
    PageUp: () => list.select(list.position - page()),
    PageDown: () => list.select(list.position + page()),
    k: () => decide(list.current, "keep", { advance: true }),
    d: () => decide(list.current, "drop", { advance: true }),
    m: () => decide(list.current, "move", { advance: true }),
    c: clear,
    o: () => further.photo(list.current),
    w: () => further.swap(list.current),
  };
  const pageKeys = {
    Home: () => list.select(0),
    End: () => list.select(list.items.length - 1),
    u: undo,
    s: save,
    "/": () => byId("search").focus(),
    "?": () => byId("keys").showModal(),
    "+": () => resize(1.15),
    "=": () => resize(1.15),
    "-": () => resize(1 / 1.15),
  };

  function press(key) {
    const act = cardKeys[key];
    if (!act) return pageKeys[key]?.();
    if (list.current === undefined) return;
    if (list.seesCurrent) act();
    else list.selectSeen();
  }

  document.addEventListener("keydown", (event) => {
    const typing = event.target.matches("input, select") || document.querySelector("dialog[open]");
    if (event.target === byId("search") && ["Escape", "Enter"].includes(event.key)) {
      if (event.key === "Escape") byId("search").value = "";
      applyFilters();
      byId("list").focus();
      return;
    }
    if (typing || event.ctrlKey || event.metaKey || event.altKey) return;
    const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
    if (!(key in cardKeys || key in pageKeys)) return;
    event.preventDefault();
    press(key);
  });

  // A card is filled anew as the list scrolls: its buttons must never hold the focus, and with it the space bar.
  byId("cards").addEventListener("mousedown", (event) => event.preventDefault());
  byId("cards").addEventListener("click", (event) => {
    const card = list.pool.find((candidate) => candidate.root.contains(event.target));
    if (!card) return;
    list.select(card.position);
    const button = event.target.closest("button");
    if (button && button.dataset.do in further) further[button.dataset.do](card.index);
    else if (button) decide(card.index, button.dataset.do, { advance: false });
    if (!document.querySelector("dialog[open]")) byId("list").focus({ preventScroll: true });
  });

  for (const id of filters) byId(id).addEventListener("input", applyFilters);
  for (const [id, act] of Object.entries({
    undo, save,
    load: () => byId("file").click(),
    help: () => byId("keys").showModal(),
    smaller: pageKeys["-"],
    larger: pageKeys["+"],
  })) {
    byId(id).addEventListener("click", act);
  }
  byId("file").addEventListener("change", (event) => {
    const [file] = event.target.files;
    if (file) load(file);
    event.target.value = ""; // so that the same file can be loaded again
  });

  for (const reason of [...new Set(model.rows.map((row) => row.reason))].sort()) {
    const option = new Option(Review.visible(reason.replaceAll("_", " ")), reason);
    byId("reason").append(option);
  }
  byId("dropped").hidden = !data.num_dropped;
  byId("dropped").textContent =
    `${number(data.num_dropped ?? 0)} more dropped without doubt, ${number(model.rows.length - model.numDoubtful)} of them here`;
  byId("title").textContent = Review.visible(data.title);
  document.title = `Review ${Review.visible(data.title)}`;
  model.recall();
  applyFilters();
  showCounts();
  byId("list").focus();
})();
