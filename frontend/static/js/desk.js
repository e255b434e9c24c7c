// Keeps the desk's list of work fresh while something runs or waits.
const PERIOD_MS = 3_000;
let work = document.querySelector("[data-work]");

async function refresh() {
  if (document.visibilityState === "visible") {
    try {
      const response = await fetch("/?fragment=work", { headers: { Accept: "text/html" } });
      if (response.ok && !response.redirected) {
        const fresh = new DOMParser().parseFromString(await response.text(), "text/html").querySelector("[data-work]");
        if (fresh && !work.contains(document.activeElement)) {
          work.replaceWith(fresh);
          work = fresh;
        }
      }
    } catch {
      // the next turn tries again
    }
  }
  if (Number(work.dataset.unfinished) > 0) setTimeout(refresh, PERIOD_MS);
}

if (Number(work.dataset.unfinished) > 0) setTimeout(refresh, PERIOD_MS);
