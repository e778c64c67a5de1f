/** The page: who is here, what the box is, the jobs; all asked for again and again. */

import { byId, make, tell } from "./elements.js";
import { Draft } from "./draft.js";
import { Job } from "./job.js";
import { Refusal, Silence, ask, backoff, door, pause } from "./server.js";
import { bytes, count, counted, sentence, visible } from "./words.js";

const BUSY_SECONDS = 2;
const IDLE_SECONDS = 10;
const MOST_OPEN = 3; // each holds a connection
const LISTED = 50;

class Page {
  constructor() {
    this.jobs = new Map();
    this.next = null;
    this.failures = 0;
    this.wake = () => {};
    byId("earlier").addEventListener("click", () => this.showEarlier());
    addEventListener("hashchange", () => this.unfold());
    document.addEventListener("visibilitychange", () => this.seen());
    addEventListener("online", () => this.wake());
    door.addEventListener("stranger", () => this.askForToken());
    byId("door").addEventListener("cancel", (event) => event.preventDefault());
    byId("door").addEventListener("submit", (event) => this.show(event));
  }

  async begin() {
    await this.takeToken();
    while (!(await this.settle())) await this.wait(backoff(this.failures));
    for (;;) {
      await this.look();
      const busy = [...this.jobs.values()].some((job) => !job.hasEnded);
      await this.wait(this.failures ? backoff(this.failures) : document.hidden || !busy ? IDLE_SECONDS : BUSY_SECONDS);
    }
  }

  wait(seconds) {
    return Promise.race([pause(seconds), new Promise((resolve) => (this.wake = resolve))]);
  }

  // ---- who is here

  /** A token may come in the address; it is not to stay there. */
  async takeToken() {
    const token = new URLSearchParams(location.hash.slice(1)).get("token");
    if (token === null) return;
    history.replaceState(null, "", location.pathname);
    await ask("POST", "/v1/session", { token }).catch(() => {});
  }

  askForToken() {
    if (!byId("door").open) byId("door").showModal();
  }

  async show(event) {
    event.preventDefault();
    tell(byId("door-fault"), "");
    try {
      await ask("POST", "/v1/session", { token: byId("token").value });
      byId("token").value = "";
      byId("door").close();
      this.wake();
    } catch (error) {
      tell(byId("door-fault"), error.status === 401 ? "That is not a token of this server." : sentence(error.message));
      byId("token").select();
    }
  }

  /** What is asked once; whether it was answered. */
  async settle() {
    return this.answered(async () => {
      const session = await ask("GET", "/v1/session");
      this.me = session.name;
      this.submit = session.scopes.some((scope) => scope === "submit" || scope === "admin");
      tell(byId("who"), session.name === "local" ? "" : session.name);
      if (!this.submit || this.draft) return;
      const [{ options }, { roots }] = await Promise.all([ask("GET", "/v1/options"), ask("GET", "/v1/roots")]);
      this.draft = new Draft(roots, options, (job) => this.started(job));
    });
  }

  /** Do what asks the service; tell where it says nothing. */
  async answered(questions) {
    try {
      await questions();
      if (this.failures) for (const job of this.jobs.values()) job.retry();
      this.failures = 0;
      byId("silence").hidden = true;
      return true;
    } catch (error) {
      this.failures += 1;
      if (error.status === 401) return false;
      if (!(error instanceof Silence || error instanceof Refusal)) throw error;
      const again = "It is asked again by itself; nothing that runs there is lost.";
      tell(
        byId("silence"),
        error instanceof Silence ? `The server does not answer. ${again}` : sentence(error.message),
      );
      byId("silence").hidden = false;
      return false;
    }
  }

  // ---- what there is

  look() {
    return this.answered(async () => {
      const [box, page] = await Promise.all([ask("GET", "/v1/devices"), ask("GET", `/v1/jobs?limit=${LISTED}`)]);
      if (this.failures) for (const job of this.jobs.values()) job.forget(); // it may be another server, or its table a new one
      this.tellBox(box);
      this.take(page);
    });
  }

  tellBox({ devices, disk_free_bytes: free, jobs }) {
    const cutting = devices.filter((device) => device.kinds.includes("cut"));
    const gpus = cutting.filter((device) => device.name.startsWith("cuda")).length;
    const words = [];
    if (gpus) words.push(counted(gpus, "GPU"));
    if (cutting.length > gpus)
      words.push(gpus || cutting.length - gpus === 1 ? "CPU" : `CPU, ${count(cutting.length - gpus)} at a time`);
    const [running, queued] = [(jobs.running ?? 0) + (jobs.finishing ?? 0), jobs.queued ?? 0];
    words.push(
      ...(running || queued ? [`${count(running)} running`, `${count(queued)} queued`] : ["idle"]),
      `${bytes(free)} free`,
    );
    const faults = cutting.filter((device) => device.fault);
    byId("box").replaceChildren(
      make("span", { textContent: words.join(" · ") }),
      ...faults.map((device) =>
        make("span", { className: "fault", textContent: `${device.name} is out: ${visible(device.fault)}` }),
      ),
    );
  }

  /** The newest page of jobs: what is not in it any more was removed by somebody. */
  take({ jobs, next }) {
    const there = new Set(jobs.map((job) => job.id));
    const oldest = next === null ? -Infinity : jobs.at(-1).created;
    for (const job of [...this.jobs.values()]) {
      if (job.job.created > oldest && !there.has(job.id)) this.removed(job, false);
    }
    if (!this.hasEarlier) this.next = next;
    this.add(jobs);
  }

  add(jobs) {
    for (const job of jobs.filter(({ id }) => id !== this.draft?.check.id)) {
      if (this.jobs.has(job.id)) this.jobs.get(job.id).update(job);
      else this.jobs.set(job.id, new Job(job, this));
    }
    const sorted = [...this.jobs.values()].sort((a, b) => b.job.created - a.job.created || (a.id < b.id ? 1 : -1));
    const list = byId("jobs");
    sorted.forEach((job, at) => {
      if (list.children[at] !== job.element) list.insertBefore(job.element, list.children[at] ?? null);
    });
    byId("earlier").hidden = this.next === null;
    tell(byId("no-jobs"), this.submit ? "No jobs yet. The first one begins above." : "No jobs yet.");
    byId("no-jobs").hidden = sorted.length > 0;
    this.unfold();
    const running = sorted.filter((job) => job.job.state === "running" && job.job.of);
    const done = running.map((job) => job.job.frames / job.job.of);
    document.title = done.length ? `${Math.floor(100 * Math.min(...done))} % · gpu-extract` : "gpu-extract";
  }

  async showEarlier() {
    const first = this.next;
    await this.answered(async () => {
      const { jobs, next } = await ask("GET", `/v1/jobs?limit=${LISTED}&after=${encodeURIComponent(first)}`);
      this.hasEarlier = true;
      this.next = next;
      this.add(jobs);
      this.jobs.get(jobs[0]?.id)?.toggle.focus();
    });
  }

  // ---- jobs tell

  started(job) {
    this.add([job]);
    this.toggled(this.jobs.get(job.id));
    this.wake();
  }

  again(job) {
    return this.draft.again(job);
  }

  removed(job, byHand = true) {
    const follower = job.element.nextElementSibling ?? job.element.previousElementSibling;
    job.close();
    job.element.remove();
    this.jobs.delete(job.id);
    if (byHand) (follower?.querySelector(".toggle") ?? byId("jobs-title")).focus();
    if (this.unfolded.includes(job.id))
      this.setUnfolded(
        this.unfolded.filter((id) => id !== job.id),
        true,
      );
    byId("no-jobs").hidden = this.jobs.size > 0;
  }

  /** Which are unfolded stands in the address: loading again, Back and a second tab show the same. */
  get unfolded() {
    return location.hash
      .slice(1)
      .split(",")
      .filter((id) => /^[a-z0-9-]{1,64}$/.test(id))
      .slice(-MOST_OPEN);
  }

  setUnfolded(ids, silently = false) {
    const url = ids.length ? `#${ids.join(",")}` : location.pathname;
    history[silently ? "replaceState" : "pushState"](null, "", url);
    this.unfold();
  }

  toggled(job) {
    const others = this.unfolded.filter((id) => id !== job.id);
    this.setUnfolded(job.isOpen ? others : [...others, job.id].slice(-MOST_OPEN));
  }

  unfold() {
    const unfolded = this.unfolded;
    for (const job of this.jobs.values()) {
      if (unfolded.includes(job.id)) job.open();
      else job.close();
    }
  }

  seen() {
    for (const job of this.jobs.values()) {
      if (document.hidden) job.unfollow();
      else if (job.isOpen && !(job.hasEnded && job.faces.newest.length)) job.follow(false);
    }
    if (!document.hidden) this.wake();
  }
}

const page = new Page();
addEventListener("popstate", () => page.unfold());
page.begin();
