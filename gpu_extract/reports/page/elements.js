"use strict";

/* Elements of the page, and words. What a file says enters as text, never as markup: names are anybody's. */

const SVG = "http://www.w3.org/2000/svg";
const WHOLE = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
const SHORT = new Intl.NumberFormat("en", { maximumSignificantDigits: 3 });
// Letters that show nothing, or turn what follows them, and halves of letters: a name must look like what it is.
const UNSEEN =
  /[\u0000-\u001f\u007f-\u009f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff]|[\ud800-\udbff](?![\udc00-\udfff])|(?<![\ud800-\udbff])[\udc00-\udfff]/g;

const byId = (id) => document.getElementById(id);

function given(element, properties, children) {
  for (const [name, value] of Object.entries(properties)) {
    if (name === "on") {
      for (const [event, listener] of Object.entries(value)) element.addEventListener(event, listener);
    } else if (name.includes("-") || name === "role" || element.namespaceURI === SVG) {
      element.setAttribute(name, value);
    } else {
      element[name] = value;
    }
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return element;
}

/** An element; properties with a dash and `role` are attributes, `on` are listeners, children that are null are none. */
const make = (tag, properties = {}, ...children) => given(document.createElement(tag), properties, children);

/** An element of a drawing; all its properties are attributes. */
const draw = (tag, properties = {}, ...children) => given(document.createElementNS(SVG, tag), properties, children);

const button = (text, listener, properties = {}) =>
  make("button", { type: "button", textContent: text, on: { click: listener }, ...properties });

/** Set a text only where it is another: what is read aloud stays. */
function tell(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

const count = (number) => WHOLE.format(number);
const counted = (number, one, more = `${one}s`) => `${count(number)} ${number === 1 ? one : more}`;
const short = (number) => SHORT.format(number).replace("-", "−");
const visible = (name) => name.replace(UNSEEN, "\ufffd");

/** A file's name as a link has it; Python has a byte that is no UTF-8 as half a letter, U+DC80 to U+DCFF. */
function linked(name) {
  const letter = (each) => {
    const code = each.charCodeAt(0);
    if (each.length === 1 && code >= 0xdc80 && code <= 0xdcff) return `%${(code - 0xdc00).toString(16)}`;
    return encodeURIComponent(each.isWellFormed?.() === false ? "\ufffd" : each);
  };
  return name
    .split("/")
    .map((part) => {
      try {
        return encodeURIComponent(part);
      } catch {
        return [...part].map(letter).join("");
      }
    })
    .join("/");
}

/** Copy a text; true if the browser did. Pages from a disk may have no clipboard, but may have this older way. */
async function copied(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    const box = make("textarea", { value: text, className: "unseen" });
    document.body.append(box);
    box.select();
    const done = document.execCommand("copy");
    box.remove();
    return done;
  }
}
