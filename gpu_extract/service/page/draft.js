/** The job that is being thought of: two inputs and options. It is kept until it was started. */

import { announce, button, byId, make, tell } from "./elements.js";
import { ENDED } from "./job.js";
import { Options } from "./options.js";
import { chosen } from "./roots.js";
import { Silence, ask, pause } from "./server.js";
import { tarOf } from "./tar.js";
import { Upload } from "./uploads.js";
import { baseOf, bytes, count, counted, duration, sentence, visible } from "./words.js";

const KEPT = "gpu-extract.draft";
const ALIGNMENTS = /\.(fsa|json|p|pickle|ya?ml)$/i;
const IMAGES = /\.(bmp|jpe?g|png|tiff?|webp|dib|jfif|jpe)$/i;
const WORDS = {
  alignments: { title: "Alignments file", empty: "Drop it here, or choose it.", pick: "Choose an alignments file" },
  frames: {
    title: "Frames",
    empty: "A video, or images: drop them here, or choose.",
    pick: "Choose a video or a folder",
  },
};

export class Draft {
  /** `onStart` is told of a job that was started. */
  constructor(roots, rows, onStart) {
    Object.assign(this, { onStart, id: null, checkId: null, changes: 0 });
    this.slots = {
      alignments: new Slot(WORDS.alignments, roots, false, () => this.changed()),
      frames: new Slot(WORDS.frames, roots, true, () => this.changed()),
    };
    for (const slot of Object.values(this.slots)) slot.onFiles = (files) => this.take(files);
    this.slots.alignments.beside = this.slots.frames;
    this.slots.frames.beside = this.slots.alignments;
    const { options = {} } = kept();
    this.options = new Options(rows, options, () => this.changed());
    this.title = make("h2", { id: "draft-title" });
    this.note = make("p", { className: "note", role: "status" });
    this.result = make("div", { className: "result" });
    this.check = button("Check", () => this.look());
    this.start = button("Start", () => this.begin(), { className: "main" });
    byId("draft").replaceChildren(
      this.title,
      make("div", { className: "slots" }, this.slots.alignments.element, this.slots.frames.element),
      make(
        "div",
        { className: "bar" },
        this.options.first,
        make("p", { className: "actions" }, this.check, this.start),
      ),
      this.options.all,
      this.note,
      this.result,
    );
    byId("draft").hidden = false;
    this.listen();
    this.restore();
    this.entitle();
  }

  /** Files may fall anywhere on the page. */
  listen() {
    const hasFiles = (event) => [...(event.dataTransfer?.types ?? [])].includes("Files");
    let inside = 0;
    const light = (by) => {
      inside = Math.max(0, inside + by);
      document.body.classList.toggle("dropping", inside > 0);
    };
    addEventListener("dragenter", (event) => hasFiles(event) && light(1));
    addEventListener("dragleave", (event) => hasFiles(event) && light(-1));
    addEventListener("dragover", (event) => hasFiles(event) && event.preventDefault());
    addEventListener("drop", async (event) => {
      if (!hasFiles(event)) return;
      event.preventDefault();
      light(-inside);
      const { files, folder } = await filesOf(event.dataTransfer);
      this.take(files, folder);
    });
    addEventListener("beforeunload", (event) => {
      if (Object.values(this.slots).some((slot) => slot.isSending)) event.preventDefault();
    });
  }

  /** `folder` is the name of the one that they came in, if they did. */
  take(files, folder = "frames") {
    const shown = files.filter((file) => !file.name.startsWith("."));
    const alignments = shown.filter((file) => ALIGNMENTS.test(file.name));
    const images = shown.filter((file) => IMAGES.test(file.name));
    const videos = shown.filter((file) => !ALIGNMENTS.test(file.name) && !IMAGES.test(file.name));
    const left = [...alignments.slice(1), ...videos.slice(1), ...(videos.length ? images : [])];
    if (alignments.length) this.slots.alignments.takeFiles(alignments.slice(0, 1));
    if (videos.length) {
      this.slots.frames.takeFiles(videos.slice(0, 1));
    } else if (images.length) {
      const names = new Set();
      const twice = images.find((file) => names.size === names.add(file.name).size);
      if (twice) {
        this.refuse(`Two images are named ${visible(twice.name)}; choose those of one folder.`);
        return;
      }
      this.slots.frames.takeImages(images, folder);
    }
    const names = `${visible(left[0]?.name ?? "")}${left.length > 1 ? ` and ${count(left.length - 1)} more` : ""}`;
    this.say(left.length ? `A job has one alignments file, and one video or a set of images. Left out: ${names}.` : "");
  }

  async restore() {
    const { alignments, frames } = kept();
    this.slots.alignments.restore(alignments);
    this.slots.frames.restore(frames);
    try {
      const uploads = await ask("GET", "/v1/uploads");
      for (const slot of Object.values(this.slots)) slot.found(uploads);
    } catch {
      // What came is asked for again when the file is chosen again.
    }
  }

  changed() {
    if (!this.note) return; // as it is being made
    const { alignments, frames } = this.slots;
    this.id = null;
    this.changes += 1;
    this.result.replaceChildren();
    this.entitle();
    keep({ alignments: alignments.kept, frames: frames.kept, options: this.options.values });
  }

  entitle() {
    const isEmpty = Object.values(this.slots).every((slot) => slot.kept === null);
    tell(this.title, isEmpty ? "Drop an alignments file and its video here" : "New job");
  }

  say(text) {
    tell(this.note, text);
    this.note.classList.remove("fault");
  }

  refuse(text) {
    this.say(sentence(text));
    this.note.classList.add("fault");
  }

  /** What the service is to be asked for; null where something is missing, which is said. */
  request() {
    const { alignments, frames } = this.slots;
    const missing = alignments.fault ?? frames.fault;
    if (missing) {
      this.refuse(missing);
      return null;
    }
    const wrong = this.options.fault;
    if (wrong) {
      this.options.all.open ||= this.options.all.contains(wrong);
      wrong.reportValidity();
      return null;
    }
    return { alignments: alignments.asked, frames: frames.asked, options: this.options.values };
  }

  async begin() {
    const request = this.request();
    if (!request) return;
    // Under an id of ours: who asks twice, for want of an answer, has one job.
    this.id ??= idFor(this.slots.frames.name);
    this.busy(true);
    try {
      const job = await ask("PUT", `/v1/jobs/${this.id}`, request);
      this.say("");
      announce(`The job of ${visible(this.slots.frames.name)} was started.`);
      for (const slot of Object.values(this.slots)) slot.clear();
      this.onStart(job);
    } catch (error) {
      this.refuse(error.message);
    } finally {
      this.busy(false);
    }
  }

  /** A job that only plans; it is removed when it was read. */
  async look() {
    if (this.checkId) {
      ask("POST", `/v1/jobs/${this.checkId}/cancel`).catch((error) => this.refuse(error.message));
      return;
    }
    const request = this.request();
    if (!request) return;
    const id = (this.checkId = `check-${idFor("")}`);
    const { changes } = this;
    this.busy(true);
    this.check.disabled = false;
    tell(this.check, "Stop checking");
    this.result.replaceChildren();
    try {
      this.say("Checking…");
      let job = await ask("PUT", `/v1/jobs/${id}`, { ...request, options: { ...request.options, dry_run: true } });
      for (let looks = 0; !ENDED.includes(job.state); looks += 1) {
        await pause(looks < 8 ? 0.25 : 1);
        if (looks === 8) this.say("Checking… A long video is read through once.");
        job = await answered(() => ask("GET", `/v1/jobs/${id}`));
      }
      this.say("");
      if (job.state === "failed") this.refuse(job.error ?? "The check failed.");
      else if (job.state !== "cancelled") await this.tellPlan(id, changes);
      ask("DELETE", `/v1/jobs/${id}`).catch(() => {});
    } catch (error) {
      this.refuse(error.message);
    } finally {
      this.checkId = null;
      tell(this.check, "Check");
      this.busy(false);
    }
  }

  /** What a check found, unless something else is wanted since. */
  async tellPlan(id, changes) {
    const report = await answered(() => ask("GET", `/v1/jobs/${id}/report`));
    const box = await answered(() => ask("GET", "/v1/devices"));
    if (changes !== this.changes) return;
    this.result.replaceChildren(plan(report, box.disk_free_bytes));
    announce(this.result.textContent);
  }

  busy(is) {
    byId("draft").setAttribute("aria-busy", String(is));
    this.start.disabled = this.check.disabled = is;
  }
}

/** One input: a file of a root, or files that are uploaded. */
class Slot {
  constructor(words, roots, folders, onChange) {
    Object.assign(this, { words, roots, folders, onChange, place: null, uploads: [], images: [], onFiles: () => {} });
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
    return this.place ?? (this.uploads.length ? { files: this.uploads.map((upload) => upload.words) } : null);
  }

  get name() {
    if (this.place) return baseOf(this.place.path) || this.place.root;
    const [upload] = this.uploads;
    if (!upload) return "";
    return upload.images ? counted(upload.images, "image") : upload.name;
  }

  get asked() {
    return this.place ? { root: this.place.root, path: this.place.path } : { upload: this.uploads[0].id };
  }

  /** Why the job cannot begin with it; null if it can. */
  get fault() {
    if (this.place) return null;
    if (!this.uploads.length) return `${this.words.title}: nothing is chosen yet.`;
    const missing = this.uploads.find((upload) => upload.state !== "here");
    if (!missing) return null;
    if (missing.state === "lost") return `Choose ${visible(this.name)} again, so that the rest of it can be sent.`;
    const are = missing.images > 1 ? "are" : "is";
    return missing.fault || `${visible(this.name)} ${are} still on the way to the server.`;
  }

  get isSending() {
    return this.uploads.some((upload) => ["waiting", "sending"].includes(upload.state));
  }

  takeFiles([file]) {
    const [upload] = this.uploads;
    if (!this.place && upload?.is(file)) this.goOn(upload, file);
    else this.replace([], () => Upload.of(file));
  }

  /** More images join those that are there; all are one upload. */
  takeImages(files, folder) {
    const [upload] = this.uploads;
    const images = [...new Map([...this.images, ...files].map((file) => [file.name, file])).values()];
    if (!this.place && upload?.isOfImages(images)) {
      this.images = images;
      this.goOn(upload, tarOf(images));
    } else {
      this.replace(images, () => Upload.ofImages(images, folder));
    }
  }

  /** Its file was chosen again. */
  goOn(upload, file) {
    if (upload.state !== "lost") return;
    upload.file = file;
    upload.start();
  }

  replace(images, begin) {
    this.forget();
    this.images = images;
    this.uploads = [this.watched(begin())];
    this.onChange();
    this.show();
  }

  watched(upload) {
    upload.addEventListener("change", () => this.show());
    return upload;
  }

  restore(kept) {
    if (kept?.root !== undefined && this.roots.includes(kept.root)) this.place = kept;
    else if (kept?.files) this.uploads = kept.files.slice(0, 1).map((words) => this.watched(new Upload(words)));
    this.show();
  }

  found(uploads) {
    for (const upload of this.uploads) upload.found(uploads);
    this.show();
  }

  /** Take nothing, and have the server keep nothing. */
  forget() {
    for (const upload of this.uploads) upload.discard();
    this.clear();
  }

  /** Take nothing; what was sent stays there for a day, and need not be sent again. */
  clear() {
    this.place = null;
    this.uploads = [];
    this.images = [];
    this.onChange();
    this.show();
  }

  async pick() {
    const place = await chosen(this.roots, this.words.pick, this.folders, this.place ?? this.beside.place);
    if (!place) return;
    this.forget();
    this.place = place;
    this.onChange();
    this.show();
  }

  /** What is said changes often while a file is sent; buttons, which may have the focus, stay. */
  show() {
    const kind = this.place ? "place" : this.uploads.length ? this.uploadState : "empty";
    if (kind !== this.kind) this.build(kind);
    this.kind = kind;
    if (kind !== "empty") this.tell();
  }

  get uploadState() {
    const states = new Set(this.uploads.map((upload) => upload.state));
    for (const state of ["refused", "lost", "paused", "sending", "waiting"]) if (states.has(state)) return state;
    return "here";
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
        hidden: kind === "place" || kind === "here",
      });
      const actions = {
        sending: [button("Pause", () => this.each("pause", "sending", "waiting"))],
        waiting: [button("Pause", () => this.each("pause", "sending", "waiting"))],
        paused: [button("Go on", () => this.each("start", "paused"))],
        lost: [choose("Choose it again…")],
        refused: [button("Try again", () => this.each("start", "refused"))],
      };
      const away = button("Remove", () => this.forget());
      this.body.replaceChildren(
        make("p", { className: "name-line" }, this.title),
        this.bar,
        make("p", { className: "slot-line" }, this.line),
        make("p", { className: "actions" }, actions[kind] ?? [], away),
      );
    }
    if (focused) this.body.querySelector("button")?.focus();
  }

  each(act, ...states) {
    for (const upload of this.uploads) if (states.includes(upload.state)) upload[act]();
  }

  tell() {
    if (this.place) {
      const shown = visible(this.name);
      tell(this.title, shown);
      this.title.title = shown;
      const size = this.place.size === undefined ? "a folder" : bytes(this.place.size);
      tell(this.line, `${size} · ${visible(`${this.place.root}:${this.place.path}`)}`);
      return;
    }
    const size = sum(this.uploads, "size");
    const sent = sum(this.uploads, "sent");
    const shown = visible(this.name);
    tell(this.title, shown);
    this.title.title = shown;
    this.bar.value = size ? sent / size : 1;
    tell(this.line, this.uploadLine(sent, size));
  }

  uploadLine(sent, size) {
    const of = `${bytes(sent)} of ${bytes(size)}`;
    const fault = this.uploads.find((upload) => upload.fault)?.fault;
    if (fault) return `${of} · ${sentence(fault)}`;
    const rate = sum(
      this.uploads.filter((upload) => upload.state === "sending"),
      "rate",
    );
    switch (this.uploadState) {
      case "here":
        return `${bytes(size)} · on the server`;
      case "lost":
        return sent
          ? `${of} are on the server. Choose it again, and the rest follows.`
          : "This page was loaded anew; choose it again.";
      case "paused":
        return `${of} · paused`;
      default:
        return rate > 0 ? `${of} · ${bytes(rate)}/s · ${duration((size - sent) / rate)} left` : of;
    }
  }
}

const sum = (things, name) => things.reduce((total, one) => total + one[name], 0);

/** What a check found, in sentences. */
function plan(report, free) {
  const frames = counted(report.frames_expected ?? 0, "frame");
  const lines = [];
  if (report.faces_planned) {
    const room = report.bytes_estimated === null ? "" : `, about ${bytes(report.bytes_estimated)}`;
    lines.push(`${counted(report.faces_planned, "face")} from ${frames}${room}.`);
    if (report.seconds_estimated !== null) {
      lines.push(`It takes about ${duration(report.seconds_estimated)} here (${report.device}), once it is its turn.`);
    }
  } else {
    lines.push(`No face is to be cut from ${frames}.`);
  }
  if (report.alignments_without_frame) {
    lines.push(
      `${counted(report.alignments_without_frame, "frame")} of the alignments file ${report.alignments_without_frame === 1 ? "is" : "are"} not among these frames.`,
    );
  }
  const scarce = report.bytes_estimated > free;
  lines.push(scarce ? `That is more than the ${bytes(free)} that are free.` : `${bytes(free)} are free.`);
  for (const error of (report.errors ?? []).slice(0, 5)) lines.push(`${error.frame}: ${error.reason}`);
  const notes = (report.notes ?? []).map((note) => make("li", { textContent: sentence(String(note)) }));
  const [first, ...others] = lines;
  return make(
    "div",
    { className: scarce ? "plan scarce" : "plan" },
    make("p", {}, make("strong", { textContent: first }), ` ${others.map(sentence).join(" ")}`),
    notes.length ? make("ul", {}, notes) : null,
  );
}

/** Asked again while nobody answers. */
async function answered(question) {
  for (let failures = 1; ; failures += 1) {
    try {
      return await question();
    } catch (error) {
      if (!(error instanceof Silence) || failures > 20) throw error;
      await pause(2);
    }
  }
}

/** Files that were dropped, those in folders too, and the name of the folder if it is one. */
async function filesOf(transfer) {
  const entries = [...transfer.items].map((item) => item.webkitGetAsEntry?.()).filter(Boolean);
  const folders = entries.filter((entry) => entry.isDirectory);
  if (!folders.length) return { files: [...transfer.files] };
  const folder = folders.length === 1 ? folders[0].name : undefined;
  const files = [];
  while (entries.length) {
    const entry = entries.pop();
    if (entry.isFile) {
      files.push(await new Promise((resolve, reject) => entry.file(resolve, reject)));
    } else {
      const reader = entry.createReader();
      for (let more = [null]; more.length;) {
        more = await new Promise((resolve, reject) => reader.readEntries(resolve, reject));
        entries.push(...more.filter((one) => !one.name.startsWith(".")));
      }
    }
  }
  return { files, folder };
}

function idFor(name) {
  const words = name
    .toLowerCase()
    .replace(/\.[a-z0-9]{1,5}$/, "")
    .replace(/[^a-z0-9]+/g, "-")
    .replace(/^-+|-+$/g, "");
  const [number] = crypto.getRandomValues(new Uint32Array(1));
  return [words.slice(0, 40).replace(/-+$/, ""), number.toString(16).padStart(8, "0")].filter(Boolean).join("-");
}

function kept() {
  try {
    return JSON.parse(localStorage.getItem(KEPT)) ?? {};
  } catch {
    return {};
  }
}

function keep(draft) {
  try {
    localStorage.setItem(KEPT, JSON.stringify(draft));
  } catch {
    // Too many files for what a browser keeps: they are chosen again.
  }
}
