// Keeps the desk's work and its newest checkpoints fresh for as long as the page is looked at.
const PERIOD_MS = 3_000;
const PARTS = ["work", "newest"];

async function refresh() {
  if (document.visibilityState === "visible") {
    try {
      const response = await fetch("/?fragment=live", { headers: { Accept: "text/html" } });
      if (response.ok && !response.redirected) replace(await response.text());
    } catch {
      // the next turn tries again
    }
  }
  setTimeout(refresh, PERIOD_MS);
}

function replace(html) {
  const page = new DOMParser().parseFromString(html, "text/html");
  for (const name of PARTS) {
    const [old, fresh] = [document, page].map((root) => root.querySelector(`[data-${name}]`));
    // what has not changed stays, so that images do not flicker and the focus is kept
    if (old && fresh && old.innerHTML !== fresh.innerHTML && !old.contains(document.activeElement)) old.replaceWith(fresh);
  }
}

setTimeout(refresh, PERIOD_MS);
