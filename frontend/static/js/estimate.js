// Asks again what a job would take whenever a field of its form has changed.
const WAIT_MS = 400;
const form = document.querySelector("form[data-estimated]");
let timer = 0;
let asked = 0;

form?.addEventListener("change", () => {
  clearTimeout(timer);
  timer = setTimeout(ask, WAIT_MS);
});

async function ask() {
  const turn = ++asked;
  try {
    const response = await fetch(`${form.getAttribute("action")}/estimate`, {
      method: "POST", body: new URLSearchParams(new FormData(form)), headers: { "X-Fragment": "1", Accept: "text/html" },
    });
    if (!response.ok || turn !== asked) return;
    const page = new DOMParser().parseFromString(await response.text(), "text/html");
    const fresh = page.querySelector("[data-estimate]");
    if (fresh) form.querySelector("[data-estimate]").replaceWith(fresh);
  } catch {
    // the estimate stays as it was; the job can be queued all the same
  }
}
