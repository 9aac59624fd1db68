// The original photo of a picture, with the faces found in it: a click on another one chooses it.
"use strict";

Review.PhotoDialog = class {
  constructor() {
    this.dialog = document.getElementById("photo");
    this.image = document.getElementById("original");
    this.faces = document.getElementById("faces");
    this.note = document.getElementById("photo-note");
    this.image.addEventListener("error", () => {
      this.note.textContent = "The copy of this photo is missing: copy the whole folder of the page.";
    });
    this.dialog.addEventListener("click", (event) => {
      if (event.target === this.dialog) this.dialog.close(); // the backdrop
      const face = event.target.closest("button[data-face]");
      if (!face) return;
      this.dialog.close();
      this.onChoice(Number(face.dataset.face));
    });
  }

  // Opens for a row that has a photo; `chosen` is the face its picture shows. `onChoice` is called with a face, or never.
  ask(row, chosen, onChoice) {
    this.onChoice = onChoice;
    const { file, boxes } = row.photo;
    this.image.src = `photos/${file}.jpg`;
    this.note.textContent = boxes.length > 1 ? "Click the face that this picture is to show." : "No other face was found in it.";
    this.faces.replaceChildren(...boxes.map((box, face) => this.#box(box, face, chosen)));
    this.dialog.showModal();
  }

  #box([left, top, width, height, isTaken], face, chosen) {
    const button = document.createElement("button");
    button.type = "button";
    button.dataset.face = String(face);
    button.disabled = isTaken;
    button.title = isTaken ? "Another picture shows this face" : `Face ${face + 1}`;
    button.setAttribute("aria-label", button.title);
    button.setAttribute("aria-pressed", String(face === chosen));
    const share = (value) => `${value * 100}%`;
    Object.assign(button.style, { left: share(left), top: share(top), width: share(width), height: share(height) });
    return button;
  }
};
