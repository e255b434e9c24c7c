// The rater's last votes, for undo. Their ids outlive a reload; decoded images are kept only while the page is open.

export class VoteHistory {
  /**
   * @param {string} key where the ids are kept
   * @param {number} depth how many votes can be undone
   */
  constructor(key, depth) {
    this.key = key;
    this.depth = depth;
    const ids = JSON.parse(sessionStorage.getItem(key) ?? "[]");
    this.votes = ids.map((id) => ({ id, pair: null }));
  }

  get length() {
    return this.votes.length;
  }

  /** Whether one of these votes was on this comparison. */
  has(id) {
    return this.votes.some((vote) => vote.id === id);
  }

  push(pair) {
    this.#set([...this.votes, { id: pair.id, pair }]);
  }

  /** @returns {{id: string, pair: object|null}} the newest vote; `pair` is null when it was made before a reload */
  pop() {
    const last = this.votes.at(-1);
    this.#set(this.votes.slice(0, -1));
    return last;
  }

  /** Put back what `pop` took. */
  restore(vote) {
    this.#set([...this.votes, vote]);
  }

  #set(votes) {
    for (const { pair } of votes.slice(0, -this.depth)) {
      if (pair) for (const image of [pair.left, pair.right]) URL.revokeObjectURL(image.src);
    }
    this.votes = votes.slice(-this.depth);
    sessionStorage.setItem(this.key, JSON.stringify(this.votes.map((vote) => vote.id)));
  }
}
