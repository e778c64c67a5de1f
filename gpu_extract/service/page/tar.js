/**
 * Images as one tar, of which nothing is read before it is sent: the browser keeps references to the files.
 *
 * The server takes ordinary files of one folder only. The bytes depend on nothing but names and files, so the rest of a
 * tar that was sent in part can be made of the same files again.
 */

const BLOCK = 512;
const LONGEST_NAME = 100; // bytes that a plain header has room for
const MODE = "0000644";
const FILE = "0";
const RECORDS = "x"; // POSIX: what has no room in a plain header
const encoder = new TextEncoder();

/** The tar of `files`, which have names of their own, as a Blob. */
export function tarOf(files) {
  const parts = [];
  for (const file of sorted(files)) {
    parts.push(...headers(file), file, new Uint8Array(-file.size & (BLOCK - 1)));
  }
  parts.push(new Uint8Array(2 * BLOCK));
  return new Blob(parts);
}

/** A number that is the same for the same files, by name, size and time of change. */
export function markOf(files) {
  let [low, high] = [0x811c9dc5, 0x9e3779b9];
  for (const file of sorted(files)) {
    for (const byte of encoder.encode(`${file.name}/${file.size}/${file.lastModified}/`)) {
      low = Math.imul(low ^ byte, 0x01000193);
      high = Math.imul(high ^ byte, 0x85ebca6b) + low;
    }
  }
  return (high & 0x1fffff) * 2 ** 32 + (low >>> 0);
}

function sorted(files) {
  return [...files].sort((one, other) => (one.name < other.name ? -1 : Number(one.name > other.name)));
}

function* headers({ name, size }) {
  const bytes = encoder.encode(name);
  const fits = bytes.length <= LONGEST_NAME && bytes.length === name.length && size < 8 ** 11;
  if (!fits) {
    const records = new Uint8Array([...record("path", name), ...record("size", String(size))]);
    yield header(encoder.encode("PaxHeader"), records.length, RECORDS);
    yield records;
    yield new Uint8Array(-records.length & (BLOCK - 1));
  }
  yield header(bytes.slice(0, LONGEST_NAME), size, FILE);
}

/** "<length> <name>=<value>\n", whose length counts its own digits. */
function record(name, value) {
  const rest = encoder.encode(` ${name}=${value}\n`);
  let length = rest.length;
  while (String(length).length + rest.length !== length) length = String(length).length + rest.length;
  return [...encoder.encode(String(length)), ...rest];
}

function header(name, size, kind) {
  const block = new Uint8Array(BLOCK);
  const put = (text, at) => block.set(encoder.encode(text), at);
  block.set(name, 0);
  put(MODE, 100);
  put("0000000", 108);
  put("0000000", 116);
  put((size % 8 ** 11).toString(8).padStart(11, "0"), 124);
  put("00000000000", 136);
  put("        ", 148);
  put(kind, 156);
  put("ustar\u000000", 257);
  const sum = block.reduce((total, byte) => total + byte, 0);
  put(`${sum.toString(8).padStart(6, "0")}\u0000 `, 148);
  return block;
}
