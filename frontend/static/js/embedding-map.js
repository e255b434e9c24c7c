// Point at a pair of the embedding map to see its images. The numbers come from the API once; the map itself is the
// server's, and the table below it needs no script.
import { figure } from "./charts.js";

const REACH = 24; // units of the map within which a point is found

const root = document.querySelector("[data-map]");
document.documentElement.classList.add("scripted");
if (root) wire(root);

async function wire(root) {
  const answer = await fetch(root.dataset.map);
  if (!answer.ok) return;
  const { document: found } = await answer.json();
  const { method, of, reward, edge, margin, media } = root.dataset;
  const place = Number(of);
  const sets = [found.maps[place][method].base, found.maps[place][method].finetuned];
  const points = project(sets, Number(edge), Number(margin));
  const panel = document.querySelector("[data-hover]");
  const part = (name) => panel.querySelector(`[data-${name}]`);
  const picked = root.querySelector("[data-picked]");
  const svg = root.querySelector("svg");

  root.dataset.ready = "";
  svg.addEventListener("pointermove", look);
  svg.addEventListener("pointerdown", look);

  function look(event) {
    const box = svg.getBoundingClientRect();
    const at = [(event.clientX - box.left) * (edge / box.width), (event.clientY - box.top) * (edge / box.height)];
    let best = REACH;
    let row = -1;
    for (const set of points) {
      set.forEach(([x, y], index) => {
        const distance = Math.hypot(x - at[0], y - at[1]);
        if (distance < best) [best, row] = [distance, index];
      });
    }
    if (row === -1) return;
    const [[x1, y1], [x2, y2]] = [points[0][row], points[1][row]];
    picked.setAttribute("d", `M${x1} ${y1}L${x2} ${y2}`);
    panel.hidden = false;
    part("hover-title").textContent = `Seed ${found.seeds[row]}`;
    part("before").src = `${media}${found.images[0][row]}`;
    part("after").src = `${media}${found.images[place + 1][row]}`;
    const values = reward ? found.rewards[reward] : null;
    part("hover-text").textContent = values ? `reward ${figure(values[0][row])} → ${figure(values[place + 1][row])}` : "";
  }
}

/** The same projection as the server's: one unit for both axes, centred. */
function project(sets, edge, margin) {
  const all = sets.flat();
  const range = (axis) => {
    const values = all.map((point) => point[axis]);
    return [Math.min(...values), Math.max(...values)];
  };
  const [[lowX, highX], [lowY, highY]] = [range(0), range(1)];
  const half = 0.5 * Math.max(highX - lowX, highY - lowY) || 1;
  const scale = (edge - 2 * margin) / (2 * half);
  const [midX, midY] = [(lowX + highX) / 2, (lowY + highY) / 2];
  return sets.map((set) =>
    set.map(([x, y]) => [margin + (x - midX + half) * scale, margin + (midY + half - y) * scale]),
  );
}
