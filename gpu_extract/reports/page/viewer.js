"use strict";

/** One face large: what is known of it, its landmarks on request, and its neighbours in the list by the arrow keys. */
class Viewer {
  static LINES = [[0, 16], [17, 21], [22, 26], [27, 30], [31, 35], [36, 41, 36], [42, 47, 42], [48, 59, 48], [60, 67, 60]]; // of 68 landmarks: first, last, and where a ring closes

  /** `on` has `isSelected(row)`, `toggle(rows, is)`, `moved(position)`. */
  constructor(dialog, on) {
    Object.assign(this, { dialog, on, order: [], at: 0, hasPoints: false });
    this.title = make("h2", { id: "viewer-title" });
    this.stage = make("div", { className: "stage" });
    this.facts = make("dl", { className: "facts-list" });
    this.before = button("Previous", () => this.step(-1));
    this.after = button("Next", () => this.step(1));
    this.points = button("Landmarks", () => this.turn(), { "aria-pressed": "false", title: "L" });
    this.selected = button("Select", () => this.toggle(), { "aria-pressed": "false", title: "S" });
    this.copy = button("Copy name", () => this.copyName());
    this.file = make("a", { className: "button", textContent: "Open file", target: "_blank", rel: "noopener" });
    dialog.append(
      this.title,
      this.stage,
      this.facts,
      make("p", { className: "actions" }, this.before, this.after, this.points, this.selected, this.copy, this.file, button("Close", () => dialog.close(), { className: "main" })),
    );
    dialog.addEventListener("keydown", (event) => this.key(event));
    dialog.addEventListener("click", (event) => event.target === dialog && dialog.close());
  }

  open(order, at) {
    Object.assign(this, { order, at });
    this.dialog.showModal();
    this.show();
  }

  step(by) {
    const to = this.at + by;
    if (to < 0 || to >= this.order.length) return;
    this.at = to;
    this.on.moved(to);
    this.show();
  }

  key(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const does = {
      ArrowLeft: () => this.step(-1),
      ArrowRight: () => this.step(1),
      l: () => this.turn(),
      s: () => this.toggle(),
    }[event.key];
    if (!does) return;
    event.preventDefault();
    does();
  }

  turn() {
    this.hasPoints = !this.hasPoints;
    this.show();
  }

  toggle() {
    const row = this.order[this.at];
    if (!gallery.fileOf(row)) return;
    this.on.toggle([row], !this.on.isSelected(row));
    this.mark();
  }

  async copyName() {
    const done = await copied(gallery.fileOf(this.order[this.at]));
    tell(this.copy, done ? "Copied" : "Not copied");
    setTimeout(() => tell(this.copy, "Copy name"), 1500);
  }

  mark() {
    const row = this.order[this.at];
    this.selected.setAttribute("aria-pressed", String(this.on.isSelected(row)));
    this.selected.disabled = this.copy.disabled = !gallery.fileOf(row);
    this.before.disabled = this.at === 0;
    this.after.disabled = this.at === this.order.length - 1;
    if (document.activeElement === document.body || document.activeElement?.disabled) this.dialog.focus();
  }

  async show() {
    const row = this.order[this.at];
    tell(this.title, gallery.nameOf(row));
    const whole = gallery.wholeOf(row);
    this.file.hidden = whole === null;
    if (whole !== null) this.file.href = whole;
    this.mark();
    let about = null;
    let missing = "";
    try {
      about = await gallery.about(row);
    } catch (error) {
      missing = `What is known of it cannot be read: ${error.message}.`;
    }
    if (this.order[this.at] !== row) return;
    this.points.disabled = !about?.landmarks;
    this.points.setAttribute("aria-pressed", String(this.hasPoints && Boolean(about?.landmarks)));
    this.stage.replaceChildren(...this.pictures(row, about, missing));
    this.facts.replaceChildren(
      ...this.said(row, about).map(([name, text]) =>
        make("div", {}, make("dt", { textContent: name }), make("dd", {}, make("bdi", { textContent: visible(text) }))),
      ),
    );
    const next = this.order[this.at + 1];
    if (next !== undefined) new Image().src = gallery.wholeOf(next) ?? gallery.smallOf(next) ?? "";
  }

  pictures(row, about, missing) {
    const source = gallery.has(row, "unreadable") ? null : (gallery.wholeOf(row) ?? gallery.smallOf(row));
    const why = missing || (about?.fault ? visible(about.fault) : "");
    if (source === null) {
      const word = gallery.has(row, "gone") ? "Its file has left the folder since the run." : "There is no picture to show.";
      return [make("p", { className: "fault", textContent: why || word })];
    }
    const image = make("img", { src: source, alt: gallery.nameOf(row), decoding: "async" });
    const sorry = "The picture is not where it was: this page links to the faces in their folder.";
    image.addEventListener("error", () => image.replaceWith(make("p", { className: "fault", textContent: sorry })));
    return [image, this.hasPoints && about?.landmarks ? this.overlay(about) : null].filter(Boolean);
  }

  /** Pixel (0, 0) of the crop has its middle there: half a pixel from the corner. */
  overlay(about) {
    const [width, height] = about.size;
    const points = gallery.points(about).map(([x, y]) => [x + 0.5, y + 0.5]);
    const svg = draw("svg", { viewBox: `0 0 ${width} ${height}`, class: "overlay", "aria-hidden": "true" });
    if (points.length === 68) {
      for (const [first, last, back] of Viewer.LINES) {
        const line = points.slice(first, last + 1);
        if (back !== undefined) line.push(points[back]);
        svg.append(draw("polyline", { points: line.map((point) => point.join(",")).join(" ") }));
      }
    }
    for (const [x, y] of points) svg.append(draw("circle", { cx: x, cy: y, r: Math.max(width, height) / 160 }));
    return svg;
  }

  said(row, about) {
    const { side, yaw, sharpness } = gallery.columns;
    const known = (column) => column !== null && !Number.isNaN(column[row]);
    const degrees = (value) => (value === null || value === undefined ? "?" : `${count(value).replace("-", "−")}°`);
    const all = [
      ["File", gallery.fileOf(row)],
      ["In", about?.archive],
      ["Frame", `${gallery.frameOf(row)}${about?.position === null || about?.position === undefined ? "" : `, number ${count(about.position + 1)} of the source`}`],
      ["Size in the frame", known(side) ? `${short(side[row])} px` : ""],
      ["Picture", about?.size ? `${about.size[0]} × ${about.size[1]} px, ${count(about.bytes)} bytes` : ""],
      ["Yaw, pitch, roll", known(yaw) ? `${degrees(yaw[row])}, ${degrees(about?.pitch)}, ${degrees(about?.roll)}` : ""],
      ["Sharpness", known(sharpness) ? short(sharpness[row]) : ""],
      ["SHA-1 of the pixels", about?.sha1],
      ["Stored hash", about?.hashState],
      ["State", STATES.filter(([state]) => gallery.has(row, state)).map(([, words]) => words).join("; ")],
    ];
    return all.filter(([, text]) => text);
  }
}
