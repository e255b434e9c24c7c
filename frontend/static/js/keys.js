// Which key does what on the rating page. Raters may change every one; their choice is kept in this browser.

const STORED = "tastemaker-keys";
const DEFAULTS = {
  left: ["ArrowLeft", "1"],
  right: ["ArrowRight", "2"],
  tie: ["t", "ArrowDown"],
  both_bad: ["b"],
  skip: ["s"],
  undo: ["u", "Backspace"],
  zoom_in: ["+", "="],
  zoom_out: ["-"],
  zoom_reset: ["0"],
  guidelines: ["g"],
  help: ["?"],
};
const RESERVED = new Set(["Tab", "Enter", " ", "Escape", "Shift", "Control", "Alt", "Meta", "Dead", "Process", "Unidentified"]);
const SIGNS = { ArrowLeft: "←", ArrowRight: "→", ArrowUp: "↑", ArrowDown: "↓", Backspace: "⌫", "-": "−" };

/** The key of an event, the same whatever the case; on a keyboard without Latin letters, the letter of its place. */
export function keyOf(event) {
  if (event.key.length > 1) return event.key;
  const foreign = event.key > "\u007f" && /^(Key|Digit)/.test(event.code);
  return (foreign ? event.code.replace(/^(Key|Digit)/, "") : event.key).toLowerCase();
}

export function keyName(key) {
  return SIGNS[key] ?? (key.length === 1 ? key.toUpperCase() : key);
}

export class KeyMap {
  constructor() {
    this.keys = structuredClone(DEFAULTS);
    try {
      const chosen = JSON.parse(localStorage.getItem(STORED) ?? "{}");
      for (const [action, keys] of Object.entries(chosen)) {
        if (action in DEFAULTS && Array.isArray(keys) && keys.length > 0) this.keys[action] = keys.map(String);
      }
    } catch {
      // what another version left behind: the defaults are fine
    }
  }

  /** @returns {string|undefined} what this key does */
  action(key) {
    return Object.keys(this.keys).find((action) => this.keys[action].includes(key));
  }

  of(action) {
    return this.keys[action];
  }

  /**
   * Let `key` alone do `action`. A key that another action has too is taken from it.
   * @returns {string|null} why not, or null when it was done
   */
  set(action, key) {
    if (RESERVED.has(key)) return `${key === " " ? "Space" : key} moves around the page; choose another key.`;
    const other = this.action(key);
    if (other && other !== action) {
      const rest = this.keys[other].filter((each) => each !== key);
      if (rest.length === 0) return `${keyName(key)} is the only key for something else; change that one first.`;
      this.keys[other] = rest;
    }
    this.keys[action] = [key];
    localStorage.setItem(STORED, JSON.stringify(this.keys));
    return null;
  }

  reset() {
    this.keys = structuredClone(DEFAULTS);
    localStorage.removeItem(STORED);
  }
}

/** Shows the keys where they work and in the dialog, and lets the rater change them. */
export function wireKeyDialog(dialog, keyMap) {
  const status = dialog.querySelector("[data-keys-status]");
  let waiting = null;

  function render() {
    for (const cell of dialog.querySelectorAll("[data-keys-of]")) {
      cell.replaceChildren(...keyMap.of(cell.dataset.keysOf).flatMap((key) => [kbd(key), " "]));
    }
    for (const sign of document.querySelectorAll("[data-key-of]")) {
      sign.textContent = keyName(keyMap.of(sign.dataset.keyOf)[0]);
    }
    for (const button of document.querySelectorAll("[data-choice]")) {
      button.setAttribute("aria-keyshortcuts", keyMap.of(button.dataset.choice).join(" "));
    }
  }

  function wait(button) {
    if (waiting) waiting.textContent = "Change";
    waiting = button;
    if (button) button.textContent = "Press a key";
  }

  for (const button of dialog.querySelectorAll("[data-remap]")) {
    button.addEventListener("click", () => {
      wait(button);
      status.textContent = "Press the new key, or Escape to leave it.";
    });
  }
  dialog.addEventListener("keydown", (event) => {
    if (!waiting || ["Shift", "Control", "Alt", "Meta"].includes(event.key)) return;
    event.preventDefault();
    event.stopPropagation();
    const button = waiting;
    wait(null);
    if (event.key === "Escape") {
      status.textContent = "Nothing was changed.";
      return;
    }
    const refused = keyMap.set(button.dataset.remap, keyOf(event));
    status.textContent = refused ?? `${keyName(keyOf(event))} it is.`;
    render();
  });
  dialog.querySelector("[data-keys-reset]").addEventListener("click", () => {
    keyMap.reset();
    status.textContent = "All keys are as they were at first.";
    render();
  });
  dialog.addEventListener("close", () => {
    wait(null);
    status.textContent = "";
  });
  render();
}

function kbd(key) {
  const sign = document.createElement("kbd");
  sign.textContent = keyName(key);
  return sign;
}
