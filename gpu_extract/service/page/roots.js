/** Files of the server's own folders, to choose from. */

import { button, byId, make } from "./elements.js";
import { ask, pathOf } from "./server.js";
import { bytes, sentence, visible } from "./words.js";

const MOST_SHOWN = 2000;

/**
 * Have a file of a root chosen; null if none was. A folder, too, where `folders` may be.
 *
 * It begins in the folder of `near`, a place like that which is returned: `{root, path, size}`.
 */
export function chosen(roots, title, folders, near) {
  const dialog = byId("picker");
  return new Promise((resolve) => {
    let found = null;
    const take = (place) => {
      found = place;
      dialog.close();
    };
    dialog.addEventListener("close", () => resolve(found), { once: true });
    const parts = (near?.path ?? "").split("/").filter(Boolean);
    new Browser(dialog, roots, title, folders, take).open(near?.root ?? roots[0], parts.slice(0, -1));
    dialog.showModal();
  });
}

class Browser {
  constructor(dialog, roots, title, folders, take) {
    Object.assign(this, { roots, folders, take });
    this.where = make("nav", { className: "where", "aria-label": "Folder" });
    this.list = make("ul", { className: "entries" });
    this.note = make("p", { className: "note", role: "status" });
    this.filter = make("input", {
      type: "search",
      placeholder: "Part of a name",
      "aria-label": "Show only names with this in them",
      on: { input: () => this.show() },
    });
    this.takeFolder = button("Take this folder of images", () =>
      this.take({ root: this.root, path: this.parts.join("/") }),
    );
    const actions = [button("Close", () => dialog.close()), folders ? this.takeFolder : null];
    dialog.replaceChildren(
      make("h2", { id: "picker-title", textContent: title }),
      make("div", { className: "bar" }, this.where, this.filter),
      this.list,
      this.note,
      make("p", { className: "actions" }, actions),
    );
  }

  async open(root, parts) {
    Object.assign(this, { root, parts, entries: [] });
    this.filter.value = "";
    this.showWhere();
    this.note.textContent = "Looking…";
    try {
      const path = parts.length ? `/${pathOf(parts.join("/"))}` : "";
      const { entries, more } = await ask("GET", `/v1/roots/${encodeURIComponent(root)}${path}`);
      if (this.root !== root || this.parts !== parts) return;
      this.entries = entries;
      this.more = more;
      this.show();
    } catch (error) {
      this.list.replaceChildren();
      this.note.textContent = sentence(error.message);
    }
  }

  showWhere() {
    const crumbs = [];
    if (this.roots.length > 1) {
      const options = this.roots.map((root) =>
        make("option", { value: root, textContent: root, selected: root === this.root }),
      );
      const change = (event) => this.open(event.target.value, []);
      crumbs.push(make("select", { "aria-label": "Root", on: { change } }, options));
    }
    const names = this.roots.length > 1 && !this.parts.length ? [] : [this.root, ...this.parts];
    names.forEach((name, depth) => {
      const last = depth === names.length - 1;
      const go = () => this.open(this.root, this.parts.slice(0, depth));
      crumbs.push(button(visible(name), go, { className: "crumb", disabled: last }));
    });
    this.where.replaceChildren(...crumbs);
    this.takeFolder.hidden = this.parts.length === 0 && !this.folders;
  }

  show() {
    const wanted = this.filter.value.toLowerCase();
    const found = this.entries.filter((entry) => entry.name.toLowerCase().includes(wanted));
    this.list.replaceChildren(...found.slice(0, MOST_SHOWN).map((entry) => this.row(entry)));
    const cut = this.more || found.length > MOST_SHOWN;
    this.note.textContent = cut
      ? "There is more than is shown; say a part of the name."
      : found.length
        ? ""
        : "Nothing here.";
  }

  row(entry) {
    const path = [...this.parts, entry.name];
    const folder = entry.kind === "folder";
    const go = () =>
      folder ? this.open(this.root, path) : this.take({ root: this.root, path: path.join("/"), size: entry.bytes });
    const words = [
      make("bdi", {
        textContent: folder ? `${visible(entry.name)}/` : visible(entry.name),
        title: visible(entry.name),
      }),
      make("span", { className: "size", textContent: folder ? "" : bytes(entry.bytes) }),
    ];
    return make("li", {}, make("button", { type: "button", on: { click: go } }, words));
  }
}
