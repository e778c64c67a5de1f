/** Files that were dropped or chosen, and what each of them is to a job. */

import { visible, count } from "./words.js";

const ALIGNMENTS = /\.(fsa|json|p|pickle|ya?ml)$/i;
const IMAGES = /\.(bmp|jpe?g|png|tiff?|webp|dib|jfif|jpe)$/i;
const VIDEOS = /\.(3gp|avi|flv|m2ts|m4v|mkv|mov|mp4|mpe?g|mts|mxf|ogv|ts|vob|webm|wmv)$/i;

/**
 * What a job has of `files`, and what is `left` of them. `folder` is the name of the one that they came in, if they did.
 *
 * Images that came in a folder are its frames, whatever else lies there. A file that is known for nothing may be a video,
 * but only where it was meant by itself.
 */
export function parted(files, folder) {
  const shown = files.filter((file) => !file.name.startsWith("."));
  const [alignments, others] = split(shown, ALIGNMENTS);
  const [images, unknown] = split(others, IMAGES);
  const [known, odd] = split(unknown, VIDEOS);
  const may = known.length || images.length || folder !== undefined ? known : odd;
  const video = images.length && folder !== undefined ? undefined : may[0];
  const taken = new Set([alignments[0], ...(video ? [video] : images)]);
  return {
    alignments: alignments[0],
    video,
    images: video ? [] : images,
    left: shown.filter((file) => !taken.has(file)),
  };
}

const split = (files, pattern) => [
  files.filter((file) => pattern.test(file.name)),
  files.filter((file) => !pattern.test(file.name)),
];

/** The first of several files, and how many more there are. */
export function named([first, ...others]) {
  return `${visible(first.name)}${others.length ? ` and ${count(others.length)} more` : ""}`;
}

/**
 * Files that were dropped, those in folders behind those beside them, and the name of the folder if it is one.
 *
 * Rejects where one cannot be read.
 */
export async function filesOf(transfer) {
  const entries = [...transfer.items].map((item) => item.webkitGetAsEntry?.()).filter(Boolean);
  const folders = entries.filter((entry) => entry.isDirectory);
  if (!folders.length) return { files: [...transfer.files] };
  const folder = folders.length === 1 ? folders[0].name : "frames";
  const files = [];
  while (entries.length) {
    const entry = entries.shift();
    if (entry.isFile) {
      files.push(await new Promise((resolve, reject) => entry.file(resolve, reject)));
    } else {
      const reader = entry.createReader();
      for (let more = [null]; more.length;) {
        more = await new Promise((resolve, reject) => reader.readEntries(resolve, reject));
        entries.push(...more.filter((one) => !one.name.startsWith(".")));
      }
    }
  }
  return { files, folder };
}
