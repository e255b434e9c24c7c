// Leases the rater's next pairs and decodes their images ahead of time, so that the next pair shows at once.

const AHEAD = 6;
const RETRY_MS = 2_000;

export class PairSource {
  /**
   * @param {string} campaign
   * @param {() => string[]} holding ids that are on screen or voted on but not yet confirmed: not to be leased again
   */
  constructor(campaign, holding) {
    this.campaign = campaign;
    this.holding = holding;
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
        const pairs = await Promise.all(leased.map((item) => load(item.id, item.left.image, item.right.image)));
        const known = new Set([...this.holding(), ...this.ready.map((pair) => pair.id)]);
        this.ready.push(...pairs.filter((pair) => !known.has(pair.id)));
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
  if (!response.ok) throw new Error(`status ${response.status}`);
  const image = new Image();
  image.alt = alt;
  image.draggable = false;
  image.src = URL.createObjectURL(await response.blob());
  await image.decode();
  return image;
}

class Refusal extends Error {}

function pause(ms) {
  return new Promise((resolve) => {
    setTimeout(resolve, ms);
    addEventListener("online", resolve, { once: true });
  });
}
