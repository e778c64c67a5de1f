"use strict";

/**
 * The faces, as the scripts beside this one bring them: what is sorted and filtered by in columns, the rest in pages.
 *
 * Pages are scripts because browsers do not let a page from the disk fetch anything else. A row is a face's number.
 */
const gallery = (() => {
  const MOST_PAGES = 24; // that stay in memory
  const TYPES = {
    frame: Uint32Array,
    index: Int32Array,
    state: Uint8Array,
    side: Float32Array,
    yaw: Float32Array,
    sharpness: Float32Array,
  };
  const PAGE = /^page_[0-9]{4,}\.js$/;
  const folder = document.documentElement.dataset.folder;
  const policy = globalThis.trustedTypes?.createPolicy("gallery", {
    createScriptURL(name) {
      if (!PAGE.test(name)) throw new TypeError("this is no page of faces");
      return `${folder}/${name}`;
    },
  });
  const pages = new Map();
  const waiting = new Map();
  let index = null;
  let files = new Map();
  let stems = [];

  function column(name) {
    const text = index.columns[name];
    if (text === undefined) return null;
    const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
    return new TYPES[name](bytes.buffer);
  }

  function stemOf(name) {
    const last = name.slice(name.lastIndexOf("/") + 1);
    const dot = last.lastIndexOf(".");
    return dot > 0 && dot < last.length - 1 ? last.slice(0, dot) : last;
  }

  function load(number) {
    const name = `page_${String(number).padStart(4, "0")}.js`;
    const script = document.createElement("script");
    return new Promise((resolve, reject) => {
      waiting.set(number, resolve);
      script.addEventListener("error", () => reject(new Error(`${name} is not there`)));
      script.addEventListener("load", () => waiting.has(number) && reject(new Error(`${name} is damaged`)));
      script.src = policy ? policy.createScriptURL(name) : `${folder}/${name}`;
      document.head.append(script);
    }).finally(() => {
      waiting.delete(number);
      script.remove();
    });
  }

  return {
    count: 0,
    columns: {},
    states: {},
    frames: [],

    /** Called by `index.js`. */
    begin(given) {
      index = given;
      files = new Map(given.files);
      stems = given.frames.map(stemOf);
      this.count = given.count;
      this.states = given.states;
      this.frames = given.frames;
      this.columns = Object.fromEntries(Object.keys(TYPES).map((name) => [name, column(name)]));
      begin();
    },

    /** Called by a page's script. */
    page(number, rows) {
      pages.set(number, rows);
      if (pages.size > MOST_PAGES) pages.delete(pages.keys().next().value);
      waiting.get(number)?.(rows);
      waiting.delete(number);
    },

    /** What is known of a face beside its columns; rejects where the page of it is not there. */
    async about(row) {
      const number = Math.floor(row / index.perPage) + 1;
      let rows = pages.get(number);
      if (!rows) {
        rows = await load(number);
      } else {
        pages.delete(number);
        pages.set(number, rows);
      }
      const [sha1, bytes, size, position, pitch, roll, hashState, landmarks, fault, archive] =
        rows[row % index.perPage];
      return { sha1, bytes, size, position, pitch, roll, hashState, landmarks, fault, archive };
    },

    has(row, state) {
      return (this.columns.state[row] & this.states[state]) !== 0;
    },

    frameOf(row) {
      return this.frames[this.columns.frame[row]];
    },

    /** The name of a face's file in the folder of faces; empty where it failed. */
    fileOf(row) {
      if (this.has(row, "failed")) return "";
      return files.get(row) ?? `${stems[this.columns.frame[row]]}_${this.columns.index[row]}${index.extension}`;
    },

    nameOf(row) {
      const number = this.columns.index[row];
      return visible(number < 0 ? this.frameOf(row) : `${this.frameOf(row)}, face ${number}`);
    },

    /** Whether there is a file. */
    isThere(row) {
      return (this.columns.state[row] & (this.states.failed | this.states.gone)) === 0;
    },

    /** The address of a face's own file; null where a browser cannot show it. */
    wholeOf(row) {
      return this.isThere(row) && !this.has(row, "hidden") ? `${index.faces}/${linked(this.fileOf(row))}` : null;
    },

    /** The address of a small picture; null where there is none. */
    smallOf(row) {
      if (!this.has(row, "small")) return this.has(row, "unreadable") ? null : this.wholeOf(row);
      const page = String(Math.floor(row / index.perPage) + 1).padStart(4, "0");
      return `${folder}/thumbs/${page}/${String(row % index.perPage).padStart(3, "0")}.jpg`;
    },

    /** Landmarks of what `about` told, as [x, y] in pixels of the crop. */
    points(about) {
      const bytes = Uint8Array.from(atob(about.landmarks), (letter) => letter.charCodeAt(0));
      const steps = new Int16Array(bytes.buffer);
      return Array.from({ length: steps.length / 2 }, (_, at) => [steps[2 * at] / 8, steps[2 * at + 1] / 8]);
    },
  };
})();
