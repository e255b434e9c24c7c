// The epoch scrubber over a grid of seeds: 0 shows all checkpoints side by side, 1 ... n shows one, so that an image can
// be seen to change in place.

export function wireScrubber() {
  for (const grid of document.querySelectorAll("[data-epoch-grid]")) wire(grid);
}

function wire(grid) {
  const scrubber = grid.querySelector("[data-scrubber]");
  if (!scrubber) return;
  const input = scrubber.querySelector("input");
  const label = scrubber.querySelector("[data-scrub-label]");
  const heads = [...grid.querySelectorAll("th[data-column]")];
  scrubber.hidden = false;
  input.addEventListener("input", () => {
    const chosen = Number(input.value);
    for (const cell of grid.querySelectorAll("[data-column]")) {
      cell.hidden = chosen > 0 && Number(cell.dataset.column) !== chosen;
    }
    label.textContent = chosen ? heads[chosen - 1].dataset.name : "all side by side";
  });
}

wireScrubber();
