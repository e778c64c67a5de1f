"use strict";

/**
 * The faces that are listed, of which only those near the window are elements; the page scrolls as if all were.
 *
 * The grid itself has the focus, and says which of its tiles is meant: a tile that is scrolled away takes none with it.
 */
class Grid {
  static GAP = 8;
  static TILE = 96; // at least
  static CAPTION = 18;
  static SPARE = 2; // rows above and below the window
  static QUIET_MS = 90; // after which pictures are asked for, where the page scrolls faster than they come
  static TALLEST = 12_000_000; // browsers know no taller elements

  /** `on` has `open(row)`, `toggle(rows, is)`, `all()`, `isSelected(row)`, `caption(row)`. */
  constructor(element, on) {
    Object.assign(this, { element, on, order: new Uint32Array(0), tiles: new Map(), spare: [], at: 0, anchor: 0, last: 0 });
    element.addEventListener("keydown", (event) => this.key(event));
    element.addEventListener("click", (event) => this.click(event));
    element.addEventListener("error", (event) => event.target.closest?.(".tile")?.classList.add("gone"), true);
    addEventListener("scroll", () => this.soon(), { passive: true });
    new ResizeObserver(() => this.measure()).observe(element);
  }

  /** Rows of the gallery, in their order. */
  list(order) {
    this.order = order;
    this.at = this.anchor = 0;
    for (const position of [...this.tiles.keys()]) this.drop(position);
    this.measure();
  }

  measure() {
    const width = this.element.clientWidth;
    if (!width) return;
    const columns = Math.max(2, Math.floor((width + Grid.GAP) / (Grid.TILE + Grid.GAP)));
    const side = Math.floor((width - Grid.GAP * (columns - 1)) / columns);
    if (columns !== this.columns || side !== this.side) {
      Object.assign(this, { columns, side });
      this.element.style.setProperty("--side", `${side}px`);
      for (const [position, tile] of this.tiles) this.put(tile, position);
    }
    this.step = side + Grid.CAPTION + Grid.GAP;
    this.most = Math.floor(Grid.TALLEST / this.step) * columns;
    this.shown = Math.min(this.order.length, this.most);
    this.element.style.height = `${Math.ceil(this.shown / columns) * this.step}px`;
    this.render();
  }

  soon() {
    this.due ??= requestAnimationFrame(() => {
      this.due = null;
      this.render();
    });
  }

  render() {
    if (!this.columns) return;
    const top = -this.element.getBoundingClientRect().top;
    const first = Math.max(0, Math.floor(top / this.step) - Grid.SPARE) * this.columns;
    const end = Math.min(this.shown, (Math.ceil((top + innerHeight) / this.step) + Grid.SPARE) * this.columns);
    const isFast = Math.abs(top - this.last) > innerHeight / 2;
    this.last = top;
    for (const position of [...this.tiles.keys()]) if (position < first || position >= end) this.drop(position);
    for (let position = first; position < end; position += 1) {
      if (!this.tiles.has(position)) this.add(position);
    }
    clearTimeout(this.quiet);
    if (isFast) this.quiet = setTimeout(() => this.picture(), Grid.QUIET_MS);
    else this.picture();
    this.mark();
  }

  add(position) {
    const tile = this.spare.pop() ?? this.tile();
    const row = this.order[position];
    tile.id = `tile-${position}`;
    tile.row = row;
    tile.position = position;
    tile.classList.remove("gone");
    tile.setAttribute("aria-posinset", position + 1);
    tile.setAttribute("aria-setsize", this.order.length);
    const [name, caption] = this.on.caption(row);
    tile.setAttribute("aria-label", name);
    tile.lastChild.dataset.caption = caption;
    tile.small = gallery.smallOf(row);
    tile.classList.toggle("none", tile.small === null);
    this.put(tile, position);
    this.tiles.set(position, tile);
    this.element.append(tile);
    this.state(tile);
  }

  tile() {
    return make(
      "div",
      { role: "option", className: "tile" },
      make("span", { className: "face" }, make("img", { alt: "", decoding: "async", draggable: false })),
      make("span", { className: "tick" }),
      make("span", { className: "caption" }),
    );
  }

  put(tile, position) {
    const x = (position % this.columns) * (this.side + Grid.GAP);
    const y = Math.floor(position / this.columns) * (this.side + Grid.CAPTION + Grid.GAP);
    tile.style.transform = `translate(${x}px, ${y}px)`;
  }

  drop(position) {
    const tile = this.tiles.get(position);
    this.tiles.delete(position);
    tile.remove();
    tile.querySelector("img").removeAttribute("src");
    this.spare.push(tile);
  }

  picture() {
    for (const tile of this.tiles.values()) {
      const image = tile.querySelector("img");
      if (tile.small !== null && image.getAttribute("src") !== tile.small) image.setAttribute("src", tile.small);
    }
  }

  state(tile) {
    tile.setAttribute("aria-selected", String(this.on.isSelected(tile.row)));
  }

  /** Show anew what is selected. */
  refresh() {
    for (const tile of this.tiles.values()) this.state(tile);
  }

  mark() {
    for (const [position, tile] of this.tiles) tile.classList.toggle("meant", position === this.at);
    if (this.tiles.has(this.at)) this.element.setAttribute("aria-activedescendant", `tile-${this.at}`);
    else this.element.removeAttribute("aria-activedescendant");
  }

  /** Mean a tile, and have it in sight. */
  go(position) {
    this.at = Math.min(this.shown - 1, Math.max(0, position));
    const top = this.element.getBoundingClientRect().top + Math.floor(this.at / this.columns) * this.step;
    const above = document.querySelector(".bar").offsetHeight + Grid.GAP;
    if (top < above) scrollBy(0, top - above);
    else if (top + this.step > innerHeight) scrollBy(0, top + this.step - innerHeight);
    this.render();
  }

  select(from, to, is) {
    const [low, high] = from < to ? [from, to] : [to, from];
    this.on.toggle(this.order.subarray(low, high + 1), is);
  }

  key(event) {
    if (!this.shown || event.altKey) return;
    const page = this.columns * Math.max(1, Math.floor(innerHeight / this.step) - 1);
    const to = {
      ArrowLeft: this.at - 1,
      ArrowRight: this.at + 1,
      ArrowUp: this.at - this.columns,
      ArrowDown: this.at + this.columns,
      PageUp: this.at - page,
      PageDown: this.at + page,
      Home: 0,
      End: this.shown - 1,
    }[event.key];
    const row = this.order[this.at];
    if (to !== undefined) {
      if (!event.shiftKey) this.anchor = Math.min(this.shown - 1, Math.max(0, to));
      this.go(to);
      if (event.shiftKey) this.select(this.anchor, this.at, true);
    } else if (event.key === "Enter") {
      this.on.open(this.at);
    } else if (event.key === " ") {
      this.anchor = this.at;
      this.on.toggle([row], !this.on.isSelected(row));
    } else if (event.key === "a" && (event.ctrlKey || event.metaKey)) {
      this.on.all();
    } else {
      return;
    }
    event.preventDefault();
  }

  click(event) {
    const tile = event.target.closest(".tile");
    if (!tile) return;
    this.at = tile.position;
    if (event.shiftKey) {
      this.select(this.anchor, this.at, true);
    } else if (event.ctrlKey || event.metaKey || event.target.classList.contains("tick")) {
      this.anchor = this.at;
      this.on.toggle([tile.row], !this.on.isSelected(tile.row));
    } else {
      this.anchor = this.at;
      this.on.open(this.at);
    }
    this.mark();
  }
}
