// Leases the rater's next pairs and decodes their images ahead of time, so that the next pair shows at once.

const AHEAD = 6;
const RETRY_MS = 2_000;
const MOST_FAILURES = 3; // of one image that the server answers for but does not give
const UNSHOWABLE = [404, 410];

export class PairSource {
  /**
   * @param {string} campaign
   * @param {() => string[]} holding ids that are on screen or voted on but not yet confirmed: not to be leased again
   * @param {() => void} onSkipped told of every pair that is skipped because an image of it cannot be had
   */
  constructor(campaign, holding, onSkipped = () => {}) {
    this.campaign = campaign;
    this.holding = holding;
    this.onSkipped = onSkipped;
    this.failures = new Map();
    this.ready = [];
    this.filling = null;
    this.closed = null;
    this.offline = false;
  }

  /** Ask for a pair's reservation again; it is granted unless somebody else has the pair by now. */
  async renew(comparison) {
    const query = new URLSearchParams({ n: "1", holding: comparison });
    await fetch(`/api/v1/campaigns/${this.campaign}/comparisons?${query}`, { method: "POST" });
  }

  /** The next decoded pair, or null when the server has none left. Waits through a lost connection. */
  async next() {
    while (this.ready.length === 0) {
      const found = await this.fill();
      if (found === 0) return null;
    }
    return this.ready.shift();
  }

  /** Put a pair back in front (undo). */
  unshift(pair) {
    this.ready.unshift(pair);
  }

  /** Top up to `AHEAD` pairs. Resolves with how many pairs are ready once the server has answered. */
  fill() {
    if (this.ready.length >= AHEAD) return Promise.resolve(this.ready.length);
    this.filling ??= this.#fill().finally(() => {
      this.filling = null;
    });
    return this.filling;
  }

  async #fill() {
    for (;;) {
      try {
        const leased = await this.#lease(AHEAD - this.ready.length);
        const found = await Promise.allSettled(
          leased.map((item) => load(item.id, item.left.image, item.right.image)),
        );
        const known = new Set([...this.holding(), ...this.ready.map((pair) => pair.id)]);
        const pairs = found.filter((one) => one.status === "fulfilled").map((one) => one.value);
        this.ready.push(...pairs.filter((pair) => !known.has(pair.id)));
        const failed = leased.map((item, index) => [item.id, found[index].reason]).filter(([, reason]) => reason);
        const broken = failed.filter(([id, reason]) => this.#isUnshowable(id, reason));
        for (const [id] of broken) await this.#passOn(id);
        if (failed.length > 0 && this.ready.length === 0) {
          if (broken.length === failed.length) continue;
          throw failed[0][1];
        }
        this.offline = false;
        this.closed = null;
        return this.ready.length;
      } catch (error) {
        // while votes wait to be sent, "you hold too many pairs" is no end
        if (error instanceof Refusal && this.holding().length <= 1) {
          this.closed = error.message;
          return this.ready.length;
        }
        this.offline = true;
        await pause(RETRY_MS);
      }
    }
  }

  /** Whether a pair is not worth waiting for: the server is there and does not give its image. */
  #isUnshowable(id, reason) {
    if (!(reason instanceof ImageError)) return false;
    const failures = (this.failures.get(id) ?? 0) + 1;
    this.failures.set(id, failures);
    return UNSHOWABLE.includes(reason.status) || failures >= MOST_FAILURES;
  }

  /** Skip a pair that cannot be shown, or it would be leased again and again. */
  async #passOn(id) {
    const response = await fetch(`/api/v1/comparisons/${id}/preference`, {
      method: "PUT",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify({ choice: "skip" }),
    });
    if (response.status >= 500 || response.status === 429) throw new Error(`status ${response.status}`);
    this.onSkipped();
  }

  async #lease(n) {
    const holding = [...this.holding(), ...this.ready.map((pair) => pair.id)];
    const query = new URLSearchParams({ n: String(n) });
    for (const id of holding) query.append("holding", id);
    const response = await fetch(`/api/v1/campaigns/${this.campaign}/comparisons?${query}`, { method: "POST" });
    if (response.status === 204) return [];
    if (response.ok) return response.json();
    if (response.status === 429 || response.status >= 500) throw new Error(`status ${response.status}`);
    const problem = await response.json().catch(() => ({}));
    throw new Refusal(problem.detail ?? `refused (${response.status})`);
  }
}

/** Fetch and decode both sides. The images are held as blobs: showing them needs no network. */
export async function load(id, left, right) {
  const [leftImage, rightImage] = await Promise.all([decode(left, "The left image"), decode(right, "The right image")]);
  return { id, left: leftImage, right: rightImage };
}

async function decode(url, alt) {
  const response = await fetch(url);
  if (!response.ok) throw new ImageError(response.status);
  const image = new Image();
  image.alt = alt;
  image.draggable = false;
  image.src = URL.createObjectURL(await response.blob());
  await image.decode().catch(() => {
    throw new ImageError(0); // or the page is being left
  });
  return image;
}

class Refusal extends Error {}

class ImageError extends Error {
  constructor(status) {
    super(`status ${status}`);
    this.status = status;
  }
}

function pause(ms) {
  return new Promise((resolve) => {
    setTimeout(resolve, ms);
    addEventListener("online", resolve, { once: true });
  });
}
