// Applies the reader's choice of light or dark before the first paint, and wires the button that changes it.
// A classic script in <head>: a module would run after the page was painted in the wrong theme.
(() => {
  const key = "tastemaker-theme";
  const root = document.documentElement;
  const system = matchMedia("(prefers-color-scheme: dark)");
  const chosen = localStorage.getItem(key);
  if (chosen === "light" || chosen === "dark") root.dataset.theme = chosen;

  const current = () => root.dataset.theme || (system.matches ? "dark" : "light");

  document.addEventListener("DOMContentLoaded", () => {
    for (const button of document.querySelectorAll("[data-theme-toggle]")) {
      button.hidden = false;
      button.addEventListener("click", () => {
        root.dataset.theme = current() === "dark" ? "light" : "dark";
        localStorage.setItem(key, root.dataset.theme);
        document.dispatchEvent(new CustomEvent("themechange"));
      });
    }
  });
  system.addEventListener("change", () => document.dispatchEvent(new CustomEvent("themechange")));
})();
