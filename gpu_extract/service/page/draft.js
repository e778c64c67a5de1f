/** The job that is being thought of: two inputs and options. It is kept until it was started. */

import { Check } from "./check.js";
import { filesOf, named, parted } from "./dropped.js";
import { announce, asked, button, byId, make, tell } from "./elements.js";
import { Options } from "./options.js";
import { ask, newId } from "./server.js";
import { Slot } from "./slot.js";
import { sentence, visible } from "./words.js";

const KEPT = "gpu-extract.draft";
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
    Object.assign(this, { onStart, id: null, changes: 0, isQuiet: false });
    const slot = (words, folders) =>
      new Slot(
        words,
        roots,
        folders,
        () => this.changed(),
        (files) => this.take(files),
      );
    this.slots = { alignments: slot(WORDS.alignments, false), frames: slot(WORDS.frames, true) };
    this.slots.alignments.beside = this.slots.frames;
    this.slots.frames.beside = this.slots.alignments;
    const { options = {} } = kept();
    this.options = new Options(rows, options, () => this.changed());
    this.title = make("h2", { id: "draft-title" });
    this.note = make("p", { className: "note", role: "status" });
    this.check = new Check(this);
    this.start = button("Start", () => this.begin(), { className: "main" });
    byId("draft").replaceChildren(
      this.title,
      make("div", { className: "slots" }, this.slots.alignments.element, this.slots.frames.element),
      make(
        "div",
        { className: "bar" },
        this.options.first,
        make("p", { className: "actions" }, this.check.button, this.start),
      ),
      this.options.all,
      this.note,
      this.check.result,
    );
    byId("draft").hidden = false;
    this.listen();
    this.restore();
    this.entitle();
  }

  get inputs() {
    return Object.values(this.slots);
  }

  get isEmpty() {
    return this.inputs.every((slot) => slot.kept === null);
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
      try {
        const { files, folder } = await filesOf(event.dataTransfer);
        this.take(files, folder);
      } catch {
        this.refuse("What was dropped cannot be read; choose it by its button.");
      }
    });
    addEventListener("beforeunload", (event) => {
      if (this.inputs.some((slot) => slot.isSending)) event.preventDefault();
    });
    addEventListener("storage", (event) => event.key === KEPT && this.follow());
  }

  /** `folder` is the name of the one that they came in, if they did. */
  take(files, folder) {
    const { alignments, video, images, left } = parted(files, folder);
    const names = new Set();
    const twice = images.find((file) => names.size === names.add(file.name).size);
    if (alignments) this.slots.alignments.takeFile(alignments);
    if (video) this.slots.frames.takeFile(video);
    else if (images.length && !twice) this.slots.frames.takeImages(images, folder ?? "frames");
    if (twice) this.refuse(`Two images are named ${visible(twice.name)}; choose those of one folder.`);
    else if (!left.length) this.say("");
    else this.say(`A job has one alignments file, and one video or a set of images. Left out: ${named(left)}.`);
  }

  restore() {
    const { alignments, frames } = kept();
    this.quietly(() => {
      this.slots.alignments.restore(alignments);
      this.slots.frames.restore(frames);
    });
    this.find();
  }

  /** How much of what is kept here the server has. */
  async find() {
    try {
      const uploads = await ask("GET", "/v1/uploads");
      for (const slot of this.inputs) slot.found(uploads);
    } catch {
      // What came is asked for again when the file is chosen again.
    }
  }

  /** The draft is one for all tabs: the last that changed it counts. */
  follow() {
    const { alignments = null, frames = null, options = {} } = kept();
    this.quietly(() => {
      this.slots.alignments.follow(alignments);
      this.slots.frames.follow(frames);
      this.options.set(options);
    });
    this.find();
  }

  /** Change it as it is kept: other tabs are not to be told half of it, nor what they told. */
  quietly(change) {
    this.isQuiet = true;
    change();
    this.isQuiet = false;
  }

  /** The like of an earlier job, for which it may be asked with other options. */
  async again({ links, options }) {
    const [request, uploads] = await Promise.all([ask("GET", links.request), ask("GET", "/v1/uploads")]);
    const text = "The files that are chosen above make way for those of this job.";
    if (!this.isEmpty && !(await asked("Take the files of this job?", text, "Take them", "Leave it"))) return;
    const gone = Object.entries(this.slots).filter(([name, slot]) => !slot.takeAgain(request[name], uploads));
    this.options.set(options);
    const titles = gone.map(([, slot]) => slot.words.title.toLowerCase()).join(" and the ");
    this.say(gone.length ? `The server does not keep the ${titles} any more; choose again.` : "");
    byId("draft").scrollIntoView({ block: "start" });
    this.options.focus();
  }

  changed() {
    if (!this.check) return; // as it is being made
    this.id = null;
    this.changes += 1;
    this.check.forget();
    this.entitle();
    const { alignments, frames } = this.slots;
    if (!this.isQuiet) keep({ alignments: alignments.kept, frames: frames.kept, options: this.options.values });
  }

  entitle() {
    tell(this.title, this.isEmpty ? "Drop an alignments file and its video here" : "New job");
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
    this.id ??= newId(this.slots.frames.name);
    this.busy(true);
    try {
      const job = await ask("PUT", `/v1/jobs/${this.id}`, request);
      this.say("");
      announce(`The job of ${visible(this.slots.frames.name)} was started.`);
      for (const slot of this.inputs) slot.clear();
      this.onStart(job);
    } catch (error) {
      this.refuse(error.message);
    } finally {
      this.busy(false);
    }
  }

  busy(is) {
    byId("draft").setAttribute("aria-busy", String(is));
    this.start.disabled = this.check.button.disabled = is;
  }
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
