// Votes that the server has not confirmed yet. They live in localStorage, one key each, so that a reload, a second tab
// or a lost connection loses none; PUT and DELETE are idempotent, so sending one twice counts once.

const FIRST_DELAY_MS = 500;
const LONGEST_DELAY_MS = 15_000;
const TIMEOUT_MS = 10_000;

export class Outbox {
  /**
   * @param {string} scope names the rater and the campaign: votes of another rater on this device stay apart
   * @param {{onChange: (state: OutboxState) => void, renew: (comparison: string) => Promise<void>}} hooks
   * @typedef {{waiting: number, failing: boolean, refused: string|null, nRefused: number, signedOut: boolean}} OutboxState
   */
  constructor(scope, hooks) {
    this.prefix = `tastemaker-outbox:${scope}:`;
    this.hooks = hooks;
    this.delay = FIRST_DELAY_MS;
    this.timer = null;
    this.sending = false;
    this.inFlight = null; // key of the entry that this tab is sending
    this.failing = false;
    this.refused = null;
    this.nRefused = 0;
    this.signedOut = false;
    addEventListener("online", () => this.flush());
    addEventListener("storage", (event) => {
      if (event.key?.startsWith(this.prefix)) this.#changed(); // by another tab, which may have sent what waited here
    });
    document.addEventListener("visibilitychange", () => {
      if (document.visibilityState === "visible") this.flush();
    });
  }

  /** @returns {{key: string, comparison: string, vote: object|null, tried?: boolean}[]} oldest first; no `vote`: an undo */
  entries() {
    return Object.keys(localStorage)
      .filter((key) => key.startsWith(this.prefix))
      .sort()
      .map((key) => ({ key, ...JSON.parse(localStorage.getItem(key)) }));
  }

  comparisons() {
    return this.entries().map((entry) => entry.comparison);
  }

  /** @returns {OutboxState} */
  state() {
    const { failing, refused, nRefused, signedOut } = this;
    return { waiting: this.entries().length, failing, refused, nRefused, signedOut };
  }

  vote(comparison, choice, responseMs) {
    this.#add({ comparison, vote: { choice, response_ms: responseMs } });
  }

  /** Take a vote back: one that was never sent is simply dropped. */
  undo(comparison) {
    const unsent = this.entries().filter((entry) => entry.comparison === comparison && !entry.tried);
    const dropped = unsent.filter((entry) => entry.key !== this.inFlight);
    for (const entry of dropped) localStorage.removeItem(entry.key);
    if (dropped.some((entry) => entry.vote)) this.#changed();
    else this.#add({ comparison, vote: null });
  }

  /** Send the oldest entry, then the next, one at a time: a vote, its undo and a new vote arrive in this order. */
  async flush() {
    if (this.sending) return;
    clearTimeout(this.timer);
    this.sending = true;
    let outcome = { done: true };
    while (outcome?.done) outcome = await this.#alone(() => this.#sendOldest());
    this.sending = false;
    if (!outcome) {
      if (this.entries().length > 0) this.flush(); // added just after the last look
      return;
    }
    this.failing = true;
    this.signedOut = outcome.signedOut ?? false;
    this.#changed();
    this.timer = setTimeout(() => this.flush(), this.delay);
    this.delay = Math.min(this.delay * 2, LONGEST_DELAY_MS);
  }

  /** @returns {Promise<{done: boolean}|null>} null when nothing waits */
  async #sendOldest() {
    const [entry] = this.entries();
    if (!entry) return null;
    this.inFlight = entry.key;
    localStorage.setItem(entry.key, JSON.stringify({ comparison: entry.comparison, vote: entry.vote, tried: true }));
    const outcome = await this.#send(entry);
    this.inFlight = null;
    if (!outcome.done) return outcome;
    localStorage.removeItem(entry.key);
    if (outcome.refused) {
      this.refused = outcome.refused;
      if (entry.vote) this.nRefused += 1;
    }
    this.failing = false;
    this.signedOut = false;
    this.delay = FIRST_DELAY_MS;
    this.#changed();
    return outcome;
  }

  async #send({ comparison, vote }, renewed = false) {
    let response;
    try {
      response = await fetch(`/api/v1/comparisons/${comparison}/preference`, {
        method: vote ? "PUT" : "DELETE",
        headers: vote ? { "Content-Type": "application/json" } : {},
        body: vote ? JSON.stringify(vote) : undefined,
        keepalive: true, // closing the tab does not take a vote back that is on its way
        signal: AbortSignal.timeout(TIMEOUT_MS),
      });
      if (response.status === 410 && vote && !renewed) {
        // it waited here for longer than the pair was reserved; unless somebody else has the pair by now, it still is ours
        await this.hooks.renew(comparison);
        return await this.#send({ comparison, vote }, true);
      }
    } catch {
      return { done: false };
    }
    if (response.ok) return { done: true };
    if (response.status === 401) return { done: false, signedOut: true };
    if (response.status === 429 || response.status >= 500) return { done: false };
    if ((response.status === 404 || response.status === 410) && !vote) return { done: true }; // nothing left to undo
    const problem = await response.json().catch(() => ({}));
    return { done: true, refused: problem.detail ?? `refused (${response.status})` };
  }

  /** One tab at a time where the browser can tell tabs apart: two that send the same votes could overtake each other. */
  #alone(work) {
    return navigator.locks ? navigator.locks.request(this.prefix, work) : work();
  }

  #add(entry) {
    localStorage.setItem(this.#nextKey(), JSON.stringify(entry));
    this.#changed();
    this.flush();
  }

  /** Keys sort in the order of what was done, even where the clock is set back; two tabs never make the same. */
  #nextKey() {
    const last = this.entries().at(-1)?.key.slice(this.prefix.length).split("-").map(Number) ?? [0, 0];
    const now = Math.max(Date.now(), last[0]);
    const count = now === last[0] ? last[1] + 1 : 0;
    const tab = Math.random().toString(36).slice(2, 8);
    return `${this.prefix}${String(now).padStart(15, "0")}-${String(count).padStart(6, "0")}-${tab}`;
  }

  #changed() {
    this.hooks.onChange(this.state());
  }
}
