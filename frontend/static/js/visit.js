// What the rater has done since they came: for the line below the pair and for the words at the end. Outlives a reload.

const REMEMBERED = 20;

export class Visit {
  /** @param {string} key where it is kept while the tab is open */
  constructor(key) {
    this.key = key;
    this.times = []; // milliseconds of the last votes, newest last
    this.votes = 0;
    try {
      Object.assign(this, JSON.parse(sessionStorage.getItem(key) ?? "{}"));
    } catch {
      // counts from zero again
    }
  }

  add(milliseconds) {
    this.votes += 1;
    this.times = [...this.times, milliseconds].slice(-REMEMBERED);
    this.#keep();
  }

  takeBack() {
    this.votes = Math.max(0, this.votes - 1);
    this.times = this.times.slice(0, -1);
    this.#keep();
  }

  /** The typical time for a pair (the median of the last twenty: a coffee does not count), in words; empty at first. */
  pace() {
    if (this.times.length < 3) return "";
    const seconds = [...this.times].sort((a, b) => a - b)[Math.floor(this.times.length / 2)] / 1000;
    return seconds < 10 ? `${seconds.toFixed(1)} s` : `${Math.round(seconds)} s`;
  }

  #keep() {
    sessionStorage.setItem(this.key, JSON.stringify({ times: this.times, votes: this.votes }));
  }
}
