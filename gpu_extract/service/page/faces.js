/** The newest faces of a job, as they become whole, and one of them large. */

import { button, byId, make, tell } from "./elements.js";
import { backoff, pathOf, pause } from "./server.js";
import { bytes, count, frameOf, visible } from "./words.js";

export const MOST = 200;
const AT_ONCE = 24; // of a second: more would keep the machine from its work
const SECONDS = 1;
const PATIENCE_SECONDS = 10;
const TRIES = 5; // of a picture that does not come; after that when the server was away and is back
const INSIDE_A_TAR = /\.tar\//;

const nameOf = (face) => `${frameOf(face)}, face ${count(face.index)}`;

/**
 * A grid that grows at its beginning. It holds still while somebody points at it or has the focus in it.
 *
 * `newest` is all of the newest faces, the last at the end; `tiles` are those in the grid, by their files, of which there
 * may be fewer while many come.
 */
export class Faces {
  /** `size` is the side of its faces in pixels. */
  constructor(job, size) {
    Object.assign(this, { job, size, newest: [], tiles: new Map(), due: null, isLive: false, words: "" });
    this.grid = make("div", {
      className: "faces",
      role: "group",
      "aria-label": "The newest faces; arrow keys move between them",
      on: {
        keydown: (event) => this.move(event),
        focusin: (event) => this.point(event),
        focusout: () => this.release(),
        pointerover: (event) => this.point(event),
        pointerleave: () => this.release(),
      },
    });
    this.caption = make("p", { className: "caption" });
    this.element = make("div", { className: "faces-box" }, this.grid, this.caption);
  }

  clear() {
    this.newest = [];
    this.tiles.clear();
    this.grid.replaceChildren();
  }

  add(face) {
    this.newest.push(face);
    if (this.newest.length > 2 * MOST) this.newest = this.newest.slice(-MOST);
    this.syncSoon();
  }

  /** Whether more come; when none do, the grid has all of the newest. */
  live(is) {
    this.isLive = is;
    this.syncSoon();
  }

  /** Ask again for pictures that did not come. */
  retry() {
    for (const image of this.grid.querySelectorAll("img.gone")) reload(image);
  }

  syncSoon() {
    this.isBehind = true;
    this.due ??= setTimeout(
      async () => {
        if (!this.isHeld) {
          this.isBehind = false;
          await this.sync();
        }
        this.due = null;
        if (this.isBehind && !this.isHeld) this.syncSoon();
      },
      this.isLive && this.tiles.size ? SECONDS * 1000 : 100,
    );
  }

  get isHeld() {
    return this.grid.matches(":hover") || this.grid.contains(document.activeElement);
  }

  async sync() {
    const wanted = this.newest.slice(-MOST);
    const missing = wanted.filter((face) => !this.tiles.has(face.file));
    if (this.isLive && this.tiles.size) {
      await this.grow(missing.slice(-AT_ONCE));
      return;
    }
    const before = this.tiles;
    this.tiles = new Map(wanted.map((face) => [face.file, before.get(face.file) ?? this.tile(face, "lazy")]));
    this.grid.replaceChildren(...[...this.tiles.values()].reverse());
    this.enter();
  }

  /** Those that are seen first come with their pictures: no tile is ever empty. */
  async grow(faces) {
    const fresh = faces.map((face) => this.tile(face, "eager"));
    await Promise.race([Promise.all(fresh.map((tile) => tile.whole)), pause(PATIENCE_SECONDS)]);
    if (!this.newest.length || this.isHeld) return;
    for (const tile of fresh) {
      this.tiles.set(tile.face.file, tile);
      this.grid.prepend(tile);
    }
    for (const [file, tile] of [...this.tiles].slice(0, Math.max(0, this.tiles.size - MOST))) {
      this.tiles.delete(file);
      tile.remove();
    }
    this.enter();
  }

  /** The grid is one stop of the Tab key. */
  enter() {
    [...this.grid.children].forEach((tile, at) => (tile.tabIndex = at === 0 ? 0 : -1));
  }

  tile(face, loading) {
    const tile = make("button", {
      type: "button",
      className: "face",
      "aria-label": nameOf(face),
      on: { click: () => this.open(face) },
    });
    tile.face = face;
    if (INSIDE_A_TAR.test(face.file)) {
      tile.append(make("span", { className: "in-tar", textContent: "tar" }));
      return tile;
    }
    const image = picture(this.job, face, { loading, alt: "" });
    tile.whole = new Promise((resolve) => {
      image.addEventListener("load", resolve);
      image.addEventListener("error", resolve);
    });
    tile.append(image);
    return tile;
  }

  say(words) {
    const isShown = this.caption.textContent === this.words;
    this.words = words;
    if (isShown) tell(this.caption, words);
  }

  release() {
    this.caption.textContent = this.words;
    this.syncSoon();
  }

  point(event) {
    const face = event.target.closest(".face")?.face;
    if (face) tell(this.caption, `${nameOf(face)} · ${this.size} px, ${bytes(face.bytes)} · SHA-1 ${face.sha1}`);
  }

  move(event) {
    const tiles = [...this.grid.children];
    const at = tiles.indexOf(document.activeElement);
    if (at < 0) return;
    const columns = Math.max(1, tiles.filter((tile) => tile.offsetTop === tiles[0].offsetTop).length);
    const by = {
      ArrowLeft: -1,
      ArrowRight: 1,
      ArrowUp: -columns,
      ArrowDown: columns,
      Home: -at,
      End: tiles.length - 1 - at,
    }[event.key];
    const tile = by === undefined ? null : tiles[at + by];
    if (by !== undefined) event.preventDefault();
    if (!tile) return;
    for (const other of tiles) other.tabIndex = -1;
    tile.tabIndex = 0;
    tile.focus();
  }

  open(face) {
    view(
      this.job,
      this.size,
      [...this.tiles.values()].reverse().map((tile) => tile.face),
      face,
    );
  }
}

const urlOf = (job, face) => `/v1/jobs/${job}/faces/${pathOf(face.file)}`;

/** One that failed to load is hidden, and tried again. */
function picture(job, face, properties) {
  const image = make("img", { decoding: "async", ...properties });
  let failures = 0;
  image.addEventListener("load", () => image.classList.remove("gone"));
  image.addEventListener("error", async () => {
    image.classList.add("gone");
    failures += 1;
    if (failures >= TRIES) return;
    await pause(backoff(failures));
    reload(image);
  });
  image.src = urlOf(job, face);
  return image;
}

/** Setting an address anew has it asked for anew, also where it is the same. */
function reload(image) {
  image.src = image.getAttribute("src");
}

/** Show a face large; the arrows show its neighbours, and Back closes it. */
function view(job, size, faces, face) {
  const dialog = byId("viewer");
  const title = make("h2", { id: "viewer-title" });
  const stage = make("div", { className: "stage" });
  const facts = make("dl", { className: "facts-list" });
  const save = make("a", { className: "button", textContent: "Download this face", download: "" });
  let at = faces.indexOf(face);

  const show = () => {
    const now = faces[at];
    tell(title, nameOf(now));
    save.href = urlOf(job, now);
    save.hidden = INSIDE_A_TAR.test(now.file);
    stage.replaceChildren(
      save.hidden
        ? make("p", { textContent: "It lies inside a tar file; download the faces to see it." })
        : picture(job, now, { alt: nameOf(now) }),
    );
    const said = {
      File: visible(now.file),
      Frame: `${frameOf(now)}, number ${count(now.frame + 1)} of the source`,
      Size: `${size} × ${size} pixels, ${count(now.bytes)} bytes`,
      "SHA-1": now.sha1,
    };
    facts.replaceChildren(
      ...Object.entries(said).map(([name, text]) =>
        make("div", {}, make("dt", { textContent: name }), make("dd", {}, make("bdi", { textContent: text }))),
      ),
    );
    newer.disabled = at === 0;
    older.disabled = at === faces.length - 1;
  };
  const step = (by) => {
    at = Math.min(faces.length - 1, Math.max(0, at + by));
    show();
  };
  const newer = button("Newer", () => step(-1));
  const older = button("Older", () => step(1));
  dialog.replaceChildren(
    title,
    stage,
    facts,
    make(
      "p",
      { className: "actions" },
      newer,
      older,
      save,
      button("Close", () => dialog.close(), { className: "main" }),
    ),
  );
  dialog.onkeydown = (event) => {
    const by = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (by) step(by);
  };
  show();
  history.pushState({ viewer: true }, "");
  dialog.addEventListener("close", () => history.state?.viewer && history.back(), { once: true });
  dialog.showModal();
}

addEventListener("popstate", () => byId("viewer").close());
