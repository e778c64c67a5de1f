/** The service, as the page reaches it: by its own address only. */

const SECONDS = 20;
const LONGEST_WAIT = 15;

/** The service was asked and said no; `message` is its sentence. */
export class Refusal extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

/** Nobody answered. */
export class Silence extends Error {
  constructor() {
    super("The server does not answer. Nothing is lost; try again in a moment.");
  }
}

/** Told "stranger" when a token is wanted. */
export const door = new EventTarget();

/**
 * Ask the service; the answer's JSON, null where it has none.
 *
 * Throws Refusal, Silence.
 */
export async function ask(method, path, body) {
  let response;
  try {
    response = await fetch(path, {
      method,
      headers: body === undefined ? {} : { "Content-Type": "application/json" },
      body: body === undefined ? undefined : JSON.stringify(body),
      signal: AbortSignal.timeout(SECONDS * 1000),
    });
    if (response.status === 204) return null;
    if (response.ok) return await response.json();
  } catch {
    throw new Silence();
  }
  throw await refusal(response.status, () => response.json());
}

/** What an answer that is none of success means. A proxy whose server is gone is as good as no answer. */
export async function refusal(status, read) {
  let problem = null;
  try {
    problem = await read();
  } catch {
    // no problem document
  }
  if (status === 401) door.dispatchEvent(new Event("stranger"));
  if (typeof problem?.detail === "string") return new Refusal(status, problem.detail);
  return [502, 503, 504].includes(status) ? new Silence() : new Refusal(status, `The server answered ${status}.`);
}

export const pause = (seconds) => new Promise((resolve) => setTimeout(resolve, seconds * 1000));

/** Seconds until the next try, after so many that failed. */
export const backoff = (failures) => Math.min(LONGEST_WAIT, 2 ** Math.max(0, failures - 1));

export const pathOf = (path) => path.split("/").map(encodeURIComponent).join("/");

/** An id for a job that nobody has, with a name in it for who reads it. */
export function newId(name) {
  const words = name
    .toLowerCase()
    .replace(/\.[a-z0-9]{1,5}$/, "")
    .replace(/[^a-z0-9]+/g, "-")
    .replace(/^-+|-+$/g, "");
  const [number] = crypto.getRandomValues(new Uint32Array(1));
  return [words.slice(0, 40).replace(/-+$/, ""), number.toString(16).padStart(8, "0")].filter(Boolean).join("-");
}
