/** The form of a job's options, built from what the service says that there are. */

import { button, make, tell } from "./elements.js";
import { FLAG, begun, count, counted, optionName } from "./words.js";

const FIRST = ["size", "output_layout", "format"];
const OWN = ["dry_run"]; // what Check is

const helpOf = (text) => begun(text.replace(FLAG, (_, name) => optionName(name).toLowerCase()));

export class Options {
  /** `onChange` is told of each change. */
  constructor(rows, values, onChange) {
    this.rows = rows.filter((row) => !OWN.includes(row.name));
    this.onChange = onChange;
    this.inputs = new Map(this.rows.map((row) => [row.name, input(row)]));
    this.summary = make("summary", {}, "All options ");
    this.changed = this.summary.appendChild(make("span", { className: "changed" }));
    this.first = make(
      "div",
      { className: "options first" },
      this.pick(FIRST).map((row) => this.field(row, false)),
    );
    const others = this.rows.filter((row) => !FIRST.includes(row.name));
    const groups = [...new Set(others.map((row) => row.group))];
    this.all = make(
      "details",
      { className: "all-options" },
      this.summary,
      groups.map((group) =>
        this.group(
          group,
          others.filter((row) => row.group === group),
        ),
      ),
      make(
        "p",
        {},
        button("Set all back", () => this.set({})),
      ),
    );
    this.set(values);
  }

  pick(names) {
    return names.map((name) => this.rows.find((row) => row.name === name)).filter(Boolean);
  }

  /** Those that are not as they would be by themselves. */
  get values() {
    const values = {};
    for (const row of this.rows) {
      const value = valueOf(row, this.inputs.get(row.name));
      if (value !== null && value !== row.default) values[row.name] = value;
    }
    return values;
  }

  set(values) {
    for (const row of this.rows) {
      const element = this.inputs.get(row.name);
      const value = values[row.name] ?? row.default;
      if (element.type === "checkbox") element.checked = Boolean(value);
      else element.value = value ?? "";
    }
    this.tell();
  }

  focus() {
    this.inputs.get(this.pick(FIRST)[0]?.name)?.focus();
  }

  /** The first input whose value a browser can see is none. */
  get fault() {
    return [...this.inputs.values()].find((element) => !element.checkValidity()) ?? null;
  }

  tell() {
    const changed = Object.keys(this.values).filter((name) => !FIRST.includes(name)).length;
    tell(this.changed, changed ? `${count(changed)} changed` : "");
    this.onChange();
  }

  group(name, rows) {
    const fields = make(
      "div",
      { className: "options" },
      rows.map((row) => this.field(row, true)),
    );
    return make("fieldset", {}, make("legend", { textContent: begun(name) }), fields);
  }

  field(row, explained) {
    const element = this.inputs.get(row.name);
    element.addEventListener("input", () => this.tell());
    const label = make("label", { for: element.id, textContent: optionName(row.name) });
    const help = make("small", { id: `${element.id}-help`, textContent: helpOf(row.help) });
    element.setAttribute("aria-describedby", help.id);
    if (!explained) {
      label.title = helpOf(row.help);
      help.className = "unseen";
    }
    return make("div", { className: row.type === "OnOff" ? "field switch" : "field" }, label, element, help);
  }
}

function input(row) {
  const id = `option-${row.name}`;
  if (row.type === "OnOff") return make("input", { id, type: "checkbox" });
  if (row.type === "OneOf") {
    const words = row.default === null ? ["", ...row.choices] : row.choices;
    return make(
      "select",
      { id },
      words.map((word) => make("option", { value: word, textContent: word || "none" })),
    );
  }
  if (row.type === "Between") {
    const bounds = { min: row.least ?? "", max: row.most ?? "", placeholder: row.default === null ? "none" : "" };
    return make("input", { id, type: "number", inputMode: "numeric", step: "1", ...bounds });
  }
  return make("input", { id, type: "text", spellcheck: false, placeholder: counted(row.choices?.length ?? 0, "word") });
}

/** Null where nothing was said. */
function valueOf(row, element) {
  if (element.type === "checkbox") return element.checked;
  const text = element.value.trim();
  if (text === "") return null;
  return row.type === "Between" ? Number(text) : text;
}
