// Compare: every control acts at once, on all panels together, and the address always says what is seen.
// Without this script the same controls are a form that asks for the same addresses.

const form = document.querySelector("[data-view]");
const status = document.querySelector("[data-status]");
const reducedMotion = matchMedia("(prefers-reduced-motion: reduce)").matches;
document.body.classList.add("scripted-page");

let sheet = document.querySelector("[data-sheet]");
let asked = null; // the newest request; an older answer is thrown away

const field = (name) => form.elements.namedItem(name);
const frames = () => sheet.querySelector("[data-frames]");

function address({ fragment = false } = {}) {
  const values = new URLSearchParams(new FormData(form));
  const page = new URLSearchParams(location.search).get("page");
  if (page && !values.has("page")) values.set("page", page);
  const defaults = { mode: "side", sort: "seed", zoom: "1", x: "50", y: "50", wipe: "50", page: "1" };
  const epoch = field("epoch");
  if (epoch) defaults.epoch = epoch.max;
  for (const [name, value] of Object.entries(defaults)) if (values.get(name) === value) values.delete(name);
  if (values.get("mode") !== "wipe") values.delete("wipe");
  if (fragment) values.set("fragment", "1");
  return `/compare?${values}`;
}

function remember() {
  history.replaceState(null, "", address());
  document.querySelector("[data-copy-link]").href = location.href;
}

async function refresh(said) {
  asked?.abort();
  asked = new AbortController();
  try {
    const response = await fetch(address({ fragment: true }), { signal: asked.signal });
    if (!response.ok) throw new Error(String(response.status));
    const page = new DOMParser().parseFromString(await response.text(), "text/html");
    const fresh = page.querySelector("[data-sheet]");
    await decoded(fresh);
    if (asked.signal.aborted) return;
    sheet.replaceWith(fresh);
    sheet = fresh;
    place();
    status.textContent = said;
  } catch (error) {
    if (error.name !== "AbortError") status.textContent = "The server did not answer; move a control to try again.";
  }
}

/** Wait until what will be seen first can be painted, so that no panel flashes empty; never long. */
async function decoded(fresh) {
  const images = [...fresh.querySelectorAll("img")].slice(0, 24);
  for (const image of images) image.loading = "eager";
  await Promise.race([
    Promise.allSettled(images.map((image) => image.decode())),
    new Promise((resolve) => setTimeout(resolve, 400)),
  ]);
}

/** Zoom, place and slider as the controls have them. */
function place() {
  const style = frames().style;
  style.setProperty("--zoom", field("zoom").value);
  style.setProperty("--zx", `${field("x").value}%`);
  style.setProperty("--zy", `${field("y").value}%`);
  style.setProperty("--wipe", `${field("wipe").value}%`);
  frames().toggleAttribute("data-movable", Number(field("zoom").value) > 1);
}

form.addEventListener("submit", (event) => {
  event.preventDefault();
  location.assign(address());
});
form.addEventListener("change", ({ target }) => {
  // what changes which controls there are comes from the server
  if (target.name === "mode" || target.name === "sort" || target.name === "reward" || target.name === "zoom") {
    location.assign(address());
  } else {
    remember();
  }
});
form.addEventListener("input", ({ target }) => {
  if (target.name === "epoch") {
    form.querySelector("[data-epoch-label]").textContent = `${target.value} of ${target.max}`;
    remember();
    refresh(`epoch ${target.value}`);
  } else if (target.name === "wipe") {
    form.querySelector("[data-wipe-label]").textContent = `${target.value} %`;
    place();
  }
});

// panning: buttons, arrow keys on the frames, dragging
for (const link of document.querySelectorAll("[data-pan]")) {
  link.addEventListener("click", (event) => {
    event.preventDefault();
    const [dx, dy] = link.dataset.pan.split(" ").map(Number);
    pan(dx, dy);
  });
}

function pan(dx, dy) {
  for (const [name, by] of [["x", dx], ["y", dy]]) {
    field(name).value = Math.round(Math.min(100, Math.max(0, Number(field(name).value) + by)));
  }
  place();
  remember();
}

const wide = document.querySelector("section[aria-label='Samples']");
wide.addEventListener("pointerdown", (event) => {
  const frame = event.target.closest(".frame");
  if (!frame || event.button !== 0) return;
  const edge = frame.clientWidth;
  if (field("mode").value === "wipe") return slide(frame, event);
  const zoom = Number(field("zoom").value);
  if (zoom <= 1) return undefined;
  event.preventDefault();
  const start = { x: event.clientX, y: event.clientY, ox: Number(field("x").value), oy: Number(field("y").value) };
  frames().classList.add("moving");
  const move = (moved) => {
    const scale = 100 / (edge * (zoom - 1)); // an origin of 100 % shows the far edge
    field("x").value = Math.round(Math.min(100, Math.max(0, start.ox - (moved.clientX - start.x) * scale)));
    field("y").value = Math.round(Math.min(100, Math.max(0, start.oy - (moved.clientY - start.y) * scale)));
    place();
  };
  follow(move, () => frames().classList.remove("moving"));
  return undefined;
});

/** Drag the slider on an image itself. */
function slide(frame, event) {
  event.preventDefault();
  const box = frame.getBoundingClientRect();
  const move = ({ clientX }) => {
    field("wipe").value = Math.round((100 * (clientX - box.left)) / box.width);
    form.querySelector("[data-wipe-label]").textContent = `${field("wipe").value} %`;
    frames().style.setProperty("--wipe", `${Math.min(100, Math.max(0, (100 * (clientX - box.left)) / box.width))}%`);
  };
  move(event);
  follow(move);
}

function follow(move, end = () => {}) {
  const stop = () => {
    removeEventListener("pointermove", move);
    removeEventListener("pointerup", stop);
    removeEventListener("pointercancel", stop);
    end();
    remember();
  };
  addEventListener("pointermove", move);
  addEventListener("pointerup", stop);
  addEventListener("pointercancel", stop);
}

// blinking: off until asked for, since it flickers
const flip = document.getElementById("flip");
const blink = form.querySelector("[data-blink]");
if (blink) {
  let timer = null;
  const stop = () => {
    clearInterval(timer);
    timer = null;
    blink.setAttribute("aria-pressed", "false");
    blink.textContent = "Blink by itself";
    remember();
  };
  blink.hidden = reducedMotion;
  blink.addEventListener("click", () => {
    if (timer !== null) return stop();
    timer = setInterval(() => {
      flip.checked = !flip.checked;
    }, 600);
    blink.setAttribute("aria-pressed", "true");
    blink.textContent = "Stop blinking";
    return undefined;
  });
  flip.addEventListener("change", () => timer !== null && stop());
}

const copy = document.querySelector("[data-copy-link]");
copy.addEventListener("click", async (event) => {
  if (!navigator.clipboard) return; // an address that is not secure: the link itself works
  event.preventDefault();
  remember();
  try {
    await navigator.clipboard.writeText(location.href);
    copy.textContent = "Copied";
  } catch {
    copy.textContent = "Copy it from the address bar";
  }
  setTimeout(() => {
    copy.textContent = "Link to this view";
  }, 2000);
});

place();
