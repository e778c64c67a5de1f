"use strict";

/** A histogram whose bars are filters. A bar that is pressed again, or the last one left, lets everything through. */
class Chart {
  static BARS = 12;
  static WIDTH = 300;
  static HEIGHT = 72;

  /** `values` may hold NaN for what is not known; `onRange` is called with the ends of a range, or nulls. */
  constructor(element, values, { words, start, step }, onRange) {
    Object.assign(this, { element, values, words, start, step, onRange, from: null, to: null, bars: [] });
    this.scale();
    this.drawBars();
  }

  /** Round steps, or those that are given; what is far out shares the last bar, or the first. */
  scale() {
    const known = this.values.filter((value) => !Number.isNaN(value)).sort();
    const at = (share) => known[Math.min(known.length - 1, Math.floor(share * known.length))];
    const low = known.length > 50 ? at(0.005) : known[0];
    const high = known.length > 50 ? at(0.995) : known.at(-1);
    const raw = Math.max((high - low) / (Chart.BARS - 1), Math.abs(high) / 100, 1e-6);
    const power = 10 ** Math.floor(Math.log10(raw));
    this.step ??= [1, 1.5, 2, 2.5, 3, 4, 5, 6, 8, 10].map((times) => times * power).find((step) => step >= raw * 0.999);
    this.start ??= Math.floor(low / this.step) * this.step;
    this.counts = new Uint32Array(Chart.BARS);
    for (const value of known) this.counts[this.barOf(value)] += 1;
    this.low = known[0];
    this.high = known.at(-1);
  }

  barOf(value) {
    return Math.min(Chart.BARS - 1, Math.max(0, Math.floor((value - this.start) / this.step)));
  }

  /** The range of a bar; open where it is the first or the last. */
  rangeOf(at) {
    const edge = (bar) => Number((this.start + bar * this.step).toPrecision(9));
    return [at === 0 && this.low < this.start ? null : edge(at), at === Chart.BARS - 1 ? null : edge(at + 1)];
  }

  wordsOf(at) {
    const [from, to] = this.rangeOf(at);
    const range = from === null ? `under ${short(to)}` : to === null ? `${short(from)} and more` : `${short(from)} to ${short(to)}`;
    return `${range}: ${counted(this.counts[at], "face")}`;
  }

  drawBars() {
    const most = Math.max(1, ...this.counts);
    const wide = Chart.WIDTH / Chart.BARS;
    const svg = draw("svg", { viewBox: `0 0 ${Chart.WIDTH} ${Chart.HEIGHT}`, preserveAspectRatio: "none", role: "group", "aria-label": this.words });
    this.counts.forEach((number, at) => {
      const high = number ? Math.max(2, ((Chart.HEIGHT - 4) * number) / most) : 0;
      const bar = draw(
        "g",
        { class: "bar-of", role: "button", tabindex: at === 0 ? 0 : -1, "aria-pressed": "false", "aria-label": this.wordsOf(at) },
        draw("title", {}, this.wordsOf(at)),
        draw("rect", { class: "hit", x: at * wide, y: 0, width: wide, height: Chart.HEIGHT }),
        draw("rect", { class: "fill", x: at * wide + 1, y: Chart.HEIGHT - high, width: wide - 2, height: high }),
      );
      bar.addEventListener("click", (event) => this.press(at, event.shiftKey));
      bar.addEventListener("keydown", (event) => this.key(event, at));
      this.bars.push(bar);
      svg.append(bar);
    });
    const ends = make("p", { className: "ends", "aria-hidden": "true" });
    for (const at of [0, 3, 6, 9]) ends.append(make("span", { textContent: short(this.start + at * this.step) }));
    this.element.replaceChildren(svg, ends);
  }

  key(event, at) {
    const to = { ArrowLeft: at - 1, ArrowRight: at + 1, Home: 0, End: Chart.BARS - 1 }[event.key];
    if (event.key === "Enter" || event.key === " ") {
      event.preventDefault();
      this.press(at, event.shiftKey);
    } else if (to !== undefined) {
      event.preventDefault();
      const next = this.bars[to];
      if (!next) return;
      this.bars[at].setAttribute("tabindex", -1);
      next.setAttribute("tabindex", 0);
      next.focus();
    }
  }

  /** With Shift the range grows as far as the bar. */
  press(at, grows) {
    let [from, to] = this.rangeOf(at);
    if (grows && (this.from !== null || this.to !== null)) {
      from = from === null || this.from === null ? null : Math.min(from, this.from);
      to = to === null || this.to === null ? null : Math.max(to, this.to);
    } else if (from === this.from && to === this.to) {
      [from, to] = [null, null];
    }
    this.onRange(from, to);
  }

  /** Show which range is in force. */
  mark(from, to) {
    Object.assign(this, { from, to });
    const isOn = from !== null || to !== null;
    this.bars.forEach((bar, at) => {
      const [low, high] = this.rangeOf(at);
      const isIn = (from === null || (low !== null && low >= from)) && (to === null || (high !== null && high <= to));
      bar.setAttribute("aria-pressed", String(isOn && isIn));
      bar.classList.toggle("out", isOn && !isIn);
    });
  }
}
