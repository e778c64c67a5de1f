/** Numbers, times and names, as people read them. */

const WHOLE = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
const SHORT = new Intl.NumberFormat("en", { maximumSignificantDigits: 3 });
const CLOCK = new Intl.DateTimeFormat("en-GB", { hour: "2-digit", minute: "2-digit" });
const DAY = new Intl.DateTimeFormat("en-GB", { day: "numeric", month: "short", hour: "2-digit", minute: "2-digit" });
// Letters that show nothing, or turn what follows them: a name must look like what it is.
const UNSEEN = /[\u0000-\u001f\u007f-\u009f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff]/g;

export const count = (number) => WHOLE.format(number);

export const counted = (number, one, more = `${one}s`) => `${count(number)} ${number === 1 ? one : more}`;

export function bytes(number) {
  const units = ["bytes", "kB", "MB", "GB", "TB"];
  let at = 0;
  while (number >= 999.5 && at < units.length - 1) {
    number /= 1000;
    at += 1;
  }
  return at === 0 && number === 1 ? "1 byte" : `${SHORT.format(number)} ${units[at]}`;
}

export function duration(seconds) {
  const whole = Math.round(seconds);
  if (whole < 1) return "less than a second";
  if (whole < 90) return counted(whole, "second");
  if (whole < 90 * 60) return `${count(whole / 60)} minutes`;
  const hours = Math.floor(whole / 3600);
  const minutes = Math.round((whole % 3600) / 60);
  if (hours < 10 && minutes > 0 && minutes < 60) return `${counted(hours, "hour")} ${minutes} min`;
  return whole < 48 * 3600 ? counted(Math.round(whole / 3600), "hour") : `${count(whole / 86400)} days`;
}

/** A time of seconds since 1970. */
export function time(seconds) {
  const date = new Date(seconds * 1000);
  return (date.toDateString() === new Date().toDateString() ? CLOCK : DAY).format(date);
}

export function place(number) {
  return number <= 1 ? "next" : `number ${count(number)}`;
}

export const visible = (name) => name.replace(UNSEEN, "\ufffd");

export const begun = (text) => text.slice(0, 1).toUpperCase() + text.slice(1);

const OPTION_NAMES = { output_layout: "Layout", extract_every_n: "Every Nth frame" };

/** What an option is called on this page. */
export function optionName(name) {
  const known = name.replaceAll("-", "_");
  return OPTION_NAMES[known] ?? begun(known.replaceAll("_", " "));
}

/** An option in a sentence of the command line. */
export const FLAG = /(?<![\w-])--([a-z]+(?:-[a-z]+)*)/g;

/** A sentence of the server's, with options as this page has them; its first word is a name, or begins as sentences do. */
export function sentence(text) {
  const shown = visible(text.trim()).replace(FLAG, (_, name) => `“${optionName(name)}”`);
  const whole = /^[a-z]+[ ,']/.test(shown) ? begun(shown) : shown;
  return /[.!?…]$/.test(whole) || whole === "" ? whole : `${whole}.`;
}

/** The name of the frame that a face is of, as its file has it. */
export function frameOf(face) {
  const name = face.file.slice(face.file.lastIndexOf("/") + 1);
  const stem = name.includes(".") ? name.slice(0, name.lastIndexOf(".")) : name;
  const end = `_${face.index}`;
  return visible(stem.endsWith(end) ? stem.slice(0, -end.length) : stem);
}

/** The last name of a path, or of a root's. */
export const baseOf = (path) => path.slice(Math.max(path.lastIndexOf("/"), path.indexOf(":")) + 1) || path;
