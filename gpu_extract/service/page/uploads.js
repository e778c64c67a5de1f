/**
 * Files on their way to the server, by tus 1.0.
 *
 * The server's length of a file is the only truth of how much came. What is kept here is which of its uploads belongs to
 * which file, by name, size and time of change (of images, those of all), so that a page that was loaded again goes on
 * where the last one ended.
 */

import { Silence, backoff, pause, refusal } from "./server.js";
import { markOf, tarOf } from "./tar.js";

const UPLOADS = "/v1/uploads";
const CHUNK_BYTES = 32 * 1024 * 1024; // proxies take 100 MB, as a rule
const AT_ONCE = 2; // browsers open six connections to a server, and faces come through others
const REMOVALS = 6; // tries; what is left then, the server removes after a day
const KEPT = "gpu-extract.uploads";

let sending = 0;
const waiting = [];

/**
 * One file, or `images` of them as one tar; tells "change".
 *
 * `state` is "waiting", "sending", "paused", "lost" (this page does not have the file), "refused", "here" or "gone";
 * `isElsewhere` where another tab is at it.
 */
export class Upload extends EventTarget {
  constructor({ name, size, mtime, images = 0 }, file = null) {
    super();
    Object.assign(this, {
      name,
      size,
      mtime,
      images,
      file,
      isElsewhere: false,
      begun: 0,
      state: "lost",
      sent: 0,
      fault: "",
      rate: 0,
    });
    this.id = kept()[this.key] ?? null;
    this.request = null;
    if (file) this.start();
  }

  static of(file) {
    return new Upload({ name: file.name, size: file.size, mtime: file.lastModified }, file);
  }

  /** Images of a folder, which are one upload. */
  static ofImages(files, folder) {
    const tar = tarOf(files);
    const words = { name: `${folder}.tar`, size: tar.size, mtime: markOf(files), images: files.length };
    return new Upload(words, tar);
  }

  /** One that the server has whole, whatever file it came from. */
  static there({ id, name, length }) {
    const upload = new Upload({ name, size: length, mtime: id });
    Object.assign(upload, { id, sent: length, state: "here" });
    keep(upload.key, id);
    return upload;
  }

  get key() {
    return `${this.name}|${this.size}|${this.mtime}`;
  }

  get words() {
    const { name, size, mtime, images, state } = this;
    return { name, size, mtime, images, here: state === "here" };
  }

  isLike(words) {
    return words?.name === this.name && words.size === this.size && words.mtime === this.mtime;
  }

  is(file) {
    return this.isLike({ name: file.name, size: file.size, mtime: file.lastModified });
  }

  isOfImages(files) {
    return files.length === this.images && markOf(files) === this.mtime;
  }

  /** What an earlier page sent, or another tab. */
  found(uploads) {
    if (this.state !== "lost") return;
    this.id = kept()[this.key] ?? null;
    const there = uploads.find((one) => one.id === this.id);
    if (!there) return;
    this.sent = there.offset;
    this.become(there.offset === there.length ? "here" : this.state);
  }

  start() {
    this.isElsewhere = false;
    this.become("waiting");
    waiting.push(this);
    next();
  }

  pause() {
    this.become("paused");
    this.cut();
  }

  /** Have the server forget it, too. */
  discard() {
    this.become("gone");
    this.cut();
    this.forget();
    keep(this.key, null);
  }

  /** What was announced, and nobody heard the id of, would take room for a day; that answer is waited for. */
  cut() {
    if (this.id) this.request?.abort();
  }

  /** Asked again where nobody answers, and while the server is still at a request that was cut off here. */
  async forget() {
    for (let failures = 0; this.id && failures < REMOVALS; failures += 1) {
      if (failures) await pause(backoff(failures));
      try {
        const { status } = await fetch(`${UPLOADS}/${this.id}`, { method: "DELETE", headers: VERSION });
        if (status !== 423 && status < 500) return;
      } catch {
        // Nobody answered.
      }
    }
  }

  become(state, fault = "") {
    Object.assign(this, { state, fault });
    this.dispatchEvent(new Event("change"));
  }

  async send() {
    this.become("sending");
    const turn = (this.turn = (this.turn ?? 0) + 1); // who was paused and started again sends in the newest turn only
    const goesOn = () => this.state === "sending" && this.turn === turn;
    for (let failures = 0; goesOn();) {
      try {
        await this.findPlace();
        while (this.sent < this.size && goesOn()) {
          await this.sendChunk();
          failures = 0;
        }
        if (goesOn()) this.become("here");
      } catch (error) {
        if (!goesOn()) return;
        if (!(await this.isReadable())) {
          this.become(
            "refused",
            this.images
              ? "An image was changed or moved while they were sent; choose them again."
              : "The file was changed or moved while it was sent; choose it again.",
          );
        } else if (error instanceof Silence || [409, 423].includes(error.status)) {
          failures += 1;
          this.fault = "The connection was lost; it goes on by itself.";
          this.dispatchEvent(new Event("change"));
          await pause(backoff(failures));
          this.fault = "";
        } else if (error.status === 404) {
          this.id = null;
          keep(this.key, null);
        } else {
          this.become("refused", error.message);
        }
      }
    }
  }

  /** How much the server has; announced if it knows nothing of it. */
  async findPlace() {
    this.id ??= kept()[this.key] ?? null; // another tab may have announced it since
    if (this.id) {
      const { status, header } = await this.say("HEAD", `${UPLOADS}/${this.id}`);
      if (status === 200) {
        this.sent = Number(header("Upload-Offset"));
        return;
      }
    }
    const named = btoa(String.fromCharCode(...new TextEncoder().encode(this.name)));
    const words = { "Upload-Length": String(this.size), "Upload-Metadata": `filename ${named}` };
    const { status, header, read } = await this.say("POST", UPLOADS, words);
    if (status !== 201) throw await refusal(status, read);
    this.id = header("Location").split("/").pop();
    this.sent = 0;
    if (this.state === "gone") this.forget();
    else keep(this.key, this.id);
  }

  async sendChunk() {
    const begin = this.sent;
    const began = performance.now();
    const words = { "Upload-Offset": String(begin), "Content-Type": "application/offset+octet-stream" };
    this.begun = begin;
    const chunk = this.file.slice(begin, begin + CHUNK_BYTES);
    const { status, header, read } = await this.say("PATCH", `${UPLOADS}/${this.id}`, words, chunk, (loaded) => {
      this.sent = begin + loaded;
      this.rate = (loaded / Math.max(1, performance.now() - began)) * 1000;
      this.dispatchEvent(new Event("change"));
    });
    if (status !== 204) throw await refusal(status, read);
    this.sent = Number(header("Upload-Offset"));
  }

  /** A request; fetch would not tell how much of a body has left. */
  say(method, path, words = {}, body = null, onSent = null) {
    return new Promise((resolve, reject) => {
      const request = new XMLHttpRequest();
      this.request = request;
      request.open(method, path);
      for (const [name, value] of Object.entries({ ...VERSION, ...words })) request.setRequestHeader(name, value);
      if (onSent) request.upload.addEventListener("progress", (event) => onSent(event.loaded));
      request.addEventListener("load", () =>
        resolve({
          status: request.status,
          header: (name) => request.getResponseHeader(name),
          read: () => JSON.parse(request.responseText),
        }),
      );
      for (const end of ["error", "abort", "timeout"]) request.addEventListener(end, () => reject(new Silence()));
      request.send(body);
    });
  }

  async isReadable() {
    try {
      const all = this.images ? this.file.slice(this.begun, this.begun + CHUNK_BYTES) : this.file.slice(0, 1);
      await all.arrayBuffer();
      return true;
    } catch {
      return false;
    }
  }
}

const VERSION = { "Tus-Resumable": "1.0.0" };

function next() {
  while (sending < AT_ONCE && waiting.length) {
    const upload = waiting.shift();
    if (upload.state !== "waiting") continue;
    sending += 1;
    upload.send().finally(() => {
      sending -= 1;
      next();
    });
  }
}

function kept() {
  try {
    return JSON.parse(localStorage.getItem(KEPT)) ?? {};
  } catch {
    return {};
  }
}

function keep(key, id) {
  const all = kept();
  delete all[key];
  if (id) all[key] = id;
  const newest = Object.entries(all).slice(-1000);
  try {
    localStorage.setItem(KEPT, JSON.stringify(Object.fromEntries(newest)));
  } catch {
    // Without it a page that is loaded again sends the file anew.
  }
}
