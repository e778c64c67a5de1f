/** One job: a line of the list, and what unfolds below it. */

import { announce, asked, button, make, tell } from "./elements.js";
import { Faces, MOST } from "./faces.js";
import { ask } from "./server.js";
import { baseOf, count, counted, duration, optionName, place, sentence, time, visible } from "./words.js";

export const ENDED = ["succeeded", "partial", "failed", "cancelled"];
const SIZE = 256; // that of jobs which do not say theirs
const MOST_ERRORS = 200;
const QUIET_SECONDS = 30;
const AGAIN_SECONDS = 5;

/** What a button does, in which states, and what it is called. */
const ACTS = [
  { name: "cancel", text: "Cancel", states: ["queued", "running", "finishing"] },
  { name: "resume", text: "Resume", states: ["cancelled", "failed"] },
  { name: "resume", text: "Try the failed frames again", states: ["partial"], inside: true },
];

export class Job {
  /** `host` says whether the caller may `submit`, who `me` is, and is told of `toggled`, `removed`, `again`. */
  constructor(job, host) {
    Object.assign(this, { id: job.id, job, host, stream: null, spoke: 0 });
    const panel = `job-${job.id}`;
    this.name = make("bdi", { className: "name" });
    this.toggle = make(
      "button",
      {
        type: "button",
        className: "toggle",
        "aria-expanded": "false",
        "aria-controls": panel,
        on: { click: () => host.toggled(this) },
      },
      this.name,
    );
    this.about = make("p", { className: "about" });
    this.state = make("span", { className: "state" });
    this.figures = make("span", { className: "figures" });
    this.bar = make("progress", { max: 1, hidden: true });
    this.actions = make("p", { className: "actions" });
    this.panel = make("div", { id: panel, className: "panel", hidden: true });
    this.element = make(
      "article",
      { className: "job" },
      make(
        "div",
        { className: "line" },
        make("div", { className: "what" }, make("h3", {}, this.toggle), this.about),
        make("div", { className: "how" }, make("p", {}, this.state, this.figures), this.bar),
        this.actions,
      ),
      this.panel,
    );
    this.update(job);
  }

  get title() {
    return visible(baseOf(this.job.inputs.frames));
  }

  get hasEnded() {
    return ENDED.includes(this.job.state);
  }

  get isOpen() {
    return !this.panel.hidden;
  }

  /** A job as the service tells it; older news than is known is left out. */
  update(job) {
    if (job.rev < this.job.rev) return;
    const before = this.job.state;
    const isNew = job.rev !== this.job.rev || this.shownRev === undefined;
    this.job = job;
    tell(this.name, this.isCheck ? `Check of ${this.title}` : this.title);
    this.toggle.title = this.title;
    tell(this.about, this.aboutText());
    this.progress(job);
    if (isNew) {
      this.shownRev = job.rev;
      this.element.dataset.state = job.state;
      tell(this.state, this.stateText());
      this.buildActions();
      if (this.isOpen) this.tellPanel();
    } else if (job.state === "queued") {
      tell(this.state, this.stateText());
    }
    if (before !== job.state) this.announceEnd();
  }

  /** Take whatever is told next, also if it seems older. */
  forget() {
    this.job.rev = -1;
  }

  get isCheck() {
    return Boolean(this.job.options.dry_run);
  }

  aboutText() {
    const { inputs, options, owner, created } = this.job;
    const words = [visible(baseOf(inputs.alignments)), `${options.size ?? SIZE} px`];
    if (options.output_layout) words.push(options.output_layout);
    if (options.format) words.push(options.format);
    if (owner !== this.host.me) words.push(`of ${owner}`);
    words.push(time(created));
    return words.join(" · ");
  }

  stateText() {
    const { state, position } = this.job;
    if (state === "queued") return this.job.note ? "Waiting" : `Queued, ${place(position ?? 1)}`;
    const words = {
      running: "Running",
      finishing: "Putting the parts together",
      cancelling: "Stopping",
      succeeded: "Done",
      partial: "Done in part",
      failed: "Failed",
      cancelled: "Cancelled",
    };
    return words[state] ?? state;
  }

  progress({ frames, of, faces, rate, eta }) {
    Object.assign(this.job, { frames, of, faces, rate, eta });
    const { state, started, ended } = this.job;
    const words = [];
    if (this.hasEnded) {
      if (state === "failed") words.push(sentence(this.job.error ?? ""));
      else if (!this.isCheck && (faces || state !== "cancelled")) words.push(counted(faces, "face"));
      if (state === "cancelled" && frames && of) words.push(`${count(frames)} of ${counted(of, "frame")}`);
      if (started && ended && ["succeeded", "partial"].includes(state)) words.push(duration(ended - started));
    } else if (state !== "queued" || frames) {
      if (of) words.push(`${count(frames)} of ${count(of)}`);
      if (state === "running" && rate) words.push(`${count(rate)}/s`);
      if (state === "running" && eta !== null) words.push(`${duration(eta)} left`);
    }
    tell(this.figures, words.join(" · "));
    const runs = ["running", "finishing", "cancelling"].includes(state);
    this.bar.hidden = !runs;
    if (of) this.bar.value = state === "finishing" ? 1 : frames / of;
    else this.bar.removeAttribute("value");
    this.bar.setAttribute("aria-label", `Frames of ${this.title}`);
    if (this.isOpen && runs && of && performance.now() - this.spoke > QUIET_SECONDS * 1000) {
      this.spoke = performance.now();
      announce(`${this.title}: ${Math.floor((frames / of) * 100)} percent.`);
    }
  }

  announceEnd() {
    if (this.hasEnded) announce(`${this.title}: ${this.stateText()}. ${sentence(this.job.error ?? "")}`);
  }

  buildActions() {
    const { state, links } = this.job;
    const focused = this.actions.contains(document.activeElement);
    const buttons = this.acts(false);
    if (["succeeded", "partial"].includes(state) && !this.isCheck) {
      buttons.push(
        make("a", { className: "button", href: links["faces.tar"], download: "", textContent: "Download faces" }),
      );
    }
    if (state === "failed" || state === "partial") {
      buttons.unshift(button("Why?", () => this.isOpen || this.host.toggled(this)));
    }
    for (const one of buttons) one.setAttribute("aria-describedby", `${this.panel.id}-name`);
    this.toggle.id = `${this.panel.id}-name`;
    this.actions.replaceChildren(...buttons);
    if (focused) (this.actions.firstElementChild ?? this.toggle).focus();
  }

  acts(inside) {
    const { state } = this.job;
    if (!this.host.submit || (this.isCheck && ENDED.includes(state))) return [];
    return ACTS.filter((act) => act.states.includes(state) && Boolean(act.inside) === inside).map((act) =>
      button(act.text, (event) => this.act(act.name, event.target)),
    );
  }

  async act(name, by) {
    by.disabled = true;
    try {
      const job = await ask("POST", `/v1/jobs/${this.id}/${name}`);
      this.say("");
      if (name === "resume") this.follow(true);
      this.update(job);
    } catch (error) {
      this.say(error.message);
    } finally {
      by.disabled = false;
    }
  }

  async remove() {
    const { faces } = this.job;
    const what = faces
      ? `Its ${counted(faces, "face")} on the server go with it`
      : "What it made on the server goes with it";
    const yes = await asked(`Remove ${this.title}?`, `${what}. What you downloaded stays.`, "Remove", "Keep it");
    if (!yes) return;
    try {
      await ask("DELETE", `/v1/jobs/${this.id}`);
      this.host.removed(this);
    } catch (error) {
      this.say(error.message);
    }
  }

  /** Have the draft be like it. */
  async again(by) {
    by.disabled = true;
    try {
      await this.host.again(this.job);
    } catch (error) {
      this.say(error.message);
    } finally {
      by.disabled = false;
    }
  }

  /** The server is back. */
  retry() {
    if (this.isOpen) this.faces.retry();
  }

  say(text) {
    if (!text && !this.isOpen) return;
    if (!this.isOpen) this.host.toggled(this);
    tell(this.fault, sentence(text));
  }

  // ---- unfolded

  open() {
    if (this.isOpen) return;
    this.panel.hidden = false;
    this.toggle.setAttribute("aria-expanded", "true");
    this.why = make("p", { className: "why" });
    this.errors = make("div", {});
    this.fault = make("p", { className: "fault", role: "alert" });
    this.faces = new Faces(this.id, this.job.options.size ?? SIZE);
    this.facts = make("dl", { className: "facts-list" });
    this.more = make("p", { className: "actions" });
    this.panel.replaceChildren(this.why, this.errors, this.faces.element, this.facts, this.more, this.fault);
    this.tellPanel();
    this.follow(false);
  }

  close() {
    if (!this.isOpen) return;
    this.unfollow();
    this.panel.hidden = true;
    this.toggle.setAttribute("aria-expanded", "false");
    this.panel.replaceChildren();
  }

  tellPanel() {
    const { error, note, inputs, options, devices, started, ended, owner, state } = this.job;
    tell(this.why, sentence(error ?? note ?? (state === "queued" ? "It begins when those before it have ended." : "")));
    this.why.hidden = !this.why.textContent;
    this.faces.live(!this.hasEnded);
    const chosen = Object.entries(options).map(
      ([name, value]) => `${optionName(name).toLowerCase()} ${value === true ? "on" : value}`,
    );
    const said = {
      "Alignments file": visible(inputs.alignments),
      Frames: visible(inputs.frames),
      Options: chosen.join(", ") || "none but the usual",
      Device: devices.join(", "),
      Ran: started ? `${time(started)} to ${ended ? time(ended) : "now"}` : "",
      Owner: owner === this.host.me ? "" : owner,
      Id: this.id,
    };
    this.facts.replaceChildren(
      ...Object.entries(said)
        .filter(([, text]) => text)
        .map(([name, text]) =>
          make("div", {}, make("dt", { textContent: name }), make("dd", {}, make("bdi", { textContent: text }))),
        ),
    );
    this.tellMore();
    this.tellErrors();
    this.tellFaces();
  }

  tellMore() {
    const { links, state } = this.job;
    const focused = this.more.contains(document.activeElement);
    const link = (text, href, name) => make("a", { className: "button", href, download: name, textContent: text });
    const more = [];
    if (this.hasEnded && !this.isCheck) {
      if (state !== "failed") more.push(link("Faces (tar)", links["faces.tar"], ""));
      if (["succeeded", "partial"].includes(state)) more.push(link("Alignments file", links.alignments, ""));
    }
    if (this.hasEnded && links.report) more.push(link("Report", links.report, `${this.id}-report.json`));
    more.push(link("Log", `${links.log}?tail=10000`, `${this.id}-log.txt`));
    if (this.hasEnded && this.host.submit) {
      if (!this.isCheck) more.push(button("Again, with other options", (event) => this.again(event.target)));
      more.push(button("Remove…", () => this.remove()));
    }
    this.more.replaceChildren(...this.acts(true), ...more);
    if (focused) this.more.firstElementChild.focus();
  }

  tellFaces() {
    const { faces, state } = this.job;
    const some = this.faces.newest.length > 0;
    this.faces.element.hidden = this.isCheck || (!some && (this.hasEnded || state === "queued"));
    const which = this.hasEnded ? `The newest ${count(MOST)}` : "Some of the newest";
    const all = faces > MOST ? `${which} of ${count(faces)} faces` : "The newest faces";
    this.faces.say(some ? all : "The first faces come in a moment.");
  }

  /** What failed, frame by frame, is in the report. */
  async tellErrors() {
    const { links, rev, state } = this.job;
    if (!["failed", "partial"].includes(state) || !links.report) {
      this.errors.replaceChildren();
      return;
    }
    let report;
    try {
      report = await ask("GET", links.report);
    } catch {
      return; // it is asked for again when the job is told again
    }
    if (rev !== this.job.rev || !this.isOpen) return;
    const { errors = [] } = report;
    if (!errors.length) return;
    const rows = errors
      .slice(0, MOST_ERRORS)
      .map(({ frame, index, reason }) =>
        make(
          "li",
          {},
          make("bdi", { className: "name", textContent: visible(frame) }),
          index === null || index === undefined ? null : ` (face ${count(index + 1)})`,
          make("span", { textContent: `: ${visible(String(reason))}` }),
        ),
      );
    const more = errors.length - rows.length;
    this.errors.replaceChildren(
      make(
        "details",
        { open: errors.length <= 8 },
        make("summary", { textContent: `${counted(errors.length, "failure")}, frame by frame` }),
        make("ul", { className: "failures" }, rows),
        more > 0 ? make("p", { className: "note", textContent: `${count(more)} more are in the report.` }) : null,
      ),
    );
  }

  // ---- events

  /** Follow its events, while it is unfolded and the page is seen. */
  follow(anew) {
    if (!this.isOpen || document.hidden || (this.stream && !anew)) return;
    this.unfollow();
    const stream = (this.stream = new EventSource(`/v1/jobs/${this.id}/events?newest=${MOST}`));
    stream.addEventListener("face", (event) => {
      const face = JSON.parse(event.data);
      if (!this.faces.newest.some((known) => known.file === face.file && known.sha1 === face.sha1))
        this.faces.add(face);
      if (this.faces.newest.length === 1) this.tellFaces();
    });
    stream.addEventListener("anew", () => this.faces.clear());
    stream.addEventListener("progress", (event) => {
      this.progress(JSON.parse(event.data));
      this.tellFaces();
    });
    stream.addEventListener("state", (event) => {
      const job = JSON.parse(event.data);
      if (job.state === "removed") {
        this.host.removed(this);
        return;
      }
      this.update(job);
      if (this.hasEnded) this.unfollow();
    });
    stream.addEventListener("error", () => {
      if (stream.readyState !== EventSource.CLOSED) return; // it comes back by itself
      this.unfollow();
      this.again = setTimeout(() => this.follow(false), AGAIN_SECONDS * 1000);
    });
  }

  unfollow() {
    clearTimeout(this.again);
    this.stream?.close();
    this.stream = null;
  }
}
