/** One input of a draft: a file or folder of a root, or a file or images that are uploaded. */

import { button, make, tell } from "./elements.js";
import { chosen } from "./roots.js";
import { tarOf } from "./tar.js";
import { Upload } from "./uploads.js";
import { baseOf, bytes, counted, duration, sentence, visible } from "./words.js";

export class Slot {
  /** `folders` says whether a folder will do; `onChange` is told of each change, `onFiles` of files that were chosen. */
  constructor(words, roots, folders, onChange, onFiles) {
    Object.assign(this, { words, roots, folders, onChange, onFiles, place: null, upload: null, images: [] });
    this.input = make("input", {
      type: "file",
      multiple: true,
      className: "unseen",
      tabIndex: -1,
      "aria-hidden": "true",
      on: {
        change: () => {
          this.onFiles([...this.input.files]);
          this.input.value = "";
        },
      },
    });
    this.body = make("div", { className: "slot-body" });
    this.element = make(
      "div",
      { className: "slot", role: "group", "aria-label": words.title },
      make("h3", { textContent: words.title }),
      this.body,
      this.input,
    );
    this.show();
  }

  get kept() {
    return this.place ?? (this.upload ? { file: this.upload.words } : null);
  }

  get name() {
    if (this.place) return baseOf(this.place.path) || this.place.root;
    if (!this.upload) return "";
    return this.upload.images ? counted(this.upload.images, "image") : this.upload.name;
  }

  get asked() {
    return this.place ? { root: this.place.root, path: this.place.path } : { upload: this.upload.id };
  }

  /** Why the job cannot begin with it; null if it can. */
  get fault() {
    if (this.place || this.upload?.state === "here") return null;
    if (!this.upload) return `${this.words.title}: nothing is chosen yet.`;
    if (this.upload.state === "lost") return `Choose ${visible(this.name)} again, so that the rest of it can be sent.`;
    const are = this.upload.images > 1 ? "are" : "is";
    return this.upload.fault || `${visible(this.name)} ${are} still on the way to the server.`;
  }

  get isSending() {
    return ["waiting", "sending"].includes(this.upload?.state);
  }

  takeFile(file) {
    if (this.upload?.is(file)) this.goOn(file);
    else this.send([], () => Upload.of(file));
  }

  /** More images join those that are there; all are one upload. */
  takeImages(files, folder) {
    const images = [...new Map([...this.images, ...files].map((file) => [file.name, file])).values()];
    if (this.upload?.isOfImages(images)) {
      this.images = images;
      this.goOn(tarOf(images));
    } else {
      this.send(images, () => Upload.ofImages(images, folder));
    }
  }

  /** Its file was chosen again. */
  goOn(file) {
    if (this.upload.state !== "lost") return;
    this.upload.file = file;
    this.upload.start();
  }

  send(images, begin) {
    this.forget();
    this.images = images;
    this.hold({ upload: begin() });
  }

  /** What a job was made of, from those of `uploads` that the server still has; false where that is gone. */
  takeAgain(asked, uploads) {
    this.clear();
    const there = uploads.find(({ id, length, offset }) => id === asked?.upload && length === offset);
    if (there) this.hold({ upload: Upload.there(there) });
    else if (this.roots.includes(asked?.root)) this.hold({ place: { root: asked.root, path: asked.path, size: null } });
    return this.kept !== null;
  }

  /** What an earlier page kept. */
  restore(kept) {
    if (kept?.root !== undefined && this.roots.includes(kept.root)) this.hold({ place: kept });
    else if (kept?.file) this.hold({ upload: new Upload(kept.file) });
  }

  /** What another tab made of it. */
  follow(kept) {
    const same = this.upload ? this.upload.isLike(kept?.file) : JSON.stringify(this.kept) === JSON.stringify(kept);
    if (same) return;
    this.clear();
    this.restore(kept);
    if (this.upload) this.upload.isElsewhere = true;
    this.show();
  }

  found(uploads) {
    this.upload?.found(uploads);
    this.show();
  }

  /** Take nothing, and have the server keep nothing. */
  forget() {
    this.upload?.discard();
    this.clear();
  }

  /** Take nothing; what is not on its way stays there for a day, and need not be sent again. */
  clear() {
    if (this.isSending) this.upload.discard();
    this.images = [];
    this.hold({});
  }

  hold({ place = null, upload = null }) {
    Object.assign(this, { place, upload });
    upload?.addEventListener("change", () => upload === this.upload && this.show());
    this.onChange();
    this.show();
  }

  async pick() {
    const place = await chosen(this.roots, this.words.pick, this.folders, this.place ?? this.beside.place);
    if (!place) return;
    this.forget();
    this.hold({ place });
  }

  /** What is said changes often while a file is sent; buttons, which may have the focus, stay. */
  show() {
    const kind = this.place ? "place" : (this.upload?.state ?? "empty");
    const isNew = kind !== this.kind;
    this.kind = kind;
    if (isNew) this.build(kind);
    if (kind !== "empty") this.tell();
    if (isNew && kind === "here") this.onChange();
  }

  build(kind) {
    const focused = this.body.contains(document.activeElement);
    const choose = (text) => button(text, () => this.input.click());
    if (kind === "empty") {
      const pick = this.roots.length ? button("On the server…", () => this.pick()) : null;
      this.body.replaceChildren(
        make("p", { textContent: this.words.empty }),
        make("p", { className: "actions" }, choose("Choose a file…"), pick),
      );
    } else {
      this.title = make("bdi", { className: "name" });
      this.line = make("span", { className: "told" });
      this.bar = make("progress", {
        max: 1,
        value: 0,
        "aria-label": `Upload: ${this.words.title}`,
      });
      const actions = {
        sending: button("Pause", () => this.upload.pause()),
        waiting: button("Pause", () => this.upload.pause()),
        paused: button("Go on", () => this.upload.start()),
        lost: choose("Choose it again…"),
        refused: button("Try again", () => this.upload.start()),
      };
      this.body.replaceChildren(
        make("p", { className: "name-line" }, this.title),
        this.bar,
        make("p", { className: "slot-line" }, this.line),
        make(
          "p",
          { className: "actions" },
          actions[kind] ?? null,
          button("Remove", () => this.forget()),
        ),
      );
    }
    if (focused) this.body.querySelector("button")?.focus();
  }

  tell() {
    const shown = visible(this.name);
    tell(this.title, shown);
    this.title.title = shown;
    this.bar.hidden = this.kind === "place" || this.kind === "here" || this.upload.isElsewhere;
    if (!this.place) this.bar.value = this.upload.size ? this.upload.sent / this.upload.size : 1;
    tell(this.line, this.place ? this.placeLine() : this.uploadLine());
  }

  placeLine() {
    const { root, path, size } = this.place;
    const what = size === undefined ? "a folder · " : size === null ? "" : `${bytes(size)} · `;
    return `${what}${visible(`${root}:${path}`)}`;
  }

  uploadLine() {
    const { state, sent, size, rate, fault } = this.upload;
    const of = `${bytes(sent)} of ${bytes(size)}`;
    if (fault) return `${of} · ${sentence(fault)}`;
    switch (state) {
      case "here":
        return `${bytes(size)} · on the server`;
      case "lost":
        if (this.upload.isElsewhere) return "Another tab sends it; if that is closed, choose it again.";
        return sent
          ? `${of} are on the server. Choose it again, and the rest follows.`
          : "This page was loaded anew; choose it again.";
      case "paused":
        return `${of} · paused`;
      default:
        return state === "sending" && rate > 0
          ? `${of} · ${bytes(rate)}/s · ${duration((size - sent) / rate)} left`
          : of;
    }
  }
}
