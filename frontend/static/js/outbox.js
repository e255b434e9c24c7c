// Votes that the server has not confirmed yet. They live in localStorage, one key each, so that a reload, a second tab
// or a lost connection loses none; PUT and DELETE are idempotent, so sending one twice counts once.

const FIRST_DELAY_MS = 500;
const LONGEST_DELAY_MS = 15_000;

export class Outbox {
  /**
   * @param {string} scope names the rater and the campaign: votes of another rater on this device stay apart
   * @param {(state: {waiting: number, refused: string|null, signedOut: boolean}) => void} onChange
   */
  constructor(scope, onChange) {
    this.prefix = `tastemaker-outbox:${scope}:`;
    this.onChange = onChange;
    this.delay = FIRST_DELAY_MS;
    this.timer = null;
    this.sending = null;
    this.refused = null;
    this.signedOut = false;
    addEventListener("online", () => this.flush());
    document.addEventListener("visibilitychange", () => {
      if (document.visibilityState === "visible") this.flush();
    });
  }

  /** @returns {{key: string, comparison: string, vote: object|null}[]} oldest first; `vote` null is an undo */
  entries() {
    return Object.keys(localStorage)
      .filter((key) => key.startsWith(this.prefix))
      .sort()
      .map((key) => ({ key, ...JSON.parse(localStorage.getItem(key)) }));
  }

  comparisons() {
    return this.entries().map((entry) => entry.comparison);
  }

  vote(comparison, choice, responseMs) {
    this.#add({ comparison, vote: { choice, response_ms: responseMs } });
  }

  /** Take a vote back: one that was never sent is simply dropped. */
  undo(comparison) {
    const unsent = this.entries().filter((entry) => entry.comparison === comparison && !entry.tried);
    const dropped = unsent.filter((entry) => entry.key !== this.sending);
    for (const entry of dropped) localStorage.removeItem(entry.key);
    if (dropped.some((entry) => entry.vote)) this.#changed();
    else this.#add({ comparison, vote: null });
  }

  /** Send the oldest entry, then the next, one at a time: a vote, its undo and a new vote arrive in this order. */
  async flush() {
    if (this.sending) return;
    clearTimeout(this.timer);
    const [entry] = this.entries();
    if (!entry) return;
    this.sending = entry.key;
    localStorage.setItem(entry.key, JSON.stringify({ comparison: entry.comparison, vote: entry.vote, tried: true }));
    const outcome = await send(entry);
    this.sending = null;
    if (outcome.done) {
      localStorage.removeItem(entry.key);
      if (outcome.refused) this.refused = outcome.refused;
      this.signedOut = false;
      this.delay = FIRST_DELAY_MS;
      this.#changed();
      this.flush();
      return;
    }
    this.signedOut = outcome.signedOut ?? false;
    this.#changed();
    this.timer = setTimeout(() => this.flush(), this.delay);
    this.delay = Math.min(this.delay * 2, LONGEST_DELAY_MS);
  }

  #add(entry) {
    // keys sort by time; the counter keeps the order of two within a millisecond
    this.count = (this.count ?? 0) + 1;
    const key = `${this.prefix}${String(Date.now()).padStart(15, "0")}-${String(this.count).padStart(6, "0")}`;
    localStorage.setItem(key, JSON.stringify(entry));
    this.#changed();
    this.flush();
  }

  #changed() {
    this.onChange({ waiting: this.entries().length, refused: this.refused, signedOut: this.signedOut });
  }
}

async function send({ comparison, vote }) {
  let response;
  try {
    response = await fetch(`/api/v1/comparisons/${comparison}/preference`, {
      method: vote ? "PUT" : "DELETE",
      headers: vote ? { "Content-Type": "application/json" } : {},
      body: vote ? JSON.stringify(vote) : undefined,
      signal: AbortSignal.timeout(10_000),
    });
  } catch {
    return { done: false };
  }
  if (response.ok) return { done: true };
  if (response.status === 401) return { done: false, signedOut: true };
  if (response.status === 429 || response.status >= 500) return { done: false };
  if (response.status === 404 && !vote) return { done: true }; // nothing left to undo
  const problem = await response.json().catch(() => ({}));
  return { done: true, refused: problem.detail ?? `refused (${response.status})` };
}
