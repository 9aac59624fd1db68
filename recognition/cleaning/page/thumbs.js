// Tiles of the sheets as backgrounds: the browser decodes a sheet beside the page, once, and only when it is shown.
"use strict";

Review.Thumbs = class {
  constructor(data) {
    this.columns = data.sheet_columns;
    this.tiles = data.sheet_tiles;
  }

  // Shows a tile in an element, or nothing there.
  show(element, tile) {
    if (element.dataset.tile === String(tile)) return;
    element.dataset.tile = String(tile);
    element.hidden = tile === undefined;
    if (tile === undefined) return;
    const place = tile % this.tiles;
    const last = this.columns - 1;
    const [x, y] = [place % this.columns, Math.floor(place / this.columns)];
    element.style.backgroundImage = `url("sheets/${Math.floor(tile / this.tiles)}.jpg")`;
    element.style.backgroundSize = `${this.columns * 100}%`;
    element.style.backgroundPosition = `${(x / last) * 100}% ${(y / last) * 100}%`;
  }

  // Shows a part of a photo's copy; `box` is left, top, width, height as shares of its sides.
  showPart(element, file, [left, top, width, height]) {
    element.dataset.tile = `${file}/${left}/${top}`;
    element.hidden = false;
    const at = (start, length) => (length < 1 ? `${(start / (1 - length)) * 100}%` : "0%");
    element.style.backgroundImage = `url("photos/${file}.jpg")`;
    element.style.backgroundSize = `${100 / width}% ${100 / height}%`;
    element.style.backgroundPosition = `${at(left, width)} ${at(top, height)}`;
  }

  showAll(elements, tiles) {
    elements.forEach((element, number) => this.show(element, tiles[number]));
  }
};

// identity -> the tiles of its center, for every identity of which the page has some.
Review.facesOf = (rows) => {
  const faces = new Map();
  for (const row of rows) {
    if (row.own.length > (faces.get(row.identity)?.length ?? 0)) faces.set(row.identity, row.own);
    if (row.target.length > (faces.get(row.to)?.length ?? 0)) faces.set(row.to, row.target);
  }
  return faces;
};
