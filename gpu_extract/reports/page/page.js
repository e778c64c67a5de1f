"use strict";

/** What there is to say of a face, in words. */
const STATES = [
  ["failed", "failed"],
  ["unreadable", "cannot be read"],
  ["outside", "outside the picture"],
  ["gone", "deleted since the run"],
  ["extra", "not written by the run"],
];
const RANGES = {
  side: { words: "Faces by their size in the frame", sorts: ["Size, smallest first", "Size, largest first"] },
  sharpness: { words: "Faces by their sharpness", sorts: ["Sharpness, least first", "Sharpness, most first"] },
  yaw: { words: "Faces by how far they look left or right", sorts: ["Looks left first", "Looks right first"], start: -90, step: 15 },
};
const SOON_MS = 120;

/** Called when the list of faces is there. */
function begin() {
  const selected = new Set();
  const orders = new Map();
  const charts = {};
  const ranges = Object.keys(RANGES).filter((name) => gallery.columns[name] !== null);
  const { columns, states } = gallery;
  let order = new Uint32Array(0);
  let due = null;

  const on = {
    isSelected: (row) => selected.has(row),
    toggle(rows, is) {
      for (const row of rows) {
        if (is && gallery.isThere(row)) selected.add(row);
        else selected.delete(row);
      }
      grid.refresh();
      tellSelected();
    },
    all: () => on.toggle(order, true),
    open: (at) => viewer.open(order, at),
    moved: (at) => grid.go(at),
    caption(row) {
      const name = byId("sort").value.replace(/[+-]$/, "");
      const value = name in RANGES ? columns[name][row] : NaN;
      const words = STATES.filter(([state]) => gallery.has(row, state)).map(([, text]) => text);
      const said = Number.isNaN(value) ? endOf(row) : `${short(value)}${name === "side" ? " px" : name === "yaw" ? "°" : ""}`;
      return [[gallery.nameOf(row), ...words].join(", "), words[0] ?? said];
    },
  };
  const grid = new Grid(byId("grid"), on);
  const viewer = new Viewer(byId("viewer"), on);

  /** The end of a face's name, which tells it from its neighbours. */
  function endOf(row) {
    const name = gallery.nameOf(row).replace(/, face (\d+)$/, " · $1").replace(/\.[a-z0-9]{1,5}(?= ·|$)/i, "");
    return name.length > 13 ? `…${name.slice(-12)}` : name;
  }

  function number(id) {
    const value = byId(id).value;
    return value === "" ? null : Number(value);
  }

  /** All rows in the order of a column; the list's own order is that of frames. */
  function sorted(by) {
    if (!orders.has(by)) {
      const rows = Uint32Array.from({ length: gallery.count }, (_, row) => row);
      const values = columns[by.slice(0, -1)];
      if (by === "frame-") rows.reverse();
      else if (by !== "frame+") {
        const sign = by.endsWith("-") ? -1 : 1;
        const key = (row) => (Number.isNaN(values[row]) ? Infinity : sign * values[row]);
        rows.sort((one, other) => key(one) - key(other) || one - other);
      }
      orders.set(by, rows);
    }
    return orders.get(by);
  }

  function apply() {
    due = null;
    const text = byId("text").value.trim().toLowerCase();
    const only = number("index");
    const show = byId("show").value;
    const mask = show === "there" ? states.failed | states.gone : show === "all" ? 0 : states[show];
    const wants = (state) => (show === "there" || show === "all" ? (state & mask) === 0 : (state & mask) !== 0);
    const inFrame = text ? gallery.frames.map((name) => name.toLowerCase().includes(text)) : null;
    const bounds = ranges
      .map((name) => [columns[name], number(`${name}-from`), number(`${name}-to`)])
      .filter(([, from, to]) => from !== null || to !== null)
      .map(([values, from, to]) => [values, from ?? -Infinity, to ?? Infinity]);
    order = sorted(byId("sort").value).filter(
      (row) =>
        wants(columns.state[row]) &&
        (only === null || columns.index[row] === only) &&
        bounds.every(([values, from, to]) => values[row] >= from && (values[row] < to || (to === from && values[row] === to))) &&
        (inFrame === null || inFrame[columns.frame[row]] || gallery.fileOf(row).toLowerCase().includes(text)),
    );
    for (const name of ranges) charts[name].mark(number(`${name}-from`), number(`${name}-to`));
    grid.list(order);
    tellCount();
  }

  function tellCount() {
    const isCut = order.length > grid.most;
    const all = order.length === gallery.count ? "" : ` of ${count(gallery.count)}`;
    tell(byId("count"), `${counted(order.length, "face")}${all}${isCut ? `; the first ${count(grid.most)} are shown` : ""}`);
    const empty = byId("empty");
    empty.hidden = order.length > 0;
    byId("grid").hidden = order.length === 0;
    tell(empty, gallery.count ? "No face passes these filters." : "There are no faces in the folder.");
    byId("select-all").disabled = order.length === 0;
  }

  function tellSelected() {
    const none = selected.size === 0;
    for (const id of ["select-none", "copy", "save"]) byId(id).disabled = none;
    tell(byId("news"), none ? "" : `${counted(selected.size, "face")} selected.`);
  }

  const names = () => [...selected].sort((one, other) => one - other).map((row) => gallery.fileOf(row));

  function soon() {
    clearTimeout(due);
    due = setTimeout(apply, SOON_MS);
  }

  function fillShow() {
    const counts = Object.fromEntries(STATES.map(([state]) => [state, 0]));
    let there = 0;
    for (const state of columns.state) {
      if ((state & (states.failed | states.gone)) === 0) there += 1;
      for (const [name] of STATES) if (state & states[name]) counts[name] += 1;
    }
    const choices = [["there", "faces", there], ["all", "everything", gallery.count]];
    if (!there) choices.reverse();
    for (const [state, words] of STATES) if (counts[state]) choices.push([state, words, counts[state]]);
    byId("show").replaceChildren(
      ...choices.map(([value, words, many]) => make("option", { value, textContent: `${words} (${count(many)})` })),
    );
    const failed = byId("show-failed");
    if (!failed) return;
    failed.hidden = false;
    failed.addEventListener("click", () => {
      byId("tools").reset();
      setTimeout(() => {
        byId("show").value = "failed";
        apply();
        byId("grid").focus({ preventScroll: true });
        byId("faces-title").scrollIntoView();
      });
    });
  }

  function fillSort() {
    const choices = [["frame+", "Frame"], ["frame-", "Frame, last first"]];
    for (const name of ranges) {
      choices.push([`${name}+`, RANGES[name].sorts[0]], [`${name}-`, RANGES[name].sorts[1]]);
    }
    byId("sort").replaceChildren(...choices.map(([value, textContent]) => make("option", { value, textContent })));
  }

  for (const name of ranges) {
    const change = (from, to) => {
      byId(`${name}-from`).value = from ?? "";
      byId(`${name}-to`).value = to ?? "";
      apply();
    };
    charts[name] = new Chart(byId(`chart-${name}`), columns[name], RANGES[name], change);
  }
  fillShow();
  fillSort();
  const tools = byId("tools");
  tools.addEventListener("input", soon);
  tools.addEventListener("submit", (event) => event.preventDefault());
  tools.addEventListener("reset", () => setTimeout(() => {
    byId("show").value = byId("show").options[0].value;
    apply();
  }));
  byId("select-all").addEventListener("click", on.all);
  byId("select-none").addEventListener("click", () => on.toggle([...selected], false));
  byId("copy").addEventListener("click", async () => {
    const done = await copied(`${names().join("\n")}\n`);
    const said = done ? `${counted(selected.size, "name")} copied, a line each.` : "The browser did not copy them; save them instead.";
    tell(byId("news"), said);
  });
  byId("save").addEventListener("click", () => {
    const url = URL.createObjectURL(new Blob([`${names().join("\n")}\n`], { type: "text/plain" }));
    make("a", { href: url, download: "faces.txt" }).click();
    setTimeout(() => URL.revokeObjectURL(url), 10_000);
    tell(byId("news"), `${counted(selected.size, "name")} saved, a line each.`);
  });
  apply();
}

for (const command of document.querySelectorAll(".command")) {
  const copy = button("Copy", async () => {
    tell(copy, (await copied(command.querySelector("code").textContent)) ? "Copied" : "Not copied");
    setTimeout(() => tell(copy, "Copy"), 1500);
  });
  command.append(copy);
}
