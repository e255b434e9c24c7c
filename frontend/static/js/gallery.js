// The gallery scrolls on by itself: the next page is fetched a screen before it is needed. Pages far from the screen
// are not laid out (content-visibility), so the hundredth costs what the first did. Without this script: "More".

const gallery = document.querySelector("[data-gallery]");
const status = document.querySelector("[data-status]");
let busy = false;
let n = 1;

const ahead = new IntersectionObserver(
  (entries) => {
    if (entries.some((entry) => entry.isIntersecting)) more();
  },
  { rootMargin: "1200px 0px" },
);

watch();

function watch() {
  const next = gallery.querySelector("[data-more]");
  if (next) ahead.observe(next);
}

async function more() {
  const next = gallery.querySelector("[data-more]");
  if (busy || !next) return;
  busy = true;
  gallery.setAttribute("aria-busy", "true");
  const address = new URL(next.querySelector("a").href);
  address.searchParams.set("fragment", "1");
  try {
    const response = await fetch(address, { headers: { Accept: "text/html" } });
    if (!response.ok) throw new Error(String(response.status));
    const page = new DOMParser().parseFromString(await response.text(), "text/html");
    ahead.unobserve(next);
    next.replaceWith(...page.body.children);
    n += 1;
    status.textContent = `page ${n} of samples`;
    watch();
  } catch {
    ahead.unobserve(next); // the link stays: it goes on by hand
    status.textContent = "The next samples could not be fetched; use the link More samples.";
  } finally {
    busy = false;
    gallery.setAttribute("aria-busy", "false");
  }
}
