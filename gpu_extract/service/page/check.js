/** A check: a job that only plans, and what it found. */

import { announce, button, make, tell } from "./elements.js";
import { ENDED } from "./job.js";
import { Silence, ask, newId, pause } from "./server.js";
import { bytes, counted, duration, sentence } from "./words.js";

export class Check {
  /** `draft` says what is to be checked, and is told what comes of it. */
  constructor(draft) {
    Object.assign(this, { draft, id: null });
    this.button = button("Check", () => this.press());
    this.result = make("div", { className: "result" });
  }

  /** What was found is of something else now. */
  forget() {
    this.result.replaceChildren();
  }

  press() {
    if (this.id) ask("POST", `/v1/jobs/${this.id}/cancel`).catch((error) => this.draft.refuse(error.message));
    else this.look();
  }

  /** Its job is removed when it was read. */
  async look() {
    const request = this.draft.request();
    if (!request) return;
    const id = (this.id = `check-${newId("")}`);
    const { changes } = this.draft;
    this.draft.busy(true);
    this.button.disabled = false;
    tell(this.button, "Stop checking");
    this.forget();
    try {
      this.draft.say("Checking…");
      let job = await ask("PUT", `/v1/jobs/${id}`, { ...request, options: { ...request.options, dry_run: true } });
      for (let looks = 0; !ENDED.includes(job.state); looks += 1) {
        await pause(looks < 8 ? 0.25 : 1);
        if (looks === 8) this.draft.say("Checking… A long video is read through once.");
        job = await answered(() => ask("GET", `/v1/jobs/${id}`));
      }
      this.draft.say("");
      if (job.state === "failed") this.draft.refuse(job.error ?? "The check failed.");
      else if (job.state !== "cancelled") await this.tellPlan(id, changes);
      ask("DELETE", `/v1/jobs/${id}`).catch(() => {});
    } catch (error) {
      this.draft.refuse(error.message);
    } finally {
      this.id = null;
      tell(this.button, "Check");
      this.draft.busy(false);
    }
  }

  /** What was found, unless something else is wanted since. */
  async tellPlan(id, changes) {
    const report = await answered(() => ask("GET", `/v1/jobs/${id}/report`));
    const box = await answered(() => ask("GET", "/v1/devices"));
    if (changes !== this.draft.changes) return;
    this.result.replaceChildren(plan(report, box.disk_free_bytes));
    announce(this.result.textContent);
  }
}

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
