/** Elements of the page. What stands in them enters as text, never as markup: names of files are anybody's. */

export const byId = (id) => document.getElementById(id);

/**
 * An element. Properties whose name has a dash, and `role`, are attributes; `on` is a mapping of listeners.
 * Children that are null are left out.
 */
export function make(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name === "on") {
      for (const [event, listener] of Object.entries(value)) element.addEventListener(event, listener);
    } else if (name.includes("-") || name === "role" || name === "for") {
      element.setAttribute(name, value);
    } else {
      element[name] = value;
    }
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return element;
}

export const button = (text, listener, properties = {}) =>
  make("button", { type: "button", textContent: text, on: { click: listener }, ...properties });

/** Set a text only where it is another: what is selected, or read aloud, stays. */
export function tell(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

/** Have somebody answer a question; true for yes. */
export function asked(title, text, yes, no) {
  const dialog = byId("question");
  return new Promise((resolve) => {
    const answer = (value) => () => dialog.close(value);
    dialog.replaceChildren(
      make("h2", { id: "question-title", textContent: title }),
      make("p", { textContent: text }),
      make("p", { className: "actions" }, button(no, answer("")), button(yes, answer("yes"), { className: "main" })),
    );
    dialog.returnValue = "";
    dialog.addEventListener("close", () => resolve(dialog.returnValue === "yes"), { once: true });
    dialog.showModal();
  });
}

/** Say something to who does not look at it. The last one counts. */
export const announce = (text) => tell(byId("news"), text);
